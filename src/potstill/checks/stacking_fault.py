"""The γ line: what it costs to slide one half of a crystal over the other (Vítek 1968, Philos. Mag. 18, 773)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.data import Array, Frame
from potstill.errors import ConvergenceError
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

JOULE = 16021.76634  # mJ/m² in eV/Å²
LAYERS = 12
POINTS = 13
TOLERANCE = 0.005  # eV/Å


@dataclass(frozen=True)
class StackingFault(Examination):
    """Slide twelve layers over the next twelve, atoms and spacing relaxed normal to the plane.

    In fcc on {111} along ⟨112⟩ to the intrinsic fault, in hcp on the basal plane to the I₂ fault, in bcc on {110} along
    half of ⟨111⟩, where no fault is stable. One fault a cell: the cell's third vector carries the slide.
    """

    name: ClassVar[str] = "stacking-fault"
    title: ClassVar[str] = "Stacking fault"
    axes: ClassVar[tuple[str, str]] = ("share of the partial's slide", "energy (mJ/m²)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """The barrier, and the fault at its end."""
        why = "functionals of one family differ by more"
        found = {"unstable": Quantity("mJ/m²", 10.0, why, percent=True)}
        if self.lattice != "bcc":
            found["intrinsic"] = Quantity("mJ/m²", 10.0, "what dislocations' splitting can tell")
        return found

    def examine(self, potential: Potential) -> Measured:
        """Walk the line."""
        from ase.constraints import FixedLine
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS

        rest = Rest.of(potential, self.element, self.lattice)
        start, slide = self._layers(rest)
        area = float(np.linalg.norm(np.cross(*start.cell.array[:2])))
        shares, energies, frames = np.linspace(0.0, 1.0, POINTS), [], []
        for share in shares:
            atoms = start.copy()
            atoms.cell[2] += share * slide
            atoms.set_constraint(FixedLine(range(len(atoms)), [0, 0, 1]))
            atoms.calc = rest.atoms.calc
            moving = FrechetCellFilter(atoms, mask=[0, 0, 1, 0, 0, 0])
            if not BFGS(moving, logfile=None).run(fmax=TOLERANCE, steps=300):
                raise ConvergenceError(f"the crystal did not come to rest at {share:.2f} of the slide")
            energies.append(JOULE * float(atoms.get_potential_energy()) / area)
            atoms.set_constraint()
            frames.append(Frame.of(atoms))
        above = np.array(energies) - energies[0]
        values = {"unstable": float(_peak(above))}
        if self.lattice != "bcc":
            values["intrinsic"] = float(above[-1])
        return Measured(values, curves={"energy": (shares.tolist(), above.tolist())}, frames=tuple(frames[::2]))

    def _layers(self, rest: Rest) -> tuple[Atoms, Array]:
        """Return twelve layers, normal to z, and the slide."""
        from ase import Atoms

        if self.lattice == "bcc":
            a = (2 * rest.volume) ** (1 / 3)
            # x along [001], y along [1-10]; half of [111] steps to the next layer, and is the slide within a plane
            cell = np.diag([a, a * np.sqrt(2), LAYERS * a / np.sqrt(2)])
            along = 0.5 * np.array([a, a * np.sqrt(2), 0.0])
            step = np.array([0.5 * a, 0.0, a / np.sqrt(2)])
            basis = [np.zeros(3), along]
            positions = [k * step - (k // 2) * np.array([a, 0.0, 0.0]) + b for k in range(LAYERS) for b in basis]
            return Atoms([self.element] * len(positions), positions=positions, cell=cell, pbc=True), along
        d = (rest.volume * np.sqrt(2)) ** (1 / 3) * rest.stretch ** (-1 / 3)
        spacing = d * np.sqrt(2 / 3) * rest.stretch
        first, second = np.array([d, 0.0, 0.0]), np.array([-0.5 * d, np.sqrt(0.75) * d, 0.0])
        sites = {"A": np.zeros(3), "B": (first + 2 * second) / 3, "C": (2 * first + second) / 3}
        order = ("ABC" if self.lattice == "fcc" else "AB") * LAYERS
        positions = [sites[order[k]] + [0.0, 0.0, k * spacing] for k in range(LAYERS)]
        cell = np.array([first, second, [0.0, 0.0, LAYERS * spacing]])
        atoms = Atoms([self.element] * LAYERS, positions=positions, cell=cell, pbc=True)
        return atoms, sites["B" if self.lattice == "fcc" else "C"]


def _peak(y: Array) -> float:
    """Return the height of the highest point, by a parabola through it and its neighbours."""
    k = int(np.argmax(y))
    if not 0 < k < len(y) - 1:
        return float(y[k])
    a, b, c = y[k - 1 : k + 2]
    return float(b - (c - a) ** 2 / (8 * (a - 2 * b + c)))

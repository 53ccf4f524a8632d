"""Crystals that nobody chose: random symmetric ones, and two open prototypes, relaxed from the same starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from potstill import crystals
from potstill.checks.measured import BREAKDOWN, Examination, Measured, Quantity, Rest
from potstill.data import Frame
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

RANDOM = 8
STEPS = 600
TOLERANCE = 0.01  # eV/Å
CLOSEST = 0.8  # of the close-packed spacing: nearer starts say more about walls than about crystals
SEED = 9  # the same crystals for all potentials and metals


@dataclass(frozen=True)
class OtherCrystals(Examination):
    """Energy above the ground state, of ω, β-tin and eight random crystals after their relaxation.

    Cell and positions are free within the space group, without which rounding decides who leaves a saddle and where to.
    Two potentials may still end in different basins; then the difference says so.
    """

    name: ClassVar[str] = "other-crystals"
    title: ClassVar[str] = "Other crystals"
    axes: ClassVar[tuple[str, str]] = ("crystal", "energy above the ground state (meV/atom)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Energies in meV/atom."""
        names = [*crystals.OPEN, *(f"random {k + 1}" for k in range(RANDOM))]
        return {name: Quantity("meV/atom", 10.0, "as other polymorphs'") for name in names}

    def examine(self, potential: Potential) -> Measured:
        """Relax each; one that fails leaves the others."""
        rest = Rest.of(potential, self.element, self.lattice)
        values, failed, frames = {}, {}, []
        for name, start in self._starts().items():
            crystals.scaled(start, start.info.pop("share") * rest.volume)
            try:
                found = crystals.relaxed(start, rest.atoms.calc, force_tolerance=TOLERANCE, steps=STEPS, symmetric=True)
            except BREAKDOWN as error:
                failed[name] = str(error)
                continue
            values[name] = 1e3 * (float(found.get_potential_energy()) / len(found) - rest.energy)
            frames.append(Frame.of(found))
        y = [values[name] for name in self.quantities if name in values]
        x = [float(k) for k, name in enumerate(self.quantities) if name in values]
        return Measured(values, curves={"energy": (x, y)}, frames=tuple(frames), failed=failed)

    def _starts(self) -> dict[str, Atoms]:
        """Return the crystals; ``info`` has the volume in units of the ground state's."""
        made = {name: crystals.prototype(name, self.element, 1.0) for name in crystals.OPEN}
        rng = np.random.default_rng(SEED)
        while len(made) < len(self.quantities):
            atoms = crystals.random_symmetric(self.element, 1.0, rng)
            if atoms is not None and _nearest(atoms) > CLOSEST * 2 ** (1 / 6):
                made[f"random {len(made) - len(crystals.OPEN) + 1}"] = atoms
        for atoms in made.values():
            atoms.info["share"] = float(atoms.get_volume()) / len(atoms)
        return made


def _nearest(atoms: Atoms) -> float:
    from ase.neighborlist import neighbor_list

    d = neighbor_list("d", atoms, 2.0)
    return float(d.min()) if len(d) else np.inf

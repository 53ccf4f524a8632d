"""Point defects: what a vacancy costs, what it takes to move it, and what an atom too many costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from potstill.checks.measured import BREAKDOWN, Examination, Measured, Quantity, Rest, relax_positions
from potstill.data import Frame
from potstill.errors import ConvergenceError
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

ATOMS = 108
IMAGES = 5
BAND_TOLERANCE = 0.02  # eV/Å
BAND_STEPS = 400


@dataclass(frozen=True)
class Defects(Examination):
    """Formation energies at the crystal's own volume, and the barrier of a vacancy's jump to the nearest site.

    The barrier is that of a climbing-image nudged elastic band (Henkelman, Uberuaga & Jónsson 2000, J. Chem. Phys. 113,
    9901). The interstitial is a dumbbell along ⟨100⟩ in fcc, along ⟨110⟩ in bcc, and octahedral in hcp.
    """

    name: ClassVar[str] = "defects"
    title: ClassVar[str] = "Point defects"
    axes: ClassVar[tuple[str, str]] = ("jump of a vacancy", "energy (eV)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Energies in eV."""
        why = "scatter of careful measurements"
        return {
            "vacancy_formation": Quantity("eV", 5.0, why, percent=True),
            "vacancy_migration": Quantity("eV", 10.0, why, percent=True),
            "interstitial_formation": Quantity("eV", 5.0, "as the vacancy's", percent=True),
        }

    def examine(self, potential: Potential) -> Measured:
        """Measure each defect; one that fails leaves the others."""
        rest = Rest.of(potential, self.element, self.lattice)
        perfect = rest.supercell(ATOMS)
        perfect.calc = rest.atoms.calc
        floor = float(perfect.get_potential_energy()) / len(perfect)
        values, failed, frames = {}, {}, [Frame.of(perfect)]
        curves: dict[str, tuple[list[float], list[float]]] = {}
        try:
            lone = perfect.copy()
            lone.calc = perfect.calc
            del lone[0]
            values["vacancy_formation"] = relax_positions(lone) - len(lone) * floor
            frames.append(Frame.of(lone))
            band, path = self._jump(perfect, rest.near)
            values["vacancy_migration"] = max(band) - band[0]
            curves["vacancy"] = (np.linspace(0, 1, len(band)).tolist(), [e - band[0] for e in band])
            frames += path
        except BREAKDOWN as error:
            for name in ("vacancy_formation", "vacancy_migration"):
                if name not in values:
                    failed[name] = str(error)
        try:
            more = self._crowded(perfect)
            values["interstitial_formation"] = relax_positions(more) - len(more) * floor
            frames.append(Frame.of(more))
        except BREAKDOWN as error:
            failed["interstitial_formation"] = str(error)
        return Measured(values, curves=curves, frames=tuple(frames), failed=failed)

    @staticmethod
    def _jump(perfect: Atoms, near: float) -> tuple[list[float], list[Frame]]:
        """Return energies along the band, eV, and its images."""
        from ase.mep import NEB
        from ase.optimize import FIRE

        d = perfect.get_distances(0, range(1, len(perfect)), mic=True)
        neighbour = 1 + int(np.argmin(d))
        if d.min() > 1.05 * near:
            raise ConvergenceError("the cell has no nearest neighbour to jump to")
        images = []
        for share in np.linspace(0, 1, IMAGES + 2):
            atoms = perfect.copy()
            atoms.positions[neighbour] -= share * perfect.get_distance(0, neighbour, mic=True, vector=True)
            del atoms[0]
            atoms.calc = perfect.calc
            images.append(atoms)
        for end in (images[0], images[-1]):
            relax_positions(end)
        first, last = images[0].positions, images[-1].positions
        for k, atoms in enumerate(images[1:-1], 1):
            atoms.positions = first + (last - first) * k / (IMAGES + 1)
        band = NEB(images, climb=True, allow_shared_calculator=True, method="improvedtangent")
        if not FIRE(band, logfile=None).run(fmax=BAND_TOLERANCE, steps=BAND_STEPS):
            raise ConvergenceError(f"the band of the vacancy's jump did not settle in {BAND_STEPS} steps")
        return [float(a.get_potential_energy()) for a in images], [Frame.of(a) for a in images[1:4]]

    def _crowded(self, perfect: Atoms) -> Atoms:
        """Return the cell with an atom too many."""
        atoms: Atoms = perfect.copy()
        atoms.calc = perfect.calc
        a = (perfect.get_volume() / len(perfect) * (2 if self.lattice == "bcc" else 4)) ** (1 / 3)
        if self.lattice == "hcp":  # octahedral: between three atoms of one layer and three of the next
            near = np.argsort(perfect.get_distances(0, range(len(perfect)), mic=True))[1:]
            hole = _octahedral(perfect, near[:12])
            atoms.append(self.element)
            atoms.positions[-1] = hole
            return atoms
        along = np.array([1.0, 0, 0]) if self.lattice == "fcc" else np.array([1.0, 1.0, 0]) / np.sqrt(2)
        half = 0.28 * a * along
        atoms.positions[0] += half
        atoms.append(self.element)
        atoms.positions[-1] = perfect.positions[0] - half
        return atoms


def _octahedral(perfect: Atoms, near: np.ndarray) -> np.ndarray:
    """Return the octahedral hole of hcp next to atom 0, halfway to an atom at √2 of its neighbours' distance."""
    c = perfect.get_distances(0, range(len(perfect)), mic=True, vector=True)
    d = np.linalg.norm(c, axis=1)
    far = np.flatnonzero(np.abs(d - np.sqrt(2) * d[near[0]]) < 0.1 * d[near[0]])
    return np.asarray(perfect.positions[0] + 0.5 * c[far[0]])

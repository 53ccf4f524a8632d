"""Energies of low-index surfaces, relaxed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from potstill import crystals
from potstill.checks.measured import BREAKDOWN, Examination, Measured, Quantity, Rest, relax_positions
from potstill.data import Frame
from potstill.protocols import Potential

JOULE = 16.02176634  # J/m² in eV/Å²
THICKNESS = 12.0  # Å
FACES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "fcc": ((1, 1, 1), (1, 0, 0), (1, 1, 0)),
    "bcc": ((1, 1, 0), (1, 0, 0), (1, 1, 1)),
    "hcp": ((0, 0, 1), (1, 0, 0)),  # of the right-angled cell: basal and prismatic
}


@dataclass(frozen=True)
class Surfaces(Examination):
    """(E of a slab − E of as many atoms in the crystal) / (2 A), the atoms relaxed."""

    name: ClassVar[str] = "surfaces"
    title: ClassVar[str] = "Surfaces"
    axes: ClassVar[tuple[str, str]] = ("surface", "energy (J/m²)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """J/m² by face."""
        why = "functionals of one family differ by more"
        return {_name(face): Quantity("J/m²", 5.0, why, percent=True) for face in FACES[self.lattice]}

    def examine(self, potential: Potential) -> Measured:
        """Cut, relax, subtract."""
        rest = Rest.of(potential, self.element, self.lattice)
        values, failed, frames = {}, {}, []
        for face in FACES[self.lattice]:
            atoms = crystals.slab(self.lattice, self.element, rest.volume, face, THICKNESS, stretch=rest.stretch)
            atoms.calc = rest.atoms.calc
            area = float(np.linalg.norm(np.cross(*atoms.cell.array[:2])))
            try:
                energy = relax_positions(atoms)
            except BREAKDOWN as error:
                failed[_name(face)] = str(error)
                continue
            values[_name(face)] = JOULE * (energy - len(atoms) * rest.energy) / (2 * area)
            frames.append(Frame.of(atoms))
        x = [float(k) for k in range(len(FACES[self.lattice]))]
        y = [values.get(_name(face), float("nan")) for face in FACES[self.lattice]]
        curves = {"energy": (x, y)} if not failed else {}
        return Measured(values, curves=curves, frames=tuple(frames), failed=failed)


def _name(face: tuple[int, int, int]) -> str:
    return f"({''.join(map(str, face))})"

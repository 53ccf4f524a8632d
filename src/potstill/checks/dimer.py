"""Two atoms alone, and a crystal squeezed: a potential without a wall sends simulations into a hole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.data import Frame
from potstill.protocols import Potential

INSIDE = 0.8  # of the nearest-neighbour distance: metals' dimers are at rest at 0.85 to 0.95 of it
CLOSEST, DENSEST = 0.45, 0.65  # of it; the second for the crystal, a quarter of whose volume is left then
POINTS = 60
BOX = 25.0  # Å


@dataclass(frozen=True)
class DimerWall(Examination):
    """Bring two atoms together from 1.2 to 0.45 of the crystal's bond, and all atoms of the crystal likewise.

    ``hole`` is the largest fall of the energy on the way in, eV: 0 where the wall rises all the way.
    """

    name: ClassVar[str] = "dimer-wall"
    title: ClassVar[str] = "Short distances"
    axes: ClassVar[tuple[str, str]] = ("distance (Å)", "energy (eV), shown as asinh")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Holes: there must be none, whatever the reference has."""
        why = "atoms must not attract each other at these distances"
        return {f"hole.{what}": Quantity("eV", 0.01, why, ideal=0.0) for what in ("dimer", "crystal")}

    def examine(self, potential: Potential) -> Measured:
        """Walk in."""
        from ase import Atoms

        rest = Rest.of(potential, self.element, self.lattice)
        near, cell = rest.near, rest.atoms.cell.array.copy()
        shares, denser = np.linspace(1.2, CLOSEST, POINTS), np.linspace(1.2, DENSEST, POINTS)
        dimer = Atoms([self.element] * 2, cell=[BOX] * 3, pbc=True)
        dimer.calc = rest.atoms.calc
        pair, crystal, frames = [], [], []
        for share, squeezed in zip(shares, denser, strict=True):
            dimer.positions[1, 0] = share * near
            pair.append(float(dimer.get_potential_energy()))
            rest.atoms.set_cell(cell * squeezed, scale_atoms=True)
            crystal.append(float(rest.atoms.get_potential_energy()) / len(rest.atoms))
            frames.append(Frame.of(dimer))
        values = {
            "hole.dimer": _hole(np.array(pair)[shares <= INSIDE]),
            "hole.crystal": _hole(np.array(crystal)[denser <= INSIDE]),
        }
        curves = {
            "dimer": ((shares * near)[::-1].tolist(), np.arcsinh(np.array(pair) - pair[0])[::-1].tolist()),
            "crystal, per atom": (
                (denser * near)[::-1].tolist(),
                np.arcsinh(np.array(crystal) - rest.energy)[::-1].tolist(),
            ),
        }
        return Measured(values, curves=curves, frames=tuple(frames[15::10]))


def _hole(inward: np.ndarray) -> float:
    """Return how far a curve falls below what it had reached."""
    return float(np.max(np.maximum.accumulate(inward) - inward))

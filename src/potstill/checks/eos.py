"""Energy against volume: where the minimum is, and how the crystal resists (Birch 1947, Phys. Rev. 71, 809)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.data import Frame
from potstill.protocols import Potential

RANGE = 0.15  # of the volume, either way
POINTS = 13


@dataclass(frozen=True)
class EquationOfState(Examination):
    """Fit a Birch–Murnaghan equation of the third order to the ground state's energies over ±15 % of its volume."""

    name: ClassVar[str] = "eos"
    title: ClassVar[str] = "Equation of state"
    axes: ClassVar[tuple[str, str]] = ("volume (Å³/atom)", "energy above the minimum (eV/atom)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Volume, bulk modulus and its derivative, and the ends of the curve."""
        end = "as the bulk modulus, to which both are nearly proportional"
        found = {
            "volume": Quantity("Å³/atom", 0.3, "what functionals of one family differ by", percent=True),
            "bulk_modulus": Quantity("GPa", 3.0, "scatter of careful measurements", percent=True),
            "bulk_modulus_derivative": Quantity("", 10.0, "scatter of careful measurements", percent=True),
            "energy(0.85)": Quantity("meV/atom", 3.0, end, percent=True),
            "energy(1.15)": Quantity("meV/atom", 3.0, end, percent=True),
        }
        return {"a": Quantity("Å", 0.1, "a third of the volume's", percent=True), **found} if self._cube else found

    @property
    def _cube(self) -> int:
        return {"fcc": 4, "bcc": 2}.get(self.lattice, 0)

    def examine(self, potential: Potential) -> Measured:
        """Scale the relaxed crystal and fit."""
        from ase.eos import EquationOfState as Fit

        rest = Rest.of(potential, self.element, self.lattice)
        atoms, cell, n = rest.atoms, rest.atoms.cell.array.copy(), len(rest.atoms)
        scales = np.linspace(1 - RANGE, 1 + RANGE, POINTS)
        energies, frames = [], []
        for scale in scales:
            atoms.set_cell(cell * scale ** (1 / 3), scale_atoms=True)
            energies.append(atoms.get_potential_energy() / n)
            frames.append(Frame.of(atoms))
        volumes = scales * abs(np.linalg.det(cell)) / n
        fit = Fit(volumes, energies, eos="birchmurnaghan")
        fit.fit(warn=False)
        floor, modulus, derivative, volume = fit.eos_parameters
        above = np.array(energies) - floor
        from ase.units import GPa

        values = {
            "volume": volume,
            "bulk_modulus": modulus / GPa,
            "bulk_modulus_derivative": derivative,
            "energy(0.85)": 1e3 * above[0],
            "energy(1.15)": 1e3 * above[-1],
        }
        if self._cube:
            values["a"] = (self._cube * volume) ** (1 / 3)
        return Measured(values, curves={"energy": (volumes.tolist(), above.tolist())}, frames=tuple(frames[::2]))

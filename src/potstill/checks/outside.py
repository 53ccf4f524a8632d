"""Energies of what is in no pool: other crystals, surfaces, a vacancy, each relaxed, above the ground state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from potstill import crystals
from potstill.errors import PotstillError
from potstill.protocols import Potential
from potstill.store import Units

FORCE_TOLERANCE = 0.01  # eV/Å
STEPS = 200


@dataclass(frozen=True)
class Outside:
    """The check: relax crystals in cell and positions, slabs and a vacancy in positions at the potential's own lattice.

    Attributes
    ----------
    element : str
        Chemical symbol.
    names : tuple of str
        Prototype crystals besides the ground state.
    """

    element: str
    names: tuple[str, ...] = ("hcp", "dhcp", "bcc")
    name: ClassVar[str] = "outside"
    units: ClassVar[Mapping[str, str]] = {"*": "meV/atom"}

    def measure(self, potential: Potential, workdir: Path) -> Mapping[str, float]:
        """Return the energy above the ground state by name, meV/atom; what does not relax is left out."""
        what = {
            "check": self.name,
            "element": self.element,
            "names": self.names,
            "potential": potential.fingerprint,
            "by": crystals.RELAXED_BY,
        }
        found: dict[str, float] = Units(workdir).get(what, lambda: self._measure(potential))
        return found

    def _measure(self, potential: Potential) -> dict[str, float]:
        calculator = potential.calculator()
        lattice = crystals.ground_state(self.element)
        start = crystals.atomic_volume(self.element)
        ground = self._energy(crystals.prototype(lattice, self.element, start), calculator, cell=True)
        if ground is None:
            return {}
        floor, volume = ground
        found = {}
        for name, atoms in crystals.verdict_structures(lattice, self.element, volume, self.names).items():
            relaxed = None if name == lattice else self._energy(atoms, calculator, cell=name in self.names)
            if relaxed is not None:
                found[name] = 1e3 * (relaxed[0] - floor)
        return found

    def _energy(self, atoms: Any, calculator: Any, *, cell: bool) -> tuple[float, float] | None:
        """Return energy and volume per atom after relaxation; None where it fails."""
        from ase.optimize import BFGS

        try:
            if cell:
                atoms = crystals.relaxed(atoms, calculator, force_tolerance=FORCE_TOLERANCE, steps=STEPS)
            else:
                atoms.calc = calculator
                if not BFGS(atoms, logfile=None).run(fmax=FORCE_TOLERANCE, steps=STEPS):
                    return None
            return float(atoms.get_potential_energy()) / len(atoms), float(atoms.get_volume()) / len(atoms)
        except (PotstillError, ArithmeticError, ValueError, RuntimeError):  # a poor model goes anywhere
            return None

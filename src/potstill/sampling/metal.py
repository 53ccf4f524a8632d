"""What is measured of a metal before it is sampled: enough to choose temperatures, pressures and walls by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potstill import crystals
from potstill.errors import ConfigError, PotstillError
from potstill.protocols import Potential
from potstill.sampling.bias import GPA, KB

# Melting points of metals lie near E_coh / 30 k_B: nickel 1,720 K by this and 1,728 K measured, niobium 2,930 and
# 2,750, copper 1,350 and 1,358, aluminium 1,310 and 933.
COHESION_OVER_MELTING = 30.0
LADDER = (0.17, 0.4, 0.65, 0.9, 1.1, 1.35, 1.6, 1.9)  # of the melting estimate
EXTENDED = (0.55, 1.85)  # the same, lowest and highest temperature
LADDER_PRESSURES = (0.0, 0.23, 0.6)  # of E_coh / V₀: for nickel 0, 15 and 40 GPa
BARIC_PRESSURES = (0.0, 0.15, 0.45)
SIMPLE = (0.3, 12.0)  # eV/atom: a cohesive energy outside is not one


@dataclass(frozen=True)
class Metal:
    """A metal at rest in one potential.

    Attributes
    ----------
    element, crystal : str
    volume : float
        Å³/atom at rest.
    cohesive_energy : float | None
        eV/atom; None where the potential has nothing sensible to say of a lone atom.
    """

    element: str
    crystal: str
    volume: float
    cohesive_energy: float | None

    @property
    def melting_estimate(self) -> float:
        """K; a rule of thumb to lay out temperatures by, not a property.

        Raises
        ------
        ConfigError
            If there is no cohesive energy.
        """
        return self._cohesion("sample.temperature") / (COHESION_OVER_MELTING * KB)

    @property
    def pressure_scale(self) -> float:
        """E_coh / V₀ in GPa.

        Raises
        ------
        ConfigError
            If there is no cohesive energy.
        """
        return self._cohesion("sample.pressure") / self.volume / GPA

    def _cohesion(self, knob: str) -> float:
        if self.cohesive_energy is None:
            raise ConfigError(
                f"The default of {knob} follows from the cohesive energy, but this potential gives a lone atom of "
                f"{self.element} an energy that makes no sense. Set {knob}."
            )
        return self.cohesive_energy

    def ladder_temperatures(self) -> tuple[float, ...]:
        """Return the ladder's rungs, K."""
        return tuple(_round(x * self.melting_estimate, 10.0) for x in LADDER)

    def temperature_range(self) -> tuple[float, float]:
        """Return lowest and highest temperature of an extended ensemble, K: both sides of melting, short of boiling."""
        low, high = (_round(x * self.melting_estimate, 10.0) for x in EXTENDED)
        return low, high

    def pressures(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """Return pressures in GPa from shares of E_coh / V₀."""
        return tuple(_round(x * self.pressure_scale, 1.0) for x in shares) if any(shares) else shares


def _round(value: float, to: float) -> float:
    return float(max(1, round(value / to)) * to) if value else 0.0


def at_rest(task: tuple[str, str, Potential]) -> Metal:
    """Measure a metal: (crystal, element, potential)."""
    from ase import Atoms

    crystal, element, potential = task
    atoms = crystals.prototype(crystal, element, crystals.atomic_volume(element))
    calculator = potential.calculator()
    rest = crystals.relaxed(atoms, calculator, isotropic=True)
    volume, energy = float(rest.get_volume() / len(rest)), float(rest.get_potential_energy() / len(rest))
    try:
        lone = Atoms([element], cell=[20.0] * 3, pbc=True)
        lone.calc = potential.calculator()
        cohesive: float | None = float(lone.get_potential_energy()) - energy
    except (PotstillError, ArithmeticError, ValueError, RuntimeError):
        cohesive = None
    if cohesive is None or not np.isfinite(cohesive) or not SIMPLE[0] < cohesive < SIMPLE[1]:
        cohesive = None
    return Metal(element, crystal, round(volume, 9), None if cohesive is None else round(cohesive, 6))

"""Whether dynamics lasts: hotter and hotter at constant pressure, and the energy's drift when left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from potstill.checks.measured import BREAKDOWN, Examination, Measured, Quantity, Rest
from potstill.checks.motion import at_constant_pressure, melting_point, run, thermalise, timestep
from potstill.data import Frame
from potstill.protocols import Potential

ATOMS = 108
STEPS = (0.5, 1.0, 1.5, 2.0)  # of the melting point
HEAT, ALONE = 1_500, 1_500  # steps of each
EVERY = 10


@dataclass(frozen=True)
class Stability(Examination):
    """108 atoms at 0.5, 1, 1.5 and 2 T_m: each time dynamics at zero pressure, then at constant energy.

    ``explosions`` counts the temperatures at which a run went wrong; after one the hotter ones count as well, untried.
    ``drift`` is the slope of the total energy, the largest of all temperatures.
    """

    name: ClassVar[str] = "stability"
    title: ClassVar[str] = "Stable dynamics"
    axes: ClassVar[tuple[str, str]] = ("time at constant energy (ps)", "total energy, change (meV/atom)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Explosions and drift: neither needs a reference."""
        return {
            "explosions": Quantity("", 0.5, "there must be none up to twice the melting point", ideal=0.0),
            "drift": Quantity("meV/atom/ps", 1.0, "a kelvin in some ten picoseconds", ideal=0.0),
        }

    def examine(self, potential: Potential) -> Measured:
        """Heat until it breaks, or to the end."""
        from ase.md.verlet import VelocityVerlet
        from ase.units import fs

        rest = Rest.of(potential, self.element, self.lattice)
        atoms = rest.supercell(ATOMS)
        atoms.calc = rest.atoms.calc
        T = melting_point(self.element)
        rng = np.random.default_rng(2)
        curves: dict[str, tuple[list[float], list[float]]] = {}
        drifts, frames, failed = [], [], {}
        thermalise(atoms, 2 * STEPS[0] * T, rng)
        for share in STEPS:
            hot = share * T
            try:
                for _ in run(at_constant_pressure(atoms, hot), HEAT, hot):
                    pass
                frames.append(Frame.of(atoms))
                thermalise(atoms, hot, rng)
                times, totals = [], []
                for step in run(VelocityVerlet(atoms, timestep(atoms)), ALONE, hot, EVERY):
                    times.append(step * timestep(atoms) / fs / 1e3)
                    totals.append(1e3 * atoms.get_total_energy() / len(atoms))
                frames.append(Frame.of(atoms))
            except BREAKDOWN as error:
                failed[f"{share:g} T_m"] = str(error)
                break
            curves[f"{hot:.0f} K"] = (times, (np.array(totals) - totals[0]).tolist())
            drifts.append(abs(float(np.polyfit(times, totals, 1)[0])))
        values = {"explosions": float(len(STEPS) - len(drifts))}
        if drifts:
            values["drift"] = max(drifts)
        return Measured(values, curves=curves, frames=tuple(frames), failed=failed)

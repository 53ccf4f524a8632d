"""The melting point by coexistence: crystal and liquid in one cell, which finds its own temperature.

At constant enthalpy what melts cools the rest, and what freezes warms it, until both phases last side by side (Morris,
Wang, Ho & Chan 1994, Phys. Rev. B 49, 3109).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.checks.motion import at_constant_pressure, blocks, melting_point, run, thermalise, timestep
from potstill.data import Frame
from potstill.errors import ConvergenceError
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

ATOMS, TALL = 256, 4  # atoms of a nearly cubic cell, and how many of them on each other: thin phases melt too early
SOLID, LIQUID, JOIN, MEASURE = 1_500, 1_500, 500, 8_000  # steps
FORGET = 3_000  # of those at constant enthalpy
HOT = 2.0  # of the temperature, to melt half of the cell at
ROOM = 1.04  # by which the molten half grows
EVERY = 10
TRIES = 6
STEP = 0.05  # of the temperature, from one attempt to the next while only one side is known
PURE = (0.15, 0.85)  # share of crystal beyond which only one phase is left


@dataclass(frozen=True)
class Melting(Examination):
    """Half crystal, half liquid, 1,024 atoms of fcc: no pressure along the interfaces' normal, constant enthalpy.

    Starts at the element's tabulated melting point, and again from where it ended if one phase has eaten the other. The
    error is that of the mean temperature and what it still drifts by; that the cell is small shifts potentials alike.
    Two ways of heating have told 1,488 and 1,553 K of one potential: less than that tells no potentials apart.
    """

    name: ClassVar[str] = "melting"
    title: ClassVar[str] = "Melting point"
    axes: ClassVar[tuple[str, str]] = ("time (ps)", "temperature (K)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Kelvin."""
        return {"temperature": Quantity("K", 30.0, "what coexistence in small cells can tell at best")}

    def examine(self, potential: Potential) -> Measured:
        """Try until both phases last."""
        from ase.units import fs

        rest = Rest.of(potential, self.element, self.lattice)
        T, frozen, melted = melting_point(self.element), 0.0, np.inf
        for attempt in range(TRIES):
            atoms, perfect = self._both(rest, T, np.random.default_rng([3, attempt]))
            series, frames, share = [], [], 0.5
            for step in run(_along_z(atoms, None), MEASURE, T, EVERY):
                series.append(float(atoms.get_temperature()))
                share += 0.05 * (np.sqrt(_bragg(atoms, self.lattice) / perfect) - share)
                if not PURE[0] < share < PURE[1]:
                    break
                if step % (MEASURE // 4) == 0:
                    frames.append(Frame.of(atoms))
            else:
                kept = np.array(series[FORGET // EVERY :])
                early, late = np.array_split(kept, 2)
                mean, error = blocks(kept)
                error = float(np.hypot(error, late.mean() - early.mean()))  # interfaces are slow, and may still move
                t = np.arange(1, len(series) + 1) * EVERY * timestep(atoms) / fs / 1e3
                smooth = np.convolve(series, np.ones(20) / 20, mode="valid")
                curve = {"temperature": (t[19:][::4].tolist(), smooth[::4].tolist())}
                return Measured({"temperature": mean}, {"temperature": error}, curve, tuple(frames))
            # What melts cools down to a temperature that is still too high, and what freezes the other way.
            end = float(np.mean(series[-20:]))
            if share <= PURE[0]:
                melted = min(melted, T, end)
                T = 0.5 * (frozen + melted) if frozen else (1 - STEP) * melted
            else:
                frozen = max(frozen, T, end)
                T = 0.5 * (frozen + melted) if np.isfinite(melted) else (1 + STEP) * frozen
        raise ConvergenceError(f"one phase ate the other in {TRIES} attempts, the last one near {T:.0f} K")

    def _both(self, rest: Rest, T: float, rng: np.random.Generator) -> tuple[Atoms, float]:
        """Return half crystal, half liquid at a temperature, and the crystal's own Bragg intensity."""
        from ase import units
        from ase.constraints import FixAtoms
        from ase.md.langevin import Langevin

        cell = rest.supercell(ATOMS)
        atoms = cell.repeat((1, 1, TALL))
        atoms.set_cell(atoms.cell.array * 1.015, scale_atoms=True)
        atoms.calc = rest.atoms.calc
        thermalise(atoms, 2 * T, rng)
        md = at_constant_pressure(atoms, T)
        intensities = [_bragg(atoms, rest.lattice) for step in run(md, SOLID, T) if step > SOLID // 2]
        perfect = float(np.mean(intensities))
        atoms.wrap()
        upper = atoms.cell.scaled_positions(atoms.positions)[:, 2] >= 0.5
        height = atoms.cell.array[2, 2]
        atoms.positions[upper, 2] += (ROOM**3 - 1) * (atoms.positions[upper, 2] - 0.5 * height)
        atoms.cell[2, 2] += 0.5 * (ROOM**3 - 1) * height
        atoms.set_constraint(FixAtoms(np.flatnonzero(~upper)))
        thermalise(atoms, HOT * T, rng)
        friction = 0.01 / units.fs
        md = Langevin(atoms, timestep(atoms), temperature_K=HOT * T, friction=friction, fixcm=False, rng=rng)
        for _ in run(md, LIQUID, HOT * T):
            pass
        atoms.set_constraint()
        thermalise(atoms, T, rng)
        for _ in run(_along_z(atoms, T), JOIN, T):
            pass
        return atoms, perfect


def _along_z(atoms: Atoms, temperature: float | None) -> Any:
    """Return dynamics with zero pressure along z only; at constant enthalpy where no temperature is given."""
    from ase import units
    from ase.md.nptberendsen import Inhomogeneous_NPTBerendsen

    return Inhomogeneous_NPTBerendsen(
        atoms,
        timestep=timestep(atoms),
        temperature_K=temperature or 1.0,
        taut=100 * units.fs if temperature else 1e20,
        pressure_au=0.0,
        taup=500 * units.fs,
        compressibility_au=1.0 / (100 * units.GPa),
        mask=(0, 0, 1),
    )


def _bragg(atoms: Atoms, lattice: str) -> float:
    """Return |ρ|²/N² of the waves that lie in the interface and that the crystal reflects."""
    n = len(atoms)
    scaled = atoms.cell.scaled_positions(atoms.positions)[:, :2]
    per_edge = {"fcc": (n / TALL / 4) ** (1 / 3), "bcc": (n / TALL / 2) ** (1 / 3)}.get(lattice)
    if per_edge is None:  # hcp: strongest of the waves along x
        waves = [(k, 0) for k in range(2, 17)]
        return max(float(np.abs(np.exp(2j * np.pi * scaled @ w).sum()) ** 2) / n**2 for w in np.array(waves))
    k = 2 * round(per_edge)
    found = [np.abs(np.exp(2j * np.pi * scaled @ w).sum()) ** 2 for w in np.array([(k, 0), (0, k)])]
    return float(np.mean(found)) / n**2

"""The melting point by coexistence: crystal and liquid in one cell, at the temperature at which neither grows.

Left to itself, such a cell finds it (Morris, Wang, Ho & Chan 1994, Phys. Rev. B 49, 3109): what freezes gives off heat,
which slows freezing. The latent heat of a metal moves a cell by some 500 K from all liquid to all crystal, so
that takes tens of picoseconds. A thermostat that answers a growing crystal with several times as much takes a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.checks.motion import at_constant_pressure, correlated, melting_point, run, thermalise, timestep
from potstill.data import Array, Frame
from potstill.errors import ConvergenceError
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

ATOMS, TALL = 256, 4  # atoms of a nearly cubic cell, and how many of them on each other: thin phases melt too early
SOLID, LIQUID, JOIN, MEASURE = 1_500, 1_500, 500, 18_000  # steps
FORGET = 4_000  # of those with both phases
HOT = 2.0  # of the temperature, to melt half of the cell at
ROOM = 1.04  # by which the molten half grows
EVERY = 10
ANSWER = 1.2  # of the temperature, by which the thermostat rises as all would freeze: four times the latent heat's
SMOOTH = 0.05  # of what is new in the share of crystal: 200 steps
STARTS = 2
RELAX, STIFF = 500.0, 100.0  # fs and GPa: how fast the height follows
PURE = (0.12, 0.88)  # share of crystal beyond which one phase is too thin
TRIES = 3


@dataclass(frozen=True)
class Melting(Examination):
    """Half crystal, half liquid, 1,024 atoms, from two starts: no pressure along the interfaces' normal.

    The first temperature is the element's tabulated melting point; where one phase eats the other in spite of the
    thermostat, a new cell is made at the temperature that the last one ended at. The error is that of the mean of the
    starts, with the time in mind that interfaces take to answer; that the cell is small shifts potentials alike.
    """

    name: ClassVar[str] = "melting"
    title: ClassVar[str] = "Melting point"
    axes: ClassVar[tuple[str, str]] = ("time (ps)", "temperature (K)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Kelvin."""
        return {"temperature": Quantity("K", 30.0, "what coexistence in small cells can tell at best")}

    def examine(self, potential: Potential) -> Measured:
        """Let both phases find their temperature, twice."""
        from ase.units import fs

        rest = Rest.of(potential, self.element, self.lattice)
        T = melting_point(self.element)
        means, errors, curves, frames = [], [], {}, []
        for start in range(STARTS):
            series, atoms = self._coexist(rest, T, start)
            mean, error = correlated(series[FORGET // EVERY :])
            means.append(mean)
            errors.append(error)
            frames.append(Frame.of(atoms))
            t = np.arange(1, len(series) + 1) * EVERY * timestep(atoms) / fs / 1e3
            smooth = np.convolve(series, np.ones(20) / 20, mode="valid")
            curves[f"start {start + 1}"] = (t[19:][::4].tolist(), smooth[::4].tolist())
            T = mean
        scatter = float(np.std(means, ddof=1))
        error = max(scatter / np.sqrt(STARTS), float(np.hypot.reduce(errors)) / STARTS)
        return Measured({"temperature": float(np.mean(means))}, {"temperature": error}, curves, tuple(frames))

    def _coexist(self, rest: Rest, T: float, start: int) -> tuple[Array, Atoms]:
        """Return the thermostat's temperatures while both phases lasted, and the cell at the end."""
        for attempt in range(TRIES):
            rng = np.random.default_rng([3, start, attempt])
            atoms, perfect = self._both(rest, T, rng)
            series: list[float] = []
            share = half = float(np.sqrt(_bragg(atoms, self.lattice) / perfect))
            md = _with_thermostat(atoms, T, rng)
            for _ in run(md, MEASURE, T, EVERY):
                _release_along_z(atoms)
                share += SMOOTH * (float(np.sqrt(_bragg(atoms, self.lattice) / perfect)) - share)
                series.append(T * (1 + ANSWER * (share - half)))
                md.set_temperature(temperature_K=series[-1])
                if not PURE[0] < share < PURE[1]:
                    break
            else:
                return np.array(series), atoms
            T = float(np.mean(series[-20:]))
        raise ConvergenceError(f"one phase ate the other in {TRIES} attempts, the last one near {T:.0f} K")

    def _both(self, rest: Rest, T: float, rng: np.random.Generator) -> tuple[Atoms, float]:
        """Return half crystal, half liquid at a temperature, and the crystal's own Bragg intensity."""
        from ase.constraints import FixAtoms

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
        for _ in run(_with_thermostat(atoms, HOT * T, rng, friction=10.0), LIQUID, HOT * T):
            pass
        atoms.set_constraint()
        thermalise(atoms, T, rng)
        for _ in run(_with_thermostat(atoms, T, rng), JOIN, T, EVERY):
            _release_along_z(atoms)
        return atoms, perfect


def _with_thermostat(atoms: Atoms, T: float, rng: np.random.Generator, friction: float = 1.0) -> Any:
    """Return Langevin dynamics, friction in 1/ps: heat is exchanged wherever it arises, as at a growing interface."""
    from ase import units
    from ase.md.langevin import Langevin

    return Langevin(atoms, timestep(atoms), temperature_K=T, friction=friction / (1e3 * units.fs), fixcm=False, rng=rng)


def _release_along_z(atoms: Atoms) -> None:
    """Let the height follow the pressure along it, weakly (Berendsen)."""
    from ase import units

    pressure = -float(atoms.get_stress(include_ideal_gas=True)[2])
    rate = EVERY * timestep(atoms) / RELAX / units.fs / (STIFF * units.GPa)
    atoms.set_cell(atoms.cell.array * [[1.0], [1.0], [1.0 + np.clip(rate * pressure, -0.01, 0.01)]], scale_atoms=True)


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

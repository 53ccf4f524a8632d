"""The liquid: density, structure and diffusion above the melting point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.checks.motion import at_constant_pressure, correlated, melting_point, run, thermalise, timestep
from potstill.data import Array, Frame
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

ATOMS = 108
HOT, WARM = 1.8, 1.2  # of the melting point: to melt at, to measure at
MELT, SETTLE, MEASURE = 1_000, 1_500, 6_000  # steps
EVERY = 20
BINS = 100
BLOCKS = 5


@dataclass(frozen=True)
class Liquid(Examination):
    """Melt 108 atoms at 1.8 T_m, then measure at 1.2 T_m and zero pressure; T_m is the element's tabulated one."""

    name: ClassVar[str] = "liquid"
    title: ClassVar[str] = "Liquid at 1.2 T_m"
    axes: ClassVar[tuple[str, str]] = ("distance (Å)", "pair distribution g(r)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Density by volume, two numbers of g(r), diffusion."""
        return {
            "volume": Quantity("Å³/atom", 0.5, "scatter of measured densities of liquid metals", percent=True),
            "first_peak": Quantity("Å", 1.0, "resolution of diffraction", percent=True),
            "peak_height": Quantity("", 5.0, "resolution of diffraction", percent=True),
            "diffusion": Quantity("10⁻⁹ m²/s", 10.0, "scatter of quasielastic neutron scattering", percent=True),
        }

    def examine(self, potential: Potential) -> Measured:
        """Run and count."""
        from ase.units import fs

        rest = Rest.of(potential, self.element, self.lattice)
        atoms = rest.supercell(ATOMS)
        atoms.set_cell(atoms.cell.array * 1.04, scale_atoms=True)
        atoms.calc = rest.atoms.calc
        T = melting_point(self.element)
        thermalise(atoms, 2 * HOT * T, np.random.default_rng(1))  # half goes into the lattice's disorder
        for temperature, steps in ((HOT * T, MELT), (WARM * T, SETTLE)):
            for _ in run(at_constant_pressure(atoms, temperature), steps, temperature):
                pass
        volumes, cells, tracks, histogram, frames = [], [], [], np.zeros(BINS), []
        edges = np.linspace(0.0, 0.5 * atoms.get_volume() ** (1 / 3), BINS + 1)
        md = at_constant_pressure(atoms, WARM * T)
        for step in run(md, MEASURE, WARM * T, EVERY):
            volumes.append(atoms.get_volume() / len(atoms))
            cells.append(atoms.cell.array.copy())
            # Fractions of the cell, so that its breathing is not taken for motion.
            tracks.append(atoms.cell.scaled_positions(atoms.positions))
            histogram += _pairs(atoms, edges)
            if step % (MEASURE // 6) == 0:
                frames.append(Frame.of(atoms))
        volume, error = correlated(np.array(volumes))
        g = histogram / len(volumes)
        g *= volume / (4 / 3 * np.pi * np.diff(edges**3))
        r = 0.5 * (edges[1:] + edges[:-1])
        path = np.array(tracks)
        path = (path - path.mean(1, keepdims=True)) @ np.mean(cells, axis=0)
        D, D_error = _diffusion(path, EVERY * timestep(atoms) / fs)
        peak, height = _peak(r, g)
        return Measured(
            {"volume": volume, "first_peak": peak, "peak_height": height, "diffusion": D},
            {"volume": error, "diffusion": D_error},
            {"g(r)": (r.tolist(), g.tolist())},
            tuple(frames),
        )


def _pairs(atoms: Atoms, edges: Array) -> Array:
    """Count neighbours of an atom by distance."""
    import vesin

    (d,) = vesin.NeighborList(cutoff=float(edges[-1]), full_list=True).compute(
        atoms.positions, atoms.cell.array, True, "d"
    )
    return np.histogram(d, edges)[0] / len(atoms)


def _peak(r: Array, g: Array) -> tuple[float, float]:
    """Return position and height of the highest point, by a parabola through five points."""
    k = int(np.clip(np.argmax(g), 2, len(g) - 3))
    a, b, c = np.polyfit(r[k - 2 : k + 3] - r[k], g[k - 2 : k + 3], 2)
    return float(r[k] - b / (2 * a)), float(c - b * b / (4 * a))


def _diffusion(path: Array, interval: float) -> tuple[float, float]:
    """Return D and its standard error, 10⁻⁹ m²/s, from the slopes of the mean square displacement in parts of a path.

    Parameters
    ----------
    path : ndarray (n_times, n_atoms, 3)
        Å, without jumps at boundaries.
    interval : float
        fs between times.
    """
    found = []
    for part in np.array_split(path, BLOCKS):
        half = len(part) // 2
        lags = np.arange(half // 4, half)
        moved = [np.mean(np.sum((part[lag:] - part[:-lag]) ** 2, axis=2)) for lag in lags]
        found.append(np.polyfit(lags * interval, moved, 1)[0] / 6 * 1e4)  # Å²/fs = 10⁴ · 10⁻⁹ m²/s
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(BLOCKS))

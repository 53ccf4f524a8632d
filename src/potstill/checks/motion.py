"""Molecular dynamics for checks: through ASE for every potential alike, so that a difference is the potential's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.errors import ConfigError, ConvergenceError

if TYPE_CHECKING:
    from ase import Atoms

    from potstill.data import Array

TIMESTEP = 2.0  # fs, of atoms as heavy as aluminium and heavier
LIGHT = 27.0  # u
HOTTEST = 5.0  # times the temperature asked for: an explosion
SPREAD = (0.5, 2.0)  # of the first volume: beyond, a cell has collapsed or evaporated
LOOK = 50  # steps between looks


def melting_point(element: str) -> float:
    """Return the element's melting point, K, as pymatgen tabulates it.

    Raises
    ------
    ConfigError
        If there is none.
    """
    from pymatgen.core import Element

    try:
        return float(Element(element).melting_point)
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(
            f"No melting point of '{element}' is tabulated, so nothing says how hot its liquid is. Leave out the "
            "checks liquid, stability and melting."
        ) from None


def timestep(atoms: Atoms) -> float:
    """Return a timestep in ASE's unit, shorter for light atoms."""
    from ase.units import fs

    return float(TIMESTEP * fs * min(1.0, np.sqrt(atoms.get_masses().min() / LIGHT)))


def thermalise(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw velocities, without motion of the whole."""
    from ase import units

    sigma = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    momenta = sigma * rng.standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(0))


def at_constant_pressure(atoms: Atoms, temperature: float) -> Any:
    """Return Martyna–Tobias–Klein dynamics at zero pressure, the cell's shape kept."""
    from ase import units
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    return IsotropicMTKNPT(
        atoms,
        timestep=timestep(atoms),
        temperature_K=temperature,
        pressure_au=0.0,
        tdamp=100 * units.fs,
        pdamp=1000 * units.fs,
    )


def run(md: Any, steps: int, temperature: float, every: int = LOOK) -> Iterator[int]:
    """Run dynamics and yield the step every few of them.

    Raises
    ------
    ConvergenceError
        If the atoms get far too hot, or the cell collapses or evaporates.
    """
    atoms = md.atoms
    volume = atoms.get_volume()
    for step in range(every, steps + 1, every):
        md.run(every)
        hot = float(atoms.get_temperature())
        if not np.isfinite(atoms.positions).all() or not hot < HOTTEST * temperature:
            raise ConvergenceError(f"the dynamics exploded after {step} steps at {temperature:.0f} K")
        if not SPREAD[0] < atoms.get_volume() / volume < SPREAD[1]:
            raise ConvergenceError(f"the cell collapsed or evaporated after {step} steps at {temperature:.0f} K")
        yield step


def correlated(series: Array) -> tuple[float, float]:
    """Return mean and standard error of a correlated series, by its autocorrelation up to the first zero."""
    x = np.asarray(series, float)
    off = x - x.mean()
    n = len(x)
    spectrum = np.abs(np.fft.rfft(off, 2 * n)) ** 2
    rho = np.fft.irfft(spectrum)[:n] / (n - np.arange(n))
    if not rho[0] > 0:
        return float(x.mean()), 0.0
    rho /= rho[0]
    below = np.flatnonzero(rho <= 0)
    length = 1.0 + 2.0 * float(rho[1 : below[0] if len(below) else n].sum())
    # A mean that is taken from the same short series hides some of its own scatter.
    return float(x.mean()), float(np.sqrt(off.var() * length / max(1.0, n - length)))

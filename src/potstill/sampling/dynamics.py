"""Isothermal–isobaric dynamics with whatever a potential offers: its own code's, or ASE's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from potstill.errors import ConvergenceError, PotstillError
from potstill.protocols import MolecularDynamics, Potential, State, stops

if TYPE_CHECKING:
    from ase import Atoms


def dynamics(
    potential: Potential,
    start: Atoms,
    stages: Sequence[tuple[State, int, int]],
    *,
    timestep: float,
    seed: int,
) -> Iterator[tuple[int, int, Atoms]]:
    """Run NPT stages natively where the potential can, else through ASE.

    Arguments, yields and errors are those of :meth:`potstill.protocols.MolecularDynamics.dynamics`.
    """
    if isinstance(potential, MolecularDynamics):
        return potential.dynamics(start, stages, timestep=timestep, seed=seed)
    return _ase_dynamics(potential, start, stages, timestep, seed)


def _ase_dynamics(
    potential: Potential, start: Atoms, stages: Sequence[tuple[State, int, int]], timestep: float, seed: int
) -> Iterator[tuple[int, int, Atoms]]:
    """Martyna–Tobias–Klein isotropic NPT (ASE's ``IsotropicMTKNPT``), damping 100 fs and 1 ps as in the native path."""
    from ase import units
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    atoms = start.copy()
    atoms.calc = potential.calculator()
    thermal = np.sqrt(atoms.get_masses() * units.kB * 1.5 * stages[0][0].temperature)[:, None]
    momenta = thermal * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    first_volume = atoms.get_volume()
    for index, (state, n_steps, stride) in enumerate(stages):
        md = IsotropicMTKNPT(
            atoms,
            timestep=timestep * units.fs,
            temperature_K=state.temperature,
            pressure_au=state.pressure * units.GPa,
            tdamp=100 * units.fs,
            pdamp=1000 * units.fs,
        )
        for before, step in pairwise([0, *stops(n_steps, stride, 100)]):
            try:
                md.run(step - before)
            except (
                PotstillError,
                ArithmeticError,
                ValueError,
                RuntimeError,
            ) as error:  # calculators vary
                where = f"{state.temperature:.0f} K, {state.pressure:g} GPa"
                raise ConvergenceError(f"the dynamics broke down at {where} ({error})") from error
            ratio = atoms.get_volume() / first_volume
            if not np.isfinite(atoms.positions).all() or not 0.3 < ratio < 2.2:
                raise ConvergenceError(
                    f"the volume reached {ratio:.2f} of the start's at {state.temperature:.0f} K, "
                    f"{state.pressure:g} GPa: it evaporates or collapses. Ask for a lower temperature or a "
                    "higher pressure."
                )
            if stride:
                yield index, step, atoms.copy()

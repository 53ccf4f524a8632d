"""Errors on labelled frames that were not learnt from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from potstill.data import Array, Dataset
from potstill.errors import DataError
from potstill.protocols import Batched, Potential

GPA = 160.21766208  # GPa in eV/Å³


@dataclass(frozen=True)
class Parity:
    """Prediction against label, point by point.

    Energies (eV/atom) are one a frame; forces (eV/Å) and stresses (GPa) are flat over components.
    """

    energy: tuple[Array, Array]
    force: tuple[Array, Array]
    stress: tuple[Array, Array]
    force_rmse_of_frame: Array


@dataclass(frozen=True)
class ErrorReport:
    """Errors as the command line prints them.

    ``stress_rmse_gpa`` is None where no frame has a stress. The last ones are of the frames' own root mean square
    force errors: all but the worst frame taken together, the worst frame, and percentiles.
    """

    energy_rmse_mev_per_atom: float
    energy_mae_mev_per_atom: float
    force_rmse_ev_per_angstrom: float
    force_mae_ev_per_angstrom: float
    stress_rmse_gpa: float | None
    n_frames: int
    force_rmse_without_worst: float
    force_p95: float
    force_p99: float
    force_worst: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def parity(potential: Potential, data: Dataset) -> Parity:
    """Evaluate a potential on labelled frames.

    Raises
    ------
    DataError
        If no frame has labels.
    """
    frames = data.only_labelled()
    if not len(frames):
        raise DataError("Errors need labelled frames, but the data have none.")
    energy: tuple[list[float], list[float]] = ([], [])
    force: tuple[list[Array], list[Array]] = ([], [])
    stress: tuple[list[Array], list[Array]] = ([], [])
    for frame, (e, f, s) in zip(frames, _evaluate(potential, frames), strict=True):
        labels = frame.labels
        if labels is None:
            continue
        energy[0].append(labels.energy / frame.n_atoms)
        energy[1].append(e / frame.n_atoms)
        force[0].append(labels.forces.ravel())
        force[1].append(f.ravel())
        if labels.stress is not None and s is not None:
            stress[0].append(labels.stress.ravel() * GPA)
            stress[1].append(s.ravel() * GPA)
    per_frame = [np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(*force, strict=True)]

    def joined(pair: tuple[list[Array], list[Array]]) -> tuple[Array, Array]:
        return (np.concatenate(pair[0]), np.concatenate(pair[1])) if pair[0] else (np.empty(0), np.empty(0))

    return Parity((np.array(energy[0]), np.array(energy[1])), joined(force), joined(stress), np.array(per_frame))


def _evaluate(potential: Potential, frames: Dataset) -> list[tuple[float, Array, Array | None]]:
    """Evaluate in one batch where the potential can, else frame by frame through its calculator."""
    if isinstance(potential, Batched):
        return [
            (float(p.energy[0]), p.forces[0], p.virial[0] / f.volume if f.volume else None)
            for f, p in zip(frames, potential.predict(frames, mean=True), strict=True)
        ]
    calculator = potential.calculator()
    found: list[tuple[float, Array, Array | None]] = []
    for f in frames:
        atoms = f.atoms.copy()
        atoms.calc = calculator
        stress = atoms.get_stress(voigt=False) if f.volume else None
        found.append((float(atoms.get_potential_energy()), atoms.get_forces(), stress))
    return found


def summarise(points: Parity) -> ErrorReport:
    """Reduce parity points to root-mean-square and mean absolute errors."""
    de = 1e3 * (points.energy[1] - points.energy[0])
    df = points.force[1] - points.force[0]
    ds = points.stress[1] - points.stress[0]

    def rms(x: Array) -> float:
        return float(np.sqrt(np.mean(x**2)))

    frames = np.sort(points.force_rmse_of_frame)
    return ErrorReport(
        rms(de),
        float(np.mean(np.abs(de))),
        rms(df),
        float(np.mean(np.abs(df))),
        rms(ds) if len(ds) else None,
        len(de),
        rms(frames[:-1]) if len(frames) > 1 else rms(frames),
        float(np.percentile(frames, 95)),
        float(np.percentile(frames, 99)),
        float(frames[-1]),
    )


def errors_on(potential: Potential, data: Dataset) -> ErrorReport:
    """Return the errors of a potential on labelled frames; see :func:`parity`."""
    return summarise(parity(potential, data))

"""When more labels no longer help, or are no longer needed: told by the hold-out, with its error bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from potstill.checks.errors import Parity
from potstill.config import DistilConfig
from potstill.data import Array

RESAMPLES = 1000  # of the bootstrap over held-out frames
CONFIDENCE = 0.95
PATIENCE = 2  # rounds without progress


def of_frames(points: Parity) -> dict[str, list[float]]:
    """Return what the bootstrap needs: each held-out frame's energy error (eV/atom) and force error (eV/Å, RMS)."""
    return {
        "energy": [float(x) for x in points.energy[1] - points.energy[0]],
        "force": [float(x) for x in points.force_rmse_of_frame],
    }


def band(values: Sequence[float]) -> list[float]:
    """Return the interval of confidence of a root mean square over frames, by bootstrap."""
    squares = np.square(np.asarray(values, dtype=np.float64))
    means = _resampled(len(squares)) @ squares
    tail = 100 * (1 - CONFIDENCE) / 2
    return [float(np.sqrt(x)) for x in np.percentile(means, [tail, 100 - tail])]


def _resampled(n: int) -> Array:
    """Return the weights of the frames in each resample; the same at every call, so that rounds compare pairwise."""
    rng = np.random.default_rng(n)
    drawn = rng.integers(0, n, (RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1.0)
    return counts / n


def improved(earlier: Sequence[float], later: Sequence[float]) -> bool:
    """Whether the later root mean square is lower than the earlier, on the same frames, with confidence."""
    a, b = (np.square(np.asarray(v, dtype=np.float64)) for v in (earlier, later))
    gain = _resampled(len(a)) @ (a - b)
    return bool(np.percentile(gain, 100 * (1 - CONFIDENCE)) > 0)


def reason_to_stop(
    frames: Sequence[Mapping[str, Sequence[float]]], settings: DistilConfig, doubtful: Sequence[str]
) -> str | None:
    """Say why the loop should end before its budget, or None.

    Parameters
    ----------
    frames : sequence of mappings
        What :func:`of_frames` gave after each round; empty mappings where nothing is held out.
    settings : DistilConfig
        Targets, and whether a flat curve ends the loop.
    doubtful : sequence of str
        Quick checks that the latest round did not pass; while there are any, a flat curve does not end the loop.
    """
    if not frames or not frames[-1]:
        return None
    told: list[str] = []
    for name, target, unit in (
        ("force", settings.target_force, "eV/Å"),
        ("energy", settings.target_energy, "eV/atom"),
    ):
        if not target:
            continue
        upper = band(frames[-1][name])[1]
        if upper >= target:
            told = []
            break
        told.append(f"the hold-out's {name} error is below {target:g} {unit} (at most {upper:.2g}, 95 % confidence)")
    if told:
        return " and ".join(told)
    if settings.stop_flat and not doubtful and len(frames) > PATIENCE:
        best, recent = frames[-PATIENCE - 1], frames[-PATIENCE:]
        if not any(improved(best[name], r[name]) for r in recent for name in ("energy", "force")):
            return f"the last {PATIENCE} rounds have not lowered the hold-out's errors beyond their error bars"
    return None

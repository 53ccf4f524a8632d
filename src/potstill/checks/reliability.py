"""Whether expected errors are true: what was expected of forces against what was found, on frames not learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np

from potstill.data import Dataset
from potstill.model import Committee
from potstill.model.committee import force_spread

BINS = 10


def reliability(committee: Committee, held_out: Dataset) -> dict[str, Any] | None:
    """Return the reliability diagram of the calibrated force errors; None for a committee of one.

    Atoms are sorted by their expected error, eV/Å, and cut into ten groups of one size.

    Returns
    -------
    dict
        ``expected`` and ``found``, root mean squares of each group; ``within``: the share of atoms whose error is below
        the expected one and below twice it (a normal distribution in three dimensions has 0.61 and 0.99).
    """
    frames = held_out.only_labelled()
    if committee.members < 2 or not len(frames):
        return None
    expected, found = [], []
    for frame, p in zip(frames, committee.predict(frames), strict=True):
        if frame.labels is None:
            continue
        expected.append(committee.calibration * force_spread(p))
        found.append(np.linalg.norm(p.forces.mean(0) - frame.labels.forces, axis=1))
    e, f = np.concatenate(expected), np.concatenate(found)
    groups = np.array_split(np.argsort(e, kind="stable"), min(BINS, len(e)))
    return {
        "expected": [float(np.sqrt(np.mean(e[g] ** 2))) for g in groups],
        "found": [float(np.sqrt(np.mean(f[g] ** 2))) for g in groups],
        "within": [float(np.mean(f <= k * e)) for k in (1, 2)],
    }

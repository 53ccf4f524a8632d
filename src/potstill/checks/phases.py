"""Crystal, liquid or between: how far the bonds of a frame share their directions.

The measure is the global Q₆ of Steinhardt, Nelson & Ronchetti (Phys. Rev. B 28, 784, 1983) over bonds shorter than
0.85 (4 V/N)^⅓, which is midway between the first two shells of an fcc crystal and includes both of a bcc one. Perfect
fcc has 0.575, bcc 0.511, hcp 0.485; a liquid of N atoms about 1/√(6 N). It knows no direction of the cell.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from potstill.data import Frame
from potstill.model.neighbours import find_in

BOND = 0.85  # of (4 V/N)^⅓
LIQUID, CRYSTAL = 0.2, 0.35  # the first ends at this Q₆, the second begins
PHASES = ("liquid", "between", "crystal")


def steinhardt(frame: Frame) -> float | None:
    """Return the global Q₆ of a periodic frame; None for one without volume or without bonds."""
    from scipy.special import sph_harm_y

    if not frame.volume:
        return None
    reach = BOND * (4.0 * frame.volume / frame.n_atoms) ** (1 / 3)
    found = find_in(frame, np.zeros(frame.n_atoms, np.int32), reach)
    if not len(found.second):
        return None
    ends = np.repeat(np.arange(frame.n_atoms), np.diff(found.first))
    d = found.x[found.second] - found.x[found.centre[ends]]
    polar, azimuth = np.arccos(np.clip(d[:, 2] / np.linalg.norm(d, axis=1), -1.0, 1.0)), np.arctan2(d[:, 1], d[:, 0])
    m = np.arange(7)  # of −m the modulus is that of m
    mean = sph_harm_y(6, m[:, None], polar[None], azimuth[None]).mean(axis=1)
    weight = np.where(m == 0, 1.0, 2.0)
    return math.sqrt(4 * math.pi / 13 * float(weight @ np.abs(mean) ** 2))


def phase(q6: float | None) -> str | None:
    """Name what a frame is by its Q₆."""
    if q6 is None:
        return None
    return PHASES[(q6 >= LIQUID) + (q6 > CRYSTAL)]


def by_phase(phases: list[str | None], energy: Any, force: Any) -> list[dict[str, Any]]:
    """Return errors (meV/atom, meV/Å; root mean square over frames) of each phase that there are frames of."""
    rows = []
    for name in PHASES:
        mine = np.array([p == name for p in phases])
        if mine.any():
            e, f = (1e3 * float(np.sqrt(np.mean(np.square(np.asarray(x)[mine])))) for x in (energy, force))
            rows.append({"phase": name, "n_frames": int(mine.sum()), "energy_rmse": e, "force_rmse": f})
    return rows

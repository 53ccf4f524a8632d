"""What is wrong with data before and after they are learnt: frames that repeat others, labels that nothing explains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.data import Array, Dataset, Frame
from potstill.model.committee import force_spread

if TYPE_CHECKING:
    from potstill.model import Committee, FrameFeatures
    from potstill.model.committee import Prediction

SAME_CELL = 1e-3  # relative, of edges; as much in cosines of the angles between them
SAME_FRAME = 1e-3  # distance of two frames' vectors, in units of the vectors' own length
TREE_COMPONENTS = 12
OUTLYING = 12.0  # robust standard deviations
LEAST_FRAMES = 8  # to say what is usual


def near_duplicates(frames: Dataset, features: FrameFeatures, *, known: Dataset | None = None) -> Dataset:
    """Return the frames that repeat an earlier one, or one of ``known``, but for rounding.

    Repeats have the same composition, cells of the same shape, and surroundings that descriptors do not tell apart:
    the same atoms in another order, shifted, wrapped, rotated, or written with fewer digits. The same positions in
    another cell are another frame, and so is each strain of a series.

    Parameters
    ----------
    frames : Dataset
        Candidates, in order: the first of several alike is not a repeat.
    features : FrameFeatures
        The metric.
    known : Dataset | None
        Frames that came before all of these.
    """
    from scipy.spatial import cKDTree

    everything = [*(known or ()), *frames]
    before = len(everything) - len(frames)
    repeats: list[Frame] = []
    for group in _of_one_kind(everything):
        if len(group) < 2:
            continue
        X = features.describe([everything[k] for k in group])
        limit = SAME_FRAME * max(float(np.linalg.norm(X, axis=1).mean()), 1e-12)
        half = X.shape[1] // 2  # means come first, spreads after them, the leading components first in each
        lead = np.concatenate([X[:, :TREE_COMPONENTS], X[:, half : half + TREE_COMPONENTS]], axis=1)
        cells = np.array([_cell(everything[k]) for k in group])
        gone: set[int] = set()
        for a, b in sorted(cKDTree(lead).query_pairs(limit)):
            alike = np.linalg.norm(X[a] - X[b]) <= limit and np.abs(cells[a] - cells[b]).max() <= SAME_CELL
            if alike and a not in gone and group[b] >= before:
                gone.add(b)
        repeats.extend(everything[group[b]] for b in sorted(gone))
    return Dataset(repeats)


def _of_one_kind(frames: Sequence[Frame]) -> list[list[int]]:
    groups: dict[Any, list[int]] = defaultdict(list)
    for k, f in enumerate(frames):
        numbers, counts = np.unique(f.atoms.numbers, return_counts=True)
        groups[(*numbers.tolist(), *counts.tolist(), *f.atoms.pbc.tolist())].append(k)
    return list(groups.values())


def _cell(frame: Frame) -> Array:
    """Return logarithms of the periodic edges, and the cosines between them."""
    cell, periodic = frame.atoms.cell.array, np.asarray(frame.atoms.pbc)
    length = np.where(periodic, np.linalg.norm(cell, axis=1), 1.0)
    unit = np.where(periodic[:, None], cell / length[:, None], 0.0)
    return np.concatenate([np.log(length), [unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]])


def outliers(committee: Committee, data: Dataset, *, held_out: bool = False) -> list[dict[str, Any]]:
    """Return the labels that a committee cannot explain, though it learnt from them too, or expected to be right.

    Training trusts residuals beyond its robust limit little, so a wrong label does not drag the model along, and stands
    out: a frame is listed where its energy per atom, or its largest force error, is off by more than ``OUTLYING``
    robust standard deviations of all frames, and by more than the loss scales' tenfold.

    Parameters
    ----------
    committee : Committee
        Calibrated, where ``held_out``.
    data : Dataset
        Labelled frames.
    held_out : bool
        Whether the frames were not learnt from. An error may then be the model's own, so it has to be more than
        ``OUTLYING`` times the expected one, too.

    Returns
    -------
    list of dict
        ``frame`` (key), ``index``, ``energy_error`` (meV/atom), ``force_error`` (eV/Å, the worst atom's), ``reason``.
    """
    frames = data.only_labelled()
    if len(frames) < LEAST_FRAMES:
        return []
    off = np.array([_errors(frame, p, committee) for frame, p in zip(frames, committee.predict(frames), strict=True)])
    energy, force, energy_doubt, force_doubt = off.T
    if not held_out:
        energy_doubt, force_doubt = np.zeros((2, len(frames)))
    scales = committee.about.get("train", {})
    of_energy = max(OUTLYING * _width(energy), 10 * float(scales.get("energy_scale", 0.004)))
    of_force = max(np.median(force) + OUTLYING * _width(force), 10 * float(scales.get("force_scale", 0.05)))
    by_energy = np.abs(energy - np.median(energy)) > np.maximum(of_energy, OUTLYING * energy_doubt)
    by_force = force > np.maximum(of_force, OUTLYING * force_doubt)
    found = []
    for k in np.flatnonzero(by_energy | by_force):
        wrong = []
        if by_energy[k]:
            wrong.append(f"its energy is {1e3 * energy[k]:+.0f} meV/atom from what its neighbours say")
        if by_force[k]:
            wrong.append(f"a force is {force[k]:.2f} eV/Å from what its neighbours say")
        found.append(
            {
                "frame": frames[int(k)].key,
                "index": int(k),
                "energy_error": 1e3 * float(energy[k]),
                "force_error": float(force[k]),
                "reason": ", and ".join(wrong) + (" (held out)" if held_out else ""),
            }
        )
    return found


def _errors(frame: Frame, p: Prediction, committee: Committee) -> tuple[float, float, float, float]:
    """Return errors of energy, eV/atom, and of the worst atom's force, eV/Å, and what was expected of either."""
    if frame.labels is None:
        return 0.0, 0.0, 0.0, 0.0
    one = committee.members < 2
    energy = (float(p.energy.mean()) - frame.labels.energy) / frame.n_atoms
    force = float(np.linalg.norm(p.forces.mean(0) - frame.labels.forces, axis=1).max())
    energy_doubt = 0.0 if one else committee.energy_calibration * float(p.energy.std(ddof=1)) / frame.n_atoms
    return energy, force, energy_doubt, 0.0 if one else committee.calibration * float(force_spread(p).max())


def _width(x: Array) -> float:
    """Return the standard deviation as the median absolute deviation tells it."""
    return float(1.4826 * np.median(np.abs(x - np.median(x))))

"""Step 3: labels → committee."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset
from potstill.errors import DataError
from potstill.model import Committee, Descriptor, ahead

if TYPE_CHECKING:
    from potstill.model.fit import Descriptions


def descriptor_for(elements: tuple[str, ...], settings: ModelConfig) -> Descriptor:
    """Return the descriptor that the settings describe, for these elements.

    Raises
    ------
    DataError
        If there is no element.
    """
    if not elements:
        raise DataError("A descriptor needs at least one element, but the data hold no frame.")
    return Descriptor(
        elements,
        settings.cutoff,
        settings.angular_cutoff,
        settings.n_radial,
        settings.n_angular,
        settings.l_max,
    )


FRAMES, MOST = 100, 4.0  # that the configured steps are for, and what they may be multiplied by


def full_steps(settings: TrainConfig, n_frames: int) -> int:
    """Return the optimiser steps of a full training on so many frames.

    200 frames of the foundational set reach 0.49, 0.37 and 0.27 meV/atom in 2,000, 2,830 and 4,000 steps.
    """
    return round(settings.steps * min(MOST, max(1.0, n_frames / FRAMES)))


def train(
    data: Dataset,
    model: ModelConfig,
    settings: TrainConfig,
    *,
    seed: int,
    calibrate_on: Dataset | None = None,
    cache: Descriptions | None = None,
    descriptor: Descriptor | None = None,
    start: Committee | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Committee:
    """Train a committee and, where held-out frames are given, calibrate its spread on them.

    Parameters
    ----------
    data : Dataset
        Labelled frames.
    model, settings : ModelConfig, TrainConfig
        The network and its training.
    seed : int
        Decides everything drawn at random.
    calibrate_on : Dataset | None
        Labelled frames that are not in ``data``.
    cache, descriptor
        From an earlier round, to be shared.
    start : Committee | None
        Weights to go on from, with its descriptor, layers and number of members; see :func:`potstill.model.fit.fit`.
        Where the data have another element, of a single one, it stands for the model's.
    tell : callable
        Gets lines of progress.
    """
    from potstill.model.fit import fit

    ahead.start()
    hidden = model.hidden
    if start is not None:
        known = set(data.elements) <= set(start.elements)
        descriptor = replace(start.descriptor, elements=start.elements if known else data.elements)
        hidden = start.hidden
        settings = settings.model_copy(update={"members": start.members})
    descriptor = descriptor or descriptor_for(data.elements, model)
    committee = fit(
        data,
        descriptor,
        settings,
        hidden=hidden,
        seed=seed,
        cache=cache,
        start=start,
        tell=lambda step, loss: tell(f"train: step {step}/{settings.steps}, loss {loss:.3f}"),
    )
    if calibrate_on is not None and len(calibrate_on.only_labelled()):
        force, energy = calibration(committee, calibrate_on)
        committee = replace(committee, calibration=force, energy_calibration=energy)
    return committee


BEYOND = 12.0  # times the usual ratio of error to spread; a frame beyond has a wrong label


def calibration(committee: Committee, held_out: Dataset) -> tuple[float, float]:
    """Return the factors that turn spreads of force and energy into expected errors, as root mean squares over frames.

    Frames whose error is more than ``BEYOND`` times what the others' say of their spread have no part, because one
    wrong label would spoil every expectation. With one member there is no spread, and the factors are 1.
    """
    frames = held_out.only_labelled()
    if committee.members < 2:
        return 1.0, 1.0
    force, energy = [], []
    for frame, p in zip(frames, committee.predict(frames), strict=True):
        if frame.labels is None:
            continue
        error = np.mean(np.sum((p.forces.mean(0) - frame.labels.forces) ** 2, axis=1))
        force.append((error, np.mean(p.forces.var(0, ddof=1).sum(1))))
        off = (p.energy.mean() - frame.labels.energy) / frame.n_atoms
        energy.append((off**2, p.energy.var(ddof=1) / frame.n_atoms**2))
    return _ratio(force), _ratio(energy)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    """Return the root of mean squared error over mean squared spread, without frames that are far from the others."""
    error, spread = np.array(pairs, dtype=np.float64).T
    ratio = error / np.maximum(spread, np.finfo(float).tiny)
    usual = ratio <= BEYOND**2 * np.median(ratio)
    return float(np.sqrt(error[usual].mean() / spread[usual].mean())) if spread[usual].sum() > 0 else 1.0

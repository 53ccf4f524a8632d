"""Step 3: labels → committee."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset
from potstill.errors import DataError
from potstill.model import Committee, Descriptor, Whitening

if TYPE_CHECKING:
    from potstill.model.fit import JacobianCache


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


def train(
    data: Dataset,
    model: ModelConfig,
    settings: TrainConfig,
    *,
    seed: int,
    calibrate_on: Dataset | None = None,
    whitening: Whitening | None = None,
    cache: JacobianCache | None = None,
    descriptor: Descriptor | None = None,
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
    whitening, cache, descriptor
        From an earlier round, to be shared.
    tell : callable
        Gets lines of progress.
    """
    from potstill.model.fit import fit

    descriptor = descriptor or descriptor_for(data.elements, model)
    committee = fit(
        data,
        descriptor,
        settings,
        hidden=model.hidden,
        seed=seed,
        whitening=whitening,
        cache=cache,
        tell=lambda step, loss: tell(f"train: step {step}/{settings.steps}, loss {loss:.3f}"),
    )
    if calibrate_on is not None and len(calibrate_on.only_labelled()):
        committee = replace(committee, calibration=calibration(committee, calibrate_on))
    return committee


def calibration(committee: Committee, held_out: Dataset) -> float:
    """Return the factor that turns force spread into an expected force error, both as root mean squares over frames.

    With one member there is no spread, and the factor is 1.
    """
    frames = held_out.only_labelled()
    if committee.members < 2:
        return 1.0
    square_error, square_spread = [], []
    for frame, p in zip(frames, committee.predict(frames), strict=True):
        if frame.labels is None:
            continue
        square_error.append(np.mean(np.sum((p.forces.mean(0) - frame.labels.forces) ** 2, axis=1)))
        square_spread.append(np.mean(p.forces.var(0, ddof=1).sum(1)))
    spread = float(np.mean(square_spread))
    return float(np.sqrt(np.mean(square_error) / spread)) if spread > 0 else 1.0

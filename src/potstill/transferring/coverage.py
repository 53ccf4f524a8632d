"""How much of what a metal visits is like what a model has learnt, and what would close the gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from potstill.data import Dataset, Frame
from potstill.distilling.beside import STRANGEST as INSIDE
from potstill.model import Committee, FrameFeatures
from potstill.selecting import checked, selector


def coverage(model: Committee, own: Dataset, crystals: Mapping[str, Frame]) -> dict[str, Any]:
    """Return what of a metal's own frames and crystals lies within the model's domain.

    Parameters
    ----------
    own : Dataset
        Frames that the metal visits; may be empty.
    crystals : mapping of str to Frame

    Returns
    -------
    dict
        ``atoms`` and ``frames``: shares within the domain (a frame with all its atoms), and ``strangest``, the largest
        distance in units of :data:`INSIDE`'s, all None without frames; ``crystals``: by name, the same distance of the
        strangest atom.
    """
    found: dict[str, Any] = {"limit": INSIDE, "n_frames": len(own), "atoms": None, "frames": None, "strangest": None}
    if len(own):
        strange = model.strangeness(list(own))
        worst = np.array([s.max() for s in strange])
        found["atoms"] = float(np.mean(np.concatenate(strange) <= INSIDE))
        found["frames"] = float(np.mean(worst <= INSIDE))
        found["strangest"] = float(worst.max())
    distances = model.strangeness(list(crystals.values())) if crystals else []
    found["crystals"] = {name: float(s.max()) for name, s in zip(crystals, distances, strict=True)}
    return found


def closing(model: Committee, known: Dataset, own: Dataset, n: int, rng: np.random.Generator) -> Dataset:
    """Return the n frames of a metal's own that lie farthest from what is known and from each other.

    The choice is that of the selector ``cover``, in the model's own metric.
    """
    left = own.without(known)
    n = min(n, len(left))
    if not n:
        return Dataset()
    features = FrameFeatures(model.descriptor, model.whitening)
    chosen = checked(selector("cover").select(left, n, known=known, committee=features, rng=rng), left, n)
    return left.take(chosen.indices)

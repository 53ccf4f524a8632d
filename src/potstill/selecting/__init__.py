"""Step 2c: committee + pool → the frames to label next. Every way is a :class:`~potstill.protocols.Selector`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from potstill.data import Dataset
from potstill.errors import ConfigError, DataError
from potstill.protocols import Selection, Selector
from potstill.selecting.clusters import Direct
from potstill.selecting.gradients import LastLayer
from potstill.selecting.linear import Leverage, Still
from potstill.selecting.plain import CommitteeSpread, FarthestPoint, Random, farthest_points
from potstill.selecting.surroundings import Cover, Entropy

__all__ = ["SELECTORS", "checked", "farthest_points", "selector"]

SELECTORS: Mapping[str, type[Selector]] = {
    cls.name: cls
    for cls in (Still, Random, FarthestPoint, CommitteeSpread, Leverage, LastLayer, Entropy, Cover, Direct)
}


def selector(name: str) -> Selector:
    """Return a selector by name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in SELECTORS:
        raise ConfigError(f"There is no selector '{name}'; there are {', '.join(SELECTORS)}.")
    return SELECTORS[name]()


def checked(selection: Selection, pool: Dataset, n: int) -> Selection:
    """Return the selection if it keeps the contract, so that a faulty selector cannot overspend a budget.

    Raises
    ------
    DataError
        If an index repeats, lies outside the pool, or there are more than ``n``.
    """
    i = selection.indices
    if len(i) > n or len(np.unique(i)) != len(i) or (len(i) and (i.min() < 0 or i.max() >= len(pool))):
        raise DataError(f"A selector that was asked for {n} of {len(pool)} frames returned {len(i)} invalid indices.")
    return selection

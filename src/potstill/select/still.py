"""The default."""

from __future__ import annotations

import numpy as np

from potstill.data import Dataset
from potstill.protocols import Describer, Selection, Surveyor
from potstill.select.clusters import Direct
from potstill.select.linear import Leverage
from potstill.select.plain import CommitteeSpread

SHARE = 0.5


class Still:
    """Half of the batch from everywhere, half by what the labels would teach beyond that.

    The first half is one frame from each of as many clusters of the pool (:class:`Direct`), so that no kind of frame,
    cold crystals among them, is forgotten: a quota for every stratum, which the pool itself draws. The second is
    D-optimal for energies, forces and virials, given all that is known (:class:`Leverage`).
    """

    name = "potstill"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose; a model without potstill's descriptors gives its doubt and distances instead."""
        if not isinstance(committee, Surveyor):
            return CommitteeSpread().select(pool, n, known=known, committee=committee, rng=rng)
        n = min(n, len(pool))
        first = Direct().select(pool, n - int(SHARE * n), known=known, committee=committee, rng=rng)
        taken = pool.take(first.indices)
        rest = np.setdiff1d(np.arange(len(pool)), first.indices)
        second = Leverage().select(pool.take(rest), n - len(taken), known=known | taken, committee=committee, rng=rng)
        scores = np.concatenate([np.zeros(len(first.indices)), second.scores])
        return Selection(np.concatenate([first.indices, rest[second.indices]]).astype(np.intp), scores)

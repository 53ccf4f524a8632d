"""The plain ways: at random, far apart, where the committee disagrees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset
from potstill.protocols import Committee, Describer, Selection


def farthest_points(X: Array, n: int, known: Array, *, start: int | None = None) -> tuple[NDArray[np.intp], Array]:
    """Choose rows of X one by one, each the farthest from all known and chosen ones.

    Parameters
    ----------
    X : ndarray (n_pool, d)
        Candidates.
    n : int
        How many.
    known : ndarray (n_known, d)
        Points that are covered already; may be empty.
    start : int | None
        First choice where nothing is known; the row nearest to the mean otherwise.

    Returns
    -------
    indices, distances
        In order of choice, with each one's distance when it was chosen.
    """
    n = min(n, len(X))
    chosen, distances = np.empty(n, dtype=np.intp), np.empty(n)
    nearest = np.full(len(X), np.inf)
    for row in known:
        nearest = np.minimum(nearest, np.einsum("nd,nd->n", X - row, X - row))
    for k in range(n):
        if k == 0 and not len(known):
            i = start if start is not None else int(np.argmin(((X - X.mean(0)) ** 2).sum(1)))
        else:
            i = int(np.argmax(nearest))
        chosen[k], distances[k] = i, np.sqrt(nearest[i])
        nearest = np.minimum(nearest, np.einsum("nd,nd->n", X - X[i], X - X[i]))
        nearest[i] = -1.0
    return chosen, distances


class Random:
    """Uniformly at random: the baseline that is hard to beat."""

    name = "random"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose without looking."""
        del known, committee
        chosen = rng.permutation(len(pool))[:n]
        return Selection(chosen, np.zeros(len(chosen)))


class FarthestPoint:
    """Cover the descriptor space evenly; needs no labels and no model. Scores are distances."""

    name = "fps"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose the frames farthest from everything known."""
        del rng
        X = committee.describe(list(pool))
        covered = committee.describe(list(known)) if len(known) else np.empty((0, X.shape[1]))
        return Selection(*farthest_points(X, n, covered))


class CommitteeSpread:
    """Uncertain and diverse: of the quarter of the pool that the committee doubts most, those far apart.

    The doubt is the members' disagreement on forces. Before there is a committee, this is farthest-point. Scores are
    spreads in eV/Å.
    """

    name = "committee"
    SHARE = 0.25

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose by doubt first, by distance second."""
        if not isinstance(committee, Committee) or committee.members < 2:  # one member never disagrees
            return FarthestPoint().select(pool, n, known=known, committee=committee, rng=rng)
        doubt = committee.spread(list(pool)).force
        keep = min(len(pool), max(2 * n, round(self.SHARE * len(pool))))
        doubted = np.argsort(-doubt, kind="stable")[:keep]
        X = committee.describe(list(pool.take(doubted)))
        covered = committee.describe(list(known)) if len(known) else np.empty((0, X.shape[1]))
        chosen, _ = farthest_points(X, n, covered)
        return Selection(doubted[chosen], doubt[doubted[chosen]])

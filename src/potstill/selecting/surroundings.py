"""Choices by atoms' surroundings: information gained about them, and how many of them are covered.

Both follow QUESTS (Schwalbe-Koda, Hamel, Sadigh, Zhou and Lordi, Nature Communications 16, 4014, 2025), with our
descriptor, and a bandwidth that the pool sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset
from potstill.protocols import Describer, Selection, Surveyor
from potstill.selecting.linear import surveyor

F32 = NDArray[np.float32]
BANDWIDTH_FRAMES = 200  # frames whose surroundings set the length scale
BLOCK = 8192  # rows of a matrix of distances


class _Surroundings:
    """All atoms of the pool, and their squared distances to the nearest of some others."""

    def __init__(self, pool: Dataset, survey: Surveyor) -> None:
        parts = survey.surroundings(list(pool))
        self.x: F32 = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
        self.first = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
        self._squares = np.einsum("ac,ac->a", self.x, self.x)

    def of(self, k: int) -> F32:
        """Return the atoms of frame k."""
        return self.x[self.first[k] : self.first[k + 1]]

    def squared_distances(self, rows: slice, y: F32) -> F32:
        """Return squared distances between some atoms and others."""
        d = self._squares[rows, None] + np.einsum("ac,ac->a", y, y) - 2.0 * self.x[rows] @ y.T
        return np.asarray(np.maximum(d, 0.0), dtype=np.float32)

    def blocks(self) -> list[slice]:
        """Cut the atoms into parts whose distances fit into memory."""
        return [slice(low, min(low + BLOCK, len(self.x))) for low in range(0, len(self.x), BLOCK)]

    def mean_of_frames(self, values: Array) -> Array:
        """Average over each frame's atoms."""
        sums = np.add.reduceat(values, self.first[:-1]) if len(values) else np.empty(0)
        return np.asarray(sums / np.diff(self.first))

    def length(self) -> float:
        """Return the typical distance of an atom to its nearest in another frame, over some evenly spread frames."""
        some = np.unique(np.linspace(0, len(self.first) - 2, BANDWIDTH_FRAMES).astype(int))
        if len(some) < 2:
            return 1.0
        atoms = np.concatenate([np.arange(self.first[k], self.first[k + 1]) for k in some])
        frame = np.concatenate([np.full(self.first[k + 1] - self.first[k], k) for k in some])
        taken = np.linspace(0, len(atoms) - 1, min(len(atoms), 1000)).astype(int)
        x = self.x[atoms]
        d = np.sum(x[taken] ** 2, 1)[:, None] + np.sum(x**2, 1) - 2.0 * x[taken] @ x.T
        d[frame[taken][:, None] == frame] = np.inf
        return float(np.sqrt(max(np.median(d.min(1)), 1e-12)))


def _greedily(
    s: _Surroundings,
    n: int,
    known: Sequence[F32],
    learn: Callable[[F32], None],
    rank: Callable[[int], tuple[Array, Array]],
) -> Selection:
    """Learn what is known; then take frame after frame, each the first by ``rank(k)``, which returns scores beside."""
    n = min(n, len(s.first) - 1)
    for part in known:
        learn(part)
    chosen, scores = np.empty(n, dtype=np.intp), np.empty(n)
    taken = np.zeros(len(s.first) - 1, dtype=bool)
    for k in range(n):
        order, score = rank(k)
        i = int(np.argmax(np.where(taken, -np.inf, order)))
        chosen[k], scores[k], taken[i] = i, score[i], True
        learn(s.of(i))
    return Selection(chosen, scores)


class Entropy:
    """Most information about surroundings: −log of their density among those already taken, averaged over a frame.

    Scores are these averages, in nats, when each frame was chosen.
    """

    name = "entropy"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose the frames whose surroundings are rarest among known and chosen ones."""
        del rng
        survey = surveyor(committee, self.name)
        s = _Surroundings(pool, survey)
        width = s.length()
        density = np.full(len(s.x), 1e-12)

        def learn(y: F32) -> None:
            for rows in s.blocks():
                density[rows] += np.exp(-s.squared_distances(rows, y) / (2 * width**2)).sum(1)

        def rank(k: int) -> tuple[Array, Array]:
            gain = s.mean_of_frames(-np.log(density))
            if k == 0 and not len(known):  # nothing is known: the most ordinary frame
                gain = -s.mean_of_frames(np.linalg.norm(s.x - s.x.mean(0), axis=1).astype(np.float64))
            return gain, gain

        return _greedily(s, n, survey.surroundings(list(known)), learn, rank)


class Cover:
    """Minimum set coverage: the frame with the largest share of surroundings that nothing taken is near to.

    Near means within a length that the pool sets; once everything is covered, it is halved. Scores are shares.
    """

    name = "cover"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose greedily."""
        del rng
        survey = surveyor(committee, self.name)
        s = _Surroundings(pool, survey)
        near = 2.0 * s.length()
        nearest = np.full(len(s.x), np.inf, dtype=np.float32)

        def learn(y: F32) -> None:
            for rows in s.blocks():
                np.minimum(nearest[rows], s.squared_distances(rows, y).min(1), out=nearest[rows])

        def rank(_k: int) -> tuple[Array, Array]:
            nonlocal near
            share = s.mean_of_frames((nearest > near**2).astype(np.float64))
            while near > 1e-6 and not (share > 0.0).any():
                near *= 0.5
                share = s.mean_of_frames((nearest > near**2).astype(np.float64))
            depth = s.mean_of_frames(np.minimum(nearest, 1e12).astype(np.float64))  # breaks ties
            return share + 1e-9 * depth / max(float(depth.max()), 1e-300), share

        return _greedily(s, n, survey.surroundings(list(known)), learn, rank)

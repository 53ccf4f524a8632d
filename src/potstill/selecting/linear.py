"""Optimal design for the linear model, in closed form: what a frame's labels would teach, before anyone computes them.

A frame with equations A (P parameters, r equations, in units of their errors) has the information A Aᵀ. With M = I +
Σ A Aᵀ over the known frames, log det M grows by log det(I + Aᵀ M⁻¹ A) with one more: the D-optimal choice maximises
it. Frames are taken greedily; gains only fall as M grows, so a stale gain is an upper bound, and few are computed anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset
from potstill.errors import ConfigError
from potstill.protocols import Describer, Selection, Surveyor
from potstill.selecting.plain import CommitteeSpread

BLOCK = 256  # frames whose first gains are computed together


class Information:
    """The inverse of M, and gains by it."""

    def __init__(self, n_parameters: int) -> None:
        self.inverse = np.eye(n_parameters)

    def add(self, A: Array) -> None:
        """Take in a frame's equations (P, r), by Woodbury's identity."""
        V = self.inverse @ A
        self.inverse -= V @ np.linalg.solve(np.eye(A.shape[1]) + A.T @ V, V.T)

    def gain(self, A: Array) -> Array:
        """Return log det(I + Aᵀ M⁻¹ A) of each frame's equations, (n_frames, P, r) → (n_frames,)."""
        inner = A.transpose(0, 2, 1) @ (self.inverse @ A)
        gains: Array = np.linalg.slogdet(np.eye(A.shape[2]) + inner)[1]
        return gains


def greedy(
    n_candidates: int,
    n: int,
    gain: Callable[[NDArray[np.intp]], Array],
    take: Callable[[int], None],
) -> tuple[NDArray[np.intp], Array]:
    """Take n candidates one by one, each of the largest gain, where gains fall as candidates are taken.

    Parameters
    ----------
    n_candidates, n : int
        How many there are, and how many are wanted.
    gain : callable (indices) -> ndarray
        Gains now.
    take : callable (index)
        Is told what was taken.

    Returns
    -------
    indices, gains
        In order of choice.
    """
    every = np.arange(n_candidates)
    first = np.concatenate([gain(part) for part in np.array_split(every, max(1, n_candidates // BLOCK))])
    heap = [(-g, int(i), 0) for i, g in enumerate(first)]
    heapq.heapify(heap)
    chosen: list[int] = []
    gains: list[float] = []
    while heap and len(chosen) < n:
        bound, i, when = heapq.heappop(heap)
        if when < len(chosen):  # computed before the latest choice
            heapq.heappush(heap, (-float(gain(np.array([i]))[0]), i, len(chosen)))
            continue
        take(i)
        chosen.append(i)
        gains.append(-bound)
    return np.array(chosen, dtype=np.intp), np.array(gains)


def surveyor(describer: Describer, name: str) -> Surveyor:
    """Return the describer, if it can say what frames would teach.

    Raises
    ------
    ConfigError
        If it only knows one vector a frame.
    """
    if not isinstance(describer, Surveyor):
        raise ConfigError(
            f"The selector '{name}' looks into frames with potstill's own descriptors, which this model does not "
            "have. Use random, fps or committee with it."
        )
    return describer


class Leverage:
    """D-optimal for energies, forces and virials of the linear model; needs no labels and no training.

    Scores are gains of log det M when each frame was chosen.
    """

    name = "leverage"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose by what the labels would teach."""
        del rng
        survey = surveyor(committee, self.name)
        A = survey.equations(list(pool))
        M = Information(A.shape[1])
        for a in survey.equations(list(known)):
            M.add(a.astype(np.float64))
        return Selection(
            *greedy(len(A), n, lambda k: M.gain(A[k].astype(np.float64)), lambda k: M.add(A[k].astype(np.float64)))
        )


class Still:
    """The default: half of the frames at random, half by what their labels would teach beside those.

    D-optimal frames alone lower the worst errors, but they are of the pool's edges, and in between a potential that
    learnt from nothing else is a little worse than one that learnt from any frames (docs/selectors.md). The linear
    model's information is about how surroundings differ, in energies, forces and virials at once, so it is diverse by
    itself. Models without our descriptors, such as MACE, only know vectors and their own doubt: with them the
    second half is chosen by :class:`~potstill.selecting.plain.CommitteeSpread`.
    """

    name = "potstill"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Draw one half, and choose the other knowing it."""
        n = min(n, len(pool))
        drawn = rng.permutation(len(pool))[: n // 2]
        left = np.setdiff1d(np.arange(len(pool)), drawn)
        chooser = Leverage() if isinstance(committee, Surveyor) else CommitteeSpread()
        have = Dataset([*known, *(pool[int(k)] for k in drawn)])
        rest = Dataset(pool[int(k)] for k in left)
        taught = chooser.select(rest, n - len(drawn), known=have, committee=committee, rng=rng)
        indices = np.concatenate([left[taught.indices], drawn])
        return Selection(indices, np.concatenate([taught.scores, np.zeros(len(drawn))]))

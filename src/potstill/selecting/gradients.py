"""Choice by gradient features of the trained networks.

The features are the last layer's gradients, and the batch is spread by the largest cluster's farthest (LCMD):
Holzmüller, Zaverkin, Kästner and Steinwart, Journal of Machine Learning Research 24, 164 (2023); for potentials,
Zaverkin et al., npj Computational Materials 10, 83 (2024).
"""

from __future__ import annotations

import numpy as np

from potstill.data import Array, Dataset
from potstill.protocols import Describer, Selection, Trained
from potstill.selecting.plain import FarthestPoint


def largest_clusters(X: Array, n: int, known: Array) -> tuple[np.ndarray, Array]:
    """Choose rows of X one by one: of the centre whose members lie farthest off in sum of squares, the farthest.

    Returns
    -------
    indices, distances
        In order of choice, with each one's distance to its centre.
    """
    n = min(n, len(X))
    squares = np.full(len(X), np.inf)
    centre = np.full(len(X), -1)
    for k, row in enumerate(known):
        _adopt(X, row, k, squares, centre)
    chosen, distances = np.empty(n, dtype=np.intp), np.empty(n)
    for k in range(n):
        if k == 0 and not len(known):
            i = int(np.argmax(((X - X.mean(0)) ** 2).sum(1)))
        else:
            open_ = np.maximum(squares, 0.0)
            size = np.bincount(centre, weights=open_)
            i = int(np.argmax(np.where(centre == int(np.argmax(size)), squares, -np.inf)))
            if squares[i] < 0.0:  # everything left lies on a centre
                i = int(np.argmax(squares))
        chosen[k], distances[k] = i, np.sqrt(max(squares[i], 0.0)) if np.isfinite(squares[i]) else 0.0
        _adopt(X, X[i], len(known) + k, squares, centre)
        squares[i] = -1.0
    return chosen, distances


def _adopt(X: Array, row: Array, number: int, squares: Array, centre: np.ndarray) -> None:
    d = np.einsum("nd,nd->n", X - row, X - row)
    nearer = d < squares
    squares[nearer], centre[nearer] = d[nearer], number


class LastLayer:
    """Batch-mode active learning on the gradients of the energy by the networks' last layers.

    Before there is a committee, this is farthest-point. Scores are distances in the space of gradients.
    """

    name = "last-layer"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose so that every cluster of frames that the networks tell apart has its share."""
        if not isinstance(committee, Trained):
            return FarthestPoint().select(pool, n, known=known, committee=committee, rng=rng)
        X, have = committee.last_layer(list(pool)), committee.last_layer(list(known))
        return Selection(*largest_clusters(X, n, have))

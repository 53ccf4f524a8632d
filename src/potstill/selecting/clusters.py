"""Stratified choice over clusters.

After DIRECT (Qi, Ko, Wood, Pham and Ong, npj Computational Materials 10, 43, 2024).
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset
from potstill.protocols import Describer, Selection

KAISER = 1.0  # components with a larger eigenvalue are kept
FINE = 0.05  # radius of BIRCH's first clusters, in weighted components


class Direct:
    """One frame from each of n clusters, the one nearest to its centre.

    Vectors are standardised, reduced to their principal components with eigenvalues above one, weighted by explained
    variance, and clustered by BIRCH, as published. Clusters that hold a known frame come last. Scores are sizes of the
    clusters.
    """

    name = "direct"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose the most ordinary frame of each cluster, large clusters first."""
        del rng
        n = min(n, len(pool))
        if n == 0:
            return Selection(np.empty(0, dtype=np.intp), np.empty(0))
        X = _components(committee.describe([*pool, *known]))
        label = _clusters(X, min(n + len(known), len(X)))
        centres = np.zeros((int(label.max()) + 1, X.shape[1]))
        np.add.at(centres, label, X)
        centres /= np.maximum(np.bincount(label), 1)[:, None]
        off, taken = ((X - centres[label]) ** 2).sum(1), set(label[len(pool) :].tolist())
        size = dict(zip(*(a.tolist() for a in np.unique(label[: len(pool)], return_counts=True)), strict=True))
        order = sorted(size, key=lambda c: (c in taken, -size[c], c))
        queues = [np.flatnonzero(label[: len(pool)] == c) for c in order]
        queues = [members[np.argsort(off[members], kind="stable")] for members in queues]
        turns = [i for around in zip_longest(*queues) for i in around if i is not None]
        chosen = np.array(turns[:n], dtype=np.intp)
        return Selection(chosen, np.array([float(size[int(c)]) for c in label[chosen]]))


def _components(vectors: Array) -> Array:
    spread = vectors.std(0)
    Z = (vectors - vectors.mean(0)) / np.where(spread > 0, spread, 1.0)
    values, axes = np.linalg.eigh(Z.T @ Z / max(1, len(Z)))
    kept = values > KAISER if (values > KAISER).any() else values == values.max()
    values, axes = values[kept][::-1], axes[:, kept][:, ::-1]
    projected = Z @ axes
    width = projected.std(0)
    return np.asarray(projected / np.where(width > 0, width, 1.0) * values / max(float(values.sum()), 1e-300))


def _clusters(X: Array, n: int) -> NDArray[np.intp]:
    """Cluster by BIRCH; the radius is halved until there are n subclusters to merge."""
    import warnings

    from sklearn.cluster import Birch
    from sklearn.exceptions import ConvergenceWarning

    radius = FINE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few subclusters, which the loop looks at itself
        while True:
            found = Birch(threshold=radius, n_clusters=n).fit(X)
            if len(found.subcluster_centers_) >= n or radius < FINE * 1e-6:
                return np.asarray(found.labels_, dtype=np.intp)
            radius *= 0.5

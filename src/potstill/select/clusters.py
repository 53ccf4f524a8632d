"""Stratified choice over clusters.

After DIRECT (Qi, Ko, Wood, Pham and Ong, npj Computational Materials 10, 43, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset
from potstill.protocols import Describer, Selection

KAISER = 1.0  # components with a larger eigenvalue are kept
FINE = 0.05  # radius of BIRCH's first clusters, in weighted components


@dataclass(frozen=True)
class Clusters:
    """Candidates and known frames, clustered together.

    Attributes
    ----------
    label : ndarray of int (n_pool,)
        Each candidate's cluster.
    taken : set of int
        Clusters that hold a known frame.
    off : ndarray (n_pool,)
        Squared distance of each candidate to its cluster's centre.
    """

    label: NDArray[np.intp]
    taken: set[int]
    off: Array

    @classmethod
    def of(cls, pool: Dataset, known: Dataset, n: int, describer: Describer) -> Clusters:
        """Make as many clusters as there will be frames, known ones included."""
        X = _components(describer.describe([*pool, *known]))
        label = _clusters(X, min(n + len(known), len(X)))
        centres = np.zeros((int(label.max()) + 1, X.shape[1]))
        np.add.at(centres, label, X)
        centres /= np.maximum(np.bincount(label), 1)[:, None]
        mine, off = label[: len(pool)], ((X - centres[label]) ** 2).sum(1)
        return cls(mine, {int(c) for c in label[len(pool) :]}, off[: len(pool)])

    def sums(self, weights: Array) -> dict[int, float]:
        """Return the sum of the candidates' weights in each cluster that has a candidate."""
        total = np.bincount(self.label, weights=weights)
        return {int(c): float(total[c]) for c in np.unique(self.label)}

    def take(self, n: int, order: Sequence[int]) -> NDArray[np.intp]:
        """Take one candidate of each cluster in this order, the nearest to its centre; go around again if need be."""
        queues = {}
        for c in order:
            members = np.flatnonzero(self.label == c)
            queues[c] = iter(members[np.argsort(self.off[members], kind="stable")].tolist())
        chosen: list[int] = []
        while len(chosen) < n:
            chosen.extend(i for c in order for i in [next(queues[c], None)] if i is not None)
        return np.array(chosen[:n], dtype=np.intp)


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
        clusters = Clusters.of(pool, known, n, committee)
        size = clusters.sums(np.ones(len(pool)))
        chosen = clusters.take(n, sorted(size, key=lambda c: (c in clusters.taken, -size[c], c)))
        return Selection(chosen, np.array([size[int(c)] for c in clusters.label[chosen]]))


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

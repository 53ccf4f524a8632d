"""Stratified choice over clusters (DIRECT: Qi, Ko, Wood, Pham, Ong, npj Computational Materials 10, 43, 2024)."""

from __future__ import annotations

import numpy as np

from potstill.data import Array, Dataset
from potstill.protocols import Describer, Selection

KAISER = 1.0  # components with a larger eigenvalue are kept
FINE = 0.05  # radius of BIRCH's first clusters, in weighted components


class Direct:
    """One frame from each of n clusters, the one nearest to its centre.

    Vectors are standardised, reduced to their principal components with eigenvalues above one, weighted by explained
    variance, and clustered by BIRCH, as published. Scores are sizes of the clusters.
    """

    name = "direct"

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Cluster known and candidate frames together; clusters that hold a known frame come last."""
        del rng
        n = min(n, len(pool))
        if n == 0:
            return Selection(np.empty(0, dtype=np.intp), np.empty(0))
        vectors = committee.describe([*pool, *known])
        X = _components(vectors)
        label = _clusters(X, min(n + len(known), len(X)))
        mine, taken = label[: len(pool)], set(label[len(pool) :].tolist())
        centres = {c: X[label == c].mean(0) for c in np.unique(label)}
        size = {c: int(np.sum(mine == c)) for c in centres}
        order = sorted((c for c in centres if size[c]), key=lambda c: (c in taken, -size[c], c))
        off = np.array([np.sum((X[k] - centres[mine[k]]) ** 2) for k in range(len(pool))])
        queues = {c: iter(np.flatnonzero(mine == c)[np.argsort(off[mine == c], kind="stable")]) for c in order}
        chosen: list[int] = []
        while len(chosen) < n:  # once around takes one of each cluster; again only where clusters are fewer
            chosen.extend(int(i) for c in order for i in [next(queues[c], None)] if i is not None)
        picked = np.array(chosen[:n], dtype=np.intp)
        return Selection(picked, np.array([float(size[mine[i]]) for i in picked]))


def _components(vectors: Array) -> Array:
    spread = vectors.std(0)
    Z = (vectors - vectors.mean(0)) / np.where(spread > 0, spread, 1.0)
    values, axes = np.linalg.eigh(Z.T @ Z / max(1, len(Z)))
    kept = values > KAISER if (values > KAISER).any() else values == values.max()
    values, axes = values[kept][::-1], axes[:, kept][:, ::-1]
    projected = Z @ axes
    width = projected.std(0)
    return np.asarray(projected / np.where(width > 0, width, 1.0) * values / values.sum())


def _clusters(X: Array, n: int) -> np.ndarray:
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
                return np.asarray(found.labels_)
            radius *= 0.5

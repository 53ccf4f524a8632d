"""Where a model is at home: how far each atom's surroundings are from those that were learnt.

This does not rest on the committee, whose members can agree and be wrong together. Some training atoms, chosen
farthest-point, stand for all: distances are measured in the leading whitened components, in units of the largest
distance that any training atom has from them. Up to 1, an atom is as near as the training data were; beyond, the model
extrapolates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array

COMPONENTS = 32
MOST_POINTS = 256
LOOKED_AT = 8_000  # training atoms of an element
LEAST_RADIUS = 0.05  # whitened units, where a single kind of surroundings was learnt


@dataclass(frozen=True)
class Domain:
    """Reference points of each element.

    Attributes
    ----------
    points : tuple of ndarray (n_points, n_components)
        Whitened descriptors of training atoms, an array an element; empty where an element had no atom.
    radius : ndarray (n_elements,)
        Largest distance of a training atom from its nearest point.
    """

    points: tuple[Array, ...]
    radius: Array

    @classmethod
    def fit(cls, x: Array, species: NDArray[np.int32], n_elements: int) -> Domain:
        """Choose the points from whitened descriptors (n_atoms, n_components) of training atoms."""
        points, radius = [], np.full(n_elements, LEAST_RADIUS)
        for z in range(n_elements):
            mine = x[species == z]
            mine = mine[:: max(1, len(mine) // LOOKED_AT)]
            chosen, farthest = _cover(mine, min(MOST_POINTS, max(1, len(mine) // 4)))
            points.append(mine[chosen])
            radius[z] = max(farthest, LEAST_RADIUS)
        return cls(tuple(points), radius)

    @property
    def components(self) -> int:
        """How many whitened components are compared."""
        return int(self.points[0].shape[1])

    def distance(self, x: Array, species: NDArray[np.int32]) -> Array:
        """Return each atom's distance in units of the radius; infinite for an element without data."""
        out = np.full(len(x), np.inf)
        for z, points in enumerate(self.points):
            mine = np.flatnonzero(species == z)
            if len(mine) and len(points):
                of_points = np.einsum("pc,pc->p", points, points)
                for part in np.array_split(mine, max(1, len(mine) // 4096)):
                    squares = np.einsum("ac,ac->a", x[part], x[part])[:, None] + of_points - 2.0 * x[part] @ points.T
                    out[part] = np.sqrt(np.maximum(squares.min(1), 0.0)) / self.radius[z]
        return out


def _cover(x: Array, n: int) -> tuple[NDArray[np.intp], float]:
    """Choose n rows farthest-point, from the one nearest to the mean; return them and the largest distance left."""
    if not len(x):
        return np.empty(0, dtype=np.intp), 0.0
    chosen = [int(np.argmin(((x - x.mean(0)) ** 2).sum(1)))]
    squares = np.einsum("ac,ac->a", x, x)
    nearest = np.full(len(x), np.inf)
    while True:
        last = chosen[-1]
        nearest = np.minimum(nearest, np.maximum(squares + squares[last] - 2.0 * x @ x[last], 0.0))
        farthest = int(np.argmax(nearest))
        if len(chosen) == n or nearest[farthest] == 0.0:
            return np.array(chosen, dtype=np.intp), float(np.sqrt(nearest[farthest]))
        chosen.append(farthest)

"""What a choice among frames looks at: one vector a frame, its atoms' surroundings, and what its labels would teach.

All three come from the whitened descriptors and need no label. Results are remembered by frame key, since a pool is
looked at again in every round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba as nb
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from potstill.config import TrainConfig
from potstill.data import Array, Frame
from potstill.model.descriptor import Descriptor, Whitening, chunks
from potstill.model.neighbours import Geometry, join

COMPONENTS = 32  # leading whitened components in which surroundings are compared, as in `domain`
APART = 1e3  # distance between the surroundings of different elements, which nothing else exceeds
MOST_COLUMNS = 192  # features of the linear model, over all elements; the leading ones where there are more
ROWS = 1024  # whose distances are held at once
RANK = 24  # equations that stand for all those of a frame

F32 = NDArray[np.float32]


class FrameFeatures:
    """Frames as vectors, surroundings and equations of the linear model.

    Parameters
    ----------
    descriptor, whitening : Descriptor, Whitening
        The metric. Whitened components are sorted by variance, so the leading ones matter most.
    """

    def __init__(self, descriptor: Descriptor, whitening: Whitening) -> None:
        self.descriptor, self.whitening = descriptor, whitening
        self._vectors: dict[str, Array] = {}
        self._surroundings: dict[str, F32] = {}
        self._equations: dict[str, F32] = {}

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return one vector a frame, (n_frames, 2 F): mean and standard deviation of its atoms' whitened descriptors.

        Distances between these vectors are what `fps` and the diversity of a batch use.
        """
        self._learn(frames, self._vectors)
        if not len(frames):
            return np.empty((0, 2 * self.descriptor.n_features))
        return np.array([self._vectors[f.key] for f in frames])

    def surroundings(self, frames: Sequence[Frame]) -> list[F32]:
        """Return each atom's leading whitened components, an array (n_atoms, n_components + n_elements) a frame.

        The last columns keep elements apart, so that plain distances compare like with like.
        """
        self._learn(frames, self._surroundings)
        return [self._surroundings[f.key] for f in frames]

    def equations(self, frames: Sequence[Frame]) -> F32:
        """Return what each frame's labels would say about the linear model, (n_frames, P, rank).

        The model is E = Σ_i w·x_i + shift, and the equations of energy, forces and virial are in units of the default
        loss scales, so that A Aᵀ, with A a frame's array, is its Fisher information about the P parameters. ``rank``
        directions stand for all equations: those that carry most.
        """
        new = {f.key: f for f in frames if f.key not in self._equations}
        for chunk in chunks(list(new.values())):
            self._equations.update(zip((f.key for f in chunk), self._linear(chunk), strict=True))
        return np.array([self._equations[f.key] for f in frames], dtype=np.float32)

    def energy_equation(self, frame: Frame) -> Array:
        """Return the parameters' weights in the frame's energy per atom, (P,), in the units of :meth:`equations`."""
        geometry = self.descriptor.geometry([frame])
        x = self._leading(geometry)
        return linear_equations(geometry, x, self.descriptor, self.whitening, strained=False)[:, 0]

    def _learn(self, frames: Sequence[Frame], memory: dict[str, Array] | dict[str, F32]) -> None:
        """Describe what is new, both ways at once, because the descriptors are the work."""
        for chunk in chunks([f for f in frames if f.key not in memory]):
            geometry = self.descriptor.geometry(chunk)
            x = self.whitening.apply(self.descriptor.compute(geometry), geometry.species)
            apart = APART * np.eye(len(self.whitening.mean), dtype=np.float32)[geometry.species]
            near = np.concatenate([x[:, :COMPONENTS].astype(np.float32), apart], axis=1)
            for frame, low, high in zip(chunk, geometry.atoms[:-1], geometry.atoms[1:], strict=True):
                self._vectors[frame.key] = np.concatenate([x[low:high].mean(0), x[low:high].std(0)])
                self._surroundings[frame.key] = near[low:high]

    def _leading(self, geometry: Geometry) -> Array:
        """Return the features of the linear model, (n_atoms, K)."""
        Z, F = self.whitening.mean.shape
        return self.whitening.apply(self.descriptor.compute(geometry), geometry.species, min(F, MOST_COLUMNS // Z))

    def _linear(self, frames: Sequence[Frame]) -> list[F32]:
        """Return the equations of each frame, a frame a thread: its matrices are too small to share one among many."""
        parts = [self.descriptor.geometry([f]) for f in frames]
        x = np.split(self._leading(join(parts)), np.cumsum([f.n_atoms for f in frames])[:-1])

        def one(frame: Frame, part: Geometry, x: Array) -> F32:
            strained = frame.volume is not None
            return compressed(linear_equations(part, x, self.descriptor, self.whitening, strained=strained))

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(nb.get_num_threads()) as pool:
            return list(pool.map(one, frames, parts, x))


def compressed(A: Array) -> F32:
    """Return :data:`RANK` directions that stand for all equations, (P, r) → (P, RANK); zeros where there are fewer."""
    if A.shape[1] > RANK:
        _, vectors = np.linalg.eigh(A.T @ A)
        A = A @ vectors[:, -RANK:]
    return np.pad(A, ((0, 0), (0, RANK - A.shape[1]))).astype(np.float32)


def linear_equations(
    geometry: Geometry, x: Array, descriptor: Descriptor, whitening: Whitening, *, strained: bool
) -> Array:
    """Return a frame's equations of the linear model, (P, 1 + 3 n_atoms (+ 6 where its cell can be strained)).

    Its features x are (n_atoms, K), and P is K weights for each element and the elements' shifts.
    """
    Z, K = len(whitening.mean), x.shape[1]
    scales = TrainConfig()
    N = len(geometry.centre)
    slopes = descriptor.design(geometry)
    energy, slope = np.zeros(Z * K + Z), np.zeros((Z * K + Z, 3 * N + 6))
    for z in range(Z):
        mine = geometry.species == z
        energy[z * K : (z + 1) * K] = x[mine].sum(0)
        energy[Z * K + z] = mine.sum()
        slope[z * K : (z + 1) * K] = whitening.matrix[z][:, :K].T @ slopes[z].T
    parts = [energy[:, None] / (N * scales.energy_scale), slope[:, : 3 * N] / (scales.force_scale * math.sqrt(3 * N))]
    if strained:
        parts.append(slope[:, 3 * N :] / (N * scales.virial_scale * math.sqrt(6)))
    return np.concatenate(parts, axis=1)


def squared_distances(a: Array, b: Array) -> Array:
    """Return squared distances of the rows of ``a`` to those of ``b``, (n_a, n_b)."""
    return np.asarray(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T, 0.0))


def nearest(a: Array, b: Array, *, itself: bool = False) -> Array:
    """Return the distance of each row of ``a`` to the nearest of ``b``; ``itself`` leaves the diagonal out."""
    out = np.empty(len(a))
    for low in range(0, len(a), ROWS):
        squared = squared_distances(a[low : low + ROWS], b)
        if itself:
            squared[np.arange(len(squared)), np.arange(low, low + len(squared))] = np.inf
        out[low : low + ROWS] = squared.min(axis=1)
    return np.asarray(np.sqrt(out))

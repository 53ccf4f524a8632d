"""From structures to descriptors: what an atom sees, as numbers that rotations and permutations do not change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Frame
from potstill.errors import DataError
from potstill.model import gradients, kernels
from potstill.model.neighbours import Geometry, find_in, join

MAX_CUTOFF = 20.0  # Å, as in the configuration
CHUNK_ATOMS = 4096  # atoms whose edges are held at once
SLAB_ATOMS = 64  # atoms that a thread describes at a time


@dataclass(frozen=True)
class Descriptor:
    """Two-body radial functions and a power spectrum; see :mod:`potstill.model.kernels` for the formula.

    Attributes
    ----------
    elements : tuple of str
        Those that may occur, in the order of the channels.
    cutoff, angular_cutoff : float
        Å, of the two-body part and of the power spectrum. Values and first two derivatives vanish there.
    n_radial, n_angular, l_max : int
        Sizes of the expansion.
    """

    elements: tuple[str, ...]
    cutoff: float = 6.0
    angular_cutoff: float = 5.5
    n_radial: int = 12
    n_angular: int = 6
    l_max: int = 4

    def sensible(self) -> bool:
        """Whether every number is one that a descriptor can have; for files of unknown origin."""
        from ase.data import atomic_numbers

        known = all(e in atomic_numbers for e in self.elements) and len(set(self.elements)) == len(self.elements) > 0
        reach = all(0 < c <= MAX_CUTOFF for c in (self.cutoff, self.angular_cutoff))
        return known and reach and 0 < self.n_radial <= 64 and 0 < self.n_angular <= 16 and 0 <= self.l_max <= 6

    @property
    def n_channels(self) -> int:
        """Radial channels of the power spectrum, over all neighbour elements."""
        return len(self.elements) * self.n_angular

    @property
    def n_features(self) -> int:
        """Length of an atom's descriptor."""
        pairs = self.n_channels * (self.n_channels + 1) // 2
        return len(self.elements) * self.n_radial + pairs * (self.l_max + 1)

    @cached_property
    def shape(self) -> kernels.Shape:
        """What the kernels need to know."""
        return kernels.shape_of(
            self.cutoff, self.angular_cutoff, self.n_radial, self.n_angular, self.l_max, len(self.elements)
        )

    @property
    def reach(self) -> float:
        """The larger cutoff, Å."""
        return max(self.cutoff, self.angular_cutoff)

    def species(self, frame: Frame) -> NDArray[np.int32]:
        """Return the element index of each atom.

        Raises
        ------
        DataError
            If the frame has an element that the descriptor does not know.
        """
        from ase.data import atomic_numbers

        index = {atomic_numbers[e]: k for k, e in enumerate(self.elements)}
        unknown = sorted({s for s in frame.atoms.get_chemical_symbols() if s not in self.elements})
        if unknown:
            raise DataError(
                f"The model knows {', '.join(self.elements)}, but a structure has {', '.join(unknown)}. It is out "
                "of the model's domain."
            )
        return np.array([index[int(z)] for z in frame.atoms.numbers], dtype=np.int32)

    def geometry(self, frames: Sequence[Frame]) -> Geometry:
        """Find all neighbours within the larger cutoff, images included, so cells may be smaller than it."""
        return join([find_in(frame, self.species(frame), self.reach) for frame in frames])

    def compute(self, geometry: Geometry) -> Array:
        """Return descriptors, shape (n_atoms, n_features)."""
        n = len(geometry.centre)
        bounds = np.linspace(0, n, max(1, n // SLAB_ATOMS) + 1).astype(np.int64)
        G = np.empty(n * self.n_features)
        g = geometry
        gradients.describe_atoms(bounds, g.first, g.second, g.x, g.owner, g.kinds, g.centre, self.shape, G)
        return G.reshape(n, self.n_features)

    def design(self, geometry: Geometry) -> Array:
        """Return ∂/∂(positions, strain) of the summed descriptors of each element's atoms, for one frame of n atoms.

        Shape (n_elements, 3 n + 6, n_features), the strain in ASE's order xx yy zz yz xz xy. For a linear model
        E = Σ_z w_z·Σ_i G_i the forces are −(∂/∂r)·w, and the virial V·σ is (∂/∂ε)·w.
        """
        out = np.zeros((len(self.elements), 3 * len(geometry.centre) + 6, self.n_features))
        g = geometry
        gradients.design(g.first, g.second, g.x, g.owner, g.kinds, g.centre, self.shape, out)
        return out


def chunks(frames: Sequence[Frame], n_atoms: int = CHUNK_ATOMS) -> Iterator[list[Frame]]:
    """Cut a sequence of frames into lists of at most about ``n_atoms`` atoms."""
    held: list[Frame] = []
    count = 0
    for frame in frames:
        if held and count + frame.n_atoms > n_atoms:
            yield held
            held, count = [], 0
        held.append(frame)
        count += frame.n_atoms
    if held:
        yield held


@dataclass(frozen=True)
class Whitening:
    """Per-element affine map to features of like scale: x = (G − mean) · matrix.

    Regularised PCA: directions whose variance is below ``floor`` of the largest one are not blown up to unit variance.

    Attributes
    ----------
    mean : ndarray (n_elements, F)
    matrix : ndarray (n_elements, F, F)
    """

    mean: Array
    matrix: Array

    @classmethod
    def fit(cls, descriptor: Descriptor, frames: Iterable[Frame], floor: float = 1e-3) -> Whitening:
        """Measure mean and covariance of the descriptors of every element over some frames."""
        F, Z = descriptor.n_features, len(descriptor.elements)
        count, total, square = np.zeros(Z), np.zeros((Z, F)), np.zeros((Z, F, F))
        for chunk in chunks(list(frames)):
            geometry = descriptor.geometry(chunk)
            G = descriptor.compute(geometry)
            for z in range(Z):
                x = G[geometry.species == z]
                count[z] += len(x)
                total[z] += x.sum(0)
                square[z] += x.T @ x
        mean, matrix = np.zeros((Z, F)), np.zeros((Z, F, F))
        for z in range(Z):
            if count[z] == 0:
                matrix[z] = np.eye(F)
                continue
            mean[z] = total[z] / count[z]
            covariance = square[z] / count[z] - np.outer(mean[z], mean[z])
            values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
            values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
            vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(F)])  # eigh leaves the sign open
            top = values[0] if values[0] > 0 else 1.0
            matrix[z] = vectors / np.sqrt(values + floor * top)
        return cls(mean, matrix)

    def apply(self, G: Array, species: NDArray[np.int32], components: int | None = None) -> Array:
        """Return the whitened descriptors, or the first few components of them, shape (n_atoms, components)."""
        x = np.empty((len(G), components or G.shape[1]))
        for z in range(len(self.mean)):
            mine = species == z
            x[mine] = (G[mine] - self.mean[z]) @ self.matrix[z][:, :components]
        return x

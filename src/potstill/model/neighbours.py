"""Neighbours by linked cells over the atoms and their periodic images within reach.

Images are atoms like others, which remember whose image they are (``owner``) and by which lattice vector they are
moved: cells may be smaller than the cutoff, and any direction may be without periodicity. A list holds for small moves
of atoms and cell, see :func:`outdated`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.compiled import kept
from potstill.data import Array, Frame
from potstill.errors import DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

CLOSEST = 0.01  # Å
MOST_EDGES = 100_000  # of one atom: some 60 Å³ of a metal's images in one spot, or a cell that has collapsed
FEW = 1_000  # atoms, up to which calling threads costs more than they save
MOST_IMAGES = 20_000_000
LEAST_VOLUME = 1e-6  # Å³; Å² and Å where fewer directions are periodic


@dataclass(frozen=True)
class Geometry:
    """Atoms of some frames, their images, and who sees whom.

    Attributes
    ----------
    first : ndarray (n_atoms + 1,)
        Edges of atom i are ``first[i]:first[i + 1]``; atoms count through all frames.
    second : ndarray (n_edges,) of int32
        Where the neighbour stands among the positions.
    x : ndarray (n_positions, 3)
        Of every frame its atoms, wrapped into the cell, and then their images, Å.
    owner : ndarray (n_positions,) of int32
        The atom that a position belongs to.
    kinds : ndarray (n_positions,) of int32
        Index of its element.
    centre : ndarray (n_atoms,)
        Where each atom itself stands.
    shift : ndarray (n_positions, 3)
        Lattice vectors, as whole numbers, from the atom as given to where it stands here.
    atoms, positions : ndarray (n_frames + 1,)
        Where each frame begins among the atoms and among the positions.
    """

    first: I64
    second: I32
    x: F64
    owner: I32
    kinds: I32
    centre: I64
    shift: F64
    atoms: I64
    positions: I64

    @property
    def species(self) -> I32:
        """Element index of each atom."""
        return self.kinds[self.centre]

    @property
    def frame(self) -> I64:
        """Frame of each atom."""
        return np.repeat(np.arange(len(self.atoms) - 1), np.diff(self.atoms))

    def moved(self, positions: Array, cell: Array) -> Geometry:
        """Return the same neighbours with other positions (n_atoms, 3) and cell (3, 3); for a single frame."""
        x = np.empty_like(self.x)
        _place(positions, np.ascontiguousarray(cell), self.owner, self.shift, x)
        return Geometry(
            self.first,
            self.second,
            x,
            self.owner,
            self.kinds,
            self.centre,
            self.shift,
            self.atoms,
            self.positions,
        )


def join(parts: Sequence[Geometry]) -> Geometry:
    """Put the geometries of several frames one behind the other."""
    if len(parts) == 1:
        return parts[0]
    n_atoms = np.cumsum([0, *(len(p.centre) for p in parts)])
    n_positions = np.cumsum([0, *(len(p.x) for p in parts)])
    n_edges = np.cumsum([0, *(len(p.second) for p in parts)])
    if n_positions[-1] > np.iinfo(np.int32).max:
        raise DataError("These frames have more than two thousand million positions together; give fewer at once.")
    first = np.concatenate([p.first[:-1] + e for p, e in zip(parts, n_edges[:-1], strict=True)] + [n_edges[-1:]])
    return Geometry(
        first,
        np.concatenate([p.second + np.int32(k) for p, k in zip(parts, n_positions[:-1], strict=True)]),
        np.concatenate([p.x for p in parts]),
        np.concatenate([p.owner + np.int32(k) for p, k in zip(parts, n_atoms[:-1], strict=True)]),
        np.concatenate([p.kinds for p in parts]),
        np.concatenate([p.centre + k for p, k in zip(parts, n_positions[:-1], strict=True)]),
        np.concatenate([p.shift for p in parts]),
        np.concatenate([p.atoms[:-1] + k for p, k in zip(parts, n_atoms[:-1], strict=True)] + [n_atoms[-1:]]),
        np.concatenate(
            [p.positions[:-1] + k for p, k in zip(parts, n_positions[:-1], strict=True)] + [n_positions[-1:]]
        ),
    )


def find(
    positions: Array, cell: Array, pbc: Sequence[bool] | NDArray[np.bool_], species: I32, reach: float
) -> Geometry:
    """Find all neighbours within ``reach`` (Å) of one structure.

    Raises
    ------
    DataError
        If a coordinate is not finite, two atoms stand on one spot, or the cell is so small or flat that it has more
        images within reach than any crystal.
    """
    n = len(positions)
    periodic = np.asarray(pbc, dtype=bool)
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise DataError("A structure has positions or cell vectors that are NaN or infinite.")
    full = complete(cell, periodic)
    if not abs(np.linalg.det(full)) > LEAST_VOLUME:
        raise DataError("A structure has a cell without volume: a vector is missing, or they lie in one plane.")
    inverse = np.linalg.inv(full)
    frac = positions @ inverse
    wrap = np.where(periodic, -np.floor(frac), 0.0)
    wrapped = positions + wrap @ full
    height = 1.0 / np.linalg.norm(inverse, axis=0)
    margin = reach / height
    spans = np.where(periodic, np.ceil(margin), 0.0)
    if n * np.prod(2 * spans + 1) > MOST_IMAGES:
        raise DataError(
            f"A structure of {n} atoms has about {n * np.prod(2 * spans + 1):.2g} images within {reach:g} Å: its cell "
            "is too small or too flat to be a crystal's."
        )
    image, image_shift = _images(frac + wrap, spans.astype(np.int64), margin)
    owner = np.concatenate([np.arange(n, dtype=np.int32), image])
    shift = np.concatenate([wrap, image_shift + wrap[image]])
    x = np.concatenate([wrapped, wrapped[image] + image_shift @ full])
    cubes = _sorted(x, reach)
    first = np.zeros(n + 1, dtype=np.int64)
    counting, filling = (_count, _fill) if n > FEW else (_count_alone, _fill_alone)
    closest = counting(x, n, reach, cubes, first)
    if closest < CLOSEST**2:
        raise DataError(f"Two atoms of a structure are less than {CLOSEST} Å apart.")
    if n and int(first.max()) > MOST_EDGES:
        raise DataError(f"An atom has {int(first.max()):,} neighbours within {reach:g} Å: the structure has collapsed.")
    np.cumsum(first, out=first)
    second = np.empty(int(first[-1]), dtype=np.int32)
    filling(x, n, reach, cubes, first, second)
    bounds = np.array([0, n], dtype=np.int64)
    return Geometry(
        first,
        second,
        x,
        owner,
        np.ascontiguousarray(species[owner], dtype=np.int32),
        np.arange(n, dtype=np.int64),
        shift,
        bounds,
        np.array([0, len(x)], dtype=np.int64),
    )


def find_in(frame: Frame, species: I32, reach: float) -> Geometry:
    """Find the neighbours in a frame; see :func:`find`."""
    a = frame.atoms
    return find(a.positions, a.cell.array, a.pbc, species, reach)


def complete(cell: Array, periodic: NDArray[np.bool_]) -> Array:
    """Return the cell with unit vectors, at right angles to the others, in place of directions without periodicity."""
    full = np.array(cell, dtype=np.float64)
    if periodic.all():
        return full
    kept = full[periodic]
    _, _, basis = np.linalg.svd(kept) if len(kept) else (None, None, np.eye(3))
    full[~periodic] = basis[len(kept) :]
    return full


def outdated(
    geometry: Geometry, positions: Array, cell: Array, built: tuple[Array, Array], skin: float, reach: float
) -> bool:
    """Whether a list of one frame that reaches ``reach + skin`` may miss a pair nearer than ``reach``.

    ``built`` are the positions and the completed cell that it was found for. Positions are mapped back to that cell by
    A⁻¹, with A = h_built⁻¹ h; a distance shrinks by no more than A's smallest singular value, at least 1 − ‖A − 1‖.
    """
    strain = np.linalg.solve(built[1], cell)
    norm = float(np.linalg.norm(strain - np.eye(3)))
    if not norm <= 0.3 or len(positions) != len(geometry.centre):  # NaN is refused by a new search
        return True
    farthest = math.sqrt(float(np.max(np.sum((positions @ np.linalg.inv(strain) - built[0]) ** 2, axis=1))))
    return not 2.0 * farthest + reach / (1.0 - norm) <= reach + skin


@kept()
def _place(positions: F64, cell: F64, owner: I32, shift: F64, x: F64) -> None:
    for e in range(len(owner)):
        i = owner[e]
        for k in range(3):
            moved = shift[e, 0] * cell[0, k] + shift[e, 1] * cell[1, k] + shift[e, 2] * cell[2, k]
            x[e, k] = positions[i, k] + moved


@kept()
def _images(frac: F64, spans: I64, margin: F64) -> tuple[I32, F64]:
    """Return the images, other than the atoms themselves, that lie within the margin of the cell."""
    n, count = len(frac), 0
    owner, shift = np.empty(0, np.int32), np.empty((0, 3))
    for filling in range(2):
        if filling:
            owner, shift = np.empty(count, np.int32), np.empty((count, 3))
            count = 0
        for i in range(n):
            for a in range(-spans[0], spans[0] + 1):
                if spans[0] and not -margin[0] <= frac[i, 0] + a <= 1.0 + margin[0]:
                    continue
                for b in range(-spans[1], spans[1] + 1):
                    if spans[1] and not -margin[1] <= frac[i, 1] + b <= 1.0 + margin[1]:
                        continue
                    for c in range(-spans[2], spans[2] + 1):
                        if spans[2] and not -margin[2] <= frac[i, 2] + c <= 1.0 + margin[2]:
                            continue
                        if a == 0 and b == 0 and c == 0:
                            continue
                        if filling:
                            owner[count] = i
                            shift[count, 0], shift[count, 1], shift[count, 2] = a, b, c
                        count += 1
    return owner, shift


class Cubes(NamedTuple):
    """Positions sorted into cubes of half the reach, or more.

    Attributes
    ----------
    heads : ndarray (n_cubes + 1,)
        Where each cube's positions begin.
    cube, order : ndarray (n,)
        Cube of each position; positions cube by cube.
    x, y, z : ndarray (n,)
        Coordinates in that order.
    size : ndarray (3,)
        Cubes in each direction.
    """

    heads: I64
    cube: I32
    order: I32
    x: F64
    y: F64
    z: F64
    size: I64


@kept()
def _sorted(x: F64, reach: float) -> Cubes:
    n = len(x)
    low, high = np.zeros(3), np.zeros(3)
    for k in range(3):
        low[k] = high[k] = x[0, k] if n else 0.0
    for i in range(n):
        for k in range(3):
            low[k], high[k] = min(low[k], x[i, k]), max(high[k], x[i, k])
    edge = 0.5 * reach
    size = np.ones(3, np.int64)
    while True:  # molecules far apart must not need many more cubes than they have atoms
        cubes = 1.0
        for k in range(3):
            cubes *= math.floor((high[k] - low[k]) / edge) + 1.0
        if cubes <= 8.0 * n + 64.0:
            break
        edge *= 1.5
    for k in range(3):
        size[k] = int((high[k] - low[k]) / edge) + 1
    cube = np.empty(n, np.int32)
    heads = np.zeros(size[0] * size[1] * size[2] + 1, np.int64)
    for i in range(n):
        a = int((x[i, 0] - low[0]) / edge)
        b = int((x[i, 1] - low[1]) / edge)
        c = int((x[i, 2] - low[2]) / edge)
        cube[i] = (a * size[1] + b) * size[2] + c
        heads[cube[i] + 1] += 1
    for k in range(len(heads) - 1):
        heads[k + 1] += heads[k]
    order, at = np.empty(n, np.int32), heads.copy()
    for i in range(n):
        order[at[cube[i]]] = i
        at[cube[i]] += 1
    return Cubes(heads, cube, order, x[order, 0], x[order, 1], x[order, 2], size)


@kept(parallel=True, fastmath=True)
def _count(x: F64, n: int, reach: float, cubes: Cubes, first: I64) -> float:
    """Fill ``first[i + 1]`` with the number of neighbours of i; return the smallest squared distance."""
    nearest = np.full(n, 1e300)
    reach2 = reach * reach
    X, Y, Z, heads, size = cubes.x, cubes.y, cubes.z, cubes.heads, cubes.size
    for i in nb.prange(n):
        count, itself, best = 0, 0, 1e300
        c0 = cubes.cube[i] % size[2]
        b0 = cubes.cube[i] // size[2] % size[1]
        a0 = cubes.cube[i] // (size[2] * size[1])
        xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
        for a in range(max(a0 - 2, 0), min(a0 + 3, size[0])):
            for b in range(max(b0 - 2, 0), min(b0 + 3, size[1])):
                row = (a * size[1] + b) * size[2]
                begin = heads[row + max(c0 - 2, 0)]
                end = heads[row + min(c0 + 2, size[2] - 1) + 1]
                px, py, pz = X[begin:end], Y[begin:end], Z[begin:end]
                for p in range(len(px)):
                    dx, dy, dz = px[p] - xi, py[p] - yi, pz[p] - zi
                    r2 = dx * dx + dy * dy + dz * dz
                    count += r2 < reach2
                    itself += r2 == 0.0
                    best = min(best, r2 if r2 > 0.0 else 1e300)
        first[i + 1] = count - 1
        nearest[i] = best if itself == 1 else 0.0
    best = 1e300
    for i in range(n):
        best = min(best, nearest[i])
    return best


@kept(parallel=True, fastmath=True)
def _fill(x: F64, n: int, reach: float, cubes: Cubes, first: I64, second: I32) -> None:
    reach2 = reach * reach
    X, Y, Z, heads, size = cubes.x, cubes.y, cubes.z, cubes.heads, cubes.size
    for i in nb.prange(n):
        at = first[i]
        c0 = cubes.cube[i] % size[2]
        b0 = cubes.cube[i] // size[2] % size[1]
        a0 = cubes.cube[i] // (size[2] * size[1])
        xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
        for a in range(max(a0 - 2, 0), min(a0 + 3, size[0])):
            for b in range(max(b0 - 2, 0), min(b0 + 3, size[1])):
                row = (a * size[1] + b) * size[2]
                for p in range(heads[row + max(c0 - 2, 0)], heads[row + min(c0 + 2, size[2] - 1) + 1]):
                    dx, dy, dz = X[p] - xi, Y[p] - yi, Z[p] - zi
                    if dx * dx + dy * dy + dz * dz < reach2 and cubes.order[p] != i:
                        second[at] = cubes.order[p]
                        at += 1


_count_alone = kept("_count_alone", fastmath=True)(_count.py_func)
_fill_alone = kept("_fill_alone", fastmath=True)(_fill.py_func)

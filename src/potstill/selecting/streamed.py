"""Choosing from pools larger than memory: vectors on disk, a few of them in memory at a time.

Every frame becomes one short vector (mean and spread of the leading whitened components), written to a memory-mapped
file by several processes; the farthest-point choice then passes over that file once for each frame that it takes. Time
grows linearly with the pool, and memory does not grow but for an index of a few bytes a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset, Frame
from potstill.data.stream import FrameIndex
from potstill.engine import each
from potstill.model import Descriptor, Whitening
from potstill.model.descriptor import chunks
from potstill.store import digest, read_json, write_json

COMPONENTS = 32
PIECE = 5_000  # frames that a process describes before it reports
WHITENING_FRAMES = 1_000
ROWS = 65_536  # of the vectors that are looked at together

F32 = NDArray[np.float32]


class StreamedFeatures:
    """Vectors of all frames of an index, on disk.

    Parameters
    ----------
    index : FrameIndex
        The pool.
    folder : path
        Gets ``vectors-….npy``; pieces that are there are not made again.
    make : callable (elements) -> Descriptor
        The descriptor for the pool's elements.
    workers : int
        Processes; 0 means one a core.
    tell : callable
        Gets lines of progress.
    """

    def __init__(
        self,
        index: FrameIndex,
        folder: Path,
        make: Callable[[tuple[str, ...]], Descriptor],
        *,
        workers: int = 0,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.index = index
        some = Dataset(index.frames(np.unique(np.linspace(0, len(index) - 1, WHITENING_FRAMES).astype(int))))
        self.descriptor = make(some.elements)
        self.whitening = Whitening.fit(self.descriptor, some)
        self.width = 2 * min(COMPONENTS, self.descriptor.n_features)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = [path.stat().st_size for path in index.paths]
        name = digest([[str(p.resolve()) for p in index.paths], sizes, repr(self.descriptor), some.keys])
        self.file, record = folder / f"vectors-{name}.npy", folder / f"vectors-{name}.json"
        self._make(record, workers, tell)

    def _make(self, record: Path, workers: int, tell: Callable[[str], None]) -> None:
        shape = (len(self.index), self.width)
        if not self.file.exists():
            np.lib.format.open_memmap(self.file, mode="w+", dtype=np.float32, shape=shape).flush()
            record.unlink(missing_ok=True)
        done: set[int] = set(read_json(record)["pieces"]) if record.exists() else set()
        left = [low for low in range(0, len(self.index), PIECE) if low not in done]
        work = partial(
            _describe, index=self.index, file=self.file, descriptor=self.descriptor, whitening=self.whitening
        )
        for low, _ in each(work, left, workers=workers):
            done.add(low)
            write_json(record, {"pieces": sorted(done)})
            tell(f"select: described {min(len(done) * PIECE, len(self.index)):,} of {len(self.index):,} frames")

    def vectors(self) -> F32:
        """Return all vectors, (n_frames, width), memory-mapped."""
        return np.lib.format.open_memmap(self.file, mode="r")

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return the vectors of other frames."""
        found = [_vectors(chunk, self.descriptor, self.whitening) for chunk in chunks(frames)]
        return np.concatenate(found).astype(np.float64) if found else np.empty((0, self.width))


def _describe(low: int, *, index: FrameIndex, file: Path, descriptor: Descriptor, whitening: Whitening) -> None:
    """Describe one piece into the file, in a worker."""
    mapped = np.lib.format.open_memmap(file, mode="r+")
    at = low
    for chunk in chunks(list(index.frames(range(low, min(low + PIECE, len(index)))))):
        mapped[at : at + len(chunk)] = _vectors(chunk, descriptor, whitening)
        at += len(chunk)
    mapped.flush()


def _vectors(chunk: Sequence[Frame], descriptor: Descriptor, whitening: Whitening) -> F32:
    geometry = descriptor.geometry(chunk)
    components = min(COMPONENTS, descriptor.n_features)
    x = whitening.apply(descriptor.compute(geometry), geometry.species, components)
    first, count = geometry.atoms[:-1], np.diff(geometry.atoms)[:, None]
    mean = np.add.reduceat(x, first) / count
    square = np.add.reduceat(x**2, first) / count
    return np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0.0))], axis=1).astype(np.float32)


def farthest_streamed(X: F32, n: int, known: Array) -> tuple[NDArray[np.intp], Array]:
    """Choose n rows of a memory-mapped array, each the farthest from all known and chosen ones.

    Returns
    -------
    indices, distances
        As :func:`~potstill.selecting.plain.farthest_points`, which this equals but for rounding to single precision.
    """
    n = min(n, len(X))
    nearest = np.full(len(X), np.inf, dtype=np.float32)
    squares = np.concatenate([np.einsum("nd,nd->n", X[rows], X[rows]) for rows in _rows(len(X))] or [nearest])
    for row in known:
        _approach(X, squares, row.astype(np.float32), nearest)
    chosen, distances = np.empty(n, dtype=np.intp), np.empty(n)
    for k in range(n):
        if k == 0 and not len(known):
            mean = (sum(X[rows].sum(0, dtype=np.float64) for rows in _rows(len(X))) / len(X)).astype(np.float32)
            off = np.full(len(X), np.inf, dtype=np.float32)
            _approach(X, squares, mean, off)
            i = int(np.argmin(off))
        else:
            i = int(np.argmax(nearest))
        chosen[k], distances[k] = i, np.sqrt(max(float(nearest[i]), 0.0))
        _approach(X, squares, X[i], nearest)
        nearest[i] = -1.0
    return chosen, distances


def _rows(n: int) -> Iterator[slice]:
    return (slice(low, min(low + ROWS, n)) for low in range(0, n, ROWS))


def _approach(X: F32, squares: F32, row: Any, nearest: F32) -> None:
    """Lower squared distances to the nearest by those to one more row."""
    row = np.asarray(row)
    own = float(row @ row)
    for rows in _rows(len(X)):
        d = squares[rows] + own - 2.0 * (X[rows] @ row)
        part = nearest[rows]
        np.minimum(part, np.maximum(d, 0.0), out=part, where=part >= 0.0)

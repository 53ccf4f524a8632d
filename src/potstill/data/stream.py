"""Pools larger than memory: extended XYZ files that are looked through once, and read again frame by frame."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from potstill.data.files import BLOCK, LabelKeys, iterate_extxyz, noticed, to_frame
from potstill.data.frames import MAX_ATOMS, Dataset, Frame, Origin
from potstill.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_LATTICE = re.compile(r'Lattice="([^"]*)"')
_PROPERTIES = re.compile(r"Properties=(\S+)")
_PERIODIC = re.compile(r'pbc="([TF]) ([TF]) ([TF])"')


@dataclass(frozen=True)
class FrameIndex:
    """Where every frame of some files begins.

    Attributes
    ----------
    paths : tuple of Path
        Extended XYZ, not compressed.
    file : ndarray of int (n_frames,)
        Which of ``paths``.
    offset : ndarray of int (n_frames,)
        Bytes from the file's start.
    n_atoms : ndarray of int (n_frames,)
        Of each frame.
    """

    paths: tuple[Path, ...]
    file: NDArray[np.int32]
    offset: NDArray[np.int64]
    n_atoms: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offset)

    @classmethod
    def of(cls, paths: Sequence[Path]) -> FrameIndex:
        """Look through the files without parsing a coordinate.

        Raises
        ------
        DataError
            If a file is no plain extended XYZ, or is cut off.
        """
        file: list[NDArray[np.int32]] = []
        offset: list[NDArray[np.int64]] = []
        n_atoms: list[NDArray[np.int32]] = []
        for k, path in enumerate(paths):
            if path.suffix not in (".xyz", ".extxyz"):
                raise DataError(
                    f"A pool this large is read frame by frame, which needs plain extended XYZ, but {path.name} is "
                    "another format or compressed. Convert it: `ase convert` does."
                )
            begins, sizes = _look_through(path)
            file.append(np.full(len(begins), k, dtype=np.int32))
            offset.append(begins)
            n_atoms.append(sizes)
        return cls(tuple(paths), np.concatenate(file), np.concatenate(offset), np.concatenate(n_atoms))

    def whole(self, rows: Sequence[int] | NDArray[np.intp]) -> list[Frame]:
        """Read some frames with their labels and origins, as :func:`potstill.data.read_frames` does."""
        found: list[Frame] = []
        keys: LabelKeys | None = None
        for row in rows:
            path = self.paths[int(self.file[row])]
            with path.open("rb") as handle:
                handle.seek(int(self.offset[row]))
                lines = [handle.readline() for _ in range(int(self.n_atoms[row]) + 2)]
            text = b"".join(lines).decode("utf-8", errors="replace")
            atoms = next(iterate_extxyz(io.StringIO(text), path))
            keys = noticed(atoms, keys)
            within = int(row) - int(np.searchsorted(self.file, self.file[row]))
            found.append(to_frame(atoms, keys, path.name, f"{path.name}#{within // BLOCK}", within))
        return found

    def draw(self, n_atoms: int, *, seed: int) -> Dataset:
        """Read frames drawn at random, of about ``n_atoms`` atoms in all, with their labels and origins."""
        order = np.random.default_rng([seed, 7]).permutation(len(self))
        enough = int(np.searchsorted(np.cumsum(self.n_atoms[order]), n_atoms)) + 1
        return Dataset(self.whole(np.sort(order[:enough])))

    def frames(self, rows: Sequence[int] | NDArray[np.intp]) -> Iterator[Frame]:
        """Read some frames, in this order; those of one file that follow each other cost least."""
        handle, now = None, -1
        try:
            for row in rows:
                if self.file[row] != now:
                    if handle is not None:
                        handle.close()
                    now = int(self.file[row])
                    handle = self.paths[now].open("rb")
                if handle is not None:
                    handle.seek(int(self.offset[row]))
                    yield self._frame(int(row), [handle.readline() for _ in range(int(self.n_atoms[row]) + 2)])
        finally:
            if handle is not None:
                handle.close()

    def _frame(self, row: int, lines: list[bytes]) -> Frame:
        path = self.paths[int(self.file[row])]
        text = [line.decode("utf-8", errors="replace") for line in lines]
        atoms = _plainly(text)
        if atoms is None:  # anything unusual
            atoms = next(iterate_extxyz(io.StringIO("".join(text)), path))
        try:
            return Frame.of(atoms, Origin("file", path.name, step=row))
        except DataError as error:
            raise DataError(f"{path}, frame at byte {self.offset[row]}: {error}") from None


def _look_through(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    begins, sizes = [], []
    at = 0
    with path.open("rb") as handle:
        while line := handle.readline():
            if not line.strip():
                at += len(line)
                continue
            try:
                n = int(line)
            except ValueError:
                raise DataError(f"{path}, byte {at}: expected a number of atoms, but found {line[:40]!r}.") from None
            if not 0 < n <= MAX_ATOMS:
                raise DataError(f"{path}, byte {at}: asks for {n:,} atoms; 1 to {MAX_ATOMS:,} are read.")
            begins.append(at)
            sizes.append(n)
            at += len(line)
            for _ in range(n + 1):
                line = handle.readline()
                at += len(line)
            if not line:
                raise DataError(f"{path} ends within its frame {len(begins) - 1}. The file was cut off.")
    return np.array(begins, dtype=np.int64), np.array(sizes, dtype=np.int32)


def _plainly(lines: list[str]) -> Atoms | None:
    """Parse a frame whose columns begin with species and positions; None where it is not that plain."""
    from ase import Atoms

    comment = lines[1]
    lattice, properties, periodic = (p.search(comment) for p in (_LATTICE, _PROPERTIES, _PERIODIC))
    if not (lattice and properties and properties[1].startswith("species:S:1:pos:R:3")):
        return None
    widths = properties[1].split(":")[2::3]
    try:
        width = sum(map(int, widths))
        words = "".join(lines[2:]).split()
        n = len(lines) - 2
        if len(words) != n * width:
            return None
        x = np.array([words[k::width] for k in (1, 2, 3)], dtype=np.float64).T
        cell = np.array(lattice[1].split(), dtype=np.float64).reshape(3, 3)
        pbc = [letter == "T" for letter in periodic.groups()] if periodic else True
        return Atoms(words[::width], positions=x, cell=cell, pbc=pbc)
    except (ValueError, KeyError):
        return None

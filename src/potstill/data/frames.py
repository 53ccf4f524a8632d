"""Frames, labels and datasets.

Units: eV, Å, eV/Å. Stress is in eV/Å³ with ASE's sign, σ = (1/V) ∂E/∂ε: negative under compression.

Positions and cells are held on a grid of 10⁻⁸ Å, which is what an extended XYZ file stores. A frame that went
through a file is therefore the same frame, bit for bit, and so has the same key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

GRID = 1e8  # positions and cells are integers in units of 1/GRID Å
MAX_ATOMS = 1_000_000
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # ASE's order: xx yy zz yz xz xy
SAME_SUM = 1e-6  # eV/atom; by how much a code's per-atom energies may miss its energy: rounding in single precision


def voigt(stress: Array) -> Array:
    """Write a symmetric (3, 3) tensor as ASE's six Voigt components."""
    return np.array([0.5 * (stress[a, b] + stress[b, a]) for a, b in VOIGT])


def tensor(components: Array) -> Array:
    """Write six Voigt components (ASE's order) or nine row-major ones as a symmetric (3, 3) tensor."""
    v = np.asarray(components, dtype=np.float64).ravel()
    if v.size == 9:
        full = v.reshape(3, 3)
        return 0.5 * (full + full.T)
    full = np.zeros((3, 3))
    for value, (a, b) in zip(v, VOIGT, strict=True):
        full[a, b] = full[b, a] = value
    return full


def sum_to(energies: Array, energy: float, tolerance: float = SAME_SUM) -> bool:
    """Whether per-atom energies sum to the energy of the cell, within ``tolerance`` eV/atom; NaN never does."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(abs(np.sum(energies) - energy) <= tolerance * np.size(energies))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a frame came from.

    Attributes
    ----------
    kind : str
        What made it: an ensemble's name, or ``file``.
    trajectory : str
        Frames of one trajectory are correlated; splits keep them together.
    temperature : float | None
        K, of the state that was sampled.
    pressure : float | None
        GPa.
    step : int | None
        MD step within the trajectory, or the frame's index within its file.
    """

    kind: str = "file"
    trajectory: str = ""
    temperature: float | None = None
    pressure: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Labels:
    """What a reference says of a frame.

    Invariant: where there are per-atom energies, they sum to ``energy`` (:func:`sum_to`). How a reference divides its
    energy among the atoms is its own choice, and most cannot: so they are optional, and those that a file or a
    calculator gives with another sum are some other quantity and never become labels.

    Attributes
    ----------
    energy : float
        eV for the whole cell.
    forces : ndarray (n_atoms, 3)
        eV/Å.
    stress : ndarray (3, 3) | None
        eV/Å³, ASE's sign.
    source : str
        Fingerprint of the potential that made it, or the file that it was read from.
    energies : ndarray (n_atoms,) | None
        eV, each atom's share of ``energy``.
    """

    energy: float
    forces: Array
    stress: Array | None
    source: str
    energies: Array | None = None


@dataclass(frozen=True)
class Failure:
    """A label that could not be made: kept and reported, never silently dropped.

    ``frame`` is the frame's key, ``reason`` a short class (``overlap``, ``crash``, ``not-finite``, ``error``),
    ``message`` what the backend said.
    """

    frame: str
    reason: str
    message: str
    source: str
    attempts: int = 1

    def plain(self) -> dict[str, Any]:
        """Return JSON values, for ``failures.json``."""
        return {"frame": self.frame, "reason": self.reason, "message": self.message, "attempts": self.attempts}


def _content_key(numbers: NDArray[Any], positions: Array, cell: Array, pbc: NDArray[Any]) -> str:
    digest = hashlib.sha256(b"potstill-frame-1")
    digest.update(np.ascontiguousarray(numbers, dtype="<i4").tobytes())
    digest.update(np.rint(positions * GRID).astype("<i8").tobytes())
    digest.update(np.rint(cell * GRID).astype("<i8").tobytes())
    digest.update(np.asarray(pbc, dtype=bool).tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Frame:
    """One configuration, with its origin and, when known, its labels.

    Invariant: ``atoms`` holds species, positions, cell and periodicity on the 10⁻⁸ Å grid and nothing else;
    treat it as read-only. The key is a hash of exactly these, so the same positions in another cell are another
    frame, and labels do not change the key. Make frames with :meth:`Frame.of`.
    """

    atoms: Atoms
    origin: Origin = field(default_factory=Origin)
    labels: Labels | None = None

    @classmethod
    def of(cls, atoms: Atoms, origin: Origin | None = None, labels: Labels | None = None) -> Frame:
        """Build a frame from any ASE ``Atoms``; calculators, velocities and constraints are left behind.

        Raises
        ------
        DataError
            If a coordinate is not finite, or there is no atom, or a periodic direction has no cell vector.
        """
        from ase import Atoms

        n = len(atoms)
        if not 0 < n <= MAX_ATOMS:
            raise DataError(f"A frame needs between 1 and {MAX_ATOMS:,} atoms, but this one has {n:,}.")
        positions, cell = np.asarray(atoms.positions), np.asarray(atoms.cell.array)
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise DataError("A frame needs finite positions and cell vectors, but this one has NaN or infinity.")
        if max(np.abs(positions).max(), np.abs(cell).max()) > 1e8:
            raise DataError("A frame needs coordinates below 10⁸ Å, but this one has larger ones.")
        pbc = np.asarray(atoms.pbc, dtype=bool)
        if pbc.any() and (np.linalg.norm(cell[pbc], axis=1) < 1e-3).any():
            raise DataError("A frame is periodic along a direction that has no cell vector.")
        if pbc.all() and abs(np.linalg.det(cell)) < 1e-6:
            raise DataError("A frame has a cell without volume: its vectors lie in one plane.")
        clean = Atoms(
            numbers=atoms.numbers,
            positions=np.rint(positions * GRID) / GRID,
            cell=np.rint(cell * GRID) / GRID,
            pbc=pbc,
        )
        return cls(clean, origin or Origin(), labels)

    @cached_property
    def key(self) -> str:
        """Content hash of species, positions, cell and periodicity."""
        a = self.atoms
        return _content_key(a.numbers, a.positions, a.cell.array, a.pbc)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atoms)

    @property
    def volume(self) -> float | None:
        """Å³, or None where the cell is not periodic in all directions."""
        return float(self.atoms.get_volume()) if self.atoms.pbc.all() else None

    def labelled(self, labels: Labels | None) -> Frame:
        """Return the same configuration with other labels."""
        return replace(self, labels=labels)


class Dataset(Sequence[Frame]):
    """An ordered set of frames: no key occurs twice.

    ``a | b`` is the union by key; where both have a frame, the labelled one wins, and the left one if both are.
    """

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self._frames: dict[str, Frame] = {}
        self.n_repeated = 0
        for frame in frames:
            held = self._frames.get(frame.key)
            if held is None:
                self._frames[frame.key] = frame
            else:
                self.n_repeated += 1
                if held.labels is None and frame.labels is not None:
                    self._frames[frame.key] = frame
        self._list = list(self._frames.values())

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Frame | Dataset:
        if isinstance(index, slice):
            return Dataset(self._list[index])
        return self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Frame) and item.key in self._frames

    def __or__(self, other: Dataset) -> Dataset:
        return Dataset([*self, *other])

    def __repr__(self) -> str:
        n_atoms = sorted({f.n_atoms for f in self})
        sizes = f"{n_atoms[0]}" if len(n_atoms) == 1 else f"{n_atoms[0]}–{n_atoms[-1]}" if n_atoms else "0"
        labelled = sum(f.labels is not None for f in self)
        return (
            f"Dataset({len(self)} frames of {sizes} atoms, {'-'.join(self.elements)}, {labelled} labelled, "
            f"{len(self.trajectories)} trajectories)"
        )

    @property
    def keys(self) -> list[str]:
        """The frames' keys, in order."""
        return list(self._frames)

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols that occur, by atomic number."""
        from ase.data import chemical_symbols

        numbers = {int(z) for f in self for z in np.unique(f.atoms.numbers)}
        return tuple(chemical_symbols[z] for z in sorted(numbers))

    @property
    def trajectories(self) -> list[str]:
        """Names of the trajectories, in order of appearance."""
        return list(dict.fromkeys(f.origin.trajectory for f in self))

    def only_labelled(self) -> Dataset:
        """Return the frames that have labels."""
        return Dataset(f for f in self if f.labels is not None)

    def without_labels(self) -> Dataset:
        """Return the same frames, labels removed."""
        return Dataset(f.labelled(None) for f in self)

    def take(self, indices: Iterable[int]) -> Dataset:
        """Return the frames at these positions, in this order."""
        return Dataset(self._list[int(i)] for i in indices)

    def without(self, other: Dataset) -> Dataset:
        """Return the frames whose key is not in ``other``."""
        return Dataset(f for f in self if f not in other)

    def split(self, fraction: float, *, rng: np.random.Generator, by: str = "trajectory") -> tuple[Dataset, Dataset]:
        """Split into (rest, held out) with about ``fraction`` of the frames held out.

        Parameters
        ----------
        fraction : float
            Between 0 and 1.
        rng : numpy Generator
            Decides which.
        by : str
            ``trajectory`` keeps each trajectory on one side, because its frames know one another;
            ``frame`` does not.

        Raises
        ------
        DataError
            If there are fewer than two trajectories (or frames) to split.
        """
        if by not in ("trajectory", "frame"):
            raise DataError(f"A split is by 'trajectory' or by 'frame', not by {by!r}.")
        groups = [f.origin.trajectory if by == "trajectory" else f.key for f in self]
        names = list(dict.fromkeys(groups))
        if len(names) < 2:
            raise DataError(
                f"A split by {by} needs at least two of them, but the data have {len(names)}. Give a separate "
                "validation file, or more data."
            )
        size = dict.fromkeys(names, 0)
        heat = dict.fromkeys(names, 0.0)
        for name, frame in zip(groups, self, strict=True):
            size[name] += 1
            heat[name] += frame.origin.temperature or 0.0
        ladder = sorted(names, key=lambda name: heat[name] / size[name])
        # Systematic sampling: every 1/fraction-th trajectory along the ladder of temperatures, from a random start.
        counted = np.arange(len(ladder) + 1) * fraction
        slots = np.floor(counted + rng.random())
        held = {name for name, low, high in zip(ladder, slots[:-1], slots[1:], strict=True) if high > low}
        spare = ladder[int(rng.integers(len(ladder)))]
        held = held or {spare}
        if len(held) == len(names):
            held.discard(spare)
        inside = [name in held for name in groups]
        return (
            Dataset(f for f, h in zip(self, inside, strict=True) if not h),
            Dataset(f for f, h in zip(self, inside, strict=True) if h),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write extended XYZ atomically; a name that ends in ``.gz`` is compressed."""
        from potstill.data.files import write_frames

        write_frames(self._list, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dataset:
        """Read a structure file; see :func:`potstill.data.read_frames`."""
        from potstill.data.files import read_frames

        frames, _ = read_frames(path)
        return cls(frames)

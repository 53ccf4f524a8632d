"""Frames, labels and datasets, and their way in and out of extended XYZ.

Units: eV, Å, eV/Å. Stress is in eV/Å³ with ASE's sign, σ = (1/V) ∂E/∂ε: negative under compression.

Positions and cells are held on a grid of 10⁻⁸ Å, which is what an extended XYZ file stores. A frame that went
through a file is therefore the same frame, bit for bit, and so has the same key.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, overload
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

GRID = 1e8  # positions and cells are integers in units of 1/GRID Å
MAX_ATOMS = 1_000_000
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # ASE's order: xx yy zz yz xz xy


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
    """

    energy: float
    forces: Array
    stress: Array | None
    source: str


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
        from ase.io.extxyz import write_xyz

        buffer = io.StringIO()
        write_xyz(buffer, [_to_ase(f) for f in self])
        payload = buffer.getvalue().encode()
        if str(path).endswith(".gz"):
            payload = gzip.compress(payload, mtime=0)
        write_atomic(Path(path), payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dataset:
        """Read a structure file; see :func:`read_frames`."""
        frames, _ = read_frames(path)
        return cls(frames)


def write_atomic(path: Path, payload: bytes) -> None:
    """Write a file so that a reader sees the old or the new content whole, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


# ASE's reader turns `007`, `1e3` or `T` into numbers and truth values; names that could be taken so are escaped.
_PLAIN_NAME = re.compile(r"[A-Za-z]+[-_#.][\w.#+/-]*", re.ASCII)
_ESCAPED = "id:"


def _written_name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else _ESCAPED + quote(name)


def _read_name(text: str) -> str:
    return unquote(text.removeprefix(_ESCAPED)) if text.startswith(_ESCAPED) else text


def _to_ase(frame: Frame) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = frame.atoms.copy()
    o = frame.origin
    atoms.info["origin"] = o.kind
    atoms.info["trajectory"] = _written_name(o.trajectory)
    for name, value in (("temperature_K", o.temperature), ("pressure_GPa", o.pressure), ("step", o.step)):
        if value is not None:
            atoms.info[name] = value
    if frame.labels is not None:
        results: dict[str, Any] = {"energy": frame.labels.energy, "forces": frame.labels.forces}
        if frame.labels.stress is not None:
            results["stress"] = voigt(frame.labels.stress)
        atoms.info["label_source"] = frame.labels.source
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@dataclass(frozen=True)
class LabelKeys:
    """The names under which a file's labels were found, and those that look like labels and were left alone."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    ignored: tuple[str, ...] = ()

    def completes(self, other: LabelKeys) -> bool:
        """Whether this, from a later frame, names what ``other`` had to leave open."""
        if self.energy is None or self.forces is None:
            return False
        if other.energy is None or other.forces is None:
            return True
        return other.stress is None and (self.energy, self.forces) == (other.energy, other.forces)

    def __str__(self) -> str:
        if self.energy is None and self.forces is None:
            text = "no labels"
        else:
            text = (
                f"energy from '{self.energy}', forces from '{self.forces}', "
                f"stress {f'from {self.stress!r}' if self.stress else 'absent'}"
            )
        if self.ignored:
            text += f" (not used: {', '.join(self.ignored)}: units and sign are not stated by the name)"
        return text


# Families in the order of trust: a prefix says "this is the reference", a bare name may be anyone's.
_ENERGY = (
    "REF_energy",
    "ref_energy",
    "DFT_energy",
    "dft_energy",
    "energy",
    "Energy",
    "energy_dft",
    "total_energy",
)
_FORCES = ("REF_forces", "ref_forces", "DFT_forces", "dft_forces", "forces", "force", "Forces", "forces_dft")
_STRESS = (
    "REF_stress",
    "ref_stress",
    "DFT_stress",
    "dft_stress",
    "stress",
    "REF_virial",
    "ref_virial",
    "DFT_virial",
    "dft_virial",
    "virial",
    "virials",
)
_REFERENCE_PREFIXES = ("REF_", "ref_", "DFT_", "dft_")


def _available(atoms: Atoms) -> dict[str, Any]:
    """Everything in info, arrays and the calculator that could be a label, by name."""
    found: dict[str, Any] = {}
    found.update(atoms.info)
    found.update({k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions")})
    if atoms.calc is not None:
        for name in ("energy", "forces", "stress"):
            if atoms.calc.results.get(name) is not None:
                found[name] = atoms.calc.results[name]
    return found


def detect_label_keys(atoms: Atoms) -> LabelKeys:
    """Find which names of a frame carry energy, forces and stress or virial.

    A set under a prefix that says "reference" (``REF_``, ``dft_``) is taken before bare names. Energy and forces
    are taken from the same prefix where that is possible, so that two methods are not mixed.
    """
    found = _available(atoms)
    energies = [k for k in _ENERGY if k in found]
    forces = [k for k in _FORCES if k in found]
    energy = energies[0] if energies else None
    force = forces[0] if forces else None
    for candidate in energies:
        same = [f for f in forces if _prefix(f) == _prefix(candidate)]
        if same:
            energy, force = candidate, same[0]
            break
    stresses = [k for k in _STRESS if k in found]
    stress = next((k for k in stresses if energy and _prefix(k) == _prefix(energy)), None)
    ignored = sorted(k for k in found if ("stress" in k.lower() or "virial" in k.lower()) and k not in _STRESS)
    return LabelKeys(energy, force, stress, tuple(ignored))


def _prefix(name: str) -> str:
    return next((p.lower() for p in _REFERENCE_PREFIXES if name.startswith(p)), "")


def _labels(atoms: Atoms, keys: LabelKeys, source: str) -> Labels | None:
    if keys.energy is None or keys.forces is None:
        return None
    found = _available(atoms)
    if keys.energy not in found or keys.forces not in found:
        return None
    try:
        energy = float(found[keys.energy])
        forces = np.asarray(found[keys.forces], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"'{keys.energy}' and '{keys.forces}' should be numbers: {error}.") from None
    if forces.shape != (len(atoms), 3):
        raise DataError(
            f"'{keys.forces}' should hold three numbers for each of {len(atoms)} atoms, but its shape is "
            f"{forces.shape}."
        )
    stress: Array | None = None
    if keys.stress is not None and keys.stress in found:
        value = np.asarray(found[keys.stress], dtype=np.float64)
        if value.size not in (6, 9):
            raise DataError(f"'{keys.stress}' should hold six or nine numbers, but it holds {value.size}.")
        stress = tensor(value)
        if "virial" in keys.stress:  # virial = −V σ
            if not atoms.pbc.all():
                raise DataError(f"'{keys.stress}' needs a cell that is periodic in all directions.")
            stress = -stress / atoms.get_volume()
    if not (np.isfinite(energy) and np.isfinite(forces).all() and (stress is None or np.isfinite(stress).all())):
        raise DataError("A label is NaN or infinite. Remove the frame, or its label.")
    return Labels(energy, forces, stress, source)


def _origin(atoms: Atoms, fallback: Origin) -> Origin:
    info = atoms.info
    if "trajectory" not in info:
        return fallback

    def number(name: str) -> float | None:
        try:
            return float(info[name]) if name in info else None
        except (TypeError, ValueError):
            raise DataError(f"{name} should be a number, but reads {info[name]!r}.") from None

    step = number("step")
    return Origin(
        str(info.get("origin", "file")),
        _read_name(str(info["trajectory"])),
        number("temperature_K"),
        number("pressure_GPa"),
        None if step is None else int(step),
    )


BLOCK = 20  # frames without a trajectory name are grouped by this many consecutive ones


def read_frames(path: str | os.PathLike[str]) -> tuple[list[Frame], LabelKeys]:
    """Read every frame of a structure file, with labels under whatever usual name they have.

    Extended XYZ (optionally ``.gz``) keeps origins that potstill wrote; any other format that ASE reads works too.
    Frames without a trajectory name count as one trajectory for each block of 20 consecutive frames.

    Returns
    -------
    frames : list of Frame
        In file order, repeated ones included.
    keys : LabelKeys
        What the labels were called.

    Raises
    ------
    DataError
        If the file is missing, empty or broken: the message names file, frame and line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Expected a structure file at {path}, but there is none.")
    frames: list[Frame] = []
    keys: LabelKeys | None = None
    index = 0
    try:
        for atoms in _iterate(path):
            here = detect_label_keys(atoms)
            if keys is None or here.completes(keys):
                keys = here
            fallback = Origin("file", f"{path.name}#{index // BLOCK}", step=index)
            labels = _labels(atoms, keys, f"file:{path.name}")
            frames.append(Frame.of(atoms, _origin(atoms, fallback), labels))
            index += 1
    except (EOFError, OSError, zlib.error) as error:  # a compressed file that is cut off, or none
        raise DataError(f"{path}, frame {index} (counted from 0): the file could not be read: {error}.") from None
    except DataError as error:
        raise DataError(f"{path}, frame {index} (counted from 0): {error}") from None
    if keys is None:
        raise DataError(f"{path} holds no structure.")
    return frames, keys


def _is_extxyz(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".xyz", ".extxyz"))


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _iterate(path: Path) -> Iterator[Atoms]:
    if _is_extxyz(path):
        with _open_text(path) as handle:
            yield from _iterate_extxyz(handle, path)
        return
    import ase.io

    try:
        yield from ase.io.iread(path, index=":")
    except Exception as error:
        raise DataError(
            f"ASE could not read {path.name}: {type(error).__name__}: {error}. Expected a structure file in a "
            "format that ASE knows by its name or content; extended XYZ is the safest."
        ) from error


def _iterate_extxyz(handle: TextIO, path: Path) -> Iterator[Atoms]:
    """Cut the file into frames, so that a fault can be placed, and let ASE parse each."""
    from ase.io.extxyz import read_xyz

    line_number = 0
    while line := handle.readline():
        line_number += 1
        if not line.strip():
            continue
        first = line_number
        try:
            n_atoms = int(line)
        except ValueError:
            raise DataError(
                f"line {first} of {path.name} should be a number of atoms, but reads {line.strip()[:60]!r}."
            ) from None
        if not 0 < n_atoms <= MAX_ATOMS:
            raise DataError(f"line {first} of {path.name} asks for {n_atoms:,} atoms; 1 to {MAX_ATOMS:,} are read.")
        block = [line]
        for _ in range(n_atoms + 1):
            line = handle.readline()
            if not line:
                raise DataError(
                    f"{path.name} ends at line {line_number}, within a frame that begins at line {first} and "
                    f"should have {n_atoms} atoms. The file was cut off."
                )
            line_number += 1
            block.append(line)
        expected = _columns(block[1])
        if expected and any(len(row.split()) != expected for row in block[2:]):  # ASE ignores surplus columns
            raise DataError(_place_fault(block, first, path, ValueError("wrong number of columns")))
        try:
            yield next(read_xyz(io.StringIO("".join(block)), slice(0, 1)))
        except Exception as error:
            raise DataError(_place_fault(block, first, path, error)) from error


def _columns(comment: str) -> int:
    """Return how many columns the comment line's Properties announce; 0 where it has none."""
    found = re.search(r'Properties="?([^\s"]+)', comment)
    return sum(map(int, found[1].split(":")[2::3])) if found else 0


def _place_fault(block: list[str], first: int, path: Path, error: Exception) -> str:
    """Say which line of a frame that ASE refused is at fault, as far as that can be told."""
    widths = [len(line.split()) for line in block[2:]]
    announced = _columns(block[1])
    usual = announced if announced in widths else max(set(widths), key=widths.count)
    for k, line in enumerate(block[2:]):
        words = line.split()
        if len(words) != usual:
            return (
                f"line {first + 2 + k} of {path.name} has {len(words)} columns where the frame's others have "
                f"{usual}: {line.strip()[:80]!r}."
            )
        for word in words[1:4]:
            try:
                float(word)
            except ValueError:
                return f"line {first + 2 + k} of {path.name} has {word!r} where a number should be."
    return (
        f"line {first + 1} of {path.name} (the comment line, with Lattice and Properties) or the atoms below it "
        f"could not be read: {type(error).__name__}: {error}"
    )

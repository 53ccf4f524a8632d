"""Structure files: other people's labels under their usual names, faults placed by frame and line, whole writes."""

from __future__ import annotations

import bz2
import gzip
import heapq
import io
import lzma
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote, unquote

import numpy as np

from potstill.data.frames import MAX_ATOMS, Array, Frame, Labels, Origin, sum_to, tensor, voigt
from potstill.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


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
LONGEST_SOURCE = 1000  # characters of a fingerprint


def _written_name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else _ESCAPED + quote(name)


def _read_name(text: str) -> str:
    return unquote(text.removeprefix(_ESCAPED)) if text.startswith(_ESCAPED) else text


def write_frames(frames: list[Frame], path: str | os.PathLike[str]) -> None:
    """Write extended XYZ atomically; a name that ends in ``.gz`` is compressed."""
    from ase.io.extxyz import write_xyz

    buffer = io.StringIO()
    write_xyz(buffer, [_to_ase(f) for f in frames])
    payload = buffer.getvalue().encode()
    if str(path).endswith(".gz"):
        payload = gzip.compress(payload, mtime=0)
    write_atomic(Path(path), payload)


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
        if frame.labels.energies is not None:
            results["energies"] = frame.labels.energies
        atoms.info["label_source"] = frame.labels.source
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@dataclass(frozen=True)
class LabelKeys:
    """The names under which a file's labels were found, and those that look like labels and were left alone."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    energies: str | None = None
    ignored: tuple[str, ...] = ()

    def completed(self, later: LabelKeys) -> LabelKeys:
        """Return these names, with those of a later frame for what these had to leave open."""
        ignored = tuple(sorted({*self.ignored, *later.ignored}))
        if later.energy is None or later.forces is None:
            return replace(self, ignored=ignored)
        if self.energy is None or self.forces is None:
            return replace(later, ignored=ignored)
        if (self.energy, self.forces) != (later.energy, later.forces):
            return replace(self, ignored=ignored)
        return replace(
            self, stress=self.stress or later.stress, energies=self.energies or later.energies, ignored=ignored
        )

    def __str__(self) -> str:
        if self.energy is None and self.forces is None:
            text = "no labels"
        else:
            text = (
                f"energy from '{self.energy}', forces from '{self.forces}', "
                f"stress {f'from {self.stress!r}' if self.stress else 'absent'}"
            )
            if self.energies:
                text += f", per-atom energies from '{self.energies}'"
        reasons = {
            "units and sign are not stated by the name": [k for k in self.ignored if k not in _ENERGIES],
            "its sum is not the energy, in some frames at least": [k for k in self.ignored if k in _ENERGIES],
        }
        unused = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items() if names)
        return f"{text} (not used: {unused})" if unused else text


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
_ENERGIES = tuple(
    prefix + name
    for prefix in (*_REFERENCE_PREFIXES, "")
    for name in ("energies", "atomic_energies", "atomic_energy", "local_energies", "local_energy")
)
SUM_DIGITS = 1e-4  # eV/atom; a file may hold four decimals only, while another quantity or zero of energy is far off


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


def _per_atom(atoms: Atoms) -> dict[str, Any]:
    """Everything that could be per-atom energies, by name; what stands in info is one value for the cell."""
    found = {k: v for k, v in atoms.arrays.items() if k in _ENERGIES}
    if atoms.calc is not None and atoms.calc.results.get("energies") is not None:
        found["energies"] = atoms.calc.results["energies"]
    return found


def detect_label_keys(atoms: Atoms) -> LabelKeys:
    """Find which names of a frame carry energy, forces, stress or virial, and per-atom energies.

    A set under a prefix that says "reference" (``REF_``, ``dft_``) is taken before bare names. Energy and forces
    are taken from the same prefix where that is possible, so that two methods are not mixed. Per-atom energies are
    those of the energy's prefix whose sum is the energy.
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
    ignored = [k for k in found if ("stress" in k.lower() or "virial" in k.lower()) and k not in _STRESS]
    shares = {k: v for k, v in _per_atom(atoms).items() if energy and _prefix(k) == _prefix(energy)}
    strange = [k for k, v in shares.items() if energy and _has_another_sum(v, found[energy], len(atoms))]
    share = next((k for k in _ENERGIES if k in shares and k not in strange), None)
    return LabelKeys(energy, force, stress, share, tuple(sorted(ignored + strange)))


def _has_another_sum(energies: Any, energy: Any, n_atoms: int) -> bool:
    """Whether these are per-atom numbers that do not sum to the energy; others are refused where labels are made."""
    try:
        values, total = np.asarray(energies, dtype=np.float64), float(energy)
    except (TypeError, ValueError):
        return False
    per_atom = values.shape == (n_atoms,) and bool(np.isfinite(values).all())
    return per_atom and not sum_to(values, total, SUM_DIGITS)


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
        try:
            value = np.asarray(found[keys.stress], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"'{keys.stress}' should be numbers: {error}.") from None
        if value.size not in (6, 9):
            raise DataError(f"'{keys.stress}' should hold six or nine numbers, but it holds {value.size}.")
        stress = tensor(value)
        if "virial" in keys.stress:  # virial = −V σ
            if not atoms.pbc.all():
                raise DataError(f"'{keys.stress}' needs a cell that is periodic in all directions.")
            stress = -stress / atoms.get_volume()
    if not (np.isfinite(energy) and np.isfinite(forces).all() and (stress is None or np.isfinite(stress).all())):
        raise DataError("A label is NaN or infinite. Remove the frame, or its label.")
    return Labels(energy, forces, stress, source, _energies(atoms, keys.energies, energy))


def _energies(atoms: Atoms, name: str | None, energy: float) -> Array | None:
    found = _per_atom(atoms)
    if name is None or name not in found:
        return None
    try:
        energies = np.asarray(found[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"'{name}' should be numbers: {error}.") from None
    if energies.shape != (len(atoms),):
        raise DataError(
            f"'{name}' should hold one energy for each of {len(atoms)} atoms, but its shape is {energies.shape}."
        )
    if not np.isfinite(energies).all():
        raise DataError(f"'{name}' is NaN or infinite for an atom. Remove the frame, or this column.")
    return energies if sum_to(energies, energy, SUM_DIGITS) else None


def _origin(atoms: Atoms, fallback: Origin) -> Origin:
    info = atoms.info
    if "trajectory" not in info:
        return fallback

    def number(name: str) -> float | None:
        try:
            value = float(info[name]) if name in info else None
        except (TypeError, ValueError):
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise DataError(f"{name} should be a number, but reads {info[name]!r}.")
        return value

    step = number("step")
    return Origin(
        str(info.get("origin", "file")),
        _read_name(str(info["trajectory"])),
        number("temperature_K"),
        number("pressure_GPa"),
        None if step is None else int(step),
    )


BLOCK = 20  # frames without a trajectory name are grouped by this many consecutive ones


_STRUCTURES = re.compile(
    r"(?i)(.*\.(ext)?xyz|.*\.(cif|vasp|traj|db|cfg|res|xsf|gen|in|lammpstrj|dump|json)|(POSCAR|CONTCAR|OUTCAR|XDATCAR)(\..*|_.*)?"
    r"|vasprun.*\.xml)(\.(gz|bz2|xz))?"
)


def structure_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files that a name stands for: itself, a folder's structure files at any depth, or a pattern's.

    Raises
    ------
    DataError
        If there is none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and _STRUCTURES.fullmatch(p.name)]
        if not found:
            raise DataError(f"{path} holds no file that is named like a structure file (extxyz, cif, POSCAR, …).")
        return found
    found = [p for p in sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))) if p.is_file()]
    if not found:
        raise DataError(f"Expected a structure file, a folder of them or a pattern at {source}, but there is none.")
    return found


@dataclass(frozen=True)
class Draw:
    """How much of a pool is kept in memory.

    Attributes
    ----------
    whole : int
        Atoms up to which all frames are kept.
    atoms : int
        Atoms of the frames that are drawn at random from a larger pool.
    seed : int
        Decides which.
    """

    whole: int
    atoms: int
    seed: int


class _Kept:
    """Frames as they come: all of them, or once these are too many a random draw, each as likely as any other."""

    def __init__(self, draw: Draw | None) -> None:
        self._draw, self._limit = draw, draw.whole if draw else 0
        self._rng = np.random.default_rng([draw.seed, 7] if draw else 0)
        self._frames: list[tuple[float, int, Frame]] = []  # a heap, the largest lot first, if anything is drawn
        self.n_atoms = self.n_seen = 0

    def add(self, frame: Frame) -> None:
        """Take a frame in; the largest lots leave where there is no room."""
        heapq.heappush(self._frames, (-self._rng.random(), self.n_seen, frame))
        self.n_seen += 1
        self.n_atoms += frame.n_atoms
        if self._draw and self.n_atoms > self._limit:
            self._limit = self._draw.atoms
            while self.n_atoms > self._limit and len(self._frames) > 1:
                self.n_atoms -= heapq.heappop(self._frames)[2].n_atoms

    def frames(self) -> list[Frame]:
        """Return what is kept, in the order of files and frames."""
        return [frame for _, _, frame in sorted(self._frames, key=lambda item: item[1])]


def read_pool(source: str | os.PathLike[str], draw: Draw | None = None) -> tuple[list[Frame], str]:
    """Read all structure files that a name stands for; see :func:`structure_files` and :func:`read_frames`.

    Parameters
    ----------
    source : path
        A file, a folder or a pattern.
    draw : Draw | None
        How much is kept of a large pool; all of it where this is not given.

    Returns
    -------
    frames : list of Frame
        In the order of files and frames; trajectories without a name are called by file.
    told : str
        What was used of them.
    """
    paths = structure_files(source)
    root = Path(os.path.commonpath([p.parent for p in paths]))
    kept = _Kept(draw)
    told: dict[str, str] = {}
    for path in paths:
        keys = LabelKeys()
        for frame, so_far in _frames(path, path.name if len(paths) == 1 else path.relative_to(root).as_posix()):
            kept.add(frame)
            keys = so_far
        told.setdefault(str(keys), path.name)
    frames = kept.frames()
    drawn = f"{len(frames):,} of {kept.n_seen:,} frames, drawn at random; " if len(frames) < kept.n_seen else ""
    if len(paths) == 1:
        return frames, drawn + next(iter(told))
    like = "; ".join(f"{name} and the like: {keys}" for keys, name in told.items())
    return frames, f"{drawn}{len(paths)} files; {like}"


def read_frames(path: str | os.PathLike[str], *, name: str | None = None) -> tuple[list[Frame], LabelKeys]:
    """Read every frame of a structure file, with labels under whatever usual name they have.

    Extended XYZ (optionally ``.gz``, ``.bz2`` or ``.xz``) keeps origins that potstill wrote; any other
    format that ASE reads works too.
    Frames without a trajectory name count as one trajectory for each block of 20 consecutive frames of ``name``, the
    file's own where it is not given.

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
    frames, keys = [], LabelKeys()
    for frame, so_far in _frames(path, name or path.name):
        frames.append(frame)
        keys = so_far
    return frames, keys


def _frames(path: Path, name: str) -> Iterator[tuple[Frame, LabelKeys]]:
    """Yield the frames of a file, each with what labels were called so far."""
    if not path.is_file():
        raise DataError(f"Expected a structure file at {path}, but there is none.")
    keys: LabelKeys | None = None
    index = 0
    try:
        for atoms in _iterate(path):
            keys = noticed(atoms, keys)
            yield to_frame(atoms, keys, path.name, f"{name}#{index // BLOCK}", index), keys
            index += 1
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:  # a compressed file that is cut off, or none
        raise DataError(f"{path}, frame {index} (counted from 0): the file could not be read: {error}.") from None
    except DataError as error:
        raise DataError(f"{path}, frame {index} (counted from 0): {error}") from None
    if keys is None:
        raise DataError(f"{path} holds no structure.")


_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def noticed(atoms: Atoms, keys: LabelKeys | None) -> LabelKeys:
    """Return the names of labels, with those of another frame."""
    here = detect_label_keys(atoms)
    return here if keys is None else keys.completed(here)


def to_frame(atoms: Atoms, keys: LabelKeys, source: str, trajectory: str, step: int) -> Frame:
    """Return a frame with what it was read with; trajectory and step stand where it does not say its own."""
    said = atoms.info.get("label_source")  # what write_frames put there
    labels = _labels(atoms, keys, said if isinstance(said, str) and len(said) <= LONGEST_SOURCE else f"file:{source}")
    return Frame.of(atoms, _origin(atoms, Origin("file", trajectory, step=step)), labels)


def _is_extxyz(path: Path) -> bool:
    name = path.name
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name.endswith((".xyz", ".extxyz"))


def _open_text(path: Path) -> TextIO:
    if path.suffix in _COMPRESSED:
        opened: TextIO = _COMPRESSED[path.suffix](path, "rt", encoding="utf-8", errors="replace")
        return opened
    return path.open(encoding="utf-8", errors="replace")


def _iterate(path: Path) -> Iterator[Atoms]:
    if _is_extxyz(path):
        with _open_text(path) as handle:
            yield from iterate_extxyz(handle, path)
        return
    import ase.io

    try:
        yield from ase.io.iread(path, index=":")
    except Exception as error:
        raise DataError(
            f"ASE could not read {path.name}: {type(error).__name__}: {error}. Expected a structure file in a "
            "format that ASE knows by its name or content; extended XYZ is the safest."
        ) from error


def iterate_extxyz(handle: TextIO, path: Path) -> Iterator[Atoms]:
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
    widths = found[1].split(":")[2::3] if found else []
    return sum(map(int, widths)) if all(w.isdecimal() for w in widths) else 0  # ASE says what is wrong with others


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

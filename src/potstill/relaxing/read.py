"""Structures that somebody proposes, out of files that are not trusted.

Each fault costs its own structure and becomes a sentence. Nothing is written, and nothing that a file says is run,
followed or believed to be small.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from potstill.errors import DataError
from potstill.relaxing.formats import FORMATS, checked
from potstill.relaxing.limits import BROKEN, ArchiveError, Limits, StructureError, quoted, said, shown, size_of

if TYPE_CHECKING:
    from ase import Atoms

CHUNK = 2**16  # bytes that are unpacked at a time
TRAJECTORIES = "generated_trajectories.zip"  # MatterGen's: steps on the way to a structure, which nobody proposes


@dataclass(frozen=True)
class Proposed:
    """A structure that somebody proposes, or why there is none.

    Attributes
    ----------
    source : str
        Where the user finds it, such as ``out.zip:generated_crystals.extxyz#3``. Cleaned of control characters, but
        not escaped for a page.
    atoms : Atoms | None
        Periodic in three directions, with finite numbers and no two atoms at one place.
    reason : str
        A sentence, where there are no atoms.
    """

    source: str
    atoms: Atoms | None
    reason: str = ""


_USUAL = Limits()


def read_structures(paths: Sequence[str], limits: Limits = _USUAL) -> Iterator[Proposed]:
    """Read proposed structures from files, folders, patterns and archives.

    CIF, POSCAR, extended XYZ and pymatgen's JSON, each also packed by gzip, bzip2 or xz; zip and tar archives of them.

    Parameters
    ----------
    paths : sequence of str
        Folders are walked at any depth; links out of them are not followed.
    limits : Limits

    Returns
    -------
    iterator of Proposed
        In the order of paths, files by name, members and structures as they stand.

    Raises
    ------
    DataError
        At once if a path does not exist, or a folder or pattern has no structure file; while iterating, if an archive
        that was named has none.
    """
    return _up_to(limits, [(path, _files(path)) for path in paths])


def from_memory(structures: Sequence[Atoms], limits: Limits = _USUAL) -> Iterator[Proposed]:
    """Take structures that somebody holds in memory as proposed ones, by the same rules."""
    for k, atoms in enumerate(structures):
        found, source = checked(atoms, limits), f"structure {k}"
        yield Proposed(source, None, found) if isinstance(found, str) else Proposed(source, found)


def _up_to(limits: Limits, found: list[tuple[str, list[tuple[Path, str]]]]) -> Iterator[Proposed]:
    count = 0
    for path, files in found:
        before = count
        for proposed in itertools.chain.from_iterable(_read_file(file, why, limits) for file, why in files):
            if count == limits.structures:
                reason = f"{limits.structures:,} structures were read, and no more are; give the rest to another run."
                yield Proposed(proposed.source, None, reason)
                return
            count += 1
            yield proposed
        if count == before:
            raise DataError(f"{shown(path, limits.name)} holds no structure file. {_EXPECTED}")


# --- names ---

_KINDS = {
    "cif": re.compile(r".+\.cif"),
    "xyz": re.compile(r".+\.(ext)?xyz"),
    "json": re.compile(r".+\.json"),
    "poscar": re.compile(r".+\.(vasp|poscar)|(poscar|contcar)([._-].*)?"),
    "zip": re.compile(r".+\.zip"),
    "tar": re.compile(r".+\.tar"),
}
_ARCHIVES = ("zip", "tar")
_PACKINGS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_EXPECTED = "Expected CIF, POSCAR, extended XYZ (.xyz, .extxyz), pymatgen's JSON, or a zip or tar archive of them."


def _kind(name: str) -> tuple[str, str]:
    """Return the format that a name promises, and how it is packed; both may be empty."""
    parts = re.split(r"[/\\]", name.lower())
    base = re.sub(r"\.t(gz|bz2|xz)$", r".tar.\1", parts[-1])
    if base.startswith("._") or "__macosx" in parts:  # what macOS puts beside each file
        return "", ""
    packing = next((ending for ending in _PACKINGS if base.endswith(ending)), "")
    base = base.removesuffix(packing)
    kind = next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(base)), "")
    return ("", "") if kind == "zip" and packing else (kind, packing)


def _bad_name(name: str) -> str:
    """Say why a member of an archive has a name that no honest archive gives, or nothing."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "Its name in the archive is an absolute path, which is not read."
    if ".." in re.split(r"[/\\]", name):
        return "Its name in the archive leads out of the archive by '..', which is not read."
    return ""


# --- paths ---


def _files(path: str) -> list[tuple[Path, str]]:
    """Return the files that a path stands for, some with a sentence why they are not read."""
    named = Path(path)
    try:
        if named.is_file():
            return [(named, _not_by_name(named))]
        if named.is_dir():
            found = _walk(named)
        else:
            matches = sorted(Path(named.anchor).glob(str(named.relative_to(named.anchor))))
            found = [pair for match in matches for pair in _entry(match, match.parent.resolve())]
            if not matches:
                raise DataError(
                    f"Expected a structure file, a folder of them, an archive or a pattern at "
                    f"{shown(path, 1000)}, but there is none."
                )
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{shown(path, 1000)} could not be looked up: {said(error)}.") from None
    if not found:
        raise DataError(f"{shown(path, 1000)} holds no structure file. {_EXPECTED}")
    return found


def _not_by_name(path: Path) -> str:
    if path.name == TRAJECTORIES:
        return "It holds the steps by which structures were generated, which are none themselves."
    return "" if _kind(path.name)[0] else f"Its name says no format that is read. {_EXPECTED}"


def _walk(folder: Path) -> list[tuple[Path, str]]:
    root = folder.resolve()
    paths = sorted(Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return [pair for path in paths for pair in _entry(path, root)]


def _entry(path: Path, root: Path) -> list[tuple[Path, str]]:
    """Return what is of interest in a path that nobody named: it was found in a folder, or by a pattern."""
    inside = not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(root)  # resolve() raises at loops
    if path.is_dir():
        return _walk(path) if inside else []
    # Trajectories lie beside the structures that they led to, and each of their steps would count as a proposal.
    if not _kind(path.name)[0] or path.name == TRAJECTORIES or not path.is_file():
        return []
    return [(path, "" if inside else "It is a link that leaves its folder, which is not followed.")]


# --- files and archives ---


class _Counted(io.FileIO):
    """A file that knows how many bytes were taken from it, and refuses to give very many at once."""

    taken = 0
    most = 0

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if self.most and size > self.most:
            raise ArchiveError("Its list of members is longer than is read.")
        found = super().read(size) or b""
        self.taken += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        n = super().readinto(buffer) or 0
        self.taken += n
        return n


@dataclass
class _Meter:
    """Counts bytes as they are unpacked, whatever headers claim."""

    file: _Counted
    limits: Limits
    unpacked: int = 0

    def count(self, n: int) -> None:
        self.unpacked += n
        if self.unpacked > self.limits.unpacked_bytes:
            raise ArchiveError(
                f"It unpacks to more than {size_of(self.limits.unpacked_bytes)}; nothing more of it is read."
            )
        if self.unpacked > max(self.limits.free_bytes, self.limits.ratio * self.file.taken):
            raise ArchiveError(
                f"It unpacks to more than {self.limits.ratio:g} times its size, as what is made to fill a memory does; "
                "nothing more of it is read."
            )


def _read_file(path: Path, refused: str, limits: Limits) -> Iterator[Proposed]:
    kind, packing = _kind(path.name)
    where = str(path)
    reason = refused
    if not reason:
        try:
            with _Counted(path) as file:
                yield from _read_open(file, kind, packing, where, limits)
        except (StructureError, ArchiveError) as error:
            reason = str(error)
        except BROKEN as error:
            reason = f"It is cut off, damaged or not what its name says ({said(error)})."
    if reason:
        yield Proposed(shown(where, limits.name), None, reason)


def _read_open(file: _Counted, kind: str, packing: str, where: str, limits: Limits) -> Iterator[Proposed]:
    if os.fstat(file.fileno()).st_size > limits.file_bytes:
        raise ArchiveError(f"It is larger than {size_of(limits.file_bytes)}, and is not read.")
    meter = _Meter(file, limits)
    stream: Any
    with _PACKINGS[packing](file) if packing else io.BufferedReader(file) as stream:
        if kind == "zip":
            yield from _read_members(_zip_members(meter), where, limits)
        elif kind == "tar":
            yield from _read_members(_tar_members(stream, meter), where, limits)
        elif packing:  # whole, so that its check sum was compared before anything of it is used
            yield from _read_text(_held(stream, meter), kind, where, limits)
        else:
            yield from _read_text(stream, kind, where, limits)


def _read_text(text: BinaryIO, kind: str, where: str, limits: Limits) -> Iterator[Proposed]:
    for suffix, found in FORMATS[kind](text, limits):
        source = shown(where + suffix, limits.name)
        yield Proposed(source, None, found) if isinstance(found, str) else Proposed(source, found)


def _held(stream: Any, meter: _Meter, size: int | None = None) -> BinaryIO:
    """Unpack a stream, or so many bytes of it, to memory, in chunks that are counted."""
    held = io.BytesIO()
    while chunk := stream.read(CHUNK if size is None else min(CHUNK, size - held.tell())):
        meter.count(len(chunk))
        if held.tell() + len(chunk) > meter.limits.file_bytes:
            raise StructureError(f"It unpacks to more than {size_of(meter.limits.file_bytes)}, and is not read.")
        held.write(chunk)
    held.seek(0)
    return held


@dataclass(frozen=True)
class _Member:
    """A member of an archive that may be a structure file: its content, or why it is not read."""

    name: str
    content: BinaryIO | None
    problem: str = ""


def _read_members(members: Iterable[_Member], archive: str, limits: Limits) -> Iterator[Proposed]:
    for member in members:
        where = f"{archive}:{member.name}"
        if member.content is None:
            yield Proposed(shown(where, limits.name), None, member.problem)
        else:
            yield from _read_text(member.content, _kind(member.name)[0], where, limits)


def _outside(name: str, mode: int, *, locked: bool = False) -> tuple[bool, str]:
    """Tell by the outside of a member whether it is of interest, and why it is not read nevertheless."""
    kind, packing = _kind(name)
    if problem := _bad_name(name):
        return True, problem
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return True, "It is a link, a device or the like within an archive, which is not read."
    if not kind or stat.S_ISDIR(mode) or name.endswith("/") or re.split(r"[/\\]", name)[-1] == TRAJECTORIES:
        return False, ""
    if packing or kind in _ARCHIVES:
        return True, "It is packed, within an archive, and is not opened; unpack the outer archive first."
    return True, "It is locked by a password, and is not read." if locked else ""


def _zip_members(meter: _Meter) -> Iterator[_Member]:
    file, limits = meter.file, meter.limits
    file.most = max(2**17, 256 * limits.members)  # zipfile takes the list at one go, however long that claims to be
    with zipfile.ZipFile(file) as archive:
        file.taken = 0
        members = archive.infolist()
        if len(members) > limits.members:
            raise ArchiveError(f"It holds more than {limits.members:,} members, and is not read.")
        for info in members:
            wanted, problem = _outside(info.filename, info.external_attr >> 16, locked=bool(info.flag_bits & 1))
            if not wanted:
                continue
            content = None
            if not problem and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                problem = "It is packed by a method that is not read; deflate is."  # others unpack without bound
            if not problem:
                try:
                    with archive.open(info) as packed:
                        content = _held(packed, meter)
                except StructureError as error:
                    problem = str(error)
                except BROKEN as error:
                    problem = f"It is damaged within the archive ({said(error)})."
            yield _Member(info.filename, content, problem)


_TAR_MODES = {tarfile.DIRTYPE: stat.S_IFDIR, **dict.fromkeys(tarfile.REGULAR_TYPES, stat.S_IFREG)}
_TAR_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, *tarfile.GNU_TYPES[:2])  # not of sparse
_LONGEST_HEADER = 2**16  # bytes
_MOST_SAID = 100  # of a member, by extended headers


def _tar_members(stream: Any, meter: _Meter) -> Iterator[_Member]:
    """Walk a tar from front to back.

    Not by TarFile: that takes quadratic time for an extended header, which may be as long as memory, and follows
    sizes backwards (CVE-2024-6232 and CVE-2025-8194, in Pythons that are about).
    """
    said: dict[str, str] = {}  # by extended headers, of the member that follows
    number = 0
    while True:
        header = _exactly(stream, tarfile.BLOCKSIZE, meter)
        if not any(header):
            break
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if info.type in _TAR_EXTENDED:
            said |= _tar_extended(info, stream, meter)
            if len(said) > _MOST_SAID:
                raise ArchiveError("It has headers that say more than can be; nothing more of it is read.")
        else:
            number += 1
            if number > meter.limits.members:
                raise ArchiveError(f"It holds more than {number - 1:,} members; nothing more of it is read.")
            yield from _tar_member(info, said, stream, meter)
            said = {}
    while rest := stream.read(CHUNK):  # so that the check sum of what it is packed by is compared
        meter.count(len(rest))


def _exactly(stream: Any, size: int, meter: _Meter) -> bytes:
    found: bytes = stream.read(size)
    meter.count(len(found))
    if len(found) < size:
        raise ArchiveError("It is cut off: the archive's end is missing.")
    return found


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _tar_extended(info: tarfile.TarInfo, stream: Any, meter: _Meter) -> dict[str, str]:
    """Read a header that says of the member after it what has no place in an ordinary one."""
    if not 0 <= info.size <= _LONGEST_HEADER:
        raise ArchiveError("It has a header of a size that cannot be; nothing more of it is read.")
    data = _exactly(stream, info.size + _padding(info.size), meter)[: info.size]
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    said: dict[str, str] = {}
    at = 0
    while info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE) and at < len(data):
        start = data.index(b" ", at, at + 20) + 1
        end = at + int(data[at : start - 1])
        if not start < end <= len(data):
            raise ArchiveError("It has a damaged header; nothing more of it is read.")
        key, _, value = data[start : end - 1].decode("utf-8", "surrogateescape").partition("=")
        said[key] = value
        at = end
    return said


def _tar_member(info: tarfile.TarInfo, said: dict[str, str], stream: Any, meter: _Meter) -> Iterator[_Member]:
    """Yield the member if it is of interest, and leave the stream behind it."""
    name, size = said.get("path", info.name), int(said.get("size", info.size))
    if info.type in tarfile.SUPPORTED_TYPES and info.type not in tarfile.REGULAR_TYPES:
        size = 0  # of links and folders: what they say, nothing follows
    if size < 0 or info.type == tarfile.GNUTYPE_SPARSE:
        raise ArchiveError(f"{quoted(name)} in it has a size that cannot be; nothing more of it is read.")
    wanted, problem = _outside(name, _TAR_MODES.get(info.type, stat.S_IFLNK))
    if wanted and any(key.startswith("GNU.sparse") for key in said):
        problem = problem or "It is stored with gaps left out, which is not read."
    if wanted and size > meter.limits.file_bytes:
        problem = problem or f"It unpacks to more than {size_of(meter.limits.file_bytes)}, and is not read."
    content, left = None, size
    if wanted and not problem:
        content = _held(stream, meter, size)
        left -= content.seek(0, io.SEEK_END)
        content.seek(0)
        if left:
            raise ArchiveError(f"It is cut off within {quoted(name)}.")
    left += _padding(size)
    while left:
        left -= len(_exactly(stream, min(left, CHUNK), meter))
    if wanted:
        yield _Member(name, content, problem)

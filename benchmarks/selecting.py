"""Choosing from large pools, and beside QUESTS, maml and apax: parts of distil.py.

``scale``: up to 1,000,000 frames of 32 nickel atoms, made by several runs of ``potstill sample``, to 1,000 (of smaller
pools a tenth) by farthest points; descriptors included, time and the memory of all processes together.

``rivals``: 25, 50, 100 and 200 of 5,000 frames by each, seconds from the file to the choice, judged by QUESTS' own
entropy and coverage, which no selector of ours uses, by our own descriptors, and by a potential that learnt from the
choice. Three seeds decide what a way draws, and every training. All of it should take an hour on two cores: hence four
selectors of ours, 2,000 steps at each size (half of what the tables have), 500 frames to judge by, and coverage of a
fifth of the pool. Choices are kept in runs/bench/ and rows in results/, each as it ends. A row that says why something
failed stays, unless it was not installed.

``rivals-scale``: 100 of 1,000, 10,000 and 100,000 frames by QUESTS, maml and us, where each ends within five minutes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, RUNS, announce, keep
from distil_page import large, others

from potstill import Dataset
from potstill.checks import errors_on
from potstill.config import ModelConfig, TrainConfig
from potstill.engine import each
from potstill.errors import PotstillError
from potstill.model import FrameFeatures, Whitening
from potstill.model.features import nearest
from potstill.store import digest, read_json, write_json
from potstill.training import descriptor_for, full_steps, train

EAM = "lammps:NiAlH_jea.eam.alloy"
PER_RUN = 100_000  # frames of one sampling
STRIDE = 20  # MD steps between frames: close ones, since their number is what counts here
CHOSEN = 1_000
POOL, SIZES, SEEDS = 5_000, (25, 50, 100, 200), (1, 2, 3)  # of the comparison
STEPS = 2_000  # of its trainings
JUDGED = 500  # frames of other walkers
OURS = ("random", "fps", "cover", "potstill")
FIRST, LEARNING = 25, 60  # frames, at most half, that apax's network learns from before it chooses the others; s
LIMIT, LARGE_LIMIT = 900.0, 300.0  # s that a choice may take, and one from a large pool
LARGE_CHOSEN = 100
MEMORY = 12 * 2**30  # bytes that a program may hold: others use the machine's memory too
ABSENT = "not installed"


def _tree() -> float:
    """Return the memory of this process's descendants, GiB; pages that they share count once each (PSS)."""
    parents, kib = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            for line in (entry / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib[int(entry.name)] = int(line.split()[1])
        except OSError:  # it has ended
            continue
    mine = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(kib.get(p, 0) for p in mine - {os.getpid()}) / 2**20


def watched(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, CPU seconds, and the peak memory of all its processes, GiB."""
    peak, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            peak[0] = max(peak[0], _tree())

    watcher = threading.Thread(target=look)
    watcher.start()
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - ours
    finally:
        ended.set()
        watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu, peak[0]


def _pool(n: int) -> list[Path]:
    """Return files of so many frames together, sampled where they are not there."""
    folder = RUNS / "distil-scale"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in range(1, -(-n // PER_RUN) + 1):
        file = folder / f"pool-{seed:02d}.extxyz"
        if not file.is_file():
            what = ["--element", "Ni", "--potential", EAM, "--atoms", "32", "--temperature", "800:3500"]
            what += ["--frames", str(PER_RUN), "--set", f"sample.stride={STRIDE}", "--seed", str(seed)]
            command = [sys.executable, "-m", "potstill.cli", "sample", *what, "--out", str(folder / f"run-{seed:02d}")]
            seconds, _, peak = watched(command)
            (folder / f"run-{seed:02d}" / "pool.extxyz").rename(file)
            print(f"sampled {PER_RUN:,} frames in {seconds:.0f} s, peak {peak:.1f} GiB", flush=True)
        files.append(file)
    return files


def _copy(file: Path, target: Path, n: int) -> None:
    """Copy the first frames of 32 atoms."""
    with file.open() as source, target.open("w") as out:
        out.writelines(line for _, line in zip(range(34 * n), source, strict=False))


def scale(sizes: list[int]) -> None:
    """Print seconds and memory by pool size."""
    about = announce("distil scale")
    rows: list[dict[str, Any]] = []
    print(f"{'frames':>9s} {'seconds':>8s} {'CPU s':>8s} {'ms a frame':>10s} {'peak GiB':>9s}")
    for n in sizes:
        folder = RUNS / "distil-scale" / f"of-{n}"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for file in _pool(n):
            target = folder / file.name
            if n >= PER_RUN:
                target.symlink_to(file)
            else:
                _copy(file, target, n)
        out = RUNS / "distil-scale" / f"few-{n}.extxyz"
        vectors = out.with_name(out.name + ".run")
        for old in vectors.iterdir() if vectors.is_dir() else ():
            old.unlink()
        few = min(CHOSEN, n // 10)
        words = ["select", str(folder), "-n", str(few), "--selector", "fps", "--stream", "--out", str(out)]
        seconds, cpu, peak = watched([sys.executable, "-m", "potstill.cli", *words])
        rows.append({"frames": n, "chosen": few, "seconds": seconds, "cpu_seconds": cpu, "peak_gib": peak})
        print(f"{n:9,d} {seconds:8.1f} {cpu:8.1f} {1e3 * seconds / n:10.2f} {peak:9.2f}", flush=True)
    keep("distil-scale", about, rows, by=("frames",))


@dataclass(frozen=True)
class Way:
    """A way to choose.

    Attributes
    ----------
    who : str
        What it is called in tables.
    venv : str
        The virtual environment of its library; empty for ours.
    method : str
        What the library calls it.
    drawn : bool
        Whether a seed decides what is chosen.
    """

    who: str
    venv: str
    method: str
    drawn: bool = False


WAYS = (
    *(Way(f"potstill {name}", "", name, name in {"random", "potstill"}) for name in OURS),
    Way("maml DIRECT, our vectors", "maml", "direct"),
    Way("QUESTS msc", "quests", "msc"),
    Way("QUESTS fps", "quests", "fps"),
    Way("apax last layer", "apax", "ll_grad", drawn=True),
)
LARGE = tuple(way for way in WAYS if way.who == "potstill fps" or way.venv in {"maml", "quests"})


def _python(venv: str) -> Path | None:
    path = HERE / ".venvs" / venv / "bin" / "python" if venv else Path(sys.executable)
    return path if path.is_file() else None


@contextmanager
def _bounded() -> Iterator[None]:
    """Let programs that start within it hold so much memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _answers(venv: str, program: str, *words: str | Path, limit: float = LIMIT) -> list[dict[str, Any]]:
    """Return a program's lines of JSON; that it is absent, failed or took too long is the last line."""
    if (python := _python(venv)) is None:
        return [{"failed": ABSENT}]
    cores = str(len(os.sched_getaffinity(0)))
    command = [str(python), str(HERE / program), *map(str, words), "--threads", cores]
    try:
        with _bounded():
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)  # noqa: S603
    except subprocess.TimeoutExpired:
        return [{"failed": f"took longer than {limit:.0f} s"}]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        found.append({"failed": said[-1][:200] if said else f"ended with status {done.returncode}"})
    return found or [{"failed": "said nothing"}]


class Chooser:
    """Choices from one pool, each kept in a folder as it ends.

    Parameters
    ----------
    pool : Dataset
        Labelled where apax is to learn from it.
    folder : path
        Choices are kept in a part of it that is this pool's own.
    limit : float
        s that a program may take.
    """

    def __init__(self, pool: Dataset, folder: Path, limit: float) -> None:
        self.pool, self.limit = pool, limit
        self.folder = folder / digest(pool.keys)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "pool.extxyz"
        if not self.file.is_file():
            pool.without_labels().save(self.file)
        self._failed: dict[Path, dict[str, Any]] = {}

    def place(self, way: Way, n: int, seed: int) -> Path:
        """Return where a choice is kept, one for all seeds where none decides it."""
        return self.folder / f"{way.venv or 'potstill'}-{way.method}-{n}-{seed if way.drawn else 0}.json"

    def choose(self, way: Way, n: int, seed: int) -> dict[str, Any]:
        """Return ``seconds`` and ``chosen``, or why it ``failed``; a failure is not kept on disk."""
        place = self.place(way, n, seed)
        if place.is_file():
            return dict(read_json(place))
        if place not in self._failed:
            by = {"": self._potstill, "maml": self._maml, "quests": self._quests, "apax": self._apax}[way.venv]
            found = by(way.method, n, seed)
            if "failed" not in found:
                write_json(place, found)
                return found
            self._failed[place] = found
        return self._failed[place]

    def _potstill(self, method: str, n: int, seed: int) -> dict[str, Any]:
        words = ["--pool", self.file, "--n", str(n), "--selector", method, "--seed", str(seed)]
        return _answers("", "ours_select.py", "select", *words, limit=self.limit)[-1]

    def _quests(self, method: str, n: int, seed: int) -> dict[str, Any]:
        del seed
        words = ["--pool", self.file, "--n", str(n), "--method", method]
        return _answers("quests", "rivals/quests_.py", "select", *words, limit=self.limit)[-1]

    def _maml(self, method: str, n: int, seed: int) -> dict[str, Any]:
        """Let maml choose by our vectors; reading and describing count, and no choice of ours."""
        del method, seed
        if _python("maml") is None:
            return {"failed": ABSENT}
        vectors, told = self.folder / "vectors.npy", self.folder / "vectors.json"
        if not told.is_file():
            made = _answers("", "ours_select.py", "vectors", "--pool", self.file, "--out", vectors, limit=self.limit)
            if "failed" in made[-1]:
                return made[-1]
            write_json(told, made[-1])
        spent = float(read_json(told)["seconds"])
        words = ["--vectors", vectors, "--n", str(n)]
        found = _answers("maml", "rivals/maml_.py", "select", *words, limit=max(1.0, self.limit - spent))[-1]
        return found if "failed" in found else {**found, "seconds": found["seconds"] + spent}

    def _apax(self, method: str, n: int, seed: int) -> dict[str, Any]:
        """Train apax's network on a few frames by chance, let it choose the others; the seconds are of both."""
        del method
        if _python("apax") is None:
            return {"failed": ABSENT}
        rng = np.random.default_rng(seed)
        first = sorted(rng.choice(len(self.pool), min(FIRST, n // 2), replace=False).tolist())
        known = self.folder / f"first-{len(first)}-{seed}.extxyz"
        model = known.with_name(f"apax-{len(first)}-{seed}")
        if not (trained := model / "trained").is_file():
            self.pool.take(first).save(known)
            shutil.rmtree(model, ignore_errors=True)
            words = ["--data", known, "--test", known, "--seconds", str(LEARNING), "--option", f"seed={seed}"]
            found = _answers("apax", "rivals/apax_.py", "train", *words, "--out", model)
            if "failed" in found[-1]:
                return found[-1]
            trained.touch()
        words = ["--model", model, "--known", known, "--pool", self.file, "--n", str(n - len(first))]
        found = _answers("apax", "rivals/apax_select.py", *words, limit=self.limit)
        if "failed" in found[-1]:
            return found[-1]
        return {"seconds": found[-1]["seconds"] + LEARNING, "chosen": first + found[-1]["chosen"]}


class Kept:
    """Rows of a file of results, written whenever one is put.

    Parameters
    ----------
    name : str
        Of the file.
    about : mapping
        Where and when.
    key : sequence of str
        What tells rows apart; rows without it, of an earlier form of the file, are let go.
    """

    def __init__(self, name: str, about: Mapping[str, Any], key: Sequence[str]) -> None:
        self.about, self.key = about, key
        self.file = HERE / "results" / f"{name}.json"
        rows = read_json(self.file)["rows"] if self.file.is_file() else []
        self.rows: list[dict[str, Any]] = [row for row in rows if all(k in row for k in key)]

    def done(self, *key: Any) -> bool:
        """Whether there is such a row; what was not installed is tried again, another failure stays."""
        return any(self._of(row) == key and row.get("failed") != ABSENT for row in self.rows)

    def put(self, row: dict[str, Any]) -> None:
        """Keep a row in place of an earlier one."""
        self.rows = [r for r in self.rows if self._of(r) != self._of(row)] + [row]
        self.write()

    def write(self) -> None:
        """Write all."""
        write_json(self.file, {**self.about, "rows": self.rows})

    def _of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[k] for k in self.key)


def rivals(source: Path, test: Path) -> None:
    """Keep and print seconds, what is learnt from each choice, and how much it covers."""
    labelled = Dataset.load(source)
    labelled = Dataset(labelled[:: max(1, len(labelled) // POOL)])[:POOL]
    chooser = Chooser(labelled, RUNS / "distil-rivals", LIMIT)
    kept = Kept("distil-rivals", {**announce("distil rivals"), "steps": STEPS}, ("who", "n", "seed"))
    tasks = []
    for seed, n, way in product(SEEDS, SIZES, WAYS):
        if kept.done(way.who, n, seed):
            continue
        row = {"who": way.who, "n": n, "seed": seed}
        found = chooser.choose(way, n, seed)
        print(f"{way.who}, {n} frames, seed {seed}: {found.get('failed') or round(found['seconds'], 1)}", flush=True)
        if "failed" in found:
            kept.put({**row, "failed": found["failed"]})
        else:
            tasks.append(({**row, "seconds": found["seconds"]}, labelled.take(found["chosen"])))
    work = partial(_learn, test=test)
    for (row, _), errors in each(work, tasks, crash=lambda _task: {"failed": "the worker that learnt from it died"}):
        kept.put({**row, **errors})
    order = [way.who for way in WAYS]
    kept.rows.sort(key=lambda row: (row["n"], order.index(row["who"]) if row["who"] in order else -1, row["seed"]))
    kept.write()
    judge(chooser, kept)
    print(others(kept.rows))
    print(f"every number: {kept.file}")


@cache
def _holdout(test: Path) -> Dataset:
    """Return evenly many frames of other walkers."""
    frames = Dataset.load(test)
    return Dataset(frames[:: max(1, len(frames) // JUDGED)])[:JUDGED]


def _learn(task: tuple[dict[str, Any], Dataset], *, test: Path) -> dict[str, Any]:
    """Return the errors, on frames of other walkers, of a potential that learnt from a choice."""
    row, data = task
    settings = TrainConfig()
    settings = settings.model_copy(update={"steps": round(STEPS * settings.steps / full_steps(settings, len(data)))})
    try:
        errors = errors_on(train(data, ModelConfig(), settings, seed=row["seed"]), _holdout(test))
    except (PotstillError, ArithmeticError, ValueError, RuntimeError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
    return {
        "energy": errors.energy_rmse_mev_per_atom,
        "forces": 1e3 * errors.force_rmse_ev_per_angstrom,
        "p99": 1e3 * errors.force_p99,
    }


def judge(chooser: Chooser, kept: Kept) -> None:
    """Add what each choice covers, by our descriptors and by QUESTS; where QUESTS fails, its measures alone lack."""
    ways = {way.who: way for way in WAYS}
    good = [row for row in kept.rows if row["who"] in ways and "failed" not in row]
    rows_of: dict[Path, list[dict[str, Any]]] = {}
    for row in good:
        place = chooser.place(ways[row["who"]], row["n"], row["seed"])
        if place.is_file() and not {"farthest", "entropy"} <= row.keys():
            rows_of.setdefault(place, []).append(row)
    if not rows_of:
        return
    for place, far in _farthest(chooser.pool, list(rows_of)):
        for row in rows_of[place]:
            row["farthest"] = far
    kept.write()
    found = _answers("quests", "rivals/quests_.py", "judge", "--pool", chooser.file, "--chosen", *rows_of, limit=3600)
    for answer in found:
        for row in rows_of.get(Path(answer.get("file", "")), []):
            row.update({k: v for k, v in answer.items() if k != "file"})
    kept.write()
    if "failed" in found[-1]:
        print(f"QUESTS does not judge: {found[-1]['failed']}")


def _farthest(pool: Dataset, places: Sequence[Path]) -> Iterator[tuple[Path, float]]:
    """Yield the 99th percentile of the distance from the pool's atoms to the nearest chosen one, by our descriptors."""
    descriptor = descriptor_for(pool.elements, ModelConfig())
    features = FrameFeatures(descriptor, Whitening.fit(descriptor, pool[::5]))
    atoms = np.concatenate(features.surroundings(list(pool[::5]))).astype(float)
    for place in places:
        x = np.concatenate(features.surroundings(list(pool.take(read_json(place)["chosen"])))).astype(float)
        yield place, float(np.percentile(nearest(atoms, x), 99))


def rivals_scale(sizes: Sequence[int]) -> None:
    """Keep and print the seconds of a choice by the size of the pool."""
    kept = Kept("distil-rivals-scale", announce("distil rivals-scale"), ("who", "frames"))
    for n in sizes:
        left = [way for way in LARGE if not kept.done(way.who, n)]
        if not left:
            continue
        first = RUNS / "distil-scale" / f"first-{n}.extxyz"
        if not first.is_file():
            _copy(_pool(n)[0], first, n)
        chooser = Chooser(Dataset.load(first), RUNS / "distil-rivals", LARGE_LIMIT)
        for way in left:
            found = {k: v for k, v in chooser.choose(way, LARGE_CHOSEN, 1).items() if k != "chosen"}
            kept.put({"who": way.who, "frames": n, "chosen": LARGE_CHOSEN, **found})
            print(f"{way.who}, {n:,} frames: {found.get('failed') or round(found['seconds'], 1)}", flush=True)
    print(large(kept.rows))
    print(f"every number: {kept.file}")

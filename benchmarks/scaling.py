"""How labels scale with workers and walkers with cores, and what that says of sizes that no machine here has.

    python benchmarks/scaling.py              all
    python benchmarks/scaling.py labels       a label that waits: 1 to 16 processes, jobs of parsl, a Slurm of one node
    python benchmarks/scaling.py walkers      the same walkers on one core and on more; as many walkers a core on each

The label waits half a second, as a program elsewhere would, so that more workers than cores can be had; or it waits for
nothing, and then all that is left is what a label costs besides its calculation. The model of N labels of t seconds on
w workers,

    seconds = start + max(rounds (t + o), N d, N c / C)        rounds = N / w, rounded up

has what a worker spends on a label besides its calculation (o), what the driver or parsl's hub spends, whichever is
more (d), and, where driver and workers share the C cores of one machine, all that a label costs of a core (c). Local
workers import the package side by side, so their start is measured for each w and fitted by start = a + b w / C.

Local processes and jobs through parsl have numbers of their own. A crowd of more workers than one machine has exists
only through parsl, so it is predicted by parsl's numbers, and d is measured with as many labels in flight as the
largest crowd has. A worker of a crowd has a core to itself, and so has the driver. What a batch system lets a job wait
is not in it. Every part is kept before the next begins.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import EAM, HERE, RUNS, announce, keep
from waiting import Waiting

from potstill.backends import resolve
from potstill.config import ClusterConfig, SampleConfig
from potstill.crystals import supercell
from potstill.data import Frame
from potstill.engine import cores
from potstill.engine.cluster import AHEAD, Cluster
from potstill.labelling import label
from potstill.sampling import sample
from potstill.store import LabelStore

PAUSE = 0.5  # s
STRONG, WEAK = 192, 16  # labels in all; a worker
FEW, MANY = 2_000, 20_000  # labels that wait for nothing
WORKERS = (1, 2, 4, 8, 16)
ASKED = [(n, t) for n in (1_000, 100_000, 10_000_000) for t in (0.001, 60.0, 1800.0)]  # labels, s each
CROWDS = (10, 100, 1_000, 10_000)  # workers
WALKERS = 8  # of the smallest run, each of as many steps in every run
LEARN, FRAMES, STRIDE = 200_000, 2_000, 100  # a walker: steps, frames, steps between frames


@dataclass(frozen=True)
class Model:
    """What labels cost, see above; in seconds."""

    where: str
    start: float
    start_more: float
    worker: float
    driver: float
    shared: float
    cores: int

    def begins(self, w: int) -> float:
        """Return the start of w workers on this machine."""
        return self.start + self.start_more * w / self.cores

    def of(self, n: int, t: float, w: int, *, crowd: bool = False) -> tuple[float, str]:
        """Return the seconds of n labels, and what binds; a crowd has cores enough."""
        bounds = {"workers": -(-n // w) * (t + self.worker), "driver": n * self.driver}
        if not crowd:
            bounds["cores"] = n * self.shared / self.cores
        binds = max(bounds, key=bounds.__getitem__)
        return self.begins(1 if crowd else w) + bounds[binds], binds


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, of the driver's CPU, and of that of the processes that it began and waited for."""

    wall: float
    cpu: float
    children: float

    def a_label(self, n: int, start: Took) -> Took:
        """Return what a label took, a run of next to none taken off."""
        ours, others = asdict(self), asdict(start)
        return Took(**{k: max(0.0, (ours[k] - others[k]) / n) for k in ours})


class Crowded(Cluster):
    """Sends as many labels ahead as for the largest crowd, whatever works here."""

    @property
    def places(self) -> int:
        """Tasks that it believes to run at a time."""
        return max(CROWDS)


def cells(n: int) -> list[Frame]:
    """Return shaken cells, no two alike."""
    rng, start, found = np.random.default_rng(0), supercell("fcc", "Ni", 11.0, 4), []
    for _ in range(n):
        atoms = start.copy()
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        found.append(Frame.of(atoms))
    return found


def asked(
    n: int,
    workers: int,
    pause: float,
    settings: ClusterConfig | None = None,
    batch: Callable[[ClusterConfig, Path], Cluster] = Cluster,
) -> Took:
    """Label n frames from nothing."""
    frames = cells(n)
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        where = batch(settings, Path(folder) / "cluster") if settings else None
        before = _spent()
        done = label(frames, Waiting(pause), LabelStore(Path(folder) / "labels"), workers=workers, cluster=where)
        after = _spent()
    if len(done.data) != n:
        raise RuntimeError(f"{len(done.failures)} of {n} labels failed")
    return Took(*(late - early for early, late in zip(before, after, strict=True)))


def _spent() -> tuple[float, float, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time(), children.ru_utime + children.ru_stime


def point(kind: str, model: Model, n: int, t: float, w: int, took: Took) -> dict[str, Any]:
    """Print and return a measurement beside what the model says of it."""
    said, binds = model.of(n, t, w)
    spent = took.wall - model.begins(w)
    efficiency = n * t / w / spent if t and spent > 0 else None
    told = f"{'':10}" if efficiency is None else f"{efficiency:10.2f}"
    print(f"{kind:<7} {model.where:<6} {w:7d} {n:7d} {t:5g} {took.wall:7.1f} {said:7.1f} {told}  {binds}", flush=True)
    return {
        "kind": kind,
        "where": model.where,
        "workers": w,
        "labels": n,
        "t": t,
        "seconds": took.wall,
        "model": said,
        "binds": binds,
        "efficiency": efficiency,
    }


def _head(model: Model) -> None:
    print(
        f"{model.where}: start {model.start:.1f} + {model.start_more:.1f} w / {model.cores} s; a label takes "
        f"{1e3 * model.worker:.1f} ms of a worker, {1e3 * model.driver:.2f} ms of driver or hub, "
        f"{1e3 * model.shared:.1f} ms of a core in all"
    )
    print("kind    where  workers  labels   t/s       s   model efficiency  what binds")


def here() -> list[dict[str, Any]]:
    """Measure local processes."""
    asked(1, 1, 0.0)  # what the driver imports is imported
    starts = {w: asked(w, w, 0.0) for w in WORKERS}
    b, a = np.polyfit([w / cores() for w in WORKERS], [s.wall for s in starts.values()], 1)
    each = asked(FEW, 1, 0.0).a_label(FEW, starts[1])
    # One place works or waits for the driver, never both at once, so what a label takes of it is all that it takes.
    model = Model("here", float(a), float(b), each.wall, each.cpu, each.wall, cores())
    rows = [{"kind": "start", "where": "here", "workers": w, "seconds": s.wall} for w, s in starts.items()]
    rows.insert(0, {"kind": "model", **asdict(model)})
    _head(model)
    rows += [point("strong", model, STRONG, PAUSE, w, asked(STRONG, w, PAUSE)) for w in WORKERS[1:]]
    rows += [point("weak", model, WEAK * w, PAUSE, w, asked(WEAK * w, w, PAUSE)) for w in WORKERS]
    rows += [point("no wait", model, FEW, 0.0, w, asked(FEW, w, 0.0)) for w in WORKERS[2::2]]
    return rows


def through_parsl() -> tuple[Model, list[dict[str, Any]]]:
    """Measure jobs of parsl on this machine, and predict what it has no room for; return the model, too."""
    import parsl.concurrent
    import parsl.executors  # noqa: F401 - so that neither is part of the first run

    alone, all_of = (ClusterConfig(provider="local", cores=w, address="127.0.0.1") for w in (1, cores()))
    start = asked(1, 1, 0.0, alone)
    few = asked(FEW, 1, 0.0, alone).a_label(FEW, start)
    many_took = asked(MANY, cores(), 0.0, all_of, Crowded)
    many = many_took.a_label(MANY, start)
    binding = max(many.cpu, many.children)
    # One worker keeps a core busy while driver and hub have others.
    model = Model("parsl", start.wall, 0.0, few.wall, binding, few.wall + many.cpu + many.children, cores())
    flying = {"few": AHEAD, "many": min(MANY, AHEAD * max(CROWDS))}
    told = {"in_flight": flying, "hub": many.children, "driver_cpu": {"few": few.cpu, "many": many.cpu}}
    rows: list[dict[str, Any]] = [{"kind": "model", **asdict(model), **told}]
    for name, took in (("few", few), ("many", many)):
        print(f"{flying[name]:,} in flight: driver {1e3 * took.cpu:.2f}, hub {1e3 * took.children:.2f} ms a label")
    _head(model)
    rows.append(point("strong", model, STRONG, PAUSE, cores(), asked(STRONG, cores(), PAUSE, all_of)))
    rows.append(point("no wait", model, 2 * FEW, 0.0, cores(), asked(2 * FEW, cores(), 0.0, all_of)))
    rows.append(point("no wait", model, MANY, 0.0, cores(), many_took))
    for n, t in ASKED:
        said = {w: model.of(n, t, w, crowd=True) for w in CROWDS}
        hours, binds = ({w: pair[k] for w, pair in said.items()} for k in (0, 1))
        hours = {w: s / 3600 for w, s in hours.items()}
        rows.append({"kind": "predicted", "labels": n, "t": t, "hours": hours, "binds": binds})
        print(f"{n:>10,} labels of {t:g} s: " + ", ".join(f"{w:,} workers {h:.3g} h" for w, h in hours.items()))
    return model, rows


def on_slurm(model: Model) -> list[dict[str, Any]]:
    """Label through jobs of a real Slurm on this machine, where it is installed; only its start is its own."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import slurm

    if missing := slurm.there():
        print(f"no Slurm: {missing}")
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        batch = slurm.Slurm(Path(folder) / "of-one")
        try:
            os.environ.update({name: batch.env[name] for name in ("SLURM_CONF", "PATH")})
            for w in sorted({1, cores()}):
                settings = ClusterConfig(provider="slurm", walltime="00:30:00", cores=w, address="127.0.0.1")
                start = asked(w, w, 0.0, settings).wall
                began = replace(model, where="slurm", start=start)
                print(f"slurm: start {start:.1f} s with {w} workers")
                rows.append(point("strong", began, STRONG // 2, PAUSE, w, asked(STRONG // 2, w, PAUSE, settings)))
        finally:
            batch.stop()
    return rows


def labels(about: Mapping[str, Any]) -> None:
    """Measure labels, and keep each part before the next begins."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))  # for jobs
    rows = here()
    keep("scaling-labels", about, rows)
    model, more = through_parsl()
    keep("scaling-labels", about, [*rows, *more])
    keep("scaling-labels", about, [*rows, *more, *on_slurm(model)])


def walked(walkers: int, workers: int) -> dict[str, float]:
    """Return the MD steps and the seconds of a sampling run, from where the metal at rest is known."""
    settings = SampleConfig(
        element="Ni",
        potential=EAM,
        walkers=walkers,
        learning_steps=LEARN * walkers,  # of all walkers together
        frames=FRAMES * walkers,
        stride=STRIDE,
    )
    began: list[float] = []

    def tell(_line: str) -> None:
        if not began:  # its first line comes when the metal at rest is known
            began.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        made = sample(settings, resolve(EAM, ["Ni"]), seed=1, folder=Path(folder), workers=workers, tell=tell)
        seconds = time.perf_counter() - began[0]
    steps = made.summary["md_steps"]
    return {"md_steps": steps, "seconds": seconds, "steps_per_second": steps / seconds}


def walkers(about: Mapping[str, Any]) -> None:
    """Print and keep the MD steps a second of whole sampling runs.

    Strong scaling has the same eight walkers on every number of cores; weak scaling has eight a core, and learns and
    keeps in proportion. Both have the run on one core in common.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:  # what is compiled is compiled
        short = SampleConfig(element="Ni", potential=EAM, walkers=2, learning_steps=8_000, frames=60, stride=STRIDE)
        sample(short, resolve(EAM, ["Ni"]), seed=1, folder=Path(folder), workers=1, tell=lambda _line: None)
    counts = [w for w in WORKERS if w <= min(WALKERS, cores())]
    base = walked(WALKERS, 1)
    print(f"{'kind':<7} {'walkers':>7} {'workers':>7} {'MD steps':>11} {'s':>7} {'steps/s':>10}  of one worker's")
    for kind in ("strong", "weak"):
        for w in counts:
            n = WALKERS * w if kind == "weak" else WALKERS
            got = base if w == 1 else walked(n, w)
            rows.append({"kind": kind, "walkers": n, "workers": w, **got})
            rate = got["steps_per_second"]
            print(
                f"{kind:<7} {n:7d} {w:7d} {got['md_steps']:11,} {got['seconds']:7.1f} {rate:10,.0f}  "
                f"{rate / base['steps_per_second']:.2f}",
                flush=True,
            )
            keep("scaling-walkers", about, rows)


if __name__ == "__main__":
    known = {"labels": labels, "walkers": walkers}
    RUNS.mkdir(parents=True, exist_ok=True)
    about = announce("scaling")
    for word in sys.argv[1:] or list(known):
        known[word](about)

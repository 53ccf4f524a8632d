"""How long a first training takes, before any loop is compiled, and how long a later one.

    python benchmarks/first_run.py          about four minutes

A training of 50 steps on 40 frames of 32 atoms and a prediction, each row a process of its own: with nothing compiled
and each loop compiled when it is called; with nothing compiled and in the background what is called later; with all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import announce, keep

from potstill import Dataset
from potstill.backends import resolve
from potstill.config import Config
from potstill.crystals import supercell
from potstill.data import Frame, Labels
from potstill.labelling import compute
from potstill.model import ahead
from potstill.training import train

FRAMES, STEPS = 40, 50
ROWS = {"one after the other": False, "side by side": True, "compiled before": True}


def work(side_by_side: bool) -> float:
    """Train and predict in this process; return seconds, those of making frames not among them."""
    if not side_by_side:
        ahead.start = lambda: None
    potential, frames = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"]), []
    for k in range(FRAMES):
        atoms = supercell("fcc", "Ni", 11.0 + 0.05 * k, 32)
        atoms.rattle(0.1, seed=k)
        frame = Frame.of(atoms)
        labels = compute(frame, potential)
        assert isinstance(labels, Labels)
        frames.append(frame.labelled(labels))
    began, settings = time.perf_counter(), Config()
    how = settings.train.model_copy(update={"steps": STEPS})
    train(Dataset(frames), settings.model, how, seed=1).predict(frames)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["work"]:
        print(work(sys.argv[2] == "True"))
        return
    about, rows = announce("first run"), []
    with tempfile.TemporaryDirectory() as folder:
        for name, side_by_side in ROWS.items():
            cache = str(Path(folder) / str(side_by_side))
            done = subprocess.run(  # noqa: S603
                [sys.executable, __file__, "work", str(side_by_side)],
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=True,
            )
            rows.append({"loops": name, "seconds": float(done.stdout.split()[-1])})
            print(f"{name:20s} {rows[-1]['seconds']:7.1f} s", flush=True)
    keep("first-run", about, rows)


if __name__ == "__main__":
    main()

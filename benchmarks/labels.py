"""What the label store and the engine cost beside the calculation: 32-atom nickel cells, labelled by embedded atoms.

    python benchmarks/labels.py            10,000 labels
    python benchmarks/labels.py 1000       fewer

Prints milliseconds a label: the calculation alone in this process, the same through workers and the store (every label
synchronised to the disk before it counts), a second call that finds all of them, and the overhead, which is what a
worker spends on a label besides the calculation.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import RUNS, announce, keep

from potstill.backends import resolve
from potstill.crystals import supercell
from potstill.data import Frame
from potstill.engine import cores
from potstill.labelling import compute, label
from potstill.store import LabelStore

EAM = "lammps:NiAlH_jea.eam.alloy"
ALONE = 1_000  # labels that are timed in this process


def cells(n: int) -> list[Frame]:
    """Return shaken cells, no two alike."""
    rng = np.random.default_rng(0)
    start = supercell("fcc", "Ni", 11.5, 32)
    found = []
    for _ in range(n):
        atoms = start.copy()
        atoms.positions += rng.normal(0.0, 0.15, atoms.positions.shape)
        found.append(Frame.of(atoms))
    return found


def main() -> None:
    """Measure and print."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    RUNS.mkdir(parents=True, exist_ok=True)
    about = announce(f"labels: {n} of them")
    frames, reference = cells(n), resolve(EAM, ["Ni"])
    compute(frames[0], reference)  # the library is loaded
    began = time.perf_counter()
    for frame in frames[:ALONE]:
        compute(frame, reference)
    alone = 1e3 * (time.perf_counter() - began) / min(n, ALONE)
    rows = []
    print(f"{'workers':>8s} {'alone':>8s} {'stored':>8s} {'again':>8s} {'overhead':>9s}   ms a label")
    for workers in sorted({1, cores()}):
        with tempfile.TemporaryDirectory(dir=RUNS) as folder:
            store = LabelStore(Path(folder) / "labels")
            label(frames[:workers], reference, LabelStore(Path(folder) / "first"), workers=workers)
            spent = []
            for _ in range(2):
                began = time.perf_counter()
                label(frames, reference, store, workers=workers)
                spent.append(1e3 * (time.perf_counter() - began) / n)
        overhead = workers * spent[0] - alone
        rows.append({"workers": workers, "alone": alone, "stored": spent[0], "again": spent[1], "overhead": overhead})
        print(f"{workers:8d} {alone:8.2f} {spent[0]:8.2f} {spent[1]:8.2f} {overhead:9.2f}", flush=True)
    keep("labels", about, rows)


if __name__ == "__main__":
    main()

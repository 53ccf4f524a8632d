"""potstill in choosing frames: a program of its own, as each rival is, so that time and memory have the same limits.

    python ours_select.py select --pool POOL.extxyz --n 200 --selector fps --seed 1 --threads 2
    python ours_select.py vectors --pool POOL.extxyz --out VECTORS.npy --threads 2

Both print a line of JSON. Seconds go from the file to the choice, or to one vector a frame. Compilation is apart: a
first choice of two from a few frames pays for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = THREADS

import numpy as np
from ase.io import read

from potstill import Dataset
from potstill.config import ModelConfig
from potstill.data import Frame
from potstill.model import FrameFeatures, Whitening
from potstill.selecting import selector
from potstill.training import descriptor_for

WHITENING_FRAMES = 1_000


def features(pool: Dataset) -> FrameFeatures:
    """Return what describes frames, in the pool's own metric."""
    descriptor = descriptor_for(pool.elements, ModelConfig())
    return FrameFeatures(descriptor, Whitening.fit(descriptor, pool[:: max(1, len(pool) // WHITENING_FRAMES)]))


def select(pool: Dataset, given: argparse.Namespace) -> list[int]:
    """Choose."""
    rng = np.random.default_rng(given.seed)
    found = selector(given.selector).select(pool, given.n, known=Dataset(), committee=features(pool), rng=rng)
    return [int(k) for k in found.indices]


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="potstill's choice, as a program of its own.")
    parser.add_argument("verb", choices=["select", "vectors"])
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--selector", default="potstill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="vectors: where they go")
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    few = Dataset(map(Frame.of, read(given.pool, index=":8")))
    select(few, argparse.Namespace(**{**vars(given), "n": 2}))
    features(few).describe(list(few))
    began = time.perf_counter()
    pool = Dataset.load(given.pool)
    if given.verb == "select":
        chosen = select(pool, given)
        print(json.dumps({"seconds": time.perf_counter() - began, "chosen": chosen}))
        return
    vectors = features(pool).describe(list(pool))
    print(json.dumps({"seconds": time.perf_counter() - began}))
    np.save(given.out, vectors, allow_pickle=False)


if __name__ == "__main__":
    main()

"""QUESTS as a rival in choosing frames, and as the judge of what all have chosen.

    PYTHON quests_.py select --pool POOL.extxyz --n 200 --method msc|fps --threads 2
    PYTHON quests_.py judge --pool POOL.extxyz --chosen A.json B.json --threads 2

Both print JSON, a line a result; a file of a choice holds ``{"chosen": [0, ...]}``. PYTHON is that of its virtual
environment.
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
from quests.compression.compress import DatasetCompressor
from quests.entropy import delta_entropy, diversity, entropy

EVERY = 5  # frames of the pool whose surroundings are looked for: all of them take five times as long
COVERED = 0.0  # nats; QUESTS calls an environment known where its differential entropy is not above this


def compressor(pool: Path) -> DatasetCompressor:
    """Read and describe a pool, as the library's own command does."""
    return DatasetCompressor(read(pool, index=":"))


def select(given: argparse.Namespace) -> None:
    """Choose, compilation apart: a first choice of two from a few frames pays for it."""
    few = DatasetCompressor(read(given.pool, index=":4"))
    few.get_indices(given.method, 2)
    began = time.perf_counter()
    chosen = compressor(given.pool).get_indices(given.method, given.n)
    print(json.dumps({"seconds": time.perf_counter() - began, "chosen": [int(k) for k in chosen]}))


def judge(given: argparse.Namespace) -> None:
    """Say how much the library sees in each choice, and how much of the pool it finds in it."""
    whole = compressor(given.pool)
    everything = np.concatenate(whole.descriptors()[::EVERY])
    for file in given.chosen:
        x = np.concatenate(whole.descriptors(json.loads(Path(file).read_text(encoding="utf-8"))["chosen"]))
        found = {
            "entropy": float(entropy(x)),
            "diversity": float(diversity(x)),
            "covered": float(np.mean(delta_entropy(everything, x) <= COVERED)),
        }
        print(json.dumps({"file": file, **found}), flush=True)


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="QUESTS beside potstill.")
    parser.add_argument("verb", choices=["select", "judge"])
    parser.add_argument("--pool", required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--method", default="msc")
    parser.add_argument("--chosen", nargs="*", default=[])
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    {"select": select, "judge": judge}[given.verb](given)


if __name__ == "__main__":
    main()

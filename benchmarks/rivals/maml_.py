"""maml's DIRECT as a rival in choosing frames.

    PYTHON maml_.py select --vectors POOL.npy --n 200 --threads 2

Its own encoder is a pretrained network whose weights are a download, so it is given one vector a frame: the time that
potstill took to read and describe is added by the caller. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

THREADS = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = THREADS

import numpy as np
from maml.sampling.clustering import BirchClustering
from maml.sampling.direct import DIRECTSampler


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="maml beside potstill.")
    parser.add_argument("verb", choices=["select"])
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    X = np.load(given.vectors, allow_pickle=False)
    began = time.perf_counter()
    sampler = DIRECTSampler(structure_encoder=None, clustering=BirchClustering(n=given.n, threshold_init=0.05))
    chosen = sampler.fit_transform(X)["selected_indexes"]
    print(json.dumps({"seconds": time.perf_counter() - began, "chosen": [int(k) for k in chosen]}))


if __name__ == "__main__":
    main()

"""apax as a rival in choosing frames: batch selection by the gradients of its last layer.

    PYTHON apax_select.py --model FOLDER --known KNOWN.extxyz --pool POOL.extxyz --n 175 --threads 2

Zaverkin, Holzmüller, Steinwart and Kästner, Digital Discovery 1, 605 (2022), as the library does it: the frame that is
farthest in the features of the last layer from all that were chosen, one after the other. ``FOLDER`` holds a model that
``apax_.py train`` trained on the labelled frames of KNOWN. Prints JSON. PYTHON is that of its virtual environment.
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
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from pathlib import Path

from apax.bal.api import kernel_selection
from ase.io import read


def main() -> None:
    """Choose, and print seconds and which."""
    parser = argparse.ArgumentParser(description="apax's choice beside potstill's.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--threads", default="1")
    given = parser.parse_args()
    began = time.perf_counter()
    features = {"name": "ll_grad", "layer_name": "dense_2"}  # its own default
    known, pool = read(given.known, index=":"), read(given.pool, index=":")
    chosen, *_ = kernel_selection(
        given.model.resolve(), known, pool, features, "max_dist", selection_batch_size=given.n
    )
    print(json.dumps({"seconds": time.perf_counter() - began, "chosen": [int(k) for k in chosen]}))


if __name__ == "__main__":
    main()

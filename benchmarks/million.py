"""A million atoms in LAMMPS with a trained committee, on one process and on as many as there are cores.

    python benchmarks/million.py --model runs/demo/2-distil/model

Five minutes, most of them the one process. examples/lammps_million.py is what runs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from common import HERE, announce, keep

TOLD = {
    "atoms": r"^(\d+) atoms",
    "us": r"time: +([\d.]+) µs",
    "kelvin": r"at (\d+) K",
    "gib": r"memory: ([\d.]+) GiB",
}


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="A million atoms in LAMMPS.")
    parser.add_argument("--model", default="runs/demo/2-distil/model")
    parser.add_argument("--atoms", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    about = announce("million")
    rows = []
    for processes in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
        command = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(processes)]
        command += [sys.executable, "examples/lammps_million.py", "--model", str(given.model)]
        command += ["--atoms", str(given.atoms), "--steps", str(given.steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        done = subprocess.run(  # noqa: S603 - a program of this repository
            command, check=True, capture_output=True, text=True, cwd=HERE.parent, env=environment
        )
        found = {key: re.search(pattern, done.stdout, re.MULTILINE) for key, pattern in TOLD.items()}
        rows.append({"processes": processes, **{key: float(match[1]) for key, match in found.items() if match}})
        print(rows[-1], flush=True)
    keep("million", about, rows, by=("processes",))


if __name__ == "__main__":
    main()

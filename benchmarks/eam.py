"""Embedded atoms through LAMMPS, for scale: a step of its own NPT, as `potstill sample --ensemble npt-ladder` runs it.

Takes the words of rivals/harness.py's ``infer``. A step holds energy, forces, virial, LAMMPS's own list of neighbours
and the integration; it is the slope between a run and one twice as long, so that nothing of their beginnings counts.
"""

from __future__ import annotations

from rivals import harness

# isort: split
# above numpy, because it sets threads and cores

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.io import read
from common import EAM

from potstill import resolve
from potstill.protocols import State

STATE = State(300.0, 0.0)
BLOCKS = 3


def seconds_of(atoms: Atoms, steps: int) -> float:
    """Return the wall time of a run."""
    began = time.perf_counter()
    for _frame in resolve(EAM).dynamics(atoms, [(STATE, steps, steps)], timestep=2.0, seed=1):
        pass
    return time.perf_counter() - began


def infer(atoms: Atoms, seconds: float) -> dict[str, float]:
    """Time a step of MD, and the first energy, forces and stress of a structure, and of another one after it."""
    calculator = resolve(EAM).calculator()
    strained = atoms.copy()
    strained.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
    began = time.perf_counter()
    calculator.calculate(atoms, list(harness.PROPERTIES))
    cold = time.perf_counter() - began
    began = time.perf_counter()
    calculator.calculate(strained, list(harness.PROPERTIES))
    first = time.perf_counter() - began
    steps, longer = 10, seconds_of(atoms, 20)
    rough = max(1e-6, longer - seconds_of(atoms, 10)) / 10
    steps = max(10, round(seconds / BLOCKS / 3 / rough))
    slopes = [(seconds_of(atoms, 2 * steps) - seconds_of(atoms, steps)) / steps for _ in range(BLOCKS)]
    n = len(atoms)
    return {
        "us_per_atom": 1e6 * statistics.median(slopes) / n,
        "first_us_per_atom": 1e6 * first / n,
        "cold_seconds": cold,
        "steps": steps,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="Time embedded atoms through LAMMPS.")
    parser.add_argument("verb", choices=["infer"])
    parser.add_argument("--structure", type=Path, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(words)
    for path in given.structure:
        atoms = read(path)
        print(json.dumps({"atoms": len(atoms), **infer(atoms, given.seconds), "rss_mib": harness.rss()}), flush=True)


if __name__ == "__main__":
    main()

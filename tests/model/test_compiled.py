"""A first run, whose loops are compiled, gives the digits of later runs, which find them on the disk."""

import os
import subprocess
import sys

SAMPLE = """
from potstill.config import SampleConfig
from potstill.sampling import sample
quick = dict(walkers=2, learning_steps=8_000, frames=60, stride=100, temperature=(1000, 3000))
made = sample(SampleConfig(**quick), EAM, seed=1, folder=Path(sys.argv[1]), workers=2, tell=print)
made.pool.save(Path(sys.argv[1]) / "result")
"""
LEARN = """
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import supercell
from potstill.data import Dataset, Frame
from potstill.labelling import compute
from potstill.model import FrameFeatures, Whitening, ahead
from potstill.training import descriptor_for, train
frames = []
for k in range(6):
    atoms = supercell("fcc", "Ni", 11.0 + 0.2 * k, 32)
    atoms.rattle(0.1, seed=k)
    frame = Frame.of(atoms)
    frames.append(frame.labelled(compute(frame, EAM)))
committee = train(Dataset(frames), ModelConfig(), TrainConfig(steps=3), seed=1)
FrameFeatures(committee.descriptor, committee.whitening).equations(frames)
told = [repr(a) for p in committee.predict(frames) for a in (p.energy.tolist(), p.forces.tolist(), p.virial.tolist())]
(Path(sys.argv[1]) / "result").write_bytes("".join(told).encode())
begun = ahead.start()
assert begun is None or begun.wait() == 0
assert not ahead.missing()
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


def test_training_and_inference_with_what_is_compiled_ahead_of_them(tmp_path):
    results, made = twice(LEARN, tmp_path)
    assert results[0] == results[1]
    assert made[0] == made[1] > 1
    loops = list((tmp_path / "machine-code").rglob("*.nbi"))
    assert len(loops) == made[0]  # ahead of time, the same arguments were meant as in time


MEET = """
import sys
import numpy as np
from potstill import compiled
real, count = compiled.subprocess.run, []
def run(*args, **options):
    count.append(1)
    return real(*args, **options)
compiled.subprocess.run = run
from potstill.model.neighbours import find
print(sys.stdin.readline().strip())
find(np.zeros((1, 3)), 2.5 * np.eye(3), (True, True, True), np.zeros(1, np.int32), 3.0)
print(len(count))
"""


def test_who_comes_while_another_compiles_waits_for_it(tmp_path):
    def begin(folder):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / folder)}
        return subprocess.Popen(
            [sys.executable, "-c", MEET], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    alone = int(begin("alone").communicate("go\n")[0].split()[-1])
    both = [begin("both"), begin("both")]
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    assert alone > 0
    assert sum(int(one.communicate()[0].split()[-1]) for one in both) == alone

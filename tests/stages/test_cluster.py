"""Labels on the nodes of a batch system: a real Slurm of one node; jobs cancelled, timed out, drivers killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.build import bulk

from potstill.data import Dataset, Frame

sys.path.insert(0, str(Path(__file__).parents[1]))
import slurm as own_slurm
from counting import computed

pytest.importorskip("parsl")

DRIVER = """
import sys
from pathlib import Path
from counting import Counting
from potstill.config import ClusterConfig
from potstill.data import Dataset
from potstill.engine.cluster import Cluster
from potstill.label import label
from potstill.store import LabelStore

if __name__ == "__main__":
    root, walltime, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    settings = ClusterConfig(provider="slurm", walltime=walltime, cores=2, drain="00:00:00", address="127.0.0.1")
    cluster = Cluster(settings, root / "cluster", heartbeat=8)
    frames = list(Dataset.load(root / "frames.extxyz"))
    found = label(frames, Counting(root, pause), LabelStore(root / "labels"), cluster=cluster, tell=print)
    print("labelled", len(found.data), "failed", len(found.failures))
"""


def frames(n: int) -> Dataset:
    made = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        made.append(Frame.of(atoms))
    return Dataset(made)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if missing := own_slurm.there():
        assert not os.environ.get("CI"), f"{missing}, and CI must not go without"
        pytest.skip(missing)
    cluster = own_slurm.Slurm(tmp_path_factory.mktemp("slurm") / "of-one")
    yield cluster
    cluster.stop()


class Run:
    """A driver in a process of its own."""

    def __init__(self, root: Path, slurm, n: int, *, walltime="00:05:00", pause=0.2) -> None:
        self.root, self.slurm, self.n, self.words = root, slurm, n, [str(root), walltime, str(pause)]
        frames(n).save(root / "frames.extxyz")
        (root / "driver.py").write_text(DRIVER)
        tests = str(Path(__file__).parents[1])
        self.env = {**slurm.env, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}

    def begin(self) -> subprocess.Popen:
        out = (self.root / "driver.log").open("ab")
        return subprocess.Popen(
            [sys.executable, "driver.py", *self.words], cwd=self.root, env=self.env, stdout=out, stderr=out
        )

    def finish(self) -> None:
        driver = self.begin()
        assert driver.wait(timeout=300) == 0, (self.root / "driver.log").read_text()[-3000:]

    def until(self, n: int) -> None:
        """Wait for so many labels in the store."""
        end = time.monotonic() + 120
        while self.n_labels < n:
            assert time.monotonic() < end, (self.root / "driver.log").read_text()[-3000:]
            time.sleep(0.1)

    @property
    def n_labels(self) -> int:
        return sum(1 for _ in (self.root / "labels").rglob("*.json")) if (self.root / "labels").exists() else 0

    def judge(self) -> None:
        """All are there, and none was computed again after it was committed."""
        assert f"labelled {self.n} failed 0" in (self.root / "driver.log").read_text().splitlines()[-1]
        begun, again = computed(self.root)
        assert begun >= self.n
        assert again == 0


def test_a_job_cancelled_and_a_driver_killed_cost_what_is_in_flight(slurm, tmp_path):
    run = Run(tmp_path, slurm, 60)
    driver = run.begin()
    run.until(10)
    slurm("scancel", "--user=root")
    run.until(25)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    run.finish()
    run.judge()


def test_a_job_that_runs_out_of_time_is_followed_by_another(slurm, tmp_path):
    run = Run(tmp_path, slurm, 100, walltime="00:01:00", pause=1.5)
    run.finish()
    run.judge()
    assert len(list((tmp_path / "cluster").rglob("*.submit"))) >= 2

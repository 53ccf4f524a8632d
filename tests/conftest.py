"""What several test files share: where things lie, a few frames of nickel, and how hypothesis behaves."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import settings

from potstill.data import Dataset, Frame, Origin

settings.register_profile("potstill", deadline=None, max_examples=50, database=None)
settings.load_profile("potstill")

_REPO = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    """Begin with the tests that wait for a batch system, so that nothing waits for them at the end."""
    items.sort(key=lambda item: item.path.name != "test_cluster.py")


def pytest_pyfunc_call(pyfuncitem):
    """What is marked `two_threads` runs in a process of its own where this one may have only one."""
    if not pyfuncitem.get_closest_marker("two_threads") or numba.config.NUMBA_NUM_THREADS > 1:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{_REPO}/{pyfuncitem.nodeid}"]
    env = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=_REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, done.stdout
    return True


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return _REPO


@pytest.fixture
def short_rounds(monkeypatch) -> None:
    """Sampling ends soon after the frames it is asked for, also by a potential that is slow."""
    monkeypatch.setattr("potstill.sampling.campaign.ROUND", (500, 1_000))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data, which is optional everywhere."""
    folder = (_REPO / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"the shared real data are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The directory of a whole run of tests/pipeline/tiny.toml, made once for all processes of the tests."""
    common = tmp_path_factory.getbasetemp()
    common = common.parent if "PYTEST_XDIST_WORKER" in os.environ else common
    out = common / "tiny"
    with (common / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [
            sys.executable,
            "-m",
            "potstill.cli",
            "run",
            str(_REPO / "tests/pipeline/tiny.toml"),
            "--out",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def nickel() -> Callable[..., Dataset]:
    """Maker of n shaken four-atom fcc cells, no two alike, dealt to trajectories block by block."""

    def make(n: int = 4, *, trajectories: int = 1, seed: int = 0, element: str = "Ni") -> Dataset:
        rng = np.random.default_rng(seed)
        frames = []
        for k in range(n):
            atoms = bulk(element, "fcc", a=3.52, cubic=True)
            atoms.positions += rng.normal(0.0, 0.08, atoms.positions.shape)
            t = k * trajectories // n
            frames.append(Frame.of(atoms, Origin("npt", f"run-{t}", 300.0 + 100.0 * t, 0.0, k)))
        return Dataset(frames)

    return make


@pytest.fixture(scope="session")
def nickel_frame() -> Frame:
    """One four-atom fcc cell."""
    return Frame.of(bulk("Ni", "fcc", a=3.52, cubic=True))

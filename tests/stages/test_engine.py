"""Work in other processes: nothing lost, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from potstill.engine import cores, each, local_processes
from potstill.errors import BackendError

PATIENCE = 30.0  # s; how long killed things may take to vanish before that counts as never

DRIVER = """
import os, sys, time
from pathlib import Path
from potstill.engine import each

def work(k):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(each(work, range(4), workers=2))
"""


def square(x: int) -> int:
    return x * x


def square_unless_odd_luck(x: int) -> int:
    if x == 7:
        raise ValueError("seven is refused")
    return x * x


def square_or_die(x: int) -> int:
    if x in (3, 9):
        os._exit(9)
    return x * x


def die_at_first(marker: str) -> str:
    """Kill the worker once; a second attempt goes well."""
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(9)
    return "done"


def threads(_item: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def eventually(holds) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return holds()


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 25])
def test_every_item_comes_back_once_with_its_result(n, workers):
    assert sorted(each(square, range(n), workers=workers)) == [(x, x * x) for x in range(n)]


def test_work_runs_in_other_processes_with_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert [t for _, t in each(threads, [0], workers=1)] == ["1"]
    with local_processes(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


COMPILES = """
import os, sys
import numba
import numpy as np
from potstill.engine import each, local_processes

@numba.njit(parallel=True)
def shared(x):
    total = 0.0
    for k in numba.prange(len(x)):
        total += x[k]
    return total

@numba.njit
def alone(x):
    return x + 1

def numba_threads(_item):
    shared(np.ones(8))
    return numba.get_num_threads()

if __name__ == "__main__":
    if "first" in sys.argv:
        shared(np.ones(8))
    with local_processes(1) as pool:
        pool.submit(abs, -1).result()
        shared(np.ones(8))
        alone(1)
        print(numba.get_num_threads())
    alone(1.0)
    print([t for _, t in each(numba_threads, [0], workers=1)])
"""


@pytest.mark.parametrize("when", ["first", "within"])
def test_numba_compiles_beside_workers_and_after_them(tmp_path, when):
    (tmp_path / "compiles.py").write_text(COMPILES)
    env = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, str(tmp_path / "compiles.py"), when]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["2", "[1]"]


def test_items_are_pulled_as_places_come_free():
    pulled = []

    def long_list():
        for k in range(1000):
            pulled.append(k)
            yield k

    results = each(square, long_list(), workers=2)
    next(results)
    assert len(pulled) < 20
    results.close()


def test_an_exception_of_the_work_reaches_the_caller():
    with pytest.raises(ValueError, match="seven is refused"):
        list(each(square_unless_odd_luck, range(10), workers=2))


def test_an_exception_of_the_work_is_not_taken_for_a_crash():
    with pytest.raises(ValueError, match="seven is refused"):
        list(each(square_unless_odd_luck, range(10), workers=2, crash=lambda x: -x))


def test_items_that_kill_their_worker_are_found_and_all_others_complete():
    blamed = []

    def crash(x: int) -> int:
        blamed.append(x)
        return -x

    results = sorted(each(square_or_die, range(12), workers=2, crash=crash))
    assert results == [(x, -x if x in (3, 9) else x * x) for x in range(12)]
    assert sorted(blamed) == [3, 9]


def test_an_item_that_kills_its_worker_only_once_gets_a_result(tmp_path):
    marker = str(tmp_path / "marker")
    assert list(each(die_at_first, [marker], workers=1, crash=lambda _: "blamed")) == [(marker, "done")]


def test_without_a_word_on_crashes_they_are_a_backend_error():
    with pytest.raises(BackendError, match="died twice"):
        list(each(square_or_die, [3], workers=1))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to cores")
def test_cores_is_what_this_process_may_use():
    bound = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    asked = f"{bound}; from potstill.engine import cores; print(cores())"
    seen = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True)
    assert int(seen.stdout) == 1
    assert cores() == len(os.sched_getaffinity(0))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to watch processes")
def test_workers_die_when_their_driver_is_killed(tmp_path):
    script, seen = tmp_path / "driver.py", tmp_path / "pids"
    script.write_text(DRIVER)
    seen.mkdir()
    driver = subprocess.Popen([sys.executable, str(script), str(seen)])
    try:
        assert eventually(lambda: len(list(seen.iterdir())) == 2)
        workers = [int(p.name) for p in seen.iterdir()]
        assert all(map(alive, workers))
        assert driver.pid not in workers
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert eventually(lambda: not any(map(alive, workers)))

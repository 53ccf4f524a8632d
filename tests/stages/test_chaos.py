"""Labels are never lost: drivers and workers killed at any moment, disks that fill up, references that misbehave."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from counting import FAULTS, Counting, Run, frames
from potstill.data import Failure
from potstill.errors import StoreError
from potstill.labelling import label
from potstill.store import LabelStore

KILLS = 20
DRIVER = """
import sys
from pathlib import Path
from counting import Counting
from potstill.data import Dataset
from potstill.labelling import label
from potstill.store import LabelStore

if __name__ == "__main__":
    root = Path(sys.argv[1])
    frames = list(Dataset.load(root / "frames.extxyz"))
    found = label(frames, Counting(root, float(sys.argv[2])), LabelStore(root / "labels"), workers=2)
    print("labelled", len(found.data))
"""
REASONS = {
    "not-converged": "not-converged",
    "crash": "crash",
    "hang": "time-out",
    "nan": "not-finite",
    "garbage": "not-finite",
}


def children(pid: int) -> list[int]:
    told = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in told.split()]


@pytest.mark.timeout(900)
def test_kill_after_kill_no_label_is_lost_or_made_again(tmp_path):
    run, luck = Run(tmp_path, DRIVER, 200), random.Random(5)
    for k in range(KILLS):
        known = run.n_labels
        drivers = [run.begin(0.15) for _ in range(1 + (k % 4 == 3))]  # now and then two on one store
        run.until(known + 1)
        assert all(driver.poll() is None for driver in drivers), run.told
        if k % 3 == 2:
            while len(workers := children(drivers[0].pid)) < 2:  # the label was of a dead driver's last worker
                time.sleep(0.05)
            os.kill(luck.choice(workers), signal.SIGKILL)  # a worker first
        if k == 10:  # what a power cut can leave behind
            entry = next((tmp_path / "labels").rglob("*.json"))
            entry.write_bytes(entry.read_bytes()[:100])
        with suppress(subprocess.TimeoutExpired):
            drivers[0].wait(timeout=luck.uniform(0.0, 0.6))
        for driver in drivers:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
    run.finish(0.0)
    run.judge()


def test_a_tenth_of_labels_fail_in_all_ways_and_none_of_them_is_in_the_data(tmp_path):
    asked = frames(100)
    faulty = {key: FAULTS[k // 2] for k, key in enumerate(asked.keys[::10])}
    store = LabelStore(tmp_path / "labels")
    found = label(list(asked), Counting(tmp_path, 0.0, faulty), store, workers=2, retries=1, timeout=3.0)
    assert found.data.keys == [key for key in asked.keys if key not in faulty]
    assert {f.frame: f.reason for f in found.failures} == {key: REASONS[fault] for key, fault in faulty.items()}
    assert all(f.message for f in found.failures)
    kept = {e.frame.key: e.result for e in store.entries()}
    assert {key for key, result in kept.items() if isinstance(result, Failure)} == set(faulty)


def test_a_full_disk_is_told_and_costs_nothing_once_there_is_room(tmp_path):
    place = tmp_path / "labels"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        assert not os.environ.get("CI"), f"no small file system, and CI must not go without: {mounted.stderr}"
        pytest.skip("a small file system can be mounted by root only")
    try:
        asked, potential = list(frames(60)), Counting(tmp_path)
        with pytest.raises(StoreError, match=r"No space left.*labels"):
            label(asked, potential, LabelStore(place), workers=2)
        whole = LabelStore(place)
        assert 0 < len(list(whole.entries())) < 60
        assert not whole.set_aside
        subprocess.run(["mount", "-o", "remount,size=4m", place], check=True)
        done = len(whole)
        again = label(asked, potential, LabelStore(place), workers=2)
        assert (len(again.data), again.reused) == (60, done)
        assert not list(place.rglob("*.tmp*"))
    finally:
        subprocess.run(["umount", place], check=True)

"""A potential that notes what it computes and can misbehave, and drivers that label with it, to be killed by tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from potstill.data import Dataset, Frame
from potstill.errors import ConvergenceError
from potstill.store import LabelStore
from potstill.store.labels import label_key

SOURCE = "counting:1"
MOMENT = 0.1  # s; a label that was committed within it may have been on its way to whoever computed it again
FAULTS = ("not-converged", "crash", "hang", "nan", "garbage")


@dataclass(frozen=True)
class Counting:
    """ASE's EMT with a line in ``root/log`` for each calculation; the store of labels is ``root/labels``.

    ``faulty`` are keys of frames and what goes wrong with them, one of :data:`FAULTS`.
    """

    root: Path
    pause: float = 0.0
    faulty: Mapping[str, str] | None = None
    fingerprint: str = SOURCE
    elements: tuple[str, ...] = ("Al", "Cu", "Ni")

    def calculator(self, workdir=None):
        return _Noting(self)


class _Noting(EMT):
    def __init__(self, potential: Counting) -> None:
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        root, frame = self.potential.root, Frame.of(atoms)
        entry = Path(LabelStore(root / "labels").shelf.where(label_key(frame, SOURCE)))
        known = entry.exists() and entry.stat().st_mtime < time.time() - MOMENT
        line = json.dumps({"key": frame.key, "known": known}) + "\n"
        with os.fdopen(os.open(root / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb") as out:
            out.write(line.encode())
        time.sleep(self.potential.pause)
        super().calculate(atoms, properties, system_changes)
        self._misbehave((self.potential.faulty or {}).get(frame.key))

    def _misbehave(self, fault: str | None) -> None:
        if fault == "not-converged":
            raise ConvergenceError("the density went round in circles")
        if fault == "crash":
            os._exit(139)
        if fault == "hang":
            time.sleep(600)
        if fault == "nan":
            self.results["forces"] = self.results["forces"] * np.nan
        if fault == "garbage":
            self.results["forces"] = np.zeros((2, 2))


def identity(x: int) -> int:
    return x


def threads(_item: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def die_if_seven(x: int) -> int:
    if x == 7:
        os._exit(9)
    return x


def sleep_unless_zero(seconds: int) -> int:
    time.sleep(seconds)
    return seconds


def frames(n: int) -> Dataset:
    """Return so many frames of four rattled atoms."""
    made = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=k)
        made.append(Frame.of(atoms))
    return Dataset(made)


class Run:
    """Drivers in processes of their own, on one store and one log.

    ``script`` finds the folder in ``sys.argv[1]``, and ends by printing how many it ``labelled``.
    """

    def __init__(self, root: Path, script: str, n: int, env: Mapping[str, str] = os.environ) -> None:
        self.root, self.n = root, n
        frames(n).save(root / "frames.extxyz")
        (root / "driver.py").write_text(script)
        places = [str(Path(__file__).parent), env.get("PYTHONPATH", "")]
        self.env = {**env, "PYTHONPATH": os.pathsep.join(filter(None, places))}

    def begin(self, *words: object) -> subprocess.Popen:
        command = [sys.executable, "driver.py", str(self.root), *map(str, words)]
        with (self.root / "driver.log").open("ab") as out:
            return subprocess.Popen(command, cwd=self.root, env=self.env, stdout=out, stderr=out)

    def finish(self, *words: object) -> None:
        assert self.begin(*words).wait(timeout=300) == 0, self.told

    @property
    def told(self) -> str:
        return (self.root / "driver.log").read_text()[-3000:]

    def until(self, n: int) -> None:
        """Wait for so many labels in the store."""
        end = time.monotonic() + 120
        while self.n_labels < n:
            assert time.monotonic() < end, self.told
            time.sleep(0.05)

    @property
    def n_labels(self) -> int:
        return len(LabelStore(self.root / "labels"))

    def judge(self) -> None:
        """All labels are there, and none was computed again after it was committed."""
        assert f"labelled {self.n}" in self.told.splitlines()[-1]
        lines = [json.loads(line) for line in (self.root / "log").read_text().splitlines()]
        assert {line["key"] for line in lines} == set(Dataset.load(self.root / "frames.extxyz").keys)
        assert not [line["key"] for line in lines if line["known"]]

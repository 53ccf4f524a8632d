"""A potential that notes what it computes, and whether that was known already, for tests that count."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ase.calculators.emt import EMT

from potstill.data import Frame
from potstill.store import LabelStore

SOURCE = "counting:1"


@dataclass(frozen=True)
class Counting:
    """ASE's EMT with a line in ``root/log`` for each calculation; the store of labels is ``root/labels``."""

    root: Path
    pause: float = 0.0
    fingerprint: str = SOURCE
    elements: tuple[str, ...] = ("Al", "Cu", "Ni")

    def calculator(self, workdir=None):
        return _Noting(self)


class _Noting(EMT):
    def __init__(self, potential: Counting) -> None:
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        root = self.potential.root
        known = LabelStore(root / "labels").get(Frame.of(atoms), SOURCE) is not None
        line = json.dumps({"key": Frame.of(atoms).key, "known": known, "pid": os.getpid()}) + "\n"
        with os.fdopen(os.open(root / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb") as out:
            out.write(line.encode())
        time.sleep(self.potential.pause)
        super().calculate(atoms, properties, system_changes)


def computed(root: Path) -> tuple[int, int]:
    """Return how many calculations began, and how many of these when their label had been committed."""
    lines = [json.loads(line) for line in (root / "log").read_text().splitlines()]
    return len(lines), sum(line["known"] for line in lines)

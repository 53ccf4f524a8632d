"""A label that waits, for scaling.py: in a module of its own, which workers on any machine can import."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


@dataclass(frozen=True)
class Waiting:
    """Atoms without forces, behind a pause: what a label costs besides its calculation is all that it costs."""

    pause: float
    fingerprint: str = "waiting:2"
    elements: tuple[str, ...] = ("Ni",)

    def calculator(self, _workdir: Path | None = None) -> Calculator:
        """Return one that waits."""
        return _Slow(self.pause)


class _Slow(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Wait, then find nothing."""
        super().calculate(atoms, properties, system_changes)
        time.sleep(self.pause)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}

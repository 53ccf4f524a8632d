"""How to mix densities: steps that pw.x takes until aluminium is self-consistent, crystal, liquid and slab.

    python benchmarks/mixing.py             about ten minutes on a core

Prints for each way of mixing and structure the steps and the seconds. What a label tries first is espresso.LADDER[0].
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.build import fcc100, fcc111
from common import announce, keep
from kpoints import disordered

from potstill.backends import espresso, resolve
from potstill.config import parse_config
from potstill.errors import ConvergenceError

WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain 0.4": {"mixing_mode": "plain", "mixing_beta": 0.4},
    "plain 0.7": {"mixing_mode": "plain", "mixing_beta": 0.7},
    "TF 0.7": {"mixing_mode": "TF", "mixing_beta": 0.7},
    "local-TF 0.4": {"mixing_mode": "local-TF", "mixing_beta": 0.4},
}
MOST_STEPS, VACUUM, RATTLE = 80, 6.0, 0.1  # –, Å, Å


def structures() -> dict[str, Atoms]:
    """Return 16 atoms without order, and two slabs."""
    slabs = {
        "slab, 8 layers": fcc111("Al", (1, 1, 8), a=4.05, vacuum=VACUUM, periodic=True),
        "slab, 2 × 2 × 5": fcc100("Al", (2, 2, 5), a=4.05, vacuum=VACUUM, periodic=True),
    }
    for slab in slabs.values():
        slab.rattle(RATTLE, seed=1)
    return {"disordered": disordered(), **slabs}


def main() -> None:
    """Measure and print."""
    about, rows = announce("mixing"), []
    settings = parse_config({"espresso": {"cutoff": 20.0, "width": 0.1, "k_spacing": 0.35}})
    print(f"{'':16s} {'atoms':>6s} {'mixing':>13s} {'steps':>6s} {'seconds':>8s}")
    for name, atoms in structures().items():
        for way, given in WAYS.items():
            espresso.LADDER = ({**given, "electron_maxstep": MOST_STEPS},)
            with tempfile.TemporaryDirectory() as folder:
                atoms.calc = resolve("espresso", ["Al"], settings).calculator(Path(folder))
                began, steps = time.perf_counter(), None
                try:
                    atoms.get_potential_energy()
                    said = (Path(folder) / "pw.out").read_text(encoding="utf-8")
                    found = re.search(r"convergence has been achieved in\s+(\d+) iterations", said)
                    steps = int(found[1]) if found else None
                except ConvergenceError:
                    pass
                seconds = time.perf_counter() - began
            rows.append({"structure": name, "atoms": len(atoms), "mixing": way, "steps": steps, "seconds": seconds})
            print(f"{name:16s} {len(atoms):6d} {way:>13s} {steps or f'> {MOST_STEPS}':>6} {seconds:8.1f}", flush=True)
    keep("mixing", about, rows)


if __name__ == "__main__":
    main()

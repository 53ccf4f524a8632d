"""A structure as little text, for a page that shows it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

MOST_SHOWN = 200  # atoms of a structure that a page shows in three dimensions


def sketch(atoms: Atoms) -> str | None:
    """Return a structure as a POSCAR of two decimals, atoms within the cell; None for one too large to show."""
    if len(atoms) > MOST_SHOWN:
        return None
    runs = [(element, len(list(run))) for element, run in groupby(atoms.get_chemical_symbols())]
    box = atoms.cell.array.copy()
    for k in np.flatnonzero(~box.any(axis=1)):  # a molecule has no cell, but the format wants one
        box[k, k] = np.ptp(atoms.positions[:, k]) + 1.0
    lines = ["structure", "1.0", *(_row(v) for v in box)]
    lines += [" ".join(e for e, _ in runs), " ".join(str(n) for _, n in runs), "Cartesian"]
    return "\n".join([*lines, *(_row(x) for x in atoms.get_positions(wrap=True))]) + "\n"


def _row(x: np.ndarray) -> str:
    return " ".join(f"{v:.2f}" for v in x)

"""What density-functional codes share that are run as programs, once a structure, each time in a folder of its own.

Which program runs is the machine's to say and not a configuration's: each code has its section in ASE's own
configuration file (``~/.config/ase/config.ini``), with at least ``command``.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from potstill.errors import BackendError, DataError

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 1000  # of a frame that is given to such a code; more never ends
GUARD = ("setpriv", "--pdeathsig", "KILL", "--")  # util-linux: what runs ends when its worker does, also by a crash
SMALL = 16  # atoms; smaller cells are crystals
EXCERPT = 12  # lines of output that a failure quotes


class ExternalCalculator(Calculator, ABC):  # type: ignore[misc]  # ASE is untyped
    """Runs a program once a structure.

    Attributes
    ----------
    folder : path
        Of the program's files; a temporary one is deleted with the calculator.
    """

    implemented_properties = ("energy", "forces", "stress")
    program: str  # as its users call it

    def __init__(self, workdir: Path | None) -> None:
        super().__init__()
        self.folder = workdir or Path(tempfile.mkdtemp(prefix="potstill-dft-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        if workdir is not None:
            self._end.detach()

    def close(self) -> None:
        """Delete temporary files."""
        self._end()

    @abstractmethod
    def solve(self) -> Mapping[str, Any]:
        """Run the program on ``self.atoms``; return ``energy``, ``forces`` and ``stress``."""

    def calculate(
        self, atoms: Any = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Run.

        Raises
        ------
        ConvergenceError
            If the electrons do not become self-consistent.
        BackendError
            If the program fails otherwise.
        DataError
            If the structure is nothing for it.
        """
        super().calculate(atoms, properties, system_changes)
        self._check()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = dict(self.solve())
        if not self.atoms.pbc.all():
            self.results.pop("stress", None)

    def run(self, command: Sequence[str], output: str) -> tuple[int, str]:
        """Run a command in the folder; return its status and what it said, which ``output`` there gets too."""
        if shutil.which(command[0]) is None:
            raise BackendError(f"{self.program} could not be started: there is no program '{command[0]}'.")
        guarded = [*(GUARD if shutil.which(GUARD[0]) else ()), *command]
        file = self.folder / output
        with file.open("wb") as out:
            done = subprocess.run(  # noqa: S603 - the machine's own configuration says what runs
                guarded, cwd=self.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False
            )
        return done.returncode, file.read_text(encoding="utf-8", errors="replace")

    def _check(self) -> None:
        atoms = self.atoms
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            raise DataError("A structure with NaN or infinite positions or cell is nothing to compute.")
        if abs(atoms.cell.volume) < 1e-3:
            raise DataError(
                f"{self.program} needs a cell in all directions; give a molecule or a slab one with vacuum in it."
            )


def k_grid(atoms: Atoms, large: float, small: float) -> tuple[int, int, int]:
    """Return the Monkhorst–Pack grid of points at most so far apart (1/Å, with 2π); 1 where nothing repeats.

    ``small`` is for cells of fewer than :data:`SMALL` atoms, ``large`` for others. Disorder averages over k-points as
    a denser grid does; with as many points for their size, crystals are further off: bcc aluminium by 80 meV/atom
    (benchmarks/kpoints.py).
    """
    spacing = small if len(atoms) < SMALL else large
    lengths = 2 * math.pi * np.linalg.norm(atoms.cell.reciprocal().array, axis=1)
    found = [max(1, math.ceil(b / spacing - 1e-9)) if p else 1 for b, p in zip(lengths, atoms.pbc, strict=True)]
    return found[0], found[1], found[2]


def machine(code: str) -> Mapping[str, str]:
    """Return what ASE's configuration file says of a code on this machine."""
    from ase.config import cfg

    return dict(cfg.parser[code]) if cfg.parser.has_section(code) else {}


def excerpt(text: str) -> str:
    """Return the last lines that say something, with bars between them."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip(" %-=\t")]
    return " | ".join(lines[-EXCERPT:])

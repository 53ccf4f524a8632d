"""Density-functional labels by GPAW with plane waves: recipe ``gpaw``.

The settings are the section ``[gpaw]``. GPAW runs as a program of its own, so what it does to a process (memory, MPI, a
crash) ends with the label. ASE's own configuration file says how, ``command = mpiexec -n 4 gpaw python`` in its section
``[gpaw]``; without it, the Python that runs potstill does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from potstill.backends.external import MOST_ATOMS, ExternalCalculator, excerpt, k_grid, machine
from potstill.config import GpawConfig
from potstill.errors import BackendError, ConvergenceError
from potstill.store import digest

SCRIPT = Path(__file__).with_name("gpaw_run.py")
# Each rung changes how the equations are solved, never what they are: a label does not depend on the rung that made it.
LADDER: Sequence[Mapping[str, Any]] = (
    {"mixer": {"beta": 0.1, "nmaxold": 5, "weight": 50.0}, "iterations": 100, "bands": "130%"},
    {"mixer": {"beta": 0.05, "nmaxold": 5, "weight": 100.0}, "iterations": 200, "bands": "140%"},
    {"mixer": {"beta": 0.02, "nmaxold": 8, "weight": 100.0}, "iterations": 500, "bands": "160%"},
)
INSTALL = (
    "apt-get install libxc-dev libopenblas-dev libfftw3-dev, then pip install gpaw==25.7.0 (without MPI's development "
    "files, set GPAW_CONFIG to a file that says mpi = False), or name a Python that has it in "
    "~/.config/ase/config.ini ([gpaw], command = …)"
)


@dataclass(frozen=True)
class GpawPotential:
    """GPAW with its settings.

    Attributes
    ----------
    settings : GpawConfig
        Cutoff, k-points, smearing, spin, functional.
    setups : tuple of (str, str)
        Each element, and a hash of its PAW setup.
    command : str
        What runs; not part of the fingerprint, nor is the number of its processes.
    version : str
        Of GPAW.
    rung : int
        Of :data:`LADDER`; not part of the fingerprint.
    """

    settings: GpawConfig
    setups: tuple[tuple[str, str], ...]
    command: str
    version: str
    rung: int = 0

    most_atoms: ClassVar[int] = MOST_ATOMS

    @classmethod
    def find(cls, elements: Sequence[str], settings: GpawConfig) -> GpawPotential:
        """Find the program and a setup for each element.

        Raises
        ------
        BackendError
            If something is missing: the message says what to install.
        """
        command = machine("gpaw").get("command") or sys.executable
        names = {e: ".".join(filter(None, (e, settings.setups.get(e), settings.functional))) for e in elements}
        about = _about(command, list(names.values()))
        missing = [name for name in names.values() if not about["setups"].get(name)]
        if missing:
            raise BackendError(
                f"GPAW has no setup {', '.join(missing)}. Name another in gpaw.setups, another functional in "
                "gpaw.functional, or install setups (pip install gpaw-data) and set GPAW_SETUP_PATH to their folder."
            )
        found = tuple((e, about["setups"][name]) for e, name in names.items())
        return cls(settings, found, command, about["version"])

    @cached_property
    def fingerprint(self) -> str:
        """Version, settings and the setups' content."""
        return f"gpaw-{self.version}:{digest([self.settings.model_dump(mode='json'), self.setups])}"

    @property
    def elements(self) -> tuple[str, ...]:
        """Those that it has a setup for."""
        return tuple(element for element, _ in self.setups)

    def safer(self, attempt: int) -> GpawPotential | None:
        """Return the potential to use at this attempt, from 1; None where the ladder has ended."""
        return replace(self, rung=attempt - 1) if attempt <= len(LADDER) else None

    def calculator(self, workdir: Path | None = None) -> GpawCalculator:
        """Return a fresh calculator; without ``workdir`` its files are temporary."""
        return GpawCalculator(self, workdir)


class GpawCalculator(ExternalCalculator):
    """Runs GPAW. Energies are free energies of the smeared electrons, which forces derive from."""

    program = "GPAW"

    def __init__(self, potential: GpawPotential, workdir: Path | None) -> None:
        super().__init__(workdir)
        self.potential = potential

    def solve(self) -> Mapping[str, Any]:
        """Run GPAW."""
        s, a = self.potential.settings, self.atoms
        asked = {
            "atoms": {
                "numbers": a.numbers.tolist(),
                "positions": a.positions.tolist(),
                "cell": a.cell.array.tolist(),
                "pbc": a.pbc.tolist(),
            },
            "k_grid": k_grid(a, s.k_spacing, s.small_k_spacing),
            **s.model_dump(mode="json", exclude={"k_spacing", "small_k_spacing"}),
            **LADDER[self.potential.rung],
        }
        (self.folder / "gpaw.json").write_text(json.dumps(asked), encoding="utf-8")
        answer = self.folder / "result.json"
        answer.unlink(missing_ok=True)
        status, text = self.run([*self.potential.command.split(), str(SCRIPT), "solve"], "output.txt")
        if status or not answer.is_file():
            raise BackendError(f"GPAW ended with status {status}. It said: {excerpt(text)}")
        try:
            found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BackendError(f"What GPAW wrote could not be read ({error}). It said: {excerpt(text)}") from error
        if "not_converged" in found:
            log = (self.folder / "gpaw.txt").read_text(encoding="utf-8", errors="replace")
            raise ConvergenceError(f"GPAW was not self-consistent: {found['not_converged']}. It said: {excerpt(log)}")
        return {"energy": found["energy"], **{k: np.array(found[k], float) for k in ("forces", "stress")}}


def _about(command: str, setups: Sequence[str]) -> dict[str, Any]:
    try:
        done = subprocess.run(  # noqa: S603 - the machine's own configuration says what runs
            [*command.split(), str(SCRIPT), "about", *setups],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=tempfile.gettempdir(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"GPAW's command '{command}' does not run: {error}.") from None
    if "No module named 'gpaw'" in done.stderr:
        raise BackendError(f"The reference 'gpaw' needs GPAW, which '{command}' does not have: {INSTALL}.")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise BackendError(f"'{command}' does not answer as GPAW does: {excerpt(done.stdout + done.stderr)[-300:]}")
    about: dict[str, Any] = json.loads(lines[0])
    return about

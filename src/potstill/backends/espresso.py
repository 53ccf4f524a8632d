"""Density-functional labels by Quantum ESPRESSO's pw.x: recipe ``espresso``.

The settings are the section ``[espresso]``. Which program runs, and where pseudopotentials lie, is the machine's to say
and not the configuration's: ASE's own configuration file (``[espresso]`` with ``command`` and ``pseudo_dir`` in
``~/.config/ase/config.ini``), or else ``pw.x`` of the path and Debian's folders.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from potstill.backends import gth
from potstill.backends.external import EXCERPT, MOST_ATOMS, ExternalCalculator, excerpt, k_grid, machine
from potstill.config import EspressoConfig
from potstill.errors import BackendError, ConvergenceError
from potstill.store import digest, file_digest

if TYPE_CHECKING:
    from ase import Atoms

# Each rung changes how the equations are solved, never what they are: a label does not depend on the rung that made it.
# Plain mixing goes first: 16 atoms of disordered aluminium take it half the steps of local Thomas-Fermi screening
# (benchmarks/mixing.py).
LADDER: Sequence[Mapping[str, Any]] = (
    {"mixing_mode": "plain", "mixing_beta": 0.4, "electron_maxstep": 80},
    {"mixing_mode": "local-TF", "mixing_beta": 0.15, "mixing_ndim": 12, "electron_maxstep": 200},
    {"mixing_mode": "plain", "mixing_beta": 0.05, "mixing_ndim": 12, "diagonalization": "cg", "electron_maxstep": 400},
)
FOLDERS = ("/usr/share/espresso/pseudo",)


@dataclass(frozen=True)
class Pseudopotential:
    """A file for an element.

    Attributes
    ----------
    element, name : str
        Chemical symbol, and the file's name.
    content : str
        A hash of what is in it.
    source : str
        Where it lies; empty where ``text`` is all of it.
    text : str
        What is in it, where it was tabulated from CP2K's table.
    """

    element: str
    name: str
    content: str
    source: str = ""
    text: str = ""

    def put(self, folder: Path) -> None:
        """Write it into a folder."""
        if self.source:
            shutil.copyfile(self.source, folder / self.name)
        else:
            (folder / self.name).write_text(self.text, encoding="utf-8")


@dataclass(frozen=True)
class EspressoPotential:
    """pw.x with its settings.

    Attributes
    ----------
    settings : EspressoConfig
        Cutoffs, k-points, smearing, spin.
    pseudopotentials : tuple of Pseudopotential
        One an element.
    command : str
        What runs; not part of the fingerprint, nor is the number of its processes.
    version : str
        Of pw.x.
    rung : int
        Of :data:`LADDER`; not part of the fingerprint.
    """

    settings: EspressoConfig
    pseudopotentials: tuple[Pseudopotential, ...]
    command: str
    version: str
    rung: int = 0

    most_atoms: ClassVar[int] = MOST_ATOMS

    @classmethod
    def find(cls, elements: Sequence[str], settings: EspressoConfig) -> EspressoPotential:
        """Find the program and a pseudopotential for each element.

        Raises
        ------
        BackendError
            If something is missing: the message says what to install.
        """
        command, folders = _machine()
        files = tuple(_pseudopotential(element, settings, folders) for element in elements)
        return cls(settings, files, command, _version(command))

    @cached_property
    def fingerprint(self) -> str:
        """Version, settings and the pseudopotentials' content."""
        files = [(p.element, p.name, p.content) for p in self.pseudopotentials]
        return f"espresso-{self.version}:{digest([self.settings.model_dump(mode='json'), files])}"

    @property
    def elements(self) -> tuple[str, ...]:
        """Those that it has a pseudopotential for."""
        return tuple(p.element for p in self.pseudopotentials)

    def safer(self, attempt: int) -> EspressoPotential | None:
        """Return the potential to use at this attempt, from 1; None where the ladder has ended."""
        return replace(self, rung=attempt - 1) if attempt <= len(LADDER) else None

    def calculator(self, workdir: Path | None = None) -> PwCalculator:
        """Return a fresh calculator; without ``workdir`` its files are temporary."""
        return PwCalculator(self, workdir)


class PwCalculator(ExternalCalculator):
    """Runs pw.x. Energies are free energies of the smeared electrons, which forces derive from."""

    program = "pw.x"

    def __init__(self, potential: EspressoPotential, workdir: Path | None) -> None:
        super().__init__(workdir)
        self.potential = potential

    def solve(self) -> Mapping[str, Any]:
        """Run pw.x."""
        from ase.io import read

        _write(self.folder / "pw.in", self.atoms, self.potential)
        status, text = self.run([*self.potential.command.split(), "-in", "pw.in"], "pw.out")
        if "convergence NOT achieved" in text:
            raise ConvergenceError(f"pw.x was not self-consistent after its steps. It said: {_last(text)}")
        if status or "JOB DONE" not in text:
            raise BackendError(f"pw.x ended with status {status}. It said: {_last(text)}")
        try:
            found = read(self.folder / "pw.out", format="espresso-out")
            return {
                "energy": found.get_potential_energy(),
                "forces": found.get_forces(apply_constraint=False),
                "stress": found.get_stress(),
            }
        except Exception as error:
            raise BackendError(f"What pw.x wrote could not be read ({error}). It said: {_last(text)}") from error


def _last(text: str) -> str:
    """Return what pw.x said of its trouble, or else its last lines."""
    lines = text.splitlines()
    for k, line in enumerate(lines):
        if "Error in routine" in line:
            return excerpt("\n".join(lines[k : k + EXCERPT]))
    accuracies = [line for line in lines if "estimated scf accuracy" in line or "convergence NOT achieved" in line]
    return excerpt("\n".join(accuracies or lines))


def _write(file: Path, atoms: Atoms, potential: EspressoPotential) -> None:
    from ase.io.espresso import write_espresso_in

    s = potential.settings
    for p in potential.pseudopotentials:
        p.put(file.parent)
    system: dict[str, Any] = {
        "ecutwfc": s.cutoff,
        "ecutrho": s.density_cutoff or 4 * s.cutoff,
        "occupations": "smearing",
        "smearing": s.smearing,
        "degauss": s.width,
    }
    if s.spin:
        system["nspin"] = 2
    atoms = atoms.copy()  # ASE writes initial moments as magnetisations, and turns spin on for moments that bulk() sets
    atoms.set_initial_magnetic_moments([s.spin] * len(atoms))
    grid = k_grid(atoms, s.k_spacing, s.small_k_spacing)
    data = {
        "control": {
            "calculation": "scf",
            "pseudo_dir": ".",
            "outdir": "scratch",
            "tprnfor": True,
            "tstress": True,
            "disk_io": "none",
        },
        "system": system,
        "electrons": {"conv_thr": s.convergence * len(atoms), **LADDER[potential.rung]},
    }
    with file.open("w", encoding="utf-8") as out:
        write_espresso_in(
            out,
            atoms,
            input_data=data,
            pseudopotentials={p.element: p.name for p in potential.pseudopotentials},
            kpts=grid,
            koffset=tuple(int(n % 2 == 0) for n in grid),
        )


def _machine() -> tuple[str, tuple[str, ...]]:
    """Return the command and the folders of pseudopotentials of this machine."""
    section = machine("espresso")
    command = section.get("command") or shutil.which("pw.x")
    if not command:
        raise BackendError(
            "The reference 'espresso' needs pw.x, which is not in the path: apt-get install quantum-espresso "
            "quantum-espresso-data cp2k-data, or name it in ~/.config/ase/config.ini ([espresso], command = …)."
        )
    folder = section.get("pseudo_dir")
    return command, (folder, *FOLDERS) if folder else FOLDERS


def _version(command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - as above
            [*command.split(), "-in", "/dev/null"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tempfile.gettempdir(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"'{command}' does not run: {error}.") from None
    found = re.search(r"Program PWSCF\s+v\.(\S+)", done.stdout)
    if not found:
        raise BackendError(f"'{command}' does not answer as pw.x does: {_last(done.stdout + done.stderr)[:300]}")
    return found[1]


def _pseudopotential(element: str, settings: EspressoConfig, folders: Sequence[str]) -> Pseudopotential:
    """Return the file that the settings name, or CP2K's own choice for PBE, tabulated for pw.x."""
    named = settings.pseudopotentials.get(element)
    for folder in folders if named else ():
        file = Path(folder) / str(named)
        if file.is_file():
            return Pseudopotential(element, file.name, file_digest(file), source=str(file))
    found = gth.find(element, named or gth.DEFAULT)
    if found is not None:
        name, numbers = found
        text = gth.tabulated(element, name, numbers)
        return Pseudopotential(element, f"{element}.{name}.UPF", numbers.content, text=text)
    wanted = f"{named} for {element}" if named else f"a pseudopotential for {element}"
    raise BackendError(
        f"Expected {wanted} in {', '.join(folders)} or in CP2K's table {gth.TABLE}, but there is none. Install "
        "cp2k-data, or name a file of such a folder in espresso.pseudopotentials."
    )

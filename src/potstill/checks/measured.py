"""What every check shares: quantities with tolerances, what was measured of them, and a kept file for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from potstill import crystals
from potstill.data import Frame
from potstill.errors import PotstillError
from potstill.protocols import Potential
from potstill.store import Units

if TYPE_CHECKING:
    from ase import Atoms

# What a poor potential may make of ASE's and our own algorithms; anything else is a fault of ours and shall be seen.
BREAKDOWN = (PotstillError, ArithmeticError, ValueError, RuntimeError)
NEAR = 2.0  # tolerances up to which a miss is called near
MOST_FRAMES = 8  # of a check that the committee's doubt is asked about
FORCE_TOLERANCE = 2e-3  # eV/Å, of relaxations at a fixed cell


@dataclass(frozen=True)
class Quantity:
    """A number that a check measures, and how far it may be off.

    Attributes
    ----------
    unit : str
        Empty for a pure number.
    tolerance : float
        In that unit; in per cent of the reference's value where ``percent``.
    source : str
        Why this tolerance.
    percent : bool
        See ``tolerance``.
    ideal : float | None
        The right value, where it needs no reference.
    """

    unit: str
    tolerance: float
    source: str
    percent: bool = False
    ideal: float | None = None


@dataclass(frozen=True)
class Measured:
    """What a check found with one potential.

    Attributes
    ----------
    values : mapping
        By quantity, in its unit.
    errors : mapping
        Standard errors of those values that have a statistical one.
    curves : mapping
        Name → (x, y), for the figure; the check's ``axes`` says what they are.
    frames : tuple of Frame
        Structures that the values come from, a few.
    failed : mapping
        Quantity, or ``*`` for all that is missing → why there is no value.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    frames: tuple[Frame, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        finite = {k: float(v) for k, v in self.values.items() if np.isfinite(v)}
        lost = {k: "the value is not finite" for k in self.values if k not in finite}
        return {
            "values": finite,
            "errors": {k: float(v) for k, v in self.errors.items() if np.isfinite(v)},
            "curves": {k: [np.round(np.asarray(a, float), 9).tolist() for a in xy] for k, xy in self.curves.items()},
            "frames": [_frame_out(f) for f in self.frames[:MOST_FRAMES]],
            "failed": {**lost, **self.failed},
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Measured:
        """Come back from :meth:`plain`."""
        return cls(
            plain["values"],
            plain["errors"],
            {k: (x, y) for k, (x, y) in plain["curves"].items()},
            tuple(_frame_in(f) for f in plain["frames"]),
            plain["failed"],
        )


def _frame_out(frame: Frame) -> dict[str, Any]:
    a = frame.atoms
    return {
        "symbols": a.get_chemical_symbols(),
        "positions": a.positions.tolist(),
        "cell": a.cell.array.tolist(),
        "pbc": a.pbc.tolist(),
    }


def _frame_in(plain: Mapping[str, Any]) -> Frame:
    from ase import Atoms

    return Frame.of(Atoms(**plain))


@dataclass(frozen=True)
class Examination(ABC):
    """A check of one metal, the same for every potential.

    Attributes
    ----------
    element : str
        Chemical symbol.
    lattice : str
        Its ground state: fcc, bcc or hcp.
    """

    element: str
    lattice: str
    name: ClassVar[str]
    title: ClassVar[str]
    axes: ClassVar[tuple[str, str]]

    @property
    @abstractmethod
    def quantities(self) -> Mapping[str, Quantity]:
        """What is measured, and how far it may be off."""

    @abstractmethod
    def examine(self, potential: Potential) -> Measured:
        """Measure; what cannot be measured is among ``failed``."""

    @cached_property
    def units(self) -> Mapping[str, str]:
        """Unit of each quantity."""
        return {name: q.unit for name, q in self.quantities.items()}

    def unit(self, potential: Potential, workdir: Path) -> Measured:
        """Return what ``workdir`` has of this check with this potential, else measure and keep it."""
        what = {"check": self.name, **asdict(self), "potential": potential.fingerprint, "by": crystals.RELAXED_BY}

        def compute() -> dict[str, Any]:
            try:
                return self.examine(potential).plain()
            except BREAKDOWN as error:
                return Measured(failed={"*": f"{type(error).__name__}: {error}"}).plain()

        return Measured.of(Units(workdir).get(what, compute))

    def measure(self, potential: Potential, workdir: Path) -> Mapping[str, float]:
        """Return the values by name."""
        return self.unit(potential, workdir).values


@dataclass(frozen=True)
class Rest:
    """A crystal at rest in one potential, and cells cut from it.

    Attributes
    ----------
    atoms : Atoms
        Primitive cell, relaxed, its calculator attached.
    lattice : str
    energy : float
        eV per atom.
    """

    atoms: Atoms
    lattice: str
    energy: float

    @classmethod
    def of(cls, potential: Potential, element: str, lattice: str) -> Rest:
        """Relax a crystal in cell and positions.

        Raises
        ------
        ConvergenceError
            If there is no minimum near the tabulated volume.
        """
        start = crystals.prototype(lattice, element, crystals.atomic_volume(element))
        atoms = crystals.relaxed(start, potential.calculator(), force_tolerance=1e-4)
        return cls(atoms, lattice, float(atoms.get_potential_energy()) / len(atoms))

    @property
    def volume(self) -> float:
        """Å³ per atom."""
        return float(self.atoms.get_volume()) / len(self.atoms)

    @property
    def near(self) -> float:
        """Distance of nearest neighbours, Å."""
        from ase.neighborlist import neighbor_list

        return float(neighbor_list("d", self.atoms, 1.6 * self.volume ** (1 / 3)).min())

    @property
    def stretch(self) -> float:
        """c/a over the ideal one; 1 for cubic crystals."""
        if self.lattice != "hcp":
            return 1.0
        a, _, c = self.atoms.cell.lengths()
        return float(c / a / np.sqrt(8 / 3))

    def supercell(self, n_atoms: int) -> Atoms:
        """Return a right-angled cell of nearly this many atoms, see :func:`potstill.crystals.supercell`."""
        element = self.atoms.get_chemical_symbols()[0]
        return crystals.supercell(self.lattice, element, self.volume, n_atoms, stretch=self.stretch)


def relax_positions(atoms: Atoms, steps: int = 500, force_tolerance: float = FORCE_TOLERANCE) -> float:
    """Move the atoms downhill in a cell that stays; return the energy, eV.

    Raises
    ------
    ConvergenceError
        If the forces do not come below the tolerance, or the atoms go astray.
    """
    from ase.optimize import BFGS

    from potstill.errors import ConvergenceError

    began = atoms.positions.copy()
    done = BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=force_tolerance, steps=steps)
    moved = float(np.linalg.norm(atoms.positions - began, axis=1).max())
    if not done or not np.isfinite(moved) or moved > 4.0:
        raise ConvergenceError(f"the atoms of {atoms.get_chemical_formula()} did not come to rest in {steps} steps")
    return float(atoms.get_potential_energy())

"""Many small structures relaxed at once: for a committee one compiled call a step serves all that still move.

Each descends by its own L-BFGS (Nocedal 1980, Math. Comput. 35, 773) in positions and cell, in the coordinates
of ASE's UnitCellFilter: r = q Fᵀ with the deformation F of the first cell, times the number of atoms so that both kinds
of coordinate are alike stiff. A step that raises the energy is taken back and a quarter of it tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array
from potstill.errors import DataError, PotstillError
from potstill.model import Committee
from potstill.model.neighbours import Geometry, find, join, outdated
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

MEMORY = 12  # steps that L-BFGS remembers
FIRST = 1.0 / 70.0  # Å² / eV, its first guess of an inverse curvature, as ASE's
LONGEST = 0.2  # Å that an atom moves in a step
SKIN = 0.5  # Å that lists of neighbours reach beyond the cutoff
RISE = 1e-5  # eV that rounding may raise an energy by
SHORTEST = 1e-4  # Å: a step taken back so often has met no slope
LOOK = 5  # steps between looks at how far a structure is from what was learnt
NUDGE = 0.02  # Å that atoms are pushed by where they rest, and half of it as a strain
NUDGES = 3
FELL = 1e-3  # eV/atom: who falls so far after a nudge did not rest
SYMMETRIC = 0.01  # Å, by which sites may miss the symmetry that is to be kept
SQUASHED = (0.2, 5.0)  # of the first volume: beyond, it collapsed or evaporated
GPA = 1.0 / 160.21766208  # eV/Å³


@dataclass
class Descent:
    """What became of a structure.

    Attributes
    ----------
    atoms : Atoms
        As it is in the end; its own constraints and calculators are gone.
    energy : float
        eV; of the members' mean, and with pressure the enthalpy.
    steps : int
    end : str
        ``converged``, ``steps``, ``seconds``, ``no-slope``, ``broken``, or what ``stop`` said.
    message : str
        Of what broke.
    gradient : float
        eV/Å, the largest force, or gradient of the cell in the same units.
    strangest : float
        Distance of the strangest atom from what was learnt on the way, see :mod:`potstill.model.domain`; 0 where
        nobody knows.
    doubt : float
        eV/atom, the members' largest spread on the way, calibrated; 0 where nobody knows.
    path : list of Atoms
        Where it was when it was looked at, the beginning first.
    """

    atoms: Atoms
    energy: float = np.nan
    steps: int = 0
    end: str = ""
    message: str = ""
    gradient: float = np.inf
    strangest: float = 0.0
    doubt: float = 0.0
    path: list[Atoms] = field(default_factory=list)


@dataclass(frozen=True)
class How:
    """How structures are relaxed.

    Attributes
    ----------
    force_tolerance : float
        eV/Å.
    pressure : float
        GPa.
    cell : bool
        Whether the cell moves too.
    steps : int
        Limit for each structure.
    seconds : float
        Limit for the structures of a batch together; 0 sets none.
    symmetric : bool
        Keep each structure's space group, as an exact descent would: else rounding decides who leaves a saddle that
        forces vanish on by symmetry.
    nudge : bool
        Push what came to rest, within its symmetry, and let it come to rest again: else a saddle that a way happens to
        end on, small forces and all, passes for a crystal.
    """

    force_tolerance: float = 0.01
    pressure: float = 0.0
    cell: bool = True
    steps: int = 500
    seconds: float = 0.0
    symmetric: bool = True
    nudge: bool = False


_USUAL = How()


def descend(
    potential: Potential,
    structures: Sequence[Atoms],
    how: How = _USUAL,
    *,
    stop: Callable[[float, float], str] = lambda _strange, _doubt: "",
) -> list[Descent]:
    """Relax structures that are periodic in all directions.

    A committee takes all at once, and they descend its mean; now and then it is asked how far they are from what it has
    learnt, and how much its members disagree. Other potentials are asked one by one.

    Parameters
    ----------
    structures : sequence of Atoms
        Are not changed.
    stop : callable (strangest, doubt) -> str
        Is asked at each look, with the distance of the strangest atom and eV/atom; what it says, if anything, ends that
        structure's way.

    Returns
    -------
    list of Descent
        In the order of the structures.
    """
    return _Many(potential, structures, how, stop).run(how.steps, how.seconds)


class _Many:
    """The structures side by side, padded to the largest: coordinates are (n_structures, most atoms + 3, 3)."""

    def __init__(
        self,
        potential: Potential,
        structures: Sequence[Atoms],
        how: How,
        stop: Callable[[float, float], str],
    ) -> None:
        from ase import Atoms

        self.committee = potential if isinstance(potential, Committee) else None
        self.calculator = None if self.committee else potential.calculator()
        self.tolerance, self.pressure, self.cell = how.force_tolerance, how.pressure * GPA, how.cell
        self.watch, self.stop = self.committee is not None, stop
        self.found = [
            Descent(Atoms(numbers=a.numbers, positions=a.positions, cell=a.cell.array, pbc=True)) for a in structures
        ]
        self.symmetry = [_symmetry(d.atoms) if how.symmetric else None for d in self.found]
        B = len(structures)
        self.n = np.array([len(a) for a in structures], dtype=int)
        self.most = int(self.n.max(initial=0))
        self.first = np.array([d.atoms.cell.array for d in self.found], dtype=float).reshape(B, 3, 3)
        self.x = np.zeros((B, self.most + 3, 3))
        for k, d in enumerate(self.found):
            self.x[k, : len(d.atoms)] = d.atoms.positions
            self.x[k, self.most :] = np.eye(3) * len(d.atoms)
        self.species = self._known(structures) if self.committee else []
        self.lists: list[tuple[Geometry, tuple[Array, Array]] | None] = [None] * B
        self.energy, self.g = np.full(B, np.nan), np.zeros_like(self.x)
        self.S, self.Y = np.zeros((MEMORY, B, self.x[0].size)), np.zeros((MEMORY, B, self.x[0].size))
        self.rho = np.zeros((MEMORY, B))
        self.alive = np.array([not d.end for d in self.found], dtype=bool)
        self.nudges = np.full(B, NUDGES if how.nudge else 0)
        self.rested = np.full(B, np.inf)  # eV, where each came to rest before its last nudge

    def _known(self, structures: Sequence[Atoms]) -> list[NDArray[np.int32]]:
        from potstill.data import Frame

        committee, species = self._committee, []
        for k, a in enumerate(structures):
            try:
                species.append(committee.descriptor.species(Frame(a)))
            except DataError as error:
                self._end(k, "broken", str(error))
                species.append(np.zeros(0, np.int32))
        return species

    @property
    def _committee(self) -> Committee:
        if self.committee is None:
            raise DataError("Only a committee knows what it has learnt.")
        return self.committee

    def _end(self, k: int, why: str, message: str = "") -> None:
        self.found[k].end, self.found[k].message = why, message
        if hasattr(self, "alive"):
            self.alive[k] = False

    def run(self, steps: int, seconds: float) -> list[Descent]:
        """Descend until none moves."""
        began = time.monotonic()
        self.energy, self.g = self._evaluate(np.flatnonzero(self.alive), self.x, self.energy, self.g)
        move = np.zeros_like(self.x)
        fresh = self.alive.copy()  # those whose next move is not yet decided
        for step in range(steps + 1):
            self._look(step)
            pushed = self._rest(step)
            self.rho[:, pushed] = 0.0
            fresh[pushed] = True
            active = np.flatnonzero(self.alive)
            if not len(active):
                break
            over = seconds and time.monotonic() - began > seconds
            if over or step == steps:
                for k in active.tolist():
                    self._end(k, "seconds" if over else "steps")
                break
            decide = active[fresh[active]]
            move[decide] = self._direction(decide)
            there = self.x.copy()
            there[active] += move[active]
            energy, g = self._evaluate(active, there, self.energy.copy(), self.g.copy())
            alive = active[self.alive[active]]
            up = energy[alive] > self.energy[alive] + RISE
            back, on = alive[up], alive[~up]
            self._learn(on, there, g)
            self.x[on], self.energy[on], self.g[on] = there[on], energy[on], g[on]
            fresh[on] = True
            move[back] *= 0.25
            self.rho[:, back] = 0.0
            fresh[back] = False
            for k in back[np.abs(move[back]).max((1, 2), initial=0.0) < SHORTEST].tolist():
                self._end(k, "no-slope")
            for k in active.tolist():
                self.found[k].steps = step + 1
        for number, d in enumerate(self.found):
            self._put(number, d)
        return self.found

    def _put(self, k: int, d: Descent) -> None:
        """Write where a structure is into its atoms."""
        positions, cell = self._where(k, self.x)
        d.atoms.set_cell(cell, scale_atoms=False)
        d.atoms.set_positions(positions)
        d.energy = float(self.energy[k])

    def _where(self, k: int, x: Array) -> tuple[Array, Array]:
        F = x[k, self.most :] / self.n[k]
        return x[k, : self.n[k]] @ F.T, self.first[k] @ F.T

    def _evaluate(self, which: NDArray[np.intp], x: Array, energy: Array, g: Array) -> tuple[Array, Array]:
        """Fill energies and gradients of some structures; one that breaks ends here."""
        kept = []
        for k in which:
            positions, cell = self._where(int(k), x)
            share = abs(float(np.linalg.det(cell))) / abs(float(np.linalg.det(self.first[k])))
            if SQUASHED[0] < share < SQUASHED[1]:
                kept.append((int(k), positions, cell))
            else:
                self._end(int(k), "broken", f"its volume became {share:.2f} times what it was")
        for k, cell, e, f, v in self._at_once(kept) if self.committee else self._one_by_one(kept):
            F = x[k, self.most :] / self.n[k]
            volume = abs(float(np.linalg.det(cell)))
            forces, virial = _like(self.symmetry[k], cell, f, v)
            energy[k] = e + self.pressure * volume
            g[k] = 0.0
            g[k, : self.n[k]] = -forces @ F
            if self.cell:
                whole = virial + self.pressure * volume * np.eye(3)
                g[k, self.most :] = np.linalg.solve(F, whole).T / self.n[k]
            if not np.isfinite(energy[k]) or not np.isfinite(g[k]).all():
                self._end(k, "broken", "the energy or a force is not finite")
        return energy, g

    def _at_once(self, places: Sequence[tuple[int, Array, Array]]) -> Iterator[tuple[int, Array, float, Array, Array]]:
        """Yield number, cell, energy, forces and ∂E/∂ε of structures, by a committee."""
        parts, kept = [], []
        for k, positions, cell in places:
            try:
                parts.append(self._neighbours(k, positions, cell))
            except DataError as error:
                self._end(k, "broken", str(error))
                continue
            kept.append((k, cell))
        if not kept:
            return
        for (k, cell), p in zip(kept, self._committee.predict_at(join(parts), mean=True), strict=True):
            yield k, cell, float(p.energy[0]), p.forces[0], p.virial[0]

    def _one_by_one(
        self, places: Sequence[tuple[int, Array, Array]]
    ) -> Iterator[tuple[int, Array, float, Array, Array]]:
        """Yield the same by an ASE calculator."""
        for k, positions, cell in places:
            atoms = self.found[k].atoms.copy()
            atoms.set_cell(cell, scale_atoms=False)
            atoms.set_positions(positions)
            atoms.calc = self.calculator
            try:
                energy, forces = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces(), float)
                virial = np.asarray(atoms.get_stress(voigt=False), float) * atoms.get_volume()
            except (
                PotstillError,
                ArithmeticError,
                ValueError,
                RuntimeError,
            ) as error:  # calculators break in their ways
                self._end(k, "broken", f"{type(error).__name__}: {error}")
                continue
            yield k, cell, energy, forces, virial

    def _neighbours(self, k: int, positions: Array, cell: Array) -> Geometry:
        reach = self._committee.descriptor.reach
        held = self.lists[k]
        if held is not None and not outdated(held[0], positions, cell, held[1], SKIN, reach):
            return held[0].moved(positions, cell)
        geometry = find(positions, cell, (True, True, True), self.species[k], reach + SKIN)
        self.lists[k] = geometry, (positions.copy(), cell.copy())
        return geometry

    def _rest(self, step: int) -> NDArray[np.intp]:
        """End those that have come to rest, and nudge those that have not been yet; return the latter."""
        push = []
        for k in np.flatnonzero(self.alive).tolist():
            self.found[k].gradient = float(np.linalg.norm(self.g[k], axis=1).max())
            if self.found[k].gradient >= self.tolerance:
                continue
            if self.watch and step % LOOK:
                self._looked([k])
            if not self.alive[k]:
                continue
            if self.nudges[k] and self.energy[k] < self.rested[k] - FELL * self.n[k]:
                push.append(k)
            else:
                self._end(k, "converged")
        pushed = np.array(push, dtype=np.intp)
        if len(pushed):
            self.rested[pushed] = self.energy[pushed]
            self.nudges[pushed] -= 1
            for k in push:
                self._nudge(k)
            self.energy, self.g = self._evaluate(pushed, self.x, self.energy, self.g)
        still: NDArray[np.intp] = pushed[self.alive[pushed]]
        return still

    def _nudge(self, k: int) -> None:
        """Push a structure a little, the same way at every call and for every potential."""
        _, cell = self._where(k, self.x)
        moved, strain = _push(self.symmetry[k], cell, int(self.n[k]), int(self.nudges[k]))
        F = self.x[k, self.most :] / self.n[k]
        self.x[k, : self.n[k]] += moved @ np.linalg.inv(F).T
        if self.cell:
            self.x[k, self.most :] = self.n[k] * (np.eye(3) + strain) @ F

    def _look(self, step: int) -> None:
        if self.watch and step % LOOK == 0:
            self._looked([int(k) for k in np.flatnonzero(self.alive)])

    def _looked(self, which: Sequence[int]) -> None:
        """Measure how far structures are from what was learnt, and keep where they are."""
        if not which:
            return
        committee = self._committee
        geometry = join([self._neighbours(k, *self._where(k, self.x)) for k in which])
        strange = committee._strangeness(geometry, committee.domain) if committee.domain else None  # noqa: SLF001
        doubts = committee.predict_at(geometry)
        for number, (k, p) in enumerate(zip(which, doubts, strict=True)):
            d = self.found[k]
            here = slice(geometry.atoms[number], geometry.atoms[number + 1])
            s = float(strange[here].max()) if strange is not None else 0.0
            ddof = 1 if committee.members > 1 else 0
            doubt = max(1.0, committee.energy_calibration) * float(p.energy.std(ddof=ddof)) / self.n[k]
            d.strangest, d.doubt = max(d.strangest, s), max(d.doubt, doubt)
            self._put(k, d)
            d.path.append(d.atoms.copy())
            if said := self.stop(s, doubt):
                self._end(k, said)

    def _direction(self, which: NDArray[np.intp]) -> Array:
        """Return the next step of each by the two loops of L-BFGS."""
        q = self.g[which].reshape(len(which), self.S.shape[2]).copy()
        alpha = np.zeros((MEMORY, len(which)))
        S, Y, rho = self.S[:, which], self.Y[:, which], self.rho[:, which]
        for m in range(MEMORY):  # the newest first
            alpha[m] = rho[m] * np.einsum("bd,bd->b", S[m], q)
            q -= alpha[m][:, None] * Y[m]
        yy = np.einsum("bd,bd->b", Y[0], Y[0])
        scale = np.where(rho[0] > 0, 1.0 / np.maximum(rho[0] * yy, 1e-300), FIRST)
        q *= scale[:, None]
        for m in reversed(range(MEMORY)):
            beta = rho[m] * np.einsum("bd,bd->b", Y[m], q)
            q += S[m] * (alpha[m] - beta)[:, None]
        step = -q.reshape(len(which), *self.x.shape[1:])
        uphill = np.einsum("bij,bij->b", step, self.g[which]) > 0
        step[uphill] = -FIRST * self.g[which][uphill]
        longest = np.linalg.norm(step, axis=2).max(axis=1)
        step *= np.minimum(1.0, LONGEST / np.maximum(longest, 1e-300))[:, None, None]
        return step

    def _learn(self, which: NDArray[np.intp], there: Array, g: Array) -> None:
        """Remember a step and what it did to the gradient, where the curvature along it is positive."""
        size = self.S.shape[2]
        s, y = (a.reshape(len(which), size) for a in (there[which] - self.x[which], g[which] - self.g[which]))
        sy = np.einsum("bd,bd->b", s, y)
        good = sy > 1e-10
        mine = which[good]
        for memory, new in ((self.S, s), (self.Y, y)):
            memory[1:, mine] = memory[:-1, mine]
            memory[0, mine] = new[good]
        self.rho[1:, mine] = self.rho[:-1, mine]
        self.rho[0, mine] = 1.0 / sy[good]


def aside(atoms: Atoms, number: int, how: How = _USUAL) -> Atoms:
    """Return a structure a little out of place, within its symmetry where that is to be kept; numbers differ."""
    made = atoms.copy()
    symmetry = _symmetry(made) if how.symmetric else None
    cell = made.cell.array
    moved, strain = _push(symmetry, cell, len(made), number)
    made.positions += moved
    if how.cell:
        made.set_cell(cell @ (np.eye(3) + strain).T, scale_atoms=True)
    return made


def _push(symmetry: tuple[Any, Any, Any] | None, cell: Array, n: int, number: int) -> tuple[Array, Array]:
    """Return displacements (n, 3) in Å and a strain, small and random, that keep a symmetry."""
    rng = np.random.default_rng([n, number])
    strain = rng.normal(0.0, 0.5 * NUDGE, (3, 3))
    moved, strain = _like(symmetry, cell, rng.normal(0.0, NUDGE, (n, 3)), 0.5 * (strain + strain.T))
    return moved - moved.mean(axis=0), strain


def _symmetry(atoms: Atoms) -> tuple[Any, Any, Any] | None:
    """Put atoms on the sites of their space group; return its rotations, translations and who goes where."""
    import spglib
    from ase.spacegroup.symmetrize import prep_symmetry, refine_symmetry

    none = (TypeError, AttributeError, ValueError, getattr(spglib, "SpglibError", ValueError))
    cell, positions = atoms.cell.array.copy(), atoms.positions.copy()
    try:
        refine_symmetry(atoms, SYMMETRIC)
        found: tuple[Any, Any, Any] = prep_symmetry(atoms, SYMMETRIC)
    except none:  # by spglib's version; atoms too close are one cause
        atoms.set_cell(cell, scale_atoms=False)
        atoms.set_positions(positions)
        return None
    return found


def _like(symmetry: tuple[Any, Any, Any] | None, cell: Array, forces: Array, virial: Array) -> tuple[Array, Array]:
    """Return vectors of the atoms and a tensor without what would break a symmetry."""
    from ase.spacegroup.symmetrize import symmetrize_rank1, symmetrize_rank2

    if symmetry is None:
        return forces, virial
    inverse = np.linalg.inv(cell)
    return (
        np.asarray(symmetrize_rank1(cell, inverse, forces, *symmetry)),
        np.asarray(symmetrize_rank2(cell, inverse, virial, symmetry[0])),
    )

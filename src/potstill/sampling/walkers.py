"""A walker's way through a chunk of steps, by the fastest path that its potential allows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from potstill.errors import BackendError
from potstill.model import Committee
from potstill.protocols import DrivenDynamics, Potential
from potstill.sampling.bias import Bias, Learning, copied
from potstill.sampling.eam import STYLES, Eam, Scratch, Tables, list_pairs, neighbours, read_eam, work_space
from potstill.sampling.loop import CROWDED, FINE, Md, Output, Walker, output, walk
from potstill.sampling.order import Q6, Order, bragg_vectors, order_parameter, order_scratch, reach_of
from potstill.sampling.potentials import Network, Room, network_of, room

if TYPE_CHECKING:
    from ase import Atoms

MOST_COMPILED = 600  # atoms; beyond, lists by cells win over ours by pairs
PAIRS_PER_ATOM = 250  # in the list of the compiled path; doubled until they fit
BONDS_PER_ATOM = 40


@runtime_checkable
class FromFile(Protocol):
    """A potential that is a file and a LAMMPS pair style, perhaps one that we can read."""

    path: str
    style: str


@dataclass(frozen=True)
class Engine:
    """What moves walkers: a recipe that can be sent to a worker.

    Attributes
    ----------
    potential : Potential
    element : str
        Chemical symbol.
    n_atoms : int
    guard : float
        How far from learnt surroundings a committee's walker may go before it stops, see
        :class:`potstill.model.domain.Domain`; 0 guards nothing.
    """

    potential: Potential
    element: str
    n_atoms: int
    guard: float = 0.0

    @property
    def path(self) -> str:
        """``compiled`` (tabulated EAM, our committees), ``lammps`` (any pair style) or ``calculator`` (any forces)."""
        p = self.potential
        known = isinstance(p, Committee) or (isinstance(p, FromFile) and p.style in STYLES)
        if known and self.n_atoms <= MOST_COMPILED:
            return "compiled"
        return "lammps" if isinstance(p, DrivenDynamics) else "calculator"

    @property
    def mass(self) -> float:
        """u, from ASE's table: the ensemble does not depend on it."""
        from ase.data import atomic_masses, atomic_numbers

        return float(atomic_masses[atomic_numbers[self.element]])


def path_of(potential: Potential, element: str) -> str:
    """Return how walkers of small cells move in a potential, see :attr:`Engine.path`."""
    return Engine(potential, element, 1).path


@dataclass(frozen=True)
class Task:
    """One chunk of one walker."""

    engine: Engine
    walker: Walker
    steps: int
    order: Order
    bias: Bias
    how: Learning
    md: Md
    seed: tuple[int, ...]
    records: int
    frames: int
    traces: int


@dataclass(frozen=True)
class Done:
    """What a chunk gave: walker and bias as they are now, what was written, and how it ended."""

    walker: Walker
    bias: Bias
    output: Output
    status: int


def advance(task: Task) -> Done:
    """Move a walker; the same task gives the same result to the last digit.

    Raises
    ------
    BackendError
        If the potential cannot be read or run.
    """
    engine = task.engine
    walker, bias = Walker(*(a.copy() for a in task.walker)), copied(task.bias)
    rng = np.random.default_rng(task.seed)
    out = output(engine.n_atoms, task.records, task.frames, task.traces)
    if engine.path == "compiled":
        return _compiled(task)
    if engine.guard:
        raise BackendError("Only a committee's walkers of at most 600 atoms can be kept within what was learnt.")
    from potstill.sampling.native import walk_calculator, walk_native

    common = (task.order, bias, task.how, task.md, out)
    if engine.path == "lammps" and isinstance(engine.potential, DrivenDynamics):
        status = walk_native(rng, walker, task.steps, engine.potential, engine.element, *common)
    else:
        calculator = engine.potential.calculator()
        status = walk_calculator(rng, walker, task.steps, calculator, engine.element, *common)
    return Done(walker, bias, out, status)


@lru_cache(maxsize=8)
def _tables(path: str, style: str, element: str, _fingerprint: str) -> Eam:
    return read_eam(Path(path), style, element)


def _inside(task: Task) -> Tables | Network:
    """Return the potential as the compiled loop reads it."""
    p, element = task.engine.potential, task.engine.element
    if isinstance(p, FromFile):
        return _tables(p.path, p.style, element, p.fingerprint).tables
    if isinstance(p, Committee):
        reach = reach_of(task.order, task.bias.walls[1], task.engine.n_atoms)
        return network_of(p, element, reach, task.engine.guard)
    raise BackendError("The compiled path needs a table of embedded atoms, or a committee.")  # the path knows better


def _space(potential: Tables | Network, n: int, capacity: int) -> Scratch | Room:
    return room(potential, n, capacity) if isinstance(potential, Network) else work_space(n, capacity)


def _compiled(task: Task) -> Done:
    potential, n = _inside(task), task.engine.n_atoms
    for doubling in range(8):
        capacity = n * PAIRS_PER_ATOM * 2**doubling
        walker, bias = Walker(*(a.copy() for a in task.walker)), copied(task.bias)
        out = output(n, task.records, task.frames, task.traces)
        scratch = order_scratch(n, task.order.hkl, n * BONDS_PER_ATOM)
        status = walk(
            np.random.default_rng(task.seed),
            walker,
            task.steps,
            potential,
            task.order,
            bias,
            task.how,
            task.md,
            neighbours(n, capacity),
            _space(potential, n, capacity),
            scratch,
            out,
        )
        if status != CROWDED:
            return Done(walker, bias, out, status)
    return Done(walker, bias, out, status)


def order_for(kind: int, crystal: Atoms) -> Order:
    """Return the order parameter scaled to 1 for this perfect crystal."""
    hkl, mean = bragg_vectors(crystal)
    if kind != Q6:
        return Order(kind, hkl, 1.0 / mean)
    n, h = len(crystal), np.ascontiguousarray(crystal.cell.array)
    inverse = np.linalg.inv(h)
    found = neighbours(n, n * PAIRS_PER_ATOM)
    x = crystal.positions.copy()
    volume = crystal.get_volume()
    list_pairs(x, h, inverse, (4 * volume / n) ** (1 / 3), found)
    scratch = order_scratch(n, hkl, n * BONDS_PER_ATOM)
    raw = order_parameter(x, inverse, volume, found, Order(kind, hkl, 1.0), scratch, np.zeros((n, 3)))
    return Order(kind, hkl, 1.0 / raw)


__all__ = ["FINE", "Done", "Engine", "Task", "advance", "order_for"]

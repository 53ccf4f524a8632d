"""What a part must be able to do to take its place in the still. Small, structural, no base classes.

A potential, a model and a density-functional code are the same kind of thing here: a recipe (frozen dataclass) that
can be sent to a worker, that has a fingerprint, and that makes an ASE calculator where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from potstill.data import Array, Dataset, Frame

if TYPE_CHECKING:
    from ase import Atoms


@runtime_checkable
class Potential(Protocol):
    """Energy, forces and stress as a function of the structure."""

    @property
    def fingerprint(self) -> str:
        """Short text that changes whenever a label could change."""
        ...

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols that it knows."""
        ...

    def calculator(self, workdir: Path | None = None) -> Any:
        """Return a fresh ASE calculator with ``energy``, ``forces`` and ``stress``; scratch goes to ``workdir``."""
        ...


@runtime_checkable
class Cautious(Potential, Protocol):
    """A potential whose equations may be hard to solve, and that knows safer ways to the same answer."""

    def safer(self, attempt: int) -> Potential | None:
        """Return what to ask at this attempt, from 1, itself with other means; None once it knows no more."""
        ...


@dataclass(frozen=True)
class State:
    """A state that isothermal–isobaric dynamics is asked to visit: ``temperature`` in K, ``pressure`` in GPa."""

    temperature: float
    pressure: float


def stops(n_steps: int, stride: int, longest: int) -> list[int]:
    """Return the steps at which dynamics pauses: each kept frame; without any, ``longest`` steps apart."""
    if stride:
        return list(range(stride, n_steps + 1, stride))
    return [*range(longest, n_steps, longest), *([n_steps] if n_steps else [])]


@runtime_checkable
class MolecularDynamics(Protocol):
    """A potential whose code runs its own molecular dynamics, much faster than calls from Python."""

    def dynamics(
        self, start: Atoms, stages: Sequence[tuple[State, int, int]], *, timestep: float, seed: int
    ) -> Iterator[tuple[int, int, Atoms]]:
        """Run NPT stages one after the other; the cell keeps its shape and changes its volume.

        Parameters
        ----------
        start : Atoms
            First configuration; velocities are drawn.
        stages : sequence of (State, n_steps, stride)
            A stride of 0 keeps nothing (equilibration).
        timestep : float
            fs.
        seed : int
            Decides the velocities.

        Yields
        ------
        (stage, step, atoms)
            Index of the stage, step within it, configuration.

        Raises
        ------
        ConvergenceError
            If the run explodes or its cell degenerates. What was yielded before stays valid.
        """
        ...


@dataclass(frozen=True)
class ExternalForce:
    """A compiled C function that a code's own dynamics calls at every step.

    ``void (data, step, n, U, box, x, f, v, added, answer)``: three words, a double, six words, all but step, n and U
    addresses of doubles. ``box`` are the cell's nine components, ``x``, ``f``, ``v`` the atoms' positions, forces of
    the potential (eV/Å) and velocities in the code's unit, (n, 3). It fills ``added``, the forces to add, and
    ``answer``: the share of the potential's virial to add, and a pressure to add in eV/Å³.

    Attributes
    ----------
    address, data : int
        Of the function, and what it gets as its first argument.
    """

    address: int
    data: int


@runtime_checkable
class DrivenDynamics(Protocol):
    """A potential whose code runs isothermal–isobaric dynamics under an external force of ours."""

    def driven(self, start: Atoms, state: State, external: ExternalForce, *, steps: int, timestep: float) -> Atoms:
        """Run and return the last configuration; velocities go in and out with the atoms, the cell keeps its shape.

        Raises
        ------
        ConvergenceError
            If the run breaks down.
        BackendError
            If the code cannot begin: the cell is not right-angled, for instance.
        """
        ...


@dataclass(frozen=True)
class Spread:
    """How far the members of a committee disagree.

    Attributes
    ----------
    energy : ndarray (n_frames,)
        Standard deviation over members, eV/atom.
    force : ndarray (n_frames,)
        Root mean square over atoms of the members' standard deviation of the force vector, eV/Å.
    force_max : ndarray (n_frames,)
        The same of the worst atom, eV/Å.
    """

    energy: Array
    force: Array
    force_max: Array


@runtime_checkable
class Committee(Potential, Protocol):
    """Several models of one kind, whose mean is the prediction and whose spread is the doubt."""

    @property
    def members(self) -> int:
        """How many."""
        ...

    def spread(self, frames: Sequence[Frame]) -> Spread:
        """Return the disagreement of the members on each frame."""
        ...

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return one feature vector a frame, shape (n_frames, n_features), in which distance means difference."""
        ...


@runtime_checkable
class Batched(Potential, Protocol):
    """A potential that answers many frames together, faster than its calculator does one by one."""

    def predict(self, frames: Sequence[Frame], *, mean: bool = False) -> Sequence[Any]:
        """Return for each frame an object with ``energy`` (n_members,), ``forces`` and ``virial`` (n_members, …).

        eV, eV/Å, and ∂E/∂ε in eV; see :class:`potstill.model.Prediction`. With ``mean``, n_members is 1.
        """
        ...


class Sampler(Protocol):
    """Makes configurations with a potential."""

    def sample(self, start: Atoms, potential: Potential, *, rng: np.random.Generator) -> Iterator[Frame]:
        """Yield frames, unlabelled, with their origin."""
        ...


@dataclass(frozen=True)
class Selection:
    """Which frames of a pool to label next.

    Attributes
    ----------
    indices : ndarray of int
        Into the pool, most wanted first, without repetition.
    scores : ndarray
        Same length; what the selector ranked by (its meaning is the selector's).
    """

    indices: NDArray[np.intp]
    scores: Array


class Describer(Protocol):
    """Maps frames to vectors; what a committee can do before it has learnt anything."""

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return (n_frames, n_features)."""
        ...


@runtime_checkable
class Surveyor(Describer, Protocol):
    """A describer that looks into frames; see :class:`potstill.model.FrameFeatures`."""

    def surroundings(self, frames: Sequence[Frame]) -> list[NDArray[np.float32]]:
        """Return each atom's surroundings as a vector, an array (n_atoms, n_components) a frame."""
        ...

    def equations(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """Return what labels would say about a linear model, (n_frames, n_parameters, rank)."""
        ...


@runtime_checkable
class Trained(Surveyor, Protocol):
    """A surveyor whose networks have learnt something."""

    def last_layer(self, frames: Sequence[Frame]) -> Array:
        """Return the gradient of each frame's energy per atom by all members' last layers, (n_frames, n_gradients)."""
        ...


class Selector(Protocol):
    """Chooses from a pool."""

    name: str

    def select(
        self, pool: Dataset, n: int, *, known: Dataset, committee: Describer, rng: np.random.Generator
    ) -> Selection:
        """Choose ``n`` frames of ``pool``, which holds none of ``known``.

        ``committee`` is a :class:`Committee` once something has been learnt; in the first round it can only
        describe.
        """
        ...


class Check(Protocol):
    """One measurement that a potential and its reference undergo alike."""

    name: str
    units: Mapping[str, str]

    def measure(self, potential: Potential, workdir: Path) -> Mapping[str, float]:
        """Return named values; ``workdir`` holds what has been measured already."""
        ...

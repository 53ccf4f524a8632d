"""What the compiled loop asks of a potential, and the answers of embedded atoms and of a committee.

:func:`energy_forces`, :func:`listed` and :func:`strayed` stand for as many compiled functions as there are kinds of
potential: which one is meant follows from the type of ``potential`` when the loop is compiled, so each kind has a loop
of its own, and that of one knows nothing of the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from potstill.errors import BackendError
from potstill.model import Committee
from potstill.model.gradients import describe_range
from potstill.model.kernels import Shape
from potstill.model.network import Net, Wall, evaluate
from potstill.sampling import eam
from potstill.sampling.eam import Neighbours, Tables

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]


class Guard(NamedTuple):
    """Surroundings that a committee has learnt of one element; see :mod:`potstill.model.domain`.

    Attributes
    ----------
    mean, matrix : ndarray (F,) and (F, C)
        From a descriptor to the components that are compared.
    points : ndarray (n_points, C)
        Learnt surroundings; none where nothing is guarded.
    limit : float
        Largest squared distance from the nearest of them.
    """

    mean: F64
    matrix: F64
    points: F64
    limit: float


class Network(NamedTuple):
    """A committee as the compiled loop reads it: the members' mean drives the walker.

    Attributes
    ----------
    shape, net, wall
        Descriptor, parameters and repulsion, see :mod:`potstill.model.network`.
    kind : int
        Index of the metal among the committee's elements.
    cutoff : float
        How far lists of pairs must reach, Å.
    guard : Guard
        Where the walker must stay.
    """

    shape: Shape
    net: Net
    wall: Wall
    kind: int
    cutoff: float
    guard: Guard


class Room(NamedTuple):
    """Work space of a committee: who sees whom, each pair from both sides.

    The n atoms stand first among the positions, and then, edge by edge, the neighbour that it leads to: with a position
    for each edge no image has to be looked up, and an atom's neighbours lie side by side in memory.

    Attributes
    ----------
    first : ndarray (n + 1,)
        Edges of atom i are ``first[i]:first[i + 1]``.
    at : ndarray (n,)
        Where its next edge goes while the list is made.
    second, image : ndarray (edges,)
        Position that an edge leads to, and row of the list's shifts.
    x : ndarray (n + edges, 3)
        Å.
    owner, kinds : ndarray (n + edges,)
        Atom of each position, and index of its element.
    centre, frame : ndarray (n,)
        Where each atom stands, and zeros.
    energy : ndarray (n, members)
        eV.
    virial : ndarray (1, 1, 6)
        eV; the loop does not need it.
    G : ndarray (n · F,)
        Descriptors, where they are guarded.
    """

    first: I64
    at: I64
    second: I32
    image: I32
    x: F64
    owner: I32
    kinds: I32
    centre: I64
    frame: I64
    energy: F64
    virial: F64
    G: F64


def network_of(committee: Committee, element: str, reach: float = 0.0, guard: float = 0.0) -> Network:
    """Return what the loop needs of a committee to move atoms of one element; lists reach at least ``reach`` (Å).

    ``guard`` is how far from learnt surroundings a walker may go, in the units of
    :meth:`potstill.model.domain.Domain.distance`; 0 guards nothing.

    Raises
    ------
    BackendError
        If the committee has not learnt the element, or its file does not say what it has learnt.
    """
    d = committee.descriptor
    if element not in d.elements:
        raise BackendError(f"The model knows {', '.join(d.elements)}, but not {element}.")
    kind = d.elements.index(element)
    return Network(
        d.shape, committee.net, committee.wall, kind, float(max(d.reach, reach)), _guard_of(committee, kind, guard)
    )


def _guard_of(committee: Committee, kind: int, limit: float) -> Guard:
    F = committee.descriptor.n_features
    if not limit:
        return Guard(np.zeros(F), np.zeros((F, 1)), np.zeros((0, 1)), 0.0)
    domain = committee.domain
    if domain is None or not len(domain.points[kind]):
        raise BackendError("The model does not say what it has learnt, so its run cannot be kept within it.")
    w, points = committee.whitening, np.ascontiguousarray(domain.points[kind], dtype=np.float64)
    matrix = np.ascontiguousarray(w.matrix[kind][:, : points.shape[1]], dtype=np.float64)
    return Guard(np.array(w.mean[kind], dtype=np.float64), matrix, points, float((limit * domain.radius[kind]) ** 2))


def room(network: Network, n: int, capacity: int) -> Room:
    """Return work space for ``n`` atoms and ``capacity`` pairs."""
    edges = 2 * capacity
    owner = np.zeros(n + edges, np.int32)
    owner[:n] = np.arange(n)
    return Room(
        np.zeros(n + 1, np.int64),
        np.zeros(n, np.int64),
        np.arange(n, n + edges, dtype=np.int32),
        np.zeros(edges, np.int32),
        np.zeros((n + edges, 3)),
        owner,
        np.full(n + edges, network.kind, np.int32),
        np.arange(n),
        np.zeros(n, np.int64),
        np.zeros((n, network.net.members)),
        np.zeros((1, 1, 6)),
        np.zeros(n * len(network.guard.mean) if len(network.guard.points) else 0),
    )


# --- compiled ---


def energy_forces(x: F64, nl: Neighbours, potential: Any, work: Any, f: F64) -> float:
    """Return the energy (eV) and fill the forces ``f`` (eV/Å); for compiled code only."""
    raise NotImplementedError


def listed(nl: Neighbours, potential: Any, work: Any) -> None:
    """Do what a potential needs when its list of pairs has been made anew; for compiled code only."""
    raise NotImplementedError


def strayed(x: F64, nl: Neighbours, potential: Any, work: Any) -> bool:
    """Whether an atom is farther from what was learnt than is allowed; for compiled code only."""
    raise NotImplementedError


@nb.njit
def _never(_x: F64, _nl: Neighbours, _tables: Tables, _work: Any) -> bool:
    return False


@nb.njit
def _unlike(x: F64, nl: Neighbours, network: Network, work: Room) -> bool:
    g, n = network.guard, x.shape[0]
    F, C = g.matrix.shape
    if len(g.points) == 0:
        return False
    _place(x, nl, work)
    describe_range(0, n, work.first, work.second, work.x, work.owner, work.kinds, work.centre, network.shape, work.G)
    here = np.empty(C)
    for i in range(n):
        for c in range(C):
            here[c] = 0.0
        for f in range(F):
            off = work.G[i * F + f] - g.mean[f]
            for c in range(C):
                here[c] += off * g.matrix[f, c]
        inside = False
        for p in range(len(g.points)):
            d2 = 0.0
            for c in range(C):
                d2 += (here[c] - g.points[p, c]) ** 2
            if d2 <= g.limit:
                inside = True
                break
        if not inside:
            return True
    return False


@nb.njit
def _nothing(_nl: Neighbours, _tables: Tables, _work: Any) -> None:
    pass


@nb.njit
def _both_ways(nl: Neighbours, _network: Network, work: Room) -> None:
    """Make edges of the pairs of a half list: each pair is one of either atom."""
    n, first, at = len(work.at), work.first, work.at
    first[:] = 0
    for i in range(n):
        for p in range(nl.first[i], nl.first[i + 1]):
            first[i + 1] += 1
            first[nl.other[p] + 1] += 1
    for i in range(n):
        first[i + 1] += first[i]
        at[i] = first[i]
    last = (2 * nl.span[0] + 1) * (2 * nl.span[1] + 1) * (2 * nl.span[2] + 1) - 1  # its shift is minus that of row 0
    for i in range(n):
        for p in range(nl.first[i], nl.first[i + 1]):
            j, a = nl.other[p], nl.image[p]
            work.owner[n + at[i]] = j
            work.image[at[i]] = a
            at[i] += 1
            work.owner[n + at[j]] = i
            work.image[at[j]] = last - a
            at[j] += 1


@nb.njit
def _place(x: F64, nl: Neighbours, work: Room) -> None:
    """Put atoms, and the images that their edges lead to, where they are."""
    n = x.shape[0]
    for i in range(n):
        for k in range(3):
            work.x[i, k] = x[i, k]
    for e in range(work.first[n]):
        j, a = work.owner[n + e], work.image[e]
        for k in range(3):
            work.x[n + e, k] = x[j, k] + nl.shifts[a, k]


@nb.njit
def _committee(x: F64, nl: Neighbours, network: Network, work: Room, f: F64) -> float:
    n = x.shape[0]
    _place(x, nl, work)
    for i in range(n):
        for k in range(3):
            f[i, k] = 0.0
    evaluate(
        0,
        n,
        work.first,
        work.second,
        work.x,
        work.owner,
        work.kinds,
        work.centre,
        work.frame,
        network.shape,
        network.net,
        network.wall,
        False,
        work.energy,
        f.reshape((1, n, 3)),
        work.virial,
    )
    energy = 0.0
    for i in range(n):
        mean = 0.0
        for m in range(work.energy.shape[1]):
            mean += work.energy[i, m]
        energy += mean / work.energy.shape[1]
    return energy


# numba compiles what these choose in the place of the functions above. Not "strict", which would have the choosers'
# annotations be those of the chosen.
_ENERGY_FORCES: dict[Any, Any] = {Tables: eam.energy_forces, Network: _committee}
_LISTED: dict[Any, Any] = {Tables: _nothing, Network: _both_ways}
_STRAYED: dict[Any, Any] = {Tables: _never, Network: _unlike}


@overload(energy_forces, strict=False, jit_options={"fastmath": True})
def _choose_energy_forces(_x: Any, _nl: Any, potential: Any, _work: Any, _f: Any) -> Any:
    chosen = _ENERGY_FORCES.get(getattr(potential, "instance_class", None))
    return chosen and chosen.py_func


@overload(listed, strict=False)
def _choose_listed(_nl: Any, potential: Any, _work: Any) -> Any:
    chosen = _LISTED.get(getattr(potential, "instance_class", None))
    return chosen and chosen.py_func


@overload(strayed, strict=False)
def _choose_strayed(_x: Any, _nl: Any, potential: Any, _work: Any) -> Any:
    chosen = _STRAYED.get(getattr(potential, "instance_class", None))
    return chosen and chosen.py_func

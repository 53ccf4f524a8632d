"""Committee inference, compiled: descriptors, all members' networks, and forces in one pass over the atoms.

Four atoms are worked on at a time, so that a layer is a small matrix product that stays in the processor's registers.
Members share neighbours, descriptors and the edges' functions; each adds its network and, where the members' own forces
are asked for, its share of :func:`~potstill.model.kernels.pull`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.compiled import kept
from potstill.model.kernels import (
    Near,
    Shape,
    coefficients,
    describe,
    gather,
    look,
    most_edges,
    near,
    pull,
    pull_back,
)
from potstill.model.neighbours import Geometry
from potstill.model.simd import at_least, at_most, fill, floor, load, spread, store, total, two_to, width

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

BLOCK = 4  # atoms at a time
PAD = 16  # layers are padded to whole pairs of vectors of either kind
COULOMB = 14.399645478  # e²/(4πε₀) in eV Å
SLAB = 64  # atoms, at least, that share a buffer of forces
MOST_SLABS = 32


class Net(NamedTuple):
    """All members' parameters, flat, for raw descriptors.

    Attributes
    ----------
    sizes : ndarray (n_layers + 1,)
        Width of the descriptor, of the hidden layers, and 1; ``padded`` the same in whole vectors.
    members : int
    shift : ndarray (n_kinds · members,)
        eV.
    linear : ndarray (n_kinds · members · padded[0],)
    weight, turned : ndarray
        Of all layers but the last, (in, out) and (out, in), one behind the other for each element and member.
    bias : ndarray
        Of all layers but the last, likewise.
    last : ndarray
        Of the last layer, likewise; its bias stands in ``shift``.
    """

    sizes: I64
    padded: I64
    members: int
    shift: Any
    linear: Any
    weight: Any
    turned: Any
    bias: Any
    last: Any


class Wall(NamedTuple):
    """Repulsion below the shortest bonds that were learnt: screened nuclei, faded out at ``reach``.

    E(r) = strength · Z Z' e²/(4πε₀ r) · φ(r/a) · (1 − (r/reach)²)³ with the universal φ and a of Ziegler, Biersack and
    Littmark (The Stopping and Range of Ions in Solids, 1985), for each pair of elements, (n_kinds, n_kinds).
    """

    reach: F64
    strength: F64
    charge: F64


class Work(NamedTuple):
    """Scratch of one thread, for ``BLOCK`` atoms."""

    G: Any
    C: Any
    h: Any
    slope: Any
    back: Any
    turned: Any
    grad: Any
    pulled: Any
    F: Any
    zeros: Any
    energy: F64


def padded(n: int) -> int:
    """Return n rounded up to whole pairs of vectors."""
    return (n + PAD - 1) // PAD * PAD


def pack(shift: F64, linear: F64, layers: list[tuple[F64, F64]], kind: type[np.floating[Any]] = np.float64) -> Net:
    """Lay out parameters shaped as in :class:`~potstill.model.committee.Weights` for the kernels."""
    n_kinds, members = shift.shape
    sizes = [linear.shape[2], *(b.shape[2] for _, b in layers)]
    room = [padded(n) for n in sizes]
    weight, turned, bias, last = [], [], [], []
    for z in range(n_kinds):
        for m in range(members):
            for k, (W, b) in enumerate(layers[:-1]):
                full = np.zeros((room[k], room[k + 1]))
                full[: sizes[k], : sizes[k + 1]] = W[z, m]
                weight.append(full.ravel())
                turned.append(full.T.ravel())
                bias.append(np.pad(b[z, m], (0, room[k + 1] - sizes[k + 1])))
            last.append(np.pad(layers[-1][0][z, m, :, 0], (0, room[-2] - sizes[-2])))
    of_linear = np.pad(linear, ((0, 0), (0, 0), (0, room[0] - sizes[0])))

    def flat(arrays: list[F64]) -> Any:
        return np.ascontiguousarray(np.concatenate(arrays), dtype=kind)

    return Net(
        np.array(sizes, dtype=np.int64),
        np.array(room, dtype=np.int64),
        members,
        np.ascontiguousarray((shift + layers[-1][1][:, :, 0]).ravel()),
        np.ascontiguousarray(of_linear.ravel(), dtype=kind),
        flat(weight),
        flat(turned),
        flat(bias),
        flat(last),
    )


@nb.njit(fastmath=True)
def _sigmoid(z: Any, like: Any) -> Any:
    """Return 1/(1 + exp(−z)) of a vector, to rounding in double precision."""
    limit = 700.0 if width(like) == 4 else 80.0
    x = at_most(at_least(z * -1.0, -limit), limit)
    k = floor(x * 1.4426950408889634 + 0.5)
    r = x - k * 0.693145751953125 - k * 1.4286068203094173e-06
    e = r * (1.0 / 13.0) + 1.0
    e = e * r * (1.0 / 12.0) + 1.0
    e = e * r * (1.0 / 11.0) + 1.0
    e = e * r * (1.0 / 10.0) + 1.0
    e = e * r * (1.0 / 9.0) + 1.0
    e = e * r * (1.0 / 8.0) + 1.0
    e = e * r * (1.0 / 7.0) + 1.0
    e = e * r * (1.0 / 6.0) + 1.0
    e = e * r * (1.0 / 5.0) + 1.0
    e = e * r * (1.0 / 4.0) + 1.0
    e = e * r * (1.0 / 3.0) + 1.0
    e = e * r * (1.0 / 2.0) + 1.0
    e = e * r + 1.0
    return 1.0 / (1.0 + e * two_to(k))


@nb.njit(fastmath=True)
def _product(x: Any, n_in: int, w: Any, w0: int, n_out: int, start: Any, s0: int, out: Any) -> None:
    """Fill out (4, n_out) with start (n_out,) + x (4, n_in) · w (n_in, n_out); all flat, n_out in pairs of vectors."""
    lanes = width(w)
    for j in range(0, n_out, 2 * lanes):
        a0, a1 = load(start, s0 + j), load(start, s0 + j + lanes)
        b0, b1, c0, c1, d0, d1 = a0, a1, a0, a1, a0, a1
        for k in range(n_in):
            at = w0 + k * n_out + j
            u, v = load(w, at), load(w, at + lanes)
            q = spread(x, k)
            a0, a1 = a0 + q * u, a1 + q * v
            q = spread(x, n_in + k)
            b0, b1 = b0 + q * u, b1 + q * v
            q = spread(x, 2 * n_in + k)
            c0, c1 = c0 + q * u, c1 + q * v
            q = spread(x, 3 * n_in + k)
            d0, d1 = d0 + q * u, d1 + q * v
        store(out, j, a0)
        store(out, j + lanes, a1)
        store(out, n_out + j, b0)
        store(out, n_out + j + lanes, b1)
        store(out, 2 * n_out + j, c0)
        store(out, 2 * n_out + j + lanes, c1)
        store(out, 3 * n_out + j, d0)
        store(out, 3 * n_out + j + lanes, d1)


@nb.njit
def work_of(net: Net, s: Shape, edges: int, gradients: int) -> Work:
    """Return scratch; ``gradients`` is how many ∂E/∂G of a block are kept: 1, or one a member."""
    like = net.linear
    kind = like.dtype
    widest, hidden = 0, 0
    for k in range(len(net.padded)):
        widest = max(widest, net.padded[k])
        hidden += net.padded[k]
    o = near(edges, s, like)
    return Work(
        np.zeros(BLOCK * net.padded[0], kind),
        np.zeros(BLOCK * coefficients(s), kind),
        np.zeros(2 * BLOCK * widest, kind),
        np.zeros(BLOCK * hidden, kind),
        np.zeros(BLOCK * widest, kind),
        np.zeros(BLOCK * widest, kind),
        np.zeros(gradients * BLOCK * net.padded[0], kind),
        np.zeros(gradients * coefficients(s), kind),
        np.zeros(gradients * 3 * o.room, kind),
        np.zeros(widest, kind),
        np.zeros(BLOCK),
    )


@nb.njit(fastmath=True)
def _network(net: Net, z: int, m: int, work: Work, energy: Any, grad0: int, add: float) -> None:
    """Run one member's network of element z on the block: energies (4,), and add · ∂E/∂G to ``work.grad``."""
    n_layers = len(net.sizes) - 1
    F = net.padded[0]
    lanes = width(net.linear)
    own = z * net.members + m
    w_size, b_size = 0, 0
    for k in range(n_layers - 1):
        w_size += net.padded[k] * net.padded[k + 1]
        b_size += net.padded[k + 1]
    w0, b0, s0 = own * w_size, own * b_size, 0
    x, h = work.G, work.h
    for k in range(n_layers - 1):
        n_in, n_out = net.padded[k], net.padded[k + 1]
        _product(x, n_in, net.weight, w0, n_out, net.bias, b0, h)
        for j in range(0, BLOCK * n_out, lanes):
            a = load(h, j)
            s = _sigmoid(a, h)
            a = a * s
            store(h, j, a)
            store(work.slope, s0 + j, s + a * (1.0 - s))
        x = h
        h = work.back if k % 2 == 0 else work.h  # the two rooms by turns
        w0 += n_in * n_out
        b0 += n_out
        s0 += BLOCK * n_out
    H = net.padded[n_layers - 1]
    last = own * H
    for a in range(BLOCK):
        t = fill(net.linear, 0.0)
        for j in range(0, H, lanes):
            t = t + load(x, a * H + j) * load(net.last, last + j)
        for j in range(0, F, lanes):
            t = t + load(work.G, a * F + j) * load(net.linear, own * F + j)
        energy[a] = total(t) + net.shift[own]
    back, other = work.turned, work.back
    s0 -= BLOCK * H
    for a in range(BLOCK):
        for j in range(0, H, lanes):
            store(back, a * H + j, load(net.last, last + j) * load(work.slope, s0 + a * H + j))
    for k in range(n_layers - 2, 0, -1):
        n_in, n_out = net.padded[k], net.padded[k + 1]
        w0 -= n_in * n_out
        s0 -= BLOCK * n_in
        _product(back, n_out, net.turned, w0, n_in, work.zeros, 0, other)
        for j in range(0, BLOCK * n_in, lanes):
            store(other, j, load(other, j) * load(work.slope, s0 + j))
        back, other = other, back
    n_out = net.padded[1]
    w0 -= F * n_out
    _product(back, n_out, net.turned, w0, F, net.linear, own * F, work.h)
    for j in range(0, BLOCK * F, lanes):
        store(work.grad, grad0 + j, load(work.grad, grad0 + j) + load(work.h, j) * add)


@nb.njit(fastmath=True)
def repulsion(r: float, reach: float, strength: float, zz: tuple[float, float]) -> tuple[float, float]:
    """Return the wall's energy and its derivative at a distance; see :class:`Wall`."""
    a = 0.46850 / (zz[0] ** 0.23 + zz[1] ** 0.23)
    x = r / a
    phi, by_x = 0.0, 0.0
    for c, k in ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162)):
        term = c * math.exp(-k * x)
        phi += term
        by_x -= k * term
    front = strength * COULOMB * zz[0] * zz[1] / r
    t = r / reach
    q = 1.0 - t * t
    fade, by_fade = q * q * q, -6.0 * t * q * q / reach
    value = front * phi * fade
    return value, front * (by_x / a * fade + phi * by_fade) - value / r


@nb.njit(fastmath=True)
def _add_wall(o: Near, n_kinds: int, mine: int, wall: Wall, F: Any, f0: int) -> float:
    """Return half the wall's energy of an atom's edges, and add its pull to three rows of F from ``f0`` on."""
    energy = 0.0
    for group in range(2 * n_kinds):
        other = group % n_kinds
        reach = wall.reach[mine, other]
        charges = (wall.charge[mine], wall.charge[other])
        for e in range(o.at[group], o.at[group + 1]):
            if o.r[e] < reach:
                value, slope = repulsion(float(o.r[e]), reach, wall.strength[mine, other], charges)
                energy += 0.5 * value
                for k in range(3):
                    F[f0 + k * o.room + e] += 0.5 * slope * o.d[k * o.room + e] / o.r[e]
    return energy


@nb.njit(fastmath=True)
def evaluate(  # noqa: C901, PLR0912 - one loop, compiled as one
    low: int,
    high: int,
    first: I64,
    second: I32,
    x: F64,
    owner: I32,
    kinds: I32,
    centre: I64,
    frame: I64,
    s: Shape,
    net: Net,
    wall: Wall,
    apart: bool,
    energy: F64,
    forces: F64,
    virial: F64,
) -> None:
    """Evaluate the atoms from ``low`` to before ``high``.

    Fills ``energy`` (n, members), eV, and adds to ``forces`` (k, n, 3), eV/Å, and to the upper six components of
    ∂E/∂ε in ``virial`` (k, n_frames, 6), xx yy zz yz xz xy: k is 1, for the members'
    mean, or, with ``apart``, one each.
    """
    M, F = net.members, net.padded[0]
    parts = M if apart else 1
    share = 1.0 if apart else 1.0 / M
    edges, size = most_edges(first, low, high), coefficients(s)
    work = work_of(net, s, edges, parts)
    like = net.linear
    near4 = (near(edges, s, like), near(edges, s, like), near(edges, s, like), near(edges, s, like))
    farthest = wall.reach.max()
    atoms = np.zeros(BLOCK, np.int64)
    for z in range(s.n_kinds):
        i = low
        while i < high:
            held = 0
            while i < high and held < BLOCK:
                if kinds[centre[i]] == z:
                    atoms[held] = i
                    held += 1
                i += 1
            for b in range(held):
                look(atoms[b], centre[atoms[b]], first, second, x, owner, kinds, s, near4[b], True)
                describe(s, near4[b], work.C, b * size, work.G, b * F)
            if held == 0:
                break
            work.grad[:] = 0
            for m in range(M):
                _network(net, z, m, work, work.energy, (m if apart else 0) * BLOCK * F, share)
                for b in range(held):
                    energy[atoms[b], m] = work.energy[b]
            for b in range(held):
                o, a = near4[b], atoms[b]
                for part in range(parts):
                    pull_back(s, o, work.grad, (part * BLOCK + b) * F, work.C, b * size, work.pulled, part * size)
                pull(s, o, parts, work.grad, b * F, BLOCK * F, work.pulled, work.F)
                for part in range(parts):
                    if farthest > 0.0:
                        extra = _add_wall(o, s.n_kinds, z, wall, work.F, 3 * part * o.room)
                        if part == 0:
                            for m in range(M):
                                energy[a, m] += extra
                    gather(o, s.n_kinds, work.F, 3 * part * o.room, a, 0, forces[part], virial[part, frame[a]])


@kept(parallel=True)
def _in_slabs(
    bounds: I64,
    first: I64,
    second: I32,
    x: F64,
    owner: I32,
    kinds: I32,
    centre: I64,
    frame: I64,
    s: Shape,
    net: Net,
    wall: Wall,
    apart: bool,
    energy: F64,
    forces: F64,
    virial: F64,
) -> None:
    """Evaluate slabs of atoms side by side; each has its own buffers, so the number of threads changes no digit."""
    for k in nb.prange(len(bounds) - 1):
        evaluate(
            bounds[k],
            bounds[k + 1],
            first,
            second,
            x,
            owner,
            kinds,
            centre,
            frame,
            s,
            net,
            wall,
            apart,
            energy,
            forces[k],
            virial[k],
        )


@kept(parallel=True)
def _sum(buffers: F64, out: F64) -> None:
    """Add buffers (k, parts, n, 3) up, always in the same order."""
    for i in nb.prange(out.shape[1]):
        for k in range(buffers.shape[0]):
            for part in range(out.shape[0]):
                for c in range(3):
                    out[part, i, c] += buffers[k, part, i, c]


def infer(geometry: Geometry, s: Shape, net: Net, wall: Wall, *, apart: bool) -> tuple[F64, F64, F64]:
    """Evaluate a committee on some frames.

    Parameters
    ----------
    geometry : Geometry
    s, net, wall
        Descriptor, parameters, repulsion.
    apart : bool
        Forces and virial of each member, not of their mean.

    Returns
    -------
    energy : ndarray (n_atoms, members)
        eV.
    forces : ndarray (k, n_atoms, 3)
        eV/Å; k is 1, or the number of members.
    virial : ndarray (k, n_frames, 6)
        ∂E/∂ε in eV, ASE's order.
    """
    n, frames, parts = len(geometry.centre), len(geometry.atoms) - 1, net.members if apart else 1
    slabs = max(1, min(MOST_SLABS, n // SLAB))
    bounds = np.linspace(0, n, slabs + 1).astype(np.int64)
    energy = np.empty((n, net.members))
    forces, virial = np.zeros((slabs, parts, n, 3)), np.zeros((slabs, parts, frames, 6))
    _in_slabs(
        bounds,
        geometry.first,
        geometry.second,
        geometry.x,
        geometry.owner,
        geometry.kinds,
        geometry.centre,
        geometry.frame,
        s,
        net,
        wall,
        apart,
        energy,
        forces,
        virial,
    )
    if slabs == 1:
        return energy, forces[0], virial[0]
    summed = np.zeros((parts, n, 3))
    _sum(forces, summed)
    return energy, summed, virial.sum(0)


def no_wall(n_kinds: int) -> Wall:
    """Return a wall that is nowhere."""
    return Wall(np.zeros((n_kinds, n_kinds)), np.zeros((n_kinds, n_kinds)), np.ones(n_kinds))

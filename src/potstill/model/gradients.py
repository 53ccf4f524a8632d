"""What training needs of the descriptors' derivatives, compiled: forces of a batch, their adjoint, the ridge's rows.

A network gives ∂E/∂G. :func:`batch_pull` turns it into forces and virials; both are linear in it, and
:func:`batch_push` is the transposed map, which a gradient of a loss on forces goes back through. Neither stores a
Jacobian, so memory grows with the number of atoms and not with its square.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.compiled import kept
from potstill.model.kernels import (
    Near,
    Shape,
    channels,
    coefficients,
    describe,
    features,
    gather,
    look,
    most_edges,
    near,
    pull,
    pull_back,
    push,
    radial_rows,
)
from potstill.model.simd import fill, load, spread, store, total, width

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]


@nb.njit
def describe_range(
    low: int, high: int, first: I64, second: I32, x: F64, owner: I32, kinds: I32, centre: I64, s: Shape, G: F64
) -> None:
    """Fill G for the atoms from ``low`` to before ``high``."""
    F = features(s)
    o = near(most_edges(first, low, high), s, G)
    C = np.zeros(coefficients(s))
    for i in range(low, high):
        look(i, centre[i], first, second, x, owner, kinds, s, o, False)
        describe(s, o, C, 0, G, i * F)


@kept(parallel=True)
def describe_atoms(
    bounds: I64, first: I64, second: I32, x: F64, owner: I32, kinds: I32, centre: I64, s: Shape, G: F64
) -> None:
    """Fill G (n_atoms · n_features, flat), slab by slab."""
    for k in nb.prange(len(bounds) - 1):
        describe_range(bounds[k], bounds[k + 1], first, second, x, owner, kinds, centre, s, G)


@kept(parallel=True)
def batch_pull(
    batch: I64,
    out_at: I64,
    atoms: I64,
    first: I64,
    second: I32,
    x: F64,
    owner: I32,
    kinds: I32,
    centre: I64,
    s: Shape,
    g: F32,
    C: F32,
    forces: F32,
    virial: F32,
) -> None:
    """Turn ∂E/∂G of the frames of a batch into forces and virials.

    Parameters
    ----------
    batch : ndarray (B,)
        Frames; ``out_at`` (B + 1,) says where each begins among the batch's n atoms.
    g : ndarray (members, n, n_features)
        ∂E/∂G.
    C : ndarray (n · coefficients,)
        Is filled, for :func:`batch_push`.
    forces, virial : ndarray (members, n, 3) and (members, B, 6)
        Zeros on entry; −∂E/∂r and ∂E/∂ε on return, the latter in ASE's order.
    """
    M, n, F, size = g.shape[0], g.shape[1], features(s), coefficients(s)
    flat = g.ravel()
    for b in nb.prange(len(batch)):
        low, high = atoms[batch[b]], atoms[batch[b] + 1]
        o = near(most_edges(first, low, high), s, C)
        back, edge, G = np.zeros(M * size, C.dtype), np.zeros(3 * M * o.room, C.dtype), np.zeros(F, C.dtype)
        for i in range(low, high):
            a = out_at[b] + i - low
            look(i, centre[i], first, second, x, owner, kinds, s, o, True)
            describe(s, o, C, a * size, G, 0)
            for m in range(M):
                pull_back(s, o, flat, (m * n + a) * F, C, a * size, back, m * size)
            pull(s, o, M, flat, a * F, n * F, back, edge)
            for m in range(M):
                gather(o, s.n_kinds, edge, 3 * m * o.room, a, out_at[b] - low, forces[m], virial[m, b])


@kept(parallel=True)
def batch_push(
    batch: I64,
    out_at: I64,
    atoms: I64,
    first: I64,
    second: I32,
    x: F64,
    owner: I32,
    kinds: I32,
    centre: I64,
    s: Shape,
    C: F32,
    by_forces: F32,
    by_virial: F32,
    by_g: F32,
) -> None:
    """Take the gradient of a loss from forces and virials (shaped as in :func:`batch_pull`) to ∂E/∂G."""
    M, n, F, size = by_g.shape[0], by_g.shape[1], features(s), coefficients(s)
    flat = by_g.reshape(-1)
    for b in nb.prange(len(batch)):
        low, high = atoms[batch[b]], atoms[batch[b] + 1]
        o = near(most_edges(first, low, high), s, C)
        B, move = np.zeros(M * size, C.dtype), np.zeros(4 * M * o.room, C.dtype)
        for i in range(low, high):
            a = out_at[b] + i - low
            look(i, centre[i], first, second, x, owner, kinds, s, o, True)
            for m in range(M):
                _displace(o, s.n_kinds, a, out_at[b] - low, by_forces[m], by_virial[m, b], move, 4 * m * o.room)
            push(s, o, M, move, C, a * size, B, flat, a * F, n * F)


@nb.njit(fastmath=True)
def _displace(o: Near, n_kinds: int, a: int, offset: int, R: Any, S: Any, move: Any, m0: int) -> None:
    """Fill three rows of ``move`` from ``m0`` on: the transpose of ``gather``."""
    room, end, lanes = o.room, o.at[2 * n_kinds], width(move)
    for e in range(end):
        j, k = o.j[e] + offset, m0 + e
        move[k], move[k + room], move[k + 2 * room] = R[j, 0], R[j, 1], R[j, 2]
    xx, yy, zz, yz, xz, xy = S[0], S[1], S[2], S[3], S[4], S[5]
    x, y, z = R[a, 0], R[a, 1], R[a, 2]
    for e in range(0, end, lanes):
        dx, dy, dz = load(o.d, e), load(o.d, room + e), load(o.d, 2 * room + e)
        k = m0 + e
        store(move, k, dx * xx + dz * xz + dy * xy + x - load(move, k))
        store(move, k + room, dy * yy + dz * yz + y - load(move, k + room))
        store(move, k + 2 * room, dz * zz + z - load(move, k + 2 * room))


@kept(nogil=True)
def design(  # noqa: C901 - the loops of one sum
    first: I64, second: I32, x: F64, owner: I32, kinds: I32, centre: I64, s: Shape, out: F64
) -> None:
    """Fill out (n_kinds, 3 n + 6, n_features), zeros on entry, for one frame of n atoms.

    Its rows are ∂/∂(positions, strain) of the sum of the descriptors of each element's atoms, the strain in ASE's
    order: what a linear model's forces (with a minus) and virial are made of.
    """
    n, F, n_lm, N = len(centre), features(s), (s.l_max + 1) ** 2, channels(s)
    o = near(most_edges(first, 0, n), s, x)
    C, G, lanes, room = np.zeros(coefficients(s)), np.zeros(F), width(x), o.room
    block, held, Z, na = n_lm * lanes, radial_rows(s), s.n_kinds, s.n_angular
    T, dC = np.zeros(3 * F * lanes), np.zeros(3 * n_lm * lanes)
    n_channels = Z * na
    pair = np.zeros((n_channels, n_channels), np.int64)  # where the features of two channels begin
    f = Z * s.n_radial
    for c in range(n_channels):
        for d in range(c, n_channels):
            pair[c, d] = pair[d, c] = f
            f += s.l_max + 1
    for i in range(n):
        look(i, centre[i], first, second, x, owner, kinds, s, o, True)
        describe(s, o, C, 0, G, 0)
        rows = out[kinds[centre[i]]]
        for group in range(2 * Z):
            z = group % Z
            for e in range(o.at[group], o.at[group + 1], lanes):
                T[:] = 0.0
                w = load(o.w, e)
                ux, uy, uz = load(o.d, e) * w, load(o.d, room + e) * w, load(o.d, 2 * room + e) * w
                for m in range(s.n_radial):
                    slope = load(o.a_slope, e * s.n_radial + m * lanes)
                    at = 3 * (z * s.n_radial + m) * lanes
                    store(T, at, slope * ux)
                    store(T, at + lanes, slope * uy)
                    store(T, at + 2 * lanes, slope * uz)
                if group < Z:
                    for m in range(na):
                        b, slope = load(o.b, e * held + m * lanes), load(o.b_slope, e * held + m * lanes)
                        for p in range(n_lm):
                            y = slope * load(o.Y, e * n_lm + p * lanes)
                            at = 3 * e * n_lm + p * lanes
                            store(dC, 3 * p * lanes, b * load(o.dY, at) + y * ux)
                            store(dC, (3 * p + 1) * lanes, b * load(o.dY, at + block) + y * uy)
                            store(dC, (3 * p + 2) * lanes, b * load(o.dY, at + 2 * block) + y * uz)
                        for d in range(n_channels):
                            for l in range(s.l_max + 1):
                                at = 3 * (pair[z * na + m, d] + l) * lanes
                                factor = s.scale[l] * (2.0 if d == z * na + m else 1.0)
                                tx, ty, tz = fill(x, 0.0), fill(x, 0.0), fill(x, 0.0)
                                for p in range(l * l, (l + 1) * (l + 1)):
                                    q = spread(C, p * N + d)
                                    tx = tx + load(dC, 3 * p * lanes) * q
                                    ty = ty + load(dC, (3 * p + 1) * lanes) * q
                                    tz = tz + load(dC, (3 * p + 2) * lanes) * q
                                store(T, at, load(T, at) + tx * factor)
                                store(T, at + lanes, load(T, at + lanes) + ty * factor)
                                store(T, at + 2 * lanes, load(T, at + 2 * lanes) + tz * factor)
                _scatter(o, e, i, T, F, n, rows)


@nb.njit(fastmath=True)
def _scatter(o: Near, e: int, i: int, T: F64, F: int, n: int, rows: F64) -> None:
    """Add a vector of edges' derivatives T (n_features, 3) to the rows of both atoms and of the strain."""
    room, lanes = o.room, width(T)
    dx, dy, dz = load(o.d, e), load(o.d, room + e), load(o.d, 2 * room + e)
    for f in range(F):
        tx, ty, tz = load(T, 3 * f * lanes), load(T, (3 * f + 1) * lanes), load(T, (3 * f + 2) * lanes)
        rows[3 * i, f] -= total(tx)
        rows[3 * i + 1, f] -= total(ty)
        rows[3 * i + 2, f] -= total(tz)
        rows[3 * n, f] += total(tx * dx)
        rows[3 * n + 1, f] += total(ty * dy)
        rows[3 * n + 2, f] += total(tz * dz)
        rows[3 * n + 3, f] += total(ty * dz)
        rows[3 * n + 4, f] += total(tx * dz)
        rows[3 * n + 5, f] += total(tx * dy)
    for k in range(lanes):
        for c in range(3):
            row = rows[3 * o.j[e + k] + c]
            for f in range(F):
                row[f] += T[(3 * f + c) * lanes + k]

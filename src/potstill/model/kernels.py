"""The compiled descriptor: radial functions, spherical harmonics, power spectrum, and their derivatives both ways.

Notation. Edge e runs from atom i to a neighbour (or image) j at D = r_j − r_i, of length r and direction u. With z the
element of j,

    A_i[z, n]       = Σ_e R_n(r; r_c)               R_n(r; r_c) = sin(n π r / r_c) / r · (1 − (r / r_c)²)³
    C_i[lm, (z, n)] = Σ_e R_n(r; r_a) Y_lm(u)
    P_i[c, c', l]   = Σ_m C_i[lm, c] C_i[lm, c'] / √(2l + 1)          c ≤ c'

and the descriptor of atom i is G_i = (A_i, P_i). Real spherical harmonics follow the recursion of Bigi et al., J. Chem.
Phys. 159, 064802 (2023), whose derivatives are harmonics of lower order.

The Jacobian ∂G/∂r is never formed in training or inference. :func:`pull` takes ∂E/∂G back to the edges (reverse mode:
forces), :func:`push` takes displacements of the edges forward to G (forward mode: the gradient of a loss on forces with
respect to ∂E/∂G); both cost about as much as the descriptor. One atom is worked on at a time, its edges a vector at a
time (:mod:`potstill.model.simd`): ``look`` sorts them by element, those within the angular cutoff first, and pads each
group to whole vectors with edges of length r_c, which contribute nothing.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.model.simd import at_most, fill, load, root, spread, store, total, width

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

GROUP = 6  # radial functions that are worked on at once: as many sums as the processor's registers hold


class Shape(NamedTuple):
    """Sizes of the expansion.

    Attributes
    ----------
    cutoff, angular_cutoff : float
        Å.
    n_radial, n_angular, l_max, n_kinds : int
        Radial functions of both parts, highest angular momentum, elements.
    norms : ndarray ((l_max + 1)²,)
        Make the recursion's polynomials orthonormal.
    scale : ndarray (l_max + 1,)
        1/√(2l + 1).
    upper, lower : ndarray (n_features of the power spectrum,)
        Where each feature (c, c', l) stands in the square table (l, c, c'), and where (c', c, l) does.
    weight : ndarray
        1/√(2l + 1), twice that for c = c'.
    """

    cutoff: float
    angular_cutoff: float
    n_radial: int
    n_angular: int
    l_max: int
    n_kinds: int
    norms: F64
    scale: F64
    upper: I64
    lower: I64
    weight: F64


class Near(NamedTuple):
    """One atom's edges, functions of them, and scratch; flat arrays with rows of length ``room``.

    Attributes
    ----------
    room : int
        Edges that fit, with padding.
    d, r, w : ndarray
        D (three rows), its length and one over it.
    a, a_slope, b, b_slope : ndarray
        R_n(r; r_c), R_n(r; r_a) and derivatives, a row each.
    Y, dY : ndarray
        Y_lm, and ∂Y_lm/∂D (three blocks of rows).
    j : ndarray
        The neighbour; the atom itself for padding.
    at : ndarray (3 n_kinds + 1,)
        Begin of each group: angular edges by element, then the others by element.
    q, t, kind, full : ndarray
        Scratch of the recursion, of the sorting, and of the power spectrum.
    """

    room: int
    d: Any
    r: Any
    w: Any
    a: Any
    a_slope: Any
    b: Any
    b_slope: Any
    Y: Any
    dY: Any  # noqa: N815 - the derivative of Y
    j: I64
    at: I64
    q: Any
    t: F64
    kind: I64
    full: Any


def shape_of(cutoff: float, angular_cutoff: float, n_radial: int, n_angular: int, l_max: int, n_kinds: int) -> Shape:
    """Return the sizes with the factors that follow from them."""
    norms = np.empty((l_max + 1) ** 2)
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            ratio = math.factorial(l - abs(m)) / math.factorial(l + abs(m))
            value = (-1) ** m * math.sqrt((2 * l + 1) / (2 * math.pi) * ratio)
            norms[l * l + l + m] = value / math.sqrt(2) if m == 0 else value
    scale = 1.0 / np.sqrt(2.0 * np.arange(l_max + 1) + 1.0)
    n = n_kinds * n_angular
    row = (n + 7) // 8 * 8
    found = [(c, d, l) for c in range(n) for d in range(c, n) for l in range(l_max + 1)]
    upper = np.array([(l * n + c) * row + d for c, d, l in found])
    lower = np.array([(l * n + d) * row + c for c, d, l in found])
    weight = np.array([scale[l] * (2.0 if c == d else 1.0) for c, d, l in found])
    return Shape(
        float(cutoff), float(angular_cutoff), n_radial, n_angular, l_max, n_kinds, norms, scale, upper, lower, weight
    )


@nb.njit
def channels(s: Shape) -> int:
    """Return the length of a row of C: radial channels over all elements, padded to whole vectors."""
    return (s.n_kinds * s.n_angular + 7) // 8 * 8


@nb.njit
def radial_rows(s: Shape) -> int:
    """Return how many rows of R_n(r; r_a) are kept: whole groups."""
    return (s.n_angular + GROUP - 1) // GROUP * GROUP


@nb.njit
def coefficients(s: Shape) -> int:
    """Return the room that one atom's C takes, flat."""
    return (s.l_max + 1) ** 2 * channels(s) + 8


@nb.njit
def features(s: Shape) -> int:
    """Return the length of an atom's descriptor."""
    n = s.n_kinds * s.n_angular
    return s.n_kinds * s.n_radial + n * (n + 1) // 2 * (s.l_max + 1)


@nb.njit
def most_edges(first: I64, low: int, high: int) -> int:
    """Return the largest number of edges of the atoms from ``low`` to before ``high``."""
    most = 0
    for i in range(low, high):
        most = max(most, first[i + 1] - first[i])
    return most


@nb.njit
def near(edges: int, s: Shape, like: Any) -> Near:
    """Return room for an atom of so many edges, in the precision of the array ``like``."""
    lanes = width(like)
    room = (edges // lanes + 2 * s.n_kinds + 2) * lanes
    n_lm = (s.l_max + 1) ** 2
    n_angular = radial_rows(s)
    kind = like.dtype
    return Near(
        room,
        np.zeros(3 * room, kind),
        np.zeros(room, kind),
        np.zeros(room, kind),
        np.zeros(s.n_radial * room, kind),
        np.zeros(s.n_radial * room, kind),
        np.zeros(n_angular * room, kind),
        np.zeros(n_angular * room, kind),
        np.zeros(n_lm * room, kind),
        np.zeros(3 * n_lm * room, kind),
        np.zeros(room, np.int64),
        np.zeros(3 * s.n_kinds + 1, np.int64),
        np.zeros((s.l_max + 1) * (s.l_max + 2) * lanes, kind),
        np.zeros(3 * edges),
        np.zeros(edges, np.int64),
        np.zeros((s.l_max + 1) * s.n_kinds * s.n_angular * channels(s), kind),
    )


@nb.njit(fastmath=True)
def _radial(value: Any, slope: Any, at: int, n: int, r: Any, w: Any, cutoff: float) -> None:
    """Fill R_n(r) and dR_n/dr of a vector of edges for n = 1 … n; zero from the cutoff on.

    With t = r/r_c − 1/2, sin(π r/r_c) = cos πt and cos(π r/r_c) = −sin πt; their series are exact to rounding for
    |t| ≤ 1/2, and multiples of the angle follow by Chebyshev's recursion.
    """
    inverse = 1.0 / cutoff
    x = at_most(r * inverse, 1.0)
    u = (x - 0.5) * math.pi
    z = u * u
    even = z * (-1.0 / 462.0) + 1.0
    even = even * z * (-1.0 / 380.0) + 1.0
    even = even * z * (-1.0 / 306.0) + 1.0
    even = even * z * (-1.0 / 240.0) + 1.0
    even = even * z * (-1.0 / 182.0) + 1.0
    even = even * z * (-1.0 / 132.0) + 1.0
    even = even * z * (-1.0 / 90.0) + 1.0
    even = even * z * (-1.0 / 56.0) + 1.0
    even = even * z * (-1.0 / 30.0) + 1.0
    even = even * z * (-1.0 / 12.0) + 1.0
    even = even * z * (-1.0 / 2.0) + 1.0
    odd = z * (-1.0 / 420.0) + 1.0
    odd = odd * z * (-1.0 / 342.0) + 1.0
    odd = odd * z * (-1.0 / 272.0) + 1.0
    odd = odd * z * (-1.0 / 210.0) + 1.0
    odd = odd * z * (-1.0 / 156.0) + 1.0
    odd = odd * z * (-1.0 / 110.0) + 1.0
    odd = odd * z * (-1.0 / 72.0) + 1.0
    odd = odd * z * (-1.0 / 42.0) + 1.0
    odd = odd * z * (-1.0 / 20.0) + 1.0
    odd = (odd * z * (-1.0 / 6.0) + 1.0) * u
    twice = odd * -2.0
    s, c = even, odd * -1.0
    s_before, c_before = fill(value, 0.0), fill(value, 1.0)
    q = 1.0 - x * x
    f = q * q * q * w
    g = q * q * x * w * (-6.0 * inverse) - f * w
    lanes = width(value)
    for m in range(n):
        store(slope, at + m * lanes, c * f * (math.pi * inverse * (m + 1)) + s * g)
        store(value, at + m * lanes, s * f)
        s, s_before = twice * s - s_before, s
        c, c_before = twice * c - c_before, c


@nb.njit(fastmath=True)
def _harmonics(o: Near, s: Shape, e: int, slopes: bool) -> None:
    """Fill Y_lm(u) of a vector of edges and, where asked for, ∂Y_lm/∂D.

    The recursion's q[l, m] stand in scratch rows l (l_max + 2) + m; those above the diagonal stay zero.
    """
    n_row, n_lm, room, q = s.l_max + 2, (s.l_max + 1) ** 2, o.room, o.q
    lanes = width(q)
    y0 = e * n_lm
    w = load(o.w, e)
    x, y, z = load(o.d, e) * w, load(o.d, room + e) * w, load(o.d, 2 * room + e) * w
    zero, one = fill(q, 0.0), fill(q, 1.0)
    store(q, 0, one)
    for l in range(1, s.l_max + 1):
        last = load(q, ((l - 1) * n_row + l - 1) * lanes) * -(2 * l - 1)
        store(q, (l * n_row + l) * lanes, last)
        store(q, (l * n_row + l - 1) * lanes, z * last * -1.0)
        for m in range(l - 2, -1, -1):
            nearer = z * load(q, ((l - 1) * n_row + m) * lanes) * ((2 * l - 1) / (l - m))
            store(q, (l * n_row + m) * lanes, nearer - load(q, ((l - 2) * n_row + m) * lanes) * ((l + m - 1) / (l - m)))
    store(o.Y, y0, one * s.norms[0])
    if slopes:
        for k in range(3):
            store(o.dY, 3 * y0 + k * n_lm * lanes, zero)
    for l in range(1, s.l_max + 1):
        k, norm = l * l + l, s.norms[l * l + l]
        value = load(q, l * n_row * lanes) * norm
        store(o.Y, y0 + k * lanes, value)
        if slopes:  # of the solid harmonic r^l Y, less its radial part
            radial = value * l
            across = load(q, ((l - 1) * n_row + 1) * lanes) * norm
            along = load(q, (l - 1) * n_row * lanes) * (norm * l)
            store(o.dY, 3 * y0 + k * lanes, (x * across - radial * x) * w)
            store(o.dY, 3 * y0 + (n_lm + k) * lanes, (y * across - radial * y) * w)
            store(o.dY, 3 * y0 + (2 * n_lm + k) * lanes, (along - radial * z) * w)
    c0, s0 = one, zero  # (x + i y)^(m − 1)
    for m in range(1, s.l_max + 1):
        c, sn = x * c0 - y * s0, x * s0 + y * c0
        for l in range(m, s.l_max + 1):
            plus, minus, norm = l * l + l + m, l * l + l - m, s.norms[l * l + l + m]
            Q = load(q, (l * n_row + m) * lanes) * norm
            store(o.Y, y0 + plus * lanes, Q * c)
            store(o.Y, y0 + minus * lanes, Q * sn)
            if slopes:
                turn = Q * m
                up = load(q, ((l - 1) * n_row + m + 1) * lanes) * norm
                down = load(q, ((l - 1) * n_row + m) * lanes) * (norm * (l + m))
                radial = Q * c * l
                store(o.dY, 3 * y0 + plus * lanes, (x * up * c + turn * c0 - radial * x) * w)
                store(o.dY, 3 * y0 + (n_lm + plus) * lanes, (y * up * c - turn * s0 - radial * y) * w)
                store(o.dY, 3 * y0 + (2 * n_lm + plus) * lanes, (down * c - radial * z) * w)
                radial = Q * sn * l
                store(o.dY, 3 * y0 + minus * lanes, (x * up * sn + turn * s0 - radial * x) * w)
                store(o.dY, 3 * y0 + (n_lm + minus) * lanes, (y * up * sn + turn * c0 - radial * y) * w)
                store(o.dY, 3 * y0 + (2 * n_lm + minus) * lanes, (down * sn - radial * z) * w)
        c0, s0 = c, sn


@nb.njit(fastmath=True)
def look(
    i: int, centre: int, first: I64, second: I32, x: F64, owner: I32, kinds: I32, s: Shape, o: Near, slopes: bool
) -> None:
    """Gather the edges of atom ``i``, which stands at ``x[centre]``, and evaluate the functions on them.

    ``second`` says where in ``x``, ``owner`` and ``kinds`` the neighbours stand; those beyond both cutoffs are passed
    over.
    """
    at, Z, room, lanes, rows = o.at, s.n_kinds, o.room, width(o.r), radial_rows(s)
    outer, inner = s.cutoff**2, s.angular_cutoff**2
    xi, yi, zi = x[centre, 0], x[centre, 1], x[centre, 2]
    low, count = first[i], first[i + 1] - first[i]
    most = len(o.kind)
    for k in range(3 * Z + 1):
        at[k] = 0
    for e in range(count):
        j = second[low + e]
        dx, dy, dz = x[j, 0] - xi, x[j, 1] - yi, x[j, 2] - zi
        r2 = dx * dx + dy * dy + dz * dz
        k = kinds[j] + Z * ((r2 >= inner) + ((r2 >= inner) & (r2 >= outer)))
        o.t[e], o.t[most + e], o.t[2 * most + e] = dx, dy, dz
        o.kind[e] = k
        at[k + 1] += 1
    for k in range(2 * Z):
        at[k + 1] = at[k] + (at[k + 1] + lanes - 1) // lanes * lanes
    end = at[2 * Z]
    far = max(s.cutoff, s.angular_cutoff)
    for k in range(2 * Z):
        for e in range(max(at[k], at[k + 1] - lanes), at[k + 1]):
            o.j[e] = i
            o.d[e], o.d[room + e], o.d[2 * room + e] = far, 0.0, 0.0
    for k in range(2 * Z + 1, 3 * Z + 1):
        at[k] = end
    for e in range(count):
        k = o.kind[e]
        p = at[k]
        at[k] = p + (k < 2 * Z)  # the others fall on one place behind the end
        o.d[p], o.d[room + p], o.d[2 * room + p] = o.t[e], o.t[most + e], o.t[2 * most + e]
        o.j[p] = owner[second[low + e]]
    for k in range(2 * Z, 0, -1):  # each begin has walked to its group's end
        at[k] = (at[k - 1] + lanes - 1) // lanes * lanes
    at[0] = 0
    for e in range(0, end, lanes):
        dx, dy, dz = load(o.d, e), load(o.d, room + e), load(o.d, 2 * room + e)
        r = root(dx * dx + dy * dy + dz * dz)
        w = 1.0 / r
        store(o.r, e, r)
        store(o.w, e, w)
        _radial(o.a, o.a_slope, e * s.n_radial, s.n_radial, r, w, s.cutoff)
        if e < at[Z]:
            _radial(o.b, o.b_slope, e * rows, s.n_angular, r, w, s.angular_cutoff)
            _harmonics(o, s, e, slopes)


@nb.njit(fastmath=True)
def _put_six(C: Any, k: int, room: int, t0: Any, t1: Any, t2: Any, t3: Any, t4: Any, t5: Any) -> None:
    """Write the sums of up to six vectors one behind the other, as far as there is room."""
    C[k] = total(t0)
    if room > 1:
        C[k + 1] = total(t1)
    if room > 2:
        C[k + 2] = total(t2)
    if room > 3:
        C[k + 3] = total(t3)
    if room > 4:
        C[k + 4] = total(t4)
    if room > 5:
        C[k + 5] = total(t5)


@nb.njit(fastmath=True)
def describe(s: Shape, o: Near, C: Any, c0: int, G: Any, g0: int) -> None:
    """Fill one atom's C (flat from ``c0``) and its descriptor (flat from ``g0``)."""
    Z, n_lm, na, N = s.n_kinds, (s.l_max + 1) ** 2, s.n_angular, channels(s)
    lanes, rows = width(o.a), radial_rows(s)
    for z in range(Z):
        low, high = o.at[z], o.at[z + 1]
        for n in range(s.n_radial):
            t = fill(o.a, 0.0)
            for e in range(low, high, lanes):
                t = t + load(o.a, e * s.n_radial + n * lanes)
            for e in range(o.at[Z + z], o.at[Z + z + 1], lanes):
                t = t + load(o.a, e * s.n_radial + n * lanes)
            G[g0 + z * s.n_radial + n] = total(t)
        for n in range(0, na, GROUP):
            for p in range(n_lm):
                t0, t1, t2 = fill(o.a, 0.0), fill(o.a, 0.0), fill(o.a, 0.0)
                t3, t4, t5 = t0, t0, t0
                for e in range(low, high, lanes):
                    Y = load(o.Y, e * n_lm + p * lanes)
                    k = e * rows + n * lanes
                    t0 = t0 + load(o.b, k) * Y
                    t1 = t1 + load(o.b, k + lanes) * Y
                    t2 = t2 + load(o.b, k + 2 * lanes) * Y
                    t3 = t3 + load(o.b, k + 3 * lanes) * Y
                    t4 = t4 + load(o.b, k + 4 * lanes) * Y
                    t5 = t5 + load(o.b, k + 5 * lanes) * Y
                _put_six(C, c0 + p * N + z * na + n, na - n, t0, t1, t2, t3, t4, t5)
    for p in range(n_lm):
        for c in range(Z * na, N):  # whole vectors are read, whatever the memory held before
            C[c0 + p * N + c] = 0.0
    _spectrum(s, o, C, c0, C, c0, 1.0, G, g0)


@nb.njit(fastmath=True)
def _spectrum(s: Shape, o: Near, C: Any, c0: int, B: Any, b0: int, factor: float, G: Any, g0: int) -> None:
    """Fill the power-spectrum part of G from g0 on with factor · Σ_m (C[c] B[d] + B[c] C[d]) / 2 / √(2l + 1)."""
    n, N, lanes = s.n_kinds * s.n_angular, channels(s), width(o.a)
    for l in range(s.l_max + 1):
        for c in range(n):
            for d in range(0, N, lanes):
                t = fill(o.a, 0.0)
                for p in range(l * l, (l + 1) * (l + 1)):
                    t = t + spread(C, c0 + p * N + c) * load(B, b0 + p * N + d)
                store(o.full, (l * n + c) * N + d, t * (0.5 * factor * s.scale[l]))
    g0 += s.n_kinds * s.n_radial
    for f in range(len(s.upper)):
        G[g0 + f] = o.full[s.upper[f]] + o.full[s.lower[f]]


@nb.njit(fastmath=True)
def pull_back(s: Shape, o: Near, g: Any, g0: int, C: Any, c0: int, back: Any, b0: int) -> None:
    """Fill one atom's ∂E/∂C, laid out as C from ``b0``, from its ∂E/∂G."""
    n, N, lanes = s.n_kinds * s.n_angular, channels(s), width(o.a)
    g0 += s.n_kinds * s.n_radial
    for f in range(len(s.upper)):
        value = g[g0 + f] * s.weight[f]
        o.full[s.upper[f]] = value
        o.full[s.lower[f]] = value
    for l in range(s.l_max + 1):
        for c in range(0, N, lanes):
            for p in range(l * l, (l + 1) * (l + 1)):
                t = fill(o.a, 0.0)
                for d in range(n):
                    t = t + load(o.full, (l * n + d) * N + c) * spread(C, c0 + p * N + d)
                store(back, b0 + p * N + c, t)


@nb.njit(fastmath=True)
def pull(s: Shape, o: Near, M: int, g: Any, g0: int, step: int, back: Any, F: Any) -> None:
    """Turn the ∂E/∂G of M members into ∂E_i/∂D on the edges that ``o`` holds.

    Member m's ∂E/∂G stands at ``g0 + m step``, what ``pull_back`` gave at m times the room of C, and its three rows of
    F at 3 m rows. Members are the inner loop: a vector of edges stays in the nearest cache for all of them.
    """
    Z, n_lm, room, N, lanes = s.n_kinds, (s.l_max + 1) ** 2, o.room, channels(s), width(o.a)
    block, size, rows = n_lm * lanes, coefficients(s), radial_rows(s)
    for group in range(2 * Z):
        z = group % Z
        for e in range(o.at[group], o.at[group + 1], lanes):
            w = load(o.w, e)
            ux, uy, uz = load(o.d, e) * w, load(o.d, room + e) * w, load(o.d, 2 * room + e) * w
            for m in range(M):
                along = fill(o.a, 0.0)
                fx, fy, fz = along, along, along
                for n in range(s.n_radial):
                    along = along + load(o.a_slope, e * s.n_radial + n * lanes) * spread(
                        g, g0 + m * step + z * s.n_radial + n
                    )
                if group < Z:
                    for n in range(0, s.n_angular, 3):
                        k = e * rows + n * lanes
                        b0, b1, b2 = load(o.b, k), load(o.b, k + lanes), load(o.b, k + 2 * lanes)
                        d0, d1, d2 = load(o.b_slope, k), load(o.b_slope, k + lanes), load(o.b_slope, k + 2 * lanes)
                        c = m * size + z * s.n_angular + n
                        for p in range(n_lm):
                            k0, k1, k2 = (
                                spread(back, c + p * N),
                                spread(back, c + p * N + 1),
                                spread(back, c + p * N + 2),
                            )
                            h = k0 * b0 + k1 * b1 + k2 * b2
                            at, side = (e * n_lm + p * lanes), (3 * e * n_lm + p * lanes)
                            along = along + (k0 * d0 + k1 * d1 + k2 * d2) * load(o.Y, at)
                            fx = fx + h * load(o.dY, side)
                            fy = fy + h * load(o.dY, side + block)
                            fz = fz + h * load(o.dY, side + 2 * block)
                at = 3 * m * room + e
                store(F, at, fx + along * ux)
                store(F, at + room, fy + along * uy)
                store(F, at + 2 * room, fz + along * uz)


@nb.njit(fastmath=True)
def gather(o: Near, n_kinds: int, F: Any, f0: int, a: int, offset: int, forces: Any, virial: Any) -> None:
    """Add an atom's edge gradients (three rows of F, from ``f0``) to forces (n, 3) and to ∂E/∂ε (6,), in ASE's order.

    The atom's row is ``a``; its neighbours' are their numbers plus ``offset``.
    """
    room, end, lanes = o.room, o.at[2 * n_kinds], width(F)
    tx, ty, tz = fill(F, 0.0), fill(F, 0.0), fill(F, 0.0)
    xx, yy, zz, yz, xz, xy = tx, tx, tx, tx, tx, tx
    for e in range(0, end, lanes):
        fx, fy, fz = load(F, f0 + e), load(F, f0 + room + e), load(F, f0 + 2 * room + e)
        dx, dy, dz = load(o.d, e), load(o.d, room + e), load(o.d, 2 * room + e)
        tx, ty, tz = tx + fx, ty + fy, tz + fz
        xx, yy, zz = xx + fx * dx, yy + fy * dy, zz + fz * dz
        yz, xz, xy = yz + fy * dz, xz + fx * dz, xy + fx * dy
    forces[a, 0] += total(tx)
    forces[a, 1] += total(ty)
    forces[a, 2] += total(tz)
    virial[0] += total(xx)
    virial[1] += total(yy)
    virial[2] += total(zz)
    virial[3] += total(yz)
    virial[4] += total(xz)
    virial[5] += total(xy)
    for e in range(end):
        j = o.j[e] + offset
        forces[j, 0] -= F[f0 + e]
        forces[j, 1] -= F[f0 + room + e]
        forces[j, 2] -= F[f0 + 2 * room + e]


@nb.njit(fastmath=True)
def push(  # noqa: C901 - the loops of one sum
    s: Shape, o: Near, M: int, move: Any, C: Any, c0: int, B: Any, out: Any, g0: int, step: int
) -> None:
    """Fill one atom's dG, for M members, from displacements of its edges; the transpose of :func:`pull`.

    Member m's displacements are three of its four rows in ``move`` (the fourth is filled here), its dG goes to
    ``g0 + m step``; B is scratch of M times the room of C.
    """
    Z, n_lm, na, room, N = s.n_kinds, (s.l_max + 1) ** 2, s.n_angular, o.room, channels(s)
    lanes, size, rows = width(o.a), coefficients(s), radial_rows(s)
    block = n_lm * lanes
    for e in range(0, o.at[2 * Z], lanes):
        w = load(o.w, e)
        ux, uy, uz = load(o.d, e) * w, load(o.d, room + e) * w, load(o.d, 2 * room + e) * w
        for m in range(M):
            k = 4 * m * room + e
            along = load(move, k) * ux + load(move, k + room) * uy + load(move, k + 2 * room) * uz
            store(move, k + 3 * room, along)
    for z in range(Z):
        low, high = o.at[z], o.at[z + 1]
        for n in range(s.n_radial):
            for m in range(M):
                q = (4 * m + 3) * room
                t = fill(o.a, 0.0)
                for e in range(low, high, lanes):
                    t = t + load(o.a_slope, e * s.n_radial + n * lanes) * load(move, q + e)
                for e in range(o.at[Z + z], o.at[Z + z + 1], lanes):
                    t = t + load(o.a_slope, e * s.n_radial + n * lanes) * load(move, q + e)
                out[g0 + m * step + z * s.n_radial + n] = total(t)
        for n in range(0, na, GROUP):
            for p in range(n_lm):
                for m in range(M):
                    t0, t1, t2 = fill(o.a, 0.0), fill(o.a, 0.0), fill(o.a, 0.0)
                    t3, t4, t5 = t0, t0, t0
                    for e in range(low, high, lanes):
                        at, q, k = e * n_lm + p * lanes, 4 * m * room + e, e * rows + n * lanes
                        side = 3 * e * n_lm + p * lanes
                        turn = load(o.dY, side) * load(move, q) + load(o.dY, side + block) * load(move, q + room)
                        turn = turn + load(o.dY, side + 2 * block) * load(move, q + 2 * room)
                        stretch = load(o.Y, at) * load(move, q + 3 * room)
                        t0 = t0 + load(o.b, k) * turn + load(o.b_slope, k) * stretch
                        t1 = t1 + load(o.b, k + lanes) * turn + load(o.b_slope, k + lanes) * stretch
                        t2 = t2 + load(o.b, k + 2 * lanes) * turn + load(o.b_slope, k + 2 * lanes) * stretch
                        t3 = t3 + load(o.b, k + 3 * lanes) * turn + load(o.b_slope, k + 3 * lanes) * stretch
                        t4 = t4 + load(o.b, k + 4 * lanes) * turn + load(o.b_slope, k + 4 * lanes) * stretch
                        t5 = t5 + load(o.b, k + 5 * lanes) * turn + load(o.b_slope, k + 5 * lanes) * stretch
                    _put_six(B, m * size + p * N + z * na + n, na - n, t0, t1, t2, t3, t4, t5)
    for m in range(M):
        _spectrum(s, o, C, c0, B, m * size, 2.0, out, g0 + m * step)

"""The compiled loops: radial functions, spherical harmonics, power spectrum, Jacobian, forces.

Notation. Edge e runs from atom i to a neighbour (or image) j at D = r_j − r_i + S·H, of length r and direction u.
Edges are sorted by i; those of atom i are ``first[i]:first[i + 1]``. With z the element of j,

    A_i[z, n]     = Σ_e R_n(r; r_c)                 R_n(r; r_c) = sin(n π r / r_c) / r · (1 − (r / r_c)²)³
    C_i[(z, n), lm] = Σ_e R_n(r; r_a) Y_lm(u)
    P_i[c, c', l] = Σ_m C_i[c, lm] C_i[c', lm] / √(2l + 1)          c ≤ c'

and the descriptor of atom i is G_i = (A_i, P_i). Real spherical harmonics follow the recursion of Bigi et al., J. Chem.
Phys. 159, 064802 (2023), whose derivatives are harmonics of lower order. Every parallel loop writes to its own rows
only, so results do not depend on the number of threads.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


def harmonic_norms(l_max: int) -> F64:
    """Return the factors that make the recursion's polynomials orthonormal, shape ((l_max + 1)²,)."""
    norms = np.empty((l_max + 1) ** 2)
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            ratio = math.factorial(l - abs(m)) / math.factorial(l + abs(m))
            value = (-1) ** m * math.sqrt((2 * l + 1) / (2 * math.pi) * ratio)
            norms[l * l + l + m] = value / math.sqrt(2) if m == 0 else value
    return norms


@nb.njit(cache=True, fastmath=True)
def _radial(r: float, cutoff: float, n: int, value: F64, slope: F64) -> None:
    """Fill R_n(r) and dR_n/dr for n = 1 … n; zero beyond the cutoff."""
    if r >= cutoff:
        value[:] = 0.0
        slope[:] = 0.0
        return
    x = r / cutoff
    q = 1.0 - x * x
    f = q * q * q
    df = -6.0 * x * q * q / cutoff
    k = math.pi / cutoff
    s1, c1 = math.sin(k * r), math.cos(k * r)
    s, c = s1, c1
    inverse = 1.0 / r
    for a in range(n):
        value[a] = s * inverse * f
        slope[a] = ((a + 1) * k * c - s * inverse) * inverse * f + s * inverse * df
        s, c = s * c1 + c * s1, c * c1 - s * s1


@nb.njit(cache=True, fastmath=True)
def _harmonics(x: float, y: float, z: float, l_max: int, norms: F64, q: F64, Y: F64, dY: F64) -> None:
    """Fill Y_lm(u) and the gradient of the solid harmonic r^l Y_lm at the unit vector u = (x, y, z).

    ``q`` is scratch of shape (l_max + 1, l_max + 2); ``dY`` has shape (3, (l_max + 1)²).
    """
    q[:] = 0.0
    q[0, 0] = 1.0
    for l in range(1, l_max + 1):
        q[l, l] = -(2 * l - 1) * q[l - 1, l - 1]
        q[l, l - 1] = -z * q[l, l]
        for m in range(l - 2, -1, -1):
            q[l, m] = ((2 * l - 1) * z * q[l - 1, m] - (l + m - 1) * q[l - 2, m]) / (l - m)
    for l in range(l_max + 1):
        k = l * l + l
        Y[k] = norms[k] * q[l, 0]
        if l > 0:
            dY[0, k] = norms[k] * x * q[l - 1, 1]
            dY[1, k] = norms[k] * y * q[l - 1, 1]
            dY[2, k] = norms[k] * l * q[l - 1, 0]
        else:
            dY[0, k] = 0.0
            dY[1, k] = 0.0
            dY[2, k] = 0.0
    c0, s0 = 1.0, 0.0  # (x + i y)^(m-1)
    for m in range(1, l_max + 1):
        c, s = x * c0 - y * s0, x * s0 + y * c0
        for l in range(m, l_max + 1):
            k = l * l + l
            w = norms[k + m]
            Q = q[l, m]
            up = q[l - 1, m + 1]  # zero above the diagonal
            down = (l + m) * q[l - 1, m]
            Y[k + m] = w * Q * c
            dY[0, k + m] = w * (x * up * c + Q * m * c0)
            dY[1, k + m] = w * (y * up * c - Q * m * s0)
            dY[2, k + m] = w * down * c
            Y[k - m] = w * Q * s
            dY[0, k - m] = w * (x * up * s + Q * m * s0)
            dY[1, k - m] = w * (y * up * s + Q * m * c0)
            dY[2, k - m] = w * down * s
        c0, s0 = c, s


@nb.njit(cache=True, parallel=True, fastmath=True)
def coefficients(
    first: I64,
    D: F64,
    kind: I64,
    cutoff: float,
    angular_cutoff: float,
    n_radial: int,
    n_angular: int,
    l_max: int,
    norms: F64,
    A: F64,
    C: F64,
) -> None:
    """Fill A (n, n_kinds·n_radial) and C (n, n_kinds·n_angular, (l_max + 1)²).

    ``kind`` is the element index of the neighbour on each edge.
    """
    n_lm = (l_max + 1) ** 2
    for i in nb.prange(first.shape[0] - 1):
        a = np.empty(n_radial)
        da = np.empty(n_radial)
        b = np.empty(n_angular)
        db = np.empty(n_angular)
        q = np.empty((l_max + 1, l_max + 2))
        Y = np.empty(n_lm)
        dY = np.empty((3, n_lm))
        A[i, :] = 0.0
        C[i, :, :] = 0.0
        for e in range(first[i], first[i + 1]):
            x, y, z = D[e, 0], D[e, 1], D[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            _radial(r, cutoff, n_radial, a, da)
            for n in range(n_radial):
                A[i, kind[e] * n_radial + n] += a[n]
            if r < angular_cutoff:
                _radial(r, angular_cutoff, n_angular, b, db)
                _harmonics(x / r, y / r, z / r, l_max, norms, q, Y, dY)
                for n in range(n_angular):
                    for k in range(n_lm):
                        C[i, kind[e] * n_angular + n, k] += b[n] * Y[k]


@nb.njit(cache=True, parallel=True, fastmath=True)
def power_spectrum(C: F64, l_max: int, G: F64, offset: int) -> None:
    """Fill the power-spectrum columns of G (n, n_features), from ``offset`` on."""
    n_channels = C.shape[1]
    for i in nb.prange(C.shape[0]):
        p = offset
        for c in range(n_channels):
            for d in range(c, n_channels):
                for l in range(l_max + 1):
                    total = 0.0
                    for k in range(l * l, (l + 1) * (l + 1)):
                        total += C[i, c, k] * C[i, d, k]
                    G[i, p] = total / math.sqrt(2 * l + 1)
                    p += 1


@nb.njit(cache=True, fastmath=True)
def _edge_slopes(
    u: tuple[float, float, float],
    r: float,
    l_max: int,
    a_slope: F64,
    b: F64,
    b_slope: F64,
    Y: F64,
    dY: F64,
    angular: bool,
    wa: F64,
    wc: F64,
) -> None:
    """Fill wa (3, n_radial) and wc (3, n_angular·(l_max + 1)²): derivatives of one edge's terms with respect to D.

    ``dY`` holds the solid harmonics' gradients on entry and those of Y(D/r) on return.
    """
    for k in range(3):
        for m in range(a_slope.shape[0]):
            wa[k, m] = a_slope[m] * u[k]
    if not angular:
        wc[:, :] = 0.0
        return
    n_lm = Y.shape[0]
    for l in range(l_max + 1):  # drop the radial part of the solid harmonic's gradient
        for p in range(l * l, (l + 1) * (l + 1)):
            for k in range(3):
                dY[k, p] = (dY[k, p] - l * Y[p] * u[k]) / r
    for m in range(b.shape[0]):
        for k in range(3):
            for p in range(n_lm):
                wc[k, m * n_lm + p] = b_slope[m] * u[k] * Y[p] + b[m] * dY[k, p]


@nb.njit(cache=True, fastmath=True)
def _add_edge(w: F64, D: F64, i: int, j: int, n: int, low: int, J: F64) -> None:
    """Add one edge's derivatives w (3, m) to columns ``low:low + m`` of J: rows of both atoms, and of the strain."""
    high = low + w.shape[1]
    for k in range(3):
        if j != i:  # an atom's own images move with it
            J[3 * j + k, low:high] += w[k]
            J[3 * i + k, low:high] -= w[k]
        J[3 * n + k, low:high] += w[k] * D[k]
        o1, o2 = (k + 1) % 3, (k + 2) % 3  # strain column 3 + k mixes these two
        J[3 * n + 3 + k, low:high] += 0.5 * (w[o1] * D[o2] + w[o2] * D[o1])


@nb.njit(cache=True, fastmath=True)
def _power_slopes(T: F64, C: F64, l_max: int, width_a: int, K: F32) -> None:
    """Fill one atom's K (n_features, n_columns) from T = ∂(A, C)/∂(columns), (width, n_columns), and its C."""
    n_channels, n_lm = C.shape
    K[:width_a] = T[:width_a]
    line = np.empty(T.shape[1])
    f = width_a
    for c in range(n_channels):
        for d in range(c, n_channels):
            for l in range(l_max + 1):
                line[:] = 0.0
                for p in range(l * l, (l + 1) * (l + 1)):
                    line += T[width_a + c * n_lm + p] * C[d, p] + T[width_a + d * n_lm + p] * C[c, p]
                K[f] = line / math.sqrt(2 * l + 1)
                f += 1


@nb.njit(cache=True, parallel=True, fastmath=True)
def jacobian(
    first: I64,
    second: I64,
    D: F64,
    kind: I64,
    cutoff: float,
    angular_cutoff: float,
    n_radial: int,
    n_angular: int,
    l_max: int,
    norms: F64,
    C: F64,
    K: F32,
) -> None:
    """Fill K (n, n_features, 3n + 6): ∂G_i/∂r_j for every atom of one frame, then ∂G_i/∂ε.

    ``second`` is the neighbour's index on each edge. The six strain columns are in ASE's order xx yy zz yz xz xy, for
    the symmetric strain (off-diagonal: half of ε_ab and half of ε_ba).
    """
    n = first.shape[0] - 1
    n_lm = (l_max + 1) ** 2
    n_channels = C.shape[1]
    width_a = n_channels // n_angular * n_radial
    for i in nb.prange(n):
        a = np.empty(n_radial)
        da = np.empty(n_radial)
        b = np.empty(n_angular)
        db = np.empty(n_angular)
        q = np.empty((l_max + 1, l_max + 2))
        Y = np.empty(n_lm)
        dY = np.empty((3, n_lm))
        wa = np.empty((3, n_radial))
        wc = np.empty((3, n_angular * n_lm))
        J = np.zeros((3 * n + 6, width_a + n_channels * n_lm))  # ∂(A_i, C_i)/∂(r, ε), transposed
        for e in range(first[i], first[i + 1]):
            x, y, z = D[e, 0], D[e, 1], D[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            u = (x / r, y / r, z / r)
            _radial(r, cutoff, n_radial, a, da)
            angular = r < angular_cutoff
            if angular:
                _radial(r, angular_cutoff, n_angular, b, db)
                _harmonics(u[0], u[1], u[2], l_max, norms, q, Y, dY)
            _edge_slopes(u, r, l_max, da, b, db, Y, dY, angular, wa, wc)
            _add_edge(wa, D[e], i, second[e], n, kind[e] * n_radial, J)
            if angular:
                _add_edge(wc, D[e], i, second[e], n, width_a + kind[e] * n_angular * n_lm, J)
        _power_slopes(np.ascontiguousarray(J.T), C[i], l_max, width_a, K[i])


@nb.njit(cache=True, fastmath=True)
def _pull_back(g: F64, C: F64, l_max: int, width_a: int, back: F64) -> None:
    """Add to back (n_channels, (l_max + 1)²) the ∂E/∂C of one atom, from g = ∂E/∂G."""
    f = width_a
    for c in range(C.shape[0]):
        for d in range(c, C.shape[0]):
            for l in range(l_max + 1):
                s = g[f] / math.sqrt(2 * l + 1)
                f += 1
                for p in range(l * l, (l + 1) * (l + 1)):
                    back[c, p] += s * C[d, p]
                    back[d, p] += s * C[c, p]


@nb.njit(cache=True, parallel=True, fastmath=True)
def edge_gradients(
    first: I64,
    D: F64,
    kind: I64,
    cutoff: float,
    angular_cutoff: float,
    n_radial: int,
    n_angular: int,
    l_max: int,
    norms: F64,
    C: F64,
    g: F64,
    out: F64,
) -> None:
    """Fill out (n_edges, n_members, 3) with ∂E_i/∂D on each edge, for g (n, n_members, n_features) = ∂E_i/∂G_i."""
    n_lm = (l_max + 1) ** 2
    n_channels = C.shape[1]
    n_members = g.shape[1]
    width_a = n_channels // n_angular * n_radial
    for i in nb.prange(first.shape[0] - 1):
        a = np.empty(n_radial)
        da = np.empty(n_radial)
        b = np.empty(n_angular)
        db = np.empty(n_angular)
        q = np.empty((l_max + 1, l_max + 2))
        Y = np.empty(n_lm)
        dY = np.empty((3, n_lm))
        back = np.zeros((n_members, n_channels, n_lm))  # ∂E_i/∂C_i
        for m in range(n_members):
            _pull_back(g[i, m], C[i], l_max, width_a, back[m])
        h = np.empty(n_lm)
        for e in range(first[i], first[i + 1]):
            x, y, z = D[e, 0], D[e, 1], D[e, 2]
            r = math.sqrt(x * x + y * y + z * z)
            u = (x / r, y / r, z / r)
            _radial(r, cutoff, n_radial, a, da)
            angular = r < angular_cutoff
            if angular:
                _radial(r, angular_cutoff, n_angular, b, db)
                _harmonics(u[0], u[1], u[2], l_max, norms, q, Y, dY)
            for m in range(n_members):
                along = 0.0
                for n in range(n_radial):
                    along += g[i, m, kind[e] * n_radial + n] * da[n]
                tx, ty, tz = 0.0, 0.0, 0.0
                if angular:
                    h[:] = 0.0
                    for n in range(n_angular):
                        c = kind[e] * n_angular + n
                        total = 0.0
                        for p in range(n_lm):
                            h[p] += b[n] * back[m, c, p]
                            total += back[m, c, p] * Y[p]
                        along += db[n] * total
                    for l in range(l_max + 1):
                        radial = 0.0
                        for p in range(l * l, (l + 1) * (l + 1)):
                            tx += h[p] * dY[0, p]
                            ty += h[p] * dY[1, p]
                            tz += h[p] * dY[2, p]
                            radial += h[p] * Y[p]
                        along -= l * radial / r
                out[e, m, 0] = along * u[0] + tx / r
                out[e, m, 1] = along * u[1] + ty / r
                out[e, m, 2] = along * u[2] + tz / r


@nb.njit(cache=True)
def gather(first: I64, second: I64, frame: I64, D: F64, edge: F64, forces: F64, virial: F64) -> None:
    """Sum edge gradients to forces (n, n_members, 3) and to ∂E/∂ε (n_frames, n_members, 3, 3), both zeroed before.

    ``frame`` is the frame of each atom; ``second`` counts atoms through all frames.
    """
    for i in range(first.shape[0] - 1):
        for e in range(first[i], first[i + 1]):
            j = second[e]
            for m in range(edge.shape[1]):
                for k in range(3):
                    v = edge[e, m, k]
                    forces[i, m, k] += v
                    forces[j, m, k] -= v
                    for o in range(3):
                        virial[frame[i], m, k, o] += v * D[e, o]

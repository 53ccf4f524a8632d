"""Order parameters that tell a crystal from its melt, with analytic gradients, compiled.

Both are scaled to 1 for the perfect crystal; a hot crystal has 0.5–0.9 and a melt about 0.1.

``structure-factor``
    s = mean over k of √(|ρ_k|² / N² + 10⁻⁶), ρ_k = Σ_j exp(i k·r_j), over the shortest Bragg vectors of the crystal
    that fits the cell. It depends on fractional coordinates only, so no change of the cell changes it. The root
    matters: |ρ_k|² itself has no gradient in the melt.
``q6``
    The global Steinhardt parameter Q₆ (Phys. Rev. B 28, 784, 1983) with bonds that fade out between 0.76 and 0.95 of
    (4 V/N)^⅓ and, instead of their number, 6 N in the denominator. It knows no direction, so a crystal that is turned
    or stacked in another way counts too.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.sampling.eam import Neighbours

if TYPE_CHECKING:
    from ase import Atoms

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NONE, STRUCTURE_FACTOR, Q6 = 0, 1, 2
FADE = (0.76, 0.95)  # of (4 V/N)^⅓, the lattice constant of an fcc crystal of that density
SOFTENING = 1e-6
FEWEST_VECTORS = 7  # fcc: 4 of {111} and 3 of {200}
STRONG = 0.8  # of N: amplitude of a Bragg peak that is used
_LONGEST = 2.6  # of the shortest strong Bragg vector: where the search ends
# Y_6m without its phase: √(13/4π · (6 − m)!/(6 + m)!).
_NORM = np.array([math.sqrt(13 / (4 * math.pi) * math.factorial(6 - m) / math.factorial(6 + m)) for m in range(7)])


class Order(NamedTuple):
    """An order parameter as the compiled loop reads it.

    Attributes
    ----------
    kind : int
        ``NONE``, ``STRUCTURE_FACTOR`` or ``Q6``.
    hkl : ndarray (n_k, 3)
        Bragg vectors in reciprocal vectors of the whole cell; of ±k one is kept.
    scale : float
        One over the perfect crystal's value.
    """

    kind: int
    hkl: I64
    scale: float


class OrderScratch(NamedTuple):
    """Work space for ``n`` atoms."""

    phase: F64  # (2, 3, m + 1, n): cosine and sine of 2π times multiples of the fractional coordinates
    wave: F64  # (2, n)
    bonds: F64  # (capacity, 13)
    pairs: I64  # (capacity, 2)


def bragg_vectors(crystal: Atoms) -> tuple[I64, float]:
    """Find the shortest strong Bragg vectors of a perfect crystal that fills its cell.

    Returns
    -------
    hkl : ndarray (n_k, 3)
        Whole shells of equal length, until there are at least seven vectors.
    mean : float
        Mean amplitude |ρ_k|/N over them.
    """
    n = len(crystal)
    reciprocal = 2 * math.pi * np.linalg.inv(crystal.cell.array).T
    spacing = (4 * crystal.get_volume() / n) ** (1 / 3)
    longest = _LONGEST * 2 * math.pi * math.sqrt(3) / spacing
    limits = np.floor(longest / (2 * math.pi) * np.linalg.norm(crystal.cell.array, axis=1)).astype(int)
    grid = np.array(list(itertools.product(*(range(-m, m + 1) for m in limits))))
    half = grid[len(grid) // 2 + 1 :]
    length = np.linalg.norm(half @ reciprocal, axis=1)
    half, length = half[length <= longest], length[length <= longest]
    scaled = crystal.get_scaled_positions()
    amplitude = np.abs(np.exp(2j * math.pi * half @ scaled.T).mean(axis=1))
    strong = amplitude > STRONG
    half, length, amplitude = half[strong], length[strong], amplitude[strong]
    by_length = np.argsort(length, kind="stable")
    half, length, amplitude = half[by_length], length[by_length], amplitude[by_length]
    shell = np.searchsorted(length, length[min(FEWEST_VECTORS, len(length)) - 1] * 1.001)
    return np.ascontiguousarray(half[:shell], np.int64), float(amplitude[:shell].mean())


def reach_of(order: Order, volume: float, n: int) -> float:
    """Return how far a list of pairs must reach (Å) for ``n`` atoms in cells of ``volume`` Å³ and somewhat more."""
    if order.kind != Q6 or not math.isfinite(volume):
        return 0.0
    return FADE[1] * (4.0 * 1.1 * volume / n) ** (1.0 / 3.0)


def order_scratch(n: int, hkl: I64, capacity: int) -> OrderScratch:
    """Return work space for ``n`` atoms and ``capacity`` bonds."""
    highest = int(np.abs(hkl).max(initial=0))
    return OrderScratch(
        np.zeros((2, 3, highest + 1, n)), np.zeros((2, n)), np.zeros((capacity, 13)), np.zeros((capacity, 2), np.int64)
    )


@nb.njit(fastmath=True)
def _phases(x: F64, inverse: F64, phase: F64) -> None:
    """Fill cos and sin of 2π m·f, m = 0 … highest, f the fractional coordinates."""
    n, highest = x.shape[0], phase.shape[2] - 1
    for k in range(3):
        c, s = phase[0, k], phase[1, k]
        for i in range(n):
            f = x[i, 0] * inverse[0, k] + x[i, 1] * inverse[1, k] + x[i, 2] * inverse[2, k]
            u = 0.5 * math.pi * (f - math.floor(f + 0.5))  # a quarter of the angle, within ±π/4
            q = u * u
            # Taylor series to rounding on that interval, then the angle is doubled twice: this vectorises, libm does
            # not
            sine = u * (
                1 - q / 6 * (1 - q / 20 * (1 - q / 42 * (1 - q / 72 * (1 - q / 110 * (1 - q / 156 * (1 - q / 210))))))
            )
            versine = (
                2 * q / 4 * (1 - q / 12 * (1 - q / 30 * (1 - q / 56 * (1 - q / 90 * (1 - q / 132 * (1 - q / 182))))))
            )
            cosine = 1 - versine
            sine, cosine = 2 * sine * cosine, 1 - 2 * sine * sine
            c[0, i] = 1.0
            s[0, i] = 0.0
            c[1, i] = 1 - 2 * sine * sine
            s[1, i] = 2 * sine * cosine
        for m in range(2, highest + 1):
            for i in range(n):
                c[m, i] = c[m - 1, i] * c[1, i] - s[m - 1, i] * s[1, i]
                s[m, i] = c[m - 1, i] * s[1, i] + s[m - 1, i] * c[1, i]


@nb.njit(fastmath=True)
def _structure_factor(x: F64, inverse: F64, order: Order, work: OrderScratch, ds: F64) -> float:
    n, n_k = x.shape[0], order.hkl.shape[0]
    phase, cosine, sine = work.phase, work.wave[0], work.wave[1]
    _phases(x, inverse, phase)
    ds[:] = 0.0
    value = 0.0
    for a in range(n_k):
        h, k, l = order.hkl[a, 0], order.hkl[a, 1], order.hkl[a, 2]
        ch, sh = phase[0, 0, abs(h)], phase[1, 0, abs(h)]
        ck, sk = phase[0, 1, abs(k)], phase[1, 1, abs(k)]
        cl, sl = phase[0, 2, abs(l)], phase[1, 2, abs(l)]
        eh, ek, el = math.copysign(1.0, h), math.copysign(1.0, k), math.copysign(1.0, l)
        re, im = 0.0, 0.0
        for i in range(n):
            c = ch[i] * ck[i] - eh * ek * sh[i] * sk[i]
            s = eh * sh[i] * ck[i] + ek * ch[i] * sk[i]
            cosine[i] = c * cl[i] - el * s * sl[i]
            sine[i] = s * cl[i] + el * c * sl[i]
            re += cosine[i]
            im += sine[i]
        re /= n
        im /= n
        amplitude = math.sqrt(re * re + im * im + SOFTENING)
        value += amplitude
        g = 2 * math.pi * order.scale / (n_k * n * amplitude)
        gx = g * (inverse[0, 0] * h + inverse[0, 1] * k + inverse[0, 2] * l)
        gy = g * (inverse[1, 0] * h + inverse[1, 1] * k + inverse[1, 2] * l)
        gz = g * (inverse[2, 0] * h + inverse[2, 1] * k + inverse[2, 2] * l)
        for i in range(n):
            d = im * cosine[i] - re * sine[i]
            ds[i, 0] += d * gx
            ds[i, 1] += d * gy
            ds[i, 2] += d * gz
    return value * order.scale / n_k


@nb.njit(fastmath=True)
def _legendre(z: float, p: F64) -> None:
    """Fill the derivatives of the Legendre polynomial P₆ at z, orders 0 … 6."""
    q = z * z
    p[0] = (((231.0 * q - 315.0) * q + 105.0) * q - 5.0) / 16.0
    p[1] = z * ((693.0 * q - 630.0) * q + 105.0) / 8.0
    p[2] = ((3465.0 * q - 1890.0) * q + 105.0) / 8.0
    p[3] = z * (3465.0 * q - 945.0) / 2.0
    p[4] = (10395.0 * q - 945.0) / 2.0
    p[5] = 10395.0 * z
    p[6] = 10395.0


@nb.njit(fastmath=True)
def _steinhardt(x: F64, volume: float, nl: Neighbours, order: Order, work: OrderScratch, ds: F64) -> float:
    n = x.shape[0]
    spacing = (4.0 * volume / n) ** (1.0 / 3.0)
    near, far = FADE[0] * spacing, FADE[1] * spacing
    re, im = np.zeros(7), np.zeros(7)
    count = 0
    for i in range(n):
        for p in range(nl.first[i], nl.first[i + 1]):
            j, a = nl.other[p], nl.image[p]
            dx = x[j, 0] - x[i, 0] + nl.shifts[a, 0]
            dy = x[j, 1] - x[i, 1] + nl.shifts[a, 1]
            dz = x[j, 2] - x[i, 2] + nl.shifts[a, 2]
            r2 = dx * dx + dy * dy + dz * dz
            if r2 >= far * far or count == work.bonds.shape[0]:
                continue
            r = math.sqrt(r2)
            weight, slope = 1.0, 0.0
            if r > near:
                t = math.pi * (r - near) / (far - near)
                weight = 0.5 * (1.0 + math.cos(t))
                slope = -0.5 * math.pi * math.sin(t) / (far - near)
            b = work.bonds[count]
            b[0], b[1], b[2], b[3], b[4], b[5] = dx / r, dy / r, dz / r, r, weight, slope
            _legendre(b[2], b[6:])
            work.pairs[count, 0] = i
            work.pairs[count, 1] = j
            count += 1
            c, s = weight, 0.0
            for m in range(7):
                re[m] += b[6 + m] * c
                im[m] += b[6 + m] * s
                c, s = c * b[0] - s * b[1], c * b[1] + s * b[0]
    total = 0.0
    for m in range(7):
        factor = (1.0 if m == 0 else 2.0) * _NORM[m] * _NORM[m]
        total += factor * (re[m] * re[m] + im[m] * im[m])
        re[m] *= factor
        im[m] *= factor
    prefactor = 4.0 * math.pi / 13.0 / (36.0 * n * n)
    value = math.sqrt(prefactor * total + 1e-12)
    gradient = order.scale * prefactor / value
    ds[:] = 0.0
    for q in range(count):
        b = work.bonds[q]
        ux, uy, uz, r, weight, slope = b[0], b[1], b[2], b[3], b[4], b[5]
        along, fx, fy, fz = 0.0, 0.0, 0.0, 0.0
        c, s, c_before, s_before = 1.0, 0.0, 0.0, 0.0
        for m in range(7):
            z = b[6 + m]
            both = re[m] * c + im[m] * s
            along += z * both
            if m < 6:
                fz += b[7 + m] * both
            fx += z * m * (re[m] * c_before + im[m] * s_before)
            fy += z * m * (im[m] * c_before - re[m] * s_before)
            c_before, s_before = c, s
            c, s = c * ux - s * uy, c * uy + s * ux
        d = fx * ux + fy * uy + fz * uz
        gx = gradient * (weight * (fx - d * ux) / r + slope * along * ux)
        gy = gradient * (weight * (fy - d * uy) / r + slope * along * uy)
        gz = gradient * (weight * (fz - d * uz) / r + slope * along * uz)
        i, j = work.pairs[q, 0], work.pairs[q, 1]
        ds[i, 0] -= gx
        ds[i, 1] -= gy
        ds[i, 2] -= gz
        ds[j, 0] += gx
        ds[j, 1] += gy
        ds[j, 2] += gz
    return value * order.scale


@nb.njit(fastmath=True)
def order_parameter(
    x: F64, inverse: F64, volume: float, nl: Neighbours, order: Order, work: OrderScratch, ds: F64
) -> float:
    """Return s and fill its gradient ``ds`` (1/Å, shape (n, 3)).

    ``inverse`` is the inverse of the cell, so that fractional coordinates are ``x @ inverse``; the list ``nl`` must
    reach 0.95 (4 V/N)^⅓ for ``Q6`` and is not looked at otherwise.
    """
    if order.kind == STRUCTURE_FACTOR:
        return _structure_factor(x, inverse, order, work, ds)
    if order.kind == Q6:
        return _steinhardt(x, volume, nl, order, work, ds)
    return 0.0

"""The bias that turns one run into many states, and the estimators that learn it. Compiled.

Sampling follows exp(−β₀(U + P₀V + B)). Two forms of B exist.

*States*: B = −(1/β₀) ln[(1/N) Σ_λ exp(f_λ − Δu_λ)], the flat mixture of states λ = (T_i, P_j) × s_k with

    Δu_λ = (β_i − β₀)U + (β_iP_j − β₀P₀)V + (s − s_k)²/2σ².

Only the f_λ are unknown. ``sams`` learns them by stochastic approximation (Tan, J. Comput. Graph. Stat. 26, 54, 2017):
f_λ −= g N p_λ(x) at each visit, with p_λ the weight of λ there; ``opes`` by reweighting all that was seen so far
(Invernizzi, Piaggi, Parrinello, Phys. Rev. X 10, 041034, 2020).

*Grid*: ``wang-landau`` (Wang and Landau, Phys. Rev. Lett. 86, 2050, 2001) makes a histogram flat, in (H, s) or in
(U, V). To the mixture of states, with the f_λ as guessed at first, it adds a cubic B-spline whose coefficients grow
where the run is, so that forces stay smooth; the increment falls as 1/t (Belardinelli and Pereyra, Phys. Rev. E 75,
046701, 2007). Beyond the grid the spline is constant and nothing is learnt: there the mixture's lowest and highest
temperature end the histogram.

Either form has walls added on the volume: N κ ln²(V/V_wall) beyond either end. They are part of B, so that reweighting
removes them like the rest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

KB = 8.617333262e-5  # eV/K, CODATA 2018
GPA = 1 / 160.2176634  # eV/Å³ in a GPa
UNBIASED, STATES, GRID = 0, 1, 2  # form
FROZEN, SAMS, OPES, WANG_LANDAU = 0, 1, 2, 3  # how it learns
WALL = 125.0  # κ in k_B T₀: 5 % beyond the wall a cell of 32 atoms pays 10 k_B T₀
_NEVER = -1e300


class Bias(NamedTuple):
    """A bias as the compiled loops read and teach it.

    Attributes
    ----------
    form : int
        ``UNBIASED``, ``STATES`` or ``GRID``.
    beta0, p0 : float
        1/eV and eV/Å³ of the reference state.
    beta, beta_p : ndarray (n_tp,)
        β_i, and β_i P_j, of each thermal state.
    centres : ndarray (n_s,)
        s_k; one entry of any value where there is no order parameter.
    stiffness : float
        1/2σ²; 0 where there is no order parameter.
    f : ndarray (n_tp, n_s)
        Free energies in k_B T.
    weight : ndarray (n_tp, n_s)
        exp(f − its row's maximum); kept beside f for speed, see :func:`refresh`.
    top : ndarray (n_tp,)
        That maximum.
    part : ndarray (n_tp + n_s,)
        Scratch: the factors of the present weights.
    sums : ndarray (n_tp, n_s)
        ``opes``: logarithm of Σ exp(β₀B − Δu_λ).
    total : ndarray (1,)
        ``opes``: logarithm of Σ exp(β₀B).
    grid : ndarray (n_1 + 3, n_2 + 3)
        Spline coefficients in eV.
    origin, step : ndarray (2,)
        Of the grid: H or U in eV; s, or V in Å³.
    second_is_volume : bool
        (U, V) rather than (H, s).
    walls : ndarray (2,)
        Lowest and highest volume, Å³; 0 and infinity for none.
    wall : float
        N κ, eV.
    """

    form: int
    beta0: float
    p0: float
    beta: F64
    beta_p: F64
    centres: F64
    stiffness: float
    f: F64
    weight: F64
    top: F64
    part: F64
    sums: F64
    total: F64
    grid: F64
    origin: F64
    step: F64
    second_is_volume: bool
    walls: F64
    wall: float


class Learning(NamedTuple):
    """How a bias is taught during one call of a loop.

    Attributes
    ----------
    method : int
        ``FROZEN``, ``SAMS``, ``OPES`` or ``WANG_LANDAU``.
    start : float
        Updates that each walker has made before.
    burn_in : float
        Updates of all walkers together after which the gain of ``sams`` falls as 1/t.
    walkers : float
        How many walkers learn at once.
    """

    method: int
    start: float
    burn_in: float
    walkers: float


def no_bias(beta0: float, p0: float, n_atoms: int, walls: tuple[float, float] = (0.0, math.inf)) -> Bias:
    """Return a bias of walls alone; the others are made from it by ``_replace``."""
    one = np.zeros((1, 1))
    return Bias(
        UNBIASED, beta0, p0, np.array([beta0]), np.array([beta0 * p0]), np.zeros(1), 0.0, one, one + 1.0, np.zeros(1),
        np.zeros(2), np.full((1, 1), _NEVER), np.array([_NEVER]), np.zeros((4, 4)), np.zeros(2), np.ones(2), False,
        np.array(walls, dtype=float), n_atoms * WALL / beta0,
    )  # fmt: skip


def with_states(bias: Bias, beta: F64, pressure: F64, centres: F64, sigma: float, f: F64) -> Bias:
    """Return the flat mixture of thermal states (1/eV, eV/Å³) × umbrellas on s.

    ``sigma`` 0 means no order parameter; ``f`` has shape (n_tp, n_s).
    """
    made = bias._replace(
        form=STATES,
        beta=np.ascontiguousarray(beta, dtype=float),
        beta_p=np.ascontiguousarray(beta * pressure, dtype=float),
        centres=np.ascontiguousarray(centres, dtype=float),
        stiffness=0.5 / sigma**2 if sigma else 0.0,
        f=np.array(f, dtype=float),
        weight=np.empty(f.shape),
        top=np.empty(len(beta)),
        part=np.empty(len(beta) + len(centres)),
        sums=np.full(f.shape, _NEVER),
        total=np.array([_NEVER]),
    )
    refresh(made)
    return made


def copied(bias: Bias) -> Bias:
    """Return a bias with arrays of its own, so that a walker may teach it."""
    arrays: dict[str, Any] = {k: v.copy() for k, v in bias._asdict().items() if isinstance(v, np.ndarray)}
    return bias._replace(**arrays)


@nb.njit(fastmath=True)
def refresh(bias: Bias) -> None:
    """Recompute what is derived from f."""
    for i in range(bias.f.shape[0]):
        top = bias.f[i, 0]
        for k in range(1, bias.f.shape[1]):
            top = max(top, bias.f[i, k])
        bias.top[i] = top
        for k in range(bias.f.shape[1]):
            bias.weight[i, k] = math.exp(bias.f[i, k] - top)


@nb.njit(fastmath=True)
def _factors(u: float, volume: float, s: float, b: Bias) -> tuple[float, float]:
    """Fill ``part`` with the thermal and the umbrella factors; return their sum and the logarithm taken out.

    Σ_λ exp(f_λ − Δu_λ) is the sum times exp(the logarithm).
    """
    n, m = b.f.shape
    highest = _NEVER
    for i in range(n):
        b.part[i] = b.top[i] - (b.beta[i] - b.beta0) * u - (b.beta_p[i] - b.beta0 * b.p0) * volume
        highest = max(highest, b.part[i])
    for i in range(n):
        b.part[i] = math.exp(b.part[i] - highest)
    nearest = 1e300
    for k in range(m):
        nearest = min(nearest, (s - b.centres[k]) ** 2)
    for k in range(m):
        b.part[n + k] = math.exp(-b.stiffness * ((s - b.centres[k]) ** 2 - nearest))
    total = 0.0
    for i in range(n):
        row = 0.0
        for k in range(m):
            row += b.weight[i, k] * b.part[n + k]
        total += b.part[i] * row
    return total, highest - b.stiffness * nearest


@nb.njit(fastmath=True)
def _mixture(u: float, volume: float, s: float, b: Bias) -> tuple[float, float, float, float]:
    n, m = b.f.shape
    total, logarithm = _factors(u, volume, s, b)
    by_u, by_v, by_s = 0.0, 0.0, 0.0
    for i in range(n):
        row, moment = 0.0, 0.0
        for k in range(m):
            w = b.weight[i, k] * b.part[n + k]
            row += w
            moment += w * (s - b.centres[k])
        by_u += b.part[i] * row * (b.beta[i] - b.beta0)
        by_v += b.part[i] * row * (b.beta_p[i] - b.beta0 * b.p0)
        by_s += b.part[i] * moment
    unit = 1.0 / (b.beta0 * total)
    value = -(logarithm + math.log(total / (n * m))) / b.beta0
    return value, by_u * unit, by_v * unit, 2.0 * b.stiffness * by_s * unit


@nb.njit(fastmath=True)
def _basis(q: float, knots: int) -> tuple[int, float, float, float, float, float, float, float, float, float]:
    """Return first coefficient, four weights, four slopes, and how far q (in steps) lies outside."""
    inside = min(max(q, 0.0), knots - 1e-9)
    k = int(inside)
    t = inside - k
    r = 1.0 - t
    return (
        k,
        r * r * r / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * r * r * r - 6.0 * r * r + 4.0) / 6.0,
        t * t * t / 6.0,
        -0.5 * r * r,
        0.5 * (3.0 * t * t - 4.0 * t),
        -0.5 * (3.0 * r * r - 4.0 * r),
        0.5 * t * t,
        q - inside,
    )


@nb.njit(fastmath=True)
def _spline(q1: float, q2: float, grid: F64) -> tuple[float, float, float]:
    """Return value and derivatives (per step) of the spline; outside it is constant."""
    k, a0, a1, a2, a3, da0, da1, da2, da3, beyond = _basis(q1, grid.shape[0] - 3)
    l, b0, b1, b2, b3, db0, db1, db2, db3, outside = _basis(q2, grid.shape[1] - 3)
    a, da = (a0, a1, a2, a3), (da0, da1, da2, da3)
    b, db = (b0, b1, b2, b3), (db0, db1, db2, db3)
    value, by1, by2 = 0.0, 0.0, 0.0
    for i in range(4):
        row = grid[k + i]
        across = row[l] * b[0] + row[l + 1] * b[1] + row[l + 2] * b[2] + row[l + 3] * b[3]
        along = row[l] * db[0] + row[l + 1] * db[1] + row[l + 2] * db[2] + row[l + 3] * db[3]
        value += a[i] * across
        by1 += da[i] * across
        by2 += a[i] * along
    return value, by1 if beyond == 0.0 else 0.0, by2 if outside == 0.0 else 0.0


@nb.njit(fastmath=True)
def _histogram(u: float, volume: float, s: float, b: Bias) -> tuple[float, float, float, float]:
    if b.second_is_volume:
        value, by1, by2 = _spline((u - b.origin[0]) / b.step[0], (volume - b.origin[1]) / b.step[1], b.grid)
        return value, by1 / b.step[0], by2 / b.step[1], 0.0
    h = u + b.p0 * volume
    value, by1, by2 = _spline((h - b.origin[0]) / b.step[0], (s - b.origin[1]) / b.step[1], b.grid)
    return value, by1 / b.step[0], b.p0 * by1 / b.step[0], by2 / b.step[1]


@nb.njit(fastmath=True)
def evaluate(u: float, volume: float, s: float, b: Bias) -> tuple[float, float, float, float]:
    """Return B (eV) and its derivatives by U, by V (eV/Å³) and by s (eV)."""
    value, by_u, by_v, by_s = 0.0, 0.0, 0.0, 0.0
    if b.form == STATES:
        value, by_u, by_v, by_s = _mixture(u, volume, s, b)
    elif b.form == GRID:
        value, by_u, by_v, by_s = _mixture(u, volume, s, b)
        learnt, du, dv, ds = _histogram(u, volume, s, b)
        value, by_u, by_v, by_s = value + learnt, by_u + du, by_v + dv, by_s + ds
    wall = 0.0
    if volume < b.walls[0]:
        wall = math.log(volume / b.walls[0])
    elif volume > b.walls[1]:
        wall = math.log(volume / b.walls[1])
    return value + b.wall * wall * wall, by_u, by_v + 2.0 * b.wall * wall / volume, by_s


@nb.njit
def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@nb.njit(fastmath=True)
def _learn_sams(u: float, volume: float, s: float, b: Bias, gain: float) -> None:
    n, m = b.f.shape
    total, _ = _factors(u, volume, s, b)
    mean = gain / (n * m)
    for i in range(n):
        for k in range(m):
            b.f[i, k] -= gain * b.weight[i, k] * b.part[i] * b.part[n + k] / total - mean
    refresh(b)


@nb.njit
def _learn_opes(u: float, volume: float, s: float, b: Bias) -> None:
    n, m = b.f.shape
    value = b.beta0 * evaluate(u, volume, s, b)[0]
    b.total[0] = _log_add(b.total[0], value)
    for i in range(n):
        thermal = (b.beta[i] - b.beta0) * u + (b.beta_p[i] - b.beta0 * b.p0) * volume
        for k in range(m):
            du = thermal + b.stiffness * (s - b.centres[k]) ** 2
            b.sums[i, k] = _log_add(b.sums[i, k], value - du)
            b.f[i, k] = b.total[0] - b.sums[i, k]
    refresh(b)


@nb.njit(fastmath=True)
def _learn_grid(u: float, volume: float, s: float, b: Bias, height: float) -> None:
    if b.second_is_volume:
        q1, q2 = (u - b.origin[0]) / b.step[0], (volume - b.origin[1]) / b.step[1]
    else:
        q1, q2 = (u + b.p0 * volume - b.origin[0]) / b.step[0], (s - b.origin[1]) / b.step[1]
    k, a0, a1, a2, a3, _, _, _, _, beyond = _basis(q1, b.grid.shape[0] - 3)
    l, b0, b1, b2, b3, _, _, _, _, outside = _basis(q2, b.grid.shape[1] - 3)
    if beyond != 0.0 or outside != 0.0:
        return
    across, along = (a0, a1, a2, a3), (b0, b1, b2, b3)
    for i in range(4):
        for j in range(4):
            b.grid[k + i, l + j] += height * across[i] * along[j]


@nb.njit
def gain(b: Bias, how: Learning, updates: float) -> float:
    """Return the size of a lesson in k_B T₀, after ``updates`` of each walker in this call.

    Early lessons are 1 k_B T₀ over the root of the number of walkers; then they fall as one over the number of all
    updates.
    """
    t = how.walkers * (how.start + updates)
    if how.method == WANG_LANDAU:
        return min(1.0 / math.sqrt(how.walkers), b.grid.size / (t + 1.0))
    early = min(1.0, b.f.size * (t + 1.0) ** -0.6) / math.sqrt(how.walkers)
    if t <= how.burn_in:
        return early
    return min(early, b.f.size / (t - how.burn_in + (how.burn_in + 1.0) ** 0.6))


@nb.njit
def learn(u: float, volume: float, s: float, b: Bias, how: Learning, updates: float) -> None:
    """Teach the bias one visit; ``updates`` counts those of this call."""
    if how.method == SAMS:
        _learn_sams(u, volume, s, b, gain(b, how, updates))
    elif how.method == OPES:
        _learn_opes(u, volume, s, b)
    elif how.method == WANG_LANDAU:
        _learn_grid(u, volume, s, b, gain(b, how, updates) / b.beta0)


def merged(before: Bias, walkers: list[Bias], method: int) -> Bias:
    """Return what all walkers learnt together, each from a copy of ``before``."""
    made = copied(before)
    if method == OPES:
        # each walker's sums hold the common past once; it is taken out of all but one
        made.total[:] = _pooled(before.total, [w.total for w in walkers])
        made.sums[:] = _pooled(before.sums, [w.sums for w in walkers])
        made.f[:] = made.total[0] - made.sums
    else:
        made.f[:] += sum(w.f - before.f for w in walkers)
        made.grid[:] += sum(w.grid - before.grid for w in walkers)
    refresh(made)
    return made


def _pooled(before: F64, after: list[F64]) -> F64:
    """Return log(exp(before) + Σ (exp(after) − exp(before)))."""
    top = np.maximum.reduce(after)
    gained = sum(np.exp(a - top) - np.exp(before - top) for a in after)
    with np.errstate(divide="ignore"):
        return np.asarray(top + np.log(np.exp(before - top) + gained))

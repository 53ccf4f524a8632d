"""What a run in an extended ensemble tells of the metal besides frames: averages at other states, and free energies.

Sampling follows exp(−β₀(U + P₀V + B)) in the measure V^N dx dV, with a bias B that stood still. A record counts at the
state (T, P) with the weight

    w = exp(β₀B − (β − β₀)U − (βP − β₀P₀)V)

(Torrie and Valleau, J. Comput. Phys. 23, 187, 1977). All energies are configurational: the kinetic 3/2 N k_B T is in
the heat capacity only.

*Errors* are standard errors by the jackknife that leaves out one block of consecutive records of one walker at a time
(Künsch, Ann. Stat. 17, 1217, 1989). Weighted averages are ratios of sums; what a record adds to one, w(U − ⟨U⟩), is
a series whose integrated autocorrelation time τ decides the blocks: 10 τ long at least, unless fewer than 20 blocks
would remain, which is then said. *Effective sample size* is (Σw)²/Σw² (Kish, Survey Sampling, 1965): as many records of
(T, P) itself would tell the same if none were correlated. Over 2τ it is the number of *independent* records. Where the
weight rests on too few records or blocks, nothing is told: those states were not visited.

*Phases* have two definitions. Changes are counted with hysteresis, so that a walker that trembles at a threshold does
not count. Averages need a definition without memory: else a melt that was a crystal a moment ago counts as crystal,
where the crystal itself has no weight left. For them the middle between the thresholds divides, and a phase is one only
while the free energy along s rises by k_B T at least on the way out of it; elsewhere it melts or freezes at once.
Either rests on s alone: to the structure factor a crystal that is turned or faulted is a liquid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import DataError
from potstill.sampling.bias import GPA, KB

F64 = NDArray[np.float64]

CRYSTAL, LIQUID = 1, -1
NAMES = {None: "all", CRYSTAL: "crystal", LIQUID: "liquid"}
WINDOW = 5.0  # Sokal's c: the sum over lags ends where the lag passes c τ
LONG = 10.0  # a block in τ: the variance of its mean is then too small by a tenth at most
FEWEST_BLOCKS, MOST_BLOCKS = 20, 200
LEAST_EFFECTIVE = 30.0  # records, and
LEAST_SHARED = 4.0  # blocks, (ΣW)²/ΣW², that must bear the weight for a state to count as visited
BARRIER, BARRIER_BINS = 1.0, 8  # k_B T, and the bins between the thresholds that it is found with
LEAST_CROSSINGS = 10  # of all walkers: with fewer, phases have the weights that the walkers happened to begin with
SEARCH = 1.3  # equal weights are looked for beyond the temperatures visited by this factor
POINTS = 2_000
NOT_VISITED = "not visited: too few records bear the weight of this state"
UNSTABLE = "no phase at this state: no barrier of k_B T holds it"
FEW_CROSSINGS = f"walkers crossed between liquid and crystal fewer than {LEAST_CROSSINGS} times"
SHORT_BLOCKS = "the run is short against its autocorrelation time: the error is a lower bound"


@dataclass(frozen=True)
class Series:
    """Records of production, all arrays of shape (n_walkers, n_records).

    Attributes
    ----------
    energy, volume : ndarray
        U of the cell in eV, V in Å³.
    order : ndarray
        s.
    bias : ndarray
        B, eV.
    scale : ndarray
        1 + ∂B/∂U, which is T₀ over the temperature that the forces amount to.
    beta0, p0 : float
        1/eV and eV/Å³ of the reference state.
    n_atoms : int
    low, high : float
        Below ``low`` s means liquid, above ``high`` crystal.
    """

    energy: F64
    volume: F64
    order: F64
    bias: F64
    scale: F64
    beta0: float
    p0: float
    n_atoms: int
    low: float
    high: float

    def __post_init__(self) -> None:
        arrays = (self.energy, self.volume, self.order, self.bias, self.scale)
        if {a.shape for a in arrays} != {self.energy.shape} or self.energy.ndim != 2 or not self.energy.size:
            raise DataError(f"Expected five arrays of one shape (walkers, records), found {[a.shape for a in arrays]}.")
        if not all(np.isfinite(a).all() for a in arrays):
            raise DataError(
                "The records of production hold values that are not finite. Leave out walkers that exploded."
            )

    @cached_property
    def side(self) -> NDArray[np.int8]:
        """Phase of each record for averages: +1 crystal or −1 liquid, divided in the middle between the thresholds."""
        return np.where(self.order > 0.5 * (self.low + self.high), CRYSTAL, LIQUID).astype(np.int8)

    @cached_property
    def crossings(self) -> int:
        """Changes of phase of all walkers, see :func:`crossings`."""
        return sum(crossings(s, self.low, self.high) for s in self.order)

    def log_weights(self, temperature_K: float, pressure_GPa: float) -> F64:
        """Return ln w of each record at a state."""
        beta, p = 1.0 / (KB * temperature_K), pressure_GPa * GPA
        return (
            self.beta0 * self.bias - (beta - self.beta0) * self.energy - (beta * p - self.beta0 * self.p0) * self.volume
        )


@dataclass(frozen=True)
class Estimate:
    """Averages at one state; None where they were not visited.

    Attributes
    ----------
    temperature, pressure : float
        K, GPa.
    phase : int | None
        ``CRYSTAL``, ``LIQUID``, or None for all records.
    energy, energy_error : float | None
        ⟨U⟩ of the cell, eV, and its standard error; the same for the others.
    volume, volume_error : float | None
        ⟨V⟩, Å³.
    enthalpy, enthalpy_error : float | None
        ⟨U + PV⟩, eV.
    heat_capacity, heat_capacity_error : float | None
        C_P in k_B per atom: 3/2 + β² var(U + PV)/N.
    effective : float
        (Σw)²/Σw².
    independent : float | None
        That over 2τ; None where there are no averages, as τ.
    tau : float | None
        Longest integrated autocorrelation time of what the records add to these averages, in records.
    blocks : int
        Of the jackknife, all walkers together.
    note : str | None
        What to know before the numbers are used.
    """

    temperature: float
    pressure: float
    phase: int | None
    energy: float | None
    energy_error: float | None
    volume: float | None
    volume_error: float | None
    enthalpy: float | None
    enthalpy_error: float | None
    heat_capacity: float | None
    heat_capacity_error: float | None
    effective: float
    independent: float | None
    tau: float | None
    blocks: int
    note: str | None


@dataclass(frozen=True)
class Difference:
    """Free energy of the crystal less that of the liquid, in one cell at one state.

    Attributes
    ----------
    temperature, pressure : float
        K, GPa.
    value, error : float | None
        eV of the whole cell, and its standard error; None where a phase was not visited, or the walkers seldom crossed.
    slope : float | None
        d(βF)/dβ of the same difference: the enthalpy of the crystal less that of the liquid, eV.
    effective : float
        (Σw)²/Σw² of the phase that has less.
    tau : float | None
        As in :class:`Estimate`.
    blocks : int
    note : str | None
    """

    temperature: float
    pressure: float
    value: float | None
    error: float | None
    slope: float | None
    effective: float
    tau: float | None
    blocks: int
    note: str | None


@dataclass(frozen=True)
class EqualWeight:
    """Equal-weight temperature of this cell, see :func:`melting`.

    Attributes
    ----------
    pressure : float
        GPa.
    temperature, error : float | None
        K, and its standard error.
    note : str | None
        Why there is none.
    """

    pressure: float
    temperature: float | None
    error: float | None
    note: str | None


# --- signals ---


def phases(order: F64, low: float, high: float) -> NDArray[np.int8]:
    """Tell the phase along the last axis: that of the threshold passed last.

    Returns
    -------
    ndarray of int8
        +1 crystal, −1 liquid, 0 before a threshold was passed.
    """
    order = np.asarray(order)
    mark = np.where(order > high, CRYSTAL, np.where(order < low, LIQUID, 0)).astype(np.int8)
    last = np.maximum.accumulate(np.where(mark != 0, np.arange(order.shape[-1]), 0), axis=-1)
    return np.take_along_axis(mark, last, axis=-1)


def crossings(order: F64, low: float, high: float) -> int:
    """Count changes of phase along one walker; one counts when the other threshold is passed."""
    known = phases(order, low, high)
    known = known[known != 0]
    return int(np.count_nonzero(known[1:] != known[:-1]))


def round_trips(order: F64, low: float, high: float) -> int:
    """Count returns to the phase that a walker was first in."""
    return crossings(order, low, high) // 2


def autocorrelation_time(x: F64) -> float:
    """Return the integrated autocorrelation time τ = 1/2 + Σ ρ(t), in records.

    The sum ends at the first lag that is 5 τ or more, τ being the sum so far (Sokal, in Functional Integration, Plenum
    1997, p. 131). A mean of n records has the variance 2τ/n times that of a record.

    Parameters
    ----------
    x : ndarray (n,) or (n_walkers, n)
        One series, or several of the same process, whose autocovariances about the common mean are averaged.

    Returns
    -------
    float
        1/2 at least, which is that of uncorrelated and of constant records. Where the sum does not end within half the
        series, that much of it, which is a lower bound.
    """
    x = np.atleast_2d(np.asarray(x, dtype=float))
    n = x.shape[1]
    d = x - x.mean()
    scale = np.abs(d).max()
    if n < 4 or scale == 0.0:
        return 0.5
    spectrum = np.abs(np.fft.rfft(d / scale, 1 << (2 * n - 1).bit_length(), axis=1)) ** 2
    lags = n // 2
    covariance = np.fft.irfft(spectrum.mean(axis=0))[:lags] / (n - np.arange(lags))
    sums = 0.5 + np.cumsum(covariance[1:]) / covariance[0]
    closed = np.flatnonzero(np.arange(1, lags) >= WINDOW * sums)
    return max(0.5, float(sums[closed[0] if len(closed) else -1]))


# --- errors ---


@dataclass(frozen=True)
class _Blocks:
    """Where blocks begin, the same in each walker, and how they were found."""

    starts: NDArray[np.intp]
    n_walkers: int
    tau: float
    short: bool

    @property
    def number(self) -> int:
        return len(self.starts) * self.n_walkers

    def sums(self, moments: list[F64]) -> F64:
        """Return the sums of each moment (n_walkers, n_records) in each block, shape (n_moments, n_blocks)."""
        return np.stack([np.add.reduceat(m, self.starts, axis=1).ravel() for m in moments])


def _blocks(influences: list[F64]) -> _Blocks:
    """Cut series of shape (n_walkers, n_records) into blocks that are long against the slowest of them."""
    walkers, n = influences[0].shape
    tau = max(autocorrelation_time(x) for x in influences)
    fewest, most = (min(n, math.ceil(b / walkers)) for b in (FEWEST_BLOCKS, MOST_BLOCKS))
    each = min(max(int(n / (LONG * tau)), fewest), most)
    starts = np.linspace(0, n, each, endpoint=False).astype(np.intp)
    return _Blocks(starts, walkers, tau, n / each < LONG / 2 * tau)


def _jackknife(sums: F64, estimator: Callable[[F64], F64]) -> tuple[F64, F64]:
    """Return estimates and standard errors; ``estimator`` takes sums (n_moments, …) to estimates (n, …)."""
    total = sums.sum(axis=1)
    without = estimator(total[:, None] - sums)
    n = sums.shape[1]
    spread = ((without - without.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return estimator(total[:, None])[:, 0], np.sqrt((n - 1) / n * spread)


def _kish(w: F64) -> float:
    return float(w.sum() ** 2 / (w**2).sum())


def _weights(series: Series, T: float, P: float, phase: int | None) -> tuple[F64, float]:
    """Return weights of a phase's records, the largest 1, and the logarithm taken out."""
    logs = series.log_weights(T, P)
    if phase is not None:
        logs = np.where(series.side == phase, logs, -np.inf)
    top = float(logs.max())
    return (np.exp(logs - top), top) if math.isfinite(top) else (np.zeros_like(logs), top)


def _missing(series: Series, T: float, P: float, phase: int | None) -> str | None:
    """Say why a phase has no averages at a state: it was never seen, or there is no barrier on the way out."""
    if phase is None:
        return None
    past = series.order > series.high if phase == CRYSTAL else series.order < series.low
    if not past.any():
        return NOT_VISITED
    w, _ = _weights(series, T, P, None)
    width = (series.high - series.low) / BARRIER_BINS
    place = np.floor((series.order - series.low) / width).astype(int)
    between = (place >= 0) & (place < BARRIER_BINS)
    lowest_between = np.bincount(place[between], w[between], BARRIER_BINS).min()
    highest_past = np.bincount(place[past] - place[past].min(), w[past]).max()
    return UNSTABLE if highest_past < math.exp(BARRIER) * lowest_between or highest_past == 0.0 else None


# --- averages ---


def reweighted(series: Series, temperature_K: float, pressure_GPa: float, phase: int | None = None) -> Estimate:
    """Estimate averages at a state, of all records or of one phase.

    Parameters
    ----------
    series : Series
    temperature_K, pressure_GPa : float
    phase : int | None
        ``CRYSTAL``, ``LIQUID``, or None for all.

    Returns
    -------
    Estimate
        Its values are None where the state was not visited.
    """
    at = (float(temperature_K), float(pressure_GPa), phase)
    w, _ = _weights(series, temperature_K, pressure_GPa, phase)
    total = float(w.sum())
    effective = _kish(w) if total else 0.0
    missing = NOT_VISITED if effective < LEAST_EFFECTIVE else _missing(series, *at)
    if missing:
        return _nothing(at, effective, missing)
    U, V = series.energy, series.volume
    H = U + pressure_GPa * GPA * V
    u, v, h = (float((w * q).sum()) / total for q in (U, V, H))
    dU, dV, dH = U - u, V - v, H - h  # moments about the mean keep their digits
    spread = float((w * dH**2).sum()) / total
    blocks = _blocks([w * dU, w * dV, w * (dH**2 - spread)])
    sums = blocks.sums([w, w * dU, w * dV, w * dH, w * dH**2])
    if _kish(sums[0]) < LEAST_SHARED:
        return _nothing(at, effective)
    per_kt = 1.0 / (series.n_atoms * (KB * temperature_K) ** 2)

    def averages(s: F64) -> F64:
        means = s[1:] / s[0]
        return np.stack([u + means[0], v + means[1], h + means[2], 1.5 + per_kt * (means[3] - means[2] ** 2)])

    values, errors = _jackknife(sums, averages)
    (e, v, h, c), (e_error, v_error, h_error, c_error) = values.tolist(), errors.tolist()
    note = SHORT_BLOCKS if blocks.short else None
    return Estimate(
        *at, e, e_error, v, v_error, h, h_error, c, c_error,
        effective, effective / (2 * blocks.tau), blocks.tau, blocks.number, note,
    )  # fmt: skip


def _nothing(at: tuple[float, float, int | None], effective: float, note: str = NOT_VISITED) -> Estimate:
    none = None
    return Estimate(*at, none, none, none, none, none, none, none, none, effective, none, none, 0, note)


def free_energy_difference(series: Series, temperature_K: float, pressure_GPa: float) -> Difference:
    """Estimate F_crystal − F_liquid = −k_B T ln(p_crystal/p_liquid) of the cell at a state.

    p is a phase's share of the weight, with the phases divided in the middle between the thresholds. At constant
    pressure this is a difference of Gibbs energies.
    """
    found, _ = _difference(series, temperature_K, pressure_GPa)
    return found


def _difference(series: Series, T: float, P: float) -> tuple[Difference, F64]:
    """Return the difference, and β times it with each block left out."""
    (w1, top1), (w2, top2) = (_weights(series, T, P, phase) for phase in (CRYSTAL, LIQUID))
    sums = float(w1.sum()), float(w2.sum())
    effective = min(_kish(w1), _kish(w2)) if all(sums) else 0.0
    if series.crossings < LEAST_CROSSINGS:
        return Difference(T, P, None, None, None, effective, None, 0, FEW_CROSSINGS), np.zeros(0)
    missing = (_missing(series, T, P, phase) for phase in (CRYSTAL, LIQUID))
    note = NOT_VISITED if effective < LEAST_EFFECTIVE else next(filter(None, missing), None)
    if note:
        return Difference(T, P, None, None, None, effective, None, 0, note), np.zeros(0)
    blocks = _blocks([w1 / sums[0] - w2 / sums[1]])
    H = series.energy + P * GPA * series.volume
    slope = float((w1 * H).sum() / sums[0] - (w2 * H).sum() / sums[1])
    parts = blocks.sums([w1, w2])
    if min(_kish(part) for part in parts) < LEAST_SHARED:
        return Difference(T, P, None, None, None, effective, None, 0, NOT_VISITED), np.zeros(0)

    def reduced(s: F64) -> F64:
        return np.asarray(np.log(s[1] / s[0]) + (top2 - top1))[None]

    value, error = _jackknife(parts, reduced)
    kT = KB * T
    note = SHORT_BLOCKS if blocks.short else None
    found = Difference(
        T, P, kT * float(value[0]), kT * float(error[0]), slope, effective, blocks.tau, blocks.number, note
    )
    return found, reduced(parts.sum(axis=1, keepdims=True) - parts)[0]


def melting(series: Series, pressure_GPa: float) -> EqualWeight:
    """Find the equal-weight temperature of this cell: where crystal and liquid share the weight at a pressure.

    It is **not** the melting point. A cell that holds a whole number of the crystal's own cells admits it without
    strain or defect and ties it to its images, while the liquid is forced into a period that it does not have and loses
    entropy: a small cell favours the crystal, and the temperature comes out high. For the melting point take both
    phases side by side in a large cell, or several sizes and their limit.

    The error is the jackknife's: each value without a block is one Newton step away, because ∂(βF)/∂β is the enthalpy.
    """
    if series.crossings < LEAST_CROSSINGS:
        return EqualWeight(pressure_GPa, None, None, FEW_CROSSINGS)
    ends = np.quantile(series.scale, [0.01, 0.99]) * series.beta0
    ends = np.maximum(ends, series.beta0 / 20) * [1 / SEARCH, SEARCH]  # forces may vanish or turn at the rim
    ladder = np.geomspace(ends[1], ends[0], 33)  # from cold to hot
    values = [_difference(series, 1.0 / (KB * b), pressure_GPa)[0].value for b in ladder]
    told = [(float(b), v) for b, v in zip(ladder, values, strict=True) if v is not None]
    if not told:
        return EqualWeight(pressure_GPa, None, None, "no temperature at which both phases were visited")
    bracket = next(((a, b) for (a, x), (b, y) in pairwise(told) if x <= 0.0 < y), None)
    if bracket is None:
        side = "crystal" if told[-1][1] <= 0.0 else "liquid"
        return EqualWeight(pressure_GPa, None, None, f"the {side} has more weight wherever both phases were visited")
    cold, hot = bracket
    for _ in range(40):
        beta = float(0.5 * (cold + hot))
        (w1, top1), (w2, top2) = (
            _weights(series, 1.0 / (KB * beta), pressure_GPa, phase) for phase in (CRYSTAL, LIQUID)
        )
        crystal = math.log(w1.sum()) + top1 > math.log(w2.sum()) + top2
        cold, hot = (beta, hot) if crystal else (cold, beta)
    found, without = _difference(series, 1.0 / (KB * cold), pressure_GPa)
    if found.value is None or found.slope is None or found.slope >= 0.0:
        return EqualWeight(pressure_GPa, None, None, NOT_VISITED)
    roots = 1.0 / (KB * (cold - without / found.slope))
    n = len(roots)
    error = math.sqrt((n - 1) / n * float(((roots - roots.mean()) ** 2).sum()))
    return EqualWeight(pressure_GPa, 1.0 / (KB * cold), error, found.note)


# --- all of it ---


def analysis(series: Series, temperatures: F64, pressures: F64) -> dict[str, Any]:
    """Analyse a run over a grid of states.

    Parameters
    ----------
    series : Series
    temperatures, pressures : ndarray
        K and GPa.

    Returns
    -------
    dict
        JSON values, None for what is not known. Energies are without the kinetic part. ``table`` has a row for each
        state and phase (eV/atom, Å³/atom, k_B/atom), ``free_energy`` one for each state (crystal less liquid, eV of the
        cell), ``equal_weight`` one for each pressure (K). ``autocorrelation`` and ``tau`` are in records. ``points``
        are evenly spaced records. ``share`` and the phase of points are by hysteresis.
    """
    known = phases(series.order, series.low, series.high)
    by_walker = [crossings(s, series.low, series.high) for s in series.order]
    states = [(float(T), float(P)) for P in pressures for T in temperatures]
    out = {
        "n_walkers": series.order.shape[0],
        "n_records": series.order.shape[1],
        "thresholds": [series.low, series.high],
        "crossings": sum(by_walker),
        "crossings_by_walker": by_walker,
        "round_trips": [round_trips(s, series.low, series.high) for s in series.order],
        "share": {name: float((known == p).mean()) for p, name in NAMES.items() if p is not None},
        "autocorrelation": {
            "energy": autocorrelation_time(series.energy),
            "volume": autocorrelation_time(series.volume),
            "order": autocorrelation_time(series.order),
        },
        "table": [_row(reweighted(series, *state, phase), series.n_atoms) for state in states for phase in NAMES],
        "free_energy": [vars(free_energy_difference(series, *state)) for state in states],
        "equal_weight": [vars(melting(series, float(P))) for P in pressures],
        "points": _points(series),
    }
    clean: dict[str, Any] = _finite(out)
    return clean


def _row(e: Estimate, n_atoms: int) -> dict[str, Any]:
    row: dict[str, Any] = {"temperature": e.temperature, "pressure": e.pressure, "phase": NAMES[e.phase]}
    for name in ("energy", "volume", "enthalpy"):
        for key, value in ((name, getattr(e, name)), (f"{name}_error", getattr(e, f"{name}_error"))):
            row[key] = None if value is None else value / n_atoms
    names = ("heat_capacity", "heat_capacity_error", "effective", "independent", "tau", "blocks", "note")
    return row | {name: getattr(e, name) for name in names}


def _points(series: Series) -> dict[str, Any]:
    walkers, n = series.order.shape
    kept = np.unique(np.linspace(0, n - 1, max(1, min(n, POINTS // walkers))).astype(int))
    with np.errstate(divide="ignore"):
        T = 1.0 / (KB * series.beta0 * series.scale[:, kept])
    T[T <= 0.0] = np.inf  # the bias outweighs the potential there, as no temperature does
    columns = {
        "effective_temperature": np.round(T, 1),
        "order": np.round(series.order[:, kept], 4),
        "energy_per_atom": np.round(series.energy[:, kept] / series.n_atoms, 5),
        "volume_per_atom": np.round(series.volume[:, kept] / series.n_atoms, 4),
        "phase": phases(series.order, series.low, series.high)[:, kept].astype(int),
        "walker": np.repeat(np.arange(walkers)[:, None], len(kept), axis=1),
    }
    return {name: column.ravel().tolist() for name, column in columns.items()}


def _finite(value: Any) -> Any:
    """Return the same JSON values with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

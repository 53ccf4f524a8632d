"""Reweighting against systems that can be solved by hand."""

import json
import math

import numpy as np
import pytest
from scipy import special, stats

from potstill.errors import DataError
from potstill.sampling.bias import GPA, KB
from potstill.sampling.thermodynamics import (
    CRYSTAL,
    LIQUID,
    NAMES,
    Series,
    analysis,
    autocorrelation_time,
    crossings,
    free_energy_difference,
    melting,
    phases,
    reweighted,
    round_trips,
)

LOW, HIGH = 0.3, 0.7
T0, P0 = 1500.0, 2.0


def gaussian(rng, tau, shape):
    """Return AR(1) records of unit variance whose integrated autocorrelation time is ``tau``."""
    a = (2 * tau - 1) / (2 * tau + 1)
    x = np.empty(shape)
    x[:, 0] = rng.standard_normal(shape[0])
    noise = math.sqrt(1 - a * a) * rng.standard_normal(shape)
    for i in range(1, shape[1]):
        x[:, i] = a * x[:, i - 1] + noise[:, i]
    return x


def quantiles(log_density, low, high):
    """Return the inverse of a distribution function from its unnormalised logarithm."""
    x = np.linspace(low, high, 20_001)
    density = np.exp(log_density(x) - log_density(x).max())
    total = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return lambda u: np.interp(u, total / total[-1], x)


class Harmonic:
    """Harmonic crystal of N atoms, U = Σ ½ k x², in an ideal gas's volume: both exact at every T and P.

    U is gamma distributed with shape 3N/2 and scale k_B T, V with shape N + 1 and scale k_B T/P; B widens both.
    """

    n = 8
    beta0, p0 = 1 / (KB * T0), P0 * GPA
    mean_u, mean_v = 1.5 * n / beta0, (n + 1) / (beta0 * p0)

    def bias(self, u, v):
        # −½ a (x − mean)² with a a part of the inverse variance: the spread grows by 1/√(1 − part)
        a, b = 0.6 / (1.5 * self.n), 0.5 / (self.n + 1)
        reduced_u, reduced_v = self.beta0 * (u - self.mean_u), self.beta0 * self.p0 * (v - self.mean_v)
        # beyond three widths it is constant, else the tails would win against the gamma's
        reduced_u, reduced_v = (np.clip(x, -12, 12) for x in (reduced_u, reduced_v))
        return -0.5 * (a * reduced_u**2 + b * reduced_v**2) / self.beta0

    def series(self, seed, tau=0.5, shape=(4, 4000)):
        rng = np.random.default_rng(seed)
        kt, top_u, top_v = 1 / self.beta0, 8 * self.mean_u, 8 * self.mean_v
        u_of = quantiles(
            lambda u: (1.5 * self.n - 1) * np.log(u) - (u + self.bias(u, self.mean_v)) / kt, 1e-6 * top_u, top_u
        )
        v_of = quantiles(
            lambda v: self.n * np.log(v) - (self.p0 * v + self.bias(self.mean_u, v)) / kt, 1e-6 * top_v, top_v
        )
        u = u_of(special.ndtr(gaussian(rng, tau, shape)))
        v = v_of(special.ndtr(gaussian(rng, tau, shape)))
        half = np.full(shape, 0.9)
        return Series(u, v, half, self.bias(u, v), np.ones(shape), self.beta0, self.p0, self.n, LOW, HIGH)

    def exact(self, T, P):
        kt = KB * T
        u, pv = 1.5 * self.n * kt, (self.n + 1) * kt
        return {
            "energy": u,
            "volume": pv / (P * GPA),
            "enthalpy": u + pv,
            "heat_capacity": 1.5 + (1.5 * self.n + self.n + 1) / self.n,
        }


@pytest.mark.parametrize(("T", "P"), [(1500.0, 2.0), (1200.0, 2.0), (1900.0, 2.0), (1500.0, 2.6), (1700.0, 1.7)])
def test_reweighted_averages_are_the_exact_ones(T, P):
    system = Harmonic()
    found = reweighted(system.series(1), T, P)
    for name, exact in system.exact(T, P).items():
        value, error = getattr(found, name), getattr(found, f"{name}_error")
        assert abs(value - exact) < 3 * error, name
        assert error < 0.05 * exact, name


def test_the_bias_matters_to_that():
    system = Harmonic()
    series = system.series(1)
    without = Series(*(*vars(series).values(),)[:3], 0 * series.bias, *(*vars(series).values(),)[4:10])
    found = reweighted(without, 1200.0, 2.0)
    assert abs(found.heat_capacity - system.exact(1200.0, 2.0)["heat_capacity"]) > 5 * found.heat_capacity_error


@pytest.mark.parametrize("tau", [0.5, 6.0])
def test_errors_are_those_that_repetitions_show(tau):
    system = Harmonic()
    T, P = 1350.0, 2.2
    exact = system.exact(T, P)
    found = [reweighted(system.series(seed, tau, (3, 2000)), T, P) for seed in range(40)]
    for name, value in exact.items():
        z = [(getattr(f, name) - value) / getattr(f, f"{name}_error") for f in found]
        assert 0.7 < np.std(z) < 1.4, name
        assert abs(np.mean(z)) < 0.7, name
    # and what the correlation costs is what `independent` says
    spread = np.std([f.energy for f in found]) ** 2
    expected = KB * T * math.sqrt(1.5 * system.n)
    assert np.median([f.independent for f in found]) == pytest.approx(expected**2 / spread, rel=0.6)
    assert all(f.note is None for f in found)


def test_states_that_were_not_visited_have_no_values():
    series = Harmonic().series(2)
    for T, P in [(300.0, 2.0), (9000.0, 2.0), (1500.0, 60.0)]:
        found = reweighted(series, T, P)
        assert found.energy is found.volume_error is found.heat_capacity is None
        assert "not visited" in found.note
    assert reweighted(series, T0, P0, LIQUID).note is not None  # all of it is crystal
    assert reweighted(series, T0, P0, CRYSTAL).energy == reweighted(series, T0, P0).energy


def test_a_single_visit_is_not_enough_for_an_average():
    rng = np.random.default_rng(11)
    energy = 0.01 * rng.standard_normal((4, 2000))
    energy[2, 700:740] -= 5.0  # forty records of one excursion, worth as much as each other
    flat = np.zeros_like(energy)
    series = Series(energy, flat + 400, flat + 0.9, flat, flat + 1, 1 / (KB * T0), 0.0, 32, LOW, HIGH)
    found = reweighted(series, 900.0, 0.0)
    assert found.effective > 30
    assert found.energy is None
    assert reweighted(series, T0, 0.0).energy is not None


def test_a_run_that_is_short_against_its_correlation_says_so():
    found = reweighted(Harmonic().series(3, 100.0, (2, 600)), T0, P0)
    assert "lower bound" in found.note
    assert found.blocks == 20


class Mixture:
    """Two phases of normally distributed energy: βF_crystal − βF_liquid = β₀Δ + (β − β₀)(u_c − u_l), exactly."""

    beta0, delta, gap, width = 1 / (KB * T0), -0.1, -1.2, 0.15

    def difference(self, T):
        b = 1 / (KB * T)
        return (self.beta0 * self.delta + (b - self.beta0) * self.gap) / b

    @property
    def equal(self):
        return 1 / (KB * (self.beta0 - self.beta0 * self.delta / self.gap))

    def series(self, seed, shape=(4, 4000), stay=0.95):
        rng = np.random.default_rng(seed)
        flips = rng.random(shape) > stay  # one half of the time in each phase, whatever the weights
        flips[:, 0] = rng.random(shape[0]) > 0.5
        crystal = np.cumsum(flips, axis=1) % 2 == 1
        energy = -5.0 + np.where(crystal, self.gap, 0.0) + self.width * rng.standard_normal(shape)
        order = np.where(crystal, 0.85, 0.15) + 0.03 * rng.standard_normal(shape)
        bias = np.where(crystal, -self.delta, 0.0)
        scale = np.full(shape, 1.0)
        return Series(energy, np.full(shape, 400.0), order, bias, scale, self.beta0, 0.0, 32, LOW, HIGH)


@pytest.mark.parametrize("T", [1300.0, 1500.0, 1800.0])
def test_the_free_energy_difference_is_the_exact_one(T):
    system = Mixture()
    found = free_energy_difference(system.series(4), T, 0.0)
    assert abs(found.value - system.difference(T)) < 3 * found.error
    assert found.error < 0.05
    assert found.slope == pytest.approx(system.gap, abs=0.05)


def test_errors_of_differences_and_of_the_equal_weight_temperature_are_right():
    system = Mixture()
    runs = [system.series(seed, (3, 2000)) for seed in range(40)]
    found = [free_energy_difference(s, T0, 0.0) for s in runs]
    assert 0.7 < np.std([(f.value - system.delta) / f.error for f in found]) < 1.4
    equal = [melting(s, 0.0) for s in runs]
    z = [(e.temperature - system.equal) / e.error for e in equal]
    assert 0.7 < np.std(z) < 1.4
    assert abs(np.mean(z)) < 0.7


def test_averages_of_a_phase_are_its_own():
    system = Mixture()
    series = system.series(5)
    mean = {CRYSTAL: -5.0 + system.gap, LIQUID: -5.0}
    for phase, value in mean.items():
        found = reweighted(series, T0, 0.0, phase)
        assert abs(found.energy - value) < 3 * found.energy_error
        both = 1.5 + (system.width * system.beta0) ** 2 / 32
        assert abs(found.heat_capacity - both) < 3 * found.heat_capacity_error
    assert reweighted(series, T0, 0.0).heat_capacity > reweighted(series, T0, 0.0, CRYSTAL).heat_capacity + 0.3


def test_no_equal_weight_where_one_phase_wins_or_is_missing():
    system = Mixture()
    crystal = Mixture().series(6, (2, 1000))
    alone = Series(*(*vars(crystal).values(),)[:2], 0 * crystal.order + 0.9, *(*vars(crystal).values(),)[3:10])
    assert melting(alone, 0.0).temperature is None
    assert "crossed" in melting(alone, 0.0).note
    assert free_energy_difference(alone, T0, 0.0).value is None
    system.delta = -3.0
    wins = melting(system.series(6), 0.0)
    assert wins.temperature is None
    assert "crystal has more weight" in wins.note


def test_walkers_that_stay_where_they_began_tell_no_difference():
    series = Mixture().series(12, (6, 1500), stay=0.9999)
    assert 0 < series.crossings < 10
    assert {1, -1} == {int(p) for p in np.unique(series.side)}
    assert free_energy_difference(series, T0, 0.0).value is None
    assert "fewer than 10" in free_energy_difference(series, T0, 0.0).note
    assert reweighted(series, T0, 0.0, CRYSTAL).energy is not None


def test_a_phase_without_a_barrier_is_none():
    """One well at s = 0.15 whose tail reaches past both thresholds: its upper end is not a crystal."""
    rng = np.random.default_rng(7)
    order = 0.15 + 0.25 * np.abs(rng.standard_normal((4, 4000)))
    flat = np.zeros_like(order)
    energy = -5 + 0.1 * rng.standard_normal(order.shape)
    series = Series(energy, flat + 400, order, flat, flat + 1, 1 / (KB * T0), 0.0, 32, LOW, HIGH)
    assert (order > HIGH).sum() > 100
    assert "barrier" in reweighted(series, T0, 0.0, CRYSTAL).note
    assert "barrier" in free_energy_difference(series, T0, 0.0).note
    assert reweighted(series, T0, 0.0, LIQUID).energy == pytest.approx(-5, abs=0.02)


def test_autocorrelation_time():
    rng = np.random.default_rng(8)
    assert autocorrelation_time(rng.standard_normal(20_000)) == pytest.approx(0.5, abs=0.1)
    for tau in (3.0, 20.0):
        assert autocorrelation_time(gaussian(rng, tau, (1, 40_000))[0]) == pytest.approx(tau, rel=0.2)
        assert autocorrelation_time(gaussian(rng, tau, (8, 5_000))) == pytest.approx(tau, rel=0.2)
    assert autocorrelation_time(np.ones(100)) == 0.5
    # walkers that never leave where they began are not told to be uncorrelated
    stuck = np.repeat([0.0, 1.0], 1000).reshape(2, 1000) + 0.01 * rng.standard_normal((2, 1000))
    assert autocorrelation_time(stuck) > 100


@pytest.mark.parametrize(
    ("signal", "count", "known"),
    [
        ([0.5, 0.5, 0.5], 0, [0, 0, 0]),
        ([0.5, 0.1, 0.5, 0.9], 1, [0, -1, -1, 1]),
        ([0.9, 0.69, 0.31, 0.69, 0.9], 0, [1, 1, 1, 1, 1]),  # never past the other threshold
        ([0.1, 0.71, 0.69, 0.71, 0.69], 1, [-1, 1, 1, 1, 1]),  # trembles at one
        ([0.1, 0.9, 0.1, 0.5, 0.9, 0.5, 0.1], 4, [-1, 1, -1, -1, 1, 1, -1]),
        ([0.3, 0.7], 0, [0, 0]),  # a threshold itself is not past it
    ],
)
def test_crossings_and_phases_have_hysteresis(signal, count, known):
    signal = np.array(signal)
    assert crossings(signal, LOW, HIGH) == count
    assert round_trips(signal, LOW, HIGH) == count // 2
    assert phases(signal, LOW, HIGH).tolist() == known
    assert phases(np.stack([signal, 1 - signal]), LOW, HIGH).tolist() == [known, [-k for k in known]]
    assert phases(signal, LOW, HIGH).dtype == np.int8


def test_the_analysis_is_json_without_nan_and_holds_every_state():
    system = Mixture()
    series = system.series(9)
    series.scale[0, 0] = -0.1  # forces that turn round: no temperature has them
    temperatures, pressures = np.array([300.0, 1500.0, 1700.0]), np.array([0.0, 5.0])
    told = json.loads(json.dumps(analysis(series, temperatures, pressures), allow_nan=False))
    assert [(r["temperature"], r["pressure"]) for r in told["free_energy"]] == [
        (T, P) for P in (0.0, 5.0) for T in (300.0, 1500.0, 1700.0)
    ]
    assert len(told["table"]) == 6 * len(NAMES)
    row = next(r for r in told["table"] if (r["temperature"], r["phase"]) == (1500.0, "crystal"))
    assert row["energy"] == reweighted(series, 1500.0, 0.0, CRYSTAL).energy / 32
    assert next(r for r in told["table"] if r["temperature"] == 300.0 and r["phase"] == "all")["energy"] is None
    assert sum(told["round_trips"]) > 100
    assert told["crossings"] == sum(told["crossings_by_walker"])
    assert told["equal_weight"][0]["temperature"] == pytest.approx(system.equal, abs=50)
    points = told["points"]
    assert {len(column) for column in points.values()} == {2000}
    assert points["effective_temperature"][0] is None
    assert set(points["effective_temperature"][1:]) == {T0}
    assert set(points["phase"]) == {CRYSTAL, LIQUID}


def test_records_that_do_not_fit_or_are_not_finite_are_refused():
    series = Mixture().series(10, (1, 50))
    parts = [*vars(series).values()][:10]
    with pytest.raises(DataError, match="one shape"):
        Series(parts[0][:, 1:], *parts[1:])
    with pytest.raises(DataError, match="finite"):
        Series(parts[0] * np.nan, *parts[1:])


def test_the_quantiles_used_here_are_right():
    u_of = quantiles(stats.gamma(12).logpdf, 1e-9, 80)
    assert u_of(np.array([0.1, 0.5, 0.9])) == pytest.approx(stats.gamma(12).ppf([0.1, 0.5, 0.9]), rel=1e-4)

"""The bias and how it is learnt, against formulas written a second time and exact solutions."""

import numpy as np
import pytest
from scipy.special import logsumexp

from potstill.sampling.bias import (
    GPA,
    GRID,
    KB,
    OPES,
    SAMS,
    WANG_LANDAU,
    Learning,
    copied,
    evaluate,
    learn,
    merged,
    no_bias,
    with_states,
)
from potstill.sampling.ensembles import _opes_start

T0 = 1700.0
BETA0 = 1 / (KB * T0)
P0 = 5 * GPA


def states(order=True, pressures=(0.0, 5.0, 20.0), seed=0):
    rng = np.random.default_rng(seed)
    T, P = (a.ravel() for a in np.meshgrid(np.geomspace(1000, 3000, 6), np.array(pressures) * GPA, indexing="ij"))
    centres, sigma = (np.linspace(0.1, 0.9, 12), 0.05) if order else (np.zeros(1), 0.0)
    f = rng.normal(0.0, 4.0, (len(T), len(centres)))
    base = no_bias(BETA0, P0, 32, (250.0, 600.0))
    return with_states(base, 1 / (KB * T), P, centres, sigma, f)


def grid(by_volume=False, seed=0):
    rng = np.random.default_rng(seed)
    second = (300.0, 10.0) if by_volume else (0.0, 0.1)
    return states(order=not by_volume)._replace(
        form=GRID,
        grid=rng.normal(0.0, 0.5, (13, 13)),
        origin=np.array([-140.0, second[0]]),
        step=np.array([2.0, second[1]]),
        second_is_volume=by_volume,
    )


def directly(b, U, V, s):
    """The formula of the module's docstring, with scipy's sum of exponentials, and the walls."""
    du = (b.beta - b.beta0) * U + (b.beta_p - b.beta0 * b.p0) * V
    both = b.f - du[:, None] - b.stiffness * (s - b.centres) ** 2
    wall = sum(np.log(V / w) ** 2 for w, out in zip(b.walls, (b.walls[0] > V, b.walls[1] < V), strict=True) if out)
    return -(logsumexp(both) - np.log(b.f.size)) / b.beta0 + b.wall * wall


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("at", [(-130, 380, 0.5), (-30, 380, 0.5), (-230, 200, 1.8), (-130, 700, -0.9)])
def test_the_mixture_is_its_formula_near_and_far_from_all_states(order, at):
    b = states(order)
    assert evaluate(*map(float, at), b)[0] == pytest.approx(directly(b, *at), rel=1e-10, abs=1e-9)


@pytest.mark.parametrize(
    ("bias", "points"),
    [
        (states(), [(-130, 380, 0.5), (-125, 240, 0.2), (-135, 640, 0.95)]),
        (states(order=False), [(-130, 380, 0.5)]),
        (grid(), [(-131.3, 381, 0.43), (-160, 380, 0.5), (-100, 390, 0.77), (-131, 380, 1.2), (-131, 380, -0.3)]),
        (grid(by_volume=True), [(-131.3, 343.7, 0.4), (-160, 343, 0.4), (-131, 452, 0.4)]),
    ],
    ids=["states", "states without order", "grid in H and s", "grid in U and V"],
)
def test_the_derivatives_are_slopes(bias, points):
    for at in points:
        at = np.array(at, dtype=float)  # noqa: PLW2901
        _, *slopes = evaluate(*at, bias)
        for k, step in enumerate((1e-4, 1e-3, 1e-6)):
            up, down = at.copy(), at.copy()
            up[k] += step
            down[k] -= step
            numeric = (evaluate(*up, bias)[0] - evaluate(*down, bias)[0]) / (2 * step)
            assert slopes[k] == pytest.approx(numeric, rel=2e-5, abs=1e-7), (at, k)


def test_one_state_that_is_the_reference_is_no_bias():
    b = with_states(no_bias(BETA0, P0, 32), np.array([BETA0]), np.array([P0]), np.zeros(1), 0.0, np.array([[3.0]]))
    values = [evaluate(U, V, 0.3, b) for U, V in ((-130.0, 350.0), (-90.0, 500.0))]
    assert values[0][0] == pytest.approx(values[1][0])
    assert np.allclose([v[1:] for v in values], 0.0, atol=1e-12)


# --- learning, on a system that is solved: density of states U^(k − 1), k = 48, as of 32 harmonic atoms ---

K = 48
ENERGIES = np.linspace(0.05, 40.0, 500)


def draw(b, rng, n):
    """Exact samples of U under the bias as it is."""
    log = (K - 1) * np.log(ENERGIES) - b.beta0 * (ENERGIES + [evaluate(U, 1.0, 0.0, b)[0] for U in ENERGIES])
    p = np.exp(log - log.max())
    return rng.choice(ENERGIES, n, p=p / p.sum())


def toy(guess=0.0):
    T = np.geomspace(1000, 2900, 7)
    b = no_bias(BETA0, 0.0, 32)
    return with_states(b, 1 / (KB * T), np.zeros(7), np.zeros(1), 0.0, guess * np.log(T)[:, None])


@pytest.mark.parametrize(("method", "tolerance"), [(SAMS, 0.15), (OPES, 0.15)], ids=["sams", "opes"])
def test_estimators_find_the_exact_free_energies(method, tolerance):
    b, rng, per = toy(), np.random.default_rng(1), 40
    if method == OPES:  # begins with unbiased visits, as in a campaign
        U = draw(no_bias(BETA0, 0.0, 32), rng, 1000)
        b = _opes_start(b, U, np.ones_like(U), np.zeros_like(U))
    for k in range(400):
        how = Learning(method, float(k * per), 2000.0, 1.0)
        for i, U in enumerate(draw(b, rng, per)):
            learn(U, 1.0, 0.0, b, how, float(i))
    exact = K * np.log(b.beta)  # Z ∝ β^−K
    error = (b.f[:, 0] - b.f[:, 0].mean()) - (exact - exact.mean())
    assert np.ptp(exact) > 40
    assert np.abs(error).max() < tolerance


def test_wang_landau_flattens_the_histogram_and_its_ends_are_the_mixtures():
    rng, per = np.random.default_rng(2), 40
    low, high = (K - 1) * KB * np.array([1000.0, 2900.0])  # where the density of states has these temperatures
    b = toy(guess=-0.97 * K)._replace(  # as good as the first guess of a campaign
        form=GRID,
        grid=np.zeros((13, 4)),
        origin=np.array([low, 0.0]),
        step=np.array([(high - low) / 10, 1e30]),
    )
    for k in range(400):
        how = Learning(WANG_LANDAU, float(k * per), 1.0, 1.0)
        for i, U in enumerate(draw(b, rng, per)):
            learn(U, 1.0, 0.0, b, how, float(i))
    seen = draw(b, rng, 40_000)
    inside = seen[(seen > low + 1.0) & (seen < high - 1.0)]  # the very ends are rounded off by the spline
    counts, _ = np.histogram(inside, bins=8)
    assert len(inside) > 0.2 * len(seen)
    assert counts.max() / counts.min() < 1.5
    before = b.grid.copy()
    for U in (low - 0.1, high + 0.1):
        learn(U, 1.0, 0.0, b, Learning(WANG_LANDAU, 0.0, 1.0, 1.0), 0.0)
    assert np.array_equal(b.grid, before)  # outside nothing is learnt


def test_lessons_of_several_walkers_come_together():
    rng = np.random.default_rng(4)
    start = toy()
    visits = draw(start, rng, 30)
    how = Learning(SAMS, 10.0, 100.0, 3.0)
    pupils = [copied(start) for _ in range(3)]
    for k, pupil in enumerate(pupils):
        for i, U in enumerate(visits[10 * k : 10 * k + 10]):
            learn(U, 1.0, 0.0, pupil, how, float(i))
    together = merged(start, pupils, SAMS)
    assert np.allclose(together.f - start.f, sum(p.f - start.f for p in pupils))
    assert np.allclose(merged(start, pupils[:1], SAMS).f, pupils[0].f)
    assert np.allclose(together.weight, np.exp(together.f - together.f.max(axis=1)[:, None]))


def test_what_opes_walkers_saw_is_pooled_as_if_one_had_seen_it():
    rng = np.random.default_rng(5)
    start = toy()
    how = Learning(OPES, 0.0, 1.0, 2.0)
    for U in draw(start, rng, 20):
        learn(U, 1.0, 0.0, start, how, 0.0)
    frozen = copied(start)
    visits = draw(start, rng, 2)
    pupils = [copied(start) for _ in visits]
    for pupil, U in zip(pupils, visits, strict=True):
        learn(U, 1.0, 0.0, pupil, how, 0.0)
    together = merged(start, pupils, OPES)
    values = [frozen.beta0 * evaluate(U, 1.0, 0.0, frozen)[0] for U in visits]
    assert together.total[0] == pytest.approx(logsumexp([frozen.total[0], *values]))
    for i in range(7):
        terms = [v - (frozen.beta[i] - frozen.beta0) * U for v, U in zip(values, visits, strict=True)]
        assert together.sums[i, 0] == pytest.approx(logsumexp([frozen.sums[i, 0], *terms]))


def test_a_copy_shares_nothing():
    b = states()
    twin = copied(b)
    for ours, theirs in zip(b, twin, strict=True):
        if isinstance(ours, np.ndarray):
            assert not np.shares_memory(ours, theirs)

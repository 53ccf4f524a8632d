"""The slower paths: LAMMPS with a compiled callback, and any ASE calculator, against the compiled loop."""

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from potstill.backends import resolve
from potstill.crystals import supercell
from potstill.errors import BackendError
from potstill.protocols import DrivenDynamics
from potstill.sampling.bias import FROZEN, KB, OPES, SAMS, Learning, evaluate
from potstill.sampling.campaign import Campaign
from potstill.sampling.ensembles import ExtendedEnsemble
from potstill.sampling.loop import EXPLODED, FINE, FRAMES, RECORDS, SHAPES_ACCEPTED, TRACES
from potstill.sampling.thermodynamics import Series, reweighted
from potstill.sampling.walkers import Engine, Task, advance

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
VOLUME = 10.916
HOW = Learning(FROZEN, 0.0, 1.0, 1.0)


class Hidden:
    """A potential that shows only part of what it can, so that a slower path is taken."""

    def __init__(self, potential, driven=False):
        self.potential, self.elements, self.fingerprint = potential, potential.elements, potential.fingerprint
        if driven:
            self.driven = potential.driven

    def calculator(self, workdir=None):
        return self.potential.calculator(workdir)


NATIVE, SLOW = Hidden(EAM, driven=True), Hidden(EAM)


def task(steps, potential=EAM, order="structure-factor", name="multiorder-multithermal", flexible=False, **changes):
    """A walker of crystalline nickel under a bias as it is when learning begins."""
    walls = (0.8 * VOLUME, 1.65 * VOLUME)
    e = ExtendedEnsemble(name, "sams", order, (1000.0, 3000.0), (0.0,), walls, flexible, 1, 1000, 50, 2.0, 4_000)
    c = Campaign(e, EAM, supercell("fcc", "Ni", VOLUME, 32), 3, None)
    state = c._start()
    records = np.tile([-4.25 * 32, 11.8 * 32, 0.85, 0, 0, 0], (1, 4, 1))
    bias = e.first_bias(state.bias, 32, records)
    md = c.md._replace(**{k: changes.pop(k) for k in list(changes) if k in c.md._fields})
    usual = {"how": HOW, "seed": (1, 2), "records": steps // 20, "frames": 0, "traces": 0}
    kept = {**usual, **changes}
    return Task(
        Engine(potential, "Ni", 32), state.walkers[0], steps, c.order, bias, kept["how"], md, kept["seed"],
        kept["records"], kept["frames"], kept["traces"],
    )  # fmt: skip


def test_each_potential_takes_its_fastest_path():
    assert Engine(EAM, "Ni", 32).path == "compiled"
    assert Engine(EAM, "Ni", 4000).path == "lammps"
    assert Engine(resolve("lammps:Nb.uf3", ["Nb"]), "Nb", 54).path == "lammps"
    assert isinstance(NATIVE, DrivenDynamics)
    assert Engine(NATIVE, "Ni", 32).path == "lammps"
    assert Engine(SLOW, "Ni", 32).path == "calculator"


@pytest.mark.parametrize("order", ["structure-factor", "q6"])
@pytest.mark.parametrize("method", [FROZEN, SAMS, OPES], ids=["frozen", "sams", "opes"])
def test_a_calculator_gives_the_trajectory_of_the_compiled_loop_draw_by_draw(order, method):
    how = HOW._replace(method=method)
    common = {"order": order, "flexible": True, "how": how, "frame_every": 30, "frames": 2, "trace_every": 10}
    fast, slow = (advance(task(60, p, traces=6, **common)) for p in (EAM, SLOW))
    assert slow.status == fast.status == FINE
    assert np.array_equal(slow.output.counts[:-1], fast.output.counts[:-1])  # how often lists were built may differ
    for name in ("records", "cells", "marks", "trace"):
        np.testing.assert_allclose(getattr(slow.output, name), getattr(fast.output, name), rtol=0, atol=1e-7)
    apart = slow.output.frames - fast.output.frames  # the compiled loop wraps atoms into the cell
    inside = apart @ np.linalg.inv(fast.output.cells)
    np.testing.assert_allclose(inside, np.round(inside), rtol=0, atol=1e-8)
    np.testing.assert_allclose(slow.walker.v, fast.walker.v, rtol=0, atol=1e-8)
    np.testing.assert_allclose(slow.walker.h, fast.walker.h, rtol=0, atol=1e-8)
    np.testing.assert_allclose(slow.bias.f, fast.bias.f, rtol=0, atol=1e-8)


def test_shapes_of_the_cell_move_on_the_slow_path_too():
    done = advance(task(200, SLOW, flexible=True))
    assert done.output.counts[SHAPES_ACCEPTED] > 0
    assert np.abs(done.walker.h - np.diag(np.diag(done.walker.h))).max() > 1e-3


@pytest.mark.parametrize("order", ["structure-factor", "q6"])
def test_lammps_moves_under_the_biased_forces(order):
    """One step of nearly no length: what the velocities gain is the biased force."""
    fs = 0.01
    one = task(2, NATIVE, order=order, record_every=1, records=2)
    one = replace(one, md=one.md._replace(dt=one.md.dt * fs / 2.0))
    one.walker.v[:] -= one.walker.v.mean(axis=0)
    done = advance(one)
    atoms = supercell("fcc", "Ni", VOLUME, 32)
    atoms.set_cell(one.walker.h)
    atoms.positions = one.walker.x
    atoms.calc = EAM.calculator()
    still = advance(
        replace(one, engine=Engine(EAM, "Ni", 32), steps=1, records=1, md=one.md._replace(friction=0.0, move_every=0))
    )
    gained = (done.walker.v - one.walker.v) * one.md.mass / (2 * one.md.dt)
    expected = (still.walker.v - one.walker.v) * one.md.mass / one.md.dt  # without a thermostat, by the compiled loop
    assert np.abs(expected).max() > 0.5
    assert np.abs(gained - expected).max() < 0.02 * np.abs(expected).max()
    U, V, s = done.output.records[0, :3]
    value, by_u, _, by_s = evaluate(U, V, s, one.bias)
    assert done.output.records[0, 3] == pytest.approx(value, abs=1e-9)
    assert done.output.records[0, 4] == pytest.approx(1 + by_u, abs=1e-9)
    assert abs(by_s) > 1e-3
    plain = atoms.get_forces()
    assert np.abs(expected - plain).max() > 0.05  # the bias is felt


def test_what_lammps_records_is_what_its_frames_hold():
    done = advance(task(400, NATIVE, frame_every=100, frames=4, trace_every=50, traces=8))
    assert done.output.counts[RECORDS] == 20
    assert done.output.counts[FRAMES] == 4
    assert done.output.counts[TRACES] == 8
    atoms = supercell("fcc", "Ni", VOLUME, 32)
    atoms.calc = EAM.calculator()
    for k in range(4):
        atoms.set_cell(done.output.cells[k])
        atoms.positions = done.output.frames[k]
        assert atoms.get_potential_energy() == pytest.approx(done.output.marks[k, 1], abs=1e-8)
        assert done.output.marks[k, 0] == 100 * (k + 1)
        assert atoms.get_volume() == pytest.approx(done.output.records[5 * k + 4, 1], abs=1e-8)
        np.testing.assert_allclose(atoms.get_forces(), done.output.trace[2 * k + 1], atol=1e-8)


def test_the_same_task_gives_the_same_digits():
    a, b = (advance(task(200, NATIVE, order="q6")) for _ in range(2))
    assert np.array_equal(a.output.records, b.output.records)
    assert np.array_equal(a.walker.x, b.walker.x)


def test_lammps_learns_as_the_compiled_loop_does():
    done = advance(task(2000, NATIVE, how=Learning(SAMS, 0.0, 1e9, 1.0)))
    start = task(2000).bias.f
    assert (start - done.bias.f).max() > 1.0  # where it was, f has fallen
    assert done.bias.f.mean() == pytest.approx(start.mean(), abs=1e-6)


def test_lammps_samples_the_ensemble():
    """A multithermal bias on the crystal: averages at three temperatures are those of plain LAMMPS NPT."""
    walls = (0.8 * VOLUME, 1.65 * VOLUME)
    e = ExtendedEnsemble(
        "multithermal", "sams", "structure-factor", (700.0, 1300.0), (0.0,), walls, False, 2, 24_000, 100, 2.0, 4_000
    )
    c = Campaign(e, NATIVE, supercell("fcc", "Ni", VOLUME, 32), 5, None)
    from concurrent.futures import ThreadPoolExecutor

    records = []
    with ThreadPoolExecutor(1) as pool:  # one LAMMPS at a time: its library is not for threads
        for state in c.rounds(pool):
            if state.kind == "melt":  # we want crystals on both sides
                state.walkers[:] = c._start().walkers
            if state.kind == "produce":
                records.append(state.records)
                if len(records) == 8:
                    break
    r = np.concatenate(records, axis=1)
    assert r[..., 5].mean() / (1.5 * 32 * KB) == pytest.approx(e.T0, rel=0.01)
    U, V, s, B, scale = (np.ascontiguousarray(r[..., k]) for k in range(5))
    series = Series(U, V, s, B, scale, state.bias.beta0, state.bias.p0, 32, 0.25, 0.65)
    for T in (750.0, 950.0, 1250.0):
        plain = replace(task(40_000, name="multithermal"), seed=(7, int(T)))
        walker = c._start().walkers[0]
        done = advance(replace(plain, walker=walker, bias=c._walls(T)))  # the compiled loop, unbiased
        u, v = (done.output.records[400:, k].reshape(16, -1).mean(axis=1) for k in (0, 1))
        got = reweighted(series, T, 0.0)
        for value, error, blocks in ((got.energy, got.energy_error, u), (got.volume, got.volume_error, v)):
            both = np.hypot(error, blocks.std(ddof=1) / 4)
            assert abs(value - blocks.mean()) < 3 * both, (T, value, blocks.mean(), both)


def test_another_pair_style_crosses_the_same_road():
    potential = resolve("lammps:Nb.uf3", ["Nb"])
    start = supercell("bcc", "Nb", 18.3, 16)
    e = ExtendedEnsemble(
        "multiorder-multithermal",
        "sams",
        "structure-factor",
        (1500.0, 5000.0),
        (0.0,),
        (14.0, 30.0),
        False,
        1,
        400,
        50,
        2.0,
        4_000,
    )
    c = Campaign(e, potential, start, 1, None)
    done = advance(Task(c.engine, c._start().walkers[0], 100, c.order, c._walls(2000.0), HOW, c.md, (1,), 5, 0, 0))
    assert c.engine.path == "lammps"
    assert done.status == FINE
    assert np.isfinite(done.output.records).all()
    assert done.output.counts[RECORDS] == 5


@pytest.mark.parametrize("potential", [EAM, NATIVE, SLOW], ids=["compiled", "lammps", "calculator"])
def test_an_explosion_is_a_result_and_not_an_exception(potential):
    wild = task(400, potential)
    wild = replace(wild, md=wild.md._replace(dt=wild.md.dt * 40))
    assert advance(wild).status != FINE


def test_a_calculator_that_gives_up_is_an_explosion():
    class Failing(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            raise RuntimeError("no convergence")

    class Potential(Hidden):
        def calculator(self, workdir=None):
            return Failing()

    assert advance(task(20, Potential(EAM))).status == EXPLODED


def test_lammps_refuses_a_flexible_cell_with_a_sentence():
    with pytest.raises(BackendError, match=r"sample\.cell"):
        advance(task(20, NATIVE, flexible=True))

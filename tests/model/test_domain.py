"""Strangeness: how far an atom's surroundings are from those that were learnt."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import special_ortho_group

from potstill.config import TrainConfig
from potstill.crystals import atomic_volume, supercell
from potstill.data import Frame
from potstill.errors import DataError
from potstill.model import domain
from potstill.model.domain import LEAST_RADIUS, MOST_POINTS, Domain
from potstill.training import descriptor_for, train

SINGLE = 1e-4  # points are kept as training had them, in single precision

few = settings(max_examples=25)
clouds = st.integers(1, 40).flatmap(lambda n: arrays(float, (n, 3), elements=st.floats(-5, 5)))


def stretched(frame, factor):
    atoms = frame.atoms.copy()
    atoms.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return Frame.of(atoms)


def nearest(x, points):
    return np.linalg.norm(x[:, None] - points[None], axis=2).min(1)


# --- points that stand for all ---


@few
@given(clouds, clouds)
def test_distances_are_those_to_the_nearest_point_in_units_of_the_radius(learnt, asked):
    species = np.zeros(len(learnt), np.int32)
    found = Domain.fit(learnt, species, 1)
    expected = nearest(asked, found.points[0]) / found.radius[0]
    np.testing.assert_allclose(
        found.distance(asked, np.zeros(len(asked), np.int32)), expected, atol=1e-6 / found.radius[0]
    )


@few
@given(clouds)
def test_what_was_learnt_is_within_one_radius_and_the_radius_is_no_larger_than_needed(learnt):
    species = np.zeros(len(learnt), np.int32)
    found = Domain.fit(learnt, species, 1)
    assert found.distance(learnt, species).max() <= 1 + 1e-6
    assert found.radius[0] == pytest.approx(max(nearest(learnt, found.points[0]).max(), LEAST_RADIUS), abs=1e-6)


def test_points_are_learnt_atoms_a_quarter_of_them_and_not_more_than_a_limit():
    x = np.random.default_rng(0).normal(size=(2000, 4))
    for n in (1, 3, 40, 2000):
        (points,) = Domain.fit(x[:n], np.zeros(n, np.int32), 1).points
        assert len(points) == min(MOST_POINTS, max(1, n // 4))
        assert all((np.abs(x[:n] - p).max(1) == 0).any() for p in points)


def test_farthest_points_cover_better_than_random_ones():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, (900, 3)), rng.normal(5, 2.0, (100, 3))])
    found = Domain.fit(x, np.zeros(1000, np.int32), 1)
    random = [nearest(x, x[rng.permutation(1000)[: len(found.points[0])]]).max() for _ in range(20)]
    assert found.radius[0] < min(random)


def test_elements_have_points_and_radii_of_their_own():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(0, 1, (40, 3)), rng.normal(100, 0.1, (40, 3))])
    species = np.repeat(np.array([0, 2], np.int32), 40)
    found = Domain.fit(x, species, 3)
    assert found.distance(x, species).max() <= 1 + 1e-6
    assert found.radius[0] > found.radius[2]
    assert (found.distance(x, species[::-1]) > 50).all()
    assert np.isinf(found.distance(x, np.ones(80, np.int32))).all()
    assert found.components == 3


def test_many_atoms_are_thinned_out(monkeypatch):
    monkeypatch.setattr(domain, "LOOKED_AT", 50)
    x = np.arange(200.0)[:, None]
    (points,) = Domain.fit(x, np.zeros(200, np.int32), 1).points
    assert len(points) == 12


def test_one_kind_of_surroundings_has_some_room():
    found = Domain.fit(np.ones((10, 2)), np.zeros(10, np.int32), 1)
    x = np.array([[1.0, 1.0 + LEAST_RADIUS], [1.0, 1.0 + 10 * LEAST_RADIUS]])
    np.testing.assert_allclose(found.distance(x, np.zeros(2, np.int32)), [1.0, 10.0], rtol=1e-6)


# --- of a trained model ---


@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_no_atom_of_the_training_frames_is_strange(request, who, data, mixed):
    committee = request.getfixturevalue(who)
    frames = data if who == "committee" else mixed
    found = committee.strangeness(list(frames))
    assert [len(s) for s in found] == [f.n_atoms for f in frames]
    assert max(s.max() for s in found) <= 1 + SINGLE
    assert max(s.max() for s in found) > 0.5


def test_other_densities_are_the_stranger_the_farther_they_are(committee, data):
    for factors in ((1.0, 1.1, 1.2, 1.4), (1.0, 0.9, 0.8, 0.7)):
        means = [np.mean([s.mean() for s in committee.strangeness([stretched(f, x) for f in data])]) for x in factors]
        assert (np.diff(means) > 0).all()
        assert means[0] < 1 < means[1]


def test_one_atom_in_strange_surroundings_is_told_from_the_others(committee):
    atoms = supercell("fcc", "Ni", atomic_volume("Ni"), 108)
    plain = committee.strangeness([Frame.of(atoms)])[0].max()
    near = atoms.get_distances(0, range(108), mic=True)
    atoms.positions[0] += (0.0, 0.9, 0.0)
    (found,) = committee.strangeness([Frame.of(atoms)])
    assert np.argmax(found) in (0, *np.argsort(near)[1:13])
    assert found[0] > 2 * plain
    assert found[np.argmax(near)] == pytest.approx(plain, rel=1e-3)


def test_an_element_without_data_is_infinitely_strange(data, model):
    descriptor = descriptor_for(("Al", "Ni"), model)
    committee = train(data, model, TrainConfig(members=1, steps=0), seed=1, descriptor=descriptor)
    atoms = data[0].atoms.copy()
    atoms.symbols[2] = "Al"
    (found,) = committee.strangeness([Frame.of(atoms)])
    assert np.isinf(found[2])
    assert np.isfinite(np.delete(found, 2)).all()


def test_strangeness_does_not_ask_the_members(committee, liquid):
    w = committee.weights
    other = replace(committee, weights=replace(w, linear=-3 * w.linear, shift=w.shift[:, :1], layers=w.layers))
    assert np.array_equal(other.strangeness([liquid])[0], committee.strangeness([liquid])[0])


def test_strangeness_is_of_the_surroundings_and_not_of_their_description(committee, liquid):
    rng = np.random.default_rng(0)
    atoms, order = liquid.atoms, rng.permutation(20)
    R = special_ortho_group.rvs(3, random_state=0)
    turned = Atoms(atoms.numbers, (atoms.positions + 3.0) @ R.T, cell=atoms.cell.array @ R.T, pbc=True)[order]
    (expected,) = committee.strangeness([liquid])
    np.testing.assert_allclose(committee.strangeness([Frame(turned)])[0], expected[order], rtol=1e-8)
    np.testing.assert_allclose(committee.strangeness([Frame(atoms.repeat((2, 1, 1)))])[0], np.tile(expected, 2))


def test_a_calculator_tells_strangeness_where_it_is_asked_for(committee, liquid):
    atoms = liquid.atoms.copy()
    atoms.calc = committee.calculator()
    atoms.get_potential_energy()
    assert "strangeness" not in atoms.calc.results
    np.testing.assert_allclose(
        atoms.calc.get_property("strangeness", atoms), committee.strangeness([liquid])[0], rtol=1e-9
    )
    assert "energy" in atoms.calc.results


def test_frames_together_are_as_strange_as_alone_and_none_are_no_array(committee, data, liquid):
    together = committee.strangeness([*data, liquid])
    for frame, found in zip([*data, liquid], together, strict=True):
        np.testing.assert_allclose(found, committee.strangeness([frame])[0], rtol=1e-12)
    assert committee.strangeness([]) == []


def test_a_model_that_did_not_keep_its_domain_says_so(committee, liquid):
    old = replace(committee, domain=None)
    with pytest.raises(DataError, match="Train it again"):
        old.strangeness([liquid])
    atoms = liquid.atoms.copy()
    atoms.calc = old.calculator()
    with pytest.raises(DataError, match="Train it again"):
        atoms.calc.get_property("strangeness", atoms)
    assert np.isfinite(atoms.get_potential_energy())

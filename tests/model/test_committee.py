"""A trained committee: its two paths agree, its surface is smooth, and it answers for every kind of structure."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data import Dataset, Frame, Labels, tensor, voigt
from potstill.errors import DataError
from potstill.model import Committee, Descriptor, FrameFeatures, Whitening
from potstill.model.committee import silu
from potstill.model.descriptor import chunks
from potstill.model.fit import JacobianCache, _Network
from potstill.testing import example_frames

SINGLE = 3e-6  # of the largest value: one path computes in single precision, the other in double
ROUND_OFF = 1e-11  # eV, eV/Å; sums in another order

few = settings(max_examples=12)
KINDS = ("liquid", "triclinic", "slab", "molecule")


def ask(committee, atoms):
    work = atoms.copy()
    work.calc = committee.calculator()
    return work.get_potential_energy(), work.get_forces()


# --- the path that trains and the path that predicts ---


@pytest.mark.parametrize("elements", [("Ni",), ("Ni", "Al"), ("Al", "Ni")])
@pytest.mark.parametrize("hidden", [(7,), (8, 5), (6, 5, 4)])
def test_training_and_inference_compute_the_same_network(elements, hidden):
    frames = [example_frames(elements, seed=s)["liquid"] for s in range(3)]
    descriptor = Descriptor(elements, 5.0, 4.5, 5, 3, 3)
    whitening = Whitening.fit(descriptor, frames)
    members, shift = 3, np.linspace(-4.0, -3.0, len(elements))
    generator = torch.Generator().manual_seed(5)
    network = _Network(whitening, hidden, members, generator)
    for parameter in network.parameters():  # far from the start, where biases and linear terms are zero
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    committee = Committee(descriptor, whitening, network.fold(shift), 1.0, {})
    cache = JacobianCache(descriptor)
    for frame, predicted in zip(frames, committee.predict(frames), strict=True):
        e = cache.example(frame.labelled(Labels(0.0, np.zeros((frame.n_atoms, 3)), None, "none")))
        G, K = torch.as_tensor(e.G[None]).float(), torch.as_tensor(e.K).reshape(1, -1, e.K.shape[-1])
        energy, slope = network.predict(G, K, torch.as_tensor(e.species[None]))
        energy = energy[0].numpy() + shift[e.species].sum()
        slope = slope[0].numpy()
        n = frame.n_atoms
        forces = predicted.forces.reshape(members, -1)
        virial = np.array([voigt(v) for v in predicted.virial])
        np.testing.assert_allclose(energy, predicted.energy, rtol=SINGLE)
        np.testing.assert_allclose(-slope[:, : 3 * n], forces, rtol=0, atol=10 * SINGLE * np.abs(forces).max())
        np.testing.assert_allclose(slope[:, 3 * n :], virial, rtol=0, atol=10 * SINGLE * np.abs(virial).max())
        assert np.ptp(predicted.energy) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_forces_and_virial_of_each_member_are_derivatives_of_its_own_energy(alloy, kind):
    atoms = example_frames(["Ni", "Al"])[kind].atoms
    p = alloy.predict([Frame(atoms)])[0]
    rng = np.random.default_rng(0)
    direction, strain = rng.normal(size=atoms.positions.shape), rng.normal(size=(3, 3))
    strain += strain.T

    def at(s, t):
        deformation = np.eye(3) + t * strain
        moved = Atoms(
            atoms.numbers,
            positions=(atoms.positions + s * direction) @ deformation,
            cell=atoms.cell.array @ deformation,
            pbc=atoms.pbc,
        )
        return alloy.predict([Frame(moved)])[0].energy

    h = 1e-5
    slope = (at(h, 0) - at(-h, 0)) / (2 * h)
    np.testing.assert_allclose(-(p.forces * direction).sum((1, 2)), slope, rtol=1e-6, atol=1e-7)
    slope = (at(0, h) - at(0, -h)) / (2 * h)
    np.testing.assert_allclose((p.virial * strain).sum((1, 2)), slope, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(p.virial, p.virial.transpose(0, 2, 1), rtol=0, atol=0)
    np.testing.assert_allclose(p.forces.sum(1), 0, atol=ROUND_OFF)


def test_the_derivative_of_the_activation_is_its_slope():
    z = np.linspace(-30, 30, 601)
    h = 1e-6
    np.testing.assert_allclose(silu(z)[1], (silu(z + h)[0] - silu(z - h)[0]) / (2 * h), atol=1e-8)
    assert silu(np.array([0.0]))[0] == 0
    np.testing.assert_allclose(silu(np.array([-700.0, 700.0])), [[0, 700], [0, 1]], atol=1e-12)


def test_the_activation_is_quiet_far_out():
    np.testing.assert_allclose(silu(np.array([-1000.0, 1000.0])), [[0, 1000], [0, 1]])


# --- batches, means and spreads ---


@few
@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
def test_a_batch_is_its_frames_one_by_one(committee, data, indices):
    frames = [data[i] for i in indices]
    for together, frame in zip(committee.predict(frames), frames, strict=True):
        (alone,) = committee.predict([frame])
        np.testing.assert_allclose(together.energy, alone.energy, rtol=0, atol=ROUND_OFF)
        np.testing.assert_allclose(together.forces, alone.forces, rtol=0, atol=ROUND_OFF)
        np.testing.assert_allclose(together.virial, alone.virial, rtol=0, atol=ROUND_OFF)


def test_a_batch_of_other_sizes_and_periodicities_is_not_mixed_up(alloy):
    frames = list(example_frames(["Ni", "Al"]).values())
    for order in itertools.permutations(range(4)):
        found = alloy.predict([frames[i] for i in order])
        for i, p in zip(order, found, strict=True):
            assert p.forces.shape == (2, frames[i].n_atoms, 3)
            np.testing.assert_allclose(p.energy, alloy.predict([frames[i]])[0].energy, rtol=0, atol=ROUND_OFF)


def test_more_atoms_than_are_held_at_once_make_no_difference(committee, data, monkeypatch):
    whole = committee.predict(list(data))
    monkeypatch.setattr("potstill.model.committee.chunks", lambda frames: chunks(frames, 10))
    for a, b in zip(whole, committee.predict(list(data)), strict=True):
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=ROUND_OFF)


def test_the_mean_is_the_members_average_as_one_member(alloy, mixture):
    (every,), (mean,) = alloy.predict([mixture]), alloy.predict([mixture], mean=True)
    assert mean.energy.shape == (1,)
    assert mean.energy[0] == pytest.approx(every.energy.mean(), abs=1e-10)
    np.testing.assert_allclose(mean.forces[0], every.forces.mean(0), atol=1e-10)
    np.testing.assert_allclose(mean.virial[0], every.virial.mean(0), atol=1e-10)


def test_spread_is_the_sample_deviation_of_the_members(committee, data):
    spread = committee.spread(list(data))
    for k, p in enumerate(committee.predict(list(data))):
        n, M = p.forces.shape[1], committee.members
        away = p.forces - p.forces.mean(0)
        per_atom = np.sqrt((away**2).sum((0, 2)) / (M - 1))
        assert spread.energy[k] == pytest.approx(np.std(p.energy, ddof=1) / n)
        assert spread.force[k] == pytest.approx(np.sqrt(np.mean(per_atom**2)))
        assert spread.force_max[k] == pytest.approx(per_atom.max())
    assert spread.force.min() > 1e-4


def test_no_frames_have_no_predictions(committee):
    assert committee.predict([]) == []
    assert len(committee.spread([]).force) == 0


# --- the surface ---


@pytest.mark.parametrize("radius", [6.0, 5.5])
@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_energy_and_forces_are_continuous_as_a_pair_crosses_a_cutoff(request, who, radius):
    committee = request.getfixturevalue(who)

    def at(r):
        return ask(committee, Atoms("Ni3", [(0, 0, 0), (r, 0, 0), (0, 2.4, 0)]))

    for width in (1e-2, 1e-3, 1e-4, 1e-5):
        (e_in, f_in), (e_out, f_out) = at(radius - width), at(radius + width)
        work = width * (f_in[1, 0] + f_out[1, 0])  # of the atom that leaves, along its way
        assert abs(e_out - e_in + work) < 10 * width**2
        assert np.abs(f_out - f_in).max() < 10 * width
    beyond = at(radius + 1e-5)
    assert abs(at(radius - 0.5)[0] - beyond[0]) > 1e-6, "the test sees nothing leave"


def test_atoms_out_of_sight_of_each_other_add_up(committee):
    one, _ = ask(committee, Atoms("Ni"))
    for r in (6.0, 7.5, 1000.0):
        energy, forces = ask(committee, Atoms("Ni2", [(0, 0, 0), (0, 0, r)]))
        assert energy == pytest.approx(2 * one, abs=1e-10)
        assert not forces.any()
    near, forces = ask(committee, Atoms("Ni2", [(0, 0, 0), (0, 0, 2.4)]))
    assert abs(near - 2 * one) > 1e-3
    np.testing.assert_allclose(forces[0], -forces[1], atol=1e-12)
    assert abs(forces[0, 2]) > 1e-3
    assert np.abs(forces[:, :2]).max() < 1e-12


def test_an_atom_alone_feels_nothing_and_depends_on_its_element_only(alloy):
    energies = {}
    for element in ("Ni", "Al"):
        for atoms in (Atoms(element), Atoms(element, [(5, 6, 7)], cell=[15, 15, 15], pbc=True)):
            energy, forces = ask(alloy, atoms)
            assert not forces.any()
            assert energies.setdefault(element, energy) == pytest.approx(energy, abs=1e-12)
    assert abs(energies["Ni"] - energies["Al"]) > 1e-3


@few
@given(st.tuples(*[st.integers(1, 3)] * 3))
def test_energy_is_extensive(alloy, repeat):
    atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
    atoms.symbols[1] = "Al"
    energy, _ = ask(alloy, atoms)
    assert ask(alloy, atoms.repeat(repeat))[0] == pytest.approx(np.prod(repeat) * energy, rel=1e-12)


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3))[1:])
def test_slabs_wires_and_molecules_are_as_in_a_box_with_much_vacuum(committee, pbc):
    atoms = example_frames(["Ni"])["triclinic"].atoms
    box, bare = atoms.copy(), atoms.copy()
    box.set_cell(atoms.cell.array * np.where(pbc, 1.0, 9.0)[:, None])
    bare.set_cell(atoms.cell.array * np.where(pbc, 1.0, 0.0)[:, None])
    atoms.pbc = bare.pbc = pbc
    energy, forces = ask(committee, box)
    for other in (atoms, bare):
        found, felt = ask(committee, other)
        assert found == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(felt, forces, atol=1e-9)


# --- the calculator ---


def test_the_calculator_gives_the_mean_and_the_doubt_beside(committee, liquid):
    (p,) = committee.predict([liquid])
    spread = committee.spread([liquid])
    atoms = liquid.atoms.copy()
    atoms.calc = calculator = committee.calculator()
    assert atoms.get_potential_energy() == pytest.approx(p.energy.mean())
    assert "force_spread" not in calculator.results, "the doubt costs time, and comes when it is asked for"
    doubt = calculator.get_property("force_spread", atoms)
    assert doubt.shape == (20,)
    assert np.sqrt(np.mean(doubt**2)) == pytest.approx(spread.force[0])
    assert doubt.max() == pytest.approx(spread.force_max[0])
    assert calculator.get_property("energy_spread", atoms) == pytest.approx(spread.energy[0])
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(p.energy.mean())
    np.testing.assert_allclose(atoms.get_forces(), p.forces.mean(0), atol=1e-10)
    np.testing.assert_allclose(tensor(atoms.get_stress()) * atoms.get_volume(), p.virial.mean(0), atol=1e-9)


def test_the_calculator_sees_finer_than_the_grid_of_frames(committee, liquid):
    atoms = liquid.atoms.copy()
    atoms.calc = committee.calculator()
    energy, force = atoms.get_potential_energy(), atoms.get_forces()[0, 0]
    atoms.positions[0, 0] += 2e-9
    assert atoms.get_potential_energy() - energy == pytest.approx(-2e-9 * force, rel=1e-2)


@pytest.mark.parametrize("kind", ["slab", "molecule"])
def test_there_is_no_stress_without_a_volume(committee, kind):
    atoms = example_frames(["Ni"])[kind].atoms
    atoms.calc = committee.calculator()
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_an_unknown_element_is_a_data_error_that_names_it(committee):
    atoms = Atoms("NiCu", [(0, 0, 0), (2.4, 0, 0)])
    atoms.calc = committee.calculator()
    for act in (
        atoms.get_potential_energy,
        lambda: committee.predict([Frame(atoms)]),
        lambda: committee.describe([Frame(atoms)]),
        lambda: committee.spread([Frame(atoms)]),
    ):
        with pytest.raises(DataError, match="Cu"):
            act()


# --- identity ---


def test_a_committee_survives_the_way_to_a_worker(alloy, mixture):
    sent = pickle.loads(pickle.dumps(alloy))  # noqa: S301 - our own bytes
    assert sent.fingerprint == alloy.fingerprint
    assert np.array_equal(sent.predict([mixture])[0].forces, alloy.predict([mixture])[0].forces)


def test_the_fingerprint_follows_weights_and_descriptor(committee):
    w = committee.weights
    other = replace(committee, weights=replace(w, shift=np.nextafter(w.shift, 0)))
    farther = replace(committee, descriptor=replace(committee.descriptor, cutoff=6.5))
    assert len({committee.fingerprint, other.fingerprint, farther.fingerprint}) == 3
    assert replace(committee, calibration=2.0).fingerprint == committee.fingerprint


def test_a_shared_memory_of_descriptions_is_used(committee, data):
    memory = FrameFeatures(committee.descriptor, committee.whitening)
    X = memory.describe(list(data))
    memory.descriptor = None  # cannot describe anything new
    again = replace(committee).sharing(memory)
    assert np.array_equal(again.describe(list(data)), X)


def test_a_committee_introduces_itself(committee, data):
    assert repr(committee) == f"Committee(3 members, Ni, trained on {len(Dataset(data))} frames)"

"""A trained committee: its two paths agree, its surface is smooth, and it answers for every kind of structure."""

import itertools
import math
import pickle
from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

from potstill.data import VOIGT, Dataset, Frame, Labels, tensor, voigt
from potstill.errors import DataError
from potstill.model import Committee, Descriptor, FrameFeatures, Whitening, neighbours
from potstill.model.committee import SKIN
from potstill.model.descriptor import chunks
from potstill.model.fit import Descriptions, _Batch, _lesson, _Network
from potstill.model.network import no_wall
from potstill.testing import example_frames

SINGLE = 3e-6  # of the largest value: one path computes in single precision, the other in double
ROUND_OFF = 1e-11  # eV, eV/Å; sums in another order
SAME = 1e-9  # eV, eV/Å; the same structure, otherwise written
DERIVATIVE = 1e-5  # of the largest component, by central differences

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=12)
KINDS = ("liquid", "triclinic", "slab", "molecule")


def ask(committee, atoms):
    work = atoms.copy()
    work.calc = committee.calculator()
    return work.get_potential_energy(), work.get_forces()


# --- the path that trains and the path that predicts ---


def labelled(frame):
    return frame.labelled(Labels(0.0, np.zeros((frame.n_atoms, 3)), None, "none"))


@pytest.mark.parametrize("elements", [("Ni",), ("Ni", "Al"), ("Al", "Cu", "Ni")])
@pytest.mark.parametrize("hidden", [(7,), (8, 17), (6, 5, 4), (1, 40, 2, 3)])
def test_training_and_inference_compute_the_same_network(elements, hidden):
    frames = Dataset(labelled(example_frames(elements, seed=s)["liquid"]) for s in range(3))
    frames |= Dataset([labelled(example_frames(elements)["slab"])])
    descriptor = Descriptor(elements, 5.0, 4.5, 5, 3, 3)
    whitening = Whitening.fit(descriptor, frames)
    members, shift = 3, np.linspace(-4.0, -3.0, len(elements))
    generator = torch.Generator().manual_seed(5)
    network = _Network(whitening, hidden, members, generator)
    for parameter in network.parameters():  # far from the start, where biases and linear terms are zero
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    weights = network.fold(shift)
    committee = Committee(descriptor, whitening, weights, no_wall(len(elements)), None, 1.0, 1.0, {})
    lesson = _lesson(frames, Descriptions(descriptor), whitening, torch.device("cpu"))
    batch = _Batch.of(lesson, descriptor.shape, np.array([2, 0, 3]))
    of_atoms, of_forces, of_virial = (t.numpy() for t in network.predict(batch))
    for k, p in enumerate(committee.predict(frames.take(batch.frames))):
        mine = slice(batch.at[k], batch.at[k + 1])
        energies = of_atoms[:, mine] + shift[lesson.species[batch.atoms[mine]]]
        virial = np.array([voigt(v) for v in p.virial])
        np.testing.assert_allclose(energies, p.energies, rtol=0, atol=10 * SINGLE * np.abs(p.energies).max())
        np.testing.assert_allclose(p.energies.sum(1), p.energy, rtol=1e-12)
        np.testing.assert_allclose(of_forces[:, mine], p.forces, rtol=0, atol=10 * SINGLE * np.abs(p.forces).max())
        np.testing.assert_allclose(of_virial[:, k], virial, rtol=0, atol=10 * SINGLE * np.abs(virial).max())
        assert np.ptp(p.energy) > 1e-3


# --- derivatives ---


def deformed(atoms, moves, strain):
    A = np.eye(3) + strain
    return Atoms(atoms.numbers, positions=(atoms.positions + moves) @ A, cell=atoms.cell.array @ A, pbc=atoms.pbc)


def slope(committee, atoms, moves, strain, h):
    """Change of each member's energy along moves and strain, by central differences of fourth order."""
    e = [committee.predict([Frame(deformed(atoms, s * h * moves, s * h * strain))])[0].energy for s in (2, 1, -1, -2)]
    return (8 * (e[1] - e[2]) - (e[0] - e[3])) / (12 * h)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["alloy", "walled"])
def test_forces_of_each_member_are_derivatives_of_its_own_energy(request, who, kind):
    """After a large random displacement, along a random direction of all atoms and along single coordinates."""
    committee, rng = request.getfixturevalue(who), np.random.default_rng(0)
    atoms = example_frames(["Ni", "Al"])[kind].atoms.copy()
    n = len(atoms)
    atoms.positions += rng.normal(0.0, 0.15, (n, 3))
    (p,) = committee.predict([Frame(atoms)])
    directions = [rng.normal(size=(n, 3)) for _ in range(3)]
    for k in rng.permutation(3 * n)[:8]:
        directions.append(np.zeros((n, 3)))
        directions[-1].flat[k] = 1.0
    for u in directions:
        along = slope(committee, atoms, u, np.zeros((3, 3)), 2e-4)
        expected = -(p.forces * u).sum((1, 2))
        np.testing.assert_allclose(
            expected, along, rtol=0, atol=DERIVATIVE * np.linalg.norm(u) * np.abs(p.forces).max()
        )
    np.testing.assert_allclose(p.forces.sum(1), 0, atol=ROUND_OFF * np.abs(p.forces).max())


@pytest.mark.parametrize("kind", ["liquid", "triclinic"])
@pytest.mark.parametrize("who", ["alloy", "walled"])
def test_virials_of_each_member_are_derivatives_of_its_own_energy(request, who, kind):
    committee, rng = request.getfixturevalue(who), np.random.default_rng(1)
    atoms = example_frames(["Ni", "Al"])[kind].atoms.copy()
    atoms.positions += rng.normal(0.0, 0.15, atoms.positions.shape)
    (p,) = committee.predict([Frame(atoms)])
    strains = [rng.normal(size=(3, 3)) for _ in range(2)]
    strains = [s + s.T for s in strains] + [np.outer(*np.eye(3)[[a, b]]) for a, b in VOIGT]
    for strain in strains:
        along = slope(committee, atoms, np.zeros((len(atoms), 3)), strain, 2e-5)
        expected = (p.virial * strain).sum((1, 2))
        atol = DERIVATIVE * np.linalg.norm(strain) * np.abs(p.virial).max()
        np.testing.assert_allclose(expected, along, rtol=0, atol=atol)
    assert np.array_equal(p.virial, p.virial.transpose(0, 2, 1))


# --- symmetries ---


def assert_same(got, expected, turn=None, order=slice(None), times=1):
    """Whether two predictions are the same up to a rotation, an order of the atoms, and a number of copies."""
    R = np.eye(3) if turn is None else turn
    n = expected.forces.shape[1] * times
    np.testing.assert_allclose(got.energy, times * expected.energy, rtol=0, atol=SAME * n)
    forces = np.tile(expected.forces @ R.T, (1, times, 1))[:, order]
    np.testing.assert_allclose(got.forces, forces, rtol=0, atol=SAME)
    np.testing.assert_allclose(got.virial, times * (R @ expected.virial @ R.T), rtol=0, atol=10 * SAME * n)


@few
@given(seeds, st.booleans(), st.sampled_from(KINDS))
def test_rotations_and_reflections_turn_forces_and_virial_and_nothing_else(alloy, seed, mirror, kind):
    atoms = example_frames(["Ni", "Al"])[kind].atoms
    R = special_ortho_group.rvs(3, random_state=seed) * (-1 if mirror else 1)
    turned = Atoms(atoms.numbers, positions=atoms.positions @ R.T, cell=atoms.cell.array @ R.T, pbc=atoms.pbc)
    (before,), (after,) = alloy.predict([Frame(atoms)]), alloy.predict([Frame(turned)])
    assert_same(after, before, turn=R)


@few
@given(seeds, st.sampled_from(KINDS))
def test_permutations_shifts_and_lattice_vectors_change_nothing_but_the_order(alloy, seed, kind):
    atoms, rng = example_frames(["Ni", "Al"])[kind].atoms, np.random.default_rng(seed)
    order = rng.permutation(len(atoms))
    other = atoms[order]
    other.positions += rng.uniform(-9, 9, 3) + (rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    (before,), (after,) = alloy.predict([Frame(atoms)]), alloy.predict([Frame(other)])
    assert_same(after, before, order=order)


@few
@given(st.tuples(*[st.integers(1, 3)] * 3), st.sampled_from(["crystal", "slab", "molecule", "liquid"]))
def test_supercells_repeat_the_forces_and_multiply_the_rest(alloy, repeat, kind):
    atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
    if kind == "crystal":
        atoms.symbols[1] = "Al"
        atoms.positions[1] += (0.1, -0.05, 0.07)
    else:
        atoms = example_frames(["Ni", "Al"])[kind].atoms
    repeat = [r if periodic else 1 for r, periodic in zip(repeat, atoms.pbc, strict=True)]
    times = math.prod(repeat)
    (one,), (many,) = alloy.predict([Frame(atoms)]), alloy.predict([Frame(atoms.repeat(repeat))])
    assert_same(many, one, times=times)
    np.testing.assert_allclose(many.energy, times * one.energy, rtol=1e-12, atol=0)


@pytest.mark.two_threads
@pytest.mark.parametrize("mean", [True, False])
def test_no_digit_depends_on_the_number_of_threads(alloy, mean):
    rng = np.random.default_rng(3)
    atoms = bulk("Ni", cubic=True).repeat((5, 4, 5))
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    atoms.symbols[rng.random(400) < 0.5] = "Al"
    frames = [Frame(atoms), *example_frames(["Ni", "Al"]).values()]
    threads = numba.get_num_threads()
    assert threads > 1
    try:
        numba.set_num_threads(1)
        alone = alloy.predict(frames, mean=mean)
    finally:
        numba.set_num_threads(threads)
    for a, b in zip(alone, alloy.predict(frames, mean=mean), strict=True):
        assert all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("energy", "energies", "forces", "virial"))


def test_atoms_beyond_one_slab_are_the_same_as_in_a_small_cell(alloy):
    """Large structures are worked on in slabs, each with its own buffer of forces."""
    atoms = example_frames(["Ni", "Al"])["triclinic"].atoms
    (one,), (many,) = (alloy.predict([Frame(a)]) for a in (atoms, atoms.repeat((3, 4, 5))))
    assert_same(many, one, times=60)


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
    np.testing.assert_allclose(mean.energies[0], every.energies.mean(0), atol=1e-12)


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


@pytest.mark.parametrize("which", ["cutoff", "angular_cutoff"])
@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_energy_and_forces_are_continuous_as_a_pair_crosses_a_cutoff(request, who, which):
    committee = request.getfixturevalue(who)
    radius = getattr(committee.descriptor, which)

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
    for r in (committee.descriptor.reach, 7.5, 1000.0):
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


def test_energy_is_extensive(committee):
    """To a tenth of a meV in a mole, as large supercells of a crystal."""
    atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
    atoms.positions[1] += (0.1, -0.05, 0.07)
    energy, _ = ask(committee, atoms)
    for repeat in ((1, 1, 2), (2, 3, 4), (7, 6, 5)):
        assert ask(committee, atoms.repeat(repeat))[0] / math.prod(repeat) == pytest.approx(energy, abs=1e-10)


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


def searches(monkeypatch):
    """A list that grows by one with every search for neighbours of a calculator."""
    found = []

    def counted(*arguments):
        found.append(arguments)
        return neighbours.find(*arguments)

    monkeypatch.setattr("potstill.model.committee.find", counted)
    return found


@pytest.mark.parametrize("kind", ["triclinic", "liquid", "slab", "molecule", "one atom"])
def test_a_walk_with_one_calculator_is_the_same_as_with_a_new_one_at_each_step(alloy, monkeypatch, kind):
    """Fifty small moves with strain, wrapped now and then, of atoms that see farther than their cell."""
    rng, found = np.random.default_rng(4), searches(monkeypatch)
    atoms = bulk("Ni", a=3.6) if kind == "one atom" else example_frames(["Ni", "Al"])[kind].atoms.copy()
    atoms.calc = kept = alloy.calculator()
    for step in range(50):
        strain = rng.normal(0.0, 0.002, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.025, atoms.positions.shape) + 0.01
        if step % 20 == 19:
            atoms.wrap()
        new = atoms.copy()
        new.calc = alloy.calculator()
        names = ["energy", "energies", "forces", *(["stress"] if atoms.pbc.all() else [])]
        for name in names:
            got, expected = kept.get_property(name, atoms), new.calc.get_property(name, new)
            np.testing.assert_allclose(got, expected, rtol=0, atol=SAME)
    own = len(found) - 50
    assert 1 < own < 35, "the walk neither uses its list again, or never outlives it"


def test_a_list_of_neighbours_is_kept_until_atoms_have_moved_half_the_skin(committee, liquid, monkeypatch):
    found, atoms = searches(monkeypatch), liquid.atoms.copy()
    atoms.calc = committee.calculator()
    start = atoms.positions.copy()
    for away, times in ((0.0, 1), (0.45 * SKIN, 1), (-0.45 * SKIN, 1), (0.55 * SKIN, 2), (0.0, 3)):
        atoms.positions[7] = start[7] + (0.0, away, 0.0)
        atoms.get_forces()
        assert len(found) == times


@pytest.mark.parametrize("change", ["numbers", "pbc", "size", "cell"])
def test_a_calculator_forgets_its_neighbours_where_they_are_no_longer_those(alloy, mixture, change):
    atoms = mixture.atoms.copy()
    atoms.calc = alloy.calculator()
    atoms.get_potential_energy()
    match change:
        case "numbers":
            atoms.numbers[[0, 1]] = atoms.numbers[[1, 0]]
        case "pbc":
            atoms.pbc = (True, False, True)
        case "cell":
            atoms.set_cell(atoms.cell.array * 1.5)
        case "size":
            calculator, atoms = atoms.calc, atoms[:-1]
            atoms.calc = calculator
    energy, forces = ask(alloy, atoms)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=SAME)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=SAME)


def test_a_calculator_refuses_what_is_no_number_and_recovers(committee, liquid):
    atoms = liquid.atoms.copy()
    atoms.calc = committee.calculator()
    energy = atoms.get_potential_energy()
    for name in ("positions", "cell"):
        bad = atoms.copy()
        bad.calc = atoms.calc
        (bad.positions if name == "positions" else bad.cell.array)[1, 1] = np.nan
        with pytest.raises(DataError, match="NaN"):
            bad.get_potential_energy()
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=SAME)


def test_energies_of_the_atoms_sum_to_the_energy_and_come_without_being_asked_for(alloy, mixture):
    atoms = mixture.atoms.copy()
    atoms.calc = alloy.calculator()
    energy = atoms.get_potential_energy()
    energies = atoms.calc.results["energies"]
    assert energies.shape == (20,)
    assert energies.sum() == pytest.approx(energy, abs=1e-10)
    assert np.array_equal(atoms.get_potential_energies(), energies)


def test_expected_errors_are_spreads_times_their_calibration(committee, liquid):
    calculator = replace(committee, calibration=3.0, energy_calibration=0.5).calculator()
    get = {name: calculator.get_property(name, liquid.atoms) for name in calculator.DOUBT}
    np.testing.assert_allclose(get["force_error"], 3.0 * get["force_spread"])
    assert get["energy_error"] == pytest.approx(0.5 * get["energy_spread"])
    assert get["energy_spread"] > 0


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


def test_the_fingerprint_follows_weights_descriptor_and_wall(committee):
    w = committee.weights
    other = replace(committee, weights=replace(w, shift=np.nextafter(w.shift, 0)))
    farther = replace(committee, descriptor=replace(committee.descriptor, cutoff=6.5))
    bare = replace(committee, wall=no_wall(1))
    assert len({committee.fingerprint, other.fingerprint, farther.fingerprint, bare.fingerprint}) == 4
    for same in (replace(committee, calibration=2.0), replace(committee, domain=None, about={})):
        assert same.fingerprint == committee.fingerprint


def test_a_shared_memory_of_descriptions_is_used(committee, data):
    memory = FrameFeatures(committee.descriptor, committee.whitening)
    X = memory.describe(list(data))
    memory.descriptor = None  # cannot describe anything new
    again = replace(committee).sharing(memory)
    assert np.array_equal(again.describe(list(data)), X)


def test_a_committee_introduces_itself(committee, data):
    assert repr(committee) == f"Committee(3 members, Ni, trained on {len(Dataset(data))} frames)"

"""The repulsive wall: nothing where it was learnt, and below no hole that dynamics could fall into."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from potstill.config import TrainConfig
from potstill.crystals import atomic_volume, supercell
from potstill.data import Dataset, Frame
from potstill.model.network import Wall, no_wall, repulsion
from potstill.model.wall import DEEPEST, SETTLED, STANDOFF, STRENGTHS, UNSEEN, fit_wall
from potstill.training import descriptor_for, train

CHARGES = {"Ni": 28.0, "Al": 13.0}
PAIRS = [("Ni", "Ni"), ("Al", "Al"), ("Al", "Ni")]
NOTHING = 1e-12  # eV, eV/Å

pairs = pytest.mark.parametrize("pair", PAIRS, ids="-".join)


def bare(committee):
    """The same networks without their wall."""
    return replace(committee, wall=no_wall(len(committee.elements)))


def dimer(pair, r):
    return Frame(Atoms(pair, [(0, 0, 0), (0, 0, r)]))


def reach_of(committee, pair):
    a, b = (committee.elements.index(e) for e in pair)
    return committee.wall.reach[a, b]


def energies(committee, frames):
    """Each member's energy of each frame, (n_frames, n_members)."""
    return np.array([p.energy for p in committee.predict(frames)])


# --- its formula ---


@pytest.mark.parametrize("zz", [(28.0, 28.0), (13.0, 28.0), (1.0, 92.0)])
def test_the_wall_is_the_screened_repulsion_of_nuclei_faded_out(zz):
    r, reach, strength = np.linspace(0.2, 2.4, 200), 2.5, 3.0
    x = r / (0.46850 / (zz[0] ** 0.23 + zz[1] ** 0.23))
    phi = (
        0.18175 * np.exp(-3.1998 * x)
        + 0.50986 * np.exp(-0.94229 * x)
        + 0.28022 * np.exp(-0.4029 * x)
        + 0.02817 * np.exp(-0.20162 * x)
    )
    expected = strength * 14.399645 * zz[0] * zz[1] / r * phi * (1 - (r / reach) ** 2) ** 3
    got = np.array([repulsion(v, reach, strength, zz) for v in r])
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-6)
    assert (got[:, 1] < 0).all()
    h = 1e-6
    slope = np.array([repulsion(v + h, reach, strength, zz)[0] - repulsion(v - h, reach, strength, zz)[0] for v in r])
    np.testing.assert_allclose(got[:, 1], slope / (2 * h), rtol=1e-6, atol=1e-6)


def test_the_wall_begins_with_neither_force_nor_stiffness():
    assert repulsion(2.5, 2.5, 3.0, (28.0, 28.0)) == (0.0, 0.0)
    for gap in (1e-1, 1e-2, 1e-3):
        value, slope = repulsion(2.5 - gap, 2.5, 3.0, (28.0, 28.0))
        assert 0 < value < 100 * gap**3
        assert -300 * gap**2 < slope < 0


# --- where it begins ---


def shortest_bond(pair, frames):
    return min(neighbor_list("d", f.atoms, {tuple(pair): 4.0}).min() for f in frames)


@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_the_wall_begins_at_the_shortest_bond_or_a_tenth_below(request, who, data, mixed):
    committee = request.getfixturevalue(who)
    frames = data if who == "committee" else mixed
    for pair in itertools.combinations_with_replacement(committee.elements, 2):
        share = reach_of(committee, pair) / shortest_bond(pair, frames)
        assert min(abs(share - 1.0), abs(share - STANDOFF)) < 1e-12
        assert reach_of(committee, pair[::-1]) == reach_of(committee, pair)


def test_the_wall_begins_below_only_where_the_networks_rise_by_themselves(committee, data):
    w = committee.weights
    begins = {}
    for pull in (-40.0, 40.0):
        weights = replace(w, linear=w.linear + pull * np.sign(w.linear.mean()) * np.abs(w.linear))
        wall = fit_wall(committee.descriptor, weights, data)
        begins[pull] = wall.reach[0, 0] / shortest_bond(("Ni", "Ni"), data)
    np.testing.assert_allclose(sorted(begins.values()), [STANDOFF, 1.0], rtol=1e-12)


def test_pairs_that_never_met_are_kept_apart_by_their_radii(data, model):
    descriptor = descriptor_for(("Al", "Ni"), model)
    committee = train(data, model, TrainConfig(members=2, steps=0), seed=1, descriptor=descriptor)
    for pair in (("Al", "Al"), ("Al", "Ni")):
        radii = sum(covalent_radii[int(CHARGES[e])] for e in pair)
        assert reach_of(committee, pair) == pytest.approx(UNSEEN * radii)
        near, nearer = (np.linalg.norm(committee.predict([dimer(pair, r)])[0].forces[:, 1], axis=1) for r in (1.0, 0.8))
        assert (nearer > near).all()
    assert energies(committee, [dimer(("Al", "Ni"), r) for r in (0.8, 1.6)])[0].min() > 100


@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_predictions_on_training_frames_are_those_without_a_wall(request, who, data, mixed):
    committee = request.getfixturevalue(who)
    frames = list(data if who == "committee" else mixed)
    for p, q in zip(committee.predict(frames), bare(committee).predict(frames), strict=True):
        for name in ("energy", "forces", "virial"):
            np.testing.assert_allclose(getattr(p, name), getattr(q, name), rtol=0, atol=NOTHING)


def test_images_of_the_atom_itself_count_as_learnt_bonds(shaken, model):
    """A crystal with one atom in its cell, pressed farther than any other frame."""
    pressed = [Frame.of(bulk("Ni", a=a)) for a in (2.8, 3.0)]
    near = Dataset(f.labelled(replace(shaken(1, seed=1)[0].labels, forces=np.zeros((1, 3)))) for f in pressed)
    for data in (near, shaken(4, seed=1) | near):
        committee = train(data, model, TrainConfig(members=1, steps=0), seed=1)
        energy, without = energies(committee, pressed), energies(bare(committee), pressed)
        np.testing.assert_allclose(energy, without, rtol=0, atol=NOTHING)


@pairs
def test_there_is_no_wall_at_its_reach_and_beyond(alloy, pair):
    reach = reach_of(alloy, pair)
    for r in (reach, reach + 1e-9, reach + 0.3, 5.0):
        (p,), (q,) = alloy.predict([dimer(pair, r)]), bare(alloy).predict([dimer(pair, r)])
        assert np.abs(p.energy - q.energy).max() <= NOTHING
        assert np.abs(p.forces - q.forces).max() <= NOTHING
    inside = [dimer(pair, f * reach) for f in (0.5, 0.7, 0.9)]
    added = energies(alloy, inside) - energies(bare(alloy), inside)
    assert (added > 0).all()
    np.testing.assert_allclose(np.ptp(added, axis=1), 0, atol=1e-9)  # every member has the same


# --- what it is for ---


@pairs
def test_two_atoms_repel_each_other_more_and_more_on_the_way_in(alloy, pair):
    """The energy of every member rises at every step, and what they agree on pushes."""
    way = reach_of(alloy, pair) * np.linspace(SETTLED, DEEPEST, 100)
    frames = [dimer(pair, r) for r in way]
    assert (np.diff(energies(alloy, frames), axis=0) > 0).all()
    forces = np.array([p.forces.mean(0) for p in alloy.predict(frames)])
    assert (forces[:, 1, 2] > 0).all()
    np.testing.assert_allclose(forces[:, 0], -forces[:, 1], atol=1e-9)


@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_a_crystal_that_is_pressed_together_gets_higher_and_higher(request, who):
    committee = request.getfixturevalue(who)
    atoms = supercell("fcc", "Ni", atomic_volume("Ni"), 32)
    atoms.rattle(0.05, seed=1)
    if "Al" in committee.elements:
        atoms.symbols[::2] = "Al"
    nearest = np.sort(atoms.get_all_distances(mic=True), axis=1)[:, 1].min()
    pressed = []
    for bond in committee.wall.reach.min() * np.linspace(SETTLED, 0.5, 30):
        work = atoms.copy()
        work.set_cell(atoms.cell.array * bond / nearest, scale_atoms=True)
        pressed.append(Frame(work))
    assert (np.diff(energies(committee, pressed), axis=0) > 0).all()
    pressures = [-np.trace(p.virial.mean(0)) for p in committee.predict(pressed)]
    assert min(pressures) > 0
    assert (np.diff(pressures) > 0).all()


def test_a_wall_is_as_strong_as_its_networks_need(committee, data):
    """Networks that pull atoms together at short range get a stronger one, which closes their hole."""
    w = committee.weights
    greedy = replace(w, linear=w.linear - 40.0 * np.sign(w.linear.mean()) * np.abs(w.linear))
    walls = [fit_wall(committee.descriptor, weights, data) for weights in (w, greedy)]
    assert walls[1].strength[0, 0] > walls[0].strength[0, 0] >= STRENGTHS[0]
    way = [dimer(("Ni", "Ni"), r) for r in walls[1].reach[0, 0] * np.linspace(SETTLED, DEEPEST, 24)]
    hungry = replace(committee, weights=greedy, wall=walls[1])
    assert not (np.diff(energies(bare(hungry), way), axis=0) > 0).all()
    assert (np.diff(energies(hungry, way), axis=0) > 0).all()


# --- its derivatives; with walls inside what is looked at ---


@pytest.mark.parametrize("cell", ["molecule", "crystal"])
def test_forces_and_virial_of_the_wall_are_its_derivatives(alloy, cell):
    rng = np.random.default_rng(2)
    reach = np.array([[3.6, 3.3], [3.3, 3.0]])
    wall = Wall(reach, np.array([[2.0, 1.0], [1.0, 4.0]]), alloy.wall.charge)
    atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
    atoms.symbols[1] = "Al"
    atoms.positions += rng.normal(0, 0.1, (2, 3))
    if cell == "molecule":
        atoms = atoms.repeat((2, 2, 1))
        atoms.pbc = False

    def wall_of(moves, strain):
        A = np.eye(3) + strain
        work = Atoms(atoms.numbers, (atoms.positions + moves) @ A, cell=atoms.cell.array @ A, pbc=atoms.pbc)
        (p,), (q,) = (c.predict([Frame(work)]) for c in (replace(alloy, wall=wall), bare(alloy)))
        return p.energy[0] - q.energy[0], p.forces[0] - q.forces[0], p.virial[0] - q.virial[0]

    n, h = len(atoms), 1e-4
    energy, forces, virial = wall_of(np.zeros((n, 3)), np.zeros((3, 3)))
    i, j, d = neighbor_list("ijd", atoms, 3.6)
    z = np.array([alloy.elements.index(s) for s in atoms.symbols])
    by_hand = [
        0.5 * repulsion(r, reach[a, b], wall.strength[a, b], (wall.charge[a], wall.charge[b]))[0]
        for a, b, r in zip(z[i], z[j], d, strict=True)
        if r < reach[a, b]
    ]
    assert energy == pytest.approx(sum(by_hand), rel=1e-10)
    for _ in range(4):
        u, strain = rng.normal(size=(n, 3)), rng.normal(size=(3, 3))
        strain += strain.T
        along = (wall_of(h * u, 0 * strain)[0] - wall_of(-h * u, 0 * strain)[0]) / (2 * h)
        assert -(forces * u).sum() == pytest.approx(along, rel=1e-5, abs=1e-5 * np.abs(forces).max())
        along = (wall_of(0 * u, h * strain)[0] - wall_of(0 * u, -h * strain)[0]) / (2 * h)
        assert (virial * strain).sum() == pytest.approx(along, rel=1e-4, abs=1e-4 * np.abs(virial).max())

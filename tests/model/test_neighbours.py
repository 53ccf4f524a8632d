"""Neighbours: the same as vesin's in every kind of cell, and a list that never misses a pair while it holds."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from vesin import NeighborList

from potstill.data import Frame
from potstill.errors import DataError
from potstill.model.neighbours import complete, find, find_in, join, outdated
from potstill.testing import example_frames

REACH = 5.0
SAME_VECTOR = 1e-10  # Å

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40)


def neighbours(atoms, reach=REACH):
    return find(atoms.positions, atoms.cell.array, atoms.pbc, np.zeros(len(atoms), np.int32), reach)


def pairs(geometry, reach=np.inf):
    """(i, j, S) and the vectors between, as whole numbers and floats, sorted by the former."""
    i = np.repeat(np.arange(len(geometry.centre)), np.diff(geometry.first))
    D = geometry.x[geometry.second] - geometry.x[geometry.centre[i]]
    S = geometry.shift[geometry.second] - geometry.shift[geometry.centre[i]]
    return in_order(np.column_stack([i, geometry.owner[geometry.second], S]).astype(int), D, reach)


def in_order(index, D, reach=np.inf):
    near = np.linalg.norm(D, axis=1) < reach
    index, D = index[near], D[near]
    order = np.lexsort(index.T)
    return index[order], D[order]


def vesins(atoms, reach=REACH):
    full = complete(atoms.cell.array, atoms.pbc)
    i, j, S, D = NeighborList(cutoff=reach, full_list=True, n_threads=1).compute(
        atoms.positions, full, atoms.pbc, quantities="ijSD"
    )
    return in_order(np.column_stack([i, j, S]).astype(int), D)


def assert_same_pairs(got, expected):
    assert np.array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1], expected[1], rtol=0, atol=SAME_VECTOR)


def structure(kind) -> Atoms:
    """One of each kind of cell, without symmetry."""
    rng = np.random.default_rng(5)
    atoms = example_frames(["Ni"]).get(kind, example_frames(["Ni"])["triclinic"]).atoms.copy()
    match kind:
        case "smaller than the cutoff":
            atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
            atoms.positions[1] += (0.1, -0.05, 0.07)
        case "left-handed":
            atoms.set_cell(atoms.cell.array[[1, 0, 2]])
        case "atoms outside the cell":
            atoms.positions += rng.integers(-3, 4, (8, 3)) @ atoms.cell.array + 7.0
        case "much larger than the cutoff":
            atoms = bulk("Ni", cubic=True).repeat((5, 4, 6))
            atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        case "two molecules far apart":
            atoms = Atoms("Ni8", rng.uniform(0, 4, (8, 3)))
            atoms.positions[4:] += (300.0, -2000.0, 10.0)
    return OTHERS[kind].copy() if kind in OTHERS else atoms


OTHERS = {
    "a needle": Atoms("Ni2", [(0, 0, 0), (0.4, 0.3, 6)], cell=[(2.1, 0, 0), (0.3, 2.2, 0), (0.1, 0, 14)], pbc=True),
    "very skewed": Atoms("Ni2", [(0, 0, 0), (1, 2, 1)], cell=[(3, 0, 0), (8, 3.1, 0), (-7, 9, 3.3)], pbc=True),
    "one atom": bulk("Ni", a=3.5),
    "one atom in a wide box": Atoms("Ni", [(1, 2, 3)], cell=[20, 20, 20], pbc=True),
    "one atom alone": Atoms("Ni", [(1, 2, 3)]),
    "a cluster without cell": Atoms("Ni40", np.random.default_rng(5).uniform(-6, 6, (40, 3))),
}
KINDS = (
    "smaller than the cutoff",
    "a needle",
    "very skewed",
    "triclinic",
    "left-handed",
    "atoms outside the cell",
    "one atom",
    "one atom in a wide box",
    "one atom alone",
    "much larger than the cutoff",
    "a cluster without cell",
    "two molecules far apart",
    "liquid",
    "slab",
    "molecule",
)


@st.composite
def structures(draw, most=8):
    """A random cell, a random periodicity, atoms inside and outside, none on another."""
    rng = np.random.default_rng(draw(seeds))
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    n = draw(st.integers(1, most))
    cell = np.diag(rng.uniform(2.2, 8.0, 3)) + rng.uniform(-2.5, 2.5, (3, 3))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0) if abs(np.linalg.det(cell)) > 1 else np.zeros(3)
    assume(heights.min() > 1.2)
    positions = rng.uniform(-1.0, 2.0, (n, 3)) @ cell
    atoms = Atoms(f"Ni{n}", positions, cell=cell, pbc=pbc)
    assume(n == 1 or atoms.get_all_distances(mic=True)[np.triu_indices(n, 1)].min() > 0.3)
    return atoms


# --- who sees whom ---


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_vesins_in_every_kind_of_cell(kind):
    atoms = structure(kind)
    expected = vesins(atoms)
    assert_same_pairs(pairs(neighbours(atoms)), expected)
    assert len(expected[0]) > 0 or kind.startswith("one atom ")


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("kind", ["triclinic", "smaller than the cutoff"])
def test_slabs_wires_and_molecules_have_vesins_neighbours(kind, pbc):
    atoms = structure(kind)
    atoms.pbc = pbc
    bare = atoms.copy()
    bare.set_cell(atoms.cell.array * np.where(pbc, 1.0, 0.0)[:, None])
    expected = vesins(bare)
    assert_same_pairs(pairs(neighbours(bare)), expected)
    assert_same_pairs(pairs(neighbours(atoms)), expected)


@few
@given(structures(), st.floats(1.0, 7.0))
def test_neighbours_are_vesins_in_any_cell(atoms, reach):
    assert_same_pairs(pairs(neighbours(atoms, reach)), vesins(atoms, reach))


def test_positions_are_the_atoms_and_their_images():
    atoms = structure("atoms outside the cell")
    g = neighbours(atoms)
    np.testing.assert_allclose(g.x, atoms.positions[g.owner] + g.shift @ atoms.cell.array, atol=1e-12)
    inside = g.x[g.centre] @ np.linalg.inv(atoms.cell.array)
    assert inside.min() > -1e-12
    assert inside.max() < 1 + 1e-12
    assert np.array_equal(g.owner[g.centre], np.arange(8))


def test_images_bear_the_element_of_their_owner():
    atoms = example_frames(["Ni", "Al"])["triclinic"].atoms
    species = (atoms.numbers == 13).astype(np.int32)
    g = find(atoms.positions, atoms.cell.array, atoms.pbc, species, REACH)
    assert np.array_equal(g.species, species)
    assert np.array_equal(g.kinds, species[g.owner])


def test_frames_put_together_see_their_own_atoms_only():
    kinds = ("triclinic", "one atom alone", "slab", "smaller than the cutoff")
    parts = [neighbours(structure(kind)) for kind in kinds]
    g = join(parts)
    assert np.array_equal(g.frame, np.repeat(range(4), [len(p.centre) for p in parts]))
    i = np.repeat(np.arange(len(g.centre)), np.diff(g.first))
    for k, part in enumerate(parts):
        low, high = g.atoms[k], g.atoms[k + 1]
        mine = g.frame[i] == k
        expected = pairs(part)
        assert ((g.owner[g.second[mine]] >= low) & (g.owner[g.second[mine]] < high)).all()
        D = g.x[g.second[mine]] - g.x[g.centre[i[mine]]]
        S = g.shift[g.second[mine]] - g.shift[g.centre[i[mine]]]
        got = in_order(np.column_stack([i[mine] - low, g.owner[g.second[mine]] - low, S]).astype(int), D)
        assert_same_pairs(got, expected)
        assert (g.positions[k + 1] - g.positions[k]) == len(part.x)


# --- a list that is used again ---


def walked(atoms, rng, step, strain):
    """The atoms after random moves of at most ``step`` and a random strain, rotations included."""
    u = rng.normal(size=(len(atoms), 3))
    u *= step * rng.uniform(0, 1, (len(atoms), 1)) / np.linalg.norm(u, axis=1, keepdims=True)
    A = np.eye(3) + strain * rng.uniform(-1, 1, (3, 3))
    moved = atoms.copy()
    moved.set_cell(complete(atoms.cell.array, atoms.pbc) @ A)
    moved.positions = (atoms.positions + u) @ A
    return moved


@few
@given(structures(), seeds)
def test_moved_neighbours_are_those_of_a_new_search(atoms, seed):
    g = neighbours(atoms, REACH + 1.0)
    after = walked(atoms, np.random.default_rng(seed), 0.15, 0.01)
    moved = g.moved(after.positions, after.cell.array)
    assert_same_pairs(pairs(moved, REACH), pairs(neighbours(after)))


def test_moving_nothing_changes_nothing():
    atoms = structure("atoms outside the cell")
    g = neighbours(atoms)
    np.testing.assert_allclose(g.moved(atoms.positions, atoms.cell.array).x, g.x, atol=1e-12)


@settings(max_examples=150)
@given(structures(), seeds, st.floats(0, 0.5), st.floats(0, 0.08), st.floats(0.2, 1.5))
def test_a_list_that_is_not_outdated_holds_every_pair_within_reach(atoms, seed, step, strain, skin):
    g = neighbours(atoms, REACH + skin)
    built = atoms.positions.copy(), complete(atoms.cell.array, atoms.pbc)
    after = walked(atoms, np.random.default_rng(seed), step, strain)
    old = outdated(g, after.positions, after.cell.array, built, skin, REACH)
    event("outdated" if old else "held")
    if not old:
        held = {tuple(p) for p in pairs(g)[0]}
        assert all(tuple(p) in held for p in vesins(after)[0])


@given(st.floats(0.2, 1.5), st.floats(-0.1, 0.1), st.floats(0.9, 1.1), seeds)
def test_two_atoms_that_come_straight_from_beyond_the_list_are_seen_in_time(skin, squeeze, share, seed):
    """The worst case: a pair just beyond the list, moved towards each other while the cell shrinks along its line."""
    direction = np.random.default_rng(seed).normal(size=3)
    direction /= np.linalg.norm(direction)
    apart = REACH + skin + 1e-9
    A = np.eye(3) - squeeze * np.outer(direction, direction)
    start = np.array([np.zeros(3), apart * direction])
    cell = np.eye(3) * 40.0
    g = find(start, cell, (True,) * 3, np.zeros(2, np.int32), REACH + skin)
    assert not len(g.second)
    # so far that they are within reach of each other for share > 1, and not for share < 1
    each = share * (apart - REACH / (1.0 - squeeze)) / 2.0
    after = (start + each * np.outer([1.0, -1.0], direction)) @ A
    if np.linalg.norm(after[1] - after[0]) < REACH - 1e-6:
        assert outdated(g, after, cell @ A, (start, cell), skin, REACH)


@pytest.mark.parametrize(
    ("step", "strain", "old"),
    [
        (0.0, 0.0, False),
        (0.24, 0.0, False),
        (0.26, 0.0, True),
        (0.0, 0.05, False),
        (0.0, 0.12, True),
        (0.15, 0.05, True),
        (0.0, 0.5, True),
    ],
)
def test_a_list_holds_for_small_moves_and_no_longer_than_it_must(step, strain, old):
    """Of a list that reaches half an Å farther; strains shrink the cell along one axis."""
    atoms = structure("triclinic")
    g, built = neighbours(atoms, REACH + 0.5), (atoms.positions.copy(), atoms.cell.array.copy())
    A = np.diag([1.0 - strain, 1.0, 1.0])
    after = atoms.positions.copy()
    after[3, 1] += step
    assert outdated(g, after @ A, atoms.cell.array @ A, built, 0.5, REACH) is old


def test_a_list_for_another_number_of_atoms_is_outdated():
    atoms = structure("triclinic")
    g, built = neighbours(atoms, REACH + 0.5), (atoms.positions.copy(), atoms.cell.array.copy())
    assert outdated(g, atoms.positions[:-1], atoms.cell.array, built, 0.5, REACH)


@pytest.mark.parametrize("where", ["positions", "cell"])
def test_a_list_is_outdated_where_numbers_are_none(where):
    atoms = structure("triclinic")
    g, built = neighbours(atoms, REACH + 0.5), (atoms.positions.copy(), atoms.cell.array.copy())
    positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
    (positions if where == "positions" else cell)[1, 1] = np.nan
    assert outdated(g, positions, cell, built, 0.5, REACH)


# --- what is no structure ---


@pytest.mark.parametrize(
    ("positions", "cell", "pbc"),
    [
        ([(0, 0, 0), (0, 0, 0)], np.eye(3) * 9, False),
        ([(0, 0, 0), (0, 0, 0)], np.eye(3) * 9, True),
        ([(0, 0, 0), (0, 0, 0.009)], np.eye(3) * 9, True),
        ([(0.002, 1, 1), (8.999, 1, 1)], np.eye(3) * 9, True),
        ([(1, 1, 1), (1, 10, 1)], np.eye(3) * 9, True),
        ([(1, 1, 1), (2, 2, 2), (1, 1, 1), (4, 4, 4)], np.eye(3) * 3, True),
    ],
    ids=["one spot", "one spot in a cell", "nearly", "across the border", "a cell apart", "among others"],
)
def test_two_atoms_on_one_spot_are_refused(positions, cell, pbc):
    with pytest.raises(DataError, match=r"less than 0\.01 Å apart\."):
        neighbours(Atoms(f"Ni{len(positions)}", positions, cell=cell, pbc=pbc))


def test_atoms_a_little_farther_apart_are_not():
    assert len(neighbours(Atoms("Ni2", [(0, 0, 0), (0, 0, 0.011)])).second) == 2


@pytest.mark.parametrize(
    "cell",
    [
        np.diag([9.0, 9.0, 1e-4]),
        [(9, 0, 0), (9, 1e-5, 0), (0, 0, 9)],
        [(9, 0, 0), (0, 9, 0), (9, 9, 0)],
        np.diag([9.0, 9.0, 0.0]),
        np.zeros((3, 3)),
        np.eye(3) * 0.02,
        np.diag([9.0, 9.0, 1e-300]),
    ],
    ids=["flat", "skewed flat", "in one plane", "without a vector", "no cell", "a speck", "thinner than numbers are"],
)
def test_cells_without_room_are_refused(cell):
    with pytest.raises(DataError, match=r"cell.*\.$|collapsed\.$|apart\.$"):
        neighbours(Atoms("Ni", cell=cell, pbc=True))


def test_a_wire_whose_only_vector_is_nothing_is_refused():
    with pytest.raises(DataError, match="cell"):
        neighbours(Atoms("Ni", cell=np.zeros((3, 3)), pbc=(True, False, False)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["positions", "cell"])
def test_numbers_that_are_none_are_refused(bad, where):
    atoms = structure("triclinic")
    if where == "positions":
        atoms.positions[3, 1] = bad
    else:
        atoms.cell.array[1, 1] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        neighbours(atoms)


def test_a_refusal_comes_for_frames_too():
    with pytest.raises(DataError):
        find_in(Frame(Atoms("Ni2", [(0, 0, 0), (0, 0, 0)])), np.zeros(2, np.int32), REACH)

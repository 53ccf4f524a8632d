"""What an atom sees: the formula, its symmetries, its derivatives, and its end at the cutoff."""

import itertools
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y
from scipy.stats import special_ortho_group

from potstill.data import Frame
from potstill.errors import DataError
from potstill.model import Descriptor, FrameFeatures, Whitening
from potstill.model.descriptor import chunks
from potstill.testing import example_frames

ROUND_OFF = 1e-11  # of the largest feature: sums over some hundred neighbours in another order
GRID_MOVES = 1e-6  # of the largest feature: frames lie on a grid of 1e-8 Å

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=12)

DESCRIPTORS = {
    "the default": Descriptor(("Ni", "Al")),
    "angular beyond radial": Descriptor(("Al", "Ni"), 4.0, 5.0, 5, 3, 3),
    "no angles": Descriptor(("Ni", "Al"), 5.0, 4.0, 4, 2, 0),
    "as far as it goes": Descriptor(("Ni", "Al"), 4.5, 4.5, 3, 2, 6),
}
SHORT = Descriptor(("Ni", "Al"), 5.0, 4.5, 5, 3, 3)


def features(descriptor, atoms) -> np.ndarray:
    """G of one structure, without the grid of Frame.of."""
    return descriptor.compute(descriptor.geometry([Frame(atoms)]))


def slopes(descriptor, atoms) -> np.ndarray:
    """Derivatives of the summed descriptors of each element, (n_elements, 3 n + 6, n_features)."""
    return descriptor.design(descriptor.geometry([Frame(atoms)]))


def by_hand(descriptor, atoms) -> np.ndarray:
    """The formula of the kernels' docstring with ASE's neighbours and scipy's complex harmonics."""
    n, Z, L = len(atoms), len(descriptor.elements), descriptor.l_max
    first, second, D = neighbor_list("ijD", atoms, max(descriptor.cutoff, descriptor.angular_cutoff))
    kinds = np.array([descriptor.elements.index(s) for s in atoms.get_chemical_symbols()])

    def radial(r, cutoff, n_max):
        k = np.arange(1, n_max + 1)
        return np.sin(k * np.pi * r / cutoff) / r * (1 - (r / cutoff) ** 2) ** 3 if r < cutoff else np.zeros(n_max)

    G = []
    for i in range(n):
        A = np.zeros((Z, descriptor.n_radial))
        C = np.zeros((Z, descriptor.n_angular, (L + 1) ** 2), dtype=complex)
        for j, (x, y, z) in zip(second[first == i], D[first == i], strict=True):
            r = math.sqrt(x * x + y * y + z * z)
            theta, phi = math.acos(max(-1.0, min(1.0, z / r))), math.atan2(y, x)
            Y = np.array([sph_harm_y(l, m, theta, phi) for l in range(L + 1) for m in range(-l, l + 1)])
            A[kinds[j]] += radial(r, descriptor.cutoff, descriptor.n_radial)
            C[kinds[j]] += np.outer(radial(r, descriptor.angular_cutoff, descriptor.n_angular), Y)
        C = C.reshape(-1, (L + 1) ** 2)
        P = [
            np.sum((C[c] * C[d].conj()).real[l * l : (l + 1) ** 2]) / math.sqrt(2 * l + 1)
            for c in range(len(C))
            for d in range(c, len(C))
            for l in range(L + 1)
        ]
        G.append(np.concatenate([A.ravel(), P]))
    return np.array(G)


def structures(kind: str) -> Atoms:
    """A few shapes beside the example frames, all of Ni and Al."""
    match kind:
        case "one atom in a cell":
            return bulk("Ni", a=3.5)
        case "cell smaller than the cutoff":
            atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
            atoms.symbols[1] = "Al"
            atoms.positions[1] += (0.1, -0.05, 0.07)
            return atoms
        case "left-handed cell":
            atoms = example_frames(["Ni", "Al"])["triclinic"].atoms
            atoms.set_cell(atoms.cell.array[[1, 0, 2]])
            return atoms
    return example_frames(["Ni", "Al"])[kind].atoms


SHAPES = [
    "liquid",
    "triclinic",
    "slab",
    "molecule",
    "one atom in a cell",
    "cell smaller than the cutoff",
    "left-handed cell",
]


def assert_close(got, expected, tolerance):
    scale = max(np.abs(expected).max(), 1e-300)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


# --- the formula ---


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_features_are_their_formula_written_out(name):
    descriptor, atoms = DESCRIPTORS[name], structures("triclinic")
    G = features(descriptor, atoms)
    assert G.shape == (len(atoms), descriptor.n_features)
    assert_close(G, by_hand(descriptor, atoms), ROUND_OFF)


@pytest.mark.parametrize("shape", SHAPES)
def test_neighbours_are_found_in_every_kind_of_cell(shape):
    atoms = structures(shape)
    assert_close(features(SHORT, atoms), by_hand(SHORT, atoms), ROUND_OFF)


def test_the_elements_of_neighbours_are_told_apart_in_the_order_of_the_descriptor():
    atoms = structures("liquid")
    G = features(SHORT, atoms)
    swapped = features(Descriptor(("Al", "Ni"), 5.0, 4.5, 5, 3, 3), atoms)
    n = SHORT.n_radial
    assert_close(swapped[:, :n], G[:, n : 2 * n], ROUND_OFF)
    alone = atoms.copy()
    alone.symbols[:] = "Ni"
    assert not features(SHORT, alone)[:, n : 2 * n].any()


# --- symmetries ---


@few
@given(seeds, st.booleans())
def test_rotations_and_reflections_change_no_feature(seed, mirror):
    atoms = structures("triclinic")
    R = special_ortho_group.rvs(3, random_state=seed) * (-1 if mirror else 1)
    turned = Atoms(atoms.numbers, positions=atoms.positions @ R.T, cell=atoms.cell.array @ R.T, pbc=True)
    assert_close(features(SHORT, turned), features(SHORT, atoms), ROUND_OFF)


@few
@given(seeds)
def test_shifts_and_lattice_vectors_change_no_feature(seed):
    atoms, rng = structures("triclinic"), np.random.default_rng(seed)
    moved = atoms.copy()
    moved.positions += rng.uniform(-50, 50, 3) + rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    assert_close(features(SHORT, moved), features(SHORT, atoms), ROUND_OFF)


@few
@given(st.permutations(range(8)))
def test_permuted_atoms_have_permuted_features(order):
    atoms = structures("triclinic")
    assert_close(features(SHORT, atoms[order]), features(SHORT, atoms)[order], ROUND_OFF)


@few
@given(st.tuples(*[st.integers(1, 2)] * 3))
def test_supercells_repeat_the_features(repeat):
    atoms = structures("cell smaller than the cutoff")
    expected = np.tile(features(SHORT, atoms), (math.prod(repeat), 1))
    assert_close(features(SHORT, atoms.repeat(repeat)), expected, ROUND_OFF)


@pytest.mark.parametrize("pbc", list(itertools.product([True, False], repeat=3)))
def test_open_directions_are_as_a_box_with_much_vacuum(pbc):
    atoms = structures("triclinic")
    given_cell, no_cell, box = atoms.copy(), atoms.copy(), atoms.copy()
    wide, cell = np.where(pbc, 1.0, 8.0), np.where(pbc, 1.0, 0.0)
    box.set_cell(atoms.cell.array * wide[:, None])
    no_cell.set_cell(atoms.cell.array * cell[:, None])
    given_cell.pbc = no_cell.pbc = pbc
    expected = features(SHORT, box)
    assert_close(features(SHORT, given_cell), expected, ROUND_OFF)
    assert_close(features(SHORT, no_cell), expected, ROUND_OFF)


def test_an_atom_alone_sees_nothing():
    assert not features(SHORT, Atoms("Ni")).any()
    assert not features(SHORT, Atoms("Ni", cell=[20, 20, 20], pbc=True)).any()


# --- the end of sight ---


@pytest.mark.parametrize("radius", [SHORT.cutoff, SHORT.angular_cutoff])
def test_features_and_their_slopes_go_to_zero_where_a_neighbour_leaves(radius):
    """Of the only Al atom, as the Ni atom before it leaves; the other one makes its power spectrum bend."""

    def at(r):
        return Atoms("NiAlNi", [(0, 0, 0), (r, 0, 0), (r, 2.5, 0)])

    gone = features(SHORT, at(radius + 1e-9))[1]
    n = 2 * SHORT.n_radial  # features of the two-body part
    part = slice(0, n) if radius == SHORT.cutoff else slice(n, None)
    for gap in (1e-2, 1e-3):
        step = np.abs(features(SHORT, at(radius - gap))[1] - gone)[part].max()
        slope = np.abs(slopes(SHORT, at(radius - gap))[1, 0, part]).max()
        assert 0 < step < 20 * gap**3
        assert 0 < slope < 60 * gap**2
    assert not slopes(SHORT, at(radius + 1e-9))[1, 0, part].any()


def test_features_see_as_far_as_the_cutoff_and_no_farther():
    def pair(r):
        return features(SHORT, Atoms("Ni2", [(0, 0, 0), (0, 0, r)]))

    assert pair(SHORT.cutoff - 0.01).any()
    assert not pair(SHORT.cutoff).any()


# --- faults and edges ---


def test_an_unknown_element_is_told_by_name():
    with pytest.raises(DataError, match=r"knows Ni, Al.*Cu"):
        SHORT.geometry([Frame(Atoms("NiCu", [(0, 0, 0), (2, 0, 0)]))])


def test_atoms_on_top_of_each_other_are_refused():
    with pytest.raises(DataError, match=r"0\.01 Å"):
        SHORT.geometry([Frame(Atoms("Ni2", [(0, 0, 0), (0, 0, 0.009)]))])


def test_positions_that_are_no_numbers_are_a_data_error():
    with pytest.raises(DataError):
        SHORT.geometry([Frame(Atoms("Ni2", [(0, 0, 0), (0, np.nan, 2)]))])


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 20))
def test_chunks_keep_the_order_and_hold_as_much_as_fits(sizes, limit):
    frames = [Frame(Atoms(f"Ni{n}")) for n in sizes]
    cut = list(chunks(frames, limit))
    assert [f for chunk in cut for f in chunk] == frames
    for chunk, following in itertools.zip_longest(cut, cut[1:]):
        held = sum(f.n_atoms for f in chunk)
        assert held <= limit or len(chunk) == 1
        assert following is None or held + following[0].n_atoms > limit


# --- the metric ---


def test_whitened_features_have_no_mean_and_at_most_unit_spread(data):
    descriptor = Descriptor(("Ni",), 5.0, 4.5, 5, 3, 3)
    w = Whitening.fit(descriptor, data)
    G = np.concatenate([features(descriptor, f.atoms) for f in data])
    x = (G - w.mean[0]) @ w.matrix[0]
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    covariance = x.T @ x / len(x)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-6)
    assert np.diag(covariance)[0] == pytest.approx(1 / (1 + 1e-3), rel=1e-6)
    assert np.all(np.diff(np.diag(covariance)) < 1e-6)


def test_whitening_of_an_element_that_no_frame_has_is_harmless(data):
    w = Whitening.fit(SHORT, data)
    assert np.array_equal(w.matrix[1], np.eye(SHORT.n_features))
    assert not w.mean[1].any()
    assert np.isfinite(w.matrix).all()


def test_frames_are_described_by_mean_and_deviation_of_their_atoms_and_remembered(data):
    descriptor = Descriptor(("Ni",), 5.0, 4.5, 5, 3, 3)
    w = Whitening.fit(descriptor, data)
    found = FrameFeatures(descriptor, w)
    X = found.describe(list(data))
    for frame, x in zip(data, X, strict=True):
        y = (features(descriptor, frame.atoms) - w.mean[0]) @ w.matrix[0]
        assert_close(x, np.concatenate([y.mean(0), y.std(0)]), 1e-9)
    found.descriptor = None  # nothing is computed for frames that were seen
    assert np.array_equal(found.describe(list(data[::-1])), X[::-1])


@pytest.mark.two_threads
def test_what_many_frames_would_teach_is_what_each_of_them_would():
    frames = _some()
    w = Whitening.fit(SHORT, frames)
    together = FrameFeatures(SHORT, w).equations(frames)
    assert len({f.n_atoms for f in frames}) > 2
    for frame, A in zip(frames, together, strict=True):
        assert np.abs(A).max() > 0
        assert np.array_equal(FrameFeatures(SHORT, w).equations([frame])[0], A)


@few
@given(seeds, st.permutations(range(8)))
def test_descriptions_of_frames_see_only_the_structure(data, seed, order):
    descriptor = Descriptor(("Ni",), 5.0, 4.5, 5, 3, 3)
    found = FrameFeatures(descriptor, Whitening.fit(descriptor, data[:2]))
    atoms, rng = data[3].atoms, np.random.default_rng(seed)
    R = special_ortho_group.rvs(3, random_state=seed)
    other = Atoms(
        atoms.numbers, positions=(atoms.positions + rng.normal(size=3)) @ R.T, cell=atoms.cell.array @ R.T, pbc=True
    )
    X = found.describe([data[3], Frame.of(other[order]), Frame.of(atoms.repeat((1, 2, 1)))])
    assert_close(X[1:], np.tile(X[0], (2, 1)), 30 * GRID_MOVES)


def test_no_frames_have_no_descriptions_of_the_usual_length(committee):
    assert committee.describe([]).shape == (0, committee.describe(_some()).shape[1])


def _some():
    return list(example_frames(["Ni"]).values())

"""The maps that training goes through: derivatives of the descriptor, forwards, backwards and written out."""

from itertools import pairwise

import numba
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data import VOIGT, Frame
from potstill.model import Descriptor, gradients, on_gpu
from potstill.model.kernels import coefficients
from potstill.testing import example_frames

SINGLE = 3e-6  # of the largest value: these maps compute in single precision
DIFFERENCES = 1e-7  # of the largest value, of central differences in double precision
STEP = 3e-4

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)

DESCRIPTORS = {
    "the default": Descriptor(("Ni", "Al")),
    "angular beyond radial": Descriptor(("Al", "Ni"), 4.0, 5.0, 5, 3, 3),
    "no angles": Descriptor(("Ni", "Al"), 5.0, 4.0, 4, 2, 0),
    "seven channels": Descriptor(("Ni", "Al"), 4.5, 4.5, 2, 7, 2),
    "three elements, one without atoms": Descriptor(("Ni", "Cu", "Al"), 5.0, 4.5, 3, 2, 2),
}
SHORT = Descriptor(("Ni", "Al"), 5.0, 4.5, 5, 3, 3)


def small() -> Atoms:
    """Two atoms in a cell smaller than any cutoff: each sees many images of itself."""
    atoms = bulk("Ni", "hcp", a=2.5, c=4.1)
    atoms.symbols[1] = "Al"
    atoms.positions[1] += (0.1, -0.05, 0.07)
    return atoms


def frames() -> list[Atoms]:
    """Structures of many sizes and periodicities."""
    made = {kind: frame.atoms for kind, frame in example_frames(["Ni", "Al"]).items()}
    return [made["liquid"], Atoms("Al"), made["slab"], small(), made["molecule"], made["triclinic"], bulk("Ni", a=3.5)]


def geometry(descriptor, structures):
    return descriptor.geometry([Frame(a) for a in structures])


def places(g, batch):
    """Where each frame of a batch begins among its atoms."""
    return np.concatenate([[0], np.cumsum(np.diff(g.atoms)[batch])])


def pull(descriptor, g, batch, by_G):
    """−∂/∂r and ∂/∂ε of by_G · G, and what is kept for the way back."""
    M, n, _ = by_G.shape
    forces, virial = np.zeros((M, n, 3), np.float32), np.zeros((M, len(batch), 6), np.float32)
    C = np.full(n * coefficients(descriptor.shape), np.nan, np.float32)  # as memory may be that nobody cleared
    gradients.batch_pull(
        np.asarray(batch), places(g, batch), g.atoms, g.first, g.second, g.x, g.owner, g.kinds, g.centre,
        descriptor.shape, by_G.astype(np.float32), C, forces, virial,
    )  # fmt: skip
    return forces, virial, C


def push(descriptor, g, batch, C, by_forces, by_virial):
    """What by_forces · forces + by_virial · virial grows by with ∂E/∂G."""
    by_G = np.full((*by_forces.shape[:2], descriptor.n_features), np.nan, np.float32)
    gradients.batch_push(
        np.asarray(batch), places(g, batch), g.atoms, g.first, g.second, g.x, g.owner, g.kinds, g.centre,
        descriptor.shape, C, by_forces.astype(np.float32), by_virial.astype(np.float32), by_G,
    )  # fmt: skip
    return by_G


def descriptors(descriptor, atoms, moves, strain):
    """G after atoms have moved and everything was strained, D → D + D · strain."""
    A = np.eye(3) + strain
    moved = Atoms(atoms.numbers, positions=(atoms.positions + moves) @ A, cell=atoms.cell.array @ A, pbc=atoms.pbc)
    return descriptor.compute(geometry(descriptor, [moved]))


def slope(descriptor, atoms, moves, strain):
    """How G changes in this direction, by central differences of fourth order."""
    G = [descriptors(descriptor, atoms, s * STEP * moves, s * STEP * strain) for s in (2, 1, -1, -2)]
    return (8 * (G[1] - G[2]) - (G[0] - G[3])) / (12 * STEP)


def upper(components):
    """A strain with these six components (ASE's order) above the diagonal and nothing below."""
    strain = np.zeros((3, 3))
    for value, (a, b) in zip(components, VOIGT, strict=True):
        strain[max(a, b), min(a, b)] = value  # D_x grows by D_y · xy
    return strain


def close(got, expected, tolerance=SINGLE):
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module", params=DESCRIPTORS)
def descriptor(request) -> Descriptor:
    return DESCRIPTORS[request.param]


# --- there and back ---


@few
@given(seeds, st.permutations(range(7)), st.integers(1, 7), st.integers(1, 3))
def test_push_is_the_transpose_of_pull(seed, order, n_frames, members):
    """⟨R, F(g)⟩ + ⟨S, V(g)⟩ = ⟨push(R, S), g⟩ for each member and each frame of any batch."""
    g, batch, rng = geometry(SHORT, frames()), order[:n_frames], np.random.default_rng(seed)
    at = places(g, batch)
    by_G = rng.normal(size=(members, at[-1], SHORT.n_features)) / np.abs(SHORT.compute(g)).max(0)
    R, S = rng.normal(size=(members, at[-1], 3)), rng.normal(size=(members, n_frames, 6))
    forces, virial, C = pull(SHORT, g, batch, by_G)
    back = push(SHORT, g, batch, C, R, S)
    for k, (low, high) in enumerate(pairwise(at)):
        there = (R * forces)[:, low:high].sum((1, 2), dtype=float) + (S * virial)[:, k].sum(1, dtype=float)
        here = (back * by_G)[:, low:high].sum((1, 2), dtype=float)
        size = np.abs(back * by_G)[:, low:high].sum((1, 2)) + np.abs(R * forces)[:, low:high].sum((1, 2))
        assert (np.abs(there - here) <= SINGLE * size).all()
        assert (size > 0).all() or high - low == 1, "an atom alone has nothing to pull at"


def test_forces_and_virials_are_derivatives_of_the_descriptors(descriptor):
    rng = np.random.default_rng(0)
    structures, batch = frames(), [5, 2, 0, 4, 3]
    g = geometry(descriptor, structures)
    at = places(g, batch)
    by_G = rng.normal(size=(2, at[-1], descriptor.n_features))
    forces, virial, _ = pull(descriptor, g, batch, by_G)
    for k, frame in enumerate(batch):
        mine, n = slice(at[k], at[k + 1]), len(structures[frame])
        moves, strain = rng.normal(size=(n, 3)), rng.normal(size=6)
        expected = (by_G[:, mine] * slope(descriptor, structures[frame], moves, upper(strain))).sum((1, 2))
        got = virial[:, k] @ strain - (forces[:, mine] * moves).sum((1, 2))
        size = np.abs(virial[:, k]) @ np.abs(strain) + np.abs(forces[:, mine] * moves).sum((1, 2))
        np.testing.assert_array_less(np.abs(got - expected), 3 * SINGLE * size)


@pytest.mark.parametrize("kind", range(7))
def test_pushed_moves_are_what_the_descriptors_change_by(kind):
    """Row by row: R moves atoms backwards (forces have a minus), S strains."""
    rng, atoms = np.random.default_rng(kind), frames()[kind]
    R, S = rng.normal(size=(2, len(atoms), 3)), rng.normal(size=(2, 1, 6))
    g = geometry(SHORT, [atoms])
    _, _, C = pull(SHORT, g, [0], np.zeros((2, len(atoms), SHORT.n_features)))
    back = push(SHORT, g, [0], C, R, S)
    for m in range(2):
        expected = slope(SHORT, atoms, -R[m], upper(S[m, 0]))
        close(back[m], expected)
        assert expected.any() or len(atoms) == 1


def test_pulled_forces_add_up_to_nothing_and_members_stay_apart():
    rng = np.random.default_rng(1)
    g = geometry(SHORT, frames())
    by_G = rng.normal(size=(3, len(g.centre), SHORT.n_features))
    batch = list(range(7))
    forces, virial, C = pull(SHORT, g, batch, by_G)
    for k in batch:
        part = forces[:, g.atoms[k] : g.atoms[k + 1]]
        assert np.abs(part.sum(1, dtype=float)).max() <= 10 * SINGLE * np.abs(forces).max()
    for m in range(3):
        one, of_one, same = pull(SHORT, g, batch, by_G[m : m + 1])
        close(forces[m], one[0])
        close(virial[m], of_one[0])
        assert np.array_equal(C, same, equal_nan=True)


@pytest.mark.parametrize("batch", [[0], [3, 0], [6, 5, 4, 3, 2, 1, 0]])
def test_a_batch_is_its_frames_one_by_one_in_its_own_order(batch):
    rng, structures = np.random.default_rng(2), frames()
    g = geometry(SHORT, structures)
    at = places(g, batch)
    by_G = rng.normal(size=(2, at[-1], SHORT.n_features))
    forces, virial, _ = pull(SHORT, g, batch, by_G)
    for k, frame in enumerate(batch):
        mine = slice(at[k], at[k + 1])
        alone, strain, _ = pull(SHORT, geometry(SHORT, [structures[frame]]), [0], by_G[:, mine])
        assert np.array_equal(forces[:, mine], alone)
        assert np.array_equal(virial[:, k], strain[:, 0])


# --- written out ---


@pytest.mark.parametrize("kind", range(7))
def test_the_design_is_the_derivative_by_positions_and_by_all_six_strains(descriptor, kind):
    atoms = frames()[kind]
    n = len(atoms)
    g = geometry(descriptor, [atoms])
    A = descriptor.design(g)
    assert A.shape == (len(descriptor.elements), 3 * n + 6, descriptor.n_features)
    scale = max(np.abs(A).max(), 1.0)

    def summed(moves, strain):
        dG = slope(descriptor, atoms, moves, strain)
        return [dG[g.species == z].sum(0) for z in range(len(descriptor.elements))]

    still, none = np.zeros((n, 3)), np.zeros((3, 3))
    for row in sorted(np.random.default_rng(0).permutation(3 * n)[:8]):
        moves = still.copy()
        moves.flat[row] = 1.0
        np.testing.assert_allclose(A[:, row], summed(moves, none), rtol=0, atol=DIFFERENCES * scale)
    for row, (a, b) in enumerate(VOIGT):
        strain = none.copy()
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        np.testing.assert_allclose(A[:, 3 * n + row], summed(still, strain), rtol=0, atol=DIFFERENCES * scale)


@pytest.mark.parametrize("kind", range(7))
def test_the_design_is_the_pull_of_unit_vectors(descriptor, kind):
    g = geometry(descriptor, [frames()[kind]])
    n, F = len(g.centre), descriptor.n_features
    A = descriptor.design(g)
    for z in range(len(descriptor.elements)):
        units = np.eye(F)[:, None, :] * (g.species == z)[None, :, None]
        forces, virial, _ = pull(descriptor, g, [0], units)
        expected = np.concatenate([-forces.reshape(F, 3 * n), virial[:, 0]], axis=1).T
        np.testing.assert_allclose(A[z], expected, rtol=0, atol=SINGLE * max(np.abs(A).max(), 1e-300))


def test_rows_of_the_design_sum_to_nothing_because_a_shift_does_nothing():
    A = SHORT.design(geometry(SHORT, frames()[:1]))
    total = A[:, :60].reshape(2, 20, 3, -1).sum(1)
    assert np.abs(total).max() < 1e-12 * np.abs(A).max()


# --- the same in plain torch ---


def test_the_descriptor_in_plain_torch_is_that_of_the_kernels(descriptor):
    g = geometry(descriptor, frames())
    edges = on_gpu.Edges.of(g, torch.device("cpu"))
    G = on_gpu.describe(edges.D, edges, len(g.centre), descriptor.shape).numpy()
    expected = descriptor.compute(g)
    apart = np.abs(G - expected).max(0)
    assert (apart <= 10 * SINGLE * np.abs(expected).max(0)).all()


def test_forces_in_plain_torch_and_their_gradient_are_those_of_the_kernels(descriptor):
    rng = np.random.default_rng(3)
    g = geometry(descriptor, frames())
    n, batch = len(g.centre), list(range(7))
    by_G = rng.normal(size=(2, n, descriptor.n_features))
    R, S = rng.normal(size=(2, n, 3)), rng.normal(size=(2, 7, 6))
    forces, virial, C = pull(descriptor, g, batch, by_G)
    leaf = torch.tensor(by_G, dtype=torch.float32, requires_grad=True)
    edges = on_gpu.Edges.of(g, torch.device("cpu"))
    F, V = on_gpu.pull(leaf, edges, torch.as_tensor(g.frame), 7, descriptor.shape)
    close(F.detach().numpy(), forces, 10 * SINGLE)
    close(V.detach().numpy(), virial, 10 * SINGLE)
    ((F * torch.tensor(R, dtype=torch.float32)).sum() + (V * torch.tensor(S, dtype=torch.float32)).sum()).backward()
    back = push(descriptor, g, batch, C, R, S)
    apart = np.abs(leaf.grad.numpy() - back).max((0, 1))
    assert (apart <= 10 * SINGLE * np.abs(back).max((0, 1))).all()


# --- threads ---


@pytest.mark.two_threads
def test_results_do_not_depend_on_the_number_of_threads():
    g, batch = geometry(SHORT, frames() * 3), list(range(21))
    rng = np.random.default_rng(4)
    by_G = rng.normal(size=(2, len(g.centre), SHORT.n_features))
    R, S = rng.normal(size=(2, len(g.centre), 3)), rng.normal(size=(2, 21, 6))

    def everything():
        forces, virial, C = pull(SHORT, g, batch, by_G)
        return SHORT.compute(g), forces, virial, push(SHORT, g, batch, C, R, S)

    threads = numba.get_num_threads()
    assert threads > 1
    try:
        numba.set_num_threads(1)
        alone = everything()
    finally:
        numba.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(alone, everything(), strict=True))

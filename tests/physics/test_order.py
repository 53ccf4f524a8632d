"""Order parameters: gradients, symmetries, textbook values."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

from potstill.crystals import supercell
from potstill.sampling.eam import list_pairs, neighbours
from potstill.sampling.order import (
    FADE,
    Q6,
    STRUCTURE_FACTOR,
    Order,
    _phases,
    bragg_vectors,
    order_parameter,
    order_scratch,
)
from potstill.sampling.walkers import order_for

KINDS = {"structure-factor": STRUCTURE_FACTOR, "q6": Q6}


def measure(order, x, h):
    n, inverse, volume = len(x), np.linalg.inv(h), abs(np.linalg.det(h))
    nl, ds, inside = neighbours(n, n * 400), np.zeros((n, 3)), x.copy()
    list_pairs(inside, h, inverse, 1.05 * (4 * volume / n) ** (1 / 3), nl)
    s = order_parameter(inside, inverse, volume, nl, order, order_scratch(n, order.hkl, n * 60), ds)
    return s, ds


def shaken(name, by, shear=0.0, n=32, seed=2):
    atoms = supercell(name, "Ni", 11.0, n)
    rng = np.random.default_rng(seed)
    h = atoms.cell.array @ (np.eye(3) + rng.normal(0.0, shear, (3, 3)))
    x = atoms.get_scaled_positions() @ h + rng.normal(0.0, by, (len(atoms), 3))
    return x, np.ascontiguousarray(h)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crystal", ["fcc", "bcc", "hcp"])
@pytest.mark.parametrize(("by", "shear"), [(0.1, 0.0), (0.6, 0.0), (0.2, 0.1)], ids=["crystal", "liquid", "sheared"])
def test_the_gradient_is_the_slope(kind, crystal, by, shear):
    order = order_for(KINDS[kind], supercell(crystal, "Ni", 11.0, 32))
    x, h = shaken(crystal, by, shear)
    _, ds = measure(order, x, h)
    largest = np.abs(ds).max()
    assert largest > 1e-3
    for i, k in ((0, 0), (3, 1), (7, 2), (11, 0)):
        sides = []
        for step in (1e-5, -1e-5):
            moved = x.copy()
            moved[i, k] += step
            sides.append(measure(order, moved, h)[0])
        assert ds[i, k] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-6 * largest)
    assert np.abs(ds.sum(axis=0)).max() < 1e-10  # moving all atoms changes nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("crystal", "n"), [("fcc", 32), ("fcc", 108), ("bcc", 54), ("hcp", 48)])
def test_it_is_one_in_the_perfect_crystal_and_small_in_disorder(kind, crystal, n):
    atoms = supercell(crystal, "Ni", 11.0, n)
    order = order_for(KINDS[kind], atoms)
    assert measure(order, atoms.positions, atoms.cell.array.copy())[0] == pytest.approx(1.0, abs=1e-5)
    rng = np.random.default_rng(0)
    h = atoms.cell.array.copy()
    assert measure(order, rng.uniform(0, 1, (len(atoms), 3)) @ h, h)[0] < 0.35
    warm = atoms.positions + rng.normal(0.0, 0.12, atoms.positions.shape)
    assert 0.75 < measure(order, warm, h)[0] < 0.99


def test_the_bragg_vectors_are_whole_shells():
    hkl, mean = bragg_vectors(supercell("fcc", "Ni", 11.0, 108))
    assert mean == pytest.approx(1.0)
    assert sorted(np.abs(hkl).sum(axis=1)) == [6, 6, 6, 9, 9, 9, 9]  # 3 of {200} and 4 of {111}, three cells along each
    assert len(bragg_vectors(supercell("bcc", "Nb", 18.0, 54))[0]) == 9  # 6 of {110} and 3 of {200}
    hkl, mean = bragg_vectors(supercell("hcp", "Mg", 23.0, 48))
    assert len(hkl) == 7  # {0002} and 6 of {10-11}
    assert 0.8 < mean < 1.0


def test_the_structure_factor_knows_fractions_of_the_cell_only():
    order = order_for(STRUCTURE_FACTOR, supercell("fcc", "Ni", 11.0, 32))
    x, h = shaken("fcc", 0.2)
    strained = h @ (np.eye(3) + np.random.default_rng(5).normal(0.0, 0.1, (3, 3)))
    s = measure(order, x, h)[0]
    assert measure(order, x @ np.linalg.inv(h) @ strained, strained)[0] == pytest.approx(s, abs=1e-12)
    assert measure(order, x + np.array([0.3, -7.0, 2.0]), h)[0] == pytest.approx(s, abs=1e-12)


def test_q6_knows_no_direction_scale_or_names():
    order = order_for(Q6, supercell("fcc", "Ni", 11.0, 32))
    x, h = shaken("fcc", 0.3, 0.05)
    s, ds = measure(order, x, h)
    turn = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    turned, gradient = measure(order, x @ turn.T, np.ascontiguousarray(h @ turn.T))
    assert turned == pytest.approx(s, abs=1e-10)
    np.testing.assert_allclose(gradient, ds @ turn.T, atol=1e-9)
    assert measure(order, 1.2 * x + 0.7, 1.2 * h)[0] == pytest.approx(s, abs=1e-10)
    names = np.random.default_rng(1).permutation(32)
    assert measure(order, x[names], h)[0] == pytest.approx(s, abs=1e-10)


def independent_q6(x, h):
    """Steinhardt's sum with scipy's harmonics, every pair from both sides."""
    n = len(x)
    a = (4 * abs(np.linalg.det(h)) / n) ** (1 / 3)
    span = range(-2, 3)
    shifts = np.array([(i, j, k) for i in span for j in span for k in span], dtype=float) @ h
    q = np.zeros(13, complex)
    for i in range(n):
        d = (x[None] - x[i] + shifts[:, None]).reshape(-1, 3)
        r = np.linalg.norm(d, axis=1)
        d, r = d[(r > 1e-9) & (r < FADE[1] * a)], r[(r > 1e-9) & (r < FADE[1] * a)]
        t = np.clip((r / a - FADE[0]) / (FADE[1] - FADE[0]), 0, 1)
        w = 0.5 * (1 + np.cos(np.pi * t))
        polar, azimuth = np.arccos(np.clip(d[:, 2] / r, -1, 1)), np.arctan2(d[:, 1], d[:, 0])
        q += [(w * sph_harm_y(6, m, polar, azimuth)).sum() for m in range(-6, 7)]
    return np.sqrt(4 * np.pi / 13 * (np.abs(q) ** 2).sum()) / (12 * n)


@pytest.mark.parametrize(("crystal", "textbook"), [("fcc", 0.57452), ("hcp", 0.48476), ("bcc", None)])
def test_q6_is_steinhardts(crystal, textbook):
    atoms = supercell(crystal, "Ni", 11.0, 32)
    raw = Order(Q6, bragg_vectors(atoms)[0], 1.0)
    h = atoms.cell.array.copy()
    perfect = measure(raw, atoms.positions, h)[0]
    if textbook:
        assert perfect == pytest.approx(textbook, abs=1e-4)
    assert perfect == pytest.approx(independent_q6(atoms.positions, h), abs=1e-8)
    x, h = shaken(crystal, 0.4, 0.05)
    assert measure(raw, x, h)[0] == pytest.approx(independent_q6(x, h), abs=1e-8)


def test_q6_is_smooth_where_bonds_fade():
    raw = Order(Q6, np.zeros((1, 3), np.int64), 1.0)
    h = np.eye(3) * 12.0
    spacing = (4 * 12.0**3 / 2) ** (1 / 3)

    def at(r):
        s, ds = measure(raw, np.array([[0.0, 0, 0], [r, 0, 0]]), h)
        return s, ds[1, 0]

    for end in FADE:
        below, above = at(end * spacing - 1e-7), at(end * spacing + 1e-7)
        assert below[0] == pytest.approx(above[0], abs=1e-6)
        assert below[1] == pytest.approx(above[1], abs=1e-5)


def test_the_polynomials_are_sine_and_cosine():
    x = np.random.default_rng(3).uniform(-9, 9, (50, 3))
    inverse = np.linalg.inv(np.array([[5.0, 0.3, 0], [0, 6.0, 0.1], [0.4, 0, 7.0]]))
    phase = np.zeros((2, 3, 5, 50))
    _phases(x, inverse, phase)
    angle = 2 * np.pi * (x @ inverse).T[:, None, :] * np.arange(5)[None, :, None]
    np.testing.assert_allclose(phase[0], np.cos(angle), atol=2e-13)
    np.testing.assert_allclose(phase[1], np.sin(angle), atol=2e-13)

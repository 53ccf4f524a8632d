"""The compiled functions of an edge against their formulas, written out in plain numpy and scipy."""

import math

import numba as nb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from potstill.data import Frame
from potstill.model import Descriptor
from potstill.model.kernels import _harmonics, _radial, look, near, shape_of
from potstill.model.simd import load, width
from potstill.testing import example_frames

L_MAX = 6  # the largest that the configuration allows
ROUND_OFF = 1e-12
SINGLE = 2e-6  # of the largest value of the same kind
CUTOFF = 6.0
POLES = [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, 1, 0), (0, -1, 0), (-1, 0, 0)]

unit_vectors = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3).map(
    lambda v: np.array(v) / np.linalg.norm(v)
) | st.sampled_from(POLES).map(lambda v: np.array(v, dtype=float))
precisions = pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, ROUND_OFF), (np.float32, SINGLE)])


@nb.njit
def on_edges(D, s, like, slopes):
    """Y and ∂Y/∂D of as many edges as vectors hold, as the kernels keep them."""
    o = near(len(D), s, like)
    o.dY[:] = np.nan
    for e in range(len(D)):
        o.w[e] = 1.0 / math.sqrt(D[e, 0] ** 2 + D[e, 1] ** 2 + D[e, 2] ** 2)
        for k in range(3):
            o.d[k * o.room + e] = D[e, k]
    for e in range(0, len(D), width(like)):
        _harmonics(o, s, e, slopes)
    return o.Y, o.dY


@nb.njit
def of_lengths(r, n, cutoff):
    """R_n(r) and its derivative for as many lengths as vectors hold, as the kernels keep them."""
    value, slope = np.zeros(n * len(r), r.dtype), np.zeros(n * len(r), r.dtype)
    for e in range(0, len(r), width(r)):
        length = load(r, e)
        _radial(value, slope, e * n, n, length, 1.0 / length, cutoff)
    return value, slope


@nb.njit
def seen(i, centre, first, second, x, owner, kinds, s, like):
    """What ``look`` finds around an atom: begins of groups, neighbours and vectors."""
    o = near(first[i + 1] - first[i], s, like)
    look(i, centre, first, second, x, owner, kinds, s, o, True)
    end = o.at[2 * s.n_kinds]
    return o.at.copy(), o.j[:end].copy(), o.d.copy().reshape(3, o.room)[:, :end], o.r[:end].copy()


def by_edge(flat, rows, n, kind):
    """Rows of n edges, (rows, n): the kernels keep those of a vector of edges one behind the other."""
    lanes = 32 // np.dtype(kind).itemsize
    return flat[: rows * n].reshape(-1, rows, lanes).transpose(1, 0, 2).reshape(rows, n)


def harmonics(D, l_max=L_MAX, kind=np.float64, slopes=True):
    """Y_lm and ∂Y_lm/∂D of one vector, (n_lm,) and (3, n_lm), or of many, (n_lm, n) and (3, n_lm, n)."""
    s, n_lm = shape_of(CUTOFF, CUTOFF, 1, 1, l_max, 1), (l_max + 1) ** 2
    many = np.tile(D, (8, 1)) if np.ndim(D) == 1 else np.asarray(D)
    Y, dY = on_edges(np.ascontiguousarray(many, dtype=float), s, np.zeros(1, kind), slopes)
    Y = by_edge(Y, n_lm, len(many), kind)
    dY = by_edge(dY, 3 * n_lm, len(many), kind).reshape(3, n_lm, -1)
    return (Y[:, 3], dY[:, :, 3]) if np.ndim(D) == 1 else (Y, dY)


def real_harmonics(u, l_max=L_MAX):
    """Real spherical harmonics from scipy's complex ones, in the order l, then m from −l to l."""
    x, y, z = u
    theta, phi = math.atan2(math.hypot(x, y), z), math.atan2(y, x)
    values = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            c = sph_harm_y(l, abs(m), theta, phi)
            part = c.real if m > 0 else c.imag
            values.append(c.real if m == 0 else (-1) ** m * math.sqrt(2) * part)
    return np.array(values)


def radial(r, n=12, kind=np.float64):
    """R_n(r) and its derivative for one length, (n,), or for many, (n, len(r))."""
    many = np.full(8, r, kind) if np.ndim(r) == 0 else r.astype(kind)
    value, slope = (by_edge(a, n, len(many), kind) for a in of_lengths(many, n, CUTOFF))
    return (value[:, 3], slope[:, 3]) if np.ndim(r) == 0 else (value, slope)


def formula(r, n=12):
    k = np.arange(1, n + 1)
    return np.sin(k * math.pi * r / CUTOFF) / r * (1 - (r / CUTOFF) ** 2) ** 3


# --- spherical harmonics ---


@precisions
def test_harmonics_are_scipys_whatever_the_length(kind, tolerance):
    @given(unit_vectors, st.floats(0.1, 20))
    def check(u, r):
        np.testing.assert_allclose(harmonics(r * u, kind=kind)[0], real_harmonics(u), rtol=0, atol=tolerance)

    check()


@given(unit_vectors)
def test_squares_of_one_l_sum_to_the_same_in_every_direction(u):
    Y, _ = harmonics(u)
    for l in range(L_MAX + 1):
        assert np.sum(Y[l * l : (l + 1) ** 2] ** 2) == pytest.approx((2 * l + 1) / (4 * math.pi), rel=1e-12)


def test_harmonics_are_orthonormal_on_the_sphere():
    z, weight = np.polynomial.legendre.leggauss(L_MAX + 1)  # exact for polynomials of degree 2 L_MAX + 1
    phi = 2 * math.pi * np.arange(2 * L_MAX + 1) / (2 * L_MAX + 1)
    gram = np.zeros(((L_MAX + 1) ** 2,) * 2)
    for c, w in zip(z, weight, strict=True):
        s = math.sqrt(1 - c * c)
        for p in phi:
            Y, _ = harmonics((s * math.cos(p), s * math.sin(p), c))
            gram += w * 2 * math.pi / len(phi) * np.outer(Y, Y)
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)


@precisions
def test_gradients_of_harmonics_are_their_derivatives(kind, tolerance):
    @given(unit_vectors, st.floats(0.5, 6), st.integers(0, L_MAX))
    def check(u, r, l_max):
        h = 1e-5
        expected = [(real_harmonics(r * u + h * e, l_max) - real_harmonics(r * u - h * e, l_max)) / (2 * h)
                    for e in np.eye(3)]  # fmt: skip
        atol = 4e-9 / r**3 + 4 * np.finfo(float).eps / h + 10 * tolerance / r  # truncation, rounding, and the kernel's
        np.testing.assert_allclose(harmonics(r * u, l_max, kind)[1], expected, rtol=0, atol=atol)

    check()


def test_gradients_of_harmonics_are_left_out_where_nobody_asks():
    D = (0.3, -1.0, 2.0)
    Y, dY = harmonics(D, slopes=False)
    assert np.isnan(dY).all()
    np.testing.assert_allclose(Y, harmonics(D)[0], rtol=0, atol=1e-15)


def test_each_edge_of_a_vector_has_its_own_harmonics():
    D = np.random.default_rng(3).normal(size=(16, 3))
    for kind, tolerance in ((np.float64, ROUND_OFF), (np.float32, SINGLE)):
        Y, _ = harmonics(D, 4, kind)
        np.testing.assert_allclose(Y.T, [real_harmonics(d, 4) for d in D], rtol=0, atol=tolerance)


# --- radial functions ---


@precisions
def test_radial_functions_follow_their_formula(kind, tolerance):
    @given(st.floats(0.5, 5.96875, width=32), st.integers(1, 64))
    def check(r, n):
        value, slope = radial(r, n, kind)
        h = 1e-5
        expected = (formula(r + h, n) - formula(r - h, n)) / (2 * h)
        np.testing.assert_allclose(value, formula(r, n), rtol=0, atol=10 * n * tolerance)  # by recursion
        np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-11 * n**3 + 1e-9 + 10 * n**2 * tolerance)

    check()


def test_each_edge_of_a_vector_has_its_own_radial_functions():
    r = np.linspace(0.7, 6.5, 32)
    for kind, tolerance in ((np.float64, ROUND_OFF), (np.float32, SINGLE)):
        expected = [formula(x) if x < CUTOFF else np.zeros(12) for x in r]
        np.testing.assert_allclose(radial(r, kind=kind)[0].T, expected, rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_radial_functions_and_their_first_two_derivatives_vanish_at_the_cutoff(kind):
    for gap in (1e-1, 1e-2, 1e-3):
        value, slope = radial(CUTOFF - gap, kind=kind)
        assert 0 < np.abs(value).max() < gap**3
        assert 0 < np.abs(slope).max() < 5 * gap**2 * 12
    for r in (CUTOFF, CUTOFF + 1e-12, 7.0, 1000.0):
        value, slope = radial(r, kind=kind)
        assert not value.any()
        assert not slope.any()


# --- an atom's edges ---


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize(("cutoff", "angular_cutoff"), [(5.0, 3.7), (3.7, 5.0), (4.4, 4.4)])
def test_edges_are_sorted_by_cutoff_and_element_and_padded_with_what_adds_nothing(cutoff, angular_cutoff, kind):
    descriptor = Descriptor(("Ni", "Al"), cutoff, angular_cutoff, 3, 2, 2)
    atoms = example_frames(["Ni", "Al"])["liquid"].atoms
    g = Descriptor(("Ni", "Al"), 6.5, 6.5).geometry([Frame(atoms)])  # a list that reaches farther, as with a skin
    s, like = descriptor.shape, np.zeros(1, kind)
    lanes = 32 // np.dtype(kind).itemsize
    for i in (0, 7, 19):
        at, j, d, r = seen(i, g.centre[i], g.first, g.second, g.x, g.owner, g.kinds, s, like)
        assert (at % lanes == 0).all()
        mine = g.second[g.first[i] : g.first[i + 1]]
        D = g.x[mine] - g.x[g.centre[i]]
        length = np.linalg.norm(D, axis=1)
        found = 0
        for group in range(4):
            near_one = (length < angular_cutoff) if group < 2 else (length >= angular_cutoff) & (length < cutoff)
            here = near_one & (g.kinds[mine] == group % 2)
            low, high = at[group], at[group + 1]
            assert high - low == -(-here.sum() // lanes) * lanes
            n = here.sum()
            assert np.array_equal(j[low : low + n], g.owner[mine[here]])
            np.testing.assert_allclose(d[:, low : low + n].T, D[here], rtol=0, atol=SINGLE)
            np.testing.assert_allclose(r[low : low + n], length[here], rtol=0, atol=SINGLE)
            assert (j[low + n : high] == i).all()
            assert (r[low + n : high] >= kind(max(cutoff, angular_cutoff))).all()
            found += n
        assert 0 < found == (length < max(cutoff, angular_cutoff)).sum() < len(mine)

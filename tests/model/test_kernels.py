"""The compiled loops against their formulas, written out in plain numpy and scipy."""

import math

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from potstill.model import Descriptor
from potstill.model.kernels import _harmonics, _radial, harmonic_norms

L_MAX = 6  # the largest that the configuration allows
ROUND_OFF = 1e-13
POLES = [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, 1, 0), (0, -1, 0), (-1, 0, 0)]

unit_vectors = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3).map(
    lambda v: np.array(v) / np.linalg.norm(v)
) | st.sampled_from(POLES).map(lambda v: np.array(v, dtype=float))


def harmonics(u, l_max=L_MAX):
    """Y_lm and the gradients of the solid harmonics, by the kernel."""
    n = (l_max + 1) ** 2
    Y, dY = np.empty(n), np.empty((3, n))
    _harmonics(*map(float, u), l_max, harmonic_norms(l_max), np.empty((l_max + 1, l_max + 2)), Y, dY)
    return Y, dY


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


def radial(r, cutoff=6.0, n=12):
    value, slope = np.empty(n), np.empty(n)
    _radial(r, cutoff, n, value, slope)
    return value, slope


@given(unit_vectors)
def test_harmonics_are_scipys(u):
    np.testing.assert_allclose(harmonics(u)[0], real_harmonics(u), atol=ROUND_OFF)


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


@given(unit_vectors, st.integers(0, L_MAX))
def test_gradients_are_those_of_the_solid_harmonics(u, l_max):
    def solid(r):
        length = np.linalg.norm(r)
        powers = [length**l for l in range(l_max + 1) for _ in range(2 * l + 1)]
        return np.array(powers) * real_harmonics(r / length, l_max)

    h = 1e-5
    expected = [(solid(u + h * e) - solid(u - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(harmonics(u, l_max)[1], expected, atol=2e-8)


@given(st.floats(0.5, 5.999), st.integers(1, 64))
def test_radial_functions_follow_their_formula(r, n):
    value, slope = radial(r, n=n)
    k = np.arange(1, n + 1)

    def formula(r):
        return np.sin(k * math.pi * r / 6.0) / r * (1 - (r / 6.0) ** 2) ** 3

    h = 1e-5
    np.testing.assert_allclose(value, formula(r), atol=1e-12)
    np.testing.assert_allclose(slope, (formula(r + h) - formula(r - h)) / (2 * h), atol=1e-4 * n**2 / 100 + 1e-8)


def test_radial_functions_and_their_first_two_derivatives_vanish_at_the_cutoff():
    for gap in (1e-2, 1e-3, 1e-4):
        value, slope = radial(6.0 - gap)
        assert np.abs(value).max() < gap**3
        assert np.abs(slope).max() < 5 * gap**2 * 12
    for r in (6.0, 6.0 + 1e-12, 7.0):
        value, slope = radial(r)
        assert not value.any()
        assert not slope.any()


def test_results_do_not_depend_on_the_number_of_threads(mixture):
    descriptor = Descriptor(("Ni", "Al"), n_radial=6, n_angular=3, l_max=3)

    def everything():
        geometry = descriptor.geometry([mixture, mixture])
        G, C = descriptor.compute(geometry)
        g = np.random.default_rng(0).normal(size=(len(G), 2, G.shape[1]))
        return G, C, descriptor.edge_gradients(geometry, C, g), descriptor.jacobian(mixture)[1]

    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = everything()
    finally:
        numba.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(alone, everything(), strict=True))

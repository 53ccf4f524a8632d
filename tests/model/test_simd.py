"""The vectors of compiled kernels do what numpy does, in both precisions."""

import numba as nb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from potstill.model.network import _sigmoid
from potstill.model.simd import (
    BYTES,
    LANES,
    at_least,
    at_most,
    fill,
    floor,
    load,
    root,
    spread,
    store,
    total,
    two_to,
    width,
)

KINDS = (np.float32, np.float64)
ULPS = 3  # the kernels allow the compiler to contract and to multiply by reciprocals

kinds = pytest.mark.parametrize("kind", KINDS)


def lanes(kind) -> int:
    return BYTES // np.dtype(kind).itemsize


def numbers(kind, low=-1e3, high=1e3, n=None):
    """Arrays of two vectors, or of n numbers."""
    bits = 8 * np.dtype(kind).itemsize
    elements = st.floats(low, high, width=bits, allow_subnormal=False)
    return arrays(kind, n or 2 * lanes(kind), elements=elements)


def close(got, expected, scale=None):
    """Whether two arrays agree to a few units in the last place of ``scale``, or of themselves."""
    assert got.dtype == expected.dtype
    size = np.abs(expected) if scale is None else scale
    np.testing.assert_array_less(
        np.abs(got - expected), ULPS * np.finfo(got.dtype).eps * size + np.finfo(got.dtype).tiny
    )


@nb.njit
def counted(a):
    return width(a)


@nb.njit
def copied(a, begin, out, at):
    store(out, at, load(a, begin))


@nb.njit
def everywhere(a, k, x, out):
    store(out, 0, spread(a, k))
    store(out, width(a), fill(a, x))


@nb.njit
def four_operations(a, b, out):
    n = width(a)
    u, v = load(a, 0), load(b, 0)
    store(out, 0, u + v)
    store(out, n, u - v)
    store(out, 2 * n, u * v)
    store(out, 3 * n, u / v)


@nb.njit
def with_numbers(a, x, k, out):
    n = width(a)
    u = load(a, 0)
    store(out, 0, u + x)
    store(out, n, u - x)
    store(out, 2 * n, x - u)
    store(out, 3 * n, u * k)
    store(out, 4 * n, x / u)
    store(out, 5 * n, k + u / k)


@nb.njit
def summed(a, begin):
    return total(load(a, begin))


@nb.njit
def one_by_one(a, limit, out):
    n = width(a)
    u = load(a, 0)
    store(out, 0, floor(u))
    store(out, n, at_most(u, limit))
    store(out, 2 * n, at_least(u, limit))
    store(out, 3 * n, root(u * u))


@nb.njit
def powers(a, out):
    for k in range(0, len(a), width(a)):
        store(out, k, two_to(load(a, k)))


@nb.njit
def sigmoids(a, out):
    for k in range(0, len(a), width(a)):
        store(out, k, _sigmoid(load(a, k), a))


@nb.njit
def mixed(a, b, out):
    store(out, 0, load(a, 0) + load(b, 0))


@kinds
def test_a_vector_has_as_many_numbers_as_fit_into_it(kind):
    assert counted(np.zeros(1, kind)) == lanes(kind) == LANES[np.dtype(kind).itemsize]


@kinds
def test_loads_and_stores_begin_anywhere_and_touch_their_own_numbers_only(kind):
    n = lanes(kind)
    a = np.arange(100, dtype=kind)
    for begin in range(n + 1):
        for at in range(n + 1):
            out = np.full(100, -1, kind)
            copied(a, begin, out, at)
            assert np.array_equal(out[at : at + n], a[begin : begin + n])
            assert (np.delete(out, range(at, at + n)) == -1).all()


@kinds
def test_one_number_is_spread_over_a_vector(kind):
    n = lanes(kind)
    a, out = np.arange(20, dtype=kind), np.zeros(2 * n, kind)
    for k in (0, 3, 19):
        everywhere(a, k, 0.1, out)
        assert np.array_equal(out, np.repeat(np.array([k, 0.1], kind), n))


@kinds
def test_vectors_are_added_subtracted_multiplied_and_divided(kind):
    @given(numbers(kind), numbers(kind, 2**-10))
    def check(a, b):
        n = lanes(kind)
        out = np.zeros(4 * n, kind)
        four_operations(a, b, out)
        a, b = a[:n], b[:n]
        close(out, np.concatenate([a + b, a - b, a * b, a / b]))

    check()


@kinds
def test_a_number_beside_a_vector_stands_for_a_vector_of_it(kind):
    @given(numbers(kind, 2**-10), st.floats(-1e3, 1e3), st.integers(1, 1000))
    def check(a, x, k):
        n = lanes(kind)
        out = np.zeros(6 * n, kind)
        with_numbers(a, x, k, out)
        a, x, k = a[:n], kind(x), kind(k)
        close(out[: 5 * n], np.concatenate([a + x, a - x, x - a, a * k, x / a]))
        close(out[5 * n :], k + a / k)

    check()


@kinds
def test_a_total_is_the_sum_of_a_vector(kind):
    @given(numbers(kind), st.integers(0, LANES[np.dtype(kind).itemsize]))
    def check(a, begin):
        part = a[begin : begin + lanes(kind)]
        got = summed(a, begin)
        close(np.array([got], kind), np.array([part.sum()], kind), scale=np.abs(part).sum())

    check()


@kinds
def test_floors_bounds_and_roots_are_numpys(kind):
    @given(numbers(kind), st.floats(-1e3, 1e3, width=32))
    def check(a, limit):
        n = lanes(kind)
        out = np.zeros(4 * n, kind)
        one_by_one(a, limit, out)
        a, limit = a[:n], kind(limit)
        assert np.array_equal(out[: 3 * n], np.concatenate([np.floor(a), np.minimum(a, limit), np.maximum(a, limit)]))
        tiny = np.abs(a) < 1e-15  # whose square is none
        close(np.where(tiny, 0, out[3 * n :]), np.where(tiny, 0, np.abs(a)))

    check()


@kinds
def test_powers_of_two_are_exact_as_far_as_there_are_exponents(kind):
    info = np.finfo(kind)
    k = np.arange(info.minexp, info.maxexp, dtype=kind)
    k = np.pad(k, (0, -len(k) % lanes(kind)))
    out = np.zeros_like(k)
    powers(k, out)
    assert np.array_equal(out, np.ldexp(kind(1), k.astype(np.int32)))


@kinds
def test_the_sigmoid_is_scipys_to_rounding(kind):
    z = np.concatenate([np.linspace(-60, 60, 2400), np.linspace(-1, 1, 800), np.geomspace(1e-6, 1, 80)]).astype(kind)
    out = np.zeros_like(z)
    sigmoids(z, out)
    exact = expit(z.astype(np.float64))
    eps = np.finfo(kind).eps
    np.testing.assert_allclose(out, exact, rtol=8 * eps * 60, atol=0)
    near = np.abs(z) < 1
    np.testing.assert_allclose(out[near], exact[near], rtol=4 * eps, atol=0)
    np.testing.assert_allclose(out, exact, rtol=0, atol=2 * eps)


@kinds
def test_the_sigmoid_is_quiet_far_out(kind):
    z = np.tile(np.array([-1e4, -800, 800, 1e4], kind), 2)
    out = np.full_like(z, np.nan)
    sigmoids(z, out)
    assert ((out >= 0) & (out < 1e-30))[z < 0].all()
    np.testing.assert_allclose(out[z > 0], 1, rtol=np.finfo(kind).eps)


def test_vectors_of_both_precisions_do_not_mix():
    with pytest.raises(nb.TypingError):
        mixed(np.zeros(8, np.float32), np.zeros(8), np.zeros(8))

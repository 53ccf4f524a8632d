"""Inference for foreign programs, which bring the images (ghosts) of their atoms themselves: one C function.

A code that divides its box among processes knows where everything near its atoms stands, and which of these positions
belong to the same atom. :func:`function` takes just that. It keeps nothing between calls, not even a list of
neighbours: finding them costs a few hundredths of what evaluating them does. The parameters travel as flat arrays
(:func:`flatten`), so that machine code is made once for all models, and kept on disk.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba as nb
import numpy as np
from numba import carray, types
from numpy.typing import NDArray

from potstill.compiled import kept_c
from potstill.model.kernels import Shape
from potstill.model.neighbours import CLOSEST, MOST_EDGES, Cubes, _sorted
from potstill.model.network import Net, Wall, evaluate

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

CHUNK = 256  # atoms whose neighbours are known at a time
SCALARS = 5  # whole numbers in front
ARRAYS = 15  # and the lengths of so many arrays: whole numbers, reals, and weights
WHOLE, REAL = 4, 10  # where the reals begin among the arrays, and where the weights do

# What came of it. BROKEN is what the caller fills in, and what stays if the function ends early, without memory say.
FINE, BROKEN, NOT_FINITE, TOO_CLOSE, COLLAPSED, WILD = range(6)
ENERGY, VIRIAL, STATUS, CULPRIT, ANSWER = 0, 1, 7, 8, 9  # where the answer's numbers stand, and how many they are


def flatten(s: Shape, net: Net, wall: Wall) -> tuple[I64, F64, Any]:
    """Return a model's parameters as whole numbers, reals, and weights in the network's own precision."""
    whole = [net.sizes, net.padded, s.upper, s.lower]
    real = [np.array([s.cutoff, s.angular_cutoff]), s.norms, s.scale, s.weight, net.shift, wall.charge]
    weights = [net.linear, net.weight, net.turned, net.bias, net.last]
    scalars = [net.members, s.n_radial, s.n_angular, s.l_max, s.n_kinds]
    lengths = [len(a) for a in (*whole, *real, *weights)]
    ints = np.concatenate([np.array([*scalars, *lengths]), *whole]).astype(np.int64)
    reals = np.concatenate([*real, wall.reach.ravel(), wall.strength.ravel()]).astype(np.float64)
    return ints, reals, np.concatenate(weights)


@nb.njit
def _restore(ints: I64, reals: F64, weights: Any) -> tuple[Shape, Net, Wall]:
    """Invert :func:`flatten`; the arrays are views."""
    low, high, at = np.empty(ARRAYS, np.int64), np.empty(ARRAYS, np.int64), SCALARS + ARRAYS
    for k in range(ARRAYS):
        at = 0 if k in (WHOLE, REAL) else at
        low[k], high[k] = at, at + ints[SCALARS + k]
        at = high[k]
    Z = ints[4]
    s = Shape(
        reals[0],
        reals[1],
        ints[1],
        ints[2],
        ints[3],
        Z,
        reals[low[5] : high[5]],
        reals[low[6] : high[6]],
        ints[low[2] : high[2]],
        ints[low[3] : high[3]],
        reals[low[7] : high[7]],
    )
    net = Net(
        ints[low[0] : high[0]],
        ints[low[1] : high[1]],
        ints[0],
        reals[low[8] : high[8]],
        weights[low[10] : high[10]],
        weights[low[11] : high[11]],
        weights[low[12] : high[12]],
        weights[low[13] : high[13]],
        weights[low[14] : high[14]],
    )
    end = high[REAL - 1]
    reach = reals[end : end + Z * Z].reshape((Z, Z))
    strength = reals[end + Z * Z : end + 2 * Z * Z].reshape((Z, Z))
    return s, net, Wall(reach, strength, reals[low[9] : high[9]])


@nb.njit
def _room(i: int, cubes: Cubes) -> int:
    """Return how many positions stand in the cubes around position i."""
    size, heads, count = cubes.size, cubes.heads, 0
    c0 = cubes.cube[i] % size[2]
    b0 = cubes.cube[i] // size[2] % size[1]
    a0 = cubes.cube[i] // (size[2] * size[1])
    for a in range(max(a0 - 2, 0), min(a0 + 3, size[0])):
        for b in range(max(b0 - 2, 0), min(b0 + 3, size[1])):
            row = (a * size[1] + b) * size[2]
            count += heads[row + min(c0 + 2, size[2] - 1) + 1] - heads[row + max(c0 - 2, 0)]
    return count


@nb.njit
def _list(i: int, x: F64, reach2: float, cubes: Cubes, second: I32, at: int) -> tuple[int, int]:
    """Write the neighbours of position i from ``second[at]`` on; return the end, and how many stand on its spot."""
    size, heads, order, count = cubes.size, cubes.heads, cubes.order, 0
    X, Y, Z = cubes.x, cubes.y, cubes.z
    c0 = cubes.cube[i] % size[2]
    b0 = cubes.cube[i] // size[2] % size[1]
    a0 = cubes.cube[i] // (size[2] * size[1])
    xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
    for a in range(max(a0 - 2, 0), min(a0 + 3, size[0])):
        for b in range(max(b0 - 2, 0), min(b0 + 3, size[1])):
            row = (a * size[1] + b) * size[2]
            for p in range(heads[row + max(c0 - 2, 0)], heads[row + min(c0 + 2, size[2] - 1) + 1]):
                dx, dy, dz = X[p] - xi, Y[p] - yi, Z[p] - zi
                r2 = dx * dx + dy * dy + dz * dz
                second[at] = order[p]  # overwritten by the next one if it is too far
                at += r2 < reach2 and order[p] != i
                count += r2 < CLOSEST * CLOSEST
    return at, count - 1


@nb.njit
def _among(s: Shape, net: Net, wall: Wall, n: int, x: F64, kinds: I32, owner: I32, out: Any) -> None:
    energies, forces, answer = out
    for i in range(len(x)):
        if not (np.isfinite(x[i, 0]) and np.isfinite(x[i, 1]) and np.isfinite(x[i, 2])):
            answer[STATUS], answer[CULPRIT] = NOT_FINITE, owner[i]
            return
    reach = max(s.cutoff, s.angular_cutoff)
    cubes = _sorted(x, reach)
    first, centre, frame = np.zeros(n + 1, np.int64), np.arange(n), np.zeros(n, np.int64)
    energy, virial = np.empty((n, net.members)), np.zeros((1, 1, 6))
    second = np.empty(CHUNK * 256, np.int32)
    for low in range(0, n, CHUNK):
        high = min(low + CHUNK, n)
        end = 0
        for i in range(low, high):
            room = end + _room(i, cubes)
            if room > len(second):
                longer = np.empty(2 * room, np.int32)
                longer[:end] = second[:end]
                second = longer
            first[i] = end
            end, others = _list(i, x, reach * reach, cubes, second, end)
            if others:
                answer[STATUS], answer[CULPRIT] = TOO_CLOSE, i
                return
            if end - first[i] > MOST_EDGES:
                answer[STATUS], answer[CULPRIT] = COLLAPSED, i
                return
        first[high] = end
        evaluate(low, high, first, second, x, owner, kinds, centre, frame, s, net, wall, False, energy, forces, virial)
    for i in range(n):
        total = 0.0
        for m in range(net.members):
            total += energy[i, m]
        energies[i] = total / net.members
        answer[ENERGY] += energies[i]
        if not np.isfinite(energies[i] + forces[0, i, 0] + forces[0, i, 1] + forces[0, i, 2]):
            answer[STATUS], answer[CULPRIT] = WILD, i
            return
    for k in range(6):
        answer[VIRIAL + k] = virial[0, 0, k]
    answer[STATUS] = FINE


def _evaluate(  # type: ignore[no-untyped-def]  # noqa: ANN202
    ints,  # noqa: ANN001 - what numba's signature says
    n_ints,  # noqa: ANN001
    reals,  # noqa: ANN001
    n_reals,  # noqa: ANN001
    weights,  # noqa: ANN001
    n_weights,  # noqa: ANN001
    n,  # noqa: ANN001
    n_positions,  # noqa: ANN001
    n_rows,  # noqa: ANN001
    x,  # noqa: ANN001
    kinds,  # noqa: ANN001
    owner,  # noqa: ANN001
    energies,  # noqa: ANN001
    forces,  # noqa: ANN001
    answer,  # noqa: ANN001
):
    s, net, wall = _restore(carray(ints, n_ints), carray(reals, n_reals), carray(weights, n_weights))
    out = carray(energies, n), carray(forces, (1, n_rows, 3)), carray(answer, ANSWER)
    _among(s, net, wall, n, carray(x, (n_positions, 3)), carray(kinds, n_positions), carray(owner, n_positions), out)


@cache
def _compiled(single: bool) -> Any:
    whole, short, real = types.CPointer(types.int64), types.CPointer(types.int32), types.CPointer(types.float64)
    weights = types.CPointer(types.float32) if single else real
    n = types.int64
    signature = types.void(whole, n, real, n, weights, n, n, n, n, real, short, short, real, real, real)
    return kept_c(signature)(_evaluate)


def function(*, single: bool) -> int:
    """Return the address of the C function that evaluates atoms among given surroundings.

    ``void f(const int64_t *ints, int64_t n_ints, const double *reals, int64_t n_reals, const double *weights, int64_t
    n_weights, int64_t n, int64_t n_positions, int64_t n_rows, const double *x, const int32_t *kinds, const int32_t
    *owner, double *energies, double *forces, double *answer)``

    The first ``n`` of the positions ``x`` (n_positions, 3) are evaluated: they need all within the cutoff around them.
    The ``kinds`` count elements as the model does, the ``owner`` of a position is the row that its force is added to.
    Fills ``energies`` (n), eV, adds to ``forces`` (n_rows, 3), eV/Å, and fills ``answer``, which holds zeros: energy,
    ∂E/∂ε (xx yy zz yz xz xy), what came of it, and the row of the atom whose fault it was. Forces on positions that
    others own are the caller's to send home.

    Parameters
    ----------
    single : bool
        The weights are floats, not doubles, and so is what is computed of each atom; sums stay doubles.
    """
    return int(_compiled(single).address)

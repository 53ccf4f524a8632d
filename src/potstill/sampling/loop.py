"""The fast path: potential, order parameter, bias, Langevin dynamics and moves of the cell in one compiled loop.

Potentials are tabulated embedded atoms and committees of ours, see :mod:`potstill.sampling.potentials`.

Dynamics is Langevin by the BAOAB splitting (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34), with forces
F' = (1 + ∂B/∂U) F − (∂B/∂s) ∇s. Every few steps the cell tries a Monte-Carlo move: the volume by a uniform step in ln
V, or, where asked for, the shape by a traceless strain. A move is accepted with the probability of the ensemble
V^N exp(−β₀(U + P₀V + B)), for the shape with the uniform measure of SL(3) inside a limit. Units are ASE's: eV, Å, u,
and the time that follows from them (10.18 fs).

Only :func:`walk` is kept on disk as machine code. What it calls is compiled into it each time: whether a callee came
from the disk or not would decide what the compiler fuses, and with it the last digits of a trajectory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from potstill.compiled import kept
from potstill.sampling.bias import FROZEN, Bias, Learning, evaluate, learn
from potstill.sampling.eam import Neighbours, Scratch, Tables, list_pairs, place_images
from potstill.sampling.order import NONE, Order, OrderScratch, order_parameter
from potstill.sampling.potentials import Network, Room, energy_forces, listed, strayed

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FINE, CROWDED, EXPLODED, STRAYED = 0, 1, 2, 3
HOTTEST = 20.0  # of the mean kinetic energy: beyond it, or beyond the next, a run has exploded
LARGEST_ENERGY = 1e3  # eV/atom, from where a call began: totals of electronic-structure codes are larger themselves
RECORD = ("energy", "volume", "order", "bias", "scale", "kinetic")
# What is counted: records, frames, traces written; volume moves tried and accepted; shape moves the same; lists built.
RECORDS, FRAMES, TRACES, TRIED, ACCEPTED, SHAPES_TRIED, SHAPES_ACCEPTED, LISTS = range(8)


class Md(NamedTuple):
    """How a walker moves.

    Attributes
    ----------
    mass, dt, friction : float
        u, ASE time, 1/(ASE time).
    move_every : int
        Steps between moves of the cell; 0 keeps it as it is.
    volume_step, shape_step : float
        Largest step in ln V; standard deviation of the strain's components, 0 for an isotropic cell.
    shape_limit : float
        Largest tr C + tr C⁻¹ − 6, with C = GᵀG and G the deformation from the first cell at equal volume.
    record_every, frame_every, trace_every : int
        Steps between records (and lessons of the bias), kept frames, and traced forces.
    skin : float
        Å by which the list of pairs reaches beyond the cutoff.
    """

    mass: float
    dt: float
    friction: float
    move_every: int
    volume_step: float
    shape_step: float
    shape_limit: float
    record_every: int
    frame_every: int
    trace_every: int
    skin: float


class Walker(NamedTuple):
    """Positions, velocities (n, 3), cell, and the first cell, which shape is measured from."""

    x: F64
    v: F64
    h: F64
    first: F64


class Output(NamedTuple):
    """What a call writes; room decides how much.

    Attributes
    ----------
    records : ndarray (n, 6)
        U, V, s, B, 1 + ∂B/∂U, kinetic energy.
    frames, cells : ndarray (m, n_atoms, 3) and (m, 3, 3)
    marks : ndarray (m, 4)
        Step, U, s, 1 + ∂B/∂U of each frame.
    trace : ndarray (k, n_atoms, 3)
        Forces of the potential alone.
    counts : ndarray (8,) of int
    """

    records: F64
    frames: F64
    cells: F64
    marks: F64
    trace: F64
    counts: I64


def output(n_atoms: int, records: int, frames: int = 0, traces: int = 0) -> Output:
    """Return room for so many rows."""
    return Output(
        np.zeros((records, len(RECORD))),
        np.zeros((frames, n_atoms, 3)),
        np.zeros((frames, 3, 3)),
        np.zeros((frames, 4)),
        np.zeros((traces, n_atoms, 3)),
        np.zeros(8, np.int64),
    )


@nb.njit(fastmath=True)
def invert(h: F64, inverse: F64) -> float:
    """Fill the inverse of a 3 × 3 matrix and return its determinant."""
    for i in range(3):
        a, b = (i + 1) % 3, (i + 2) % 3
        for j in range(3):
            c, d = (j + 1) % 3, (j + 2) % 3
            inverse[j, i] = h[a, c] * h[b, d] - h[a, d] * h[b, c]
    det = h[0, 0] * inverse[0, 0] + h[0, 1] * inverse[1, 0] + h[0, 2] * inverse[2, 0]
    for i in range(3):
        for j in range(3):
            inverse[i, j] /= det
    return det


@nb.njit(fastmath=True)
def _product(a: F64, b: F64, out: F64) -> None:
    for i in range(a.shape[0]):
        a0, a1, a2 = a[i, 0], a[i, 1], a[i, 2]
        for k in range(3):
            out[i, k] = a0 * b[0, k] + a1 * b[1, k] + a2 * b[2, k]


@nb.njit
def _put(a: F64, out: F64) -> None:
    """Copy a matrix; ``out[:] = a`` makes numba compile words for an error that cannot be, at each such place."""
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            out[i, k] = a[i, k]


@nb.njit(fastmath=True)
def stale(x: F64, built: F64, inverse_built: F64, h: F64, cutoff: float, skin: float) -> bool:
    """Whether a list built for positions ``built`` may miss a pair at ``x`` in the cell ``h``.

    Positions are mapped back to the cell of the list by A⁻¹, A = h_built⁻¹ h; a distance shrinks by no more than the
    smallest singular value of A, which is at least 1 − ‖A − 1‖.
    """
    a, back = np.empty((3, 3)), np.empty((3, 3))
    _product(inverse_built, h, a)
    norm = 0.0
    for i in range(3):
        for k in range(3):
            norm += (a[i, k] - (1.0 if i == k else 0.0)) ** 2
    norm = math.sqrt(norm)
    invert(a, back)
    farthest = 0.0
    for i in range(x.shape[0]):
        d2 = 0.0
        for k in range(3):
            d = x[i, 0] * back[0, k] + x[i, 1] * back[1, k] + x[i, 2] * back[2, k] - built[i, k]
            d2 += d * d
        farthest = max(farthest, d2)
    return 2.0 * math.sqrt(farthest) + cutoff / (1.0 - norm) > cutoff + skin


@nb.njit
def _strained(rng: Any, step: float, out: F64) -> None:
    """Fill exp(ε) with ε symmetric, traceless and normal: a step and its inverse are equally likely."""
    e = np.zeros((3, 3))
    for i in range(3):
        e[i, i] = step * rng.standard_normal()
        for k in range(i):
            e[i, k] = step * rng.standard_normal() / math.sqrt(2.0)
            e[k, i] = e[i, k]
    mean = (e[0, 0] + e[1, 1] + e[2, 2]) / 3.0
    for i in range(3):
        e[i, i] -= mean
    term, following = np.eye(3), np.zeros((3, 3))
    _put(term, out)
    for order in range(1, 9):
        _product(term, e, following)
        for i in range(3):
            for k in range(3):
                term[i, k] = following[i, k] / order
                out[i, k] += term[i, k]


@nb.njit(fastmath=True)
def _distortion(h: F64, first: F64) -> float:
    """Return tr C + tr C⁻¹ − 6 of the deformation from ``first`` to ``h`` at equal volume."""
    inverse, g, back = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    det = invert(first, inverse)
    _product(inverse, h, g)
    scale = (abs(invert(h, back) / det)) ** (-1.0 / 3.0)
    invert(g, back)
    total = -6.0
    for i in range(3):
        for k in range(3):
            total += (g[i, k] * scale) ** 2 + (back[i, k] / scale) ** 2
    return total


@kept(nogil=True)
def walk(  # noqa: C901, PLR0911, PLR0912 - one loop, compiled as one
    rng: Any,
    walker: Walker,
    steps: int,
    potential: Tables | Network,
    order: Order,
    bias: Bias,
    how: Learning,
    md: Md,
    nl: Neighbours,
    work: Scratch | Room,
    order_work: OrderScratch,
    out: Output,
) -> int:
    """Move a walker; return ``FINE``, ``CROWDED`` (more pairs than the list holds), ``EXPLODED`` or ``STRAYED``.

    It has strayed where a record would be made and its potential does not know the surroundings of an atom; it then
    stands at the frame that says so.

    ``walker`` and, where ``how`` says so, ``bias`` are changed in place; ``out`` is filled as far as it has room.
    """
    x, v, h = walker.x, walker.v, walker.h
    n = x.shape[0]
    beta0, p0 = bias.beta0, bias.p0
    reach = potential.cutoff + md.skin
    f, ds = np.zeros((n, 3)), np.zeros((n, 3))
    x_new, f_new, ds_new = np.empty((n, 3)), np.empty((n, 3)), np.zeros((n, 3))
    inverse, inverse_new, h_new, strain = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    built, inverse_built = np.empty((n, 3)), np.empty((3, 3))
    half = 0.5 * md.dt / md.mass
    keep = math.exp(-md.friction * md.dt)
    kick = math.sqrt((1.0 - keep * keep) / (beta0 * md.mass))
    volume = abs(invert(h, inverse))
    if list_pairs(x, h, inverse, reach, nl) < 0:
        return CROWDED
    listed(nl, potential, work)
    _put(x, built)
    _put(inverse, inverse_built)
    out.counts[LISTS] += 1
    energy = energy_forces(x, nl, potential, work, f)
    zero = energy
    s = order_parameter(x, inverse, volume, nl, order, order_work, ds) if order.kind != NONE else 0.0
    value, by_u, _, by_s = evaluate(energy, volume, s, bias)
    updates = 0.0
    for step in range(1, steps + 1):
        for i in range(n):
            for k in range(3):
                v[i, k] += half * ((1.0 + by_u) * f[i, k] - by_s * ds[i, k])
                x[i, k] += 0.5 * md.dt * v[i, k]
                v[i, k] = keep * v[i, k] + kick * rng.standard_normal()
                x[i, k] += 0.5 * md.dt * v[i, k]
        if stale(x, built, inverse_built, h, potential.cutoff, md.skin):
            for i in range(n):
                if not abs(x[i, 0]) + abs(x[i, 1]) + abs(x[i, 2]) < 1e5:
                    return EXPLODED
            if list_pairs(x, h, inverse, reach, nl) < 0:
                return CROWDED
            listed(nl, potential, work)
            _put(x, built)
            _put(inverse, inverse_built)
            out.counts[LISTS] += 1
        energy = energy_forces(x, nl, potential, work, f)
        if not abs(energy - zero) < LARGEST_ENERGY * n:
            return EXPLODED
        if order.kind != NONE:
            s = order_parameter(x, inverse, volume, nl, order, order_work, ds)
        value, by_u, _, by_s = evaluate(energy, volume, s, bias)
        for i in range(n):
            for k in range(3):
                v[i, k] += half * ((1.0 + by_u) * f[i, k] - by_s * ds[i, k])

        if md.move_every > 0 and step % md.move_every == 0:
            shape = md.shape_step > 0.0 and rng.random() < 0.5
            jacobian = 0.0
            allowed = True
            if shape:
                out.counts[SHAPES_TRIED] += 1
                _strained(rng, md.shape_step, strain)
                _product(h, strain, h_new)
                allowed = _distortion(h_new, walker.first) < md.shape_limit
            else:
                out.counts[TRIED] += 1
                jump = (2.0 * rng.random() - 1.0) * md.volume_step
                strain[:] = 0.0
                for k in range(3):
                    strain[k, k] = math.exp(jump / 3.0)
                _product(h, strain, h_new)
                jacobian = (n + 1) * jump
            if allowed:
                volume_new = abs(invert(h_new, inverse_new))
                _product(x, strain, x_new)
                if stale(x_new, built, inverse_built, h_new, potential.cutoff, md.skin):
                    if list_pairs(x, h, inverse, reach, nl) < 0:  # of the old positions: the new ones are near them
                        return CROWDED
                    listed(nl, potential, work)
                    _put(x, built)
                    _put(inverse, inverse_built)
                    out.counts[LISTS] += 1
                    _product(x, strain, x_new)
                place_images(nl, h_new)
                energy_new = energy_forces(x_new, nl, potential, work, f_new)
                s_new = s
                if order.kind != NONE:
                    s_new = order_parameter(x_new, inverse_new, volume_new, nl, order, order_work, ds_new)
                value_new, by_u_new, _, by_s_new = evaluate(energy_new, volume_new, s_new, bias)
                gain = jacobian - beta0 * (energy_new - energy + p0 * (volume_new - volume) + value_new - value)
                if gain >= 0.0 or rng.random() < math.exp(gain):
                    out.counts[SHAPES_ACCEPTED if shape else ACCEPTED] += 1
                    _put(x_new, x)
                    _put(f_new, f)
                    _put(ds_new, ds)
                    _put(h_new, h)
                    _put(inverse_new, inverse)
                    energy, volume, s, value = energy_new, volume_new, s_new, value_new
                    by_u, by_s = by_u_new, by_s_new
                else:
                    place_images(nl, h)

        if step % md.record_every == 0:
            if strayed(x, nl, potential, work):
                return STRAYED
            if how.method != FROZEN:
                learn(energy, volume, s, bias, how, updates)
                updates += 1.0
                value, by_u, _, by_s = evaluate(energy, volume, s, bias)
            kinetic = 0.0
            for i in range(n):
                kinetic += v[i, 0] * v[i, 0] + v[i, 1] * v[i, 1] + v[i, 2] * v[i, 2]
            if not 0.5 * md.mass * kinetic < HOTTEST * 1.5 * n / beta0:
                return EXPLODED
            row = out.counts[RECORDS]
            if row < out.records.shape[0]:
                out.records[row, 0] = energy
                out.records[row, 1] = volume
                out.records[row, 2] = s
                out.records[row, 3] = value
                out.records[row, 4] = 1.0 + by_u
                out.records[row, 5] = 0.5 * md.mass * kinetic
                out.counts[RECORDS] += 1
        if md.trace_every > 0 and step % md.trace_every == 0 and out.counts[TRACES] < out.trace.shape[0]:
            _put(f, out.trace[out.counts[TRACES]])
            out.counts[TRACES] += 1
        if md.frame_every > 0 and step % md.frame_every == 0 and out.counts[FRAMES] < out.frames.shape[0]:
            row = out.counts[FRAMES]
            _put(x, out.frames[row])
            _put(h, out.cells[row])
            out.marks[row, 0], out.marks[row, 1], out.marks[row, 2] = step, energy, s
            out.marks[row, 3] = 1.0 + by_u
            out.counts[FRAMES] += 1
    return FINE

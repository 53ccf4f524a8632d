"""Walkers for potentials that are no table: LAMMPS with the bias as a compiled callback, or any ASE calculator.

LAMMPS runs its own Nosé–Hoover NPT (``fix npt``, damping 0.1 and 1 ps) and calls us at every step with energy, forces
and positions. Forces become (1 + ∂B/∂U) F − (∂B/∂s) ∇s, the potential's virial is scaled alike, and −∂B/∂V is added to
the pressure, so that the barostat too samples exp(−β₀(U + P₀V + B)). Its centre of mass is at rest: kinetic energies
are scaled to 3N degrees of freedom.

The path for calculators is the compiled loop's algorithm, draw by draw, with one call of the calculator a step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, njit, types
from numpy.typing import NDArray

from potstill.compiled import kept_c
from potstill.errors import BackendError, ConvergenceError, PotstillError
from potstill.memory import floats_at, shorts_at, words_at
from potstill.protocols import DrivenDynamics, ExternalForce, State
from potstill.sampling.bias import FROZEN, GPA, KB, Bias, Learning, evaluate, learn
from potstill.sampling.eam import Neighbours, list_pairs, neighbours
from potstill.sampling.loop import (
    ACCEPTED,
    EXPLODED,
    FINE,
    FRAMES,
    HOTTEST,
    LARGEST_ENERGY,
    LISTS,
    RECORDS,
    SHAPES_ACCEPTED,
    SHAPES_TRIED,
    TRACES,
    TRIED,
    Md,
    Output,
    Walker,
    _distortion,
    _strained,
    invert,
    stale,
)
from potstill.sampling.order import FADE, NONE, Q6, Order, OrderScratch, order_parameter, order_scratch

if TYPE_CHECKING:
    from ase import Atoms

F64 = NDArray[np.float64]

PAIRS_PER_ATOM = 120  # within the reach of Q6 and the skin
BONDS_PER_ATOM = 40

# --- LAMMPS ---

# What stands where in the block of words behind the callback, four words an array: address and up to three lengths.
_ARRAYS = (
    "beta", "beta_p", "centres", "f", "weight", "top", "part", "sums", "total", "grid", "origin", "step", "walls",
    "hkl", "phase", "wave", "bonds", "pairs", "first", "other", "image", "span", "shifts", "records", "frames",
    "cells", "marks", "trace", "counts", "reals", "words", "ds", "built", "inverse_built", "position",
)  # fmt: skip
_AT = {name: 4 * k for k, name in enumerate(_ARRAYS)}
# reals: β₀, P₀, stiffness, wall, scale of s, then the learning's start, burn-in and walkers, half a step over the mass,
# LAMMPS's velocity in ours, skin, updates so far, mass, the first energy.
# words: form, whether V is the second variable, kind of order, method, strides of records, frames and traces, whether
# the run has failed, whether the list of bonds is good.
(_BETA, _BETA_P, _CENTRES, _F, _WEIGHT, _TOP, _PART, _SUMS, _TOTAL, _GRID, _ORIGIN, _STEP, _WALLS, _HKL, _PHASE,
 _WAVE, _BONDS, _PAIRS, _FIRST, _OTHER, _IMAGE, _SPAN, _SHIFTS, _RECORDS, _FRAMES, _CELLS, _MARKS, _TRACE, _COUNTS,
 _REALS, _WORDS, _DS, _BUILT, _INVERSE, _POSITION) = range(0, 4 * len(_ARRAYS), 4)  # fmt: skip


@njit
def _row(b: Any, at: int) -> Any:
    return carray(floats_at(b[at]), (b[at + 1],))


@njit
def _table(b: Any, at: int) -> Any:
    return carray(floats_at(b[at]), (b[at + 1], b[at + 2]))


@njit
def _box(b: Any, at: int) -> Any:
    return carray(floats_at(b[at]), (b[at + 1], b[at + 2], b[at + 3]))


@njit
def _step(  # noqa: C901, PLR0912 - one step, compiled as one
    b: Any, step: int, n: int, energy: float, h: F64, x: F64, f: F64, v: F64, added: F64, answer: F64
) -> None:
    """Do one step's work; ``b`` is the block of words."""
    r, w = _row(b, _REALS), carray(words_at(b[_WORDS]), (b[_WORDS + 1],))
    if step == 0:
        r[13] = energy
    if w[7] or n != b[_DS + 1] or not abs(energy - r[13]) < LARGEST_ENERGY * n:
        w[7] = 1  # failed: from here on nothing is added, and the caller will see
        added[:] = 0.0
        return
    bias = Bias(
        w[0], r[0], r[1], _row(b, _BETA), _row(b, _BETA_P), _row(b, _CENTRES), r[2], _table(b, _F), _table(b, _WEIGHT),
        _row(b, _TOP), _row(b, _PART), _table(b, _SUMS), _row(b, _TOTAL), _table(b, _GRID), _row(b, _ORIGIN),
        _row(b, _STEP), w[1] != 0, _row(b, _WALLS), r[3],
    )  # fmt: skip
    order = Order(w[2], carray(words_at(b[_HKL]), (b[_HKL + 1], b[_HKL + 2])), r[4])
    found = Neighbours(
        carray(shorts_at(b[_FIRST]), (b[_FIRST + 1],)),
        carray(shorts_at(b[_OTHER]), (b[_OTHER + 1],)),
        carray(shorts_at(b[_IMAGE]), (b[_IMAGE + 1],)),
        carray(shorts_at(b[_SPAN]), (b[_SPAN + 1],)),
        _table(b, _SHIFTS),
    )
    p = b[_PHASE]
    work = OrderScratch(
        carray(floats_at(p), (2, 3, b[_PHASE + 1], n)),
        _table(b, _WAVE),
        _table(b, _BONDS),
        carray(words_at(b[_PAIRS]), (b[_PAIRS + 1], b[_PAIRS + 2])),
    )
    ds, counts = _table(b, _DS), carray(words_at(b[_COUNTS]), (b[_COUNTS + 1],))
    inverse = np.empty((3, 3))
    volume = abs(invert(h, inverse))
    s = 0.0
    if order.kind != NONE:
        here = _table(b, _POSITION)
        here[:] = x
        if order.kind == Q6:
            built, inverse_built = _table(b, _BUILT), _table(b, _INVERSE)
            cutoff = FADE[1] * (4.0 * volume / n) ** (1.0 / 3.0)
            w[8] = _listed(here, h, inverse, cutoff, r[10], found, built, inverse_built, w[8], counts)
        s = order_parameter(here, inverse, volume, found, order, work, ds)
    value, by_u, by_v, by_s = evaluate(energy, volume, s, bias)
    if w[3] != FROZEN and step > 0 and step % w[4] == 0:
        learn(energy, volume, s, bias, Learning(w[3], r[5], r[6], r[7]), r[11])
        r[11] += 1.0
        value, by_u, by_v, by_s = evaluate(energy, volume, s, bias)
    for i in range(n):
        for k in range(3):
            added[i, k] = by_u * f[i, k] - by_s * ds[i, k]
    answer[0], answer[1] = by_u, -by_v
    if step == 0:
        return
    if step % w[4] == 0:
        kinetic = 0.0
        for i in range(n):
            for k in range(3):  # velocities are half a step behind
                kinetic += (r[9] * v[i, k] + r[8] * (f[i, k] + added[i, k])) ** 2
        kinetic *= 0.5 * r[12] * n / (n - 1.0)
        if not kinetic < HOTTEST * 1.5 * n / r[0]:
            w[7] = 1
        if counts[RECORDS] < b[_RECORDS + 1]:
            row = _table(b, _RECORDS)[counts[RECORDS]]
            row[0], row[1], row[2], row[3], row[4], row[5] = energy, volume, s, value, 1.0 + by_u, kinetic
            counts[RECORDS] += 1
    if w[6] > 0 and step % w[6] == 0 and counts[TRACES] < b[_TRACE + 1]:
        _box(b, _TRACE)[counts[TRACES]] = f
        counts[TRACES] += 1
    if w[5] > 0 and step % w[5] == 0 and counts[FRAMES] < b[_FRAMES + 1]:
        k = counts[FRAMES]
        _box(b, _FRAMES)[k] = x
        _box(b, _CELLS)[k] = h
        mark = _table(b, _MARKS)[k]
        mark[0], mark[1], mark[2], mark[3] = step, energy, s, 1.0 + by_u
        counts[FRAMES] += 1


@njit
def _listed(
    x: F64,
    h: F64,
    inverse: F64,
    cutoff: float,
    skin: float,
    found: Neighbours,
    built: F64,
    inverse_built: F64,
    known: int,
    counts: Any,
) -> int:
    """Keep the list of bonds fit for ``x``; atoms may have been wrapped, so positions are compared as they come."""
    if known == 0 or stale(x, built, inverse_built, h, cutoff, skin):
        kept = x.copy()
        list_pairs(x, h, inverse, cutoff + skin, found)
        built[:], inverse_built[:] = x, inverse
        counts[LISTS] += 1
        moved = 0.0
        for i in range(x.shape[0]):
            for k in range(3):
                moved = max(moved, abs(kept[i, k] - x[i, k]))
        return 0 if moved > 1e-9 else 1  # of wrapped positions the list holds for this step only
    return 1


@kept_c(types.void(*[types.intp] * 3, types.float64, *[types.intp] * 6))
def _on_step(
    data: Any, step: Any, n: Any, energy: Any, box: Any, x: Any, f: Any, v: Any, added: Any, answer: Any
) -> None:
    """Be the function that :class:`~potstill.protocols.ExternalForce` describes."""
    b = carray(words_at(data), 4 * 35)
    _step(
        b,
        step,
        n,
        energy,
        carray(floats_at(box), (3, 3)),
        carray(floats_at(x), (n, 3)),
        carray(floats_at(f), (n, 3)),
        carray(floats_at(v), (n, 3)),
        carray(floats_at(added), (n, 3)),
        carray(floats_at(answer), 2),
    )


def walk_native(
    _rng: np.random.Generator,
    walker: Walker,
    steps: int,
    potential: DrivenDynamics,
    element: str,
    order: Order,
    bias: Bias,
    how: Learning,
    md: Md,
    out: Output,
) -> int:
    """Move a walker by a code's own dynamics; arguments and result are those of :func:`potstill.sampling.loop.walk`.

    Nothing is drawn: the thermostat is deterministic.

    Raises
    ------
    BackendError
        If the cell is to change its shape, or is not right-angled.
    """
    from ase import units

    if md.shape_step > 0.0:
        raise BackendError(
            "A flexible cell needs tabulated embedded atoms or an ASE calculator: LAMMPS's own barostat lets a small "
            'cell degenerate once it melts. Set sample.cell = "isotropic".'
        )
    n = len(walker.x)
    per_ps = 1000.0 * units.fs
    found = neighbours(n, n * PAIRS_PER_ATOM if order.kind == Q6 else 1)
    scratch = order_scratch(n, order.hkl, n * BONDS_PER_ATOM if order.kind == Q6 else 1)
    reals = np.array([
        bias.beta0, bias.p0, bias.stiffness, bias.wall, order.scale, how.start, how.burn_in, how.walkers,
        0.5 * md.dt / md.mass, 1.0 / per_ps, md.skin, 0.0, md.mass, 0.0,
    ])  # fmt: skip
    words = np.array(
        [
            bias.form,
            bias.second_is_volume,
            order.kind,
            how.method,
            md.record_every,
            md.frame_every,
            md.trace_every,
            0,
            0,
        ],
        dtype=np.int64,
    )
    own = {"reals": reals, "words": words, "ds": np.zeros((n, 3)), "built": np.zeros((n, 3)), "hkl": order.hkl}
    own |= {"inverse_built": np.zeros((3, 3)), "position": np.zeros((n, 3))}
    block = np.zeros(4 * len(_ARRAYS), np.int64)
    for name, at in _AT.items():
        sources = (own, bias._asdict(), found._asdict(), scratch._asdict(), out._asdict())
        array = next(s[name] for s in sources if name in s)
        block[at] = array.ctypes.data
        shape = array.shape if name != "phase" else (array.shape[2],)
        block[at + 1 : at + 1 + len(shape)] = shape
    start = _atoms(walker, element)
    start.set_velocities(walker.v - walker.v.mean(axis=0))
    state = State(1.0 / (KB * bias.beta0), bias.p0 / GPA)
    external = ExternalForce(_on_step.address, block.ctypes.data)
    try:
        end = potential.driven(start, state, external, steps=steps, timestep=md.dt / units.fs)
    except ConvergenceError:
        return EXPLODED
    if words[7] or not np.isfinite(end.positions).all():
        return EXPLODED
    walker.x[:], walker.h[:], walker.v[:] = end.positions, end.cell.array, end.get_velocities()
    return FINE


def _atoms(walker: Walker, element: str) -> Atoms:
    from ase import Atoms

    return Atoms([element] * len(walker.x), positions=walker.x, cell=walker.h, pbc=True)


# --- any calculator ---


class _Here:
    """Where a walker is: everything that depends on positions and cell."""

    def __init__(self, x: F64, h: F64, atoms: Any, order: Order, bias: Bias, bonds: _Bonds) -> None:
        self.x, self.h = x, h
        self.inverse = np.empty((3, 3))
        self.volume = abs(invert(h, self.inverse))
        atoms.set_cell(h, scale_atoms=False)
        atoms.set_positions(x)
        self.energy = float(atoms.get_potential_energy())
        self.forces = np.array(atoms.get_forces(), dtype=float)
        bonds.zero = self.energy if bonds.zero is None else bonds.zero
        if not abs(self.energy - bonds.zero) < LARGEST_ENERGY * len(x) or not np.isfinite(self.forces).all():
            raise ArithmeticError("the energy is beyond what a metal has")
        self.ds = np.zeros_like(x)
        self.s = bonds.order(x, h, self.inverse, self.volume, order, self.ds) if order.kind != NONE else 0.0
        self.see(bias)

    def see(self, bias: Bias) -> None:
        """Evaluate the bias, which may have learnt."""
        self.value, self.by_u, _, self.by_s = evaluate(self.energy, self.volume, self.s, bias)

    def push(self) -> F64:
        """Return the biased forces."""
        return np.asarray((1.0 + self.by_u) * self.forces - self.by_s * self.ds)


class _Bonds:
    """The order parameter and the list that Q6 needs, made anew each time: it is cheap beside a calculator.

    ``zero`` is the energy of where a walk began, eV.
    """

    def __init__(self, n: int, order: Order) -> None:
        self.zero: float | None = None
        self.found = neighbours(n, n * PAIRS_PER_ATOM)
        self.scratch = order_scratch(n, order.hkl, n * BONDS_PER_ATOM)

    def order(self, x: F64, h: F64, inverse: F64, volume: float, order: Order, ds: F64) -> float:
        """Return s and fill its gradient."""
        inside = x.copy()
        if order.kind == Q6:
            list_pairs(inside, h, inverse, FADE[1] * (4.0 * volume / len(x)) ** (1.0 / 3.0) * 1.001, self.found)
        return float(order_parameter(inside, inverse, volume, self.found, order, self.scratch, ds))


def walk_calculator(
    rng: np.random.Generator,
    walker: Walker,
    steps: int,
    calculator: Any,
    element: str,
    order: Order,
    bias: Bias,
    how: Learning,
    md: Md,
    out: Output,
) -> int:
    """Move a walker with an ASE calculator; arguments and result are those of :func:`potstill.sampling.loop.walk`."""
    atoms = _atoms(walker, element)
    atoms.calc = calculator
    try:
        _walk_slowly(rng, walker, steps, atoms, order, bias, how, md, out)
    except (PotstillError, ArithmeticError, ValueError, RuntimeError):  # calculators break down in their own ways
        return EXPLODED
    return FINE


def _walk_slowly(
    rng: np.random.Generator,
    walker: Walker,
    steps: int,
    atoms: Any,
    order: Order,
    bias: Bias,
    how: Learning,
    md: Md,
    out: Output,
) -> None:
    x, v = walker.x, walker.v
    keep = math.exp(-md.friction * md.dt)
    kick = math.sqrt((1.0 - keep * keep) / (bias.beta0 * md.mass))
    half = 0.5 * md.dt / md.mass
    bonds = _Bonds(len(x), order)
    here = _Here(x.copy(), walker.h.copy(), atoms, order, bias, bonds)
    updates = 0.0
    for step in range(1, steps + 1):
        v += half * here.push()
        x += 0.5 * md.dt * v
        v *= keep
        v += kick * rng.standard_normal(x.shape)
        x += 0.5 * md.dt * v
        here = _Here(x.copy(), walker.h.copy(), atoms, order, bias, bonds)
        v += half * here.push()
        if md.move_every > 0 and step % md.move_every == 0:
            here = _moved(rng, here, walker, atoms, order, bias, bonds, md, out)
            x[:], walker.h[:] = here.x, here.h
        if step % md.record_every == 0:
            if how.method != FROZEN:
                learn(here.energy, here.volume, here.s, bias, how, updates)
                updates += 1.0
                here.see(bias)
            kinetic = 0.5 * md.mass * float((v**2).sum())
            if not kinetic < HOTTEST * 1.5 * len(x) / bias.beta0:
                raise ArithmeticError("the kinetic energy is beyond what the thermostat holds")
            if out.counts[RECORDS] < len(out.records):
                row = (here.energy, here.volume, here.s, here.value, 1.0 + here.by_u, kinetic)
                out.records[out.counts[RECORDS]] = row
                out.counts[RECORDS] += 1
        if md.trace_every > 0 and step % md.trace_every == 0 and out.counts[TRACES] < len(out.trace):
            out.trace[out.counts[TRACES]] = here.forces
            out.counts[TRACES] += 1
        if md.frame_every > 0 and step % md.frame_every == 0 and out.counts[FRAMES] < len(out.frames):
            k = out.counts[FRAMES]
            out.frames[k], out.cells[k] = here.x, here.h
            out.marks[k] = (step, here.energy, here.s, 1.0 + here.by_u)
            out.counts[FRAMES] += 1


def _moved(
    rng: np.random.Generator,
    here: _Here,
    walker: Walker,
    atoms: Any,
    order: Order,
    bias: Bias,
    bonds: _Bonds,
    md: Md,
    out: Output,
) -> _Here:
    """Try a Monte-Carlo move of the cell; return where the walker is after it."""
    n = len(here.x)
    shape = md.shape_step > 0.0 and rng.random() < 0.5
    strain, jacobian = np.zeros((3, 3)), 0.0
    if shape:
        _strained(rng, md.shape_step, strain)
    else:
        jump = (2.0 * rng.random() - 1.0) * md.volume_step
        np.fill_diagonal(strain, math.exp(jump / 3.0))
        jacobian = (n + 1) * jump
    out.counts[SHAPES_TRIED if shape else TRIED] += 1
    if shape and _distortion(here.h @ strain, walker.first) >= md.shape_limit:
        return here
    there = _Here(here.x @ strain, np.ascontiguousarray(here.h @ strain), atoms, order, bias, bonds)
    work = there.energy - here.energy + bias.p0 * (there.volume - here.volume) + there.value - here.value
    gain = jacobian - bias.beta0 * work
    if gain < 0.0 and rng.random() >= math.exp(gain):
        return here
    out.counts[SHAPES_ACCEPTED if shape else ACCEPTED] += 1
    return there

"""Extended ensembles: one run that melts and freezes many times, and covers both phases and the way between.

Method: Jung, Lee, Choi, arXiv:2308.08098 and arXiv:2311.05407. Several walkers, half of them molten first, share one
bias (:mod:`potstill.sample.bias`). They learn it in rounds; then it is frozen, so that reweighting is exact, and
production begins. A round's walkers, bias, records and frames are one file: a run that is killed goes on from the last
whole round and ends with the same frames.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from potstill.data import Frame, Origin, write_atomic
from potstill.errors import ConvergenceError, StoreError
from potstill.protocols import Potential
from potstill.sample.bias import (
    FROZEN,
    GPA,
    GRID,
    KB,
    OPES,
    SAMS,
    WANG_LANDAU,
    Bias,
    Learning,
    evaluate,
    gain,
    merged,
    no_bias,
    refresh,
    with_states,
)
from potstill.sample.loop import ACCEPTED, FINE, TRIED, Md, Walker
from potstill.sample.order import Q6, STRUCTURE_FACTOR, Order
from potstill.sample.thermodynamics import Series, crossings
from potstill.sample.walkers import Done, Engine, Task, advance, order_for

if TYPE_CHECKING:
    from ase import Atoms

F64 = NDArray[np.float64]

METHODS = {"sams": SAMS, "opes": OPES, "wang-landau": WANG_LANDAU}
ORDERS = {"structure-factor": STRUCTURE_FACTOR, "q6": Q6}
LOW, HIGH = 0.25, 0.65  # of the perfect crystal's order parameter: liquid below, crystal above, hysteresis between
LOWEST_CENTRE, SIGMA = 0.08, 0.035  # umbrellas on s: the first, and both their width and their distance
OVERLAP = 0.7  # distance of neighbouring temperatures and pressures in units that their fluctuations set
FRICTION = 10.0  # 1/ps
RECORD_EVERY = 20  # steps
MELTING = 1.5  # of the highest temperature: where walkers are molten first
PREPARE = 4_000  # steps of melting, and of settling after it
TRACE = (2_000, 5)  # steps in which forces are traced, and the steps between
MEETING, OPES_MEETING = 8.0, 50  # k_B T₀ taught, or updates of opes, between two meetings of the walkers
FEWEST_UPDATES = 5  # between two meetings
DECORRELATED = 0.1  # of the forces' autocorrelation: frames so far apart count as new
SHAPE_STEP, SHAPE_LIMIT = 0.012, 0.4  # the limit lets fcc reach bcc along Bain's path, at 0.32
SKIN = 1.0  # Å
GRID_FIRST, GRID_SECOND = 48, 24  # intervals of the Wang–Landau histogram


@dataclass(frozen=True)
class ExtendedEnsemble:
    """An extended ensemble with every number decided; a :class:`~potstill.protocols.Sampler`.

    Attributes
    ----------
    name : str
        ``multithermal``, ``multibaric-multithermal`` or ``multiorder-multithermal``.
    method : str
        ``sams``, ``wang-landau`` or ``opes``.
    order : str
        ``structure-factor`` or ``q6``; where the name has no order in it, it is watched and not biased.
    temperature : (float, float)
        K. The reference temperature T₀ is their geometric mean, which keeps the force's scale nearest to 1.
    pressure : tuple of float
        GPa, rising; P₀ is the middle one.
    walls : (float, float)
        Å³/atom. The volume is held between them.
    flexible : bool
        The cell changes its shape too.
    walkers, learning_steps : int
        How many, and the steps of each in which the bias is learnt.
    stride : int
        Steps between kept frames; 0 takes it from the autocorrelation of the forces.
    timestep : float
        fs.
    """

    name: str
    method: str
    order: str
    temperature: tuple[float, float]
    pressure: tuple[float, ...]
    walls: tuple[float, float]
    flexible: bool
    walkers: int
    learning_steps: int
    stride: int
    timestep: float

    @property
    def T0(self) -> float:
        """K."""
        return math.sqrt(self.temperature[0] * self.temperature[1])

    @property
    def P0(self) -> float:
        """GPa."""
        return self.pressure[len(self.pressure) // 2]

    def temperatures(self, n_atoms: int) -> F64:
        """Return the grid of temperatures: neighbours overlap in energy, whose spread grows as √(3N/2) k_B T."""
        ratio = self.temperature[1] / self.temperature[0]
        n = 1 + math.ceil(math.log(ratio) * math.sqrt(1.5 * n_atoms) / OVERLAP)
        return np.geomspace(*self.temperature, max(n, 2))

    def sample(self, start: Atoms, potential: Potential, *, rng: np.random.Generator) -> Iterator[Frame]:
        """Yield frames of all walkers without end; ``start`` is the perfect crystal that fills the cell.

        Raises
        ------
        ConvergenceError
            If no walker is left that has not exploded.
        """
        from concurrent.futures import ThreadPoolExecutor

        campaign = Campaign(self, potential, start, int(rng.integers(2**31)), None)
        with ThreadPoolExecutor(1) as pool:
            for state in campaign.rounds(pool):
                yield from campaign.frames_of(state)


@dataclass
class State:
    """Where a campaign stands after a round, and what the round gave.

    Attributes
    ----------
    index, kind : int, str
        The round's place, and ``melt``, ``settle``, ``learn``, ``trace`` or ``produce``.
    walkers : list of Walker
    alive : ndarray (n_walkers,) of bool
    bias : Bias
    volume_step : float
    stride : int
        0 before it is known.
    records : ndarray (n_walkers, n, 6)
        See :class:`potstill.sample.loop.Output`.
    frames, cells, marks : ndarray (n_walkers, m, …)
        The same.
    """

    index: int
    kind: str
    walkers: list[Walker]
    alive: NDArray[np.bool_]
    bias: Bias
    volume_step: float
    stride: int
    records: F64
    frames: F64
    cells: F64
    marks: F64

    def dump(self) -> bytes:
        """Return the whole as an ``.npz`` archive."""
        arrays: dict[str, Any] = {f"bias_{k}": np.asarray(v) for k, v in self.bias._asdict().items()}
        for k in Walker._fields:
            arrays[f"walker_{k}"] = np.array([getattr(w, k) for w in self.walkers])
        for k in ("index", "kind", "alive", "volume_step", "stride", "records", "frames", "cells", "marks"):
            arrays[k] = np.asarray(getattr(self, k))
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> State:
        """Read an archive back.

        Raises
        ------
        StoreError
            If the file is not one of ours, whole.
        """
        try:
            with np.load(path, allow_pickle=False) as z:
                bias = [z[f"bias_{k}"] for k in Bias._fields]
                walkers = zip(*(z[f"walker_{k}"] for k in Walker._fields), strict=True)
                return cls(
                    int(z["index"]),
                    str(z["kind"]),
                    [Walker(*(np.array(a) for a in w)) for w in walkers],
                    z["alive"],
                    Bias(*(v.item() if v.ndim == 0 else np.array(v) for v in bias)),
                    float(z["volume_step"]),
                    int(z["stride"]),
                    z["records"],
                    z["frames"],
                    z["cells"],
                    z["marks"],
                )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise StoreError(f"{path}: expected a round of sampling, but it cannot be read ({error}). Delete it.") from None


class Campaign:
    """One extended ensemble at work on one cell.

    Parameters
    ----------
    ensemble : ExtendedEnsemble
    potential : Potential
        Drives the dynamics.
    crystal : Atoms
        The perfect crystal that fills the cell, at rest.
    seed : int
    folder : path | None
        Where rounds are kept; None keeps nothing.
    tell : callable
        Gets lines of progress.
    """

    def __init__(
        self,
        ensemble: ExtendedEnsemble,
        potential: Potential,
        crystal: Atoms,
        seed: int,
        folder: Path | None,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        from ase import units

        self.ensemble, self.crystal, self.seed, self.folder, self.tell = ensemble, crystal, seed, folder, tell
        self.n_atoms = len(crystal)
        self.engine = Engine(potential, crystal.get_chemical_symbols()[0], self.n_atoms)
        self.order = order_for(ORDERS[ensemble.order], crystal)
        slow = self.engine.path == "calculator"
        self.learning_chunk, self.production_chunk = (500, 1_000) if slow else (4_000, 10_000)
        self.md = Md(
            self.engine.mass,
            ensemble.timestep * units.fs,
            FRICTION / (1000 * units.fs),
            10,
            0.03,
            SHAPE_STEP if ensemble.flexible else 0.0,
            SHAPE_LIMIT,
            RECORD_EVERY,
            0,
            0,
            SKIN,
        )
        self.n_learning = math.ceil(ensemble.learning_steps / self.learning_chunk)

    @property
    def name(self) -> str:
        """Of the trajectories, before the walker's number."""
        return f"{self.ensemble.order}-{self.n_atoms}"

    # --- the rounds ---

    def rounds(self, pool: Executor) -> Iterator[State]:
        """Go through the rounds, stored ones first; production never ends.

        Raises
        ------
        ConvergenceError
            If no walker is left.
        """
        state, index = self._start(), 0
        while True:
            stored = self.folder / f"{index:05d}.npz" if self.folder else None
            if stored and stored.exists():
                state = State.load(stored)
            else:
                state = self._round(state, index, pool)
                if stored:
                    write_atomic(stored, state.dump())
            if not state.alive.any():
                low, high = self.ensemble.temperature
                raise ConvergenceError(
                    f"Every walker exploded between {low:.0f} and {high:.0f} K in the round '{state.kind}': energies "
                    "left what a metal has. Take a shorter sample.timestep, a lower highest temperature, or a potential "
                    "that knows close encounters of atoms; the rounds before are kept."
                )
            yield state
            index += 1

    def kind_of(self, index: int) -> str:
        """Name the round."""
        if index < 2:
            return ("melt", "settle")[index]
        learning = index - 2 - self.n_learning
        return "learn" if learning < 0 else "trace" if learning == 0 else "produce"

    def _start(self) -> State:
        e = self.ensemble
        walkers = []
        for w in range(e.walkers):
            rng = np.random.default_rng([self.seed, 0, w])
            x = self.crystal.positions + 0.02 * rng.standard_normal((self.n_atoms, 3))
            v = math.sqrt(KB * e.T0 / self.engine.mass) * rng.standard_normal((self.n_atoms, 3))
            h = self.crystal.cell.array.copy()
            walkers.append(Walker(x, v, h, h.copy()))
        bias = self._walls(e.T0)
        nothing = np.zeros((e.walkers, 0, 1))
        alive = np.ones(e.walkers, dtype=bool)
        return State(-1, "start", walkers, alive, bias, self.md.volume_step, e.stride, *[nothing] * 4)

    def _walls(self, temperature: float) -> Bias:
        low, high = (self.n_atoms * v for v in self.ensemble.walls)
        return no_bias(1.0 / (KB * temperature), self.ensemble.P0 * GPA, self.n_atoms, (low, high))

    def _round(self, before: State, index: int, pool: Executor) -> State:
        kind = self.kind_of(index)
        if kind == "learn":
            return self._lessons(before, index, pool)
        steps, frames, traces = PREPARE, 0, 0
        md = self.md._replace(volume_step=before.volume_step)
        if kind == "trace":
            steps, every = TRACE
            traces, md = steps // every, md._replace(trace_every=every)
        elif kind == "produce":
            frames = max(1, self.production_chunk // before.stride)
            steps, md = frames * before.stride, md._replace(frame_every=before.stride)
        biases = [before.bias] * len(before.walkers)
        if kind == "melt":
            hot = self._walls(MELTING * self.ensemble.temperature[1])
            biases = [hot if w % 2 else b for w, b in enumerate(biases)]
        how = Learning(FROZEN, 0.0, 1.0, 1.0)
        after, whole = self._move(before, index, kind, biases, how, md, (steps, frames, traces), 0, pool)
        if kind == "settle":
            after.volume_step = self._tuned(before.volume_step, whole)
            if whole:
                after.bias = self._first_bias(after.records[after.alive][:, after.records.shape[1] // 2 :])
        elif kind == "trace" and whole and not before.stride:
            after.stride = decorrelation([r.output.trace for r in whole], TRACE[1])
        return after

    def _lessons(self, before: State, index: int, pool: Executor) -> State:
        """Learn for a round, with the walkers' lessons put together so often that none acts on old news.

        Between two meetings all walkers together teach about ``MEETING`` k_B T₀: more, and they pile up the same hill.
        """
        e = self.ensemble
        per_round = self.learning_chunk // RECORD_EVERY
        planned = float(self.n_learning * per_round * e.walkers)
        state, records, left, whole = before, [], per_round, []
        while left and state.alive.any():
            done = float((index - 2) * per_round + per_round - left)
            how = Learning(METHODS[e.method], done, planned / 3, float(e.walkers))
            together = e.walkers * gain(state.bias, how, 0.0)
            share = OPES_MEETING if how.method == OPES else int(MEETING / together)
            updates = min(left, max(share, FEWEST_UPDATES))
            md = self.md._replace(volume_step=before.volume_step)
            room = (updates * RECORD_EVERY, 0, 0)
            biases = [state.bias] * e.walkers
            state, whole = self._move(state, index, "learn", biases, how, md, room, left, pool)
            if whole:
                state.bias = merged(biases[0], [r.bias for r in whole], how.method)
            records.append(state.records)
            left -= updates
        state.records = np.concatenate(records, axis=1)
        state.volume_step = self._tuned(before.volume_step, whole)
        return state

    @staticmethod
    def _tuned(step: float, whole: list[Done]) -> float:
        """Return the step in ln V for an acceptance of 0.3 to 0.5; production keeps what learning ended with."""
        tried = sum(int(r.output.counts[TRIED]) for r in whole)
        accepted = sum(int(r.output.counts[ACCEPTED]) for r in whole)
        share = accepted / max(1, tried)
        return float(np.clip(step * (1.15 if share > 0.5 else 0.85 if share < 0.3 else 1.0), 0.002, 0.2))

    def _move(
        self,
        before: State,
        index: int,
        kind: str,
        biases: list[Bias],
        how: Learning,
        md: Md,
        room: tuple[int, int, int],
        part: int,
        pool: Executor,
    ) -> tuple[State, list[Done]]:
        """Move every walker that is alive; return where all stand, and what those gave that came through."""
        steps, frames, traces = room
        running = {
            w: pool.submit(
                advance,
                Task(
                    self.engine, walker, steps, self.order, biases[w], how, md, (self.seed, 1, w, index, part),
                    steps // RECORD_EVERY, frames, traces,
                ),
            )
            for w, walker in enumerate(before.walkers)
            if before.alive[w]
        }  # fmt: skip
        results = {w: future.result() for w, future in running.items()}
        alive = np.array([w in results and results[w].status == FINE for w in range(len(before.walkers))])
        for w in np.flatnonzero(before.alive & ~alive):
            self.tell(f"sample: walker {w} exploded in round {index} ({kind}) and is left out from there")
        whole = [results[int(w)] for w in np.flatnonzero(alive)]
        walkers = [results[w].walker if alive[w] else old for w, old in enumerate(before.walkers)]

        def gathered(name: str) -> F64:
            like = getattr(next(iter(results.values())).output, name)
            return np.array([getattr(results[w].output, name) if a else np.zeros_like(like) for w, a in enumerate(alive)])

        bias = self._walls(self.ensemble.T0) if kind == "melt" else before.bias
        state = State(
            index, kind, walkers, alive, bias, before.volume_step, before.stride, gathered("records"),
            gathered("frames"), gathered("cells"), gathered("marks"),
        )  # fmt: skip
        return state, whole

    # --- the bias ---

    def _first_bias(self, records: F64) -> Bias:
        """Make the bias from unbiased records at T₀, shape (n_walkers, n, 6)."""
        e = self.ensemble
        base = self._walls(e.T0)
        U, V, s = (records[..., k] for k in range(3))
        T, P = np.meshgrid(e.temperatures(self.n_atoms), self._pressures(float(V.mean())) * GPA, indexing="ij")
        beta, pressure = 1.0 / (KB * T.ravel()), P.ravel()
        ordered = e.name == "multiorder-multithermal"
        centres, sigma = np.zeros(1), 0.0
        if ordered:
            solid = s.mean(axis=1)[s.mean(axis=1) > HIGH]  # of each walker that is still, or again, a crystal
            top = float(np.clip(solid.max() if len(solid) else 0.85, 0.7, 0.95))
            centres, sigma = np.linspace(LOWEST_CENTRE, top, 1 + round((top - LOWEST_CENTRE) / SIGMA)), SIGMA
        # Liquid and crystal have each its own energy and volume, the states between lie between, and the energy of all
        # rises by 3/2 k_B an atom: what is left to learn is the free energy along s at one temperature.
        U_s, V_s = (_between(s.ravel(), q.ravel(), centres) for q in (U, V))
        c = 1.5 * self.n_atoms
        f = np.outer(beta - base.beta0, U_s - c / base.beta0) + np.outer(beta * pressure - base.beta0 * base.p0, V_s)
        f += c * np.log(beta / base.beta0)[:, None]
        states = with_states(base, beta, pressure, centres, sigma, f - f.mean())
        if e.method == "opes":
            return _opes_start(states, U.ravel(), V.ravel(), s.ravel())
        if e.method == "wang-landau":
            return self._grid(states, U, V)
        return states

    def _pressures(self, volume: float) -> F64:
        """Return the grid of pressures: neighbours overlap in volume, whose spread follows from the stiffness."""
        low, high = self.ensemble.pressure[0], self.ensemble.pressure[-1]
        # a metal's bulk modulus is some 100 k_B T per atom at T₀, times a few; the spread √(k_B T B / V) needs no better
        step = 3.0 * OVERLAP * math.sqrt(KB * self.ensemble.T0 * (100 * KB * self.ensemble.T0 * self.n_atoms / volume) / volume)
        n = 1 + math.ceil((high - low) * GPA / step)
        return np.union1d(np.linspace(low, high, n), self.ensemble.pressure)

    def _grid(self, states: Bias, U: F64, V: F64) -> Bias:
        """Lay the Wang–Landau histogram over what the states reach, its start the mixture of states."""
        e, n = self.ensemble, self.n_atoms
        thermal = 1.5 * n * KB
        H = U + states.p0 * V
        low, high = e.temperature
        margin = thermal * (high - low)
        first = (
            float(H.mean() - 2.0 * thermal * (e.T0 - low) - margin / 4),
            float(H.mean() + 2.0 * thermal * (high - e.T0) + margin),
        )
        by_volume = e.name == "multibaric-multithermal"
        second = (LOWEST_CENTRE, float(states.centres[-1])) if e.name == "multiorder-multithermal" else (0.0, 1.0)
        if by_volume:
            first = (first[0] - states.p0 * float(V.mean()), first[1] - states.p0 * float(V.mean()))
            second = (n * e.walls[0], n * e.walls[1])
        m = GRID_SECOND * 2 if by_volume else GRID_SECOND if e.name == "multiorder-multithermal" else 1
        step = np.array([(first[1] - first[0]) / GRID_FIRST, (second[1] - second[0]) / m])
        origin = np.array([first[0], second[0]])
        grid = np.zeros((GRID_FIRST + 3, m + 3))
        # coefficient k of a cubic spline sits at knot k − 1; the mixture is smooth enough to be taken there as it is
        for i in range(grid.shape[0]):
            for j in range(grid.shape[1]):
                q1, q2 = origin + step * (i - 1, j - 1)
                u, v, s = (q1, q2, 0.0) if by_volume else (q1 - states.p0 * V.mean(), float(V.mean()), q2)
                grid[i, j] = evaluate(u, v, s, states._replace(wall=0.0))[0]
        band = np.array([low / e.T0, high / e.T0, e.pressure[0] * GPA, e.pressure[-1] * GPA])
        return states._replace(
            form=GRID, grid=grid - grid.mean(), origin=origin, step=step, second_is_volume=by_volume, range=band
        )

    # --- what comes out ---

    def frames_of(self, state: State) -> Iterator[Frame]:
        """Yield the frames of a round, walker by walker."""
        for w in np.flatnonzero(state.alive):
            yield from self._frames(state, int(w))

    def _frames(self, state: State, w: int) -> Iterator[Frame]:
        from ase import Atoms

        e = self.ensemble
        before = (state.index - self.n_learning - 3) * state.frames.shape[1] * state.stride
        for x, h, mark in zip(state.frames[w], state.cells[w], state.marks[w], strict=True):
            atoms = Atoms([self.engine.element] * self.n_atoms, positions=x, cell=h, pbc=True)
            pressure = e.pressure[0] if len(e.pressure) == 1 else None
            origin = Origin(e.name, f"{self.name}-walker{w}", round(e.T0 / mark[3], 1), pressure, int(before + mark[0]))
            yield Frame.of(atoms, origin)

    def run(self, n_frames: int, pool: Executor) -> tuple[list[Frame], Series, dict[str, Any]]:
        """Produce frames, equally many of each walker; return them with the records of production and a summary.

        Raises
        ------
        ConvergenceError
            If walkers explode before any frame is kept.
        """
        e = self.ensemble
        share = math.ceil(n_frames / e.walkers)
        kept: list[list[Frame]] = [[] for _ in range(e.walkers)]
        learnt: list[F64] = []
        produced: list[F64] = []
        state = None
        stopped = ""
        try:
            for state in self.rounds(pool):
                self._progress(state, learnt, produced, share)
                if state.kind == "learn":
                    learnt.append(state.records)
                if state.kind == "produce":
                    produced.append(state.records)
                    for w in np.flatnonzero(state.alive):
                        kept[w].extend(self._frames(state, int(w)))
                    if all(len(k) >= share for k, a in zip(kept, state.alive, strict=True) if a):
                        break
        except ConvergenceError as error:
            stopped = str(error)
            if not produced:
                raise
            self.tell(f"sample: {stopped}")
        if state is None or not produced:  # `rounds` ends by an error or by our leaving it
            raise ConvergenceError("Sampling ended before production.")
        frames = [f for k in kept for f in k[:share]][:n_frames]
        survivors = np.flatnonzero(state.alive) if state.alive.any() else np.arange(e.walkers)
        series = self._series(np.concatenate(produced, axis=1)[survivors], state.bias)
        warnings = self._warnings(series) + ([stopped] if stopped else [])
        for line in warnings:
            self.tell(f"sample: {line}")
        steps = {"prepare": 2 * PREPARE + TRACE[0], "learn": self.n_learning * self.learning_chunk}
        production = sum(len(r[0]) for r in produced) * RECORD_EVERY
        summary = {
            **asdict(e),
            "T0": e.T0,
            "P0": e.P0,
            "n_atoms": self.n_atoms,
            "path": self.engine.path,
            "n_states": list(state.bias.f.shape),
            "learning_steps": steps["learn"] * e.walkers,
            "production_steps": production * e.walkers,
            "md_steps": (sum(steps.values()) + production) * e.walkers,
            "stride": state.stride,
            "stride_ps": state.stride * e.timestep / 1000,
            "crossings_learning": _crossings(learnt),
            "crossings_production": _crossings(produced),
            "exploded_walkers": int(e.walkers - state.alive.sum()),
            "kinetic_temperature": float(series_kinetic(produced, survivors) / (1.5 * self.n_atoms * KB)),
            "warnings": warnings,
        }
        return frames, series, summary

    def _series(self, records: F64, bias: Bias) -> Series:
        U, V, s, B, scale = (np.ascontiguousarray(records[..., k]) for k in range(5))
        return Series(U, V, s, B, scale, bias.beta0, bias.p0, self.n_atoms, LOW, HIGH)

    def _progress(self, state: State, learnt: list[F64], produced: list[F64], share: int) -> None:
        e = self.ensemble
        if state.kind == "settle":
            P = "" if e.pressure == (0.0,) else f", {e.pressure[0]:g} to {e.pressure[-1]:g} GPa"
            self.tell(
                f"sample: {e.name} by {e.method}, {e.temperature[0]:.0f} to {e.temperature[1]:.0f} K{P}, "
                f"{' × '.join(str(n) for n in state.bias.f.shape if n > 1)} states, {e.order}; {e.walkers} walkers of "
                f"{self.n_atoms} atoms, {self.engine.path} path"
            )
        n = len(learnt) if state.kind == "learn" else len(produced)
        if state.kind == "trace":
            self.tell(
                f"sample: learnt for {self.n_learning * self.learning_chunk * e.walkers:,} steps, "
                f"{_crossings(learnt)} crossings of liquid and solid; the bias is frozen. Frames are kept every "
                f"{state.stride} steps ({state.stride * e.timestep / 1000:g} ps)"
                + ("" if e.stride else f": the forces' autocorrelation is below {DECORRELATED} there")
            )
        elif state.kind in ("learn", "produce") and n % 8 == 7:
            r = np.concatenate(learnt if state.kind == "learn" else produced, axis=1)[:, -2000:]
            told = f"{share * e.walkers} asked for, " if state.kind == "produce" else ""
            done = (n + 1) * state.frames.shape[1] * e.walkers
            self.tell(
                f"sample: {'learning' if state.kind == 'learn' else f'{done} frames, {told}'} "
                f"{_crossings(learnt if state.kind == 'learn' else produced)} crossings, order "
                f"{r[..., 2].min():.2f} to {r[..., 2].max():.2f}, {r[..., 0].min() / self.n_atoms:.2f} to "
                f"{r[..., 0].max() / self.n_atoms:.2f} eV/atom"
            )

    def _warnings(self, series: Series) -> list[str]:
        """Say what went wrong, and what to change."""
        e, n = self.ensemble, self.n_atoms
        out = []
        if not _crossings([np.stack([series.energy, series.volume, series.order], axis=-1)]):
            highest = float(np.median(series.order))
            stuck = "crystal" if highest > HIGH else "liquid" if highest < LOW else "state between"
            wider = "Widen sample.temperature, lengthen sample.learning_steps"
            out.append(
                f"no walker crossed between liquid and solid in production; most of it is the {stuck}. {wider}, take "
                "fewer atoms, or the ensemble multiorder-multithermal. The frames are kept."
            )
        beyond = float((series.volume > n * e.walls[1]).mean())
        if beyond > 0.02:
            out.append(
                f"{100 * beyond:.0f} % of production lies beyond the upper wall, {e.walls[1]:.1f} Å³/atom: it evaporates. "
                f"Lower the highest temperature ({e.temperature[1]:.0f} K) or raise sample.pressure. The frames are kept."
            )
        return out


def series_kinetic(produced: list[F64], walkers: NDArray[np.intp]) -> float:
    """Return the mean kinetic energy of a cell, eV."""
    return float(np.concatenate(produced, axis=1)[walkers][..., 5].mean())


def _crossings(rounds: list[F64]) -> int:
    """Count changes of phase over all walkers; rounds follow each other in time."""
    if not rounds:
        return 0
    return sum(crossings(s, LOW, HIGH) for s in np.concatenate(rounds, axis=1)[..., 2])


def _between(s: F64, quantity: F64, centres: F64) -> F64:
    """Return a quantity at each centre, on the straight line through its means in the liquid and in the crystal."""
    low, high = s < (LOW + HIGH) / 2, s >= (LOW + HIGH) / 2
    if len(centres) == 1 or min(low.sum(), high.sum()) < 0.02 * len(s):
        return np.full(len(centres), quantity.mean())
    at = [float(s[low].mean()), float(s[high].mean())]
    return np.interp(centres, at, [float(quantity[low].mean()), float(quantity[high].mean())])


def _opes_start(states: Bias, U: F64, V: F64, s: F64) -> Bias:
    """Begin OPES with unbiased records, each of weight one."""
    thermal = np.outer(states.beta - states.beta0, U) + np.outer(states.beta_p - states.beta0 * states.p0, V)
    umbrella = states.stiffness * (s[None, :] - states.centres[:, None]) ** 2
    for i, k in np.ndindex(states.f.shape):
        du = thermal[i] + umbrella[k]
        states.sums[i, k] = np.logaddexp.reduce(-du)
    states.total[0] = math.log(len(U))
    states.f[:] = states.total[0] - states.sums
    refresh(states)
    return states


def decorrelation(traces: list[F64], every: int) -> int:
    """Return the steps after which the autocorrelation of the forces stays below a tenth, 10 at least.

    Parameters
    ----------
    traces : list of ndarray (n, n_atoms, 3)
        Forces, eV/Å, one array a walker.
    every : int
        Steps between entries.
    """
    longest = min(len(t) for t in traces) // 2
    total = np.zeros(longest)
    for t in traces:
        flat = t.reshape(len(t), -1)
        spectrum = np.abs(np.fft.rfft(flat, 2 * len(flat), axis=0)) ** 2
        total += np.fft.irfft(spectrum.sum(axis=1))[:longest] / (len(flat) - np.arange(longest))
    above = np.flatnonzero(np.abs(total / total[0]) > DECORRELATED)
    return int(max(10, every * min(longest, above[-1] + 1)))

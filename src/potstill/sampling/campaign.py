"""A campaign: walkers that share one bias, learn it in rounds, and then produce frames with it frozen.

Half of the walkers are molten first. A round's walkers, bias, records and frames are one file: a run that is killed
goes on from the last whole round and ends with the same frames.
"""

from __future__ import annotations

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
from potstill.sampling.bias import FROZEN, GPA, KB, OPES, Bias, Learning, gain, merged, no_bias
from potstill.sampling.ensembles import DECORRELATED, HIGH, LOW, METHODS, ORDERS, ExtendedEnsemble, decorrelation
from potstill.sampling.loop import ACCEPTED, FINE, STRAYED, TRIED, Md, Walker
from potstill.sampling.thermodynamics import Series, crossings
from potstill.sampling.walkers import Done, Engine, Task, advance, order_for

if TYPE_CHECKING:
    from ase import Atoms

F64 = NDArray[np.float64]

FRICTION = 10.0  # 1/ps
RECORD_EVERY = 20  # steps
MELTING = 1.5  # of the highest temperature: where walkers are molten first
TRACE = (2_000, 5)  # steps in which forces are traced, and the steps between
MEETING, OPES_MEETING = 8.0, 50  # k_B T₀ taught, or updates of opes, between two meetings of the walkers
FEWEST_UPDATES = 5  # between two meetings
SHAPE_STEP, SHAPE_LIMIT = 0.012, 0.4  # the limit lets fcc reach bcc along Bain's path, at 0.32
SKIN = 1.0  # Å
ROUND, SLOW_ROUND = (4_000, 10_000), (500, 1_000)  # steps that learn and that produce between two stores


_STORED = ("index", "alive", "volume_step", "stride", "records", "frames", "cells", "marks")


class StrayedError(ConvergenceError):
    """Walkers of a model have left what it has learnt.

    Attributes
    ----------
    frames : list of Frame
        The first such frame of each of them.
    where : str
        In which part of the run.
    """

    def __init__(self, frames: list[Frame], where: str) -> None:
        super().__init__(
            f"{len(frames)} walkers have left what the model has learnt, {where}. Label their frames and learn them."
        )
        self.frames, self.where = frames, where


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
        See :class:`potstill.sampling.loop.Output`.
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
        """Return the whole as a ``.safetensors`` file."""
        from safetensors.numpy import save

        arrays: dict[str, Any] = {f"bias_{k}": np.asarray(v) for k, v in self.bias._asdict().items()}
        for k in Walker._fields:
            arrays[f"walker_{k}"] = np.array([getattr(w, k) for w in self.walkers])
        for k in _STORED:
            arrays[k] = np.asarray(getattr(self, k))
        return bytes(
            save({k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}, {"kind": self.kind})
        )

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a file back.

        Raises
        ------
        StoreError
            If the file is not one of ours, whole.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                z = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - it is no dict
                kind = (file.metadata() or {})["kind"]
            bias: dict[str, Any] = {k: z[f"bias_{k}"] for k in Bias._fields}
            bias = {k: v.item() if v.ndim == 0 else np.array(v) for k, v in bias.items()}
            walkers = zip(*(z[f"walker_{k}"] for k in Walker._fields), strict=True)
            stored = {k: z[k] for k in _STORED}
            return cls(
                **{k: v.item() if v.ndim == 0 else v for k, v in stored.items()},
                kind=kind,
                walkers=[Walker(*(np.array(a) for a in w)) for w in walkers],
                bias=Bias(**bias),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StoreError(
                f"{path}: expected a round of sampling, but it cannot be read ({error}). Delete it."
            ) from None


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
    guard : float
        See :class:`potstill.sampling.walkers.Engine`; a run that leaves what the model has learnt ends by
        :class:`StrayedError`.
    """

    def __init__(
        self,
        ensemble: ExtendedEnsemble,
        potential: Potential,
        crystal: Atoms,
        seed: int,
        folder: Path | None,
        tell: Callable[[str], None] = lambda _line: None,
        guard: float = 0.0,
    ) -> None:
        from ase import units

        self.ensemble, self.crystal, self.seed, self.folder, self.tell = ensemble, crystal, seed, folder, tell
        self.n_atoms = len(crystal)
        self.engine = Engine(potential, crystal.get_chemical_symbols()[0], self.n_atoms, guard)
        self.order = order_for(ORDERS[ensemble.order], crystal)
        slow = self.engine.path == "calculator"
        self.learning_chunk, self.production_chunk = SLOW_ROUND if slow else ROUND
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
            stored = self.folder / f"{index:05d}.safetensors" if self.folder else None
            if stored and stored.exists():
                state = State.load(stored)
            else:
                state = self._round(state, index, pool)
                if stored:
                    write_atomic(stored, state.dump())
            if not state.alive.any():
                low, high = self.ensemble.temperature
                raise ConvergenceError(
                    f"Every walker exploded between {low:.0f} and {high:.0f} K in the round '{state.kind}': "
                    "energies left what a metal has. Take a shorter sample.timestep, a lower highest temperature, or a "
                    "potential that knows close encounters of atoms; the rounds before are kept."
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
        steps, frames, traces = self.ensemble.prepare, 0, 0
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
                half = after.records.shape[1] // 2
                after.bias = self.ensemble.first_bias(after.bias, self.n_atoms, after.records[after.alive][:, half:])
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
        whole: list[Done] = []
        records: list[F64] = []
        state, left = before, per_round
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
        if any(r.status == STRAYED for r in results.values()):
            raise self._strayed({w: r.walker for w, r in results.items() if r.status == STRAYED}, kind)
        alive = np.array([w in results and results[w].status == FINE for w in range(len(before.walkers))])
        for w in np.flatnonzero(before.alive & ~alive):
            self.tell(f"sample: walker {w} exploded in round {index} ({kind}) and is left out from there")
        whole = [results[int(w)] for w in np.flatnonzero(alive)]
        walkers = [results[w].walker if alive[w] else old for w, old in enumerate(before.walkers)]

        def gathered(name: str) -> F64:
            like = getattr(next(iter(results.values())).output, name)
            return np.array(
                [getattr(results[w].output, name) if a else np.zeros_like(like) for w, a in enumerate(alive)]
            )

        bias = self._walls(self.ensemble.T0) if kind == "melt" else before.bias
        state = State(
            index, kind, walkers, alive, bias, before.volume_step, before.stride, gathered("records"),
            gathered("frames"), gathered("cells"), gathered("marks"),
        )  # fmt: skip
        return state, whole

    def _strayed(self, walkers: dict[int, Walker], kind: str) -> StrayedError:
        from ase import Atoms

        frames = []
        for w, walker in walkers.items():
            atoms = Atoms([self.engine.element] * self.n_atoms, positions=walker.x, cell=walker.h, pbc=True)
            frames.append(Frame.of(atoms, Origin("strayed", f"{self.name}-walker{w}-{kind}")))
        what = {"melt": "while they melted or settled", "settle": "while they melted or settled"}
        return StrayedError(frames, what.get(kind, "while the bias was learnt" if kind == "learn" else "in production"))

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
            temperature = round(float(e.T0 / mark[3]), 1)
            origin = Origin(e.name, f"{self.name}-walker{w}", temperature, pressure, int(before + mark[0]))
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
        steps = {"prepare": 2 * e.prepare + TRACE[0], "learn": self.n_learning * self.learning_chunk}
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
            "kinetic_temperature": _kinetic(produced, survivors) / (1.5 * self.n_atoms * KB),
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
            per = state.frames.shape[1] if state.kind == "produce" else self.learning_chunk
            all_of = share if state.kind == "produce" else self.n_learning * self.learning_chunk
            done, wanted = ((k * e.walkers) for k in (min((n + 1) * per, all_of), all_of))
            what = ("frames", "steps of learning")[state.kind == "learn"]
            self.tell(
                f"sample: {done:,}/{wanted:,} {what}, "
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
                f"{100 * beyond:.0f} % of production lies beyond the upper wall, {e.walls[1]:.1f} Å³/atom: it "
                f"evaporates. Lower the highest temperature ({e.temperature[1]:.0f} K) or raise sample.pressure. The "
                "frames are kept."
            )
        return out


def _kinetic(produced: list[F64], walkers: NDArray[np.intp]) -> float:
    """Return the mean kinetic energy of a cell, eV."""
    return float(np.concatenate(produced, axis=1)[walkers][..., 5].mean())


def _crossings(rounds: list[F64]) -> int:
    """Count changes of phase over all walkers; rounds follow each other in time."""
    if not rounds:
        return 0
    return sum(crossings(s, LOW, HIGH) for s in np.concatenate(rounds, axis=1)[..., 2])

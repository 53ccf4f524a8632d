"""Training of a committee of MACE networks; see :mod:`potstill.backends.mace`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.backends.mace import MaceCommittee
from potstill.backends.mace_network import LEARNT, Network, _batch, _build, _Graph, _graph, _mace, _numbers, _precision
from potstill.config import TrainConfig
from potstill.data import VOIGT, Array, Dataset, Frame, voigt
from potstill.errors import ConvergenceError, DataError

EMA = 0.99

# What training takes from a configuration.
KNOBS = frozenset(
    ["model.cutoff"]
    + [f"train.{k}" for k in ("members", "steps", "batch", "learning_rate")]
    + [f"train.{k}" for k in ("energy_scale", "force_scale", "virial_scale", "robust")]
)


@dataclass(frozen=True)
class _Example:
    """A labelled frame: graph, energy without that of free atoms, forces, virial as Voigt (NaN where unknown)."""

    graph: _Graph
    energy: float
    forces: Array
    virial: Array


def train_mace(
    data: Dataset,
    network: Network,
    settings: TrainConfig,
    *,
    seed: int,
    calibrate_on: Dataset | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> MaceCommittee:
    """Train a committee of MACE networks, one member after the other, on energies, forces and stresses.

    Members differ by their initial weights, the order of batches, and a weight of each frame (Bayesian bootstrap, half
    strength). Atomic energies are the least-squares solution of composition against energy; the scale is the forces'
    root mean square. Adam with a short warm-up and a cosine decay, clipped gradients, averaged weights. On a CPU a seed
    gives the same model again.

    Parameters
    ----------
    data : Dataset
        Frames with labels; those without are left out.
    network : Network
        The form of the networks.
    settings : TrainConfig
        Members, steps of each, and the other keys in :data:`KNOBS`, which mean what they mean for the other model.
    seed : int
        Decides everything drawn at random.
    calibrate_on : Dataset | None
        Labelled frames that are not in ``data``.
    tell : callable
        Gets lines of progress, with an estimate of the time that is left.

    Raises
    ------
    DataError
        If no frame has labels.
    ConvergenceError
        If the training diverged.
    BackendError
        If mace-torch is not installed.
    """
    from importlib.metadata import version

    frames = data.only_labelled()
    if not len(frames):
        raise DataError("Training needs labelled frames, but the data have none.")
    torch, _, _ = _mace()
    elements = frames.elements
    examples, shift = _examples(frames, elements, network.cutoff)
    forces = np.concatenate([e.forces.ravel() for e in examples])
    scale = float(np.sqrt(np.mean(forces**2))) or 1.0
    neighbours = max(1.0, 3 * sum(e.graph.edges.shape[1] for e in examples) / len(forces))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    states: list[dict[str, Array]] = []
    begun = time.monotonic()
    for member in range(settings.members):

        def told(step: int, loss: float, member: int = member) -> None:
            done = member * settings.steps + step
            left = (time.monotonic() - begun) * (settings.members * settings.steps / done - 1)
            tell(
                f"train: mace {member + 1}/{settings.members}, step {step}/{settings.steps}, loss {loss:.3f}, "
                f"{_duration(left)} left"
            )

        rng = np.random.default_rng([seed, member])
        with _precision("float32"):
            module = _build(network, elements, neighbours, seed=int(rng.integers(2**31))).to(device)
            module.scale_shift.scale.fill_(scale)
            _optimise(module, examples, settings, rng, told)
        # the shift in double precision: a total energy needs the digits
        states.append({**_numbers(module), LEARNT[0]: shift[None, :]})
    weights = {name: np.stack([s[name] for s in states]) for name in states[0]}
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise ConvergenceError("The training diverged: weights are NaN or infinite. Lower train.learning_rate.")
    about = {
        "n_frames": len(frames),
        "n_stress": sum(bool(np.isfinite(e.virial).all()) for e in examples),
        "sources": sorted({f.labels.source for f in frames if f.labels is not None}),
        "seed": seed,
        "train": settings.model_dump(mode="json"),
        "mace-torch": version("mace-torch"),
    }
    n_features = network.channels * network.layers
    plain = np.stack([np.zeros(n_features), np.ones(n_features)])
    committee = MaceCommittee(network, elements, neighbours, weights, plain, (1.0, 1.0), about)
    committee = _measured(committee, frames)
    held_out = [f for f in calibrate_on or () if f.labels is not None]
    return _calibrated(committee, held_out) if held_out and settings.members > 1 else committee


def _examples(frames: Dataset, elements: tuple[str, ...], cutoff: float) -> tuple[list[_Example], Array]:
    """Return what is learnt from each frame, and the elements' energies (n_elements,) in eV, taken off the labels."""
    graphs = [_graph(f, elements, cutoff) for f in frames]
    counts = np.array([np.bincount(g.species, minlength=len(elements)) for g in graphs], dtype=np.float64)
    labels = [f.labels for f in frames if f.labels is not None]
    energies = np.array([label.energy for label in labels])
    size = counts.sum(1)
    shift = np.linalg.lstsq(counts / size[:, None], energies / size, rcond=None)[0]
    examples = []
    for frame, graph, label, energy in zip(frames, graphs, labels, energies - counts @ shift, strict=True):
        virial = np.full(6, np.nan)
        if label.stress is not None and frame.volume is not None:
            virial = voigt(label.stress) * frame.volume
        examples.append(_Example(graph, float(energy), label.forces, virial))
    return examples, shift


def _measured(committee: MaceCommittee, frames: Dataset) -> MaceCommittee:
    """Set the metric of the features by their mean and deviation over at most 200 of the frames."""
    rows = committee.describe(frames[:: max(1, len(frames) // 200)])
    mean, within = np.split(rows, 2, axis=1)
    spread = np.sqrt(mean.var(0) + np.mean(within**2, axis=0))  # over all atoms of all frames
    scale = np.maximum(spread, 1e-3 * spread.max())
    return replace(committee, metric=np.stack([mean.mean(0), np.where(scale > 0, scale, 1.0)]))


def _calibrated(committee: MaceCommittee, held_out: Sequence[Frame]) -> MaceCommittee:
    """Measure errors per unit of spread, as ratios of root mean squares over frames."""
    pairs = []
    for frame, p in zip(held_out, committee.predict(held_out), strict=True):
        if frame.labels is not None:
            of_force = np.mean(np.sum((p.forces.mean(0) - frame.labels.forces) ** 2, axis=1))
            of_energy = ((p.energy.mean() - frame.labels.energy) / frame.n_atoms) ** 2
            pairs.append(np.array([of_force, np.mean(p.force_spread**2), of_energy, p.energy_spread**2]))
    force, force_spread, energy, energy_spread = np.sqrt(np.mean(pairs, axis=0)).tolist()
    calibration = (force / force_spread if force_spread else 1.0, energy / energy_spread if energy_spread else 1.0)
    return replace(committee, calibration=calibration)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _batches(sizes: Sequence[int], n_atoms: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield indices of frames with about ``n_atoms`` atoms together; all come once before one comes again."""
    waiting: list[int] = []
    for _ in range(steps):
        chosen: list[int] = []
        atoms = 0
        while not chosen or (atoms < n_atoms and len(chosen) < len(sizes)):
            waiting = waiting or list(rng.permutation(len(sizes)))
            chosen.append(waiting.pop())
            atoms += sizes[chosen[-1]]
        yield np.array(chosen, dtype=np.intp)


def _optimise(
    module: Any,
    examples: Sequence[_Example],
    settings: TrainConfig,
    rng: np.random.Generator,
    tell: Callable[[int, float], None],
) -> None:
    """Train one network in place; ``tell(step, loss)`` is called about ten times, and early once."""
    torch, _, _ = _mace()
    parameters = list(module.parameters())
    first = parameters[0]
    emphasis = 0.5 + 0.5 * rng.exponential(size=len(examples))
    if settings.members == 1:
        emphasis[:] = 1.0
    average = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, settings.learning_rate)
    n_elements = module.node_embedding.linear.irreps_in.dim
    sizes = [len(e.forces) for e in examples]
    for step, chosen in enumerate(_batches(sizes, 32 * settings.batch, settings.steps, rng)):
        rate = settings.learning_rate * min(1.0, (step + 1) / min(100, max(1, settings.steps // 10)))
        rate *= 0.5 * (1 + math.cos(math.pi * step / settings.steps)) + 1e-3
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = [examples[i] for i in chosen]
        data = _batch([e.graph for e in batch], n_elements, first.dtype, str(first.device))
        out = module(data, training=True, compute_virials=True)
        losses = _losses(out, data["batch"], batch, settings)
        loss = (losses * torch.as_tensor(emphasis[chosen], dtype=first.dtype, device=first.device)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 20.0)
        optimiser.step()
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, p in zip(average, parameters, strict=True):
                a.mul_(decay).add_(p, alpha=1 - decay)
        if (step + 1) % max(1, settings.steps // 10) == 0 or step + 1 == min(20, settings.steps):
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ConvergenceError(f"The training diverged by step {step + 1}. Lower train.learning_rate.")
            tell(step + 1, value)
    with torch.no_grad():
        for a, p in zip(average, parameters, strict=True):
            p.copy_(a)


def _losses(out: Mapping[str, Any], owner: Any, batch: Sequence[_Example], settings: TrainConfig) -> Any:
    """Return the loss of each frame: energy, forces and virial in units of their scales, outliers counting linearly."""
    torch, _, _ = _mace()

    energy = out["energy"]

    def put(values: Any) -> Any:
        return torch.as_tensor(np.asarray(values), dtype=energy.dtype, device=energy.device)

    def robust(x: Any) -> Any:
        return 2 * settings.robust**2 * (torch.sqrt(1 + (x / settings.robust) ** 2) - 1)

    size = put([len(e.forces) for e in batch])
    of_energy = robust((energy - put([e.energy for e in batch])) / (size * settings.energy_scale))
    off = (out["forces"] - put(np.concatenate([e.forces for e in batch]))) / settings.force_scale
    of_forces = torch.zeros_like(size).index_add(0, owner, robust(off).mean(1)) / size
    wanted = np.array([e.virial for e in batch])
    known = np.isfinite(wanted).all(1)
    rows, columns = zip(*VOIGT, strict=True)
    virial = -0.5 * (out["virials"] + out["virials"].transpose(1, 2))[:, rows, columns]
    off = (virial - put(np.where(known[:, None], wanted, 0.0))) / (size[:, None] * settings.virial_scale)
    return of_energy + of_forces + robust(off).mean(1) * put(known)

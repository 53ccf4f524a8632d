"""Training: descriptors once, then all members as one batched network, forces through the compiled kernels.

Descriptors do not depend on the weights, so every frame's neighbours and descriptors are computed once. A network's
∂E/∂G becomes forces and virials by :func:`~potstill.model.gradients.batch_pull`, which is linear; the gradient of the
loss goes back by its transpose. Both recompute the edges' functions, so that memory holds a few kB an atom whatever the
size of a frame. Training starts from the ridge solution of the linear model, which the network then corrects.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.config import TrainConfig
from potstill.data import Array, Dataset, Frame, voigt
from potstill.errors import ConvergenceError, DataError
from potstill.model import gradients, kernels, on_gpu
from potstill.model.committee import Committee, Weights
from potstill.model.descriptor import Descriptor, Whitening, chunks
from potstill.model.domain import COMPONENTS, Domain
from potstill.model.muon import Muon
from potstill.model.neighbours import Geometry, join
from potstill.model.wall import fit_wall

# Penalties that the ridge solution chooses from, relative to the mean diagonal of the normal matrix: labels without
# noise want little, few k-points or few frames much.
RIDGES = tuple(10.0**k for k in np.arange(-7.0, -1.9, 0.5))
RIDGE_JUDGES = 25_000  # frames that are left out by turns to choose, times parameters: some 200 for one element
ROBUST_PASSES = 4  # of the ridge solution; the first trusts every frame alike
# Residuals of the ridge solution, in units of the loss scales, beyond which a frame loses its say there. Far below
# the loss's own limit: what is not linear (an open lattice, a slab) is the network's to learn, and would otherwise bend
# the linear start for all other frames (ten such frames among a hundred doubled the others' force error).
RIDGE_ROBUST = 0.25
RIDGE_NUMBERS = 50_000_000  # in the equations that the ridge solution holds at once; more frames are thinned out
# Smooth features first: directions that hardly vary are the network's to find, not to begin with. At 100 frames, ten of
# them slabs and crystals of another kind, this leaves three fifths of the energy error that 1e-3 leaves; on varied data
# from density-functional theory it costs 3 % (and 1e-2 6 %).
FLOOR = 3e-3
EMA = 0.998
BYTES_PER_ATOM = 4_000  # neighbours, images, descriptors and their copies while they are put together


class Descriptions:
    """Neighbours and descriptors of frames by key: computed once, kept through all rounds."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self._known: dict[str, tuple[Geometry, NDArray[np.float32]]] = {}

    def of(self, frame: Frame) -> tuple[Geometry, NDArray[np.float32]]:
        """Return a frame's neighbours, and its descriptors (n_atoms, n_features)."""
        self.learn([frame])
        return self._known[frame.key]

    def learn(self, frames: Sequence[Frame]) -> None:
        """Describe those frames that are new, many at a time."""
        for chunk in chunks([f for f in frames if f.key not in self._known]):
            parts = [self.descriptor.geometry([frame]) for frame in chunk]
            G = self.descriptor.compute(join(parts)).astype(np.float32)
            cuts = np.cumsum([len(p.centre) for p in parts])[:-1]
            for frame, part, described in zip(chunk, parts, np.split(G, cuts), strict=True):
                lean = replace(part, shift=np.empty((0, 3)))  # nothing here moves
                self._known[frame.key] = lean, described


@dataclass(frozen=True)
class _Lesson:
    """Labelled frames, ready to learn from; the virial as Voigt times volume, zero where it is unknown."""

    geometry: Geometry
    x: torch.Tensor  # (n_atoms, F) whitened
    species: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    virial: torch.Tensor
    has_virial: torch.Tensor
    energies: torch.Tensor
    has_energies: torch.Tensor
    edges: on_gpu.Edges | None

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Atoms of each frame."""
        return np.diff(self.geometry.atoms)


def _lesson(frames: Dataset, known: Descriptions, whitening: Whitening, device: torch.device) -> _Lesson:
    known.learn(frames)
    parts: list[Geometry] = []
    x = []
    for chunk in chunks(frames):
        found = [known.of(frame) for frame in chunk]
        parts.extend(geometry for geometry, _ in found)
        G = np.concatenate([described for _, described in found])
        species = np.concatenate([geometry.species for geometry, _ in found])
        x.append(whitening.apply(G.astype(np.float64), species).astype(np.float32))
    labels = [f.labels for f in frames if f.labels is not None]
    volumes = [f.volume if f.labels is not None and f.labels.stress is not None else None for f in frames]
    virials = [
        np.zeros(6) if v is None or l.stress is None else voigt(l.stress) * v
        for l, v in zip(labels, volumes, strict=True)
    ]
    of_atoms = [np.zeros(len(l.forces)) if l.energies is None else l.energies for l in labels]
    geometry = join(parts)

    def real(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float32)).to(device)

    return _Lesson(
        geometry,
        real(np.concatenate(x)),
        torch.as_tensor(geometry.species.astype(np.int64)).to(device),
        torch.as_tensor(np.array([l.energy for l in labels])).to(device),
        real(np.concatenate([l.forces for l in labels])),
        real(np.stack(virials)),
        real([v is not None for v in volumes]),
        torch.as_tensor(np.concatenate(of_atoms)).to(device),
        real([l.energies is not None for l in labels]),
        None if device.type == "cpu" else on_gpu.Edges.of(geometry, device),
    )


@dataclass(frozen=True)
class _Batch:
    """Some frames of a lesson, and where their atoms stand."""

    lesson: _Lesson
    shape: kernels.Shape
    frames: NDArray[np.int64]
    at: NDArray[np.int64]
    atoms: torch.Tensor
    frame: torch.Tensor
    n_atoms: torch.Tensor

    @classmethod
    def of(cls, lesson: _Lesson, shape: kernels.Shape, frames: NDArray[np.int64]) -> _Batch:
        begin, size = lesson.geometry.atoms[frames], lesson.sizes[frames]
        at = np.concatenate([[0], np.cumsum(size)])
        atoms = np.repeat(begin - at[:-1], size) + np.arange(at[-1])
        owner = np.repeat(np.arange(len(frames)), size)
        return cls(
            lesson,
            shape,
            frames,
            at,
            torch.as_tensor(atoms).to(lesson.x.device),
            torch.as_tensor(owner).to(lesson.x.device),
            torch.as_tensor(size.astype(np.float32)).to(lesson.x.device),
        )

    def edges(self) -> on_gpu.Edges:
        """Return the batch's edges, its atoms numbered from 0; for accelerators."""
        lesson, device = self.lesson, self.lesson.x.device
        of_all = lesson.edges or on_gpu.Edges.of(lesson.geometry, device)
        first, atoms = lesson.geometry.first, lesson.geometry.atoms
        taken = np.concatenate([np.arange(first[atoms[f]], first[atoms[f + 1]]) for f in self.frames])
        place = torch.zeros(len(lesson.x), dtype=torch.int64, device=device)
        place[self.atoms] = torch.arange(len(self.atoms), device=device)
        return of_all.take(torch.as_tensor(taken).to(device), place)


class _Pull(torch.autograd.Function):
    """∂E/∂G (M, n, F) → −∂E/∂r (M, n, 3) and ∂E/∂ε (M, B, 6), by the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Go from the descriptors to the atoms."""
        M, n, _ = g.shape
        G, B = batch.lesson.geometry, len(batch.frames)
        forces, virial = np.zeros((M, n, 3), np.float32), np.zeros((M, B, 6), np.float32)
        ctx.C = np.empty(n * kernels.coefficients(batch.shape), np.float32)
        ctx.batch = batch
        gradients.batch_pull(
            batch.frames, batch.at, G.atoms, G.first, G.second, G.x, G.owner, G.kinds, G.centre, batch.shape,
            np.ascontiguousarray(g.detach().numpy()), ctx.C, forces, virial,
        )  # fmt: skip
        return torch.from_numpy(forces), torch.from_numpy(virial)

    @staticmethod
    def backward(ctx: Any, by_forces: torch.Tensor, by_virial: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Go back by the transpose."""
        batch = ctx.batch
        G = batch.lesson.geometry
        M, n, _ = by_forces.shape
        out = np.empty((M, n, kernels.features(batch.shape)), np.float32)
        gradients.batch_push(
            batch.frames, batch.at, G.atoms, G.first, G.second, G.x, G.owner, G.kinds, G.centre, batch.shape,
            ctx.C, np.ascontiguousarray(by_forces.numpy()), np.ascontiguousarray(by_virial.numpy()), out,
        )  # fmt: skip
        return torch.from_numpy(out), None


class _Network:
    """All members for all elements: parameters, and energy with its gradient as plain differentiable tensors."""

    def __init__(self, whitening: Whitening, hidden: Sequence[int], members: int, generator: torch.Generator) -> None:
        Z, F = whitening.mean.shape
        sizes = [F, *hidden, 1]
        self.whitening = whitening
        self.matrix = torch.as_tensor(whitening.matrix, dtype=torch.float32)
        self.linear = torch.zeros(Z, members, F)
        self.W = [torch.randn(Z, members, a, b, generator=generator) / math.sqrt(a) for a, b in pairwise(sizes)]
        self.W[-1] *= 0.03  # the start is the ridge solution, barely disturbed
        self.b = [torch.zeros(Z, members, b) for b in sizes[1:]]

    @classmethod
    def unfolded(cls, start: Committee) -> tuple[_Network, Array]:
        """Return a trained committee as it was before :meth:`fold`, and its members' mean shift."""
        network = cls(start.whitening, start.hidden, start.members, torch.Generator())
        inverse = np.linalg.inv(start.whitening.matrix)
        mean = start.whitening.mean
        shift = start.weights.shift + np.einsum("zf,zmf->zm", mean, start.weights.linear)
        linear = np.einsum("zgf,zmf->zmg", inverse, start.weights.linear)
        network.linear = torch.as_tensor(linear, dtype=torch.float32)
        for k, (W, b) in enumerate(start.weights.layers):
            network.W[k], network.b[k] = (torch.as_tensor(a, dtype=torch.float32) for a in (W, b))
        W, b = start.weights.layers[0]
        network.W[0] = torch.as_tensor(np.einsum("zgf,zmfo->zmgo", inverse, W), dtype=torch.float32)
        network.b[0] = torch.as_tensor(b + np.einsum("zf,zmfo->zmo", mean, W), dtype=torch.float32)
        base = shift.mean(1)
        network.b[-1] = network.b[-1] + torch.as_tensor(shift - base[:, None], dtype=torch.float32).unsqueeze(-1)
        return network, base

    def parameters(self) -> list[torch.Tensor]:
        return [self.linear, *self.W, *self.b]

    def to(self, device: torch.device) -> None:
        self.matrix, self.linear = self.matrix.to(device), self.linear.to(device)
        self.W, self.b = [w.to(device) for w in self.W], [b.to(device) for b in self.b]

    def _of_element(self, x: torch.Tensor, z: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return E (M, n) and ∂E/∂G (M, n, F), of raw descriptors, for atoms of element ``z`` with whitened ones x."""
        x = x.unsqueeze(0).expand(self.linear.shape[1], -1, -1)
        h, slopes = x, []
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            a = torch.baddbmm(b[z].unsqueeze(1), h, W[z])
            s = torch.sigmoid(a)
            h = a * s
            slopes.append(s + h * (1 - s))
        energy = torch.baddbmm(self.b[-1][z].unsqueeze(1), h, self.W[-1][z])
        energy = energy + torch.bmm(x, self.linear[z].unsqueeze(-1))
        back = self.W[-1][z].transpose(1, 2) * slopes[-1]
        for W, slope in zip(self.W[-2:0:-1], slopes[-2::-1], strict=True):
            back = torch.bmm(back, W[z].transpose(1, 2)) * slope
        first = torch.matmul(self.matrix[z], self.W[0][z])  # through the whitening at once, not atom by atom
        linear = torch.matmul(self.linear[z], self.matrix[z].T)
        return energy.squeeze(-1), torch.baddbmm(linear.unsqueeze(1), back, first.transpose(1, 2))

    def predict(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return energies of the atoms (M, n), forces (M, n, 3), and ∂E/∂ε (M, B, 6) of a batch."""
        x, kinds = batch.lesson.x[batch.atoms], batch.lesson.species[batch.atoms]
        if len(self.matrix) == 1:
            energy, g = self._of_element(x, 0)
        else:
            energy, g = x.new_zeros(len(self.b[0][0]), len(x)), x.new_zeros(len(self.b[0][0]), *x.shape)
            for z in range(len(self.matrix)):
                mine = torch.nonzero(kinds == z).squeeze(1)
                if len(mine):
                    e, d = self._of_element(x[mine], z)
                    energy, g = energy.index_copy(1, mine, e), g.index_copy(1, mine, d)
        if x.device.type == "cpu":
            forces, virial = _Pull.apply(g, batch)  # type: ignore[no-untyped-call]
        else:
            forces, virial = on_gpu.pull(g, batch.edges(), batch.frame, len(batch.frames), batch.shape)
        return energy, forces, virial

    def fold(self, shift: Array) -> Weights:
        """Give the weights for raw descriptors: whitening goes into the first layer and the linear term."""
        self.to(torch.device("cpu"))
        mean, matrix = (torch.as_tensor(a) for a in (self.whitening.mean, self.whitening.matrix))
        linear = torch.einsum("zfg,zmg->zmf", matrix, self.linear.double())
        first = torch.einsum("zfg,zmgo->zmfo", matrix, self.W[0].double())
        layers = [(first, self.b[0].double() - torch.einsum("zf,zmfo->zmo", mean, first))]
        layers += [(W.double(), b.double()) for W, b in zip(self.W[1:], self.b[1:], strict=True)]
        offset = shift[:, None] - torch.einsum("zf,zmf->zm", mean, linear).numpy()
        return Weights(offset, linear.numpy(), tuple((W.numpy(), b.numpy()) for W, b in layers))


def _ridge(
    frames: Dataset, known: Descriptions, lesson: _Lesson, whitening: Whitening, settings: TrainConfig
) -> tuple[Array, Array]:
    """Solve the linear model for energies, forces and virials together, by reweighted least squares.

    Returns
    -------
    linear : ndarray (Z, F)
        On whitened features.
    shift : ndarray (Z,)
        Energy of an atom at the mean descriptor, eV.
    """
    Z, F = whitening.mean.shape
    numbers = int((Z * F + Z) * (3 * lesson.sizes + 7).sum())
    taken = range(0, len(frames), max(1, math.ceil(numbers / RIDGE_NUMBERS)))
    systems = [_equations(k, known.of(frames[k])[0], lesson, known.descriptor, whitening, settings) for k in taken]
    trust = np.ones(len(systems))
    solution = np.zeros(Z * F + Z)
    for k in range(ROBUST_PASSES):
        weighed = [(w * A, w * y) for w, (A, y) in zip(np.sqrt(trust), systems, strict=True)]
        if k in (0, ROBUST_PASSES - 1):
            ridge = _best_ridge(weighed, Z * F)
        solution = _solve(weighed, Z * F, ridge)
        off = np.array([np.sum((solution @ A - y) ** 2) for A, y in systems])
        trust = 1.0 / (1.0 + off / RIDGE_ROBUST**2)
        trust /= trust.mean()  # noise that all share is no reason to trust nobody, and the penalty keeps its meaning
    return solution[: Z * F].reshape(Z, F), solution[Z * F :]


def _equations(
    k: int, geometry: Geometry, lesson: _Lesson, descriptor: Descriptor, whitening: Whitening, settings: TrainConfig
) -> tuple[Array, Array]:
    """Return frame k's linear equations x·A = y, in units of the loss scales: energy, forces, virial."""
    Z, F = whitening.mean.shape
    low, high = lesson.geometry.atoms[k], lesson.geometry.atoms[k + 1]
    N = int(high - low)
    slopes = descriptor.design(geometry)
    row, slope = np.zeros(Z * F + Z), np.zeros((Z * F + Z, 3 * N + 6))
    x = lesson.x[low:high].double().cpu().numpy()
    for z in range(Z):
        mine = geometry.species == z
        row[z * F : (z + 1) * F] = x[mine].sum(0)
        row[Z * F + z] = mine.sum()
        slope[z * F : (z + 1) * F] = whitening.matrix[z].T @ slopes[z].T
    of_energy = 1.0 / (N * settings.energy_scale)
    of_forces = 1.0 / (settings.force_scale * math.sqrt(3 * N))
    of_virial = float(lesson.has_virial[k]) / (N * settings.virial_scale * math.sqrt(6))
    A = np.concatenate([row[:, None] * of_energy, slope[:, : 3 * N] * of_forces, slope[:, 3 * N :] * of_virial], axis=1)
    forces = lesson.forces[low:high].double().cpu().numpy().ravel()
    virial = lesson.virial[k].double().cpu().numpy()
    y = np.concatenate([[float(lesson.energy[k]) * of_energy], -forces * of_forces, virial * of_virial])
    if not (settings.atomic_scale and lesson.has_energies[k]):
        return A, y
    # Energies of the atoms tell the elements' shifts apart, which totals of one composition cannot.
    share = np.zeros((Z * F + Z, Z))
    for z in range(Z):
        share[z * F : (z + 1) * F, z], share[Z * F + z, z] = row[z * F : (z + 1) * F], row[Z * F + z]
    own = lesson.energies[low:high].cpu().numpy()
    of_elements = np.array([own[geometry.species == z].sum() for z in range(Z)])
    return np.concatenate([A, share * of_energy], axis=1), np.concatenate([y, of_elements * of_energy])


def _normal(systems: Sequence[tuple[Array, Array]], n_linear: int) -> tuple[Array, Array, Callable[[float], Array]]:
    """Return the normal matrix, the right side, and the penalties for a ridge.

    The elements' shifts, which may be degenerate, get a smaller penalty.
    """
    n = len(systems[0][0])
    normal, right = np.zeros((n, n)), np.zeros(n)
    for A, y in systems:
        normal += A @ A.T
        right += A @ y
    slopes, shifts = (float(np.trace(normal[part, part])) for part in (slice(n_linear), slice(n_linear, None)))
    tiny = 1e-12 * np.trace(normal)  # where no feature ever moves, as for an atom alone

    def penalties(ridge: float) -> Array:
        penalty = np.full(n, ridge * slopes / n_linear)
        penalty[n_linear:] = 1e-9 * shifts
        return np.diag(np.maximum(penalty, tiny))

    return normal, right, penalties


def _solve(systems: Sequence[tuple[Array, Array]], n_linear: int, ridge: float) -> Array:
    normal, right, penalties = _normal(systems, n_linear)
    return np.asarray(np.linalg.solve(normal + penalties(ridge), right), dtype=np.float64)


def _best_ridge(systems: Sequence[tuple[Array, Array]], n_linear: int) -> float:
    """Return the penalty with the least error, as a geometric mean, on frames left out one at a time.

    A frame is left out by taking its part from the normal equations, so that its size does not matter.
    """
    if not all(np.isfinite(A).all() and np.isfinite(y).all() for A, y in systems):
        return float(RIDGES[0])  # labels that are no numbers; the weights, which are looked at in the end, tell
    normal, right, penalties = _normal(systems, n_linear)
    judges = systems[:: math.ceil(len(systems) * len(normal) / RIDGE_JUDGES)]
    errors = np.zeros(len(RIDGES))
    for A, y in judges:
        own, told = A @ A.T, A @ y
        for k, ridge in enumerate(RIDGES):
            w = np.linalg.solve(normal - own + penalties(ridge), right - told)
            errors[k] += math.log(max(float(y @ y - 2 * (w @ told) + w @ own @ w), 1e-12))
    return float(RIDGES[int(np.argmin(errors))])


def _batches(sizes: NDArray[np.int64], batch: int, steps: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield ``steps`` batches of frames; all frames are shuffled and used before one repeats.

    A batch holds as many frames as have the atoms of ``batch`` frames of 32, four at least.
    """
    waiting: list[int] = []
    for _ in range(steps):
        taken: list[int] = []
        later: list[int] = []  # the next shuffle began within this batch
        atoms = 0
        while len(taken) < len(sizes) and (atoms < 32 * batch or len(taken) < 4):
            if not waiting:
                waiting = rng.permutation(len(sizes)).tolist()
            k = waiting.pop()
            if k in taken:
                later.append(k)
                continue
            taken.append(k)
            atoms += int(sizes[k])
        waiting.extend(later)
        yield np.array(taken, dtype=np.int64)


def _robust(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Return x² for small x and 2·limit·|x| for large (pseudo-Huber)."""
    return 2 * limit**2 * (torch.sqrt(1 + (x / limit) ** 2) - 1)


def fit(
    data: Dataset,
    descriptor: Descriptor,
    settings: TrainConfig,
    *,
    hidden: Sequence[int],
    seed: int,
    cache: Descriptions | None = None,
    start: Committee | None = None,
    tell: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Committee:
    """Train a committee.

    Parameters
    ----------
    data : Dataset
        Frames with labels; those without are left out.
    descriptor : Descriptor
        Must know the data's elements.
    settings : TrainConfig
        Steps, weights and so on.
    hidden : sequence of int
        Widths of the hidden layers.
    seed : int
        Decides initial weights, the members' emphasis on frames, and batches.
    cache : Descriptions | None
        Keeps neighbours and descriptors for a later call.
    start : Committee | None
        Go on from its weights, with its whitening, and not from the ridge solution; of another metal perhaps, whose
        element then stands for ours.
    tell : callable (step, loss)
        Called about ten times.

    Returns
    -------
    Committee
        Uncalibrated.

    Raises
    ------
    DataError
        If no frame has labels, or ``start`` has another descriptor or number of members.
    ConvergenceError
        If the training diverges.
    """
    frames = data.only_labelled()
    if not len(frames):
        raise DataError("Training needs labelled frames, but the data have none.")
    _afford(frames)
    learn, judge = _parted(frames, settings, seed)
    known = cache or Descriptions(descriptor)
    if start is not None:
        _compatible(start, descriptor, settings, hidden)
    whitening = Whitening.fit(descriptor, learn, FLOOR) if start is None else start.whitening
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lesson = _lesson(learn, known, whitening, device)
    if start is None:
        with np.errstate(invalid="ignore", over="ignore"):  # the weights are looked at in the end
            linear, shift = _ridge(learn, known, lesson, whitening, settings)
        network = _Network(whitening, hidden, settings.members, torch.Generator().manual_seed(seed))
        network.linear[:] = torch.as_tensor(linear, dtype=torch.float32)[:, None, :]
        network.to(device)
    else:
        network, shift = _Network.unfolded(start)
        network.to(device)
        shift = shift + _level(network, lesson, descriptor.shape, shift)
    steps = 0
    if settings.steps:
        test = _lesson(judge, known, whitening, device) if len(judge) else None
        steps = _Optimiser(network, lesson, test, shift, settings, seed, descriptor.shape, tell).run()
    weights = network.fold(shift)
    if not all(np.isfinite(t).all() for t in weights.tensors().values()):
        raise ConvergenceError("The training diverged: weights are NaN or infinite. Lower train.learning_rate.")
    species = lesson.geometry.species
    about = {
        "n_frames": len(learn),
        "n_stress": int(lesson.has_virial.sum()),
        "n_energies": int(lesson.has_energies.sum()),
        "sources": sorted({f.labels.source for f in frames if f.labels is not None}),
        "data": _data_digest(frames),
        "start": start.fingerprint if start is not None else None,
        "seed": seed,
        "steps": steps,
        "hidden": list(hidden),
        "train": settings.model_dump(mode="json"),
    }
    wall = fit_wall(descriptor, weights, learn)
    domain = Domain.fit(lesson.x[:, :COMPONENTS].double().cpu().numpy(), species, len(descriptor.elements))
    return Committee(descriptor, whitening, weights, wall, domain, 1.0, 1.0, about)


def _parted(frames: Dataset, settings: TrainConfig, seed: int) -> tuple[Dataset, Dataset]:
    """Keep some trajectories to decide when to stop, where that is asked for and there is more than one."""
    if not settings.validation or len(frames.trajectories) < 2:
        return frames, Dataset()
    return frames.split(settings.validation, rng=np.random.default_rng([seed, 4]))


def _compatible(start: Committee, descriptor: Descriptor, settings: TrainConfig, hidden: Sequence[int]) -> None:
    same = replace(start.descriptor, elements=descriptor.elements) == descriptor
    if not same or len(start.elements) != len(descriptor.elements):
        raise DataError(
            f"The model to start from has the descriptor {start.descriptor}, but {descriptor} is asked for. Give the "
            "same [model] settings and the same number of elements."
        )
    if start.members != settings.members or start.hidden != tuple(hidden):
        raise DataError(
            f"The model to start from has {start.members} members with layers of {start.hidden}, but "
            f"{settings.members} with {tuple(hidden)} are asked for. Set train.members and model.hidden alike."
        )


def _level(network: _Network, lesson: _Lesson, shape: kernels.Shape, shift: Array) -> Array:
    """Return what the elements' energies must rise by to fit new labels on average (another metal, another code)."""
    Z, B = len(shift), len(lesson)
    count, off = np.zeros((B, Z)), np.zeros(B)
    species, atoms = lesson.geometry.species, lesson.geometry.atoms
    with torch.no_grad():
        for k in range(B):
            batch = _Batch.of(lesson, shape, np.array([k]))
            count[k] = np.bincount(species[atoms[k] : atoms[k + 1]], minlength=Z)
            off[k] = float(lesson.energy[k] - network.predict(batch)[0].mean(0).double().sum()) - count[k] @ shift
    return np.asarray(np.linalg.lstsq(count, off, rcond=None)[0])


def _afford(frames: Dataset) -> None:
    """Refuse, before any work, what the machine's memory cannot hold."""
    atoms = sum(f.n_atoms for f in frames)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if atoms * BYTES_PER_ATOM > 0.9 * memory:
        raise DataError(
            f"Training on these {len(frames)} frames with {atoms:,} atoms needs about "
            f"{atoms * BYTES_PER_ATOM / 2**30:.0f} GiB of memory, and this machine has {memory / 2**30:.0f}. Distil "
            "them to fewer frames first."
        )


def _data_digest(frames: Dataset) -> str:
    content = hashlib.sha256()
    for f in frames:
        content.update(f.key.encode())
    return content.hexdigest()[:16]


class _Optimiser:
    """Muon with a cosine schedule; leaves the exponential average of the weights in the network."""

    def __init__(
        self,
        network: _Network,
        lesson: _Lesson,
        test: _Lesson | None,
        shift: Array,
        settings: TrainConfig,
        seed: int,
        shape: kernels.Shape,
        tell: Callable[[int, float], None],
    ) -> None:
        self.network, self.lesson, self.test = network, lesson, test
        self.settings, self.shape, self.tell = settings, shape, tell
        self.rng = np.random.default_rng([seed, 1])
        self.base = torch.as_tensor(shift).to(lesson.x.device)
        # Each member weighs the frames its own way (Bayesian bootstrap, half strength), so that members disagree where
        # the data do not decide.
        drawn = 0.5 + 0.5 * self.rng.exponential(size=(settings.members, len(lesson)))
        self.emphasis = torch.as_tensor(drawn, dtype=torch.float32, device=lesson.x.device)
        self.parameters = network.parameters()
        self.average = [p.detach().clone() for p in self.parameters]

    def run(self) -> int:
        """Train; return the number of steps that were made."""
        settings = self.settings
        for p in self.parameters:
            p.requires_grad_(True)
        optimiser = Muon(self.parameters)
        began, made = time.monotonic(), 0
        best, kept, waited = math.inf, [a.clone() for a in self.average], 0
        every = max(1, settings.steps // 20)
        if self.test is not None:
            best = self._judged(self.test)  # of the linear start, which noise may leave nothing to add to
        for step, frames in enumerate(_batches(self.lesson.sizes, settings.batch, settings.steps, self.rng)):
            progress = step / settings.steps
            if settings.seconds:
                progress = max(progress, (time.monotonic() - began) / settings.seconds)
                if progress >= 1.0:
                    break
            rate = settings.learning_rate * min(1.0, (step + 1) / 100)
            rate *= 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3
            late = progress >= 1.0 - settings.second_stage
            batch = _Batch.of(self.lesson, self.shape, frames)
            loss = (self._losses(batch, late) * self.emphasis[:, frames]).mean(1).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.parameters, 20.0 * settings.members)
            optimiser.step(rate)
            made = step + 1
            decay = min(EMA, (1 + step) / (10 + step))
            with torch.no_grad():
                for a, p in zip(self.average, self.parameters, strict=True):
                    a.mul_(decay).add_(p, alpha=1 - decay)
            if made % max(1, settings.steps // 10) == 0:
                self.tell(made, float(loss.detach()) / settings.members)
            if self.test is not None and made % every == 0:
                judged = self._judged(self.test)
                waited = 0 if judged < best else waited + 1
                if judged < best:
                    best, kept = judged, [a.clone() for a in self.average]
                if waited >= settings.patience:
                    break
        self._put(kept if self.test is not None else self.average)
        for p in self.parameters:
            p.requires_grad_(False)
        return made

    def _put(self, values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for value, p in zip(values, self.parameters, strict=True):
                p.copy_(value)

    def _judged(self, test: _Lesson) -> float:
        """Return the averaged weights' loss on frames that are not learnt from."""
        now = [p.detach().clone() for p in self.parameters]
        self._put(self.average)
        total = 0.0
        with torch.no_grad():
            for frames in np.array_split(np.arange(len(test)), max(1, len(test.x) // 2048)):
                total += float(self._losses(_Batch.of(test, self.shape, frames), late=False).mean(0).sum())
        self._put(now)
        return total / len(test)

    def _losses(self, batch: _Batch, late: bool) -> torch.Tensor:
        """Return each member's loss on each frame, (M, B)."""
        settings, lesson, limit = self.settings, batch.lesson, self.settings.robust
        of_atoms, forces, virial = self.network.predict(batch)
        base = self.base[lesson.species[batch.atoms]]

        def per_frame(x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(len(x), len(batch.frames)).index_add(1, batch.frame, x)

        target = lesson.energy[batch.frames] - base.new_zeros(len(batch.frames)).index_add(0, batch.frame, base)
        off = (per_frame(of_atoms) - target.float()) / (batch.n_atoms * settings.energy_scale)
        loss = _robust(off, limit)
        off = (forces - lesson.forces[batch.atoms]) / settings.force_scale
        of_forces = per_frame(_robust(off, limit).mean(2)) / batch.n_atoms
        off = (virial - lesson.virial[batch.frames]) / (batch.n_atoms[:, None] * settings.virial_scale)
        of_virial = _robust(off, limit).mean(2) * lesson.has_virial[batch.frames]
        boost = settings.second_boost if late else 1.0
        loss = loss + boost * (of_forces + of_virial)
        if settings.atomic_scale:
            off = (of_atoms - (lesson.energies[batch.atoms] - base).float()) / settings.atomic_scale
            known = lesson.has_energies[batch.frames]
            loss = loss + per_frame(_robust(off, limit)) / batch.n_atoms * known
        return loss

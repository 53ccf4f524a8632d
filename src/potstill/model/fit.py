"""Training: every frame's descriptor and Jacobian once, then all members as one batched network.

The descriptors do not depend on the weights. So forces and virial of a frame are one product of the cached Jacobian
with ∂E/∂G, and an optimiser step costs little more than reading the cache. Training starts from the ridge solution of
the linear model, which the network then corrects.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from potstill.config import TrainConfig
from potstill.data import Array, Dataset, Frame, voigt
from potstill.errors import ConvergenceError, DataError
from potstill.model.committee import Committee, Weights
from potstill.model.descriptor import Descriptor, Whitening

RIDGE = 1e-6  # relative to the mean diagonal of the normal matrix
EMA = 0.998
ROBUST_PASSES = 4  # of the ridge solution; the first trusts every frame alike


@dataclass(frozen=True)
class _Example:
    """A labelled frame, ready to learn from (forces and virial flat, the virial as Voigt times volume)."""

    G: Array
    K: NDArray[np.float32]
    species: NDArray[np.int64]
    energy: float
    forces: Array
    virial: Array | None


class JacobianCache:
    """Descriptors and Jacobians of frames by key: computed once, kept through all rounds."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self._known: dict[str, tuple[Array, NDArray[np.float32], NDArray[np.int64]]] = {}

    def example(self, frame: Frame) -> _Example:
        """Return what training needs of a labelled frame."""
        if frame.key not in self._known:
            G, K = self.descriptor.jacobian(frame)
            self._known[frame.key] = (G, K, self.descriptor.species(frame))
        G, K, species = self._known[frame.key]
        labels = frame.labels
        if labels is None:
            raise DataError("Training needs labelled frames, but one has none.")
        virial = None
        if labels.stress is not None and frame.volume is not None:
            virial = voigt(labels.stress) * frame.volume
        return _Example(G, K, species, labels.energy, labels.forces.ravel(), virial)


class _Bucket:
    """Examples of one size as tensors. The Jacobian holds atoms and features as one axis: forces are one product."""

    def __init__(self, examples: Sequence[_Example], device: torch.device) -> None:
        first = examples[0]
        self.n_atoms, self.n = len(first.G), len(examples)

        def put(arrays: list[Any], kind: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.as_tensor(np.stack(arrays)).to(device=device, dtype=kind)

        self.G = put([e.G for e in examples])
        self.K = put([e.K.reshape(-1, e.K.shape[-1]) for e in examples])
        self.species = put([e.species for e in examples], torch.int64)
        self.energy = put([e.energy for e in examples], torch.float64)
        self.forces = put([e.forces for e in examples])
        self.virial = put([np.zeros(6) if e.virial is None else e.virial for e in examples])
        self.has_virial = put([float(e.virial is not None) for e in examples])


class _Network:
    """All members for all elements: parameters, and energy with its gradient as plain differentiable tensors."""

    def __init__(self, whitening: Whitening, hidden: Sequence[int], members: int, generator: torch.Generator) -> None:
        Z, F = whitening.mean.shape
        sizes = [F, *hidden, 1]
        self.mean = torch.as_tensor(whitening.mean, dtype=torch.float32)
        self.matrix = torch.as_tensor(whitening.matrix, dtype=torch.float32)
        self.linear = torch.zeros(Z, members, F)
        self.W = [torch.randn(Z, members, a, b, generator=generator) / math.sqrt(a) for a, b in pairwise(sizes)]
        self.W[-1] *= 0.03  # the start is the ridge solution, barely disturbed
        self.b = [torch.zeros(Z, members, b) for b in sizes[1:]]

    def parameters(self) -> list[torch.Tensor]:
        return [self.linear, *self.W, *self.b]

    def to(self, device: torch.device) -> None:
        self.mean, self.matrix = self.mean.to(device), self.matrix.to(device)
        self.linear = self.linear.to(device)
        self.W, self.b = [w.to(device) for w in self.W], [b.to(device) for b in self.b]

    def energy_and_gradient(self, G: torch.Tensor, z: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return E (M, n) and ∂E/∂G (M, n, F) for atoms of element ``z``, G (n, F) raw."""
        x = ((G - self.mean[z]) @ self.matrix[z]).unsqueeze(0).expand(self.linear.shape[1], -1, -1)
        h, slopes = x, []
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            a = torch.baddbmm(b[z].unsqueeze(1), h, W[z])
            s = torch.sigmoid(a)
            h = a * s
            slopes.append(s + h * (1 - s))
        energy = torch.baddbmm(self.b[-1][z].unsqueeze(1), h, self.W[-1][z]) + torch.bmm(
            x, self.linear[z].unsqueeze(-1)
        )
        back = self.W[-1][z].transpose(1, 2) * slopes[-1]
        for W, slope in zip(self.W[-2:0:-1], slopes[-2::-1], strict=True):
            back = torch.bmm(back, W[z].transpose(1, 2)) * slope
        gradient = torch.bmm(back, self.W[0][z].transpose(1, 2)) + self.linear[z].unsqueeze(1)
        return energy.squeeze(-1), gradient @ self.matrix[z].T

    def predict(self, G: torch.Tensor, K: torch.Tensor, species: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return E (B, M) and ∂E/∂(positions, strain) (B, M, 3N + 6) of B frames of N atoms."""
        B, N, F = G.shape
        M = self.linear.shape[1]
        flat, kinds = G.reshape(-1, F), species.reshape(-1)
        if len(self.mean) == 1:
            energy, g = self.energy_and_gradient(flat, 0)
        else:
            energy, g = flat.new_zeros(M, B * N), flat.new_zeros(M, B * N, F)
            for z in range(len(self.mean)):
                mine = torch.nonzero(kinds == z).squeeze(1)
                if len(mine):
                    e, d = self.energy_and_gradient(flat[mine], z)
                    energy = energy.index_copy(1, mine, e)
                    g = g.index_copy(1, mine, d)
        slope = torch.bmm(g.view(M, B, N * F).transpose(0, 1), K)
        return energy.view(M, B, N).sum(2).T, slope

    def fold(self, shift: Array) -> Weights:
        """Give the weights for raw descriptors: whitening goes into the first layer and the linear term."""
        mean, matrix = self.mean.double(), self.matrix.double()
        linear = torch.einsum("zfg,zmg->zmf", matrix, self.linear.double())
        first = torch.einsum("zfg,zmgo->zmfo", matrix, self.W[0].double())
        layers = [(first, self.b[0].double() - torch.einsum("zf,zmfo->zmo", mean, first))]
        layers += [(W.double(), b.double()) for W, b in zip(self.W[1:], self.b[1:], strict=True)]
        offset = shift[:, None] - torch.einsum("zf,zmf->zm", mean, linear).cpu().numpy()
        return Weights(offset, linear.cpu().numpy(), tuple((W.cpu().numpy(), b.cpu().numpy()) for W, b in layers))


def _ridge(
    examples: Sequence[_Example], whitening: Whitening, settings: TrainConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve the linear model for energies, forces and virials together, by reweighted least squares.

    Returns
    -------
    linear : ndarray (Z, F)
        On whitened features.
    shift : ndarray (Z,)
        Energy of an atom at the mean descriptor, eV.
    """
    Z, F = whitening.mean.shape
    systems = [_equations(e, whitening, settings) for e in examples]
    trust = np.ones(len(systems))
    solution = np.zeros(Z * F + Z)
    for _ in range(ROBUST_PASSES):
        solution = _solve([(w * A, w * y) for w, (A, y) in zip(np.sqrt(trust), systems, strict=True)], Z * F)
        off = np.array([np.sum((solution @ A - y) ** 2) for A, y in systems])
        trust = 1.0 / (1.0 + off / settings.robust**2)  # a frame that nothing explains loses its say
    return solution[: Z * F].reshape(Z, F), solution[Z * F :]


def _equations(e: _Example, whitening: Whitening, settings: TrainConfig) -> tuple[Array, Array]:
    """Return one frame's linear equations x·A = y, in units of the loss scales: energy, forces, virial."""
    Z, F = whitening.mean.shape
    N = len(e.G)
    row, slope = np.zeros(Z * F + Z), np.zeros((Z * F + Z, e.K.shape[-1]))
    for z in range(Z):
        mine = e.species == z
        x = (e.G[mine] - whitening.mean[z]) @ whitening.matrix[z]
        row[z * F : (z + 1) * F] = x.sum(0)
        row[Z * F + z] = mine.sum()
        slope[z * F : (z + 1) * F] = whitening.matrix[z].T @ e.K[mine].sum(0, dtype=np.float64)
    of_energy = 1.0 / (N * settings.energy_scale)
    of_forces = 1.0 / (settings.force_scale * math.sqrt(3 * N))
    of_virial = 0.0 if e.virial is None else 1.0 / (N * settings.virial_scale * math.sqrt(6))
    A = np.concatenate([row[:, None] * of_energy, slope[:, : 3 * N] * of_forces, slope[:, 3 * N :] * of_virial], axis=1)
    virial = np.zeros(6) if e.virial is None else e.virial
    y = np.concatenate([[e.energy * of_energy], -e.forces * of_forces, virial * of_virial])
    return A, y


def _solve(systems: Sequence[tuple[Array, Array]], n_linear: int) -> Array:
    """Solve by normal equations, with a penalty; the elements' shifts, which may be degenerate, get a smaller one."""
    n = len(systems[0][0])
    normal, right = np.zeros((n, n)), np.zeros(n)
    for A, y in systems:
        normal += A @ A.T
        right += A @ y
    penalty = np.full(n, RIDGE * np.trace(normal[:n_linear, :n_linear]) / n_linear)
    penalty[n_linear:] = 1e-9 * np.trace(normal[n_linear:, n_linear:])
    tiny = 1e-12 * np.trace(normal)  # where no feature ever moves, as for an atom alone
    return np.asarray(np.linalg.solve(normal + np.diag(np.maximum(penalty, tiny)), right), dtype=np.float64)


def _batches(
    buckets: Sequence[_Bucket], batch: int, steps: int, rng: np.random.Generator
) -> Iterator[tuple[_Bucket, NDArray[np.intp]]]:
    """Yield batches: each bucket is shuffled whole before it repeats, and buckets come in proportion to their frames.

    A batch holds as many frames as ``batch`` frames of 32 atoms have atoms, four at least.
    """
    sizes = [min(b.n, max(4, round(batch * 32 / b.n_atoms))) for b in buckets]
    share = np.array([b.n / s for b, s in zip(buckets, sizes, strict=True)])
    waiting: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp) for _ in buckets]
    for k in rng.choice(len(buckets), size=steps, p=share / share.sum()):
        if len(waiting[k]) < sizes[k]:
            waiting[k] = np.concatenate([waiting[k], rng.permutation(buckets[k].n)])
        yield buckets[k], waiting[k][: sizes[k]]
        waiting[k] = waiting[k][sizes[k] :]


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
    whitening: Whitening | None = None,
    cache: JacobianCache | None = None,
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
    whitening : Whitening | None
        The metric of the features; measured on the data where it is not given.
    cache : JacobianCache | None
        Keeps Jacobians for a later call.
    tell : callable (step, loss)
        Called about ten times.

    Returns
    -------
    Committee
        Uncalibrated.

    Raises
    ------
    DataError
        If no frame has labels.
    """
    frames = data.only_labelled()
    if not len(frames):
        raise DataError("Training needs labelled frames, but the data have none.")
    _afford(frames, descriptor)
    cache = cache or JacobianCache(descriptor)
    whitening = whitening or Whitening.fit(descriptor, frames)
    examples = [cache.example(f) for f in frames]
    linear, shift = _ridge(examples, whitening, settings)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(seed)
    network = _Network(whitening, hidden, settings.members, generator)
    network.linear[:] = torch.as_tensor(linear, dtype=torch.float32)[:, None, :]
    network.to(device)
    if settings.steps:
        _optimise(network, examples, shift, settings, seed, device, tell)
    weights = network.fold(shift)
    if not all(np.isfinite(t).all() for t in weights.tensors().values()):
        raise ConvergenceError("The training diverged: weights are NaN or infinite. Lower train.learning_rate.")
    about = {
        "n_frames": len(frames),
        "n_stress": sum(e.virial is not None for e in examples),
        "sources": sorted({f.labels.source for f in frames if f.labels is not None}),
        "data": _data_digest(frames),
        "seed": seed,
        "hidden": list(hidden),
        "train": settings.model_dump(mode="json"),
    }
    return Committee(descriptor, whitening, weights, 1.0, about)


def _afford(frames: Dataset, descriptor: Descriptor) -> None:
    """Refuse, before any work, what the machine's memory cannot hold.

    Jacobians grow as the square of a frame's atoms, and are held twice for a moment, when the tensors are made.
    """
    needed = 2 * sum(4 * f.n_atoms * descriptor.n_features * (3 * f.n_atoms + 6) for f in frames)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.9 * memory:
        raise DataError(
            f"Training on these {len(frames)} frames of up to {max(f.n_atoms for f in frames)} atoms needs about "
            f"{needed / 2**30:.0f} GiB of memory, and this machine has {memory / 2**30:.0f}. Distil them to fewer "
            "frames, or lower model.n_angular."
        )


def _data_digest(frames: Dataset) -> str:
    content = hashlib.sha256()
    for f in frames:
        content.update(f.key.encode())
    return content.hexdigest()[:16]


def _optimise(
    network: _Network,
    examples: Sequence[_Example],
    shift: Array,
    settings: TrainConfig,
    seed: int,
    device: torch.device,
    tell: Callable[[int, float], None],
) -> None:
    """Run AdamW with a cosine schedule, and leave the exponential average of the weights in ``network``."""
    by_size: dict[int, list[_Example]] = {}
    for e in examples:
        by_size.setdefault(len(e.G), []).append(e)
    buckets = [_Bucket(group, device) for _, group in sorted(by_size.items())]
    rng = np.random.default_rng([seed, 1])
    # Each member weighs the frames its own way (Bayesian bootstrap, half strength), so that members disagree where
    # the data do not decide.
    emphasis = [
        torch.as_tensor(0.5 + 0.5 * rng.exponential(size=(b.n, settings.members)), dtype=torch.float32, device=device)
        for b in buckets
    ]
    weight_of = {id(b): w for b, w in zip(buckets, emphasis, strict=True)}
    base = torch.as_tensor(shift, device=device)
    parameters = network.parameters()
    for p in parameters:
        p.requires_grad_(True)
    average = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=1e-4)
    for step, (bucket, index) in enumerate(_batches(buckets, settings.batch, settings.steps, rng)):
        rate = settings.learning_rate * min(1.0, (step + 1) / 100)
        rate *= 0.5 * (1 + math.cos(math.pi * step / settings.steps)) + 1e-3
        for group in optimiser.param_groups:
            group["lr"] = rate
        at = torch.as_tensor(index, device=device)
        N = bucket.n_atoms
        species = bucket.species[at]
        energy, slope = network.predict(bucket.G[at], bucket.K[at], species)
        target = (bucket.energy[at] - base[species].sum(1)).float()
        limit = settings.robust
        of_energy = _robust((energy - target[:, None]) / (N * settings.energy_scale), limit)
        of_forces = _robust((slope[..., : 3 * N] + bucket.forces[at][:, None]) / settings.force_scale, limit).mean(2)
        off = (slope[..., 3 * N :] - bucket.virial[at][:, None]) / (N * settings.virial_scale)
        of_virial = _robust(off, limit).mean(2) * bucket.has_virial[at][:, None]
        loss = ((of_energy + of_forces + of_virial) * weight_of[id(bucket)][at]).mean(0).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 20.0 * settings.members)
        optimiser.step()
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, p in zip(average, parameters, strict=True):
                a.mul_(decay).add_(p, alpha=1 - decay)
        if (step + 1) % max(1, settings.steps // 10) == 0:
            tell(step + 1, float(loss.detach()) / settings.members)
    with torch.no_grad():
        for a, p in zip(average, parameters, strict=True):
            p.copy_(a)
    for p in parameters:
        p.requires_grad_(False)

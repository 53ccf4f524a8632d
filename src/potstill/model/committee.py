"""A trained committee: energy, forces, stress and doubt, with numpy and the compiled kernels only.

One pass of neighbours, descriptors and geometry serves all members.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from potstill.config import ModelConfig
from potstill.data import Array, Frame, voigt, write_atomic
from potstill.errors import DataError
from potstill.model import kernels
from potstill.model.descriptor import Descriptor, FrameFeatures, Whitening, chunks
from potstill.protocols import Spread

if TYPE_CHECKING:
    from ase import Atoms

FORMAT = 1
MAX_MODEL_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Prediction:
    """What the members say of one frame.

    Attributes
    ----------
    energy : ndarray (n_members,)
        eV.
    forces : ndarray (n_members, n_atoms, 3)
        eV/Å.
    virial : ndarray (n_members, 3, 3)
        ∂E/∂ε in eV: the stress times the volume, ASE's sign.
    """

    energy: Array
    forces: Array
    virial: Array


def silu(z: Array) -> tuple[Array, Array]:
    """Return z·σ(z) and its derivative."""
    with np.errstate(over="ignore"):  # far out, the infinity gives the right limit
        s = 1.0 / (1.0 + np.exp(-z))
    return z * s, s * (1.0 + z * (1.0 - s))


@dataclass(frozen=True)
class Weights:
    """Parameters of all members for all elements, applied to raw descriptors (whitening folded in).

    The energy of an atom of element z in member m is ``shift[z, m] + G·linear[z, m] + MLP(G)``, with an MLP of silu
    layers ``layers[k] = (W (Z, M, in, out), b (Z, M, out))``; the last layer has one output.
    """

    shift: Array
    linear: Array
    layers: tuple[tuple[Array, Array], ...]

    def energy_and_gradient(self, G: Array, z: int) -> tuple[Array, Array]:
        """Return E (n, M) and ∂E/∂G (n, M, F) of atoms of element ``z`` with descriptors G (n, F)."""
        n, F = G.shape
        M = self.linear.shape[1]
        W, b = self.layers[0]
        first = W[z].transpose(1, 0, 2).reshape(F, -1)  # members side by side: one matrix product
        h, slope = silu((G @ first).reshape(n, M, -1) + b[z])
        slopes = [slope]
        for W, b in self.layers[1:-1]:
            h, slope = silu(np.einsum("nmi,mio->nmo", h, W[z], optimize=True) + b[z])
            slopes.append(slope)
        W, b = self.layers[-1]
        energy = np.einsum("nmi,mi->nm", h, W[z][:, :, 0]) + b[z][:, 0] + G @ self.linear[z].T + self.shift[z]
        back = W[z][None, :, :, 0] * slopes[-1]
        for (W, _), slope in zip(self.layers[-2:0:-1], slopes[-2::-1], strict=True):
            back = np.einsum("nmo,mio->nmi", back, W[z], optimize=True) * slope
        W, _ = self.layers[0]
        gradient = np.matmul(back.transpose(1, 0, 2), W[z].transpose(0, 2, 1)) + self.linear[z][:, None, :]
        return energy, gradient.transpose(1, 0, 2)

    def tensors(self) -> dict[str, Array]:
        """Name every array, for storage."""
        named = {"shift": self.shift, "linear": self.linear}
        for k, (W, b) in enumerate(self.layers):
            named[f"layers.{k}.weight"], named[f"layers.{k}.bias"] = W, b
        return named

    @classmethod
    def from_tensors(cls, named: Mapping[str, Array]) -> Weights:
        """Invert :meth:`tensors`."""
        n = sum(name.endswith(".weight") for name in named)
        layers = tuple((named[f"layers.{k}.weight"], named[f"layers.{k}.bias"]) for k in range(n))
        return cls(named["shift"], named["linear"], layers)

    def shapes(self, descriptor: Descriptor, members: int) -> bool:
        """Whether the arrays fit together, for this descriptor."""
        lead = (len(descriptor.elements), members)
        if len(self.layers) < 2 or self.shift.shape != lead or self.linear.shape != (*lead, descriptor.n_features):
            return False
        width = descriptor.n_features
        for W, b in self.layers:
            if W.ndim != 4 or W.shape[:3] != (*lead, width) or b.shape != (*lead, W.shape[3]):
                return False
            width = W.shape[3]
        return width == 1


@dataclass(frozen=True)
class Committee:
    """Neural networks that share a descriptor; satisfies :class:`potstill.protocols.Committee`.

    Attributes
    ----------
    descriptor : Descriptor
        What an atom sees.
    whitening : Whitening
        The metric for :meth:`describe`.
    weights : Weights
        All members' parameters.
    calibration : float
        Expected force error per unit of force spread, measured on frames that were not learnt from; 1 until measured.
    about : mapping of JSON values
        How it was trained.
    """

    descriptor: Descriptor
    whitening: Whitening
    weights: Weights
    calibration: float
    about: Mapping[str, Any]

    @property
    def members(self) -> int:
        """Number of networks."""
        return int(self.weights.shift.shape[1])

    @property
    def elements(self) -> tuple[str, ...]:
        """Elements that it knows."""
        return self.descriptor.elements

    @cached_property
    def fingerprint(self) -> str:
        """Hash of descriptor and parameters."""
        content = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for name, array in sorted(self.weights.tensors().items()):
            content.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return f"potstill-nnp:{content.hexdigest()[:16]}"

    @cached_property
    def features(self) -> FrameFeatures:
        """The frame descriptor, with its memory; see :meth:`sharing`."""
        return FrameFeatures(self.descriptor, self.whitening)

    def sharing(self, features: FrameFeatures) -> Committee:
        """Use a memory of described frames that others filled, so that a pool is described once."""
        self.__dict__["features"] = features  # where cached_property keeps it; the dataclass is frozen
        return self

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return (n_frames, n_features); see :class:`~potstill.model.descriptor.FrameFeatures`."""
        return self.features.describe(frames)

    def predict(self, frames: Sequence[Frame], *, mean: bool = False) -> list[Prediction]:
        """Evaluate all members (or, with ``mean``, their average as a single member, which is cheaper) on frames."""
        results: list[Prediction] = []
        for chunk in chunks(frames):
            results.extend(self._predict(chunk, mean))
        return results

    def _predict(self, frames: list[Frame], mean: bool) -> list[Prediction]:
        geometry = self.descriptor.geometry(frames)
        G, C = self.descriptor.compute(geometry)
        n, M = len(G), self.members
        energy, g = np.empty((n, M)), np.empty((n, M, G.shape[1]))
        for z in range(len(self.elements)):
            mine = np.flatnonzero(geometry.species == z)
            if len(mine):
                energy[mine], g[mine] = self.weights.energy_and_gradient(G[mine], z)
        if mean:
            energy, g, M = energy.mean(1, keepdims=True), g.mean(1, keepdims=True), 1
        edge = self.descriptor.edge_gradients(geometry, C, g)
        forces, virial = np.zeros((n, M, 3)), np.zeros((len(frames), M, 3, 3))
        kernels.gather(geometry.first, geometry.second, geometry.frame, geometry.D, edge, forces, virial)
        bounds = np.concatenate([[0], np.cumsum([f.n_atoms for f in frames])])
        return [
            Prediction(
                energy[lo:hi].sum(0),
                forces[lo:hi].transpose(1, 0, 2),
                0.5 * (virial[k] + virial[k].transpose(0, 2, 1)),
            )
            for k, (lo, hi) in enumerate(pairwise(bounds))
        ]

    def spread(self, frames: Sequence[Frame]) -> Spread:
        """Return the members' disagreement; multiply ``force`` by :attr:`calibration` for an expected error."""
        energy, force, worst = [], [], []
        for frame, p in zip(frames, self.predict(frames), strict=True):
            per_atom = np.sqrt(p.forces.var(0, ddof=1 if self.members > 1 else 0).sum(1))
            energy.append(p.energy.std(ddof=1 if self.members > 1 else 0) / frame.n_atoms)
            force.append(np.sqrt(np.mean(per_atom**2)))
            worst.append(per_atom.max())
        return Spread(np.array(energy), np.array(force), np.array(worst))

    def calculator(self, workdir: Path | None = None) -> CommitteeCalculator:  # noqa: ARG002 - it needs no scratch
        """Return an ASE calculator of the mean, with ``energy_spread`` and ``force_spread`` beside."""
        return CommitteeCalculator(self)

    def _header(self) -> dict[str, Any]:
        d = self.descriptor
        return {
            "elements": list(d.elements),
            "cutoff": d.cutoff,
            "angular_cutoff": d.angular_cutoff,
            "n_radial": d.n_radial,
            "n_angular": d.n_angular,
            "l_max": d.l_max,
        }

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and, last, ``model.json`` into a folder; units are eV and Å."""
        from safetensors.numpy import save

        folder = Path(folder)
        tensors = {name: np.ascontiguousarray(array) for name, array in self.weights.tensors().items()}
        tensors["whitening.mean"] = np.ascontiguousarray(self.whitening.mean)
        tensors["whitening.matrix"] = np.ascontiguousarray(self.whitening.matrix)
        write_atomic(folder / "model.safetensors", save(tensors))
        header = {
            "format": FORMAT,
            "kind": "potstill committee",
            "units": {"energy": "eV", "length": "Å"},
            "descriptor": self._header(),
            "members": self.members,
            "calibration": self.calibration,
            "about": dict(self.about),
        }
        write_atomic(folder / "model.json", (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> Committee:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If a file is missing, broken, of another format, or its arrays do not fit together.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = Path(folder)
        try:
            header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            file = folder / "model.safetensors"
            if file.stat().st_size > MAX_MODEL_BYTES:
                raise DataError(f"{file} is larger than {MAX_MODEL_BYTES >> 20} MiB, which no model of this kind is.")
            tensors = load(file.read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"Expected a trained model in {folder} (model.json and model.safetensors), but "
                f"{error.filename} is missing."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, SafetensorError, OSError) as error:
            raise DataError(f"The model in {folder} is broken: {error}. Train it again, or copy it again.") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else "none"
            raise DataError(f"The model in {folder} has format {found}; this potstill reads format {FORMAT}.")
        try:
            d = header["descriptor"]
            descriptor = Descriptor(
                tuple(str(e) for e in d["elements"]),
                float(d["cutoff"]),
                float(d["angular_cutoff"]),
                int(d["n_radial"]),
                int(d["n_angular"]),
                int(d["l_max"]),
            )
            whitening = Whitening(tensors.pop("whitening.mean"), tensors.pop("whitening.matrix"))
            weights = Weights.from_tensors(tensors)
            fits = weights.shapes(descriptor, int(header["members"]))
            calibration = float(header["calibration"])
            ModelConfig.model_validate(
                {k: v for k, v in d.items() if k != "elements"}
            )  # bounds: a cutoff of 400 Å eats the memory
            about = dict(header.get("about", {}))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"The model in {folder} is incomplete: {type(error).__name__} {error}.") from None
        F, Z = descriptor.n_features, len(descriptor.elements)
        if not fits or whitening.mean.shape != (Z, F) or whitening.matrix.shape != (Z, F, F):
            raise DataError(f"The model in {folder} has arrays that do not fit its descriptor. It is damaged.")
        arrays = [*weights.tensors().values(), whitening.mean, whitening.matrix]
        if not all(t.dtype.kind == "f" and np.isfinite(t).all() for t in arrays):
            raise DataError(f"The model in {folder} holds NaN, infinity or whole numbers for weights. It is damaged.")
        if not (descriptor.sensible() and 0 <= calibration < np.inf):
            raise DataError(f"The model in {folder} has a header whose numbers cannot be: {header['descriptor']}.")
        return cls(descriptor, whitening, weights, calibration, about)

    def __repr__(self) -> str:
        n = self.about.get("n_frames", "?")
        return f"Committee({self.members} members, {'-'.join(self.elements)}, trained on {n} frames)"


class CommitteeCalculator(Calculator):  # type: ignore[misc]  # ASE is untyped
    """ASE calculator: the members' mean as energy, forces and stress.

    ``results`` also hold ``energy_spread`` (eV/atom) and ``force_spread`` (n_atoms, eV/Å), the members' standard
    deviations, when the property ``energy_spread`` or ``force_spread`` is asked for.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energy_spread",
        "force_spread",
    ]

    def __init__(self, committee: Committee) -> None:
        super().__init__()
        self.committee = committee

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        doubt = any(name.endswith("_spread") for name in properties)
        # not Frame.of: its 1e-8 Å grid would show in finite differences
        prediction = self.committee.predict([Frame(self.atoms)], mean=not doubt)[0]
        energy, forces = float(prediction.energy.mean()), prediction.forces.mean(0)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if self.atoms.pbc.all():
            self.results["stress"] = voigt(prediction.virial.mean(0)) / self.atoms.get_volume()
        if doubt:
            ddof = 1 if self.committee.members > 1 else 0
            self.results["energy_spread"] = float(prediction.energy.std(ddof=ddof)) / len(self.atoms)
            self.results["force_spread"] = np.sqrt(prediction.forces.var(0, ddof=ddof).sum(1))

"""A trained committee: energy, forces, stress and doubt, through the compiled kernels only.

One pass of neighbours, descriptors and geometry serves all members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

from potstill.data import Array, Frame
from potstill.model import files, network
from potstill.model.descriptor import Descriptor, Whitening, chunks
from potstill.model.domain import Domain
from potstill.model.features import FrameFeatures
from potstill.model.neighbours import Geometry, complete, find, outdated
from potstill.protocols import Spread

if TYPE_CHECKING:
    from ase import Atoms

SKIN = 0.6  # Å that a calculator's list of neighbours reaches beyond the cutoff


@dataclass(frozen=True)
class Prediction:
    """What the members say of one frame.

    Attributes
    ----------
    energy : ndarray (n_members,)
        eV.
    energies : ndarray (n_members, n_atoms)
        eV, of each atom.
    forces : ndarray (n_members, n_atoms, 3)
        eV/Å.
    virial : ndarray (n_members, 3, 3)
        ∂E/∂ε in eV: the stress times the volume, ASE's sign.
    """

    energy: Array
    energies: Array
    forces: Array
    virial: Array


@dataclass(frozen=True)
class Weights:
    """Parameters of all members for all elements, applied to raw descriptors (whitening folded in).

    The energy of an atom of element z in member m is ``shift[z, m] + G·linear[z, m] + MLP(G)``, with an MLP of silu
    layers ``layers[k] = (W (Z, M, in, out), b (Z, M, out))``; the last layer has one output.
    """

    shift: Array
    linear: Array
    layers: tuple[tuple[Array, Array], ...]

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
        The metric for :meth:`describe` and :meth:`strangeness`.
    weights : Weights
        All members' parameters.
    wall : Wall
        Repulsion below the shortest bonds that were learnt.
    domain : Domain | None
        The surroundings that were learnt; None in files of the first format.
    calibration, energy_calibration : float
        Expected force error per unit of force spread, and energy error per unit of energy spread, measured on frames
        that were not learnt from; 1 until measured.
    about : mapping of JSON values
        How it was trained.
    """

    descriptor: Descriptor
    whitening: Whitening
    weights: Weights
    wall: network.Wall
    domain: Domain | None
    calibration: float
    energy_calibration: float
    about: Mapping[str, Any]

    @property
    def members(self) -> int:
        """Number of networks."""
        return int(self.weights.shift.shape[1])

    def member(self, number: int) -> Committee:
        """Return one of the networks, as a committee of its own that knows no limits."""
        one = slice(number, number + 1)
        w = self.weights
        layers = tuple((W[:, one], b[:, one]) for W, b in w.layers)
        return replace(self, weights=Weights(w.shift[:, one], w.linear[:, one], layers), domain=None)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(int(b.shape[2]) for _, b in self.weights.layers[:-1])

    @property
    def elements(self) -> tuple[str, ...]:
        """Elements that it knows."""
        return self.descriptor.elements

    @cached_property
    def fingerprint(self) -> str:
        """Hash of descriptor, parameters and wall: of all that decides a label."""
        content = hashlib.sha256(repr(self.descriptor).encode())
        arrays = self.weights.tensors() | {"wall.reach": self.wall.reach, "wall.strength": self.wall.strength}
        for name, array in sorted(arrays.items()):
            content.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return f"potstill-nnp:{content.hexdigest()[:16]}"

    @cached_property
    def net(self) -> network.Net:
        """The parameters as the kernels want them."""
        return network.pack(self.weights.shift, self.weights.linear, list(self.weights.layers))

    @cached_property
    def features(self) -> FrameFeatures:
        """The frame descriptor, with its memory; see :meth:`sharing`."""
        return FrameFeatures(self.descriptor, self.whitening)

    def sharing(self, features: FrameFeatures) -> Committee:
        """Use a memory of described frames that others filled, so that a pool is described once."""
        self.__dict__["features"] = features  # where cached_property keeps it; the dataclass is frozen
        return self

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return (n_frames, n_features); see :class:`~potstill.model.features.FrameFeatures`."""
        return self.features.describe(frames)

    def surroundings(self, frames: Sequence[Frame]) -> list[NDArray[np.float32]]:
        """Return each atom's surroundings; see :class:`~potstill.model.features.FrameFeatures`."""
        return self.features.surroundings(frames)

    def equations(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """Return what labels would say; see :class:`~potstill.model.features.FrameFeatures`."""
        return self.features.equations(frames)

    def last_layer(self, frames: Sequence[Frame]) -> Array:
        """Return the gradient of each frame's energy per atom by all members' last layers, (n_frames, n_gradients)."""
        width = self.members * self.weights.layers[-1][0].shape[2] * len(self.elements)
        found = np.empty((len(frames), width))
        at = 0
        for chunk in chunks(frames):
            geometry = self.descriptor.geometry(chunk)
            h = self._hidden(self.descriptor.compute(geometry), geometry.species)
            sums = np.add.reduceat(h, geometry.atoms[:-1], axis=0)
            found[at : at + len(chunk)] = sums / np.diff(geometry.atoms)[:, None]
            at += len(chunk)
        return found

    def _hidden(self, G: Array, species: NDArray[np.int32]) -> Array:
        """Return the last hidden layer of every member, a block for each element, (n_atoms, Z · M · width)."""
        Z, M = len(self.elements), self.members
        out = np.zeros((len(G), Z, M * self.weights.layers[-1][0].shape[2]))
        for z in range(Z):
            mine = species == z
            h = np.broadcast_to(G[mine], (M, int(mine.sum()), G.shape[1]))
            for W, b in self.weights.layers[:-1]:
                a = h @ W[z] + b[z][:, None, :]
                h = a / (1.0 + np.exp(-np.clip(a, -700.0, None)))
            out[mine, z] = h.transpose(1, 0, 2).reshape(len(h[0]), -1)
        return out.reshape(len(G), -1)

    def predict(self, frames: Sequence[Frame], *, mean: bool = False) -> list[Prediction]:
        """Evaluate all members (or, with ``mean``, their average as a single member, which is cheaper) on frames."""
        results: list[Prediction] = []
        for chunk in chunks(frames):
            results.extend(self.predict_at(self.descriptor.geometry(chunk), mean=mean))
        return results

    def predict_at(self, geometry: Geometry, *, mean: bool = False) -> list[Prediction]:
        """Evaluate frames whose neighbours are known; see :meth:`predict`."""
        energy, forces, virial = network.infer(geometry, self.descriptor.shape, self.net, self.wall, apart=not mean)
        if mean:
            energy = energy.mean(1, keepdims=True)
        cuts = geometry.atoms[1:-1]
        return [
            Prediction(e.sum(0), e.T, f, v[:, SQUARE].reshape(-1, 3, 3))
            for e, f, v in zip(
                np.split(energy, cuts), np.split(forces, cuts, axis=1), virial.transpose(1, 0, 2), strict=True
            )
        ]

    def spread(self, frames: Sequence[Frame]) -> Spread:
        """Return the members' disagreement; multiply ``force`` by :attr:`calibration` for an expected error."""
        energy, force, worst = [], [], []
        for frame, p in zip(frames, self.predict(frames), strict=True):
            per_atom = force_spread(p)
            energy.append(p.energy.std(ddof=1 if self.members > 1 else 0) / frame.n_atoms)
            force.append(np.sqrt(np.mean(per_atom**2)))
            worst.append(per_atom.max())
        return Spread(np.array(energy), np.array(force), np.array(worst))

    def strangeness(self, frames: Sequence[Frame]) -> list[Array]:
        """Return how far each atom's surroundings are from the learnt ones, an array (n_atoms,) a frame.

        Up to 1 they are as near as the training data; see :class:`~potstill.model.domain.Domain`.

        Raises
        ------
        DataError
            If the model's file is of the first format, which did not keep this.
        """
        if self.domain is None:
            raise files.no_domain()
        found: list[Array] = []
        for chunk in chunks(frames):
            geometry = self.descriptor.geometry(chunk)
            found.extend(np.split(self._strangeness(geometry, self.domain), geometry.atoms[1:-1]))
        return found

    def _strangeness(self, geometry: Geometry, domain: Domain) -> Array:
        G = self.descriptor.compute(geometry)
        species = geometry.species
        return domain.distance(self.whitening.apply(G, species, domain.components), species)

    def calculator(self, workdir: Path | None = None) -> CommitteeCalculator:  # noqa: ARG002 - it needs no scratch
        """Return an ASE calculator of the mean, with spreads, expected errors and strangeness beside."""
        return CommitteeCalculator(self)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and, last, ``model.json`` into a folder; units are eV and Å."""
        files.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Committee:
        """Read what :meth:`save` wrote, also by earlier versions.

        Raises
        ------
        DataError
            If a file is missing, broken, of an unknown format, or its arrays do not fit together.
        """
        return cls(**files.load(Path(folder), Weights))

    def __repr__(self) -> str:
        n = self.about.get("n_frames", "?")
        return f"Committee({self.members} members, {'-'.join(self.elements)}, trained on {n} frames)"


SQUARE = np.array([0, 5, 4, 5, 1, 3, 4, 3, 2])  # nine components out of six in ASE's order


def force_spread(prediction: Prediction) -> Array:
    """Return the members' standard deviation of each atom's force vector, (n_atoms,), eV/Å."""
    ddof = 1 if len(prediction.forces) > 1 else 0
    return np.asarray(np.sqrt(prediction.forces.var(0, ddof=ddof).sum(1)))


class CommitteeCalculator(Calculator):  # type: ignore[misc]  # ASE is untyped
    """ASE calculator: the members' mean as energy, energies of the atoms, forces and stress.

    Asked for by name, ``results`` also hold what the model knows of its errors: ``energy_spread`` (eV/atom) and
    ``force_spread`` (n_atoms, eV/Å), the members' standard deviations; ``energy_error`` and ``force_error``, the same
    calibrated on held-out data; ``strangeness`` (n_atoms), see :meth:`Committee.strangeness`.
    """

    DOUBT: ClassVar[tuple[str, ...]] = ("energy_spread", "force_spread", "energy_error", "force_error")
    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        *DOUBT,
        "strangeness",
    ]

    def __init__(self, committee: Committee) -> None:
        super().__init__()
        self.committee = committee
        self._held: tuple[Geometry, tuple[Array, Array]] | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        committee, n = self.committee, len(self.atoms)
        doubt = any(name in self.DOUBT for name in properties)
        geometry = self._neighbours(system_changes)
        p = committee.predict_at(geometry, mean=not doubt)[0]
        energy = float(p.energy.mean())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": p.energies.mean(0),
            "forces": p.forces.mean(0),
        }
        if self.atoms.pbc.all():
            virial = p.virial.mean(0)
            self.results["stress"] = virial.ravel()[[0, 4, 8, 5, 2, 1]] / self.atoms.get_volume()
        if doubt:
            spread = float(p.energy.std(ddof=1 if committee.members > 1 else 0)) / n
            of_forces = force_spread(p)
            self.results |= {
                "energy_spread": spread,
                "force_spread": of_forces,
                "energy_error": committee.energy_calibration * spread,
                "force_error": committee.calibration * of_forces,
            }
        if "strangeness" in properties:
            if committee.domain is None:
                raise files.no_domain()
            self.results["strangeness"] = committee._strangeness(geometry, committee.domain)  # noqa: SLF001 - its own

    def _neighbours(self, changes: Sequence[str]) -> Geometry:
        """Return the neighbours: those of an earlier call, as long as atoms and cell have moved little."""
        atoms, reach = self.atoms, self.committee.descriptor.reach
        positions, periodic = atoms.positions, np.asarray(atoms.pbc)
        cell = complete(atoms.cell.array, periodic)
        if self._held is not None and not {"numbers", "pbc"} & set(changes):
            geometry, built = self._held
            if not outdated(geometry, positions, cell, built, SKIN, reach):
                return geometry.moved(positions, cell)
        species = self.committee.descriptor.species(Frame(atoms))
        geometry = find(positions, atoms.cell.array, periodic, species, reach + SKIN)
        self._held = geometry, (positions.copy(), cell)
        return geometry

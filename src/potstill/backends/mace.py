"""MACE as a committee: message passing on many-body equivariant features, by the package mace-torch.

The network, I. Batatia et al., *MACE: Higher Order Equivariant Message Passing Neural Networks*, arXiv:2206.07697, is
mace-torch's own; here are the training of a committee, its files, and what :mod:`potstill.protocols` asks. Training is
in single precision, inference in double, so that relaxations converge.

A model is kept as numbers (safetensors) and the settings that rebuild the network (JSON). Whatever follows from the
settings, such as coupling coefficients, is computed again and never read from a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from potstill.backends.mace_network import (
    Network,
    _batch,
    _Graph,
    _graph,
    _learnt,
    _mace,
    _numbers,
    _precision,
    _probe,
    _quietly,
    _template,
)
from potstill.data import Array, Frame, voigt, write_atomic
from potstill.errors import DataError
from potstill.protocols import Spread

if TYPE_CHECKING:
    from ase import Atoms

KIND = "mace committee"
FORMAT = 1
MAX_HEADER_BYTES = 2**20
MAX_MODEL_BYTES = 2**30
CHUNK = 4096  # atoms × channels that are evaluated together
SAME_NETWORK = 1e-6  # eV/atom. By how much a rebuilt network may differ from the one that was saved
SAME_MODEL = 1e-3  # eV/atom. The same for a model that was given in single precision


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

    @property
    def energy_spread(self) -> float:
        """Standard deviation over members, eV/atom; 0 for one."""
        return float(self.energy.std(ddof=min(1, len(self.energy) - 1)) / self.energies.shape[1])

    @property
    def force_spread(self) -> Array:
        """Standard deviation over members of each atom's force vector, (n_atoms,), eV/Å; 0 for one."""
        return np.asarray(np.sqrt(self.forces.var(0, ddof=min(1, len(self.forces) - 1)).sum(1)))


@dataclass(frozen=True)
class MaceCommittee:
    """Networks of one form; satisfies :class:`potstill.protocols.Committee`.

    Attributes
    ----------
    network : Network
        The form.
    elements : tuple of str
        Elements that it knows, in the networks' order.
    neighbours : float
        Average number of neighbours in the training data, by which messages are scaled.
    weights : mapping of ndarray
        What each member learnt, by mace-torch's names; the first axis counts members.
    metric : ndarray (2, n_features)
        Mean and scale of the features of an atom, for :meth:`describe`.
    calibration : tuple of float
        Expected force error per unit of force spread, and energy error per unit of energy spread, measured on frames
        that were not learnt from; 1 until measured.
    about : mapping of JSON values
        How it was trained.
    """

    network: Network
    elements: tuple[str, ...]
    neighbours: float
    weights: Mapping[str, Array]
    metric: Array
    calibration: tuple[float, float]
    about: Mapping[str, Any]

    @classmethod
    def of(cls, *models: Any) -> MaceCommittee:
        """Take models that you hold in memory: foundation models, or what MACE's own trainer made.

        potstill reads no file of serialised Python objects, since to read one is to run what it says. Where you trust
        such a file, load it yourself; what :meth:`save` then writes is safe to pass on.

        Parameters
        ----------
        *models : mace.modules.ScaleShiftMACE
            Members, all of one form.

        Raises
        ------
        DataError
            If a model has parts that :class:`Network` does not describe, or several heads, or the forms differ.
        """
        found = [_network_of(model) for model in models]
        if not found or any(other != found[0] for other in found[1:]):
            raise DataError(f"A committee needs models of one form and the same elements, but there are {found}.")
        network, elements, neighbours = found[0]
        states = [_numbers(m) for m in models]
        n_features = network.channels * network.layers
        committee = cls(
            network,
            elements,
            neighbours,
            {name: np.stack([s[name] for s in states]) for name in states[0]},
            np.stack([np.zeros(n_features), np.ones(n_features)]),
            (1.0, 1.0),
            {"taken": f"from {len(models)} models in memory"},
        )
        committee._check_shapes("The model")
        torch, _, _ = _mace()
        chain = _probe(elements, network.cutoff)
        for model, rebuilt in zip(models, committee._probe_energies(), strict=True):
            kind = next(model.parameters()).dtype
            with _precision(str(kind).removeprefix("torch.")), torch.no_grad():
                data = _batch([chain], len(elements), kind, str(next(model.parameters()).device))
                given = float(model(data, compute_force=False)["energy"])
            if not abs(given - rebuilt) <= SAME_MODEL * len(chain.species):
                raise DataError(
                    f"The model gives {given:.4f} eV where its copy gives {rebuilt:.4f} eV, so it has parts that "
                    "potstill does not know how to copy. Use it where it was made."
                )
        return committee

    @property
    def members(self) -> int:
        """Number of networks."""
        return len(self.weights["scale_shift.scale"])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of form and weights."""
        content = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for name, array in sorted(self.weights.items()):
            content.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return f"potstill-mace:{content.hexdigest()[:16]}"

    def _header(self) -> dict[str, Any]:
        return {
            "network": self.network.model_dump(mode="json"),
            "elements": list(self.elements),
            "neighbours": self.neighbours,
        }

    def _run(self, graphs: Sequence[_Graph], member: int, **what: bool) -> dict[str, Any]:
        """Evaluate one member in double precision."""
        torch, _, _ = _mace()
        module = _template(self.network, self.elements, self.neighbours)
        state = {name: torch.as_tensor(array[member]) for name, array in self.weights.items()}
        data = _batch(graphs, len(self.elements), torch.float64)
        with _precision("float64"), torch.set_grad_enabled(what.get("compute_force", True)):
            result: dict[str, Any] = torch.func.functional_call(module, state, (data,), what)
        return result

    def _graphs(self, frames: Sequence[Frame]) -> Iterator[tuple[list[_Graph], list[tuple[int, int]]]]:
        """Yield graphs, and where each one's atoms lie, in lists whose tensors fit a cache; a large one comes alone."""
        held: list[_Graph] = []
        for k, frame in enumerate(frames):
            held.append(_graph(frame, self.elements, self.network.cutoff))
            ends = [0, *np.cumsum([len(g.species) for g in held]).tolist()]
            more = frames[k + 1].n_atoms if k + 1 < len(frames) else 0
            if not more or ends[-1] + more > CHUNK // self.network.channels:
                yield held, list(pairwise(ends))
                held = []

    def predict(self, frames: Sequence[Frame], *, mean: bool = False) -> list[Prediction]:
        """Evaluate all members on frames; with ``mean`` their average, as a single member.

        Raises
        ------
        DataError
            If a frame has an element that the model does not know, atoms on top of each other, or NaN.
        """
        results: list[Prediction] = []
        for graphs, places in self._graphs(frames):
            outs = [self._run(graphs, m, compute_virials=True) for m in range(self.members)]
            energy, energies, forces, virial = (
                np.stack([out[name].detach().numpy() for out in outs])
                for name in ("energy", "node_energy", "forces", "virials")
            )
            virial = -0.5 * (virial + virial.transpose(0, 1, 3, 2))  # mace-torch's is −∂E/∂ε
            if mean:
                energy, energies, forces, virial = (
                    x.mean(0, keepdims=True) for x in (energy, energies, forces, virial)
                )
            results += [
                Prediction(energy[:, k], energies[:, lo:hi], forces[:, lo:hi], virial[:, k])
                for k, (lo, hi) in enumerate(places)
            ]
        return results

    def spread(self, frames: Sequence[Frame]) -> Spread:
        """Return the members' disagreement; multiply ``force`` by :attr:`calibration` for an expected error."""
        found = self.predict(frames)
        forces = [p.force_spread for p in found]
        return Spread(
            np.array([p.energy_spread for p in found]),
            np.array([np.sqrt(np.mean(x**2)) for x in forces]),
            np.array([x.max() for x in forces]),
        )

    def describe(self, frames: Sequence[Frame]) -> Array:
        """Return (n_frames, n_features): mean and standard deviation over atoms of the first member's invariants."""
        width = self.network.channels * (self.network.l_max + 1) ** 2
        invariant = np.concatenate([k * width + np.arange(self.network.channels) for k in range(self.network.layers)])
        rows = []
        for graphs, places in self._graphs(frames):
            features = self._run(graphs, 0, compute_force=False)["node_feats"].numpy()
            x = (features[:, invariant] - self.metric[0]) / self.metric[1]
            rows += [np.concatenate([x[lo:hi].mean(0), x[lo:hi].std(0)]) for lo, hi in places]
        return np.array(rows) if rows else np.empty((0, 2 * len(invariant)))

    def calculator(self, workdir: Path | None = None) -> MaceCalculator:  # noqa: ARG002 - it needs no scratch
        """Return an ASE calculator of the mean, with spreads and expected errors beside."""
        return MaceCalculator(self)

    def _probe_energies(self) -> list[float]:
        chain = _probe(self.elements, self.network.cutoff)
        return [float(self._run([chain], m, compute_force=False)["energy"]) for m in range(self.members)]

    def _check_shapes(self, whose: str) -> None:
        """Raise DataError unless the weights are those of the network."""
        needed = {
            name: tuple(tensor.shape)
            for name, tensor in _learnt(_template(self.network, self.elements, self.neighbours)).items()
        }
        found = {name: array.shape[1:] for name, array in self.weights.items()}
        wrong = sorted(name for name in needed | found if needed.get(name) != found.get(name))
        if wrong or any(len(a) != self.members for a in self.weights.values()):
            what = f": {wrong[0]} should be {needed.get(wrong[0])} and is {found.get(wrong[0])}" if wrong else ""
            raise DataError(f"{whose} has arrays that do not fit its network{what}. It is damaged, or of another kind.")

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and, last, ``model.json`` into a folder; units are eV and Å."""
        from safetensors.numpy import save

        folder = Path(folder)
        tensors = {name: np.ascontiguousarray(array) for name, array in self.weights.items()}
        write_atomic(folder / "model.safetensors", save({**tensors, "metric": np.ascontiguousarray(self.metric)}))
        header = {
            "format": FORMAT,
            "kind": KIND,
            "units": {"energy": "eV", "length": "Å"},
            **self._header(),
            "members": self.members,
            "calibration": {"force": self.calibration[0], "energy": self.calibration[1]},
            "probe": self._probe_energies(),
            "about": dict(self.about),
        }
        write_atomic(folder / "model.json", (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> MaceCommittee:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If a file is missing, broken, of another kind or format, or its arrays do not fit the network; or if the
            network that this mace-torch builds gives other energies than the one that was saved.
        BackendError
            If mace-torch is not installed.
        """
        folder = Path(folder)
        header, tensors = _read(folder)
        try:
            network = Network.model_validate(header["network"])
            elements = tuple(str(e) for e in header["elements"])
            neighbours = float(header["neighbours"])
            calibration = float(header["calibration"]["force"]), float(header["calibration"]["energy"])
            members, about = int(header["members"]), dict(header.get("about", {}))
            probe = [float(e) for e in header["probe"]]
            metric = tensors.pop("metric")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"The model in {folder} is incomplete: {_line(error)}.") from None
        _check_header(folder, network, elements, members, (neighbours, *calibration))
        arrays = [*tensors.values(), metric]
        if not all(t.dtype == np.float64 and t.ndim and np.isfinite(t).all() for t in arrays):
            raise DataError(f"The model in {folder} holds NaN, infinity or other numbers than doubles. It is damaged.")
        # before a network is built, which takes the memory that the header asks for: a file to match comes with it
        whole = sum(t.size for t in tensors.values()) >= members * network.channels**2 * network.layers
        if (
            not whole
            or "scale_shift.scale" not in tensors
            or metric.shape != (2, network.channels * network.layers)
            or not (metric[1] > 0).all()
        ):
            raise DataError(f"The model in {folder} has arrays that do not fit its header. It is damaged.")
        committee = cls(network, elements, neighbours, tensors, metric, calibration, about)
        committee._check_shapes(f"The model in {folder}")
        now = np.array(committee._probe_energies())
        worst = np.inf if len(probe) != members else float(np.abs(now - probe).max())
        if not worst <= SAME_NETWORK * max(4, len(elements)):
            raise DataError(
                f"The model in {folder} was saved with energies of a test structure that its network does not give "
                f"({worst:.1e} eV apart): it is damaged, or this version of mace-torch builds another network than "
                f"the one that wrote it ({about.get('mace-torch', 'not noted')})."
            )
        return committee

    def __repr__(self) -> str:
        n = self.about.get("n_frames", "?")
        return f"MaceCommittee({self.members} members, {'-'.join(self.elements)}, trained on {n} frames)"


class MaceCalculator(Calculator):  # type: ignore[misc]  # ASE is untyped
    """ASE calculator: the members' mean as energy, energies of the atoms, forces and stress.

    ``results`` also hold ``energy_spread`` (eV/atom) and ``force_spread`` (n_atoms, eV/Å), the members' standard
    deviations, and ``energy_error`` and ``force_error``, the same calibrated on held-out data.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "energy_spread",
        "force_spread",
        "energy_error",
        "force_error",
    ]

    def __init__(self, committee: MaceCommittee) -> None:
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
        # not Frame.of: its 1e-8 Å grid would show in finite differences
        p = self.committee.predict([Frame(self.atoms)])[0]
        energy = float(p.energy.mean())
        of_force, of_energy = self.committee.calibration
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": p.energies.mean(0),
            "forces": p.forces.mean(0),
            "energy_spread": p.energy_spread,
            "force_spread": p.force_spread,
            "energy_error": of_energy * p.energy_spread,
            "force_error": of_force * p.force_spread,
        }
        if self.atoms.pbc.all():
            self.results["stress"] = voigt(p.virial.mean(0)) / self.atoms.get_volume()


def _line(error: Exception) -> str:
    """Write an error in one line; pydantic's take several."""
    return " ".join(f"{type(error).__name__} {error}".split())


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read header and arrays of a folder, distrusting both."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        for name, limit in (("model.json", MAX_HEADER_BYTES), ("model.safetensors", MAX_MODEL_BYTES)):
            if (folder / name).stat().st_size > limit:
                raise DataError(f"{folder / name} is larger than {limit >> 20} MiB, which no model of this kind is.")
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        tensors = load((folder / "model.safetensors").read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"Expected a trained model in {folder} (model.json and model.safetensors), but {error.filename} is missing."
        ) from None
    except (ValueError, RecursionError, SafetensorError, OSError) as error:  # ValueError: not JSON, or not text
        raise DataError(f"The model in {folder} is broken: {error}. Train it again, or copy it again.") from None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        found = header.get("kind") if isinstance(header, dict) else "none"
        raise DataError(f"The model in {folder} is of kind {found!r}; a {KIND!r} was expected.")
    if header.get("format") != FORMAT:
        raise DataError(f"The model in {folder} has format {header.get('format')}; this potstill reads {FORMAT}.")
    return header, tensors


def _check_header(
    folder: Path, network: Network, elements: tuple[str, ...], members: int, numbers: tuple[float, float, float]
) -> None:
    """Raise DataError unless the header's values are those that a model can have."""
    from ase.data import atomic_numbers

    known = all(atomic_numbers.get(e, 0) > 0 for e in elements) and len(set(elements)) == len(elements) > 0
    neighbours, *calibration = numbers
    possible = 0 < neighbours < 1e6 and all(0 <= c < np.inf for c in calibration)  # NaN fails both
    if not (known and possible and network.affordable(len(elements), members)):
        raise DataError(
            f"The model in {folder} has a header whose numbers cannot be: {len(elements)} elements, {members} members, "
            f"{neighbours} neighbours, calibration {calibration}, {network}."
        )


def _network_of(model: Any) -> tuple[Network, tuple[str, ...], float]:
    """Read form, elements and average number of neighbours off a model in memory."""
    from ase.data import chemical_symbols

    _mace()
    with _quietly():
        from mace.tools.scripts_utils import extract_config_mace_model
    if type(model).__name__ != "ScaleShiftMACE":
        raise DataError(f"Expected a ScaleShiftMACE, the kind that mace-torch trains, but this is {type(model)}.")
    heads = list(getattr(model, "heads", [""]))
    if len(heads) != 1:
        raise DataError(
            f"The model has {len(heads)} heads ({', '.join(heads)}), and a potential has one. Choose one with "
            "mace-torch's mace_select_head."
        )
    try:
        found: dict[str, Any] = extract_config_mace_model(model)
        hidden = found["hidden_irreps"]
        network = Network(
            cutoff=float(found["r_max"]),
            channels=hidden.count("0e"),
            l_max=hidden.lmax,
            layers=int(found["num_interactions"]),
            max_ell=int(found["max_ell"]),
            correlation=int(found["correlation"]),
            n_bessel=int(found["num_bessel"]),
            cutoff_power=int(found["num_polynomial_cutoff"]),
            radial=tuple(int(w) for w in found["radial_MLP"]),
            readout=found["MLP_irreps"].dim,
            first_block=found["interaction_cls_first"].__name__,
            block=found["interaction_cls"].__name__,
            repulsion=bool(found["pair_repulsion"]),
            distance_transform=found["distance_transform"] or "None",
            reduced_coupling=bool(found["use_reduced_cg"]),
            agnostic_product=bool(found["use_agnostic_product"]),
            last_readout_only=bool(found["use_last_readout_only"]),
        )
    except (ValueError, AttributeError) as error:
        raise DataError(
            f"The model has a form that potstill does not copy: {_line(error)}. Use it where it was made."
        ) from None
    elements = tuple(chemical_symbols[int(z)] for z in found["atomic_numbers"])
    return network, elements, float(found["avg_num_neighbors"])


# --- training ---

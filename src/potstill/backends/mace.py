"""MACE as a committee: message passing on many-body equivariant features, by the package mace-torch.

The network, I. Batatia et al., *MACE: Higher Order Equivariant Message Passing Neural Networks*, arXiv:2206.07697, is
mace-torch's own; here are the training of a committee, its files, and what :mod:`potstill.protocols` asks. Training is
in single precision, inference in double, so that relaxations converge.

A model is kept as numbers (safetensors) and the settings that rebuild the network (JSON). Whatever follows from the
settings, such as coupling coefficients, is computed again and never read from a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray
from pydantic import Field

from potstill.config import Section, TrainConfig
from potstill.data import VOIGT, Array, Dataset, Frame, voigt, write_atomic
from potstill.errors import BackendError, ConvergenceError, DataError
from potstill.protocols import Spread

if TYPE_CHECKING:
    from ase import Atoms

KIND = "mace committee"
FORMAT = 1
MAX_HEADER_BYTES = 2**20
MAX_MODEL_BYTES = 2**30
MAX_MEMBERS = 64
MAX_COUPLINGS = 2**26  # elements × channels² × layers × hidden moments: the largest weights of a network, at 8 bytes
CHUNK = 4096  # atoms × channels that are evaluated together
EMA = 0.99
LEARNT = ("atomic_energies_fn.atomic_energies", "scale_shift.scale", "scale_shift.shift")  # beside the parameters
SAME_NETWORK = 1e-6  # eV/atom. By how much a rebuilt network may differ from the one that was saved
SAME_MODEL = 1e-3  # eV/atom. The same for a model that was given in single precision

# What training takes from a configuration.
KNOBS = frozenset(
    ["model.cutoff"]
    + [f"train.{k}" for k in ("members", "steps", "batch", "learning_rate")]
    + [f"train.{k}" for k in ("energy_scale", "force_scale", "virial_scale", "robust")]
)

Block = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
]


class Network(Section):
    """What decides the form of a MACE, apart from the elements; the defaults train on a CPU."""

    cutoff: float = Field(
        6.0, description="Å. Reach of one layer; the atoms felt reach layers times as far.", gt=1, le=20
    )
    channels: int = Field(16, description="Features of each kind on an atom.", ge=1, le=512)
    l_max: int = Field(0, description="Highest angular momentum of the features passed between layers.", ge=0, le=2)
    layers: int = Field(2, description="Rounds of message passing.", ge=1, le=4)
    max_ell: int = Field(2, description="Highest angular momentum of the edges' spherical harmonics.", ge=0, le=3)
    correlation: int = Field(3, description="Neighbours that one product couples: body order minus one.", ge=1, le=3)
    n_bessel: int = Field(8, description="Radial functions.", ge=1, le=64)
    cutoff_power: int = Field(5, description="Power of the polynomial cutoff.", ge=1, le=20)
    radial: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (32, 32, 32), description="Widths of the hidden layers of the radial network.", min_length=1, max_length=6
    )
    readout: int = Field(16, description="Width of the last readout's hidden layer.", ge=1, le=512)
    first_block: Block = Field("RealAgnosticResidualInteractionBlock", description="mace-torch's class, first layer.")
    block: Block = Field("RealAgnosticResidualInteractionBlock", description="mace-torch's class, other layers.")
    repulsion: bool = Field(False, description="Add the Ziegler-Biersack-Littmark repulsion of bare nuclei.")
    distance_transform: Literal["None", "Agnesi", "Soft"] = Field("None", description="Of the radial functions.")
    reduced_coupling: bool = Field(True, description="Couple by a basis without redundancy.")
    agnostic_product: bool = Field(False, description="Couple alike for all elements.")
    last_readout_only: bool = Field(False, description="Read the energy from the last layer alone.")

    def affordable(self, n_elements: int, members: int) -> bool:
        """Whether a network of this form has a size that anyone would train; for files of unknown origin."""
        couplings = n_elements * self.channels**2 * self.layers * (self.l_max + 1)
        return 0 < members <= MAX_MEMBERS and couplings <= MAX_COUPLINGS


# --- mace-torch, kept from changing the process ---


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep what mace-torch and e3nn say and change from the rest of the process.

    One print goes to standard output, where ours may be JSON. One environment variable would make every later reading
    of torch files in this process, by anyone, run what is in them.
    """
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.pop(variable, None)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # e3nn compiles its spherical harmonics with TorchScript, on import
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
            yield
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


@lru_cache(maxsize=1)
def _mace() -> tuple[Any, Any, Any]:
    """Import torch, e3nn and the modules of mace-torch; return (torch, mace.modules, e3nn).

    Raises
    ------
    BackendError
        If mace-torch is not installed, or cannot be imported.
    """
    with _quietly():
        try:
            import torch

            with torch.serialization.safe_globals([slice]):  # all that e3nn's own table of constants needs
                import e3nn.o3
            import mace.modules
        except ImportError as error:
            raise BackendError(
                f"MACE needs the package mace-torch, which could not be imported ({error}). Install it with "
                "`pip install 'potstill[mace]'`."
            ) from None
    return torch, mace.modules, e3nn


@contextlib.contextmanager
def _precision(kind: str) -> Iterator[None]:
    """Set torch's default type for a while: mace-torch and e3nn make their tables in it."""
    torch, _, _ = _mace()
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, kind))
    try:
        # the simple executor: profiling and specialising each new shape costs more than it saves at these sizes
        with torch.jit.optimized_execution(False):
            yield
    finally:
        torch.set_default_dtype(before)


def _build(network: Network, elements: tuple[str, ...], neighbours: float, *, seed: int = 0) -> Any:
    """Make a network with random weights, in torch's default type; ``seed`` decides them."""
    from ase.data import atomic_numbers

    torch, modules, e3nn = _mace()
    hidden = "+".join(f"{network.channels}x{l}{'eo'[l % 2]}" for l in range(network.l_max + 1))
    compiles = e3nn.get_optimization_defaults()["jit_script_fx"]
    try:
        e3nn.set_optimization_defaults(jit_script_fx=False)  # half the time to build, nothing lost in speed
        with _quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return modules.ScaleShiftMACE(
                r_max=network.cutoff,
                num_bessel=network.n_bessel,
                num_polynomial_cutoff=network.cutoff_power,
                max_ell=network.max_ell,
                interaction_cls=modules.interaction_classes[network.block],
                interaction_cls_first=modules.interaction_classes[network.first_block],
                num_interactions=network.layers,
                num_elements=len(elements),
                hidden_irreps=e3nn.o3.Irreps(hidden),
                MLP_irreps=e3nn.o3.Irreps(f"{network.readout}x0e"),
                atomic_energies=np.zeros((1, len(elements))),
                avg_num_neighbors=neighbours,
                atomic_numbers=[atomic_numbers[e] for e in elements],
                correlation=network.correlation,
                gate=torch.nn.functional.silu,
                pair_repulsion=network.repulsion,
                use_reduced_cg=network.reduced_coupling,
                use_agnostic_product=network.agnostic_product,
                use_last_readout_only=network.last_readout_only,
                distance_transform=network.distance_transform,
                radial_MLP=list(network.radial),
                radial_type="bessel",
                heads=["Default"],
                atomic_inter_scale=1.0,
                atomic_inter_shift=0.0,
            )
    finally:
        e3nn.set_optimization_defaults(jit_script_fx=compiles)


@lru_cache(maxsize=4)
def _template(network: Network, elements: tuple[str, ...], neighbours: float) -> Any:
    """Return a network in double precision that members lend their weights to; never changed."""
    with _precision("float64"):
        return _build(network, elements, neighbours).requires_grad_(False)


def _learnt(module: Any) -> dict[str, Any]:
    """Name all tensors of a network that do not follow from its form."""
    buffers = dict(module.named_buffers())
    return {**dict(module.named_parameters()), **{name: buffers[name] for name in LEARNT}}


def _numbers(module: Any) -> dict[str, Array]:
    """Return :func:`_learnt` as arrays in double precision."""
    found = {name: tensor.detach().cpu().double().numpy() for name, tensor in _learnt(module).items()}
    found[LEARNT[0]] = found[LEARNT[0]].reshape(1, -1)  # older models have one axis less
    return found


# --- structures as graphs ---


@dataclass(frozen=True)
class _Graph:
    """One structure: species (n,), positions (n, 3), cell (3, 3), edges (2, n_edges) and the images that they cross."""

    species: NDArray[np.int64]
    positions: Array
    cell: Array
    edges: NDArray[np.int64]
    images: Array


def _graph(frame: Frame, elements: tuple[str, ...], cutoff: float) -> _Graph:
    """Find all neighbours, images included, so cells may be smaller than the cutoff."""
    from vesin import NeighborList

    atoms = frame.atoms
    symbols = atoms.get_chemical_symbols()
    unknown = sorted(set(symbols) - set(elements))
    if unknown:
        raise DataError(
            f"The model knows {', '.join(elements)}, but a structure has {', '.join(unknown)}. It is out of the "
            "model's domain."
        )
    positions, cell = atoms.positions, atoms.cell.array
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise DataError("A structure has positions or cell vectors that are NaN or infinite.")
    box = cell if atoms.pbc.any() else np.zeros((3, 3))
    found = NeighborList(cutoff=cutoff, full_list=True, sorted=True).compute(
        points=positions, box=box, periodic=atoms.pbc, quantities="ijSd"
    )
    i, j, images, distances = (np.asarray(x) for x in found)
    if len(distances) and float(distances.min()) < 0.01:
        raise DataError("Two atoms of a structure are less than 0.01 Å apart.")
    index = {e: k for k, e in enumerate(elements)}
    return _Graph(
        np.array([index[s] for s in symbols], dtype=np.int64),
        np.array(positions),
        np.array(box),
        np.stack([i, j]).astype(np.int64),
        images.reshape(-1, 3).astype(np.float64),
    )


def _batch(graphs: Sequence[_Graph], n_elements: int, kind: Any, device: str = "cpu") -> dict[str, Any]:
    """Join graphs into the tensors that mace-torch's networks take."""
    torch, _, _ = _mace()
    ends = np.cumsum([0, *(len(g.species) for g in graphs)])

    def put(arrays: list[Any], axis: int = 0) -> Any:
        return torch.as_tensor(np.concatenate(arrays, axis=axis), dtype=kind, device=device)

    edges = np.concatenate([g.edges + start for g, start in zip(graphs, ends, strict=False)], axis=1)
    owner = np.repeat(np.arange(len(graphs)), np.diff(ends))
    images, cells = put([g.images for g in graphs]), put([g.cell for g in graphs])
    return {
        "positions": put([g.positions for g in graphs]),
        "node_attrs": put([np.eye(n_elements)[g.species] for g in graphs]),
        "edge_index": torch.as_tensor(edges, device=device),
        "unit_shifts": images,
        "shifts": put([g.images @ g.cell for g in graphs]),
        "cell": cells,
        "batch": torch.as_tensor(owner, device=device),
        "ptr": torch.as_tensor(ends, device=device),
        "head": torch.zeros(len(graphs), dtype=torch.int64, device=device),
    }


def _probe(elements: tuple[str, ...], cutoff: float) -> _Graph:
    """Make a bent chain of all elements, whose energy tells two networks apart."""
    from ase import Atoms

    k = np.arange(max(4, len(elements)))
    positions = cutoff * np.stack([0.34 * k, 0.21 * (k % 2), 0.13 * (k % 3)], axis=1)
    return _graph(Frame(Atoms([elements[i % len(elements)] for i in k], positions=positions)), elements, cutoff)


# --- the committee ---


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

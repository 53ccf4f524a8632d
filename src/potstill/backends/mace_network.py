"""MACE networks built by mace-torch from settings, and the graphs that they see; see :mod:`potstill.backends.mace`."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from potstill.config import Section
from potstill.data import Array, Frame
from potstill.errors import BackendError, DataError

MAX_MEMBERS = 64
MAX_COUPLINGS = 2**26  # elements × channels² × layers × hidden moments: the largest weights of a network, at 8 bytes
LEARNT = ("atomic_energies_fn.atomic_energies", "scale_shift.scale", "scale_shift.shift")  # beside the parameters

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

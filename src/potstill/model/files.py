"""Model files: safetensors for numbers, JSON for the rest. Nothing that could run is read, and bounds are checked.

Formats stay readable: each step from one to the next is a small function here, and a file of each format is kept with
the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.config import ModelConfig
from potstill.data import Array, write_atomic
from potstill.errors import DataError
from potstill.model.descriptor import Descriptor, Whitening
from potstill.model.domain import Domain
from potstill.model.network import Wall, no_wall

if TYPE_CHECKING:
    from potstill.model.committee import Committee, Weights

FORMAT = 2
KIND = "potstill committee"
MAX_MODEL_BYTES = 256 * 2**20
MAX_REACH = 20.0  # Å, of the wall
MAX_STRENGTH = 1e6


def no_domain() -> DataError:
    """Return the error for a model that does not know what it has learnt from."""
    return DataError("This model's file is of the first format, which did not keep its domain. Train it again.")


def save(committee: Committee, folder: Path) -> None:
    """Write a committee; the header goes last, so that a folder with one is whole."""
    from safetensors.numpy import save as serialise

    tensors = committee.weights.tensors()
    tensors["whitening.mean"] = committee.whitening.mean
    tensors["whitening.matrix"] = committee.whitening.matrix
    tensors["wall.reach"], tensors["wall.strength"] = committee.wall.reach, committee.wall.strength
    if committee.domain is not None:
        tensors["domain.radius"] = committee.domain.radius
        for z, points in enumerate(committee.domain.points):
            tensors[f"domain.points.{z}"] = points
    payload = serialise({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    write_atomic(folder / "model.safetensors", payload)
    d = committee.descriptor
    header = {
        "format": FORMAT,
        "kind": KIND,
        "units": {"energy": "eV", "length": "Å"},
        "descriptor": {
            "elements": list(d.elements),
            "cutoff": d.cutoff,
            "angular_cutoff": d.angular_cutoff,
            "n_radial": d.n_radial,
            "n_angular": d.n_angular,
            "l_max": d.l_max,
        },
        "members": committee.members,
        "calibration": {"force": committee.calibration, "energy": committee.energy_calibration},
        "about": dict(committee.about),
    }
    write_atomic(folder / "model.json", (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode())


def _from_1(header: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Format 2 has a wall, a domain, and a second calibration."""
    n = len(header["descriptor"]["elements"])
    header["calibration"] = {"force": header["calibration"], "energy": 1.0}
    wall = no_wall(n)
    tensors["wall.reach"], tensors["wall.strength"] = wall.reach, wall.strength
    header["format"] = 2


UPGRADES = {1: _from_1}


def load(folder: Path, weights: type[Weights]) -> dict[str, Any]:
    """Read a committee's fields; see :meth:`~potstill.model.committee.Committee.load`."""
    header, tensors = _read(folder)
    try:
        while header["format"] in UPGRADES:
            UPGRADES[header["format"]](header, tensors)
        return _fields(folder, header, tensors, weights.from_tensors)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise DataError(f"The model in {folder} is incomplete: {type(error).__name__} {error}.") from None


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialise

    try:
        for name in ("model.json", "model.safetensors"):
            if (folder / name).stat().st_size > MAX_MODEL_BYTES:
                raise DataError(
                    f"{folder / name} is larger than {MAX_MODEL_BYTES >> 20} MiB, which no model of this kind is."
                )
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        tensors = deserialise((folder / "model.safetensors").read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"Expected a trained model in {folder} (model.json and model.safetensors), but {error.filename} is missing."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, SafetensorError, OSError, ValueError) as error:
        raise DataError(f"The model in {folder} is broken: {error}. Train it again, or copy it again.") from None
    found = header.get("format") if isinstance(header, dict) else "none"
    if isinstance(found, bool) or found not in (FORMAT, *UPGRADES):
        raise DataError(f"The model in {folder} has format {found}; this potstill reads formats 1 to {FORMAT}.")
    if header.get("kind") != KIND:
        raise DataError(f"The model in {folder} is of the kind '{header.get('kind')}', not '{KIND}'.")
    return header, tensors


def _fields(
    folder: Path, header: dict[str, Any], tensors: dict[str, Array], weights_of: Callable[[dict[str, Array]], Weights]
) -> dict[str, Any]:
    d = header["descriptor"]
    descriptor = Descriptor(
        tuple(str(e) for e in d["elements"]),
        float(d["cutoff"]),
        float(d["angular_cutoff"]),
        int(d["n_radial"]),
        int(d["n_angular"]),
        int(d["l_max"]),
    )
    # The configuration's bounds: a cutoff of 400 Å would eat the memory.
    ModelConfig.model_validate({k: v for k, v in d.items() if k != "elements"})
    if not descriptor.sensible():
        raise DataError(f"The model in {folder} has a header whose numbers cannot be: {d}.")
    if not all(t.dtype.kind == "f" and np.isfinite(t).all() for t in tensors.values()):
        raise DataError(f"The model in {folder} holds NaN, infinity or whole numbers for weights. It is damaged.")
    tensors = {name: np.asarray(t, dtype=np.float64) for name, t in tensors.items()}
    Z, F = len(descriptor.elements), descriptor.n_features
    whitening = Whitening(tensors.pop("whitening.mean"), tensors.pop("whitening.matrix"))
    wall = _wall(tensors, descriptor)
    domain = _domain(tensors, Z)
    weights = weights_of(tensors)
    shapes = whitening.mean.shape == (Z, F) and whitening.matrix.shape == (Z, F, F)
    if not (shapes and weights.shapes(descriptor, int(header["members"]))):
        raise DataError(f"The model in {folder} has arrays that do not fit its descriptor. It is damaged.")
    walls = wall.reach.shape == wall.strength.shape == (Z, Z)
    bounded = walls and wall.reach.min() >= 0 and wall.reach.max() <= MAX_REACH
    bounded = bounded and wall.strength.min() >= 0 and wall.strength.max() <= MAX_STRENGTH
    radii = domain is None or (domain.radius.shape == (Z,) and domain.radius.min() > 0)
    points = domain is None or (
        all(p.ndim == 2 and 0 < p.shape[1] <= F for p in domain.points)
        and len({p.shape[1] for p in domain.points}) == 1
    )
    force, energy = (float(header["calibration"][k]) for k in ("force", "energy"))
    if not (bounded and radii and points and 0 <= force < np.inf and 0 <= energy < np.inf):
        raise DataError(f"The model in {folder} has a header whose numbers cannot be: its wall, domain or calibration.")
    return {
        "descriptor": descriptor,
        "whitening": whitening,
        "weights": weights,
        "wall": wall,
        "domain": domain,
        "calibration": force,
        "energy_calibration": energy,
        "about": dict(header.get("about", {})),
    }


def _wall(tensors: dict[str, Array], descriptor: Descriptor) -> Wall:
    from ase.data import atomic_numbers

    charge = np.array([float(atomic_numbers[e]) for e in descriptor.elements])
    return Wall(tensors.pop("wall.reach"), tensors.pop("wall.strength"), charge)


def _domain(tensors: dict[str, Array], n_elements: int) -> Domain | None:
    if "domain.radius" not in tensors:
        return None
    points = tuple(tensors.pop(f"domain.points.{z}") for z in range(n_elements))
    return Domain(points, tensors.pop("domain.radius"))

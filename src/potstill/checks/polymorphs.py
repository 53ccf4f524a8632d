"""Crystals relaxed in cell and positions, by model and reference alike.

The proof of the seed (arXiv:2311.05407): close-packed crystals that are in no data must come out with the reference's
energy and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from potstill import crystals
from potstill.data import Frame
from potstill.engine import each
from potstill.errors import PotstillError
from potstill.model import Committee
from potstill.protocols import Potential
from potstill.store import Units

UNITS: Mapping[str, str] = {
    "energy": "eV/atom",
    "volume": "Å³/atom",
    "a": "Å",
    "c_over_a": "",
    "relative_energy": "meV/atom",
}
TOLERANCE_MEV = 10.0  # of an energy relative to the ground state; DESIGN's floor for pool-only data
SYMMETRY_TOLERANCE = 0.02  # Å, of spglib
_LATTICE_FROM_VOLUME = {"fcc": 4, "bcc": 2, "sc": 1, "diamond": 8, "A15": 8}  # atoms in the cubic cell
_LAYERS = {"hcp": 2, "dhcp": 4, "9R": 9}


def _shape(name: str, atoms: Any) -> dict[str, float]:
    """Return lattice constant a (Å), and c/a per two layers, so that every ideal stacking has 1.633."""
    if name in _LATTICE_FROM_VOLUME:
        return {"a": float((atoms.get_volume() / len(atoms) * _LATTICE_FROM_VOLUME[name]) ** (1 / 3))}
    a, _, c = atoms.cell.lengths()
    return {"a": float(a), "c_over_a": float(2 * c / _LAYERS[name] / a)}


@dataclass(frozen=True)
class Polymorphs:
    """The check: relax each prototype and report energy, volume, lattice constant, c/a.

    Attributes
    ----------
    element : str
        Chemical symbol.
    names : tuple of str
        Keys of :data:`potstill.crystals.PROTOTYPES`.
    volume : float
        Å³ per atom to start from.
    force_tolerance : float
        eV/Å.
    steps : int
        Limit of a relaxation.
    """

    element: str
    names: tuple[str, ...]
    volume: float
    force_tolerance: float = 1e-3
    steps: int = 300
    name: ClassVar[str] = "polymorphs"
    units: ClassVar[Mapping[str, str]] = UNITS

    def relax(self, crystal: str, potential: Potential) -> dict[str, Any]:
        """Relax one crystal; a relaxation that fails says so in ``failed``."""
        start = crystals.prototype(crystal, self.element, self.volume)
        try:
            atoms = crystals.relaxed(
                start, potential.calculator(), force_tolerance=self.force_tolerance, steps=self.steps
            )
        except (PotstillError, ArithmeticError, ValueError, RuntimeError) as error:  # a poor model goes anywhere
            return {"failed": f"{type(error).__name__}: {error}"}
        energy = float(atoms.get_potential_energy()) / len(atoms)
        if not np.isfinite(energy):
            return {"failed": "the energy is not finite"}
        members: dict[str, Any] = {}
        if isinstance(potential, Committee) and potential.members > 1:
            members["members"] = (potential.predict([Frame.of(atoms)])[0].energy / len(atoms)).tolist()
        return {
            **members,
            "energy": energy,
            "volume": float(atoms.get_volume()) / len(atoms),
            "space_group": crystals.space_group(atoms, SYMMETRY_TOLERANCE),
            "space_group_start": crystals.space_group(start, SYMMETRY_TOLERANCE),
            **_shape(crystal, atoms),
        }

    def unit(self, crystal: str, potential: Potential, workdir: Path) -> dict[str, Any]:
        """Return :meth:`relax` from ``workdir`` if it is there, else compute and keep it."""
        what = {
            "check": self.name,
            "by": crystals.RELAXED_BY,
            "crystal": crystal,
            "element": self.element,
            "volume": self.volume,
            "force_tolerance": self.force_tolerance,
            "steps": self.steps,
            "potential": potential.fingerprint,
        }
        found: dict[str, Any] = Units(workdir).get(what, lambda: self.relax(crystal, potential))
        return found

    def measure(self, potential: Potential, workdir: Path) -> Mapping[str, float]:
        """Return ``crystal.quantity`` → value for every crystal that relaxed."""
        return {
            f"{crystal}.{quantity}": value
            for crystal in self.names
            for quantity, value in self.unit(crystal, potential, workdir).items()
            if quantity in UNITS
        }


def _work(task: tuple[str, Potential], *, check: Polymorphs, workdir: Path) -> dict[str, Any]:
    return check.unit(*task, workdir)


def compare_polymorphs(
    check: Polymorphs,
    model: Potential,
    reference: Potential,
    workdir: Path,
    *,
    workers: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Relax every crystal with both, in parallel, and set the results side by side.

    Returns
    -------
    dict
        ``crystals``: a row each, with ``nnp``, ``reference``, the error of the energy relative to the reference's
        ground state, and what a committee expects of it (``expected_error``, meV/atom; None for others);
        ``order_nnp``, ``order_reference``: names by stability; ``order_right``; ``ground_state_right``;
        ``basins_left``: crystals whose space group changed, with the model; units and tolerance.
    """
    tasks = [(name, potential) for name in check.names for potential in (reference, model)]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for (name, potential), result in each(partial(_work, check=check, workdir=workdir), tasks, workers=workers):
        found[name, potential.fingerprint] = result
    rows: list[dict[str, Any]] = [
        {"crystal": n, "nnp": found[n, model.fingerprint], "reference": found[n, reference.fingerprint]}
        for n in check.names
    ]
    anchor = _anchor(rows)
    for row in rows:
        for side in ("nnp", "reference"):
            if anchor is not None and "energy" in row[side]:
                row[side]["relative_energy"] = 1e3 * (row[side]["energy"] - anchor[side]["energy"])
        both = all("relative_energy" in row[side] for side in ("nnp", "reference"))
        error = row["nnp"]["relative_energy"] - row["reference"]["relative_energy"] if both else None
        row["relative_energy_error"] = error
        row["expected_error"] = None
        if both and anchor is not None and isinstance(model, Committee) and "members" in row["nnp"]:
            above = np.array(row["nnp"]["members"]) - np.array(anchor["nnp"]["members"])
            row["expected_error"] = 1e3 * model.energy_calibration * float(above.std(ddof=1))
        row["volume_error_percent"] = 100 * (row["nnp"]["volume"] / row["reference"]["volume"] - 1) if both else None
    order_nnp, order_reference = _order(rows, "nnp"), _order(rows, "reference")
    tell(f"validate: stability by the model {' < '.join(order_nnp)}, by the reference {' < '.join(order_reference)}")
    return {
        "units": dict(UNITS),
        "tolerance_mev_per_atom": TOLERANCE_MEV,
        "relative_to": None if anchor is None else anchor["crystal"],
        "crystals": rows,
        "order_nnp": order_nnp,
        "order_reference": order_reference,
        "order_right": order_nnp == order_reference,
        "ground_state_right": bool(order_nnp) and order_nnp[:1] == order_reference[:1],
        "basins_left": [r["crystal"] for r in rows if r["nnp"].get("space_group") != r["nnp"].get("space_group_start")],
    }


def _anchor(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row that energies are relative to: the reference's ground state among those both relaxed."""
    both = [r for r in rows if "energy" in r["nnp"] and "energy" in r["reference"]]
    return min(both, key=lambda r: r["reference"]["energy"], default=None)


def _order(rows: Sequence[dict[str, Any]], side: str) -> list[str]:
    relaxed = [r for r in rows if "energy" in r[side]]
    return [r["crystal"] for r in sorted(relaxed, key=lambda r: r[side]["energy"])]

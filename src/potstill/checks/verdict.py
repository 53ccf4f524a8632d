"""All checks of a potential against its reference, written down as ``validation.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potstill.checks.card import card
from potstill.checks.errors import parity, summarise
from potstill.checks.outside import Outside
from potstill.checks.phases import by_phase, phase, steinhardt
from potstill.checks.polymorphs import Polymorphs, compare_polymorphs
from potstill.crystals import ground_state
from potstill.data import Dataset, sketch
from potstill.model import Committee
from potstill.protocols import Potential
from potstill.store import write_json

MAP_FRAMES = 4000  # frames of the pool that the coverage map shows
PARITY_POINTS = 6000  # force components that the parity figure shows


def validate(
    model: Potential,
    reference: Potential,
    check: Polymorphs,
    folder: Path,
    *,
    outside: Outside | None = None,
    checks: Sequence[str] = (),
    lattice: str = "",
    holdout: Dataset,
    pool: Dataset,
    learnt: Dataset | None = None,
    units: Path | None = None,
    workers: int,
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], list[str]]:
    """Judge a potential.

    Parameters
    ----------
    model, reference : Potential
        Who is judged, and by whom.
    check : Polymorphs
        The crystals.
    outside : Outside | None
        Slabs and a vacancy, where they are wanted.
    checks : sequence of str
        Of :data:`potstill.checks.card.CHECKS`, for the card.
    lattice : str
        The metal's ground state, which they examine; the element's own where it is not given.
    folder : path
        Gets ``validation.json``, ``parity.json`` (points of the figure) and ``coverage.json`` (the pool's map).
    units : path | None
        Keeps what each potential says, so that two models can share the reference's part; in ``folder`` otherwise.
    holdout : Dataset
        Labelled frames that were not learnt from; may be empty.
    pool : Dataset
        For the map; may be empty.
    learnt : Dataset | None
        What the model learnt from; on the map too, whether of the pool or not.
    workers : int
        Processes; 0 means one a core.
    tell : callable
        Gets lines of progress.

    Returns
    -------
    summary : dict
        What ``validation.json`` holds.
    files : list of str
        What was written.
    """
    files, units = ["validation.json"], units or folder / "units"
    errors, strata = _held_out(model, holdout, folder, tell)
    if errors is not None:
        files.append("parity.json")
    if len(pool) and isinstance(model, Committee):
        write_json(folder / "coverage.json", coverage(model, pool, learnt or Dataset()))
        files.append("coverage.json")
    crystals = compare_polymorphs(check, model, reference, units, workers=workers, tell=tell)
    rows = card(
        checks,
        check.element,
        lattice or ground_state(check.element),
        model,
        reference,
        units,
        workers=workers,
        tell=tell,
    )
    summary = {
        "model": model.fingerprint,
        "reference": reference.fingerprint,
        "element": check.element,
        "holdout": errors,
        "strata": strata,
        "polymorphs": crystals,
        "outside": None if outside is None else _side_by_side(outside, model, reference, units, tell),
        "card": rows,
    }
    write_json(folder / "validation.json", summary)
    return summary, files


def _held_out(
    model: Potential, holdout: Dataset, folder: Path, tell: Callable[[str], None]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Write ``parity.json``; return the errors on held-out frames, None without any, and those of each phase."""
    if not len(holdout):
        (folder / "parity.json").unlink(missing_ok=True)  # of an earlier run with a hold-out
        return None, []
    points = parity(model, holdout)
    errors = summarise(points).as_dict()
    tell(
        f"validate: {errors['n_frames']} held-out frames: {errors['energy_rmse_mev_per_atom']:.2f} meV/atom, "
        f"{1e3 * errors['force_rmse_ev_per_angstrom']:.1f} meV/Å"
    )
    step = max(1, len(points.force[0]) // PARITY_POINTS)
    frames = list(holdout.only_labelled())
    phases = [phase(steinhardt(f)) for f in frames]
    write_json(
        folder / "parity.json",
        {
            "energy_ev_per_atom": [x.tolist() for x in points.energy],
            "force_ev_per_angstrom": [x[::step].tolist() for x in points.force],
            "stress_gpa": [x.tolist() for x in points.stress],
            "force_rmse_of_frame": points.force_rmse_of_frame.tolist(),
            "trajectory_of_frame": [f.origin.trajectory for f in frames],
            "phase_of_frame": phases,
            "structure_of_frame": [sketch(f.atoms) for f in frames],
        },
    )
    return errors, by_phase(phases, points.energy[1] - points.energy[0], points.force_rmse_of_frame)


def _side_by_side(
    outside: Outside, model: Potential, reference: Potential, workdir: Path, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return a row for each structure: meV/atom above the ground state by both."""
    truth, mine = (outside.measure(potential, workdir) for potential in (reference, model))
    rows: list[dict[str, Any]] = [
        {"structure": k, "reference": truth.get(k), "nnp": mine.get(k), "error": None}
        for k in dict.fromkeys([*truth, *mine])
    ]
    for row in rows:
        if row["reference"] is not None and row["nnp"] is not None:
            row["error"] = row["nnp"] - row["reference"]
    told = ", ".join(f"{r['structure']} {r['error']:+.1f}" for r in rows if r["error"] is not None)
    tell(f"validate: energy per atom above the ground state, model less reference (meV): {told}")
    return rows


def coverage(model: Committee, pool: Dataset, learnt: Dataset) -> dict[str, Any]:
    """Return where the pool lies: volume, the model's energy, Q₆ …, of evenly many frames and all learnt ones."""
    shown = learnt.without_labels() | pool[:: max(1, len(pool) // MAP_FRAMES)].without_labels()
    energies = [
        float(p.energy[0]) / f.n_atoms for f, p in zip(shown, model.predict(list(shown), mean=True), strict=True)
    ]
    return {
        "key": shown.keys,
        "kind": [f.origin.kind for f in shown],
        "learnt": [k < len(learnt) for k in range(len(shown))],
        "volume_per_atom": [f.volume / f.n_atoms if f.volume else None for f in shown],
        "energy_per_atom": np.round(energies, 6).tolist(),
        "temperature": [f.origin.temperature for f in shown],
        "q6": [None if q is None else round(q, 4) for q in map(steinhardt, shown)],
        "trajectory": [f.origin.trajectory for f in shown],
        "step": [f.origin.step for f in shown],
        "structure": [sketch(f.atoms) for f in shown],
    }

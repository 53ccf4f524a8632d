"""The card: what each check found with a potential, beside reference, literature and the committee's own doubt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from potstill.checks.defects import Defects
from potstill.checks.dimer import DimerWall
from potstill.checks.elastic import Elastic
from potstill.checks.eos import EquationOfState
from potstill.checks.liquid import Liquid
from potstill.checks.measured import BREAKDOWN, NEAR, Examination, Measured, Quantity
from potstill.checks.melting import Melting
from potstill.checks.other_crystals import OtherCrystals
from potstill.checks.phonons import Phonons
from potstill.checks.stability import Stability
from potstill.checks.stacking_fault import StackingFault
from potstill.checks.surfaces import Surfaces
from potstill.data import Frame
from potstill.engine import each
from potstill.errors import ConfigError
from potstill.model import Committee
from potstill.model.committee import force_spread
from potstill.protocols import Potential
from potstill.store import Units

CHECKS: dict[str, type[Examination]] = {
    c.name: c
    for c in (
        EquationOfState,
        Elastic,
        Phonons,
        Defects,
        Surfaces,
        StackingFault,
        OtherCrystals,
        DimerWall,
        Liquid,
        Stability,
        Melting,
    )
}
LONG = ("liquid", "stability", "melting")  # minutes; the others take seconds with a fast potential
ROUNDING = 1e-6  # eV/Å
SMALL = ("eos", "elastic")  # of a few atoms: what a density-functional code does in minutes
LARGEST = 10_000  # atoms that a potential must take to be called fast
RESULTS = ("pass", "near", "not measured", "fail")  # from good to bad


def fast(potential: Potential) -> bool:
    """Whether a potential takes large cells, and so dynamics; density-functional codes do not."""
    most: int = getattr(potential, "most_atoms", LARGEST)
    return most >= LARGEST


def named(checks: Sequence[str], *potentials: Potential) -> list[str]:
    """Return the checks that are meant: names, ``all``, or ``quick`` for those that take seconds.

    Among the potentials may be one that takes small cells only, as density-functional codes do: then ``quick`` means
    those checks that have no larger ones.

    Raises
    ------
    ConfigError
        If a name is not among them.
    """
    quick = SMALL if not all(map(fast, potentials)) else [c for c in CHECKS if c not in LONG]
    found: list[str] = []
    for name in checks:
        if name not in (*CHECKS, "all", "quick"):
            raise ConfigError(f"There is no check '{name}'; known are {', '.join(CHECKS)}, all and quick.")
        wanted = [name] if name in CHECKS else list(CHECKS) if name == "all" else quick
        found += [c for c in wanted if c not in found]
    return found


def card(
    checks: Sequence[str],
    element: str,
    lattice: str,
    model: Potential,
    reference: Potential,
    workdir: Path,
    *,
    workers: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Examine two potentials in parallel; what ``workdir`` has is not done again.

    Parameters
    ----------
    checks : sequence of str
        Keys of :data:`CHECKS`.
    element, lattice : str
        The metal and its ground state.
    workdir : path
        Keeps each check of each potential.
    workers : int
        Processes; 0 means one a core.
    tell : callable
        Gets a line a check.

    Returns
    -------
    list of dict
        One a check: ``check``, ``title``, ``result`` (the worst of its rows), ``rows`` (a quantity each, with value of
        model and reference, difference, tolerance and its source, result, literature), ``curves``, ``axes``,
        ``failed`` and ``doubt``: what the committee expected of its forces on the check's own structures, and what was
        found there (eV/Å; None for other potentials).
    """
    asked = [CHECKS[name](element, lattice) for name in checks]
    judged = {p.fingerprint: p for p in (reference, model)}  # once, where a potential is its own reference
    tasks = [(check, potential) for check in asked for potential in judged.values()]
    tasks.sort(key=lambda task: task[0].name not in LONG)  # the longest first
    found: dict[tuple[str, str], Measured] = {}
    cards: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    for (check, potential), measured in each(partial(_measure, workdir=workdir), tasks, workers=workers):
        found[check.name, potential.fingerprint] = measured
        sides = [found.get((check.name, p.fingerprint)) for p in (model, reference)]
        if sides[0] is None or sides[1] is None:
            continue
        made = _side_by_side(check, sides[0], sides[1])
        made["doubt"] = _doubt(sides[0].frames, model, reference, workdir)
        cards[check.name] = made
        tell(
            f"validate: {len(cards)}/{len(asked)} {check.name}: {made['result']}"
            f"{_worst(made)}, {time.monotonic() - began:.0f} s"
        )
    return [cards[name] for name in checks]


def _measure(task: tuple[Examination, Potential], *, workdir: Path) -> Measured:
    check, potential = task
    return check.unit(potential, workdir)


def _side_by_side(check: Examination, model: Measured, reference: Measured) -> dict[str, Any]:
    rows = [
        _row(f"{check.name}.{name}", name, quantity, model, reference, check.element)
        for name, quantity in check.quantities.items()
    ]
    return {
        "check": check.name,
        "title": check.title,
        "result": max((r["result"] for r in rows), key=RESULTS.index),
        "rows": rows,
        "axes": list(check.axes),
        "curves": {
            side: {name: list(xy) for name, xy in m.curves.items()}
            for side, m in (("model", model), ("reference", reference))
        },
        "failed": {"model": dict(model.failed), "reference": dict(reference.failed)},
    }


def _row(key: str, name: str, q: Quantity, model: Measured, reference: Measured, element: str) -> dict[str, Any]:
    mine, theirs = model.values.get(name), reference.values.get(name)
    right = theirs if q.ideal is None else q.ideal
    difference = None if mine is None or right is None else mine - right
    limit = q.tolerance if not q.percent or right is None else abs(right) * q.tolerance / 100
    noise = float(np.hypot(model.errors.get(name, 0.0), reference.errors.get(name, 0.0)))
    result = "not measured"
    if difference is not None:
        beyond = abs(difference)
        result = "pass" if beyond <= limit else "near" if beyond <= max(NEAR * limit, limit + 2 * noise) else "fail"
    elif mine is None and (theirs is not None or q.ideal is not None):
        result = "fail"  # the reference could, the model could not
    return {
        "quantity": name,
        "unit": q.unit,
        "model": mine,
        "model_error": model.errors.get(name),
        "reference": theirs,
        "reference_error": reference.errors.get(name),
        "ideal": q.ideal,
        "difference": difference,
        "difference_percent": 100 * difference / right if difference is not None and right else None,
        "tolerance": q.tolerance,
        "tolerance_unit": "%" if q.percent else q.unit,
        "source": q.source,
        "result": result,
        "literature": literature(element).get(key, []),
    }


def _worst(made: dict[str, Any]) -> str:
    """Name the row that decided, with its difference."""
    if made["result"] == "pass":
        return ""
    decided = [r for r in made["rows"] if r["result"] == made["result"]]
    rows = [r for r in decided if r["difference"] is not None]
    if not rows:
        return f" ({decided[0]['quantity']} not measured)"
    share = [
        abs(r["difference_percent" if r["tolerance_unit"] == "%" else "difference"] or 0.0) / r["tolerance"]
        for r in rows
    ]
    worst = rows[int(np.argmax(share))]
    off = (
        f"{worst['difference_percent']:+.1f} %"
        if worst["tolerance_unit"] == "%" and worst["difference_percent"] is not None
        else f"{worst['difference']:+.3g} {worst['unit']}"
    )
    return f" ({worst['quantity']} {off})"


def _doubt(frames: Sequence[Frame], model: Potential, reference: Potential, workdir: Path) -> dict[str, Any] | None:
    """Return expected and found errors on a check's structures, as root mean squares.

    Forces in eV/Å; energies in meV/atom, relative to the mean of the structures, since zeros of energy are free.
    """
    if not isinstance(model, Committee) or model.members < 2 or not frames:
        return None
    predicted = model.predict(list(frames))
    expected = [model.calibration * force_spread(p) for p in predicted]
    what = {"check": "doubt", "frames": [f.key for f in frames], "potential": reference.fingerprint}

    def labels() -> list[Any]:
        calculator = reference.calculator()
        told = []
        for f in frames:
            atoms = f.atoms.copy()
            atoms.calc = calculator
            told.append([atoms.get_potential_energy() / len(atoms), atoms.get_forces().tolist()])
        return told

    try:
        truth = Units(workdir).get(what, labels)
    except BREAKDOWN:
        return None
    off = [np.linalg.norm(p.forces.mean(0) - np.array(t), axis=1) for p, (_, t) in zip(predicted, truth, strict=True)]
    energies = 1e3 * np.array([p.energy / f.n_atoms for p, f in zip(predicted, frames, strict=True)])
    true_energies = 1e3 * np.array([e for e, _ in truth])
    energies, true_energies = energies - energies.mean(0), true_energies - true_energies.mean()
    spread = model.energy_calibration * float(np.sqrt(np.mean(energies.var(1, ddof=1))))
    wrong = float(np.sqrt(np.mean((energies.mean(1) - true_energies) ** 2)))
    several = len(frames) > 1
    return {
        "expected_energy": spread if several else None,
        "found_energy": wrong if several else None,
        "expected": _rms(expected),
        "found": _rms(off),
        "strangest": max(float(s.max()) for s in model.strangeness(list(frames))) if model.domain else None,
    }


def _rms(parts: Sequence[Any]) -> float:
    """Return the root mean square over all atoms; what symmetry makes zero up to rounding is zero."""
    found = float(np.sqrt(np.mean(np.concatenate(parts) ** 2)))
    return found if found > ROUNDING else 0.0


@cache
def _all_literature() -> dict[str, Any]:
    text = (resources.files("potstill.checks") / "literature.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def literature(element: str) -> dict[str, list[dict[str, Any]]]:
    """Return published values, ``check.quantity`` → a list of value, kind (experiment or PBE) and source."""
    found: dict[str, list[dict[str, Any]]] = _all_literature().get(element, {})
    return found

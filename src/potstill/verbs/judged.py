"""Whether a potential is good: validate and evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill import crystals, tables
from potstill.backends import WANTS_ELEMENTS, resolve
from potstill.checks import ErrorReport, Outside, Polymorphs, errors_on, named
from potstill.checks import validate as judge
from potstill.data import Dataset
from potstill.errors import ConfigError
from potstill.protocols import Potential
from potstill.store import RunDir
from potstill.verbs.given import Overrides, Structures, Tell, labelled, settings_of, silent


class Verdict:
    """How a potential compares with its reference.

    Attributes
    ----------
    summary : dict
        What ``validation.json`` holds.
    path : Path
        The folder.
    """

    def __init__(self, summary: dict[str, Any], path: Path) -> None:
        self.summary, self.path = summary, path

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Quantity, model, reference, difference and result, heads first."""
        found: list[tuple[str, ...]] = [("quantity", "model", "reference", "difference", "result")]
        p = self.summary["polymorphs"]
        for r in p["crystals"]:
            if r["crystal"] == p["relative_to"]:
                continue
            name = f"{r['crystal']} above {p['relative_to']} (meV/atom)"
            if r["relative_energy_error"] is None:
                found.append((name, "–", "–", "–", "not relaxed"))
                continue
            off = r["relative_energy_error"]
            result = "pass" if abs(off) <= p["tolerance_mev_per_atom"] else "outside"
            both = (f"{r[side]['relative_energy']:.1f}" for side in ("nnp", "reference"))
            found.append((name, *both, f"{off:+.1f}", result))
        for check in self.summary["card"]:
            for r in check["rows"]:
                unit = f" ({r['unit']})" if r["unit"] else ""
                name = f"{check['title']}: {r['quantity'].replace('_', ' ')}{unit}"
                values = ["–" if r[k] is None else f"{r[k]:.4g}" for k in ("model", "reference", "difference")]
                found.append((name, *values, r["result"]))
        return found

    def __repr__(self) -> str:
        return tables.text(self.rows)

    def _repr_html_(self) -> str:
        return tables.html(f"{self.summary['element']}: {self.path / 'validation.json'}", self.rows)


def validate(
    model: str | Path | Potential,
    reference: str | Path | Potential,
    *,
    out: str | Path,
    element: str = "",
    holdout: Structures | None = None,
    checks: Sequence[str] = (),
    lattice: str = "",
    workers: int = 0,
    overrides: Overrides = (),
    tell: Tell = silent,
) -> Verdict:
    """Examine model and reference alike, from relaxed crystals to melting, and say whether they agree.

    Parameters
    ----------
    model, reference : path, recipe or Potential
        Who is judged, and by whom: a trained model's folder, ``lammps:FILE``, a committee …
    out : path
        A folder; what it has of an earlier call is not done again.
    element : str
        Of the crystals, where both know several.
    holdout : structures | None
        Labelled frames that were not learnt from.
    checks : sequence of str
        Names of checks, ``quick`` or ``all``; ``validate.checks`` where none is given.
    lattice : str
        fcc, bcc or hcp: the ground state; the element's own where it is not given.
    workers : int
        Processes; 0 means one a core.
    overrides, tell
        See :mod:`potstill.verbs`.

    Raises
    ------
    ConfigError, BackendError
        If a name is unknown, or a potential is not there.
    """
    settings, out = settings_of(None, overrides, 1), Path(out)
    v = settings.validate_
    asked = list(checks) or v.checks
    named(asked)  # a wrong name is told before any work
    if lattice not in ("", "fcc", "bcc", "hcp"):
        raise ConfigError(f"Expected fcc, bcc or hcp for --lattice, but found '{lattice}'.")
    element = element or _common(model, reference)
    check = Polymorphs(element, v.polymorphs, crystals.atomic_volume(element), v.force_tolerance, v.relax_steps)
    judged, judge_by = (
        resolve(str(p), [element], settings) if isinstance(p, (str, Path)) else p for p in (model, reference)
    )
    wanted = named(asked, judged, judge_by)
    held = Dataset() if holdout is None else labelled(holdout, tell)
    with RunDir(out).locked():
        outside = Outside(element, ()) if v.defects else None
        summary, _ = judge(
            judged, judge_by, check, out, outside=outside, checks=wanted, lattice=lattice, holdout=held,
            pool=Dataset(), workers=workers, tell=tell,
        )  # fmt: skip
    return Verdict(summary, out)


def _common(*potentials: str | Path | Potential) -> str:
    """Return the one element that all potentials know.

    Raises
    ------
    ConfigError
        If there are several, or none.
    """
    known = [
        set((resolve(str(p)) if isinstance(p, (str, Path)) else p).elements)
        for p in potentials
        if p not in WANTS_ELEMENTS
    ]
    common = sorted(set.intersection(*known)) if known else []
    if len(common) != 1:
        told = f"know {', '.join(common)}" if common else "have no element in common that could be read off them"
        raise ConfigError(f"Expected one element to examine, but the potentials {told}. Give --element, such as Ni.")
    return common[0]


def evaluate(model: str | Path | Potential, data: Structures, *, tell: Tell = silent) -> ErrorReport:
    """Return the errors of a potential on labelled structures.

    Parameters
    ----------
    model : path, recipe or Potential
        A trained model's folder, ``lammps:FILE``, a committee …
    data : structures
        Labelled.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    DataError
        If nothing is labelled.
    """
    return errors_on(resolve(str(model)) if isinstance(model, (str, Path)) else model, labelled(data, tell))

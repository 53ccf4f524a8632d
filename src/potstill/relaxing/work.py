"""Step 5 as a whole: files of proposed structures → relaxed ones, each with a verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import crystals
from potstill.data import Frame, write_atomic
from potstill.engine import each
from potstill.errors import ConfigError
from potstill.model import Committee
from potstill.model.files import no_domain
from potstill.protocols import Potential
from potstill.relaxing.batch import GPA, Descent, How, aside, descend
from potstill.relaxing.judge import (
    CLOSE_ENOUGH,
    FAR,
    TRUSTED_WAY,
    Lowest,
    Row,
    after,
    before,
    decide,
    formula_of,
    group,
    members_of,
)
from potstill.relaxing.read import Proposed
from potstill.store import Units, digest, write_json

if TYPE_CHECKING:
    from ase import Atoms

LOST = 1e6  # meV/atom, for a relaxation that came nowhere
BATCH_ATOMS = 1_500  # that are relaxed together: a unit of work


@dataclass(frozen=True)
class Relaxed:
    """Rows in the order of the structures, and where each began and ended (None where it was not relaxed)."""

    rows: list[Row]
    starts: list[Atoms | None]
    ends: list[Atoms | None]
    paths: list[list[Atoms]]


def as_metal(atoms: Atoms, element: str, volume: float) -> Atoms:
    """Return the same framework with all atoms of one element, at so many Å³ each."""
    made = atoms.copy()
    made.set_chemical_symbols([element] * len(made))
    return crystals.scaled(made, volume)


def relax(
    proposed: Sequence[Proposed],
    potential: Potential,
    folder: Path,
    *,
    how: How | None = None,
    metal: str = "",
    known: Mapping[str, Atoms] | None = None,
    workers: int = 0,
    tell: Callable[[str], None] = lambda _line: None,
) -> Relaxed:
    """Relax structures and judge them; batches that ``folder`` has are not relaxed again.

    Parameters
    ----------
    proposed : sequence of Proposed
    potential : Potential
        A committee watches itself; of any other potential every structure that comes to rest is believed.
    folder : path
        Keeps batches.
    how : How | None
        The defaults where it is not given.
    metal : str
        Replace all elements by this one, and scale to its volume.
    known : mapping of str to Atoms
        Structures that are no news.
    workers : int
        Processes, for potentials that are no committees; 0 means one a core.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    ConfigError
        If the potential does not know ``metal``.
    DataError
        If it is a committee of the first format, which does not say what it has learnt.
    """
    how = how or How()
    if metal and metal not in potential.elements:
        raise ConfigError(f"The potential knows {', '.join(potential.elements)}, but not {metal}, for --as.")
    if isinstance(potential, Committee) and potential.domain is None:
        raise no_domain()
    rest = _at_rest(potential, [metal] if metal else _met(proposed, potential), folder, how.pressure)
    rows = [Row(p.source) for p in proposed]
    starts: list[Atoms | None] = [None] * len(rows)
    for k, (row, p) in enumerate(zip(rows, proposed, strict=True)):
        if p.atoms is None:
            row.verdict, row.reason = "failed", p.reason
            continue
        atoms = p.atoms
        if metal:
            volume = rest[metal][1] if metal in rest else crystals.atomic_volume(metal)
            atoms = as_metal(atoms, metal, volume)
        row.formula, row.n_atoms = formula_of(atoms), len(atoms)
        refused = before(atoms, potential.elements)
        if refused is not None:
            row.verdict, row.reason = refused
        else:
            starts[k] = atoms
    todo = [k for k, atoms in enumerate(starts) if atoms is not None]
    tell(f"relax: {len(rows)} structures, {len(rows) - len(todo)} of them are not to be relaxed")
    found = _all(todo, starts, potential, how, folder, workers, tell)
    for k, off in _elsewhere(found, starts, potential, how, folder, tell).items():
        rows[k].elsewhere = off
    return _judged(rows, starts, found, rest, potential, known or {})


def _met(proposed: Sequence[Proposed], potential: Potential) -> list[str]:
    """Return the elements of those structures that the potential knows all elements of."""
    there = [set(p.atoms.get_chemical_symbols()) for p in proposed if p.atoms is not None]
    return sorted(set().union(*(symbols for symbols in there if symbols <= set(potential.elements))))


def _at_rest(
    potential: Potential, elements: Sequence[str], folder: Path, pressure: float
) -> dict[str, tuple[str, float, float, list[float] | None]]:
    """Return for each element its most stable common crystal: name, Å³, eV/atom, members' energies.

    Volume is that without pressure; the energy is the enthalpy, as that of the structures.
    """

    def compute(element: str) -> Any:
        found, _ = crystals.common_crystals(element, potential.calculator())
        if not found:
            return None
        volume = next(float(atoms.get_volume()) / len(atoms) for atoms in found.values())
        pressed = descend(potential, list(found.values()), How(force_tolerance=3e-3, pressure=pressure))
        rested = [(name, d) for name, d in zip(found, pressed, strict=True) if d.end == "converged"]
        if not rested:
            return None
        name, lowest = min(rested, key=lambda pair: pair[1].energy / len(pair[1].atoms))
        enthalpy, end = lowest.energy / len(lowest.atoms), lowest.atoms
        members = members_of(potential, end)
        return [name, volume, enthalpy, None if members is None else members.tolist()]

    units = Units(folder)
    what = {"pressure": pressure, "potential": potential.fingerprint}
    found = {e: units.get({"at rest": e, **what}, partial(compute, e)) for e in elements}
    return {e: tuple(v) for e, v in found.items() if v is not None}


def _all(
    todo: Sequence[int],
    starts: Sequence[Atoms | None],
    potential: Potential,
    how: How,
    folder: Path,
    workers: int,
    tell: Callable[[str], None],
) -> dict[int, Descent]:
    """Relax batch by batch."""
    tasks = [(part, [starts[k] for k in part]) for part in _parts(todo, starts)]
    work = partial(_batch, potential=potential, how=how, folder=folder)
    found: dict[int, Descent] = {}
    # A committee's kernels use all cores by themselves.
    together = 1 if isinstance(potential, Committee) else workers
    for (which, _), descents in each(work, tasks, workers=together):
        found |= dict(zip(which, descents, strict=True))
        tell(f"relax: {len(found)}/{len(todo)} structures relaxed")
    return found


def _elsewhere(
    found: Mapping[int, Descent],
    starts: Sequence[Atoms | None],
    potential: Potential,
    how: How,
    folder: Path,
    tell: Callable[[str], None],
) -> dict[int, float]:
    """Let each member relax what may be trusted, from a start a little aside; return how far off they end, meV/atom.

    A way may divide, and then where it ends hangs on less than the model is wrong by.
    """
    if not isinstance(potential, Committee) or potential.members < 2:
        return {}
    asked = [k for k, d in found.items() if d.end == "converged" and d.strangest <= TRUSTED_WAY]
    worst = dict.fromkeys(asked, 0.0)
    if asked:
        tell(f"relax: each member by itself relaxes the {len(asked)} structures that may be trusted")
    for m in range(potential.members):
        member = potential.member(m)
        for part in _parts(asked, starts):
            begun = [aside(atoms, m, how) for k in part if (atoms := starts[k]) is not None]
            ends = _batch((part, begun), potential=member, how=how, folder=folder)
            there = potential.predict([Frame.of(d.atoms) for d in ends], mean=True)
            for k, d, p in zip(part, ends, there, strict=True):
                enthalpy = float(p.energy[0]) + how.pressure * GPA * float(d.atoms.get_volume())
                off = 1e3 * abs(enthalpy - found[k].energy) / len(d.atoms)
                worst[k] = max(worst[k], off if d.end == "converged" and np.isfinite(off) else LOST)
    return worst


def _parts(todo: Sequence[int], starts: Sequence[Atoms | None]) -> list[list[int]]:
    """Divide structures into batches, small ones with small ones, so that padding costs little."""
    parts: list[list[int]] = []
    held = BATCH_ATOMS
    for k in sorted(todo, key=lambda k: len(starts[k] or ())):
        n = len(starts[k] or ())
        if held + n > BATCH_ATOMS:
            parts.append([])
            held = 0
        parts[-1].append(k)
        held += n
    return parts


def _batch(task: tuple[list[int], list[Any]], *, potential: Potential, how: How, folder: Path) -> list[Descent]:
    from ase import Atoms

    structures = task[1]
    what = {
        "relax": digest([_plain(a) for a in structures]),
        "how": vars(how),
        "far": FAR,
        "potential": potential.fingerprint,
    }

    def compute() -> Any:
        descents = descend(potential, structures, how, stop=lambda strange, _: "left" if strange > FAR else "")
        return [
            {
                "end": d.end, "message": d.message, "steps": d.steps, "strangest": d.strangest, "doubt": d.doubt,
                "energy": d.energy if np.isfinite(d.energy) else None,
                "gradient": d.gradient if np.isfinite(d.gradient) else None,
                "atoms": _plain(d.atoms), "path": [_plain(a) for a in d.path],
            }
            for d in descents
        ]  # fmt: skip

    def back(kept: Mapping[str, Any]) -> Descent:
        return Descent(
            Atoms(**kept["atoms"], pbc=True),
            np.nan if kept["energy"] is None else kept["energy"],
            kept["steps"],
            kept["end"],
            kept["message"],
            np.inf if kept["gradient"] is None else kept["gradient"],
            kept["strangest"],
            kept["doubt"],
            [Atoms(**a, pbc=True) for a in kept["path"]],
        )

    return [back(kept) for kept in Units(folder).get(what, compute)]


def _plain(atoms: Any) -> dict[str, Any]:
    return {
        "symbols": atoms.get_chemical_symbols(),
        "positions": np.round(atoms.positions, 9).tolist(),
        "cell": np.round(atoms.cell.array, 9).tolist(),
    }


def _judged(
    rows: list[Row],
    starts: list[Atoms | None],
    found: Mapping[int, Descent],
    rest: Mapping[str, tuple[str, float, float, list[float] | None]],
    potential: Potential,
    known: Mapping[str, Atoms],
) -> Relaxed:
    lowest = Lowest()
    for element, (name, _, energy, theirs) in rest.items():
        lowest.offer(element, f"{name} {element}", energy, None if theirs is None else np.array(theirs))
    ends: list[Atoms | None] = [None] * len(rows)
    members: dict[int, Any] = {}
    for k, descent in found.items():
        start = starts[k]
        if start is None:
            continue
        members[k] = after(rows[k], start, descent, potential)
        if rows[k].energy is not None:
            ends[k] = descent.atoms
    for believed in (True, False):  # what the model may have invented is a floor only where there is no other
        for k, descent in found.items():
            row = rows[k]
            if row.energy is None or descent.end != "converged" or believed != (row.way <= TRUSTED_WAY):
                continue
            if believed or row.formula not in lowest.known:
                lowest.offer(row.formula, row.source, row.energy, members[k])
    for k in found:  # what did not come to rest has no other either
        if rows[k].energy is not None and rows[k].formula not in lowest.known:
            lowest.offer(rows[k].formula, rows[k].source, float(rows[k].energy or 0.0), members[k])
    for k, descent in found.items():
        decide(rows[k], descent, members.get(k), lowest, potential)
    metals = {row.formula for row in rows if row.formula in potential.elements}
    prototypes = {
        f"{name} {e}": crystals.prototype(name, e, crystals.atomic_volume(e))
        for e in sorted(metals)
        for name in crystals.PROTOTYPES
    }
    group(rows, ends, {**prototypes, **known})
    paths = [found[k].path if k in found else [] for k in range(len(rows))]
    return Relaxed(rows, starts, ends, paths)


def compare(result: Relaxed, judge: Relaxed) -> dict[str, Any]:
    """Note where another potential's own relaxations ended, from the same starts; say how well both agree.

    Returns
    -------
    dict
        ``trusted`` and ``all``: ``n`` structures that both brought to rest, ``within`` (share that differ by no more
        than 5 meV/atom), ``worst`` (meV/atom) and ``rank``, Spearman's correlation; None where there are too few.
    """
    from scipy.stats import spearmanr

    for row, theirs in zip(result.rows, judge.rows, strict=True):
        if row.energy is not None and theirs.energy is not None and theirs.verdict != "failed":
            row.judge_energy = theirs.energy
            row.judge_error = 1e3 * (row.energy - theirs.energy)
    told: dict[str, Any] = {}
    for name in ("trusted", "all"):
        mine = [r for r in result.rows if r.judge_error is not None and (r.trusted or name == "all")]
        errors = np.abs([r.judge_error or 0.0 for r in mine])
        ranked = len({r.judge_energy for r in mine}) > 2
        told[name] = {
            "n": len(mine),
            "within": float(np.mean(errors <= CLOSE_ENOUGH)) if mine else None,
            "worst": float(errors.max()) if mine else None,
            "rank": float(spearmanr([r.energy for r in mine], [r.judge_energy for r in mine])[0]) if ranked else None,
        }
    return told


def save(result: Relaxed, out: Path) -> list[str]:
    """Write ``relax.json``, ``relax.csv``, ``relaxed.extxyz`` and a CIF for each structure; return the names."""
    from ase.io import write

    rows = [row.plain() for row in result.rows]
    write_json(out / "relax.json", rows)
    text = io.StringIO()
    if rows:
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows({k: _tame(v) for k, v in r.items()} for r in rows)
    write_atomic(out / "relax.csv", text.getvalue().encode())
    frames = []
    (out / "cif").mkdir(parents=True, exist_ok=True)
    for old in (out / "cif").glob("*.cif"):
        old.unlink()
    for k, (row, atoms) in enumerate(zip(result.rows, result.ends, strict=True)):
        if atoms is None:
            continue
        made = atoms.copy()
        made.info = {"number": k, "verdict": row.verdict}
        frames.append(made)
        content = io.BytesIO()
        write(content, atoms, format="cif")
        write_atomic(out / "cif" / f"{k:05d}.cif", content.getvalue())
    written = io.StringIO()
    write(written, frames, format="extxyz")
    write_atomic(out / "relaxed.extxyz", written.getvalue().encode())
    return ["relax.json", "relax.csv", "relaxed.extxyz"]


def _tame(value: Any) -> Any:
    """Keep a spreadsheet from taking a name of a file for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


VERDICTS = ("stable", "metastable", "unstable", "uncertain", "failed", "out-of-domain")


def table_text(result: Relaxed) -> str:
    """Count verdicts for the terminal, with the first reason of each kind that is not trusted."""
    lines = []
    for verdict in VERDICTS:
        mine = [r for r in result.rows if r.verdict == verdict]
        if mine:
            lines.append(f"{verdict:<14} {len(mine):>6}   {mine[0].source}: {mine[0].reason}")
    trusted = [r for r in result.rows if r.trusted]
    news = sum(not r.known_as and not r.same_as for r in trusted)
    lines.append(f"{len(trusted)} of {len(result.rows)} are trusted, {news} of them neither known nor met before")
    return "\n".join(lines)

"""A folder of relaxed structures → one page: a table that sorts and filters, each structure in three dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.data import sketch, write_atomic
from potstill.reporting import figures
from potstill.reporting.viewer import viewer, within
from potstill.store import read_json

MOST_BYTES = 2_500_000  # of all shown structures together
MOST_ROWS = 5_000
VERDICTS = ("stable", "metastable", "unstable", "uncertain", "failed", "out-of-domain")


def gallery(out: str | Path) -> Path:
    """Write ``relax.html`` into a folder that :func:`potstill.relaxing.save` filled; return its path."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    out = Path(out)
    rows = read_json(out / "relax.json")
    told = {name: read_json(file) for name in ("learning", "judge") if (file := out / f"{name}.json").exists()}
    counts = {v: n for v in VERDICTS if (n := sum(r["verdict"] == v for r in rows))}
    shown = sorted(range(len(rows)), key=lambda k: (VERDICTS.index(rows[k]["verdict"]), rows[k]["energy_above"] or 0.0))
    shown = shown[:MOST_ROWS]
    doubts = any(r["strangest_on_way"] is not None for r in rows)
    drawn = _drawn(rows, told) if told or any(r["energy_above"] is not None for r in rows) else {}
    environment = Environment(
        loader=PackageLoader("potstill.reporting", "."), autoescape=select_autoescape(), trim_blocks=False
    )
    page = environment.get_template("gallery.html").render(
        columns=_columns(doubts, "judge" in told),
        doubts=doubts,
        rows=[{**rows[k], "number": k} for k in shown],
        n=len(rows),
        n_trusted=sum(r["trusted"] for r in rows),
        counts=counts,
        figures=drawn,
        cells=_cells(out / "relaxed.extxyz", shown),
        **viewer(),
        **{"learning": None, "judge": None, **told},
    )
    write_atomic(out / "relax.html", page.encode())
    return out / "relax.html"


def _columns(doubts: bool, judge: bool) -> list[tuple[str, str]]:
    """Return the heads of the table's further columns, and whether text or numbers stand under them."""
    return [
        ("verdict", "t"),
        ("formula", "t"),
        ("atoms", "n"),
        ("above lowest (meV/atom)", "n"),
        *([("expected error (meV/atom)", "n"), ("strangest atom", "n")] if doubts else []),
        *([("off the judge (meV/atom)", "n")] if judge else []),
        ("space group", "t"),
        ("volume (Å³/atom)", "n"),
        ("moved (Å)", "n"),
        ("same as", "t"),
        ("reason", "t"),
    ]


def _cells(file: Path, order: Sequence[int]) -> dict[int, str]:
    """Return those structures that the page can show, by number."""
    from ase.io import iread

    found: dict[int, str] = {}
    if not file.exists() or not file.stat().st_size:
        return found
    for atoms in iread(file, index=":", format="extxyz"):
        if text := sketch(atoms):
            found[int(atoms.info["number"])] = text
    wanted = [k for k in order if k in found]
    return {k: text for k, text in zip(wanted, within(MOST_BYTES, map(found.get, wanted)), strict=True) if text}


def _drawn(rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> dict[str, str]:
    with figures.style():
        return {name: f.svg() for name, f in _figures(rows, told).items()}


def _figures(rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> dict[str, figures.Figure]:
    rested = [r for r in rows if r["energy_above"] is not None and r["verdict"] != "failed"]
    made = {"landscape": figures.landscape(rested)} if rested else {}
    judged = [r for r in rows if r["judge_error"] is not None]
    if judged:
        made["judged"] = figures.judged(judged)
    if "learning" in told:
        made["learning"] = figures.trust(told["learning"]["rounds"], len(rows))
    return made

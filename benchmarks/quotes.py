"""Write the measured numbers of README.md and docs/ from the kept results, each where it stands in a sentence.

    python benchmarks/quotes.py          write them
    python benchmarks/quotes.py -        print what would change, and fail where something would

Behind a number that was measured stands, in a comment that no reader sees, what it is: ``7.7<!--=demo/forces-->``, or
with its band ``7.7 ± 1.0<!--=ni/potstill/50/forces-->``. The number keeps its digits after the point and, where it has
one, its sign. A name that ends with ``most`` is rounded up, one with ``least`` down, so that bounds hold. Results are
those of distil.py (``ni``, ``ni-whole``, ``ni-beside``, ``nb``, ``zuo``), transfer.py, kpoints.py and examples.py.
What is written between ``<!-- name -->`` and ``<!-- end of name -->`` is made whole: tables, and what a run printed.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from common import HERE, source
from distil_page import markdown, rows_of
from speed_page import standing
from speed_tables import kept, sampling, shares_of, step

REPO = HERE.parent
NUMBER = re.compile(
    r"(?P<sign>[+−-]?)\d+(?:,\d{3})*(?:\.(?P<digits>\d+))?(?P<band> ± \d+(?:\.\d+)?)?(?P<mark><!--=(?P<key>[^>]+)-->)"
)
SHORT = {
    "energy": "energy_rmse_mev_per_atom",
    "forces": "force_rmse_ev_per_angstrom",
    "without": "force_rmse_without_worst",
    "p99": "force_p99",
    "worst": "force_worst",
}
results = cache(kept)
Value = tuple[float, float | None]  # and half the width of its interval, where it has one


def extreme(which: str, values: Sequence[float]) -> Value:
    """Return the largest or the smallest size among values."""
    sizes = [abs(value) for value in values]
    return (max(sizes) if which == "most" else min(sizes), None)


def selectors(file: str, selector: str, labels: str, *what: str) -> Value:
    """Return a mean over seeds; after ``all seeds``, the largest among seeds and names; after ``mean``, among means."""
    told = results(f"distil-{file}")
    if what[0] == "all seeds":
        cells = [c for c in told["cells"] if (c["selector"], c["n_labels"]) == (selector, int(labels))]
        return extreme(what[-1], [c["outside"][name] for c in cells for name in what[1].split(", ")])
    row = next(r for r in rows_of(told) if (r["selector"], r["n_labels"]) == (selector, int(labels)))
    if what[0] == "mean":
        return extreme(what[-1], [row["outside"][name][0] for name in what[1].split(", ")])
    if what[0] in row["also"]:
        found = row["also"][what[0]][SHORT[what[1]]]
    else:
        found = row["mae"] if what[0] == "mae" else row[SHORT[what[0]]]
    return (found, None) if isinstance(found, float) else (found[0], found[1])


def errors(rows: Sequence[Any], what: str, which: str) -> Value:
    """Return the largest or the smallest of an error, or of what crystals are off by, among rows."""
    if what == "crystals":
        names = ("fcc", "hcp", "dhcp", "bcc")
        return extreme(which, [x for r in rows for name, x in r["crystals"].items() if name in names])
    scale = 1.0 if what == "energy" else 1e3
    return extreme(which, [scale * r["errors"][SHORT[what]] for r in rows])


def metals(labels: str, names: str, what: str, which: str = "most") -> Value:
    """Return an error of a metal that learnt the foundational set, or of ``all but`` one."""
    rows = [r for r in results("transfer-metals")["rows"] if r["n_labels"] == int(labels)]
    but = names.removeprefix("all but ")
    return errors([r for r in rows if (r["target"] == but) == (names == but)], what, which)


def ways(metal: str, way: str, what: str) -> Value:
    """Return the mean over seeds of an error by another way to as many labels."""
    rows = [r for r in results("transfer-beside")["rows"] if (r["target"], r["way"]) == (metal, way)]
    return sum(errors([r], what, "most")[0] for r in rows) / len(rows), None


def by_dft(way: str, what: str, _: str = "") -> Value:
    """Return an error, or the number of labels, of a metal by density-functional theory."""
    row = next(r for r in results("transfer-dft")["rows"] if r["way"] == way)
    return (row["n_labels"], None) if what == "labels" else errors([row], what, "most")


def kpoints(spacing: str, width: str) -> Value:
    """Return the noise of forces on the disordered atoms, meV/Å."""
    rows = results("kpoints")["rows"][0]["disordered"]
    row = next(r for r in rows if (r["spacing"], r["width"]) == (float(spacing), float(width)))
    return 1e3 * row["forces"], None


def scale(frames: str, what: str) -> Value:
    """Return the minutes of a choice from a pool of so many frames, the GiB, or the ms a frame."""
    row = next(r for r in results("distil-scale")["rows"] if r["frames"] == int(frames))
    found = {"minutes": row["seconds"] / 60, "gib": row["peak_gib"], "ms": 1e3 * row["seconds"] / row["frames"]}
    return found[what], None


def example(name: str, track: str, what: str, *names: str) -> Value:
    """Return an error of an example's potential; of crystals but those named, the largest; of a check, a percentage."""
    row = next(r for r in results("examples")["rows"] if r["name"] == name)["tracks"][track]
    if what == "crystals but":
        return extreme("most", [x for crystal, x in row["crystals"].items() if crystal not in names[0].split(", ")])
    if what in row["card"]:
        return next(r for r in row["card"][what] if r["quantity"] == names[0])["difference_percent"], None
    return errors([row], what, "most")


SOURCES: dict[str, Callable[..., Value]] = {
    **{
        name: (lambda *rest, name=name: selectors(name, *rest))
        for name in ("ni", "ni-whole", "ni-beside", "nb", "al", "zuo")
    },
    "metals": metals,
    "ways": ways,
    "dft": by_dft,
    "kpoints": kpoints,
    "scale": scale,
    "example": example,
}


def number(shown: re.Match[str]) -> str:
    """Return the number that a mark stands for, in the form that it has on the page."""
    source, *rest = shown["key"].split("/")
    value, band = SOURCES[source](*rest)
    digits = len(shown["digits"] or "")
    if rest[-1] in ("most", "least"):
        steps = value * 10**digits
        value = (math.ceil(steps - 1e-6) if rest[-1] == "most" else math.floor(steps + 1e-6)) / 10**digits
    text = f"{value:{'+' if shown['sign'] else ''},.{digits}f}".replace("-", "−")
    if shown["band"]:
        if band is None:
            sys.exit(f"{shown['key']} has no band")
        text += f" ± {band:.{digits}f}"
    return text + shown["mark"]


def ended_with(name: str, lines: slice = slice(None)) -> str:
    """Return what an example's run printed at its end."""
    row = next(r for r in results("examples")["rows"] if r["name"] == name)
    return "```text\n" + "\n".join(row["headline"][lines]) + "\n```"


def failed_of(name: str) -> str:
    """Say which checks of its card an example's potential fails."""
    card = next(r for r in results("examples")["rows"] if r["name"] == name)["tracks"]["beside"]["card"]
    failed = [f"`{check}`" for check, rows in card.items() if any(row["result"] == "fail" for row in rows)]
    return f"Of the {len(card)} checks on its card the potential fails {', '.join(failed) or 'none'}."


QUANTITIES = {
    "bulk_modulus": "bulk modulus from the equation of state",
    "bulk_modulus_derivative": "its derivative",
    "(111)": "surface energy, (111)",
    "(100)": "surface energy, (100)",
    "(110)": "surface energy, (110)",
}


def fell_short(name: str, *, limit: float = 10.0) -> str:
    """Return what of an example's verdict does not pass, with generated frames and without them."""
    tracks = next(r for r in results("examples")["rows"] if r["name"] == name)["tracks"]
    lines = []
    for check, rows in tracks["beside"]["card"].items():
        for mine, alone in zip(rows, tracks["pool-only"]["card"][check], strict=True):
            if {mine["result"], alone["result"]} != {"pass"}:
                percent = mine["tolerance_unit"] == "%"
                key, unit = ("difference_percent", "%") if percent else ("difference", mine["unit"])
                name_ = QUANTITIES.get(mine["quantity"], f"{check}, {mine['quantity']}")
                cells = [f"{r[key]:+.1f} {unit}, {r['result']}" for r in (mine, alone)]
                lines.append([name_, *cells, f"{mine['tolerance']:g} {mine['tolerance_unit']}"])
    for kind in ("crystals", "outside"):
        for what, mine in tracks["beside"][kind].items():
            alone = tracks["pool-only"][kind][what]
            if max(abs(mine), abs(alone)) > limit:
                cells = [f"{x:+.1f} meV/atom" for x in (mine, alone)]
                lines.append([f"{what} above the ground state", *cells, f"{limit:g} meV/atom"])
    heads = ["model less reference", "with generated frames", "of the pool alone", "tolerance"]
    return re.sub(r"(?<=\| )-(?=\d)", "−", markdown(heads, lines))


def million() -> str:
    """Return what a step of a million atoms costs."""
    told = results("million")
    lines = [[str(r["processes"]), f"{r['atoms']:,.0f}", f"{r['us']:.1f}", f"{r['gib']:.2f} GiB"] for r in told["rows"]]
    return markdown(["processes", "atoms", "µs per atom and step", "memory of the first process"], lines) + (
        "\n" + source("million.py", told)
    )


BLOCKS: dict[str, list[tuple[str, Callable[[], str]]]] = {
    "README.md": [
        ("demo", lambda: f"{ended_with('nickel')}\n\n{failed_of('nickel')}"),
        ("sampling", sampling),
        ("standing", standing),
        ("inference", step),
    ],
    "docs/sampling.md": [("coverage", shares_of)],
    "docs/verdict.md": [("demo", lambda: fell_short("nickel"))],
    "docs/labels.md": [
        ("aluminium", lambda: ended_with("aluminium_dft")),
        ("aluminium's card", lambda: fell_short("aluminium_dft")),
    ],
    "docs/lammps.md": [("million", million)],
    "docs/transfer.md": [("others", lambda: ended_with("nickel_to_others", slice(-2, None)))],
}


def fill(text: str, parts: Sequence[tuple[str, str]]) -> str:
    """Put tables between their marks."""
    for name, table in parts:
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if table and begin in text:
            head, _, rest = text.partition(begin)
            text = f"{head}{begin}\n\n{table.strip()}\n\n{end}{rest.partition(end)[2]}"
    return text


def pages() -> dict[str, str]:
    """Return the text of each page with its numbers as the results have them."""
    found = {}
    for path in [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]:
        name = str(path.relative_to(REPO))
        text = fill(path.read_text(encoding="utf-8"), [(mark, make()) for mark, make in BLOCKS.get(name, [])])
        found[name] = NUMBER.sub(number, text)
    return found


def main() -> None:
    """Write the numbers, or say which would change."""
    changed = []
    for name, text in pages().items():
        old = (REPO / name).read_text(encoding="utf-8")
        changed += difflib.unified_diff(old.splitlines(), text.splitlines(), name, name, n=0, lineterm="")
        if "-" not in sys.argv:
            (REPO / name).write_text(text, encoding="utf-8")
    print("\n".join(changed) or "Every number is as the results have it.")
    if "-" in sys.argv and changed:
        sys.exit(1)


if __name__ == "__main__":
    main()

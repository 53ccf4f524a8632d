"""Write docs/selectors.md from the kept results of distil.py: every table with its bands.

python benchmarks/distil_page.py          write the page
python benchmarks/distil_page.py -        print it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.comparing import MEASURES, table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "selectors.md"
HEAD = """# Selectors, measured

Written by `python benchmarks/distil_page.py` from the results that `python benchmarks/distil.py` keeps. What they say
is in [distilling](distilling.md). Means over seeds ± half the width of their 95 % interval; models are trained for
{steps} steps at every size. Errors are those on frames of other trajectories (for DFT, the published test set).
Crystals, slabs and the vacancy are energies above the ground state, model less reference, in meV/atom.
"""
PARTS = {  # what each file of results is
    "ni": (
        "Nickel, the pool alone",
        "20,000 frames of 32 atoms, 800 to 3,500 K, embedded-atom labels: `distil.py table`; some with fewer budgets.",
    ),
    "ni-beside": (
        "Nickel, a tenth of the labels from beside the pool",
        "The default as it is, with generated frames: `distil.py default --budgets 100`.",
    ),
    "nb": (
        "Niobium",
        "4,000 frames of 36 atoms, 1,200 to 4,500 K, labels by UF3: `distil.py second --budgets 25,100,400`.",
    ),
    "zuo": (
        "Nickel by density-functional theory",
        "Half of the 263 frames of Zuo et al. (2020) and all of them: `distil.py dft`.",
    ),
}


def rows_of(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows, sizes rising."""
    return sorted(table(kept["cells"]), key=lambda row: (row["n_labels"], row["selector"]))


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    rule = ["---"] * len(heads)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines)) + "\n"


def pm(value: Sequence[float], digits: int, *, signed: bool = False) -> str:
    """Write a mean and its band."""
    return f"{value[0]:{'+' if signed else ''}.{digits}f} ± {value[1]:.{digits}f}"


def errors(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the errors on the hold-out."""
    heads = ["labels", "chosen by", "seeds", "energy, meV/atom", "forces, meV/Å"]
    heads += [head for head, _ in list(MEASURES.values())[2:]]
    lines = []
    for row in rows:
        cells = [str(row["n_labels"]), row["selector"], str(row["n_seeds"])]
        lines.append(cells + [pm(row[k], 2 if k.startswith("energy") else 1) for k in MEASURES])
    return markdown(heads, lines)


def outside(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what lies outside the pool."""
    names, also = list(rows[0]["outside"]), list(rows[0]["also"])
    heads = ["labels", "chosen by", *names, *(f"{name}, {unit}" for name in also for unit in ("meV/atom", "meV/Å"))]
    lines = []
    for row in rows:
        cells = [str(row["n_labels"]), row["selector"]]
        cells += [pm(row["outside"][k], 1, signed=True) if k in row["outside"] else "–" for k in names]
        lines.append(cells + [pm(v, 1) for name in also for v in row["also"][name].values()])
    return markdown(heads, lines)


def page() -> str:
    """Return the whole page."""
    told, steps = [], 0
    for name, (head, sentence) in PARTS.items():
        file = HERE / "results" / f"distil-{name}.json"
        if not file.is_file():
            continue
        kept = json.loads(file.read_text(encoding="utf-8"))
        steps, rows = kept["steps"], rows_of(kept)
        told += [f"## {head}\n", f"{sentence}\n", errors(rows)]
        if any(row["outside"] or row["also"] for row in rows):
            told.append(outside(rows))
        versions = ", ".join(f"{k} {v}" for k, v in kept["versions"].items())
        told.append(f"{versions}.\n")
    return "\n".join([HEAD.format(steps=f"{steps:,}"), *told])


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        print(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE)

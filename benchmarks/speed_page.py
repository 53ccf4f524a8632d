"""Write docs/speed.md, and the README's tables of speed, from the kept results of the other benchmarks.

python benchmarks/speed_page.py          write both
python benchmarks/speed_page.py -        print the page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common import HERE
from distil_page import markdown, source

PAGE, README = HERE.parent / "docs" / "speed.md", HERE.parent / "README.md"
HEAD = """# Speed, measured

Written by `python benchmarks/speed_page.py` from what the programs in `benchmarks/` keep; each table names its own.
Ratios are within one run. Machines differ more than programs do, so compare within a table.
"""


NAMES = {  # of the programs' rows, for readers
    "compiled, structure-factor": "biased, tabulated embedded atoms, structure factor",
    "compiled, q6": "biased, tabulated embedded atoms, Q₆",
    "LAMMPS, compiled callback": "biased, any LAMMPS pair style",
    "any ASE calculator": "biased, any ASE calculator (here LAMMPS's)",
    "committee, compiled": "biased, committee of four networks",
    "committee, ASE calculator": "biased, the same as an ASE calculator",
    "momt-train": "2,000 frames of 32 Ni atoms",
    "momt-train-100": "100 of them",
}


def kept(name: str) -> dict[str, Any] | None:
    """Return results, where they are there."""
    file = HERE / "results" / f"{name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found


def sampling() -> str:
    """Return steps a second, a row a path."""
    told = kept("sampling-speed")
    if told is None:
        return ""
    sizes = list(dict.fromkeys(r["atoms"] for r in told["rows"]))
    heads = ["one core, nickel"]
    for n in sizes:
        heads += [f"{n} atoms, steps/s", "ratio"]
    lines = []
    for name in dict.fromkeys(r["name"] for r in told["rows"]):
        cells = [NAMES.get(name, name)]
        for n in sizes:
            row = next(r for r in told["rows"] if r["atoms"] == n and r["name"] == name)
            cells += [f"{row['steps_per_second']:,.0f}", f"{row['ratio']:.2f}"]
        lines.append(cells)
    return markdown(heads, lines)


def crossings() -> str:
    """Return how often a run crosses."""
    told = kept("sampling-crossings")
    if told is None:
        return ""
    lines = [
        [str(r["atoms"]), f"{r['ns']:.2f}", str(r["crossings"]), f"{r['per_cpu_hour']:,.0f}"] for r in told["rows"]
    ]
    return markdown(["atoms", "ns, learning included", "crossings", "a CPU-hour"], lines)


def training() -> str:
    """Return what was learnt in which time."""
    told = kept("training")
    if told is None:
        return ""
    last: dict[tuple[str, str], Mapping[str, Any]] = {(r["name"], r["data"]): r for r in told["rows"]}
    lines = []
    for (name, data), r in last.items():
        if "failed" in r:
            lines.append([name, NAMES.get(data, data), str(r["cores"]), str(r["failed"])[:80], "–", "–", "–"])
            continue
        virial = "–" if r["virial_rmse_mev"] is None else f"{r['virial_rmse_mev']:.0f}"
        errors = [f"{r['energy_rmse_mev_per_atom']:.2f}", f"{r['force_rmse_mev_per_angstrom']:.1f}", virial]
        lines.append([name, NAMES.get(data, data), str(r["cores"]), f"{r['seconds']:.0f}", *errors])
    return markdown(["program", "learnt from", "cores", "s", "meV/atom", "meV/Å", "virial, meV a cell"], lines)


def inference() -> str:
    """Return µs/atom, a row a program."""
    told = kept("inference")
    if told is None:
        return ""
    sizes = sorted({r["atoms"] for r in told["rows"] if "us_per_atom" in r})
    lines = []
    for name in dict.fromkeys(r["name"] for r in told["rows"] if "us_per_atom" in r):
        mine = {r["atoms"]: r for r in told["rows"] if r["name"] == name and "us_per_atom" in r}
        lines.append([name, *(f"{mine[n]['us_per_atom']:.1f}" if n in mine else "–" for n in sizes)])
    return markdown(["µs/atom on one core", *(f"{n:,} atoms" for n in sizes)], lines)


def relaxing() -> str:
    """Return structures a minute."""
    told = kept("relax-speed")
    if told is None:
        return ""
    lines = [[r["name"], f"{r['per_minute']:.0f}", f"{r['converged']} of {r['n']}"] for r in told["rows"]]
    return markdown(["program", "structures a minute", "came to rest"], lines)


PARTS = (
    ("Sampling", "sampling-speed", "sampling.py speed", sampling),
    ("Crossings of liquid and crystal", "sampling-crossings", "sampling.py crossings", crossings),
    ("Training", "training", "training.py", training),
    ("Energy, forces and stress", "inference", "inference.py", inference),
    ("Relaxing", "relax-speed", "relax.py speed", relaxing),
)


def fill(text: str, parts: Sequence[tuple[str, str]]) -> str:
    """Put tables between their marks."""
    for name, table in parts:
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if table and begin in text:
            head, _, rest = text.partition(begin)
            text = f"{head}{begin}\n\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Write or print the page; write the README's tables, too."""
    parts = [HEAD]
    for title, name, command, table in PARTS:
        if told := kept(name):
            parts.append(f"## {title}\n\n{table()}\n{source(command, told)}")
    if "-" in sys.argv:
        print("\n".join(parts))
        return
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(fill(text, [("sampling", sampling()), ("training", training())]), encoding="utf-8")


if __name__ == "__main__":
    main()

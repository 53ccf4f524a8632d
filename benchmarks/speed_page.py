"""Write docs/speed.md, and the README's tables of speed, from the kept results of the other benchmarks.

python benchmarks/speed_page.py          write both
python benchmarks/speed_page.py -        print the page
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common import HERE, source
from distil_page import markdown
from endtoend import fewest

PAGE, README = HERE.parent / "docs" / "speed.md", HERE.parent / "README.md"
HEAD = """# Speed, measured

Written by `python benchmarks/speed_page.py` from what the programs in `benchmarks/` keep; each table names its own.
Ratios are within one run. Machines differ more than programs do, so compare within a table.
"""


NAMES = {  # of the programs' rows, for readers
    "ASE NPT": "ASE's NPT (Martyna–Tobias–Klein), LAMMPS's calculator",
    "ASE Langevin": "ASE's Langevin at constant volume, LAMMPS's calculator",
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


PUBLISHED = (  # mean absolute errors on the test set of Zuo et al. 2020, meV/atom and meV/Å
    ("ACE, the better of two sizes", 0.34, 14),
    ("GAP", 0.42, 20),
    ("MTP", 0.48, 10),
)
SPLIT = """
{seconds:.0f} s by the package's defaults, from the 263 frames of Zuo et al., J. Phys. Chem. A 124, 731 (2020), judged
by their 31. The others as tabulated with ACEpotentials.jl, J. Chem. Phys. 159, 164101 (2023), forces of GAP and MTP
to one digit. Better than ours: {better}.
"""


def efficiency() -> str:
    """Return errors on the published split, beside published ones."""
    told = kept("training-dft")
    row = next((r for r in told["rows"] if r["data"] == "ni-zuo-train" and "failed" not in r), None) if told else None
    if row is None:
        return ""
    mine = ("potstill", row["energy_mae_mev_per_atom"], row["force_mae_mev_per_angstrom"])
    lines = [[name, f"{energy:.2f}", f"{force:.0f}"] for name, energy, force in (mine, *PUBLISHED)]
    energies, forces = ([name for name, *rest in PUBLISHED if rest[k] < mine[k + 1]] for k in (0, 1))
    better = f"energies of {', '.join(energies) or 'none'}; forces of {', '.join(forces) or 'none'}"
    heads = ["Ni by density-functional theory, mean absolute errors", "meV/atom", "meV/Å"]
    return markdown(heads, lines) + SPLIT.format(seconds=row["seconds"], better=better)


COSTS = """
Labels are those that are learnt and those to judge by. What the reference relaxes and measures for the card is beside
them, a crystal or a check each, and its time is in the verdict's. Ladder and random frames to compare with are left
out; the potential of the pool alone cannot be, and its seconds are in the others'.
"""


def endtoend() -> str:
    """Return what a verdict costs from nothing."""
    told = kept("endtoend")
    if told is None:
        return ""
    heads = [
        "from nothing",
        "labels",
        "learnt",
        "crystals and checks by the reference",
        "s",
        "of these for the pool alone",
        "CPU-hours",
        "of these for the verdict",
        "MD steps",
        "meV/atom",
        "meV/Å",
        "pass",
        "near",
        "outside",
        "fail",
    ]
    lines = []
    for r in told["rows"]:
        hours = sum(r["cpu_seconds"].values()) / 3600
        cells = [f"`{r['command']}`", str(r["labels"]), str(r["learnt"]), str(sum(r["by_reference"].values()))]
        cells += [f"{r['seconds']:,.0f}", f"{r['pool_alone_seconds']:,.0f}"]
        cells += [f"{hours:.2f}", f"{r['cpu_seconds']['validate'] / 3600:.2f}"]
        cells += [f"{r['md_steps']:,}", f"{r['energy']:.2f}", f"{r['forces']:.1f}"]
        named = [f"{len(r[k])}: {', '.join(r[k])}" if r[k] else "0" for k in ("outside", "failed")]
        lines.append([*cells, str(r["results"].get("pass", 0)), str(r["results"].get("near", 0)), *named])
    return "\n".join([markdown(heads, lines), *fewest(told["rows"])]) + "\n" + COSTS


def coverage() -> str:
    """Return what pools of as many frames cover of each other."""
    told = kept("coverage")
    if told is None:
        return ""
    names = [r["name"] for r in told["rows"]]
    lines = []
    for r in told["rows"]:
        shares = [f"{100 * r['covers'][k]:.1f} %" if k in r["covers"] else "–" for k in names]
        lines.append([r["name"], f"{r['md_steps']:,}", str(r["cells"]), *shares])
    return markdown(["of 1,000 frames each", "MD steps", "cells of E and V", *(f"covers of {k}" for k in names)], lines)


MODEL = """
A label that waits half a second, as a program elsewhere would; efficiency leaves the start out. The model of N labels
of t seconds on w workers is start + N max((t + o) / w, d): a start of {start:.1f} s, {o:.1f} ms that a worker spends
on a label besides its calculation (o), and {d:.2f} ms of the driver (d), so that no number of workers has more than
{most:,.0f} labels a second. By it, in hours:

"""


def labels() -> str:
    """Return seconds of labels over workers, and what the model of their cost says."""
    told = kept("scaling-labels")
    if told is None:
        return ""
    model = next(r for r in told["rows"] if r["kind"] == "model")
    lines = []
    for r in (r for r in told["rows"] if r["kind"] in ("strong", "weak")):
        cells = [r["kind"], r["where"], str(r["workers"]), str(r["labels"]), f"{r['seconds']:.1f}"]
        lines.append([*cells, f"{r['model']:.1f}" if "model" in r else "–", f"{r['efficiency']:.2f}"])
    predicted = [r for r in told["rows"] if r["kind"] == "predicted"]
    crowds = list(predicted[0]["hours"])
    asked = [[f"{r['labels']:,}", f"{r['t']:g}", *(f"{r['hours'][w]:,.3g}" for w in crowds)] for r in predicted]
    told_of = MODEL.format(**model, most=1.0 / model["driver"], o=1e3 * model["worker"], d=1e3 * model["driver"])
    measured = markdown(["scaling", "where", "workers", "labels", "s", "by the model", "efficiency"], lines)
    return measured + told_of + markdown(["labels", "s each", *(f"{int(w):,} workers" for w in crowds)], asked)


def walkers() -> str:
    """Return how sampling scales over cores."""
    told = kept("scaling-walkers")
    if told is None:
        return ""
    lines = []
    for r in told["rows"]:
        base = next(b for b in told["rows"] if b["kind"] == r["kind"] and b["workers"] == 1)
        ratio = r["steps_per_second"] / base["steps_per_second"]
        lines.append([r["kind"], str(r["walkers"]), str(r["workers"]), f"{r['steps_per_second']:,.0f}", f"{ratio:.2f}"])
    return markdown(["scaling", "walkers", "processes", "steps/s", "of one process's"], lines)


CORES = (1, 10, 100, 1_000)
STRIDE, LEARNING = 50, 1_200_000  # MD steps between frames of 32 atoms, and before the first: usual ones
COST = """
Sampling one frame in {stride} steps at the rate of the first table, plus describing and choosing at that of the largest
pool in [selectors](selectors.md): {made:.2f} and {chosen:.2f} ms a frame and core. Learning the bias comes before, once
({learning:,} steps of all walkers together for 32 atoms), and training after: it grows with what was chosen, not with
the pool. Walkers and descriptions do not wait for each other, so cores divide both; the table above shows how far.
"""


def cost() -> str:
    """Return what parts of a run cost by the number of frames, from the other tables."""
    speed, scale = kept("sampling-speed"), kept("distil-scale")
    if speed is None or scale is None:
        return ""
    rate = next(r for r in speed["rows"] if r["name"] == "compiled, structure-factor" and r["atoms"] == 32)
    frame = scale["rows"][-1]
    made, chosen = STRIDE / rate["steps_per_second"], frame["cpu_seconds"] / frame["frames"]
    lines = [
        [f"{n:,}", *(f"{n * made / w / 3600:,.3g} + {n * chosen / w / 3600:,.3g}" for w in CORES)]
        for n in (1_000, 100_000, 10_000_000)
    ]
    table = markdown(["frames of 32 atoms", *(f"{w:,} cores, h" for w in CORES)], lines)
    return table + COST.format(stride=STRIDE, made=1e3 * made, chosen=1e3 * chosen, learning=LEARNING)


def kpoints() -> str:
    """Return what k-points leave out."""
    told = kept("kpoints")
    if told is None:
        return ""
    (rows,) = told["rows"]
    crystals = [[f"{r['spacing']:.2f}", f"{r['hcp']:.1f}", f"{r['bcc']:.1f}"] for r in rows["crystals"]]
    cells = [
        [
            f"{r['width']:g}",
            f"{r['spacing']:g}",
            f"{r['energy']:.1f}",
            f"{1e3 * r['forces']:.0f}",
            f"{r['seconds']:.0f}",
        ]
        for r in rows["disordered"]
    ]
    return (
        "Aluminium by pw.x. Crystals at rest, meV/atom above fcc:\n\n"
        + markdown(["spacing, 1/Å", "hcp", "bcc"], crystals)
        + "\n16 atoms without order, beside the densest points of the same smearing:\n\n"
        + markdown(["smearing, Ry", "spacing, 1/Å", "energy, meV/atom", "forces, meV/Å", "s"], cells)
    )


PARTS = (
    ("Sampling", "sampling-speed", "sampling.py speed", sampling),
    ("Crossings of liquid and crystal", "sampling-crossings", "sampling.py crossings", crossings),
    ("Training", "training", "training.py", training),
    ("Energy, forces and stress", "inference", "inference.py", inference),
    ("Relaxing", "relax-speed", "relax.py speed", relaxing),
    ("From nothing to a verdict", "endtoend", "endtoend.py", endtoend),
    ("K-points of labels", "kpoints", "kpoints.py", kpoints),
    ("Data efficiency", "training-dft", "training.py dft", efficiency),
    ("What pools cover of each other", "coverage", "coverage.py", coverage),
    ("Labels over workers", "scaling-labels", "scaling.py labels", labels),
    ("Walkers over cores", "scaling-walkers", "scaling.py walkers", walkers),
    ("What pools cost", "distil-scale", "distil.py scale", cost),
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

"""The tables of docs/speed.md, each from the kept results of one benchmark; speed_page.py writes the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from common import ABSENT, BUSY, HERE
from distil_page import markdown
from endtoend import fewest

from potstill.config import SampleConfig
from potstill.sampling.campaign import ROUND as STEPS
from potstill.sampling.campaign import TRACE
from potstill.sampling.pool import LEARNING

PREPARE = SampleConfig().prepare  # MD steps
LESSON, ROUND = STEPS  # of a walker, in which learning and production are done

NAMES = {  # of the programs' rows, for readers
    "ASE NPT": "ASE's NPT (Martyna–Tobias–Klein), LAMMPS's calculator",
    "ASE Langevin": "ASE's Langevin at constant volume, LAMMPS's calculator",
    "compiled, structure-factor": "biased, tabulated embedded atoms, structure factor",
    "compiled, q6": "biased, tabulated embedded atoms, Q₆",
    "LAMMPS, compiled callback": "biased, any LAMMPS pair style",
    "any ASE calculator": "biased, any ASE calculator (here LAMMPS's)",
    "committee, compiled": "biased, committee of four networks",
    "committee, ASE calculator": "biased, the same as an ASE calculator",
    "momt-train": "2,000 frames",
    "momt-train-100": "100 frames",
}
PLAIN_MD = ("plain LAMMPS NPT", "plain LAMMPS NPT, skin 1 Å", "ASE NPT", "ASE Langevin")


def kept(name: str) -> dict[str, Any] | None:
    """Return results, where they are there."""
    file = HERE / "results" / f"{name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found


def ours(name: str) -> bool:
    """Return whether a row is of one of our own programs."""
    return name.startswith("potstill")


def better(whom: str, mine: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> str:
    """Say who has less than ours in which measure that others have, too; where more is better, values are negative."""
    told: dict[str, list[str]] = {}
    for measure, value in mine.items():
        if not any(measure in found for found in others.values()):
            continue
        names = [f"*{name}*" for name, found in others.items() if found.get(measure, math.inf) < value]
        told.setdefault(", ".join(names) or "nothing", []).append(measure)
    return f"Better than {whom}: {'; '.join(f'{who} {listed(what)}' for who, what in told.items())}."


def listed(words: Sequence[str]) -> str:
    """Return words with commas and an and."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def failures(rows: Sequence[Mapping[str, Any]], what: str, noun: str = "") -> str:
    """Say what failed and what was not there; ``what`` is the key that tells rows of one program apart, in nouns."""
    missing = dict.fromkeys(r["name"] for r in rows if r.get("failed") == ABSENT)
    told = [f"Not installed where this was measured: {', '.join(missing)}."] if missing else []
    for r in rows:
        if "failed" in r and r["failed"] != ABSENT and not str(r["failed"]).startswith("not tried"):
            of = f"{r[what]:,} {noun}" if noun else NAMES.get(r[what], r[what])
            told.append(f"{r['name']} ({of}) failed: {reason(r)}.")
    return "\n".join(told) + "\n" if told else ""


def reason(row: Mapping[str, Any]) -> str:
    """Return why a row failed, fit for a table."""
    if "out of memory" in str(row["failed"]).lower():
        return "it needed more memory than a program is given"
    return "`" + str(row["failed"])[:80].replace("|", "/").replace("`", "'") + "`"


def disturbed(rows: Sequence[Mapping[str, Any]], what: str, noun: str = "") -> str:
    """Say which rows shared their core; ``what`` is the key that tells rows of one program apart, in nouns."""
    told = []
    for r in rows:
        share = r["cpu_seconds"] / r["seconds"] if "cpu_seconds" in r else r.get("cpu_share", 1.0)
        if share < BUSY:
            of = f"{r[what]:,} {noun}" if noun else NAMES.get(r[what], r[what])
            told.append(f"{r['name']} ({of}) had {100 * share:.0f} %")
    return f"Of its core, {listed(told)}: others ran there, too." if told else ""


def below(*sentences: str) -> str:
    """Return what stands below a table, a paragraph each."""
    return "".join(f"\n{sentence.strip()}\n" for sentence in sentences if sentence)


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
    names = list(dict.fromkeys(r["name"] for r in told["rows"]))
    for name in sorted(names, key=lambda name: name not in PLAIN_MD):
        cells = [NAMES.get(name, name)]
        for n in sizes:
            row = next(r for r in told["rows"] if r["atoms"] == n and r["name"] == name)
            cells += [f"{row['steps_per_second']:,.0f}", f"{row['ratio']:.2f}"]
        lines.append(cells)
    slower = {
        n: [
            f"*{NAMES.get(r['name'], r['name'])}*"
            for r in told["rows"]
            if r["atoms"] == n and r["ratio"] < 1.0 and r["name"] not in PLAIN_MD
        ]
        for n in sizes
    }
    told_of = "; ".join(f"at {n} atoms {listed(names) if names else 'nothing'}" for n, names in slower.items())
    return markdown(heads, lines) + below(f"Of ours, slower than plain LAMMPS NPT: {told_of}.")


def crossings() -> str:
    """Return how often a run crosses."""
    told = kept("sampling-crossings")
    if told is None:
        return ""
    lines = [
        [str(r["atoms"]), f"{r['ns']:.2f}", str(r["crossings"]), f"{r['per_cpu_hour']:,.0f}"] for r in told["rows"]
    ]
    return markdown(["atoms", "ns, learning included", "crossings", "a CPU-hour"], lines)


GOALS = (20.0, 10.0, 8.0)  # meV/Å, that a training is timed to
ERRORS = {  # of a training: the key, the head of the column, its digits, and what a sentence calls it
    "energy_rmse_mev_per_atom": ("meV/atom", 2, "in energies"),
    "force_rmse_mev_per_angstrom": ("meV/Å", 1, "in forces"),
    "virial_rmse_mev": ("virial, meV a cell", 0, "in virials"),
}
ON_THE_WAY = """
Seconds to an error of forces are those of the first judgement that is as good or better. A rival is judged after 15,
30, 60 s and so on of its one training; ours at the end of shorter ones, of {steps} steps.
That favours ours: the rate of theirs has not fallen by then.
"""
SAME = "Frames of 32 nickel atoms, 800 to 3,500 K, one core each; errors are on 500 frames of other walkers."
FOR_LONGER = """Most of these are made for GPUs and hours, and weigh energies and stress little until late: what
they reach there is not in this table."""
Judged = dict[tuple[str, str], list[Mapping[str, Any]]]


def judged(told: Mapping[str, Any]) -> Judged:
    """Return each program's judgements on each set of data, the finished model's last; ours come first."""
    found: Judged = {}
    for r in sorted(told["rows"], key=lambda r: not ours(r["name"])):
        rows = found.setdefault((r["name"], r["data"]), [])
        if "failed" not in r:
            rows.append(r)
    return found


def reached(rows: Sequence[Mapping[str, Any]], goal: float) -> float:
    """Return the seconds of the first judgement at or below an error of forces."""
    return next((r["seconds"] for r in rows if r["force_rmse_mev_per_angstrom"] <= goal), math.inf)


def learnt(told: Mapping[str, Any]) -> str:
    """Return what was learnt in which time, a row a program and its data."""
    found = judged(told)
    goals = GOALS if any(len(rows) > 1 for rows in found.values()) else ()
    heads = ["program", "learnt from", "s", *(head for head, *_ in ERRORS.values())]
    heads += [f"s to {goal:.0f} meV/Å" for goal in goals]
    lines = []
    for (name, data), rows in found.items():
        who = [name, NAMES.get(data, data)]
        if not rows:
            why = next(r for r in told["rows"] if (r["name"], r["data"]) == (name, data))
            said = why["failed"] if why["failed"] == ABSENT else reason(why)
            lines.append([*who, said, *["–"] * (len(ERRORS) + len(goals))])
            continue
        last = rows[-1]
        cells = [f"{last[key]:.{d}f}" if last[key] is not None else "–" for key, (_, d, _) in ERRORS.items()]
        cells += [f"{reached(rows, g):.0f}" if reached(rows, g) < math.inf else "–" for g in goals]
        lines.append([*who, f"{last['seconds']:.0f}", *cells])
    later = [r for r in told["rows"] if "failed" in r and found[r["name"], r["data"]]]
    told_of = (
        SAME,
        failures(later, "data"),
        disturbed(told["rows"], "data"),
        steps_of(found),
        passes(found),
        surpassed(found, goals),
    )
    return markdown(heads, lines) + below(*told_of)


def steps_of(found: Judged) -> str:
    """Say what ours are judged after, where that was kept."""
    whole = {
        data: rows[-1]["steps"] for (name, data), rows in found.items() if name == "potstill" and "steps" in rows[-1]
    }
    if not whole:
        return ""
    told = listed([f"{NAMES.get(data, data)} in {steps:,} steps" for data, steps in whole.items()])
    some = sorted({r["steps"] for (name, _), rows in found.items() if ours(name) for r in rows[:-1]})
    on_the_way = ON_THE_WAY.format(steps=listed([f"{n:,}" for n in some])) if some else ""
    return f"Ours by the package's defaults: from {told}.{on_the_way}"


def passes(found: Judged) -> str:
    """Say how often those that count epochs went over the frames: what is made for GPUs is not done in minutes."""
    made = [f"{name}: {rows[-1]['epochs']:.1f}" for (name, _), rows in found.items() if rows and "epochs" in rows[-1]]
    return f"Passes over all frames in that time, by {'; '.join(made)}. {FOR_LONGER}" if made else ""


def surpassed(found: Judged, goals: Sequence[float]) -> str:
    """Say who is better than our committee of four, data by data."""
    told = []
    for data in dict.fromkeys(which for _, which in found):
        values = {who: measures(rows, goals) for (who, which), rows in found.items() if which == data and rows}
        others = {who: value for who, value in values.items() if not ours(who)}
        if others and "potstill" in values:
            told.append(better(f"ours from {NAMES.get(data, data)}", values["potstill"], others))
    return "\n".join(told) if any(not ours(who) for who, _ in found) else "No rival is among these results."


def measures(rows: Sequence[Mapping[str, Any]], goals: Sequence[float]) -> dict[str, float]:
    """Return what a training is compared by."""
    last = rows[-1]
    of_errors = {words: last[key] for key, (_, _, words) in ERRORS.items() if last[key] is not None}
    of_time = {f"in seconds to {goal:.0f} meV/Å": reached(rows, goal) for goal in goals}
    return {**of_errors, "in seconds": last["seconds"], **of_time}


def training() -> str:
    """Return what was learnt in the usual time."""
    told = kept("training")
    return learnt(told) if told else ""


def hour() -> str:
    """Return what torchani learns in an hour, and ours beside it."""
    told = kept("training-hour")
    return learnt(told) if told else ""


ANEW = 2_048  # atoms, where the call whose list of neighbours is made anew is shown
CALLS = """
The atoms swing about their places, so a list of neighbours that a program keeps is not made again. The last column is
the first call on another structure, list included ({n:,} atoms).
"""
STEP = """A step of MD costs {one:.0f} µs an atom with one network and {four:.0f} with four: energy, forces and stress
on one core, {n:,} atoms."""
COMMITTEES = ("potstill, 1 member", "potstill, 4 members")
SIMPLE = ("embedded atoms, LAMMPS",)  # of another kind than networks and expansions


def inference() -> str:
    """Return µs/atom, a row a program."""
    told = kept("inference")
    if told is None:
        return ""
    sizes = sorted({r["atoms"] for r in told["rows"] if "us_per_atom" in r})
    found: dict[str, dict[str, float]] = {}
    for r in sorted(told["rows"], key=lambda r: (not ours(r["name"]), r["atoms"])):
        mine = found.setdefault(r["name"], {})
        if "us_per_atom" in r:
            mine[f"at {r['atoms']:,} atoms"] = r["us_per_atom"]
    for r in told["rows"]:
        # LAMMPS's rows of before have the very first call here, its start included
        if r["atoms"] == ANEW and 1e-6 * ANEW * r.get("first_us_per_atom", math.inf) < 0.99 * r.get("cold_seconds", 0):
            found[r["name"]]["in the first call"] = r["first_us_per_atom"]
    columns = [*(f"at {n:,} atoms" for n in sizes), "in the first call"]
    lines = [[name, *(f"{mine[k]:.1f}" if k in mine else "–" for k in columns)] for name, mine in found.items()]
    heads = ["µs/atom on one core", *(f"{n:,} atoms" for n in sizes), "list made anew"]
    others = {name: mine for name, mine in found.items() if mine and not ours(name)}
    told_of = [better(name, found[name], others) for name in COMMITTEES if found.get(name) and others]
    of_rows = [say(told["rows"], "atoms", "atoms") for say in (failures, disturbed)]
    return markdown(heads, lines) + below(step(), CALLS.format(n=ANEW), *of_rows, "\n".join(told_of))


def step() -> str:
    """Say what a step of MD costs."""
    told = kept("inference")
    rows = told["rows"] if told else []
    cost = {r["name"]: r["us_per_atom"] for r in rows if r["atoms"] == ANEW and "us_per_atom" in r}
    if any(name not in cost for name in COMMITTEES):
        return ""
    one, four = (cost[name] for name in COMMITTEES)
    return STEP.format(one=one, four=four, n=ANEW)


def relaxing() -> str:
    """Return structures a minute."""
    told = kept("relax-speed")
    if told is None:
        return ""
    lines, told_of = [], []
    for n in sorted({r["n"] for r in told["rows"]}):
        rows = sorted((r for r in told["rows"] if r["n"] == n), key=lambda r: not ours(r["name"]))
        for r in rows:
            good = "failed" not in r
            lines.append([r["name"], f"{r['per_minute']:,.0f}" if good else "–"])
            lines[-1].append(f"{r['converged']} of {n}" if good else f"– of {n}")
        found = {
            r["name"]: {"in structures a minute": -r["per_minute"], "in how many came to rest": -r["converged"]}
            for r in rows
            if "failed" not in r
        }
        others = {name: mine for name, mine in found.items() if not ours(name)}
        if others:
            told_of += [better(f"ours on {n} structures", mine, others) for name, mine in found.items() if ours(name)]
    failed = failures(told["rows"], "n", "structures")
    heads = ["program", "structures a minute", "came to rest"]
    return markdown(heads, lines) + below(failed, "\n".join(told_of))


PUBLISHED = (  # mean absolute errors on the test set of Zuo et al. 2020, meV/atom and meV/Å
    ("ACE, the better of two sizes", 0.34, 14),
    ("GAP", 0.42, 20),
    ("MTP", 0.48, 10),
)
SPLIT = """
{seconds:.0f} s by the package's defaults, from the 263 frames of Zuo et al., J. Phys. Chem. A 124, 731 (2020), judged
by their 31. The others as tabulated with ACEpotentials.jl, J. Chem. Phys. 159, 164101 (2023), forces of GAP and MTP
to one digit.
"""


def published_split() -> tuple[float, float, float] | None:
    """Return our mean absolute errors on the published split, meV/atom and meV/Å, and the seconds of the training."""
    told = kept("training-dft")
    row = next((r for r in told["rows"] if r["data"] == "ni-zuo-train" and "failed" not in r), None) if told else None
    return row and (row["energy_mae_mev_per_atom"], row["force_mae_mev_per_angstrom"], row["seconds"])


def efficiency() -> str:
    """Return errors on the published split, beside published ones."""
    mine = published_split()
    if mine is None:
        return ""
    energy_of_ours, forces_of_ours, seconds = mine
    rows = (("potstill", energy_of_ours, forces_of_ours), *PUBLISHED)
    lines = [[name, f"{energy:.2f}", f"{force:.0f}"] for name, energy, force in rows]
    found = {name: {"in energies": energy, "in forces": force} for name, energy, force in rows}
    told_of = better("ours", found.pop("potstill"), found)
    heads = ["Ni by density-functional theory, mean absolute errors", "meV/atom", "meV/Å"]
    return markdown(heads, lines) + SPLIT.format(seconds=seconds) + below(told_of)


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


EXTENDED, LADDER, RANDOM = "extended ensemble", "NPT ladder", "random symmetric crystals"  # of the rows of coverage
SHARES = """At {steps} MD steps each, the ladder of plain runs covers {ladder:.1f} % of the extended ensemble's atoms,
and the extended ensemble {extended:.1f} % of the ladder's; the ladder visits {cells:,} cells of energy and volume, the
extended ensemble {own:,}."""
RELAXED = """Random crystals take no MD steps, but the reference relaxes each before it is strained and rattled; these
calculations are not in the table."""


def coverage() -> str:
    """Return what pools of as many frames cover of each other."""
    told = kept("coverage")
    if told is None:
        return ""
    rows = {r["name"]: r for r in told["rows"]}
    lines = []
    for r in rows.values():
        shares = [f"{100 * r['covers'][k]:.1f} %" if k in r["covers"] else "–" for k in rows]
        steps = "0, but relaxations" if r["name"] == RANDOM else f"{r['md_steps']:,}"
        lines.append([r["name"], steps, str(r["cells"]), *shares])
    mine = rows[EXTENDED]
    mutual = [f"*{name}*" for name, r in rows.items() if r["covers"].get(EXTENDED, 0.0) > mine["covers"].get(name, 1.0)]
    found = {
        name: {"in cells of E and V": -r["cells"], **{f"in covering {k}": -v for k, v in r["covers"].items()}}
        for name, r in rows.items()
    }
    told_of = better("the extended ensemble", found.pop(EXTENDED), found)
    told_of += f" These cover more of it than it covers of them: {listed(mutual) if mutual else 'none'}."
    heads = ["of 1,000 frames each", "MD steps", "cells of E and V", *(f"covers of {k}" for k in rows)]
    return markdown(heads, lines) + below(shares_of(), RELAXED, told_of)


def shares_of() -> str:
    """Say what an extended ensemble and a ladder of as many steps cover of each other."""
    told = kept("coverage")
    rows = {r["name"]: r for r in told["rows"]} if told else {}
    if EXTENDED not in rows or LADDER not in rows:
        return ""
    mine, plain = rows[EXTENDED], rows[LADDER]
    steps = {f"{r['md_steps']:,}" for r in (mine, plain)}
    ladder, extended = 100 * plain["covers"][EXTENDED], 100 * mine["covers"][LADDER]
    cells = {"cells": plain["cells"], "own": mine["cells"]}
    return SHARES.format(steps=" and ".join(sorted(steps)), ladder=ladder, extended=extended, **cells)


MODEL = """
A label waits half a second, as a program elsewhere would, or not at all. Efficiency leaves the start out, and is above
one where workers that are there begin while others start. The model of
N labels of t seconds on w workers is start + max(rounds (t + o), N d, N c / C), rounds being N / w rounded up: what a
worker spends on a label besides its calculation (o), what the driver does, or parsl's hub if that is more (d), and, on
one machine of C cores, what a label takes of all of them (c). "Binds" says which of the three is the largest.

"""
CROWD = """
A crowd of workers on many nodes exists only through parsl. Its labels by the same model, with a core for each worker
and one for the driver, d with {in_flight:,} labels in flight, and no wait in a queue; no number of workers has more
than {most:,.0f} labels a second. In hours:

"""


def short(x: float) -> str:
    """Return three digits, or a whole number."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def labels() -> str:
    """Return seconds of labels over workers, and what the model of their cost says."""
    told = kept("scaling-labels")
    if told is None:
        return ""
    models = [r for r in told["rows"] if r["kind"] == "model"]
    lines = []
    for r in (r for r in told["rows"] if r["kind"] in ("strong", "weak", "no wait")):
        cells = [r["kind"], r["where"], str(r["workers"]), f"{r['labels']:,}", f"{r['t']:g}", f"{r['seconds']:.1f}"]
        efficiency = "–" if r["efficiency"] is None else f"{r['efficiency']:.2f}"
        lines.append([*cells, f"{r['model']:.1f}", r["binds"], efficiency])
    heads = ["scaling", "where", "workers", "labels", "s each", "s", "by the model", "binds", "efficiency"]
    parameters = []
    for m in models:
        start = f"{m['start']:.1f} + {m['start_more']:.1f} w / C" if m["start_more"] else f"{m['start']:.1f}"
        times = [f"{1e3 * m[k]:.2f}" for k in ("worker", "driver", "shared")]
        parameters.append([m["where"], start, *times])
    text = markdown(heads, lines) + MODEL
    text += markdown(["where", "start, s", "o, ms", "d, ms", "c, ms"], parameters)
    predicted = [r for r in told["rows"] if r["kind"] == "predicted"]
    if not predicted:
        return text
    crowds = list(predicted[0]["hours"])
    asked = [[f"{r['labels']:,}", f"{r['t']:g}", *(short(r["hours"][w]) for w in crowds)] for r in predicted]
    used = next(m for m in models if m["where"] == "parsl")
    text += CROWD.format(in_flight=used["in_flight"]["many"], most=1.0 / used["driver"])
    return text + markdown(["labels", "s each", *(f"{int(w):,} workers" for w in crowds)], asked)


def walkers() -> str:
    """Return how sampling scales over cores."""
    told = kept("scaling-walkers")
    if told is None:
        return ""
    lines = []
    for r in told["rows"]:
        base = next(b for b in told["rows"] if b["kind"] == r["kind"] and b["workers"] == 1)
        ratio = r["steps_per_second"] / base["steps_per_second"]
        cells = [r["kind"], str(r["walkers"]), str(r["workers"]), f"{r['md_steps']:,}", f"{r['seconds']:.0f}"]
        lines.append([*cells, f"{r['steps_per_second']:,.0f}", f"{ratio:.2f}"])
    return markdown(["scaling", "walkers", "cores", "MD steps", "s", "steps/s", "of one core's"], lines)


CORES = (10, 100, 1_000, 10_000)
NODE = 64  # cores of a node: a run's walkers, and what describes and chooses, are on one
STRIDE = 50  # MD steps between frames of 32 atoms: a usual one
COST = """
Seconds of learning + sampling + choosing, as if cores did not slow each other. A run has a walker on each core of a
node of up to {node}: each is made ready ({ready:,} MD steps), they learn the bias together ({learning:,} steps) and
then keep a frame in {stride}, at the {rate:,.0f} steps/s and core of the first table. More cores are more such runs
side by side, and each learns for itself; rounds of {lesson:,} and {round:,} steps a walker are done to their end.
Choosing, with describing, is one process on the cores of a node, at the largest pool's {chosen:.2f} ms of CPU a frame.
Training comes after; it grows with what was chosen, not with the pool.
"""
BESIDE = """
Measured: the sampling of `{command}`, {steps:,} MD steps, took {cpu:.0f} s of CPU; by that rate {said:.0f} s.
"""


def steps_of_a_walker(frames: int, cores: int) -> tuple[int, int]:
    """Return the steps of one walker up to the frozen bias, and from there, as a campaign goes through its rounds."""
    runs = -(-cores // NODE)
    walkers, kept_a_round = cores // runs, ROUND // STRIDE
    lessons = -(-LEARNING // walkers // LESSON)  # rounded up at each division
    rounds = -(-frames // runs // walkers // kept_a_round)
    return 2 * PREPARE + TRACE[0] + lessons * LESSON, rounds * kept_a_round * STRIDE


def cost() -> str:
    """Return what parts of a run cost by the number of frames, from the other tables."""
    speed, scale, whole = kept("sampling-speed"), kept("distil-scale"), kept("endtoend")
    if speed is None or scale is None:
        return ""
    fast = next(r for r in speed["rows"] if r["name"] == "compiled, structure-factor" and r["atoms"] == 32)
    rate, largest = fast["steps_per_second"], scale["rows"][-1]
    chosen = largest["cpu_seconds"] / largest["frames"]
    lines = []
    for n in (1_000, 100_000, 10_000_000):
        cells = [f"{n:,}"]
        for w in CORES:
            learnt, made = steps_of_a_walker(n, w)
            cells.append(" + ".join(short(s) for s in (learnt / rate, made / rate, n * chosen / min(w, NODE))))
        lines.append(cells)
    text = markdown(["frames of 32 atoms", *(f"{w:,} cores, s" for w in CORES)], lines)
    text += COST.format(
        node=NODE,
        ready=2 * PREPARE + TRACE[0],
        learning=LEARNING,
        stride=STRIDE,
        rate=rate,
        lesson=LESSON,
        round=ROUND,
        chosen=1e3 * chosen,
    )
    run = next((r for r in whole["rows"] if r["name"] == "nickel"), None) if whole else None
    if run is not None:
        steps, cpu = run["md_steps"], run["cpu_seconds"]["sample"]
        text += BESIDE.format(command=run["command"], cpu=cpu, steps=steps, said=steps / rate)
    return text


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


FIRST = """50 steps of training on 40 frames, and a prediction. A first run is the second row, any later one the third;
in the first row nothing is compiled in the background."""


def first_run() -> str:
    """Return seconds of a first training and of a later one."""
    told = kept("first-run")
    if told is None:
        return ""
    lines = [[r["loops"], f"{r['seconds']:.1f}"] for r in told["rows"]]
    return markdown(["loops are compiled", "s"], lines) + below(FIRST)


LANDING = """Milliseconds of the driver for each label that lands: by `wait()` over all in flight, as it was, and by a
queue, as it is. 10,000 workers have 20,000 labels in flight."""


def landings() -> str:
    """Return what a driver spends on a label that lands."""
    told = kept("futures")
    if told is None:
        return ""
    lines = [[f"{r['flying']:,}", f"{1e3 * r['wait']:.3f}", f"{1e3 * r['queue']:.3f}"] for r in told["rows"]]
    return markdown(["labels in flight", "before, ms", "now, ms"], lines) + below(LANDING)


MIXED = """Steps of pw.x until aluminium is self-consistent. Local Thomas–Fermi by 0.4 came first before,
plain mixing by 0.4 does now, and local Thomas–Fermi where that does not settle."""
NOW = "plain 0.4"


def mixing() -> str:
    """Return steps to a self-consistent density by several ways of mixing."""
    told = kept("mixing")
    if told is None:
        return ""
    found: dict[str, dict[str, float]] = {}
    sizes = {r["structure"]: r["atoms"] for r in told["rows"]}
    for r in told["rows"]:
        found.setdefault(r["mixing"], {})[f"of {r['structure']}"] = r["steps"] or math.inf
    lines = [[way, *(f"{n:.0f}" if n < math.inf else "none" for n in mine.values())] for way, mine in found.items()]
    heads = ["steps", *(f"{name}, {n} atoms" for name, n in sizes.items())]
    told_of = better(f"{NOW} in steps", found.pop(NOW), found)
    return markdown(heads, lines) + below(MIXED, told_of)

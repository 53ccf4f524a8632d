"""Write docs/speed.md from the kept results of the other benchmarks; quotes.py writes what other pages say of speed.

python benchmarks/speed_page.py          write the page and its pictures
python benchmarks/speed_page.py -        print the page
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import figures
import speed_tables as tables
from common import HERE, source
from distil_page import band, grouped, markdown
from speed_tables import kept, ours

DOCS = HERE.parent / "docs"
PAGE = DOCS / "speed.md"
HEAD = """# Speed, measured

Written by `python benchmarks/speed_page.py` from what the programs in `benchmarks/` keep; each table names its own.
Ratios are within one run. Machines differ more than programs do, so compare within a table. Below a table stands what
is better than ours in it. Three things kept users waiting most and were mended: [compilation at a first
run](#a-first-run), a driver that searched all labels in flight for [the one that landed](#labels-that-land), and
steps to a [self-consistent density](#mixing-of-densities); each has both ways side by side, before and now.
"""
STANDING = """## Where we stand

Ours beside the best of the others in each thing, whoever that is; what is worse is in bold. The tables are below, those
of choices of frames in [selectors](selectors.md).

"""


@dataclass(frozen=True)
class Standing:
    """One thing that others do, too: ours and theirs, by name; infinite where a goal was not reached."""

    what: str
    mine: float
    others: Mapping[str, float]
    digits: int = 1
    more: bool = False  # is better

    def line(self) -> list[str]:
        """Return a line of the table."""
        best_of = max if self.more else min
        who, best = best_of(self.others.items(), key=lambda found: found[1])
        beside = f"{best:,.{self.digits}f}, {who}" if math.isfinite(best) else "none"
        ratio = self.mine / best if self.more else best / self.mine
        if not 0.0 < ratio < math.inf:
            said = "–"  # one of them did not reach the goal
        elif round(max(ratio, 1.0 / ratio), 1) == 1.0:
            said = "as good"
        else:
            said = f"{ratio:.1f} × better" if ratio > 1.0 else f"**{1.0 / ratio:.1f} × worse**"
        return [self.what, f"{self.mine:,.{self.digits}f}", beside, said]


def standings() -> Iterator[Standing]:
    """Yield what has others beside it and is among the kept results."""
    yield from of_training()
    yield from of_inference()
    yield from of_speed()
    yield from of_choosing()


def of_training() -> Iterator[Standing]:
    """Yield errors after a training, and seconds to one; and errors on the published split."""
    told = kept("training")
    found = tables.judged(told) if told else {}
    found = {name: rows for (name, data), rows in found.items() if data == figures.DATA and rows}
    others = {name: rows for name, rows in found.items() if not ours(name)}
    if "potstill" in found and others:
        for key, what, digits in (
            ("force_rmse_mev_per_angstrom", "error of forces learnt from 2,000 frames, meV/Å", 1),
            ("energy_rmse_mev_per_atom", "error of energies learnt from them, meV/atom", 2),
        ):
            theirs = {name: rows[-1][key] for name, rows in others.items()}
            yield Standing(what, found["potstill"][-1][key], theirs, digits)
        goal = tables.GOALS[0]
        theirs = {name: tables.reached(rows, goal) for name, rows in others.items()}
        mine = tables.reached(found["potstill"], goal)
        yield Standing(f"training until forces err by {goal:.0f} meV/Å, s", mine, theirs, 0)
    split = tables.published_split()
    if split is not None:
        told_of = (
            ("mean absolute error of energies of a published DFT set, meV/atom", 2),
            ("mean absolute error of its forces, meV/Å", 0),
        )
        for k, (what, digits) in enumerate(told_of):
            yield Standing(what, split[k], {p[0]: p[k + 1] for p in tables.PUBLISHED}, digits)


def of_inference() -> Iterator[Standing]:
    """Yield what a step of MD costs."""
    told = kept("inference")
    rows = told["rows"] if told else []
    cost = {r["name"]: r["us_per_atom"] for r in rows if r["atoms"] == tables.ANEW and "us_per_atom" in r}
    others = {name: value for name, value in cost.items() if not ours(name)}
    simple = {name: others.pop(name) for name in tables.SIMPLE if name in others}
    one, four = tables.COMMITTEES
    for name, theirs, what in (
        (one, others, "step of MD by one network, µs/atom"),
        (four, others, "step of MD by four networks, µs/atom"),
        (one, simple, "step of MD by one network beside embedded atoms, µs/atom"),
    ):
        if name in cost and theirs:
            yield Standing(what, cost[name], theirs)


def of_speed() -> Iterator[Standing]:
    """Yield steps a second of sampling and structures a minute."""
    told = kept("sampling-speed")
    speed = {r["name"]: r["steps_per_second"] for r in told["rows"] if r["atoms"] == 32} if told else {}
    mine = speed.get("compiled, structure-factor")
    others = {tables.NAMES.get(name, name): value for name, value in speed.items() if name in tables.PLAIN_MD}
    if mine and others:
        yield Standing("biased MD beside plain MD, 32 atoms, steps/s", mine, others, 0, more=True)
    told = kept("relax-speed")
    rows = [r for r in told["rows"] if "failed" not in r] if told else []
    per_minute = {r["name"]: r["per_minute"] for r in rows if r["n"] == max(r["n"] for r in rows)}
    others = {name: value for name, value in per_minute.items() if not ours(name)}
    for name, value in per_minute.items():
        if ours(name) and others:
            yield Standing("structures relaxed a minute", value, others, 0, more=True)


CHOICE, OF = 100, "5,000"  # frames


def of_choosing() -> Iterator[Standing]:
    """Yield what a choice takes and what is learnt from it, by the default and by the fastest that looks."""
    told = kept("distil-rivals")
    rows = [r for r in told["rows"] if r["n"] == CHOICE and "failed" not in r] if told else []
    means = {who: {key: band(mine, key) for key in ("seconds", "forces")} for (_, who), mine in grouped(rows).items()}
    others = {who: found for who, found in means.items() if not ours(who)}
    for mine, key, what, digits in (
        ("potstill fps", "seconds", f"choosing {CHOICE} of {OF} frames farthest first, s", 1),
        ("potstill potstill", "seconds", "choosing them by the default, which looks at what labels teach, s", 1),
        (
            "potstill potstill",
            "forces",
            "error of forces learnt from the default's choice in a short training, meV/Å",
            1,
        ),
    ):
        theirs = {who: found[key][0] for who, found in others.items() if found[key]}
        value = means.get(mine, {}).get(key)
        if value and theirs:
            yield Standing(what, value[0], theirs, digits)


PARTS = (
    ("Sampling", "sampling-speed", "sampling.py speed", tables.sampling),
    ("Crossings of liquid and crystal", "sampling-crossings", "sampling.py crossings", tables.crossings),
    ("Training", "training", "training.py", tables.training),
    ("An hour of training", "training-hour", "training.py hour", tables.hour),
    ("Energy, forces and stress", "inference", "inference.py", tables.inference),
    ("Relaxing", "relax-speed", "relax.py speed", tables.relaxing),
    ("From nothing to a verdict", "endtoend", "endtoend.py", tables.endtoend),
    ("A first run", "first-run", "first_run.py", tables.first_run),
    ("Labels that land", "futures", "futures.py", tables.landings),
    ("Mixing of densities", "mixing", "mixing.py", tables.mixing),
    ("K-points of labels", "kpoints", "kpoints.py", tables.kpoints),
    ("Data efficiency", "training-dft", "training.py dft", tables.efficiency),
    ("What pools cover of each other", "coverage", "coverage.py", tables.coverage),
    ("Labels over workers", "scaling-labels", "scaling.py labels", tables.labels),
    ("Walkers over cores", "scaling-walkers", "scaling.py walkers", tables.walkers),
    ("What pools cost", "distil-scale", "distil.py scale", tables.cost),
)


def standing() -> str:
    """Return ours beside the best of the others, a line a thing."""
    return markdown(["", "ours", "best of the others", "ours is"], [found.line() for found in standings()])


def page() -> str:
    """Return the page."""
    parts = [HEAD, STANDING + standing()]
    for title, name, command, table in PARTS:
        if told := kept(name):
            parts.append(f"## {title}\n\n{table()}\n{figures.shown(name)}{source(command, told)}")
    return "\n".join(parts)


def main() -> None:
    """Write the page and draw its pictures, or print it."""
    if "-" in sys.argv:
        print(page())
        return
    PAGE.write_text(page(), encoding="utf-8")
    for name in figures.DRAWN:
        if told := kept(name):
            figures.draw(name, told, DOCS)


if __name__ == "__main__":
    main()

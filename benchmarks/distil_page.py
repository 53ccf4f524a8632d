"""Write docs/selectors.md from the kept results of distil.py: every table with its bands.

python benchmarks/distil_page.py          write the page
python benchmarks/distil_page.py -        print it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common import HERE, source

from potstill.comparing import BREADTH, MEASURES, mean_with_band, table
from potstill.reporting import figures

PAGE = HERE.parent / "docs" / "selectors.md"
HEAD = """# Selectors, measured

Written by `python benchmarks/distil_page.py` from the results that `python benchmarks/distil.py` keeps. What they say
is in [distilling](distilling.md). Means over seeds ± half the width of their 95 % interval, where there is more than
one seed; models are trained for {steps} steps at every size. Errors are those on frames of other trajectories (for
DFT, the published test set). Crystals, slabs and the vacancy are energies above the ground state, model less reference,
in meV/atom. Entropies are of 6,000 atoms at most, evenly taken: choices of 200 frames and more do not compare
with smaller ones in them.
"""
NOTHING = 1e-3  # meV/Å
DRAWN = ("ni", "nb", "al")  # whose learning curves are drawn
CURVES = ("energy_rmse_mev_per_atom", "force_rmse_ev_per_angstrom", "force_p99", "force_worst")
PARTS = {  # what each file of results is
    "ni": (
        "Nickel, the pool alone",
        "20,000 frames, 800 to 3,500 K, labels by embedded atoms: `distil.py table`, some by `--budgets 25,100,400`.",
    ),
    "ni-whole": (
        "Nickel, the whole pool",
        "All frames and 16,000 steps, the limit of any choice from this pool: `distil.py whole`.",
    ),
    "ni-beside": (
        "Nickel, a tenth of the labels from beside the pool",
        "The default as it is, with generated frames: `distil.py default --budgets 25,50,100`.",
    ),
    "nb": (
        "Niobium",
        (
            "4,000 frames of 36 atoms, 1,200 to 4,500 K, labels by UF3: `distil.py second --budgets 25,100,400`, by an "
            "earlier version."
        ),
    ),
    "al": (
        "Aluminium",
        (
            "4,000 frames of 32 atoms, 430 to 1,900 K, labels by embedded atoms: `distil.py third --selectors "
            "random,potstill --budgets 25,100,400`."
        ),
    ),
    "zuo": (
        "Nickel by density-functional theory",
        "Half of the 263 frames of Zuo et al. (2020) and all of them: `distil.py dft --seeds 3`.",
    ),
}

OTHERS = """Of 5,000 frames, seconds from file to choice; for maml with those that reading and describing took us, for
apax with those that its network learnt from the first frames. Entropy and diversity are by QUESTS' own descriptor and
kernel, and so is the share of the pool's atoms whose surroundings it knows from the choice, which rewards the ordinary;
the distance is the 99th percentile, by our descriptors, from the pool's surroundings to the nearest chosen one. Errors
are those of a potential that learnt from the choice in {steps} steps, on frames of other walkers. Where no seed decides
a choice, it is made once, and only errors have a band.
"""
SCALE = """Frames of 32 nickel atoms by farthest points from pools of `potstill sample`, descriptors included: 1,000 of
them, or a tenth of a smaller pool.
"""
LARGE = """Seconds of a choice of 100 from the first frames of such pools, each program by itself, in five minutes and
12 GiB at most.
"""
DEFAULT, RANDOM = "potstill potstill", "potstill random"
SEEN = {  # what is measured of a choice: head, digits, whether more is better
    "seconds": ("seconds", 1, False),
    "diversity": ("diversity, nats", 3, True),
    "entropy": ("entropy, nats", 3, True),
    "covered": ("covered", 3, True),
    "farthest": ("distance", 2, False),
    "energy": ("energy, meV/atom", 2, False),
    "forces": ("forces, meV/Å", 1, False),
    "p99": ("99th percentile", 1, False),
}


def rows_of(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table's rows, sizes rising."""
    rows = table(kept["cells"])
    for row in rows:
        mine = [c for c in kept["cells"] if (c["selector"], c["n_labels"]) == (row["selector"], row["n_labels"])]
        maes = [1e3 * c["errors"]["force_mae_ev_per_angstrom"] for c in mine]
        row["mae"] = mean_with_band(maes)
    return sorted(rows, key=lambda row: (row["n_labels"], row["selector"]))


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    rule = ["---"] * len(heads)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines)) + "\n"


def pm(value: Sequence[float], digits: int, seeds: int, *, signed: bool = False) -> str:
    """Write a mean, and its band where several seeds give one."""
    mean = f"{value[0]:{'+' if signed else ''}.{digits}f}"
    return mean if seeds == 1 else f"{mean} ± {value[1]:.{digits}f}"


def errors(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the errors on the hold-out, and how broad the choices are."""
    breadth = {key: head for key, head in BREADTH.items() if any(key in row for row in rows)}
    heads = ["labels", "chosen by", "seeds", "forces, MAE", "energy, RMSE, meV/atom", "forces, RMSE, meV/Å"]
    heads += [*(head for head, _ in list(MEASURES.values())[2:]), *breadth.values()]
    lines = []
    for row in rows:
        n = row["n_seeds"]
        cells = [str(row["n_labels"]), row["selector"], str(n), pm(row["mae"], 1, n)]
        cells += [pm(row[k], 2 if k.startswith("energy") else 1, n) for k in MEASURES]
        lines.append(cells + [pm(row[k], 3, n) if k in row else "–" for k in breadth])
    return markdown(heads, lines)


def outside(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what lies outside the pool; no forces of crystals whose symmetry leaves none."""
    names = list(dict.fromkeys(k for row in rows for k in row["outside"]))
    units = {"energy_rmse_mev_per_atom": "meV/atom", "force_rmse_ev_per_angstrom": "meV/Å"}
    also = [(k, m) for k in rows[0]["also"] for m in units if max(row["also"][k][m][0] for row in rows) > NOTHING]
    heads = ["labels", "chosen by", *names, *(f"{name}, {units[m]}" for name, m in also)]
    lines = []
    for row in rows:
        n = row["n_seeds"]
        cells = [str(row["n_labels"]), row["selector"]]
        cells += [pm(row["outside"][k], 1, n, signed=True) if k in row["outside"] else "–" for k in names]
        lines.append(cells + [pm(row["also"][name][m], 1, n) for name, m in also])
    return markdown(heads, lines)


Row = Mapping[str, Any]


def band(rows: Sequence[Row], key: str) -> tuple[float, float] | None:
    """Return mean and half width over seeds; no width where all say the same, as of a choice that no seed decides."""
    values = [row[key] for row in rows if key in row and "failed" not in row]
    if not values:
        return None
    return (values[0], 0.0) if len(set(values)) == 1 else mean_with_band(values)


def grouped(rows: Sequence[Row]) -> dict[tuple[int, str], list[Row]]:
    """Return the rows of each size and way, sizes rising; an earlier form of the results had one size and one seed."""
    found: dict[tuple[int, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.get("n", 200)):
        found.setdefault((row.get("n", 200), row["who"]), []).append(row)
    return found


def others(rows: Sequence[Row]) -> str:
    """Return what each program chose of the same pool and in which time, and where a rival is better."""
    heads = {k: head for k, (head, _, _) in SEEN.items() if any(k in row for row in rows)}
    lines = []
    for (n, who), mine in grouped(rows).items():
        good = [row for row in mine if "failed" not in row]
        line = [str(n), who, str(len(good))]
        if not good:
            lines.append([*line, str(mine[0]["failed"])[:80], *["–"] * (len(heads) - 1)])
            continue
        for key in heads:
            found = band(good, key)
            line.append("–" if found is None else pm(found, SEEN[key][1], 2 if found[1] else 1))
        lines.append(line)
    told = markdown(["frames", "chosen by", "seeds", *heads.values()], lines)
    for what, mine in (
        ("our default", [DEFAULT]),
        ("the best of ours, random apart", _ours(rows)),
    ):
        if any(row["who"] in mine for row in rows):
            told += f"\n{better(rows, what, mine)}\n"
    return told


def _ours(rows: Sequence[Row]) -> list[str]:
    """Return our selectors that look; random is the fastest without."""
    return sorted({row["who"] for row in rows if row["who"].startswith("potstill ")} - {RANDOM})


def better(rows: Sequence[Row], what: str, mine: Sequence[str], by: str = "frames chosen") -> str:
    """Name the rivals whose means are better than ours, and at which sizes."""
    bands = {k: {key: band(group, key) for key in SEEN} for k, group in grouped(rows).items()}
    rivals = list(dict.fromkeys(who for _, who in bands if not who.startswith("potstill ")))
    sizes = list(dict.fromkeys(n for n, _ in bands))
    told = []
    for key, (head, _, _) in SEEN.items():
        if not any(found[key] for found in bands.values()):
            continue
        named = [(who, [w for n in sizes if (w := _ahead(bands, n, who, mine, key))]) for who in rivals]
        told.append(f"{head}: {'; '.join(' '.join([who, 'at', ', '.join(at)]) for who, at in named if at) or 'none'}")
    return (
        f"Rivals whose mean is better than that of {what}, by {by}, in brackets where the bands overlap. "
        f"{'. '.join(f'{sentence[0].upper()}{sentence[1:]}' for sentence in told)}."
    )


def _ahead(bands: Mapping[tuple[int, str], Row], n: int, who: str, mine: Sequence[str], key: str) -> str:
    """Return the size if a rival is better there than the best of ours, in brackets if that may be chance."""
    sign = 1.0 if SEEN[key][2] else -1.0
    theirs = bands.get((n, who), {}).get(key)
    ours = [found for name in mine if (found := bands.get((n, name), {}).get(key))]
    if not theirs:
        return ""
    if not ours:  # they failed, or nobody has measured it
        failed = any((n, name) in bands and not bands[n, name]["seconds"] for name in mine)
        return f"{n:,}" if failed else ""
    best = max(ours, key=lambda found: sign * found[0])
    gap = sign * (theirs[0] - best[0])
    return "" if gap <= 0 else f"{n:,}" if gap > theirs[1] + best[1] else f"({n:,})"


def large(rows: Sequence[Row]) -> str:
    """Return seconds by the size of the pool, a row a program, and where a rival is faster."""
    sizes = sorted({row["frames"] for row in rows})
    lines = []
    for who in dict.fromkeys(row["who"] for row in rows):
        mine = {row["frames"]: row for row in rows if row["who"] == who}
        told = [mine.get(n, {}) for n in sizes]
        lines.append(
            [who, *(f"{r['seconds']:.1f}" if "seconds" in r else str(r.get("failed", "–"))[:80] for r in told)]
        )
    heads = ["chosen by", *(f"of {n:,} frames, s" for n in sizes)]
    same = [{**row, "n": row["frames"]} for row in rows]
    return f"{markdown(heads, lines)}\n{better(same, 'ours', _ours(rows), 'frames of the pool')}\n"


def scale(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return seconds and memory by the size of the pool."""
    lines = []
    for r in rows:
        told = f"{r['frames']:,} {r['seconds']:.1f} {r['cpu_seconds']:.1f} {1e3 * r['seconds'] / r['frames']:.2f}"
        lines.append([*told.split(), f"{r['peak_gib']:.2f}"])
    return markdown(["frames", "seconds", "CPU seconds", "ms a frame", "memory of all processes, GiB"], lines)


def page() -> str:
    """Return the whole page."""
    told, steps = [], 0
    for name, (head, sentence) in PARTS.items():
        file = HERE / "results" / f"distil-{name}.json"
        if not file.is_file():
            continue
        kept = json.loads(file.read_text(encoding="utf-8"))
        rows = rows_of(kept)
        steps = steps or kept["steps"]
        told += [f"## {head}\n", f"{sentence}\n", errors(rows)]
        if name in DRAWN:
            told.append(f"![Learning curves: {head}](images/selectors-{name}.png)\n")
        if any(row["outside"] or row["also"] for row in rows):
            told.append(outside(rows))
        versions = ", ".join(f"{k} {v}" for k, v in kept["versions"].items())
        dates = sorted({c["date"] for c in kept["cells"] if "date" in c})
        told.append(f"{', '.join([*dates, versions])}.\n")
    for name, head, sentence, told_of in (
        ("distil-rivals", "Beside QUESTS and maml", OTHERS, others),
        ("distil-scale", "Large pools", SCALE, scale),
        ("distil-rivals-scale", "Large pools beside QUESTS and maml", LARGE, large),
    ):
        file = HERE / "results" / f"{name}.json"
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))
            told += [f"## {head}\n", sentence.format(steps=f"{kept.get('steps', 4_000):,}"), told_of(kept["rows"])]
            told.append(source(f"distil.py {name[7:]}", kept))
    return "\n".join([HEAD.format(steps=f"{steps:,}"), *told])


def draw(name: str) -> None:
    """Draw the learning curves of a table."""
    kept = json.loads((HERE / "results" / f"distil-{name}.json").read_text(encoding="utf-8"))
    shown = {key: MEASURES[key][0] for key in CURVES}
    with figures.style():
        picture = figures.comparison(table(kept["cells"]), shown).png()
    (PAGE.parent / "images" / f"selectors-{name}.png").write_bytes(picture)


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        print(page())
    else:
        for drawn in DRAWN:
            if (HERE / "results" / f"distil-{drawn}.json").is_file():
                draw(drawn)
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE)

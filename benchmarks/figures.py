"""The pictures of docs/speed.md, drawn by speed_page.py from the kept results, in the style of the reports' figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speed_tables import NAMES, PLAIN_MD

from potstill.reporting import figures
from potstill.reporting.figures import BLUE, GREEN, GREY, ORANGE, RED

DATA = "momt-train"  # of the trainings that are drawn
PINK, SKY = "#CC79A7", "#56B4E9"
# Programs of one colour differ in marker and line.
LOOKS = {
    "potstill": (BLUE, "o", "-"),
    "potstill, 1 member": (SKY, "o", "-"),
    "potstill, 4 members": (BLUE, "o", "-"),
    "potstill, 4 and their spread": (BLUE, "s", "--"),
    "embedded atoms, LAMMPS": (GREY, "D", ":"),
    "torchani": (RED, "^", "-"),
    "MACE 16x0e, 1 layer": (ORANGE, "s", "-"),
    "MACE 16x0e, 2 layers": (ORANGE, "D", "--"),
    "ace-jax, degree 10": (GREEN, "v", "-"),
    "ace-jax, degree 14": (GREEN, "P", "--"),
    "apax": (PINK, "X", "-"),
    "graph-pes, PaiNN": (GREY, "*", "-"),
    "GRACE FS, small": ("#6A3D9A", "<", "-"),
    "GRACE 1 layer, small": ("#6A3D9A", ">", "--"),
    "DeePMD se_e2_a": ("#000000", "p", "-"),
}
TITLES = {
    "training": "Error of forces on unseen frames against seconds of training on 2,000 frames, on one core",
    "inference": "Microseconds an atom for energy, forces and stress against the number of atoms, on one core",
    "scaling-labels": "Seconds of labels against workers, measured and by the model, and hours of crowds by the model",
    "sampling-speed": "MD steps a second on one core, biased and plain, of 32 and of 108 atoms",
}
Lines = Mapping[str, Sequence[tuple[float, float]]]
Told = Mapping[str, Any]
APART = 0.055  # of the axis' height, between two labels
AXES = {"training": ("seconds", "force_rmse_mev_per_angstrom"), "inference": ("atoms", "us_per_atom")}
WHERE = {"here": (BLUE, "o"), "parsl": (ORANGE, "s"), "slurm": (GREEN, "D")}


def curves(name: str, told: Told) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each program's line."""
    x, y = AXES[name]
    found: dict[str, list[tuple[float, float]]] = {}
    for row in told["rows"]:
        if "failed" not in row and row.get("data", DATA) == DATA:
            found.setdefault(row["name"], []).append((row[x], row[y]))
    return {who: sorted(points) for who, points in found.items()}


def shown(name: str) -> str:
    """Return the words that show a picture of results on the page, where there is one."""
    return f"![{TITLES[name]}](images/speed-{name}.png)\n\n" if name in DRAWN else ""


def draw(name: str, told: Told, docs: Path) -> None:
    """Write a picture of results."""
    with figures.style():
        (docs / "images" / f"speed-{name}.png").write_bytes(DRAWN[name](told).png())


def training(told: Told) -> figures.Figure:
    """Draw the error of forces against seconds of training."""
    f = figures.Figure("speed-training", size=(7.6, 4.4))
    ax = f.axes[0]
    _plot(ax, curves("training", told))
    ax.set_xlabel("training on one core (s)")
    ax.set_ylabel("force RMSE on unseen frames (meV/Å)")
    return f


def inference(told: Told) -> figures.Figure:
    """Draw the cost of a step of MD against the number of atoms."""
    lines = curves("inference", told)
    f = figures.Figure("speed-inference", size=(7.6, 4.4))
    ax = f.axes[0]
    _plot(ax, lines)
    ax.set_xticks(sorted({n for points in lines.values() for n, _ in points}))
    ax.set_xlabel("atoms")
    ax.set_ylabel("energy, forces and stress on one core (µs/atom)")
    return f


def scaling(told: Told) -> figures.Figure:
    """Draw seconds of labels against workers, measured and by the model, and the hours of crowds."""
    f = figures.Figure("speed-scaling", n=2, size=(4.8, 3.4))
    measured, crowds = f.axes
    for kind, line in (("strong", "-"), ("weak", "--")):
        for where, (colour, marker) in WHERE.items():
            rows = [r for r in told["rows"] if (r["kind"], r.get("where")) == (kind, where)]
            if rows:
                x = [r["workers"] for r in rows]
                n = f"{rows[0]['labels']} labels" if kind == "strong" else f"{rows[0]['labels']} labels a worker"
                look = {"color": colour, "mfc": colour if kind == "strong" else "white"}
                measured.plot(x, [r["seconds"] for r in rows], marker, **look, label=f"{where}, {n}")
                measured.plot(x, [r["model"] for r in rows], line, color=colour, lw=1.2)
    measured.set(xscale="log", yscale="log", xlabel="workers", ylabel="seconds; lines by the model")
    measured.legend(fontsize=7)
    for r in told["rows"]:
        if r["kind"] == "predicted" and r["t"] >= 1.0:
            x, y = zip(*((int(w), hours) for w, hours in r["hours"].items()), strict=True)
            colour = {1_000: BLUE, 100_000: ORANGE}.get(r["labels"], RED)
            line = "-" if r["t"] == max(q["t"] for q in told["rows"] if q["kind"] == "predicted") else "--"
            crowds.plot(x, y, line, color=colour, marker=".", label=f"{r['labels']:,} of {r['t']:,.0f} s")
    crowds.set(xscale="log", yscale="log", xlabel="workers", ylabel="hours by the model")
    crowds.legend(fontsize=7, handlelength=3.0, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figures.plain_ticks(measured)
    crowds.xaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
    return f


def sampling(told: Told) -> figures.Figure:
    """Draw MD steps a second, a bar a way and size."""
    sizes = sorted({r["atoms"] for r in told["rows"]})
    names = sorted(dict.fromkeys(r["name"] for r in told["rows"]), key=lambda name: name not in PLAIN_MD)
    f = figures.Figure("speed-sampling", size=(7.6, 3.8))
    ax = f.axes[0]
    of_size = {}
    for k, n in enumerate(sizes):
        speed = {r["name"]: r["steps_per_second"] for r in told["rows"] if r["atoms"] == n}
        at = [row + 0.38 * k for row, name in enumerate(names) if name in speed]
        shown_ = [name for name in names if name in speed]
        bars = ax.barh(at, [speed[name] for name in shown_], 0.36, color=(BLUE, SKY)[k % 2])
        of_size[f"{n} atoms"] = bars[-1]
        for bar, name in zip(bars, shown_, strict=True):
            bar.set_alpha(0.45 if name in PLAIN_MD else 1.0)
            ax.text(1.05 * speed[name], bar.get_y() + 0.18, f"{speed[name]:,.0f}", va="center", fontsize=7)
    ax.set_yticks([row + 0.19 for row in range(len(names))], [NAMES.get(name, name) for name in names], fontsize=8)
    ax.set(xscale="log", xlabel="MD steps a second on one core; pale: without bias", xlim=(200, 1.2e5))
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
    ax.legend(of_size.values(), of_size, fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.7))
    return f


DRAWN: Mapping[str, Callable[[Told], figures.Figure]] = {
    "training": training,
    "inference": inference,
    "scaling-labels": scaling,
    "sampling-speed": sampling,
}


def _plot(ax: Any, lines: Lines) -> None:
    """Plot the lines, and name them beside the axes at the heights of their ends, no two names upon each other."""
    ax.set(xscale="log", yscale="log")
    looks = {}
    for who, points in lines.items():
        colour, marker, line = LOOKS.get(who, (GREY, "o", "-"))
        own = who.startswith("potstill")
        looks[who] = {"marker": marker, "ls": line, "color": colour, "ms": 5, "lw": 2.2 if own else 1.2}
        ax.plot(*zip(*points, strict=True), **looks[who], zorder=2 + own)
    figures.plain_ticks(ax)
    ax.autoscale_view()  # or the heights are those of axes without data
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = [float(to_axes.transform(points[-1])[1]) for points in lines.values()]
    for who, height in zip(lines, spread(ends), strict=True):
        beside = {"transform": ax.transAxes, "clip_on": False}
        ax.plot([1.03, 1.06, 1.09], [height] * 3, markevery=[1], **looks[who], **beside)
        ax.text(1.11, height, who, fontsize=9, va="center", **beside)


def spread(heights: Sequence[float]) -> list[float]:
    """Move heights apart where they are nearer than a line of text, and keep their order."""
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    found, above, top = list(heights), -1.0, 1.0
    for k in order:
        found[k] = above = max(heights[k], above + APART)
    for k in reversed(order):  # those that went over the top come down again
        found[k] = min(found[k], top)
        top = found[k] - APART
    return found

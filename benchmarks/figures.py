"""The pictures of docs/speed.md, drawn by speed_page.py from the kept results, in the style of the reports' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
}
Lines = Mapping[str, Sequence[tuple[float, float]]]
APART = 0.055  # of the axis' height, between two labels


def curves(name: str, told: Mapping[str, Any] | None) -> dict[str, list[tuple[float, float]]]:
    """Return the points of each program's line; none where there is nothing that a line could be drawn through."""
    x, y = {"training": ("seconds", "force_rmse_mev_per_angstrom"), "inference": ("atoms", "us_per_atom")}[name]
    found: dict[str, list[tuple[float, float]]] = {}
    for row in told["rows"] if told else ():
        if "failed" not in row and row.get("data", DATA) == DATA:
            found.setdefault(row["name"], []).append((row[x], row[y]))
    lines = {who: sorted(points) for who, points in found.items()}
    return lines if any(len(points) > 1 for points in lines.values()) else {}


def shown(name: str, told: Mapping[str, Any] | None) -> str:
    """Return the words that show a picture on the page, where there is one."""
    if name not in DRAWN or not curves(name, told):
        return ""
    return f"![{TITLES[name]}](images/speed-{name}.png)\n\n"


def draw(name: str, told: Mapping[str, Any] | None, docs: Path) -> None:
    """Write a picture, where its results are there."""
    lines = curves(name, told)
    if lines:
        with figures.style():
            (docs / "images" / f"speed-{name}.png").write_bytes(DRAWN[name](lines).png())


def training(lines: Lines) -> figures.Figure:
    """Draw the error of forces against seconds of training."""
    f = figures.Figure("speed-training", size=(7.6, 4.4))
    ax = f.axes[0]
    _plot(ax, lines)
    ax.set_xlabel("training on one core (s)")
    ax.set_ylabel("force RMSE on unseen frames (meV/Å)")
    return f


def inference(lines: Lines) -> figures.Figure:
    """Draw the cost of a step of MD against the number of atoms."""
    f = figures.Figure("speed-inference", size=(7.6, 4.4))
    ax = f.axes[0]
    _plot(ax, lines)
    ax.set_xticks(sorted({n for points in lines.values() for n, _ in points}))
    ax.set_xlabel("atoms")
    ax.set_ylabel("energy, forces and stress on one core (µs/atom)")
    return f


DRAWN = {"training": training, "inference": inference}


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

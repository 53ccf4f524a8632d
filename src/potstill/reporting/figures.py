"""The figures, as SVG that follows the page's colours and needs nothing from outside."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from typing import Any

import numpy as np

# Okabe & Ito's palette: told apart by colour-blind readers, on white as on black.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8a8a8a"
INK = "#010203"  # stands for the page's text colour until the SVG is written

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in the page's style; the user's own settings come back after it."""
    import matplotlib as mpl

    context: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return context


class Figure:
    """A matplotlib figure in the page's style; it ends as inline SVG or as a PNG.

    Parameters
    ----------
    name : str
        Makes the identifiers inside the SVG its own, and the same at every writing.
    n : int
        Panels.
    rows : int
        Rows that they stand in.
    size : (float, float)
        Of each, in inches.
    widths : sequence of float | None
        Of the panels, relative to each other, where they share the vertical axis.
    """

    def __init__(
        self,
        name: str,
        n: int = 1,
        size: tuple[float, float] = (4.4, 3.3),
        widths: Sequence[float] | None = None,
        rows: int = 1,
    ) -> None:
        from matplotlib.figure import Figure as Canvas

        self._salt = f"potstill-{name}"
        columns = -(-n // rows)
        self.figure = Canvas(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        panels = self.figure.subplots(rows, columns, width_ratios=widths, sharey=widths is not None)
        self.axes = np.atleast_1d(panels).ravel()[:n]
        for unused in np.atleast_1d(panels).ravel()[n:]:
            unused.remove()
        self._spots: list[tuple[Any, Any, Any]] = []

    def spot(self, ax: Any, x: Any, y: Any) -> None:
        """Let a reader point at data of a panel: one point of each item, in the items' order."""
        self._spots.append((ax, np.asarray(x, dtype=float), np.asarray(y, dtype=float)))

    @property
    def spots(self) -> list[list[float]]:
        """Where what can be pointed at stands in the SVG: item, x, y in its user units; not finite ones left out."""
        self.figure.draw_without_rendering()
        width, height = self.figure.get_size_inches() * 72.0
        found = []
        for ax, x, y in self._spots:
            kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
            at = ax.transData.transform(np.column_stack([x, y])[kept])
            at = self.figure.transFigure.inverted().transform(at)
            found += [
                [int(k), round(width * u, 1), round(height * (1 - v), 1)] for k, (u, v) in zip(kept, at, strict=True)
            ]
        return found

    def svg(self) -> str:
        """Return the markup, to be set inline: text has the page's colour, the ground is clear."""
        import matplotlib as mpl

        text = io.StringIO()
        with mpl.rc_context({**_STYLE, "svg.hashsalt": self._salt}):
            self.figure.savefig(text, format="svg", transparent=True, dpi=160, metadata={"Date": None, "Creator": None})
        markup = text.getvalue()
        return markup[markup.index("<svg") :].replace(INK, "currentColor")

    def png(self) -> bytes:
        """Return a picture on white."""
        data = io.BytesIO()
        self.figure.savefig(data, format="png", dpi=130, facecolor="white")
        return data.getvalue()


MOST_VOLUME = 1.6  # of the median, on the map


def coverage(points: Mapping[str, Any]) -> Figure:
    """Map a pool, what was learnt marked: energy against volume, and Q₆ against temperature where it is known."""
    v, e, t, q = (
        np.array([np.nan if x is None else x for x in points[name]], dtype=float)
        for name in ("volume_per_atom", "energy_per_atom", "temperature", "q6")
    )
    learnt, made = np.array(points["learnt"], dtype=bool), np.array([k == "generated" for k in points["kind"]])
    v[v > MOST_VOLUME * np.nanmedian(v)] = np.nan  # of a slab, whose volume is that of its vacuum
    warm = bool(np.isfinite(t).any())
    f = Figure("coverage", 1 + warm, (4.9, 3.9) if warm else (6.6, 4.0))
    rings = {"s": 34, "facecolors": "none", "edgecolors": RED, "linewidths": 1.1}
    for ax, x, y in ((f.axes[0], v, e), (f.axes[-1], t, q)):
        shown = ax.scatter(
            x[~made], y[~made], c=t[~made] if warm else BLUE, s=7, cmap="viridis" if warm else None, alpha=0.6,
            linewidths=0, rasterized=True,
        )  # fmt: skip
        ax.scatter(x[learnt & ~made], y[learnt & ~made], label="distilled", **rings)
        if made.any() and ax is f.axes[0]:
            ax.scatter(x[made], y[made], label="from beside the pool", marker="s", **{**rings, "edgecolors": GREEN})
        f.spot(ax, x, y)
        if not warm:
            break
    f.axes[0].set_xlabel("volume (Å³/atom)")
    f.axes[0].set_ylabel("energy by the model (eV/atom)")
    if warm:
        f.figure.colorbar(shown, ax=f.axes[0], label="temperature (K)")
        f.axes[1].set_xlabel("temperature (K)")
        f.axes[1].set_ylabel("Q₆: 0.57 for fcc, below 0.2 a liquid")
    f.figure.legend(*f.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return f


_PHASES = {"liquid": ORANGE, "crystal": BLUE}


def visited(run: Mapping[str, Any]) -> Figure:
    """Where an extended ensemble went: temperature and order, volume and energy, by phase as the order tells it."""
    f = Figure("visited", 2)
    p = {name: np.array(values, dtype=float) for name, values in run["points"].items()}
    low, high = run["thresholds"]
    liquid, crystal = p["order"] < low, p["order"] > high
    for name, mine in (("between", ~liquid & ~crystal), ("liquid", liquid), ("crystal", crystal)):
        colour = _PHASES.get(name, GREY)
        if not mine.any():
            continue
        style = {"s": 7, "color": colour, "alpha": 0.5, "linewidths": 0, "rasterized": True}
        f.axes[0].scatter(p["effective_temperature"][mine], p["order"][mine], label=name, **style)
        f.axes[1].scatter(p["volume_per_atom"][mine], p["energy_per_atom"][mine], **style)
    for y in (low, high):
        f.axes[0].axhline(y, color=GREY, lw=0.8, ls=":")
    cold, hot = run["temperature"]
    f.axes[0].set_xlim(cold - 0.05 * (hot - cold), hot + 0.05 * (hot - cold))
    f.axes[0].set_xlabel("temperature that the bias amounts to (K)")
    f.axes[0].set_ylabel("order parameter, 1 for the crystal")
    f.axes[1].set_xlabel("volume (Å³/atom)")
    f.axes[1].set_ylabel("potential energy (eV/atom)")
    f.figure.legend(loc="outside upper right", ncols=3, markerscale=2)
    return f


def reweighted(run: Mapping[str, Any]) -> Figure:
    """Energy, volume and heat capacity against temperature at the lowest pressure, each phase and both together."""
    f = Figure("reweighted", 3, (3.6, 3.2))
    at = run["pressure"][0]
    for name, colour in (("all", GREY), *_PHASES.items()):
        for ax, key in zip(f.axes, ("energy", "volume", "heat_capacity"), strict=True):
            rows = [
                r
                for r in run["table"]
                if r["phase"] == name and r["pressure"] == at and r[key] is not None and r[f"{key}_error"] is not None
            ]
            ax.errorbar(
                [r["temperature"] for r in rows],
                [r[key] for r in rows],
                [r[f"{key}_error"] for r in rows],
                fmt="o-" if name != "all" else "-",
                ms=3,
                lw=1,
                capsize=2,
                color=colour,
                label=name if key == "energy" and (rows or name == "all") else None,
            )
    for ax, label in zip(
        f.axes, ("potential energy (eV/atom)", "volume (Å³/atom)", r"heat capacity $C_P$ ($k_B$/atom)"), strict=True
    ):
        ax.set_ylabel(label)
        ax.set_xlabel("temperature (K)")
    f.figure.legend(loc="outside upper right", ncols=3)
    return f


def balance(run: Mapping[str, Any]) -> Figure | None:
    """Free energy of the crystal less that of the liquid against temperature, a line a pressure; None if not known."""
    f = Figure("balance", size=(7.6, 3.6))
    ax = f.axes[0]
    drawn = False
    for equal, colour in zip(run["equal_weight"], cycle((BLUE, GREEN, ORANGE, RED)), strict=False):
        here = [r for r in run["free_energy"] if r["pressure"] == equal["pressure"]]
        rows = [r for r in here if None not in {r["value"], r["error"]}]
        if len(rows) < 2:
            continue
        x, y = ([r["temperature"] for r in rows], [1e3 * r["value"] / run["n_atoms"] for r in rows])
        spread = [1e3 * r["error"] / run["n_atoms"] for r in rows]
        label = f"{equal['pressure']:g} GPa"
        if None not in {equal["temperature"], equal["error"]}:
            label += f": equal weight of this cell at {equal['temperature']:.0f} ± {equal['error']:.0f} K"
            ax.axvline(equal["temperature"], color=colour, lw=1, ls="--")
        ax.errorbar(x, y, spread, fmt="o-", ms=4, lw=1.2, capsize=2, color=colour, label=label)
        drawn = True
    if not drawn:
        return None
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_xlabel("temperature (K)")
    ax.set_ylabel("crystal less liquid (meV/atom)")
    f.figure.legend(loc="outside upper right")
    return f


def pools(compared: Mapping[str, Any]) -> Figure:
    """Two pools of as many MD steps over each other: volume and energy, order and energy."""
    f = Figure("pools", 2)
    for (name, pool), colour in zip(reversed(compared["pools"].items()), (BLUE, ORANGE), strict=True):
        style = {"s": 8, "color": colour, "alpha": 0.45, "linewidths": 0, "rasterized": True}
        f.axes[0].scatter(pool["volume_per_atom"], pool["energy_per_atom"], label=name, **style)
        f.axes[1].scatter(pool["order"], pool["energy_per_atom"], **style)
    f.axes[0].set_xlabel("volume (Å³/atom)")
    f.axes[1].set_xlabel("order parameter, 1 for the crystal")
    for ax in f.axes:
        ax.set_ylabel("potential energy (eV/atom)")
    f.figure.legend(loc="outside upper right", ncols=2, markerscale=2)
    return f


def learning_curve(rounds: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Errors on the hold-out against the number of labels, with their bands; ``drawn`` are rounds of random frames."""
    f = Figure("learning", 2)
    for ax, key, scale, name, unit, colour in (
        (f.axes[0], "energy_rmse_mev_per_atom", 1.0, "energy", "meV/atom", BLUE),
        (f.axes[1], "force_rmse_ev_per_angstrom", 1e3, "force", "meV/Å", ORANGE),
    ):
        highest = 0.0
        for rows, shade, label in ((drawn, GREY, "random frames"), (rounds, colour, "chosen")):
            if not rows:
                continue
            n = [r["n_labels"] for r in rows]
            values = [scale * r["errors"][key] for r in rows]
            low, high = ([1e3 * r["bands"][name][k] for r in rows] for k in (0, 1))
            ax.plot(n, values, "o-", color=shade, label=label)
            ax.fill_between(n, low, high, color=shade, alpha=0.18, lw=0)
            highest = max(highest, *high)
        for x, y in zip(n, values, strict=True):
            ax.annotate(f"{y:.2g}", (x, y), textcoords="offset points", xytext=(4, 6), fontsize=9)
        ax.set_xlabel("labels learnt from")
        ax.set_ylabel(f"{name} RMSE ({unit})")
        ax.set_ylim(0, 1.1 * highest)
        ax.set_xlim(0, 1.1 * max(n))
        if drawn:
            ax.legend(loc="upper right")
    return f


def parity(points: Mapping[str, Any]) -> Figure:
    """Model against reference on the hold-out: energies, forces, stresses."""
    panels = [
        ("energy_ev_per_atom", "energy (eV/atom)", BLUE),
        ("force_ev_per_angstrom", "force component (eV/Å)", ORANGE),
    ]
    if points["stress_gpa"][0]:
        panels.append(("stress_gpa", "stress component (GPa)", GREEN))
    f = Figure("parity", len(panels), (3.5, 3.3))
    for ax, (key, label, colour) in zip(f.axes, panels, strict=True):
        x, y = (np.array(values) for values in points[key])
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        ax.plot([low, high], [low, high], color=GREY, lw=1, zorder=0)
        ax.scatter(x, y, s=8, color=colour, alpha=0.4, linewidths=0, rasterized=True)
        if ax is f.axes[0]:  # the energies are one a frame
            f.spot(ax, x, y)
        ax.set_title(label)
        ax.set_xlabel("reference")
        ax.set_ylabel("model")
        ax.set_aspect("equal", "box")
    return f


def polymorphs(rows: Sequence[Mapping[str, Any]], ground: str, tolerance: float) -> Figure:
    """Energies of the crystals relative to the ground state, and the errors of energy and volume."""
    rows = [r for r in rows if r["relative_energy_error"] is not None]
    names = [r["crystal"] for r in rows]
    at = np.arange(len(rows))
    f = Figure("polymorphs", 3, (3.7, 3.4))
    ax = f.axes[0]
    ax.plot(at - 0.12, [r["reference"]["relative_energy"] for r in rows], "s", color=BLUE, label="reference")
    ax.plot(at + 0.12, [r["nnp"]["relative_energy"] for r in rows], "o", color=RED, label="model")
    ax.set_yscale("symlog", linthresh=10)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_ylabel(f"energy above {ground} (meV/atom)")
    ax.legend(loc="upper left")
    for ax, values, label in (
        (f.axes[1], [r["relative_energy_error"] for r in rows], "energy error (meV/atom)"),
        (f.axes[2], [r["volume_error_percent"] for r in rows], "volume error (%)"),
    ):
        ax.bar(at, values, color=GREY, width=0.6)
        ax.axhline(0, color=INK, lw=0.8)
        ax.set_ylabel(label)
    f.axes[1].axhspan(-tolerance, tolerance, color=GREEN, alpha=0.15, lw=0)
    limit = max(1.5 * tolerance, *(abs(v) for v in (r["relative_energy_error"] for r in rows)))
    if limit > 5 * tolerance:
        f.axes[1].set_yscale("symlog", linthresh=2 * tolerance)
    else:
        f.axes[1].set_ylim(-1.1 * limit, 1.1 * limit)
    for ax in f.axes:
        ax.set_xticks(at, names, rotation=45, ha="right")
    return f


def check(made: Mapping[str, Any]) -> Figure | None:
    """Draw the curves of a check by the reference and by the model; None where there are none."""
    if not any(made["curves"].values()):
        return None
    phonons = made["check"] == "phonons"
    name = f"check-{made['check']}"
    f = Figure(name, 2, (3.2, 3.4), (3, 1)) if phonons else Figure(name, 1, (6.4, 3.4))
    ax = f.axes[0]
    for side, colour, line in (("reference", BLUE, "-"), ("model", RED, "--")):
        for k, (name, (x, y)) in enumerate(made["curves"][side].items()):
            if name.startswith("special points"):
                _mark(ax, x, name.split()[2:])
                continue
            few = "o" if len(x) < 20 else None
            band = phonons and name.startswith("band")
            panel = f.axes[-1] if phonons and not band else ax
            drawn = _broken(x, y) if band else y
            panel.plot(x, drawn, line, color=colour, lw=1.2, marker=few, ms=3.5, label=side if k == 0 else None)
    if made["check"] in ("surfaces", "other-crystals"):
        names = [r["quantity"] for r in made["rows"]]
        ax.set_xticks(
            range(len(names)), names, rotation=30 * (len(names) > 4), ha="right" if len(names) > 4 else "center"
        )
    elif phonons:
        ax.axhline(0, color=INK, lw=0.6)
        f.axes[-1].set_xlabel("states (1/THz)")
        f.axes[-1].set_xlim(left=0)
    ax.set_xlabel(made["axes"][0])
    ax.set_ylabel(made["axes"][1])
    ax.legend()
    return f


def _broken(x: Sequence[float], y: Sequence[float]) -> Any:
    """Leave out the first point after each break of a path, so that no line leads across it."""
    return np.where(np.diff(x, prepend=-1.0) == 0.0, np.nan, y)


def _mark(ax: Any, x: Sequence[float], names: Sequence[str]) -> None:
    """Name the points of a path, those that fall together by both names."""
    told: dict[float, str] = {}
    for at, name in zip(x, names, strict=True):
        told[at] = f"{told[at]}|{name}" if at in told and told[at] != name else name
    ax.set_xticks(list(told), list(told.values()))
    for at in told:
        ax.axvline(at, color=GREY, lw=0.5)


def plain_ticks(ax: Any) -> None:
    """Write the numbers of logarithmic axes out: 1, 2, 5, 10 …."""
    from matplotlib.ticker import LogLocator, NullLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _at: f"{value:,.10g}")


def comparison(rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str]) -> Figure:
    """Learning curves of selectors with bands of confidence: a panel for each measure, and one for what is outside."""
    names = list(dict.fromkeys(r["selector"] for r in rows))
    outside = any(r["outside"] for r in rows)
    n_panels = len(measures) + outside
    f = Figure("comparison", n_panels, (3.4, 2.9), rows=-(-n_panels // 3))
    colours = dict(
        zip(names, cycle((BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#B59B00", "#6A3D9A")), strict=False)
    )
    colours["random"] = GREY
    for name in names:
        mine = sorted((r for r in rows if r["selector"] == name), key=lambda r: r["n_labels"])
        n = [r["n_labels"] for r in mine]
        for ax, key in zip(f.axes, measures, strict=False):
            value, half = (np.array([r[key][k] for r in mine]) for k in (0, 1))
            ax.plot(n, value, "o-", ms=3, lw=1.2, color=colours[name], label=name if ax is f.axes[0] else None)
            ax.fill_between(
                n, np.maximum(value - half, 0.2 * value), value + half, color=colours[name], alpha=0.15, lw=0
            )
        if outside:
            worst = [max((abs(v[0]) for v in r["outside"].values()), default=np.nan) for r in mine]
            f.axes[-1].plot(n, worst, "o-", ms=3, lw=1.2, color=colours[name])
    for ax, title in zip(f.axes, [*measures.values(), "outside the pool, worst, meV/atom"], strict=False):
        ax.set(xscale="log", yscale="log", title=title, xlabel="labels learnt from")
        plain_ticks(ax)
    f.figure.legend(loc="outside upper center", ncols=min(len(names), 5))
    return f


def reliability(found: Mapping[str, Sequence[float]]) -> Figure:
    """Draw expected force errors against those found, on held-out frames."""
    f = Figure("reliability", size=(7.6, 3.6))
    ax = f.axes[0]
    x, y = (1e3 * np.array(found[k]) for k in ("expected", "found"))
    most = 1.1 * max(x.max(), y.max())
    ax.plot([0, most], [0, most], color=GREY, lw=1)
    ax.plot(x, y, "o-", color=BLUE, ms=4)
    ax.set_xlim(0, most)
    ax.set_ylim(0, most)
    ax.set_xlabel("expected force error (meV/Å)")
    ax.set_ylabel("found on held-out atoms (meV/Å)")
    return f


def _by_trust(ax: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str) -> None:
    """Scatter rows of relaxed structures, those that are trusted apart from the others."""
    for trusted, colour, marker, label in ((False, ORANGE, "x", "not trusted"), (True, BLUE, "o", "trusted")):
        mine = [r for r in rows if r["trusted"] == trusted]
        if mine:
            ax.scatter(
                [r[x] for r in mine], [r[y] for r in mine], s=24, color=colour, marker=marker, alpha=0.7, linewidths=1,
                label=label,
            )  # fmt: skip


def landscape(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Relaxed structures: energy above the lowest of their composition against volume, trusted or not."""
    f = Figure("landscape", size=(6.6, 3.6))
    ax = f.axes[0]
    _by_trust(ax, rows, "volume", "energy_above")
    ax.set_yscale("symlog", linthresh=10)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("volume (Å³/atom)")
    ax.set_ylabel("above the lowest known (meV/atom)")
    f.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return f


def judged(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot where relaxations ended by the model against those by another potential, and how far they lie apart."""
    watched = any(r["strangest_on_way"] is not None for r in rows)
    f = Figure("judged", 1 + watched, (4.2, 3.6) if watched else (6.6, 4.2))
    left, right = f.axes[0], f.axes[-1]
    every = [r[key] for r in rows for key in ("energy", "judge_energy")]
    left.plot([min(every), max(every)], [min(every), max(every)], color=GREY, lw=1, zorder=0)
    _by_trust(left, rows, "judge_energy", "energy")
    left.locator_params(axis="x", nbins=5)
    left.set_xlabel("judge (eV/atom)")
    left.set_ylabel("model (eV/atom)")
    if watched:
        _by_trust(right, rows, "strangest_on_way", "judge_error")
        right.axhspan(-5, 5, color=GREEN, alpha=0.15, lw=0)
        right.set_yscale("symlog", linthresh=10)
        right.yaxis.set_major_formatter("{x:g}")
        right.set_xlabel("strangest atom on the way")
        right.set_ylabel("model less judge (meV/atom)")
    f.figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return f


def trust(rounds: Sequence[Mapping[str, Any]], n: int) -> Figure:
    """Share of trusted structures against the labels that were learnt for them."""
    f = Figure("trust", size=(5.2, 3.0))
    ax = f.axes[0]
    ax.plot([r["n_labels"] for r in rounds], [100 * r["trusted"] / n for r in rounds], "o-", color=BLUE)
    ax.set_xlabel("labels learnt beside the model's own")
    ax.set_ylabel("trusted (%)")
    ax.set_ylim(0, 100)
    return f

"""Which way of choosing is best here: learning curves of several selectors on one pool, with error bars over seeds.

A path is one selector with one seed: the distilling loop through all budgets, each trained in full. Paths run beside
each other and go on where they stopped. All are judged by the same frames, which no selector saw, and by measures that
belong to none of them: how much of the held-out surroundings the choice covers, and the entropy of what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from potstill import tables
from potstill.checks import Outside, errors_on
from potstill.config import Config
from potstill.data import Dataset, Frame
from potstill.distilling import distil
from potstill.engine import each
from potstill.labelling import Labelled, Revealer, label
from potstill.model import Committee, FrameFeatures, Whitening
from potstill.model.features import nearest, squared_distances
from potstill.protocols import Potential
from potstill.reporting import figures
from potstill.store import LabelStore, Units, digest, write_json
from potstill.training import descriptor_for

COVERED = 2.0  # typical distances between held-out surroundings within which one is covered
MOST_ATOMS = 6000  # held-out surroundings that coverage is measured on
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Contest:
    """All that a worker needs to walk a path; it can be sent to one.

    Attributes
    ----------
    pool, holdout : path
        Files of frames; the hold-out is labelled.
    settings : Config
        With the budgets in ``distil.sizes``.
    reference : Potential | None
        The labeller; None where the pool's own labels are revealed.
    element : str | None
        For the check of structures outside the pool, by the reference.
    folder : path
        Where paths, labels and measures are kept.
    also : mapping of name to path
        Further labelled frames to judge by: hotter, strained, another phase.
    """

    pool: Path
    holdout: Path
    settings: Config
    reference: Potential | None
    element: str | None
    folder: Path
    also: Mapping[str, Path] = field(default_factory=dict)

    def walk(self, path: tuple[str, int]) -> list[dict[str, Any]]:
        """Run one selector with one seed through all budgets; return a row each."""
        name, seed = path
        pool, holdout = Dataset.load(self.pool), Dataset.load(self.holdout)
        distilling = self.settings.distil.model_copy(update={"selector": name})
        settings = self.settings.model_copy(update={"seed": seed, "distil": distilling})
        measures = _Measures(pool, holdout, settings, self.folder)
        others = {k: Dataset.load(file) for k, file in self.also.items()}
        rows: list[dict[str, Any]] = []

        def watch(row: Mapping[str, Any], committee: Committee, known: Dataset) -> None:
            kept = {k: row[k] for k in ("n_labels", "n_beside", "errors")}
            found = {"selector": name, "seed": seed, **kept, **measures.breadth(known)}
            if self.reference is not None and self.element is not None:
                check, units = Outside(self.element), self.folder / "outside"
                truth, mine = check.measure(self.reference, units), check.measure(committee, units)
                found["outside"] = {k: mine[k] - truth[k] for k in truth if k in mine}
            found["also"] = {k: errors_on(committee, data).as_dict() for k, data in others.items()}
            rows.append(found)

        ask = Revealer(pool) if self.reference is None else partial(self._label, self.reference)
        folder = self.folder / "paths" / f"{name}-{seed}"
        distil(pool, ask, settings, folder=folder, holdout=holdout, watch=watch, both=False)
        return rows

    def _label(self, reference: Potential, frames: Sequence[Frame]) -> Labelled:
        store = LabelStore(self.folder / "labels")
        return label(frames, reference, store, workers=1, retries=self.settings.label.retries)


class _Measures:
    """What a choice covers, in a metric that the pool sets and that is the same for all selectors."""

    def __init__(self, pool: Dataset, holdout: Dataset, settings: Config, folder: Path) -> None:
        descriptor = descriptor_for(pool.elements, settings.model)
        self.features = FrameFeatures(descriptor, Whitening.fit(descriptor, pool[:: max(1, len(pool) // 500)]))
        atoms = np.concatenate(self.features.surroundings(list(holdout)))
        self.atoms = atoms[np.linspace(0, len(atoms) - 1, min(len(atoms), MOST_ATOMS)).astype(int)].astype(float)
        self.length = float(np.median(nearest(self.atoms, self.atoms, itself=True)))
        self.units = Units(folder / "breadth")
        self.about = digest([pool.keys, holdout.keys, settings.dump()["model"]])

    def breadth(self, chosen: Dataset) -> dict[str, float]:
        """Return ``coverage``, a share, ``entropy``, nats, and ``quests_entropy`` of a choice of frames."""

        def compute() -> dict[str, float]:
            x = np.concatenate(self.features.surroundings(list(chosen))).astype(float)
            near = nearest(self.atoms, x) <= COVERED * self.length
            thin = x[np.linspace(0, len(x) - 1, min(len(x), MOST_ATOMS)).astype(int)]
            density = np.mean(np.exp(-squared_distances(thin, thin) / (2 * self.length**2)), axis=1)
            found = {"coverage": float(np.mean(near)), "entropy": float(-np.mean(np.log(density)))}
            return found | quests_entropy(chosen)

        what = {"data": self.about, "chosen": digest(chosen.keys), "measures": list(BREADTH)}
        found: dict[str, float] = self.units.get(what, compute)
        return found


def quests_entropy(chosen: Dataset) -> dict[str, float]:
    """Return ``quests_entropy``, nats, by QUESTS' own descriptor and kernel; nothing where it is not installed.

    Schwalbe-Koda, Hamel, Sadigh, Zhou and Lordi, Nature Communications 16, 4014 (2025): the extra ``potstill[quests]``.
    """
    try:
        from quests.descriptor import get_descriptors
        from quests.entropy import entropy
    except ModuleNotFoundError:
        return {}
    x = get_descriptors([frame.atoms for frame in chosen])
    return {"quests_entropy": float(entropy(x[np.linspace(0, len(x) - 1, min(len(x), MOST_ATOMS)).astype(int)]))}


def compare(
    contest: Contest, selectors: Sequence[str], seeds: Sequence[int], *, workers: int, tell: Any
) -> dict[str, Any]:
    """Run every path and write ``comparison.json``.

    Parameters
    ----------
    contest : Contest
        Pool, hold-out, settings.
    selectors : sequence of str
        Names; ``random`` is run too, because it is what the others must beat.
    seeds : sequence of int
        Each decides a path's candidates, networks and batches.
    workers : int
        Processes; 0 means one a core.
    tell : callable
        Gets lines of progress.

    Returns
    -------
    dict
        ``cells``, a row for each selector, seed and budget; ``table``, means over seeds with 95 % intervals.
    """
    names = list(dict.fromkeys([*selectors, "random"]))
    paths = [(name, seed) for seed in seeds for name in names]
    cells: list[dict[str, Any]] = []
    for done, ((name, seed), rows) in enumerate(each(contest.walk, paths, workers=workers), 1):
        cells.extend(rows)
        last = rows[-1]
        tell(
            f"compare: {done}/{len(paths)}: {name}, seed {seed}: {last['n_labels']} labels, "
            f"{last['errors']['energy_rmse_mev_per_atom']:.2f} meV/atom, "
            f"{1e3 * last['errors']['force_rmse_ev_per_angstrom']:.1f} meV/Å"
        )
    cells.sort(key=lambda c: (names.index(c["selector"]), c["seed"], c["n_labels"]))
    result = {"settings": contest.settings.dump(), "cells": cells, "table": table(cells)}
    write_json(contest.folder / "comparison.json", result)
    return result


MEASURES: Mapping[str, tuple[str, float]] = {
    "energy_rmse_mev_per_atom": ("energy, meV/atom", 1.0),
    "force_rmse_ev_per_angstrom": ("forces, meV/Å", 1e3),
    "force_rmse_without_worst": ("without the worst frame", 1e3),
    "force_p95": ("95th percentile", 1e3),
    "force_p99": ("99th percentile", 1e3),
    "force_worst": ("worst frame", 1e3),
}

BREADTH: Mapping[str, str] = {"coverage": "coverage", "entropy": "entropy", "quests_entropy": "QUESTS' entropy"}


def table(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each selector and budget: means over seeds, and half widths of their 95 % intervals.

    ``outside`` leaves out what did not relax with some seed's model: a mean over those that did would flatter.
    """
    rows = []
    for name, n in dict.fromkeys((c["selector"], c["n_labels"]) for c in cells):
        mine = [c for c in cells if (c["selector"], c["n_labels"]) == (name, n)]
        row: dict[str, Any] = {"selector": name, "n_labels": n, "n_seeds": len(mine)}
        for key, (_, factor) in MEASURES.items():
            row[key] = mean_with_band([factor * c["errors"][key] for c in mine])
        for key in BREADTH:
            if all(key in c for c in mine):
                row[key] = mean_with_band([c[key] for c in mine])
        outside = list(dict.fromkeys(k for c in mine for k in c.get("outside", {})))
        relaxed = [k for k in outside if all(k in c.get("outside", {}) for c in mine)]
        row["outside"] = {k: mean_with_band([c["outside"][k] for c in mine]) for k in relaxed}
        row["also"] = {
            k: {m: mean_with_band([MEASURES[m][1] * c["also"][k][m] for c in mine]) for m in list(MEASURES)[:2]}
            for k in mine[0].get("also", {})
        }
        rows.append(row)
    return rows


def mean_with_band(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its interval of confidence, by Student's t."""
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(x.mean()), 0.0
    return float(x.mean()), float(t.ppf(0.5 + CONFIDENCE / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))


def table_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table as text, heads first: means over seeds ± half widths of their 95 % intervals."""
    outside = list(dict.fromkeys(k for row in rows for k in row["outside"]))
    also = list(rows[0]["also"]) if rows else []
    heads = ["labels", "selector", *(head for head, _ in MEASURES.values()), *BREADTH.values(), *outside]
    heads += [f"{name}, {unit}" for name in also for unit in ("meV/atom", "meV/Å")]
    lines = [heads]
    for row in sorted(rows, key=lambda r: r["n_labels"]):
        cells = [str(row["n_labels"]), row["selector"]]
        cells += [_pm(row[key], 2 if key.startswith("energy") else 1) for key in MEASURES]
        cells += [_pm(row[key], 3) if key in row else "–" for key in BREADTH]
        cells += [_pm(row["outside"][k], 1) if k in row["outside"] else "–" for k in outside]
        cells += [_pm(value, 1) for name in also for value in row["also"][name].values()]
        lines.append(cells)
    return lines


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for a terminal."""
    return tables.text(table_rows(rows), right=True)


def _pm(value: Sequence[float], digits: int) -> str:
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def draw(result: Mapping[str, Any]) -> figures.Figure:
    """Return the learning curves with their error bars, a panel a measure."""
    with figures.style():
        return figures.comparison(result["table"], {k: v[0] for k, v in MEASURES.items()})

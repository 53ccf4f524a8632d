"""Ratios that a change must not spoil, each within one run: `make bench-quick`, a few minutes.

    python benchmarks/quick.py            measure, compare with what was kept, fail where a ratio got worse
    python benchmarks/quick.py --keep     keep what was measured as the new standard

Both sides of a ratio take turns, so that a busy machine slows them alike. A ratio counts as worse beyond a factor of
its own: a small one where the ratio has a limit that it must be able to fail before, a wide one where disks and single
runs shake it. One for which nothing was kept is new, and cannot fail. No absolute time is compared.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from common import HERE, announce
from sampling import EAM, biased, plain, prepared

from potstill import crystals
from potstill.backends import resolve
from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset, Frame
from potstill.labelling import compute, label
from potstill.model import Committee, FrameFeatures, Whitening
from potstill.proposing import propose
from potstill.relaxing import How
from potstill.relaxing.batch import descend
from potstill.selecting import selector
from potstill.store import LabelStore
from potstill.training import descriptor_for, train

KEPT = HERE / "results" / "quick.json"
ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """A ratio that is kept.

    Attributes
    ----------
    measure : callable () -> float
    slack : float
        The factor beyond which it counts as worse.
    more : bool
        Whether more is better.
    """

    measure: Callable[[], float]
    slack: float
    more: bool = False

    def worse(self, before: float | None, now: float) -> bool:
        """Whether it is worse than what was kept."""
        return before is not None and (before / now if self.more else now / before) > self.slack


def seconds(work: Callable[[], Any]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(ours: Callable[[], float], theirs: Callable[[], float], rounds: int = ROUNDS) -> float:
    """Return the median of ours ÷ theirs, by turns."""
    return statistics.median(ours() / theirs() for _ in range(rounds))


def cells(n: int, seed: int = 0) -> list[Frame]:
    """Return shaken cells of 32 nickel atoms."""
    rng, rest = np.random.default_rng(seed), crystals.supercell("fcc", "Ni", 11.5, 32)
    found = []
    for _ in range(n):
        atoms = rest.copy()
        atoms.positions += rng.normal(0.0, 0.15, atoms.positions.shape)
        found.append(Frame.of(atoms))
    return found


def steps_of(calculator: Any, n: int = 40) -> Callable[[], float]:
    """Return what times force calls on 256 atoms that move as in MD."""
    atoms = crystals.supercell("fcc", "Ni", 11.0, 256)
    rest, atoms.calc = atoms.positions.copy(), calculator
    swing = np.random.default_rng(1).normal(0.0, 0.05, rest.shape)

    def call() -> None:
        for k in range(n):
            atoms.positions = rest + np.sin(0.1 * k) * swing
            atoms.get_forces()

    call()
    return lambda: seconds(call)


def sampling() -> float:
    """Biased steps a second over plain LAMMPS's, 32 atoms."""
    campaign, state = prepared("structure-factor", 32)
    potential = resolve(EAM)
    return ratio(lambda: biased(campaign, state, potential, 10_000), lambda: plain(32, 10_000))


def committee_over_eam(model: Committee) -> float:
    """Time of a committee's forces over that of embedded atoms by LAMMPS, 256 atoms."""
    return ratio(steps_of(model.calculator()), steps_of(resolve(EAM, ["Ni"]).calculator()))


def four_over_one(model: Committee, single: Committee) -> float:
    """Time of four members' forces over one's, 256 atoms."""
    return ratio(steps_of(model.calculator()), steps_of(single.calculator()))


def relaxing(model: Committee) -> float:
    """Time of ASE's FIRE one by one over ours side by side, ten random crystals."""
    structures = list(propose(["Ni"], 10, ["random"], np.random.default_rng(1)))
    calculator = model.calculator()

    def one_by_one() -> None:
        for atoms in structures:
            mine = atoms.copy()
            mine.calc = calculator
            FIRE(FrechetCellFilter(mine), logfile=None).run(fmax=0.01, steps=60)

    how = How(0.01, steps=60, symmetric=False)
    descend(model, structures[:2], How(steps=3))
    return seconds(one_by_one) / min(seconds(lambda: descend(model, structures, how)) for _ in range(3))


def labels() -> float:
    """Time of a label through engine and store over that of the calculation alone."""
    frames, reference = cells(300), resolve(EAM, ["Ni"])
    compute(frames[0], reference)
    with tempfile.TemporaryDirectory() as home:
        stored = iter(range(100))

        def through() -> float:
            store = LabelStore(Path(home) / str(next(stored)))
            label(frames[:1], reference, store, workers=1)
            return seconds(lambda: label(frames, reference, store, workers=1))

        return ratio(through, lambda: seconds(lambda: [compute(f, reference) for f in frames]))


def choosing() -> float:
    """Time to choose 100 of 4,000 frames over that of 100 of 500, descriptors included: 8 where it is linear."""
    frames = cells(4000, 3)
    descriptor = descriptor_for(("Ni",), ModelConfig())
    whitening = Whitening.fit(descriptor, frames[:200])

    def choose(n: int) -> float:
        pool, features = Dataset(frames[:n]), FrameFeatures(descriptor, whitening)
        rng = np.random.default_rng(0)
        return seconds(lambda: selector("fps").select(pool, 100, known=Dataset(), committee=features, rng=rng))

    choose(200)
    return ratio(lambda: choose(4000), lambda: choose(500), rounds=3)


def learning(known: Dataset) -> tuple[float, float]:
    """Return time of 60 optimiser steps over that of 20, and of 40 more steps over 150 force calls by LAMMPS.

    The first is 3 at most, where nothing but the steps costs; the second sees it when a step itself is slower.
    """
    how, calls = TrainConfig(members=4), steps_of(resolve(EAM, ["Ni"]).calculator(), 150)

    def learn(steps: int) -> float:
        return seconds(lambda: train(known, ModelConfig(), how.model_copy(update={"steps": steps}), seed=1))

    learn(20)
    rounds = [(learn(60), learn(20), calls()) for _ in range(ROUNDS)]
    medians = (statistics.median(x) for x in zip(*((a / b, (a - b) / c) for a, b, c in rounds), strict=True))
    return next(medians), next(medians)


def main() -> None:
    """Measure, print and compare."""
    parser = argparse.ArgumentParser(description="Ratios that a change must not spoil.")
    parser.add_argument("--keep", action="store_true", help="keep what was measured as the new standard")
    keep = parser.parse_args().keep
    about = announce("quick")
    reference = resolve(EAM, ["Ni"])
    known = Dataset(f.labelled(compute(f, reference)) for f in cells(40))
    model, single = (
        train(known, ModelConfig(), TrainConfig(steps=40, members=m), seed=1, calibrate_on=known) for m in (4, 1)
    )
    learnt = cache(lambda: learning(known))  # two ratios of the same rounds
    measures = {
        "biased steps/s over plain LAMMPS NPT": Ratio(sampling, 1.5, more=True),
        "committee over embedded atoms, time of a step": Ratio(lambda: committee_over_eam(model), 1.5),
        "four members over one, time of a step": Ratio(lambda: four_over_one(model, single), 1.5),
        "ASE one by one over side by side, time to relax": Ratio(lambda: relaxing(model), 2.5, more=True),
        "stored label over bare calculation, time": Ratio(labels, 2.0),
        "choosing from 4,000 over 500, time": Ratio(choosing, 1.6),
        "60 steps of training over 20, time": Ratio(lambda: learnt()[0], 1.4),
        "40 steps of training over 150 calls of LAMMPS, time": Ratio(lambda: learnt()[1], 2.0),
    }
    standard = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {"ratios": {}, "machine": ""}
    kept, same = standard["ratios"], standard["machine"] == about["machine"]
    found, worse = {}, []
    print(f"{'':52s} {'kept':>7s} {'now':>7s} {'worse from':>10s}")
    for name, r in measures.items():
        now, before = round(r.measure(), 3), kept.get(name)
        found[name] = now
        bad = r.worse(before, now)
        worse += [name] if bad else []
        limit = "" if before is None else f"{before / r.slack if r.more else before * r.slack:10.2f}"
        told = "    new" if before is None else f"{before:7.2f}"
        print(f"{name:52s} {told} {now:7.2f} {limit}{'  worse' if bad else ''}", flush=True)
    if new := [name for name in measures if name not in kept]:
        print(f"New, so compared with nothing until --keep: {'; '.join(new)}.")
    if keep:
        KEPT.write_text(json.dumps({**about, "ratios": found}, indent=1) + "\n", encoding="utf-8")
        print(f"kept: {KEPT}")
    elif worse and not same:
        print(f"The standard is of another machine ({standard['machine']}), so what is worse counts as no failure.")
    elif worse:
        sys.exit(f"Worse than its slack allows: {'; '.join(worse)}.")


if __name__ == "__main__":
    main()

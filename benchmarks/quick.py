"""Ratios that a change must not spoil, each within one run: `make bench-quick`, a few minutes.

    python benchmarks/quick.py            measure, compare with what was kept, fail where a ratio got worse
    python benchmarks/quick.py --keep     keep what was measured as the new standard

Both sides of a ratio take turns, so that a busy machine slows them alike; a ratio counts as worse beyond a factor of
``SLACK``, which is wide because shared machines shake even ratios. No absolute time is compared.
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
SLACK = 2.5
ROUNDS = 5


def seconds(work: Callable[[], Any]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(ours: Callable[[], float], theirs: Callable[[], float]) -> float:
    """Return the median of ours ÷ theirs, by turns."""
    return statistics.median(ours() / theirs() for _ in range(ROUNDS))


def cells(n: int, seed: int = 0) -> list[Frame]:
    """Return shaken cells of 32 nickel atoms."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        atoms = crystals.supercell("fcc", "Ni", 11.5, 32)
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
    """Time to choose 100 of 2,000 frames over that of 100 of 1,000, descriptors included: 2 where it is linear."""
    frames = cells(2000, 3)
    descriptor = descriptor_for(("Ni",), ModelConfig())
    whitening = Whitening.fit(descriptor, frames[:200])

    def choose(n: int) -> float:
        pool, features = Dataset(frames[:n]), FrameFeatures(descriptor, whitening)
        rng = np.random.default_rng(0)
        return seconds(lambda: selector("fps").select(pool, 100, known=Dataset(), committee=features, rng=rng))

    choose(200)
    return ratio(lambda: choose(2000), lambda: choose(1000))


def learning(known: Dataset) -> float:
    """Time of 60 optimiser steps over that of 20: 3 where nothing but the steps costs."""
    how = TrainConfig(members=4)

    def learn(steps: int) -> float:
        return seconds(lambda: train(known, ModelConfig(), how.model_copy(update={"steps": steps}), seed=1))

    learn(20)
    return ratio(lambda: learn(60), lambda: learn(20))


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
    measures: dict[str, tuple[bool, Callable[[], float]]] = {  # whether more is better
        "biased steps/s over plain LAMMPS NPT": (True, sampling),
        "committee over embedded atoms, time of a step": (False, lambda: committee_over_eam(model)),
        "four members over one, time of a step": (False, lambda: four_over_one(model, single)),
        "ASE one by one over side by side, time to relax": (True, lambda: relaxing(model)),
        "stored label over bare calculation, time": (False, labels),
        "choosing from 2,000 over 1,000, time": (False, choosing),
        "60 steps of training over 20, time": (False, lambda: learning(known)),
    }
    standard = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {"ratios": {}, "machine": ""}
    kept, same = standard["ratios"], standard["machine"] == about["machine"]
    found, worse = {}, []
    print(f"{'':52s} {'kept':>7s} {'now':>7s}")
    for name, (more, measure) in measures.items():
        found[name] = round(measure(), 3)
        before = kept.get(name)
        bad = before is not None and (before / found[name] if more else found[name] / before) > SLACK
        worse += [name] if bad else []
        print(f"{name:52s} {before or float('nan'):7.2f} {found[name]:7.2f}{'  worse' if bad else ''}", flush=True)
    if keep:
        KEPT.write_text(json.dumps({**about, "ratios": found}, indent=1) + "\n", encoding="utf-8")
        print(f"kept: {KEPT}")
    elif worse and not same:
        print(f"The standard is of another machine ({standard['machine']}), so what is worse counts as no failure.")
    elif worse:
        sys.exit(f"Worse by more than a factor of {SLACK}: {'; '.join(worse)}.")


if __name__ == "__main__":
    main()

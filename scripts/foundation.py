"""Make the foundational set anew: ``python scripts/foundation.py`` (some twenty minutes on two cores).

Eight metals with potentials of different shape run their extended ensembles; frames are scaled to 1 Å³ per atom of each
metal's crystal at rest; crystals, stackings, slabs and defects of three lattices are generated beside them. Then frames
are chosen one after another, so that any first n of them are a set: half by what their labels would teach a linear
model that knows those before (D-optimal), half at random, and every fourth from beside the pools. What the set covers
is measured on walkers that were not chosen from, and on four metals that had no part in it.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

from potstill import crystals
from potstill.backends import resolve
from potstill.config import Config, ModelConfig, SampleConfig
from potstill.data import Dataset, Frame, Origin
from potstill.generate import Exclusion, generate
from potstill.model import Descriptor, FrameFeatures, Whitening
from potstill.model.descriptor import chunks
from potstill.model.domain import COMPONENTS, Domain
from potstill.sampling import sample
from potstill.selecting.linear import Information
from potstill.store import versions
from potstill.transferring.coverage import INSIDE
from potstill.transferring.foundation import CARD, FILE
from potstill.transferring.target import DEFAULT_VOLUME, find_ground_state

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "potstill" / "transferring"
METALS = {
    "Ni": "NiAlH_jea.eam.alloy",
    "Cu": "Cu_mishin1.eam.alloy",
    "Al": "Al_mm.eam.fs",
    "Ag": "Ag_u3.eam",
    "W": "W_zhou.eam.alloy",
    "Fe": "Fe_mm.eam.fs",
    "Zr": "Zr_mm.eam.fs",
    "Mg": "Mg_mm.eam.fs",
}
OTHERS = {"Au": "Au_u3.eam", "Pd": "Pd_u3.eam", "Pt": "Pt_u3.eam", "Nb": "Nb.uf3"}
ATOMS = {"fcc": (32,), "bcc": (16, 54), "hcp": (16, 36)}
N, FRAMES, BESIDE = 400, 1_500, {"fcc": 400, "bcc": 300, "hcp": 300}
LEARNING = 400_000  # steps of all walkers
CANDIDATES = 3_000  # that each choice looks at
SEED = 1
MODEL = ModelConfig()


def run(element: str, file: str, folder: Path) -> tuple[Dataset, str]:
    """Return a metal's own frames at 1 Å³ per atom of its crystal at rest, and what that crystal is."""
    potential = resolve(f"lammps:{file}", [element])
    ground = find_ground_state(element, potential)
    settings = SampleConfig(
        element=element, potential=f"lammps:{file}", structure=ground["crystal"], atoms=ATOMS[ground["crystal"]],
        frames=FRAMES, learning_steps=LEARNING,
        cell="flexible" if file.endswith(("alloy", "eam", "fs")) else "isotropic",
    )  # fmt: skip
    made = sample(settings, potential, seed=SEED, folder=folder, workers=0, tell=print)
    factor = ground["volume"] ** (-1 / 3)
    return Dataset(unit(f, factor, f"{element}-{f.origin.trajectory}") for f in made.pool), ground["crystal"]


def unit(frame: Frame, factor: float, name: str) -> Frame:
    """Scale a frame; all atoms are called H."""
    atoms = frame.atoms.copy()
    atoms.set_cell(np.round(atoms.cell.array * factor, 6), scale_atoms=True)
    atoms.positions = np.round(atoms.positions, 6)
    atoms.set_chemical_symbols(["H"] * len(atoms))
    return Frame.of(atoms, Origin("foundation", name))


def beside() -> Dataset:
    """Generate crystals, slabs and defects of three lattices."""
    frames = []
    for lattice, n in BESIDE.items():
        rng = np.random.default_rng([SEED, *lattice.encode()])
        names = Config().validate_.polymorphs
        tests = crystals.verdict_structures(lattice, "Ni", DEFAULT_VOLUME, names)
        others = {name: crystals.prototype(name, "Ni", DEFAULT_VOLUME) for name in crystals.OPEN}
        tests.pop(lattice)
        made = generate(n, ["Ni"], DEFAULT_VOLUME, Exclusion({**tests, **others}), lattice=lattice, rng=rng)
        frames += [unit(f, DEFAULT_VOLUME ** (-1 / 3), f"{lattice}-{f.origin.trajectory}") for f in made]
    return Dataset(frames)


def in_order(pool: Dataset, generated: Dataset, features: FrameFeatures) -> list[Frame]:
    """Choose frames one after another."""
    rng = np.random.default_rng([SEED, 11])
    kinds = [list(pool), list(generated)]
    equations = [features.equations(list(kind)).astype(np.float64) for kind in (pool, generated)]
    left = [list(range(len(kind))) for kind in kinds]
    known = Information(equations[0].shape[1])
    metals = sorted({f.origin.trajectory.partition("-")[0] for f in pool})
    chosen = []
    for k in range(N):
        kind = int(k % 4 == 3)
        some = [left[kind][i] for i in rng.permutation(len(left[kind]))[:CANDIDATES]]
        if kind == 0:  # each metal in turn
            metal = metals[(k - k // 4) % len(metals)]
            some = [i for i in some if kinds[0][i].origin.trajectory.startswith(f"{metal}-")]
        pick = some[0]
        if (k // 4 + k) % 2 == 0:
            A = equations[kind][some]
            inner = np.eye(A.shape[2]) + A.transpose(0, 2, 1) @ (known.inverse @ A)
            pick = some[int(np.argmax(np.linalg.slogdet(inner)[1]))]
        known.add(equations[kind][pick])
        left[kind].remove(pick)
        chosen.append(kinds[kind][pick])
    return chosen


def covered(chosen: list[Frame], own: Dataset, features: FrameFeatures) -> float:
    """Return the share of atoms of ``own`` that are like those of the chosen frames."""

    def look(frames: list[Frame]) -> np.ndarray:
        parts = []
        for chunk in chunks(frames):
            geometry = features.descriptor.geometry(chunk)
            parts.append(features.whitening.apply(features.descriptor.compute(geometry), geometry.species, COMPONENTS))
        return np.concatenate(parts)

    known, there = look(chosen), look(list(own))
    domain = Domain.fit(known, np.zeros(len(known), np.int32), 1)
    return float(np.mean(domain.distance(there, np.zeros(len(there), np.int32)) <= INSIDE))


def main() -> None:
    """Sample, generate, choose, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/foundation"), help="Where the metals' runs are kept.")
    given = parser.parse_args()
    pools, tests, lattices = [], {}, {}
    for element, file in {**METALS, **OTHERS}.items():
        folder = given.runs / element
        folder.mkdir(parents=True, exist_ok=True)
        own, lattices[element] = run(element, file, folder)
        held = set(own.trajectories[3::4])
        tests[element] = Dataset(f for f in own if f.origin.trajectory in held or element in OTHERS)[::4]
        if element in METALS:
            pools.append(Dataset(f for f in own if f.origin.trajectory not in held))
    pool, generated = Dataset(f for p in pools for f in p), beside()
    size = DEFAULT_VOLUME ** (-1 / 3)
    descriptor = Descriptor(
        ("H",), MODEL.cutoff * size, MODEL.angular_cutoff * size, MODEL.n_radial, MODEL.n_angular, MODEL.l_max
    )
    features = FrameFeatures(descriptor, Whitening.fit(descriptor, [*pool[::10], *generated[::2]]))
    chosen = in_order(pool, generated, features)
    lines = []
    for f in chosen:
        a = f.atoms
        cell = " ".join(f"{x:.6g}" for x in a.cell.array.ravel())
        lines += [
            str(len(a)),
            f'Lattice="{cell}" Properties=species:S:1:pos:R:3 kind="{f.origin.trajectory}" pbc="T T T"',
        ]
        lines += [f"H {x:.5f} {y:.5f} {z:.5f}" for x, y, z in a.positions]
    (PACKAGE / FILE).write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
    kinds = [f.origin.trajectory.split("-")[1] for f in chosen]
    card = {
        "name": "potstill foundational set",
        "version": "1",
        "licence": "CC-BY-4.0",
        "n_frames": len(chosen),
        "n_atoms": sum(f.n_atoms for f in chosen),
        "unit": "lengths such that an atom of the metal's crystal at rest has 1 Å³; all atoms are called H",
        "order": "of choice: the first n are a set of their own, every fourth from beside the pools",
        "made_by": "scripts/foundation.py",
        "metals": {e: {"potential": p, "crystal": lattices[e]} for e, p in METALS.items()},
        "kinds": {k: kinds.count(k) for k in dict.fromkeys(kinds)},
        "coverage": {
            "what": f"share of atoms, in walkers that nothing was chosen from, within {INSIDE} of the learnt distance",
            "of": {
                str(n): {e: round(covered(chosen[:n], own, features), 4) for e, own in tests.items()}
                for n in (100, 200, N)
            },
            "had_no_part": list(OTHERS),
        },
        "limits": [
            "No cell of more than 54 atoms, no free surface but slabs, no short bonds such as collisions make.",
            "Of pressure only what volumes from 0.84 to 1.16 of a crystal at rest have.",
            "Sites carry no element: for alloys they are decorated at random, which holds no order.",
            "Covalent and molecular crystals are beside the point.",
        ],
        "versions": versions(),
    }
    (PACKAGE / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(card["coverage"], indent=1))
    print(f"{PACKAGE / FILE}: {(PACKAGE / FILE).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

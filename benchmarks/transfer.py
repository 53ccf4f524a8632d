"""Other metals without sampling or distilling again: what a transferred set is worth.

    python benchmarks/transfer.py metals     the foundational set, 100 to 400 labels, twelve metals: errors and verdicts
    python benchmarks/transfer.py beside     100 labels five ways on aluminium and niobium, three seeds
    python benchmarks/transfer.py grow       the foundational set and the model's own runs, 150 labels, three metals
    python benchmarks/transfer.py outside    published frames of density-functional theory: how many does the set cover?
    python benchmarks/transfer.py dft        aluminium by Quantum ESPRESSO: 50 labels, and grown from 40 of them

Errors are on frames of each metal's own extended ensemble, of walkers that nothing was learnt from. What has ended is
kept in results/, which is part of the repository: what is there is printed and not done again, so delete the file to
begin anew. ``--metals``, ``--budgets`` and ``--seeds`` narrow a table. `transfer_page.py` writes docs/metals.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase.neighborlist import neighbor_list as neighbour_list
from common import HERE, RUNS, SHARED, announce

from potstill import Dataset, crystals
from potstill.backends import resolve
from potstill.checks import Outside, errors_on
from potstill.config import SampleConfig, parse_config
from potstill.data import Frame, Origin
from potstill.distilling import distil
from potstill.errors import ConvergenceError
from potstill.labelling import label
from potstill.model import Descriptor, Whitening
from potstill.model.domain import COMPONENTS, Domain
from potstill.sampling import sample
from potstill.store import LabelStore, versions
from potstill.training import descriptor_for, full_steps, train
from potstill.transferring import Source, foundation, grow, read_source, transfer
from potstill.transferring.coverage import INSIDE
from potstill.transferring.source import to_metal
from potstill.transferring.target import find_ground_state, model_for

METALS = {
    "Ni": "NiAlH_jea.eam.alloy",
    "Al": "Al_mm.eam.fs",
    "Cu": "Cu_mishin1.eam.alloy",
    "Ag": "Ag_u3.eam",
    "Au": "Au_u3.eam",
    "Pd": "Pd_u3.eam",
    "Pt": "Pt_u3.eam",
    "W": "W_zhou.eam.alloy",
    "Fe": "Fe_mm.eam.fs",
    "Nb": "Nb.uf3",
    "Zr": "Zr_mm.eam.fs",
    "Mg": "Mg_mm.eam.fs",
}
RESULTS = HERE / "results"
JUDGES, BY_DFT, MORE = 100, 40, 10  # labels; by density-functional theory the last are of generated crystals
SMALL = 16  # atoms, at most, where labels are by density-functional theory: see kpoints.py
RATTLE, STRAIN = 0.25, 0.05  # Å; –
CLOSEST = 0.75  # of the distance of neighbours in fcc at rest: nearer, and a random crystal is left out
OTHER = ("hcp", "dhcp", "bcc", "fcc")


def kept(name: str) -> tuple[Path, list[dict[str, Any]]]:
    """Return where results are kept, and what is there."""
    file = RESULTS / f"transfer-{name}.json"
    return file, json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []


def keep(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write what has ended."""
    file.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def metals(given: argparse.Namespace) -> None:
    """Transfer the foundational set to each metal, with each budget."""
    file, rows = kept("metals")
    done = {(r["target"], r["budget"]) for r in rows}
    for metal in given.metals.split(","):
        first = RUNS / "transfer" / metal
        for budget in sorted(int(n) for n in given.budgets.split(",")):
            if (metal, budget) in done:
                continue
            out = first / str(budget)
            run = first / "ensembles"  # the metal's own run does not depend on the budget
            if run.is_dir() and not (out / metal / "1-sample").exists():
                shutil.copytree(run, out / metal / "1-sample" / "ensembles")
            recipe = {
                "to": [metal],
                "references": {metal: f"lammps:{METALS[metal]}"},
                "budget": budget,
                "judge": JUDGES,
            }
            settings = parse_config(
                {"transfer": {"source": "foundation", **recipe}, "engine": {"workers": given.workers}}
            )
            (row,) = transfer(settings, None, out, partial(print, flush=True))
            if not run.is_dir():
                shutil.copytree(out / metal / "1-sample" / "ensembles", run)
            rows.append({**row, "budget": budget, "reference": METALS[metal]})
            rows.sort(key=lambda r: (list(METALS).index(r["target"]), r["budget"]))
            keep(file, rows)
    for r in rows:
        print(told(r))


def told(r: Mapping[str, Any]) -> str:
    """Write a row for the terminal."""
    e, known = r["errors"], r["coverage"]["atoms"]
    covered = "" if known is None else f"covered {100 * known:.2f} %  "
    checks = list(r["card"].values())
    worst = max(abs(x) for k, x in r["crystals"].items() if x is not None and k in OTHER)
    return (
        f"{r['target']:<3} {r['crystal']}  {r['n_labels']:>4} labels  {e['energy_rmse_mev_per_atom']:6.2f} meV/atom "
        f"{1e3 * e['force_rmse_ev_per_angstrom']:6.1f} meV/Å  {covered}close-packed and "
        f" bcc within {worst:5.1f} meV/atom  ground state {'right' if r['ground_state_right'] else 'WRONG'}  "
        f"{checks.count('pass')} pass, {checks.count('near')} near, {checks.count('fail')} fail"
    )


# --- five ways to a hundred labels ---


def own_pool(metal: str, folder: Path, frames: int) -> tuple[Dataset, Dataset, dict[str, Any]]:
    """Return a metal's own frames, and labelled ones of other walkers to judge by."""
    recipe = f"lammps:{METALS[metal]}"
    potential = resolve(recipe, [metal])
    ground = find_ground_state(metal, potential)
    settings = SampleConfig(element=metal, potential=recipe, structure=ground["crystal"], frames=frames, walkers=8)
    folder.mkdir(parents=True, exist_ok=True)
    made = sample(settings, potential, seed=2, folder=folder, workers=0, tell=print)
    held = set(made.pool.trajectories[1::4])
    rng = np.random.default_rng(1)
    judge = Dataset(f for f in made.pool if f.origin.trajectory in held)
    judge = judge.take(sorted(rng.permutation(len(judge))[:400]))
    asked = label(list(judge), potential, LabelStore(folder / "labels"), workers=0, tell=print)
    return Dataset(f for f in made.pool if f.origin.trajectory not in held), asked.data, ground


def scaled_to(metal: str, volume: float, n: int, seed: int, data: Dataset, at: float) -> tuple[Dataset, dict[str, Any]]:
    """Return n frames of another metal, an atom of whose crystal has ``at`` Å³, and no wish how they are chosen."""
    return to_metal(Source("", data, at), n, {metal: 1.0}, {metal: volume}, seed), {}


def itself(own: Dataset) -> tuple[Dataset, dict[str, Any]]:
    """Return a metal's own pool, and potstill's usual way of choosing from it."""
    return own, {"selector": "potstill", "beside": 0.1, "initial": 25}


def random_crystals(n: int, metal: str, volume: float, potential: Any, seed: int) -> tuple[Dataset, dict[str, Any]]:
    """Return random symmetric crystals in the manner of ASSYST (Poul et al. 2023, Phys. Rev. B 107, 104103).

    Each is relaxed by the reference, in volume alone and in whole, and both are strained and rattled; the steps of
    relaxation, which are calculations of the reference as well, are not counted as labels.
    """
    rng = np.random.default_rng([seed, 12])
    least = CLOSEST * (np.sqrt(2.0) * volume) ** (1 / 3)
    frames: list[Frame] = []
    while len(frames) < n:
        atoms = crystals.random_symmetric(metal, volume, rng)
        if atoms is None:
            continue
        try:
            rests = [crystals.relaxed(atoms, potential.calculator(), isotropic=True)]
            rests.append(crystals.relaxed(rests[0], potential.calculator(), force_tolerance=0.01))
        except ConvergenceError:
            continue
        moved = []
        for rest in rests:
            other = rest.copy()
            other.set_cell(other.cell.array @ (np.eye(3) + rng.normal(0.0, STRAIN, (3, 3))), scale_atoms=True)
            other.positions += rng.normal(0.0, RATTLE, other.positions.shape)
            moved.append(other)
        for found in (*rests, *moved):
            if neighbour_list("d", found, 2 * least).min(initial=np.inf) > least and len(frames) < n:
                frames.append(Frame.of(found, Origin("random", f"random-{seed}", step=len(frames))))
    return Dataset(frames), {}


def beside(given: argparse.Namespace) -> None:
    """Learn a hundred labels chosen in five ways, and judge all alike."""
    file, rows = kept("beside")
    done = {(r["target"], r["way"], r["seed"]) for r in rows}
    n = int(given.budgets.split(",")[0])
    nickel, _, at_rest = own_pool("Ni", RUNS / "transfer-beside" / "Ni", 4_000)
    base = RUNS / "transfer-beside" / "Ni-distilled"
    for metal in given.metals.split(","):
        home = RUNS / "transfer-beside" / metal
        own, judge, ground = own_pool(metal, home, 4_000)
        potential = resolve(f"lammps:{METALS[metal]}", [metal])
        for seed in range(1, int(given.seeds) + 1):
            distilled = nickel_distilled(nickel, base / str(seed), n, seed)
            shuffled = nickel.take(np.random.default_rng([seed, 13]).permutation(len(nickel))[:n])

            as_metal = partial(scaled_to, metal, ground["volume"], n, seed)
            ways: dict[str, Callable[[], tuple[Dataset, dict[str, Any]]]] = {
                "nickel, distilled": partial(as_metal, distilled, at_rest["volume"]),
                "foundational set": partial(as_metal, foundation(), 1.0),
                "sampled and distilled itself": partial(itself, own),
                "nickel, random frames": partial(as_metal, shuffled, at_rest["volume"]),
                "random symmetric crystals": partial(random_crystals, n, metal, ground["volume"], potential, seed),
            }
            for way, pool in ways.items():
                if (metal, way, seed) in done:
                    continue
                row = learnt(
                    way,
                    *pool(),
                    metal,
                    potential,
                    judge,
                    ground,
                    home / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}",
                    n,
                    seed,
                )
                print(
                    f"{metal} {way}, seed {seed}: {row['errors']['energy_rmse_mev_per_atom']:.2f} meV/atom", flush=True
                )
                rows.append(row)
                keep(file, rows)


def nickel_distilled(pool: Dataset, folder: Path, n: int, seed: int) -> Dataset:
    """Distil nickel once for each seed."""
    if not (folder / "distilled.extxyz").exists():
        potential = resolve(f"lammps:{METALS['Ni']}", ["Ni"])
        settings = parse_config({"seed": seed, "distil": {"budget": n, "holdout": 50}})
        ask = partial(label, potential=potential, store=LabelStore(folder / "labels"), workers=0)
        distil(pool, ask, settings, folder=folder, both=False, tell=print).save(folder)
    return read_source(str(folder / "distilled.extxyz")).data


def learnt(
    way: str, pool: Dataset, choose: Mapping[str, Any], metal: str, potential: Any, judge: Dataset,
    ground: Mapping[str, Any], folder: Path, n: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train on n labels and measure."""
    d = {"budget": n, "initial": n, "beside": 0.0, "selector": "random", "stop_flat": False, **choose}
    settings = model_for(parse_config({"seed": seed, "distil": d}), ground["volume"])
    ask = partial(label, potential=potential, store=LabelStore(folder.parent / "labels"), workers=0)
    done = distil(pool, ask, settings, folder=folder, holdout=judge, both=False)
    check = Outside(metal, tuple(k for k in OTHER if k != ground["crystal"]))
    truth, mine = (check.measure(p, folder.parent / "outside") for p in (potential, done.committee))
    return {
        "target": metal, "way": way, "seed": seed, "n_labels": len(done.data), "n_failures": len(done.failures),
        "errors": errors_on(done.committee, judge).as_dict(),
        "outside": {k: mine[k] - truth[k] if k in mine else None for k in truth},
    }  # fmt: skip


# --- grown, and by density-functional theory ---


def grown(given: argparse.Namespace) -> None:
    """Grow potentials of metals whose embedded atoms stand for a reference that could not sample."""
    file, rows = kept("grow")
    budget = int(given.budgets)
    for metal in given.metals.split(","):
        if metal in {r["target"] for r in rows}:
            continue
        raw = {"label": {"reference": f"lammps:{METALS[metal]}"}, "transfer": {"judge": JUDGES}}
        settings = parse_config({**raw, "engine": {"workers": given.workers}})
        out = RUNS / "grow" / metal
        row = grow(settings, read_source("foundation"), metal, budget, out, partial(print, flush=True))
        rows.append({**row, "budget": budget, "reference": METALS[metal]})
        keep(file, rows)
    for r in rows:
        print(told(r), f"{len(r['generations'])} generations, {r['stopped']}")


def by_dft(given: argparse.Namespace) -> None:
    """Transfer to aluminium, and grow it, with labels by density-functional theory that both share."""
    file, rows = kept("dft")
    home = RUNS / "transfer-dft"
    raw = {
        "label": {"reference": "espresso", "store": str(home / "labels")},
        "espresso": {"cutoff": 20, "width": 0.1, "k_spacing": 0.3, "small_k_spacing": 0.25},
        "sample": {"atoms": [SMALL]},
        "transfer": {
            "source": "foundation",
            "most_atoms": SMALL,
            "to": ["Al"],
            "budget": BY_DFT,
            "top_up": MORE,
            "judge": 10,
        },
        "validate": {"checks": ["eos", "elastic"], "polymorphs": ["fcc", "hcp", "bcc"], "defects": False},
        "engine": {"workers": given.workers},
    }
    settings = parse_config(raw)
    if "transfer" not in {r["way"] for r in rows}:
        (row,) = transfer(settings, None, home / "transfer", partial(print, flush=True))
        rows.append({**row, "way": "transfer", "budget": BY_DFT + MORE, "reference": "PBE by pw.x"})
        keep(file, rows)
    if "grow" not in {r["way"] for r in rows}:
        small = read_source("foundation", most_atoms=SMALL)
        row = grow(settings, small, "Al", BY_DFT + MORE, home / "grow", partial(print, flush=True))
        rows.append({**row, "way": "grow", "budget": BY_DFT + MORE, "reference": "PBE by pw.x"})
        keep(file, rows)
    for r in rows:
        print(r["way"], told(r))


PUBLISHED = {  # learnt from, and judged by
    "Ni, Zuo et al. 2020": ("Ni", ["ni_zuo2020/Ni_train.xyz"], ["ni_zuo2020/Ni_test.xyz"]),
    "Nb, SNAP": ("Nb", ["nb_snap/Nb_AIMD.extxyz", "nb_snap/Nb_Elastic.extxyz"], ["nb_snap/Nb_Test.extxyz"]),
    "Nb, SNAP, surfaces": ("Nb", [], ["nb_snap/Nb_Surface.extxyz"]),
}


def outside() -> None:
    """Learn published frames, scale the foundational set to what they say of the metal, and look who is inside."""
    file, rows = RESULTS / "transfer-outside.json", []
    known: dict[str, Any] = {}
    for name, (metal, learn, test) in PUBLISHED.items():
        judge = Dataset(f for t in test for f in Dataset.load(SHARED / t))
        if learn:
            data = Dataset(f for t in learn for f in Dataset.load(SHARED / t))
            settings = model_for(parse_config({}), crystals.atomic_volume(metal))
            how = settings.train.model_copy(update={"steps": full_steps(settings.train, len(data))})
            model = train(data, settings.model, how, seed=1, tell=print)
            lattice = crystals.ground_state(metal)
            start = crystals.prototype(lattice, metal, crystals.atomic_volume(metal))
            rest = crystals.relaxed(start, model.calculator(), isotropic=True)
            known[metal] = model, settings, float(rest.get_volume()) / len(rest), len(data)
        model, settings, volume, n = known[metal]
        frames = to_metal(Source("", foundation(), 1.0), len(foundation()), {metal: 1.0}, {metal: volume}, 1)
        descriptor = descriptor_for((metal,), settings.model)
        whitening = Whitening.fit(descriptor, list(frames))
        inside = {}
        for size in (100, 200, 400):
            x = [whitened(descriptor, whitening, list(data)) for data in (frames[:size], judge)]
            domain = Domain.fit(np.concatenate(x[0]), np.zeros(sum(map(len, x[0])), np.int32), 1)
            found = [domain.distance(a, np.zeros(len(a), np.int32)) <= INSIDE for a in x[1]]
            inside[str(size)] = [float(np.mean(np.concatenate(found))), float(np.mean([f.all() for f in found]))]
        errors = errors_on(model, judge).as_dict()
        rows.append(
            {"data": name, "volume": volume, "n_train": n, "n_test": len(judge), "inside": inside, "errors": errors}
        )
        told_inside = ", ".join(f"{k}: {100 * a:.1f} % and {100 * b:.0f} %" for k, (a, b) in inside.items())
        print(
            f"{name}: {len(judge)} frames; atoms and frames inside, by size of the set: {told_inside}; learnt from "
            f"{n} of its own frames: {1e3 * errors['force_mae_ev_per_angstrom']:.0f} meV/Å (mean absolute)",
            flush=True,
        )
    keep(file, rows)


def whitened(descriptor: Descriptor, whitening: Whitening, frames: list[Frame]) -> list[np.ndarray]:
    """Return the leading whitened components of the atoms of each frame."""
    found = []
    for frame in frames:
        g = descriptor.geometry([frame])
        found.append(whitening.apply(descriptor.compute(g), g.species, COMPONENTS))
    return found


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["metals", "beside", "grow", "outside", "dft"])
    parser.add_argument("--metals", default="", help="Chemical symbols with commas between.")
    parser.add_argument("--budgets", default="", help="Labels, with commas between.")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--workers", type=int, default=0, help="Processes; 0: one a core.")
    given = parser.parse_args()
    announce(f"transfer {given.part}")
    if given.part == "metals":
        given.metals, given.budgets = given.metals or ",".join(METALS), given.budgets or "100,200,400"
        metals(given)
    elif given.part == "beside":
        given.metals, given.budgets = given.metals or "Al,Nb", given.budgets or "100"
        beside(given)
    elif given.part == "grow":
        given.metals, given.budgets = given.metals or "Cu,W,Mg", given.budgets or "150"
        grown(given)
    elif given.part == "outside":
        outside()
    else:
        by_dft(given)


if __name__ == "__main__":
    main()

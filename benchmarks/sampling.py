"""How fast extended ensembles sample, beside plain LAMMPS: steps per second, and crossings of liquid and solid.

    python benchmarks/sampling.py             both
    python benchmarks/sampling.py speed       one core: biased steps/s over plain LAMMPS NPT, same potential and cell;
                                              ASE's own dynamics through LAMMPS's calculator; and a committee of four
                                              that has learnt the potential
    python benchmarks/sampling.py crossings   one core: 32 atoms for 2 ns, 108 atoms for 1.2 ns, learning included

Rounds of each path take turns, and ratios are of medians within this one run. Plain LAMMPS runs with its default skin
of the neighbour list and with a smaller one, which may be faster in cells this small; ratios are to the faster.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from common import announce, keep

from potstill import crystals
from potstill.backends import resolve
from potstill.backends.lammps import LammpsPotential
from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset
from potstill.labelling import compute
from potstill.model import Committee
from potstill.protocols import State
from potstill.sampling.bias import FROZEN, Learning
from potstill.sampling.campaign import Campaign
from potstill.sampling.ensembles import HIGH, LOW, ExtendedEnsemble
from potstill.sampling.thermodynamics import crossings
from potstill.sampling.walkers import Engine, Task, advance
from potstill.training import train

VOLUME = 10.916  # Å³/atom of nickel at rest in this potential
EAM = "lammps:NiAlH_jea.eam.alloy"
RANGE = (950.0, 3180.0)  # K
FROZEN_BIAS = Learning(FROZEN, 0.0, 1.0, 1.0)
TEMPERATURE = 1700.0  # K, of the plain runs
SKIN = 1.0  # Å; LAMMPS's default is 2
PLAIN, PLAIN_SKIN = "plain LAMMPS NPT", "plain LAMMPS NPT, skin 1 Å"


def ensemble(order: str, walkers: int, learning: int) -> ExtendedEnsemble:
    """Return the ensemble that `potstill sample` takes for nickel."""
    walls = (0.8 * VOLUME, 1.65 * VOLUME)
    return ExtendedEnsemble(
        "multiorder-multithermal", "sams", order, RANGE, (0.0,), walls, False, walkers, learning, 100, 2.0, 4_000
    )


class Through:
    """A potential that hides what it is, so that a slower path is taken."""

    def __init__(self, potential, *, lammps: bool) -> None:
        self._potential, self.elements, self.fingerprint = potential, potential.elements, potential.fingerprint
        if lammps:
            self.driven = potential.driven

    def calculator(self, workdir=None):
        """Pass on."""
        return self._potential.calculator(workdir)


class Skinned(LammpsPotential):
    """A potential whose neighbour list has a smaller skin."""

    def commands(self, symbols):
        """Set the skin, too."""
        return [*super().commands(symbols), f"neighbor {SKIN} bin"]


def plain(n_atoms: int, steps: int, *, skinned: bool = False) -> float:
    """Return steps/s of LAMMPS's own NPT."""
    potential, start = resolve(EAM), crystals.supercell("fcc", "Ni", VOLUME, n_atoms)
    if skinned:
        potential = Skinned(potential.path, potential.style, potential.coefficients, potential.elements)
    state = State(TEMPERATURE, 0.0)
    run = potential.dynamics(start, [(state, 500, 0), (state, steps, steps)], timestep=2.0, seed=1)
    began = time.perf_counter()
    for _stage, _step, _atoms in potential.dynamics(start, [(state, 500, 500)], timestep=2.0, seed=1):
        pass
    overhead = time.perf_counter() - began
    began = time.perf_counter()
    for _stage, _step, _atoms in run:
        pass
    return steps / (time.perf_counter() - began - overhead)


def by_ase(n_atoms: int, steps: int, *, npt: bool) -> float:
    """Return steps/s of ASE's own dynamics through LAMMPS's calculator, at constant pressure or by Langevin."""
    atoms = crystals.supercell("fcc", "Ni", VOLUME, n_atoms)
    atoms.calc = resolve(EAM).calculator()
    rng = np.random.default_rng(1)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    common = {"timestep": 2.0 * units.fs, "temperature_K": TEMPERATURE}
    dynamics = (
        IsotropicMTKNPT(atoms, pressure_au=0.0, tdamp=100 * units.fs, pdamp=1000 * units.fs, **common)
        if npt
        else Langevin(atoms, friction=0.01 / units.fs, fixcm=False, rng=rng, **common)
    )
    dynamics.run(20)
    began = time.perf_counter()
    dynamics.run(steps)
    return steps / (time.perf_counter() - began)


def prepared(order: str, n_atoms: int):
    """Return a campaign with a bias of its full size, and a walker at T₀."""
    campaign = Campaign(
        ensemble(order, 2, 4000), resolve(EAM), crystals.supercell("fcc", "Ni", VOLUME, n_atoms), 1, None
    )
    with ThreadPoolExecutor(1) as pool:
        for state in campaign.rounds(pool):
            if state.kind == "settle":
                return campaign, state
    raise RuntimeError("sampling ended early")


def biased(campaign: Campaign, state, potential, steps: int) -> float:
    """Return steps/s of a biased walker on a path."""
    engine = Engine(potential, "Ni", campaign.n_atoms)
    task = Task(
        engine, state.walkers[0], steps, campaign.order, state.bias, FROZEN_BIAS, campaign.md, (1, 2), steps // 20, 0, 0
    )
    short = Task(**{**vars(task), "steps": 20, "records": 1})
    advance(short)  # compilation and files
    began = time.perf_counter()
    advance(short)
    overhead = time.perf_counter() - began
    began = time.perf_counter()
    advance(task)
    return (steps - 20) / (time.perf_counter() - began - overhead)


def learnt() -> Committee:
    """Return a committee of four, of the default size, that has learnt hot crystals and melts well enough to move."""
    eam = resolve(EAM)
    campaign = Campaign(
        ensemble("structure-factor", 2, 4000), eam, crystals.supercell("fcc", "Ni", VOLUME, 32), 1, None
    )
    with ThreadPoolExecutor(1) as pool:
        produced = next(state for state in campaign.rounds(pool) if state.kind == "produce")
    frames = list(campaign.frames_of(produced))[::2]
    return train(Dataset([f.labelled(compute(f, eam)) for f in frames]), ModelConfig(), TrainConfig(steps=300), seed=1)


def speed() -> list[dict[str, object]]:
    """Print and return steps/s and ratios."""
    rows = []
    eam, committee = resolve(EAM), learnt()
    print("steps/s on one core, and ratio to the faster of the plain LAMMPS NPTs")
    for n_atoms, steps in ((32, 20_000), (108, 6_000)):
        paths = {
            PLAIN: lambda n=n_atoms, s=steps: plain(n, s),
            PLAIN_SKIN: lambda n=n_atoms, s=steps: plain(n, s, skinned=True),
            "ASE NPT": lambda n=n_atoms, s=steps: by_ase(n, s // 20, npt=True),
            "ASE Langevin": lambda n=n_atoms, s=steps: by_ase(n, s // 20, npt=False),
        }
        for order in ("structure-factor", "q6"):
            c, state = prepared(order, n_atoms)
            paths[f"compiled, {order}"] = lambda c=c, st=state, s=steps: biased(c, st, eam, s)
            if order == "structure-factor":
                through = Through(eam, lammps=True)
                paths["LAMMPS, compiled callback"] = lambda c=c, st=state, s=steps, p=through: biased(c, st, p, s)
                slow = Through(eam, lammps=False)
                paths["any ASE calculator"] = lambda c=c, st=state, s=steps, p=slow: biased(c, st, p, s // 20)
                paths["committee, compiled"] = lambda c=c, st=state, s=steps: biased(c, st, committee, s // 20)
                slow = Through(committee, lammps=False)
                paths["committee, ASE calculator"] = lambda c=c, st=state, s=steps, p=slow: biased(c, st, p, s // 20)
        rates = {name: [] for name in paths}
        for _ in range(5):
            for name, run in paths.items():
                rates[name].append(run())
        base = max(statistics.median(rates[name]) for name in (PLAIN, PLAIN_SKIN))
        for name, values in rates.items():
            rate = statistics.median(values)
            rows.append({"atoms": n_atoms, "name": name, "steps_per_second": rate, "ratio": rate / base})
            print(f"  {n_atoms:4d} atoms  {name:28s} {rate:9,.0f}   {rate / base:5.2f}", flush=True)
    return rows


def count() -> list[dict[str, object]]:
    """Print and return crossings, of learning and of production."""
    rows = []
    print(f"crossings: the order parameter goes from below {LOW} to above {HIGH}, or back; one core, sams")
    for n_atoms, ns, walkers in ((32, 2.0, 4), (108, 1.2, 4)):
        total = round(ns * 1e6 / 2.0)
        learning = round(0.5 * total / walkers)
        start = crystals.supercell("fcc", "Ni", VOLUME, n_atoms)
        campaign = Campaign(ensemble("structure-factor", walkers, learning), resolve(EAM), start, 1, None)
        records = {"learn": [], "produce": []}
        began = time.process_time()
        with ThreadPoolExecutor(1) as pool:
            for state in campaign.rounds(pool):
                if state.kind in records:
                    records[state.kind].append(state.records)
                    if sum(r.shape[0] * r.shape[1] * 20 for kind in records.values() for r in kind) >= total:
                        break
        hours = (time.process_time() - began) / 3600
        found, steps = {}, {}
        for kind, rounds in records.items():
            s = np.concatenate(rounds, axis=1)[..., 2]
            found[kind], steps[kind] = sum(crossings(walker, LOW, HIGH) for walker in s), s.size * 20
        both, all_steps = sum(found.values()), sum(steps.values())
        print(
            f"  {n_atoms:4d} atoms, {walkers} walkers, {all_steps * 2e-6:.2f} ns: {both} crossings, {found['learn']} "
            f"while learning ({steps['learn'] * 2e-6:.2f} ns), {found['produce']} in production; "
            f"{both / hours:,.0f} a CPU-hour",
            flush=True,
        )
        rows.append({"atoms": n_atoms, "ns": all_steps * 2e-6, "crossings": both, "per_cpu_hour": both / hours})
    return rows


if __name__ == "__main__":
    known = {"speed": speed, "crossings": count}
    about = announce("sampling")
    for word in sys.argv[1:] or list(known):
        keep(f"sampling-{word}", about, known[word]())

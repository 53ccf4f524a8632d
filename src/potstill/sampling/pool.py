"""Step 1 as a whole: settings and a potential → a pool, and what was learnt of the metal on the way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill import crystals
from potstill.config import SampleConfig
from potstill.data import Dataset, Frame
from potstill.engine import cores, each, local_processes
from potstill.errors import BackendError, ConfigError
from potstill.protocols import Potential
from potstill.sampling.bias import GPA
from potstill.sampling.campaign import Campaign
from potstill.sampling.coverage import compare
from potstill.sampling.ensembles import ExtendedEnsemble
from potstill.sampling.ladder import climb
from potstill.sampling.metal import BARIC_PRESSURES, Metal, at_rest
from potstill.sampling.order import STRUCTURE_FACTOR
from potstill.sampling.thermodynamics import Series, analysis
from potstill.sampling.walkers import order_for
from potstill.store import digest, write_json

BOTH_ORDERS = 65  # atoms from which auto takes structure factor and Q6
RUNGS = 8  # temperatures of the ladder that an extended ensemble is compared with
LEARNING = 1_200_000  # steps for 32 atoms, of all walkers; in proportion to the number of atoms


@dataclass(frozen=True)
class Sampled:
    """A pool, its numbers for the summary, and the files beside it in the stage's folder."""

    pool: Dataset
    summary: dict[str, Any]
    files: list[str]


def sample(
    settings: SampleConfig,
    potential: Potential,
    *,
    seed: int,
    folder: Path,
    workers: int,
    tell: Callable[[str], None],
    guard: float = 0.0,
) -> Sampled:
    """Make a pool; what ``folder`` holds already is not run again.

    ``guard`` keeps a committee's extended ensemble within what it has learnt, see
    :class:`potstill.sampling.walkers.Engine`.

    Raises
    ------
    StrayedError
        If it does not stay there; the frames it left by are in the exception.
    ConvergenceError
        If nothing was gained: every run exploded or evaporated at once.
    ConfigError
        If a default does not follow from this potential and has to be set.
    """
    crystal = crystals.ground_state(settings.element) if settings.structure == "auto" else settings.structure
    metal = next(m for _, m in each(at_rest, [(crystal, settings.element, potential)], workers=1))
    cohesion = "" if metal.cohesive_energy is None else f" and {metal.cohesive_energy:.2f} eV/atom of cohesion"
    tell(f"sample: {crystal} {settings.element} at rest has {metal.volume:.3f} Å³/atom{cohesion}")
    common: dict[str, Any] = {"seed": seed, "workers": workers, "tell": tell}
    for stale in ("thermodynamics.json", "coverage.json"):  # of an earlier run with other settings
        (folder / stale).unlink(missing_ok=True)
    facts: dict[str, Any] = {
        "crystal": crystal,
        "volume_per_atom_angstrom3": round(metal.volume, 6),
        "cohesive_energy_ev_per_atom": metal.cohesive_energy,
    }
    if settings.ensemble == "npt-ladder":
        if guard:
            raise ConfigError("Only an extended ensemble is kept within what a model has learnt, not npt-ladder.")
        pool, summary = climb(settings, metal, potential, folder=folder, **common)
        return Sampled(pool, {**facts, **summary}, [])
    pool, summary, campaigns = _extended(settings, metal, potential, folder=folder, guard=guard, **common)
    files = ["thermodynamics.json"]
    write_json(folder / "thermodynamics.json", {"campaigns": campaigns})
    if settings.baseline:
        steps = summary["md_steps"]
        tell(f"sample: npt-ladder as the baseline, {steps:,} MD steps as well")
        other, told = climb(
            _as_long(settings, summary["campaigns"][0], steps, len(pool)), metal, potential, folder=folder, **common
        )
        sizes = sorted({f.n_atoms for f in pool} | {f.n_atoms for f in other})
        orders = {
            n: order_for(STRUCTURE_FACTOR, crystals.supercell(crystal, settings.element, metal.volume, n))
            for n in sizes
        }
        coverage = compare({settings.ensemble: pool, "npt-ladder": other}, orders, potential, told["md_steps"])
        write_json(folder / "coverage.json", coverage)
        files.append("coverage.json")
        summary["baseline_md_steps"] = told["md_steps"]
    return Sampled(pool, {**facts, **summary}, files)


def _as_long(settings: SampleConfig, ensemble: dict[str, Any], steps: int, frames: int) -> SampleConfig:
    """Return a ladder over the same temperatures and pressures, of about as many MD steps and frames."""
    low, high = ensemble["temperature"]
    temperatures = tuple(float(t) for t in np.round(np.geomspace(low, high, RUNGS), 1))
    pressures = tuple(ensemble["pressure"])
    n_each = len(temperatures) * len(pressures) * len(settings.atoms)
    crystal, melt = settings.equilibration, settings.equilibration + settings.melting
    production = max(500, round((steps - n_each * (crystal + melt)) / (2 * n_each)))
    return settings.model_copy(
        update={
            "ensemble": "npt-ladder",
            "baseline": False,
            "temperature": temperatures,
            "pressure": pressures,
            "start": ("crystal", "melt"),
            "steps": production,
            "stride": max(1, production * 2 * n_each // frames),
        }
    )


def resolve_ensemble(settings: SampleConfig, metal: Metal, order: str, n_atoms: int, walkers: int) -> ExtendedEnsemble:
    """Decide every number of an extended ensemble that the settings leave open."""
    low, high = settings.temperature or metal.temperature_range()
    baric = settings.ensemble == "multibaric-multithermal"
    pressure = settings.pressure or (metal.pressures(BARIC_PRESSURES) if baric else (0.0,))
    learning = settings.learning_steps or round(LEARNING * max(1.0, n_atoms / 32))
    return ExtendedEnsemble(
        settings.ensemble,
        settings.method,
        order,
        (float(low), float(high)),
        pressure,
        (settings.walls[0] * metal.volume, settings.walls[1] * metal.volume),
        settings.cell == "flexible",
        walkers,
        -(-learning // walkers),
        settings.stride,
        settings.timestep,
        settings.prepare,
    )


def _extended(
    settings: SampleConfig,
    metal: Metal,
    potential: Potential,
    *,
    seed: int,
    folder: Path,
    workers: int,
    tell: Callable[[str], None],
    guard: float,
) -> tuple[Dataset, dict[str, Any], list[dict[str, Any]]]:
    """Run a campaign for each cell size and order parameter; return pool, summary, and the physics of each."""
    plan: list[tuple[str, int, int]] = []
    for atoms in settings.atoms:
        both = settings.order == "both" or (settings.order == "auto" and atoms >= BOTH_ORDERS)
        chosen = settings.order if settings.order in ("structure-factor", "q6") else "structure-factor"
        if both and settings.walkers > 1 and settings.ensemble.startswith("multiorder"):
            half = settings.walkers // 2
            plan += [("structure-factor", atoms, settings.walkers - half), ("q6", atoms, half)]
        else:
            plan.append((chosen, atoms, settings.walkers))
    total = sum(w for _, _, w in plan)
    frames: list[Frame] = []
    told: list[dict[str, Any]] = []
    physics: list[dict[str, Any]] = []
    edges = np.round(np.cumsum([0, *(w for _, _, w in plan)]) * settings.frames / total).astype(int)
    for number, (order, atoms, walkers) in enumerate(plan):
        start = crystals.supercell(metal.crystal, metal.element, metal.volume, atoms)
        share = max(1, int(edges[number + 1] - edges[number]))
        ensemble = resolve_ensemble(settings, metal, order, len(start), walkers)
        what = {"ensemble": vars(ensemble), "metal": vars(metal), "atoms": len(start), "seed": [seed, number]}
        home = folder / "ensembles" / digest({**what, "potential": potential.fingerprint})
        home.mkdir(parents=True, exist_ok=True)
        campaign = Campaign(ensemble, potential, start, _seed(seed, number), home, tell, guard)
        with _executor(campaign.engine.path, workers) as pool:
            try:
                got, series, summary = campaign.run(share, pool)
            except BrokenProcessPool:
                raise BackendError(
                    "A worker died while it sampled: a crash in the potential's code, or not enough memory. The rounds "
                    "before are kept; the same command goes on from there."
                ) from None
        frames.extend(got)
        told.append(summary)
        physics.append(_physics(campaign, series, summary, metal))
    pool_ = Dataset(frames)
    summary = {
        "n_frames": len(pool_),
        "n_trajectories": total,
        "atoms": sorted({f.n_atoms for f in pool_}),
        "md_steps": sum(t["md_steps"] for t in told),
        "crossings": sum(t["crossings_production"] for t in told),
        "stopped_early": {f"{t['order']}-{t['n_atoms']}": " ".join(t["warnings"]) for t in told if t["warnings"]},
        "campaigns": told,
    }
    return pool_, summary, physics


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, 4, number]).generate_state(1)[0])


def _executor(path: str, workers: int) -> AbstractContextManager[Executor]:
    """Return threads for the compiled path, which lets go of Python's lock, and processes for foreign code."""
    if path == "compiled":
        return ThreadPoolExecutor(workers or cores())
    return local_processes(workers)


def _physics(campaign: Campaign, series: Series, summary: dict[str, Any], metal: Metal) -> dict[str, Any]:
    e = campaign.ensemble
    temperatures = np.linspace(*e.temperature, 13)
    return {
        **analysis(series, temperatures, np.array(e.pressure)),
        "ensemble": e.name,
        "method": e.method,
        "order": e.order,
        "element": metal.element,
        "n_atoms": campaign.n_atoms,
        "walkers": e.walkers,
        "learning_steps": summary["learning_steps"],
        "production_steps": summary["production_steps"],
        "stride": summary["stride"],
        "stride_ps": summary["stride_ps"],
        "temperature": list(e.temperature),
        "pressure": list(e.pressure),
        "T0": e.T0,
        "P0": e.P0,
        "p0_ev_per_angstrom3": e.P0 * GPA,
        "kinetic_temperature": summary["kinetic_temperature"],
        "crossings_learning": summary["crossings_learning"],
        "melting_estimate": None if metal.cohesive_energy is None else metal.melting_estimate,
        "warnings": summary["warnings"],
    }

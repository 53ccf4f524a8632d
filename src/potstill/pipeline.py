"""The main path: a configuration and a directory in, a proven potential and a page out. Read this file first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from potstill import crystals
from potstill.backends import resolve
from potstill.checks import Outside, Polymorphs, named, validate
from potstill.config import Config, to_toml
from potstill.data import Dataset, write_atomic
from potstill.distilling import distil
from potstill.labelling import labeller
from potstill.model import Committee
from potstill.reporting import report
from potstill.sampling import sample
from potstill.store import Outcome, RunDir, Stage, read_json
from potstill.transferring import transfer_stage


def stages(config: Config, out: Path, tell: Callable[[str], None]) -> list[Stage]:
    """Describe a run as its stages; nothing is computed yet, but potentials must exist."""
    element, workers, dump = config.sample.element, config.engine.workers, config.dump()
    sampler = resolve(config.sample.potential, [element])
    reference = resolve(config.reference, [element], config)
    ask = labeller(config, reference, out, tell=tell)
    distilled = out / "2-distil"
    checks = named(config.validate_.checks, reference)
    for name in config.validate_.polymorphs:
        crystals.prototype(name, element, 1.0)  # a wrong name is told before any work

    def do_sample(folder: Path) -> Outcome:
        made = sample(config.sample, sampler, seed=config.seed, folder=folder, workers=workers, tell=tell)
        made.pool.save(folder / "pool.extxyz")
        return Outcome(made.summary, ["pool.extxyz", *made.files])

    def do_distil(folder: Path) -> Outcome:
        result = distil(Dataset.load(out / "1-sample" / "pool.extxyz"), ask, config, folder=folder, tell=tell)
        return Outcome(result.summary(), result.save(folder))

    def do_validate(folder: Path) -> Outcome:
        held = distilled / "holdout.extxyz"  # absent where the pool is a single trajectory
        holdout = Dataset.load(held) if held.exists() else Dataset()
        metal = read_json(out / "1-sample" / "stage.json")["summary"]
        v, volume = config.validate_, metal["volume_per_atom_angstrom3"]
        check = Polymorphs(element, v.polymorphs, volume, v.force_tolerance, v.relax_steps)
        outside = Outside(element, ()) if v.defects else None
        judge = partial(
            validate, reference=reference, check=check, outside=outside, checks=checks, lattice=metal["crystal"],
            workers=workers, tell=tell, units=folder / "units",
        )  # fmt: skip
        pool, learnt = (Dataset.load(f) for f in (out / "1-sample" / "pool.extxyz", distilled / "distilled.extxyz"))
        summary, files = judge(
            Committee.load(distilled / "model"), folder=folder, holdout=holdout, pool=pool, learnt=learnt
        )
        if (alone := distilled / "model-pool-only").exists():  # the other claim: without what stood beside the pool
            tell("validate: the same for the potential that learnt from the pool alone")
            second, more = judge(Committee.load(alone), folder=folder / "pool-only", holdout=holdout, pool=Dataset())
            summary["pool_only"] = {k: second[k] for k in ("holdout", "polymorphs", "outside", "card")}
            files += [f"pool-only/{name}" for name in more]
        return Outcome(summary, files)

    def do_report(_folder: Path) -> Outcome:
        return Outcome(report(out), ["../report.html", "../summary.json"])

    crystal = {"ground_state": crystals.ground_state(element), "fingerprint": sampler.fingerprint}
    learn = {k: dump[k] for k in ("seed", "model", "train", "distil")}  # [label] says how labels come, not which
    if config.distil.beside:
        learn["tests"] = dump["validate"]["polymorphs"]  # kept out of the data
    onward = [transfer_stage(config, learn, out, tell)] if config.transfer.to else []
    return [
        Stage(
            "sample",
            "1-sample",
            {"seed": config.seed, "sample": dump["sample"], "potential": crystal},
            do_sample,
        ),
        Stage("distil", "2-distil", {**learn, "reference": reference.fingerprint}, do_distil, ("sample",)),
        Stage(
            "validate",
            "3-validate",
            {"validate": dump["validate"], "reference": reference.fingerprint},
            do_validate,
            ("sample", "distil"),
        ),
        *onward,
        Stage(
            "report",
            "6-report",
            {"title": config.title},
            do_report,
            ("sample", "distil", "validate", *(s.name for s in onward)),
        ),
    ]


def run(config: Config, out: str | Path, tell: Callable[[str], None]) -> bool:
    """Do everything that is not done yet; return whether anything was.

    Raises
    ------
    PotstillError
        Of the class that fits; what was finished stays, and the same call goes on from there.
    """
    out = Path(out)
    directory = RunDir(out)
    tell = directory.logged(tell)
    plan = stages(config, out, tell)
    with directory.locked():
        write_atomic(out / "config.toml", to_toml(config).encode())
        return directory.execute(plan, tell)

"""A potential for a metal that has none: from the foundational set outward, by runs that stop where knowledge ends.

Some frames are labelled and learnt; the model then drives the metal's own extended ensemble, and each walker stops at
the first frame with an atom unlike any learnt one. Those frames are labelled and learnt in turn, until a whole run
stays inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.checks import reliability
from potstill.checks.errors import parity, summarise
from potstill.checks.motion import melting_point
from potstill.config import Config
from potstill.data import Dataset, Failure
from potstill.errors import ConfigError, ConvergenceError
from potstill.labelling import Labelled
from potstill.model import Committee
from potstill.sampling import EXTENDED, StrayedError, sample
from potstill.store import Outcome, digest, read_json, write_json
from potstill.training import descriptor_for, full_steps, train
from potstill.transferring.coverage import closing, coverage
from potstill.transferring.source import Source
from potstill.transferring.target import Work, execute, parse_target, row

if TYPE_CHECKING:
    from potstill.model.fit import Descriptions

STRAY = 2.0  # times the largest distance of a learnt atom from its like: a run stops there
FIRST = 0.6  # of the budget: frames that the source gives
RUN_LEARNS = 200_000  # steps of all walkers of a model's run, in which the bias is learnt


class Grow(Work):
    """The stages of a metal that grows; what differs from a transfer is how it learns."""

    def __init__(self, *args: Any, budget: int) -> None:
        super().__init__(*args)
        self.budget = budget
        self._cache: Descriptions | None = None

    @property
    def decides(self) -> dict[str, Any]:
        """The budget, and how the model's own runs go."""
        return {**super().decides, "budget": self.budget, "sample": self.settings.dump()["sample"], "stray": STRAY}

    def learn(self, folder: Path) -> Outcome:
        """Label, train, run, and label what the run left the known by, until it does not."""
        settings, rest = self.prepared()
        pool, judge = self.frames("pool"), self.frames("judge")
        budget = self.budget
        held = self.ask(list(judge)) if len(judge) else Labelled(Dataset(), (), 0, 0)
        got = self.ask(list(pool))
        known, failures, asked = got.data, list(got.failures), len(pool)
        trail = digest([settings.seed, settings.dump()["model"], settings.dump()["train"], known.keys, budget])
        told: list[dict[str, Any]] = []
        inside, more = False, Dataset()
        kept_out: dict[str, int] = {}
        if n_more := min(settings.transfer.top_up, budget - asked):
            home = folder / "generations" / f"start-{trail}"
            model = self._trained(known, held.data, settings, home, in_full=False)
            more, kept_out = self.topped_up(n_more, model, known, Dataset(), rest, folder)
        if len(more):
            got = self.ask(list(more))
            asked, known, failures = asked + len(more), known | got.data, [*failures, *got.failures]
        for generation in count():
            trail = digest([trail, generation, known.keys])
            home = folder / "generations" / f"{generation:02d}-{trail}"
            last = asked >= budget
            model = self._trained(known, held.data, settings, home, in_full=False)
            strays, found = self._run(model, rest, settings, home)
            told.append({"generation": generation, "n_labels": len(known), **found})
            inside = not len(strays)
            if inside or last:
                break
            fresh = closing(
                model, known, strays, min(budget - asked, self.most), np.random.default_rng([11, generation])
            )
            got = self.ask(list(fresh))
            asked += len(fresh)
            known = known | got.data
            failures += got.failures
            if not len(got.data):
                raise ConvergenceError(
                    f"None of the {len(fresh)} frames that the model's run left the known by could be labelled "
                    f"({got.failures[0].message if got.failures else 'they were known'}); the labels so far are kept."
                )
        model = self._trained(known, held.data, settings, folder / "generations" / f"final-{trail}", in_full=True)
        covered = coverage(model, self.frames("own"), self.crystals(rest))
        self.say(covered)
        why = "a whole run of the model stayed within what is known" if inside else "the budget is spent"
        self.tell(f"grow: stopped, because {why}")
        errors = summarise(parity(model, held.data)).as_dict() if len(held.data) else None
        final = {
            "n_labels": len(known), "steps": full_steps(settings.train, len(known)), "errors": errors, "quick": None,
            "calibration": model.calibration, "reliability": reliability(model, held.data),
        }  # fmt: skip
        curve = {"stopped": why, "rounds": [final], "generations": told}
        incomplete = self.partial(len(known), [f.message for f in failures])
        failures += held.failures
        files = self._saved(folder, model, known, held.data, curve, failures)
        summary = {
            "n_labels": len(known), "n_beside": 0, "n_holdout": len(held.data), "n_failures": len(failures),
            "n_outliers": 0, "rounds": len(told), "stopped": why, "errors": errors, "bands": None,
            "calibration": model.calibration, "coverage": covered, "top_up": len(more), "partial": incomplete,
            "generations": told, "inside": inside, "kept_out": kept_out, "coverage_before": None,
        }  # fmt: skip
        return Outcome(summary, files)

    @property
    def most(self) -> int:
        """Labels that a generation may ask for."""
        return max(4, self.budget // 12)

    def _trained(self, known: Dataset, held: Dataset, settings: Config, home: Path, *, in_full: bool) -> Committee:
        if (home / "model" / "model.json").exists():
            return Committee.load(home / "model")
        t = settings.train
        steps = full_steps(t, len(known)) if in_full else max(settings.distil.round_steps, t.steps // 2)
        descriptor = descriptor_for(self.target.elements, settings.model)
        if self._cache is None:
            from potstill.model.fit import Descriptions

            self._cache = Descriptions(descriptor)
        model = train(
            known, settings.model, t.model_copy(update={"steps": steps}), seed=settings.seed, calibrate_on=held,
            descriptor=descriptor, cache=self._cache,
        )  # fmt: skip
        model.save(home / "model")
        return model

    def _run(
        self, model: Committee, rest: dict[str, Any], settings: Config, home: Path
    ) -> tuple[Dataset, dict[str, Any]]:
        """Run the model's own extended ensemble; return the frames it strayed by, and numbers."""
        record = home / "run.json"
        if record.exists():
            told = read_json(record)
            return (Dataset.load(home / "strays.extxyz") if told["strayed"] else Dataset()), told
        s = settings.sample.model_copy(
            update={
                "element": self.target.elements[0],
                "structure": rest["crystal"],
                "temperature": settings.sample.temperature or self._temperatures(),
                "learning_steps": settings.sample.learning_steps or RUN_LEARNS,
                "frames": settings.transfer.judge or 100,
                "baseline": False,
            }
        )
        strays, told = Dataset(), {"strayed": 0, "where": "", "frames": 0}
        try:
            made = sample(
                s, model, seed=settings.seed, folder=home, workers=self.workers, guard=STRAY, tell=lambda _line: None
            )
            told["frames"] = len(made.pool)
            self.tell(f"grow: a run of {len(made.pool)} frames stayed within what is known")
        except StrayedError as left:
            strays = Dataset(left.frames)
            told |= {"strayed": len(strays), "where": left.where}
            self.tell(f"grow: {len(strays)} walkers left what is known ({left.where}); their frames are next")
            strays.save(home / "strays.extxyz")
        write_json(record, told)
        return strays, told

    def _temperatures(self) -> tuple[float, float]:
        """Return the ends of the run, by the tabulated melting point: a model says nothing of a lone atom."""
        T = melting_point(self.target.elements[0])
        return EXTENDED[0] * T, EXTENDED[1] * T

    def _saved(
        self,
        folder: Path,
        model: Committee,
        known: Dataset,
        held: Dataset,
        curve: dict[str, Any],
        failures: list[Failure],
    ) -> list[str]:
        known.save(folder / "distilled.extxyz")
        names = ["distilled.extxyz"]
        if len(held):
            held.save(folder / "holdout.extxyz")
            names.append("holdout.extxyz")
        model.save(folder / "model")
        write_json(folder / "failures.json", [f.plain() for f in failures])
        write_json(folder / "outliers.json", [])
        write_json(folder / "learning_curve.json", curve)
        return [
            *names, "model/model.safetensors", "model/model.json", "failures.json", "outliers.json",
            "learning_curve.json",
        ]  # fmt: skip


def grow(
    settings: Config, source: Source, element: str, budget: int, out: str | Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Grow a potential of a metal, and judge it.

    Parameters
    ----------
    settings : Config
        ``label.reference`` labels; the other sections say how.
    source : Source
        Where it begins: the foundational set, or another.
    element : str
        Chemical symbol.
    budget : int
        Labels to learn from, those of the start among them.
    out : path
        A run directory.
    tell : callable
        Gets lines of progress.

    Returns
    -------
    dict
        See :func:`potstill.transferring.target.row`; ``generations`` and ``inside`` too.

    Raises
    ------
    ConfigError
        If it is not a single element.
    PotstillError
        Of the class that fits; what is finished is kept.
    """
    target = parse_target(element)
    if not target.is_metal:
        raise ConfigError(f"Expected a single element to grow, but found {element}.")
    first = max(1, min(len(source.data), round(FIRST * budget)))
    start = settings.model_copy(update={"transfer": settings.transfer.model_copy(update={"budget": first})})
    execute(start, target, source, Path(out), tell, partial(Grow, budget=budget))
    made = row(target, Path(out))
    learnt = read_json(Path(out) / "2-distil" / "stage.json")["summary"]
    return {**made, "generations": learnt["generations"], "inside": learnt["inside"], "stopped": learnt["stopped"]}

"""The loop: choose, label, train, judge; and what comes out of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.checks import reliability
from potstill.checks.errors import parity, summarise
from potstill.config import Config
from potstill.data import Dataset, Failure, Frame
from potstill.distilling.beside import Beside, rest_volume, tests_among
from potstill.distilling.stopping import band, of_frames, reason_to_stop
from potstill.errors import DataError
from potstill.labelling import Labelled
from potstill.model import Committee, FrameFeatures, Whitening, ahead
from potstill.protocols import Describer
from potstill.screen import near_duplicates, outliers
from potstill.selecting import checked, selector
from potstill.store import digest, read_json, write_json
from potstill.training import descriptor_for, full_steps, train

if TYPE_CHECKING:
    from potstill.model.fit import Descriptions

WHITENING_FRAMES = 1000  # frames that the metric of the features is measured on
MAX_FAILED_SHARE = 0.5
NOTHING_NEW = "every frame that is left repeats a labelled or a held-out one"
Row = dict[str, Any]


@dataclass(frozen=True)
class Distilled:
    """What the loop gives back.

    Attributes
    ----------
    data : Dataset
        The distilled set, labelled, in the order of choice.
    holdout : Dataset
        Labelled frames of other trajectories, never learnt from; empty where the pool has a single one.
    committee : Committee
        Trained in full on ``data``, calibrated on ``holdout``.
    curve : list of dict
        A row a round: labels, errors on the hold-out with their error bars, calibration, quick checks.
    stopped : str
        Why the loop ended.
    failures : list of dict
        Frames that the reference could not label.
    outliers : list of dict
        Labels that nothing else explains; see :func:`potstill.screen.outliers`.
    pool_only : Committee | None
        Trained in full on those of ``data`` that come from the pool, where there are others.
    about : dict
        Numbers of the pool and of what stood beside it.
    drawn : list of dict
        With ``distil.baseline``, what as many labels of random frames of the pool led to, after each round.
    """

    data: Dataset
    holdout: Dataset
    committee: Committee
    curve: list[Row]
    stopped: str
    failures: list[dict[str, Any]]
    outliers: list[dict[str, Any]] = field(default_factory=list)
    pool_only: Committee | None = None
    about: dict[str, Any] = field(default_factory=dict)
    drawn: list[Row] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return the numbers that a summary needs."""
        last = self.curve[-1]
        return {
            "n_labels": len(self.data),
            "n_beside": sum(f.origin.kind == "generated" for f in self.data),
            "n_holdout": len(self.holdout),
            "n_failures": len(self.failures),
            "n_drawn": self.drawn[-1]["n_labels"] if self.drawn else 0,
            "n_outliers": len(self.outliers),
            "rounds": len(self.curve),
            "stopped": self.stopped,
            "errors": last["errors"],
            "bands": last["bands"],
            "calibration": last["calibration"],
            **self.about,
        }

    def save(self, folder: Path) -> list[str]:
        """Write all of it; return the names of the files."""
        self.data.save(folder / "distilled.extxyz")
        names = [
            "distilled.extxyz",
            "model/model.safetensors",
            "model/model.json",
            "learning_curve.json",
            "failures.json",
            "outliers.json",
        ]
        if len(self.holdout):
            self.holdout.save(folder / "holdout.extxyz")
            names.append("holdout.extxyz")
        else:
            (folder / "holdout.extxyz").unlink(missing_ok=True)  # of an earlier run with other settings
        self.committee.save(folder / "model")
        other = folder / "model-pool-only"
        if self.pool_only is not None:
            self.pool_only.save(other)
            names += ["model-pool-only/model.safetensors", "model-pool-only/model.json"]
        elif other.exists():
            for file in other.iterdir():
                file.unlink()
            other.rmdir()
        write_json(folder / "failures.json", self.failures)
        write_json(folder / "outliers.json", self.outliers)
        rows = [{k: v for k, v in row.items() if k != "frames"} for row in self.curve]
        write_json(folder / "learning_curve.json", {"stopped": self.stopped, "rounds": rows, "random": self.drawn})
        return names


def round_sizes(initial: int, growth: float, budget: int) -> list[int]:
    """Return the sizes of the set after each round: geometric growth that ends exactly at the budget.

    A last step of less than a fifth of the set is not worth a training; the round before takes it.
    """
    sizes = [min(initial, budget)]
    while sizes[-1] < budget:
        following = min(budget, math.ceil(sizes[-1] * growth))
        sizes.append(budget if budget < 1.2 * following else following)
    return sizes


def set_apart(pool: Dataset, settings: Config, seed: int, tell: Callable[[str], None]) -> tuple[Dataset, Dataset]:
    """Split the pool by trajectory, and draw the hold-out from the part that is never learnt from."""
    n, fraction = settings.distil.holdout, settings.distil.holdout_fraction
    rng = np.random.default_rng([seed, 2])
    if n == 0:
        return pool, Dataset()
    if len(pool.trajectories) < 2:
        tell(
            "distil: the pool is a single trajectory of fewer than 20 frames or one name, so nothing is held out by "
            "trajectory and no error is measured; give `potstill evaluate` data of another origin"
        )
        return pool, Dataset()
    rest, held = pool.split(fraction, rng=rng)
    return rest, held.take(sorted(rng.permutation(len(held))[:n]))


def distil(
    pool: Dataset,
    labeller: Callable[[Sequence[Frame]], Labelled],
    settings: Config,
    *,
    folder: Path,
    holdout: Dataset | None = None,
    watch: Callable[[Row, Committee, Dataset], None] = lambda _row, _committee, _known: None,
    both: bool = True,
    start: Committee | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> Distilled:
    """Run the loop; finished rounds in ``folder`` are not run again.

    Parameters
    ----------
    pool : Dataset
        Candidates; their labels, if any, are not looked at.
    labeller : callable (frames) -> Labelled
        Is asked for the hold-out once, and for each round's choice; with ``distil.beside`` also for frames that are
        not of the pool.
    settings : Config
        ``distil``, ``train``, ``model`` and ``validate`` sections, and the seed.
    folder : path
        Rounds are kept here.
    holdout : Dataset | None
        Labelled frames to judge by; drawn from the pool where they are not given.
    watch : callable (row, committee, known)
        Sees every round.
    both : bool
        Train on the pool's frames alone too, where there are others, so that both claims can be judged.
    start : Committee | None
        What every training begins with; see :func:`potstill.training.train`.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    DataError
        If the pool is empty, or more than half of the labels fail.
    """
    if not len(pool):
        raise DataError("Distilling needs a pool, but it is empty.")
    ahead.start()
    pool = pool.without_labels()
    if holdout is None:
        rest, held = set_apart(pool, settings, settings.seed, tell)
        judge = labeller(list(held)) if len(held) else Labelled(Dataset(), (), 0, 0)
    else:
        rest, judge = pool.without(holdout), Labelled(holdout.only_labelled(), (), 0, 0)
    descriptor = descriptor_for(pool.elements, settings.model)
    step = max(1, len(rest) // WHITENING_FRAMES)
    tell(f"distil: measuring the descriptors of {len(rest[::step])} of {len(rest)} frames")
    whitening = Whitening.fit(descriptor, rest[::step])
    loop = _Loop(settings, rest, judge.data, FrameFeatures(descriptor, whitening), labeller, folder, start, tell)
    loop.failures.extend(judge.failures)
    return loop.run(watch, both)


def _content(data: Dataset) -> str:
    """Return a hash of frames and all that their labels say."""
    content = hashlib.sha256()
    for f in data:
        content.update(f.key.encode())
        if f.labels is not None:
            content.update(np.float64(f.labels.energy).tobytes() + np.asarray(f.labels.forces, "<f8").tobytes())
            for optional in (f.labels.stress, f.labels.energies):
                content.update(b"-" if optional is None else np.asarray(optional, "<f8").tobytes())
    return content.hexdigest()[:16]


class _Loop:
    """What stays the same from round to round, and what is known so far."""

    def __init__(
        self,
        settings: Config,
        pool: Dataset,
        holdout: Dataset,
        features: FrameFeatures,
        labeller: Callable[[Sequence[Frame]], Labelled],
        folder: Path,
        start: Committee | None,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.pool, self.holdout, self.features = settings, pool, holdout, features
        self.labeller, self.folder, self.start, self.tell = labeller, folder, start, tell
        self.selector = selector(settings.distil.selector)
        self.asked, self.known = Dataset(), Dataset()
        self.failures: list[Failure] = []
        self.beside: Beside | None = None
        self.quick: Row | None = None  # what the last round's quick checks found
        self.volume: float | None = None  # of an atom at rest, as the first round's model says
        self._cache: Descriptions | None = None
        self.n_repeats = 0
        dump = settings.dump()
        free = ("budget", "sizes", "target_force", "target_energy", "stop_flat", "drop_outliers", "baseline")
        self.trail = digest(
            {
                "pool": digest(pool.keys),
                "holdout": _content(holdout),
                "seed": settings.seed,
                "model": dump["model"],
                "train": dump["train"],
                "distil": {k: v for k, v in dump["distil"].items() if k not in free},
                "tests": dump["validate"]["polymorphs"] if settings.distil.beside else None,
                **({"start": start.fingerprint} if start else {}),
            }
        )

    def run(self, watch: Callable[[Row, Committee, Dataset], None], both: bool) -> Distilled:
        """Go round until the budget is spent or there is a reason to stop."""
        d = self.settings.distil
        budget = min(d.budget, len(self.pool))
        if budget < d.budget:
            self.tell(f"distil: the pool leaves {len(self.pool)} frames to learn from, so the budget is {budget}")
        sizes = [s for s in d.sizes if s < budget] + [budget] if d.sizes else round_sizes(d.initial, d.growth, budget)
        committee, curve, stopped = None, [], "the budget is spent"
        for number, size in enumerate(sizes):
            made = self.round(number, size, size == sizes[-1], committee)
            if made is not None:
                committee, row = made
                curve.append(row)
                watch(row, committee, self.known)
            doubtful = [name for name, found in (curve[-1]["quick"] or {}).items() if not found["passed"]]
            reason = NOTHING_NEW if made is None else reason_to_stop([r["frames"] for r in curve], d, doubtful)
            if reason and (size != sizes[-1] or made is None):
                stopped = reason
                if curve[-1]["steps"] < self._full(self.known):
                    committee, curve[-1] = self.learn(number, self.known, self._full(self.known))
                break
        if committee is None:
            raise DataError("Distilling made no round: the budget is empty.")
        self.tell(f"distil: stopped, because {stopped}")
        strange = [*outliers(committee, self.known), *outliers(committee, self.holdout, held_out=True)]
        for found in strange:
            self.tell(f"distil: a label that nothing explains: {found['frame']}: {found['reason']}")
        if strange and d.drop_outliers:
            gone = {found["frame"] for found in strange}
            self.known, self.holdout = (
                Dataset(f for f in data if f.key not in gone) for data in (self.known, self.holdout)
            )
            self.tell(f"distil: {len(gone)} labels are left out, and training is done again")
            committee, curve[-1] = self.learn(len(sizes), self.known, self._full(self.known))
        alone = self._pool_only() if both else None
        judged = summarise(parity(alone, self.holdout)).as_dict() if alone and len(self.holdout) else None
        return Distilled(
            self.known,
            self.holdout,
            committee,
            curve,
            stopped,
            [f.plain() for f in self.failures],
            strange,
            alone,
            {
                "n_near_duplicates": self.n_repeats,
                "kept_out": curve[-1]["kept_out"],
                "tests_in_pool": self._tests_in_pool(),
                "errors_pool_only": judged,
            },
            self._drawn(curve) if d.baseline and len(self.holdout) else [],
        )

    def round(self, number: int, size: int, last: bool, committee: Committee | None) -> tuple[Committee, Row] | None:
        """Choose, label, train, judge, or read back what an earlier run did; None where nothing is left to choose."""
        self.trail = digest([self.trail, number, size])
        chosen = self._choose(number, size, committee)
        if not len(chosen):
            if committee is None:
                raise DataError(
                    f"All {len(self.pool)} frames to learn from repeat the {len(self.holdout)} held-out ones within "
                    "rounding, so no model could be judged. Give other frames, or another hold-out."
                )
            return None
        self.asked = self.asked | chosen
        got = self.labeller(list(chosen))
        self.failures.extend(got.failures)
        if len(got.failures) > MAX_FAILED_SHARE * len(chosen):
            raise DataError(
                f"{len(got.failures)} of {len(chosen)} labels failed ({got.failures[0].reason}: "
                f"{got.failures[0].message}). The reference does not suit this pool; all labels made so far are kept."
            )
        self.known = self.known | got.data
        steps = self._full(self.known) if last else self.settings.distil.round_steps
        committee, row = self.learn(number, self.known, steps)
        self.trail = digest([self.trail, _content(self.known), steps])  # what follows depends on what was learnt
        return committee, row

    def learn(self, number: int, known: Dataset, steps: int) -> tuple[Committee, Row]:
        """Train on what is known and judge; or read back."""
        folder = self._folder(number) / digest([_content(known), steps])
        record = folder / "round.json"
        if record.exists():
            earlier = read_json(record)
            self.volume, self.quick = earlier["rest_volume"], earlier["quick"]
            return Committee.load(folder / "model"), earlier
        committee = self._train(known, steps)
        row: Row = {
            "round": number,
            "n_labels": len(known),
            "n_beside": sum(f.origin.kind == "generated" for f in known),
            "n_asked": len(self.asked),
            "steps": steps,
            "calibration": committee.calibration,
            "energy_calibration": committee.energy_calibration,
            "errors": None,
            "bands": None,
            "frames": {},
            "reliability": None,
            "quick": None,
            "kept_out": {},
            "rest_volume": None,
        }
        told = ""
        if len(self.holdout):
            points = parity(committee, self.holdout)
            errors, frames = summarise(points).as_dict(), of_frames(points)
            row |= {"errors": errors, "frames": frames, "bands": {k: band(v) for k, v in frames.items()}}
            row["reliability"] = reliability(committee, self.holdout)
            force = [1e3 * x for x in row["bands"]["force"]]
            told = (
                f", hold-out {errors['energy_rmse_mev_per_atom']:.2f} meV/atom, "
                f"{1e3 * errors['force_rmse_ev_per_angstrom']:.1f} meV/Å ({force[0]:.1f} to {force[1]:.1f})"
            )
        if self._wants_beside():
            beside = self._beside(committee)
            self.quick = beside.check(committee, self.features, known)
            row |= {"quick": self.quick, "kept_out": beside.kept_out, "rest_volume": self.volume}
            failed = [name for name, found in self.quick.items() if not found["passed"]]
            told += f"; quick checks not passed: {', '.join(failed) or 'none'}"
        committee.save(folder / "model")
        write_json(record, row)
        self.tell(f"distil: round {number}: {len(known)} labels{told}")
        return committee, row

    def _folder(self, number: int) -> Path:
        return self.folder / "rounds" / f"{number:02d}-{self.trail}"

    def _wants_beside(self) -> bool:
        return self.settings.distil.beside > 0.0

    def _beside(self, committee: Committee) -> Beside:
        """Return what stands beside the pool, at the volume that the first round's model gives the ground state."""
        if self.beside is None:
            if self.volume is None:
                self.volume = rest_volume(committee, self.pool[:: max(1, len(self.pool) // WHITENING_FRAMES)])
            self.tell(f"distil: crystals, slabs and defects beside the pool are scaled to {self.volume:.2f} Å³/atom")
            names = self.settings.validate_.polymorphs
            self.beside = Beside(self.pool.elements, self.volume, names, self.settings.seed, self.folder / "rounds")
        return self.beside

    def _choose(self, number: int, size: int, committee: Committee | None) -> Dataset:
        """Return the frames to label; the choice is stored before the first label is asked for."""
        file = self._folder(number) / "chosen.extxyz"
        if file.exists():
            self.n_repeats = read_json(file.with_name("chosen.json"))["n_repeats"]
            return Dataset.load(file)
        n = size - len(self.asked)
        extra = Dataset()
        if committee is not None and self._wants_beside():
            beside = self._beside(committee)
            checks = self.quick or beside.check(committee, self.features, self.known)  # of a start that was given
            failed = [name for name, found in checks.items() if not found["passed"]]
            had = sum(f.origin.kind == "generated" for f in self.asked)
            share = min(n, max(0, round(self.settings.distil.beside * size) - had))
            extra = beside.choose(share, checks, committee, self.features, self.known, self.asked)
            if len(extra):
                self.tell(f"distil: round {number}: {len(extra)} generated frames for {', '.join(failed)}")
        n -= len(extra)
        left = self._candidates(number, n)
        n = min(n, len(left))
        describer: Describer = self.features if committee is None else committee.sharing(self.features)
        self.tell(f"distil: round {number}: choosing {n} of {len(left)} frames by {self.selector.name}")
        rng = np.random.default_rng([self.settings.seed, 3, number])
        chosen, scores = extra, []
        if n:
            selection = checked(self.selector.select(left, n, known=self.known, committee=describer, rng=rng), left, n)
            chosen = left.take(selection.indices) | extra
            scores = [float(s) for s in np.nan_to_num(selection.scores, posinf=0.0)]
        if not len(chosen):
            return chosen
        about = {"keys": chosen.keys, "scores": scores, "n_repeats": self.n_repeats}
        write_json(file.with_name("chosen.json"), about)
        chosen.save(file)
        return chosen

    def _candidates(self, number: int, n: int) -> Dataset:
        """Return those frames of the pool that this round looks at: none that repeats a known or held-out one."""
        left = self.pool.without(self.asked)
        cap = max(self.settings.distil.candidates, n)
        if len(left) > cap:
            rng = np.random.default_rng([self.settings.seed, 6, number])
            left = left.take(np.sort(rng.permutation(len(left))[:cap]))
        repeats = near_duplicates(left, self.features, known=self.asked | self.holdout)
        self.n_repeats = len(repeats)
        if len(repeats):
            fewer = f"; only {len(left) - len(repeats)} are left" if len(left) - len(repeats) < n else ""
            self.tell(f"distil: {len(repeats)} frames repeat others within rounding and are left out{fewer}")
        return left.without(repeats)

    def _tests_in_pool(self) -> dict[str, int]:
        """Return how many of the pool's labelled frames are a structure of the verdict, by its name."""
        mine = [f for f in self.known if f.origin.kind != "generated"]
        found = tests_among(mine, self.settings.validate_.polymorphs)
        if found:
            which = ", ".join(f"{name} {n}" for name, n in found.items())
            self.tell(
                f"distil: labelled frames of the pool are structures of the verdict ({which}), so these are learnt"
            )
        return found

    def _pool_only(self) -> Committee | None:
        """Train on those frames only that are of the pool, so that both claims can be judged."""
        mine = Dataset(f for f in self.known if f.origin.kind != "generated")
        if len(mine) == len(self.known) or not len(mine):
            return None
        self.tell(f"distil: training on the {len(mine)} frames of the pool alone, to compare")
        folder = self.folder / "rounds" / f"pool-only-{digest([self.trail, _content(mine), _content(self.holdout)])}"
        if not (folder / "model" / "model.json").exists():
            self._train(mine, self._full(mine)).save(folder / "model")
        return Committee.load(folder / "model")

    def _drawn(self, curve: Sequence[Row]) -> list[Row]:
        """Learn as many random frames of the pool as each round had labels, as long, so that choosing can be judged.

        Those that repeat each other or a held-out one are no more drawn than they are chosen.
        """
        rng = np.random.default_rng([self.settings.seed, 8])
        room = 3 * max(row["n_labels"] for row in curve)  # for those that are left out
        drawn = self.pool.take(rng.permutation(len(self.pool))[:room])
        drawn, rows = drawn.without(near_duplicates(drawn, self.features, known=self.holdout)), []
        for row in curve:
            got = self.labeller(list(drawn[: row["n_labels"]]))
            if not len(got.data):
                return []
            what = [_content(got.data), row["steps"], self.trail, _content(self.holdout)]
            folder = self.folder / "rounds" / f"random-{digest(what)}"
            if not (record := folder / "round.json").exists():
                self.tell(f"distil: training on {len(got.data)} random frames of the pool, to compare")
                points = parity(self._train(got.data, row["steps"]), self.holdout)
                bands = {k: band(v) for k, v in of_frames(points).items()}
                errors = summarise(points).as_dict()
                write_json(record, {"n_labels": len(got.data), "errors": errors, "bands": bands})
            rows.append(read_json(record))
        return rows

    def _full(self, known: Dataset) -> int:
        return full_steps(self.settings.train, len(known))

    def _train(self, known: Dataset, steps: int) -> Committee:
        from potstill.model.fit import Descriptions

        if self._cache is None:
            self._cache = Descriptions(self.features.descriptor)
        return train(
            known,
            self.settings.model,
            self.settings.train.model_copy(update={"steps": steps}),
            seed=self.settings.seed,
            calibrate_on=self.holdout,
            cache=self._cache,
            descriptor=self.features.descriptor,
            start=self.start,
            tell=self.tell,
        )

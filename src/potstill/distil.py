"""Step 2: pool → distilled set. Rounds of train, ask where the committee is unsure, label only those."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.checks import errors_on
from potstill.config import Config
from potstill.data import Dataset, Frame
from potstill.errors import DataError
from potstill.label import Labelled
from potstill.model import Committee, FrameFeatures, Whitening
from potstill.protocols import Describer
from potstill.select import checked, selector
from potstill.store import digest, read_json, write_json
from potstill.train import descriptor_for, train

if TYPE_CHECKING:
    from potstill.model.fit import Descriptions

WHITENING_FRAMES = 1000  # frames that the metric of the features is measured on
MAX_FAILED_SHARE = 0.5


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
        A row a round: labels, errors on the hold-out, spread.
    stopped : str
        Why the loop ended.
    failures : list of dict
        Frames that the reference could not label.
    """

    data: Dataset
    holdout: Dataset
    committee: Committee
    curve: list[dict[str, Any]]
    stopped: str
    failures: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """Return the numbers that a summary needs."""
        last = self.curve[-1]
        return {
            "n_labels": len(self.data),
            "n_holdout": len(self.holdout),
            "n_failures": len(self.failures),
            "rounds": len(self.curve),
            "stopped": self.stopped,
            "errors": last["errors"],
            "calibration": last["calibration"],
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
        ]
        if len(self.holdout):
            self.holdout.save(folder / "holdout.extxyz")
            names.append("holdout.extxyz")
        else:
            (folder / "holdout.extxyz").unlink(missing_ok=True)  # of an earlier run with other settings
        self.committee.save(folder / "model")
        write_json(folder / "failures.json", self.failures)
        write_json(folder / "learning_curve.json", {"stopped": self.stopped, "rounds": self.curve})
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
    tell: Callable[[str], None] = lambda _line: None,
) -> Distilled:
    """Run the loop; finished rounds in ``folder`` are not run again.

    Parameters
    ----------
    pool : Dataset
        Candidates; their labels, if any, are not looked at.
    labeller : callable (frames) -> Labelled
        Is asked for the hold-out once, and for each round's choice.
    settings : Config
        ``distil``, ``train`` and ``model`` sections, and the seed.
    folder : path
        Rounds are kept here.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    DataError
        If the pool is empty, or more than half of the labels fail.
    """
    if not len(pool):
        raise DataError("Distilling needs a pool, but it is empty.")
    pool = pool.without_labels()
    rest, held = set_apart(pool, settings, settings.seed, tell)
    budget = min(settings.distil.budget, len(rest))
    if budget < settings.distil.budget:
        tell(f"distil: the pool leaves {len(rest)} frames to learn from, so the budget is {budget}")
    holdout = labeller(list(held)) if len(held) else Labelled(Dataset(), (), 0, 0)
    descriptor = descriptor_for(pool.elements, settings.model)
    step = max(1, len(rest) // WHITENING_FRAMES)
    tell(f"distil: measuring the descriptors of {len(rest[::step])} of {len(rest)} frames")
    whitening = Whitening.fit(descriptor, rest[::step])
    loop = _Loop(settings, rest, holdout.data, whitening, FrameFeatures(descriptor, whitening), labeller, folder, tell)
    failures = [*holdout.failures]
    sizes = round_sizes(settings.distil.initial, settings.distil.growth, budget)
    known, committee, curve, stopped = Dataset(), None, [], "the budget is spent"
    for number, size in enumerate(sizes):
        known, committee, row, failed = loop.round(number, size, size == sizes[-1], known, committee)
        failures.extend(failed)
        curve.append(row)
        error = row["errors"]["force_rmse_ev_per_angstrom"] if row["errors"] else math.inf
        if error < settings.distil.target_force:
            stopped = f"the hold-out's force error, {error:.4f} eV/Å, is below the target"
            break
    if committee is None:
        raise DataError("Distilling made no round: the budget is empty.")
    return Distilled(
        known,
        holdout.data,
        committee,
        curve,
        stopped,
        [{"frame": f.frame, "reason": f.reason, "message": f.message, "attempts": f.attempts} for f in failures],
    )


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
    """What stays the same from round to round."""

    def __init__(
        self,
        settings: Config,
        pool: Dataset,
        holdout: Dataset,
        whitening: Whitening,
        features: FrameFeatures,
        labeller: Callable[[Sequence[Frame]], Labelled],
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self.settings, self.pool, self.holdout = settings, pool, holdout
        self.whitening, self.features = whitening, features
        self.labeller, self.folder, self.tell = labeller, folder, tell
        self.selector = selector(settings.distil.selector)
        self.asked = Dataset()
        self._cache: Descriptions | None = None
        dump = settings.dump()
        self.trail = digest(
            {
                "pool": digest(pool.keys),
                "holdout": _content(holdout),
                "seed": settings.seed,
                "model": dump["model"],
                "train": dump["train"],
                "distil": {k: v for k, v in dump["distil"].items() if k not in ("budget", "target_force")},
            }
        )

    def round(
        self, number: int, size: int, last: bool, known: Dataset, committee: Committee | None
    ) -> tuple[Dataset, Committee, dict[str, Any], list[Any]]:
        """Choose, label, train, judge; or read back what an earlier run did."""
        steps = self.settings.train.steps if last else self.settings.distil.round_steps
        self.trail = digest([self.trail, number, size, steps])
        folder = self.folder / "rounds" / f"{number:02d}-{self.trail}"
        chosen = self._choose(number, size - len(self.asked), known, committee, folder)
        self.asked = self.asked | chosen
        got = self.labeller(list(chosen))
        known = known | got.data
        if len(got.failures) > MAX_FAILED_SHARE * len(chosen):
            raise DataError(
                f"{len(got.failures)} of {len(chosen)} labels failed ({got.failures[0].reason}: "
                f"{got.failures[0].message}). The reference does not suit this pool; all labels made so far are kept."
            )
        learnt = _content(known)
        self.trail = digest([self.trail, learnt])  # what follows depends on what the labels say
        folder = folder / learnt
        record = folder / "round.json"
        if record.exists():
            return known, Committee.load(folder / "model"), read_json(record), list(got.failures)
        committee = self._train(known, steps)
        row: dict[str, Any] = {
            "round": number,
            "n_labels": len(known),
            "n_asked": len(self.asked),
            "steps": steps,
            "errors": errors_on(committee, self.holdout).as_dict() if len(self.holdout) else None,
            "calibration": committee.calibration,
        }
        committee.save(folder / "model")
        write_json(record, row)
        told = row["errors"]
        self.tell(
            f"distil: round {number}: {len(known)} labels"
            + (
                f", hold-out {told['energy_rmse_mev_per_atom']:.2f} meV/atom, "
                f"{1e3 * told['force_rmse_ev_per_angstrom']:.1f} meV/Å"
                if told
                else ""
            )
        )
        return known, committee, row, list(got.failures)

    def _choose(self, number: int, n: int, known: Dataset, committee: Committee | None, folder: Path) -> Dataset:
        """Return the frames to label; the choice is stored before the first label is asked for."""
        file = folder / "chosen.json"
        left = self.pool.without(self.asked)
        if file.exists():
            keys = set(read_json(file)["keys"])
            by_key = {f.key: f for f in left if f.key in keys}
            return Dataset(by_key[k] for k in read_json(file)["keys"] if k in by_key)
        rng = np.random.default_rng([self.settings.seed, 3, number])
        cap = max(self.settings.distil.candidates, n)
        if len(left) > cap:
            left = left.take(np.sort(rng.permutation(len(left))[:cap]))
        describer: Describer = self.features if committee is None else committee.sharing(self.features)
        self.tell(f"distil: round {number}: choosing {n} of {len(left)} frames by {self.selector.name}")
        selection = checked(self.selector.select(left, n, known=known, committee=describer, rng=rng), left, n)
        chosen = left.take(selection.indices)
        write_json(
            file,
            {"keys": chosen.keys, "scores": [float(s) for s in np.nan_to_num(selection.scores, posinf=0.0)]},
        )
        return chosen

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
            whitening=self.whitening,
            cache=self._cache,
            descriptor=self.features.descriptor,
            tell=self.tell,
        )

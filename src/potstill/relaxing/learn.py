"""What a model lacks for structures that it cannot be believed on: a few labels from their ways, learnt, relaxed again.

Half of the labels are of places where uncertain structures came to rest, those first that most of them share. The
others bring the most of what they pass through within what is known: each atom on their ways counts with what its
distance from learnt surroundings exceeds the trusted one by, and frames are taken one by one, each the one that lowers
the sum most (greedy, as for any submodular gain: Nemhauser, Wolsey & Fisher 1978, Math. Program. 14, 265).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from potstill.config import Config
from potstill.data import Array, Dataset, Frame
from potstill.errors import ConvergenceError
from potstill.model import Committee
from potstill.relaxing.judge import TRUSTED_WAY
from potstill.relaxing.work import Relaxed
from potstill.store import digest, write_json
from potstill.training import full_steps, train

if TYPE_CHECKING:
    from ase import Atoms

    from potstill.labelling import Labelled
    from potstill.model.fit import Descriptions

ROUNDS = 3  # that the budget is shared among
STOPS = 6  # frames of a way that are looked at
MOST_WAYS = 250  # that are looked at together
TEMPTING = 1e-3  # of the first sum: less is no gain


@dataclass(frozen=True)
class Learnt:
    """What came of it: the last result, the model and data behind it, and a row for each round."""

    result: Relaxed
    model: Committee
    data: Dataset
    rounds: list[dict[str, Any]]
    why: str


def learn(
    relax_with: Callable[[Committee], Relaxed],
    model: Committee,
    known: Dataset,
    held: Dataset,
    budget: int,
    ask: Callable[[Sequence[Frame]], Labelled],
    settings: Config,
    folder: Path,
    tell: Callable[[str], None] = lambda _line: None,
) -> Learnt:
    """Relax, label what uncertain structures lack, learn and relax again, until none is uncertain or the budget ends.

    Parameters
    ----------
    relax_with : callable (Committee) -> Relaxed
        Relaxes and judges all structures.
    model : Committee
        To begin with.
    known : Dataset
        Labelled; what it was trained on.
    held : Dataset
        Labelled; to calibrate on. May be empty.
    budget : int
        Labels to ask for at most.
    ask : callable
        Labels frames.
    settings : Config
        Whose ``[train]`` and seed say how.
    folder : path
        Keeps the models, so that a call that was stopped goes on.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    ConvergenceError
        If none of the frames that were asked for could be labelled.
    """
    from potstill.model.fit import Descriptions  # torch takes seconds to import

    cache = Descriptions(model.descriptor)
    rounds: list[dict[str, Any]] = []
    asked: set[str] = set()
    why = "the budget is spent"
    while True:
        result = relax_with(model)
        rounds.append({"n_labels": len(asked), "n_data": len(known), **counted(result)})
        tell(f"learn: {len(asked)} labels, {rounds[-1]['trusted']} of {len(result.rows)} trusted")
        left = budget - len(asked)
        if not rounds[-1]["uncertain"]:
            why = "no structure is uncertain"
        if not left or not rounds[-1]["uncertain"]:
            break
        size = min(left, max(1, -(-budget // ROUNDS)))
        chosen = telling(model, result, size, asked | set(known.keys))
        if not len(chosen):
            why = "no label would bring an uncertain structure nearer to what is known"
            break
        if len(chosen) < size and len(rounds) > 1 and rounds[-1]["trusted"] <= rounds[-2]["trusted"]:
            why = "the last labels made no further structure trusted, and few are left to ask for"
            break
        got = ask(list(chosen))
        asked |= set(chosen.keys)
        if not len(got.data):
            raise ConvergenceError(
                f"None of the {len(chosen)} frames from the ways of uncertain structures could be labelled "
                f"({got.failures[0].message if got.failures else 'they were known'}); the labels so far are kept."
            )
        known = known | got.data
        model = _trained(model, known, held, settings, folder, cache, tell)
    tell(f"learn: stopped, because {why}")
    return Learnt(result, model, known, rounds, why)


def counted(result: Relaxed) -> dict[str, int]:
    """Count what is trusted, and each verdict."""
    verdicts = [row.verdict for row in result.rows]
    return {
        "trusted": sum(row.trusted for row in result.rows),
        **{v: verdicts.count(v) for v in dict.fromkeys(["uncertain", *verdicts])},
    }


def telling(model: Committee, result: Relaxed, n: int, not_again: set[str]) -> Dataset:
    """Return up to n frames of uncertain structures: where they came to rest, and what they pass through.

    Parameters
    ----------
    not_again : set of str
        Keys of frames that are known, or were asked for.
    """
    ends = _ends(result, not_again)[: n // 2]
    not_again = not_again | {f.key for f in ends}
    ways = [
        [Frame.of(atoms) for atoms in _stops(path)]
        for row, path in zip(result.rows, result.paths, strict=True)
        if row.verdict == "uncertain" and path and not row.same_as
    ]
    if not ways:
        return Dataset(ends)
    ways = ways[:: -(-len(ways) // MOST_WAYS)]
    frames = [frame for way in ways for frame in way]
    weight: Array = np.concatenate(
        [np.full(sum(f.n_atoms for f in way), 1.0 / sum(f.n_atoms for f in way)) for way in ways]
    )
    distance = np.concatenate(model.strangeness(frames))
    # In units of the radius, as the strangeness; the last columns keep elements apart.
    species = np.concatenate([model.descriptor.species(frame) for frame in frames])
    radius = model.domain.radius[species][:, None] if model.domain is not None else 1.0
    at: Array = np.concatenate(model.surroundings(frames)) / radius
    owner = np.repeat(np.arange(len(frames)), [f.n_atoms for f in frames])
    allowed = [k for k, f in enumerate(frames) if f.key not in not_again]
    indices = covering(at, owner, weight, distance, n - len(ends), allowed)
    return Dataset([*ends, *(frames[k] for k in indices)])


def _ends(result: Relaxed, not_again: set[str]) -> list[Frame]:
    """Return the places of rest of uncertain structures, those first that most of them share."""
    shared: dict[str, int] = {}
    for row in result.rows:
        if row.verdict == "uncertain":
            shared[row.same_as or row.source] = shared.get(row.same_as or row.source, 0) + 1
    at_rest = {
        row.source: Frame.of(end)
        for row, end in zip(result.rows, result.ends, strict=True)
        if end is not None and row.source in shared and row.verdict == "uncertain" and row.came_to_rest
    }
    found = [at_rest[source] for source in sorted(at_rest, key=lambda source: (-shared[source], source))]
    return [f for f in found if f.key not in not_again]


def covering(
    at: Array, owner: NDArray[np.intp], weight: Array, distance: Array, n: int, allowed: Sequence[int]
) -> list[int]:
    """Choose frames greedily; return their numbers.

    Parameters
    ----------
    at : ndarray (n_atoms, n_components)
        Surroundings of all frames' atoms, in units of the radius.
    owner : ndarray (n_atoms,)
        Number of each atom's frame.
    weight : ndarray (n_atoms,)
        What an atom counts.
    distance : ndarray (n_atoms,)
        From what is known; what exceeds the trusted distance is to be lowered.
    n : int
        Frames at most.
    allowed : sequence of int
        Frames that may be chosen.
    """
    distance, squares = distance.copy(), np.einsum("ac,ac->a", at, at)
    nearest = {
        k: np.sqrt(np.maximum(squares[:, None] + squares[owner == k] - 2 * at @ at[owner == k].T, 0)).min(axis=1)
        for k in allowed
    }

    def lacking(d: Array) -> float:
        return float(weight @ np.maximum(d - TRUSTED_WAY, 0.0))

    chosen: list[int] = []
    first = lacking(distance)
    while len(chosen) < n and nearest:
        gains = {k: lacking(distance) - lacking(np.minimum(distance, d)) for k, d in nearest.items()}
        best = max(gains, key=lambda k: gains[k])
        if gains[best] <= TEMPTING * first:
            break
        distance = np.minimum(distance, nearest.pop(best))
        chosen.append(best)
    return chosen


def _stops(path: Sequence[Atoms]) -> list[Atoms]:
    """Return a few places of a way: its ends, and more of its beginning, where it moves fast."""
    last = len(path) - 1
    kept = np.unique(np.round(last * np.linspace(0, 1, STOPS) ** 2).astype(int))
    return [path[k] for k in kept]


def _trained(
    model: Committee,
    known: Dataset,
    held: Dataset,
    settings: Config,
    folder: Path,
    cache: Descriptions,
    tell: Callable[[str], None],
) -> Committee:
    """Train a committee like the first one, unless the folder has it."""
    steps = full_steps(settings.train, len(known))
    trail = digest([settings.seed, settings.dump()["train"], asdict(model.descriptor), model.hidden, known.keys])
    home = folder / trail
    if (home / "model.json").exists():
        return Committee.load(home)
    how = settings.train.model_copy(update={"steps": steps, "members": model.members})
    shape = settings.model.model_copy(update={"hidden": model.hidden})
    made = train(
        known, shape, how, seed=settings.seed, calibrate_on=held, descriptor=model.descriptor, cache=cache, tell=tell
    )
    made.save(home)
    return made


def save(learnt: Learnt, out: Path) -> None:
    """Write the model, its data, and ``learning.json``."""
    learnt.data.save(out / "learnt.extxyz")
    learnt.model.save(out / "model")
    write_json(out / "learning.json", {"rounds": learnt.rounds, "stopped": learnt.why})

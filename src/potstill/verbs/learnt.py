"""label, train, distil and compare: from structures to labels, a potential, and the few frames that teach one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from potstill import tables
from potstill.data import Dataset, structure_files, write_atomic
from potstill.distilling import distil as distil_all
from potstill.distilling import set_apart
from potstill.errors import ConfigError, DataError
from potstill.labelling import Labelled, Revealer, labeller
from potstill.model import Committee
from potstill.store import LabelStore, Outcome, RunDir, Stage, digest, file_digest, read_json, write_json
from potstill.training import full_steps
from potstill.training import train as train_all
from potstill.verbs.given import (
    Overrides,
    Structures,
    Tell,
    labelled,
    labels_by,
    merged,
    read,
    settings_of,
    silent,
)


def label(
    structures: Structures,
    reference: str,
    *,
    out: str | Path,
    overrides: Overrides = (),
    workers: int = 0,
    tell: Tell = silent,
) -> Labelled:
    """Ask a reference for energies (eV), forces (eV/Å) and stresses (eV/Å³); failures are data too.

    Parameters
    ----------
    structures : structures
        What to label; labels that they bring are ignored.
    reference : str
        Recipe of the potential that labels, such as ``lammps:FILE``, ``espresso`` or ``gpaw``.
    out : path
        Gets ``labelled.extxyz`` and ``failures.json``, and keeps the labels.
    overrides, tell
        See :mod:`potstill.verbs`; ``label.retries`` and ``label.timeout`` among the first.
    workers : int
        Processes; 0 means one a core.

    Raises
    ------
    BackendError
        If the reference is not there.
    """
    out, settings = Path(out), settings_of(None, overrides, 1)
    data = read(structures, tell)
    potential = labels_by(reference, lambda: data.elements, settings)
    with RunDir(out).locked():
        result = labeller(settings, potential, out, workers=workers, tell=tell)(list(data))
        result.data.save(out / "labelled.extxyz")
        rows = [
            {"frame": f.frame, "index": data.keys.index(f.frame), "reason": f.reason, "message": f.message}
            for f in result.failures
        ]
        write_json(out / "failures.json", rows)
    return result


def train(
    data: Structures,
    *,
    valid: Structures | None = None,
    members: int = 4,
    steps: int | None = None,
    model: str = "potstill",
    start: str | Path | Committee | None = None,
    seed: int = 1,
    overrides: Overrides = (),
    tell: Tell = silent,
) -> Any:
    """Train a committee of neural-network potentials on labelled structures; ``save`` and ``calculator`` are its own.

    Parameters
    ----------
    data : structures
        Labelled.
    valid : structures | None
        Labelled, to calibrate the committee's spread on.
    members : int
        Networks.
    steps : int | None
        Of the optimiser; None: ``train.steps``, and more for more than 100 frames.
    model : str
        ``potstill``, or ``mace``, which is slower and needs ``potstill[mace]``.
    start : path | Committee | None
        A model to go on from, of another metal perhaps.
    seed : int
        Decides everything that is drawn at random.
    overrides, tell
        See :mod:`potstill.verbs`.

    Returns
    -------
    Committee or MaceCommittee

    Raises
    ------
    ConfigError, DataError
        If a setting is wrong, or nothing is labelled.
    """
    if model not in ("potstill", "mace"):
        raise ConfigError(f"There is no kind of network {model!r}; there are potstill and mace.")
    given = merged({"train.members": members, "train.steps": steps}, overrides)
    if model == "mace":
        if start is not None:
            raise ConfigError("MACE starts from nothing; --start is for potstill's own networks.")
        return _mace(data, valid, given, seed, tell)
    settings = settings_of(None, given, seed)
    known = labelled(data, tell)
    held = None if valid is None else labelled(valid, tell)
    first = Committee.load(start) if isinstance(start, (str, Path)) else start
    how = settings.train
    if steps is None:
        how = how.model_copy(update={"steps": full_steps(how, len(known))})
    return train_all(known, settings.model, how, seed=settings.seed, calibrate_on=held, start=first, tell=tell)


def _mace(data: Structures, valid: Structures | None, given: list[str], seed: int, tell: Tell) -> Any:
    from potstill.backends.mace_fit import KNOBS, train_mace
    from potstill.backends.mace_network import Network

    # On 107 frames of 32 atoms, 800 steps of 2 frames reached 242 meV/Å where 400 of 4 reached 285; at rate 0.01, 231.
    settings = settings_of(None, ["train.batch=2", "train.learning_rate=0.01", *given], seed)
    strange = sorted({text.partition("=")[0].strip() for text in given} - KNOBS)
    if strange:
        raise ConfigError(f"MACE has no {strange[0]}; of the configuration it takes {', '.join(sorted(KNOBS))}.")
    known = labelled(data, tell)
    held = None if valid is None else labelled(valid, tell)
    network = Network(cutoff=settings.model.cutoff)
    return train_mace(known, network, settings.train, seed=settings.seed, calibrate_on=held, tell=tell)


class Distillation:
    """What :func:`distil` left in a folder.

    Attributes
    ----------
    path : Path
        The folder.
    summary : dict
        Numbers of labels and errors, and why the loop stopped.
    ran : bool
        Whether anything had to be done.
    """

    def __init__(self, path: Path, summary: dict[str, Any], ran: bool) -> None:
        self.path, self.summary, self.ran = path, summary, ran

    @cached_property
    def data(self) -> Dataset:
        """The distilled frames, labelled, in the order of choice."""
        return Dataset.load(self.path / "distilled.extxyz")

    @cached_property
    def committee(self) -> Committee:
        """Trained on them."""
        return Committee.load(self.path / "model")

    @cached_property
    def curve(self) -> list[dict[str, Any]]:
        """A row a round: labels, errors on the hold-out with their error bars, calibration, quick checks."""
        rows: list[dict[str, Any]] = read_json(self.path / "learning_curve.json")["rounds"]
        return rows

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"{s['n_labels']} frames distilled, {s['n_beside']} of them from beside the pool ({s['stopped']}), "
            f"{s['n_holdout']} held out: {self.path / 'distilled.extxyz'}, {self.path / 'model'}, "
            f"{self.path / 'learning_curve.json'}"
        )

    def _repr_html_(self) -> str:
        rows = [("labels", "on the hold-out", "quick checks not passed")]
        for r in self.curve:
            missed = ", ".join(k for k, q in (r["quick"] or {}).items() if not q["passed"])
            rows.append((str(r["n_labels"]), _errors(r["errors"]) if r["errors"] else "–", missed or "none"))
        return tables.html(repr(self), rows)


def _errors(found: dict[str, float]) -> str:
    energy, force = found["energy_rmse_mev_per_atom"], 1e3 * found["force_rmse_ev_per_angstrom"]
    return f"{energy:.2f} meV/atom, {force:.1f} meV/Å"


def distil(
    pool: Structures,
    budget: int,
    *,
    out: str | Path,
    reference: str | None = None,
    selector: str = "potstill",
    pool_only: bool = False,
    seed: int = 1,
    workers: int = 0,
    overrides: Overrides = (),
    tell: Tell = silent,
) -> Distillation:
    """Choose, label and learn in rounds: from a pool to the few frames that teach a potential, and that potential.

    Parameters
    ----------
    pool : structures
        Candidates.
    budget : int
        Labels to learn from; those to judge by come beside it.
    out : path
        A folder; what it has of an earlier call is not done again.
    reference : str | None
        Recipe of the potential that labels; without it the pool's own labels are revealed as they are asked for.
    selector : str
        How frames are chosen.
    pool_only : bool
        No generated crystals, slabs and defects beside the pool; so it is without a reference.
    seed : int
        Decides everything that is drawn at random.
    workers : int
        Processes; 0 means one a core.
    overrides, tell
        See :mod:`potstill.verbs`.

    Raises
    ------
    DataError
        If the pool is empty, has no labels where it has to, or more than half of the labels fail.
    """
    own = pool_only or reference is None
    if reference is None and not pool_only:
        tell("distil: no labeller is named, so frames beside the pool cannot be labelled: this is --pool-only")
    more = merged({}, overrides)
    flags = {"distil.budget": budget, "distil.selector": selector, "distil.beside": 0 if own else None}
    if not any(text.startswith("distil.initial") for text in more):
        flags["distil.initial"] = min(25, budget)
    settings, out = settings_of(None, merged(flags, more), seed), Path(out)
    candidates = cache(lambda: read(pool, tell, seed) if reference else labelled(pool, tell, seed))
    potential = labels_by(reference, lambda: candidates().elements, settings) if reference else None
    ask = labeller(settings, potential, out, workers=workers, tell=tell) if potential else None
    dump = settings.dump()

    def act(folder: Path) -> Outcome:
        result = distil_all(candidates(), ask or Revealer(candidates()), settings, folder=folder, tell=tell)
        return Outcome(result.summary(), result.save(folder))

    stage = Stage(
        "distil",
        ".",
        {
            **{k: dump[k] for k in ("seed", "model", "train", "distil")},
            "tests": dump["validate"]["polymorphs"],
            "pool": _digest(pool),
            "reference": potential.fingerprint if potential else None,
        },
        act,
    )
    directory = RunDir(out)
    with directory.locked():
        ran = directory.execute([stage], tell)
    return Distillation(out, (directory.record(".") or {})["summary"], ran)


def _digest(pool: Structures) -> str:
    """Return what tells a pool from another: its files' content, or its frames and their labels."""
    if isinstance(pool, (str, Path)):
        return digest([file_digest(file) for file in structure_files(pool)])
    return digest([[f.key, f.labels and [f.labels.energy, f.labels.forces.tolist()]] for f in read(pool)])


class Comparison:
    """Learning curves of selectors.

    Attributes
    ----------
    table : list of dict
        Means over seeds, and half widths of their 95 % intervals.
    path : Path
        The folder, with ``comparison.json`` and ``comparison.png``.
    """

    def __init__(self, table: list[dict[str, Any]], path: Path) -> None:
        self.table, self.path = table, path

    def __repr__(self) -> str:
        from potstill.comparing import table_text

        return table_text(self.table)

    def _repr_html_(self) -> str:
        from potstill.comparing import table_rows

        return tables.html(f"{self.path / 'comparison.png'}", table_rows(self.table))


def compare(
    pool: Structures,
    selectors: Sequence[str],
    budgets: Sequence[int],
    *,
    out: str | Path,
    seeds: int = 5,
    test: Structures | None = None,
    also: Sequence[str | Path] = (),
    reference: str | None = None,
    pool_only: bool = False,
    seed: int = 1,
    workers: int = 0,
    overrides: Overrides = (),
    tell: Tell = silent,
) -> Comparison:
    """Find which selector is best on a pool: learning curves of each, with error bars over seeds.

    Parameters
    ----------
    pool : structures
        Candidates.
    selectors : sequence of str
        Their names; random is always among them.
    budgets : sequence of int
        Labels to learn from.
    out : path
        A folder; what it has of an earlier call is not done again.
    seeds : int
        Repetitions of every selector.
    test : structures | None
        Labelled frames to judge by; None: whole trajectories of the pool are set apart.
    also : sequence of paths
        Further labelled frames to judge by: hotter, strained, another phase.
    reference, pool_only, workers
        As for :func:`distil`.
    seed : int
        The first of them.
    overrides, tell
        See :mod:`potstill.verbs`.

    Raises
    ------
    ConfigError, DataError
        If a name is unknown, or there is nothing to judge by.
    """
    from potstill.comparing import Contest, draw
    from potstill.comparing import compare as run_all
    from potstill.labelling import label as label_all
    from potstill.selecting import selector as by_name

    for name in selectors:
        by_name(name)
    sizes, out = sorted(set(budgets)), Path(out)
    own = pool_only or reference is None
    flags = {"distil.budget": sizes[-1], "distil.sizes": sizes, "distil.initial": sizes[0], "distil.stop_flat": False}
    settings = settings_of(None, merged({**flags, "distil.beside": 0 if own else None}, overrides), seed)
    settings = settings.model_copy(
        update={"distil": settings.distil.model_copy(update={"round_steps": full_steps(settings.train, sizes[-1])})}
    )
    data = read(pool, tell, seed) if reference else labelled(pool, tell, seed)
    potential = labels_by(reference, lambda: data.elements, settings) if reference else None
    with RunDir(out).locked():
        if test is None:
            data, held = set_apart(data, settings, seed, tell)
            if potential is not None and len(held):
                held = label_all(list(held), potential, LabelStore(out / "labels"), workers=workers, tell=tell).data
        else:
            held = labelled(test, tell)
        if not len(held):
            raise DataError("Selectors are compared on held-out frames, but the pool is one trajectory: give --test.")
        data.save(out / "pool.extxyz")
        held.save(out / "holdout.extxyz")
        element = data.elements[0] if potential is not None and len(data.elements) == 1 else None
        others = {Path(path).stem: Path(path) for path in also}
        for path in others.values():
            labelled(path, tell)  # told now if it is not
        contest = Contest(out / "pool.extxyz", out / "holdout.extxyz", settings, potential, element, out, others)
        result = run_all(contest, list(selectors), range(seed, seed + seeds), workers=workers, tell=tell)
        write_atomic(out / "comparison.png", draw(result).png())
    return Comparison(result["table"], out)

"""propose and relax: structures that somebody proposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import tables
from potstill.backends import resolve
from potstill.config import Config
from potstill.data import Dataset, Frame, Origin
from potstill.errors import ConfigError, DataError
from potstill.labelling import labeller
from potstill.model import Committee
from potstill.proposing import KINDS
from potstill.proposing import propose as propose_all
from potstill.protocols import Potential
from potstill.relaxing import (
    How,
    Proposed,
    Relaxed,
    from_memory,
    read_structures,
    save,
    save_learnt,
    table_text,
)
from potstill.relaxing import compare as compare_with
from potstill.relaxing import learn as learn_from
from potstill.relaxing import relax as relax_all
from potstill.reporting import gallery
from potstill.store import RunDir, versions, write_json
from potstill.verbs.given import Overrides, Tell, settings_of, silent

if TYPE_CHECKING:
    from ase import Atoms

MOST_ROWS = 50  # in a notebook


def propose(elements: str | Sequence[str], n: int = 200, *, kinds: Sequence[str] = KINDS, seed: int = 1) -> Dataset:
    """Propose structures to relax: random symmetric crystals and rattled prototypes.

    Parameters
    ----------
    elements : str or sequence of str
        Chemical symbols; sites are occupied at random where there are several.
    n : int
        How many.
    kinds : sequence of str
        ``random``, ``prototypes``, or both, by turns.
    seed : int
        Decides all.

    Raises
    ------
    ConfigError
        If an element or a kind is unknown.
    """
    wanted = [elements] if isinstance(elements, str) else list(elements)
    made = propose_all(wanted, n, kinds, np.random.default_rng(seed))
    return Dataset(Frame.of(atoms, Origin("generated", atoms.info["origin"])) for atoms in made)


class Relaxation:
    """Relaxed structures and their verdicts.

    Attributes
    ----------
    result : Relaxed
        Rows, and where each structure began and ended.
    path : Path
        The folder, with ``relax.html``, ``relax.json``, ``relax.csv``, ``relaxed.extxyz`` and CIFs.
    agreed : dict | None
        How they agree with the judge, where there was one.
    """

    def __init__(self, result: Relaxed, path: Path, agreed: dict[str, dict[str, float | None]] | None) -> None:
        self.result, self.path, self.agreed = result, path, agreed

    @property
    def rows(self) -> list[Any]:
        """One a structure, with ``source``, ``verdict``, ``reason``, energies and spread."""
        return list(self.result.rows)

    @property
    def trusted(self) -> list[Atoms]:
        """Where those structures came to rest whose energy is to be believed."""
        pairs = zip(self.result.rows, self.result.ends, strict=True)
        return [end for row, end in pairs if row.trusted and end is not None]

    def __repr__(self) -> str:
        return "\n".join([table_text(self.result), *_judged(self.agreed or {})])

    def _repr_html_(self) -> str:
        rows = [("source", "verdict", "formula", "above lowest (meV/atom)", "space group", "reason")]
        for r in self.result.rows[:MOST_ROWS]:
            above = "" if r.energy_above is None else f"{r.energy_above:.1f}"
            rows.append((r.source[-60:], r.verdict, r.formula, above, r.space_group or "", r.reason[:120]))
        n, trusted = len(self.result.rows), sum(r.trusted for r in self.result.rows)
        return tables.html(f"{trusted} of {n} are trusted; all of them: {self.path / 'relax.html'}", rows)


def relax(
    structures: str | Path | Sequence[str | Path] | Sequence[Atoms] | Dataset,
    model: str | Path | Potential,
    *,
    out: str | Path,
    metal: str = "",
    known: str | Path | None = None,
    how: How | None = None,
    learn: int = 0,
    reference: str = "",
    data: str | Path | None = None,
    judge: str = "",
    config: Config | str | Path | None = None,
    seed: int = 1,
    workers: int = 0,
    overrides: Overrides = (),
    tell: Tell = silent,
) -> Relaxation:
    """Relax proposed structures, and say of each whether its energy is to be believed.

    Parameters
    ----------
    structures : path, paths, or structures
        Files, folders, patterns and archives, none of which is trusted; or structures in memory.
    model : path, recipe or Potential
        A trained model's folder, a committee, or any potential, which is then believed throughout.
    out : path
        A folder; what it has of an earlier call is not done again.
    metal : str
        Replace all elements by this one, and scale to its volume.
    known : path | None
        Structures that are no news.
    how : How | None
        Tolerance (eV/Å), pressure (GPa), limits; whether the cell moves, and whether symmetry is kept.
    learn : int
        Labels to learn from where structures are uncertain, before they are relaxed again.
    reference : str
        With ``learn``: recipe of the potential that labels.
    data : path | None
        With ``learn``: what the model was trained on; else ``distilled.extxyz`` beside it.
    judge : str
        Recipe of a potential that relaxes the same starts, to compare with.
    config, overrides, tell
        See :mod:`potstill.verbs`.
    seed : int
        Decides what is drawn at random.
    workers : int
        Processes, for potentials that are no committees; 0 means one a core.

    Raises
    ------
    ConfigError, DataError
        If the model does not know ``metal``, or cannot be trained where it has to learn. What is wrong with a
        structure stands in its row.
    """
    settings, out = settings_of(config, overrides, seed), Path(out)
    elements = [metal] if metal else []
    potential = resolve(str(model), elements) if isinstance(model, (str, Path)) else model
    if learn and not isinstance(potential, Committee):
        raise ConfigError(f"--learn needs a model that can be trained, but --model names {str(model)[:80]}.")
    if learn and not reference:
        raise ConfigError("--learn needs --reference, a potential that labels what is to be learnt.")
    news = {p.source: p.atoms for p in read_structures([str(known)]) if p.atoms is not None} if known else {}
    asked, proposed = _proposed(structures)
    how = how or How()
    relax_with = partial(
        relax_all, proposed, folder=out / "units", how=how, metal=metal, known=news, workers=workers, tell=tell
    )
    agreed = None
    with RunDir(out).locked():
        (out / "learning.json").unlink(missing_ok=True)
        (out / "judge.json").unlink(missing_ok=True)
        if learn and isinstance(potential, Committee):
            taught, held = _taught(model, potential, data)
            labels = resolve(reference, potential.elements, settings)
            learnt = learn_from(
                relax_with, potential, taught, held, learn, labeller(settings, labels, out, workers=workers, tell=tell),
                settings, out / "models", tell,
            )  # fmt: skip
            result, potential = learnt.result, learnt.model
            save_learnt(learnt, out)
        else:
            result = relax_with(potential)
        if judge:
            agreed = compare_with(result, relax_with(resolve(judge, elements)))
            write_json(out / "judge.json", {"judge": judge, **agreed})
        save(result, out)
        about: dict[str, Any] = {"paths": asked, "model": str(model), "fingerprint": potential.fingerprint, "as": metal}
        about |= {"how": vars(how), "learn": learn, "reference": reference, "versions": versions()}
        write_json(out / "run.json", about)
        gallery(out)
    return Relaxation(result, out, agreed)


def _proposed(structures: Any) -> tuple[list[str], list[Proposed]]:
    """Return what was asked for, in words, and the structures."""
    if isinstance(structures, (str, Path)):
        structures = [structures]
    given: Iterable[Any] = list(structures)
    if all(isinstance(s, (str, Path)) for s in given):
        paths = [str(s) for s in given]
        return paths, list(read_structures(paths))
    held = list(from_memory([s.atoms if isinstance(s, Frame) else s for s in given]))
    return [f"{len(held)} structures in memory"], held


def _taught(model: Any, potential: Committee, data: str | Path | None) -> tuple[Dataset, Dataset]:
    """Return what a model was trained on, and what it was calibrated on, if that is there too."""
    if data is None and not isinstance(model, (str, Path)):
        raise DataError("--learn trains again on the model's data with new labels beside them: give them as data.")
    file = Path(data) if data is not None else Path(model).parent / "distilled.extxyz"
    if not file.is_file():
        raise DataError(
            f"--learn trains again on the model's data with new labels beside them, but {file} does not exist. "
            "Give the file by --data."
        )
    taught = Dataset.load(file).only_labelled()
    if not len(taught) or not set(taught.elements) <= set(potential.elements):
        raise DataError(
            f"Expected labelled frames of {', '.join(potential.elements)} in {file}, but found none or others."
        )
    held = file.parent / "holdout.extxyz"
    return taught, Dataset.load(held).only_labelled() if held.is_file() else Dataset()


def _judged(agreed: dict[str, dict[str, float | None]]) -> list[str]:
    """Say how the model and the judge agree."""
    lines = []
    for name, found in agreed.items():
        if found["n"] and found["within"] is not None:
            rank = "" if found["rank"] is None else f", rank correlation {found['rank']:.3f}"
            lines.append(
                f"against the judge, {name} ({found['n']}): {100 * found['within']:.0f} % within 5 meV/atom, worst "
                f"{found['worst']:.1f}{rank}"
            )
    return lines

"""sample and select: a pool, and a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill import tables
from potstill.config import Config, ModelConfig
from potstill.data import Dataset, structure_files
from potstill.data.stream import FrameIndex
from potstill.errors import ConfigError, DataError
from potstill.model import FrameFeatures, Whitening
from potstill.protocols import Describer
from potstill.store import RunDir
from potstill.verbs.given import (
    LARGE,
    STREAMED,
    Overrides,
    Structures,
    Tell,
    merged,
    read,
    settings_of,
    silent,
    size_of,
)

MOST = 50_000  # frames that a selector other than random and fps looks at: it keeps 25 kB of each, or compares them all


@dataclass(frozen=True, repr=False)
class Pool:
    """Sampled configurations.

    Attributes
    ----------
    data : Dataset
        The frames.
    summary : dict
        What their making took and found.
    file : Path
        Where they are.
    """

    data: Dataset
    summary: dict[str, Any]
    file: Path

    def __repr__(self) -> str:
        crossings = self.summary.get("crossings")
        told = "" if crossings is None else f", {crossings} crossings between liquid and solid"
        n, m = self.summary["n_frames"], self.summary["n_trajectories"]
        return f"{n} frames from {m} trajectories{told}: {self.file}"

    def _repr_html_(self) -> str:
        rows = [("", "")] + [(k.replace("_", " "), str(v)) for k, v in self.summary.items() if _plain(v)]
        return tables.html(repr(self), rows)


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and value != ""


def sample(
    element: str | None = None,
    potential: str | None = None,
    *,
    out: str | Path,
    config: Config | str | Path | None = None,
    overrides: Overrides = (),
    seed: int | None = None,
    workers: int = 0,
    tell: Tell = silent,
    **settings: Any,
) -> Pool:
    """Make a pool of configurations by molecular dynamics; goes on where an earlier call stopped.

    Parameters
    ----------
    element : str | None
        Chemical symbol; the configuration's where it is not given.
    potential : str | None
        Recipe of what drives the dynamics, such as ``lammps:NiAlH_jea.eam.alloy``.
    out : path
        A folder, or an ``.extxyz`` file.
    config, overrides, tell
        See :mod:`potstill.verbs`.
    seed : int | None
        Decides everything that is drawn at random.
    workers : int
        Processes; 0 means one a core.
    **settings
        Other keys of ``[sample]``: ``ensemble``, ``temperature``, ``pressure``, ``atoms``, ``frames`` …

    Raises
    ------
    ConfigError, BackendError, ConvergenceError
        If a setting is wrong, the potential is not there, or the dynamics gives nothing.
    """
    from potstill.backends import resolve
    from potstill.sampling import sample as make_pool

    flags = {f"sample.{k}": v for k, v in {"element": element, "potential": potential, **settings}.items()}
    how = settings_of(config, merged({**flags, "seed": seed}, overrides), 1)
    out = Path(out)
    folder = out if out.suffix not in (".extxyz", ".xyz") else out.with_name(out.name + ".run")
    file = folder / "pool.extxyz" if folder == out else out
    with RunDir(folder).locked():
        made = make_pool(
            how.sample,
            resolve(how.sample.potential, [how.sample.element]),
            seed=how.seed,
            folder=folder,
            workers=workers,
            tell=tell,
        )
        made.pool.save(file)
    return Pool(made.pool, made.summary, file)


def select(
    pool: Structures,
    n: int,
    *,
    selector: str = "potstill",
    model: str | Path | None = None,
    known: Structures | None = None,
    stream: bool | None = None,
    folder: str | Path | None = None,
    seed: int = 1,
    tell: Tell = silent,
) -> Dataset:
    """Choose frames of a pool, once.

    Parameters
    ----------
    pool : structures
        Candidates.
    n : int
        How many.
    selector : str
        How: potstill, random, fps, committee, leverage, last-layer, entropy, cover or direct.
    model : path | None
        A trained model; committee and last-layer need one.
    known : structures | None
        Frames that are known already.
    stream : bool | None
        Read files as they are needed, by fps and random; None: pools over 500 MB are.
    folder : path | None
        Where a streamed pool's descriptors are kept.
    seed : int
        Decides what is drawn at random.
    tell : callable
        Gets lines of progress.

    Raises
    ------
    ConfigError
        If the selector is unknown, or needs a model or memory that it does not get.
    DataError
        If nothing is left to choose from.
    """
    have = Dataset() if known is None else read(known, tell)
    if isinstance(pool, (str, Path)):
        files = structure_files(pool)
        if stream if stream is not None else size_of(files) > STREAMED:
            if model is not None:
                raise ConfigError(
                    f"A pool of {LARGE} is not read into memory (nor is one with --stream), and its own frames "
                    "describe it, not a model. Leave --model out, or choose with it from what was chosen."
                )
            return _streamed(files, n, Path(folder or f"{pool}.run"), selector, have, seed, tell)
    left = read(pool, tell).without(have)
    if not len(left):
        name = pool if isinstance(pool, (str, Path)) else "the pool"
        raise DataError(f"Every frame of {name} is known already: nothing is left to choose from.")
    if selector not in ("random", "fps") and len(left) > max(MOST, n):
        tell(f"select: {max(MOST, n):,} of {len(left):,} frames, drawn at random, are looked at by {selector}")
        some = np.random.default_rng([seed, 7]).permutation(len(left))[: max(MOST, n)]
        left = left.take(np.sort(some))
    return _whole(left, n, selector, model, have, seed)


def _whole(left: Dataset, n: int, selector: str, model: str | Path | None, have: Dataset, seed: int) -> Dataset:
    from potstill.backends import load_model
    from potstill.selecting import checked
    from potstill.selecting import selector as by_name
    from potstill.training import descriptor_for

    chooser = by_name(selector)
    if model is None and selector in ("committee", "last-layer"):
        raise ConfigError(f"The selector '{selector}' needs a trained model: give --model DIR, or use potstill.")
    describer: Describer
    if model is not None:
        describer = load_model(Path(model))
    else:
        descriptor = descriptor_for((left | have).elements, ModelConfig())
        describer = FrameFeatures(descriptor, Whitening.fit(descriptor, left[:: max(1, len(left) // 1000)]))
    rng = np.random.default_rng(seed)
    found = checked(chooser.select(left, min(n, len(left)), known=have, committee=describer, rng=rng), left, n)
    return left.take(found.indices)


def _streamed(files: list[Path], n: int, folder: Path, selector: str, have: Dataset, seed: int, tell: Tell) -> Dataset:
    """Choose from a pool that is not read into memory."""
    from potstill.selecting.streamed import StreamedFeatures, farthest_streamed
    from potstill.training import descriptor_for

    if selector not in ("fps", "random"):
        raise ConfigError(
            f"A pool of {LARGE} is not read into memory (nor is one with --stream): choose from "
            f"it by fps or random, not by {selector}; then by {selector} from what was chosen."
        )
    index = FrameIndex.of(files)
    tell(f"select: {len(index):,} frames of {int(index.n_atoms.sum()):,} atoms, read as they are needed")
    if selector == "random":
        order = np.random.default_rng(seed).permutation(len(index))
    else:
        settings = ModelConfig()
        features = StreamedFeatures(index, folder, lambda e: descriptor_for(e, settings), tell=tell)
        order, _ = farthest_streamed(features.vectors(), n, features.describe(list(have)))
    chosen, at = Dataset(), 0
    while len(chosen) < n and at < len(order):  # what is known already, or twice in the pool, does not count
        more = Dataset(index.whole(order[at : at + n - len(chosen)])).without(have)
        at, chosen = at + n - len(chosen), chosen | more
    if not len(chosen):
        raise DataError("Every frame of the pool is known already: nothing is left to choose from.")
    return chosen

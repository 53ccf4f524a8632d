"""What verbs are given: structures from wherever they are, and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.config import Config, apply_overrides, load_config, parse_config
from potstill.data import Dataset, Draw, Frame, read_pool, structure_files
from potstill.data.files import BLOCK, noticed, to_frame
from potstill.errors import DataError
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

Tell = Callable[[str], None]
Overrides = Mapping[str, Any] | Sequence[str]
Structures = str | Path | Dataset | Sequence["Atoms"] | Sequence[Frame]

STREAMED = 500 * 2**20  # bytes of structure files that are not read into memory at once
LARGE = f"more than {STREAMED // 2**20} MB"
WHOLE_ATOMS = 8_000_000  # as many as 500 MB of plain text hold; files of another format are drawn from beyond
DRAWN_ATOMS = 1_600_000  # in the part of such a pool that is distilled: 50,000 frames of 32, ten rounds' candidates


def silent(_line: str) -> None:
    """Say nothing."""


def settings_of(config: Config | str | Path | None, overrides: Overrides, seed: int | None = None) -> Config:
    """Return what a configuration and overrides say.

    Parameters
    ----------
    config : Config | path | None
        A configuration, its file, or none for the defaults.
    overrides : mapping or sequence of str
        Of keys such as ``train.steps``, to values or as ``key=value``.
    seed : int | None
        Holds where there is no configuration.

    Raises
    ------
    ConfigError
        If a key or value is wrong.
    """
    texts = list(merged({}, overrides))
    if isinstance(config, Config):
        raw = config.dump()
        apply_overrides(raw, texts)
        return parse_config(raw, "the configuration")
    if config is not None:
        return load_config(Path(config), texts)
    raw = {} if seed is None else {"seed": seed}
    apply_overrides(raw, texts)
    return parse_config(raw, "the command line")


def merged(flags: Mapping[str, Any], overrides: Overrides = ()) -> list[str]:
    """Write those flags that are given as overrides, and overrides behind them."""
    more = merged(overrides) if isinstance(overrides, Mapping) else overrides
    return [*(f"{key}={_toml(value)}" for key, value in flags.items() if value is not None), *more]


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def read(source: Structures, tell: Tell = silent, thin: int | None = None) -> Dataset:
    """Return structures as a dataset, and say what was used of files.

    Parameters
    ----------
    source : path, Dataset, or sequence of Atoms or Frame
        A path may be a folder or a pattern.
    tell : callable
        Gets lines of progress.
    thin : int | None
        Seed of a draw from large pools: plain extended XYZ over 500 MB, or as many atoms in another format or
        compressed; without it all of them is read.

    Raises
    ------
    DataError
        If files cannot be read or hold nothing.
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, (str, Path)):
        return Dataset(s if isinstance(s, Frame) else _framed(s, k) for k, s in enumerate(source))
    from potstill.data.stream import FrameIndex

    files = structure_files(source)
    plain = all(file.suffix in (".xyz", ".extxyz") for file in files)
    if thin is not None and plain and size_of(files) > STREAMED:
        index = FrameIndex.of(files)
        data = index.draw(DRAWN_ATOMS, seed=thin)
        tell(f"read: {source}: {len(data):,} of {len(index):,} frames, drawn at random, since they are {LARGE}")
        return data
    frames, keys = read_pool(source, None if thin is None else Draw(WHOLE_ATOMS, DRAWN_ATOMS, thin))
    data = Dataset(frames)
    tell(f"read: {source}: {len(data)} frames of {'-'.join(data.elements)}; {keys}")
    if data.n_repeated:
        tell(f"read: {data.n_repeated} repeated frames count once")
    return data


def _framed(atoms: Atoms, k: int) -> Frame:
    """Return ASE's structure as a frame, with the labels that it brings."""
    return to_frame(atoms, noticed(atoms, None), "memory", f"memory#{k // BLOCK}", k)


def size_of(files: Iterable[Path]) -> int:
    """Return the bytes of files."""
    return sum(file.stat().st_size for file in files)


def labelled(source: Structures, tell: Tell = silent, thin: int | None = None) -> Dataset:
    """Return those structures that have labels; see :func:`read`.

    Raises
    ------
    DataError
        If none has.
    """
    data = read(source, tell, thin)
    found = data.only_labelled()
    name = source if isinstance(source, (str, Path)) else "the structures"
    if not len(found):
        raise DataError(
            f"{name}: expected labelled frames (energy and forces), but none of the {len(data)} frames has both. Label "
            "them with `potstill label`, rename the keys to energy and forces, or name what labels by --reference,"
            " where a command has it."
        )
    if len(found) < len(data):
        tell(f"read: {len(data) - len(found)} frames of {name} have no labels and are left out")
    return found


def labels_by(recipe: str, elements: Callable[[], Sequence[str]], settings: Config) -> Potential:
    """Return the potential that labels; a density-functional code must know the elements beforehand."""
    from potstill.backends import WANTS_ELEMENTS, resolve

    return resolve(recipe, elements() if recipe in WANTS_ELEMENTS else (), settings)

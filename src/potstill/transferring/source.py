"""What is transferred: frames, and the volume that an atom of their metal has at rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from potstill import crystals
from potstill.backends import load_model
from potstill.data import Dataset, Frame, read_pool
from potstill.errors import ConfigError, ConvergenceError, DataError
from potstill.transferring.foundation import FOUNDATION, foundation


@dataclass(frozen=True)
class Source:
    """Frames to be scaled to other metals.

    Attributes
    ----------
    name : str
        What they are called in reports.
    data : Dataset
        Without labels, in the order of choice: the first n are the best n.
    volume : float
        Å³ per atom of the source's own crystal at rest.
    """

    name: str
    data: Dataset
    volume: float


def read_source(
    source: str,
    volume: float = 0.0,
    tell: Callable[[str], None] = lambda _line: None,
    *,
    most_atoms: int = 0,
) -> Source:
    """Read a distilled set, or the foundational set that comes with potstill.

    Parameters
    ----------
    source : str
        ``foundation``, or any structure files.
    volume : float
        Å³ per atom at rest. 0: what the model beside the file says (`potstill distil` leaves it there), or else the
        frame of lowest energy.
    tell : callable
        Gets lines of progress.
    most_atoms : int
        Frames of more atoms are left out; 0 leaves none out.

    Raises
    ------
    DataError
        If the files cannot be read, nothing is left of them, or nothing says what the volume at rest is.
    """
    if source == FOUNDATION:
        return Source("the foundational set", _small(source, foundation(), most_atoms, tell), volume or 1.0)
    frames, _ = read_pool(source)
    data = Dataset(f for f in frames if f.volume is not None)
    if not len(data):
        raise DataError(f"{source}: expected frames that are periodic in all directions, but found none of them.")
    if len(data) < len(frames):
        tell(f"transfer: {len(frames) - len(data)} frames of {source} repeat others or are not periodic: left out")
    volume = volume or _at_rest(Path(source), data, tell)
    return Source(source, _small(source, data, most_atoms, tell).without_labels(), volume)


def _small(source: str, data: Dataset, most_atoms: int, tell: Callable[[str], None]) -> Dataset:
    if not most_atoms:
        return data
    small = Dataset(f for f in data if f.n_atoms <= most_atoms)
    if not len(small):
        least = min(f.n_atoms for f in data)
        raise DataError(
            f"{source}: expected frames of up to transfer.most_atoms = {most_atoms} atoms, but the least has {least}."
        )
    if len(small) < len(data):
        tell(f"transfer: {len(data) - len(small)} frames of {source} have more than {most_atoms} atoms: left out")
    return small


def _at_rest(path: Path, data: Dataset, tell: Callable[[str], None]) -> float:
    beside = path.parent / "model"
    if (beside / "model.json").is_file():
        model = load_model(beside)
        element = model.elements[0]
        try:
            start = crystals.prototype(crystals.ground_state(element), element, crystals.atomic_volume(element))
            atoms = crystals.relaxed(start, model.calculator(), isotropic=True)
            return float(atoms.get_volume()) / len(atoms)
        except ConvergenceError as error:
            tell(f"transfer: the model beside {path} does not say how dense its crystal is ({error})")
    told = [(f.labels.energy / f.n_atoms, (f.volume or 0.0) / f.n_atoms) for f in data if f.labels is not None]
    if not told:
        raise DataError(
            f"{path}: nothing says what volume an atom of its metal has at rest: there is no model beside the file, "
            "and its frames have no energies. Give --source-volume (Å³ per atom)."
        )
    volume = min(told)[1]
    tell(f"transfer: taking the volume of the frame of lowest energy for that at rest, {volume:.2f} Å³/atom")
    return volume


def scaled(frame: Frame, factor: float, symbols: Sequence[str]) -> Frame:
    """Return a frame with cell and positions multiplied, and other elements; its origin stays."""
    atoms = frame.atoms.copy()
    atoms.set_cell(atoms.cell.array * factor, scale_atoms=True)
    atoms.set_chemical_symbols(list(symbols))
    return Frame.of(atoms, frame.origin)


def to_metal(
    source: Source, n: int, composition: Mapping[str, float], volumes: Mapping[str, float], seed: int
) -> Dataset:
    """Return the first n frames as those of a metal or an alloy.

    Parameters
    ----------
    composition : mapping
        Share of each element; sites are occupied at random in these numbers. Shares that are all 0 mean the whole
        range: each frame draws its own.
    volumes : mapping
        Å³ per atom of each element's crystal at rest; an alloy's follows by Vegard's law.
    seed : int
        Decides who sits where.
    """
    elements = list(composition)
    frames = []
    for number, frame in enumerate(source.data[:n]):
        rng = np.random.default_rng([seed, 8, number])
        shares = np.array(list(composition.values()), float)
        shares = shares / shares.sum() if shares.any() else rng.dirichlet(np.ones(len(elements)))
        counts = _rounded(shares, frame.n_atoms, rng)
        symbols = rng.permutation(np.repeat(elements, counts))
        volume = float(np.dot(counts, [volumes[e] for e in elements])) / frame.n_atoms
        frames.append(scaled(frame, (volume / source.volume) ** (1 / 3), [str(s) for s in symbols]))
    return Dataset(frames)


def _rounded(shares: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return whole numbers that sum to n; what is left over goes at random, so that means are right."""
    counts = np.floor(shares * n + 1e-9).astype(int)
    left = n - int(counts.sum())
    if left:
        rest = np.maximum(shares * n - counts, 0.0)
        counts += rng.multinomial(left, rest / rest.sum())
    return counts


def beyond(source: Source, n: int, more: int) -> Source:
    """Return what follows the first n frames, at most ``more``."""
    return replace(source, data=source.data[n : n + more])


def check_budget(source: Source, budget: int) -> int:
    """Return how many frames are to be labelled; 0 means all.

    Raises
    ------
    ConfigError
        If the source has fewer.
    """
    if budget > len(source.data):
        raise ConfigError(
            f"A budget of {budget} labels was asked for, but {source.name} has {len(source.data)} frames. Lower "
            "transfer.budget, or let transfer.top_up add frames of the target's own."
        )
    return budget or len(source.data)

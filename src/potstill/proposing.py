"""Structures to be relaxed: random symmetric crystals, rattled and substituted prototypes, or MatterGen's.

A generative model is a program of its own, with weights that its user has; :func:`mattergen` runs it. What
:func:`propose` makes needs neither.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill import crystals
from potstill.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from ase import Atoms

COMMAND = "mattergen-generate"
BATCH = 16  # structures that MatterGen makes at a time
RATTLE = 0.08  # Å
STRAIN = 0.04
KINDS = ("random", "prototypes")
TRIES = 40  # for each structure


def propose(elements: Sequence[str], n: int, kinds: Sequence[str], rng: np.random.Generator) -> Iterator[Atoms]:
    """Yield structures, the kinds by turns.

    Parameters
    ----------
    elements : sequence of str
        Chemical symbols; sites are occupied at random where there are several, each element at least once.
    n : int
        How many.
    kinds : sequence of str
        ``random``: random space groups, 2 to 8 atoms (see :func:`potstill.crystals.random_symmetric`);
        ``prototypes``: known crystals, strained and rattled.
    rng : numpy Generator
        Decides all.

    Yields
    ------
    Atoms
        ``info["origin"]`` says what it was made from.

    Raises
    ------
    ConfigError
        If an element or a kind is unknown.
    """
    from ase.data import atomic_numbers

    unknown = [e for e in elements if atomic_numbers.get(e, 0) < 1]
    if unknown or not elements:
        raise ConfigError(f"Expected chemical symbols such as Ni, but found {', '.join(unknown) or 'none'}.")
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"Expected a kind among {', '.join(KINDS)}, but found {kind[:40]!r}.")
    volume = float(np.mean([crystals.atomic_volume(e) for e in elements]))
    made = 0
    for _ in range(TRIES * n):
        if made == n:
            return
        kind = kinds[made % len(kinds)]
        atoms = _prototype(volume, len(elements), rng) if kind == "prototypes" else _random(volume, rng)
        if atoms is None or len(atoms) < len(elements):
            continue
        atoms.set_chemical_symbols(_occupied(elements, len(atoms), rng))
        made += 1
        yield atoms


def _random(volume: float, rng: np.random.Generator) -> Atoms | None:
    atoms = crystals.random_symmetric("Ni", volume, rng)
    if atoms is not None:
        atoms.info["origin"] = "random symmetric crystal"
    return atoms


def _prototype(volume: float, n_elements: int, rng: np.random.Generator) -> Atoms:
    """Return a known crystal, large enough for all elements, strained and rattled."""
    name = str(rng.choice(list(crystals.PROTOTYPES)))
    atoms = crystals.prototype(name, "Ni", volume)
    while len(atoms) < n_elements:
        atoms = atoms.repeat([2 if k == int(np.argmin(atoms.cell.lengths())) else 1 for k in range(3)])
    bend = rng.normal(0.0, STRAIN, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (bend + bend.T)), scale_atoms=True)
    atoms.positions += rng.normal(0.0, RATTLE, atoms.positions.shape)
    atoms.info["origin"] = name
    return atoms


def _occupied(elements: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    sites = [*elements, *(str(s) for s in rng.choice(list(elements), size=n - len(elements)))]
    return [sites[k] for k in rng.permutation(n)]


def mattergen(elements: Sequence[str], n: int, folder: Path, *, model: str = "", command: str = "") -> Path:
    """Let MatterGen (Zeni et al. 2025, Nature 639, 624) propose structures; return the file that it wrote.

    Parameters
    ----------
    elements : sequence of str
        Passed to models that are conditioned on the chemical system.
    n : int
        How many; rounded up to whole batches of 16, or of n.
    folder : path
        Of its results.
    model : str
        Name of its pretrained model; ``mattergen_base`` without elements, ``chemical_system`` with them.
    command : str
        The program, where it is not ``mattergen-generate`` on the path.

    Raises
    ------
    BackendError
        If there is no such program, or it fails; its own last words are in the message.
    """
    program = shutil.which(command or COMMAND)
    if program is None:
        raise BackendError(
            f"MatterGen's program {(command or COMMAND)!r} is not on the path. Install it (pip install mattergen, in "
            "an environment of its own) and name it by --command, or leave --mattergen out."
        )
    batch = min(BATCH, n)
    name = model or ("chemical_system" if elements else "mattergen_base")
    words = [
        program,
        str(folder),
        f"--pretrained-name={name}",
        f"--batch_size={batch}",
        f"--num_batches={-(-n // batch)}",
    ]
    if elements and "chemical_system" in name:
        system = "-".join(sorted(elements))
        words += [f"--properties_to_condition_on={{'chemical_system': '{system}'}}", "--diffusion_guidance_factor=2.0"]
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603 - the user's own program
    written = folder / "generated_crystals.extxyz"
    if done.returncode or not written.is_file():
        last = " ".join((done.stderr or done.stdout).split())[-400:]
        raise BackendError(f"MatterGen ended with {done.returncode} and wrote no {written}. Its last words: {last}")
    return written

"""Labels by content, never lost.

A label is a pure function of the structure and the potential's fingerprint, and its key is a hash of both. An entry is
one text of JSON that is there whole or not at all, wherever it is kept (``shelves.py``). Floats are written with all
their digits, so a label comes back bit for bit. Several drivers, on several machines, may share a store; where two
write the same label they write the same content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.data import Failure, Frame, Labels, Origin
from potstill.errors import DataError, StoreError
from potstill.store.shelves import shelf
from potstill.store.stages import FORMAT


@dataclass(frozen=True)
class Entry:
    """What a store knows of a structure by one reference.

    Attributes
    ----------
    frame : Frame
        The structure, with its labels where they could be made.
    result : Labels | Failure
        What came of it; its ``source`` is the reference's fingerprint.
    """

    frame: Frame
    result: Labels | Failure


def label_key(frame: Frame, source: str) -> str:
    """Return the store's key of a structure by a reference with this fingerprint."""
    return hashlib.sha256(f"{frame.key} {source}".encode()).hexdigest()[:40]


class LabelStore:
    """Labels by content, in a folder or in a PostgreSQL database.

    An entry that is no JSON any more (a power cut on a file system that reorders writes, a disk that failed) is set
    aside under another name and counts as never made; :attr:`set_aside` lists what was.

    Parameters
    ----------
    where : path or str
        A folder, made with the first label, or ``postgresql://user@host/name``.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        self.shelf = shelf(where)
        self.set_aside: list[str] = []

    def get(self, frame: Frame, source: str) -> Labels | Failure | None:
        """Return what is known: labels, a failure, or None where nothing was tried.

        Raises
        ------
        StoreError
            If the entry was written by another version.
        """
        entry = self._read(label_key(frame, source))
        return None if entry is None else _result(entry, frame.key)

    def put(self, frame: Frame, result: Labels | Failure) -> None:
        """Commit a result; when this returns, it survives a crash."""
        text = json.dumps(_entry(frame, result), separators=(",", ":"), allow_nan=False)
        self.shelf.write(label_key(frame, result.source), text.encode())

    def forget(self, entry: Entry) -> None:
        """Delete an entry, so that its label is made again when it is asked for."""
        self.shelf.delete(label_key(entry.frame, entry.result.source))

    def entries(self) -> Iterator[Entry]:
        """Read all entries, in the order of their keys.

        Raises
        ------
        StoreError
            If an entry was written by another version, or is not of the structure that its name says.
        """
        for key in self.shelf:
            entry = self._read(key)
            if entry is None:
                continue
            where = self.shelf.where(key)
            frame = _frame(entry, where)
            result = _result(entry, frame.key)
            if label_key(frame, result.source) != key:
                raise StoreError(f"{where} is not the label of the structure that its name stands for. Delete it.")
            yield Entry(frame.labelled(result) if isinstance(result, Labels) else frame, result)

    def __len__(self) -> int:
        return len(self.shelf)

    def _read(self, key: str) -> dict[str, Any] | None:
        text = self.shelf.read(key)
        if text is None:
            return None
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):  # not JSON, or not text
            aside = self.shelf.put_aside(key)
            self.set_aside.extend([aside] if aside else [])
            return None
        if not isinstance(entry, dict) or entry.get("format") != FORMAT or not {"failure", "energy"} & set(entry):
            raise StoreError(
                f"{self.shelf.where(key)} should be a label of format {FORMAT}, but is not. Delete it, and the label "
                "is made again; or use the version of potstill that wrote it."
            )
        return entry


def _entry(frame: Frame, result: Labels | Failure) -> dict[str, Any]:
    a = frame.atoms
    entry: dict[str, Any] = {
        "format": FORMAT,
        "source": result.source,
        "frame": frame.key,
        "numbers": a.numbers.tolist(),
        "positions": a.positions.tolist(),
        "cell": a.cell.array.tolist(),
        "pbc": a.pbc.tolist(),
    }
    if isinstance(result, Failure):
        entry["failure"] = {"reason": result.reason, "message": result.message, "attempts": result.attempts}
        return entry
    entry["energy"] = result.energy
    entry["forces"] = result.forces.tolist()
    entry["stress"] = None if result.stress is None else result.stress.tolist()
    if result.energies is not None:  # else no key at all: so entries had been before these could be known
        entry["energies"] = result.energies.tolist()
    return entry


def _result(entry: dict[str, Any], frame: str) -> Labels | Failure:
    source = str(entry["source"])
    if "failure" in entry:
        return Failure(frame, source=source, **entry["failure"])
    return Labels(
        float(entry["energy"]),
        np.array(entry["forces"], dtype=np.float64).reshape(-1, 3),
        None if entry["stress"] is None else np.array(entry["stress"], dtype=np.float64),
        source,
        np.array(entry["energies"], dtype=np.float64) if "energies" in entry else None,
    )


def _frame(entry: dict[str, Any], where: str) -> Frame:
    from ase import Atoms

    try:
        atoms = Atoms(entry["numbers"], positions=entry["positions"], cell=entry["cell"], pbc=entry["pbc"])
        return Frame.of(atoms, Origin("store", "store"))
    except (KeyError, ValueError, TypeError, DataError) as error:
        raise StoreError(f"{where} holds no structure ({error}). Delete it, and the label is made again.") from None

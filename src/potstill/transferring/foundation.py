"""The foundational set: configurations for any metal, shipped with potstill, an atom of whose crystal has 1 Å³."""

from __future__ import annotations

import gzip
import io
import json
from functools import cache
from importlib import resources
from typing import Any

from potstill.data import Dataset, Frame, Origin
from potstill.errors import DataError

FOUNDATION = "foundation"
FILE, CARD = "foundation.extxyz.gz", "foundation.json"


@cache
def card() -> dict[str, Any]:
    """Return what is in the set, how it was made, what it covers, and its licence."""
    text = (resources.files("potstill.transferring") / CARD).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def foundation() -> Dataset:
    """Return the set, in the order of choice: the first n frames are the best n. All atoms are called H.

    Raises
    ------
    DataError
        If the file is not the one that the card describes.
    """
    from ase.io import iread

    packed = (resources.files("potstill.transferring") / FILE).read_bytes()
    text = gzip.decompress(packed).decode()
    frames = []
    for k, atoms in enumerate(iread(io.StringIO(text), format="extxyz")):
        kind = str(atoms.info["kind"])
        frames.append(Frame.of(atoms, Origin("foundation", kind, step=k)))
    if len(frames) != card()["n_frames"]:
        raise DataError(f"The foundational set has {len(frames)} frames, but its card says {card()['n_frames']}.")
    return Dataset(frames)

"""Limits of what is read from files that are not trusted, the faults they may have, and how their words are shown."""

from __future__ import annotations

import lzma
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass

from potstill.errors import DataError

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (which turns the direction of reading), halves, line ends


@dataclass(frozen=True)
class Limits:
    """What is read at most.

    Attributes
    ----------
    structures : int
        In all, those that are refused included.
    atoms : int
        Of a structure.
    file_bytes : int
        Of a file, packed or not, and of a member of an archive once unpacked.
    unpacked_bytes : int
        Of an archive's members together.
    members : int
        Of an archive.
    ratio : float
        Unpacked bytes for each packed one.
    free_bytes : int
        Unpacked bytes from which ``ratio`` counts.
    name : int
        Characters of a ``source``; a longer one loses its middle.
    """

    structures: int = 100_000
    atoms: int = 10_000
    file_bytes: int = 512 * 2**20
    unpacked_bytes: int = 2**30
    members: int = 100_000
    ratio: float = 200.0
    free_bytes: int = 10 * 2**20
    name: int = 200

    @property
    def text_bytes(self) -> int:
        """Of the text of a structure, in formats that are read structure by structure."""
        return 2**16 + 512 * self.atoms


class StructureError(DataError):
    """One structure, file or member cannot be used; what follows it can."""


class ArchiveError(DataError):
    """Nothing more of an archive may or can be read."""


# What a broken or hostile file makes the standard library raise.
BROKEN = (
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # also NotImplementedError of zipfile
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def shown(text: str, length: int) -> str:
    """Return text that can be shown anywhere but in a page's source: one line, no control characters, not long."""
    if len(text) > length:
        kept = length - 1
        text = f"{text[: kept // 3]}…{text[len(text) - (kept - kept // 3) :]}"
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _HIDDEN else c for c in text)


def quoted(text: str) -> str:
    """Return a word of a file as it may stand in a sentence."""
    return f"'{shown(text.strip(), 60)}'"


def said(error: Exception) -> str:
    """Return what an error of a library says, on one line."""
    return shown(f"{type(error).__name__}: {error}", 200).rstrip(".: ")


def size_of(n: int) -> str:
    """Return a number of bytes for a sentence."""
    return f"{n / 2**20:,.0f} MiB" if n >= 2**20 else f"{n:,} bytes"

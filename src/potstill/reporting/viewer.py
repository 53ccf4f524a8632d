"""Structures in three dimensions on a page, by 3Dmol.js 2.5.5 as npm has it.

Rego & Koes 2015, Bioinformatics 31, 1322.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files


def viewer() -> dict[str, str]:
    """Return what ``viewer.html`` needs: the library, and its licence."""
    folder = files("potstill.reporting") / "3Dmol"
    return {
        "viewer": (folder / "3Dmol-min.js").read_text(encoding="utf-8"),
        "licence": (folder / "LICENSE").read_text(encoding="utf-8"),
    }


def within(most: int, sketches: Iterable[str | None]) -> list[str | None]:
    """Return structures as long as they are no more than so many bytes together, and None from there on."""
    left, kept = most, []
    for sketch in sketches:
        left -= len(sketch or "")
        kept.append(sketch if left >= 0 else None)
    return kept

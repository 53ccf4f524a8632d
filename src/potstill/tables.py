"""Rows of text as a table, on a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[str]]


def text(rows: Rows, *, right: bool = False) -> str:
    """Write rows, heads first, as a table for a terminal."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = (
        "  ".join(cell.rjust(w) if right else cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def html(title: str, rows: Rows) -> str:
    """Write rows, heads first, as a table for a notebook; all text is escaped."""
    head, *body = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f"<p><b>{escape(title)}</b></p><table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"

"""What commands share: options, lines of progress, and settings from a file and overrides."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from potstill.cli.live import Terminal

Out = Annotated[Path, typer.Option("--out", "-o", help="Where results go; resumed when it exists.")]
Seed = Annotated[int, typer.Option(help="Decides everything that is drawn at random.", min=0)]
Workers = Annotated[int, typer.Option(help="Processes; 0 means one a core.", min=0)]
SeedOrNone = Annotated[int | None, typer.Option(help="Decides everything that is drawn at random.", min=0)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the configuration: section.key=value.")
]


_terminal: list[Terminal] = []  # the one that shows progress, while it does


def tell(line: str) -> None:
    """Print a line of progress to standard error; a terminal shows how far the work is, too."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        typer.echo(line, err=True)
        return
    if not _terminal:
        from potstill.cli.live import Terminal

        _terminal.append(Terminal())
    _terminal[0].tell(line)


def quiet() -> None:
    """End what a terminal shows of progress."""
    while _terminal:
        _terminal.pop().close()

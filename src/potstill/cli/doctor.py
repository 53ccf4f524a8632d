"""``potstill doctor``: which references work on this machine, and what to install for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from potstill.errors import BackendError

if TYPE_CHECKING:
    from potstill.backends.doctor import Finding


def doctor(
    reference: Annotated[
        list[str] | None, typer.Option(help="Only this one; fails where it does not work. May be given several times.")
    ] = None,
) -> None:
    """Try each reference with one atom; say what to install for those that do not work."""
    from potstill.backends import doctor as ward

    typer.echo(ward.machine())
    broken = []
    for recipe in reference or ward.REFERENCES:
        found = ward.reference(recipe)
        _print(found)
        broken += [] if found.works else [recipe]
    if reference:
        if broken:
            raise BackendError(f"Of the references asked for, {', '.join(broken)} cannot be used here: see above.")
        return
    for found in ward.others():
        _print(found)


def _print(found: Finding) -> None:
    typer.echo(f"{'works  ' if found.works else 'missing'}  {found.name:26s} {found.told}")

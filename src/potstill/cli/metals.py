"""Other metals than the one that was distilled: transfer and grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import Out, Overrides, SeedOrNone, tell


def transfer(
    out: Out,
    source: Annotated[
        str,
        typer.Argument(help="foundation, or a file of distilled frames; empty: the configuration's transfer.source."),
    ] = "",
    to: Annotated[
        list[str] | None, typer.Option(help="A metal, as Nb, or an alloy, as Ni3Al or Ni-Al; may be given again.")
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Potential that labels: lammps:FILE, or Al=lammps:FILE and again for each target."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Labels of each target to learn from; 0: all frames.", min=0)
    ] = None,
    judge: Annotated[int | None, typer.Option(help="Labels to judge by.", min=0)] = None,
    warm: Annotated[Path | None, typer.Option(help="A model whose weights the training begins with.")] = None,
    top_up: Annotated[
        int | None,
        typer.Option(
            help="Frames to add where the gap is widest: of the target's own run, or generated crystals.", min=0
        ),
    ] = None,
    source_volume: Annotated[
        float | None, typer.Option(help="Å³ per atom of the source's crystal at rest, where nothing else tells.", min=0)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file whose [transfer] and other sections are used.")] = None,
    overrides: Overrides = None,
    seed: SeedOrNone = None,
) -> None:
    """Step 4: configurations of one metal to others: scaled, labelled anew, learnt and judged; nothing is sampled."""
    from potstill.verbs.metals import transfer as do

    own, common = {}, None
    for text in reference or []:
        target, equals, recipe = text.partition("=")
        if equals and target in (to or []):
            own[target] = recipe
        else:
            common = text
    more = [*([] if common is None else [f"label.reference={json.dumps(common)}"]), *(overrides or [])]
    found = do(
        source, to, out=out, reference=own or None, config=config, seed=seed, overrides=more, tell=tell,
        budget=budget, judge=judge, warm=warm, top_up=top_up, source_volume=source_volume,
    )  # fmt: skip
    typer.echo(f"{found}")
    typer.echo(f"{out / 'transfer.json'}")
    if all("failed" in row for row in found.rows):
        raise typer.Exit(1)


def grow(
    element: Annotated[str, typer.Option(help="Chemical symbol.")],
    reference: Annotated[str, typer.Option(help="Potential that labels, such as espresso, gpaw or lammps:FILE.")],
    out: Out,
    budget: Annotated[int, typer.Option(help="Labels to learn from.", min=2)] = 150,
    judge: Annotated[int | None, typer.Option(help="Labels to judge by.", min=0)] = None,
    source: Annotated[str, typer.Option(help="Where it begins: foundation, or a file of frames.")] = "foundation",
    config: Annotated[Path | None, typer.Option(help="TOML file whose sections are used.")] = None,
    overrides: Overrides = None,
    seed: SeedOrNone = None,
) -> None:
    """Grow a potential for a metal that has none: the model's own runs say which labels it lacks."""
    from potstill.verbs.metals import grow as do

    found = do(
        element, reference, out=out, budget=budget, judge=judge, source=source, config=config, seed=seed,
        overrides=overrides or [], tell=tell,
    )  # fmt: skip
    (row,) = found.rows
    typer.echo(f"{found}")
    typer.echo(f"{len(row['generations'])} generations; stopped because {row['stopped']}")
    typer.echo(f"{out / 'report.html'}")

"""Structures that somebody proposes: propose, relax."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import Out, Overrides, Seed, Workers, tell


def propose(
    out: Annotated[Path, typer.Option("--out", "-o", help="File of structures, extended XYZ.")],
    element: Annotated[list[str] | None, typer.Option(help="Chemical symbol; may be given again.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many.", min=1, max=1_000_000)] = 200,
    kind: Annotated[
        list[str] | None, typer.Option(help="random (symmetric crystals), prototypes (rattled); both by turns.")
    ] = None,
    mattergen: Annotated[
        str, typer.Option(help="Let MatterGen propose, by this pretrained model, such as mattergen_base.")
    ] = "",
    command: Annotated[str, typer.Option(help="MatterGen's program, where it is not on the path.")] = "",
    seed: Seed = 1,
) -> None:
    """Propose structures to relax: random crystals, rattled prototypes, or MatterGen's."""
    from potstill.data import write_atomic
    from potstill.proposing import KINDS
    from potstill.proposing import mattergen as run_mattergen
    from potstill.verbs.proposed import propose as do

    if mattergen or command:
        written = run_mattergen(element or [], n, out.with_suffix(""), model=mattergen, command=command)
        write_atomic(out, written.read_bytes())
        typer.echo(f"{out}: MatterGen's structures; all that it wrote is in {out.with_suffix('')}")
        return
    made = do(element or [], n, kinds=kind or KINDS, seed=seed)
    made.save(out)
    typer.echo(f"{out}: {len(made)} structures")


def relax(
    paths: Annotated[
        list[str], typer.Argument(help="Structures: files, folders, quoted patterns, zip and tar archives.")
    ],
    model: Annotated[str, typer.Option(help="A trained model's folder, or any potential such as lammps:FILE.")],
    out: Out,
    metal: Annotated[
        str, typer.Option("--as", help="Replace all elements by this metal, and scale to its volume.")
    ] = "",
    known: Annotated[Path | None, typer.Option(help="Structures that are no news.")] = None,
    pressure: Annotated[float, typer.Option(help="GPa.", min=-50, max=1000)] = 0.0,
    force_tolerance: Annotated[float, typer.Option(help="eV/Å.", min=1e-6)] = 0.01,
    steps: Annotated[int, typer.Option(help="Limit for each structure.", min=1)] = 500,
    seconds: Annotated[float, typer.Option(help="Limit for a batch of structures; 0: none.", min=0)] = 0.0,
    fixed_cell: Annotated[bool, typer.Option("--fixed-cell", help="Move the atoms only.")] = False,
    free: Annotated[
        bool, typer.Option("--free-symmetry", help="Let rounding break the symmetry that a structure begins with.")
    ] = False,
    nudge: Annotated[
        bool, typer.Option("--nudge", help="Push what came to rest a little, so that no saddle passes for a crystal.")
    ] = False,
    learn: Annotated[
        int,
        typer.Option(help="Labels to learn from where structures are uncertain, before they are relaxed again.", min=0),
    ] = 0,
    reference: Annotated[str, typer.Option(help="With --learn: potential that labels.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="With --learn: what the model was trained on; else distilled.extxyz beside it.")
    ] = None,
    judge: Annotated[str, typer.Option(help="A potential that relaxes the same starts, to compare with.")] = "",
    config: Annotated[Path | None, typer.Option(help="With --learn: TOML file whose sections are used.")] = None,
    overrides: Overrides = None,
    seed: Seed = 1,
    workers: Workers = 0,
) -> None:
    """Step 5: relax proposed structures, and say of each whether its energy is to be believed."""
    from potstill.relaxing import How
    from potstill.verbs.proposed import relax as do

    found = do(
        paths, model, out=out, metal=metal, known=known, learn=learn, reference=reference, data=data, judge=judge,
        how=How(force_tolerance, pressure, not fixed_cell, steps, seconds, not free, nudge),
        config=config, seed=seed, workers=workers, overrides=overrides or [], tell=tell,
    )  # fmt: skip
    typer.echo(f"{found}")
    written = ("relax.html", "relax.json", "relax.csv", "relaxed.extxyz", "cif")
    typer.echo(", ".join(str(out / name) for name in written))

"""What a run's directory says: report, explain, status, watch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potstill.cli.options import Overrides, tell

if TYPE_CHECKING:
    from potstill.store import Stage


def report(directory: Annotated[Path, typer.Argument(help="A run.")]) -> None:
    """Write the page of a run again."""
    from potstill.reporting import report as write

    write(directory)
    typer.echo(f"{directory / 'report.html'}")


def explain(
    directory: Annotated[Path, typer.Argument(help="A run.")],
    config: Annotated[
        Path | None,
        typer.Argument(help="A configuration to compare with; the run's own where none is given."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Say which stages would run again, and why."""
    from potstill.store import RunDir

    for verdict in RunDir(directory).explain(_stages_of(directory, config, overrides)):
        state = "would run: " + "; ".join(verdict.reasons) if verdict.runs else "up to date"
        typer.echo(f"{verdict.stage:<9} {state}")


def _stages_of(directory: Path, config: Path | None, overrides: list[str] | None) -> list[Stage]:
    from potstill.config import load_config
    from potstill.errors import StoreError
    from potstill.pipeline import stages

    own = directory / "config.toml"
    if config is None and not own.is_file():
        raise StoreError(f"{directory} is not a run: it has no config.toml. Give the --out of `potstill run`.")
    return stages(load_config(config or own, overrides or []), directory, tell)


def status(directory: Annotated[Path, typer.Argument(help="A run.")]) -> None:
    """Show what a run has done so far; works from another terminal while it runs."""
    from potstill.config import load_config
    from potstill.reporting import state
    from potstill.store import LabelStore

    found = state(directory)
    for stage in found["stages"]:
        how = f"done in {stage['seconds']:.0f} s, {stage['finished']}" if stage["state"] == "done" else stage["state"]
        typer.echo(f"{stage['name']:<9} {how}")
    if found["labels"]:
        typer.echo(f"labels    {found['labels']}")
    store = LabelStore(load_config(directory / "config.toml", []).label.store or directory / "labels")
    counts = ", ".join(f"{n} {name}" for name, n in found["counts"].items())
    typer.echo(f"{counts}, {len(store)} labels")
    if found["error"]:
        typer.echo(found["error"])
    typer.echo(f"running as process {found['process']}" if found["process"] else "not running")


def watch(
    directory: Annotated[Path, typer.Argument(help="A run.")],
    port: Annotated[int, typer.Option(help="0: one that is free.", min=0, max=65535)] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen at; another than 127.0.0.1 lets other machines read the run.")
    ] = "127.0.0.1",
) -> None:
    """Serve a page that follows a run, to this machine only; read-only, until Ctrl-C."""
    from potstill.reporting import Watch

    with Watch(directory, port, host) as server, suppress(KeyboardInterrupt):
        typer.echo(server.url)
        server.serve_forever()

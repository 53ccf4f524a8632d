"""Configurations: template, schema, check, reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from potstill.cli.options import Overrides, tell
from potstill.errors import ConfigError

config_app = typer.Typer(help="Write, check and explain configurations.", no_args_is_help=True)


@config_app.command()
def template(
    element: Annotated[str, typer.Option(help="Chemical symbol.")] = "Ni",
    potential: Annotated[
        str, typer.Option(help="Potential that samples; empty: one of LAMMPS's own that knows the element.")
    ] = "",
    reference: Annotated[str, typer.Option(help="Potential that labels; empty: the same.")] = "",
) -> None:
    """Print a commented configuration that runs."""
    from potstill.backends.lammps import shipped
    from potstill.config import Config, parse_config, to_toml

    usual = Config()
    if not potential and element == usual.sample.element:
        potential = usual.sample.potential
    elif not potential:
        known = shipped(element)
        if not known:
            raise ConfigError(
                f"None of LAMMPS's own potentials knows {element!r}, so nothing can sample it. Give --potential, or "
                f"begin without one: potstill grow --element {element} --reference {reference or 'gpaw'}."
            )
        potential = f"lammps:{known[0]}"
    raw = {"sample": {"element": element, "potential": potential}, "label": {"reference": reference}}
    typer.echo(to_toml(parse_config(raw), comments=True), nl=False)


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of configurations, for editors that complete and check TOML."""
    from potstill.config import Config

    made = Config.model_json_schema(by_alias=True)
    typer.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=1))


@config_app.command()
def check(config: Annotated[Path, typer.Argument(help="The TOML file.")], overrides: Overrides = None) -> None:
    """Say whether a configuration is right, potentials included."""
    from potstill.config import load_config
    from potstill.pipeline import stages

    settings = load_config(config, overrides or [])
    stages(settings, Path("unused"), tell)
    s = settings.sample
    d = settings.distil
    typer.echo(
        f"{config} is right: {s.element} sampled by {s.potential}, {s.ensemble}, labelled by "
        f"{settings.reference}, {d.budget} labels to learn from and {d.holdout} to judge by."
    )


@config_app.command("reference")
def config_reference() -> None:
    """List every key with its default and what it means."""
    from potstill.config import knobs

    for key, default, sentence in knobs():
        shown = json.dumps(default, ensure_ascii=False)
        typer.echo(f"{key} = {shown}\n    {sentence}")

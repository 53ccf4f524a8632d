"""The command line: one function a command, no physics. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from potstill.cli.card import print_card
from potstill.cli.configs import config_app
from potstill.cli.doctor import doctor
from potstill.cli.labels import labels
from potstill.cli.metals import grow, transfer
from potstill.cli.options import Out, Overrides, Seed, SeedOrNone, Workers, quiet, tell
from potstill.cli.proposed import propose, relax
from potstill.cli.runs import explain, report, status, watch
from potstill.errors import ConfigError, PotstillError, StoreError

app = typer.Typer(
    help="Distil the data that a neural-network interatomic potential needs: sample, distil, train, prove.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config_app, name="config")
for _verb in (labels, doctor, transfer, grow, propose, relax, report, explain, status, watch):
    app.command()(_verb)

Labeller = Annotated[
    str | None, typer.Option(help="Labeller, such as lammps:FILE; without it the file's own labels are revealed.")
]
PoolOnly = Annotated[
    bool, typer.Option("--pool-only", help="No generated crystals, slabs and defects beside the pool.")
]


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes the run.")],
    out: Out,
    overrides: Overrides = None,
) -> None:
    """Do the whole path: sample, distil, validate, report."""
    from potstill.verbs.runs import run as do

    done = do(config, out, overrides=overrides or [], tell=tell)
    if done.ran:
        typer.echo(f"{done}")
    else:
        tell(f"Nothing to do: every stage of {out} is up to date. The page is {out / 'report.html'}.")


@app.command()
def sample(
    out: Out,
    element: Annotated[str | None, typer.Option(help="Chemical symbol; Ni where nothing else is said.")] = None,
    potential: Annotated[str | None, typer.Option(help="Potential that drives the dynamics.")] = None,
    ensemble: Annotated[
        str | None,
        typer.Option(help="multiorder-multithermal, multithermal, multibaric-multithermal or npt-ladder."),
    ] = None,
    temperature: Annotated[str | None, typer.Option(help="K: LOWEST:HIGHEST, or rungs of the ladder.")] = None,
    pressure: Annotated[str | None, typer.Option(help="GPa: one, or LOWEST:HIGHEST.")] = None,
    atoms: Annotated[str | None, typer.Option(help="Atoms in a cell; several sizes as 32:108.")] = None,
    frames: Annotated[int | None, typer.Option(help="Configurations to keep (extended ensembles).", min=1)] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file whose [sample] section is used.")] = None,
    overrides: Overrides = None,
    seed: SeedOrNone = None,
    workers: Workers = 0,
) -> None:
    """Step 1: make a pool of configurations by molecular dynamics. --out is a folder or an .extxyz file."""
    from potstill.verbs.pools import sample as do

    made = do(
        element, potential, out=out, config=config, overrides=overrides or [], seed=seed, workers=workers, tell=tell,
        ensemble=ensemble, temperature=temperature, pressure=pressure, atoms=atoms, frames=frames,
    )  # fmt: skip
    typer.echo(f"{made}")


@app.command()
def label(
    file: Annotated[Path, typer.Argument(help="Structures to label.")],
    reference: Annotated[str, typer.Option(help="Potential that labels.")],
    out: Out,
    workers: Workers = 0,
    retries: Annotated[int, typer.Option(help="Further attempts after a failed one.", min=0)] = 2,
    timeout: Annotated[
        float, typer.Option(help="s. A label that takes longer is a failure; 0: no limit.", min=0)
    ] = 0.0,
    overrides: Overrides = None,
) -> None:
    """Step 2a: energy, forces and stress from a reference."""
    from potstill.verbs.learnt import label as do

    own = [f"label.retries={retries}", f"label.timeout={timeout}", *(overrides or [])]
    result = do(file, reference, out=out, overrides=own, workers=workers, tell=tell)
    typer.echo(f"{len(result.data)} labelled, {len(result.failures)} failed: {out / 'labelled.extxyz'}")


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Labelled structures.")],
    out: Out,
    members: Annotated[int, typer.Option(help="Networks in the committee.", min=1)] = 4,
    valid: Annotated[Path | None, typer.Option(help="Labelled structures to calibrate the spread on.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; else train.steps, and more for more than 100 frames.", min=0)
    ] = None,
    model: Annotated[
        str, typer.Option(help="Kind of network: potstill, or mace, which is slower and needs potstill[mace].")
    ] = "potstill",
    start: Annotated[Path | None, typer.Option(help="A model to go on from, of another metal perhaps.")] = None,
    seed: Seed = 1,
    overrides: Overrides = None,
) -> None:
    """Step 2b: train a committee of neural-network potentials."""
    from potstill.verbs.learnt import train as do

    committee = do(
        data, valid=valid, members=members, steps=steps, model=model, start=start, seed=seed,
        overrides=overrides or [], tell=tell,
    )  # fmt: skip
    committee.save(out)
    typer.echo(f"{committee!r}: {out}")


@app.command()
def select(
    pool: Annotated[Path, typer.Argument(help="Candidates.")],
    n: Annotated[int, typer.Option("--n", "-n", help="How many to choose.", min=1)],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the chosen frames, extended XYZ.")],
    selector: Annotated[
        str,
        typer.Option(help="How: potstill, random, fps, committee, leverage, last-layer, entropy, cover, direct."),
    ] = "potstill",
    model: Annotated[Path | None, typer.Option(help="A trained model; committee and last-layer need one.")] = None,
    known: Annotated[Path | None, typer.Option(help="Frames that are known already.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(help="Read frames as they are needed, by fps and random; else only pools over 500 MB are."),
    ] = None,
    seed: Seed = 1,
) -> None:
    """Step 2c: choose frames of a pool, once."""
    from potstill.verbs.pools import select as do

    folder = out.with_name(out.name + ".run")
    chosen = do(
        pool, n, selector=selector, model=model, known=known, stream=stream, folder=folder, seed=seed, tell=tell
    )
    chosen.save(out)
    typer.echo(f"{len(chosen)} frames by {selector}: {out}")


@app.command()
def distil(
    pool: Annotated[
        Path, typer.Argument(help="The pool: any structure file that ASE reads, a folder of them, or a quoted pattern.")
    ],
    budget: Annotated[int, typer.Option(help="Labels to learn from.", min=1)],
    out: Out,
    selector: Annotated[
        str,
        typer.Option(help="How frames are chosen: potstill, random, fps, leverage, direct, cover, entropy, …"),
    ] = "potstill",
    reference: Labeller = None,
    pool_only: PoolOnly = False,
    seed: Seed = 1,
    workers: Workers = 0,
    overrides: Overrides = None,
) -> None:
    """Step 2: from a pool to the few frames that teach a potential, and the potential trained on them."""
    from potstill.verbs.learnt import distil as do

    result = do(
        pool, budget, out=out, reference=reference, selector=selector, pool_only=pool_only, seed=seed,
        workers=workers, overrides=overrides or [], tell=tell,
    )  # fmt: skip
    if not result.ran:
        typer.echo(f"Nothing to do: {out} holds this result already.")
    typer.echo(f"{result}")
    if result.summary["errors"]:
        _print_errors(result.summary["errors"])
    if alone := result.summary.get("errors_pool_only"):  # not told by versions before
        typer.echo("learnt from its frames of the pool alone (model-pool-only):")
        _print_errors(alone)


@app.command()
def compare(
    pool: Annotated[Path, typer.Argument(help="The pool.")],
    selectors: Annotated[str, typer.Option(help="Names, with commas between; random is always among them.")],
    budgets: Annotated[str, typer.Option(help="Labels to learn from, with commas between.")],
    out: Out,
    seeds: Annotated[int, typer.Option(help="Repetitions of every selector.", min=1)] = 5,
    test: Annotated[
        Path | None,
        typer.Option(help="Labelled frames to judge by; else whole trajectories of the pool are set apart."),
    ] = None,
    also: Annotated[
        list[Path] | None, typer.Option(help="Further labelled frames to judge by: hotter, strained, another phase.")
    ] = None,
    reference: Labeller = None,
    pool_only: PoolOnly = False,
    seed: Seed = 1,
    workers: Workers = 0,
    overrides: Overrides = None,
) -> None:
    """Which selector is best on a pool: learning curves of each, with error bars over seeds."""
    from potstill.verbs.learnt import compare as do

    names = [name.strip() for name in selectors.split(",") if name.strip()]
    try:
        sizes = [int(n) for n in budgets.split(",")]
    except ValueError:
        raise ConfigError(f"--budgets are whole numbers with commas between, but {budgets!r} was given.") from None
    found = do(
        pool, names, sizes, out=out, seeds=seeds, test=test, also=also or [], reference=reference,
        pool_only=pool_only, seed=seed, workers=workers, overrides=overrides or [], tell=tell,
    )  # fmt: skip
    typer.echo(f"{found}")
    typer.echo(f"{out / 'comparison.json'}, {out / 'comparison.png'}")


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="A trained model's folder, or any potential such as lammps:FILE.")],
    reference: Annotated[str, typer.Option(help="The potential that is trusted.")],
    out: Out,
    element: Annotated[
        str, typer.Option(help="Chemical symbol of the crystals, where both potentials know several elements.")
    ] = "",
    holdout: Annotated[Path | None, typer.Option(help="Labelled frames that were not learnt from.")] = None,
    checks: Annotated[str, typer.Option(help="quick, all, or names with commas; validate.checks if not given.")] = "",
    lattice: Annotated[
        str, typer.Option(help="fcc, bcc or hcp: the ground state; the element's own if not given.")
    ] = "",
    workers: Workers = 0,
    overrides: Overrides = None,
) -> None:
    """Step 3: examine model and reference alike, from relaxed crystals to melting, and say whether they agree."""
    from potstill.verbs.judged import validate as do

    names = [c.strip() for c in checks.split(",") if c.strip()]
    verdict = do(
        model, reference, out=out, element=element, holdout=holdout, checks=names, lattice=lattice, workers=workers,
        overrides=overrides or [], tell=tell,
    )  # fmt: skip
    _print_polymorphs(verdict.summary["polymorphs"])
    print_card(verdict.summary["card"])
    typer.echo(f"{out / 'validation.json'}")


def _print_polymorphs(result: dict[str, Any]) -> None:
    typer.echo(f"{'crystal':<8} {'E − E₀ (meV/atom)':>28} {'volume (Å³/atom)':>22}")
    typer.echo(f"{'':<8} {'model':>9} {'reference':>10} {'diff':>7} {'model':>10} {'reference':>11}")
    for row in result["crystals"]:
        if row["relative_energy_error"] is None:
            reason = row["nnp"].get("failed") or row["reference"].get("failed")
            typer.echo(f"{row['crystal']:<8} not relaxed: {reason}")
            continue
        m, r = row["nnp"], row["reference"]
        typer.echo(
            f"{row['crystal']:<8} {m['relative_energy']:>9.1f} {r['relative_energy']:>10.1f} "
            f"{row['relative_energy_error']:>7.1f} {m['volume']:>10.3f} {r['volume']:>11.3f}"
        )
    typer.echo(
        f"ground state {'right' if result['ground_state_right'] else 'WRONG'}, "
        f"order of stability {'right' if result['order_right'] else 'not the same'}"
    )


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A trained model's folder, or any potential such as lammps:FILE.")],
    data: Annotated[Path, typer.Argument(help="Labelled structures.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Errors of a potential on labelled structures."""
    from potstill.verbs.judged import evaluate as do

    errors = do(model, data, tell=tell).as_dict()
    if as_json:
        typer.echo(json.dumps(errors, indent=1))
    else:
        _print_errors(errors)


def _print_errors(errors: dict[str, Any]) -> None:
    energy, force, stress = (
        (errors["energy_rmse_mev_per_atom"], errors["energy_mae_mev_per_atom"]),
        (errors["force_rmse_ev_per_angstrom"], errors["force_mae_ev_per_angstrom"]),
        errors["stress_rmse_gpa"],
    )
    typer.echo(
        f"{errors['n_frames']} frames\n"
        f"energy  RMSE {energy[0]:9.3f} meV/atom   MAE {energy[1]:9.3f}\n"
        f"forces  RMSE {force[0]:9.4f} eV/Å       MAE {force[1]:9.4f}\n"
        + (f"stress  RMSE {stress:9.3f} GPa" if stress is not None else "stress  not in the data")
    )


def main() -> None:
    """Run the command line; errors of ours become one paragraph and an exit code."""
    logging.captureWarnings(capture=True)
    try:
        try:
            app()
        finally:
            quiet()
    except PotstillError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written, a file where a folder should be
        typer.echo(f"StoreError: {error}. What was finished is kept.", err=True)
        sys.exit(StoreError.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted. What was finished is kept; the same command goes on from there.", err=True)
        sys.exit(130)

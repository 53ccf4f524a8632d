"""The command line: one function a command, no physics. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli.card import print_card
from potstill.cli.doctor import doctor
from potstill.cli.labels import labels
from potstill.errors import ConfigError, DataError, PotstillError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from potstill.config import Config
    from potstill.data import Dataset
    from potstill.protocols import Potential
    from potstill.store import Stage

app = typer.Typer(
    help="Distil the data that a neural-network interatomic potential needs: sample, distil, train, prove.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Write, check and explain configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.command()(labels)
app.command()(doctor)

STREAMED = 500 * 2**20  # bytes of structure files that are not read into memory at once
LARGE = f"more than {STREAMED // 2**20} MB"
DRAWN_ATOMS = 1_600_000  # in the part of such a pool that is distilled: 50,000 frames of 32, ten rounds' candidates

Out = Annotated[Path, typer.Option("--out", "-o", help="Where results go; resumed when it exists.")]
Seed = Annotated[int, typer.Option(help="Decides everything that is drawn at random.", min=0)]
Workers = Annotated[int, typer.Option(help="Processes; 0 means one a core.", min=0)]
Labeller = Annotated[
    str | None, typer.Option(help="Labeller, such as lammps:FILE; without it the file's own labels are revealed.")
]
PoolOnly = Annotated[
    bool, typer.Option("--pool-only", help="No generated crystals, slabs and defects beside the pool.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the configuration: section.key=value.")
]


def tell(line: str) -> None:
    """Print a line of progress to standard error, with the time of day when it is a terminal."""
    if sys.stderr.isatty():
        from datetime import datetime

        stage, colon, rest = line.partition(":")
        clock = datetime.now().astimezone().strftime("%H:%M:%S")
        line = f"\033[2m{clock}\033[0m \033[1m{stage}\033[0m{colon}{rest}"
    typer.echo(line, err=True)


def _read(path: Path, thin: int | None = None) -> Dataset:
    """Read structure files and say what was used of them; ``thin`` is the seed of a draw from files over 500 MB."""
    from potstill.data import Dataset, read_pool, structure_files
    from potstill.data.stream import FrameIndex

    files = structure_files(path)
    plain = all(file.suffix in (".xyz", ".extxyz") for file in files)
    if thin is not None and plain and sum(file.stat().st_size for file in files) > STREAMED:
        index = FrameIndex.of(files)
        data = index.draw(DRAWN_ATOMS, seed=thin)
        tell(f"read: {path}: {len(data):,} of {len(index):,} frames, drawn at random, since they are {LARGE}")
        return data
    frames, keys = read_pool(path)
    data = Dataset(frames)
    tell(f"read: {path}: {len(data)} frames of {'-'.join(data.elements)}; {keys}")
    if data.n_repeated:
        tell(f"read: {data.n_repeated} repeated frames count once")
    return data


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes the run.")],
    out: Out,
    overrides: Overrides = None,
) -> None:
    """Do the whole path: sample, distil, validate, report."""
    from potstill.config import load_config
    from potstill.pipeline import run as run_all

    if run_all(load_config(config, overrides or []), out, tell):
        _conclude(out)
    else:
        tell(f"Nothing to do: every stage of {out} is up to date. The page is {out / 'report.html'}.")


def _conclude(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    for line in summary["headline"]:
        typer.echo(line)
    typer.echo(f"The page: {out / 'report.html'}")


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
    seed: Annotated[int | None, typer.Option(help="Decides everything that is drawn at random.", min=0)] = None,
    workers: Workers = 0,
) -> None:
    """Step 1: make a pool of configurations by molecular dynamics. --out is a folder or an .extxyz file."""
    from potstill.backends import resolve
    from potstill.sample import sample as make_pool
    from potstill.store import RunDir

    flags = {
        "sample.element": element,
        "sample.potential": potential,
        "sample.ensemble": ensemble,
        "sample.temperature": temperature,
        "sample.pressure": pressure,
        "sample.atoms": atoms,
        "sample.frames": frames,
        "seed": seed,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
    settings = _settings(config, [*given, *(overrides or [])], 1)
    folder = out if out.suffix not in (".extxyz", ".xyz") else out.with_name(out.name + ".run")
    file = folder / "pool.extxyz" if folder == out else out
    with RunDir(folder).locked():
        made = make_pool(
            settings.sample,
            resolve(settings.sample.potential, [settings.sample.element]),
            seed=settings.seed,
            folder=folder,
            workers=workers,
            tell=tell,
        )
        made.pool.save(file)
    n, crossings = made.summary["n_frames"], made.summary.get("crossings")
    told = "" if crossings is None else f", {crossings} crossings between liquid and solid"
    typer.echo(f"{n} frames from {made.summary['n_trajectories']} trajectories{told}: {file}")


def _settings(config: Path | None, overrides: list[str], seed: int) -> Config:
    from potstill.config import apply_overrides, load_config, parse_config

    if config is not None:
        return load_config(config, overrides)
    raw: dict[str, Any] = {"seed": seed}
    apply_overrides(raw, overrides)
    return parse_config(raw, "the command line")


def _labeller(recipe: str, pool: Callable[[], Dataset], settings: Config) -> Potential:
    """Return the potential that labels; a density-functional code must know the pool's elements beforehand."""
    from potstill.backends import WANTS_ELEMENTS, resolve

    return resolve(recipe, pool().elements if recipe in WANTS_ELEMENTS else (), settings)


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
    from potstill.data import Dataset
    from potstill.label import labeller
    from potstill.store import RunDir, write_json

    settings = _settings(None, [f"label.retries={retries}", f"label.timeout={timeout}", *(overrides or [])], 1)
    data = _read(file)
    potential = _labeller(reference, lambda: data, settings)
    with RunDir(out).locked():
        result = labeller(settings, potential, out, workers=workers, tell=tell)(list(data))
        Dataset(result.data).save(out / "labelled.extxyz")
        write_json(
            out / "failures.json",
            [
                {
                    "frame": f.frame,
                    "index": data.keys.index(f.frame),
                    "reason": f.reason,
                    "message": f.message,
                }
                for f in result.failures
            ],
        )
    typer.echo(f"{len(result.data)} labelled, {len(result.failures)} failed: {out / 'labelled.extxyz'}")


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Labelled structures.")],
    out: Out,
    members: Annotated[int, typer.Option(help="Networks in the committee.", min=1)] = 4,
    valid: Annotated[Path | None, typer.Option(help="Labelled structures to calibrate the spread on.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=0)] = 1_200,
    model: Annotated[
        str, typer.Option(help="Kind of network: potstill, or mace, which is slower and needs potstill[mace].")
    ] = "potstill",
    start: Annotated[Path | None, typer.Option(help="A model to go on from, of another metal perhaps.")] = None,
    seed: Seed = 1,
    overrides: Overrides = None,
) -> None:
    """Step 2b: train a committee of neural-network potentials."""
    from potstill.model import Committee
    from potstill.train import train as train_all

    if model not in ("potstill", "mace"):
        raise ConfigError(f"There is no kind of network {model!r}; there are potstill and mace.")
    given = [f"train.members={members}", f"train.steps={steps}", *(overrides or [])]
    if model == "mace":
        if start is not None:
            raise ConfigError("MACE starts from nothing; --start is for potstill's own networks.")
        _train_mace(data, out, valid, given, seed)
        return
    settings = _settings(None, given, seed)
    labelled = _labelled(data)
    held = _labelled(valid) if valid else None
    first = Committee.load(start) if start else None
    committee = train_all(
        labelled, settings.model, settings.train, seed=settings.seed, calibrate_on=held, start=first, tell=tell
    )
    committee.save(out)
    typer.echo(f"{committee!r}: {out}")


def _train_mace(data: Path, out: Path, valid: Path | None, given: list[str], seed: int) -> None:
    from potstill.backends.mace_fit import KNOBS, train_mace
    from potstill.backends.mace_network import Network

    # On 107 frames of 32 atoms, 800 steps of 2 frames reached 242 meV/Å where 400 of 4 reached 285; at rate 0.01, 231.
    settings = _settings(None, ["train.batch=2", "train.learning_rate=0.01", *given], seed)
    strange = sorted({text.partition("=")[0].strip() for text in given} - KNOBS)
    if strange:
        raise ConfigError(f"MACE has no {strange[0]}; of the configuration it takes {', '.join(sorted(KNOBS))}.")
    labelled = _labelled(data)
    held = _labelled(valid) if valid else None
    network = Network(cutoff=settings.model.cutoff)
    committee = train_mace(labelled, network, settings.train, seed=settings.seed, calibrate_on=held, tell=tell)
    committee.save(out)
    typer.echo(f"{committee!r}: {out}")


def _labelled(path: Path, thin: int | None = None) -> Dataset:
    data = _read(path, thin)
    labelled = data.only_labelled()
    if not len(labelled):
        raise DataError(
            f"{path}: expected labelled frames (energy and forces), but none of the {len(data)} frames has both. Label "
            "them with `potstill label`, or rename the keys to energy and forces."
        )
    if len(labelled) < len(data):
        tell(f"read: {len(data) - len(labelled)} frames of {path} have no labels and are left out")
    return labelled


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
    import numpy as np

    from potstill.backends import load_model
    from potstill.config import ModelConfig
    from potstill.data import Dataset, structure_files
    from potstill.model import FrameFeatures, Whitening
    from potstill.protocols import Describer
    from potstill.select import checked
    from potstill.select import selector as by_name
    from potstill.train import descriptor_for

    have = _read(known) if known else Dataset()
    files = structure_files(pool)
    if stream if stream is not None else sum(file.stat().st_size for file in files) > STREAMED:
        _select_streamed(files, n, out, selector, have, seed)
        return
    candidates = _read(pool)
    left = candidates.without(have)
    if not len(left):
        raise DataError(f"Every frame of {pool} is in {known} already: nothing is left to choose from.")
    chooser = by_name(selector)
    if model is None and selector in ("committee", "last-layer"):
        raise ConfigError(f"The selector '{selector}' needs a trained model: give --model DIR, or use potstill.")
    describer: Describer
    if model is not None:
        describer = load_model(model)
    else:
        descriptor = descriptor_for((candidates | have).elements, ModelConfig())
        describer = FrameFeatures(descriptor, Whitening.fit(descriptor, left[:: max(1, len(left) // 1000)]))
    rng = np.random.default_rng(seed)
    found = checked(chooser.select(left, min(n, len(left)), known=have, committee=describer, rng=rng), left, n)
    left.take(found.indices).save(out)
    typer.echo(f"{len(found.indices)} of {len(left)} frames by {selector}: {out}")


def _select_streamed(files: list[Path], n: int, out: Path, selector: str, have: Dataset, seed: int) -> None:
    """Choose from a pool that is not read into memory."""
    import numpy as np

    from potstill.config import ModelConfig
    from potstill.data import Dataset
    from potstill.data.stream import FrameIndex
    from potstill.select.streamed import StreamedFeatures, farthest_streamed
    from potstill.train import descriptor_for

    if selector not in ("fps", "random"):
        raise ConfigError(
            f"A pool of {LARGE} is not read into memory (nor is one with --stream): choose from "
            f"it by fps or random, not by {selector}; then by {selector} from what was chosen."
        )
    index = FrameIndex.of(files)
    tell(f"select: {len(index):,} frames of {int(index.n_atoms.sum()):,} atoms, read as they are needed")
    if selector == "random":
        chosen = np.random.default_rng(seed).permutation(len(index))[:n]
    else:
        folder = out.with_name(out.name + ".run")
        settings = ModelConfig()
        features = StreamedFeatures(index, folder, lambda e: descriptor_for(e, settings), tell=tell)
        chosen, _ = farthest_streamed(features.vectors(), n, features.describe(list(have)))
    Dataset(index.whole(chosen)).save(out)
    typer.echo(f"{len(chosen)} of {len(index)} frames by {selector}: {out}")


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
    from functools import cache

    from potstill.data import structure_files
    from potstill.distil import distil as distil_all
    from potstill.label import Revealer, labeller
    from potstill.store import Outcome, RunDir, Stage, digest, file_digest

    given = [f"distil.budget={budget}", f'distil.selector="{selector}"']
    if pool_only or reference is None:
        given.append("distil.beside=0")
    if reference is None and not pool_only:
        tell("distil: no labeller is named, so frames beside the pool cannot be labelled: this is --pool-only")
    if not any(o.startswith("distil.initial") for o in overrides or []):
        given.append(f"distil.initial={min(25, budget)}")
    settings = _settings(None, [*given, *(overrides or [])], seed)
    files = structure_files(pool)
    read = cache(lambda: _read(pool, seed) if reference else _labelled(pool, seed))
    potential = _labeller(reference, read, settings) if reference else None
    ask = labeller(settings, potential, out, workers=workers, tell=tell) if potential else None
    dump = settings.dump()

    def act(folder: Path) -> Outcome:
        result = distil_all(read(), ask or Revealer(read()), settings, folder=folder, tell=tell)
        return Outcome(result.summary(), result.save(folder))

    stage = Stage(
        "distil",
        ".",
        {
            **{k: dump[k] for k in ("seed", "model", "train", "distil")},
            "tests": dump["validate"]["polymorphs"],
            "pool": digest([file_digest(file) for file in files]),
            "reference": potential.fingerprint if potential else None,
        },
        act,
    )
    directory = RunDir(out)
    with directory.locked():
        ran = directory.execute([stage], tell)
    summary = (directory.record(".") or {})["summary"]
    if not ran:
        typer.echo(f"Nothing to do: {out} holds this result already.")
    typer.echo(
        f"{summary['n_labels']} frames distilled, {summary['n_beside']} of them from beside the pool "
        f"({summary['stopped']}), {summary['n_holdout']} held out: "
        f"{out / 'distilled.extxyz'}, {out / 'model'}, {out / 'learning_curve.json'}"
    )
    if summary["errors"]:
        _print_errors(summary["errors"])


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
    from potstill.compare import Contest, draw, table_text
    from potstill.compare import compare as run_all
    from potstill.data import Dataset, write_atomic
    from potstill.distil import set_apart
    from potstill.label import label as label_all
    from potstill.select import selector as by_name
    from potstill.store import LabelStore, RunDir

    names = [name.strip() for name in selectors.split(",") if name.strip()]
    for name in names:
        by_name(name)
    try:
        sizes = sorted({int(n) for n in budgets.split(",")})
    except ValueError:
        raise ConfigError(f"--budgets are whole numbers with commas between, but {budgets!r} was given.") from None
    own = pool_only or reference is None
    given = [f"distil.budget={sizes[-1]}", f"distil.sizes={sizes}", f"distil.initial={sizes[0]}"]
    given += ["distil.stop_flat=false", *(["distil.beside=0"] if own else []), *(overrides or [])]
    settings = _settings(None, given, seed)
    settings = settings.model_copy(
        update={"distil": settings.distil.model_copy(update={"round_steps": settings.train.steps})}
    )
    data = _read(pool, seed) if reference else _labelled(pool, seed)
    potential = _labeller(reference, lambda: data, settings) if reference else None
    with RunDir(out).locked():
        if test is None:
            data, held = set_apart(data, settings, seed, tell)
            if potential is not None and len(held):
                held = label_all(list(held), potential, LabelStore(out / "labels"), workers=workers, tell=tell).data
        else:
            held = _labelled(test)
        if not len(held):
            raise DataError("Selectors are compared on held-out frames, but the pool is one trajectory: give --test.")
        Dataset(data).save(out / "pool.extxyz")
        held.save(out / "holdout.extxyz")
        element = data.elements[0] if potential is not None and len(data.elements) == 1 else None
        others = {path.stem: path for path in also or []}
        for path in others.values():
            _labelled(path)  # told now if it is not
        contest = Contest(out / "pool.extxyz", out / "holdout.extxyz", settings, potential, element, out, others)
        result = run_all(contest, names, range(seed, seed + seeds), workers=workers, tell=tell)
        write_atomic(out / "comparison.png", draw(result).png())
    typer.echo(table_text(result["table"]))
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
    from potstill import crystals
    from potstill.backends import resolve
    from potstill.checks import Outside, Polymorphs, named
    from potstill.checks import validate as judge
    from potstill.data import Dataset
    from potstill.store import RunDir

    settings = _settings(None, overrides or [], 1)
    v = settings.validate_
    asked = [c.strip() for c in checks.split(",") if c.strip()] or v.checks
    named(asked)  # a wrong name is told before any work
    if lattice not in ("", "fcc", "bcc", "hcp"):
        raise ConfigError(f"Expected fcc, bcc or hcp for --lattice, but found '{lattice}'.")
    element = element or _common(model, reference)
    check = Polymorphs(element, v.polymorphs, crystals.atomic_volume(element), v.force_tolerance, v.relax_steps)
    judged, judge_by = (resolve(recipe, [element], settings) for recipe in (model, reference))
    wanted = named(asked, judged, judge_by)
    held = _labelled(holdout) if holdout else Dataset()
    with RunDir(out).locked():
        outside = Outside(element, ()) if v.defects else None
        summary, _ = judge(
            judged, judge_by, check, out, outside=outside, checks=wanted, lattice=lattice, holdout=held,
            pool=Dataset(), workers=workers, tell=tell,
        )  # fmt: skip
    _print_polymorphs(summary["polymorphs"])
    print_card(summary["card"])
    typer.echo(f"{out / 'validation.json'}")


def _common(*recipes: str) -> str:
    """Return the one element that all potentials know.

    Raises
    ------
    ConfigError
        If there are several, or none.
    """
    from potstill.backends import WANTS_ELEMENTS, resolve

    known = [set(resolve(recipe).elements) for recipe in recipes if recipe not in WANTS_ELEMENTS]
    common = sorted(set.intersection(*known)) if known else []
    if len(common) != 1:
        told = f"know {', '.join(common)}" if common else "have no element in common that could be read off them"
        raise ConfigError(f"Expected one element to examine, but the potentials {told}. Give --element, such as Ni.")
    return common[0]


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
    from potstill.backends import resolve
    from potstill.checks import errors_on

    errors = errors_on(resolve(model), _labelled(data)).as_dict()
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


@app.command()
def report(directory: Annotated[Path, typer.Argument(help="A run.")]) -> None:
    """Write the page of a run again."""
    from potstill.report import report as write

    write(directory)
    typer.echo(f"{directory / 'report.html'}")


@app.command()
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


@app.command()
def status(directory: Annotated[Path, typer.Argument(help="A run.")]) -> None:
    """Show what a run has done so far; works from another terminal while it runs."""
    from potstill.config import load_config
    from potstill.store import LabelStore, RunDir

    directory_ = RunDir(directory)
    for stage in _stages_of(directory, None, None):
        record = directory_.record(stage.folder)
        if record:
            state = f"done in {record['wall_s']:.0f} s, {record['finished']}"
        elif (directory / stage.folder).exists():
            state = "started"
        else:
            state = "not started"
        typer.echo(f"{stage.name:<9} {state}")
    if word := directory_.noted():
        typer.echo(f"labels    {word}")
    store = LabelStore(load_config(directory / "config.toml", []).label.store or directory / "labels")
    done = len(list((directory / "1-sample" / "trajectories").glob("*.json")))
    learnt = len(list((directory / "1-sample" / "ensembles").glob("*/*.safetensors")))
    rounds = len(list((directory / "2-distil" / "rounds").glob("*/*/round.json")))
    typer.echo(f"{learnt} rounds of sampling, {done} trajectories, {len(store)} labels, {rounds} rounds of distilling")
    holder = directory_.holder()
    typer.echo(f"running as process {holder}" if holder else "not running")


@config_app.command()
def template(
    element: Annotated[str, typer.Option(help="Chemical symbol.")] = "Ni",
    potential: Annotated[str, typer.Option(help="Potential that samples.")] = "lammps:NiAlH_jea.eam.alloy",
    reference: Annotated[str, typer.Option(help="Potential that labels; empty: the same.")] = "",
) -> None:
    """Print a commented configuration that runs."""
    from potstill.config import parse_config, to_toml

    raw = {"sample": {"element": element, "potential": potential}, "label": {"reference": reference}}
    typer.echo(to_toml(parse_config(raw), comments=True), nl=False)


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


def main() -> None:
    """Run the command line; errors of ours become one paragraph and an exit code."""
    logging.captureWarnings(capture=True)
    try:
        app()
    except PotstillError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written, a file where a folder should be
        typer.echo(f"StoreError: {error}. What was finished is kept.", err=True)
        sys.exit(StoreError.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted. What was finished is kept; the same command goes on from there.", err=True)
        sys.exit(130)

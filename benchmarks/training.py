"""How well and how fast potentials learn: ours and the rivals' on the same frames, with the same budget, on one core.

    python benchmarks/training.py               all of these but hour
    python benchmarks/training.py ours          2,000 and 100 frames of 32 nickel atoms, labelled by embedded atoms;
                                                four networks, and one, as the rivals train
    python benchmarks/training.py rivals        torchani, MACE, ace-jax and others on the same (rivals.sh first)
    python benchmarks/training.py dft           ours on Ni of Zuo et al. and Nb of Li et al., same settings, two cores
    python benchmarks/training.py hour          what torchani reaches in an hour, and when ours does

``--seconds`` is the rivals' budget (180), ``--quick`` a smoke run of less than a minute. Errors are root mean squares
on frames of trajectories that were not learnt from; their evaluation takes no part in the seconds. Rivals are judged on
the way, after 15, 30, 60 s and so on. Ours are not judged before the end, so shorter trainings stand in, each whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import read, write
from common import (
    BUSY,
    RIVALS,
    RUNS,
    SHARED,
    TEST,
    TRAIN,
    TRAIN_100,
    Program,
    absent,
    announce,
    keep,
    momt,
    ours,
    own_versions,
    run,
)

from potstill import Dataset
from potstill.config import TrainConfig
from potstill.training import full_steps

KILOBAR = 1602.1766  # kB in eV/Å³
HOUR = 3600.0
STEPS = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)  # of our optimiser, until it is as good
SHORTER = (0, 250, 500, 1000, 2000, 4000)  # steps of the trainings that stand for judgements on the way
OURS = (ours("potstill"), ours("potstill, 1 member", members="1"))
Row = dict[str, Any]


def measure(program: Program, data: Path, test: Path, seconds: float, threads: int = 1) -> Iterator[Row]:
    """Yield every judgement of one training; the last one is that of the finished model."""
    out = RUNS / "models" / program.name.replace(" ", "-").replace(",", "")
    words = ["--data", data, "--test", test, "--seconds", seconds, "--out", out]
    lines = run(program, "train", *words, threads=threads, limit=3 * seconds + HOUR)
    versions = next((line["versions"] for line in lines if "versions" in line), {})
    checked = next((line["check"] for line in lines if "check" in line), None)
    told = [line for line in lines if "seconds" in line or "failed" in line] or [{"failed": "said nothing"}]
    for line in told:
        row = {"name": program.name, "data": data.stem, "cores": threads, "check": checked, **line}
        yield {**row, "versions": versions} if versions else row


def learn_ours(learn: Path, test: Path, *, quick: bool) -> tuple[list[Row], Row | None]:
    """Print and return what ours learn, and the row that ratios are to: a committee's on all frames."""
    rows: list[Row] = []
    base = None
    for data in [learn] if quick else [TRAIN, TRAIN_100]:
        full = full_steps(TrainConfig(), len(read(data, index=":")))
        lengths = (0, 100) if quick else (*(steps for steps in SHORTER if steps < full), None)
        for program in OURS:
            for steps in lengths:
                options = {} if steps is None else {"steps": str(steps)}
                rows += measure(ours(program.name, **program.options, **options), data, test, HOUR)
            base = base or (rows[-1] if "failed" not in rows[-1] else None)
            show(rows[-1], base)
    return rows, base


HEAD = (
    f"{'':28s} {'learnt from':16s} {'cores':>5s} {'s':>8s} {'ratio':>6s} {'meV/atom':>9s} {'meV/Å':>8s} {'ratio':>6s} "
    f"{'meV a cell':>10s} {'MiB':>6s}"
)


def show(row: Row, base: Row | None) -> None:
    """Print one row; ratios are to ours on 2,000 frames."""
    begin = f"{row['name']:28s} {row['data']:16s} {row['cores']:5d}"
    if "failed" in row:
        print(f"{begin} {row['failed']}", flush=True)
        return
    time_ratio = force_ratio = ""
    if base is not None and row["data"].startswith("momt"):
        time_ratio = f"{row['seconds'] / base['seconds']:.2f}"
        force_ratio = f"{row['force_rmse_mev_per_angstrom'] / base['force_rmse_mev_per_angstrom']:.2f}"
    virial = "" if row["virial_rmse_mev"] is None else f"{row['virial_rmse_mev']:.0f}"
    busy = "  (busy)" if row["cpu_seconds"] < BUSY * row["seconds"] else ""
    print(
        f"{begin} {row['seconds']:8.1f} {time_ratio:>6s} {row['energy_rmse_mev_per_atom']:9.2f} "
        f"{row['force_rmse_mev_per_angstrom']:8.1f} {force_ratio:>6s} {virial:>10s} {row['rss_mib']:6d}{busy}",
        flush=True,
    )


def first_frames(path: Path, n: int) -> Path:
    """Write every k-th frame of a file, n in all, and return the new file."""
    frames = read(path, index=":")
    few = RUNS / f"{path.stem}-{n}.extxyz"
    write(few, frames[:: max(1, len(frames) // n)][:n])
    return few


def frames_for(program: Program) -> list[Path]:
    """Return what a rival learns from: a fit of a linear model takes as long as its frames and functions ask for."""
    if program.options.get("degree") == "14":
        return [TRAIN_100]  # from 2,000 it would take many times the budget
    return [TRAIN, TRAIN_100] if "degree" in program.options else [TRAIN]


def beside(
    programs: Sequence[Program], frames: list[Path] | None, test: Path, seconds: float, base: Row | None
) -> list[Row]:
    """Print and return what rivals learn, and which of them failed or are not installed."""
    absent()
    rows: list[Row] = []
    for program in programs:
        for data in frames or frames_for(program):
            found = list(measure(program, data, test, seconds))
            rows += found
            for row in [r for r in found if "failed" not in r][-1:] + [r for r in found if "failed" in r]:
                show(row, base)
    for own in own_versions(rows):
        print(own)
    return rows


def dft() -> Iterator[tuple[Path, Path]]:
    """Yield (learn, judge) of the two real sets, under the usual names and in the usual units; those that are there."""
    ni, nb = SHARED / "ni_zuo2020", SHARED / "nb_snap"
    if not ni.is_dir() or not nb.is_dir():
        print(f"dft: left out, {SHARED} is not there")
        return
    for role in ("train", "test"):
        Dataset.load(ni / f"Ni_{role}.xyz").save(RUNS / f"ni-zuo-{role}.extxyz")
    yield RUNS / "ni-zuo-train.extxyz", RUNS / "ni-zuo-test.extxyz"
    for role, names in (("train", ("AIMD", "Elastic", "Surface")), ("test", ("Test",))):
        frames = [f for name in names for f in read(nb / f"Nb_{name}.extxyz", index=":")]
        for f in frames:
            raw = np.array(f.info.pop("stress_raw"))  # kB, positive under compression, order xx yy zz xy yz zx
            f.calc.results["stress"] = -raw[[0, 1, 2, 4, 5, 3]] / KILOBAR
        write(RUNS / f"nb-snap-{role}.extxyz", frames)
    yield RUNS / "nb-snap-train.extxyz", RUNS / "nb-snap-test.extxyz"


def hour(seconds: float, learn: Path, test: Path) -> list[Row]:
    """Print what torchani reaches, and the first of our trainings that is as good in energies and forces."""
    rows = list(measure(RIVALS[0], learn, test, seconds))
    for row in rows:
        show(row, None)
    if not rows or "failed" in rows[-1]:
        return rows
    goal = rows[-1]
    for steps in STEPS:
        row = list(measure(ours(f"potstill, {steps} steps", steps=str(steps)), learn, test, HOUR))[-1]
        rows.append(row)
        show(row, None)
        if "failed" in row:
            break
        if all(row[k] <= goal[k] for k in ("energy_rmse_mev_per_atom", "force_rmse_mev_per_angstrom")):
            ratio = goal["seconds"] / row["seconds"]
            print(f"as good as torchani after {goal['seconds']:.0f} s, {ratio:.0f} times faster")
            break
    return rows


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="How well and how fast potentials learn.")
    parser.add_argument("parts", nargs="*", metavar="ours | rivals | dft | hour")
    parser.add_argument("--seconds", type=float, default=180.0, help="budget of a rival")
    parser.add_argument("--hour", action="store_true", help="the same as the word hour")
    parser.add_argument("--quick", action="store_true", help="20 frames, 10 to judge by, 3 s for torchani only")
    given = parser.parse_args()
    parts = set(given.parts) | ({"hour"} if given.hour else set()) or {"ours", "rivals", "dft"}
    if parts - {"ours", "rivals", "dft", "hour"}:
        parser.error(f"expected ours, rivals, dft or hour, not {' '.join(sorted(parts))}")
    about = announce("training")
    momt()
    learn, test, seconds = TRAIN, TEST, given.seconds
    if given.quick:
        learn, test, seconds = first_frames(TRAIN_100, 20), first_frames(TEST, 10), 3.0
    print(f"one core each unless said; a rival has {seconds:.0f} s; ratios are to the first row\n{HEAD}", flush=True)
    rows: list[Row] = []
    real: list[Row] = []
    longer: list[Row] = []
    base = None
    if "ours" in parts:
        rows, base = learn_ours(learn, test, quick=given.quick)
    if "rivals" in parts:
        rows += beside(RIVALS[:1] if given.quick else RIVALS, [learn] if given.quick else None, test, seconds, base)
    if "dft" in parts and not given.quick:
        for data, judge in dft():
            real.append(list(measure(ours("potstill"), data, judge, seconds, threads=2))[-1])
            show(real[-1], None)
    if "hour" in parts:
        longer = hour(seconds if given.quick else HOUR, learn, test)
    for name, found in (("training", rows), ("training-dft", real), ("training-hour", longer)):
        if found:
            keep(name, about, found, quick=given.quick)


if __name__ == "__main__":
    main()

"""What energy, forces and stress cost: µs/atom on one core, ours beside the rivals' and beside embedded atoms.

    python benchmarks/inference.py                     everything that is installed, 32 to 100,000 atoms
    python benchmarks/inference.py ours eam            ours with one member, four, four and their spread; LAMMPS
    python benchmarks/inference.py rivals              torchani, MACE, ace-jax and others (rivals.sh first)
    python benchmarks/inference.py check               forces and stress against finite differences, all of them

``--atoms 256 2048`` chooses sizes, ``--seconds`` how long each is timed (10), ``--quick`` is a smoke run of less than a
minute. The crystal is fcc nickel whose atoms swing by 0.05 Å, a step of MD from call to call. Every size of every model
is timed in a process of its own, whose peak memory is printed. Models that are not there are trained for 20 s first:
speed does not depend on how good they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase.build import bulk
from ase.io import write
from common import (
    ABSENT,
    BUSY,
    RIVALS,
    RUNS,
    TEST,
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

LATTICE = 3.52  # Å
REPEATS = {
    32: (2, 2, 2),
    256: (4, 4, 4),
    2_048: (8, 8, 8),
    16_384: (16, 16, 16),
    100_000: (25, 25, 40),
}
OURS = (
    ours("potstill, 1 member", members="1"),
    ours("potstill, 4 members", members="4"),
    ours("potstill, 4 and their spread", members="4", also="force_spread"),
)
EAM = Program("embedded atoms, LAMMPS", Path(sys.executable), "eam.py")
TRAINING = 20.0  # s
STEPS = "200"  # of our optimiser
LIMIT = 900.0  # s for one size of one model
Row = dict[str, Any]


def crystal(n_atoms: int) -> Path:
    """Write the crystal of a size where it is not there."""
    path = RUNS / f"fcc-{n_atoms}.extxyz"
    if not path.is_file():
        write(path, bulk("Ni", "fcc", a=LATTICE, cubic=True).repeat(REPEATS[n_atoms]))
    return path


def model(program: Program, test: Path) -> tuple[Path, str | None]:
    """Return the folder of a model for timing, and why there is none; train it where it is not there."""
    kind = "-".join([program.file.removesuffix(".py"), *(v for k, v in program.options.items() if k != "also")])
    folder = RUNS / "timed" / kind.replace("/", "-")
    failed = None
    if not (folder / "done").is_file():
        options = {k: v for k, v in program.options.items() if k != "also"}
        if program.file == "ours.py":
            options["steps"] = STEPS
        quick = Program(program.name, program.python, program.file, options)
        words = ["--data", TRAIN_100, "--test", test, "--seconds", TRAINING, "--out", folder]
        failed = next((line["failed"] for line in run(quick, "train", *words) if "failed" in line), None)
        if failed is None:
            (folder / "done").touch()
    return folder, failed if failed in (None, ABSENT) else f"its training failed: {failed}"


def measure(program: Program, n_atoms: int, seconds: float, test: Path) -> Row:
    """Return the times of one size of one model."""
    who = {"name": program.name, "atoms": n_atoms}
    words = ["--structure", crystal(n_atoms), "--seconds", seconds]
    if program is not EAM:
        folder, failed = model(program, test)
        if failed:
            return {**who, "failed": failed}
        words += ["--model", folder]
    lines = run(program, "infer", *words, limit=LIMIT)
    found = [line for line in lines if "us_per_atom" in line or "failed" in line] or [{"failed": "said nothing"}]
    versions = [{"versions": line["versions"]} for line in lines if "versions" in line]
    return {**found[-1], **who, **(versions[0] if versions else {})}


def examine(program: Program) -> object:
    """Return the deviations of a model's forces and stress from finite differences, or why there are none."""
    folder, failed = model(program, TEST)
    said = [] if failed else run(program, "check", "--model", folder, "--structure", TEST)
    return failed or [line.get("check") or line.get("failed") for line in said][-1]


HEAD = f"{'atoms':>8s}  {'':30s} {'µs/atom':>9s} {'ratio':>7s} {'first call':>11s} {'very first, s':>13s} {'MiB':>6s}"


def show(row: Row, base: Row | None) -> None:
    """Print one row; the ratio is to the first row of the same size."""
    begin = f"{row['atoms']:8,d}  {row['name']:30s}"
    if "failed" in row:
        print(f"{begin} {row['failed']}", flush=True)
        return
    ratio = f"{row['us_per_atom'] / base['us_per_atom']:.2f}" if base else ""
    busy = f"  (busy; {row['cpu_us_per_atom']:.2f} of processor time)" if row.get("cpu_share", 1.0) < BUSY else ""
    print(
        f"{begin} {row['us_per_atom']:9.2f} {ratio:>7s} {row['first_us_per_atom']:11.2f} {row['cold_seconds']:13.2f} "
        f"{row['rss_mib']:6d}{busy}",
        flush=True,
    )


def table(programs: list[Program], sizes: list[int], seconds: float, test: Path) -> Iterator[Row]:
    """Measure and print, size by size; a model that failed at a size is not asked for more, and its rows say so."""
    print(f"{HEAD}", flush=True)
    lost: dict[str, str] = {}
    for n in sizes:
        base = None
        for program in programs:
            if program.name in lost:
                yield {"name": program.name, "atoms": n, "failed": lost[program.name]}
                continue
            row = measure(program, n, seconds, test)
            if "failed" in row:
                lost[program.name] = ABSENT if row["failed"] == ABSENT else f"not tried after {n:,} atoms"
            base = base or (row if "failed" not in row else None)
            show(row, base)
            yield row


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="What energy, forces and stress cost.")
    parser.add_argument("parts", nargs="*", metavar="ours | eam | rivals | check")
    parser.add_argument("--atoms", type=int, nargs="+", choices=sorted(REPEATS), default=sorted(REPEATS))
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each size")
    parser.add_argument("--quick", action="store_true", help="32 and 256 atoms, 1 s each, ours and embedded atoms")
    given = parser.parse_args()
    parts = set(given.parts)
    if parts - {"ours", "eam", "rivals", "check"}:
        parser.error(f"expected ours, eam, rivals or check, not {' '.join(sorted(parts))}")
    parts = parts or ({"ours", "eam"} if given.quick else {"ours", "eam", "rivals"})
    about = announce("inference")
    momt()
    kinds = {"ours": OURS, "eam": (EAM,), "rivals": RIVALS}
    if parts & {"rivals", "check"}:
        absent()
    if "check" in parts:
        for program in (*OURS, *kinds["rivals"]):
            print(program.name, examine(program))
        parts -= {"check"}
    if not parts:
        return
    sizes, seconds = ([32, 256], 1.0) if given.quick else (sorted(given.atoms), given.seconds)
    print("one core; a step of MD with its neighbour list; ratios are to the first row of a size")
    programs = [p for kind in ("ours", "eam", "rivals") if kind in parts for p in kinds[kind]]
    rows = list(table(programs, sizes, seconds, TEST))
    for own in own_versions(rows):
        print(own)
    keep("inference", about, rows, quick=given.quick)


if __name__ == "__main__":
    main()

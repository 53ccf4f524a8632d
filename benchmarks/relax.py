"""Structures relaxed: how many a minute, beside ASE and torch-sim with the same model; and whom to believe.

    python benchmarks/relax.py speed      structures a minute: ours side by side, ASE one by one, torch-sim
    python benchmarks/relax.py trust      generated and random crystals against the reference, before and after --learn
    python benchmarks/relax.py page       write both into docs/relax.md

The model is that of `make demo` (``--model`` names another). Generated structures are those of MatterGen in the shared
data, as nickel; where they are absent, random crystals only. Results are kept in benchmarks/results/. For torch-sim:
sh benchmarks/rivals.sh torch-sim.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import read, write
from common import ABSENT, EAM, HERE, RUNS, SHARED, announce, keep, own_versions, source
from distil_page import markdown

KEPT = HERE / "results"
MODEL = HERE.parent / "runs" / "demo" / "2-distil" / "model"
TOLERANCE, STEPS = 0.01, 500  # eV/Å
RANDOM, LABELS = 200, 60
SHARE = 0.5  # meV/atom, within which two programs ended alike
PAGE = HERE.parent / "docs" / "relax.md"
BEGIN, END = "<!-- benchmarks/relax.py page -->", "<!-- end -->"
GENERATED = SHARED / "generated_mattergen"


def random_crystals(n: int) -> Path:
    """Write n random symmetric crystals of nickel."""
    from potstill.proposing import propose

    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / f"random-{n}.extxyz"
    if not file.is_file():
        write(file, list(propose(["Ni"], n, ["random"], np.random.default_rng(1))), format="extxyz")
    return file


def ours(model: Path, file: Path) -> dict[str, Any]:
    """Relax all side by side, with spread and strangeness looked at on the way, as `potstill relax` does."""
    from potstill.model import Committee
    from potstill.relaxing import How
    from potstill.relaxing.batch import descend

    committee, structures = Committee.load(model), read(file, index=":")
    descend(committee, structures[:2], How(steps=3))  # what is compiled is compiled
    began = time.perf_counter()
    found = descend(committee, structures, How(TOLERANCE, steps=STEPS, symmetric=False))
    seconds = time.perf_counter() - began
    return told(seconds, [d.energy / len(d.atoms) for d in found], [d.end == "converged" for d in found])


def one_by_one(model: Path, file: Path, optimiser: str) -> dict[str, Any]:
    """Relax by ASE, with the same model's calculator."""
    import ase.optimize
    from ase.filters import FrechetCellFilter

    from potstill.model import Committee

    committee, structures = Committee.load(model), read(file, index=":")
    calculator = committee.calculator()
    energies, rested = [], []
    seconds = 0.0
    for k, atoms in enumerate([structures[0].copy(), *structures]):
        atoms.calc = calculator
        began = time.perf_counter()
        done, energy = False, np.nan
        try:
            done = bool(
                getattr(ase.optimize, optimiser)(FrechetCellFilter(atoms), logfile=None).run(
                    fmax=TOLERANCE, steps=STEPS
                )
            )
            energy = float(atoms.get_potential_energy()) / len(atoms)
        except Exception as error:  # noqa: BLE001 - a collapsed cell breaks optimisers in many ways
            print(f"{file.name}#{k - 1}: {type(error).__name__}", file=sys.stderr)
        if k:  # the first one warms up
            seconds += time.perf_counter() - began
            energies.append(energy)
            rested.append(done)
    return told(seconds, energies, rested)


def told(seconds: float, energies: list[float], rested: list[bool]) -> dict[str, Any]:
    """Return a row."""
    return {
        "seconds": seconds,
        "per_minute": 60 * len(energies) / seconds,
        "n": len(energies),
        "converged": int(np.sum(rested)),
        "energies": [float(e) if np.isfinite(e) and r else None for e, r in zip(energies, rested, strict=True)],
    }


def speed(model: Path, n: int) -> None:
    """Time all, each in a process of its own."""
    about = announce("structures relaxed a minute")
    file = random_crystals(n)
    python = sys.executable
    sim = HERE / ".venvs" / "torch-sim" / "bin" / "python"
    ways: list[tuple[str, list[str]]] = [
        ("potstill, side by side", [python, __file__, "time", "ours"]),
        ("ASE one by one, LBFGS", [python, __file__, "time", "LBFGS"]),
        ("ASE one by one, FIRE", [python, __file__, "time", "FIRE"]),
        ("torch-sim, batched FIRE", [str(sim), str(HERE / "rivals" / "torch_sim_.py")]),
    ]
    rows: list[dict[str, Any]] = []
    for name, words in ways:
        row = {"name": name, "n": n, **relaxed(words, model, file)}
        rows.append(row)
        if "failed" in row:
            print(f"{name:<38} {row['failed']}", flush=True)
        else:
            first = next(r["energies"] for r in rows if "failed" not in r)
            pairs = zip(first, row["energies"], strict=True)
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            row["alike"] = sum(1e3 * abs(a - b) < SHARE for a, b in both) / max(1, len(both))
            print(
                f"{name:<38} {row['per_minute']:>8.0f} a minute, {row['converged']}/{row['n']} came to rest, "
                f"{100 * row['alike']:.0f} % of them as the first row", *own_versions([row]), flush=True,
            )  # fmt: skip
        kept = [{k: v for k, v in r.items() if k != "energies"} for r in rows]
        keep("relax-speed", about, kept, by=("name", "n"))


def relaxed(words: list[str], model: Path, file: Path) -> dict[str, Any]:
    """Return what a program of its own says of its relaxations, or why it says nothing."""
    if not Path(words[0]).is_file():
        return {"failed": ABSENT}
    done = subprocess.run(  # noqa: S603
        [*words, "--model", str(model), "--file", str(file)], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["said nothing"])[-1][:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def trust(model: Path) -> None:
    """Relax with the model and with its reference, before and after labels."""
    about = announce("whom to believe")
    sets = {"random": (random_crystals(RANDOM), [])}
    if GENERATED.is_dir():
        sets["MatterGen"] = (GENERATED / "generated_crystals.extxyz", ["--as", "Ni"])
    rows = []
    for name, (file, more) in sets.items():
        for labels in (0, LABELS):
            out = RUNS / f"trust-{name}-{labels}"
            words = ["relax", str(file), "--model", str(model), "--out", str(out), "--judge", EAM, *more]
            words += ["--learn", str(labels), "--reference", EAM] if labels else []
            subprocess.run([sys.executable, "-m", "potstill.cli", *words], check=True)  # noqa: S603
            found = json.loads((out / "relax.json").read_text(encoding="utf-8"))
            judged = json.loads((out / "judge.json").read_text(encoding="utf-8"))
            asked = json.loads((out / "learning.json").read_text(encoding="utf-8"))["rounds"][-1] if labels else None
            fcc = any(r["trusted"] and r["known_as"] == "fcc Ni" for r in found)
            rows.append(
                {
                    "set": name, "n": len(found), "labels": asked["n_labels"] if asked else 0,
                    "trusted": sum(r["trusted"] for r in found), "judged": judged["trusted"], "all": judged["all"],
                    "fcc": fcc, "verdicts": dict(Counter(r["verdict"] for r in found)),
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    if GENERATED.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            words = ["relax", str(GENERATED / "generated_crystals.extxyz"), "--model", str(model), "--out", folder]
            subprocess.run([sys.executable, "-m", "potstill.cli", *words], check=True)  # noqa: S603
            found = json.loads((Path(folder) / "relax.json").read_text(encoding="utf-8"))
            about["strangers"] = {
                "n": len(found),
                "out_of_domain": sum(r["verdict"] == "out-of-domain" for r in found),
                "seconds": time.perf_counter() - began,
            }
            print(about["strangers"])
    keep("relax-trust", about, rows, by=("set",))


def page() -> None:
    """Write the tables into docs/relax.md."""
    parts = []
    if (file := KEPT / "relax-trust.json").is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        lines = []
        for r in told["rows"]:
            j, a = r["judged"], r["all"]
            lines.append(
                [
                    f"{r['n']} {'of MatterGen, as nickel' if r['set'] == 'MatterGen' else 'random symmetric crystals'}",
                    str(r["labels"]), f"{r['trusted']} ({100 * r['trusted'] / r['n']:.0f} %)",
                    f"{100 * j['within']:.0f} % of {j['n']}" if j["n"] else "–",
                    f"{j['worst']:.1f}" if j["n"] else "–",
                    "–" if j["rank"] is None else f"{j['rank']:.3f}",
                    f"{100 * a['within']:.0f} % of {a['n']}", "yes" if r["fcc"] else "no",
                ]
            )  # fmt: skip
        heads = ["structures", "labels", "trusted", "trusted within 5 meV/atom of the reference's own relaxation"]
        parts.append(markdown([*heads, "worst, meV/atom", "rank correlation", "all within 5", "fcc found"], lines))
        if "strangers" in told:
            s = told["strangers"]
            parts.append(
                f"Without `--as`, {s['out_of_domain']} of MatterGen's {s['n']} are out of domain, told in "
                f"{s['seconds']:.1f} s with the start of the program.\n"
            )
        parts.append(source("relax.py trust", told))
    if (file := KEPT / "relax-speed.json").is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        lines = [
            [r["name"], f"{r['per_minute']:.0f}", f"{r['converged']} of {r['n']}", f"{100 * r['alike']:.0f} %"]
            if "failed" not in r
            else [r["name"], str(r["failed"])[:80], f"– of {r['n']}", "–"]
            for r in told["rows"]
        ]
        heads = ["program", "structures a minute", f"at rest in {STEPS} steps", "ended as the first row did"]
        parts.append(markdown(heads, lines))
        parts.append(source("relax.py speed", told))
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}{tail}", encoding="utf-8")


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "trust", "page", "time"))
    parser.add_argument("way", nargs="?", default="ours")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--file", type=Path)
    parser.add_argument("-n", type=int, default=RANDOM)
    given = parser.parse_args()
    if given.what == "page":
        page()
    elif not (given.model / "model.json").is_file():
        sys.exit(f"There is no model in {given.model}: run `make demo`, or name one by --model.")
    elif given.what == "time" and given.way == "ours":
        print(json.dumps(ours(given.model, given.file)))
    elif given.what == "time":
        print(json.dumps(one_by_one(given.model, given.file, given.way)))
    elif given.what == "speed":
        speed(given.model.resolve(), given.n)
    else:
        trust(given.model.resolve())


if __name__ == "__main__":
    main()

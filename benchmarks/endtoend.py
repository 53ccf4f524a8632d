"""From nothing to a verdict: labels, seconds and CPU seconds, and what the card says.

    python benchmarks/endtoend.py              all that is not among the kept results
    python benchmarks/endtoend.py nickel       examples/nickel.toml with budgets of 25, 50, 100 and 200 labels
    python benchmarks/endtoend.py aluminium    examples/aluminium_dft.toml, labels by Quantum ESPRESSO: half an hour

Every row is a run of its own, from nothing, by one command, in an empty folder: a stage that is resumed counts its
last attempt alone, so a folder that holds an attempt is refused. Labels to judge by are counted as labels. What the
reference relaxes and measures for the card is counted apart, a crystal or a check each, because a run keeps no count of
single calculations; their seconds are those of validation.

Ladder and random frames, which only compare, are left out. The potential that learns from the pool alone is not,
because no setting leaves it out where frames stand beside the pool: its seconds are told by the run's log. A line of
the card is a check, of the order of polymorphs as of an elastic constant; docs/verdict.md has the checks and their
tolerances.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from common import HERE, RUNS, announce, keep

PLAIN = ("sample.baseline=false", "distil.baseline=false")
RUNS_OF = {
    "nickel": [("nickel.toml", (f"distil.budget={n}", *PLAIN)) for n in (25, 50, 100, 200)],
    "aluminium": [("aluminium_dft.toml", ())],
}
ALONE = {"distil": "train:", "validate": "validate:"}  # stages that know the pool alone, and what its lines begin with


def told_as(example: str, changes: tuple[str, ...]) -> list[str]:
    """Return the words of a run after its verb."""
    return [f"examples/{example}", *(word for change in changes for word in ("--set", change))]


def run(name: str, example: str, changes: tuple[str, ...]) -> dict[str, Any]:
    """Do one run and return its row."""
    out = RUNS / "endtoend" / "-".join([name, *(c.partition("=")[2] for c in changes if "budget" in c)])
    if out.is_dir() and any(out.iterdir()):
        sys.exit(f"{out} holds an earlier attempt, whose cost would be lost. Remove it, and the run begins anew.")
    words = told_as(example, changes)
    command = [sys.executable, "-m", "potstill.cli", "run", *words, "--out", str(out)]
    subprocess.run(command, check=True, cwd=HERE.parent)  # noqa: S603 - our own command
    return {"name": name, "command": " ".join(["potstill run", *words]), **row_of(out)}


def row_of(out: Path) -> dict[str, Any]:
    """Return what a finished run cost, and what its card says."""
    told = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    results = {v["check"]: v["result"] for v in told["verdict"]}
    errors = told["distil"]["errors"]
    units = [json.loads(file.read_text(encoding="utf-8")) for file in (out / "3-validate" / "units").glob("*.json")]
    by_reference = Counter(u["what"]["check"] for u in units if u["what"]["potential"] == told["reference"])
    by_reference.pop("doubt", None)  # the same structures again
    return {
        "learnt": told["distil"]["n_labels"],
        "labels": told["labels_total"],
        "by_reference": dict(by_reference),
        "md_steps": told["sample"]["md_steps"],
        "seconds": sum(stage["wall_s"] for stage in told["cost"].values()),
        "cpu_seconds": {stage: cost["cpu_s"] for stage, cost in told["cost"].items()},
        "pool_alone_seconds": pool_alone((out / "log.txt").read_text(encoding="utf-8")),
        "energy": errors["energy_rmse_mev_per_atom"],
        "forces": 1e3 * errors["force_rmse_ev_per_angstrom"],
        "results": dict(Counter(results.values())),
        "outside": [check for check, result in results.items() if result == "outside"],
        "failed": [check for check, result in results.items() if result == "fail"],
        "reference": told["reference"],
    }


def pool_alone(log: str) -> float:
    """Return the wall seconds that went to the potential of the pool alone, from the times of a run's lines."""
    spent, began, goes_on = 0.0, None, ""
    for line in log.splitlines():
        at, _, told = line.partition(" ")
        now = datetime.fromisoformat(at)
        if began is not None and not told.startswith(goes_on):
            spent, began = spent + (now - began).total_seconds(), None
        if "the pool alone" in told:
            began, goes_on = now, ALONE[told.partition(":")[0]]
    return spent


def fewest(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of each metal how few labels led to a card without a fail, and what the run cost."""
    told = []
    for name in dict.fromkeys(r["name"] for r in rows):
        mine = sorted((r for r in rows if r["name"] == name), key=lambda r: r["learnt"])
        head = f"{name.capitalize()}, {', '.join(str(r['learnt']) for r in mine)} labels learnt:"
        failed = [f"{r['learnt']} ({', '.join(r['failed'])})" for r in mine if r["failed"]]
        good = next((r for r in mine if not r["failed"]), None)
        if good is None:
            told.append(f"{head} none of these has a card without a fail: {'; '.join(failed)}.")
            continue
        hours = sum(good["cpu_seconds"].values()) / 3600
        told.append(
            f"{head} {good['learnt']} are the fewest whose card has no fail. That run took {good['labels']} labels in "
            f"all, {good['seconds']:,.0f} s and {hours:.2f} CPU-hours; outside their tolerance were "
            f"{', '.join(good['outside']) or 'no crystals'}."
            + (f" With a fail: {'; '.join(failed)}." if failed else "")
        )
    return told


def main() -> None:
    """Do what is asked for and not kept."""
    RUNS.mkdir(parents=True, exist_ok=True)
    about = announce("endtoend")
    file = HERE / "results" / "endtoend.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    for name in sys.argv[1:] or list(RUNS_OF):
        for example, changes in RUNS_OF[name]:
            if " ".join(["potstill run", *told_as(example, changes)]) not in {r["command"] for r in rows}:
                rows.append(run(name, example, changes))
                keep("endtoend", about, rows)
    for r in rows:
        hours = {stage: seconds / 3600 for stage, seconds in r["cpu_seconds"].items()}
        print(
            f"{r['name']}: {r['labels']} labels, {sum(r['by_reference'].values())} crystals and checks by the "
            f"reference, {r['seconds']:.0f} s, {sum(hours.values()):.3f} CPU-hours, {hours['validate']:.3f} of "
            f"them for the verdict; {r['pool_alone_seconds']:.0f} s for the pool alone: {r['results']}"
        )
    print("\n".join(fewest(rows)))


if __name__ == "__main__":
    main()

"""From nothing to a verdict: labels, seconds and CPU seconds, and what the card says.

    python benchmarks/endtoend.py              all that is not among the kept results
    python benchmarks/endtoend.py nickel       examples/nickel.toml with budgets of 25, 50, 100 and 200 labels
    python benchmarks/endtoend.py aluminium    examples/aluminium_dft.toml, labels by Quantum ESPRESSO: half an hour

Every row is a run of its own, from nothing, by one command; labels to judge by are counted too. A line of the card is a
check, of the order of polymorphs as of an elastic constant; docs/verdict.md has the checks and their tolerances.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

from common import HERE, RUNS, announce, keep

PLAIN = ("sample.baseline=false", "distil.baseline=false")  # what only compares is left out
RUNS_OF = {
    "nickel": [("nickel.toml", (f"distil.budget={n}", *PLAIN)) for n in (25, 50, 100, 200)],
    "aluminium": [("aluminium_dft.toml", ())],
}


def told_as(example: str, changes: tuple[str, ...]) -> list[str]:
    """Return the words of a run after its verb."""
    return [f"examples/{example}", *(word for change in changes for word in ("--set", change))]


def run(name: str, example: str, changes: tuple[str, ...]) -> dict[str, Any]:
    """Do one run and return its row; a run that was stopped goes on, and its earlier seconds count."""
    out = RUNS / "endtoend" / "-".join([name, *(c.partition("=")[2] for c in changes if "budget" in c)])
    words = told_as(example, changes)
    command = [sys.executable, "-m", "potstill.cli", "run", *words, "--out", str(out)]
    subprocess.run(command, check=True, cwd=HERE.parent)  # noqa: S603 - our own command
    told = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    results = {v["check"]: v["result"] for v in told["verdict"]}
    errors = told["distil"]["errors"]
    return {
        "name": name,
        "command": " ".join(["potstill run", *words]),
        "learnt": told["distil"]["n_labels"],
        "labels": told["labels_total"],
        "md_steps": told["sample"]["md_steps"],
        "seconds": sum(stage["wall_s"] for stage in told["cost"].values()),
        "cpu_seconds": {stage: cost["cpu_s"] for stage, cost in told["cost"].items()},
        "energy": errors["energy_rmse_mev_per_atom"],
        "forces": 1e3 * errors["force_rmse_ev_per_angstrom"],
        "results": dict(Counter(results.values())),
        "failed": [check for check, result in results.items() if result == "fail"],
        "reference": told["reference"],
    }


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
        hours = sum(r["cpu_seconds"].values()) / 3600
        print(f"{r['name']}: {r['labels']} labels, {r['seconds']:.0f} s, {hours:.3f} CPU-hours: {r['results']}")


if __name__ == "__main__":
    main()

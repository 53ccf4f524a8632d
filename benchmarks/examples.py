"""Run an example and keep what it ends with, where the README and the docs quote it from.

    python benchmarks/examples.py nickel              what make demo does: ten minutes
    python benchmarks/examples.py nickel_to_others    nickel's configurations for aluminium and niobium: half an hour
    python benchmarks/examples.py aluminium_dft       labels by Quantum ESPRESSO: half an hour

A run goes on where it stopped, so one that has ended is only read: ``make demo``'s, and of aluminium that of
endtoend.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from common import HERE, announce, keep

OUT = {"nickel": "demo", "nickel_to_others": "others", "aluminium_dft": "bench/endtoend/aluminium"}
QUANTITY = ("quantity", "unit", "model", "reference", "difference", "difference_percent", "tolerance", "tolerance_unit")


def verdict(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return errors, crystals and the card of one track, without its figures' data."""
    crystals = {c["crystal"]: c for c in told["polymorphs"]["crystals"]}
    rest = next(iter(told["polymorphs"]["order_reference"]))
    return {
        "errors": told["holdout"],
        "crystals": {name: c["relative_energy_error"] for name, c in crystals.items() if name != rest},
        "above": {name: c["reference"]["relative_energy"] for name, c in crystals.items()},
        "outside": {s["structure"]: s["error"] for s in told["outside"] or ()},
        "card": {
            check["check"]: [{key: row[key] for key in (*QUANTITY, "result")} for row in check["rows"]]
            for check in told["card"]
        },
    }


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(description="Run an example and keep what it ends with.")
    parser.add_argument("example", choices=OUT)
    given = parser.parse_args()
    about = announce(f"example {given.example}")
    out = HERE.parent / "runs" / OUT[given.example]
    example = f"examples/{given.example}.toml"
    command = [sys.executable, "-m", "potstill.cli", "run", example, "--out", str(out)]
    subprocess.run(command, check=True, cwd=HERE.parent)  # noqa: S603 - our own command
    told = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    tracks = {"beside": told["validate"], "pool-only": told["validate"].get("pool_only")}
    row = {
        "name": given.example,
        "headline": told["headline"],
        "tracks": {name: verdict(track) for name, track in tracks.items() if track},
        "seconds": {stage: cost["wall_s"] for stage, cost in told["cost"].items()},
    }
    last = max(cost["finished"] for cost in told["cost"].values())
    keep("examples", {**about, "date": last[:10], "versions": told["versions"]}, [row], by=("name",))


if __name__ == "__main__":
    main()

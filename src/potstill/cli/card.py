"""The verdict's card on the terminal."""

from __future__ import annotations

from typing import Any

import typer

COLOURS = {"pass": "green", "near": "yellow", "fail": "red", "not measured": "yellow"}


def print_card(card: list[dict[str, Any]]) -> None:
    """Print a line for each quantity of each check."""
    if not card:
        return
    typer.echo(f"\n{'check':<38} {'model':>12} {'reference':>12} {'difference':>11} {'tolerance':>12}  result")
    for check in card:
        typer.echo(f"{check['title']}{_doubt(check['doubt'])}")
        for row in check["rows"]:
            told = typer.style(row["result"], fg=COLOURS[row["result"]])
            limit = f"{row['tolerance']:g} {row['tolerance_unit']}"
            name = f"  {row['quantity']}" + (f" ({row['unit']})" if row["unit"] else "")
            values = [_number(row["model"], row["model_error"]), _number(row["reference"], row["reference_error"])]
            off = row["difference_percent"] if row["tolerance_unit"] == "%" else row["difference"]
            off_told = "" if off is None else f"{off:+.3g}" + (" %" if row["tolerance_unit"] == "%" else "")
            typer.echo(f"{name:<38} {values[0]:>12} {values[1]:>12} {off_told:>11} {limit:>12}  {told}")
        for side, reasons in check["failed"].items():
            for what, why in reasons.items():
                typer.echo(f"  {side}: {'' if what == '*' else what + ': '}{why}")


def _number(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" ± {error:.1g}" if error and error > 1e-3 * abs(value) else "")


def _doubt(doubt: dict[str, Any] | None) -> str:
    if not doubt:
        return ""
    found, expected = [f"{1e3 * doubt['found']:.2g} meV/Å"], [f"{1e3 * doubt['expected']:.2g}"]
    if doubt["found_energy"] is not None:
        found.insert(0, f"{doubt['found_energy']:.2g} meV/atom")
        expected.insert(0, f"{doubt['expected_energy']:.2g}")
    return f": on its structures {' and '.join(found)} wrong, expected {' and '.join(expected)}"

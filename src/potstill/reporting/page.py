"""The page: gather the numbers, write them as JSON, and set them in the template."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.data import write_atomic
from potstill.errors import StoreError
from potstill.reporting import figures
from potstill.reporting.viewer import viewer, within
from potstill.store import RunDir, read_json, write_json

MOST_BYTES = 1_200_000  # of the structures that a page can show
WELL_COVERED = 0.9  # share of a metal's own frames that lie within what was learnt
STAGES = {"sample": "1-sample", "distil": "2-distil", "validate": "3-validate"}


def gather(out: Path) -> dict[str, Any]:
    """Collect every number of the page from a finished run.

    Raises
    ------
    StoreError
        If a stage has not finished.
    """
    directory = RunDir(out)
    records: dict[str, Any] = {}
    for stage, folder in STAGES.items():
        record = directory.record(folder)
        if record is None:
            raise StoreError(
                f"{out} has no finished stage '{stage}' yet. `potstill run` goes on from where it stopped."
            )
        records[stage] = record
    validation = read_json(out / "3-validate" / "validation.json")
    validation["pool_only"] = records["validate"]["summary"].get("pool_only")
    curve = read_json(out / "2-distil" / "learning_curve.json")
    sampled, distilled = records["sample"]["summary"], records["distil"]["summary"]
    config = (out / "config.toml").read_text(encoding="utf-8")
    summary: dict[str, Any] = {
        "element": validation["element"],
        "reference": validation["reference"],
        "sample": {**sampled, "settings": records["sample"]["settings"].get("sample")},
        "distil": {
            **distilled,
            "curve": curve["rounds"],
            "random": curve.get("random", []),
            "settings": records["distil"]["settings"].get("distil"),
        },
        "transfer": sampled if "source" in sampled else None,
        "labels_total": sum(distilled[k] for k in ("n_labels", "n_holdout", "n_failures")),
        "labels_share_of_pool": (distilled["n_labels"] - distilled["n_beside"]) / sampled["n_frames"],
        "validate": validation,
        "failures": read_json(out / "2-distil" / "failures.json"),
        "cost": _cost(directory, records),
        "versions": records["validate"]["versions"],
        "command": " ".join(records["sample"]["command"]),
        "config": config,
        "title": tomllib.loads(config).get("title", ""),
        "seed": records["sample"]["settings"]["seed"],
        "targets": _targets(out),
    }
    thermal, compared = _sampling(out)
    if thermal:
        summary["sample"]["thermodynamics"] = [{k: v for k, v in run.items() if k != "points"} for run in thermal]
    if compared:
        summary["sample"]["coverage"] = {
            "md_steps": compared["md_steps"],
            "measure": compared["measure"],
            "pools": {
                name: {k: pool[k] for k in ("n_frames", "cells_visited", "covered_by_other")}
                for name, pool in compared["pools"].items()
            },
        }
    summary["verdict"] = _verdict(validation)
    summary["tracks"] = _tracks(summary)
    summary["outliers"] = read_json(out / "2-distil" / "outliers.json")
    summary["headline"] = _headline(summary)
    summary["next"] = _next(summary)
    return summary


def _cost(directory: RunDir, records: dict[str, Any]) -> dict[str, Any]:
    """Return what each stage took: seconds, and how many labels were asked for and failed."""
    onward = directory.record("4-transfer")
    cost = {
        name: {**{k: r[k] for k in ("wall_s", "cpu_s", "finished")}, "labels": None, "failed": None}
        for name, r in {**records, **({"transfer": onward} if onward else {})}.items()
    }
    n = records["distil"]["summary"]
    asked = n["n_labels"] + n["n_holdout"] + n["n_failures"] + n.get("n_drawn", 0)
    cost["distil"] |= {"labels": asked, "failed": n["n_failures"]}
    if onward:
        rows = [t for t in _targets(directory.path) if not t.get("failed")]
        failed = sum(t["n_failures"] for t in rows)
        asked = sum(t["n_labels"] + t["n_judge"] for t in rows) + failed
        cost["transfer"] |= {"labels": asked, "failed": failed}
    return cost


def _targets(out: Path) -> list[dict[str, Any]]:
    """Return the rows of the metals that the distilled set was transferred to."""
    table = out / "4-transfer" / "transfer.json"
    return list(read_json(table)["targets"]) if table.exists() else []


def _sampling(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return the physics of each campaign and the comparison with the ladder, where there are any."""
    thermal, compared = out / "1-sample" / "thermodynamics.json", out / "1-sample" / "coverage.json"
    return (
        read_json(thermal)["campaigns"] if thermal.exists() else [],
        read_json(compared) if compared.exists() else None,
    )


def _verdict(validation: dict[str, Any]) -> list[dict[str, Any]]:
    """One line a finding, passed or not: the stated tolerance decides."""
    p = validation["polymorphs"]
    lines: list[dict[str, Any]] = [
        {
            "check": "ground state",
            "passed": p["ground_state_right"],
            "text": f"the model's most stable crystal is {p['order_nnp'][0] if p['order_nnp'] else 'none'}, "
            f"the reference's {p['order_reference'][0] if p['order_reference'] else 'none'}",
        },
        {
            "check": "order of stability",
            "passed": p["order_right"],
            "text": f"model {' < '.join(p['order_nnp'])}; reference {' < '.join(p['order_reference'])}",
        },
    ]
    for row in p["crystals"]:
        error = row["relative_energy_error"]
        if row["crystal"] == p["relative_to"]:
            continue
        if error is None:
            failed = row["nnp"].get("failed") or row["reference"].get("failed")
            lines.append({"check": row["crystal"], "passed": False, "text": f"not relaxed: {failed}"})
        else:
            lines.append(
                {
                    "check": row["crystal"],
                    "passed": abs(error) <= p["tolerance_mev_per_atom"],
                    "text": f"{row['nnp']['relative_energy']:.1f} meV/atom above {p['relative_to']}, reference "
                    f"{row['reference']['relative_energy']:.1f}, difference {error:+.1f} "
                    f"(tolerance {p['tolerance_mev_per_atom']:g})",
                }
            )
    for row in validation["outside"] or []:
        error, limit = row["error"], p["tolerance_mev_per_atom"]
        if error is None:
            lines.append({"check": row["structure"], "passed": False, "text": "not relaxed"})
            continue
        lines.append(
            {
                "check": row["structure"],
                "passed": abs(error) <= limit,
                "text": f"{row['nnp']:.1f} meV/atom above {p['relative_to']}, reference {row['reference']:.1f}, "
                f"difference {error:+.1f} (tolerance {limit:g})",
            }
        )
    for line in lines:
        line["result"] = "pass" if line["passed"] else "outside"
    return lines + [
        {"check": c["title"], "passed": c["result"] == "pass", "result": c["result"], "text": _finding(c)}
        for c in validation.get("card", [])
    ]


def _finding(check: dict[str, Any]) -> str:
    """Say which quantities of a check are off, or how well the worst of them is met."""
    rows = [r for r in check["rows"] if r["result"] == check["result"]]
    told = []
    for r in rows if check["result"] != "pass" else []:
        if r["difference"] is None:
            told.append(f"{_spoken(r)} not measured")
        elif r["tolerance_unit"] == "%" and r["difference_percent"] is not None:
            told.append(f"{_spoken(r)} {r['difference_percent']:+.1f} % (tolerance {r['tolerance']:g})")
        else:
            told.append(f"{_spoken(r)} {r['difference']:+.3g} {r['unit']} (tolerance {r['tolerance']:g})")
    return ", ".join(told) or f"{', '.join(_spoken(r) for r in rows)}: all within the tolerance"


def _spoken(row: dict[str, Any]) -> str:
    return str(row["quantity"]).replace("_", " ")


def _tracks(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return both claims side by side: with what stood beside the pool, and by the pool alone."""
    v, n = summary["validate"], summary["distil"]["n_labels"]
    rows = [{"name": "pool and beside", "n_labels": n, **v}]
    if v["pool_only"]:
        rows.append({"name": "pool only", "n_labels": n - summary["distil"]["n_beside"], **v["pool_only"]})
    else:
        rows[0]["name"] = "pool only"
    return [{"name": r["name"], "n_labels": r["n_labels"], "errors": r["holdout"], "outside": _told(r)} for r in rows]


def _headline(summary: dict[str, Any]) -> list[str]:
    errors = summary["distil"]["errors"]
    share = 100 * summary["labels_share_of_pool"]
    n, n_pool, n_held = summary["distil"]["n_labels"], summary["sample"]["n_frames"], summary["distil"]["n_holdout"]
    n_beside = summary["distil"]["n_beside"]
    beside = f", and {n_beside} generated ones beside them" if n_beside else ""
    kept = (
        f"{n_pool} configurations of {summary['transfer']['source']}, scaled by {summary['transfer']['scale']:.3f} to "
        f"{summary['element']}{_own_frames(n - n_pool)}; {summary['labels_total']} labels were asked for in all, "
        f"{n_held} of them to judge by."
        if summary["transfer"]
        else f"{n - n_beside} of {n_pool} configurations of {summary['element']} kept ({share:.1f} %){beside}; "
        f"{summary['labels_total']} labels were asked for in all, {n_held} of them to judge by{_compared(summary)}."
    )
    lines = [kept]
    if errors:
        energy, force = errors["energy_rmse_mev_per_atom"], 1e3 * errors["force_rmse_ev_per_angstrom"]
        lines.append(
            f"On {errors['n_frames']} {_judges(summary)}: {energy:.2f} meV/atom and {force:.1f} meV/Å "
            "(root mean square)."
        )
    lines.append(
        f"What was not in the data: energy above {summary['validate']['polymorphs']['relative_to']}, model less "
        f"reference (meV/atom): {_told(summary['validate'])}."
    )
    alone = summary["validate"]["pool_only"]
    if alone:
        errors = alone["holdout"]
        first = (
            f"{errors['energy_rmse_mev_per_atom']:.2f} meV/atom and "
            f"{1e3 * errors['force_rmse_ev_per_angstrom']:.1f} meV/Å; "
            if errors
            else ""
        )
        lines.append(f"Without the {n_beside} labels from beside the pool: {first}{_told(alone)}.")
    return lines + [_onward(r) for r in summary["targets"]]


def _onward(row: Mapping[str, Any]) -> str:
    """Say of one metal that the distilled set was transferred to how it went."""
    if "failed" in row:
        return f"{row['target']} could not be learnt from it: {row['failed']}"
    e = row["errors"]
    errors = (
        f"{e['energy_rmse_mev_per_atom']:.2f} meV/atom and {1e3 * e['force_rmse_ev_per_angstrom']:.1f} meV/Å"
        if e
        else "no frames to judge by"
    )
    state = "" if row.get("ground_state_right", True) else ", but another ground state than the reference's"
    return f"{row['target']}, of {row['n_labels']} labels scaled to it: {errors}{state}."


def _compared(summary: dict[str, Any]) -> str:
    n = summary["distil"].get("n_drawn", 0)
    return f", beside {n} random ones to compare with" if n else ""


def _own_frames(n: int) -> str:
    return f", and {n} of its own" if n > 0 else ""


def _judges(summary: dict[str, Any]) -> str:
    if not summary["transfer"]:
        return "frames of other trajectories"
    own = summary["transfer"]["judge"] == "own dynamics"
    return "frames of the metal's own dynamics" if own else "frames that were not learnt from"


def _told(verdict: dict[str, Any]) -> str:
    """Name every structure with the error of its energy above the ground state."""
    p = verdict["polymorphs"]
    errors = {r["crystal"]: r["relative_energy_error"] for r in p["crystals"] if r["crystal"] != p["relative_to"]}
    errors |= {r["structure"]: r["error"] for r in verdict["outside"] or []}
    return ", ".join(f"{name} {error:+.1f}" for name, error in errors.items() if error is not None)


def _next(summary: dict[str, Any]) -> list[str]:
    """Each finding with its remedy."""
    advice = []
    advice += _gap(summary["distil"].get("coverage"), summary["distil"].get("partial", False))
    if summary["sample"]["stopped_early"]:
        n = len(summary["sample"]["stopped_early"])
        advice.append(
            f"{n} trajectories stopped early: lower the highest sample.temperature or raise the lowest pressure."
            if summary["sample"]["settings"]["ensemble"] == "npt-ladder"
            else "The sampling did not go as it should; what and why stands with the pool."
        )
    if summary["outliers"]:
        advice.append(
            f"{len(summary['outliers'])} labels are explained by nothing else; they are listed below. Look at them, or "
            "set distil.drop_outliers."
        )
    if summary["failures"]:
        advice.append(f"{len(summary['failures'])} labels failed; their reasons are listed below.")
    missed = [
        line["check"] for line in summary["verdict"] if not line["passed"] and line["check"] in _crystals(summary)
    ]
    if missed:
        advice.append(
            f"{', '.join(missed)}: outside the tolerance. More labels of this pool mend that little, because it holds "
            "no such crystal: raise distil.beside or the budget, or do not use the potential there."
        )
    return advice


def _gap(covered: dict[str, Any] | None, partial: bool) -> list[str]:
    """Say what a transferred set does not cover, and how to mend it."""
    advice = []
    if partial:
        advice.append(
            "More than a twentieth of the labels failed, so the potential rests on fewer frames than were asked for. "
            "Mend the reference and run the same command: labels that are there are not made again."
        )
    if covered is None:
        return advice
    if covered["frames"] is not None and covered["frames"] < WELL_COVERED:
        advice.append(
            f"{100 * (1 - covered['frames']):.0f} % of the frames that the metal visits itself have an atom unlike any "
            "learnt one: transfer.top_up adds those that close the gap best."
        )
    far = [f"{name} ({x:.1f})" for name, x in covered["crystals"].items() if x > covered["limit"]]
    if far:
        advice.append(
            f"Crystals farther from what was learnt than learnt atoms are from each other: {', '.join(far)}. "
            "What that costs, the verdict shows; a model of more labels, or of transfer.top_up, knows them better."
        )
    return advice


def _crystals(summary: dict[str, Any]) -> set[str]:
    rows = summary["validate"]["polymorphs"]["crystals"]
    return {row["crystal"] for row in rows} | {row["structure"] for row in summary["validate"]["outside"] or []}


def draw(out: Path, summary: dict[str, Any]) -> dict[str, figures.Figure]:
    """Return the figures of a finished run by name."""
    with figures.style():
        return _drawn(out, summary)


def _drawn(out: Path, summary: dict[str, Any]) -> dict[str, figures.Figure]:
    p = summary["validate"]["polymorphs"]
    made = {"polymorphs": figures.polymorphs(p["crystals"], str(p["relative_to"]), p["tolerance_mev_per_atom"])}
    folder = out / "3-validate"
    if (folder / "coverage.json").exists():
        made["coverage"] = figures.coverage(read_json(folder / "coverage.json"))
    thermal, compared = _sampling(out)
    for k, run in enumerate(thermal):
        balance = figures.balance(run)
        made |= {f"visited{k}": figures.visited(run), f"reweighted{k}": figures.reweighted(run)}
        made |= {f"balance{k}": balance} if balance else {}
    if compared:
        made["pools"] = figures.pools(compared)
    for c in summary["validate"].get("card", []):
        figure = figures.check(c)
        made |= {f"check-{c['check']}": figure} if figure else {}
    if (folder / "parity.json").exists():
        made["parity"] = figures.parity(read_json(folder / "parity.json"))
    if not summary["transfer"] and all(r["errors"] for r in summary["distil"]["curve"]):
        made["learning"] = figures.learning_curve(summary["distil"]["curve"], summary["distil"]["random"])
    if summary["distil"]["curve"][-1]["reliability"]:
        made["reliability"] = figures.reliability(summary["distil"]["curve"][-1]["reliability"])
    return made


def _items(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what stands behind the points of figures: a line for each and, within the page's size, its structure."""
    folder, items = out / "3-validate", {}
    if (folder / "coverage.json").exists():
        c = read_json(folder / "coverage.json")
        items["coverage"] = [
            {"t": _line(c, k), "c": c["structure"][k], "learnt": c["learnt"][k]} for k in range(len(c["key"]))
        ]
    if (folder / "parity.json").exists():
        p = read_json(folder / "parity.json")
        told = zip(p["trajectory_of_frame"], p["phase_of_frame"], p["force_rmse_of_frame"], strict=True)
        items["parity"] = [
            {"t": f"{name}, {phase or 'no phase'}: forces off by {1e3 * error:.1f} meV/Å", "c": structure}
            for (name, phase, error), structure in zip(told, p["structure_of_frame"], strict=True)
        ]
    every = [item for name in ("parity", "coverage") for item in items.get(name, [])]
    for item, text in zip(every, within(MOST_BYTES, [item["c"] for item in every]), strict=True):
        item["c"] = text
    return items


def _line(c: dict[str, Any], k: int) -> str:
    """Say what a point of the map is."""
    parts = [c["trajectory"][k] if c["step"][k] is None else f"{c['trajectory'][k]}, step {c['step'][k]}"]
    for name, form in (
        ("energy_per_atom", "{:.3f} eV/atom"),
        ("temperature", "{:.0f} K"),
        ("volume_per_atom", "{:.2f} Å³/atom"),
        ("q6", "Q₆ {:.2f}"),
    ):
        if c[name][k] is not None:
            parts.append(form.format(c[name][k]))
    return " · ".join([*parts, *(["distilled"] if c["learnt"][k] else [])])


def report(out: str | Path) -> dict[str, Any]:
    """Write ``report.html`` and ``summary.json`` into a run directory.

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    StoreError
        If the run has not finished validation.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    out = Path(out)
    summary = gather(out)
    drawn = draw(out, summary)
    environment = Environment(loader=PackageLoader("potstill.reporting", "."), autoescape=select_autoescape())
    page = environment.get_template("page.html").render(
        s=summary,
        figures={name: figure.svg() for name, figure in drawn.items()},
        spots={name: {"at": drawn[name].spots, "items": items} for name, items in _items(out).items() if name in drawn},
        **viewer(),
    )
    write_json(out / "summary.json", summary)
    write_atomic(out / "report.html", page.encode())
    return {"headline": summary["headline"], "verdict": summary["verdict"]}

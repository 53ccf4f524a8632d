"""The whole path, killed at random moments and resumed; and what a second start does."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from potstill.data import Dataset
from potstill.store import RunDir, file_digest

CONFIG = Path(__file__).with_name("tiny.toml")
POTSTILL = [sys.executable, "-m", "potstill.cli"]
RESULTS = [
    "1-sample/pool.extxyz",
    "2-distil/distilled.extxyz",
    "2-distil/holdout.extxyz",
    "2-distil/learning_curve.json",
    "2-distil/model/model.safetensors",
    "2-distil/model/model.json",
    "3-validate/validation.json",
    "4-transfer/transfer.json",
    "4-transfer/Al/2-distil/distilled.extxyz",
    "4-transfer/Al/2-distil/model/model.safetensors",
]


def start(out, *extra):
    return subprocess.Popen(
        [*POTSTILL, "run", str(CONFIG), "--out", str(out), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(out, *extra):
    process = start(out, *extra)
    text, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, text
    return text


def results(out):
    return {name: file_digest(out / name) for name in RESULTS}


def units(out):
    """Every finished unit of work, with the moment at which it was written."""
    found = [*out.glob("1-sample/ensembles/*/*.safetensors"), *out.glob("labels/??/*.json")]
    found += [*out.glob("2-distil/rounds/*/*/round.json"), *out.glob("3-validate/units/*.json")]
    found += [*out.glob("4-transfer/Al/labels/??/*.json"), *out.glob("4-transfer/Al/3-validate/units/*.json")]
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def undisturbed(tiny):
    return tiny


def test_a_run_ends_with_everything_that_it_promises(undisturbed):
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert summary["distil"]["n_labels"] == len(Dataset.load(undisturbed / "2-distil/distilled.extxyz")) == 24
    assert summary["labels_total"] == 34
    assert (undisturbed / "report.html").read_text().startswith("<!doctype html>")
    whats = [json.loads(file.read_text())["what"] for file in undisturbed.glob("3-validate/**/units/*.json")]
    assert len({what["potential"] for what in whats}) == 3  # the reference, the model, and the one of the pool alone
    assert len({json.dumps(what) for what in whats}) == len(whats), "the reference was asked twice"
    assert {row["crystal"] for row in summary["validate"]["polymorphs"]["crystals"]} == {"fcc", "hcp", "bcc"}
    assert [row["target"] for row in summary["targets"]] == ["Al"]
    assert summary["targets"][0]["n_labels"] == 12
    assert summary["headline"][-1].startswith("Al, of 12 labels scaled to it: ")
    assert "4-transfer/Al/report.html" in (undisturbed / "report.html").read_text()
    curve = json.loads((undisturbed / "2-distil/learning_curve.json").read_text())["rounds"]
    assert [row["n_labels"] for row in curve] == [8, 24]


def test_the_holdout_shares_no_trajectory_with_what_was_learnt(undisturbed):
    distilled = Dataset.load(undisturbed / "2-distil/distilled.extxyz")
    holdout = Dataset.load(undisturbed / "2-distil/holdout.extxyz")
    assert not set(distilled.trajectories) & set(holdout.trajectories)
    assert all(frame.labels is not None for frame in [*distilled, *holdout])


def test_a_second_start_does_nothing_and_says_so(undisturbed):
    before, results_before = units(undisturbed), results(undisturbed)
    text = finish(undisturbed)
    assert "Nothing to do" in text
    assert units(undisturbed) == before
    assert results(undisturbed) == results_before


def test_killed_at_random_moments_it_ends_with_the_same_result_and_repeats_only_the_unit_in_flight(
    undisturbed, tmp_path
):
    out, chance = tmp_path / "killed", random.Random(1)
    kept: dict[Path, int] = {}
    for _ in range(4):
        process = start(out)
        time.sleep(chance.uniform(1.0, 9.0))
        done = process.poll() is not None
        os.killpg(process.pid, signal.SIGKILL) if not done else None
        process.communicate()
        now = units(out)
        repeated = [path for path, written in kept.items() if now.get(path) != written]
        assert repeated == [], "finished units were computed again"
        kept = now
        if done:
            break
    finish(out)
    assert {path: units(out)[path] for path in kept} == kept
    assert results(out) == results(undisturbed)


def test_explain_names_the_changed_key_and_what_follows(undisturbed):
    def explain(*extra):
        done = subprocess.run(
            [*POTSTILL, "explain", str(undisturbed), *extra], capture_output=True, text=True, check=True, timeout=120
        )
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}

    assert set(explain().values()) == {"up to date"}
    changed = explain("--set", "distil.budget=30")
    assert changed["sample"] == "up to date"
    assert "distil.budget changed from 24 to 30" in changed["distil"]
    assert "distil would run" in changed["validate"]
    assert "validate would run" in changed["report"]


def test_a_larger_budget_reuses_rounds_labels_and_pool(undisturbed, tmp_path):
    import shutil

    out = tmp_path / "grown"
    shutil.copytree(undisturbed, out)
    before = units(out)
    text = finish(out, "--set", "distil.budget=30", "--set", "transfer.to=[]")
    assert "sample: up to date" in text
    after = units(out)
    assert {path: after[path] for path in before} == before
    summary = json.loads((out / "summary.json").read_text())
    assert summary["distil"]["n_labels"] == 30
    assert summary["labels_total"] <= 34 + 30 - 8  # the first round's labels and the hold-out's are there already


def test_two_drivers_do_not_share_a_directory(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with RunDir(out).locked():
        process = start(out)
        text, _ = process.communicate(timeout=120)
    assert process.returncode == 7
    assert "in use by another potstill" in text


def test_an_altered_output_is_noticed_and_made_again(undisturbed, tmp_path):
    import shutil

    out = tmp_path / "altered"
    shutil.copytree(undisturbed, out)
    (out / "3-validate/validation.json").write_text("{}")
    text = finish(out)
    assert "its output validation.json was altered" in text
    assert results(out) == results(undisturbed)

"""What a model lacks for structures that it cannot be believed on is labelled, learnt, and they are relaxed again."""

import json
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from potstill import crystals
from potstill.backends import resolve
from potstill.cli import app
from potstill.config import parse_config
from potstill.data import Dataset, Frame
from potstill.errors import ConvergenceError
from potstill.labelling import Labelled, label
from potstill.relaxing import learn, relax
from potstill.relaxing.judge import TRUSTED_WAY
from potstill.relaxing.learn import covering, telling
from potstill.relaxing.read import Proposed
from potstill.store import LabelStore

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
SHORT = parse_config({"seed": 1, "train": {"steps": 400}}, "a test")


def strange(n=4):
    """Crystals that the small committee has never seen, a little out of shape, and one that it knows."""
    rng = np.random.default_rng(3)
    made = []
    for k in range(n):
        atoms = crystals.supercell("bcc", "Ni", 11.5 + k, 8)
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        made.append(atoms)
    return [Proposed(f"made#{k}", a) for k, a in enumerate([*made, crystals.supercell("fcc", "Ni", 11.0, 4)])]


# --- the choice ---


def brute(at, owner, weight, distance, chosen):
    """What is lacking with some frames known, atom by atom."""
    total = 0.0
    for a, (x, d) in enumerate(zip(at, distance, strict=True)):
        others = [np.linalg.norm(x - at[b]) for b in range(len(at)) if owner[b] in chosen]
        total += weight[a] * max(0.0, min([d, *others]) - TRUSTED_WAY)
    return total


def test_each_chosen_frame_is_the_one_that_lowers_what_is_lacking_most():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), 3)
    at, weight = rng.normal(0, 2, (36, 4)), rng.random(36)
    distance = rng.uniform(0, 6, 36)
    allowed = [k for k in range(12) if k != 5]
    chosen = covering(at, owner, weight, distance, 4, allowed)
    assert len(chosen) == len(set(chosen)) == 4
    for n, best in enumerate(chosen):
        left = {k: brute(at, owner, weight, distance, {*chosen[:n], k}) for k in allowed if k not in chosen[:n]}
        assert left[best] == pytest.approx(min(left.values()), abs=1e-9)


def test_nothing_is_chosen_where_nothing_is_lacking():
    at, owner = np.zeros((4, 2)), np.arange(4)
    assert covering(at, owner, np.ones(4), np.full(4, 0.9 * TRUSTED_WAY), 3, range(4)) == []


def test_frames_come_from_ways_of_uncertain_structures_and_never_twice(model, tmp_path):
    found = relax(strange(), model, tmp_path)
    doubted = [k for k, row in enumerate(found.rows) if row.verdict == "uncertain"]
    assert doubted
    chosen = telling(model, found, 3, set())
    assert 0 < len(chosen) <= 3
    on_ways = {Frame.of(p).key for k in doubted for p in [*found.paths[k], found.ends[k]]}
    assert set(chosen.keys) <= on_ways
    assert not set(chosen.keys) & set(telling(model, found, 3, set(chosen.keys)).keys)


# --- the loop ---


def off(result):
    """How far energies at the ends are from the reference's there, at worst, eV/atom."""
    found = []
    for row, end in zip(result.rows, result.ends, strict=True):
        if end is not None:
            check = end.copy()
            check.calc = EAM.calculator()
            found.append(abs(row.energy - check.get_potential_energy() / len(check)))
    return max(found)


def test_labels_bring_ways_within_what_is_known_and_energies_right(model, lessons, tmp_path):
    ask = partial(label, potential=EAM, store=LabelStore(tmp_path / "labels"), workers=1)
    relax_with = partial(relax, strange(), folder=tmp_path / "units")
    before = relax_with(model)
    found = learn(relax_with, model, lessons[0], lessons[1], 12, ask, SHORT, tmp_path / "models")
    first, last = found.rounds[0], found.rounds[-1]
    assert first["n_labels"] == 0
    assert 0 < last["n_labels"] <= 12
    assert len(found.data) == len(lessons[0]) + last["n_labels"]
    assert found.why
    assert np.mean([r.way for r in found.result.rows]) < np.mean([r.way for r in before.rows])
    assert off(found.result) < 0.01
    again = learn(relax_with, model, lessons[0], lessons[1], 12, ask, SHORT, tmp_path / "models")
    assert again.rounds == found.rounds
    assert again.model.fingerprint == found.model.fingerprint


def test_a_reference_that_labels_nothing_ends_it(model, lessons, tmp_path):
    def nothing(frames):
        return Labelled(Dataset(), (), 0, 0)

    with pytest.raises(ConvergenceError, match="None of the"):
        learn(
            partial(relax, strange(2), folder=tmp_path / "units"), model, lessons[0], lessons[1], 4, nothing, SHORT,
            tmp_path / "models",
        )  # fmt: skip


def test_without_uncertain_structures_nothing_is_asked_for(model, lessons, tmp_path):
    sure = [Proposed("made#0", crystals.supercell("fcc", "Ni", 11.0, 4))]
    found = learn(
        partial(relax, sure, folder=tmp_path), model, lessons[0], lessons[1], 4, pytest.fail, SHORT, tmp_path / "models"
    )
    assert found.why == "no structure is uncertain"
    assert found.model is model


# --- the command ---


def test_the_command_learns_judges_and_goes_on_where_it_was_stopped(model, lessons, tmp_path):
    from ase.io import write

    home = tmp_path / "run"
    model.save(home / "model")
    lessons[0].save(home / "distilled.extxyz")
    lessons[1].save(home / "holdout.extxyz")
    write(tmp_path / "p.extxyz", [p.atoms for p in strange(2)], format="extxyz")
    words = ["relax", str(tmp_path / "p.extxyz"), "--model", str(home / "model"), "--out", str(tmp_path / "out")]
    words += ["--learn", "4", "--reference", "lammps:NiAlH_jea.eam.alloy", "--judge", "lammps:NiAlH_jea.eam.alloy"]
    words += ["--set", "train.steps=200", "--workers", "1"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "against the judge" in done.output
    told = json.loads((tmp_path / "out" / "learning.json").read_text())
    assert told["rounds"][-1]["n_labels"] <= 4
    rows = json.loads((tmp_path / "out" / "relax.json").read_text())
    assert all(r["judge_energy"] is not None for r in rows if r["verdict"] != "failed")
    assert "What was learnt for them" in (tmp_path / "out" / "relax.html").read_text()
    assert (tmp_path / "out" / "model" / "model.json").is_file()
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert json.loads((tmp_path / "out" / "learning.json").read_text()) == told
    assert "0 computed" in again.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learn", "4"], "needs --reference"),
        (["--learn", "4", "--reference", "lammps:NiAlH_jea.eam.alloy"], "distilled.extxyz does not exist"),
    ],
)
def test_what_learning_lacks_is_told_before_anything_is_done(model, tmp_path, words, said):
    from ase.io import write

    model.save(tmp_path / "model")
    write(tmp_path / "p.extxyz", strange(1)[0].atoms, format="extxyz")
    command = ["relax", str(tmp_path / "p.extxyz"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, *words])
    assert done.exit_code != 0
    assert said in f"{done.output}{done.exception}"


def test_a_potential_that_cannot_be_trained_does_not_learn(tmp_path):
    from ase.io import write

    write(tmp_path / "p.extxyz", strange(1)[0].atoms, format="extxyz")
    words = ["relax", str(tmp_path / "p.extxyz"), "--model", "lammps:NiAlH_jea.eam.alloy", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*words, "--learn", "3", "--reference", "lammps:NiAlH_jea.eam.alloy"])
    assert "can be trained" in f"{done.output}{done.exception}"

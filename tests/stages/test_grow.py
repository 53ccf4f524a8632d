"""A potential that grows: runs stop where knowledge ends, and what they left it by is learnt."""

import importlib

import numpy as np
import pytest
from ase.build import bulk

from potstill.backends import resolve
from potstill.config import ModelConfig, SampleConfig, TrainConfig, parse_config
from potstill.data import Dataset, Frame
from potstill.errors import BackendError, ConfigError
from potstill.labelling import compute
from potstill.model import Committee
from potstill.sampling import StrayedError, sample
from potstill.sampling.bias import FROZEN, Learning
from potstill.sampling.campaign import Campaign
from potstill.sampling.loop import FINE, STRAYED
from potstill.sampling.metal import Metal
from potstill.sampling.pool import resolve_ensemble
from potstill.sampling.walkers import Engine, Task, advance
from potstill.store import read_json
from potstill.training import train
from potstill.transferring import Source, grow

EAM = "lammps:NiAlH_jea.eam.alloy"
SMALL = ModelConfig(cutoff=4.5, angular_cutoff=4.0, n_radial=6, n_angular=3, l_max=2, hidden=(8, 8))
QUICK = SampleConfig(
    temperature=(900, 2500), prepare=800, learning_steps=1600, walkers=4, atoms=(16,), stride=20, frames=40
)


@pytest.fixture(scope="module")
def frames(strained):
    """Shaken cells of nickel: warm crystals, no liquid."""
    return strained(30, by=0.003, shaken=0.1)


@pytest.fixture(scope="module")
def model(frames):
    """A committee that has learnt those."""
    reference = resolve(EAM, ["Ni"])
    known = Dataset(f.labelled(compute(f, reference)) for f in frames)
    return train(known, SMALL, TrainConfig(members=2, steps=60, batch=4), seed=1)


def chunk(model, guard, steps=400):
    """Return the work of one walker at 2,500 K."""
    ensemble = resolve_ensemble(QUICK, Metal("Ni", "fcc", 10.9, 4.45), "structure-factor", 16, 4)
    crystal = bulk("Ni", "fcc", a=3.52, cubic=True).repeat((2, 2, 1))
    c = Campaign(ensemble, model, crystal, 1, None, guard=guard)
    state = c._start()
    return Task(
        c.engine, state.walkers[0], steps, c.order, c._walls(2500.0), Learning(FROZEN, 0.0, 1.0, 1.0), c.md, (1, 2),
        steps // 20, 0, 0,
    )  # fmt: skip


def frame_of(walker):
    from ase import Atoms

    return Frame.of(Atoms(["Ni"] * len(walker.x), positions=walker.x, cell=walker.h, pbc=True))


@pytest.mark.parametrize("guard", [1.0, 2.0])
def test_a_walker_stops_at_the_first_record_beyond_what_was_learnt(model, guard):
    done = advance(chunk(model, guard, 2000))
    assert done.status == STRAYED
    made = int(done.output.counts[0])
    assert made < 100
    there = model.strangeness([frame_of(done.walker)])[0]
    assert there.max() > guard * (1 - 1e-6)
    if made:  # where it stood at the record before, it was inside
        before = advance(chunk(model, 0.0, 20 * made))
        assert before.status == FINE
        assert model.strangeness([frame_of(before.walker)])[0].max() <= guard * (1 + 1e-6)


def test_a_guard_that_is_never_touched_changes_nothing(model):
    free, guarded = advance(chunk(model, 0.0, 200)), advance(chunk(model, 1e6, 200))
    assert free.status == guarded.status == FINE
    for a, b in zip(free.walker, guarded.walker, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(free.output.records, guarded.output.records)


def test_a_run_that_leaves_the_known_ends_with_the_frames_that_say_so(model, tmp_path):
    with pytest.raises(StrayedError, match="have left what the model has learnt") as caught:
        sample(QUICK, model, seed=1, folder=tmp_path, workers=1, tell=lambda _: None, guard=2.0)
    frames = caught.value.frames
    assert 1 <= len(frames) <= 4
    assert all(s.max() > 2.0 * (1 - 1e-6) for s in model.strangeness(frames))
    assert "molten" in caught.value.where or "melted" in caught.value.where


def test_only_what_knows_its_own_limits_is_guarded(tmp_path):
    ladder = QUICK.model_copy(update={"ensemble": "npt-ladder"})
    with pytest.raises(ConfigError, match="npt-ladder"):
        sample(ladder, resolve(EAM, ["Ni"]), seed=1, folder=tmp_path, workers=1, tell=lambda _: None, guard=2.0)
    task = chunk(resolve(EAM, ["Ni"]), 0.0)
    engine = Engine(resolve("ase:emt"), "Ni", 16, 2.0)
    with pytest.raises(BackendError, match="committee"):
        advance(Task(engine, *[getattr(task, k) for k in Task.__dataclass_fields__ if k != "engine"]))


def settings():
    """Settings of a growth that takes seconds."""
    return parse_config(
        {
            "label": {"reference": EAM},
            "transfer": {"judge": 4},
            "sample": {
                "prepare": 800,
                "learning_steps": 1600,
                "walkers": 4,
                "atoms": [16],
                "stride": 20,
                "temperature": [900, 2500],
            },
            "train": {"steps": 40, "members": 2, "batch": 4},
            "distil": {"round_steps": 20},
            "model": {"n_radial": 6, "n_angular": 3, "l_max": 2, "hidden": [8, 8]},
            "validate": {"polymorphs": ["fcc", "hcp"], "checks": [], "defects": False},
            "engine": {"workers": 1},
        }
    )


def test_a_metal_grows_until_its_run_stays_inside_or_the_budget_ends(frames, tmp_path):
    lines = []
    row = grow(settings(), Source("shaken nickel", frames, 10.92), "Ni", 30, tmp_path, lines.append)
    assert 18 < row["n_labels"] <= 30
    assert row["generations"][0] == {
        "generation": 0, "n_labels": 18, "strayed": row["generations"][0]["strayed"],
        "where": row["generations"][0]["where"], "frames": 0,
    }  # fmt: skip
    assert row["generations"][0]["strayed"] > 0
    assert row["stopped"] in ("the budget is spent", "a whole run of the model stayed within what is known")
    assert row["inside"] == (row["stopped"] != "the budget is spent")
    data = Dataset.load(tmp_path / "2-distil" / "distilled.extxyz")
    assert sum(f.origin.kind == "strayed" for f in data) == row["n_labels"] - 18
    assert "shaken nickel" in (tmp_path / "report.html").read_text()
    first = Committee.load(tmp_path / "2-distil" / "model").fingerprint

    # Killed after its second generation: it goes on from there, asks for no label again, and ends the same.
    (tmp_path / "2-distil" / "stage.json").unlink()
    late = sorted((tmp_path / "2-distil" / "generations").iterdir())[2:]
    for folder in late:
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
    more = []
    again = grow(settings(), Source("shaken nickel", frames, 10.92), "Ni", 30, tmp_path, more.append)
    assert not any("computed" in line and "(0 computed" not in line for line in more if line.startswith("label"))
    assert again == row
    assert Committee.load(tmp_path / "2-distil" / "model").fingerprint == first
    assert read_json(tmp_path / "2-distil" / "learning_curve.json")["generations"] == row["generations"]


def test_a_run_that_stays_inside_ends_it_also_after_a_kill_and_failed_labels_are_told(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("potstill.transferring.grow"), "STRAY", 1e6)
    crushed = []
    for f in frames[:3]:
        atoms = f.atoms.copy()
        atoms.positions[1] = atoms.positions[0] + [0.3, 0, 0]
        crushed.append(Frame.of(atoms, f.origin))
    source = Source("some broken", Dataset([*crushed, *frames]), 10.92)
    lines = []
    row = grow(settings(), source, "Ni", 30, tmp_path, lines.append)
    assert row["inside"]
    assert "stayed within" in row["stopped"]
    assert (row["n_labels"], row["n_failures"], row["partial"]) == (15, 3, True)
    assert any("3 of 18 labels failed" in line for line in lines)
    assert [g["strayed"] for g in row["generations"]] == [0]
    (tmp_path / "2-distil" / "stage.json").unlink()
    assert grow(settings(), source, "Ni", 30, tmp_path, lambda _: None) == row


def test_an_alloy_does_not_grow(frames, tmp_path):
    with pytest.raises(ConfigError, match="single element"):
        grow(settings(), Source("x", frames, 10.9), "NiAl", 30, tmp_path, lambda _: None)

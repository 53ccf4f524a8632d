"""Transfer: ground states found, frames scaled, labels anew, coverage told, failures never silent."""

import json

import numpy as np
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from potstill import crystals
from potstill.backends import resolve
from potstill.cli import app
from potstill.config import Config, ModelConfig, TrainConfig, parse_config
from potstill.data import Dataset, Frame, Labels
from potstill.errors import ConfigError, ConvergenceError, DataError
from potstill.labelling import compute
from potstill.model import Committee
from potstill.store import read_json
from potstill.training import train
from potstill.transferring import (
    Source,
    foundation,
    grow,
    parse_target,
    read_source,
    scaled,
    table_text,
    transfer,
)
from potstill.transferring.coverage import INSIDE, closing, coverage
from potstill.transferring.foundation import CARD, FILE, card
from potstill.transferring.source import to_metal
from potstill.transferring.target import Work, find_ground_state, model_for, stretched

EAM = "lammps:NiAlH_jea.eam.alloy"
SMALL = ModelConfig(cutoff=4.5, angular_cutoff=4.0, n_radial=6, n_angular=3, l_max=2, hidden=(8, 8))


@pytest.fixture(scope="module")
def frames(strained):
    """Shaken and strained cells of nickel, in four trajectories."""
    return strained(24, by=0.004, shaken=0.12)


@pytest.fixture(scope="module")
def labelled(frames):
    """The same, labelled by embedded atoms."""
    return Dataset(f.labelled(compute(f, resolve(EAM, ["Ni"]))) for f in frames)


@pytest.fixture(scope="module")
def model(labelled):
    """A small committee of nickel."""
    return train(labelled, SMALL, TrainConfig(members=2, steps=30, batch=4), seed=1)


def settings(**transfer):
    """Settings of a transfer that takes seconds."""
    return parse_config(
        {
            "transfer": {"judge": 6, **transfer},
            "sample": {"prepare": 400, "learning_steps": 2000, "walkers": 4, "atoms": [16], "stride": 20},
            "train": {"steps": 20, "members": 2},
            "model": {"n_radial": 6, "n_angular": 3, "l_max": 2, "hidden": [8, 8]},
            "validate": {"polymorphs": ["fcc", "hcp"], "checks": [], "defects": False},
            "engine": {"workers": 1},
        }
    )


# --- targets ---


@pytest.mark.parametrize(
    ("name", "composition"),
    [("Nb", {"Nb": 1}), ("NiAl", {"Ni": 1, "Al": 1}), ("Ni3Al", {"Ni": 3, "Al": 1}), ("Ni-Al", {"Ni": 0, "Al": 0})],
)
def test_a_target_is_a_metal_or_an_alloy(name, composition):
    assert parse_target(name).composition == composition


@pytest.mark.parametrize("name", ["", "nickel", "Qq", "NiNi", "Ni3", "Ni/../x", "Ni Al"])
def test_what_is_no_target_is_refused(name):
    if name == "Ni3":  # odd, but harmless
        assert parse_target(name).elements == ("Ni",)
        return
    with pytest.raises(ConfigError, match="metal or an alloy"):
        parse_target(name)


@pytest.mark.parametrize(
    ("element", "file", "lattice", "volume"),
    [("Al", "Al_mm.eam.fs", "fcc", 16.6), ("Fe", "Fe_mm.eam.fs", "bcc", 11.6), ("Zr", "Zr_mm.eam.fs", "hcp", 23.2)],
)
def test_the_ground_state_is_found_and_not_assumed(element, file, lattice, volume):
    found = find_ground_state(element, resolve(f"lammps:{file}", [element]))
    assert found["crystal"] == lattice
    assert found["volume"] == pytest.approx(volume, rel=0.01)
    assert found["above"][lattice] == 0
    assert all(e >= 0 for e in found["above"].values())


class Falling:
    """A potential whose crystals want to be ever smaller."""

    fingerprint = "falling"
    elements = ("Ni",)

    def calculator(self):
        from ase.calculators.lj import LennardJones

        return LennardJones(sigma=0.3, epsilon=-1.0, rc=4.0)


def test_a_metal_whose_crystals_do_not_come_to_rest_is_told():
    with pytest.raises(ConvergenceError, match="No crystal of Ni comes to rest with falling"):
        find_ground_state("Ni", Falling())


# --- scaling ---


def test_scaling_keeps_the_shape_of_a_frame(frames):
    frame = frames[3]
    got = scaled(frame, 1.2, ["Nb"] * 8)
    assert got.volume == pytest.approx(1.2**3 * frame.volume)
    np.testing.assert_allclose(got.atoms.get_scaled_positions(), frame.atoms.get_scaled_positions(), atol=1e-7)
    assert set(got.atoms.get_chemical_symbols()) == {"Nb"}
    assert got.origin == frame.origin


def test_a_metal_s_frames_have_its_density(frames):
    got = to_metal(Source("x", frames, 10.9), 5, {"Nb": 1.0}, {"Nb": 18.0}, seed=1)
    assert len(got) == 5
    for a, b in zip(got, frames, strict=False):
        assert a.volume / b.volume == pytest.approx(18.0 / 10.9)


def test_an_alloy_s_sites_follow_its_formula_and_its_density_vegard_s_law(frames):
    source, volumes = Source("x", frames, 10.9), {"Ni": 10.9, "Al": 16.6}
    for f, g in zip(to_metal(source, 24, {"Ni": 3.0, "Al": 1.0}, volumes, seed=1), frames, strict=True):
        assert f.atoms.get_chemical_symbols().count("Al") == 2
        assert f.volume / g.volume == pytest.approx((0.75 * 10.9 + 0.25 * 16.6) / 10.9)
    whole = to_metal(source, 24, {"Ni": 0.0, "Al": 0.0}, volumes, seed=1)
    shares = [f.atoms.get_chemical_symbols().count("Al") for f in whole]
    assert min(shares) <= 1
    assert max(shares) >= 7
    assert to_metal(source, 24, {"Ni": 0.0, "Al": 0.0}, volumes, seed=1).keys == whole.keys
    assert to_metal(source, 24, {"Ni": 0.0, "Al": 0.0}, volumes, seed=2).keys != whole.keys


def test_the_volume_at_rest_comes_from_the_model_beside_the_file(tmp_path, labelled, model):
    labelled.save(tmp_path / "distilled.extxyz")
    lines = []
    alone = read_source(str(tmp_path / "distilled.extxyz"), tell=lines.append)
    assert "lowest energy" in lines[-1]
    lowest = min(labelled, key=lambda f: f.labels.energy)
    assert alone.volume == pytest.approx(lowest.volume / lowest.n_atoms)
    model.save(tmp_path / "model")
    beside = read_source(str(tmp_path / "distilled.extxyz"))
    rest = crystals.relaxed(crystals.prototype("fcc", "Ni", 10.9), model.calculator(), isotropic=True)
    assert beside.volume == pytest.approx(rest.get_volume(), rel=1e-3)
    assert all(f.labels is None for f in beside.data)
    assert read_source(str(tmp_path / "distilled.extxyz"), 12.0).volume == 12.0


def test_a_source_that_does_not_say_how_dense_it_is_is_refused(tmp_path, frames):
    frames.save(tmp_path / "pool.extxyz")
    with pytest.raises(DataError, match="--source-volume"):
        read_source(str(tmp_path / "pool.extxyz"))


def test_frames_that_are_too_large_for_a_reference_are_left_out():
    lines = []
    few = read_source("foundation", tell=lines.append, most_atoms=16)
    assert max(f.n_atoms for f in few.data) == 16
    assert few.data.keys == [f.key for f in foundation() if f.n_atoms <= 16]
    assert lines == [f"transfer: {400 - len(few.data)} frames of foundation have more than 16 atoms: left out"]
    with pytest.raises(DataError, match="the least has 2"):
        read_source("foundation", most_atoms=1)


def test_cutoffs_reach_as_many_neighbours_as_in_nickel():
    assert model_for(Config(), 10.9).model.cutoff == pytest.approx(6.0)
    assert model_for(Config(), 21.8).model.cutoff == pytest.approx(6.0 * 2 ** (1 / 3), abs=0.01)
    asked = parse_config({"model": {"cutoff": 5.0}})
    assert model_for(asked, 21.8).model.cutoff == 5.0


def test_a_stretched_model_says_of_the_scaled_crystal_what_it_said_of_its_own(model, frames):
    factor = 1.17
    wide = parse_config({"model": {"cutoff": 4.5 * factor, "angular_cutoff": 4.0 * factor}})
    got = stretched(model, wide)
    for f in frames[:4]:
        big = scaled(f, factor, ["Ni"] * 8)
        np.testing.assert_allclose(got.predict([big])[0].energy, model.predict([f])[0].energy, rtol=0, atol=2e-4)


# --- coverage ---


def test_what_was_learnt_is_covered_and_what_is_unlike_it_is_not(model, labelled):
    strange = Frame.of(bulk("Ni", "sc", a=2.2))
    found = coverage(model, labelled, {"sc": strange, "fcc": labelled[0]})
    assert found["atoms"] == found["frames"] == 1.0
    assert found["strangest"] <= 1.0 + 1e-6
    assert found["crystals"]["fcc"] <= 1.0 + 1e-6 < INSIDE < found["crystals"]["sc"]
    assert coverage(model, Dataset(), {})["atoms"] is None


def test_the_frames_that_close_the_gap_are_those_farthest_from_what_is_known(model, labelled):
    far = Frame.of(bulk("Ni", "sc", a=2.6))
    near = Dataset(f.labelled(None) for f in labelled[:3])
    shaken = Dataset([*(scaled(f, 1.001, ["Ni"] * 8) for f in near), far])
    got = closing(model, labelled, shaken, 1, np.random.default_rng(0))
    assert got.keys == [far.key]
    assert len(closing(model, labelled, labelled, 3, np.random.default_rng(0))) == 0


# --- the whole ---


def test_one_call_serves_several_metals_and_tells_what_one_of_them_lacks(tmp_path, frames):
    references = {"Al": EAM, "Nb": EAM, "NiAl": EAM}
    lines = []
    source = Source("shaken nickel", frames, 10.92)
    asked = settings(to=["Nb", "Al", "NiAl"], references=references, budget=12)
    rows = transfer(asked, source, tmp_path, lines.append)
    assert [r["target"] for r in rows] == ["Nb", "Al", "NiAl"]
    assert "not Nb" in rows[0]["failed"]
    al = rows[1]
    assert al["crystal"] == "fcc"
    assert al["n_labels"] == 12
    assert al["scale"] == pytest.approx((al["volume"] / 10.92) ** (1 / 3))
    assert al["errors"]["n_frames"] == 6
    assert al["crystals"]["fcc"] == 0
    assert al["coverage"]["n_frames"] > 0
    told = read_json(tmp_path / "Al" / "3-validate" / "validation.json")["polymorphs"]["crystals"]
    expected = {r["crystal"]: r["expected_error"] for r in told}
    assert expected["fcc"] == 0.0
    assert expected["hcp"] > 0.0
    page = (tmp_path / "Al" / "report.html").read_text()
    assert "shaken nickel" in page
    assert "What of the metal they cover" in page
    alloy = Dataset.load(tmp_path / "NiAl" / "2-distil" / "distilled.extxyz")
    assert alloy.elements == ("Al", "Ni")
    assert all(f.atoms.get_chemical_symbols().count("Ni") == 4 for f in alloy)
    assert rows[2]["page"] is None
    assert read_json(tmp_path / "transfer.json")["targets"] == json.loads(json.dumps(rows))
    text = table_text(rows)
    assert "failed" in text.splitlines()[1]
    again = []
    assert transfer(asked, source, tmp_path, again.append)[1] == al
    assert [line for line in again if line.startswith("Al: ")] == [
        f"Al: {name}: up to date" for name in ("scale", "learn", "validate", "report")
    ]


def test_labels_that_fail_are_told_and_the_rest_is_used(tmp_path, frames):
    crushed = []
    for f in frames[:3]:
        atoms = f.atoms.copy()
        atoms.positions[1] = atoms.positions[0] + [0.3, 0, 0]
        crushed.append(Frame.of(atoms, f.origin))
    lines = []
    source = Source("some broken", Dataset([*crushed, *frames[:12]]), 10.92)
    asked = settings(to=["Al"], references={"Al": EAM})
    row = transfer(asked, source, tmp_path, lines.append)[0]
    assert row["partial"]
    assert row["n_labels"] == 12
    assert row["n_failures"] == 3
    assert any("3 of 15 labels failed" in line and "apart" in line for line in lines)
    failures = read_json(tmp_path / "Al" / "2-distil" / "failures.json")
    assert {f["reason"] for f in failures} == {"overlap"}
    assert "More than a twentieth of the labels failed" in (tmp_path / "Al" / "report.html").read_text()


def test_forces_beyond_the_limit_are_left_out_and_counted(tmp_path, frames):
    source = Source("nickel", frames, 10.92)
    free = transfer(settings(to=["Al"], references={"Al": EAM}), source, tmp_path / "a", lambda _: None)[0]
    known = Dataset.load(tmp_path / "a" / "Al" / "2-distil" / "distilled.extxyz")
    largest = sorted(float(np.abs(f.labels.forces).max()) for f in known)
    limit = 0.5 * (largest[-3] + largest[-4])
    asked = settings(to=["Al"], references={"Al": EAM}, most_force=limit)
    row = transfer(asked, source, tmp_path / "b", lambda _: None)[0]
    assert (free["n_labels"], row["n_labels"]) == (24, 21)
    assert row["partial"]
    failures = read_json(tmp_path / "b" / "Al" / "2-distil" / "failures.json")
    assert {f["reason"] for f in failures if "most_force" in f["message"]} == {"force"}


def test_frames_of_its_own_close_the_gap(tmp_path, frames):
    source = Source("nickel", frames, 10.92)
    asked = settings(to=["Al"], references={"Al": EAM}, budget=8, top_up=5)
    row = transfer(asked, source, tmp_path, lambda _: None)[0]
    learnt = read_json(tmp_path / "Al" / "2-distil" / "stage.json")["summary"]
    assert row["n_labels"] == 13
    assert learnt["top_up"] == 5
    assert learnt["coverage"]["atoms"] >= learnt["coverage_before"]["atoms"]
    data = Dataset.load(tmp_path / "Al" / "2-distil" / "distilled.extxyz")
    assert sum(f.origin.kind == "multiorder-multithermal" for f in data) == 5


def test_a_reference_s_last_digits_do_not_ask_for_new_labels(tmp_path, frames, monkeypatch):
    def moved(element, potential):
        found = find_ground_state(element, potential)
        return {**found, "volume": found["volume"] * (1 + 1e-5)}

    source, asked = Source("nickel", frames, 10.92), settings(to=["Al"], references={"Al": EAM}, judge=0)
    transfer(asked, source, tmp_path / "a", lambda _: None)
    monkeypatch.setattr("potstill.transferring.target.find_ground_state", moved)
    transfer(asked, source, tmp_path / "b", lambda _: None)
    one, other = (Dataset.load(tmp_path / k / "Al" / "1-sample" / "pool.extxyz") for k in "ab")
    assert one.keys == other.keys
    volumes = [
        read_json(tmp_path / k / "Al" / "1-sample" / "stage.json")["summary"]["volume_per_atom_angstrom3"] for k in "ab"
    ]
    assert volumes[0] != volumes[1]


def test_generated_crystals_close_the_gap_where_the_reference_is_slow(tmp_path, frames, monkeypatch):
    monkeypatch.setattr("potstill.transferring.target.fast", lambda _potential: False)
    source, told = Source("nickel", frames, 10.92), []
    asked = settings(to=["Al"], references={"Al": EAM}, budget=8, top_up=6, judge=4, most_atoms=12)
    row = transfer(asked, source, tmp_path, told.append)[0]
    learnt = read_json(tmp_path / "Al" / "2-distil" / "stage.json")["summary"]
    assert (row["n_labels"], row["n_judge"], learnt["top_up"]) == (14, 4, 6)
    data = Dataset.load(tmp_path / "Al" / "2-distil" / "distilled.extxyz")
    made = [f for f in data if f.origin.kind == "generated"]
    assert len(made) == 6
    assert max(f.n_atoms for f in made) <= 12
    before, after = (max(learnt[k]["crystals"].values()) for k in ("coverage_before", "coverage"))
    assert after < before
    page = (tmp_path / "Al" / "report.html").read_text(encoding="utf-8")
    assert "6 generated crystals" in page
    assert f"No test is among them: {sum(learnt['kept_out'].values())} generated structures" in page
    assert any("6 generated frames" in line for line in told)


def test_what_grows_learns_generated_crystals_within_its_budget(tmp_path, frames):
    source = Source("nickel", frames, 10.92)
    asked = settings(references={"Al": EAM}, top_up=4, judge=4)
    row = grow(asked, source, "Al", 12, tmp_path, lambda _: None)
    data = Dataset.load(tmp_path / "2-distil" / "distilled.extxyz")
    assert row["n_labels"] == len(data) <= 12
    assert sum(f.origin.kind == "generated" for f in data) == 4
    assert "4 generated crystals" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_warm_start_begins_with_the_source_s_weights(tmp_path, frames, model):
    factor = (16.6 / 10.9) ** (1 / 3)
    model.save(tmp_path / "warm")
    raw = {"cutoff": 4.5 * factor, "angular_cutoff": 4.0 * factor, "n_radial": 6, "n_angular": 3, "l_max": 2}
    asked = settings(to=["Al"], references={"Al": EAM}, warm=str(tmp_path / "warm"))
    asked = asked.model_copy(update={"model": ModelConfig(**raw, hidden=(8, 8))})
    transfer(asked, Source("nickel", frames, 10.92), tmp_path / "out", lambda _: None)
    got = Committee.load(tmp_path / "out" / "Al" / "2-distil" / "model")
    assert got.about["start"] is not None
    wide = stretched(model, asked)
    np.testing.assert_array_equal(got.whitening.matrix, wide.whitening.matrix)
    assert not np.array_equal(got.whitening.matrix, model.whitening.matrix)


@pytest.mark.usefixtures("short_rounds")
@pytest.mark.parametrize(("metal", "recipe", "skewed"), [("Nb", "lammps:Nb.uf3", False), ("Al", EAM, True)])
def test_its_own_run_keeps_right_angles_where_its_potential_cannot_do_without(tmp_path, frames, metal, recipe, skewed):
    asked = settings(to=[metal], references={metal: recipe}, judge=4)
    asked = asked.model_copy(update={"sample": asked.sample.model_copy(update={"cell": "flexible"})})
    potential = resolve(recipe, [metal])
    work = Work(asked, parse_target(metal), Source("x", frames, 10.9), potential, 8, tmp_path, lambda _: None)
    rest, held = work._own("fcc" if skewed else "bcc", tmp_path)
    assert len(held) == 4
    angles = np.array([f.atoms.cell.angles() for f in (*rest, *held)])
    assert (np.abs(angles - 90).max() > 0.1) == skewed


def test_other_settings_of_its_own_run_make_it_anew(tmp_path, frames):
    source = Source("nickel", frames, 10.92)
    asked = settings(to=["Al"], references={"Al": EAM}, budget=8)
    transfer(asked, source, tmp_path, lambda _: None)
    longer = asked.model_copy(update={"sample": asked.sample.model_copy(update={"learning_steps": 2400})})
    lines = []
    transfer(longer, source, tmp_path, lines.append)
    assert any(line.startswith("Al: scale: running, because sample.learning_steps changed") for line in lines)


def test_more_labels_than_there_are_frames_are_refused_before_any_work(tmp_path, frames):
    with pytest.raises(ConfigError, match="has 24 frames"):
        transfer(
            settings(to=["Al"], references={"Al": EAM}, budget=50), Source("x", frames, 10.9), tmp_path, lambda _: None
        )
    with pytest.raises(ConfigError, match="needs a target"):
        transfer(settings(), Source("x", frames, 10.9), tmp_path, lambda _: None)
    with pytest.raises(ConfigError, match="needs a reference"):
        transfer(settings(to=["Al"]), Source("x", frames, 10.9), tmp_path, lambda _: None)


def test_the_command_transfers_a_file(tmp_path, labelled):
    labelled.save(tmp_path / "distilled.extxyz")
    (tmp_path / "small.toml").write_text(
        "[sample]\nprepare = 400\nlearning_steps = 2000\nwalkers = 4\natoms = [16]\nstride = 20\n"
        "[train]\nsteps = 20\nmembers = 2\n"
        "[model]\nn_radial = 6\nn_angular = 3\nl_max = 2\nhidden = [8, 8]\n"
        '[validate]\npolymorphs = ["fcc"]\nchecks = []\ndefects = false\n'
    )
    command = ["transfer", str(tmp_path / "distilled.extxyz"), "--to", "Al", "--reference", EAM, "--budget", "10"]
    command += ["--judge", "4", "--config", str(tmp_path / "small.toml"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "ground state" in done.output
    assert (tmp_path / "out" / "transfer.json").exists()
    none = CliRunner().invoke(app, ["transfer", "--to", "Al", "--reference", EAM, "--out", str(tmp_path / "none")])
    assert isinstance(none.exception, ConfigError)


# --- the foundational set ---


def test_the_foundational_set_is_what_its_card_says():
    from importlib import resources

    data, told = foundation(), card()
    assert len(data) == told["n_frames"] >= 300
    assert sum(f.n_atoms for f in data) == told["n_atoms"]
    assert told["licence"] == "CC-BY-4.0"
    assert len((resources.files("potstill.transferring") / FILE).read_bytes()) < 2**20
    assert (resources.files("potstill.transferring") / CARD).is_file()
    bulky = [f.volume / f.n_atoms for f in data if "slab" not in f.origin.trajectory]
    assert 0.7 < min(bulky) < 1.0 < np.median(bulky) < max(bulky) < 1.8
    assert {m["crystal"] for m in told["metals"].values()} == {"fcc", "bcc", "hcp"}
    assert all(share > 0.9 for share in told["coverage"]["of"]["400"].values())


def test_no_test_of_the_verdict_is_in_the_foundational_set():
    from potstill.generate import Exclusion

    names = [n for n in Config().validate_.polymorphs if n not in ("fcc", "bcc", "hcp")]
    tests = Exclusion({n: crystals.prototype(n, "Ni", 10.9) for n in (*names, *crystals.OPEN)})
    metal = [scaled(f, 10.9 ** (1 / 3), ["Ni"] * f.n_atoms) for f in foundation()]
    assert not [f.origin.trajectory for f in metal if tests.match(f.atoms.copy())]


def test_labels_are_not_part_of_a_source(labelled):
    assert all(f.labels is None for f in foundation())
    assert isinstance(labelled[0].labels, Labels)

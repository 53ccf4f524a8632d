"""The command line as a person meets it: help, messages, exit codes, files."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from ase.build import bulk
from typer.testing import CliRunner

from potstill.cli import app
from potstill.data import Dataset, Frame
from potstill.errors import BackendError, ConfigError, ConvergenceError, DataError, PotstillError, StoreError

POTSTILL = str(Path(sys.executable).with_name("potstill"))
EAM = "lammps:NiAlH_jea.eam.alloy"


def call(*arguments, code=0, cwd=None):
    """Run the program; return (stdout, stderr)."""
    done = subprocess.run(
        [POTSTILL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=550, cwd=cwd
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Thirty frames of two temperatures, labelled by the EAM."""
    import numpy as np

    from potstill.backends import resolve
    from potstill.config import SampleConfig
    from potstill.sampling.ladder import rungs
    from potstill.sampling.metal import Metal

    folder = tmp_path_factory.mktemp("labelled")
    settings = SampleConfig(
        ensemble="npt-ladder", temperature=(500, 2600), pressure=(0,), start=("crystal",), steps=600, stride=20
    )
    potential, start = resolve(EAM), bulk("Ni", cubic=True) * (2, 2, 2)
    ladder = rungs(settings, Metal("Ni", "fcc", 10.9, 4.4))
    frames = [f for r in ladder for f in r.sample(start, potential, rng=np.random.default_rng(1))]
    Dataset(frames).save(folder / "pool.extxyz")
    call("label", folder / "pool.extxyz", "--reference", EAM, "--out", folder)
    return folder / "labelled.extxyz"


@pytest.fixture(scope="module")
def model(labelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    call("train", labelled, "--out", folder, "--members", 2, "--steps", 150, "--seed", 4)
    return folder


def test_help_lists_every_verb():
    out, _ = call("--help")
    verbs = "run sample label labels train select distil compare validate evaluate report explain status watch config"
    for verb in verbs.split():
        assert f" {verb} " in out


@pytest.mark.parametrize("verb", ["run", "sample", "label", "train", "select", "distil", "validate", "evaluate"])
def test_every_verb_explains_itself(verb):
    out, _ = call(verb, "--help")
    assert "Usage: potstill" in out


def test_exit_codes_differ_by_class_of_error():
    codes = [e.exit_code for e in (PotstillError, ConfigError, DataError, BackendError, ConvergenceError, StoreError)]
    assert len(set(codes)) == len(codes)
    assert not {0, 2} & set(codes)


def test_a_typo_in_the_configuration_names_the_right_key_and_its_section(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[distil]\nbugdet = 10\nmembers = 3\n")
    _, told = call("run", config, "--out", tmp_path / "out", code=ConfigError.exit_code)
    assert "did you mean 'budget'" in told
    assert "belongs in [train]" in told
    assert not (tmp_path / "out").exists()


def test_a_missing_potential_file_lists_those_that_exist(tmp_path):
    _, told = call(
        "sample", "--potential", "lammps:NiAl_jea.eam.alloy", "--out", tmp_path / "o", code=BackendError.exit_code
    )
    assert "Did you mean NiAlH_jea.eam.alloy" in told
    assert "Cu_mishin1.eam.alloy" in told


def test_a_potential_that_does_not_know_the_element_is_refused(tmp_path):
    _, told = call("sample", "--element", "Nb", "--potential", EAM, "--out", tmp_path / "o", code=5)
    assert "knows Ni, Al, H, but not Nb" in told


def test_a_bad_structure_file_names_file_frame_and_line(tmp_path, labelled):
    lines = labelled.read_text().splitlines()
    lines[34 + 5] = "Ni 1.0 2.0"
    bad = tmp_path / "bad.extxyz"
    bad.write_text("\n".join(lines) + "\n")
    _, told = call("train", bad, "--out", tmp_path / "m", code=DataError.exit_code)
    assert "bad.extxyz" in told
    assert "frame 1 " in told
    assert "line 40 " in told
    assert not (tmp_path / "m").exists()


def test_a_file_without_labels_is_a_clear_error_where_labels_are_needed(tmp_path):
    file = tmp_path / "bare.extxyz"
    Dataset([Frame.of(bulk("Ni", cubic=True))]).save(file)
    for verb in (["train", file, "--out", tmp_path / "m"], ["distil", file, "--budget", 1, "--out", tmp_path / "d"]):
        _, told = call(*verb, code=DataError.exit_code)
        assert "energy and forces" in told
    assert not (tmp_path / "m").exists()


def test_what_is_not_a_model_is_refused_with_what_was_expected(tmp_path, labelled):
    _, told = call("evaluate", tmp_path, labelled, code=BackendError.exit_code)
    assert "folder that holds a trained model" in told


def test_train_and_evaluate_agree_on_the_promised_keys(model, labelled):
    out, told = call("evaluate", model, labelled, "--json")
    errors = json.loads(out)
    assert set(errors) == {
        "energy_rmse_mev_per_atom",
        "energy_mae_mev_per_atom",
        "force_rmse_ev_per_angstrom",
        "force_mae_ev_per_angstrom",
        "stress_rmse_gpa",
        "n_frames",
        "force_rmse_without_worst",
        "force_p95",
        "force_p99",
        "force_worst",
    }
    assert errors["force_p95"] <= errors["force_p99"] <= errors["force_worst"]
    assert errors["force_rmse_without_worst"] <= errors["force_rmse_ev_per_angstrom"]
    assert errors["n_frames"] == 60
    assert 0 < errors["force_rmse_ev_per_angstrom"] < 0.3
    assert "energy from 'energy', forces from 'forces', stress from 'stress'" in told
    text, _ = call("evaluate", model, labelled)
    assert "meV/atom" in text


def test_other_peoples_files_are_read_and_what_was_used_is_said(model, shared_data):
    out, told = call("evaluate", model, shared_data / "ni_zuo2020" / "Ni_test.xyz", "--json")
    assert json.loads(out)["n_frames"] == 31
    assert json.loads(out)["stress_rmse_gpa"] is None
    assert "forces from 'force'" in told


def test_the_reference_has_no_error_on_its_own_labels(labelled):
    errors = json.loads(call("evaluate", EAM, labelled, "--json")[0])
    assert errors["energy_rmse_mev_per_atom"] < 1e-6
    assert errors["force_rmse_ev_per_angstrom"] < 1e-6
    assert errors["stress_rmse_gpa"] < 1e-5


def test_distil_reveals_the_labels_of_a_file_and_resumes(labelled, tmp_path):
    out = tmp_path / "d"
    command = ["distil", labelled, "--budget", 12, "--out", out, "--selector", "fps", "--seed", 2]
    command += ["--set", "train.steps=60", "--set", "distil.round_steps=20", "--set", "distil.holdout=10"]
    command += ["--set", "distil.initial=6", "--set", "train.members=2"]
    call(*command)
    assert len(Dataset.load(out / "distilled.extxyz")) == 12
    assert (out / "model" / "model.safetensors").exists()
    curve = json.loads((out / "learning_curve.json").read_text())
    assert [row["n_labels"] for row in curve["rounds"]] == [6, 12]
    again, _ = call(*command)
    assert "Nothing to do" in again


def test_distil_with_a_reference_labels_what_it_chooses_from_files_in_folders(tmp_path, labelled):
    import gzip

    data = Dataset.load(labelled).without_labels()
    half = len(data) // 2
    folder = tmp_path / "pool"
    (folder / "later").mkdir(parents=True)
    data[:half].save(folder / "first.extxyz")
    data[half:].save(tmp_path / "second.extxyz")
    (folder / "later" / "second.extxyz.gz").write_bytes(gzip.compress((tmp_path / "second.extxyz").read_bytes()))
    (folder / "notes.txt").write_text("not a structure")
    out = tmp_path / "d"
    command = ["distil", folder, "--budget", 8, "--out", out, "--reference", EAM, "--selector", "random"]
    command += ["--set", "train.steps=20", "--set", "distil.holdout=5", "--set", "distil.round_steps=5"]
    said, told = call(*command, "--set", "distil.initial=4", "--set", "distil.beside=0.25")
    assert "2 files" in told
    assert f"{len(data)} frames" in told
    assert "8 frames distilled, 2 of them from beside the pool" in said
    assert len(list(out.glob("labels/??/*.json"))) == 13
    assert all(f.labels is not None for f in Dataset.load(out / "distilled.extxyz"))


def test_a_pool_too_large_to_be_read_at_once_is_drawn_from(labelled, tmp_path, monkeypatch, capsys):
    from potstill import cli
    from potstill.verbs import given

    monkeypatch.setattr(given, "STREAMED", 1)
    monkeypatch.setattr(given, "DRAWN_ATOMS", 32 * 20)
    command = ["distil", labelled, "--budget", 6, "--out", tmp_path / "d", "--pool-only", "--set", "train.steps=10"]
    command += ["--set", "distil.holdout=5", "--set", "train.members=2"]
    cli.app([str(word) for word in command], standalone_mode=False)
    assert "20 of 60 frames, drawn at random" in capsys.readouterr().err
    assert len(Dataset.load(tmp_path / "d" / "distilled.extxyz")) == 6


def test_labels_lists_exports_takes_and_forgets(tmp_path, nickel):
    from potstill.data import Failure, Labels
    from potstill.store import LabelStore

    good, bad = nickel(2)
    LabelStore(tmp_path / "run" / "labels").put(good, Labels(-17.5, good.atoms.positions, None, "dft:pbe"))
    LabelStore(tmp_path / "run" / "labels").put(bad, Failure(bad.key, "not-converged", "after 200 steps", "dft:pbe", 3))
    said, _ = call("labels", tmp_path / "run")
    assert "1 labels, 1 failures, 4 atoms: dft:pbe" in said
    assert f"failed: Ni4 {bad.key}: not-converged after 3 attempts: after 200 steps" in said
    assert "no entry" in call("labels", tmp_path / "run", "--element", "Al")[0]
    assert "no entry" in call("labels", tmp_path / "run", "--atoms", "5:")[0]
    call("labels", tmp_path / "run", "--export", tmp_path / "out.extxyz")
    said, _ = call("labels", tmp_path / "other", "--import", tmp_path / "out.extxyz", "--source", "pbe")
    assert "1 labels, 0 failures" in said
    assert LabelStore(tmp_path / "other").get(good, "dft:pbe").energy == -17.5
    said, _ = call("labels", tmp_path / "run", "--failed", "--forget-failures")
    assert "1 failures forgotten" in said
    assert "1 labels, 0 failures" in call("labels", tmp_path / "run")[0]
    call("labels", tmp_path / "nowhere", code=StoreError.exit_code)


def test_distil_without_a_labeller_is_pool_only_and_says_so(labelled, tmp_path):
    command = ["distil", f"{labelled.parent}/labelled.ext*", "--budget", 6, "--out", tmp_path / "d"]
    _, told = call(*command, "--set", "train.steps=10", "--set", "distil.holdout=5", "--set", "train.members=2")
    assert "this is --pool-only" in told


def test_a_pattern_or_folder_without_structures_is_told(tmp_path):
    for pool in (tmp_path / "*.extxyz", tmp_path):
        _, told = call("distil", pool, "--budget", 3, "--out", tmp_path / "d", code=DataError.exit_code)
        assert "structure file" in told


def test_compare_prints_a_table_with_error_bars(labelled, tmp_path):
    out = tmp_path / "c"
    command = ["compare", labelled, "--selectors", "fps", "--budgets", "4,8", "--seeds", 2, "--out", out]
    said, _ = call(*command, "--set", "train.steps=10", "--set", "train.members=2", "--set", "distil.holdout=10")
    assert said.count("random") == said.count("fps") == 2
    assert "±" in said
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    _, told = call("compare", labelled, "--selectors", "fps", "--budgets", "4,x", "--out", out, code=3)
    assert "whole numbers with commas" in told


def test_validate_compares_any_two_potentials(tmp_path):
    command = ["validate", "lammps:Ni_u3.eam", "--reference", EAM, "--element", "Ni", "--out", tmp_path]
    out, _ = call(*command, "--set", 'validate.polymorphs=["fcc","hcp"]')
    assert "ground state right" in out
    result = json.loads((tmp_path / "validation.json").read_text())
    assert [row["crystal"] for row in result["polymorphs"]["crystals"]] == ["fcc", "hcp"]


def test_select_chooses_from_a_pool(labelled, tmp_path, model):
    for selector, extra in (("fps", []), ("committee", ["--model", model])):
        file = tmp_path / f"{selector}.extxyz"
        call("select", labelled, "-n", 7, "--selector", selector, "--out", file, *extra)
        assert len(Dataset.load(file)) == 7
    call("select", labelled, "-n", 7, "--selector", "committee", "--out", tmp_path / "x", code=ConfigError.exit_code)


def test_label_reports_failures_and_keeps_the_rest(tmp_path):
    good = bulk("Ni", cubic=True)
    bad = good.copy()
    bad.positions[1] = bad.positions[0] + 0.1
    file = tmp_path / "two.extxyz"
    Dataset([Frame.of(good), Frame.of(bad)]).save(file)
    out, _ = call("label", file, "--reference", EAM, "--out", tmp_path / "o")
    assert "1 labelled, 1 failed" in out
    failures = json.loads((tmp_path / "o" / "failures.json").read_text())
    assert [f["reason"] for f in failures] == ["overlap"]
    assert len(Dataset.load(tmp_path / "o" / "labelled.extxyz")) == 1


def test_the_template_is_right_and_the_reference_lists_all_keys(tmp_path):
    out, _ = call("config", "template", "--element", "Al", "--potential", "lammps:Al_zhou.eam.alloy")
    file = tmp_path / "al.toml"
    file.write_text(out)
    assert "Al sampled by lammps:Al_zhou.eam.alloy" in call("config", "check", file)[0]
    listed, _ = call("config", "reference")
    assert "distil.budget" in listed
    assert "train.members" in listed


def test_templates_of_any_metal_with_a_potential_are_right(tmp_path):
    for element in ("Cu", "W", "Mg"):
        out, _ = call("config", "template", "--element", element)
        (tmp_path / "c.toml").write_text(out)
        assert f": {element} sampled by lammps:" in call("config", "check", tmp_path / "c.toml")[0]
    _, told = call("config", "template", "--element", "Xe", code=ConfigError.exit_code)
    assert "potstill grow --element Xe" in told


def test_the_schema_takes_what_is_right_and_no_other(tmp_path):
    schema = json.loads(call("config", "schema")[0])
    right = tomllib.loads(call("config", "template")[0])
    jsonschema.validate(right, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**right, "sample": {**right["sample"], "frames": 0}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**right, "sampel": {}}, schema)


def test_status_and_explain_of_what_is_no_run_say_so(tmp_path):
    for verb in ("status", "explain"):
        _, told = call(verb, tmp_path, code=StoreError.exit_code)
        assert "is not a run" in told


@pytest.mark.usefixtures("short_rounds")
def test_other_metals_sample_by_changing_two_words(tmp_path):
    for element, potential in (("Al", "lammps:Al_zhou.eam.alloy"), ("Nb", "lammps:Nb.uf3")):
        out = tmp_path / f"{element}.extxyz"
        short = ["sample.walkers=2", "sample.prepare=400", "sample.learning_steps=4000", "sample.stride=100"]
        options = [word for text in short for word in ("--set", text)]
        words = ["sample", "--element", element, "--potential", potential, "--frames", "20", "--out", str(out)]
        done = CliRunner().invoke(app, [*words, *options])
        assert done.exit_code == 0, done.output
        assert len(Dataset.load(out)) == 20

"""The commands as functions: what they take, what they give, and how that looks."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import potstill
from potstill.backends import resolve
from potstill.errors import ConfigError, DataError
from potstill.verbs.given import merged, settings_of

EAM = "lammps:NiAlH_jea.eam.alloy"
QUICK = {"train.steps": 10, "train.members": 2, "distil.holdout": 4, "model.hidden": [8], "model.l_max": 2}


@pytest.fixture(scope="module")
def structures():
    """ASE's own structures, with what their calculators found."""
    rng, calculator = np.random.default_rng(0), resolve(EAM, ["Ni"]).calculator()
    made = []
    for k in range(60):
        atoms = bulk("Ni", "fcc", a=3.52 * (0.97 + 0.001 * k), cubic=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        atoms.calc = calculator
        found = {k: getattr(atoms, f"get_{n}")() for k, n in (("energy", "potential_energy"), ("forces", "forces"))}
        atoms.calc = SinglePointCalculator(atoms, **found, stress=atoms.get_stress())
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def model(structures):
    overrides = {k: v for k, v in QUICK.items() if k != "train.members" and not k.startswith("distil")}
    return potstill.train(structures[::2], valid=structures[1::2], members=2, overrides=overrides)


def test_structures_in_memory_bring_their_labels(model, structures):
    errors = potstill.evaluate(model, structures)
    assert errors.n_frames == 60
    assert errors.force_rmse_ev_per_angstrom < 0.5
    bare = [atoms.copy() for atoms in structures]
    with pytest.raises(DataError, match="the structures: expected labelled frames"):
        potstill.evaluate(model, bare)


def test_select_takes_and_gives_datasets(structures, model):
    chosen = potstill.select(structures, 5, selector="fps", known=structures[:10])
    assert len(chosen) == 5
    assert not set(chosen.keys) & set(potstill.select(structures[:10], 10, selector="random").keys)
    with pytest.raises(ConfigError, match="needs a trained model"):
        potstill.select(structures, 5, selector="committee")


def test_distil_gives_what_it_left_and_does_nothing_twice(structures, tmp_path):
    told = []
    first = potstill.distil(structures, 8, out=tmp_path, overrides=QUICK, tell=told.append)
    assert first.ran
    assert len(first.data) == 8
    assert first.committee.members == 2
    assert first.curve[-1]["n_labels"] == 8
    assert "8 frames distilled" in repr(first)
    assert "<td>8</td>" in first._repr_html_()
    assert any("--pool-only" in line for line in told)
    again = potstill.distil(structures, 8, out=tmp_path, overrides=QUICK)
    assert not again.ran
    assert again.data.keys == first.data.keys
    other = structures[:-1]
    assert potstill.distil(other, 8, out=tmp_path, overrides=QUICK).ran


def test_choosing_is_compared_with_as_many_random_frames(structures, tmp_path):
    how = {**QUICK, "distil.baseline": True, "distil.round_steps": 5, "distil.initial": 4}
    result = potstill.distil(structures, 8, out=tmp_path, overrides=how)
    rows = potstill.verbs.learnt.read_json(tmp_path / "learning_curve.json")
    assert [r["n_labels"] for r in rows["random"]] == [r["n_labels"] for r in rows["rounds"]] == [4, 8]
    assert result.summary["n_drawn"] == 8
    for row in rows["random"]:
        low, high = row["bands"]["force"]
        assert low < row["errors"]["force_rmse_ev_per_angstrom"] < high


def test_label_keeps_failures_as_data(tmp_path):
    good, strange = bulk("Ni", cubic=True), bulk("Cu", cubic=True)
    result = potstill.label([good, strange], EAM, out=tmp_path)
    assert (len(result.data), len(result.failures)) == (1, 1)
    assert (tmp_path / "labelled.extxyz").exists()


def test_validate_takes_potentials_and_shows_a_table(model, tmp_path):
    how = {"validate.polymorphs": ["fcc", "hcp"], "validate.defects": False}
    verdict = potstill.validate(model, EAM, out=tmp_path, element="Ni", checks=["eos"], overrides=how)
    assert verdict.rows[0][0] == "quantity"
    assert any(row[0].startswith("hcp above fcc") for row in verdict.rows)
    assert "Equation of state" in repr(verdict)
    assert verdict._repr_html_().count("<tr>") == len(verdict.rows)


def test_proposed_structures_are_relaxed_in_memory(tmp_path):
    proposed = potstill.propose("Ni", 3, kinds=["prototypes"])
    left = bulk("Ni", cubic=True)
    left.cell[0] *= -1
    found = potstill.relax([*(f.atoms for f in proposed), left], EAM, out=tmp_path)
    assert [row.verdict == "failed" for row in found.rows] == [False, False, False, True]
    assert "left-handed" in found.rows[-1].reason
    assert len(found.trusted) == 3
    assert "trusted" in repr(found)
    assert (tmp_path / "relax.html").exists()


def test_names_from_outside_do_no_harm_in_a_notebook(tmp_path):
    hostile = tmp_path / "<script>alert(1)<" / "x.cif"
    hostile.parent.mkdir()
    hostile.write_text("no crystal")
    found = potstill.relax(str(hostile.parent), EAM, out=tmp_path / "out")
    assert "<script>" not in found._repr_html_()
    assert "&lt;script&gt;" in found._repr_html_()


def test_overrides_are_mappings_or_texts():
    given = {
        "train.steps": 7,
        "sample.element": "Al",
        "model.hidden": [4, 4],
        "transfer.references": {"Al": "lammps:x"},
    }
    settings = settings_of(None, given, 3)
    assert (settings.train.steps, settings.sample.element, settings.model.hidden, settings.seed) == (7, "Al", (4, 4), 3)
    assert settings.transfer.references == {"Al": "lammps:x"}
    assert settings_of(settings, ["train.steps=8"]).train.steps == 8
    assert settings_of(settings, {}) == settings
    assert merged({"a.b": None, "a.c": "x"}, {"a.d": 1}) == ['a.c="x"', "a.d=1"]
    with pytest.raises(ConfigError, match="stepz"):
        settings_of(None, {"train.stepz": 7})

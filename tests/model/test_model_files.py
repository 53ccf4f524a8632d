"""A model on disk: it comes back as it was, and whatever is not a model is told so and never run."""

import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from potstill.errors import DataError
from potstill.model import Committee

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def saved(alloy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "good"
    alloy.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_header(folder: Path, *path: str, value) -> None:
    file = folder / "model.json"
    header = json.loads(file.read_text())
    table = header
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = value
    file.write_text(json.dumps(header))


def edit_tensors(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = load(file.read_bytes())
    change(tensors)
    file.write_bytes(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))


# --- the round trip ---


@pytest.mark.parametrize("who", ["committee", "alloy"])
def test_a_model_comes_back_exactly(request, tmp_path, liquid, who):
    model = request.getfixturevalue(who)
    model.save(tmp_path / "deep" / "folder")
    back = Committee.load(tmp_path / "deep" / "folder")
    assert back.fingerprint == model.fingerprint
    assert back.descriptor == model.descriptor
    assert (back.members, back.elements, back.calibration) == (model.members, model.elements, model.calibration)
    assert back.about == json.loads(json.dumps(model.about))
    assert np.array_equal(back.describe([liquid]), model.describe([liquid]))
    (a,), (b,) = back.predict([liquid]), model.predict([liquid])
    for name in ("energy", "forces", "virial"):
        assert np.array_equal(getattr(a, name), getattr(b, name))


def test_calibration_and_what_is_said_about_the_training_are_kept(committee, tmp_path):
    replace(committee, calibration=1.7, about={"n_frames": 3, "note": "Å"}).save(tmp_path)
    back = Committee.load(tmp_path)
    assert back.calibration == 1.7
    assert back.about == {"n_frames": 3, "note": "Å"}


def test_saving_twice_writes_the_same_bytes(alloy, saved, tmp_path):
    alloy.save(tmp_path)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_the_header_can_be_read_by_people(saved):
    header = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    assert header["format"] == 1
    assert header["units"] == {"energy": "eV", "length": "Å"}
    assert header["descriptor"]["elements"] == ["Al", "Ni"]
    assert header["descriptor"]["cutoff"] == 6.0


# --- broken files ---


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as told:
        Committee.load(folder)
    assert str(folder) in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    assert name in refused(copy)


def test_an_empty_place_is_no_model(tmp_path):
    assert "model.json" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_broken(copy, name, share):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(share * len(content))])
    assert "broken" in refused(copy)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '"model"', "{}", "nonsense", b"\xff\xfe\x00", '{"format": 1}', "[" * 50]
)
def test_a_header_that_is_no_header_is_refused(copy, text):
    (copy / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(copy)


@pytest.mark.parametrize("found", [0, 2, "1", None, 1.5])
def test_another_format_is_told_with_its_number(copy, found):
    edit_header(copy, "format", value=found)
    told = refused(copy)
    assert f"format {found}" in told
    assert "format 1" in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("members", 3),
        ("members", None),
        ("calibration", "much"),
        ("calibration", None),
        ("descriptor", None),
        ("descriptor", []),
        ("descriptor", {}),
    ],
)
def test_a_header_that_does_not_fit_its_arrays_is_refused(copy, key, value):
    edit_header(copy, key, value=value)
    refused(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("elements", []),
        ("elements", ["Ni"]),
        ("elements", "NiAl"),
        ("elements", 28),
        ("n_radial", 7),
        ("n_radial", -6),
        ("n_radial", "six"),
        ("n_angular", 0),
        ("l_max", -1),
        ("l_max", 10**6),
        ("cutoff", "far"),
        ("cutoff", None),
    ],
)
def test_a_descriptor_that_does_not_fit_the_arrays_is_refused(copy, key, value):
    edit_header(copy, "descriptor", key, value=value)
    refused(copy)


def drop(name):
    return lambda t: t.pop(name)


def put(name, change):
    return lambda t: t.update({name: change(t[name])})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(drop("shift"), id="no shift"),
        pytest.param(drop("linear"), id="no linear term"),
        pytest.param(drop("layers.1.bias"), id="a bias short"),
        pytest.param(drop("layers.0.weight"), id="a layer short"),
        pytest.param(drop("whitening.mean"), id="no whitening"),
        pytest.param(lambda t: (t.pop("layers.2.weight"), t.pop("layers.2.bias")), id="no last layer"),
        pytest.param(put("layers.0.weight", lambda a: a[:, :, :-1]), id="a feature short"),
        pytest.param(put("layers.1.weight", lambda a: a[..., 0]), id="flat layer"),
        pytest.param(put("layers.1.weight", lambda a: a[:, :1]), id="a member short"),
        pytest.param(put("layers.2.bias", lambda a: a[..., :0]), id="no bias"),
        pytest.param(put("shift", lambda a: a[:1]), id="an element short"),
        pytest.param(put("whitening.matrix", lambda a: a[:, 1:]), id="whitening not square"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(copy, change):
    edit_tensors(copy, change)
    refused(copy)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["shift", "linear", "layers.0.weight", "layers.2.bias"])
def test_weights_that_are_no_numbers_are_refused(copy, name, bad):
    def spoil(t):
        t[name].flat[-1] = bad

    edit_tensors(copy, spoil)
    assert "NaN" in refused(copy)


def test_a_model_too_large_to_be_one_is_not_even_read(copy, monkeypatch):
    monkeypatch.setattr("potstill.model.committee.MAX_MODEL_BYTES", 1000)
    assert "larger than" in refused(copy)


class Trap:
    """Leaves a file behind where it is unpacked."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_model_that_would_run_code_is_refused_and_runs_none(copy, tmp_path):
    (copy / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert "broken" in refused(copy)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "call", [r"pickle\.load", r"torch\.load", r"np\.load\(", r"joblib", r"\beval\(", r"\bexec\(", r"yaml\.load"]
)
def test_no_source_loads_what_could_run(repo, call):
    for path in (repo / "src").rglob("*.py"):
        assert not re.search(call, path.read_text(encoding="utf-8")), path


# --- faults that come through today ---


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("descriptor", "cutoff"), NAN, id="cutoff NaN"),
        pytest.param(("descriptor", "cutoff"), INF, id="cutoff infinite"),
        pytest.param(("descriptor", "cutoff"), 0.0, id="cutoff 0"),
        pytest.param(("descriptor", "cutoff"), -6.0, id="cutoff negative"),
        pytest.param(("descriptor", "cutoff"), 1e9, id="cutoff of 10 cm"),
        pytest.param(("descriptor", "angular_cutoff"), NAN, id="angular cutoff NaN"),
        pytest.param(("descriptor", "elements"), ["Ni", "Xx"], id="element that does not exist"),
        pytest.param(("descriptor", "elements"), ["Ni", "Ni"], id="element twice"),
        pytest.param(("descriptor", "n_radial"), INF, id="n_radial infinite"),
        pytest.param(("members",), INF, id="members infinite"),
        pytest.param(("calibration",), NAN, id="calibration NaN"),
        pytest.param(("calibration",), -1.0, id="calibration negative"),
        pytest.param(("about",), ["trained"], id="about is a list"),
    ],
)
def test_header_values_that_cannot_be_are_refused(copy, path, value):
    edit_header(copy, *path, value=value)
    with pytest.raises(DataError):
        Committee.load(copy)


@pytest.mark.parametrize("name", ["whitening.mean", "whitening.matrix"])
def test_a_whitening_that_is_no_number_is_refused(copy, name):
    edit_tensors(copy, put(name, lambda a: a * NAN))
    with pytest.raises(DataError):
        Committee.load(copy)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused(copy, name):
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(DataError):
        Committee.load(copy)


def test_a_header_nested_too_deep_is_refused(copy):
    (copy / "model.json").write_text("[" * 100_000)
    with pytest.raises(DataError):
        Committee.load(copy)


@pytest.mark.parametrize("kind", [np.int32, np.bool_])
def test_weights_of_another_kind_of_number_are_refused(copy, kind):
    edit_tensors(copy, put("layers.1.weight", lambda a: a.astype(kind)))
    with pytest.raises(DataError):
        Committee.load(copy)

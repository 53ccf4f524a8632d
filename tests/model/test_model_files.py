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
from ase import Atoms
from safetensors.numpy import load, save

from potstill.config import TrainConfig
from potstill.data import Frame
from potstill.errors import DataError
from potstill.model import Committee
from potstill.model.files import FORMAT
from potstill.training import descriptor_for, train

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
    assert (back.members, back.elements) == (model.members, model.elements)
    assert (back.calibration, back.energy_calibration) == (model.calibration, model.energy_calibration)
    assert all(np.array_equal(a, b) for a, b in zip(back.wall, model.wall, strict=True))
    assert back.about == json.loads(json.dumps(model.about))
    assert np.array_equal(back.describe([liquid]), model.describe([liquid]))
    (a,), (b,) = back.predict([liquid]), model.predict([liquid])
    for name in ("energy", "energies", "forces", "virial"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert np.array_equal(back.strangeness([liquid])[0], model.strangeness([liquid])[0])


def test_calibration_and_what_is_said_about_the_training_are_kept(committee, tmp_path):
    replace(committee, calibration=1.7, energy_calibration=0.3, about={"n_frames": 3, "note": "Å"}).save(tmp_path)
    back = Committee.load(tmp_path)
    assert (back.calibration, back.energy_calibration) == (1.7, 0.3)
    assert back.about == {"n_frames": 3, "note": "Å"}


def test_an_element_without_data_is_kept_as_one(data, model, tmp_path, liquid):
    descriptor = descriptor_for(("Al", "Ni"), model)
    made = train(data, model, TrainConfig(members=1, steps=0), seed=1, descriptor=descriptor)
    made.save(tmp_path)
    back = Committee.load(tmp_path)
    assert back.domain.points[0].shape == (0, back.domain.components)
    assert np.array_equal(back.strangeness([liquid])[0], made.strangeness([liquid])[0])


def test_saving_twice_writes_the_same_bytes(alloy, saved, tmp_path):
    alloy.save(tmp_path)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_the_header_can_be_read_by_people(saved):
    header = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    assert header["format"] == FORMAT == 2
    assert set(header["calibration"]) == {"force", "energy"}
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


# --- files of other times ---


@pytest.fixture(params=["format-1", "format-2"])
def kept(request) -> tuple[Path, dict]:
    """A model's folder as an earlier version left it, and what that version predicted."""
    folder = Path(__file__).parent / "data" / request.param
    return folder, json.loads((folder / "expected.json").read_text(encoding="utf-8"))


def structure(table) -> Frame:
    return Frame(Atoms(table["symbols"], table["positions"], cell=table["cell"], pbc=table.get("pbc", True)))


def test_a_model_of_an_earlier_version_predicts_what_it_did(kept):
    folder, expected = kept
    model = Committee.load(folder)
    for table in expected.get("frames", [expected]):
        (p,) = model.predict([structure(table)])
        for name in ("energy", "energies", "forces", "virial"):
            if name not in table:
                continue
            assert np.abs(np.array(table[name])).max() > 1e-2
            np.testing.assert_allclose(getattr(p, name), table[name], rtol=0, atol=1e-10)


def test_a_model_of_format_1_has_neither_wall_nor_domain():
    model = Committee.load(Path(__file__).parent / "data" / "format-1")
    assert not model.wall.reach.any()
    assert (model.calibration, model.energy_calibration) == (1.0, 1.0)
    with pytest.raises(DataError, match="first format"):
        model.strangeness([structure({"symbols": "NiAl", "positions": [(0, 0, 0), (0, 0, 2.5)], "cell": None})])


def test_a_model_of_format_2_has_both():
    folder = Path(__file__).parent / "data" / "format-2"
    model, expected = Committee.load(folder), json.loads((folder / "expected.json").read_text())
    assert [model.calibration, model.energy_calibration] == expected["calibration"]
    assert model.wall.reach.min() > 1
    frames = [structure(table) for table in expected["frames"]]
    for table, found in zip(expected["frames"], model.strangeness(frames), strict=True):
        np.testing.assert_allclose(found, table["strangeness"], rtol=1e-9, atol=1e-6)


def test_a_model_of_an_earlier_version_is_saved_in_the_present_format(kept, tmp_path):
    folder, expected = kept
    model = Committee.load(folder)
    model.save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["format"] == FORMAT
    again = Committee.load(tmp_path)
    assert again.fingerprint == model.fingerprint
    assert (again.domain is None) == (model.domain is None)
    frame = structure(expected.get("frames", [expected])[0])
    assert np.array_equal(again.predict([frame])[0].forces, model.predict([frame])[0].forces)


def test_there_is_a_file_of_every_format_that_was():
    kept = {p.name for p in (Path(__file__).parent / "data").glob("format-*")}
    assert kept == {f"format-{k}" for k in range(1, FORMAT + 1)}


@pytest.mark.parametrize("found", [0, FORMAT + 1, "1", None, 1.5, True, -1])
def test_another_format_is_told_with_its_number(copy, found):
    edit_header(copy, "format", value=found)
    told = refused(copy)
    assert f"format {found}" in told
    assert f"formats 1 to {FORMAT}" in told


def test_a_header_of_the_first_format_over_the_arrays_of_the_second_is_refused(copy):
    edit_header(copy, "format", value=1)
    refused(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("members", 3),
        ("members", None),
        ("calibration", "much"),
        ("calibration", None),
        ("calibration", 1.0),
        ("calibration", {}),
        ("calibration", {"force": 1.0}),
        ("calibration", {"force": 1.0, "energy": "much"}),
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
        pytest.param(drop("wall.reach"), id="no wall"),
        pytest.param(put("wall.reach", lambda a: a[:1]), id="a wall for one element"),
        pytest.param(put("wall.strength", lambda a: a.ravel()), id="a flat wall"),
        pytest.param(put("wall.reach", lambda a: -a), id="a wall behind the atom"),
        pytest.param(put("wall.reach", lambda a: a + 20.0), id="a wall farther than anything is seen"),
        pytest.param(put("wall.strength", lambda a: -a), id="a wall that attracts"),
        pytest.param(put("wall.strength", lambda a: 1e9 * a), id="a wall beyond nuclei"),
        pytest.param(drop("domain.points.1"), id="an element without its points"),
        pytest.param(put("domain.radius", lambda a: a[:1]), id="a radius short"),
        pytest.param(put("domain.radius", lambda a: 0 * a), id="a radius of nothing"),
        pytest.param(put("domain.radius", lambda a: -a), id="a radius below nothing"),
        pytest.param(put("domain.points.0", lambda a: a.ravel()), id="flat points"),
        pytest.param(put("domain.points.0", lambda a: a[:, 1:]), id="points of two widths"),
        pytest.param(put("domain.points.0", lambda a: a[:, :0]), id="points of no width"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(copy, change):
    edit_tensors(copy, change)
    refused(copy)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "name",
    ["shift", "linear", "layers.0.weight", "layers.2.bias", "wall.reach", "wall.strength", "domain.radius",
     "domain.points.1"],
)  # fmt: skip
def test_weights_that_are_no_numbers_are_refused(copy, name, bad):
    def spoil(t):
        t[name].flat[-1] = bad

    edit_tensors(copy, spoil)
    assert "NaN" in refused(copy)


def test_a_model_too_large_to_be_one_is_not_even_read(copy, monkeypatch):
    monkeypatch.setattr("potstill.model.files.MAX_MODEL_BYTES", 1000)
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
        if path.name == "compiled.py" and "pickle" in call:  # what it reads came through a pipe from its own parent
            continue
        assert not re.search(call, path.read_text(encoding="utf-8")), path


# --- numbers that cannot be ---


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
        pytest.param(("calibration", "force"), NAN, id="calibration NaN"),
        pytest.param(("calibration", "force"), -1.0, id="calibration negative"),
        pytest.param(("calibration", "energy"), INF, id="energy calibration infinite"),
        pytest.param(("calibration", "energy"), -1.0, id="energy calibration negative"),
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

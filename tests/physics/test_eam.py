"""Tabulated embedded atoms: what LAMMPS says, we say, to rounding."""

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.backends.lammps import LammpsPotential, potentials_folder
from potstill.crystals import atomic_volume, ground_state, supercell
from potstill.errors import BackendError
from potstill.sampling.eam import energy_forces, list_pairs, neighbours, read_eam, work_space

FILES = [
    ("NiAlH_jea.eam.alloy", "Ni", "eam/alloy"),
    ("NiAlH_jea.eam.alloy", "Al", "eam/alloy"),
    ("Al_zhou.eam.alloy", "Al", "eam/alloy"),
    ("Ni_u3.eam", "Ni", "eam"),
    ("Cu_u3.eam", "Cu", "eam"),
    ("Cu_mishin1.eam.alloy", "Cu", "eam/alloy"),
    ("Fe_mm.eam.fs", "Fe", "eam/fs"),
    ("Zr_mm.eam.fs", "Zr", "eam/fs"),
    ("NiAlH_jea.eam.fs", "Ni", "eam/fs"),
]


def evaluate(eam, atoms):
    n, h = len(atoms), np.ascontiguousarray(atoms.cell.array)
    x, inverse = atoms.positions.copy(), np.linalg.inv(h)
    nl, work, f = neighbours(n, n * 4000), work_space(n, n * 4000), np.zeros((n, 3))
    assert list_pairs(x, h, inverse, eam.tables.cutoff + 0.3, nl) > 0
    return energy_forces(x, nl, eam.tables, work, f), f


def frames(element):
    """Solid, liquid, compressed, stretched, sheared and tiny cells, none at rest."""
    rng = np.random.default_rng(7)
    crystal = supercell(ground_state(element), element, atomic_volume(element), 32)
    spacing = atomic_volume(element) ** (1 / 3)

    def shaken(atoms, by, volume=1.0, shear=0.0):
        atoms = atoms.copy()
        noise = rng.normal(0.0, shear, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + noise) * volume ** (1 / 3), scale_atoms=True)
        atoms.positions += rng.normal(0.0, by * spacing, atoms.positions.shape)
        return atoms

    tiny = supercell(ground_state(element), element, atomic_volume(element), 4)
    return {
        "solid": shaken(crystal, 0.04),
        "liquid": shaken(crystal, 0.15, 1.15),
        "compressed": shaken(crystal, 0.05, 0.6),
        "stretched": shaken(crystal, 0.05, 2.5),
        "sheared": shaken(crystal, 0.05, 1.0, 0.15),
        "tiny": shaken(tiny, 0.05, 1.0, 0.1),
    }


@pytest.mark.parametrize(("file", "element", "style"), FILES)
def test_energy_and_forces_are_those_of_lammps(file, element, style):
    eam = read_eam(potentials_folder() / file, style, element)
    calculator = LammpsPotential.find(file, (element,)).calculator()
    for kind, atoms in frames(element).items():
        energy, forces = evaluate(eam, atoms)
        expected = calculator.get_property("energy", atoms), calculator.get_property("forces", atoms)
        assert abs(energy - expected[0]) / len(atoms) < 1e-9, kind  # asked for: 1e-6 eV/atom
        assert np.abs(forces - expected[1]).max() < 1e-8 * max(1.0, np.abs(forces).max()), kind  # 1e-5 eV/Å
        assert np.abs(forces).max() > 0.1, kind
    assert eam.mass == pytest.approx(Atoms(element).get_masses()[0], rel=0.01)


def test_a_liquid_of_lammps_own_dynamics_agrees_too():
    from potstill.protocols import State

    potential = LammpsPotential.find("NiAlH_jea.eam.alloy")
    start = supercell("fcc", "Ni", 10.9, 32)
    eam = read_eam(potentials_folder() / "NiAlH_jea.eam.alloy", "eam/alloy", "Ni")
    calculator = potential.calculator()
    hot = [(State(4000.0, 0.0), 2000, 1000), (State(2500.0, 0.0), 1000, 500)]
    for _, _, atoms in potential.dynamics(start, hot, timestep=2.0, seed=3):
        energy, forces = evaluate(eam, atoms)
        assert abs(energy - calculator.get_property("energy", atoms)) / 32 < 1e-9
        np.testing.assert_allclose(forces, calculator.get_property("forces", atoms), atol=1e-8)


@pytest.mark.parametrize("kind", ["liquid", "sheared", "tiny"])
def test_forces_are_the_slope_of_the_energy(kind):
    eam = read_eam(potentials_folder() / "Fe_mm.eam.fs", "eam/fs", "Fe")
    atoms = frames("Fe")[kind]
    _, forces = evaluate(eam, atoms)
    for i, k in ((0, 0), (1, 1), (len(atoms) - 1, 2)):
        sides = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.positions[i, k] += step
            sides.append(evaluate(eam, moved)[0])
        assert forces[i, k] == pytest.approx(-(sides[0] - sides[1]) / 2e-4, rel=1e-5, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), reach=st.floats(2.0, 7.0), skew=st.floats(0.0, 0.4))
def test_the_list_holds_every_pair_once(seed, n, reach, skew):
    rng = np.random.default_rng(seed)
    h = np.eye(3) * rng.uniform(3.0, 6.0, 3) + rng.normal(0.0, skew, (3, 3))
    x = rng.uniform(-4.0, 9.0, (n, 3))
    nl = neighbours(n, 40_000)
    wrapped = x.copy()
    count = list_pairs(wrapped, h, np.linalg.inv(h), reach, nl)
    fractions = np.linalg.inv(h.T) @ (wrapped - x).T
    np.testing.assert_allclose(fractions, np.round(fractions), atol=1e-9)
    span = range(-6, 7)
    shifts = np.array([(a, b, c) for a in span for b in span for c in span], dtype=float) @ h
    expected = 0
    for i in range(n):
        for j in range(n):
            d = np.linalg.norm(wrapped[j] - wrapped[i] + shifts, axis=1)
            expected += int(((d < reach) & (d > 1e-9)).sum())
    assert 2 * count == expected


def test_a_list_without_room_says_so():
    atoms = supercell("fcc", "Ni", 10.9, 32)
    h = atoms.cell.array.copy()
    assert list_pairs(atoms.positions.copy(), h, np.linalg.inv(h), 6.0, neighbours(32, 100)) == -1


def _file(tmp_path, text):
    path = tmp_path / "broken.eam.alloy"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_broken_tables_are_refused_with_a_sentence_that_names_the_file(tmp_path):
    whole = (potentials_folder() / "NiAlH_jea.eam.alloy").read_text()
    lines = whole.splitlines()
    worded = lines.copy()
    worded[40] = "these are not numbers"
    strange = lines.copy()
    strange[60] = strange[60].replace(strange[60].split()[0], "nan")
    absurd = lines.copy()
    absurd[4] = "999999999 1e-9 999999999 1e-9 5.0"
    broken = {
        "cut short": "\n".join(lines[:800]),
        "words": "\n".join(worded),
        "not finite": "\n".join(strange),
        "absurd sizes": "\n".join(absurd),
        "empty": "",
        "binary": bytes(range(256)) * 40,
        "another kind": (potentials_folder() / "Ni_u3.eam").read_text(),
    }
    for what, text in broken.items():
        file = _file(tmp_path, text)
        with pytest.raises(BackendError, match=r"broken\.eam\.alloy") as told:
            read_eam(file, "eam/alloy", "Ni")
        assert len(str(told.value)) > 40, what
    with pytest.raises(BackendError, match="not Cu"):
        read_eam(_file(tmp_path, whole), "eam/alloy", "Cu")

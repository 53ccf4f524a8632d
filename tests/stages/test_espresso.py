"""Density-functional labels by pw.x: published aluminium, forces and stress as derivatives, failures as sentences."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState

from potstill.backends import espresso, gth, resolve
from potstill.config import parse_config
from potstill.data import Failure, Frame, Labels, tensor
from potstill.errors import BackendError, ConfigError, ConvergenceError
from potstill.label import compute, label
from potstill.protocols import Cautious
from potstill.store import LabelStore

PBE_ALUMINIUM = 4.04  # Å; Haas, Tran and Blaha, Phys. Rev. B 79, 085104 (2009)
COARSE = {"cutoff": 16.0, "k_spacing": 0.6, "width": 0.03, "convergence": 1e-9}  # what matters is that all agree


def settings(**given):
    return parse_config({"espresso": given})


@pytest.fixture(scope="module")
def program():
    """pw.x and CP2K's table are there, or the test is skipped; on CI they must be."""
    if shutil.which("pw.x") is None or not gth.TABLE.is_file():
        assert not os.environ.get("CI"), "Quantum ESPRESSO is missing, and CI must not go without"
        pytest.skip("Quantum ESPRESSO is not installed (apt-get install quantum-espresso cp2k-data)")


@pytest.fixture(scope="module")
def aluminium(program):
    return resolve("espresso", ["Al"], settings(**COARSE))


def sheared() -> Atoms:
    """Two atoms off their places in a cell without symmetry."""
    atoms = Atoms(
        "Al2", scaled_positions=[[0, 0, 0], [0.46, 0.53, 0.51]], cell=[[3.9, 0, 0], [0.3, 4.2, 0], [0, 0.2, 4.0]]
    )
    atoms.pbc = True
    return atoms


def energy_of(atoms: Atoms, calculator) -> float:
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms.get_potential_energy()


# --- the physics ---


def test_aluminium_has_the_lattice_constant_of_pbe(program):
    calculator = resolve("espresso", ["Al"], settings(cutoff=16.0, k_spacing=0.4)).calculator()
    found = [(a**3 / 4, energy_of(bulk("Al", a=a), calculator)) for a in (3.90, 3.98, 4.06, 4.14, 4.20)]
    v0, _, bulk_modulus = EquationOfState(*zip(*found, strict=True), "birchmurnaghan").fit()
    assert (4 * v0) ** (1 / 3) == pytest.approx(PBE_ALUMINIUM, rel=0.005)
    assert 160.2 * bulk_modulus == pytest.approx(77, abs=8)  # GPa


def test_forces_and_stress_are_derivatives_of_the_energy(aluminium):
    atoms, calculator = sheared(), aluminium.calculator()
    atoms.calc = calculator
    forces, stress = atoms.get_forces(), tensor(atoms.get_stress())
    step = 0.01
    sides = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions[1, 0] += sign * step
        sides.append(energy_of(moved, calculator))
    assert forces[1, 0] == pytest.approx(-(sides[1] - sides[0]) / (2 * step), abs=0.01)
    sides = []
    for sign in (-1, 1):  # a plane wave basis of fixed cutoff, hence the loose bound
        strained = atoms.copy()
        strained.set_cell(strained.cell.array @ (np.eye(3) + np.diag([sign * step, 0, 0])), scale_atoms=True)
        sides.append(energy_of(strained, calculator))
    assert stress[0, 0] == pytest.approx((sides[1] - sides[0]) / (2 * step) / atoms.get_volume(), abs=0.01)


def test_rungs_of_the_ladder_find_the_same_energy(aluminium):
    assert isinstance(aluminium, Cautious)
    rungs = [aluminium.safer(k) for k in (1, 2, 3)]
    assert aluminium.safer(4) is None
    energies = [energy_of(sheared(), rung.calculator()) for rung in rungs]
    assert np.ptp(energies) < 1e-5
    assert len({rung.fingerprint for rung in rungs}) == 1


# --- grids, pseudopotentials, fingerprints ---


@pytest.mark.parametrize(("a", "repeat", "grid"), [(4.05, 2, (2, 2, 2)), (3.52, 2, (2, 2, 2)), (4.05, 1, (4, 4, 4))])
def test_thirty_two_atoms_get_two_points_a_direction(program, a, repeat, grid):
    potential = resolve("espresso", ["Al"], settings())
    assert potential.grid(bulk("Al", a=a, cubic=True) * (repeat, repeat, repeat)) == grid


def test_one_point_where_nothing_repeats(program):
    slab = bulk("Al", cubic=True)
    slab.pbc = (True, True, False)
    assert resolve("espresso", ["Al"], settings()).grid(slab) == (4, 4, 1)


def test_aluminium_s_pseudopotential_is_rewritten_as_published(program):
    """Krack, Theor. Chem. Acc. 114, 145 (2005): three electrons, local radius 0.45 Bohr, radii 0.487 and 0.562."""
    name, text = gth.rewritten("Al")
    rows = [line.split() for line in text.splitlines()]
    assert name == "GTH-PBE-q3"
    assert rows[1][:2] == ["13", "3"]
    assert [float(x) for x in rows[3][:3]] == pytest.approx([0.45, 1, -7.55], abs=0.01)
    assert [float(x) for x in rows[5][:2]] == pytest.approx([0.487, 2], abs=0.001)
    assert [float(x) for x in rows[7][:2]] == pytest.approx([0.562, 1], abs=0.001)


def test_what_decides_a_label_is_in_the_fingerprint_and_what_runs_is_not(aluminium):
    other = resolve("espresso", ["Al"], settings(**{**COARSE, "cutoff": 17.0}))
    assert other.fingerprint != aluminium.fingerprint
    assert replace(aluminium, command="mpirun -n 8 pw.x").fingerprint == aluminium.fingerprint


def test_spin_begins_on_every_species(program, tmp_path):
    potential = resolve("espresso", ["Al", "Ni"], settings(spin=0.4))
    atoms = Atoms("NiAl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9, 2.9, 2.9], pbc=True)
    espresso._write(tmp_path / "pw.in", atoms, potential)
    text = (tmp_path / "pw.in").read_text()
    assert all(f"starting_magnetization({k}) = 0.4" in text for k in (1, 2))
    assert {p.name for p in tmp_path.glob("*.gth")} == {"Al.GTH-PBE-q3.gth", "Ni.GTH-PBE-q10.gth"}


def test_spin_is_what_the_settings_say_whatever_a_structure_brings_along(program, tmp_path):
    potential = resolve("espresso", ["Ni"], settings())
    atoms = bulk("Ni")
    assert atoms.get_initial_magnetic_moments().any()
    espresso._write(tmp_path / "pw.in", atoms, potential)
    text = (tmp_path / "pw.in").read_text()
    assert "nspin" not in text
    assert "magnetization" not in text


# --- what goes wrong ---


def test_it_labels_through_the_store_and_refuses_what_is_nothing_for_it(aluminium, tmp_path):
    good = Frame.of(bulk("Al", a=4.05))
    stranger = Frame.of(bulk("Cu"))
    close = Frame.of(Atoms("Al2", positions=[[0, 0, 0], [0, 0, 0.3]], cell=[4, 4, 4], pbc=True))
    found = label([good, stranger, close], aluminium, LabelStore(tmp_path), workers=1)
    assert found.data.keys == [good.key]
    assert {f.reason for f in found.failures} == {"element", "overlap"}


def test_electrons_that_do_not_settle_are_a_failure_with_what_was_said(aluminium, monkeypatch):
    monkeypatch.setattr(espresso, "LADDER", ({"electron_maxstep": 1}, {"electron_maxstep": 2}))
    result = compute(Frame.of(sheared()), aluminium)
    assert isinstance(result, Failure)
    assert (result.reason, result.attempts) == ("not-converged", 2)
    assert "convergence NOT achieved" in result.message
    with pytest.raises(ConvergenceError):
        energy_of(sheared(), aluminium.calculator())


def test_a_program_that_dies_or_writes_nonsense_is_a_failure(aluminium):
    for command in ("false", "echo nonsense"):
        result = compute(Frame.of(sheared()), replace(aluminium, command=command))
        assert not isinstance(result, Labels)
        assert "pw.x ended with status" in result.message


def test_what_is_not_there_is_a_sentence(program, monkeypatch):
    with pytest.raises(BackendError, match=r"Al\.pbe\.UPF for Al in .*cp2k-data"):
        resolve("espresso", ["Al"], settings(pseudopotentials={"Al": "Al.pbe.UPF"}))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BackendError, match="apt-get install quantum-espresso"):
        resolve("espresso", ["Al"], settings())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a b", ""])
def test_a_pseudopotential_s_name_cannot_leave_its_folder(name):
    with pytest.raises(ConfigError, match="pseudopotentials"):
        settings(pseudopotentials={"Al": name})

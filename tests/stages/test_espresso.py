"""What is pw.x's own: pseudopotentials, spin, what is missing. The rest is in test_dft.py."""

import os
import shutil
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from potstill.backends import espresso, gth, resolve
from potstill.config import parse_config
from potstill.errors import BackendError, ConfigError

PBE_ALUMINIUM = 4.04  # Å; Haas, Tran and Blaha, Phys. Rev. B 79, 085104 (2009)
COARSE = {"cutoff": 16.0, "small_k_spacing": 0.6, "width": 0.03, "convergence": 1e-9}  # what matters is that all agree


def settings(**given):
    return parse_config({"espresso": given})


@pytest.fixture(scope="module")
def program():
    """pw.x and CP2K's table are there, or the test is skipped; on CI they must be."""
    if shutil.which("pw.x") is None or not gth.TABLE.is_file():
        assert not os.environ.get("CI"), "Quantum ESPRESSO is missing, and CI must not go without"
        pytest.skip("Quantum ESPRESSO is not installed (apt-get install quantum-espresso cp2k-data)")


@pytest.fixture(scope="module")
# --- the physics ---


# --- grids, pseudopotentials, fingerprints ---


def test_aluminium_s_pseudopotential_is_as_published(program):
    """Krack, Theor. Chem. Acc. 114, 145 (2005): three electrons, local radius 0.45 Bohr, radii 0.487 and 0.562."""
    name, numbers = gth.find("Al")
    assert (name, numbers.valence) == ("GTH-PBE-q3", 3)
    assert numbers.radius == pytest.approx(0.45)
    assert numbers.local == pytest.approx([-7.55], abs=0.01)
    assert [r for r, _ in numbers.channels] == pytest.approx([0.487, 0.562], abs=0.001)
    assert [h.shape for _, h in numbers.channels] == [(2, 2), (1, 1)]


def test_projectors_are_normalised_and_far_away_only_the_charge_is_left(program):
    """Goedecker, Teter and Hutter (1996), equations 1 and 3: the integral of (r p)² is 1."""
    r = 0.01 * np.arange(1201)
    for element in ("Al", "Ni", "Nb"):
        _, numbers = gth.find(element)
        for _, beta in numbers.projectors(r):
            assert np.trapezoid(beta**2, r) == pytest.approx(1, abs=1e-8)
        v = numbers.potential(r)
        assert v[600:] == pytest.approx(-numbers.valence / r[600:], rel=1e-12)
        assert v[0] == pytest.approx(2 * v[1] - v[2], abs=0.1)  # finite, and without a step


def test_a_tabulation_holds_what_its_numbers_say(program):
    """Rydberg, which are half a Hartree."""
    name, numbers = gth.find("Al")
    root = ET.fromstring(gth.tabulated("Al", name, numbers))  # noqa: S314 - our own text
    table = {node.tag: np.array((node.text or "").split(), float) for node in root.iter() if node.tag != "PP_INFO"}
    r, rows = table["PP_R"], root.find("PP_HEADER").attrib
    assert table["PP_LOCAL"] == pytest.approx(2 * numbers.potential(r), abs=1e-12)
    assert table["PP_DIJ"].reshape(3, 3)[:2, :2] == pytest.approx(2 * numbers.channels[0][1], abs=1e-12)
    assert np.trapezoid(table["PP_RHOATOM"], r) == pytest.approx(3, abs=1e-6)
    assert (rows["number_of_proj"], rows["z_valence"], rows["mesh_size"]) == ("3", "3", str(len(r)))
    assert rows["functional"] == "PBE"
    assert 'functional="PBE0"' in gth.tabulated("Al", *gth.find("Al", "GTH-PBE0"))
    assert max(map(len, gth.tabulated("Al", name, numbers).splitlines())) < 256


def test_spin_begins_on_every_species(program, tmp_path):
    potential = resolve("espresso", ["Al", "Ni"], settings(spin=0.4))
    atoms = Atoms("NiAl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[2.9, 2.9, 2.9], pbc=True)
    espresso._write(tmp_path / "pw.in", atoms, potential)
    text = (tmp_path / "pw.in").read_text()
    assert all(f"starting_magnetization({k}) = 0.4" in text for k in (1, 2))
    assert {p.name for p in tmp_path.glob("*.UPF")} == {"Al.GTH-PBE-q3.UPF", "Ni.GTH-PBE-q10.UPF"}


def test_spin_is_what_the_settings_say_whatever_a_structure_brings_along(program, tmp_path):
    potential = resolve("espresso", ["Ni"], settings())
    atoms = bulk("Ni")
    assert atoms.get_initial_magnetic_moments().any()
    espresso._write(tmp_path / "pw.in", atoms, potential)
    text = (tmp_path / "pw.in").read_text()
    assert "nspin" not in text
    assert "magnetization" not in text


# --- what goes wrong ---


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


def test_several_processes_a_label_are_the_machine_s_to_start_and_change_nothing(program):
    """mpirun is asked for as a cluster's user would in ASE's configuration; the two flags are for a test as root."""
    if shutil.which("mpirun") is None:
        assert not os.environ.get("CI"), "mpirun is missing, and CI must not go without"
        pytest.skip("no mpirun is installed")
    alone = resolve("espresso", ["Al"], settings(cutoff=16.0, small_k_spacing=0.6))
    two = replace(alone, command="mpirun --allow-run-as-root --oversubscribe -np 2 pw.x")
    energies = []
    for potential in (alone, two):
        atoms = bulk("Al", a=4.05)
        atoms.calc = potential.calculator()
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)

"""What is GPAW's own: setups, spin, a Python without it. The rest is in test_dft.py."""

import os
from importlib.util import find_spec

import pytest
from ase.build import bulk

from potstill.backends import gpaw, resolve
from potstill.config import parse_config
from potstill.errors import BackendError, ConfigError


def settings(**given):
    return parse_config({"gpaw": given})


@pytest.fixture(scope="module")
def program():
    if find_spec("gpaw") is None:
        assert not os.environ.get("CI"), "GPAW is missing, and CI must not go without"
        pytest.skip("GPAW is not installed")


def test_a_magnet_is_lower_in_energy(program):
    coarse = {"cutoff": 300.0, "small_k_spacing": 0.9, "width": 0.2}
    energies = []
    for spin in (0.0, 2.5):
        atoms = bulk("Fe", a=2.83)
        atoms.calc = resolve("gpaw", ["Fe"], settings(**coarse, spin=spin)).calculator()
        energies.append(atoms.get_potential_energy())
    assert energies[1] < energies[0] - 0.2  # eV; about half an electronvolt in PBE


def test_setups_are_named_and_in_the_fingerprint(program):
    ten = resolve("gpaw", ["Ni"], settings(setups={"Ni": "10"}))
    assert ten.fingerprint != resolve("gpaw", ["Ni"], settings()).fingerprint
    with pytest.raises(BackendError, match=r"no setup Ni\.99\.PBE.*gpaw-data"):
        resolve("gpaw", ["Ni"], settings(setups={"Ni": "99"}))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a b", "", "*"])
def test_a_setup_s_name_cannot_leave_its_folder(name):
    with pytest.raises(ConfigError, match="setups"):
        settings(setups={"Al": name})


def test_a_python_without_it_is_a_sentence(monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'gpaw'\" >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(gpaw.sys, "executable", str(bare))
    with pytest.raises(BackendError, match=r"needs GPAW.*pip install gpaw"):
        resolve("gpaw", ["Al"], settings())

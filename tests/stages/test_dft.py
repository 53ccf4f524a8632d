"""Density-functional labels, the same of every code: aluminium as published, derivatives, ladders, failures."""

import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState

from potstill.backends import espresso, gpaw, gth, resolve
from potstill.backends.external import k_grid
from potstill.config import parse_config
from potstill.data import Failure, Frame, Labels, tensor
from potstill.errors import BackendError, ConvergenceError
from potstill.labelling import compute, label
from potstill.protocols import Cautious
from potstill.store import LabelStore

PBE_ALUMINIUM = 4.04  # Å; Haas, Tran and Blaha, Phys. Rev. B 79, 085104 (2009)
CODES = ("espresso", "gpaw")
COARSE = {  # what matters is that all agree
    "espresso": {"cutoff": 16.0, "small_k_spacing": 0.6, "width": 0.03, "convergence": 1e-9},
    "gpaw": {"cutoff": 250.0, "small_k_spacing": 0.7, "width": 0.4, "convergence": 1e-7},
}
FINE = {"espresso": {"cutoff": 16.0, "small_k_spacing": 0.4}, "gpaw": {"cutoff": 300.0, "small_k_spacing": 0.5}}
HASTY = {"espresso": {"electron_maxstep": 1}, "gpaw": {**gpaw.LADDER[0], "iterations": 1}}


def settings(code, given):
    return parse_config({code: given})


@pytest.fixture(scope="module", params=CODES)
def code(request):
    """It is installed, or the test is skipped; on CI it must be."""
    there = {
        "espresso": shutil.which("pw.x") is not None and gth.TABLE.is_file(),
        "gpaw": find_spec("gpaw") is not None,
    }
    if not there[request.param]:
        assert not os.environ.get("CI"), f"{request.param} is missing, and CI must not go without"
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def aluminium(code):
    return resolve(code, ["Al"], settings(code, COARSE[code]))


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


def slope(atoms: Atoms, calculator, i: int, j: int, step: float = 0.01) -> float:
    """The energy's derivative by a symmetric strain, over the volume: eV/Å³."""
    sides = []
    for sign in (-1, 1):
        strain = np.zeros((3, 3))
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        strained = atoms.copy()
        strained.set_cell(strained.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        sides.append(energy_of(strained, calculator))
    return (sides[1] - sides[0]) / (2 * step) / atoms.get_volume()


# --- the physics ---


def test_aluminium_has_the_lattice_constant_of_pbe(code):
    calculator = resolve(code, ["Al"], settings(code, FINE[code])).calculator()
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
    assert stress[0, 0] == pytest.approx(slope(atoms, calculator, 0, 0), abs=0.01)  # a basis of fixed cutoff: loose


def test_shear_stress_is_the_derivative_of_the_energy(aluminium):
    """Shear keeps the volume, and with it the number of plane waves: only the steps' size bounds it."""
    atoms, calculator = sheared(), aluminium.calculator()
    atoms.calc = calculator
    stress = tensor(atoms.get_stress())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert stress[i, j] == pytest.approx(slope(atoms, calculator, i, j), abs=0.0006)  # eV/Å³, 0.1 GPa


def test_rungs_of_the_ladder_find_the_same_energy(aluminium):
    assert isinstance(aluminium, Cautious)
    rungs = [aluminium.safer(k) for k in (1, 2, 3)]
    assert aluminium.safer(4) is None
    energies = [energy_of(sheared(), rung.calculator()) for rung in rungs]
    assert np.ptp(energies) < 1e-5 * len(sheared())
    assert len({rung.fingerprint for rung in rungs}) == 1


# --- grids and fingerprints ---


@pytest.mark.parametrize(("a", "repeat", "grid"), [(4.05, 2, (2, 2, 2)), (3.52, 2, (2, 2, 2)), (4.05, 1, (7, 7, 7))])
def test_thirty_two_atoms_get_two_points_a_direction_and_crystals_more(a, repeat, grid):
    assert k_grid(bulk("Al", a=a, cubic=True) * (repeat, repeat, repeat), 0.5, 0.25) == grid


def test_one_point_where_nothing_repeats():
    slab = bulk("Al", cubic=True)
    slab.pbc = (True, True, False)
    assert k_grid(slab, 0.5, 0.4) == (4, 4, 1)


def test_what_decides_a_label_is_in_the_fingerprint_and_what_runs_is_not(code, aluminium):
    other = resolve(code, ["Al"], settings(code, {**COARSE[code], "width": 0.031}))
    assert other.fingerprint != aluminium.fingerprint
    assert replace(aluminium, command="mpirun -n 8 it").fingerprint == aluminium.fingerprint


# --- what goes wrong ---


def test_it_labels_through_the_store_and_refuses_what_is_nothing_for_it(aluminium, tmp_path):
    good = Frame.of(bulk("Al", a=4.05))
    stranger = Frame.of(bulk("Cu"))
    close = Frame.of(Atoms("Al2", positions=[[0, 0, 0], [0, 0, 0.3]], cell=[4, 4, 4], pbc=True))
    large = Frame.of(bulk("Al", cubic=True) * (7, 7, 7))
    found = label([good, stranger, close, large], aluminium, LabelStore(tmp_path), workers=1)
    assert found.data.keys == [good.key]
    assert {f.reason for f in found.failures} == {"element", "overlap", "size"}


def test_electrons_that_do_not_settle_are_a_failure_with_what_was_said(code, aluminium, monkeypatch):
    monkeypatch.setattr({"espresso": espresso, "gpaw": gpaw}[code], "LADDER", (HASTY[code],) * 2)
    result = compute(Frame.of(sheared()), aluminium)
    assert isinstance(result, Failure)
    assert (result.reason, result.attempts) == ("not-converged", 2)
    assert "It said: " in result.message
    with pytest.raises(ConvergenceError):
        energy_of(sheared(), aluminium.calculator())


def test_a_program_that_dies_or_writes_nonsense_is_a_failure(aluminium):
    for command in ("false", "echo nonsense"):
        result = compute(Frame.of(sheared()), replace(aluminium, command=command))
        assert not isinstance(result, Labels)
        assert "ended with status" in result.message
    result = compute(Frame.of(sheared()), replace(aluminium, command="no-such-program"))
    assert not isinstance(result, Labels)
    assert "there is no program 'no-such-program'" in result.message


def test_a_program_ends_with_a_worker_that_crashes(aluminium, tmp_path):
    """Both codes start programs in the same way, so one of them would do; the program is a sleep with a name."""
    program = tmp_path / "forever"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    worker = multiprocessing.get_context("spawn").Process(
        target=energy_of, args=(sheared(), replace(aluminium, command=str(program)).calculator(tmp_path / "work"))
    )
    worker.start()
    pid = tmp_path / "pid"
    while not pid.exists() or not pid.read_text():
        time.sleep(0.05)
    worker.kill()
    worker.join()
    for _ in range(100):
        if not Path(f"/proc/{pid.read_text().strip()}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


def test_a_command_that_is_not_the_code_is_a_sentence(code, monkeypatch, tmp_path):
    config = tmp_path / "config.ini"
    config.write_text(f"[{code}]\ncommand = echo hello\n")
    from ase.config import Config

    parser = Config()
    parser.parser.read([config])
    monkeypatch.setattr("ase.config.cfg", parser)
    with pytest.raises(BackendError, match=r"'echo hello' does not answer"):
        resolve(code, ["Al"], settings(code, {}))


def test_a_crystal_has_the_stress_of_its_symmetry(code):
    """Shifted grids are not symmetric by themselves, and cubic cells were sheared by that: 2 GPa in aluminium."""
    coarse = COARSE[code] | {"small_k_spacing": 0.5}
    atoms = bulk("Al", a=4.1)
    atoms.calc = resolve(code, ["Al"], settings(code, coarse)).calculator()
    stress = tensor(atoms.get_stress())
    assert np.abs(stress - np.eye(3) * np.trace(stress) / 3).max() < 1e-4  # eV/Å³, 0.02 GPa

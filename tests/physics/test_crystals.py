"""Prototype crystals are what their names say, and named potentials give the values published with them."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

from potstill.backends import resolve
from potstill.crystals import PROTOTYPES, atomic_volume, ground_state, prototype, relaxed, space_group, supercell
from potstill.errors import ConfigError, ConvergenceError

SPACE_GROUPS = {"fcc": 225, "hcp": 194, "dhcp": 194, "9R": 166, "bcc": 229, "A15": 223, "sc": 221, "diamond": 227}
SPACE_GROUPS |= {"omega": 191, "beta-tin": 141}
COORDINATION = {"fcc": 12, "hcp": 12, "dhcp": 12, "9R": 12, "bcc": 8, "sc": 6, "diamond": 4}


def group(atoms):
    return int(space_group(atoms, 1e-4).rpartition("(")[2].rstrip(")"))


@pytest.mark.parametrize("name", PROTOTYPES)
def test_each_prototype_has_its_space_group(name):
    assert group(prototype(name, "Ni", 11.0)) == SPACE_GROUPS[name]


@pytest.mark.parametrize(("name", "neighbours"), COORDINATION.items())
def test_each_prototype_has_its_coordination(name, neighbours):
    atoms = prototype(name, "Ni", 11.0)
    i, d = neighbor_list("id", atoms, 8.0)
    nearest = d.min()
    assert np.bincount(i[d < 1.01 * nearest], minlength=len(atoms)).tolist() == [neighbours] * len(atoms)


def test_an_unknown_prototype_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match="known are fcc"):
        prototype("fccc", "Ni", 11.0)


@pytest.mark.parametrize(
    ("name", "asked", "count"), [("fcc", 32, 32), ("fcc", 108, 108), ("bcc", 54, 54), ("bcc", 128, 128)]
)
def test_supercells_of_cubic_crystals_are_cubes_of_the_asked_size(name, asked, count):
    atoms = supercell(name, "Ni", 11.0, asked)
    assert len(atoms) == count
    assert np.ptp(atoms.cell.lengths()) < 1e-9
    assert atoms.get_volume() / len(atoms) == pytest.approx(11.0)
    assert group(atoms) == SPACE_GROUPS[name]


def test_a_hexagonal_supercell_is_right_angled_and_near_a_cube():
    atoms = supercell("hcp", "Mg", 23.0, 48)
    assert atoms.cell.angles() == pytest.approx([90, 90, 90])
    assert atoms.cell.lengths().max() < 1.5 * atoms.cell.lengths().min()
    assert group(atoms) == 194


def test_tabulated_ground_states_and_volumes():
    assert [ground_state(e) for e in ("Ni", "Nb", "Mg")] == ["fcc", "bcc", "hcp"]
    assert atomic_volume("Ni") == pytest.approx(3.52**3 / 4, rel=0.01)
    assert atomic_volume("Nb") == pytest.approx(3.30**3 / 2, rel=0.01)
    assert atomic_volume("Mg") == pytest.approx(23.2, rel=0.02)


# Lattice constant (Å) and cohesive energy (eV/atom) to which the potentials were fitted: Angelo, Moody & Baskes,
# Modell. Simul. Mater. Sci. Eng. 3, 289 (1995); Foiles, Baskes & Daw, Phys. Rev. B 33, 7983 (1986); Mishin et al.,
# Phys. Rev. B 63, 224106 (2001).
PUBLISHED = {
    "NiAlH_jea.eam.alloy": ("Ni", 3.52, -4.45),
    "Ni_u3.eam": ("Ni", 3.52, -4.45),
    "Cu_u3.eam": ("Cu", 3.615, -3.54),
    "Cu_mishin1.eam.alloy": ("Cu", 3.615, -3.54),
}


@pytest.mark.parametrize(("file", "known"), PUBLISHED.items())
def test_relaxation_from_far_off_finds_the_published_crystal(file, known):
    element, a, energy = known
    start = prototype("fcc", element, 1.2 * a**3 / 4)
    before = start.cell.array.copy()
    atoms = relaxed(start, resolve(f"lammps:{file}", [element]).calculator())
    assert (4 * atoms.get_volume()) ** (1 / 3) == pytest.approx(a, abs=0.005)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=0.01)
    assert abs(atoms.get_stress()).max() < 1e-3
    assert np.array_equal(start.cell.array, before)


def test_close_packed_crystals_order_as_their_share_of_hexagonal_layers():
    calculator = resolve("lammps:NiAlH_jea.eam.alloy").calculator()
    energies = {}
    for name in ("fcc", "dhcp", "9R", "hcp", "bcc"):
        atoms = relaxed(prototype(name, "Ni", 10.9), calculator)
        energies[name] = atoms.get_potential_energy() / len(atoms)
    assert sorted(energies, key=energies.get) == ["fcc", "dhcp", "9R", "hcp", "bcc"]


class Repulsion(Calculator):
    """A potential without a crystal: the energy falls with the volume, for ever."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        volume = self.atoms.get_volume()
        stress = np.array([-1.0, -1.0, -1.0, 0, 0, 0]) / volume
        self.results = {"energy": -math.log(volume), "forces": np.zeros((len(self.atoms), 3)), "stress": stress}


def test_a_potential_without_a_minimum_is_a_convergence_error():
    with pytest.raises(ConvergenceError, match="no minimum"):
        relaxed(Atoms("Ni", cell=[3, 3, 3], pbc=True), Repulsion())


def test_a_way_through_negative_curvature_ends():
    """LBFGS circles here, and is no nearer to rest after 600 steps than after 40."""
    places = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0], [0, 0.5, 0], [0.75, 0.25, 0.5], [0.25, 0.75, 0.5]]
    start = Atoms("Ni6", scaled_positions=places, cell=[2.6164, 2.6164, 1.0675], pbc=True)
    start.set_cell(2.2535 * start.cell.array, scale_atoms=True)
    calculator = resolve("lammps:NiAlH_jea.eam.alloy").calculator()
    atoms = relaxed(start, calculator, force_tolerance=0.01, steps=100, symmetric=True)
    assert abs(atoms.get_stress()).max() < 1e-3

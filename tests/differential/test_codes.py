"""The same potential file in another code: LAMMPS against ASE's own embedded-atom calculator."""

import numpy as np
import pytest
from ase.calculators.eam import EAM
from ase.neighborlist import neighbor_list

from potstill.backends import resolve
from potstill.testing import example_frames

SAME_TABLE = 2e-3  # eV/atom, eV/Å, and eV/atom of the virial: both interpolate one table, each with splines of its own


@pytest.mark.parametrize("elements", [("Ni",), ("Al",), ("Ni", "Al")])
@pytest.mark.parametrize("kind", ["liquid", "triclinic"])
def test_lammps_and_ase_agree_on_an_alloy_file(elements, kind):
    potential = resolve("lammps:NiAlH_jea.eam.alloy", elements)
    ours, theirs = (example_frames(elements)[kind].atoms for _ in range(2))
    ours.calc, theirs.calc = potential.calculator(), EAM(potential=potential.path)
    n = len(ours)
    assert ours.get_potential_energy() / n == pytest.approx(theirs.get_potential_energy() / n, abs=SAME_TABLE)
    np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=SAME_TABLE)
    assert np.abs(ours.get_forces()).max() > 0.5


@pytest.mark.parametrize("elements", [("Ni",), ("Ni", "Al")])
@pytest.mark.parametrize("kind", ["liquid", "triclinic"])
def test_per_atom_energies_are_the_embedding_energy_and_half_of_each_pair(elements, kind):
    """E_i = F(ρ_i) + ½ Σ_j φ(r_ij), Daw and Baskes, Phys. Rev. B 29, 6443 (1984)."""
    potential = resolve("lammps:NiAlH_jea.eam.alloy", elements)
    atoms = example_frames(elements)[kind].atoms
    tables = EAM(potential=potential.path)
    which = [tables.elements.index(s) for s in atoms.get_chemical_symbols()]
    expected, density = np.zeros(len(atoms)), np.zeros(len(atoms))
    for i, j, r in zip(*neighbor_list("ijd", atoms, float(tables.cutoff)), strict=True):
        expected[i] += 0.5 * tables.phi[which[i], which[j]](r)
        density[i] += tables.electron_density[which[j]](r)
    expected += [tables.embedded_energy[k](rho) for k, rho in zip(which, density, strict=True)]
    energies = potential.calculator().get_property("energies", atoms)
    np.testing.assert_allclose(energies, expected, atol=SAME_TABLE)
    assert np.ptp(energies) > 0.1

"""The same potential file in another code: LAMMPS against ASE's own embedded-atom calculator."""

import numpy as np
import pytest
from ase.calculators.eam import EAM

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

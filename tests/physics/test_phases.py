"""Q₆ tells crystal from liquid, and does not know how the cell lies."""

import numpy as np
import pytest
from ase.build import bulk

from potstill.checks.phases import by_phase, phase, steinhardt
from potstill.crystals import prototype
from potstill.data import Frame

PERFECT = {"fcc": 0.57452, "bcc": 0.51069, "hcp": 0.48476, "sc": 0.35355}  # of 12, 14, 12 and 6 neighbours


@pytest.mark.parametrize("name", PERFECT)
def test_perfect_crystals_have_the_values_they_are_known_for(name):
    atoms = prototype(name, "Ni", 11.0)
    if name == "hcp":  # the known value is that of close packing
        atoms = bulk("Ni", "hcp", a=2.5, c=2.5 * np.sqrt(8 / 3))
    assert steinhardt(Frame.of(atoms)) == pytest.approx(PERFECT[name], abs=2e-5)


def test_a_turned_and_a_repeated_crystal_are_the_same():
    atoms = bulk("Ni", "fcc", a=3.52, cubic=True).repeat(2)
    atoms.rattle(0.05, seed=1)
    first = steinhardt(Frame.of(atoms))
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    assert steinhardt(Frame.of(turned)) == pytest.approx(first, abs=1e-6)
    assert steinhardt(Frame.of(atoms.repeat((2, 1, 1)))) == pytest.approx(first, abs=1e-6)
    assert phase(first) == "crystal"


def test_disorder_is_liquid_and_no_cell_is_nothing():
    atoms = bulk("Ni", "fcc", a=3.6, cubic=True).repeat(3)
    atoms.positions = np.random.default_rng(0).uniform(0, atoms.cell.lengths()[0], atoms.positions.shape)
    assert phase(steinhardt(Frame.of(atoms))) == "liquid"
    atoms.pbc = False
    assert steinhardt(Frame.of(atoms)) is None
    assert phase(None) is None
    assert phase(0.25) == "between"


def test_errors_of_each_phase_are_those_of_its_frames():
    rows = by_phase(["liquid", "crystal", "liquid", None], [0.003, 0.001, -0.004, 9.0], [0.3, 0.1, 0.4, 9.0])
    assert [r["phase"] for r in rows] == ["liquid", "crystal"]
    assert rows[0]["energy_rmse"] == pytest.approx(np.sqrt(12.5))
    assert rows[0]["force_rmse"] == pytest.approx(1e3 * np.sqrt(0.125))
    assert [r["n_frames"] for r in rows] == [2, 1]

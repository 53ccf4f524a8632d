"""A structure for a page is the structure, to the second decimal."""

import io

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read

from potstill.data import sketch
from potstill.data.sketch import MOST_SHOWN


def test_a_sketch_is_read_back_by_another_program():
    atoms = bulk("NiAl", "cesiumchloride", a=2.88).repeat(2)
    atoms.rattle(0.1, seed=1)
    back = read(io.StringIO(sketch(atoms)), format="vasp")
    assert back.get_chemical_symbols() == atoms.get_chemical_symbols()
    np.testing.assert_allclose(back.cell, atoms.cell, atol=0.006)
    np.testing.assert_allclose(back.positions, atoms.get_positions(wrap=True), atol=0.006)


def test_a_molecule_gets_a_box_and_what_is_too_large_none():
    back = read(io.StringIO(sketch(Atoms("Ni2", positions=[[0, 0, 0], [2, 0, 0]]))), format="vasp")
    np.testing.assert_allclose(back.cell.lengths(), [3, 1, 1])
    assert sketch(Atoms(f"Ni{MOST_SHOWN + 1}", positions=np.zeros((MOST_SHOWN + 1, 3)))) is None

"""Elastic constants from the stress of small strains, with the crystal's symmetry, and Born's criterion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest, relax_positions
from potstill.data import Array, Frame
from potstill.protocols import Potential

if TYPE_CHECKING:
    from ase import Atoms

STRAINS = (0.0025, 0.005)
INDEPENDENT = {
    "fcc": ("C11", "C12", "C44"),
    "bcc": ("C11", "C12", "C44"),
    "hcp": ("C11", "C12", "C13", "C33", "C44"),
}
AT_REST = 1e-5  # eV/Å: where no strain moves the atoms against each other, there is nothing to relax


@dataclass(frozen=True)
class Elastic(Examination):
    """Strain a right-angled cell six ways, relax the atoms in it, and read C from the stresses.

    The error of each constant is the larger of what two strains and what the crystal's symmetry leave open (the 6 × 6
    matrix is averaged over the point group, pymatgen's ``fit_to_structure``).
    """

    name: ClassVar[str] = "elastic"
    title: ClassVar[str] = "Elastic constants"
    axes: ClassVar[tuple[str, str]] = ("strain", "stress (GPa)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Independent constants, and the softest strain."""
        measured = "scatter of careful measurements"
        constants = {c: Quantity("GPa", 5.0, measured, percent=True) for c in INDEPENDENT[self.lattice]}
        return {**constants, "softest": Quantity("GPa", 10.0, "twice that of one constant", percent=True)}

    def examine(self, potential: Potential) -> Measured:
        """Measure C by central differences at two strains."""
        from ase.units import GPa
        from pymatgen.analysis.elasticity import ElasticTensor
        from pymatgen.core import Structure

        rest = Rest.of(potential, self.element, self.lattice)
        cell = rest.supercell(2 if self.lattice == "bcc" else 4)
        cell.calc = rest.atoms.calc
        matrices, curves, frames = [], {}, []
        for strain in STRAINS:
            C = np.empty((6, 6))
            for k in range(6):
                plus, minus = (self._strained(cell, k, sign * strain) for sign in (1, -1))
                C[:, k] = (plus.get_stress() - minus.get_stress()) / (2 * strain) / GPa
                frames.append(Frame.of(plus))
            matrices.append(0.5 * (C + C.T))
        smallest = matrices[0]
        structure = Structure(cell.cell.array, cell.get_chemical_symbols(), cell.get_scaled_positions())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of spglib, at every call; and of pymatgen, where symmetry is broken
            C = np.asarray(ElasticTensor.from_voigt(smallest).fit_to_structure(structure).voigt)
        left_open = np.maximum(np.abs(matrices[1] - smallest), np.abs(C - smallest))
        places = {name: (int(name[1]) - 1, int(name[2]) - 1) for name in INDEPENDENT[self.lattice]}
        values = {name: C[place] for name, place in places.items()}
        errors = {name: float(left_open[place]) for name, place in places.items()}
        values["softest"], errors["softest"] = float(np.linalg.eigvalsh(C).min()), max(errors.values())
        for name, k in (("σ1(ε1)", 0), ("σ4(ε4)", 3)):
            e = [-s for s in STRAINS[::-1]] + [0.0, *STRAINS]
            curves[name] = (e, [float(self._strained(cell, k, x).get_stress()[k] / GPa) for x in e])
        return Measured(values, errors, curves, tuple(frames[6:]))

    @staticmethod
    def _strained(cell: Atoms, k: int, strain: float) -> Atoms:
        """Return the cell with one Voigt strain, its atoms at rest."""
        work: Atoms = cell.copy()
        work.calc = cell.calc
        work.set_cell(cell.cell.array @ (np.eye(3) + _matrix(k, strain)), scale_atoms=True)
        if np.abs(work.get_forces()).max() > AT_REST:
            relax_positions(work, force_tolerance=1e-4)
        return work


def _matrix(k: int, strain: float) -> Array:
    """Return a Voigt strain as a symmetric matrix: shears are halved."""
    e = np.zeros((3, 3))
    i, j = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[k]
    e[i, j] = e[j, i] = strain if i == j else 0.5 * strain
    return e

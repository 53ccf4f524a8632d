"""Phonons by finite displacements, with phonopy (Togo et al. 2023, J. Phys.: Condens. Matter 35, 353001)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from potstill.checks.measured import Examination, Measured, Quantity, Rest
from potstill.data import Frame
from potstill.protocols import Potential

DISPLACEMENT = 0.01  # Å
MESH = 16
PATH = 160
SPECIAL = "special points"  # a curve of this name and the points' own says where they lie on the path
LEVELS = 120  # of the density of states
# Multiples of the primitive cell whose box holds the zone-boundary points below as whole waves, and is wide enough
# for embedding, which reaches twice the cutoff: 256 atoms of fcc, 128 of bcc, 288 of hcp.
SUPERCELLS: Mapping[str, list[list[int]]] = {
    "fcc": [[-4, 4, 4], [4, -4, 4], [4, 4, -4]],
    "bcc": [[0, 4, 4], [4, 0, 4], [4, 4, 0]],
    "hcp": [[6, 0, 0], [0, 6, 0], [0, 0, 4]],
}
POINTS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "fcc": {"X": (0.5, 0.0, 0.5), "L": (0.5, 0.5, 0.5)},
    "bcc": {"H": (0.5, -0.5, 0.5), "N": (0.0, 0.0, 0.5), "P": (0.25, 0.25, 0.25)},
    "hcp": {"M": (0.5, 0.0, 0.0), "K": (1 / 3, 1 / 3, 0.0), "A": (0.0, 0.0, 0.5)},
}
TINY = 0.02  # THz: acoustic modes at Γ are this far from 0 by the forces' rounding


@dataclass(frozen=True)
class Phonons(Examination):
    """Lowest and highest frequency at each point of the zone boundary, the mean of all, and imaginary modes.

    ``imaginary`` is how far below zero the lowest frequency of a mesh is, THz; a stable crystal has 0.
    """

    name: ClassVar[str] = "phonons"
    title: ClassVar[str] = "Phonons"
    axes: ClassVar[tuple[str, str]] = ("along the path", "frequency (THz)")

    @property
    def quantities(self) -> Mapping[str, Quantity]:
        """Frequencies; imaginary ones must not be."""
        why = "scatter of neutron measurements"
        ends = [f"{point}.{end}" for point in POINTS[self.lattice] for end in ("low", "high")]
        return {
            **{end: Quantity("THz", 3.0, why, percent=True) for end in ends},
            "mean": Quantity("THz", 3.0, why, percent=True),
            "imaginary": Quantity("THz", 0.05, "rounding", ideal=0.0),
        }

    def examine(self, potential: Potential) -> Measured:
        """Displace, collect forces, and diagonalise."""
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms

        rest = Rest.of(potential, self.element, self.lattice)
        cell = PhonopyAtoms(
            symbols=rest.atoms.get_chemical_symbols(),
            cell=rest.atoms.cell.array,
            scaled_positions=rest.atoms.get_scaled_positions(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spglib's, at every call
            phonons = Phonopy(cell, supercell_matrix=SUPERCELLS[self.lattice], primitive_matrix=np.eye(3), log_level=0)
            phonons.generate_displacements(distance=DISPLACEMENT)
            frames = [_atoms(s) for s in phonons.supercells_with_displacements or ()]
            forces = []
            for atoms in frames:
                atoms.calc = rest.atoms.calc
                forces.append(atoms.get_forces())
            phonons.forces = forces
            phonons.produce_force_constants()
            phonons.symmetrize_force_constants()
            return self._read(phonons, rest, tuple(Frame.of(a) for a in frames))

    def _read(self, phonons: Any, rest: Rest, frames: tuple[Frame, ...]) -> Measured:
        points = POINTS[self.lattice]
        phonons.run_qpoints(list(points.values()))
        found = np.sort(phonons.qpoints.frequencies, axis=1)
        values = {}
        for point, row in zip(points, found, strict=True):
            values[f"{point}.low"], values[f"{point}.high"] = float(row[0]), float(row[-1])
        phonons.run_mesh([MESH] * 3)
        mesh, weights = phonons.mesh.frequencies, phonons.mesh.weights
        values["mean"] = float(np.average(mesh.mean(axis=1), weights=weights))
        values["imaginary"] = max(0.0, -float(mesh.min()) - TINY)
        phonons.run_total_dos(freq_pitch=float(mesh.max()) / LEVELS)
        density = phonons.total_dos
        path = rest.atoms.cell.bandpath(npoints=PATH)
        phonons.run_qpoints(path.kpts)
        bands = np.sort(phonons.qpoints.frequencies, axis=1)
        x, special, names = path.get_linear_kpoint_axis()
        special, x = (special / x[-1]).tolist(), (x / x[-1]).tolist()
        curves = {f"band {k + 1}": (x, bands[:, k].tolist()) for k in range(bands.shape[1])}
        curves[f"{SPECIAL} {' '.join('Γ' if n == 'G' else n for n in names)}"] = (special, [0.0] * len(special))
        curves["density of states"] = (density.dos.tolist(), density.frequency_points.tolist())
        return Measured(values, curves=curves, frames=frames)


def _atoms(cell: Any) -> Any:
    from ase import Atoms

    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)

"""Frames from beside the pool: what no run of liquid and crystal visits, and what other crystals and surfaces need.

Cold cells of the ground state, random symmetric crystals (PyXtal: Fredericks, Parrish, Sayre and Zhu, Computer Physics
Communications 261, 107810, 2021), close-packed layers in random order, strained and rattled crystals of other lattices,
slabs of the faces that are not tested, cells with vacancies and interstitials. All are scaled to the metal's own atomic
volume. Structures that match one that is used as a test are left out: see :class:`Exclusion`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import crystals
from potstill.data import Dataset, Frame, Origin

if TYPE_CHECKING:
    from ase import Atoms

CLOSEST = 0.75  # smallest distance of two atoms, in units of that in the close-packed crystal of the metal's volume
RATTLE = 0.06  # of the spacing, in the mean, at most
MOST_ATOMS = 48
TRIES = 40  # for each frame, before a family is given up
FACES = ((1, 1, 0), (2, 1, 0), (2, 1, 1), (3, 1, 0), (3, 1, 1), (2, 2, 1))


class Exclusion:
    """Structures that a potential is judged by, and whether another is one of them.

    Parameters
    ----------
    structures : mapping of name to Atoms
        What is kept out of the data.

    Notes
    -----
    Matching is pymatgen's: primitive cells, scaled to one volume, equal within its default tolerances, which are wide
    (a fifth in lengths, 5° in angles, 0.3 of the spacing in positions). Elements do not count: another occupation of
    the same sites is the same structure. A supercell is found to be one where its atoms are within a tenth of the
    spacing of the places that they share; rattled further, it counts as itself, so match before rattling.
    """

    def __init__(self, structures: Mapping[str, Atoms]) -> None:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        self._matcher = StructureMatcher(primitive_cell=False)  # reduced once, in _structure
        self._known = {name: _structure(atoms) for name, atoms in structures.items()}
        self.kept_out: dict[str, int] = dict.fromkeys(structures, 0)

    def match(self, atoms: Atoms) -> str | None:
        """Return the name of the test that a structure matches, or None; what matches is counted."""
        mine = _structure(atoms)
        for name, structure in self._known.items():
            if len(mine) == len(structure) and self._matcher.fit(mine, structure):
                self.kept_out[name] += 1
                return name
        return None


def _structure(atoms: Atoms) -> Any:
    from pymatgen.core import Structure

    tolerance = 0.1 * _spacing(atoms.get_volume() / len(atoms))  # 0.25 Å for nickel, pymatgen's own
    alike = Structure(atoms.cell.array, ["Ni"] * len(atoms), atoms.get_scaled_positions())
    return alike.get_primitive_structure(tolerance=tolerance)


def generate(
    n: int, elements: Sequence[str], volume: float, tests: Exclusion, *, lattice: str = "fcc", rng: np.random.Generator
) -> Dataset:
    """Make candidates beside the pool.

    Parameters
    ----------
    n : int
        How many; shared evenly among the families, fewer where a family finds none.
    elements : sequence of str
        Chemical symbols; sites are occupied at random where there are several.
    volume : float
        Å³ per atom of the relaxed ground state.
    tests : Exclusion
        What must not be among them.
    lattice : str
        fcc, bcc or hcp: the ground state, of which slabs and defects are made.
    rng : numpy Generator
        Decides all.

    Returns
    -------
    Dataset
        Unlabelled; each frame's origin is ``generated``, its trajectory the family.
    """
    frames: list[Frame] = []
    for k, (name, family) in enumerate(FAMILIES.items()):
        wanted = n // len(FAMILIES) + (k < n % len(FAMILIES))
        for number, atoms in enumerate(_tried(family, wanted, elements, volume, lattice, tests, rng)):
            frames.append(Frame.of(atoms, Origin("generated", f"generated-{name}", step=number)))
    return Dataset(frames)


@dataclass(frozen=True)
class Family:
    """Structures of one kind, and how far they are strained and rattled.

    Attributes
    ----------
    make : callable (volume, lattice, rng) -> Atoms or None
        Gives one as it is without strain or rattling; None where chance made none.
    strain : float
        Standard deviation of the strain, at most.
    rattle : float
        Displacement of an atom in units of the spacing, in the mean, at most.
    """

    make: Callable[[float, str, np.random.Generator], Atoms | None]
    strain: float
    rattle: float = RATTLE


def _tried(
    family: Family,
    n: int,
    elements: Sequence[str],
    volume: float,
    lattice: str,
    tests: Exclusion,
    rng: np.random.Generator,
) -> Iterator[Atoms]:
    """Yield n structures of a family that are sensible and match no test."""
    found = 0
    for _ in range(TRIES * n):
        if found == n:
            return
        ideal = family.make(volume, lattice, rng)
        if ideal is None or len(ideal) > MOST_ATOMS:
            continue
        atoms = _rattled(ideal, volume, family, rng)
        # The ideal one is matched too, because a rattled test is not always known as one.
        if _crowded(atoms, volume) or any(tests.match(each) is not None for each in (ideal, atoms)):
            continue
        atoms.set_chemical_symbols([str(s) for s in rng.choice(list(elements), size=len(atoms))])
        found += 1
        yield atoms


def _crowded(atoms: Atoms, volume: float) -> bool:
    from vesin import NeighborList

    limit = CLOSEST * _spacing(volume)
    (d,) = NeighborList(cutoff=limit, full_list=False).compute(
        points=atoms.positions, box=atoms.cell.array, periodic=True, quantities="d"
    )
    return len(d) > 0


def _spacing(volume: float) -> float:
    """Return the distance of neighbours in a close-packed crystal."""
    return float((math.sqrt(2) * volume) ** (1 / 3))


def _rattled(atoms: Atoms, volume: float, family: Family, rng: np.random.Generator) -> Atoms:
    """Return a copy with a random strain, and its atoms displaced, each by up to what the family says."""
    atoms = atoms.copy()
    bend = rng.normal(0.0, family.strain * rng.random(), (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (bend + bend.T)), scale_atoms=True)
    off = family.rattle * rng.random() * _spacing(volume) / math.sqrt(3)
    atoms.positions += rng.normal(0.0, off, atoms.positions.shape)
    atoms.wrap()
    return atoms


def random_crystal(volume: float, lattice: str, rng: np.random.Generator) -> Atoms | None:
    """Return a crystal of a random space group, at 0.9 to 1.3 of the volume."""
    del lattice
    return crystals.random_symmetric("Ni", volume, rng)


def random_stacking(volume: float, lattice: str, rng: np.random.Generator) -> Atoms | None:
    """Return close-packed layers in random order, five to twelve."""
    del lattice
    letters = "A"
    for _ in range(int(rng.integers(4, 12))):
        letters += str(rng.choice([x for x in "ABC" if x != letters[-1]]))
    if letters[-1] == letters[0]:
        return None
    return crystals.close_packed(letters)("Ni", volume)


_HEXAGON = ((1.0, 0.0, 0.0), (-0.5, math.sqrt(0.75), 0.0))
_OTHERS: Mapping[str, tuple[Sequence[Sequence[float]], Sequence[tuple[float, float, float]]]] = {
    "simple hexagonal": ((*_HEXAGON, (0, 0, 0.94)), ((0, 0, 0),)),
    "tetragonal": (((1, 0, 0), (0, 1, 0), (0, 0, 1.2)), ((0, 0, 0), (0.5, 0.5, 0.5))),
    "orthorhombic": (((1, 0, 0), (0, 1.15, 0), (0, 0, 1.3)), ((0, 0, 0), (0.5, 0.5, 0.5))),
}


def other_lattice(volume: float, lattice: str, rng: np.random.Generator) -> Atoms | None:
    """Return a cell of a lattice that is no common ground state, compressed or stretched along its axes."""
    from ase import Atoms

    del lattice
    cell, basis = _OTHERS[str(rng.choice(list(_OTHERS)))]
    edges = np.array(cell) * rng.uniform(0.85, 1.15, (3, 1))
    unit = Atoms(["Ni"] * len(basis), scaled_positions=basis, cell=edges, pbc=True)
    repeats = [(r, s, t) for r in (1, 2, 3) for s in (1, 2, 3) for t in (1, 2, 3) if 4 <= r * s * t * len(unit) <= 24]
    atoms = unit.repeat(repeats[int(rng.integers(len(repeats)))])
    return crystals.scaled(atoms, volume * rng.uniform(0.95, 1.2))


def slab(volume: float, lattice: str, rng: np.random.Generator) -> Atoms | None:
    """Return a slab of the ground state with a face that is not a test, six to ten Å thick."""
    faces = [face for face in FACES if face not in crystals.TEST_FACES[lattice]]
    face = faces[int(rng.integers(len(faces)))]
    return crystals.slab(lattice, "Ni", volume, face, rng.uniform(6.0, 10.0))


def defect(volume: float, lattice: str, rng: np.random.Generator) -> Atoms | None:
    """Return a supercell of the ground state with two to four vacancies, or an interstitial."""
    from ase import Atom

    atoms = crystals.supercell(lattice, "Ni", volume, 32)
    if rng.random() < 0.7:
        gone = rng.choice(len(atoms), int(rng.integers(2, 5)), replace=False)
        del atoms[[int(k) for k in gone]]
    else:
        where = atoms.positions[int(rng.integers(len(atoms)))] + rng.normal(0, 1, 3) / math.sqrt(3) * _spacing(volume)
        atoms.append(Atom("Ni", where))
        atoms = crystals.scaled(atoms, volume * rng.uniform(1.0, 1.1))
    return atoms


def ground_state(volume: float, lattice: str, rng: np.random.Generator) -> Atoms | None:
    """Return a small cell of the ground state at 0.84 to 1.16 of its volume.

    It is no test but what all tests are relative to, and a pool of warm crystals extrapolates to it.
    """
    return crystals.supercell(lattice, "Ni", volume * rng.uniform(0.84, 1.16), int(rng.choice([2, 4, 8])))


FAMILIES: Mapping[str, Family] = {
    "ground-state": Family(ground_state, 0.03, 0.028),
    "random-crystal": Family(random_crystal, 0.0, 0.0),
    "stacking": Family(random_stacking, 0.03),
    "lattice": Family(other_lattice, 0.05),
    "slab": Family(slab, 0.02),
    "defect": Family(defect, 0.02),
}

"""Prototype crystals and their relaxation: what sampling starts from and what checks compare.

Sits below the rooms because both `sample` and `checks` need it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.errors import ConfigError, ConvergenceError, PotstillError

if TYPE_CHECKING:
    from ase import Atoms


def _from_fractions(cell: list[list[float]], scaled: list[tuple[float, float, float]]) -> Callable[[str, float], Atoms]:
    """Return a builder that scales a shape to a given volume per atom."""

    def build(element: str, volume: float) -> Atoms:
        from ase import Atoms

        atoms = Atoms([element] * len(scaled), scaled_positions=scaled, cell=cell, pbc=True)
        factor = (volume * len(scaled) / atoms.get_volume()) ** (1 / 3)
        atoms.set_cell(atoms.cell * factor, scale_atoms=True)
        return atoms

    return build


def close_packed(sequence: str) -> Callable[[str, float], Atoms]:
    """Stack close-packed layers with the ideal spacing, e.g. ABC for fcc, ABAC for dhcp (hexagonal cell)."""
    site = {"A": (0.0, 0.0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
    n = len(sequence)
    cell = [[1.0, 0.0, 0.0], [-0.5, math.sqrt(0.75), 0.0], [0.0, 0.0, n * math.sqrt(2 / 3)]]
    return _from_fractions(cell, [(*site[layer], k / n) for k, layer in enumerate(sequence)])


_CUBE = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
_A15 = [
    (0, 0, 0),
    (0.5, 0.5, 0.5),
    (0.25, 0, 0.5),
    (0.75, 0, 0.5),
    (0.5, 0.25, 0),
    (0.5, 0.75, 0),
    (0, 0.5, 0.25),
    (0, 0.5, 0.75),
]

_HEXAGON = [[1.0, 0.0, 0.0], [-0.5, math.sqrt(0.75), 0.0]]

PROTOTYPES: Mapping[str, Callable[[str, float], Atoms]] = {
    "fcc": _from_fractions([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], [(0, 0, 0)]),
    "hcp": close_packed("AB"),
    "dhcp": close_packed("ABAC"),
    "9R": close_packed("ABCBCACAB"),
    "bcc": _from_fractions([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]], [(0, 0, 0)]),
    "A15": _from_fractions(_CUBE, [(float(x), float(y), float(z)) for x, y, z in _A15]),
    "sc": _from_fractions(_CUBE, [(0, 0, 0)]),
    "diamond": _from_fractions([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], [(0, 0, 0), (0.25, 0.25, 0.25)]),
    "omega": _from_fractions([*_HEXAGON, [0, 0, 0.61]], [(0, 0, 0), (1 / 3, 2 / 3, 0.5), (2 / 3, 1 / 3, 0.5)]),
    "beta-tin": _from_fractions(
        [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0.55]], [(0, 0, 0), (0, 0.5, 0.25), (0.5, 0.5, 0.5), (0.5, 0, 0.75)]
    ),
}
OPEN = ("omega", "beta-tin")  # that the verdict relaxes without their being named
# Volume per atom relative to the close-packed crystal's, a start for relaxation (hard spheres would say 1.09 for
# bcc; metals are nearer to this).
_OPENNESS = {"bcc": 1.02, "A15": 1.03, "sc": 1.2, "diamond": 1.6, "omega": 1.05, "beta-tin": 1.15}


def prototype(name: str, element: str, volume: float) -> Atoms:
    """Build a crystal.

    Parameters
    ----------
    name : str
        A key of ``PROTOTYPES``.
    element : str
        Chemical symbol.
    volume : float
        Å³ per atom of the close-packed crystal; open structures start from more.
    """
    if name not in PROTOTYPES:
        raise ConfigError(f"There is no prototype crystal '{name}'; known are {', '.join(PROTOTYPES)}.")
    return PROTOTYPES[name](element, volume * _OPENNESS.get(name, 1.0))


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """Return the same atoms, at so many Å³ each."""
    atoms.set_cell(atoms.cell.array * (volume * len(atoms) / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return atoms


def random_symmetric(element: str, volume: float, rng: np.random.Generator) -> Atoms | None:
    """Return a crystal of a random space group, 2 to 8 atoms in its primitive cell, at 0.9 to 1.3 of a volume.

    By PyXtal (Fredericks, Parrish, Sayre & Zhu 2021, Comput. Phys. Commun. 261, 107810); None where the group has no
    place for so many atoms.
    """
    from pyxtal import pyxtal
    from pyxtal.msg import Comp_CompatibilityError, VolumeError

    crystal = pyxtal()
    group, n = int(rng.integers(2, 231)), int(rng.integers(2, 9))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crystal.from_random(3, group, ["Ni"], [n], random_state=rng)
    except (Comp_CompatibilityError, VolumeError):
        return None
    if not crystal.valid:
        return None
    atoms = scaled(crystal.to_ase(resort=False), volume * rng.uniform(0.9, 1.3))
    atoms.set_chemical_symbols([element] * len(atoms))
    return atoms


def _reference_state(element: str) -> Mapping[str, Any]:
    from ase.data import atomic_numbers, reference_states

    if element not in atomic_numbers:
        raise ConfigError(f"'{element}' is not a chemical element.")
    return reference_states[atomic_numbers[element]] or {}


def ground_state(element: str) -> str:
    """Return fcc, bcc or hcp: the element's crystal at room conditions, fcc where it is none of these."""
    symmetry = _reference_state(element).get("symmetry")
    return symmetry if symmetry in ("fcc", "bcc", "hcp") else "fcc"


def atomic_volume(element: str) -> float:
    """Return Å³ per atom: tabulated for the common crystals, else from the covalent radius."""
    from ase.data import atomic_numbers, covalent_radii

    state = _reference_state(element)
    a = state.get("a")
    if state.get("symmetry") == "fcc" and a:
        return float(a) ** 3 / 4
    if state.get("symmetry") == "bcc" and a:
        return float(a) ** 3 / 2
    if state.get("symmetry") == "hcp" and a:
        return float(a) ** 3 * math.sqrt(0.75) * float(state.get("c/a", math.sqrt(8 / 3))) / 2
    return float(2 * covalent_radii[atomic_numbers[element]]) ** 3 / math.sqrt(2)


def space_group(atoms: Atoms, tolerance: float) -> str:
    """Return the international symbol and number by spglib, such as ``Fm-3m (225)``, at a tolerance in Å."""
    import spglib

    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    with warnings.catch_warnings():  # spglib announces a change of its error handling at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_spacegroup(cell, symprec=tolerance)
    return str(found) if found else "unknown"


TEST_FACES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "fcc": ((1, 0, 0), (1, 1, 1)),
    "bcc": ((1, 0, 0), (1, 1, 0)),
    "hcp": ((0, 0, 1), (1, 0, 0)),  # of the orthorhombic cell: basal and prismatic
}
RELAXED_BY = "BFGS"  # is in the keys of what is kept, so that no results of another way are mixed with these
SYMMETRIC = 1e-3  # Å, within which a structure has a symmetry that is kept
VACUUM = 7.0  # Å on either side of a slab: more than half of any usual cutoff, so that its sides do not see each other


def slab(
    lattice: str, element: str, volume: float, face: tuple[int, int, int], thickness: float, *, stretch: float = 1.0
) -> Atoms:
    """Cut a slab, periodic in all directions with vacuum, its third vector normal to the face.

    Parameters
    ----------
    lattice : str
        fcc, bcc or hcp; the face's indices are those of the right-angled cell.
    volume : float
        Å³ per atom of the bulk.
    thickness : float
        Å at least between the outermost layers.
    stretch : float
        c/a over the ideal one, of hcp.
    """
    from ase import Atoms
    from pymatgen.core import Structure
    from pymatgen.core.surface import SlabGenerator

    bulk = supercell(lattice, element, volume, 2 if lattice == "bcc" else 4, stretch=stretch)
    structure = Structure(bulk.cell.array, bulk.get_chemical_symbols(), bulk.get_scaled_positions())
    asked, atoms = thickness, bulk
    while asked == thickness or _height(atoms) < thickness - 1e-6:  # pymatgen counts the outer layers' own height in
        with warnings.catch_warnings():  # as in space_group
            warnings.simplefilter("ignore", DeprecationWarning)
            maker = SlabGenerator(structure, face, asked, 2 * VACUUM, center_slab=True, primitive=True)
            heights = np.sort(maker.oriented_unit_cell.frac_coords[:, 2] % 1.0)
            gaps = np.diff([*heights, heights[0] + 1.0])
            widest = int(np.argmax(np.round(gaps, 6)))
            cut = maker.get_slab(heights[widest] + 0.5 * gaps[widest])  # between layers, never through one
            cut = cut.get_orthogonal_c_slab()
        atoms = Atoms([element] * len(cut), positions=cut.cart_coords, cell=cut.lattice.matrix, pbc=True)
        asked += 1.0
    a, b, c = atoms.cell.array
    normal = c / np.linalg.norm(c)
    heights = atoms.positions @ normal
    atoms.positions += (VACUUM - heights.min()) * normal
    atoms.set_cell([a, b, normal * (np.ptp(heights) + 2 * VACUUM)], scale_atoms=False)  # the vacuum does not mind
    return atoms


def _height(atoms: Atoms) -> float:
    """Return the distance of the outermost layers along the third vector, Å."""
    c = atoms.cell.array[2]
    return float(np.ptp(atoms.positions @ c) / np.linalg.norm(c))


def vacancy(lattice: str, element: str, volume: float) -> Atoms:
    """Return a supercell of some thirty atoms that lacks one."""
    atoms = supercell(lattice, element, volume, 32)
    del atoms[0]
    return atoms


def verdict_structures(lattice: str, element: str, volume: float, names: Iterable[str]) -> dict[str, Atoms]:
    """Return what a verdict asks about, by name: the ground state, prototype crystals, two slabs and a vacancy."""
    made = {name: prototype(name, element, volume) for name in (lattice, *names)}
    for face in TEST_FACES[lattice]:
        made[f"slab({''.join(map(str, face))})"] = slab(lattice, element, volume, face, 8.0)
    made["vacancy"] = vacancy(lattice, element, volume)
    return made


def relaxed(
    atoms: Atoms,
    calculator: Any,
    *,
    force_tolerance: float = 1e-3,
    steps: int = 300,
    isotropic: bool = False,
    symmetric: bool = False,
) -> Atoms:
    """Minimise the energy over positions and cell.

    The volume is scanned first, so that a start 20 % off does not end in another basin; then ASE's FrechetCellFilter
    with BFGS moves cell and positions together. (LBFGS may circle for ever where curvature is negative.) The input is
    not changed.

    Parameters
    ----------
    atoms : Atoms
        Periodic start.
    calculator : ASE calculator
        With stress.
    force_tolerance : float
        eV/Å; also of the cell's gradient in the filter's units.
    steps : int
        Limit of the second part.
    isotropic : bool
        Stop after the volume scan (cell shape and fractional coordinates kept).
    symmetric : bool
        Keep the space group: else rounding decides who leaves a saddle that forces vanish on by symmetry.

    Returns
    -------
    Atoms
        Relaxed, with the calculator attached.

    Raises
    ------
    ConvergenceError
        If the limit of steps is reached, or the energy has no minimum between 0.6 and 1.8 of the volume.
    """
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    work = atoms.copy()
    work.calc = calculator
    start = work.cell.array.copy()

    def energy(linear: float) -> float:
        work.set_cell(start * linear, scale_atoms=True)
        return float(work.get_potential_energy())

    linear = np.linspace(0.6 ** (1 / 3), 1.8 ** (1 / 3), 25)
    energies = np.array([energy(s) for s in linear])
    # The physical minimum is the interior local one nearest to the start: some potentials fall off at either end.
    interior = [
        k for k in range(1, len(linear) - 1) if energies[k] <= energies[k - 1] and energies[k] <= energies[k + 1]
    ]
    if not interior:
        raise ConvergenceError(
            f"The energy of {work.get_chemical_formula()} has no minimum between 0.6 and 1.8 of the starting volume, "
            f"{abs(np.linalg.det(start)) / len(work):.2f} Å³/atom."
        )
    k = min(interior, key=lambda k: abs(linear[k] - 1.0))
    a, b, _ = np.polyfit(linear[k - 1 : k + 2] - linear[k], energies[k - 1 : k + 2], 2)
    best = linear[k] - 0.5 * b / a if a > 0 else linear[k]
    work.set_cell(start * best, scale_atoms=True)
    if isotropic:
        return work
    if symmetric:
        work.set_constraint(FixSymmetry(work, symprec=SYMMETRIC))
    optimiser = BFGS(FrechetCellFilter(work), logfile=None)
    done = optimiser.run(fmax=force_tolerance, steps=steps)
    work.set_constraint()
    if not done:
        raise ConvergenceError(
            f"The relaxation of {work.get_chemical_formula()} did not reach {force_tolerance} eV/Å in {steps} steps."
        )
    return work


COMMON = ("fcc", "bcc", "hcp")


def common_crystals(element: str, calculator: Any) -> tuple[dict[str, Atoms], dict[str, str]]:
    """Relax the lattices that metals have, the most stable first.

    Returns
    -------
    crystals : dict
        Name → relaxed primitive cell with the calculator attached, by rising energy per atom.
    failed : dict
        Name → why it did not come to rest.
    """
    found: dict[str, Atoms] = {}
    failed = {}
    for name in COMMON:
        start = prototype(name, element, atomic_volume(element))
        try:
            found[name] = relaxed(start, calculator, force_tolerance=3e-3)
        except (PotstillError, ArithmeticError, ValueError, RuntimeError) as error:  # a poor model goes anywhere
            failed[name] = str(error)
    order = sorted(found, key=lambda name: float(found[name].get_potential_energy()) / len(found[name]))
    return {name: found[name] for name in order}, failed


def supercell(name: str, element: str, volume: float, n_atoms: int, *, stretch: float = 1.0) -> Atoms:
    """Repeat a right-angled cell of fcc, bcc or hcp until it holds nearly ``n_atoms`` and is nearly a cube.

    fcc gives exactly 32 and 108; bcc 54 and 128; hcp the nearest orthorhombic block. ``stretch`` multiplies the ratio
    of the third edge to the others, at the same volume: c/a over the ideal one, of hcp.
    """
    from ase import Atoms

    root3 = math.sqrt(3)
    ideal = math.sqrt(8 / 3)
    shapes: dict[str, tuple[list[float], list[tuple[float, float, float]]]] = {
        "fcc": ([1, 1, 1], [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]),
        "bcc": ([1, 1, 1], [(0, 0, 0), (0.5, 0.5, 0.5)]),
        "hcp": ([1, root3, ideal], [(0, 0, 0), (0.5, 0.5, 0), (0.5, 5 / 6, 0.5), (0, 1 / 3, 0.5)]),
    }
    if name not in shapes:
        raise ConfigError(f"Supercells are made of {', '.join(shapes)}, not of '{name}'.")
    edges, basis = shapes[name]
    limit = max(2, math.ceil((n_atoms / len(basis)) ** (1 / 3) * 2))

    def badness(repeat: tuple[int, int, int]) -> float:
        lengths = [r * e for r, e in zip(repeat, edges, strict=True)]
        count = len(basis) * math.prod(repeat)
        return abs(math.log(count / n_atoms)) + math.log(max(lengths) / min(lengths))

    every = [(i, j, k) for i in range(1, limit) for j in range(1, limit) for k in range(1, limit)]
    repeat = min(every, key=badness)
    unit = Atoms([element] * len(basis), scaled_positions=basis, cell=edges, pbc=True)
    unit.set_cell(
        unit.cell * [1.0, 1.0, stretch] * (volume * len(basis) / unit.get_volume() / stretch) ** (1 / 3),
        scale_atoms=True,
    )
    return unit.repeat(repeat)

"""Whether a structure may be relaxed, and what is to be believed of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import crystals
from potstill.data import Frame
from potstill.model import Committee
from potstill.relaxing.batch import Descent

if TYPE_CHECKING:
    from ase import Atoms

# Distance from what was learnt, all the way; and meV/atom that the committee expects to be wrong by: twice that is 5.
# `benchmarks/relax.py trust` measures what share of those within both ends where the reference's own relaxation does.
TRUSTED_WAY, TRUSTED_ERROR = 2.0, 2.5
ALIKE = 1e-5  # eV/atom
CLOSE_ENOUGH = 5.0  # meV/atom, by which two relaxations that agree may differ
FAR = 8.0  # distance at which a relaxation is stopped
STABLE, METASTABLE = 1.0, 100.0  # meV/atom above the lowest known structure of the composition
CLOSE = 0.45  # of the sum of covalent radii
CLOSEST = 0.5  # Å
DENSE, THIN = 0.25, 5.0  # volume of an atom over the elements' own
SAME_ENERGY, SAME_VOLUME = 2.0, 0.02  # meV/atom and share: structures that differ by more are not compared
TOLERANCE = 0.05  # Å, of space groups


@dataclass
class Row:
    """What is told of one structure; energies in eV/atom, differences in meV/atom.

    Attributes
    ----------
    source : str
        Where it came from.
    verdict : str
        ``stable``, ``metastable`` and ``unstable`` are trusted; ``uncertain``, ``failed``, ``out-of-domain`` are not.
    reason : str
        A sentence.
    energy : float | None
        Under pressure the enthalpy.
    energy_above : float | None
        Above the lowest known structure of its composition, which ``relative_to`` names.
    expected_error : float | None
        Of its energy above that structure, as the committee's calibrated spread has it.
    strangest, strangest_on_way : float | None
        Distance of the strangest atom from what was learnt, at the end and at worst.
    doubt_on_way : float | None
        The committee's largest expected error of the energy on the way, meV/atom; it does not decide.
    volume_change : float | None
        Per cent.
    moved : float | None
        Å, root mean square of the atoms' ways, in the cell of the end.
    same_as : str
        Source of an earlier structure that it equals.
    known_as : str
        Name of a known structure that it equals; empty for a new one.
    elsewhere : float | None
        meV/atom: how far from the committee's a member's own relaxation ended, at worst, from a start a little aside.
    came_to_rest : bool
        Whether the relaxation converged.
    judge_energy : float | None
        Where another potential's own relaxation from the same start ended, eV/atom.
    judge_error : float | None
        meV/atom, of ``energy`` from that.
    """

    source: str
    formula: str = ""
    n_atoms: int = 0
    verdict: str = ""
    reason: str = ""
    energy: float | None = None
    energy_above: float | None = None
    relative_to: str = ""
    expected_error: float | None = None
    strangest: float | None = None
    strangest_on_way: float | None = None
    doubt_on_way: float | None = None
    space_group_before: str = ""
    space_group: str = ""
    volume: float | None = None
    volume_change: float | None = None
    moved: float | None = None
    steps: int = 0
    gradient: float | None = None
    same_as: str = ""
    known_as: str = ""
    elsewhere: float | None = None
    came_to_rest: bool = False
    judge_energy: float | None = None
    judge_error: float | None = None

    @property
    def way(self) -> float:
        """Distance from what was learnt, at worst; 0 where nothing was watched."""
        return self.strangest_on_way or 0.0

    @property
    def trusted(self) -> bool:
        """Whether its energy is to be believed."""
        return self.verdict in ("stable", "metastable", "unstable")

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "trusted": self.trusted}


def before(atoms: Atoms, elements: Sequence[str]) -> tuple[str, str] | None:
    """Say why a structure is not relaxed, as (verdict, sentence); None where nothing speaks against it."""
    from ase.data import atomic_numbers, covalent_radii

    unknown = sorted(set(atoms.get_chemical_symbols()) - set(elements))
    if unknown:
        return "out-of-domain", f"The potential does not know {', '.join(unknown)}."
    own = float(np.mean([crystals.atomic_volume(s) for s in atoms.get_chemical_symbols()]))
    share = abs(float(np.linalg.det(atoms.cell.array))) / len(atoms) / own
    if not DENSE < share < THIN:
        return "failed", f"An atom has {share:.2g} times the volume that it has in its element: the cell is absurd."
    from vesin import NeighborList  # it imports torch where that is installed

    radii = covalent_radii[[atomic_numbers[s] for s in atoms.get_chemical_symbols()]]
    reach = max(CLOSEST, 2 * CLOSE * float(radii.max()))
    i, j, d = NeighborList(cutoff=reach, full_list=False).compute(
        points=atoms.positions, box=atoms.cell.array, periodic=True, quantities="ijd"
    )
    limit = np.maximum(CLOSEST, CLOSE * (radii[i] + radii[j]))
    if (d < limit).any():
        k = int(np.argmin(d - limit))
        symbols = atoms.get_chemical_symbols()
        return "failed", f"{symbols[i[k]]} and {symbols[j[k]]} overlap: they are {d[k]:.2f} Å apart."
    return None


@dataclass
class Lowest:
    """The lowest known structure of each composition: name, eV/atom, and the members' own energies (eV/atom)."""

    known: dict[str, tuple[str, float, np.ndarray | None]] = field(default_factory=dict)

    def offer(self, formula: str, name: str, energy: float, members: np.ndarray | None) -> None:
        """Take a structure if it is lower than what is known, by more than relaxations are alike."""
        if formula not in self.known or energy < self.known[formula][1] - ALIKE:
            self.known[formula] = name, energy, members


def formula_of(atoms: Atoms) -> str:
    """Return the reduced formula, metals first."""
    return str(atoms.symbols.formula.convert("metal").reduce()[0]) if len(set(atoms.numbers)) > 1 else atoms.symbols[0]


def members_of(potential: Any, atoms: Atoms) -> np.ndarray | None:
    """Return the members' energies, eV/atom; None where there is no committee."""
    if not isinstance(potential, Committee) or potential.members < 2:
        return None
    return np.asarray(potential.predict([Frame.of(atoms)])[0].energy) / len(atoms)


def after(row: Row, start: Atoms, found: Descent, potential: Any) -> np.ndarray | None:
    """Fill in what a relaxation gave, but for what the others decide; return the members' energies."""
    n = len(start)
    row.steps = found.steps
    if found.end == "broken":
        row.verdict, row.reason = "failed", f"The relaxation broke down: {found.message.rstrip('.')}."
        return None
    end = found.atoms
    row.came_to_rest = found.end == "converged"
    row.energy = found.energy / n
    row.gradient = found.gradient if np.isfinite(found.gradient) else None
    row.volume = float(end.get_volume()) / n
    row.volume_change = 100 * (float(end.get_volume()) / float(start.get_volume()) - 1)
    apart = end.get_scaled_positions(wrap=False) - start.get_scaled_positions(wrap=False)
    apart -= np.round(apart)
    apart -= apart.mean(axis=0)
    row.moved = float(np.sqrt(np.mean(np.sum((apart @ end.cell.array) ** 2, axis=1))))
    row.space_group_before = crystals.space_group(start, TOLERANCE)
    row.space_group = crystals.space_group(end, TOLERANCE)
    if isinstance(potential, Committee) and potential.domain is not None:
        row.strangest = float(potential.strangeness([Frame.of(end)])[0].max())
        row.strangest_on_way = max(found.strangest, row.strangest)
        row.doubt_on_way = 1e3 * found.doubt
    return members_of(potential, end)


def decide(row: Row, found: Descent, members: np.ndarray | None, lowest: Lowest, potential: Any) -> None:
    """Give the verdict, now that the lowest structure of each composition is known."""
    if row.verdict or row.energy is None:
        return
    name, floor, theirs = lowest.known[row.formula]
    row.relative_to, row.energy_above = name, 1e3 * (row.energy - floor)
    if members is not None and theirs is not None:
        spread = float((members - theirs).std(ddof=1))
        row.expected_error = 1e3 * max(1.0, potential.energy_calibration) * spread
    if found.end == "left":
        row.verdict = "uncertain"
        row.reason = f"It left what the model has learnt ({row.way:.1f}) and was stopped."
    elif found.end != "converged":
        row.verdict = "failed"
        row.reason = {
            "steps": f"It did not rest in {found.steps} steps; the largest gradient is {found.gradient:.3f} eV/Å.",
            "seconds": "The time was over before it came to rest.",
            "no-slope": f"It came to a place without slope; the largest gradient is {found.gradient:.3f} eV/Å.",
        }.get(found.end, found.end)
    elif row.way > TRUSTED_WAY:
        row.verdict = "uncertain"
        row.reason = (
            f"On its way an atom was {row.way:.1f} from what the model has learnt (trusted to {TRUSTED_WAY}), "
            "so it may have taken another way than it should."
        )
    elif isinstance(potential, Committee) and row.expected_error is None:
        row.verdict, row.reason = "uncertain", "A committee of one member cannot tell what it is wrong by."
    elif row.expected_error is not None and row.expected_error > TRUSTED_ERROR:
        row.verdict = "uncertain"
        row.reason = f"The committee expects to be wrong by {row.expected_error:.1f} meV/atom."
    elif row.elsewhere is not None and row.elsewhere > CLOSE_ENOUGH:
        row.verdict = "uncertain"
        row.reason = (
            f"Where it ends hangs on little: a member of the committee, from a start a little aside, ended "
            f"{row.elsewhere:.1f} meV/atom away."
        )
    else:
        above = row.energy_above
        row.verdict = "stable" if above <= STABLE else "metastable" if above <= METASTABLE else "unstable"
        row.reason = f"{above:.1f} meV/atom above {name}."


def group(rows: Sequence[Row], ends: Sequence[Atoms | None], known: Mapping[str, Atoms]) -> None:
    """Say which structures equal an earlier one or a known one, by pymatgen's matcher."""
    if all(end is None for end in ends):
        return
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    matcher = StructureMatcher(ltol=0.1, stol=0.15, angle_tol=3)
    made = [AseAtomsAdaptor.get_structure(a).get_primitive_structure() if a is not None else None for a in ends]
    named = {k: AseAtomsAdaptor.get_structure(a).get_primitive_structure() for k, a in known.items()}
    for k, (row, structure) in enumerate(zip(rows, made, strict=True)):
        if structure is None or row.energy is None or row.volume is None:
            continue
        for name, other in named.items():
            if other.composition.reduced_formula == structure.composition.reduced_formula and matcher.fit(
                structure, other
            ):
                row.known_as = name
                break
        for earlier, other in zip(rows[:k], made[:k], strict=True):
            if other is None or earlier.same_as or earlier.energy is None or earlier.volume is None:
                continue
            alike = 1e3 * abs(earlier.energy - row.energy) < SAME_ENERGY
            alike = alike and abs(earlier.volume / row.volume - 1) < SAME_VOLUME and earlier.formula == row.formula
            if alike and matcher.fit(structure, other):
                row.same_as = earlier.source
                break

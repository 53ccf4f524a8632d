"""Contract suites: what any new Potential, Committee, Selector, Sampler or Check must pass to take its place.

Call them from a test of your own; pytest is not needed. Each raises :class:`AssertionError` whose message says what
was expected, what came and by how much the two differ. Whatever is random here has a fixed seed, so a failure repeats.

    from potstill.testing import check_potential, example_frames

    @pytest.mark.parametrize("kind", ["liquid", "triclinic", "slab", "molecule"])
    def test_my_potential(kind):
        check_potential(MyPotential(), example_frames(["Ni"])[kind])

Units are eV, Å, eV/Å. The tolerances are those of an analytic potential in double precision; ``loose`` multiplies all
of them for a code that iterates to self-consistency or computes in single precision (steps of differences grow as its
cube root).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import crystals
from potstill.data import VOIGT, Array, Dataset, Frame, tensor
from potstill.errors import PotstillError
from potstill.protocols import (
    Check,
    Committee,
    Describer,
    MolecularDynamics,
    Potential,
    Sampler,
    Selection,
    Selector,
    State,
)

if TYPE_CHECKING:
    from ase import Atoms

SAME_ENERGY = 1e-9  # eV/atom. What may change between two ways to write the same structure: rounding alone.
SAME_FORCE = 1e-8  # eV/Å. The same for a component of a force.
SAME_VIRIAL = 1e-8  # eV/atom. The same for a component of stress × volume.
SAME_FEATURE = 1e-5  # of the largest feature. Frames lie on a grid of 1e-8 Å, so a rotated one is not quite the same.
DERIVATIVE = 1e-5  # of the largest component. By how much a force or virial may differ from a central difference.
FORCE_FLOOR = 0.1  # eV/Å. Where all forces are smaller, differences are relative to this.
VIRIAL_FLOOR = 0.1  # eV/atom. Where all virial components are smaller, differences are relative to this.
DISPLACEMENT = 1e-4  # Å. Half width of the central difference: its own error is about 1e-7 eV/Å in a hot metal.
STRAIN = 1e-5  # Half width of the central difference in strain.
SAME_SHAPE = 1e-6  # Relative. By how much isotropic dynamics may change ratios of cell lengths, and angles.
SEED = 20231109

DISPLACED_ATOMS = 6  # atoms whose forces are compared one by one; in larger frames random directions cover the rest
RANDOM_DIRECTIONS = 4


@dataclass(frozen=True)
class _Answer:
    """What a calculator says: eV, eV/Å, and stress × volume in eV where the cell is periodic in all directions."""

    energy: float
    forces: Array
    virial: Array | None


# --- something to try a candidate on ---


def example_frames(elements: Sequence[str], *, seed: int = SEED) -> dict[str, Frame]:
    """Make one structure of each kind that a potential should cope with, without symmetry, of a metal or a mixture.

    ``liquid``: 20 atoms at random, none closer than 3/4 of the crystal's distance; ``triclinic``: a sheared, shaken
    crystal of 8; ``slab``: 12, periodic in two directions; ``molecule``: 5, in no cell. Densities are tabulated ones.

    Parameters
    ----------
    elements : sequence of str
        Chemical symbols, dealt to the atoms in turn.
    seed : int
        Decides the positions.
    """
    from ase import Atoms

    rng = np.random.default_rng(seed)
    volume = float(np.mean([crystals.atomic_volume(e) for e in elements]))
    near = (math.sqrt(2) * volume) ** (1 / 3)
    cube = crystals.supercell("fcc", elements[0], volume, 4)

    def dealt(atoms: Atoms) -> Atoms:
        atoms.set_chemical_symbols([elements[i % len(elements)] for i in range(len(atoms))])
        return _moved(atoms, rng.normal(0.0, 0.04 * near, (len(atoms), 3)))

    edge = (20 * 1.15 * volume) ** (1 / 3)
    points = np.empty((0, 3))
    while len(points) < 20:
        point = rng.uniform(0.0, edge, 3)
        apart = points - point
        apart -= edge * np.round(apart / edge)
        if not len(points) or np.linalg.norm(apart, axis=1).min() > 0.75 * near:
            points = np.vstack([points, point])
    liquid = Atoms([elements[i % len(elements)] for i in range(20)], positions=points, cell=[edge] * 3, pbc=True)

    noise = rng.normal(0.0, 0.05, (3, 3))
    slab = dealt(cube.repeat((1, 1, 3)))
    slab.pbc = (True, True, False)
    slab.center(vacuum=6.0, axis=2)
    molecule = dealt(cube.repeat((2, 1, 1))[:5])
    molecule.set_cell(np.zeros((3, 3)))
    molecule.pbc = False
    kinds = {
        "liquid": liquid,
        "triclinic": _stretched(dealt(cube.repeat((2, 1, 1))), noise + noise.T),
        "slab": slab,
        "molecule": molecule,
    }
    return {kind: Frame.of(atoms) for kind, atoms in kinds.items()}


# --- potentials ---


def check_potential(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check all that a potential promises.

    The parts stand alone as functions of this module, for a code that cannot pass one of them (k-points, for instance,
    make a supercell of a density-functional calculation differ).

    Parameters
    ----------
    potential : Potential
        The candidate.
    frame : Frame
        Any structure of its elements; one without symmetry, so that nothing vanishes, tells most.
    loose : float
        Factor on all tolerances.

    Raises
    ------
    AssertionError
        With the first promise that it breaks.
    """
    check_recipe(potential, frame)
    check_input_untouched(potential, frame, loose=loose)
    check_forces(potential, frame, loose=loose)
    if frame.volume is not None:
        check_stress(potential, frame, loose=loose)
    check_symmetry(potential, frame, loose=loose)
    check_supercell(potential, frame, loose=loose)
    check_small_cells(potential, frame, loose=loose)


def check_recipe(potential: Potential, frame: Frame) -> None:
    """Check that a potential is a recipe: it has a fingerprint, says what it knows, and can be sent to a worker."""
    _demand(isinstance(potential, Potential), "a Potential has fingerprint, elements and calculator()")
    name, elements = potential.fingerprint, potential.elements
    _demand(isinstance(name, str) and name.strip() != "", f"a fingerprint is a text, but this one is {name!r}")
    _demand(name.isprintable(), f"a fingerprint is one printable line, but this one is {name!r}")
    _demand(potential.fingerprint == name, "the fingerprint changes from one look to the next")
    _demand(
        isinstance(elements, tuple) and bool(elements) and all(isinstance(e, str) for e in elements),
        f"elements is a tuple of chemical symbols, but this one is {elements!r}",
    )
    missing = sorted(set(frame.atoms.get_chemical_symbols()) - set(elements))
    _demand(not missing, f"the frame has {missing}, which is not in the potential's elements {elements}")
    try:
        sent = ForkingPickler.loads(ForkingPickler.dumps(potential))
    except Exception as error:
        raise AssertionError(f"the potential cannot be sent to a worker: {type(error).__name__}: {error}") from error
    _demand(
        sent.fingerprint == name, f"the fingerprint became {sent.fingerprint!r} on the way to a worker, from {name!r}"
    )
    _demand(sent.elements == elements, f"elements became {sent.elements!r} on the way to a worker, from {elements!r}")
    with _calculator(potential) as here, _calculator(sent) as there:
        _same_answer("the same frame in a worker", _ask(there, frame.atoms), _ask(here, frame.atoms), 1.0)
    _check_stranger(potential, frame)


def _check_stranger(potential: Potential, frame: Frame) -> None:
    """Check that an element which the potential does not know is refused by name, not answered."""
    stranger = next((e for e in ("Xe", "Kr", "U") if e not in potential.elements), None)
    if stranger is None:
        return
    atoms = frame.atoms.copy()
    atoms.symbols[0] = stranger
    with _calculator(potential) as calculator:
        try:
            answer = _ask(calculator, atoms)
        except PotstillError as error:
            _demand(stranger in str(error), f"the refusal of {stranger} does not name it: {error}")
            return
    raise AssertionError(f"{stranger} is not among {potential.elements}, but the answer was {answer.energy} eV")


def check_input_untouched(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check that a calculator leaves its atoms as they were, and that what it computed before leaves no trace."""
    atoms = frame.atoms.copy()
    atoms.info["note"] = "mine"
    before = {name: array.copy() for name, array in atoms.arrays.items()}
    cell, pbc = atoms.cell.array.copy(), atoms.pbc.copy()
    with _calculator(potential) as calculator:
        first = _answer(calculator, atoms)
        _demand(atoms.info == {"note": "mine"}, f"the calculator changed atoms.info to {atoms.info}")
        _demand(np.array_equal(atoms.cell.array, cell), "the calculator changed the cell")
        _demand(np.array_equal(atoms.pbc, pbc), "the calculator changed pbc")
        _demand(set(atoms.arrays) == set(before), f"the calculator made arrays {set(atoms.arrays) ^ set(before)}")
        for name, array in before.items():
            _demand(np.array_equal(atoms.arrays[name], array), f"the calculator changed the array {name!r}")
        _ask(calculator, atoms[:1])
        _ask(calculator, _stretched(atoms, 0.02 * np.eye(3)))
        again = _ask(calculator, atoms)
    _same_answer("the same frame after two others", again, first, loose)
    with _calculator(potential) as fresh:
        _same_answer("the same frame by a fresh calculator", _ask(fresh, atoms), first, loose)


def check_forces(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check F = −∂E/∂x by central differences: along each coordinate of some atoms, and along random directions of all.

    Tolerance: ``DERIVATIVE`` of the largest component of the forces.
    """
    atoms, n = frame.atoms, frame.n_atoms
    rng = np.random.default_rng(SEED)
    directions: list[Array] = []
    for i, k in itertools.product(sorted(rng.permutation(n)[:DISPLACED_ATOMS]), range(3)):
        unit = np.zeros((n, 3))
        unit[i, k] = 1.0
        directions.append(unit)
    for _ in range(RANDOM_DIRECTIONS if n > DISPLACED_ATOMS else 0):
        direction = rng.normal(size=(n, 3))
        directions.append(direction / np.linalg.norm(direction))

    with _calculator(potential) as calculator:
        forces = _ask(calculator, atoms).forces
        tolerance = loose * DERIVATIVE * max(float(np.abs(forces).max()), FORCE_FLOOR)
        along = np.array([np.sum(forces * u) for u in directions])
        step = DISPLACEMENT * loose ** (1 / 3)
        slopes = _slopes(calculator, atoms, _moved, directions, step, -along, tolerance)
    _same("forces and −∂E/∂x", along, -slopes, tolerance, "eV/Å")


def check_stress(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check σ = (1/V) ∂E/∂ε for all six components by central differences, atoms moving with the cell.

    Tolerance: ``DERIVATIVE`` of the largest component of the virial V·σ.
    """
    atoms = frame.atoms
    _demand(frame.volume is not None, "a stress needs a frame that is periodic in all directions")
    strains = []
    for a, b in VOIGT:
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        strains.append(strain)
    with _calculator(potential) as calculator:
        virial = np.asarray(_ask(calculator, atoms).virial, dtype=np.float64)
        tolerance = loose * DERIVATIVE * max(float(np.abs(virial).max()), VIRIAL_FLOOR * frame.n_atoms)
        components = np.array([virial[a, b] for a, b in VOIGT])
        step = STRAIN * loose ** (1 / 3)
        slopes = _slopes(calculator, atoms, _stretched, strains, step, components, tolerance)
    _same("stress·V and ∂E/∂ε (xx yy zz yz xz xy)", components, slopes, tolerance, "eV")


def check_symmetry(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check that no other description of the same structure changes the answer.

    The whole shifted by a vector; single atoms by lattice vectors; everything rotated, and mirrored; atoms in another
    order; other lattice vectors of the same lattice. Forces and stress turn with the atoms.
    """
    with _calculator(potential) as calculator:
        plain = _ask(calculator, frame.atoms)
        for what, atoms, turn, order in _disguises(frame.atoms, np.random.default_rng(SEED)):
            expected = _Answer(
                plain.energy,
                (plain.forces @ turn.T)[order],
                None if plain.virial is None else turn @ plain.virial @ turn.T,
            )
            _same_answer(what, _ask(calculator, atoms), expected, loose)


def _disguises(atoms: Atoms, rng: np.random.Generator) -> Iterator[tuple[str, Atoms, Array, Any]]:
    """Yield (what was done, same structure otherwise written, rotation, order of the atoms)."""
    n = len(atoms)
    same, in_order = np.eye(3), np.arange(n)
    periodic = [k for k in range(3) if atoms.pbc[k]]

    yield "a shift of all atoms", _moved(atoms, rng.uniform(-9.0, 9.0, 3)), same, in_order
    images = np.zeros((n, 3))
    images[:, periodic] = rng.integers(-2, 3, (n, len(periodic)))
    yield "shifts of single atoms by lattice vectors", _moved(atoms, images @ atoms.cell.array), same, in_order

    rotation = _random_rotation(rng)
    yield "a rotation", _turned(atoms, rotation), rotation, in_order
    mirrored = _turned(atoms, -rotation)
    # the mirrored cell is left-handed, which some codes refuse; the same lattice with two vectors swapped is not
    mirrored.set_cell(mirrored.cell.array[[1, 0, 2]])
    mirrored.pbc = atoms.pbc[[1, 0, 2]]
    yield "a rotation with inversion", mirrored, -rotation, in_order

    order = rng.permutation(n)
    yield "another order of the atoms", atoms[order], same, order
    if len(periodic) > 1:
        sheared = atoms.copy()
        cell = atoms.cell.array.copy()
        cell[periodic[1]] += cell[periodic[0]]
        sheared.set_cell(cell)
        yield "another choice of lattice vectors", sheared, same, in_order


def check_supercell(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check that two cells side by side have twice the energy, twice the virial and the same forces twice."""
    axis = next((k for k in range(3) if frame.atoms.pbc[k]), None)
    if axis is None:
        return
    with _calculator(potential) as calculator:
        _same_repeated(calculator, frame.atoms, tuple(2 if k == axis else 1 for k in range(3)), loose)


def check_small_cells(potential: Potential, frame: Frame, *, loose: float = 1.0) -> None:
    """Check cells smaller than any cutoff: one atom, and two in a skewed cell, against their supercells.

    The atoms are the frame's first two. They get the frame's volume per atom, or the tabulated one where it has none.
    """
    symbols = (frame.atoms.get_chemical_symbols() * 2)[:2]
    volume = frame.volume / frame.n_atoms if frame.volume else crystals.atomic_volume(symbols[0])
    one = crystals.PROTOTYPES["fcc"](symbols[0], volume)
    two = crystals.PROTOTYPES["hcp"](symbols[0], volume)
    two.set_chemical_symbols(symbols)
    two = _stretched(
        _moved(two, [[0, 0, 0], [0.11, -0.07, 0.05]]), np.array([[0, 0.04, 0], [0.04, 0.02, -0.03], [0, -0.03, 0]])
    )
    with _calculator(potential) as calculator:
        forces = _ask(calculator, one).forces
        _same("the force on the only atom of a cell", forces, np.zeros((1, 3)), loose * SAME_FORCE, "eV/Å")
        for atoms in (one, two):
            _same_repeated(calculator, atoms, (3, 3, 3), loose)
    for atoms in (one, two):
        check_stress(potential, Frame(atoms), loose=loose)


def check_dynamics(potential: MolecularDynamics, start: Atoms, *, temperature: float = 300.0) -> None:
    """Check a potential's own molecular dynamics with three short NPT stages.

    Stages and steps come in order and as many as asked; a stride of 0 yields nothing; the cell changes its volume and
    keeps its shape; the seed decides; the start is left as it was.

    Parameters
    ----------
    potential : MolecularDynamics
        The candidate.
    start : Atoms
        A crystal with room to move.
    temperature : float
        K, at which it is stable.
    """
    stages = [(State(temperature, 0.0), 30, 0), (State(temperature, 0.0), 40, 10), (State(temperature, 5.0), 30, 15)]
    work = start.copy()

    def run(seed: int) -> list[tuple[int, int, Atoms]]:
        return list(potential.dynamics(work, stages, timestep=2.0, seed=seed))

    first, again, other = run(1), run(1), run(2)
    due = [(1, 10), (1, 20), (1, 30), (1, 40), (2, 15), (2, 30)]
    _demand(
        [(s, k) for s, k, _ in first] == due, f"expected (stage, step) {due}, but got {[(s, k) for s, k, _ in first]}"
    )
    _demand(bool(work == start), "the dynamics changed the configuration that it started from")
    shape = _shape(start)
    for stage, step, atoms in first:
        _demand(
            list(atoms.numbers) == list(start.numbers),
            f"atoms changed their order or kind in stage {stage}, step {step}",
        )
        _demand(np.isfinite(atoms.positions).all(), f"a position is not finite in stage {stage}, step {step}")
        _same(f"shape of the cell in stage {stage}, step {step}", _shape(atoms), shape, SAME_SHAPE, "")
    volumes = {atoms.get_volume() for _, _, atoms in first}
    _demand(len(volumes) > 1, "the volume never changes, though the ensemble is NPT")
    for (_, _, a), (_, _, b) in zip(first, again, strict=True):
        _demand(np.array_equal(a.positions, b.positions), "two runs with one seed differ")
    apart = max(
        float(np.abs(a.positions - b.positions).max()) for (_, _, a), (_, _, b) in zip(first, other, strict=True)
    )
    _demand(apart > SAME_SHAPE, "two runs with different seeds are the same")


def _shape(atoms: Atoms) -> Array:
    """Return what an isotropic change of volume keeps: ratios of lengths, cosines of angles."""
    lengths, angles = np.split(atoms.cell.cellpar(), 2)
    return np.concatenate([lengths / lengths[0], np.cos(np.radians(angles))])


# --- committees ---


def check_committee(committee: Committee, frames: Sequence[Frame], *, loose: float = 1.0) -> None:
    """Check a committee: on the first frame all of :func:`check_potential`, and on all of them doubt and description.

    Parameters
    ----------
    committee : Committee
        The candidate.
    frames : sequence of Frame
        Two different structures at least, none a rotated copy of another.
    loose : float
        Factor on all tolerances.

    Raises
    ------
    AssertionError
        With the first promise that it breaks.
    """
    _demand(isinstance(committee, Committee), "a Committee is a Potential with members, spread() and describe()")
    _demand(len(Dataset(frames)) > 1, "give at least two different frames")
    check_potential(committee, frames[0], loose=loose)
    check_spread(committee, frames, loose=loose)
    check_describer(committee, frames, loose=loose)


def check_spread(committee: Committee, frames: Sequence[Frame], *, loose: float = 1.0) -> None:
    """Check that spreads are one number a frame, never negative, 0 for one member, the same alone and in a batch."""
    n = len(frames)
    _demand(committee.members >= 1, f"a committee has at least one member, but this one has {committee.members}")
    together = committee.spread(frames)
    alone = [committee.spread([frame]) for frame in frames]
    for name, tolerance in (("energy", SAME_ENERGY), ("force", SAME_FORCE), ("force_max", SAME_FORCE)):
        values = np.asarray(getattr(together, name))
        _demand(values.shape == (n,), f"spread.{name} should have shape ({n},), but has {values.shape}")
        _demand(np.isfinite(values).all(), f"spread.{name} is not finite: {values}")
        _demand((values >= 0).all(), f"spread.{name} is negative: {values}")
        if committee.members == 1:
            _same(f"spread.{name} of a single member", values, np.zeros(n), 0.0, "")
        one_by_one = np.concatenate([getattr(s, name) for s in alone])
        _same(f"spread.{name} of a batch and one by one", values, one_by_one, loose * tolerance, "")
    _demand(
        bool((together.force_max >= together.force * (1 - 1e-12)).all()),
        f"the worst atom's spread {together.force_max} is below the mean over atoms {together.force}",
    )


def check_describer(describer: Describer, frames: Sequence[Frame], *, loose: float = 1.0) -> None:
    """Check that descriptions are one vector a frame, repeat themselves, and see only the structure.

    A frame is described alike alone and among others, rotated, and with its atoms in another order; two different
    frames are described differently.
    """
    X = np.asarray(describer.describe(frames))
    _demand(
        X.ndim == 2 and len(X) == len(frames) and X.shape[1] > 0,
        f"describe() of {len(frames)} frames has shape {X.shape}",
    )
    _demand(np.isfinite(X).all(), "a description is not finite")
    tolerance = loose * SAME_FEATURE * max(float(np.abs(X).max()), 1e-300)
    rng = np.random.default_rng(SEED)
    turned = [Frame.of(_turned(f.atoms, _random_rotation(rng))) for f in frames]
    shuffled = [Frame.of(f.atoms[rng.permutation(f.n_atoms)]) for f in frames]
    for what, again in (
        ("the same frames, described again", describer.describe(frames)),
        ("the same frames in another order", np.asarray(describer.describe(frames[::-1]))[::-1]),
        ("the same frames one by one", np.concatenate([describer.describe([f]) for f in frames])),
        ("frames rotated", describer.describe(turned)),
        ("frames with their atoms in another order", describer.describe(shuffled)),
    ):
        _same(f"descriptions of {what}", again, X, tolerance, "")
    for (i, a), (k, b) in itertools.combinations(enumerate(frames), 2):
        if a.key != b.key:
            distance = float(np.abs(X[i] - X[k]).max())
            _demand(distance > tolerance, f"frames {i} and {k} differ, but their descriptions do not")


# --- selectors ---


def check_selector(selector: Selector, pool: Dataset, describer: Describer) -> None:
    """Check that a selector returns what it is asked for.

    Parameters
    ----------
    selector : Selector
        The candidate.
    pool : Dataset
        Five different frames at least.
    describer : Describer
        Describes the pool's frames; a :class:`~potstill.protocols.Committee` to see the selector after learning.

    Raises
    ------
    AssertionError
        With the first promise that it breaks.
    """
    _demand(isinstance(selector.name, str) and selector.name != "", "a selector has a name")
    _demand(len(pool) >= 5, "give a pool of at least five frames")
    known, rest = pool[:2], pool[2:]
    for have in (Dataset(), known):
        for n in (0, 1, len(rest) // 2, len(rest), len(rest) + 3):
            first, again = (_select(selector, rest, n, have, describer) for _ in range(2))
            _check_selection(first, len(rest), n)
            _demand(
                np.array_equal(first.indices, again.indices) and np.array_equal(first.scores, again.scores),
                f"two selections of {n} with the same random numbers differ: {first.indices} and {again.indices}",
            )


def _select(selector: Selector, pool: Dataset, n: int, known: Dataset, describer: Describer) -> Selection:
    before = pool.keys, known.keys
    selection = selector.select(pool, n, known=known, committee=describer, rng=np.random.default_rng(SEED))
    _demand((pool.keys, known.keys) == before, "the selector changed the pool or the known set")
    return selection


def _check_selection(selection: Selection, size: int, n: int) -> None:
    i = np.asarray(selection.indices)
    asked = f"{n} of {size} frames were asked for"
    _demand(len(i) == min(n, size), f"{asked}, but {len(i)} were chosen")
    _demand(np.issubdtype(i.dtype, np.integer), f"indices are integers, but these are {i.dtype}")
    _demand(len(np.unique(i)) == len(i), f"{asked}, and some were chosen twice: {i}")
    _demand(bool(((i >= 0) & (i < size)).all()), f"{asked}, and some indices lie outside the pool: {i}")
    _demand(len(selection.scores) == len(i), f"there are {len(i)} indices and {len(selection.scores)} scores")
    _demand(not np.isnan(selection.scores).any(), f"a score is not a number: {selection.scores}")


# --- samplers ---


def check_sampler(sampler: Sampler, start: Atoms, potential: Potential) -> None:
    """Check that a sampler yields unlabelled frames of known origin which the generator of random numbers decides.

    It runs three times in full, so give it few steps.

    Parameters
    ----------
    sampler : Sampler
        The candidate.
    start : Atoms
        Where it begins.
    potential : Potential
        Drives it.

    Raises
    ------
    AssertionError
        With the first promise that it breaks.
    """
    begin = start.copy()

    def run(seed: int) -> list[Frame]:
        return list(sampler.sample(begin, potential, rng=np.random.default_rng(seed)))

    first, again, other = run(1), run(1), run(2)
    _demand(len(first) > 0, "the sampler yields nothing")
    _demand(bool(begin == start), "the sampler changed the configuration that it started from")
    for k, frame in enumerate(first):
        _demand(isinstance(frame, Frame), f"item {k} is a {type(frame).__name__}, not a Frame")
        _demand(frame.labels is None, f"frame {k} has labels; a sampler leaves them to the reference")
        _demand(
            np.isfinite(frame.atoms.positions).all() and np.isfinite(frame.atoms.cell.array).all(),
            f"frame {k} is not finite",
        )
        on_grid = np.array_equal(frame.atoms.positions, Frame.of(frame.atoms).atoms.positions)
        _demand(on_grid, f"frame {k} was not made by Frame.of: it is off the grid of 1e-8 Å")
        origin = frame.origin
        _demand(origin.kind not in ("", "file"), f"frame {k} does not say what made it: {origin}")
        _demand(origin.trajectory != "", f"frame {k} does not name its trajectory: {origin}")
        unknown = set(frame.atoms.get_chemical_symbols()) - set(potential.elements)
        _demand(not unknown, f"frame {k} has {unknown}, which the potential does not know")
    _demand([f.key for f in first] == [f.key for f in again], "two runs with the same random numbers differ")
    _demand(
        [f.origin for f in first] == [f.origin for f in again], "two runs with the same random numbers differ in origin"
    )
    _demand([f.key for f in first] != [f.key for f in other], "runs with different random numbers are the same")


# --- checks ---


def check_check(check: Check, potential: Potential, workdir: Path) -> None:
    """Check that a check measures finite numbers of known unit, and measures nothing twice.

    Parameters
    ----------
    check : Check
        The candidate.
    potential : Potential
        What it measures.
    workdir : Path
        An empty folder.

    Raises
    ------
    AssertionError
        With the first promise that it breaks.
    """
    _demand(isinstance(check.name, str) and check.name != "", "a check has a name")
    _demand(isinstance(check.units, Mapping), f"units is a mapping from quantity to unit, but is {check.units!r}")
    values = dict(check.measure(potential, workdir))
    _demand(len(values) > 0, "the check measures nothing")
    for name, value in values.items():
        _demand(isinstance(value, float), f"{name} should be a float, but is {value!r}")
        _demand(bool(np.isfinite(value)), f"{name} is {value}; what could not be measured is left out")
        known = name in check.units or name.rpartition(".")[2] in check.units
        _demand(known, f"the unit of {name} is not among {dict(check.units)}")
    kept = dict(check.measure(_Relabelled(potential, potential.fingerprint, works=False), workdir))
    _demand(kept == values, f"the second call gave {kept} after {values}")
    namesake = _Relabelled(potential, potential.fingerprint + "'", works=True)
    fresh = dict(check.measure(namesake, workdir))
    _demand(namesake.asked > 0, "the results of one potential were given for another, of a different fingerprint")
    _demand(
        set(fresh) == set(values),
        f"the same potential under another name has {sorted(set(fresh) ^ set(values))} besides",
    )


class _Relabelled:
    """A potential under another name, which counts its calculators, or has none."""

    def __init__(self, inner: Potential, fingerprint: str, *, works: bool) -> None:
        self.inner, self.works, self.asked = inner, works, 0
        self.fingerprint, self.elements = fingerprint, inner.elements

    def calculator(self, workdir: Path | None = None) -> Any:
        self.asked += 1
        if not self.works:
            raise AssertionError("a second call computed again what the working folder holds")
        return self.inner.calculator(workdir)


# --- how answers are asked for and compared ---


@contextmanager
def _calculator(potential: Potential) -> Iterator[Any]:
    """Lend a calculator of a potential, closed at the end where it can be."""
    calculator = potential.calculator()
    try:
        yield calculator
    finally:
        if hasattr(calculator, "close"):
            calculator.close()


def _ask(calculator: Any, atoms: Atoms) -> _Answer:
    return _answer(calculator, atoms.copy())


def _answer(calculator: Any, work: Atoms) -> _Answer:
    work.calc = calculator
    energy = float(work.get_potential_energy())
    forces = np.array(work.get_forces(), dtype=np.float64)
    n = len(work)
    _demand(forces.shape == (n, 3), f"forces on {n} atoms should have shape ({n}, 3), but have {forces.shape}")
    _demand(bool(np.isfinite(energy)), f"the energy is {energy}")
    _demand(np.isfinite(forces).all(), "a force is not finite")
    virial = None
    if work.pbc.all():
        try:
            stress = np.array(work.get_stress(), dtype=np.float64)
        except NotImplementedError as error:
            raise AssertionError(
                "the calculator gives no stress, though the cell is periodic in all directions"
            ) from error
        _demand(stress.shape == (6,), f"a stress has six components, but this one has shape {stress.shape}")
        _demand(np.isfinite(stress).all(), f"the stress is {stress}")
        virial = tensor(stress) * work.get_volume()
    return _Answer(energy, forces, virial)


def _slopes(
    calculator: Any,
    atoms: Atoms,
    change: Callable[[Atoms, Array], Atoms],
    directions: Sequence[Array],
    step: float,
    expected: Array,
    tolerance: float,
) -> Array:
    """Return derivatives of the energy by central differences of ``change(atoms, ±step · direction)``.

    Where one is not as expected, a tenth of the step gets a second chance: in old tables the force is not continuous at
    the cutoff, and no difference across that point is the derivative.
    """

    def slope(along: Array, width: float) -> float:
        ahead, behind = (_ask(calculator, change(atoms, s * along)).energy for s in (width, -width))
        return (ahead - behind) / (2 * width)

    found = np.array([slope(d, step) for d in directions])
    for k, direction in enumerate(directions):
        if abs(found[k] - expected[k]) > tolerance:
            found[k] = slope(direction, 0.1 * step)
    return found


def _moved(atoms: Atoms, by: Any) -> Atoms:
    work = atoms.copy()
    work.positions += np.asarray(by)
    return work


def _turned(atoms: Atoms, rotation: Array) -> Atoms:
    work = atoms.copy()
    work.set_cell(atoms.cell.array @ rotation.T)
    work.positions = atoms.positions @ rotation.T
    return work


def _stretched(atoms: Atoms, strain: Array) -> Atoms:
    work = atoms.copy()
    deformation = np.eye(3) + strain
    work.set_cell(atoms.cell.array @ deformation.T)
    work.positions = atoms.positions @ deformation.T
    return work


def _random_rotation(rng: np.random.Generator) -> Array:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q if np.linalg.det(q) > 0 else -q)


def _same_repeated(calculator: Any, atoms: Atoms, repeat: tuple[int, ...], loose: float) -> None:
    times = int(np.prod(repeat))
    one = _ask(calculator, atoms)
    virial = None if one.virial is None else times * one.virial
    expected = _Answer(times * one.energy, np.tile(one.forces, (times, 1)), virial)
    what = f"{'×'.join(map(str, repeat))} cells of {len(atoms)} atoms and {times} times the cell"
    _same_answer(what, _ask(calculator, atoms.repeat(repeat)), expected, loose)


def _same_answer(what: str, got: _Answer, expected: _Answer, loose: float) -> None:
    n = len(expected.forces)
    energy, other = np.array([got.energy]), np.array([expected.energy])
    _same(f"energy: {what}", energy, other, loose * SAME_ENERGY * n, "eV")
    _same(f"forces: {what}", got.forces, expected.forces, loose * SAME_FORCE, "eV/Å")
    if expected.virial is not None:
        _demand(got.virial is not None, f"{what}: there is a stress for one, and none for the other")
        _same(f"stress·V: {what}", got.virial, expected.virial, loose * SAME_VIRIAL * n, "eV")


def _same(what: str, got: Any, expected: Any, tolerance: float, unit: str) -> None:
    """Raise where two arrays differ by more than ``tolerance``; say where, by how much, and print both there."""
    a, b = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    _demand(a.shape == b.shape, f"{what}: the shapes {a.shape} and {b.shape} differ")
    if not a.size:
        return
    apart = np.abs(a - b)
    apart[np.isnan(apart)] = np.inf
    worst = np.unravel_index(int(np.argmax(apart)), apart.shape)
    place = [int(k) for k in worst]
    _demand(
        float(apart[worst]) <= tolerance,
        f"{what}: {float(a[worst])!r} and {float(b[worst])!r} {unit} differ by {float(apart[worst]):.3e} at {place}, "
        f"more than {tolerance:.3e}; {int((apart > tolerance).sum())} of {apart.size} values do",
    )


def _demand(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)

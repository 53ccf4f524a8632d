"""What a pool of liquid and crystal cannot teach: the structures of a verdict, and generated frames that mend them.

After a round the quick checks ask the committee for the energies of a few crystals, surfaces and a vacancy above the
ground state. They need no reference: a check is passed where the expected error is small and the surroundings are like
learnt ones. Far from those a committee's members err alike and its spread says little, so the linear model's own
uncertainty is expected where it is larger. What fails is a target, and the generated frames whose labels would tell
most about the targets are next: those that lower the targets' variance in the linear model most. The other crystals,
slabs and the vacancy never become data. Cells of the ground state do, strained and rattled: it is what all targets are
relative to. In an alloy, that is the ground state's lattice with the elements of the target, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill import crystals
from potstill.config import TrainConfig
from potstill.data import Array, Dataset, Frame
from potstill.errors import ConvergenceError, DataError
from potstill.generate import MOST_ATOMS, Exclusion, generate
from potstill.model import Committee, FrameFeatures
from potstill.selecting.linear import Information, greedy
from potstill.store import digest, read_json, write_json

if TYPE_CHECKING:
    from ase import Atoms

CANDIDATES = 100
FEW_ATOMS = 8  # of a cell that an alloy's elements do not fit in
DEAREST = 0.6  # eV/atom above the ground state, as the model sees it; beyond, nothing is learnt for crystals
TOLERANCE = 5.0  # meV/atom of expected error
SHARE = 0.02  # of the energy above the ground state, by which the tolerance grows
SQUEEZED = {"squeezed": 0.85, "stretched": 1.15}  # the ground state, by volume: ends of the equation of state
UNIT = 1e3 * TrainConfig().energy_scale  # meV/atom, of the linear model's equations
STRANGEST = 1.2  # times as far from learnt surroundings as these are from each other; beyond, spreads mean little


class Beside:
    """Exclusion and candidates for one metal.

    Parameters
    ----------
    elements : sequence of str
        Chemical symbols.
    volume : float
        Å³ per atom of the ground state, to which all is scaled.
    names : sequence of str
        Prototype crystals of the verdict.
    seed : int
        Decides the candidates.
    folder : path
        Keeps the candidates for a later start.
    lattice : str
        fcc, bcc or hcp: the ground state; empty: the element's, as tabulated.
    """

    def __init__(
        self,
        elements: Sequence[str],
        volume: float,
        names: Sequence[str],
        seed: int,
        folder: Path,
        *,
        lattice: str = "",
    ) -> None:
        rng = np.random.default_rng([seed, 5])
        self.lattice = lattice or (crystals.ground_state(elements[0]) if len(elements) == 1 else "fcc")
        self.volume = volume
        structures = crystals.verdict_structures(self.lattice, elements[0], volume, names)
        if len(elements) > 1:
            structures = {name: dealt(atoms, elements, rng) for name, atoms in structures.items()}
        self.ground = Frame.of(structures.pop(self.lattice))
        self.tests: Mapping[str, Frame] = {
            **{name: Frame.of(atoms) for name, atoms in structures.items()},
            **{
                name: Frame.of(crystals.scaled(self.ground.atoms.copy(), share * volume))
                for name, share in SQUEEZED.items()
            },
        }
        self.grounds = {name: self._ground_of(frame) for name, frame in self.tests.items()}
        what = [list(elements), volume, list(names), seed, CANDIDATES, self.lattice]
        file, record = (folder / f"beside-{digest(what)}{ending}" for ending in (".extxyz", ".json"))
        if not record.exists():
            matcher = tests_of(self.lattice, elements[0], volume, names)
            made = generate(CANDIDATES, elements, volume, matcher, lattice=self.lattice, rng=rng)
            made.save(file)
            write_json(record, {"what": what, "kept_out": matcher.kept_out})
        self.candidates = Dataset.load(file)
        self.kept_out: dict[str, int] = read_json(record)["kept_out"]

    def check(self, committee: Committee, features: FrameFeatures, known: Dataset) -> dict[str, dict[str, Any]]:
        """Return for each test its energy above the ground state, the expected error (meV/atom), and whether it passed.

        ``strangeness`` is that of its strangest atom. Where it is beyond ``STRANGEST``, what is expected is at least
        the standard deviation that the ``known`` frames leave to the linear model.
        """
        tests, grounds = list(self.tests.values()), list(self.grounds.values())
        strange = [float(s.max()) for s in committee.strangeness(tests)] if committee.domain else [0.0] * len(tests)
        targets, M = self._linear(features, known)
        found = {}
        for name, above, s in zip(self.tests, 1e3 * above_ground(committee, tests, grounds), strange, strict=True):
            doubt = float(above.std(ddof=1)) if committee.members > 1 else 0.0
            expected = max(1.0, committee.energy_calibration) * doubt
            if s > STRANGEST:
                expected = max(expected, UNIT * float(np.sqrt(targets[name] @ M.inverse @ targets[name])))
            tolerance = TOLERANCE + SHARE * abs(float(above.mean()))
            found[name] = {
                "relative_energy": float(above.mean()),
                "expected_error": expected,
                "tolerance": tolerance,
                "strangeness": s,
                "passed": bool(expected <= tolerance and s <= STRANGEST),
            }
        return found

    def choose(
        self,
        n: int,
        checks: Mapping[str, Mapping[str, Any]],
        committee: Committee,
        features: FrameFeatures,
        known: Dataset,
        asked: Dataset,
        *,
        most_atoms: int = 0,
    ) -> Dataset:
        """Return the n generated frames whose labels would tell most about those checks that were not passed.

        ``checks`` is what :meth:`check` returned. The square of an expected error is taken to fall with the variance in
        the linear model, so each check counts by its expected error in tolerances, and by one where only its
        surroundings are strange. ``most_atoms``, where it is not 0, leaves larger frames out.
        """
        failed = [name for name, found in checks.items() if not found["passed"]]
        left = self.candidates.without(asked)
        if most_atoms:
            left = Dataset(f for f in left if f.n_atoms <= most_atoms)
        if not len(left) or not n or not failed:
            return Dataset()
        above = above_ground(committee, list(left), [self._ground_of(f) for f in left], mean=True)[:, 0]
        left = left.take(np.flatnonzero(above < DEAREST))
        if not len(left):
            return Dataset()
        A = features.equations(list(left)).astype(np.float64)
        targets, M = self._linear(features, known)
        weighted = []
        for name in failed:
            t = targets[name]
            off = float(checks[name]["expected_error"]) / float(checks[name]["tolerance"])
            weighted.append(max(1.0, off) * t / np.sqrt(t @ M.inverse @ t))
        indices, _ = most_telling(A, n, np.array(weighted), M)
        return left.take(indices)

    def _linear(self, features: FrameFeatures, known: Dataset) -> tuple[dict[str, Array], Information]:
        """Return the tests' energies above the ground state as functionals of the linear model, and its M."""
        M = Information(len(features.energy_equation(self.ground)))
        for a in features.equations(list(known)):
            M.add(a.astype(np.float64))
        at = features.energy_equation
        return {name: at(frame) - at(self.grounds[name]) for name, frame in self.tests.items()}, M

    def _ground_of(self, frame: Frame) -> Frame:
        """Return the ground state; in an alloy its lattice with the elements of a frame."""
        symbols, mine = frame.atoms.get_chemical_symbols(), self.ground.atoms.get_chemical_symbols()
        one_metal = len({*symbols, *mine}) == 1
        if one_metal or symbols == mine:
            return self.ground
        cell = crystals.prototype(self.lattice, symbols[0], self.volume)
        atoms = cell.repeat((1, 1, len(symbols)))
        atoms.set_chemical_symbols(np.random.default_rng(0).permutation(symbols * len(cell)).tolist())
        return Frame.of(atoms)


def above_ground(
    committee: Committee, frames: Sequence[Frame], grounds: Sequence[Frame], *, mean: bool = False
) -> Array:
    """Return the energies of frames above those of others, eV/atom, (n_frames, n_members), or (n_frames, 1) of all."""
    energy: Array
    floor: Array
    energy, floor = (
        np.array([p.energy / f.n_atoms for p, f in zip(committee.predict(some, mean=mean), some, strict=True)])
        for some in (frames, grounds)
    )
    return energy - floor


def dealt(atoms: Atoms, elements: Sequence[str], rng: np.random.Generator) -> Atoms:
    """Return a cell with several elements on its places, in shares as equal as can be; a small cell is repeated."""
    if len(atoms) < FEW_ATOMS:
        atoms = atoms.repeat((2, 2, 2))
    symbols = [elements[k % len(elements)] for k in range(len(atoms))]
    atoms.set_chemical_symbols(rng.permutation(symbols).tolist())
    return atoms


def tests_of(lattice: str, element: str, volume: float, names: Sequence[str]) -> Exclusion:
    """Return what a verdict judges by besides the ground state: crystals, slabs, a vacancy, and open crystals."""
    structures = crystals.verdict_structures(lattice, element, volume, names)
    structures.pop(lattice)
    return Exclusion({**structures, **{name: crystals.prototype(name, element, volume) for name in crystals.OPEN}})


def tests_among(frames: Sequence[Frame], names: Sequence[str]) -> dict[str, int]:
    """Return how many of some frames are a structure of the verdict, by name; of small periodic cells of one metal.

    A potential that learnt from such a frame is not judged by something new, whoever chose it.
    """
    small = [f for f in frames if f.volume is not None and f.n_atoms <= MOST_ATOMS]
    elements = {symbol for f in small for symbol in f.atoms.get_chemical_symbols()}
    if len(elements) != 1:
        return {}
    (element,) = elements
    tests = tests_of(crystals.ground_state(element), element, crystals.atomic_volume(element), names)
    for frame in small:
        tests.match(frame.atoms)
    return {name: n for name, n in tests.kept_out.items() if n}


def rest_volume(committee: Committee, some: Dataset) -> float:
    """Return the volume of an atom at rest, Å³: of the element's crystal by the model, or of the coldest frame.

    Raises
    ------
    DataError
        If no frame is periodic in all directions.
    """
    solid = [f for f in some if f.volume is not None]
    if not solid:
        raise DataError(
            "The pool has no frame that is periodic in all directions, so nothing says how dense the crystals beside "
            "it should be. Set distil.beside=0, or give --pool-only."
        )
    energy = [float(p.energy[0]) / f.n_atoms for f, p in zip(solid, committee.predict(solid, mean=True), strict=True)]
    coldest = solid[int(np.argmin(energy))]
    volume = float(coldest.volume or 0.0) / coldest.n_atoms
    if len(committee.elements) > 1:
        return volume
    element = committee.elements[0]
    start = crystals.prototype(crystals.ground_state(element), element, volume)
    try:
        crystal = crystals.relaxed(start, committee.calculator(), isotropic=True)
    except ConvergenceError:  # the first model knows too little
        return volume
    found = float(crystal.get_volume()) / len(crystal)
    return found if 0.8 * volume < found < 1.1 * volume else volume


def most_telling(A: np.ndarray, n: int, targets: np.ndarray, M: Information) -> tuple[np.ndarray, np.ndarray]:
    """Choose n of the frames with equations A (n_frames, P, r) that lower the targets' summed variance tᵀ M⁻¹ t most.

    Parameters
    ----------
    targets : ndarray (n_targets, P)
        Linear functionals of the parameters.
    M : Information
        What is known; takes in what is chosen.

    Returns
    -------
    indices, gains
        In order of choice.
    """
    T = targets.T @ targets

    def gain(k: np.ndarray) -> np.ndarray:
        V = M.inverse @ A[k]
        inner = np.eye(A.shape[2]) + A[k].transpose(0, 2, 1) @ V
        return np.asarray(np.trace(np.linalg.solve(inner, V.transpose(0, 2, 1) @ (T @ V)), axis1=1, axis2=2))

    return greedy(len(A), n, gain, lambda i: M.add(A[i]))

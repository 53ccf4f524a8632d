"""The suites find the fault: a good part, spoilt in one way at a time, must fail, and for that reason."""

import itertools
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from potstill import testing
from potstill.backends import resolve
from potstill.crystals import atomic_volume, supercell
from potstill.data import Frame, Labels, Origin
from potstill.protocols import Potential, Selection, Spread, State
from potstill.testing import example_frames

_count = itertools.count()


@pytest.fixture(scope="module")
def good() -> Potential:
    return resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"])


@pytest.fixture(scope="module")
def frame() -> Frame:
    return example_frames(["Ni"])["triclinic"]


@pytest.fixture(scope="module")
def start():
    return supercell("fcc", "Ni", atomic_volume("Ni"), 4)


# --- potentials ---


@dataclass(frozen=True)
class Spoilt:
    """A good potential with one fault."""

    inner: Potential
    fault: str

    @property
    def fingerprint(self) -> str:
        match self.fault:
            case "restless fingerprint":
                return f"restless:{next(_count)}"
            case "empty fingerprint":
                return " "
            case "fingerprint of two lines":
                return "a\nb"
        return self.inner.fingerprint

    @property
    def elements(self):
        return {"elements as a list": ["Ni"], "other elements": ("Cu",)}.get(self.fault, self.inner.elements)

    def calculator(self, workdir=None):
        return SpoiltCalculator(self.inner.calculator(workdir), self.fault)

    def __reduce__(self):
        if self.fault == "stays at home":
            raise TypeError("cannot pack a socket")
        return type(self), (self.inner, self.fault)


class SpoiltCalculator:
    """Passes ASE's calls on, and spoils what goes in or what comes out."""

    def __init__(self, inner, fault: str):
        self.inner, self.fault, self.calls = inner, fault, 0

    def close(self):
        self.inner.close()

    def taken(self, atoms):
        if self.fault == "answers for a stranger":
            atoms = atoms.copy()
            atoms.symbols[:] = "Ni"
        return atoms

    def touch(self, atoms):
        match self.fault:
            case "moves its input":
                atoms.positions[0] += 1e-12
            case "writes into info":
                atoms.info["energy"] = 0.0
            case "leaves an array behind":
                atoms.set_array("old", np.zeros(len(atoms)))

    def get_potential_energy(self, atoms, **_):
        self.calls += 1
        energy, x, n = self.inner.get_potential_energy(self.taken(atoms)), atoms.positions, len(atoms)
        self.touch(atoms)
        match self.fault:
            case "remembers":
                energy += 1e-3 * self.calls
            case "knows the origin":
                energy += 1e-3 * np.sin(x[:, 0]).sum()
            case "knows the axes":
                energy += 1e-3 * np.abs(atoms.get_all_distances(mic=True, vector=True)[..., 2]).sum()
            case "knows the order":
                energy += 1e-3 * atoms.get_distance(0, n - 1, mic=True) * (n > 1)
            case "knows the images":
                energy += 1e-3 * atoms.get_all_distances().sum()
            case "not extensive":
                energy += 1.0
            case "blind to small cells":
                energy += 1e-3 * (n < 3)
            case "no number":
                energy = np.nan
        return energy

    def get_forces(self, atoms):
        forces = self.inner.get_forces(self.taken(atoms)).copy()
        match self.fault:
            case "forces of the wrong sign":
                return -forces
            case "forces a little off":
                return forces * (1 + 3e-5)
            case "one force off":
                forces[-1, 1] += 1e-3
            case "forces of the wrong shape":
                return forces.ravel()
            case "forces in another frame":
                return forces[:, [1, 2, 0]]
        return forces

    def get_stress(self, atoms):
        stress = self.inner.get_stress(self.taken(atoms))
        match self.fault:
            case "no stress":
                raise NotImplementedError
            case "stress of the wrong sign":
                return -stress
            case "stress in LAMMPS's order":
                return stress[[0, 1, 2, 5, 4, 3]]
            case "stress in bar":
                return stress / 6.241509e-07
            case "shear strain counted twice":
                return stress * [1, 1, 1, 2, 2, 2]
            case "stress not finite":
                return stress * np.inf
        return stress


POTENTIAL_FAULTS = {
    "restless fingerprint": "changes from one look",
    "empty fingerprint": "a fingerprint is a text",
    "fingerprint of two lines": "one printable line",
    "elements as a list": "tuple of chemical symbols",
    "other elements": "not in the potential's elements",
    "stays at home": "sent to a worker.*socket",
    "answers for a stranger": "Xe is not among",
    "moves its input": "changed the array 'positions'",
    "writes into info": "atoms.info",
    "leaves an array behind": "'old'",
    "remembers": "energy: the same frame",
    "knows the origin": "−∂E/∂x|shift of all atoms",
    "knows the axes": "−∂E/∂x|rotation",
    "knows the order": "−∂E/∂x|order",
    "knows the images": "−∂E/∂x|lattice vectors",
    "not extensive": "cells of 8 atoms",
    "blind to small cells": "cells of [12] atoms",
    "no number": "energy is nan",
    "forces of the wrong sign": "−∂E/∂x",
    "forces a little off": "−∂E/∂x",
    "one force off": "−∂E/∂x",
    "forces of the wrong shape": "should have shape",
    "forces in another frame": "−∂E/∂x",
    "no stress": "gives no stress",
    "stress of the wrong sign": "∂E/∂ε",
    "stress in LAMMPS's order": "∂E/∂ε",
    "stress in bar": "∂E/∂ε",
    "shear strain counted twice": "∂E/∂ε",
    "stress not finite": "the stress is",
}


def test_the_wrapper_itself_is_sound(good, frame):
    testing.check_potential(Spoilt(good, "none"), frame)


@pytest.mark.parametrize("fault", POTENTIAL_FAULTS)
def test_a_potential_with_a_fault_is_found_out(good, frame, fault):
    with pytest.raises(AssertionError, match=POTENTIAL_FAULTS[fault]):
        testing.check_potential(Spoilt(good, fault), frame)


@pytest.mark.parametrize(
    ("fault", "part", "told"),
    [
        ("knows the origin", testing.check_symmetry, "shift of all atoms"),
        ("knows the axes", testing.check_symmetry, "rotation"),
        ("knows the order", testing.check_symmetry, "order"),
        ("knows the images", testing.check_symmetry, "lattice vectors"),
        ("forces in another frame", testing.check_symmetry, "rotation"),
        ("not extensive", testing.check_supercell, "2×1×1"),
        ("not extensive", testing.check_small_cells, "3×3×3"),
        ("stress of the wrong sign", testing.check_small_cells, "∂E/∂ε"),
    ],
)
def test_each_part_finds_its_own_faults(good, frame, fault, part, told):
    with pytest.raises(AssertionError, match=told):
        part(Spoilt(good, fault), frame)


def test_a_failure_says_what_came_what_was_expected_and_where(good, frame):
    with pytest.raises(AssertionError) as told:
        testing.check_forces(Spoilt(good, "forces of the wrong sign"), frame)
    text = str(told.value)
    assert "forces and −∂E/∂x" in text
    assert "eV/Å differ by" in text
    assert "values do" in text


def test_a_loose_contract_forgives_a_little_and_not_much(good, frame):
    testing.check_forces(Spoilt(good, "forces a little off"), frame, loose=10)
    with pytest.raises(AssertionError):
        testing.check_forces(Spoilt(good, "forces of the wrong sign"), frame, loose=1e4)


# --- example frames ---


@pytest.mark.parametrize("elements", [["Ni"], ["Nb", "Ni", "Al"]])
def test_example_frames_are_what_they_say(elements):
    frames = example_frames(elements)
    assert {kind: (f.n_atoms, int(f.atoms.pbc.sum())) for kind, f in frames.items()} == {
        "liquid": (20, 3),
        "triclinic": (8, 3),
        "slab": (12, 2),
        "molecule": (5, 0),
    }
    near = (2**0.5 * np.mean([atomic_volume(e) for e in elements])) ** (1 / 3)
    for frame in frames.values():
        assert set(frame.atoms.get_chemical_symbols()) == set(elements)
        apart = frame.atoms.get_all_distances(mic=True)[np.triu_indices(frame.n_atoms, 1)]
        assert 0.7 * near < apart.min() < 1.1 * near
    assert np.abs(np.cos(np.radians(frames["triclinic"].atoms.cell.angles()))).min() > 1e-3
    assert {k: f.key for k, f in example_frames(elements).items()} == {k: f.key for k, f in frames.items()}
    assert example_frames(elements, seed=1)["liquid"].key != frames["liquid"].key


# --- committees ---


@dataclass(frozen=True)
class SpoiltCommittee:
    """A good committee with one fault."""

    inner: object
    fault: str = "none"

    @property
    def fingerprint(self):
        return self.inner.fingerprint

    @property
    def elements(self):
        return self.inner.elements

    @property
    def members(self):
        return {"no members": 0, "alone and of two minds": 1}.get(self.fault, self.inner.members)

    def calculator(self, workdir=None):
        return self.inner.calculator(workdir)

    def spread(self, frames):
        s = self.inner.spread(frames)
        match self.fault:
            case "negative spread":
                return replace(s, energy=-s.energy)
            case "one spread for all":
                return Spread(s.energy[:1], s.force[:1], s.force_max[:1])
            case "batch leaks":
                return replace(s, force=s.force * (1 + 1e-3 * len(frames)), force_max=2 * s.force_max)
            case "worst below the mean":
                return replace(s, force_max=0.5 * s.force)
            case "unknown spread":
                return replace(s, force=s.force * np.nan)
        return s

    def describe(self, frames):
        X = self.inner.describe(frames)
        match self.fault:
            case "same for all":
                return np.ones_like(X)
            case "knows the order":
                return np.array([[f.atoms.get_distance(0, 1)] for f in frames])
            case "knows the axes":
                return np.array(
                    [np.sort(f.atoms.get_scaled_positions(wrap=False) @ f.atoms.cell.array)[:3].ravel() for f in frames]
                )
            case "flat description":
                return X.ravel()
            case "centred on the batch":
                return X - X.mean(0) if len(X) > 1 else X
            case "not finite":
                return X * np.inf
            case "restless":
                return X * (1 + 1e-3 * next(_count))
        return X


COMMITTEE_FAULTS = {
    "no members": "at least one member",
    "alone and of two minds": "single member",
    "negative spread": "is negative",
    "one spread for all": "should have shape",
    "batch leaks": "batch and one by one",
    "worst below the mean": "worst atom",
    "unknown spread": "not finite",
    "same for all": "descriptions do not",
    "knows the order": "another order",
    "knows the axes": "rotated",
    "flat description": "has shape",
    "centred on the batch": "one by one",
    "not finite": "not finite",
    "restless": "described again",
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("fault", COMMITTEE_FAULTS)
def test_a_committee_with_a_fault_is_found_out(committee, frame, fault):
    spoilt = SpoiltCommittee(committee, fault)
    frames = list(example_frames(["Ni"]).values())

    def examine():
        testing.check_spread(spoilt, frames)
        testing.check_describer(spoilt, frames)

    with pytest.raises(AssertionError, match=COMMITTEE_FAULTS[fault]):
        examine()


def test_a_committee_needs_two_frames_and_all_its_methods(committee, good, frame):
    with pytest.raises(AssertionError, match="two different"):
        testing.check_committee(committee, [frame, frame])
    with pytest.raises(AssertionError, match="spread"):
        testing.check_committee(good, list(example_frames(["Ni"]).values()))


# --- selectors ---


@dataclass(frozen=True)
class SpoiltSelector:
    fault: str
    name: str = "spoilt"

    def select(self, pool, n, *, known, committee, rng):
        order = rng.permutation(len(pool))
        chosen = order[:n]
        match self.fault:
            case "too many":
                chosen = order[: n + 1]
            case "too few":
                chosen = order[: max(0, n - 1)]
            case "repeats":
                chosen = np.repeat(order, 2)[: min(n, len(pool))]
            case "outside":
                chosen = chosen + 1
            case "floats":
                chosen = chosen.astype(float)
            case "own dice":
                chosen = np.random.default_rng().permutation(len(pool))[:n]
            case "shuffles the pool":
                pool._list.reverse()
                pool._frames = {f.key: f for f in pool._list}
        scores = np.zeros(len(chosen))
        if self.fault == "no scores":
            scores = scores[:-1]
        if self.fault == "unknown scores":
            scores = scores * np.nan
        return Selection(chosen, scores)


SELECTOR_FAULTS = {
    "too many": "were chosen",
    "too few": "were chosen",
    "repeats": "chosen twice",
    "outside": "outside the pool",
    "floats": "indices are integers",
    "own dice": "same random numbers differ",
    "shuffles the pool": "changed the pool",
    "no scores": "scores",
    "unknown scores": "not a number",
}


@pytest.mark.parametrize("fault", SELECTOR_FAULTS)
def test_a_selector_with_a_fault_is_found_out(nickel, committee, fault):
    with pytest.raises(AssertionError, match=SELECTOR_FAULTS[fault]):
        testing.check_selector(SpoiltSelector(fault), nickel(12), committee)


def test_a_selector_that_does_as_it_is_told_passes(nickel, committee):
    testing.check_selector(SpoiltSelector("none"), nickel(12), committee)


# --- samplers and dynamics ---


@dataclass
class SpoiltSampler:
    """Shakes the start; no molecular dynamics needed."""

    fault: str
    dice: np.random.Generator = field(default_factory=np.random.default_rng)

    def sample(self, start, potential, *, rng):
        if self.fault == "own dice":
            rng = self.dice
        if self.fault == "no dice":
            rng = np.random.default_rng(0)
        for step in range(0 if self.fault == "yields nothing" else 3):
            atoms = start if self.fault == "moves its start" else start.copy()
            atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
            if self.fault == "strange atoms":
                atoms.symbols[0] = "Xe"
            origin = Origin("shaken", "one", 300.0, 0.0, step)
            match self.fault:
                case "no origin":
                    origin = Origin(trajectory="one")
                case "no trajectory":
                    origin = Origin("shaken")
                case "restless origin":
                    origin = Origin("shaken", f"run-{next(_count)}")
            frame = Frame.of(atoms, origin)
            match self.fault:
                case "bare atoms":
                    frame = atoms
                case "off the grid":
                    frame = Frame(atoms.copy(), origin)
                    frame.atoms.positions += 3e-9
                case "labelled":
                    frame = frame.labelled(Labels(0.0, np.zeros((4, 3)), None, "me"))
            yield frame


SAMPLER_FAULTS = {
    "yields nothing": "yields nothing",
    "own dice": "same random numbers differ",
    "no dice": "different random numbers are the same",
    "moves its start": "changed the configuration",
    "strange atoms": "does not know",
    "no origin": "what made it",
    "no trajectory": "name its trajectory",
    "restless origin": "differ in origin",
    "bare atoms": "not a Frame",
    "off the grid": "not made by Frame.of",
    "labelled": "has labels",
}


@pytest.mark.parametrize("fault", SAMPLER_FAULTS)
def test_a_sampler_with_a_fault_is_found_out(good, start, fault):
    with pytest.raises(AssertionError, match=SAMPLER_FAULTS[fault]):
        testing.check_sampler(SpoiltSampler(fault), start, good)


def test_a_sampler_that_only_shakes_passes(good, start):
    testing.check_sampler(SpoiltSampler("none"), start, good)


@dataclass(frozen=True)
class SpoiltDynamics:
    """Breathes and shakes: all that the contract of dynamics asks, without physics."""

    fault: str

    def dynamics(self, start, stages, *, timestep, seed):
        rng = np.random.default_rng(None if self.fault == "own dice" else 0 if self.fault == "no dice" else seed)
        atoms = start if self.fault == "moves its start" else start.copy()
        for index, (state, n_steps, stride) in enumerate(stages):
            assert isinstance(state, State)
            pace = stride or (n_steps if self.fault == "keeps equilibration" else 0)
            for step in range(pace, n_steps + 1, pace) if pace else ():
                atoms.positions += rng.normal(0, 0.01, atoms.positions.shape)
                if self.fault != "stiff":
                    stretch = np.diag([1.01, 1, 1]) if self.fault == "shears" else 1.001 * np.eye(3)
                    atoms.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
                late = step + 1 if self.fault == "counts from one" else step
                yield index, late, atoms[::-1] if self.fault == "reorders" and len(atoms) > 1 else atoms.copy()


DYNAMICS_FAULTS = {
    "own dice": "one seed differ",
    "no dice": "different seeds are the same",
    "moves its start": "changed the configuration",
    "keeps equilibration": "expected .stage, step.",
    "counts from one": "expected .stage, step.",
    "stiff": "volume never changes",
    "shears": "shape of the cell",
    "reorders": "order or kind",
}


@pytest.mark.parametrize("fault", DYNAMICS_FAULTS)
def test_dynamics_with_a_fault_are_found_out(fault):
    start = supercell("fcc", "Ni", atomic_volume("Ni"), 4)
    start.symbols[0] = "Al"
    with pytest.raises(AssertionError, match=DYNAMICS_FAULTS[fault]):
        testing.check_dynamics(SpoiltDynamics(fault), start)


def test_dynamics_that_keep_to_the_contract_pass(start):
    testing.check_dynamics(SpoiltDynamics("none"), start.copy())


# --- checks ---


@dataclass
class SpoiltCheck:
    """Measures the energy of one atom."""

    fault: str
    name: str = "spoilt"
    units: Mapping[str, str] = field(default_factory=lambda: {"energy": "eV"})

    def measure(self, potential, workdir):
        name = "anything" if self.fault == "one drawer for all" else potential.fingerprint
        file = workdir / str(abs(hash(name)))
        if self.fault == "forgets" or not file.exists():
            calculator = potential.calculator()
            atoms = supercell("fcc", "Ni", 11.0, 4)
            atoms.calc = calculator
            file.write_text(repr(float(atoms.get_potential_energy())))
            calculator.close()
        value = float(file.read_text())
        match self.fault:
            case "nothing":
                return {}
            case "text":
                return {"fcc.energy": str(value)}
            case "not finite":
                return {"fcc.energy": np.inf}
            case "no unit":
                return {"fcc.enthalpy": value}
            case "drifts":
                return {"fcc.energy": value + next(_count)}
        return {"fcc.energy": value}


CHECK_FAULTS = {
    "nothing": "measures nothing",
    "text": "should be a float",
    "not finite": "what could not be measured is left out",
    "no unit": "unit of fcc.enthalpy",
    "forgets": "computed again",
    "drifts": "the second call gave",
    "one drawer for all": "given for another",
}


@pytest.mark.parametrize("fault", CHECK_FAULTS)
def test_a_check_with_a_fault_is_found_out(good, tmp_path, fault):
    with pytest.raises(AssertionError, match=CHECK_FAULTS[fault]):
        testing.check_check(SpoiltCheck(fault), good, tmp_path)


def test_a_check_that_keeps_what_it_measured_passes(good, tmp_path):
    testing.check_check(SpoiltCheck("none"), good, tmp_path)


def test_the_suites_do_not_need_pytest():
    code = "import sys, potstill.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0

"""Every part that we have passes the exam that we set for others."""

from dataclasses import dataclass

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError

from potstill.backends import resolve
from potstill.backends.lammps import LammpsPotential
from potstill.checks import Polymorphs
from potstill.config import ModelConfig, TrainConfig
from potstill.crystals import atomic_volume, supercell
from potstill.data import Dataset, Frame, Labels
from potstill.errors import BackendError
from potstill.labelling import compute
from potstill.model import Descriptor, FrameFeatures, Whitening
from potstill.protocols import MolecularDynamics, Potential
from potstill.sampling.dynamics import dynamics
from potstill.sampling.ladder import Rung
from potstill.selecting import SELECTORS, selector
from potstill.testing import (
    SAME_ENERGY,
    check_check,
    check_committee,
    check_describer,
    check_dynamics,
    check_potential,
    check_sampler,
    check_selector,
    check_symmetry,
    example_frames,
)
from potstill.training import train

KINDS = ("liquid", "triclinic", "slab", "molecule")
# One of each pair style that potstill knows by the name of a file, and the mixtures that these files describe.
LAMMPS = {
    "eam/alloy Ni": ("NiAlH_jea.eam.alloy", ["Ni"]),
    "eam/alloy Al": ("NiAlH_jea.eam.alloy", ["Al"]),
    "eam/alloy Ni-Al": ("NiAlH_jea.eam.alloy", ["Ni", "Al"]),
    "eam/fs Cu": ("CuZr_mm.eam.fs", ["Cu"]),
    "eam/fs Cu-Zr": ("CuZr_mm.eam.fs", ["Cu", "Zr"]),
    "funcfl Ni": ("Ni_u3.eam", ["Ni"]),
    "uf3 Nb": ("Nb.uf3", ["Nb"]),
    "adp Al-Cu": ("AlCu.adp", ["Al", "Cu"]),
    "meam Nb": ("library.meam", ["Nb"]),
}
SMALL = ModelConfig(n_radial=4, n_angular=2, l_max=2, hidden=(8,))


def lammps(name: str) -> Potential:
    file, elements = LAMMPS[name]
    return resolve(f"lammps:{file}", elements)


def crystal(element: str, n_atoms: int = 32):
    return supercell("fcc", element, atomic_volume(element), n_atoms)


@dataclass(frozen=True)
class ThroughAse:
    """A potential without dynamics of its own, which potstill then runs through ASE."""

    inner: Potential

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    @property
    def elements(self) -> tuple[str, ...]:
        return self.inner.elements

    def calculator(self, workdir=None):
        return self.inner.calculator(workdir)


@dataclass(frozen=True)
class AseDynamics:
    """The same, dressed up as native dynamics."""

    inner: ThroughAse

    def dynamics(self, start, stages, *, timestep, seed):
        return dynamics(self.inner, start, stages, timestep=timestep, seed=seed)


# --- potentials ---


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "triclinic") for name in LAMMPS), *(("eam/alloy Ni-Al", k) for k in KINDS if k != "triclinic")],
)
def test_lammps_keeps_the_contract_of_potentials(name, kind):
    check_potential(lammps(name), example_frames(LAMMPS[name][1])[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAMMPS)
def test_per_atom_energies_sum_to_the_energy_and_go_with_their_atoms(name, kind):
    atoms = example_frames(LAMMPS[name][1])[kind].atoms
    n = len(atoms)
    calculator = lammps(name).calculator()
    energies = calculator.get_property("energies", atoms)
    assert energies.shape == (n,)
    assert energies.sum() / n == pytest.approx(calculator.get_property("energy", atoms) / n, abs=SAME_ENERGY)
    assert np.ptp(energies) > 1e-3

    order = np.random.default_rng(1).permutation(n)
    np.testing.assert_allclose(calculator.get_property("energies", atoms[order]), energies[order], atol=SAME_ENERGY)
    periodic = [k for k in range(3) if atoms.pbc[k]]
    if periodic:
        double = atoms.repeat([2 if k == periodic[0] else 1 for k in range(3)])
        np.testing.assert_allclose(calculator.get_property("energies", double), np.tile(energies, 2), atol=SAME_ENERGY)


@pytest.mark.parametrize("name", ["eam/alloy Ni", "uf3 Nb", "meam Nb"])
def test_per_atom_energies_are_computed_when_asked_for_and_change_no_digit_of_the_others(name):
    frames = [example_frames(LAMMPS[name][1], seed=seed)["liquid"].atoms for seed in range(3)]
    plain, sharing = lammps(name).calculator(), lammps(name).calculator()
    for atoms in frames:
        sharing.get_property("energies", atoms)
        plain.get_property("energy", atoms)
        assert "energies" not in plain.results
        for key in ("energy", "forces", "stress"):
            assert np.array_equal(sharing.results[key], plain.results[key])
    sharing.get_property("energy", frames[0])
    assert "energies" not in sharing.results


@dataclass(frozen=True)
class LennardJones(LammpsPotential):
    """A pair style whose energy has a part that belongs to no atom, or whose atoms cannot be asked."""

    extra: str = ""

    def commands(self, symbols):
        return ["pair_style lj/cut 6.0", "pair_coeff * * 0.4 2.3", self.extra]


@pytest.mark.parametrize("extra", ["pair_modify tail yes", "compute shares all pe"], ids=["another sum", "an error"])
def test_a_pair_style_without_per_atom_energies_has_all_other_labels(extra):
    file = lammps("eam/alloy Ni").path
    frame = example_frames(["Ni"])["liquid"]
    potential = LennardJones(file, "lj/cut", "", ("Ni",), extra)
    calculator = potential.calculator()
    before = calculator.get_property("energy", frame.atoms)
    with pytest.raises((PropertyNotImplementedError, BackendError)):
        calculator.get_property("energies", frame.atoms)
    assert calculator.get_property("energy", frame.atoms) == before
    labels = compute(frame, potential)
    assert isinstance(labels, Labels)
    assert (labels.energy, labels.energies) == (before, None)
    assert compute(frame, LennardJones(file, "lj/cut", "", ("Ni",), "")).energies is not None


@pytest.mark.parametrize(
    ("pbc", "left_handed"),
    [((1, 0, 1), False), ((0, 1, 1), True), ((0, 1, 0), False), ((1, 0, 0), True), ((1, 1, 0), True)],
    ids=[
        "slab with vacuum along b",
        "along a, left-handed",
        "wire along b",
        "along a, left-handed",
        "left-handed slab",
    ],
)
def test_lammps_takes_vacuum_along_any_cell_vector(pbc, left_handed):
    atoms = bulk("Ni", cubic=True).repeat((2, 2, 2))
    atoms.rattle(0.1, seed=1)
    if left_handed:
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    atoms.pbc = pbc
    check_symmetry(lammps("eam/alloy Ni"), Frame.of(atoms))


def test_lammps_recovers_after_a_structure_that_it_could_not_take():
    """As committees do; errors_on() asks one calculator for all frames."""
    good = bulk("Ni", cubic=True)
    bad = good.copy()
    bad.positions[1, 2] = np.nan
    good.calc = bad.calc = lammps("eam/alloy Ni").calculator()
    expected = good.get_potential_energy()
    with pytest.raises(BackendError):
        bad.get_potential_energy()
    assert good.get_potential_energy() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_committee_keeps_the_contract_of_committees(committee, kind):
    frames = example_frames(["Ni"])
    check_committee(committee, [frames[kind], *(f for k, f in frames.items() if k != kind)])


def test_a_committee_of_one_keeps_it(labelled):
    one = train(labelled, SMALL, TrainConfig(members=1, steps=5), seed=1)
    check_committee(one, list(example_frames(["Ni"]).values()))


@pytest.mark.parametrize("kind", ["triclinic", "slab"])
def test_a_committee_for_two_elements_keeps_it(kind):
    reference = lammps("eam/alloy Ni-Al")
    mixed = [example_frames(["Ni", "Al"], seed=seed)["liquid"] for seed in range(6)]
    data = Dataset(f.labelled(compute(f, reference)) for f in mixed)
    two = train(data, SMALL, TrainConfig(members=2, steps=5), seed=1)
    frames = example_frames(["Al", "Ni"])
    check_committee(two, [frames[kind], *(f for k, f in frames.items() if k != kind)])


def test_the_describer_of_the_first_round_keeps_the_contract(labelled):
    descriptor = Descriptor(("Ni",), n_radial=4, n_angular=2, l_max=2)
    features = FrameFeatures(descriptor, Whitening.fit(descriptor, labelled))
    check_describer(features, list(example_frames(["Ni"]).values()))


# --- dynamics ---


@pytest.mark.parametrize("name", ["eam/alloy Ni", "eam/alloy Al", "eam/fs Cu", "funcfl Ni"])
def test_lammps_keeps_the_contract_of_dynamics(name):
    assert isinstance(lammps(name), MolecularDynamics)
    check_dynamics(lammps(name), crystal(LAMMPS[name][1][0]))


def test_dynamics_through_ase_keep_the_same_contract():
    assert not isinstance(ThroughAse(lammps("eam/alloy Ni")), MolecularDynamics)
    check_dynamics(AseDynamics(ThroughAse(lammps("eam/alloy Ni"))), crystal("Ni"))


# --- selectors, samplers, checks ---


@pytest.mark.parametrize("learnt", [False, True], ids=["before learning", "with a committee"])
@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_keeps_the_contract(labelled, committee, name, learnt):
    check_selector(selector(name), labelled, committee if learnt else committee.features)


@pytest.mark.parametrize("start", ["crystal", "melt"])
def test_a_rung_of_the_ladder_keeps_the_contract_of_samplers(start):
    rung = Rung(start, 900.0, 5.0, 32, 3000.0, steps=60, equilibration=20, melting=40, stride=20, timestep=2.0)
    check_sampler(rung, crystal("Ni"), lammps("eam/alloy Ni"))


def test_a_rung_keeps_it_with_a_potential_that_has_no_dynamics(committee):
    rung = Rung("crystal", 300.0, 0.0, 4, 300.0, steps=8, equilibration=0, melting=0, stride=4, timestep=1.0)
    check_sampler(rung, crystal("Ni", 4), committee)


@pytest.mark.parametrize("model", ["eam/alloy Ni", "committee"])
def test_polymorphs_keep_the_contract_of_checks(request, tmp_path, model):
    potential = request.getfixturevalue("committee") if model == "committee" else lammps(model)
    check_check(Polymorphs("Ni", ("fcc", "bcc"), 10.9, force_tolerance=0.01), potential, tmp_path)

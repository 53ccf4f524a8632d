"""Frames from beside the pool: sensible, scaled, repeatable, and never a test."""

import numpy as np
import pytest
from ase.build import bulk

from potstill import crystals
from potstill.backends import resolve
from potstill.generate import CLOSEST, FAMILIES, MOST_ATOMS, Exclusion, generate

VOLUME = 10.9
NAMES = ("hcp", "dhcp", "bcc")


@pytest.fixture(scope="module")
def tests():
    structures = crystals.verdict_structures("fcc", "Ni", VOLUME, NAMES)
    structures.pop("fcc")
    return structures


@pytest.fixture(scope="module")
def made(tests):
    return generate(24, ["Ni"], VOLUME, Exclusion(tests), rng=np.random.default_rng(1))


def test_every_family_has_its_share(made):
    families = [f.origin.trajectory for f in made]
    assert {name: families.count(f"generated-{name}") for name in FAMILIES} == dict.fromkeys(FAMILIES, 4)
    assert {f.origin.kind for f in made} == {"generated"}


def test_no_two_atoms_are_too_close_and_no_cell_is_large(made):
    spacing = (np.sqrt(2) * VOLUME) ** (1 / 3)
    for frame in made:
        images = frame.atoms.repeat(2)
        d = images.get_all_distances(mic=True)
        assert d[d > 0].min() >= CLOSEST * spacing * (1 - 1e-9), frame.origin
        assert frame.n_atoms <= MOST_ATOMS
        assert frame.atoms.pbc.all()


def test_densities_are_those_of_the_metal(made):
    for frame in made:
        if frame.origin.trajectory != "generated-slab":
            assert 0.75 < frame.volume / frame.n_atoms / VOLUME < 1.6, frame.origin


def test_a_seed_decides_all(made, tests):
    again = generate(24, ["Ni"], VOLUME, Exclusion(tests), rng=np.random.default_rng(1))
    assert again.keys == made.keys


def test_none_of_them_is_a_test(made, tests):
    matcher = Exclusion(tests)
    assert [matcher.match(f.atoms) for f in made] == [None] * len(made)


def polytype(atoms):
    """Return h for each close-packed layer between two alike, c for the others, without any matching of structures."""
    where = atoms.get_scaled_positions()[np.argsort(atoms.get_scaled_positions()[:, 2])]
    sites = np.array([(0, 0), (1 / 3, 2 / 3), (2 / 3, 1 / 3)])
    off = where[:, None, :2] - where[0, :2] - sites
    layers = np.argmin((np.abs(off - np.round(off)) ** 2).sum(2), axis=1)
    return "".join("h" if a == b else "c" for a, b in zip(np.roll(layers, 1), np.roll(layers, -1), strict=True))


@pytest.mark.parametrize("volume", [10.9, 75.0])  # nickel's and potassium's
def test_no_stacking_is_hcp_or_dhcp_by_its_layers_however_rattled(volume, monkeypatch):
    assert polytype(crystals.close_packed("ABAB")("Ni", volume)) == "hhhh"
    assert polytype(crystals.prototype("dhcp", "Ni", volume)) in ("hchc", "chch")
    structures = crystals.verdict_structures("fcc", "Ni", volume, NAMES)
    structures.pop("fcc")
    matcher = Exclusion(structures)
    monkeypatch.setattr("potstill.generate.FAMILIES", {"stacking": FAMILIES["stacking"]})
    made = generate(150, ["Ni"], volume, matcher, rng=np.random.default_rng(1))
    found = [polytype(frame.atoms) for frame in made]
    assert len(found) == 150
    assert not [p for p in found if set(p) == {"h"} or p in ("hc" * (len(p) // 2), "ch" * (len(p) // 2))]
    assert matcher.kept_out["hcp"] + matcher.kept_out["dhcp"] > 0


def test_a_test_is_known_whatever_its_cell_scale_and_orientation(tests):
    matcher = Exclusion(tests)
    for name in NAMES:
        atoms = crystals.prototype(name, "Ni", 1.2 * VOLUME).repeat((2, 1, 1))
        atoms.rotate(33.0, (1, 2, 3), rotate_cell=True)
        atoms.positions += np.random.default_rng(0).normal(0, 0.02, atoms.positions.shape)
        assert matcher.match(atoms) == name
    assert matcher.match(bulk("Ni", "fcc", a=3.5)) is None
    assert {name: matcher.kept_out[name] for name in NAMES} == dict.fromkeys(NAMES, 1)


def test_elements_are_dealt_to_the_sites():
    mixed = generate(12, ["Al", "Ni"], VOLUME, Exclusion({}), rng=np.random.default_rng(2))
    assert mixed.elements == ("Al", "Ni")


@pytest.mark.parametrize("face", [(1, 0, 0), (1, 1, 1), (1, 1, 0), (2, 1, 0), (2, 1, 1), (3, 1, 0), (2, 2, 1)])
def test_slabs_are_cut_between_layers(face):
    """Whatever the face, nickel's surface energy is 1.9 to 2.6 J/m², and a thicker slab has the same."""
    calculator = resolve("lammps:NiAlH_jea.eam.alloy", ["Ni"]).calculator()
    bulk_energy = calculator.get_potential_energy(crystals.prototype("fcc", "Ni", 10.916))
    found = []
    for thickness in (8.0, 14.0):
        atoms = crystals.slab("fcc", "Ni", 10.916, face, thickness)
        area = np.linalg.norm(np.cross(*atoms.cell.array[:2]))
        found.append(16.0218 * (calculator.get_potential_energy(atoms) - len(atoms) * bulk_energy) / (2 * area))
        assert np.ptp(atoms.positions @ atoms.cell.array[2]) / np.linalg.norm(atoms.cell.array[2]) >= thickness - 1e-6
    assert 1.9 < found[0] < 2.6
    assert found[1] == pytest.approx(found[0], rel=0.01)


@pytest.mark.parametrize("lattice", ["fcc", "bcc", "hcp"])
def test_verdict_structures_have_the_asked_density_and_vacuum(lattice):
    made = crystals.verdict_structures(lattice, "Nb", 18.0, ())
    assert len(made) == 4
    assert made[lattice].get_volume() / len(made[lattice]) == pytest.approx(18.0 * (1.02 if lattice == "bcc" else 1.0))
    for name, atoms in made.items():
        if name.startswith("slab"):
            z = atoms.cell.array[2]
            assert z @ atoms.cell.array[0] == pytest.approx(0, abs=1e-9)
            assert np.linalg.norm(z) - np.ptp(atoms.positions @ z / np.linalg.norm(z)) >= 2 * crystals.VACUUM - 1e-6

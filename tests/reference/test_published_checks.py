"""The card's checks, on potentials whose properties are published, on exact limits, and against other programs."""

from functools import cache

import numpy as np
import pytest
from ase.phonons import Phonons as AsePhonons

from potstill.backends import resolve
from potstill.checks.card import CHECKS, literature
from potstill.checks.measured import Rest

# Foiles, Baskes & Daw 1986, Phys. Rev. B 33, 7983 (Ni_u3); Mishin et al. 2001, Phys. Rev. B 63, 224106
# (Cu_mishin1), its surfaces as NIST's Interatomic Potentials Repository computes them; Angelo, Moody &
# Baskes 1995, Modelling Simul. Mater. Sci. Eng. 3, 289 (NiAlH_jea). Value, and relative tolerance.
PUBLISHED = {
    "Cu_mishin1.eam.alloy:Cu": {
        "eos.a": (3.615, 1e-3),
        "elastic.C11": (169.9, 0.01),
        "elastic.C12": (122.6, 0.01),
        "elastic.C44": (76.2, 0.01),
        "phonons.X.high": (7.82, 0.01),
        "phonons.X.low": (5.20, 0.01),
        "phonons.L.high": (7.78, 0.01),
        "phonons.L.low": (3.32, 0.01),
        "defects.vacancy_formation": (1.272, 0.01),
        "defects.vacancy_migration": (0.689, 0.01),
        "stacking-fault.intrinsic": (44.4, 0.01),
        "stacking-fault.unstable": (162.0, 0.02),
        "surfaces.(111)": (1.2395, 1e-3),
        "surfaces.(100)": (1.3453, 1e-3),
        "surfaces.(110)": (1.4754, 1e-3),
    },
    "Ni_u3.eam:Ni": {
        "eos.a": (3.52, 1e-3),
        "elastic.C11": (233.0, 0.01),
        "elastic.C12": (154.0, 0.01),
        "elastic.C44": (128.0, 0.01),
        "defects.vacancy_formation": (1.63, 0.01),
        "surfaces.(111)": (1.45, 0.02),
        "surfaces.(100)": (1.58, 0.02),
        "surfaces.(110)": (1.73, 0.02),
    },
    "NiAlH_jea.eam.alloy:Ni": {
        "eos.a": (3.52, 1e-3),
        "elastic.C11": (246.5, 0.01),
        "elastic.C12": (147.3, 0.01),
        "elastic.C44": (124.7, 0.01),
        "defects.vacancy_formation": (1.59, 0.01),
        "stacking-fault.intrinsic": (89.0, 0.02),
    },
    "NiAlH_jea.eam.alloy:Al": {
        "eos.a": (4.05, 1e-3),
        "elastic.C11": (114.0, 0.01),
        "elastic.C12": (61.9, 0.01),
        "elastic.C44": (31.6, 0.01),
    },
}


@cache
def values(name, check, lattice="fcc"):
    file, element = name.rsplit(":", 1)
    measured = CHECKS[check](element, lattice).examine(resolve(f"lammps:{file}", [element]))
    assert not measured.failed
    return measured


@pytest.mark.parametrize(
    ("name", "quantity"), [(n, q) for n, row in PUBLISHED.items() for q in row], ids=lambda x: x.replace(".eam", "")
)
def test_a_named_potential_gives_what_was_published_for_it(name, quantity):
    value, tolerance = PUBLISHED[name][quantity]
    check, _, what = quantity.partition(".")
    assert values(name, check).values[what] == pytest.approx(value, rel=tolerance)


def test_two_ways_to_the_bulk_modulus_agree():
    for name in PUBLISHED:
        c = values(name, "elastic").values
        assert values(name, "eos").values["bulk_modulus"] == pytest.approx((c["C11"] + 2 * c["C12"]) / 3, rel=0.05)


def test_aluminium_vibrates_as_measured():
    """Mendelev's potential was fitted to crystals and liquid; its phonons at X and L are within 15 % of neutrons'."""
    found = values("Al_mm.eam.fs:Al", "phonons").values
    for point in ("X.low", "X.high", "L.low", "L.high"):
        measured = literature("Al")[f"phonons.{point}"][0]["value"]
        assert found[point] == pytest.approx(measured, rel=0.15)
    assert found["imaginary"] == 0.0


def test_phonons_are_those_of_another_program(tmp_path):
    name = "Al_mm.eam.fs:Al"
    rest = Rest.of(resolve("lammps:Al_mm.eam.fs", ["Al"]), "Al", "fcc")
    other = AsePhonons(rest.atoms, rest.atoms.calc, supercell=(8, 8, 8), delta=0.01, name=str(tmp_path / "phonons"))
    other.run()
    other.read(acoustic=True)
    h = 4.135667696e-15 * 1e12  # eV in a THz
    X, L = other.band_structure([(0.5, 0.0, 0.5), (0.5, 0.5, 0.5)], verbose=False) / h
    found = values(name, "phonons").values
    assert [found["X.low"], found["X.high"]] == pytest.approx([X.min(), X.max()], rel=0.01)
    assert [found["L.low"], found["L.high"]] == pytest.approx([L.min(), L.max()], rel=0.01)


@pytest.fixture(scope="module")
def argon():
    return resolve('ase:lj {"sigma": 3.4, "epsilon": 0.0104, "rc": 30.0}', ["Ar"])


def test_a_lennard_jones_crystal_has_the_lattice_sums_it_is_known_for(argon):
    """E = −8.610 ε, nearest neighbours at 1.0902 σ, B = 75.2 ε/σ³, and pair forces alone make C12 equal to C44."""
    rest = Rest.of(argon, "Ar", "fcc")
    assert rest.energy / 0.0104 == pytest.approx(-8.610, abs=0.03)  # ASE shifts pairs to 0 at the cutoff
    assert rest.near / 3.4 == pytest.approx(1.0902, abs=1e-3)
    c = CHECKS["elastic"]("Ar", "fcc").examine(argon).values
    unit = 0.0104 / 3.4**3 * 160.21766
    assert (c["C11"] + 2 * c["C12"]) / 3 / unit == pytest.approx(75.2, rel=0.01)
    assert c["C12"] == pytest.approx(c["C44"], rel=1e-3)
    assert c["softest"] == pytest.approx(c["C11"] - c["C12"], rel=1e-3)


def test_hexagonal_crystals_keep_their_symmetry():
    """Mendelev & Ackland 2007, Philos. Mag. Lett. 87, 349: C11, C12, C13, C33, C44 of hcp zirconium."""
    c = values("Zr_mm.eam.fs:Zr", "elastic", "hcp")
    assert [c.values[k] for k in ("C11", "C12", "C13", "C33", "C44")] == pytest.approx([142, 75, 76, 168, 44], rel=0.06)
    assert max(c.errors.values()) < 1.0


@pytest.mark.parametrize("lattice", ["fcc", "bcc", "hcp"])
def test_faults_and_jumps_are_symmetric_where_the_crystal_is(lattice):
    name = {"fcc": "Cu_mishin1.eam.alloy:Cu", "bcc": "Nb.uf3:Nb", "hcp": "Zr_mm.eam.fs:Zr"}[lattice]
    _, jump = values(name, "defects", lattice).curves["vacancy"]
    assert jump == pytest.approx(jump[::-1], abs=0.02)
    assert max(jump) == pytest.approx(values(name, "defects", lattice).values["vacancy_migration"])
    _, slide = values(name, "stacking-fault", lattice).curves["energy"]
    assert slide[0] == 0.0
    assert min(slide) > -1e-6
    if lattice == "bcc":  # a whole lattice vector
        assert slide == pytest.approx(slide[::-1], abs=1.0)
        assert slide[-1] == pytest.approx(0.0, abs=1.0)


def test_literature_names_its_sources():
    for element in ("Ni", "Al", "Cu", "Nb"):
        rows = literature(element)
        assert {"eos.a", "elastic.C11", "defects.vacancy_formation", "melting.temperature"} <= set(rows)
        for found in rows.values():
            assert all(x["source"] and x["kind"] in ("experiment", "PBE") and np.isfinite(x["value"]) for x in found)

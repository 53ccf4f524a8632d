"""Any calculator of ASE as a reference."""

import pytest
from ase.calculators.emt import EMT

from potstill.backends import resolve
from potstill.data import Labels
from potstill.errors import BackendError
from potstill.labelling import compute, label
from potstill.store import LabelStore
from potstill.testing import check_potential, example_frames

LJ = 'ase:lj {"sigma": 2.2, "epsilon": 0.4, "rc": 6.6, "smooth": true}'


@pytest.mark.parametrize("recipe", ["ase:emt", LJ])
def test_a_named_calculator_is_a_potential_like_others(recipe):
    check_potential(resolve(recipe, ["Ni"]), example_frames(["Ni"])["triclinic"])


def test_it_labels_in_workers(tmp_path, nickel):
    frames = nickel(3)
    found = label(list(frames), resolve("ase:emt"), LabelStore(tmp_path), workers=1)
    atoms = frames[0].atoms.copy()
    atoms.calc = EMT()
    assert found.data[0].labels.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)


def test_keywords_are_part_of_the_fingerprint_and_their_order_is_not():
    one, same, other = (
        resolve(f"ase:lj {words}") for words in ('{"sigma": 2.2, "rc": 6}', '{"rc": 6, "sigma": 2.2}', '{"sigma": 2.3}')
    )
    assert one == same
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_an_element_that_a_calculator_does_not_know_is_a_failure(nickel):
    (frame,) = nickel(1, element="Nb")
    result = compute(frame, resolve("ase:emt"))
    assert not isinstance(result, Labels)
    assert "Nb" in result.message


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("ase:nothing", "no calculator 'nothing'"),
        ("ase:os.system", "no calculator 'os.system'"),
        ("ase:lj {sigma: 2}", "as a JSON object"),
        ('ase:lj {"sigma": 2} {', "as a JSON object"),
        ('ase:vasp {"command": "rm -rf /"}', "must not say which program runs"),
        ('ase:vasp {"directory": "../.."}', "must not say which program runs"),
    ],
)
def test_recipes_that_mean_nothing_or_harm_are_refused(recipe, told):
    with pytest.raises(BackendError, match=told):
        resolve(recipe)


def test_a_calculator_that_cannot_be_made_is_a_sentence():
    with pytest.raises(BackendError, match=r"'kim' cannot be made: .*model_name"):
        resolve("ase:kim").calculator()

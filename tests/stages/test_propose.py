"""Structures to relax, out of nothing or out of MatterGen."""

import stat
import sys

import numpy as np
import pytest
from ase.io import read, write
from typer.testing import CliRunner

from potstill import crystals
from potstill.cli import app
from potstill.errors import BackendError, ConfigError
from potstill.proposing import mattergen, propose
from potstill.relaxing.judge import before


def test_a_seed_decides_and_kinds_take_turns():
    a, b = (list(propose(["Ni"], 12, ["random", "prototypes"], np.random.default_rng(2))) for _ in range(2))
    assert a == b
    origins = [atoms.info["origin"] for atoms in a]
    assert origins[::2] == ["random symmetric crystal"] * 6
    assert set(origins[1::2]) <= set(crystals.PROTOTYPES)
    assert list(propose(["Ni"], 4, ["random"], np.random.default_rng(3))) != a[:4]


def test_what_is_proposed_may_be_relaxed():
    made = list(propose(["Al"], 20, ["random", "prototypes"], np.random.default_rng(0)))
    assert len(made) == 20
    assert all(before(atoms, ["Al"]) is None for atoms in made)


def test_a_compound_has_all_its_elements():
    made = list(propose(["Ni", "Al", "H"], 10, ["random", "prototypes"], np.random.default_rng(0)))
    assert len(made) == 10
    assert all(set(atoms.get_chemical_symbols()) == {"Ni", "Al", "H"} for atoms in made)


@pytest.mark.parametrize(("elements", "kinds"), [(["Nix"], ["random"]), ([], ["random"]), (["Ni"], ["dreams"])])
def test_what_cannot_be_proposed_is_told(elements, kinds):
    with pytest.raises(ConfigError, match="Expected"):
        list(propose(elements, 1, kinds, np.random.default_rng(0)))


def test_the_command_writes_a_file(tmp_path):
    done = CliRunner().invoke(app, ["propose", "--element", "Ni", "-n", "5", "--out", str(tmp_path / "p.extxyz")])
    assert done.exit_code == 0, done.output
    assert len(read(tmp_path / "p.extxyz", index=":")) == 5


# --- MatterGen is the user's own; what stands for it here takes its words and leaves its files ---

PROGRAM = """#!{python}
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "words.json").write_text(json.dumps(sys.argv[2:]))
{rest}
"""


def program(tmp_path, rest):
    file = tmp_path / "mattergen-generate"
    file.write_text(PROGRAM.format(python=sys.executable, rest=rest))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_mattergen_is_asked_in_its_words(tmp_path):
    write(tmp_path / "some.extxyz", list(propose(["Ni"], 3, ["random"], np.random.default_rng(0))), format="extxyz")
    copy = f"(folder / 'generated_crystals.extxyz').write_text(Path({str(tmp_path / 'some.extxyz')!r}).read_text())"
    written = mattergen(["Ni", "Al"], 20, tmp_path / "out", command=program(tmp_path, copy))
    assert len(read(written, index=":")) == 3
    words = (tmp_path / "out" / "words.json").read_text()
    assert "--pretrained-name=chemical_system" in words
    assert "'chemical_system': 'Al-Ni'" in words
    assert "--batch_size=16" in words
    assert "--num_batches=2" in words


def test_a_mattergen_that_fails_or_is_not_there_is_told(tmp_path):
    with pytest.raises(BackendError, match="no weights today"):
        mattergen([], 4, tmp_path / "out", command=program(tmp_path, "sys.exit('no weights today')"))
    with pytest.raises(BackendError, match="not on the path"):
        mattergen([], 4, tmp_path / "out", command="mattergen-of-tomorrow")

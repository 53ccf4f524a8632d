"""What the README says is true of the program."""

import re
import shlex
import subprocess
import sys
import tomllib

import pytest


def blocks(repo, language, pages=("README.md",)):
    text = "\n".join((repo / page).read_text() for page in pages)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(repo):
    pages = ["README.md", *(f"docs/{page.name}" for page in (repo / "docs").glob("*.md"))]
    lines = "\n".join(blocks(repo, "sh", pages)).splitlines()
    return [line.partition(" >")[0] for line in lines if line.startswith("potstill ")]


def test_every_command_of_the_readme_and_the_docs_parses(repo):
    import typer

    from potstill.cli import app

    group = typer.main.get_command(app)
    found = commands(repo)
    assert len(found) >= 8
    for line in found:
        words = shlex.split(line, comments=True)[1:]
        command, context = group, None
        while hasattr(command, "commands"):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        context = command.make_context("potstill", words, resilient_parsing=False)
        assert context is not None


def test_the_table_of_verbs_is_the_list_of_commands(repo):
    import typer

    from potstill.cli import app

    told = re.findall(r"^\| `(\w+)` \|", (repo / "README.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(typer.main.get_command(app).commands)


def test_the_make_targets_exist(repo):
    makefile = (repo / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks(repo, "sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"])
def test_the_files_that_the_readme_points_to_exist(repo, name):
    assert (repo / name).stat().st_size > 100


def test_the_architecture_page_names_every_module(repo):
    page = (repo / "ARCHITECTURE.md").read_text()
    for path in (repo / "src" / "potstill").iterdir():
        if path.name.startswith("__") or path.suffix not in ("", ".py") or path.name == "py.typed":
            continue
        assert path.name in page or f"{path.stem}/" in page, path.name


def test_the_python_examples_run(repo, tmp_path, monkeypatch, nickel):
    import numpy as np

    from potstill.config import ModelConfig, TrainConfig
    from potstill.data import Dataset, Labels
    from potstill.training import train

    frames = Dataset(f.labelled(Labels(-4.45 * f.n_atoms, np.zeros((f.n_atoms, 3)), None, "test")) for f in nickel(4))
    train(frames, ModelConfig(), TrainConfig(steps=0, members=2), seed=1).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    frames.save(tmp_path / "frames.extxyz")
    (example,) = blocks(repo, "python")
    for page, text in (("README.md", example), ("use.md", "\n".join(blocks(repo, "python", ["docs/use.md"])))):
        exec(compile(text, page, "exec"), {})  # noqa: S102 - our own pages, held true by running them


@pytest.mark.parametrize(
    ("program", "page"),
    [("distil_page.py", "selectors.md"), ("speed_page.py", "speed.md"), ("transfer_page.py", "metals.md")],
)
def test_a_page_of_numbers_is_what_the_kept_results_say(repo, program, page):
    command = [sys.executable, repo / "benchmarks" / program, "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (repo / "docs" / page).read_text().strip()


def test_the_tables_of_speed_in_the_readme_are_those_of_the_page(repo):
    readme, page = (repo / "README.md").read_text(), (repo / "docs" / "speed.md").read_text()
    about_sampling = (repo / "docs" / "sampling.md").read_text()
    for text, name in ((readme, "sampling"), (readme, "standing"), (readme, "inference"), (about_sampling, "coverage")):
        table = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0].strip()
        assert len(table) > 100
        assert table in page


def test_the_pictures_of_speed_are_those_that_are_drawn(repo):
    page = (repo / "docs" / "speed.md").read_text()
    shown = re.findall(r"\(images/(speed-[a-z-]+\.png)\)", page)
    assert sorted(shown) == sorted(file.name for file in (repo / "docs" / "images").glob("speed-*.png"))
    assert all((repo / "docs" / "images" / name).stat().st_size < 150_000 for name in shown)


def test_every_configuration_in_the_docs_and_the_examples_is_one(repo):
    from potstill.config import parse_config

    found = blocks(repo, "toml", ["README.md", *(f"docs/{page.name}" for page in (repo / "docs").glob("*.md"))])
    found += [file.read_text() for file in (repo / "examples").glob("*.toml")]
    assert len(found) >= 5
    for text in found:
        parse_config(tomllib.loads(text))

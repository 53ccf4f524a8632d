"""Machine code on disk never outlives a source that it was made from."""

import os
import shutil
import subprocess
import sys

from potstill.freshness import forget_stale


def compiled(folder):
    """Put files down that look like numba's."""
    cache = folder / "__pycache__"
    cache.mkdir(exist_ok=True)
    files = [cache / name for name in ("a.f-1.py311.nbi", "a.f-1.py311.1.nbc")]
    for file in files:
        file.write_bytes(b"machine code")
    return files


def test_compiled_code_is_forgotten_when_any_source_beside_it_changes(tmp_path):
    (tmp_path / "a.py").write_text("import numba\none = 1\n")
    (tmp_path / "b.py").write_text("import numba\ntwo = 2\n")
    (tmp_path / "c.py").write_text("three = 3\n")
    assert forget_stale(tmp_path)
    files = compiled(tmp_path)
    assert not forget_stale(tmp_path)
    assert all(file.exists() for file in files)
    (tmp_path / "c.py").write_text("three = 4\n")
    assert not forget_stale(tmp_path)  # not compiled
    (tmp_path / "b.py").write_text("import numba\ntwo = 3\n")
    assert forget_stale(tmp_path)
    assert not any(file.exists() for file in files)


def test_compiled_code_is_forgotten_when_a_source_elsewhere_changes(tmp_path):
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "alone.py"
    for folder in (here, there):
        folder.mkdir()
        (folder / "a.py").write_text("import numba\n")
    file.write_text("import numba\n")
    forget_stale(there)
    assert forget_stale(here, there, file)
    for changed in (there / "a.py", file):
        files, others = compiled(here), compiled(there)
        assert not forget_stale(here, there, file)
        changed.write_text("import numba\nchanged = 1\n")
        assert forget_stale(here, there, file)
        assert not any(f.exists() for f in files)
        assert all(f.exists() for f in others)  # not ours to forget


def test_what_each_package_compiles_depends_on_all_that_it_calls(tmp_path, repo):
    """The real packages, copied: a kernel of the model is part of the sampling loop, but not the other way round."""
    package = tmp_path / "potstill"
    shutil.copytree(repo / "src" / "potstill", package, ignore=shutil.ignore_patterns("__pycache__"))

    def start():
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        code = "import potstill.sampling, potstill; print(potstill.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=300
        )
        assert done.stdout.startswith(str(tmp_path))

    start()
    for changed, of_model, of_sample in (
        ("reporting/__init__.py", True, True),
        ("model/simd.py", False, False),
        ("sampling/order.py", True, False),
        ("memory.py", True, False),
    ):
        files = {name: compiled(package / name) for name in ("model", "sampling")}
        with (package / changed).open("a") as source:
            source.write("\n# changed\n")
        start()
        kept = [all(f.exists() for f in files[name]) for name in ("model", "sampling")]
        assert kept == [of_model, of_sample], changed

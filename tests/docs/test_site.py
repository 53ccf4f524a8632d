"""The documentation as a site: it builds without a warning, links to what exists, and asks nothing of other hosts."""

import os
import re
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def site(repo, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


def test_every_page_of_the_folder_has_its_place(site, repo):
    pages = {p.parent.name if p.parent != site else "index" for p in site.rglob("index.html")}
    assert {p.stem for p in (repo / "docs").glob("*.md")} <= pages


def test_references_are_those_of_the_code(site):
    import potstill
    from potstill.config import knobs

    keys = (site / "reference" / "configuration" / "index.html").read_text()
    assert all(f"<code>{key.rpartition('.')[2]}</code>" in keys for key, *_ in knobs())
    commands = (site / "reference" / "commands" / "index.html").read_text()
    assert "potstill config template" in commands
    assert "--judge" in commands
    names = (site / "reference" / "python" / "index.html").read_text()
    assert all(name in names for name in potstill.__all__)


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?([^\"'\s>]+)", text)
        loaded += re.findall(r"<link[^>]*rel=[\"']?(?:stylesheet|preload|icon)[^>]*href=[\"']?([^\"'\s>]+)", text)
        assert not [url for url in loaded if url.startswith(("http", "//"))], page


def test_pages_of_the_root_lead_to_pages_of_the_site(site):
    first = (site / "index.html").read_text()
    assert 'href="verdict/"' in first
    assert "docs/verdict.md" not in first
    assert (site / "images" / "nickel.png").is_file()

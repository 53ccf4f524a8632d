"""The report in a real browser, from disk, without a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.toml"


@pytest.fixture(scope="module")
def chromium():
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing; `make system` installs it as root")
        pytest.skip("chromium is not installed; as root, `make system` installs it")
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "run"
    command = [sys.executable, "-m", "potstill.cli", "run", str(TINY), "--out", str(out)]
    # a hostile title must do no harm on the page
    subprocess.run([*command, "--set", 'title="<script>document.title=1</script>"'], check=True, timeout=300)
    return out


def browse(chromium, page, profile, *options):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [chromium, *flags, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_asks_for_nothing_from_outside(run):
    page = (run / "report.html").read_text()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert not re.findall(r"url\((?!#|[\"']?(?:#|data:))|@import", page)
    assert len(page) < 5_000_000


def test_the_page_opens_from_disk_with_every_figure_and_no_console_message(chromium, run, tmp_path):
    dom, console = browse(chromium, run / "report.html", tmp_path / "profile", "--dump-dom")
    assert console == []
    assert dom.count("<figure") == dom.count("</svg>") == 7 + 8  # of the run and of its card
    assert "<script>document" not in dom
    assert "&lt;script&gt;" in dom


@pytest.mark.parametrize("width", [1200, 420])
def test_the_figures_have_ink_and_the_page_does_not_overflow(chromium, run, tmp_path, width):
    shot = tmp_path / "page.png"
    options = [f"--screenshot={shot}", f"--window-size={width},3600", "--hide-scrollbars"]
    browse(chromium, run / "report.html", tmp_path / "profile", *options)
    pixels = np.asarray(Image.open(shot).convert("RGB"), dtype=int)
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    rows = (saturation > 60).any(axis=1)  # figures are coloured, text is not
    assert rows.sum() > 300
    background = pixels[0, 0]
    assert (abs(pixels[:, -4:] - background).sum(axis=2) < 30).mean() > 0.98, "something reaches the right edge"

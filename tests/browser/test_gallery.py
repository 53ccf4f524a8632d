"""The page of relaxed structures in a real browser, from disk, without a network."""

import io

import numpy as np
import pytest
from ase.build import bulk
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from potstill.relaxing.judge import Row
from potstill.relaxing.work import Relaxed, save
from potstill.reporting import gallery
from potstill.store import write_json

pytestmark = pytest.mark.browser

HOSTILE = "<script>document.title='taken'</script>\"'><img src=x onerror=\"document.title='taken'\">.cif"


def row(source, verdict, above=None, **more):
    """A row of the table, with what those that came to rest have."""
    rested = (
        {} if above is None else {"energy": -4.45 + above / 1e3, "energy_above": above, "volume": 10.9 + above / 50}
    )
    return Row(source, "Ni", 4, verdict, f"{verdict} for a reason.", **rested, **more)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("gallery")
    rows = [
        row("a.cif", "stable", 0.0, strangest_on_way=0.8, known_as="fcc Ni", judge_energy=-4.4501, judge_error=0.1),
        row("b.cif", "metastable", 31.4, strangest_on_way=1.2, judge_energy=-4.42, judge_error=1.4),
        row("c.cif", "metastable", 9.2, strangest_on_way=1.1, same_as="b.cif"),
        row(HOSTILE, "uncertain", 250.0, strangest_on_way=4.0),
        row("x" * 3000, "failed"),
        row("Ωμέγα-钛.cif", "out-of-domain"),
    ]
    ends = [bulk("Ni", "fcc", a=3.5 + 0.1 * k, cubic=True) if r.energy else None for k, r in enumerate(rows)]
    save(Relaxed(rows, ends, ends, [[] for _ in rows]), out)
    write_json(out / "judge.json", {k: {"n": 2, "within": 1.0, "worst": 1.4, "rank": None} for k in ("trusted", "all")})
    rounds = [{"n_labels": 0, "trusted": 2, "uncertain": 2}, {"n_labels": 4, "trusted": 3, "uncertain": 1}]
    write_json(out / "learning.json", {"rounds": rounds, "stopped": "the budget is spent"})
    return gallery(out)


@pytest.fixture
def opened(page, written):
    page.goto(written.as_uri())
    return page


def sources(page):
    return [cell.inner_text()[:12] for cell in page.query_selector_all("#table tbody tr:not([hidden]) th")]


def test_it_asks_for_nothing_and_says_nothing(opened, written):
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("blob:")] == [written.as_uri()]
    assert written.stat().st_size < 5_000_000
    assert opened.locator("figure svg").count() == 3
    assert "2 of 6 shown" not in opened.inner_text("#count")


def test_names_from_files_do_no_harm(opened):
    assert "taken" not in opened.title()
    assert HOSTILE in opened.inner_text("#table")
    assert "Ωμέγα-钛.cif" in opened.inner_text("#table")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1300


def test_the_table_sorts_by_number_and_what_has_none_goes_last(opened):
    head = opened.locator("th button", has_text="above lowest")
    head.click()
    assert sources(opened)[:4] == ["a.cif", "c.cif", "b.cif", HOSTILE[:12]]
    head.click()
    assert sources(opened)[:4] == [HOSTILE[:12], "b.cif", "c.cif", "a.cif"]
    assert head.locator("..").get_attribute("aria-sort") == "descending"


def test_the_table_filters_by_verdict_news_and_text(opened):
    opened.uncheck("input.verdict[value=stable]")
    assert "a.cif" not in sources(opened)
    assert opened.inner_text("#count") == "5 of 6 shown"
    opened.check("#news")
    assert "c.cif" not in sources(opened)
    opened.fill("#search", "b.cif")
    assert sources(opened) == ["b.cif"]


def test_a_structure_is_seen_in_three_dimensions(opened):
    opened.click(".look[data-number='0']")
    opened.wait_for_timeout(500)
    assert opened.inner_text("#name") == "a.cif"
    picture = Image.open(io.BytesIO(opened.locator("#stage").screenshot())).convert("RGB")
    pixels = np.asarray(picture, dtype=int)
    drawn = (pixels.max(axis=2) - pixels.min(axis=2)) > 60
    assert drawn.sum() > 1000, "no atoms to be seen"
    opened.click("#close")
    assert not opened.is_visible("#stage")
    assert opened.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_a_reader_out(browser, written, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(written.as_uri())
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert found == [], [(v["id"], v["nodes"][0]["html"][:200]) for v in found]
    page.close()

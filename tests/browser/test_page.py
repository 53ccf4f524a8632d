"""The report in a real browser, from disk, without a network."""

import io
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(page, tiny):
    page.goto((tiny / "report.html").as_uri())
    return page


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)


def coloured(shot):
    return shot.max(axis=2) - shot.min(axis=2) > 60


def spot(page, figure, which=0):
    """Where on the screen a point of a figure lies."""
    page.locator(f"figure[data-spots={figure}]").scroll_into_view_if_needed()
    code = """([figure, which]) => {
        const svg = document.querySelector(`figure[data-spots=${figure}] svg`), [, x, y] = spots[figure].at[which];
        const q = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
        return [q.x, q.y];
    }"""
    return page.evaluate(code, [figure, which])


def test_the_page_asks_for_nothing_says_nothing_and_shows_every_figure(opened, tiny):
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("blob:")] == [(tiny / "report.html").as_uri()]
    assert (tiny / "report.html").stat().st_size < 5_000_000
    links = opened.eval_on_selector_all(
        "a[href], img, link, iframe", "all => all.map(e => e.getAttribute('href') || e.src)"
    )
    assert links == ["4-transfer/Al/report.html"]
    assert opened.locator("figure svg").count() == 7 + 2  # of the run and of its card
    for figure in opened.locator("figure svg").all():
        shot = pixels(figure.screenshot())
        assert (abs(shot - shot[0, 0]).sum(axis=2) > 60).mean() > 0.01, "nothing is drawn"


def test_a_hostile_title_does_no_harm(opened):
    assert opened.title() == "potstill: <script>document.title=1</script>"
    assert opened.inner_text("h1") == "<script>document.title=1</script>"


@pytest.mark.parametrize("width", [1200, 420])
def test_the_page_does_not_overflow(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_pointing_at_a_frame_tells_what_it_is_and_a_click_shows_it(opened):
    for figure, told in (("coverage", r"eV/atom · \d+ K · .* · distilled"), ("parity", r"forces off by [\d.]+ meV/Å")):
        x, y = spot(opened, figure, 2)
        opened.mouse.move(x, y)
        assert re.search(told, opened.inner_text("#tip"))
        opened.mouse.click(x, y)
        opened.wait_for_timeout(500)
        assert re.search(told, opened.inner_text("#name"))
        assert coloured(pixels(opened.locator("#stage").screenshot())).sum() > 1000, "no atoms to be seen"
        opened.click("#close")
    opened.mouse.move(2, 2)
    assert not opened.is_visible("#tip")
    assert opened.said == []


def test_without_a_mouse_a_frame_is_chosen_from_a_list(opened):
    opened.select_option("#pick", index=1)
    opened.focus("#see")
    opened.keyboard.press("Enter")
    opened.wait_for_timeout(500)
    assert "distilled" in opened.inner_text("#name")
    opened.keyboard.press("Escape")
    assert not opened.is_visible("#stage")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_a_reader_out(browser, tiny, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto((tiny / "report.html").as_uri())
    found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert found == [], [(v["id"], v["nodes"][0]["html"][:200]) for v in found]
    page.close()

"""The measured numbers of README and docs are those of the kept results."""

import pytest


@pytest.fixture
def quotes(repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    import quotes

    return quotes


def test_every_marked_number_is_as_the_results_have_it(repo, quotes):
    changed = [name for name, text in quotes.pages().items() if (repo / name).read_text(encoding="utf-8") != text]
    assert not changed, "python benchmarks/quotes.py"


def test_the_pages_have_marks(repo, quotes):
    found = {name: len(quotes.NUMBER.findall((repo / name).read_text(encoding="utf-8"))) for name in quotes.pages()}
    assert found["docs/distilling.md"] > 20
    assert found["docs/transfer.md"] > 10


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("7<!--=x/a--> meV", "1,235<!--=x/a--> meV"),
        ("7.00<!--=x/a-->", "1,234.57<!--=x/a-->"),
        ("+0.1<!--=x/minus-->", "−2.3<!--=x/minus-->"),
        ("0.1 ± 9.9<!--=x/band-->", "1.0 ± 0.2<!--=x/band-->"),
        ("5 and 0.1<!--=x/a/most-->, 7", "5 and 1,234.6<!--=x/a/most-->, 7"),
        ("0.1<!--=x/a/least-->", "1,234.5<!--=x/a/least-->"),
    ],
)
def test_a_number_keeps_its_form_and_bounds_hold(quotes, monkeypatch, before, after):
    values = {"a": (1234.567, None), "minus": (-2.3, None), "band": (1.0, 0.2)}
    monkeypatch.setitem(quotes.SOURCES, "x", lambda key, *_: values[key])
    assert quotes.NUMBER.sub(quotes.number, before) == after


def test_a_band_that_is_not_there_ends_it(quotes, monkeypatch):
    monkeypatch.setitem(quotes.SOURCES, "x", lambda *_: (1.0, None))
    with pytest.raises(SystemExit, match="no band"):
        quotes.NUMBER.sub(quotes.number, "1.0 ± 0.1<!--=x/a-->")

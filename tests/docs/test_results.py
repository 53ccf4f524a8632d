"""Kept results of the benchmarks: a run replaces its own rows, and each row says what run it is of."""

import json
import sys
from importlib.metadata import packages_distributions

import pytest

ABOUT = {"what": "speed", "machine": "M, 2 cores", "load": 0.1, "versions": {"python": "3.11", "platform": "here"}}


@pytest.fixture
def common(repo, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    import common

    (tmp_path / "results").mkdir()
    monkeypatch.setattr(common, "HERE", tmp_path)
    return common


def kept(tmp_path):
    return json.loads((tmp_path / "results" / "speed.json").read_text())


def test_a_partial_run_leaves_the_rows_of_others(common, tmp_path):
    before = {
        **ABOUT,
        "date": "2026-01-01",
        "rows": [{"name": "a", "atoms": 32, "us": 1.0}, {"name": "b", "atoms": 32}],
    }
    (tmp_path / "results" / "speed.json").write_text(json.dumps(before))  # of a time without stamps
    now = {**ABOUT, "date": "2026-02-02", "command": "speed.py a", "load": 3.0}
    common.keep("speed", now, [{"name": "a", "atoms": 32, "us": 2.0}, {"name": "a", "atoms": 256, "us": 3.0}])
    rows = kept(tmp_path)["rows"]
    assert [(r["name"], r["atoms"], r.get("us")) for r in rows] == [("a", 32, 2.0), ("b", 32, None), ("a", 256, 3.0)]
    assert [r["stamp"]["date"] for r in rows] == ["2026-02-02", "2026-01-01", "2026-02-02"]
    assert rows[0]["stamp"]["command"] == "speed.py a"
    told = common.source("speed.py", kept(tmp_path))
    assert told == (
        "`python benchmarks/speed.py a`, 2026-02-02, M, 2 cores; `python benchmarks/speed.py`, 2026-01-01, M, 2 cores; "
        "python 3.11.\n"
    )


def test_all_judgements_of_one_program_go_together(common, tmp_path):
    long = [{"name": "a", "data": "x", "seconds": s} for s in (1, 2, 3)]
    common.keep("speed", {**ABOUT, "date": "2026-01-01"}, long)
    common.keep("speed", {**ABOUT, "date": "2026-02-02"}, [{"name": "a", "data": "x", "seconds": 9}])
    assert [r["seconds"] for r in kept(tmp_path)["rows"]] == [9]


def test_what_is_handed_on_keeps_its_stamp(common, tmp_path):
    common.keep("speed", {**ABOUT, "date": "2026-01-01"}, [{"name": "a", "us": 1.0}])
    common.keep("speed", {**ABOUT, "date": "2026-02-02"}, [{"name": "a", "us": 1.0}, {"name": "b", "us": 1.0}])
    assert [r["stamp"]["date"] for r in kept(tmp_path)["rows"]] == ["2026-01-01", "2026-02-02"]


def test_what_is_not_installed_is_told_but_replaces_nothing(common, tmp_path):
    common.keep("speed", {**ABOUT, "date": "2026-01-01"}, [{"name": "a", "us": 1.0}])
    absent = [{"name": name, "failed": common.ABSENT} for name in ("a", "b")]
    common.keep("speed", {**ABOUT, "date": "2026-02-02"}, absent)
    assert [(r["name"], r.get("failed")) for r in kept(tmp_path)["rows"]] == [("a", None), ("b", "not installed")]


def test_the_words_of_a_run_name_no_folder_of_the_machine(common, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/me/benchmarks/relax.py", "speed", "--model", "/home/me/model", "-n", "40"])
    assert common.words_of_run() == "relax.py speed --model model -n 40"


def test_a_program_that_is_not_there_fails_by_name(common):
    assert common.run(common.rival("nobody", "nowhere"), "infer") == [{"failed": "not installed"}]


def test_no_benchmark_hides_a_package(repo):
    names = {file.stem for file in (repo / "benchmarks").glob("*.py")}
    assert not names & (set(packages_distributions()) | sys.stdlib_module_names)

"""The page that follows a run: it keeps up, and answers nobody else."""

import http.client
import threading

import pytest
from playwright.sync_api import expect

from potstill.errors import BackendError, ConfigError, StoreError
from potstill.reporting import Watch, state
from potstill.store import Outcome, RunDir, Stage, write_json

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.toml").write_text("seed = 1\n")
    return RunDir(tmp_path)


@pytest.fixture
def watch(run):
    with Watch(run.path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(watch, path, method="GET", host=None):
    port = watch.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def work(folder):
    (folder / "made").write_text("x")
    return Outcome({}, ["made"])


# --- what it says ---


def test_the_state_follows_the_stages_the_log_and_the_error(run):
    assert [s["state"] for s in state(run.path)["stages"]] == ["not started"] * 4
    told = []
    tell = run.logged(told.append)
    with run.locked():
        run.execute([Stage("sample", "1-sample", {}, work)], tell)
        (run.path / "2-distil" / "rounds" / "0" / "a").mkdir(parents=True)
        errors = {"energy_rmse_mev_per_atom": 1.25, "force_rmse_ev_per_angstrom": 0.03}
        write_json(
            run.path / "2-distil" / "rounds" / "0" / "a" / "round.json", {"round": 0, "n_labels": 12, "errors": errors}
        )
        found = state(run.path)
    assert [s["state"] for s in found["stages"]] == ["done", "started", "not started", "not started"]
    assert found["process"]
    assert found["error"] is None
    assert [line.split(" ", 1)[1] for line in found["log"]] == told
    assert found["rounds"] == [{"round": 0, "n_labels": 12, "energy": 1.25, "force": 30.0}]
    with pytest.raises(BackendError), run.locked():
        raise BackendError("the reference is on holiday")
    found = state(run.path)
    assert found["error"].endswith("BackendError: the reference is on holiday")
    assert found["process"] is None


def test_what_is_no_run_is_not_watched(tmp_path):
    with pytest.raises(StoreError, match="is not a run"):
        Watch(tmp_path)


# --- whom it answers ---


def test_only_the_token_opens_the_page(watch):
    path = "/" + watch.url.split("/", 3)[3]
    answer, content = asked(watch, path)
    assert answer.status == 200
    assert b"A run" in content
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    other = "y" if path[-2] == "x" else "x"
    for wrong in ("/", "/state.json", "/guess/state.json", f"{path[:-2]}{other}/"):
        assert asked(watch, wrong)[0].status == 403


def test_a_name_that_merely_leads_here_is_turned_away(watch):
    path = "/" + watch.url.split("/", 3)[3]
    for host in ("evil.example", f"evil.example:{watch.server_address[1]}", "127.0.0.1", "127.0.0.1:1"):
        assert asked(watch, path, host=host)[0].status == 403


def test_it_reads_only_and_nothing_but_its_pages(watch, run):
    path = "/" + watch.url.split("/", 3)[3]
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asked(watch, path, method)[0].status == 501
    (run.path.parent / "secret").write_text("secret")
    for name in ("config.toml", "../secret", "%2e%2e/secret", "/etc/passwd", "report.html"):
        assert asked(watch, path + name)[0].status == 404


def test_where_nothing_can_listen_or_nobody_be_told_apart_it_is_said(watch, run):
    with pytest.raises(ConfigError, match="another --port"):
        Watch(run.path, watch.server_address[1])
    with pytest.raises(ConfigError, match="stands for all"):
        Watch(run.path, host="0.0.0.0")  # noqa: S104


def test_it_listens_to_this_machine_only(watch):
    assert watch.server_address[0] == "127.0.0.1"
    assert len(watch.token) >= 32


# --- as a person sees it ---


@pytest.mark.browser
def test_the_page_keeps_up_and_names_do_no_harm(page, watch, run):
    page.goto(watch.url)
    page.wait_for_selector("#stages tr")
    assert page.inner_text("#stages").count("not started") == 4
    with run.locked():
        run.execute([Stage("sample", "1-sample", {}, work)], run.logged(lambda _line: None))
        run.note("3/40, 0 failed")
        run.log(HOSTILE)
        expect(page.locator("#now")).to_contain_text("running as process", timeout=10_000)
        expect(page.locator("#stages")).to_contain_text("done", timeout=10_000)
        expect(page.locator("#labels")).to_contain_text("3/40", timeout=10_000)
        expect(page.locator("#log")).to_contain_text("onerror", timeout=10_000)
    expect(page.locator("#now")).to_contain_text("not running", timeout=10_000)
    assert "taken" not in page.title()
    assert page.said == []
    assert all(url.startswith(watch.url) for url in page.asked)

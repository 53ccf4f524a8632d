"""A real browser without a network."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

WITHOUT_GPU = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


@pytest.fixture(scope="session")
def chromium():
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing; `make system` installs it as root")
        pytest.skip("chromium is not installed; as root, `make system` installs it")
    return found


@pytest.fixture(scope="session")
def browser(chromium):
    """The browser, driven; it draws in three dimensions by the processor."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *WITHOUT_GPU]
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A tab; what its console said and what it asked for are ``page.said`` and ``page.asked``."""
    tab = browser.new_page(viewport={"width": 1300, "height": 900})
    tab.said, tab.asked = [], []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.on("request", lambda request: tab.asked.append(request.url))
    yield tab
    tab.close()

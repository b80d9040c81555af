"""A browser, and a service over a cluster that tests move by hand. Skipped without Chromium or the live page."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from powerflow.dashboard.assets import assets
from powerflow.service.middleware import LOOPBACK
from powerflow.service.server import ApiServer, take_port
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import service

#: Set to a folder to keep screenshots there.
SCREENSHOTS = "POWERFLOW_SCREENSHOTS"
#: Longest time that a page may take for what a test waits for, in milliseconds.
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")  # Playwright's event loop runs in this thread meanwhile: other tests have their own
def chromium() -> Iterator[Any]:
    """Debian's Chromium, which Playwright drives."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    if "live.js" not in assets():
        pytest.skip("the live page was not built: npm's registry was not reached when PowerFlow was installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Site:
    """A service that can be stopped and started again at the same port."""

    cluster: FakeCluster
    port: int
    server: ApiServer | None = None
    #: What the pages complained about: errors of scripts, and what the security policy has blocked.
    complaints: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = service(self.cluster, hosts=LOOPBACK, log=io.StringIO())
        self.server = ApiServer(app, port=self.port)
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None


@pytest.fixture
def site() -> Iterator[Site]:
    with take_port("127.0.0.1", 0) as taken:
        found = Site(FakeCluster(), taken.getsockname()[1])
    found.start()
    yield found
    found.stop()


@pytest.fixture
def page(chromium: Any, site: Site) -> Iterator[Any]:
    """A page of a browser of its own, without cookies."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    found = context.new_page()
    found.on("pageerror", lambda error: site.complaints.append(str(error)))
    found.on("console", lambda said: site.complaints.append(said.text) if "Content Security" in said.text else None)
    yield found
    context.close()
    assert site.complaints == []


def sign_in(page: Any, site: Site, role: str = "viewer", path: str = "/") -> None:
    page.goto(site.url + path)
    page.fill("#token", f"pf_{role}")
    page.click("main button")
    page.wait_for_selector(".who")


def keep(page: Any, name: str) -> None:
    """Keep a screenshot, if somebody wants to look at it."""
    if folder := os.environ.get(SCREENSHOTS):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)

"""Fixtures: a real browser in front of a real gunicorn."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from gunicorn_server import Server
from seen import submit_to

from jobmanager.auth.tokens import Role, TokenFile

#: Timeout of each expectation, long enough for a slow machine.
PATIENCE_MILLISECONDS = 30_000
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Browser]]:
    """Return a function that starts a browser with extra flags. Skips the test if Chromium is not installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no browser here; install one with: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browsers: list[Browser] = []

        def start(*flags: str) -> Browser:
            browsers.append(playwright.chromium.launch(executable_path=chromium, args=[*_FLAGS, *flags]))
            return browsers[-1]

        yield start
        for browser in browsers:
            browser.close()


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Browser]) -> Browser:
    """Return a browser."""
    return launch()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a running server, which the tests share."""
    server = Server(tmp_path_factory.mktemp("browser") / "data", app="wsgi:app")
    yield server.start()
    server.close()


@pytest.fixture
def page(browser: Browser, service: Server) -> Iterator[Page]:
    """Return an empty page. Relative addresses refer to the service."""
    context = browser.new_context(base_url=service.url, viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    yield context.new_page()
    context.close()


@pytest.fixture
def said(page: Page) -> Iterator[list[str]]:
    """Collect the browser's errors and warnings, and its requests to other hosts. Fails the test if there are any."""
    found: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: urlsplit(request.url).hostname != "127.0.0.1" and found.append(request.url))
    yield found
    assert found == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server for this test alone."""
    servers: list[Server] = []

    def make(app: str = "wsgi:app", **settings: object) -> Server:
        servers.append(Server(tmp_path / "data", app=app, **settings))
        return servers[-1].start()

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def steps(service: Server) -> Iterator[Callable[..., str]]:
    """Return a function that submits a job with many steps (long by default). Stops these jobs after the test."""
    ids: list[str] = []

    def submit(count: int = 100_000, seconds: float = 0.02, **more: Any) -> str:
        ids.append(submit_to(service, {"steps": count, "seconds": seconds}, **more))
        return ids[-1]

    yield submit
    for job_id in ids:
        service.client.post(f"/jobs/{job_id}/stop", json={})


@pytest.fixture
def guarded(start: Callable[..., Server], tmp_path: Path) -> tuple[Server, dict[str, str]]:
    """Return a server that requires tokens, and a token of each role."""
    tokens = TokenFile(tmp_path / "tokens")
    secrets = {str(role): tokens.add(f"a-{role}", role, now=datetime.now(UTC)) for role in Role}
    server = start(TOKENS=tokens.path)
    server.client.headers["Authorization"] = f"Bearer {secrets['operator']}"
    return server, secrets

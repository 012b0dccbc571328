"""A real browser in front of a real gunicorn."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from gunicorn_server import Server

#: How long anything may take to come true, on a slow machine.
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
def browser() -> Iterator[Browser]:
    """Return a browser, or skip where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no browser here; install one with: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that runs."""
    server = Server(tmp_path_factory.mktemp("browser") / "data", app="wsgi:app")
    yield server.start()
    server.close()


@pytest.fixture
def page(browser: Browser, service: Server) -> Iterator[Page]:
    """Return an empty page; addresses are relative to the service."""
    context = browser.new_context(base_url=service.url, viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    yield context.new_page()
    context.close()

"""The API docs in a browser: everything comes from the service itself, and "Try it out" works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gunicorn_server import Server
from playwright.sync_api import Locator, Page, expect

from jobmanager.auth.tokens import Role, TokenFile


def operations_of(page: Page) -> int:
    """Return how many operations the specification describes."""
    return sum(map(len, page.request.get("/apispec.json").json()["paths"].values()))


@pytest.fixture
def docs(page: Page) -> Page:
    """Return the page of the API docs. Waits until it is drawn."""
    page.goto("/apidocs/")
    expect(page.locator(".opblock")).to_have_count(operations_of(page))
    return page


def operation(page: Page, tag: str, method: str, path: str) -> Locator:
    """Open the block of an operation, and return it."""
    section = page.locator(".opblock-tag-section", has=page.locator(f'[data-tag="{tag}"]'))
    block = section.locator(f".opblock-{method}", has=page.locator(f'[data-path="{path}"]'))
    block.locator(".opblock-summary-control").click()
    expect(block.get_by_role("button", name="Execute")).to_be_visible()
    return block


def execute(block: Locator) -> tuple[str, Any]:
    """Press Execute. Returns the status and the body that the page shows."""
    block.get_by_role("button", name="Execute").click()
    live = block.locator(".live-responses-table")
    expect(live).to_be_visible()
    status = live.locator("tbody .response-col_status").first.inner_text().split()[0]
    return status, json.loads(live.locator("tbody pre.microlight, tbody .microlight").first.inner_text())


def test_the_api_docs_load_without_errors_and_contact_no_other_host(page: Page) -> None:
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: said.append(f"{request.url} failed"))
    page.on("response", lambda response: response.ok or said.append(f"{response.url} answered {response.status}"))
    page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))

    page.goto("/apidocs/", wait_until="networkidle")

    expect(page.locator(".info .title")).to_contain_text("Job manager")
    expect(page.locator(".opblock")).to_have_count(operations_of(page))
    expect(page.locator(".errors-wrapper")).to_have_count(0)
    assert page.evaluate("window.versions.swaggerUI.version").startswith("5.")
    assert said == []
    assert len(asked) >= 5
    hosts = {urlsplit(address).netloc for address in asked if not address.startswith("data:")}
    assert hosts == {urlsplit(page.url).netloc}


def test_a_job_can_be_submitted_viewed_and_halted_from_the_api_docs(docs: Page) -> None:
    submit = operation(docs, "classic", "post", "/submit")
    submit.locator(".opblock-section-request-body select").last.select_option(label="A job that works for a minute")

    status, submitted = execute(submit)

    assert status == "200"
    assert submitted["details"]["status"] in ("Submitted", "Running")
    assert submitted["details"]["steps"] == 60

    details = operation(docs, "classic", "get", "/details/{job_id}")
    details.get_by_placeholder("job_id").fill(submitted["jobID"])

    status, shown = execute(details)

    assert status == "200"
    assert shown["jobID"] == submitted["jobID"]

    halt = operation(docs, "classic", "post", "/halt/{job_id}")
    halt.get_by_placeholder("job_id").fill(submitted["jobID"])

    status, halted = execute(halt)

    assert status == "200"
    assert halted["details"]["status"] == "Halted"


def test_the_api_docs_show_errors_as_the_service_returns_them(docs: Page) -> None:
    details = operation(docs, "classic", "get", "/details/{job_id}")

    status, shown = execute(details)

    assert status == "404"
    assert shown == {"jobID": shown["jobID"], "error": f"There is no job '{shown['jobID']}'."}


@pytest.mark.parametrize(
    ("tag", "path", "shown"),
    [
        ("classic", "/stop/{job_id}", ["The job has ended and is rolled back", "Stopped", "cannot be asked to"]),
        ("jobs", "/jobs/{job_id}/artifact", ["Range", "If-None-Match", "Content-Disposition", "206", "416"]),
    ],
)
def test_an_operation_shows_its_parameters_responses_and_examples(
    docs: Page, tmp_path: Path, tag: str, path: str, shown: list[str]
) -> None:
    block = operation(docs, tag, "get", path)

    for text in shown:
        expect(block).to_contain_text(text)
    expect(block).not_to_contain_text("undefined")
    block.screenshot(path=tmp_path / f"{tag}.png")


def test_the_submit_operation_describes_the_arguments_of_each_job_type(docs: Page) -> None:
    submit = operation(docs, "classic", "post", "/submit")

    submit.locator(".opblock-section-request-body").get_by_role("tab", name="Schema").click()

    schema = submit.locator(
        ".opblock-section-request-body .model-box, .opblock-section-request-body .json-schema-2020-12"
    )
    expect(schema.first).to_be_visible()
    submit.locator(".opblock-section-request-body").get_by_role("button", name="Expand all").first.click()
    expect(submit).to_contain_text("Writes the rows of a dataset between two dates")
    expect(submit).to_contain_text("How many steps to take")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Return the address of a service that requires tokens, and a token."""
    tokens = TokenFile(tmp_path / "tokens")
    secret = tokens.add("ann", Role.VIEWER, now=datetime.now(UTC))
    server = Server(tmp_path / "data", app="wsgi:app", TOKENS=tokens.path)
    try:
        yield server.start().url, secret
    finally:
        server.close()


def test_authorize_sends_the_token_until_the_page_is_left_without_violating_the_csp(
    page: Page, guarded: tuple[str, str]
) -> None:
    url, secret = guarded
    said: list[str] = []
    page.on("console", lambda message: "Content Security Policy" in message.text and said.append(message.text))
    page.goto(f"{url}/apidocs/")
    details = operation(page, "classic", "get", "/details/{job_id}")
    assert execute(details)[0] == "401"

    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".auth-container input").fill(secret)
    page.locator(".auth-container").get_by_role("button", name=re.compile("Apply|Authorize")).click()
    page.get_by_role("button", name="Close").click()
    details.get_by_role("button", name="Execute").click()
    status = details.locator(".live-responses-table tbody .response-col_status").first
    expect(status).to_contain_text("404")

    assert said == []
    assert secret not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    shown = "JSON.stringify(ui.specSelectors.specJson().toJS().components.schemas)"
    page.wait_for_function(f"{shown}.includes('SimpleArgs')")
    page.goto("about:blank")
    page.goto(f"{url}/apidocs/")
    assert execute(operation(page, "classic", "get", "/details/{job_id}"))[0] == "401"

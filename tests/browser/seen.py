"""Locators for the pages of the dashboard, and the steps that many tests share."""

from __future__ import annotations

import re
from typing import Any

from gunicorn_server import Server
from playwright.sync_api import Locator, Page, expect


def submit_to(server: Server, args: dict[str, Any], **more: Any) -> str:
    answer = server.client.post("/jobs", json={"type": "Simple", "args": args} | more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def row(page: Page, job_id: str) -> Locator:
    """Return the row of a job."""
    return page.locator(f'tr[data-job="{job_id}"]')


def status_of(where: Locator) -> Locator:
    return where.locator(".badge").first


def part(article: Locator, name: str) -> Locator:
    """Return the section of a job's page that has this title."""
    return article.get_by_role("region", name=name, exact=True)


def press(where: Locator, action: str) -> None:
    where.get_by_role("button", name=re.compile(f"^{action}: ")).click()


def see_job(page: Page, job_id: str, prefix: str = "/") -> Locator:
    """Open the page of a job. Waits until it is drawn, and returns its article."""
    page.goto(f"{prefix}?job={job_id}")
    expect(page.locator("article .card.now")).to_be_visible()
    return page.locator("article")


def done_of(where: Locator) -> int:
    """Return the number of completed units that the figures show."""
    text = where.locator(".figures").first.inner_text()
    return int(re.match(r"[\d,]*", text)[0].replace(",", "") or 0)


def sign_in(page: Page, secret: str) -> None:
    page.get_by_label("Token", exact=True).fill(secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("dialog")).to_have_count(0)

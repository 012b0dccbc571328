"""The dashboard at a bad moment: late answers, cut streams, hostile texts, hasty fingers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn_server import Server, until
from playwright.sync_api import APIResponse, Page, Route, expect
from seen import part, press, row, see_job, sign_in, status_of, submit_to

from jobmanager.tokens import TokenFile

HALT = re.compile("^Halt: ")
#: Keeps every status that a badge shows from now on.
WATCH = """badge => {
    window.seen = [badge.innerText];
    new MutationObserver(() => window.seen.push(badge.innerText))
        .observe(badge, {subtree: true, childList: true, characterData: true});
}"""


class Held:
    """Answers that are made at once, and come only when they are let go: so it is with a slow network."""

    def __init__(self, page: Page, pattern: str) -> None:
        self._page = page
        self._is_slow = True
        self._answers: list[tuple[Route, APIResponse]] = []
        page.route(re.compile(pattern), self._take)

    def _take(self, route: Route) -> None:
        if self._is_slow:
            self._answers.append((route, route.fetch()))
        else:
            route.continue_()

    def until(self, count: int = 1) -> None:
        """Wait until so many answers are held."""
        until(lambda: self._page.title() and len(self._answers) >= count, "answers that are held")

    def let_go(self) -> None:
        """Deliver them, and have the page heed them."""
        self._is_slow = False
        for route, answer in self._answers:
            route.fulfill(response=answer)
        self._page.evaluate("fetch('health/live').then(answer => answer.text())")


def asked(page: Page, pattern: str) -> list[float]:
    """Return a list that grows with each request whose address has the pattern: the times at which they were made."""
    times: list[float] = []
    page.on("request", lambda request: re.search(pattern, request.url) and times.append(time.monotonic()))
    return times


def pause(page: Page, job_id: str, action: str, **body: Any) -> None:
    """Have the page ask for an action by a client of its own, so that its handlers run meanwhile."""
    answer = page.request.post(f"jobs/{job_id}/{action}", data=body, headers={"Prefer": "wait=5"})
    assert answer.ok, answer.text()


# What comes late


def test_a_list_that_comes_late_does_not_undo_what_was_seen_to_happen(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    page.goto("/")
    expect(status_of(row(page, job_id))).to_contain_text("running")
    expect(page.locator("#connection")).to_have_text("Live")
    held = Held(page, r"/jobs\?")
    steps()
    held.until(2)
    status_of(row(page, job_id)).evaluate(WATCH)

    pause(page, job_id, "halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")
    held.let_go()

    seen = page.evaluate("window.seen.map(text => text.split(/\\s+/).at(-1))")
    assert "running" not in seen[seen.index("halted") :]


def test_a_job_that_comes_late_does_not_undo_what_was_seen_to_happen(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    article = see_job(page, job_id)
    expect(status_of(article)).to_contain_text("running")
    expect(page.locator("#connection")).to_have_text("Live")
    held = Held(page, f"/jobs/{job_id}$")
    held.until()
    status_of(article).evaluate(WATCH)

    pause(page, job_id, "stop")
    expect(status_of(article)).to_contain_text("stopped")
    held.let_go()

    seen = page.evaluate("window.seen.map(text => text.split(/\\s+/).at(-1))")
    assert "running" not in seen[seen.index("stopped") :]


def test_a_page_that_was_left_says_nothing_any_more(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    see_job(page, job_id)
    held = Held(page, f"/jobs/{job_id}$")
    held.until()

    page.get_by_role("link", name="All jobs").click()
    expect(row(page, job_id)).to_be_visible()
    held.let_go()

    assert page.title() == "Jobs · Job manager"


def test_a_job_that_ended_before_the_click_says_so_and_is_shown_as_it_is(
    page: Page, start: Callable[..., Server]
) -> None:
    server = start(STREAMS=0)
    job_id = submit_to(server, {"steps": 100_000, "seconds": 0.02})
    page.goto(server.url)
    expect(status_of(row(page, job_id))).to_contain_text("running")
    server.ask("stop", job_id)

    press(row(page, job_id), "Halt")

    expect(page.locator("#errors")).to_contain_text("stopped")
    expect(status_of(row(page, job_id))).to_contain_text("stopped")
    expect(row(page, job_id).get_by_role("button", name=HALT)).to_be_hidden()


# The stream


def test_whatever_characters_a_reason_has_the_stream_goes_on(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    article = see_job(page, job_id)
    expect(page.locator("#connection")).to_have_text("Live")
    streams = asked(page, "/events$")

    pause(page, job_id, "halt", reason="line\u2028paragraph\u2029next\u0085cr\rlf\nend: data: x")
    expect(article.locator(".latest")).to_contain_text("paragraph")
    pause(page, job_id, "resume")
    expect(status_of(article)).to_contain_text("running")

    expect(page.locator("#connection")).to_have_text("Live")
    assert streams == []


def test_where_something_cuts_each_stream_at_once_it_is_tried_ever_more_seldom(page: Page) -> None:
    page.route("**/events*", lambda route: route.fulfill(content_type="text/event-stream", body=":\n\n"))
    streams = asked(page, r"/events\?")
    page.goto("/")

    while len(streams) < 4:
        page.wait_for_event("request")

    assert streams[3] - streams[2] > 1.5

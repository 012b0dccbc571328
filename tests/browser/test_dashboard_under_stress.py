"""The dashboard under stress: late answers, cut streams, hasty clicks, hostile texts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gunicorn_server import Server, until
from playwright.sync_api import APIResponse, Page, Route, expect
from seen import part, press, row, see_job, sign_in, status_of, submit_to

from jobmanager.auth.tokens import TokenFile

HALT = re.compile("^Halt: ")
#: Records every status that a badge shows from now on.
WATCH = """badge => {
    window.seen = [badge.innerText];
    new MutationObserver(() => window.seen.push(badge.innerText))
        .observe(badge, {subtree: true, childList: true, characterData: true});
}"""


class Held:
    """A slow network: requests reach the service at once, but `let_go` delivers their answers."""

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
        """Wait until this many answers are held."""
        until(lambda: self._page.title() and len(self._answers) >= count, "held answers")

    def let_go(self) -> None:
        """Deliver the held answers. Waits until the page has processed them."""
        self._is_slow = False
        for route, answer in self._answers:
            route.fulfill(response=answer)
        self._page.evaluate("fetch('health/live').then(answer => answer.text())")


def asked(page: Page, pattern: str) -> list[float]:
    """Return a list of times, to which each request with a matching address adds its own."""
    times: list[float] = []
    page.on("request", lambda request: re.search(pattern, request.url) and times.append(time.monotonic()))
    return times


def pause(page: Page, job_id: str, action: str, **body: Any) -> None:
    """Request an action through Playwright, so that the page's event handlers run meanwhile."""
    answer = page.request.post(f"jobs/{job_id}/{action}", data=body, headers={"Prefer": "wait=5"})
    assert answer.ok, answer.text()


# Late answers


def test_a_late_list_does_not_undo_a_newer_status(page: Page, steps: Callable[..., str]) -> None:
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


def test_a_late_job_does_not_undo_a_newer_status(page: Page, steps: Callable[..., str]) -> None:
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


def test_the_rows_of_the_old_filter_are_marked_as_busy_until_the_new_ones_arrive(
    page: Page, steps: Callable[..., str]
) -> None:
    job_id = steps()
    page.goto("/")
    expect(row(page, job_id)).to_be_visible()
    held = Held(page, r"/jobs\?")

    page.locator(".chip", has_text="failed").click()
    held.until()

    expect(page.locator(".list")).to_have_attribute("aria-busy", "true")
    held.let_go()
    expect(page.locator(".list")).to_have_attribute("aria-busy", "false")
    expect(row(page, job_id)).to_have_count(0)


def test_a_late_answer_does_not_change_a_page_that_was_left(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    see_job(page, job_id)
    held = Held(page, f"/jobs/{job_id}$")
    held.until()

    page.get_by_role("link", name="All jobs").click()
    expect(row(page, job_id)).to_be_visible()
    held.let_go()

    assert page.title() == "Jobs · Job manager"


def test_halting_a_job_that_has_ended_shows_an_error_and_its_current_status(
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


def test_a_reason_with_line_separators_does_not_break_the_stream(page: Page, steps: Callable[..., str]) -> None:
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


def test_reconnecting_backs_off_if_every_stream_is_cut_at_once(page: Page) -> None:
    page.route("**/events*", lambda route: route.fulfill(content_type="text/event-stream", body=":\n\n"))
    streams = asked(page, r"/events\?")
    page.goto("/")

    while len(streams) < 4:
        page.wait_for_event("request")

    assert streams[3] - streams[2] > 1.5


def test_the_page_reconnects_after_the_computer_has_slept(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    page.clock.install()
    page.goto("/")
    expect(page.locator("#connection")).to_have_text("Live")
    expect(row(page, job_id)).to_be_visible()
    streams = asked(page, r"/events\?")

    page.clock.set_system_time(datetime.now() + timedelta(minutes=10))

    until(lambda: page.title() and streams, "another stream", seconds=5)
    expect(page.locator("#connection")).to_have_text("Live")


def test_the_page_polls_and_says_so_if_streams_are_blocked(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    page.route("**/events*", lambda route: route.abort())

    page.goto("/")

    expect(page.locator("#connection")).to_have_text("Every 10 seconds")
    expect(page.locator("#banner")).to_contain_text("Live updates are not available")
    pause(page, job_id, "halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")


# The list


def test_a_search_is_not_lost_if_a_status_is_chosen_right_after_typing(page: Page) -> None:
    page.goto("/")

    page.get_by_label("Search").fill("red")
    page.locator(".chip", has_text="running").click()

    expect(page).to_have_url(re.compile(r"q=red&status=running|status=running&q=red"))
    expect(page.get_by_label("Search")).to_have_value("red")


def test_a_pending_search_does_not_return_to_a_list_that_was_left(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    page.clock.install()
    page.goto("/")
    expect(row(page, job_id)).to_be_visible()

    page.get_by_label("Search").fill("red")
    row(page, job_id).get_by_role("link", name="Simple", exact=True).click()
    page.clock.run_for(1000)

    expect(page).to_have_url(re.compile(f"job={job_id}"))
    expect(page.locator("article.job")).to_be_visible()


def test_the_search_field_matches_the_list_after_the_back_button(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Type").select_option("Simple")
    search = page.get_by_label("Search")
    search.fill("red")
    page.wait_for_url("**q=red*")
    expect(search).to_be_focused()

    page.go_back()

    expect(page.get_by_label("Type")).to_have_value("")
    expect(search).to_have_value("")


def test_the_focus_stays_on_a_job_if_one_above_it_leaves_the_list(page: Page, steps: Callable[..., str]) -> None:
    [mine, above] = [steps(labels={"focus": "yes"}) for _ in range(2)]
    page.goto("/?label=focus:yes&status=running")
    expect(page.locator("tbody tr")).to_have_count(2)
    halt = row(page, mine).get_by_role("button", name=HALT)
    halt.focus()

    pause(page, above, "stop")

    expect(page.locator("tbody tr")).to_have_count(1)
    expect(halt).to_be_focused()


def test_the_focus_stays_on_the_link_to_older_jobs_if_new_jobs_arrive(page: Page, start: Callable[..., Server]) -> None:
    server = start(SLOTS=0)
    server.client.post("/jobs/batch", json=[{"type": "Simple"}] * 60)
    page.goto(server.url)
    older = page.get_by_role("link", name="Older")
    older.focus()

    newest = submit_to(server, {})

    expect(row(page, newest)).to_be_visible()
    expect(older).to_be_focused()


def test_rows_do_not_move_while_the_mouse_is_over_them(page: Page, steps: Callable[..., str]) -> None:
    mine = steps()
    page.goto("/")
    halt = row(page, mine).get_by_role("button", name=HALT)
    halt.hover()
    before = halt.bounding_box()

    newer = steps()
    expect(page.locator(".summary")).to_contain_text("order is fixed")

    assert halt.bounding_box() == before
    page.mouse.move(5, 5)
    expect(row(page, newer)).to_be_visible()
    expect(page.locator(".summary")).not_to_contain_text("order is fixed")


def test_new_jobs_appear_if_the_mouse_rests_on_the_rows(page: Page, steps: Callable[..., str]) -> None:
    mine = steps()
    page.goto("/")
    row(page, mine).get_by_role("button", name=HALT).hover()

    newer = steps()

    expect(row(page, newer)).to_be_visible()


def test_a_job_halted_on_the_page_is_not_requested_separately_if_the_list_contains_it(
    page: Page, steps: Callable[..., str]
) -> None:
    job_id = steps()
    page.goto("/")
    single = asked(page, f"/jobs/{job_id}$")
    press(row(page, job_id), "Halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")

    with page.expect_response("**/jobs?*"):
        steps()

    assert single == []


def test_a_row_shows_only_the_first_of_many_labels(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps(labels={f"label{number}": "x" * number for number in range(30)})
    page.goto("/")

    expect(row(page, job_id).locator(".labels")).to_contain_text("24 more")
    assert row(page, job_id).bounding_box()["height"] < 150
    expect(see_job(page, job_id).locator(".label")).to_have_count(30)


def test_a_double_click_on_halt_all_opens_one_dialog_which_the_back_button_cancels(
    page: Page, service: Server, steps: Callable[..., str]
) -> None:
    job_id = steps(labels={"double": "yes"})
    service.until_status("running", job_id)
    page.goto("/")
    page.get_by_label("Label, as name:value").fill("double:yes")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    counts = asked(page, "limit=500")

    page.get_by_role("button", name="Halt all").dblclick()
    expect(page.get_by_role("dialog")).to_have_count(1)
    assert len(counts) == 1

    page.go_back()

    expect(page.get_by_role("dialog")).to_have_count(0)
    assert service.status(job_id) == "running"


# Forms


def test_the_skip_link_keeps_the_input_of_a_form(page: Page) -> None:
    page.goto("/?submit=Simple")
    page.get_by_label("steps").fill("7")

    page.get_by_role("link", name="Skip").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#main$"))

    page.evaluate("fetch('health/live').then(answer => answer.text())")
    expect(page.get_by_label("steps")).to_have_value("7")


def test_large_integers_are_submitted_and_shown_without_rounding(page: Page, start: Callable[..., Server]) -> None:
    server = start("mounted:app")
    page.goto(f"{server.url}/ops/?submit=Various")
    page.get_by_label("name").fill("ann")
    page.get_by_label("day").fill("2024-02-29")
    page.get_by_label("number").fill("9223372036854775807")
    page.get_by_label("rest").fill('{"a": [1234567890123456789]}')

    page.get_by_role("button", name="Submit").click()

    result = part(page.locator("article"), "Result")
    expect(result).to_contain_text('"number": 9223372036854775807')
    expect(result).to_contain_text("1234567890123456789")
    expect(part(page.locator("article"), "Arguments")).to_contain_text("1234567890123456789")


def test_an_emptied_field_is_not_replaced_by_its_default(page: Page, start: Callable[..., Server]) -> None:
    server = start("mounted:app")
    page.goto(f"{server.url}/ops/?submit=Various")
    page.get_by_label("name").fill("ann")
    page.get_by_label("day").fill("2024-02-29")
    page.get_by_label("ratio").fill("")

    page.get_by_role("button", name="Submit").click()

    expect(page.locator(".field.number", has_text="ratio").locator(".error")).to_contain_text("valid number")
    page.get_by_label("ratio").fill("1,5")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".field.number", has_text="ratio").locator(".error")).to_contain_text("valid number")


# Tokens


def test_an_invalid_token_is_rejected_in_the_sign_in_dialog(page: Page, guarded: tuple[Server, dict[str, str]]) -> None:
    server, secrets = guarded
    page.goto(server.url)

    page.get_by_label("Token", exact=True).fill("jm_…")
    page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_label("Token", exact=True)).to_be_visible()
    assert page.get_by_label("Token", exact=True).evaluate("field => !field.validity.valid")
    sign_in(page, f" {secrets['viewer']} ")
    expect(page.locator("#connection")).to_have_text("Live")


def test_revoking_the_token_hides_the_jobs_and_asks_for_a_new_token(
    page: Page, guarded: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, secrets = guarded
    job_id = submit_to(server, {"steps": 100_000, "seconds": 0.02})
    page.goto(server.url)
    sign_in(page, secrets["operator"])
    expect(row(page, job_id)).to_be_visible()

    TokenFile(tmp_path / "tokens").revoke("a-operator")
    expect(page.get_by_role("dialog")).to_contain_text("requires a token")
    page.keyboard.press("Escape")

    expect(page.locator("main")).to_contain_text("Sign in to continue")
    expect(page.locator("#connection")).to_be_hidden()
    expect(row(page, job_id)).to_have_count(0)
    page.get_by_role("button", name="Enter a token").click()
    sign_in(page, secrets["admin"])
    expect(row(page, job_id)).to_be_visible()


def test_a_form_keeps_its_input_if_its_token_is_revoked(
    page: Page, guarded: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, secrets = guarded
    page.goto(f"{server.url}/?submit=Simple")
    sign_in(page, secrets["operator"])
    page.get_by_label("steps").fill("7")
    page.get_by_label("seconds", exact=True).fill("0.01")
    TokenFile(tmp_path / "tokens").revoke("a-operator")

    page.get_by_role("button", name="Submit").click()
    sign_in(page, secrets["admin"])

    expect(page.get_by_label("steps")).to_have_value("7")
    page.get_by_role("button", name="Submit").click()
    expect(status_of(page.locator("article"))).to_contain_text("completed")


# Deceptive texts, and pages that cannot be shown


def test_invisible_and_bidirectional_characters_are_made_visible(page: Page, start: Callable[..., Server]) -> None:
    server = start("mounted:app")
    hidden = {"type": "Hostile", "labels": {"for": "a\u200b\u202eb"}}
    job_id = server.client.post("/ops/jobs", json=hidden).json()["id"]
    page.goto(f"{server.url}/ops/?job={job_id}")
    article = page.locator("article")
    expect(status_of(article)).to_contain_text("completed")
    lines = article.locator(".line .text")

    expect(lines.nth(-4)).to_have_text("red ␇ �txt.exe", use_inner_text=True)
    expect(lines.nth(-3)).to_have_text("�" * 9, use_inner_text=True)
    expect(lines.nth(-2)).to_contain_text("and 98,000 more characters")
    download = part(article, "Result").get_by_role("link")
    expect(download).to_have_text("Download �fdp.exe")
    expect(download).to_have_attribute("download", "�fdp.exe")
    label = article.locator("a.label").first
    expect(label).to_have_text("for:a��b")
    expect(label).to_have_attribute("title", "All jobs with for:a��b")
    expect(article.locator(".card.now")).to_be_hidden()


def test_a_long_log_is_loaded_to_its_end(page: Page, start: Callable[..., Server]) -> None:
    server = start("mounted:app")
    job_id = server.client.post("/ops/jobs", json={"type": "Wordy"}).json()["id"]
    server.client.get(f"/ops/jobs/{job_id}/events", timeout=30)  # ends with the job

    page.goto(f"{server.url}/ops/?job={job_id}")
    lines = page.locator("article .line .text")

    expect(lines).to_have_count(31)
    expect(lines.last).to_have_text("the end")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "halt"])
def test_an_invalid_job_id_shows_an_error(page: Page, name: str) -> None:
    page.goto(f"/?job={name}")

    expect(page.locator("article")).to_contain_text("There is no such job")
    expect(page.locator("#connection")).to_be_hidden()


def test_a_body_that_times_out_is_reported_in_words(page: Page) -> None:
    page.add_init_script("""const real = fetch;
        const late = () => new DOMException("signal timed out", "TimeoutError");
        const stalled = () => new Response(new ReadableStream({start: (body) => body.error(late())}));
        window.fetch = async (path, options) => path === "job-types" ? stalled() : real(path, options);""")

    page.goto("/")

    expect(page.locator("#errors")).to_contain_text("The service does not answer.")


def test_a_refresh_that_fails_does_not_prevent_the_next_one(page: Page) -> None:
    page.goto("/")

    page.evaluate("""async () => {
        const { throttled } = await import("./static/dashboard/dom.js");
        window.calls = 0;
        window.soon = throttled(async () => { if (++calls === 1) throw new Error("once"); }, 0);
    }""")

    until(lambda: page.evaluate("() => { soon(); return calls; }") > 1)


def test_a_page_without_scripts_links_to_the_api(page: Page) -> None:
    page.route("**/app.js", lambda route: route.abort())
    page.goto("/")

    expect(page.locator("main")).to_contain_text("If this message stays")
    expect(page.locator("main").get_by_role("link", name="API")).to_be_visible()

"""The dashboard in a browser, in front of a real server, as an operator uses it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from gunicorn_server import Server, until
from playwright.sync_api import Browser, Page, expect
from seen import done_of, part, press, row, see_job, sign_in, status_of, submit_to

from jobmanager.jobs.export.sample import make_sample

#: An id that does not belong to any job.
NOBODY = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"

#: The controls that have no name for a screen reader.
UNNAMED = """[...document.querySelectorAll('a, button, input, select, textarea')]
    .filter((node) => !(node.ariaLabel || node.innerText?.trim() || node.labels?.length))
    .map((node) => node.outerHTML)"""
#: The visible texts whose contrast with their background is less than 4.5 (WCAG 2.2, AA).
FAINT = """(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const paint = (colours) => {
        for (const colour of colours) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb.map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
    const behind = (node) => node ? [...behind(node.parentElement), getComputedStyle(node).backgroundColor] : [];
    return [...document.querySelectorAll('body *')]
        .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
        .filter((node) => node.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}))
        .map((node) => {
            const ground = behind(node);
            const pair = [light(paint(ground)), light(paint([...ground, getComputedStyle(node).color]))];
            return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), node.outerHTML];
        })
        .filter(([contrast]) => contrast < 4.5)
        .map(([contrast, html]) => `${contrast.toFixed(2)} ${html.slice(0, 200)}`);
})()"""


# Halt, resume, stop


def test_the_halt_button_halts_the_job_and_shows_its_saved_progress(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    job_id = steps()
    page.goto("/")
    shown = row(page, job_id)
    expect(status_of(shown)).to_contain_text("running")
    until(lambda: done_of(shown) > 0, "progress in the row")

    press(shown, "Halt")

    expect(status_of(shown)).to_contain_text("halted")
    expect(shown.locator(".figures")).to_contain_text("everything is kept")
    expect(page.locator("#notices")).to_contain_text(re.compile(r"is halted\. Kept: [\d,]+ of 100,000\."))
    assert service.status(job_id) == "halted"
    assert done_of(shown) == service.job(job_id)["done"]


def test_a_halted_job_resumes_from_its_checkpoint_on_the_page(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    job_id = steps()
    service.until_done(job_id, 5)
    service.ask("halt", job_id)
    kept = service.job(job_id)["done"]
    article = see_job(page, job_id)
    expect(part(article, "Checkpoint")).to_contain_text(f"{kept:,.0f}")

    press(article, "Resume")

    expect(status_of(article)).to_contain_text("running")
    until(lambda: done_of(article) > kept, "progress beyond the checkpoint")
    expect(part(article, "History")).to_contain_text("Resumed by 127.0.0.1")


def test_a_double_click_on_halt_does_not_hit_resume(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps()
    page.goto("/")
    halt = row(page, job_id).get_by_role("button", name=re.compile("^Halt: "))
    box = halt.bounding_box()

    page.mouse.dblclick(box["x"] + 10, box["y"] + 10)

    expect(status_of(row(page, job_id))).to_contain_text("halted")
    resume = row(page, job_id).get_by_role("button", name=re.compile("^Resume: "))
    assert resume.bounding_box()["x"] > box["x"] + box["width"]


def test_the_stop_button_asks_for_confirmation_warns_that_it_is_final_and_stores_the_reason(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    job_id = steps()
    service.until_done(job_id, 3)
    article = see_job(page, job_id)
    dialog = page.get_by_role("dialog")

    press(article, "Stop")

    expect(dialog).to_contain_text("This is final")
    expect(dialog).to_contain_text("rolled back")
    expect(dialog.locator(".terms")).to_contain_text("of 100,000")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()

    page.keyboard.press("Escape")

    expect(dialog).to_have_count(0)
    assert service.status(job_id) == "running"

    press(article, "Stop")
    dialog.get_by_label("Reason").fill("wrong table")
    dialog.get_by_role("button", name="Stop and roll back").click()

    expect(status_of(article)).to_contain_text("stopped")
    expect(part(article, "History")).to_contain_text("wrong table")
    expect(article.locator(".latest")).to_contain_text("Stop requested")
    expect(article.locator(".actions")).to_be_hidden()
    assert service.changes(job_id)[-2]["reason"] == "wrong table"


def test_a_job_can_be_halted_by_keyboard_and_a_second_enter_does_not_resume_it(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    job_id = steps()
    page.goto(f"/?q={job_id}")
    expect(status_of(row(page, job_id))).to_contain_text("running")
    halt = row(page, job_id).get_by_role("button", name=re.compile("^Halt: "))

    for _ in range(40):
        page.keyboard.press("Tab")
        if halt.evaluate("node => node === document.activeElement"):
            break
    assert halt.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")

    expect(status_of(row(page, job_id))).to_contain_text("halted")
    expect(row(page, job_id).get_by_role("link", name="Simple")).to_be_focused()
    assert service.status(job_id) == "halted"


def test_a_halt_stores_the_reason_that_was_typed(page: Page, service: Server, steps: Callable[..., str]) -> None:
    job_id = steps()
    article = see_job(page, job_id)

    article.get_by_label("Reason").fill("looks wrong")
    press(article, "Halt")

    expect(article.locator(".latest")).to_contain_text("by 127.0.0.1: “looks wrong”")
    expect(part(article, "History").locator("q")).to_have_text("looks wrong")
    expect(article.get_by_label("Reason")).to_have_value("")


def test_a_job_that_ignores_a_stop_is_flagged_and_can_be_stopped_by_force(
    page: Page, start: Callable[..., Server]
) -> None:
    server = start("served:app", STOP_GRACE_SECONDS=0.5)
    job_id = server.client.post("/jobs", json={"type": "Deaf"}).json()["id"]
    server.until_status("running", job_id)
    server.client.post(f"/jobs/{job_id}/stop", json={})
    page.goto(server.url)
    shown = row(page, job_id)
    expect(shown.locator(".alarm")).to_contain_text("does not respond")

    expect(shown.get_by_text("Force stop", exact=True)).to_be_visible()
    press(shown, "Force stop")
    page.get_by_role("dialog").get_by_role("button", name="Force it to stop").click()

    expect(status_of(shown)).to_contain_text("stopped")


def test_a_stuck_job_is_listed_first_even_if_many_jobs_are_newer(page: Page, start: Callable[..., Server]) -> None:
    server = start("served:app", STOP_GRACE_SECONDS=0.5, SLOTS=1)
    stuck = server.client.post("/jobs", json={"type": "Deaf"}).json()["id"]
    server.until_status("running", stuck)
    server.client.post(f"/jobs/{stuck}/stop", json={})
    server.client.post("/jobs/batch", json=[{"type": "Simple"}] * 60)

    page.goto(server.url)

    expect(page.locator("tbody tr").first).to_have_attribute("data-job", stuck)
    expect(page.locator("tbody tr")).to_have_count(51)
    (server.data_dir / "may-end").touch()
    server.until_status("stopped", stuck)


# Live updates


def test_progress_and_completion_appear_without_a_reload(
    page: Page, steps: Callable[..., str], said: list[str]
) -> None:
    job_id = steps(100, 0.05)
    article = see_job(page, job_id)
    page.evaluate("window.isTheSamePage = true")
    seen = until(lambda: done_of(article), "the first progress")

    until(lambda: done_of(article) > seen, "more progress")

    expect(status_of(article)).to_contain_text("completed")
    expect(part(article, "Result")).to_contain_text('"steps": 100')
    expect(part(article, "History")).to_contain_text("Completed")
    expect(part(article, "Log")).to_contain_text("working from step 0 of 100")
    assert page.evaluate("window.isTheSamePage")


def test_changes_by_other_clients_appear_without_a_reload(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    page.goto("/")
    expect(page.locator("#connection")).to_have_text("Live")

    job_id = steps()

    expect(status_of(row(page, job_id))).to_contain_text("running")
    count = page.locator(".chip", has_text="halted").locator(".count")
    expect(count).to_have_text(re.compile(r"\d"))
    halted = int(count.inner_text())

    service.ask("halt", job_id)

    expect(status_of(row(page, job_id))).to_contain_text("halted")
    expect(count).to_have_text(str(halted + 1))


def test_a_row_is_updated_in_place(page: Page, service: Server, steps: Callable[..., str]) -> None:
    job_id = steps()
    page.goto("/")
    expect(status_of(row(page, job_id))).to_contain_text("running")
    row(page, job_id).evaluate("node => { window.node = node; }")

    service.ask("halt", job_id)

    expect(status_of(row(page, job_id))).to_contain_text("halted")
    assert row(page, job_id).evaluate("node => node === window.node")


def test_a_lost_connection_is_shown_and_the_page_reconnects_by_itself(page: Page, start: Callable[..., Server]) -> None:
    server = start()
    job_id = submit_to(server, {"steps": 100_000, "seconds": 0.02})
    page.goto(server.url)
    expect(page.locator("#connection")).to_have_text("Live")
    expect(status_of(row(page, job_id))).to_contain_text("running")

    server.kill9()

    expect(page.locator("#connection")).to_have_text("Connection lost")
    expect(page.locator("#banner")).to_contain_text("This page shows the state at")

    server.start()
    server.ask("halt", job_id)

    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#banner")).to_be_hidden()
    expect(status_of(row(page, job_id))).to_contain_text("halted")


def test_the_page_polls_and_says_so_if_the_service_has_no_stream_left(page: Page, start: Callable[..., Server]) -> None:
    server = start(STREAMS=0)
    page.goto(server.url)
    expect(page.locator("#banner")).to_contain_text("refreshes every 10 seconds")

    job_id = submit_to(server, {"steps": 10, "seconds": 0.01})

    expect(status_of(row(page, job_id))).to_contain_text("completed")


# The list


def test_the_filter_is_in_the_address_survives_a_reload_and_is_undone_by_the_back_button(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    mine, other = steps(labels={"team": "red"}), steps(labels={"team": "blue"})
    page.goto("/")
    expect(row(page, other)).to_be_visible()

    page.get_by_label("Label, as name:value").fill("team:red")
    page.keyboard.press("Enter")
    expect(row(page, other)).to_have_count(0)
    page.locator(".chip", has_text="running").click()
    page.get_by_label("Type").select_option("Simple")
    page.get_by_label("Search").fill("red")
    page.wait_for_url("**q=red*")

    query = parse_qs(urlsplit(page.url).query)
    assert query == {"label": ["team:red"], "status": ["running"], "type": ["Simple"], "q": ["red"]}

    page.reload()

    expect(row(page, mine)).to_be_visible()
    expect(row(page, other)).to_have_count(0)
    expect(page.locator('.chip[aria-pressed="true"]')).to_contain_text("running")
    expect(page.get_by_label("Search")).to_have_value("red")
    expect(page.get_by_label("Type")).to_have_value("Simple")
    expect(page.get_by_role("link", name="Remove team:red")).to_be_visible()

    page.go_back()
    page.go_back()
    page.go_back()

    expect(row(page, other)).to_be_visible()
    assert urlsplit(page.url).query == ""


def test_the_back_button_returns_from_a_job_to_the_filtered_list(
    page: Page, steps: Callable[..., str], said: list[str]
) -> None:
    job_id = steps()
    page.goto("/?type=Simple")
    row(page, job_id).get_by_role("link", name="Simple", exact=True).click()
    expect(page.locator("article h1")).to_have_text("Simple")
    assert parse_qs(urlsplit(page.url).query) == {"job": [job_id]}

    page.go_back()

    expect(row(page, job_id)).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {"type": ["Simple"]}

    page.go_forward()

    expect(page.locator("article h1")).to_have_text("Simple")


def test_older_jobs_are_on_the_next_page(page: Page, start: Callable[..., Server]) -> None:
    server = start(SLOTS=0)
    ids = [submit_to(server, {"steps": number}) for number in range(60)]
    page.goto(server.url)
    expect(page.locator("tbody tr")).to_have_count(50)
    expect(row(page, ids[-1])).to_be_visible()

    page.get_by_role("link", name="Older").click()

    expect(page.locator("tbody tr")).to_have_count(10)
    expect(row(page, ids[0])).to_be_visible()
    page.reload()
    expect(row(page, ids[0])).to_be_visible()

    page.get_by_role("link", name="Newest").click()

    expect(row(page, ids[-1])).to_be_visible()


def test_a_job_halted_on_the_page_stays_visible_if_it_no_longer_matches_the_filter(
    page: Page, steps: Callable[..., str]
) -> None:
    job_id = steps()
    page.goto(f"/?status=running&q={job_id}")

    press(row(page, job_id), "Halt")

    expect(status_of(row(page, job_id))).to_contain_text("halted")
    with page.expect_response("**/jobs?*"):
        pass
    expect(status_of(row(page, job_id))).to_contain_text("halted")


def test_all_jobs_of_a_filter_can_be_halted_after_their_number_is_confirmed(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    mine = [steps(labels={"batch": "one"}) for _ in range(3)]
    other = steps(labels={"batch": "two"})
    service.until_status("running", *mine, other)
    page.goto("/?label=batch:one")
    expect(row(page, mine[0])).to_be_visible()
    dialog = page.get_by_role("dialog")

    page.get_by_role("button", name="Halt all").click()

    expect(dialog.get_by_role("heading")).to_have_text("Halt 3 jobs?")
    expect(dialog).to_contain_text("3 running")
    expect(dialog).to_contain_text("batch:one")

    dialog.get_by_label("Reason").fill("all of these look wrong")
    dialog.get_by_role("button", name="Halt 3").click()

    expect(dialog.get_by_role("heading")).to_have_text("Halt requested for 3 jobs")
    expect(dialog.locator(".ids li")).to_have_count(3)
    service.until_status("halted", *mine)
    assert service.status(other) == "running"
    assert service.changes(mine[0])[-2]["reason"] == "all of these look wrong"
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("tbody .badge", has_text="halted")).to_have_count(3)


def test_an_empty_list_explains_how_to_submit_the_first_job(page: Page, start: Callable[..., Server]) -> None:
    server = start()
    page.goto(server.url)

    expect(page.locator(".empty")).to_contain_text(f"curl -s {server.url}/jobs")
    page.get_by_role("link", name="Submit the first job").click()

    expect(page.get_by_role("heading", name="New job")).to_be_visible()


def test_the_dashboard_links_to_the_api_docs(page: Page) -> None:
    page.goto("/")

    page.get_by_role("link", name="API docs").click()

    expect(page.locator(".info .title")).to_contain_text("Job manager")


# Submit


def test_a_job_can_be_submitted_with_a_form_generated_from_its_schema(
    page: Page, service: Server, said: list[str]
) -> None:
    page.goto("/?submit=Simple")
    expect(page.get_by_label("steps")).to_have_value("60")
    expect(page.locator("form")).to_contain_text("How long a step takes, in seconds.")

    page.get_by_label("steps").fill("7")
    page.get_by_label("seconds", exact=True).fill("0.01")
    page.get_by_text("More options").click()
    page.get_by_label("labels").fill('{"made": "by hand"}')
    page.get_by_role("button", name="Submit").click()

    expect(status_of(page.locator("article"))).to_contain_text("completed")
    job_id = parse_qs(urlsplit(page.url).query)["job"][0]
    job = service.client.get(f"/jobs/{job_id}").json()
    assert (job["args"], job["labels"]) == ({"steps": 7, "seconds": 0.01}, {"made": "by hand"})


def test_an_invalid_value_is_reported_at_its_field(page: Page) -> None:
    page.goto("/?submit=Simple")
    page.get_by_label("steps").fill("many")
    page.get_by_text("More options").click()
    page.get_by_label("labels").fill("{")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".field", has_text="labels").locator(".error")).to_contain_text("Invalid JSON")

    page.get_by_label("labels").fill("")
    page.get_by_role("button", name="Submit").click()

    expect(page.locator(".field", has_text="steps").locator(".error").first).to_have_text(
        "Input should be a valid integer"
    )
    expect(page.get_by_label("steps")).to_be_focused()
    expect(page.get_by_label("steps")).to_have_attribute("aria-invalid", "true")


def test_submitting_again_after_a_lost_answer_creates_one_job(page: Page, service: Server) -> None:
    lost: list[str] = []

    def lose_the_first_answer(route: Any) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(route.fetch().json()["id"])
            route.abort()
        else:
            route.continue_()

    page.route("**/jobs", lose_the_first_answer)
    page.goto("/?submit=Simple")
    page.get_by_label("steps").fill("3")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("form")).to_contain_text("this cannot create a second job")

    page.get_by_role("button", name="Submit").click()

    expect(page.locator("article.job")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query)["job"] == lost


def test_each_kind_of_argument_has_a_suitable_control(page: Page, start: Callable[..., Server]) -> None:
    server = start("mounted:app")
    page.goto(f"{server.url}/ops/?submit=Various")
    expect(page.get_by_label("name")).to_have_attribute("aria-required", "true")
    expect(page.get_by_label("ratio")).to_have_value("0.5")

    page.get_by_label("name").fill("much too long")
    page.get_by_label("day").fill("2024-02-29")
    page.get_by_label("level").select_option(label="high")
    page.get_by_label("is_trial").check()
    page.get_by_label("rest").fill('{"a": [1, "two"]}')
    page.get_by_role("button", name="Submit").click()

    expect(page.locator(".field", has_text="Whose it is").locator(".error")).to_contain_text("at most 8 characters")
    expect(page.locator(".field.json", has_text="rest").locator(".error")).to_contain_text("valid integer")

    page.get_by_label("name").fill("ann")
    page.get_by_label("rest").fill('{"a": [1, 2]}')
    page.get_by_role("button", name="Submit").click()

    expect(status_of(page.locator("article"))).to_contain_text("completed")
    job_id = parse_qs(urlsplit(page.url).query)["job"][0]
    assert server.client.get(f"/ops/jobs/{job_id}").json()["result"] == {
        "name": "ann",
        "day": "2024-02-29",
        "level": "high",
        "number": None,
        "ratio": 0.5,
        "is_trial": True,
        "is_checked": None,
        "rest": {"a": [1, 2]},
    }


# Tokens


def test_an_operator_can_sign_in_and_halt_jobs_and_the_token_is_kept_in_this_tab_only(
    page: Page, guarded: tuple[Server, dict[str, str]]
) -> None:
    server, secrets = guarded
    job_id = submit_to(server, {"steps": 100_000, "seconds": 0.02})
    page.goto(server.url)
    expect(page.get_by_role("dialog")).to_contain_text("requires a token")

    # The dialog opens again at once, with the error.
    page.get_by_label("Token", exact=True).fill("jm_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("dialog").locator(".error")).not_to_be_empty()
    sign_in_again = page.get_by_label("Token", exact=True)
    sign_in_again.fill(secrets["operator"])
    page.get_by_role("button", name="Sign in").click()

    expect(page.locator("#connection")).to_have_text("Live")
    press(row(page, job_id), "Halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")
    assert server.changes(job_id)[-1]["actor"] in ("a-operator", "engine")
    page.reload()
    expect(status_of(row(page, job_id))).to_contain_text("halted")
    assert page.evaluate("JSON.stringify([Object.values(localStorage), document.cookie])") == '[[],""]'
    fresh = page.context.new_page()
    fresh.goto(server.url)
    expect(fresh.get_by_role("dialog")).to_contain_text("requires a token")

    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("dialog")).to_contain_text("requires a token")
    assert secrets["operator"] not in page.evaluate("JSON.stringify(Object.values(sessionStorage))")


def test_a_viewer_sees_all_jobs_and_disabled_buttons_with_the_reason(
    page: Page, guarded: tuple[Server, dict[str, str]]
) -> None:
    server, secrets = guarded
    job_id = submit_to(server, {"steps": 100_000, "seconds": 0.02})
    page.goto(server.url)
    sign_in(page, secrets["viewer"])

    expect(status_of(row(page, job_id))).to_contain_text("running")
    expect(page.locator("#refusal")).to_contain_text("The token 'a-viewer' has the role viewer")
    halt = row(page, job_id).get_by_role("button", name=re.compile("^Halt: "))
    expect(halt).to_have_attribute("aria-disabled", "true")
    expect(halt).to_have_attribute("title", re.compile("needs the role operator"))

    halt.click(force=True)

    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    expect(page.locator("#errors")).to_contain_text("needs the role operator")
    assert server.status(job_id) == "running"


def test_a_download_with_a_token_has_the_right_file_name(
    page: Page, guarded: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, secrets = guarded
    make_sample(server.data_dir, rows=500)
    args = {"from_date": "2023-01-01", "to_date": "2024-12-31"}
    job_id = server.client.post("/jobs", json={"type": "Export", "args": args}).json()["id"]
    server.until_status("completed", job_id)
    page.goto(f"{server.url}/?job={job_id}")
    sign_in(page, secrets["viewer"])

    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()

    assert waiting.value.suggested_filename == "responses_2023-01-01_2024-12-31.csv"
    assert Path(waiting.value.path()).read_bytes() == server.client.get(f"/jobs/{job_id}/artifact").content


# Hostile texts, small screens, wrong addresses, accessibility, prefixes


def test_html_in_labels_arguments_and_reasons_is_shown_as_text(
    page: Page, service: Server, steps: Callable[..., str], said: list[str]
) -> None:
    answer = service.client.post(
        "/jobs",
        json={
            "type": "Simple",
            "args": {"steps": 100_000, "seconds": 0.02, "note": HOSTILE},
            "labels": {"team": HOSTILE},
        },
    )
    job_id = answer.json()["id"]
    service.until_status("running", job_id)
    service.client.post(f"/jobs/{job_id}/halt", json={"reason": HOSTILE}, headers={"Prefer": "wait=5"})

    page.goto("/")
    expect(row(page, job_id).locator(".labels")).to_contain_text(HOSTILE)
    article = see_job(page, job_id)
    expect(part(article, "History")).to_contain_text(HOSTILE)
    expect(part(article, "Arguments")).to_contain_text("<img src=x")
    expect(article.locator(".labels")).to_contain_text(HOSTILE)
    page.goto(f"/?q={HOSTILE}")
    expect(row(page, job_id)).to_be_visible()

    assert page.locator("main img").count() == 0
    assert "owned" not in page.title()
    service.client.post(f"/jobs/{job_id}/stop", json={})


def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, service: Server, steps: Callable[..., str]) -> None:
    job_id = steps(labels={"a-label-with-a-rather-long-name": "and-a-value-that-is-even-longer-than-that-" * 3})
    context = browser.new_context(base_url=service.url, viewport={"width": 400, "height": 800})
    page = context.new_page()
    for address, sign in {"/": "tbody tr", f"/?job={job_id}": "article .card.now", "/?submit": "form"}.items():
        page.goto(address)
        expect(page.locator(sign).first).to_be_visible()

        assert page.evaluate("document.documentElement.scrollWidth") <= 400, address
    page.goto("/")
    press(row(page, job_id), "Halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")
    context.close()


def test_an_unknown_job_id_shows_an_error(page: Page) -> None:
    page.goto(f"/?job={NOBODY}")

    expect(page.locator("article")).to_contain_text(f"There is no job '{NOBODY}'")
    page.get_by_role("link", name="All jobs").click()
    expect(page.locator(".filters")).to_be_visible()


def test_a_job_that_may_not_be_shown_is_not_called_missing(page: Page) -> None:
    refused = {"status": 403, "content_type": "application/problem+json", "body": '{"detail": "Not for this token."}'}
    page.route(re.compile(f"/jobs/{NOBODY}"), lambda route: route.fulfill(**refused))

    page.goto(f"/?job={NOBODY}")

    expect(page.locator("article")).to_contain_text("This job cannot be shownNot for this token.")


@pytest.mark.parametrize("query", ["status=odd", "label=odd", "odd=1"])
def test_an_invalid_filter_shows_an_error_and_no_lost_connection(page: Page, query: str) -> None:
    page.goto(f"/?{query}")

    expect(page.locator(".empty")).to_contain_text("This list cannot be shown")
    expect(page.locator("#banner")).to_be_hidden()
    page.get_by_role("link", name="All jobs").click()
    expect(page.locator("#connection")).to_have_text("Live")


def test_every_control_has_a_name_and_every_text_has_enough_contrast(page: Page, steps: Callable[..., str]) -> None:
    job_id = steps(labels={"team": "red"})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for address in ("/", f"/?job={job_id}", "/?submit=Simple"):
            page.goto(address)
            expect(page.locator("main :is(table, .card)").first).to_be_visible()

            assert page.evaluate(UNNAMED) == [], address
            assert page.evaluate(FAINT) == [], f"{address}, {scheme}"


def test_the_dashboard_works_under_a_prefix(page: Page, start: Callable[..., Server], said: list[str]) -> None:
    server = start("mounted:app")
    answer = server.client.post("/ops/jobs", json={"type": "Simple", "args": {"steps": 100_000, "seconds": 0.02}})
    job_id = answer.json()["id"]
    page.goto(f"{server.url}/ops")
    expect(page.locator("#connection")).to_have_text("Live")

    press(row(page, job_id), "Halt")
    expect(status_of(row(page, job_id))).to_contain_text("halted")
    row(page, job_id).get_by_role("link", name="Simple", exact=True).click()
    article = page.locator("article")
    press(article, "Resume")
    expect(status_of(article)).to_contain_text("running")

    page.get_by_role("link", name="Job manager").click()
    expect(row(page, job_id)).to_be_visible()
    assert urlsplit(page.url).path == "/ops/"
    page.get_by_role("link", name="API docs").click()
    expect(page.locator(".info .title")).to_contain_text("Job manager")

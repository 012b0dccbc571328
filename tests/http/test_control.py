"""Halt, resume and stop as the REST routes have them: of one job, and of many."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobmanager import Job
from jobmanager.http import context
from jobmanager.registry import Registry

SLOW = {"steps": 1_000_000, "seconds": 0.01}
WAIT = {"Prefer": "wait=10"}


class Deaf(Job):
    """Never calls checkpoint until it is let go."""

    let_go = threading.Event()

    def start(self) -> None:
        """Wait, deaf to everything."""
        self.let_go.wait()


class Loops(Job):
    """Never calls checkpoint, in Python code."""

    def start(self) -> None:
        """Loop."""
        while True:
            threading.Event().wait(0.01)


@pytest.fixture
def deaf(types: Registry) -> Iterator[type[Job]]:
    Deaf.let_go.clear()
    yield types.register(Deaf)
    Deaf.let_go.set()


def submit(client: FlaskClient, job_type: str = "Simple", **fields: Any) -> str:
    answer = client.post("/jobs", json={"type": job_type} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json["id"])


def status(client: FlaskClient, job_id: str) -> str:
    return str(client.get(f"/jobs/{job_id}").json["status"])


@pytest.fixture
def running(client: FlaskClient, until: Any) -> Iterator[str]:
    """The id of a job that runs for long."""
    job_id = submit(client, args=SLOW)
    until(lambda: status(client, job_id) == "running")
    yield job_id
    client.post(f"/jobs/{job_id}/stop", headers=WAIT)


def test_a_job_is_halted_resumed_and_stopped_and_each_answer_says_that_it_is(client: FlaskClient, running: str) -> None:
    for verb, reached in [("halt", "halted"), ("resume", "running"), ("stop", "stopped")]:
        answer = client.post(f"/jobs/{running}/{verb}", headers=WAIT)

        assert (answer.status_code, answer.json["status"]) == (200, reached)
        assert answer.headers["Preference-Applied"] == "wait=10"
        assert answer.headers["ETag"] == client.get(f"/jobs/{running}").headers["ETag"]


def test_without_waiting_the_answer_says_that_it_is_under_way(client: FlaskClient, deaf: type[Job], until: Any) -> None:
    job_id = submit(client, "Deaf")
    until(lambda: status(client, job_id) == "running")

    answer = client.post(f"/jobs/{job_id}/halt")

    assert (answer.status_code, answer.json["status"]) == (202, "halting")
    assert "Preference-Applied" not in answer.headers
    assert client.post(f"/jobs/{job_id}/halt", headers={"Prefer": "wait=0"}).status_code == 202


def test_those_who_wait_leave_threads_for_others(client: FlaskClient, until: Any) -> None:
    job_id = submit(client, run_at="2100-01-01T00:00:00Z")
    path, answers = f"/jobs/{job_id}/resume", list[TestResponse]()

    def wait() -> None:
        answers.append(client.application.test_client().post(path, headers={"Prefer": "wait=9"}))

    threads = [threading.Thread(target=wait) for _ in range(context.MOST_WAITS + 1)]
    for thread in threads:
        thread.start()
    until(lambda: answers)

    # One was told at once how things stand; the others, what became of the job.
    assert client.post(f"/jobs/{job_id}/stop").json["status"] == "stopped"
    for thread in threads:
        thread.join(10)
    assert [answer.json["status"] for answer in answers] == ["submitted"] + ["stopped"] * context.MOST_WAITS
    assert [answer.headers.get("Preference-Applied") for answer in answers] == [None] + ["wait=9"] * context.MOST_WAITS


def test_asking_again_changes_nothing_and_is_answered_alike(client: FlaskClient, running: str) -> None:
    first = client.post(f"/jobs/{running}/halt", headers=WAIT)
    changes = client.get(f"/jobs/{running}/changes").json

    again = client.post(f"/jobs/{running}/halt", headers=WAIT)

    assert (again.status_code, again.json["status"]) == (first.status_code, first.json["status"])
    assert client.get(f"/jobs/{running}/changes").json == changes


def test_what_the_status_does_not_allow_is_refused_with_what_it_allows(client: FlaskClient, running: str) -> None:
    client.post(f"/jobs/{running}/stop", headers=WAIT)

    answer = client.post(f"/jobs/{running}/resume")

    assert answer.status_code == 409
    assert answer.json["type"] == "urn:jobmanager:problem:not-allowed"
    assert (answer.json["job_status"], answer.json["allowed"]) == ("stopped", [])


def test_a_request_that_someone_else_was_faster_than_is_refused_and_changes_nothing(
    client: FlaskClient, running: str
) -> None:
    seen = client.get(f"/jobs/{running}").headers["ETag"]
    client.post(f"/jobs/{running}/halt", headers=WAIT)

    answer = client.post(f"/jobs/{running}/stop", headers={"If-Match": seen})

    assert answer.status_code == 412
    assert answer.json["type"] == "urn:jobmanager:problem:outdated"
    assert answer.json["detail"] == "The job has changed since you looked at it; it is halted now."
    assert status(client, running) == "halted"


def test_a_request_that_fits_what_was_seen_is_carried_out_although_the_job_made_progress(
    client: FlaskClient, running: str, until: Any
) -> None:
    seen = client.get(f"/jobs/{running}")
    until(lambda: (client.get(f"/jobs/{running}").json["checkpoint"] or {}).get("seq", 0) > 5)

    answer = client.post(f"/jobs/{running}/halt", headers={"If-Match": seen.headers["ETag"]} | WAIT)

    assert (answer.status_code, answer.json["status"]) == (200, "halted")


@pytest.mark.parametrize(
    ("given", "status_code"), [("*", 200), ('"a.1", "b"', 412), ('W/"a.1"', 412), (",", 412), ('"', 412)]
)
def test_any_version_will_do_for_a_star_and_none_for_what_is_not_the_job_s(
    client: FlaskClient, running: str, given: str, status_code: int
) -> None:
    assert client.post(f"/jobs/{running}/halt", headers={"If-Match": given} | WAIT).status_code == status_code


def test_a_stop_by_force_ends_code_that_does_not_answer(client: FlaskClient, types: Registry, until: Any) -> None:
    types.register(Loops)
    job_id = submit(client, "Loops")
    until(lambda: status(client, job_id) == "running")

    answer = client.post(f"/jobs/{job_id}/stop", json={"force": True}, headers=WAIT)

    assert (answer.status_code, answer.json["status"]) == (200, "stopped")


@pytest.mark.parametrize(
    ("verb", "body", "pointer"),
    [
        ("halt", {"force": True}, "#/force"),
        ("resume", {"why": "x"}, "#/why"),
        ("stop", {"force": "yes"}, "#/force"),
        ("stop", {"reason": 1}, "#/reason"),
        ("stop", {"reason": "x" * 1001}, "#/reason"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_changed(
    client: FlaskClient, running: str, verb: str, body: dict[str, Any], pointer: str
) -> None:
    answer = client.post(f"/jobs/{running}/{verb}", json=body)

    assert answer.status_code == 422
    assert answer.json["errors"][0]["pointer"] == pointer
    assert status(client, running) == "running"


@pytest.mark.parametrize("verb", ["halt", "resume", "stop"])
def test_an_unknown_job_cannot_be_asked(client: FlaskClient, verb: str) -> None:
    assert client.post(f"/jobs/0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506/{verb}").status_code == 404


# Many at once


def sweep(client: FlaskClient, verb: str, **body: Any) -> dict[str, Any]:
    answer: TestResponse = client.post(f"/jobs/{verb}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def test_all_jobs_that_a_filter_selects_are_halted_and_those_that_cannot_be_are_told(
    client: FlaskClient, running: str, until: Any
) -> None:
    done = submit(client, args={"steps": 0})
    other = submit(client, args=SLOW, labels={"customer": "acme"})
    until(lambda: (status(client, done), status(client, other)) == ("completed", "running"))

    told = sweep(client, "halt", type="Simple", reason="an incident")

    assert (told["matched"], told["changed"]) == (3, 2)
    assert set(told["changed_ids"]) == {running, other}
    assert told["unchanged"] == [
        {"id": done, "reason": "A job that is completed cannot be asked to halt (it is final)."}
    ]
    until(lambda: [status(client, job_id) for job_id in (running, other)] == ["halted", "halted"])
    assert client.get(f"/jobs/{other}/changes").json["changes"][2]["reason"] == "an incident"
    assert sweep(client, "stop", label="customer:acme")["changed_ids"] == [other]
    until(lambda: status(client, other) == "stopped")


def test_what_is_so_already_is_told_as_unchanged(client: FlaskClient, running: str) -> None:
    client.post(f"/jobs/{running}/halt", headers=WAIT)

    told = sweep(client, "halt", status=["halted", "running"])

    assert told == {
        "matched": 1,
        "changed": 0,
        "changed_ids": [],
        "unchanged": [{"id": running, "reason": "It is already halted."}],
    }


def test_a_thousand_halted_jobs_are_resumed_one_after_the_other(client: FlaskClient, manager: Any) -> None:
    made = [client.post("/jobs/batch", json=[{"type": "Simple", "args": {"steps": 0}}] * 250).json for _ in range(4)]
    ids = [job_id for batch in made for job_id in batch["ids"]]
    sweep(client, "halt", status=["submitted"])
    halted = [job["id"] for job in every(client, status="halted")]
    before = manager.now()

    told = sweep(client, "resume", status="halted", spread_seconds=3600)

    assert told["changed"] == len(halted) > 500
    run_ats = {
        job["id"]: datetime.fromisoformat(job["run_at"])
        for job in every(client, status=["submitted", "running", "completed"])
    }
    spread = [run_ats[job_id] for job_id in ids if job_id in set(halted)]
    assert spread == sorted(spread)
    assert abs(spread[0] - before) < timedelta(seconds=60)
    assert abs(spread[-1] - before - timedelta(seconds=3600)) < timedelta(seconds=60)


def every(client: FlaskClient, **query: Any) -> Iterator[dict[str, Any]]:
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/jobs", query_string=query | {"limit": 500} | cursor).json
        yield from page["jobs"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("verb", ["halt", "resume", "stop"])
def test_nothing_is_asked_of_all_jobs_by_mistake(client: FlaskClient, running: str, verb: str) -> None:
    for body in ({}, {"reason": "oops"}, {"all": False}):
        answer = client.post(f"/jobs/{verb}", json=body)

        assert answer.status_code == 422
        assert answer.json["errors"][0]["pointer"] == "#/all"
    for name in ("status", "label"):  # worked out, and come to nothing
        answer = client.post(f"/jobs/{verb}", json={"type": "Simple", name: []})

        assert answer.status_code == 422
        assert answer.json["errors"][0]["pointer"] == f"#/{name}"
    assert client.post(f"/jobs/{verb}").status_code == 422
    assert status(client, running) == "running"


def test_everything_is_halted_where_that_is_said(client: FlaskClient, running: str, until: Any) -> None:
    assert sweep(client, "halt", all=True)["changed_ids"] == [running]
    until(lambda: status(client, running) == "halted")


@pytest.mark.parametrize(
    ("verb", "body", "pointer"),
    [
        ("halt", {"status": ["Running"]}, "#/status/0"),
        ("halt", {"types": ["Simple"]}, "#/types"),
        ("halt", {"all": True, "spread_seconds": 1}, "#/spread_seconds"),
        ("resume", {"all": True, "spread_seconds": -1}, "#/spread_seconds"),
        ("stop", {"label": ["x"]}, "#/label/0"),
        ("stop", {"label": ["a:b", "a:c"]}, "#/label"),
    ],
)
def test_a_wrong_filter_is_named(client: FlaskClient, running: str, verb: str, body: Any, pointer: str) -> None:
    answer = client.post(f"/jobs/{verb}", json=body)

    assert answer.status_code == 422
    assert answer.json["errors"][0]["pointer"] == pointer
    assert status(client, running) == "running"

"""Jobs as resources: to submit, to list, to look at, and what happened to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from jobmanager import Job, JobManager, Settings
from jobmanager.http import create_app
from jobmanager.registry import Registry

SLOW = {"steps": 1_000_000, "seconds": 0.01}


class Step(Job):
    """Takes one step, and logs two lines."""

    def start(self) -> dict[str, int]:
        """Tell of it."""
        self.log.info("first")
        self.log.warning("second")
        self.checkpoint([1], done=1, total=1, message="one step")
        return {"steps": 1}


@pytest.fixture
def still(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service that runs nothing."""
    with JobManager(Settings(data_dir=settings.data_dir, slots=0), Registry()) as manager:
        yield create_app(manager).test_client()


def submit(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    """Submit a job that has to be accepted, and return it."""
    answer = client.post("/jobs", json={"type": "Simple"} | fields)
    assert answer.status_code == 202, answer.text
    return dict(answer.json)


def ids(answer: TestResponse) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json["jobs"]]


def assert_problem(answer: TestResponse, status: int, kind: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    assert answer.json["type"] == f"urn:jobmanager:problem:{kind}"
    assert answer.json["status"] == status


def test_a_submission_is_accepted_with_the_place_where_the_job_is(still: FlaskClient) -> None:
    answer = still.post("/jobs", json={"type": "Simple", "args": {"steps": 3}, "priority": 7, "labels": {"a": "b"}})

    assert answer.status_code == 202
    job = answer.json
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert still.get(answer.headers["Location"]).json == job
    assert (job["status"], job["priority"], job["labels"], job["args"]) == ("submitted", 7, {"a": "b"}, {"steps": 3})
    assert job["allowed"] == ["halt", "stop"]


def test_a_job_is_not_run_before_its_time(still: FlaskClient) -> None:
    job = submit(still, run_at="2030-01-01T02:00:00+01:00", max_attempts=3, timeout_seconds=1.5)

    assert job["run_at"] == "2030-01-01T01:00:00Z"
    assert (job["max_attempts"], job["timeout_seconds"]) == (3, 1.5)


def test_the_same_submission_under_one_key_is_the_same_job(still: FlaskClient) -> None:
    first, again = (
        still.post("/jobs", json={"type": "Simple", "args": {"steps": 3}}, headers={"Idempotency-Key": "may"})
        for _ in range(2)
    )

    assert first.status_code == again.status_code == 202
    assert first.json["id"] == again.json["id"]
    assert first.headers["Location"] == again.headers["Location"]
    assert len(ids(still.get("/jobs"))) == 1


def test_another_submission_under_the_same_key_is_refused(still: FlaskClient) -> None:
    still.post("/jobs", json={"type": "Simple"}, headers={"Idempotency-Key": "may"})

    answer = still.post("/jobs", json={"type": "Simple", "priority": 1}, headers={"Idempotency-Key": "may"})

    assert_problem(answer, 422, "idempotency-conflict")
    assert len(ids(still.get("/jobs"))) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_cannot_be_kept_is_refused(still: FlaskClient, key: str) -> None:
    answer = still.post("/jobs", json={"type": "Simple"}, headers={"Idempotency-Key": key})

    assert_problem(answer, 422, "invalid-request")
    assert ids(still.get("/jobs")) == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"type": "Simple", "prioritty": 1}, "#/prioritty"),
        ({"type": "Simple", "args": {"steps": -1}}, "#/args/steps"),
        ({"type": "Simple", "args": []}, "#/args"),
        ({"type": "Simple", "priority": "high"}, "#/priority"),
        ({"type": "Simple", "priority": 2**31}, "#/priority"),
        ({"type": "Simple", "max_attempts": 0}, "#/max_attempts"),
        ({"type": "Simple", "timeout_seconds": 0}, "#/timeout_seconds"),
        ({"type": "Simple", "run_at": "2030-01-01T00:00:00"}, "#/run_at"),
        ({"type": "Simple", "run_at": "tomorrow"}, "#/run_at"),
        ({"type": "Simple", "labels": {"a:b": "c"}}, "#/labels"),
        ({"type": "Simple", "labels": {"a": 1}}, "#/labels/a"),
        ({"type": "Simple", "labels": {"a/b~c": 1}}, "#/labels/a~1b~0c"),
        ({"type": "Simple", "labels": {"a": "b" * 256}}, "#/labels"),
        ({"args": {}}, "#/type"),
    ],
)
def test_a_wrong_field_is_named_by_a_pointer_and_nothing_is_stored(
    still: FlaskClient, body: dict[str, Any], pointer: str
) -> None:
    answer = still.post("/jobs", json=body)

    assert_problem(answer, 422, "invalid-request")
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert answer.json["errors"][0]["detail"]
    assert ids(still.get("/jobs")) == []


def test_every_wrong_field_is_named_at_once(still: FlaskClient) -> None:
    answer = still.post("/jobs", json={"type": "Simple", "priority": "x", "max_attempts": 0})

    assert {error["pointer"] for error in answer.json["errors"]} == {"#/priority", "#/max_attempts"}


def test_an_unknown_type_is_named_with_those_that_are_known(still: FlaskClient) -> None:
    answer = still.post("/jobs", json={"type": "Simpel"})

    assert_problem(answer, 422, "unknown-type")
    assert answer.json["detail"] == "There is no job type 'Simpel'. Known types: Export, Simple."


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"type": NaN}', b"\xff", b'{"type": "\\ud800"}'])
def test_a_body_that_cannot_be_read_is_refused_with_what_one_looks_like(still: FlaskClient, body: bytes) -> None:
    answer = still.post("/jobs", data=body)

    assert_problem(answer, 400, "unreadable")
    assert '{"type": "Simple"' in answer.json["detail"]


def test_a_batch_is_stored_in_its_order(still: FlaskClient) -> None:
    answer = still.post("/jobs/batch", json=[{"type": "Simple", "args": {"steps": step}} for step in range(5)])

    assert answer.status_code == 202
    steps = [still.get(f"/jobs/{job_id}").json["args"]["steps"] for job_id in answer.json["ids"]]
    assert steps == [0, 1, 2, 3, 4]


def test_a_batch_may_have_one_job_a_line(still: FlaskClient) -> None:
    lines = b'{"type": "Simple"}\n\n{"type": "Simple", "priority": 1}\r\n'

    answer = still.post("/jobs/batch", data=lines, content_type="application/x-ndjson")

    assert answer.status_code == 202
    assert ids(still.get("/jobs")) == answer.json["ids"][::-1]


def test_an_empty_batch_stores_nothing(still: FlaskClient) -> None:
    assert still.post("/jobs/batch", json=[]).json == {"ids": []}


def test_of_a_batch_with_a_wrong_job_none_is_stored_and_it_is_named(still: FlaskClient) -> None:
    good = {"type": "Simple"}
    for wrong, pointer in [({"type": "Simple", "args": {"steps": -1}}, "#/2/args/steps"), ({"type": "X"}, "#/2/type")]:
        answer = still.post("/jobs/batch", json=[good, good, wrong, good])

        assert answer.status_code == 422
        assert answer.json["errors"][0]["pointer"] == pointer
    assert ids(still.get("/jobs")) == []


def test_of_a_batch_the_line_that_cannot_be_read_is_named(still: FlaskClient) -> None:
    answer = still.post("/jobs/batch", data=b'{"type": "Simple"}\n{"type": Simple}\n')

    assert_problem(answer, 400, "unreadable")
    assert answer.json["detail"].startswith("Line 2 of the body cannot be read: expecting value at column 10.")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"type": "Simple"}\n\n\n{"type": Simple}\n', 4),
        (b'{"type": "Simple"\n"args": {}}\n', 1),
        (b'{"type": "Simple"}\n{"type": "Simple"}, {"type": "Simple"}\n', 2),
    ],
    ids=["behind empty lines", "one object on two lines", "two objects on one line"],
)
def test_of_a_batch_each_line_is_an_object_and_counts(still: FlaskClient, body: bytes, line: int) -> None:
    answer = still.post("/jobs/batch", data=body)

    assert_problem(answer, 400, "unreadable")
    assert answer.json["detail"].startswith(f"Line {line} of the body")


@pytest.mark.parametrize("number", [1, 30], ids=["small", "large"])
def test_that_a_batch_cannot_be_read_is_told_before_what_is_wrong_with_its_jobs(
    still: FlaskClient, number: int
) -> None:
    jobs = ", ".join([json.dumps({"type": "Simple", "args": {"note": "x" * 100_000}})] * number)

    broken = still.post("/jobs/batch", data=f'[{{"type": "Nope"}}, {jobs}, broken')
    wrong = still.post("/jobs/batch", data=f'[{{"type": "Nope"}}, {jobs}]')

    assert (broken.status_code, wrong.status_code) == (400, 422)
    assert "no job type 'Nope'" in wrong.json["detail"]


def test_a_batch_may_be_larger_than_other_bodies(still: FlaskClient) -> None:
    jobs = [{"type": "Simple", "args": {"note": "x" * 1000}}] * 2000

    assert len(still.post("/jobs/batch", json=jobs).json["ids"]) == 2000
    assert_problem_413(still.post("/jobs", json={"type": "Simple", "args": {"note": "x" * 1024 * 1024}}))


def assert_problem_413(answer: TestResponse) -> None:
    assert answer.status_code == 413
    assert answer.json["detail"] == "The body is larger than 1048576 bytes."


def test_a_list_leads_from_page_to_page(still: FlaskClient) -> None:
    made = [submit(still, labels={"n": str(number)})["id"] for number in range(7)]
    found, target = [], "/jobs?limit=3&type=Simple"
    pages = 0

    while target:
        answer = still.get(target)
        found += ids(answer)
        link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("Link", ""))
        assert (link is not None) == (answer.json["next_cursor"] is not None)
        target, pages = link[1] if link else "", pages + 1

    assert found == made[::-1]
    assert pages == 3


def test_a_time_zone_whose_plus_was_not_escaped_is_read_as_it_was_meant(still: FlaskClient) -> None:
    made = submit(still)["id"]

    assert ids(still.get("/jobs?submitted_after=2020-01-01T02:00:00+02:00")) == [made]
    assert ids(still.get("/jobs?submitted_before=2020-01-01T02:00:00+02:00")) == []


def test_a_list_is_filtered_by_all_that_is_given(still: FlaskClient) -> None:
    now = datetime.now(UTC)
    first = submit(still, labels={"customer": "acme", "kind": "a:b"})["id"]
    second = submit(still, labels={"customer": "acme"})["id"]
    still.post(f"/jobs/{second}/halt")

    assert ids(still.get("/jobs?status=submitted")) == [first]
    assert ids(still.get("/jobs?status=submitted&status=halted")) == [second, first]
    assert ids(still.get("/jobs?label=customer:acme&label=kind:a:b")) == [first]
    assert ids(still.get("/jobs", query_string={"submitted_after": now.isoformat()})) == [second, first]
    assert ids(still.get("/jobs", query_string={"submitted_before": now.isoformat()})) == []
    assert ids(still.get("/jobs", query_string={"q": first})) == [first]
    assert ids(still.get("/jobs?type=Export")) == []


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("status=Running", "status"),
        ("label=x", "label"),
        ("label=a:b&label=a:c", "label"),
        ("submitted_after=yesterday", "submitted_after"),
        ("submitted_after=2030-01-01T00:00:00", "submitted_after"),
        ("cursor=x", "cursor"),
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkuMQ==", "cursor"),
        ("cursor=MS4xMDAwMDAwMDAwMDAwMDAwMDAwMDA=", "cursor"),
        ("q=", "q"),
        ("type=A&type=B", "type"),
        ("page=2", "page"),
    ],
)
def test_a_wrong_parameter_is_named(still: FlaskClient, query: str, name: str) -> None:
    answer = still.get(f"/jobs?{query}")

    assert_problem(answer, 422, "invalid-request")
    assert answer.json["errors"][0]["parameter"] == name


def test_a_job_that_is_at_work_shows_its_pace_its_holder_and_how_soon_it_would_halt(
    client: FlaskClient, until: Any
) -> None:
    job_id = submit(client, args=SLOW)["id"]

    def look() -> dict[str, Any]:
        return dict(client.get(f"/jobs/{job_id}").json)

    job = until(lambda: (job := look()) and (job["progress"]["done"] or 0) > 5 and job)

    assert job["status"] == "running"
    assert 0 < job["progress"]["rate"] <= 100
    assert job["progress"]["eta_seconds"] > 1000
    assert job["checkpoint"]["seq"] > 0
    assert 0 <= job["checkpoint"]["age_seconds"] < 10
    assert job["lease"]["seconds_left"] > 0
    assert 0 < job["expected_halt_seconds"] < 0.5
    assert job["run_seconds"] > 0.04
    client.post(f"/jobs/{job_id}/stop", headers={"Prefer": "wait=10"})


def test_the_rate_does_not_count_the_time_that_a_job_stood_halted(client: FlaskClient, until: Any) -> None:
    job_id = submit(client, args=SLOW)["id"]
    until(lambda: (client.get(f"/jobs/{job_id}").json["progress"]["done"] or 0) > 5)

    halted = client.post(f"/jobs/{job_id}/halt", headers={"Prefer": "wait=10"}).json
    again = client.get(f"/jobs/{job_id}").json

    assert halted["status"] == "halted"
    assert again["progress"] == halted["progress"]
    assert again["run_seconds"] == halted["run_seconds"]
    assert again["progress"]["eta_seconds"] is None
    assert again["expected_halt_seconds"] is None
    assert again["checkpoint"]["done"] == again["progress"]["done"]
    client.post(f"/jobs/{job_id}/stop", headers={"Prefer": "wait=10"})


def test_a_job_that_has_not_changed_is_not_sent_again(still: FlaskClient) -> None:
    job_id = submit(still)["id"]
    first = still.get(f"/jobs/{job_id}")

    again = still.get(f"/jobs/{job_id}", headers={"If-None-Match": first.headers["ETag"]})
    still.post(f"/jobs/{job_id}/halt")
    changed = still.get(f"/jobs/{job_id}", headers={"If-None-Match": first.headers["ETag"]})

    assert (again.status_code, again.data) == (304, b"")
    assert (changed.status_code, changed.json["status"]) == (200, "halted")


def test_what_happened_to_a_job_is_told_with_who_asked_and_why(still: FlaskClient) -> None:
    job_id = submit(still)["id"]
    still.post(f"/jobs/{job_id}/halt", json={"reason": "the disk fills up"})

    first, second = still.get(f"/jobs/{job_id}/changes").json["changes"]

    assert (first["action"], first["from_status"], first["to_status"]) == ("submit", None, "submitted")
    assert (second["action"], second["from_status"], second["to_status"]) == ("halt", "submitted", "halted")
    assert (second["actor"], second["reason"]) == ("127.0.0.1", "the disk fills up")
    assert first["seq"] < second["seq"]
    at = datetime.fromisoformat(second["at"])
    assert at.utcoffset() == timedelta(0)
    assert second["asked_at"] <= second["at"]


def test_what_a_job_logged_is_read_line_by_line(client: FlaskClient, types: Registry, until: Any) -> None:
    types.register(Step)
    job_id = submit(client, type="Step")["id"]
    until(lambda: client.get(f"/jobs/{job_id}").json["status"] == "completed")

    lines = client.get(f"/jobs/{job_id}/log").json["lines"]
    rest = client.get(f"/jobs/{job_id}/log?after={lines[0]['number']}&limit=1").json["lines"]

    assert [(line["level"], line["message"]) for line in lines] == [("INFO", "first"), ("WARNING", "second")]
    assert rest == lines[1:]
    job = client.get(f"/jobs/{job_id}").json
    assert (job["result"], job["progress"]["message"], job["allowed"]) == ({"steps": 1}, "one step", [])


def test_a_page_of_a_log_is_bounded_by_bytes_and_the_last_one_is_empty(
    client: FlaskClient, types: Registry, until: Any
) -> None:
    @types.register
    class Wordy(Job):
        def start(self) -> None:
            for number in range(250):
                self.log.info("%d %s", number, "x" * 9000)

    job_id = submit(client, type="Wordy")["id"]
    until(lambda: client.get(f"/jobs/{job_id}").json["status"] == "completed")

    pages, after = [], 0
    while lines := (answer := client.get(f"/jobs/{job_id}/log?after={after}&limit=10000")).json["lines"]:
        assert len(answer.data) < 1.2 * (1 << 20)
        pages.append(lines)
        after = lines[-1]["number"]

    assert [line["message"].split()[0] for lines in pages for line in lines] == [str(number) for number in range(250)]
    assert len(pages) == 3


def test_args_of_a_batch_that_are_too_large_are_refused_by_name(still: FlaskClient) -> None:
    # Fewer characters than a job of a batch may have, but more bytes than its arguments may have.
    jobs = [{"type": "Simple"}, {"type": "Simple", "args": {"x": "ä" * 600_000}}]

    answer = still.post("/jobs/batch", data=json.dumps(jobs, ensure_ascii=False))

    assert_problem(answer, 422, "invalid-request")
    assert "args is larger than 1 MiB as JSON" in answer.json["detail"]
    assert answer.json["errors"][0]["pointer"] == "#/1/args"
    assert ids(still.get("/jobs")) == []


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=10001", "lines=3", f"after={2**63}"])
def test_wrong_parameters_of_a_log_are_refused(still: FlaskClient, query: str) -> None:
    assert_problem(still.get(f"/jobs/{submit(still)['id']}/log?{query}"), 422, "invalid-request")


@pytest.mark.parametrize("path", ["", "/changes", "/log", "/artifact"])
@pytest.mark.parametrize("job_id", ["0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506", "x", "%00", "halts"])
def test_an_unknown_job_is_not_found(still: FlaskClient, path: str, job_id: str) -> None:
    assert_problem(still.get(f"/jobs/{job_id}{path}"), 404, "unknown-job")


def test_the_names_of_routes_are_no_jobs(still: FlaskClient) -> None:
    for name in ("halt", "resume", "stop", "batch"):
        answer = still.get(f"/jobs/{name}")

        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


def test_job_types_are_told_with_the_schema_of_their_arguments(still: FlaskClient) -> None:
    listed = still.get("/job-types").json["job_types"]
    simple = still.get("/job-types/Simple").json

    assert [job_type["type"] for job_type in listed] == ["Export", "Simple"]
    assert simple in listed
    assert simple["args_schema"]["properties"]["steps"]["default"] == 60
    assert simple["description"]
    assert_problem(still.get("/job-types/Simpel"), 404, "not-found")


def test_numbers_and_texts_come_back_as_they_were_given(still: FlaskClient) -> None:
    args = {"note": "Grüße 🙂 \u0001", "big": 2**70, "deep": [{"a": [1.5, None, True]}], "dot.ted": {"": 0}}

    job_id = submit(still, args=args)["id"]

    assert json.loads(still.get(f"/jobs/{job_id}").data)["args"] == args

"""A request that exceeds a bound is refused by an error that names the field, and changes nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import BaseModel
from werkzeug.test import TestResponse

from jobmanager import Job, JobManager, Settings
from jobmanager.errors import InvalidRequest
from jobmanager.http import create_app, validation, waiting
from jobmanager.http.schemas import request_models
from jobmanager.jobs import BUILT_IN
from jobmanager.registry import Registry
from jobmanager.store import lookup

MIB = 1024 * 1024
JOB = {"type": "Simple"}


@pytest.fixture
def still_app(settings: Settings) -> Iterator[Flask]:
    """A service that runs nothing."""
    with JobManager(Settings(data_dir=settings.data_dir, slots=0), Registry()) as manager:
        yield create_app(manager)


@pytest.fixture
def still(still_app: Flask) -> FlaskClient:
    """A client of a service that runs nothing."""
    return still_app.test_client()


def ids(client: FlaskClient) -> list[str]:
    return [job["id"] for job in client.get("/jobs").json["jobs"]]


def assert_refused(answer: TestResponse, name: str) -> None:
    """Fail unless the answer says that this field, parameter or header is wrong."""
    assert answer.status_code == 422, answer.text
    (error,) = answer.json["errors"]
    assert error.get("parameter", error.get("pointer", "")).removeprefix("#/") == name


# Filters


@pytest.mark.parametrize("number", [33, 200])
@pytest.mark.parametrize("path", ["/jobs", "/events"])
def test_a_query_has_at_most_32_labels(still: FlaskClient, path: str, number: int) -> None:
    assert_refused(still.get(path, query_string=[("label", f"l{each}:x") for each in range(number)]), "label")


@pytest.mark.parametrize("number", [33, 200])
@pytest.mark.parametrize("action", ["halt", "resume", "stop"])
def test_a_bulk_request_has_at_most_32_labels(still: FlaskClient, action: str, number: int) -> None:
    job = still.post("/jobs", json=JOB).json

    answer = still.post(f"/jobs/{action}", json={"label": [f"l{each}:x" for each in range(number)]})

    assert_refused(answer, "label")
    assert still.get(f"/jobs/{job['id']}").json["status"] == "submitted"


def test_a_job_is_found_by_all_of_its_32_labels(still: FlaskClient) -> None:
    labels = {f"l{number}": "x" for number in range(32)}
    made = still.post("/jobs", json=JOB | {"labels": labels}).json["id"]
    still.post("/jobs", json=JOB | {"labels": labels | {"l31": "y"}})

    query = [("label", f"{name}:x") for name in labels]
    found = still.get("/jobs", query_string=[*query, ("q", "x"), ("status", "submitted"), ("type", "Simple")])

    assert [job["id"] for job in found.json["jobs"]] == [made]


# Texts


def models() -> Iterator[type[BaseModel]]:
    """Yield the models of all that a client may send."""
    found: list[type[BaseModel]] = [request_models.StrictModel]
    for model in found:
        found += [child for child in model.__subclasses__() if child not in found]
    yield from found
    yield from (job_type.Args for job_type in BUILT_IN)


def unbounded(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield where a schema has a text or a list of any length."""
    kind = schema.get("type")
    is_chosen = "enum" in schema or "const" in schema or schema.get("format") == "date-time"
    if kind == "string" and not is_chosen and "maxLength" not in schema:
        yield path
    if kind == "array" and "maxItems" not in schema and not schema.get("items", {}).get("enum"):
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from unbounded(inner, f"{path}/{name}")
    for inner in schema.get("anyOf", []):
        # Where one value may stand for a list of one, the bound of the list stands beside the two.
        bound = {"maxItems": schema["maxItems"]} if "maxItems" in schema else {}
        if "required" not in inner:
            yield from unbounded(inner | bound, path)
    if "items" in schema:
        yield from unbounded(schema["items"], f"{path}/items")


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__qualname__)
def test_each_text_and_list_that_a_client_may_send_has_a_bound(model: type[BaseModel]) -> None:
    assert list(unbounded(model.model_json_schema())) == []


HOSTILE = ["T00:00" * 20_000, " " * 100_000, "a:" * 50_000, "2024-01-01T" + "0" * 100_000, "1" * 100_000, "=" * 100_000]


@pytest.mark.parametrize("model", list(models()), ids=lambda model: model.__qualname__)
def test_a_long_text_in_any_field_is_refused_or_taken_at_once(model: type[BaseModel]) -> None:
    begin = time.process_time()

    for name in model.model_fields:
        for text in HOSTILE:
            for value in (text, [text], {text: text}):
                # A validator of Export asks for the settings, which are not there.
                with suppress(InvalidRequest, KeyError):
                    validation.validated(model, {name: value})

    # What takes quadratic time takes minutes; the rest together takes less than a second.
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"type": "x" * 256}, "type"),
        ({"label": "x:" + "y" * 511}, "label"),
        ({"submitted_after": "2024-01-01T00:00:00." + "0" * 60 + "Z"}, "submitted_after"),
        ({"cursor": "A" * 65}, "cursor"),
        ({"q": "x" * 256}, "q"),
    ],
)
def test_a_parameter_that_is_too_long_is_refused(still: FlaskClient, query: dict[str, str], name: str) -> None:
    assert_refused(still.get("/jobs", query_string=query), name)


def test_a_plus_is_put_back_in_queries_alone(still: FlaskClient) -> None:
    told = "2030-01-01T02:00:00 02:00"

    assert still.get("/jobs", query_string={"submitted_after": told}).status_code == 200
    answer = still.post("/jobs/halt", json={"submitted_after": told})
    assert_refused(answer, "submitted_after")


def test_long_headers_are_refused_or_ignored(still: FlaskClient) -> None:
    job = still.post("/jobs", json=JOB).json["id"]

    refused = still.post(f"/jobs/{job}/halt", headers={"If-Match": ", ".join(['"a.1"'] * 1000)})
    ignored = still.post(f"/jobs/{job}/halt", headers={"Prefer": " " * 1000 + "wait=5"})

    assert_refused(refused, "If-Match")
    assert (ignored.status_code, ignored.json["status"]) == (200, "halted")
    assert "Preference-Applied" not in ignored.headers


# Times and numbers are what they are said to be


@pytest.mark.parametrize("value", [0, 1e12, False, True, "0", "1700000000", "1e12", [], {}])
@pytest.mark.parametrize("name", ["submitted_after", "submitted_before"])
def test_only_a_text_in_rfc_3339_is_a_time_of_a_filter(still: FlaskClient, name: str, value: Any) -> None:
    job = still.post("/jobs", json=JOB).json["id"]

    assert_refused(still.post("/jobs/stop", json={name: value}), name)
    assert still.get(f"/jobs/{job}").json["status"] == "submitted"


@pytest.mark.parametrize("value", [0, 1e12, False, "0", "1700000000"])
def test_only_a_text_in_rfc_3339_says_when_a_job_may_run(still: FlaskClient, value: Any) -> None:
    assert_refused(still.post("/jobs", json=JOB | {"run_at": value}), "run_at")
    assert ids(still) == []


@pytest.mark.parametrize("value", [True, False, "5"])
def test_only_a_number_is_a_number_of_seconds(still: FlaskClient, value: Any) -> None:
    assert_refused(still.post("/jobs", json=JOB | {"timeout_seconds": value}), "timeout_seconds")
    assert_refused(still.post("/jobs/resume", json={"all": True, "spread_seconds": value}), "spread_seconds")


# Errors


def test_the_first_hundred_errors_are_reported_and_how_many_more_there_are(still: FlaskClient) -> None:
    answer = still.post("/jobs", json=JOB | {f"x{number}": 1 for number in range(150)})

    assert [error["pointer"] for error in answer.json["errors"]] == [f"#/x{number}" for number in range(100)]
    assert answer.json["detail"].endswith("x99: Extra inputs are not permitted; and 50 more")


def test_a_hundred_errors_are_all_that_there_are(still: FlaskClient) -> None:
    answer = still.post("/jobs", json=JOB | {f"x{number}": 1 for number in range(100)})

    assert len(answer.json["errors"]) == 100
    assert "more" not in answer.json["detail"]


def test_the_name_of_a_wrong_field_is_shortened(still: FlaskClient) -> None:
    answer = still.post("/jobs", json=JOB | {"x" * 100_000: 1})

    assert answer.json["field"] == "x" * 100 + "…"
    assert len(answer.data) < 2000


def test_of_a_batch_the_first_hundred_errors_are_reported(still: FlaskClient) -> None:
    answer = still.post("/jobs/batch", json=[JOB, *[JOB | {"a": 1, "b": 2}] * 60, JOB])

    pointers = [error["pointer"] for error in answer.json["errors"]]
    assert pointers[:3] == ["#/1/a", "#/1/b", "#/2/a"]
    assert len(pointers) == 100
    assert answer.json["detail"].endswith("50.b: Extra inputs are not permitted; and more")
    assert ids(still) == []


# Batches


@pytest.mark.parametrize("body", [b"[" + b"1," * 100_000 + b"1]", b"1\n" * 100_001], ids=["array", "lines"])
def test_a_batch_has_at_most_100000_jobs_which_is_found_before_they_are_looked_at(
    still: FlaskClient, body: bytes
) -> None:
    answer = still.post("/jobs/batch", data=body)

    assert_refused(answer, "100000")
    assert answer.json["detail"] == "A batch has at most 100000 jobs. Send the rest in another batch."


@pytest.mark.parametrize("text", ["[{0}, {1}, {0}]", "{0}\n{1}\n{0}\n"], ids=["array", "lines"])
def test_a_job_of_a_batch_may_be_as_long_as_a_body_with_one_job(still: FlaskClient, text: str) -> None:
    def batch(size: int) -> str:
        empty = len(json.dumps(JOB | {"args": {"note": ""}}))
        return text.replace("{0}", json.dumps(JOB)).replace(
            "{1}", json.dumps(JOB | {"args": {"note": "x" * (size - empty)}})
        )

    assert_refused(still.post("/jobs/batch", data=batch(MIB + 1)), "1")
    assert ids(still) == []
    assert len(still.post("/jobs/batch", data=batch(MIB)).json["ids"]) == 3


def test_lines_are_counted_with_those_that_are_blank(still: FlaskClient) -> None:
    good = json.dumps(JOB)

    answer = still.post("/jobs/batch", data=f"\n \r\n{good}\r\n\t\n{good} {good}\n")

    assert answer.status_code == 400
    assert answer.json["detail"].startswith("Line 5 of the body cannot be read")


def test_a_batch_with_labels_is_stored_in_its_order(still: FlaskClient) -> None:
    batch = [JOB | {"labels": {"n": str(number % 7)}} for number in range(2500)]

    made = still.post("/jobs/batch", json=batch).json["ids"]

    assert len(made) == 2500
    assert [job["id"] for job in still.get("/jobs?label=n:0&limit=3").json["jobs"]] == made[::7][:-4:-1]
    assert still.get(f"/jobs/{made[1]}/changes").json["changes"][0]["action"] == "submit"


def test_a_process_stores_one_batch_at_a_time(still_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BATCH_WAIT_SECONDS", 0.05)
    client, mount = still_app.test_client(), still_app.blueprints["jobmanager"]

    with mount.batch_lock:
        refused = client.post("/jobs/batch", json=[JOB])
    accepted = client.post("/jobs/batch", json=[JOB])

    assert refused.status_code == 503
    assert refused.json["type"] == "urn:jobmanager:problem:batch-under-way"
    assert int(refused.headers["Retry-After"]) > 0
    assert ids(client) == accepted.json["ids"]


class Places(threading.BoundedSemaphore):
    """Places for waiting that show whether one was taken."""

    is_used = False

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        self.is_used = super().acquire(*args, **kwargs)
        return self.is_used


def test_a_batch_waits_for_the_one_before_it(still_app: Flask, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, mount = still_app.test_client(), still_app.blueprints["jobmanager"]
    places = Places(4)
    monkeypatch.setattr(mount, "wait_slots", places)
    answers_given: list[int] = []
    mount.batch_lock.acquire()
    second = threading.Thread(
        target=lambda: answers_given.append(still_app.test_client().post("/jobs/batch", json=[JOB]).status_code)
    )
    second.start()
    until(lambda: places.is_used, "the second one to wait")
    mount.batch_lock.release()
    second.join(10)

    assert answers_given == [202]
    assert len(ids(client)) == 1


def test_a_batch_that_finds_no_place_to_wait_is_refused_at_once(still_app: Flask) -> None:
    client, mount = still_app.test_client(), still_app.blueprints["jobmanager"]
    while mount.wait_slots.acquire(blocking=False):
        pass

    with mount.batch_lock:
        assert client.post("/jobs/batch", json=[JOB]).status_code == 503
    assert client.post("/jobs/batch", json=[JOB]).status_code == 202


# Lists


class Telling(Job):
    """Tells and returns much."""

    def start(self) -> dict[str, str]:
        """Return much."""
        self.checkpoint({"at": "x" * 5000}, done=1)
        return {"text": "y" * 5000}

    def details(self) -> dict[str, str]:
        """Tell much."""
        return {"text": "z" * 5000}


def test_a_list_leaves_out_what_is_large_and_says_so(client: FlaskClient, types: Registry, until: Any) -> None:
    types.register(Telling)
    large = client.post("/jobs", json={"type": "Telling"}).json["id"]
    small = client.post("/jobs", json=JOB | {"args": {"steps": 0, "note": "x"}}).json["id"]
    until(lambda: client.get(f"/jobs/{large}").json["status"] == "completed")

    listed = {job["id"]: job for job in client.get("/jobs").json["jobs"]}
    shown = client.get(f"/jobs/{large}").json

    assert listed[large]["shortened"] == ["details", "result"]
    assert (listed[large]["details"], listed[large]["result"]) == ({}, None)
    assert (listed[small]["shortened"], listed[small]["args"]) == ([], {"steps": 0, "note": "x"})
    assert (shown["shortened"], shown["result"], shown["details"]) == ([], {"text": "y" * 5000}, {"text": "z" * 5000})


def test_a_large_submission_is_shown_whole_by_itself_and_shortened_in_a_list(still: FlaskClient) -> None:
    fits, exceeds = ({"note": "x" * (size - len('{"note":""}'))} for size in (4096, 4097))

    made = [still.post("/jobs", json=JOB | {"args": args}).json for args in (fits, exceeds)]
    second, first = still.get("/jobs").json["jobs"]

    assert [job["args"] for job in made] == [fits, exceeds]
    assert (first["args"], first["shortened"]) == (fits, [])
    assert (second["args"], second["shortened"]) == ({}, ["args"])


def test_a_page_ends_where_it_gets_too_large_and_the_next_one_goes_on(
    still: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "PAGE_BYTES", 12_000)
    made = [still.post("/jobs", json=JOB | {"args": {"note": "x" * 4000}}).json["id"] for _ in range(5)]

    found, sizes, target = [], [], "/jobs"
    while target:
        page = still.get(target).json
        found += [job["id"] for job in page["jobs"]]
        sizes.append(len(page["jobs"]))
        target = page["next_cursor"] and f"/jobs?cursor={page['next_cursor']}"

    assert found == made[::-1]
    assert sizes == [2, 2, 1]


def test_a_bulk_request_keeps_what_it_does_not_look_at(still: FlaskClient) -> None:
    args = {"note": "x" * 10_000}
    job = still.post("/jobs", json=JOB | {"args": args}).json["id"]

    assert still.post("/jobs/halt", json={"all": True}).json["changed_ids"] == [job]

    halted = still.get(f"/jobs/{job}").json
    assert (halted["status"], halted["args"]) == ("halted", args)

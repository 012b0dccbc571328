"""Values that an earlier version has kept, deeper than any may be now, keep nobody from seeing and steering jobs."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobmanager import JobManager, Settings

NOTE = "left out: nested more than 100 levels deep"


@pytest.fixture(params=[101, 254, 960, 985], ids=lambda levels: f"{levels} levels")
def deep_job(request: pytest.FixtureRequest, settings: Settings, manager: JobManager) -> str:
    """Return the id of a halted job that no thread holds, whose args, cursor, details and result are that deep."""
    inside = "[" * (request.param - 1) + "1" + "]" * (request.param - 1)
    value = json.dumps({"steps": 0, "v": 0})[:-2] + inside + "}"
    job_id = manager.submit("Simple", run_at=manager.now() + timedelta(days=1)).id
    manager.halt(job_id)
    with closing(sqlite3.connect(settings.data_dir / "jobmanager.db")) as connection, connection:
        changed = "UPDATE jobs SET args = ?, cursor = ?, details = ?, result = ?, run_at = 1 WHERE id = ?"
        connection.execute(changed, (*[value] * 4, job_id))
    return job_id


def test_the_job_is_shown_with_a_note(client: FlaskClient, deep_job: str) -> None:
    shown = client.get(f"/jobs/{deep_job}")

    assert shown.status_code == 200
    for name in ("args", "details", "result"):
        assert shown.json[name]["steps"] == 0
        assert NOTE in json.dumps(shown.json[name])


def test_lists_show_it_among_others(client: FlaskClient, service: Any, deep_job: str) -> None:
    other = service.submit("Simple")

    listed = client.get("/jobs")

    assert listed.status_code == 200
    assert [job["id"] for job in listed.json["jobs"]] == [other, deep_job]


def test_the_classic_details_show_it(client: FlaskClient, deep_job: str) -> None:
    shown = client.get(f"/details/{deep_job}")

    assert shown.status_code == 200
    assert NOTE in json.dumps(shown.json["details"]["result"])


def test_its_stream_shows_it(client: FlaskClient, deep_job: str) -> None:
    stream = client.get(f"/jobs/{deep_job}/events", buffered=False)
    with closing(stream.response):
        events = iter(stream.response)
        text = ""
        while '"type":"Simple"' not in text or "\n\n" not in text.partition("event: job")[2]:
            text += next(events).decode()

    assert NOTE in text


def test_bulk_requests_reach_it_and_others(client: FlaskClient, service: Any, deep_job: str) -> None:
    other = service.submit("Simple", {"steps": 1_000_000, "seconds": 0.01})

    halted = client.post("/jobs/halt", json={"all": True})
    stopped = client.post("/jobs/stop", json={"all": True})

    assert (halted.status_code, stopped.status_code) == (200, 200)
    assert set(stopped.json["changed_ids"]) == {other, deep_job}
    service.wait_for(deep_job, "Stopped")
    service.wait_for(other, "Stopped")


def test_it_is_resumed_and_ends_and_others_run(client: FlaskClient, service: Any, deep_job: str) -> None:
    assert client.post(f"/jobs/{deep_job}/resume").status_code in (200, 202)

    service.wait_until(deep_job, lambda details: details["status"] in ("Completed", "Failed"))
    service.run("Simple", {"steps": 0})

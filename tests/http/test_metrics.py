"""What the service is watched by is what happened, whatever the store holds and whether or not it answers."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from jobmanager import Job, JobManager, Settings
from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.http import create_app
from jobmanager.registry import Registry


class Counted(Job):
    """Reaches a checkpoint every few milliseconds until it is stopped."""

    def start(self) -> None:
        """Work."""
        for unit in range(10_000):
            self.wait(0.005)
            self.checkpoint(cursor=unit, done=unit)


@pytest.fixture
def types() -> Registry:
    registry = Registry()
    registry.register(Counted)
    return registry


def samples(client: FlaskClient) -> dict[str, float]:
    """Return each number, by its name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.mimetype == "text/plain"
    assert response.headers["Cache-Control"] == "no-store"
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_jobs_are_counted_by_type_and_status_and_the_queue_by_what_could_run(tmp_path: Path, types: Registry) -> None:
    with JobManager(Settings(data_dir=tmp_path, slots=0), types) as manager:
        client = create_app(manager).test_client()
        manager.submit("Simple")
        for _ in range(2):
            manager.submit("Counted")
        manager.halt(manager.submit("Counted").id)
        manager.submit("Counted", run_at=manager.now().replace(year=2100))
        time.sleep(0.05)

        first = samples(client)
        manager.submit("Simple")
        second = samples(client)

    assert first["jobmanager_jobs status=submitted type=Simple"] == 1
    assert first["jobmanager_jobs status=submitted type=Counted"] == 3
    assert first["jobmanager_jobs status=halted type=Counted"] == 1
    assert first["jobmanager_queue_depth"] == 3
    assert 0.05 <= first["jobmanager_queue_oldest_seconds"] < 10
    assert first["jobmanager_slots_busy"] == 0
    assert first["jobmanager_store_up"] == 1
    assert second["jobmanager_jobs status=submitted type=Simple"] == 2


def test_what_a_job_goes_through_is_counted_where_it_happens(client: FlaskClient, service: Any) -> None:
    before = samples(client)
    job_id = service.submit("Counted")
    service.wait_until(job_id, lambda details: details.get("done", 0) > 2)
    during = samples(client)
    service.ask("halt", job_id)
    service.ask("resume", job_id)
    service.ask("stop", job_id)
    service.wait_for(job_id, "Stopped")
    after = samples(client)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert during["jobmanager_jobs status=running type=Counted"] == 1
    assert during["jobmanager_slots_busy"] == 1
    assert 0 <= during["jobmanager_checkpoint_age_seconds type=Counted"] < 5
    assert after["jobmanager_jobs status=stopped type=Counted"] == 1
    assert grown("jobmanager_waiting_seconds_count type=Counted") == 1
    assert grown("jobmanager_halt_latency_seconds_count status=halted type=Counted") == 1
    assert grown("jobmanager_halt_latency_seconds_count status=stopped type=Counted") == 1
    assert 0 < grown("jobmanager_halt_latency_seconds_sum status=halted type=Counted") < 2
    assert grown("jobmanager_run_seconds_count status=stopped type=Counted") == 1
    assert grown("jobmanager_changes_total action=submit type=Counted") == 1
    assert grown("jobmanager_changes_total action=claim type=Counted") == 2
    assert grown("jobmanager_store_seconds_count operation=settle") >= 2
    assert grown("jobmanager_http_request_seconds_count method=POST route=/submit status=200") == 1
    assert grown("jobmanager_http_request_seconds_count method=POST route=/halt/{job_id} status=200") == 1


def test_a_submission_that_was_there_already_is_not_counted_again(manager: JobManager, client: FlaskClient) -> None:
    name = "jobmanager_changes_total action=submit type=Counted"
    later = manager.now().replace(year=2100)
    before = samples(client).get(name, 0)

    for _ in range(3):
        manager.submit("Counted", idempotency_key="one", run_at=later)

    assert samples(client)[name] - before == 1


def test_requests_are_counted_by_their_route_and_unknown_ones_as_one(quiet: FlaskClient) -> None:
    name = "jobmanager_http_request_seconds_count method=GET route={} status=404"
    before = samples(quiet)
    for number in range(3):
        quiet.get(f"/wp-admin/{number}")
        quiet.get(f"/jobs/{number}")
    after = samples(quiet)

    for route in ("none", "/jobs/{job_id}"):
        assert after[name.format(route)] - before.get(name.format(route), 0) == 3


def test_that_the_store_does_not_answer_is_told(tmp_path: Path, types: Registry) -> None:
    (tmp_path / "jobmanager.db").mkdir()
    client = create_app(JobManager(Settings(data_dir=tmp_path), types)).test_client()

    found = samples(client)

    assert found["jobmanager_store_up"] == 0
    assert "jobmanager_queue_depth" not in found


def test_a_token_that_may_see_some_job_types_only_may_not_ask(tmp_path: Path, types: Registry) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    now = datetime.now(UTC)
    secrets = [
        tokens.add("some", Role.ADMIN, types=["Counted"], now=now),
        tokens.add("prometheus", Role.VIEWER, now=now),
    ]
    with JobManager(Settings(data_dir=tmp_path, tokens=tmp_path / "tokens", slots=0), types) as manager:
        client = create_app(manager).test_client()

        answers = [client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}) for secret in secrets]

    assert [answer.status_code for answer in answers] == [403, 200]

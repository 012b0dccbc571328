"""The classic routes that look at a job and steer it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobmanager import Job, JobManager, Settings
from jobmanager.core.states import Status
from jobmanager.core.values import JobRecord, Selection
from jobmanager.http import create_app
from jobmanager.http.routes.classic import WAIT_SECONDS
from jobmanager.registry import Registry
from jobmanager.store import Store

UNKNOWN_ID = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
MALFORMED_IDS = [
    "x",
    "1",
    "-1",
    "null",
    "%00",
    "%ff",
    "%2e%2e",
    "a" * 3000,
    "';DROP TABLE jobs;--",
    "%F0%9F%99%82",
    "*",
]

VERBS = ["halt", "resume", "stop"]
SLOW = {"steps": 1_000_000, "seconds": 0.01}


class Deaf(Job):
    """Never calls checkpoint until it is let go."""

    let_go = threading.Event()

    def start(self) -> None:
        """Wait, deaf to everything."""
        self.let_go.wait()


class Failing(Job):
    """Fails."""

    def start(self) -> None:
        """Raise."""
        raise ValueError("no more ink")


@pytest.fixture
def deaf(types: Registry, manager: JobManager) -> Iterator[type[Job]]:
    Deaf.let_go.clear()
    types.register(Deaf)
    yield Deaf
    Deaf.let_go.set()


@pytest.fixture
def job_in(service: Any, types: Registry) -> Callable[[str], str]:
    """Return what brings a job into the status that is asked for, and returns its id."""

    def make(status: str) -> str:
        if status == "Failed":
            types.register(Failing)
            job_id: str = service.submit("Failing")
            service.wait_for(job_id, "Failed")
        elif status == "Completed":
            job_id = service.run("Simple", {"steps": 0})
        else:
            job_id = service.submit("Simple", SLOW)
            service.wait_for(job_id, "Running")
            verb = {"Running": "resume", "Halted": "halt", "Stopped": "stop"}[status]
            assert service.ask(verb, job_id).json["details"]["status"] == status
        return job_id

    return make


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_halt_that_answered_is_halted_a_resume_runs_and_a_stop_is_stopped(
    client: FlaskClient, service: Any, method: str
) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")

    answers = [client.open(f"/{verb}/{job_id}", method=method) for verb in VERBS]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [answer.json["details"]["status"] for answer in answers] == ["Halted", "Running", "Stopped"]
    for answer in answers:
        assert answer.json["jobID"] == answer.json["details"]["jobID"] == job_id
        assert answer.json["message"] == "Success"
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_halt_answers_as_soon_as_the_job_has_halted(service: Any) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")
    began = time.monotonic()

    service.ask("halt", job_id)

    assert time.monotonic() - began < WAIT_SECONDS / 2


def test_a_halted_job_stays_where_it_stood_and_tells_what_is_kept(service: Any) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_until(job_id, lambda details: details.get("done", 0) >= 3)

    halted = service.ask("halt", job_id).json["details"]

    assert halted["checkpoint"]["done"] == halted["done"] >= 3
    assert halted["checkpoint"]["seq"] > 0
    assert halted["checkpoint"]["saved_at"].endswith("Z")
    assert halted["total"] == SLOW["steps"]
    assert service.details(job_id) == halted
    resumed = service.ask("resume", job_id).json["details"]
    assert resumed["done"] >= halted["done"]


def test_a_job_that_waits_for_a_slot_halts_and_stops_at_once(
    types: Registry, client: FlaskClient, service: Any
) -> None:
    class Rare(Job):
        """Runs alone."""

        max_running = 1

        def start(self) -> None:
            """Wait to be stopped."""
            self.wait(60)

    types.register(Rare)
    first, second = service.submit("Rare"), service.submit("Rare")
    service.wait_for(first, "Running")

    halted = service.ask("halt", second).json["details"]["status"]
    began = time.monotonic()
    resumed = service.ask("resume", second).json["details"]["status"]
    waited = time.monotonic() - began
    stopped = service.ask("stop", second).json["details"]["status"]

    assert (halted, resumed, stopped) == ("Halted", "Submitted", "Stopped")
    assert waited >= WAIT_SECONDS, "a resume waits for the job to run"


def test_a_job_that_does_not_listen_is_shown_as_halting_when_the_wait_is_over(deaf: type[Job], service: Any) -> None:
    job_id = service.submit("Deaf")
    service.wait_for(job_id, "Running")
    began = time.monotonic()

    response = service.ask("halt", job_id)

    assert response.status_code == 200
    assert response.json["details"]["status"] == "Halting"
    assert WAIT_SECONDS <= time.monotonic() - began < WAIT_SECONDS + 2


@pytest.mark.parametrize(("verb", "status"), [("halt", "Halted"), ("stop", "Stopped")])
def test_a_request_at_the_moment_a_job_is_claimed_takes_effect_at_once(
    manager: JobManager, service: Any, types: Registry, monkeypatch: pytest.MonkeyPatch, verb: str, status: str
) -> None:
    @types.register
    class Sleeper(Job):
        """Sleeps for long before its first checkpoint."""

        def start(self) -> None:
            """Sleep."""
            self.wait(60)

    claim = Store.claim

    def claim_and_ask(store: Store, *args: Any, **kwargs: Any) -> list[JobRecord]:
        claimed = claim(store, *args, **kwargs)
        for job in claimed:
            getattr(manager, verb)(job.id)
        return claimed

    monkeypatch.setattr(Store, "claim", claim_and_ask)
    job_id = service.submit("Sleeper")
    manager.wait(job_id, unless=(Status.SUBMITTED,), wait=5)

    response = service.ask(verb, job_id)

    assert response.json["details"]["status"] == status


@pytest.mark.parametrize(
    ("status", "verb"),
    [
        ("Running", "resume"),
        ("Halted", "halt"),
        ("Stopped", "stop"),
    ],
)
def test_asking_for_what_is_already_so_answers_like_success_and_changes_nothing(
    job_in: Callable[[str], str], manager: JobManager, service: Any, status: str, verb: str
) -> None:
    job_id = job_in(status)
    before = manager.changes(job_id)

    response = service.ask(verb, job_id)

    assert response.status_code == 200
    assert response.json["message"] == "Success"
    assert response.json["details"]["status"] == status
    assert manager.changes(job_id) == before


@pytest.mark.parametrize(
    ("status", "verb", "allowed"),
    [
        ("Completed", "halt", "it is final"),
        ("Completed", "resume", "it is final"),
        ("Completed", "stop", "it is final"),
        ("Stopped", "halt", "it is final"),
        ("Stopped", "resume", "it is final"),
        ("Failed", "halt", "allowed: resume, stop"),
    ],
)
def test_what_the_status_does_not_allow_is_a_conflict_that_says_what_is_allowed(
    job_in: Callable[[str], str], service: Any, status: str, verb: str, allowed: str
) -> None:
    job_id = job_in(status)

    response = service.ask(verb, job_id)

    assert response.status_code == 409
    assert response.json == {
        "jobID": job_id,
        "error": f"A job that is {status.lower()} cannot be asked to {verb} ({allowed}).",
    }
    assert service.details(job_id)["status"] == status


@pytest.mark.parametrize("verb", ["resume", "stop"])
def test_a_failed_job_can_be_tried_again_or_rolled_back(job_in: Callable[[str], str], service: Any, verb: str) -> None:
    job_id = job_in("Failed")

    response = service.ask(verb, job_id)

    assert response.status_code == 200
    service.wait_for(job_id, {"resume": "Failed", "stop": "Stopped"}[verb])


@pytest.mark.parametrize("verb", [*VERBS, "details"])
def test_an_unknown_job_is_not_found(quiet: FlaskClient, verb: str) -> None:
    response = quiet.get(f"/{verb}/{UNKNOWN_ID}")

    assert response.status_code == 404
    assert response.json == {"jobID": UNKNOWN_ID, "error": f"There is no job '{UNKNOWN_ID}'."}
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("job_id", MALFORMED_IDS)
@pytest.mark.parametrize(
    ("method", "verb"), [("GET", "details"), ("GET", "halt"), ("POST", "resume"), ("POST", "stop")]
)
def test_a_malformed_id_is_not_found(quiet: FlaskClient, method: str, verb: str, job_id: str) -> None:
    response = quiet.open(f"/{verb}/{job_id}", method=method)

    assert response.status_code == 404
    assert response.json.keys() == {"jobID", "error"}
    assert response.json["error"].startswith("There is no job ")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("body", [b"", b"no JSON", b'{"reason": 1}'])
def test_a_body_of_a_steering_request_is_ignored(client: FlaskClient, service: Any, verb: str, body: bytes) -> None:
    job_id = service.submit("Simple", SLOW)

    assert client.post(f"/{verb}/{job_id}", data=body).status_code == 200


@pytest.mark.parametrize("verb", VERBS)
def test_head_changes_nothing(client: FlaskClient, manager: JobManager, service: Any, verb: str) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")
    before = manager.changes(job_id)

    response = client.head(f"/{verb}/{job_id}")

    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "POST"}
    assert manager.changes(job_id) == before


def test_head_of_details_is_answered_without_a_body(client: FlaskClient, service: Any) -> None:
    job_id = service.submit("Simple", SLOW)

    response = client.head(f"/details/{job_id}")

    assert response.status_code == 200
    assert response.data == b""


@pytest.mark.parametrize("verb", VERBS)
def test_options_changes_nothing(client: FlaskClient, manager: JobManager, service: Any, verb: str) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")
    before = manager.changes(job_id)

    response = client.options(f"/{verb}/{job_id}")

    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))
    assert manager.changes(job_id) == before


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_another_site_cannot_steer_a_job(
    client: FlaskClient, manager: JobManager, service: Any, method: str, verb: str
) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")
    before = manager.changes(job_id)

    response = client.open(f"/{verb}/{job_id}", method=method, headers={"Sec-Fetch-Site": "cross-site"})

    assert response.status_code == 403
    assert response.json == {"jobID": job_id, "error": "A page of another site may not change jobs."}
    assert response.headers["Cache-Control"] == "no-store"
    assert manager.changes(job_id) == before


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender"])
def test_a_browser_that_looks_ahead_cannot_steer_a_job(
    client: FlaskClient, manager: JobManager, service: Any, purpose: str
) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")

    response = client.get(f"/stop/{job_id}", headers={"Sec-Fetch-Site": "none", "Sec-Purpose": purpose})

    assert response.status_code == 403
    assert service.details(job_id)["status"] == "Running"


def test_a_page_of_another_site_cannot_submit_a_job(client: FlaskClient, manager: JobManager) -> None:
    response = client.post("/submit", json={"Type": "Simple"}, headers={"Sec-Fetch-Site": "cross-site"})

    assert response.status_code == 403
    assert response.json == {"jobID": "", "error": "A page of another site may not change jobs."}
    assert manager.find(Selection()).jobs == []


@pytest.mark.parametrize("site", ["same-origin", "none", None])
def test_our_own_pages_the_address_bar_and_other_clients_can_steer_jobs(
    client: FlaskClient, service: Any, site: str | None
) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")

    response = client.get(f"/halt/{job_id}", headers={} if site is None else {"Sec-Fetch-Site": site})

    assert response.status_code == 200
    assert response.json["details"]["status"] == "Halted"


def test_who_asked_is_kept_with_the_change(client: FlaskClient, manager: JobManager, service: Any) -> None:
    job_id = service.submit("Simple", SLOW)
    service.wait_for(job_id, "Running")

    client.get(f"/halt/{job_id}", environ_overrides={"REMOTE_ADDR": "127.0.0.7"})

    halts = [change for change in manager.changes(job_id) if change.action == "halt"]
    assert [change.actor for change in halts] == ["127.0.0.7"]


def test_a_completed_job_tells_its_result(service: Any) -> None:
    job_id = service.run("Simple", {"steps": 2, "seconds": 0})

    details = service.details(job_id)

    assert details["result"] == {"steps": 2}
    assert (details["done"], details["total"]) == (2, 2)
    assert details["attempt"] == 1
    assert details["type"] == "Simple"


def test_a_job_of_a_type_that_is_not_installed_any_more_is_still_shown(
    job_in: Callable[[str], str], settings: Settings
) -> None:
    job_id = job_in("Failed")

    with JobManager(replace(settings, slots=0), Registry()) as without_it:
        response = create_app(without_it).test_client().get(f"/details/{job_id}")

    assert response.status_code == 200
    assert response.json["details"]["type"] == "Failing"
    assert response.json["details"]["error"] == "ValueError: no more ink"

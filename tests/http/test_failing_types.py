"""A job whose code fails comes to a clear end, its details say why, and the service stays up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel, field_validator

from jobmanager import Fatal, Job, JobManager, Settings
from jobmanager.core.outcomes import CLEAN_ATTEMPTS
from jobmanager.registry import Registry


@pytest.fixture
def rng() -> Callable[[], float]:
    """Retry at once."""
    return lambda: 0.0


def test_a_start_that_raises_fails_the_job_with_its_reason(types: Registry, service: Any) -> None:
    @types.register
    class Inkless(Job):
        """Fails in the middle."""

        def start(self) -> None:
            """Take two steps, then raise."""
            self.checkpoint(cursor=2, done=2, total=5)
            raise OSError("no more ink")

    job_id = service.submit("Inkless")

    details = service.wait_for(job_id, "Failed")
    assert details["error"] == "OSError: no more ink"
    assert (details["done"], details["total"]) == (2, 5), "what was reached is kept"
    assert "result" not in details
    assert "Traceback" not in str(details)
    assert service.run("Simple", {"steps": 0})


def test_a_fatal_failure_is_told_in_the_words_of_the_author(types: Registry, service: Any) -> None:
    @types.register
    class Hopeless(Job):
        """Gives up."""

        max_attempts = 5

        def start(self) -> None:
            """Raise."""
            raise Fatal("The table is gone.")

    details = service.wait_for(service.submit("Hopeless"), "Failed")

    assert details["error"] == "The table is gone."
    assert details["attempt"] == 1


def test_a_job_that_waits_for_its_next_try_tells_why_the_last_one_failed(types: Registry, service: Any) -> None:
    @types.register
    class Stubborn(Job):
        """Fails and is tried again, much later."""

        max_attempts = 2

        def start(self) -> None:
            """Raise."""
            raise OSError("no more ink")

    job_id = service.submit("Stubborn")

    details = service.wait_until(job_id, lambda details: "error" in details)
    assert details["error"] == "OSError: no more ink"
    assert details["status"] in ("Submitted", "Running", "Failed")


@pytest.mark.parametrize("result", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_a_result_that_is_not_valid_json_fails_the_job(types: Registry, service: Any, result: dict[str, Any]) -> None:
    @types.register
    class Odd(Job):
        """Returns what cannot be shown."""

        def start(self) -> dict[str, Any]:
            """Return it."""
            return result

    details = service.wait_for(service.submit("Odd"), "Failed")

    assert "JSON" in details["error"]


def test_a_clean_that_raises_is_tried_again_and_then_fails_the_job_with_its_reason(
    types: Registry, service: Any
) -> None:
    @types.register
    class Sticky(Job):
        """Cannot be rolled back."""

        tries: ClassVar[list[int]] = []

        def start(self) -> None:
            """Wait to be stopped."""
            self.wait(60)

        def clean(self) -> None:
            """Raise."""
            self.tries.append(self.attempt)
            raise PermissionError("the lid is stuck")

    job_id = service.submit("Sticky")
    service.wait_for(job_id, "Running")

    response = service.ask("stop", job_id)

    assert response.status_code == 200
    details = service.wait_for(job_id, "Failed")
    assert details["error"] == "PermissionError: the lid is stuck"
    assert len(Sticky.tries) == CLEAN_ATTEMPTS
    assert service.ask("stop", job_id).status_code == 200, "a failed job can be asked to stop again"


def test_details_that_raise_neither_fail_the_job_nor_hide_it(
    types: Registry, service: Any, manager: JobManager
) -> None:
    @types.register
    class Shy(Job):
        """Does not tell of itself, but works."""

        def start(self) -> dict[str, Any]:
            """Take one step."""
            self.checkpoint(cursor=1, done=1, total=1)
            return {"worked": True}

        def details(self) -> dict[str, Any]:
            """Raise."""
            raise RuntimeError("none of your business")

    job_id = service.run("Shy")

    details = service.details(job_id)
    assert details["result"] == {"worked": True}
    assert (details["done"], details["total"]) == (1, 1)
    assert "business" not in str(details)
    assert any("none of your business" in line.message for line in manager.log(job_id)), "its author finds it"


def test_details_of_a_type_cannot_hide_what_the_service_tells(types: Registry, service: Any) -> None:
    @types.register
    class Liar(Job):
        """Claims to be another job."""

        def start(self) -> None:
            """Take one step."""
            self.checkpoint(cursor=1)

        def details(self) -> dict[str, Any]:
            """Lie."""
            return {"jobID": "another", "status": "Running", "type": "Simple", "colour": "red"}

    job_id = service.run("Liar")

    details = service.details(job_id)
    assert details["jobID"] == job_id
    assert details["status"] == "Completed"
    assert details["type"] == "Liar"
    assert details["colour"] == "red"


def test_a_validator_that_breaks_is_an_error_of_ours_that_shows_nothing(
    types: Registry, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @types.register
    class Broken(Job):
        """Has a mistake in its arguments."""

        class Args(BaseModel):
            n: int

            @field_validator("n")
            @classmethod
            def check(cls, n: int) -> int:
                """Divide by zero."""
                return n // 0

        def start(self) -> None:
            """Do nothing."""

    response = client.post("/submit", json={"Type": "Broken", "args": {"n": 1}})

    assert response.status_code == 500
    assert response.json == {"jobID": "", "error": "Internal error. The details are in the service's log."}
    assert "ZeroDivisionError" in caplog.text


class Deaf(Job):
    """Never calls checkpoint until it is let go."""

    let_go = threading.Event()

    def start(self) -> None:
        """Wait, deaf to everything."""
        self.let_go.wait()


@pytest.fixture
def manager(settings: Settings, types: Registry, rng: Callable[[], float]) -> Iterator[JobManager]:
    """A manager that soon calls a job unresponsive; a deaf job is let go before it closes."""
    Deaf.let_go.clear()
    with JobManager(replace(settings, stop_grace_seconds=0.1), types, rng=rng) as manager:
        yield manager
        Deaf.let_go.set()


def test_a_job_that_does_not_answer_a_stop_is_shown_as_unresponsive_until_it_ends(
    types: Registry, service: Any
) -> None:
    types.register(Deaf)
    job_id = service.submit("Deaf")
    service.wait_for(job_id, "Running")

    response = service.ask("stop", job_id)

    assert response.status_code == 200
    assert response.json["details"]["status"] == "Stopping"
    assert response.json["details"]["unresponsive"] is True
    Deaf.let_go.set()
    assert "unresponsive" not in service.wait_for(job_id, "Stopped")


def test_a_job_that_saves_no_checkpoint_for_longer_than_its_type_allows_is_shown_as_stuck(
    types: Registry, service: Any
) -> None:
    go_on = threading.Event()

    @types.register
    class Silent(Job):
        """Works without a word."""

        stuck_after_seconds: ClassVar[float | None] = 0.05

        def start(self) -> None:
            """Wait for the test."""
            go_on.wait(10)

    job_id = service.submit("Silent")
    try:
        details = service.wait_until(job_id, lambda details: "stuck" in details)
    finally:
        go_on.set()

    assert details["stuck"] is True
    assert details["status"] == "Running"
    assert "stuck" not in service.wait_for(job_id, "Completed")

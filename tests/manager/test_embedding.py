"""A program that embeds the manager may call it at any time, from any thread, and gets a clear answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from jobmanager import Job, JobManagerError
from jobmanager.core.states import Status
from jobmanager.errors import InvalidRequest, StoreUnavailable
from jobmanager.registry import Registry


def until_refused(ask: Callable[[], Any], errors: list[BaseException]) -> None:
    """Ask until the manager is closed; keep what else it raised."""
    try:
        while True:
            ask()
    except StoreUnavailable:
        return
    except BaseException as error:
        errors.append(error)


def test_calls_that_come_while_the_manager_is_closed_are_answered_or_refused(
    make_manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    errors: list[BaseException] = []
    for _ in range(8):
        manager = make_manager(slots=2)
        job = manager.submit("Empty").id
        asks: list[Callable[[], Any]] = [
            lambda manager=manager, job=job: manager.get(job),  # type: ignore[misc]
            lambda manager=manager: manager.submit("Empty"),  # type: ignore[misc]
            lambda manager=manager, job=job: manager.changes(job),  # type: ignore[misc]
            lambda manager=manager, job=job: manager.wait(job, unless=(Status.COMPLETED,), wait=0.01),  # type: ignore[misc]
            lambda manager=manager: manager.ping(),  # type: ignore[misc]
        ]
        threads = [threading.Thread(target=until_refused, args=(ask, errors)) for ask in asks]
        for thread in threads:
            thread.start()
        manager.wait(job, unless=("submitted",), wait=0.05)

        manager.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()

    assert errors == []


def test_a_wait_for_a_job_ends_with_an_error_when_the_manager_is_closed(make_manager: Any, steps: Any) -> None:
    manager = make_manager()
    job = manager.submit("Steps")
    manager.until(job.id, "running")
    told: list[BaseException] = []

    def wait() -> None:
        try:
            manager.wait(job.id, unless=tuple(Status), wait=30)
        except JobManagerError as error:
            told.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    manager.close()
    waiter.join(5)

    assert not waiter.is_alive()
    assert [type(error) for error in told] == [StoreUnavailable]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"args": {"when": datetime(2026, 1, 1, tzinfo=UTC)}}, "args"),
        ({"args": {"rate": float("nan")}}, "args"),
        ({"args": {"name": "lone \udcff"}}, "args"),
        ({"labels": {"team": {1}}}, "labels"),
        ({"priority": 1 << 70}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_submission_that_cannot_be_stored_is_refused_and_says_where(
    manager: Any, types: Registry, options: dict[str, Any], field: str
) -> None:
    @types.register
    class Anything(Job):
        type = "Any"

        class Args(Job.Args):
            model_config = {"extra": "allow"}  # noqa: RUF012 - pydantic's own

        def start(self) -> None:
            """Do nothing."""

    with pytest.raises(InvalidRequest) as refused:
        manager.submit("Any", **options)

    assert refused.value.field.partition(".")[0] == field


def test_a_thread_is_named_after_the_job_and_the_attempt_it_began_with(make_manager: Any, steps: Any) -> None:
    manager = make_manager(park_seconds=0.0)
    job = manager.submit("Steps").id
    manager.until(job, "running")
    manager.halt(job, wait=10)
    manager.wait_until(lambda: not names())
    manager.resume(job, wait=10)

    assert names() == [f"job-{job}-2"]


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("job-")]


def test_what_a_checkpoint_claims_is_flushed_before_it_is_saved_and_told_with_it(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Writer(Job):
        def start(self) -> None:
            for step in range(5):
                self.checkpoint(cursor=step, done=step)
                stage.tell(("seen", manager.get(self.job_id).checkpoint.cursor))

        def flush(self) -> None:
            stage.tell(("flush", self.cursor))

        def details(self) -> dict[str, Any]:
            return {"step": self.cursor}

    manager = make_manager(checkpoint_seconds=0.0)
    job = manager.submit("Writer").id
    completed = manager.until(job, "completed")

    assert stage.told == [(what, step) for step in range(5) for what in ("flush", "seen")]
    assert completed.details == {"step": 4}
    assert completed.checkpoint.seq == 5


def test_a_checkpoint_that_was_not_due_is_saved_while_the_job_waits(
    make_manager: Any, types: Registry, until: Any
) -> None:
    @types.register
    class Waiter(Job):
        def start(self) -> None:
            self.checkpoint(cursor="first")
            self.checkpoint(cursor="second")
            self.wait(60)

    manager = make_manager(checkpoint_seconds=0.2)
    job = manager.submit("Waiter").id

    until(lambda: manager.get(job).checkpoint.cursor == "second")

    assert manager.get(job).status == "running"
    assert manager.get(job).checkpoint.seq == 2


def test_lines_are_kept_in_the_order_in_which_they_were_logged_whichever_thread_stores_them(
    manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Talker(Job):
        def start(self) -> None:
            self.log.info("first")
            stage.pass_gate("the engine stores the first")
            self.log.info("second")
            self.checkpoint(cursor=1)
            stage.open("the job has stored the second")

    def fault(name: str) -> None:
        if name == "add_log" and threading.current_thread().name == "jobmanager-engine":
            stage.open("the engine stores the first")
            # Held up here, with the line already taken, for as long as the job is not ahead.
            stage.wait_at("the job has stored the second", 0.5)

    manager.store.fault = fault
    job = manager.submit("Talker").id
    manager.until(job, "completed")

    until(lambda: len(manager.log(job)) == 2)
    assert manager.log_text(job) == "first\nsecond"


def test_a_process_without_slots_submits_and_steers_but_runs_nothing(make_manager: Any, steps: Any, stage: Any) -> None:
    manager = make_manager(slots=0)
    halted, stopped, waiting = (manager.submit("Steps").id for _ in range(3))

    assert manager.halt(halted).status == "halted"
    assert manager.stop(stopped).status == "stopped"
    assert manager.resume(halted, wait=0.1).status == "submitted"
    assert manager.get(waiting).status == "submitted"
    assert stage.told == []

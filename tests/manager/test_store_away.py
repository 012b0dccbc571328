"""A store that does not answer for a while holds jobs up, and harms none."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from jobmanager import Job
from jobmanager.core.values import Selection, Submission
from jobmanager.errors import StoreUnavailable
from jobmanager.registry import Registry


class Outage:
    """A store that does not answer from now on, until it is over; counts the calls that failed."""

    def __init__(self, manager: Any, *names: str) -> None:
        self.failed: list[str] = []
        self._names = names
        self._manager = manager
        manager.store.fault = self._fault

    def _fault(self, name: str) -> BaseException | None:
        if name in ("now", "watch", "close") or (self._names and name not in self._names):
            return None
        self.failed.append(name)
        return StoreUnavailable("away")

    def end(self) -> None:
        self._manager.store.fault = lambda name: None


def test_a_running_job_holds_while_the_store_is_away_and_then_goes_on(
    manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    job = manager.submit("Steps")
    until(lambda: (manager.get(job.id).checkpoint.done or 0) > 2)

    outage = Outage(manager)
    until(lambda: outage.failed.count("checkpoint") > 1)
    outage.end()
    done = manager.get(job.id).checkpoint.done
    until(lambda: manager.get(job.id).checkpoint.done > done)
    stage.open("end")
    completed = manager.until(job.id, "completed")

    assert (completed.attempt, completed.failures, completed.crashes) == (1, 0, 0)
    assert [what for what, _ in stage.told] == ["start", "finally"]


@pytest.mark.parametrize("verb", ["settle", "add_log"])
def test_a_job_that_ends_while_the_store_is_away_is_completed_when_it_is_back(
    manager: Any, types: Registry, stage: Any, until: Any, verb: str
) -> None:
    @types.register
    class Short(Job):
        def start(self) -> dict[str, int]:
            stage.pass_gate("go")
            self.log.info("done")
            return {"rows": 7}

    job = manager.submit("Short")
    manager.until(job.id, "running")
    outage = Outage(manager, verb)
    stage.open("go")
    until(lambda: verb in outage.failed)
    assert manager.get(job.id).status == "running"
    outage.end()

    assert manager.until(job.id, "completed").result == {"rows": 7}
    assert manager.log_text(job.id) == "done", "no line was lost"


def test_what_a_job_logs_while_the_store_is_away_is_kept_in_order(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Talker(Job):
        def start(self) -> None:
            self.log.info("first")
            stage.pass_gate("go")
            self.log.info("second")

    manager = make_manager()
    job = manager.submit("Talker")
    manager.until(job.id, "running")
    outage = Outage(manager, "add_log")
    until(lambda: outage.failed)
    outage.end()
    stage.open("go")
    manager.until(job.id, "completed")

    assert manager.log_text(job.id) == "first\nsecond"


def test_a_timeout_that_passes_while_the_store_is_away_is_written_down_when_it_is_back(
    manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Short(Job):
        timeout_seconds = 0.3

        def start(self) -> None:
            stage.pass_gate("go")

    job = manager.submit("Short")
    manager.until(job.id, "running")
    outage = Outage(manager, "settle")
    stage.open("go")
    until(lambda: outage.failed)
    until(lambda: outage.failed.count("settle") > 2, "it gave up")
    outage.end()

    assert manager.until(job.id, "completed", "failed").status == "completed", "the work was done in time"


def test_an_outage_longer_than_a_lease_takes_no_job_from_the_process_that_runs_it(
    make_manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    manager = make_manager(lease_seconds=0.4)
    job = manager.submit("Steps")
    until(lambda: (manager.get(job.id).checkpoint.done or 0) > 2)

    outage = Outage(manager)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1.2 and outage.failed)
    outage.end()
    done = manager.get(job.id).checkpoint.done
    until(lambda: manager.get(job.id).checkpoint.done > done)

    assert (manager.get(job.id).attempt, manager.get(job.id).crashes) == (1, 0)
    assert manager.actions(job.id) == ["submit", "claim"]


@pytest.mark.parametrize("name", ["look", "claim", "expire"])
def test_a_job_that_is_submitted_while_the_engine_cannot_ask_is_run_when_it_can(
    manager: Any, types: Registry, name: str, until: Any
) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    failures = []

    def fault(called: str) -> BaseException | None:
        if called == name and len(failures) < 2:
            failures.append(called)
            return StoreUnavailable("away")
        return None

    manager.store.fault = fault
    job = manager.submit("Empty")
    until(lambda: failures)

    assert manager.until(job.id, "completed").attempt == 1
    assert failures


def test_a_bulk_request_says_which_jobs_it_did_not_reach_if_the_store_stops_answering(
    make_manager: Any, steps: Any
) -> None:
    manager = make_manager(slots=0)
    jobs = set(manager.submit_all([Submission(type="Steps")] * 250))
    calls = itertools.count()
    manager.store.fault = lambda name: StoreUnavailable("away") if name == "apply_to_each" and next(calls) > 0 else None

    sweep = manager.halt_all(Selection())

    halted = {job_id for job_id in jobs if manager.get(job_id).status == "halted"}
    assert 0 < len(halted) < 250
    assert set(sweep.changed) == halted
    assert sweep.unchanged == dict.fromkeys(jobs - halted, "The store did not answer. Send the request again.")
    with pytest.raises(StoreUnavailable):
        manager.halt_all(Selection())
    manager.store.fault = lambda name: None
    assert set(manager.halt_all(Selection()).changed) == jobs - halted


def test_an_error_that_nobody_thought_of_does_not_end_the_engine(manager: Any, types: Registry, until: Any) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    raised = threading.Event()

    def fault(name: str) -> BaseException | None:
        if name == "claim" and not raised.is_set():
            raised.set()
            return ZeroDivisionError("a bug")
        return None

    manager.store.fault = fault
    job = manager.submit("Empty")

    assert manager.until(job.id, "completed").attempt == 1
    assert raised.is_set()


def test_a_halt_is_not_lost_when_the_store_goes_away_while_it_is_met(
    manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    job = manager.submit("Steps")
    until(lambda: (manager.get(job.id).checkpoint.done or 0) > 2)
    outage = Outage(manager, "settle")

    assert manager.halt(job.id).status == "halting"
    until(lambda: outage.failed.count("settle") > 1)
    assert manager.get(job.id).status == "halting", "asked and done are different"
    outage.end()

    manager.until(job.id, "halted")
    assert manager.resume(job.id, wait=10).status == "running"


def test_a_process_can_end_while_the_store_is_away(make_manager: Any, steps: Any, until: Any) -> None:
    manager = make_manager(lease_seconds=0.5)
    job = manager.submit("Steps")
    until(lambda: (manager.get(job.id).checkpoint.done or 0) > 2)
    Outage(manager)
    began = time.monotonic()

    manager.close(grace_seconds=1)

    assert time.monotonic() - began < 4
    later = make_manager(lease_seconds=0.5)
    until(lambda: later.get(job.id).attempt == 2, "its lease ended, and it went on")

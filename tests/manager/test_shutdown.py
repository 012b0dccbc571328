"""A process that ends hands its jobs over, and the next one goes on with them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from jobmanager import Job, JobManager, Settings
from jobmanager.errors import StoreUnavailable
from jobmanager.registry import Registry


def test_running_jobs_are_handed_over_and_completed_by_the_next_process(
    make_manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    first = make_manager(checkpoint_seconds=3600)
    jobs = [first.submit("Steps").id for _ in range(3)]
    until(lambda: len(stage.told) == 3)
    for job in jobs:
        first.until(job, "running")
    time.sleep(0.05)  # let them get on: nothing of it is saved before the end

    first.close()
    second = make_manager(slots=0)
    left = [second.get(job) for job in jobs]
    third = make_manager()
    until(lambda: sum(what == "start" for what, _ in stage.told) == 6)
    stage.open("end")
    completed = [third.until(job, "completed") for job in jobs]

    assert [job.status for job in left] == ["submitted"] * 3
    assert [(job.failures, job.crashes, job.owner) for job in left] == [(0, 0, None)] * 3
    assert all(job.checkpoint.cursor > 0 for job in left), "what was reached was saved"
    for before, after in zip(left, completed, strict=True):
        assert after.result["steps"] >= before.checkpoint.cursor
        assert (after.failures, after.crashes, after.attempt) == (0, 0, 2)
        assert third.actions(after.id) == ["submit", "claim", "release", "claim", "complete"]


def test_a_halted_job_stays_halted_and_loses_its_owner(make_manager: Any, steps: Any, stage: Any, until: Any) -> None:
    first = make_manager()
    job = first.submit("Steps")
    until(lambda: (first.get(job.id).checkpoint.done or 0) > 2)
    halted = first.halt(job.id, wait=10)

    first.close()
    second = make_manager()
    left = second.get(job.id)
    second.resume(job.id, wait=10)
    stage.open("end")
    completed = second.until(job.id, "completed")

    assert (left.status, left.owner, left.checkpoint) == ("halted", None, halted.checkpoint)
    assert completed.result["steps"] >= halted.checkpoint.cursor


def test_a_job_that_never_looks_delays_the_end_by_no_more_than_the_grace_and_runs_again_later(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.tell("start")
            stage.pass_gate("go")
            self.checkpoint(cursor="by the first")

    first = make_manager(lease_seconds=1.0)
    job = first.submit("Deaf")
    until(lambda: stage.told)
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("job-"))
    began = time.monotonic()

    first.close(grace_seconds=0.3)
    took = time.monotonic() - began
    second = make_manager(lease_seconds=1.0)
    left = second.get(job.id)
    until(lambda: len(stage.told) == 2)
    stage.open("go")
    completed = second.until(job.id, "completed")
    thread.join(10)

    assert took < 2
    assert (left.failures, left.crashes) == (0, 0)
    assert (completed.attempt, completed.crashes) == (2, 0)
    assert not thread.is_alive()


def test_a_stop_under_way_is_finished_by_the_next_process(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            self.checkpoint(cursor="what to clean")
            self.wait(60)

        def clean(self) -> None:
            stage.tell(self.cursor)
            if len(stage.told) == 1:
                self.wait(60)

    first = make_manager()
    job = first.submit("Slow")
    first.until(job.id, "running")
    first.wait_until(lambda: first.get(job.id).checkpoint.cursor)
    first.stop(job.id)
    first.wait_until(lambda: stage.told)

    first.close()
    second = make_manager()
    stopped = second.until(job.id, "stopped", "failed")

    assert (stopped.status, stopped.failures) == ("stopped", 0)
    assert stage.told == ["what to clean"] * 2


def test_a_stop_is_heard_while_the_process_waits_for_its_jobs_to_end(
    make_manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.tell("start")
            stage.pass_gate("go")

        def clean(self) -> None:
            stage.tell("clean")

    first, second = make_manager(), make_manager(slots=0)
    job = first.submit("Deaf")
    first.wait_until(lambda: stage.told)
    first.begin_shutdown(10)
    second.stop(job.id)
    stage.open("go")

    first.close()
    assert second.get(job.id).status == "stopped"
    assert stage.told == ["start", "clean"]


def test_no_job_is_begun_once_the_process_is_about_to_end(make_manager: Any, steps: Any, stage: Any) -> None:
    first = make_manager()
    first.begin_shutdown(5)
    first.close()

    second = make_manager(slots=0)
    job = second.submit("Steps")

    assert second.get(job.id).status == "submitted"
    assert stage.told == []


def test_a_manager_that_was_closed_does_not_open_its_store_again(make_manager: Any, steps: Any) -> None:
    manager = make_manager()
    manager.close()
    manager.close()

    with pytest.raises(StoreUnavailable, match="shutting down"):
        manager.submit("Steps")


def test_a_manager_that_never_started_can_be_closed(tmp_path: Any, types: Registry) -> None:
    manager = JobManager(Settings(data_dir=tmp_path / "var"), types)
    manager.close()

    assert not (tmp_path / "var").exists()

"""A thread whose job has ended goes on with the next one, and nothing of the promises about slots and order changes."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest

from jobmanager import Job
from jobmanager.registry import Registry

_mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="none")


@pytest.fixture
def _gated(types: Registry, stage: Any) -> None:
    """Register a type that waits at the gate of its name, and tells where it runs."""

    @types.register
    class Gated(Job):
        def start(self) -> None:
            stage.tell((self.job_id, threading.current_thread(), threading.current_thread().name, _mark.get()))
            _mark.set(self.job_id)
            stage.pass_gate("go")


@pytest.mark.usefixtures("_gated")
def test_jobs_that_wait_run_in_the_order_of_their_priorities_in_one_thread_each_in_its_own_context(
    make_manager: Any, stage: Any
) -> None:
    manager = make_manager(slots=1)
    first = manager.submit("Gated")
    manager.until(first.id, "running")
    later, sooner = manager.submit("Gated"), manager.submit("Gated", priority=1)

    stage.open("go")
    for job in (first, later, sooner):
        manager.until(job.id, "completed")

    ids, threads, names, marks = zip(*stage.told, strict=True)
    assert ids == (first.id, sooner.id, later.id)
    assert len(set(threads)) == 1
    assert names == tuple(f"job-{job_id}-1" for job_id in ids)
    assert set(marks) == {"none"}
    assert manager.actions(sooner.id) == ["submit", "claim", "complete"]


def test_never_more_jobs_of_a_bounded_type_run_than_may(make_manager: Any, types: Registry, stage: Any) -> None:
    lock, at_work, most = threading.Lock(), [0], [0]

    @types.register
    class Alone(Job):
        max_running = 2

        def start(self) -> None:
            with lock:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            self.wait(0.005)
            with lock:
                at_work[0] -= 1

    @types.register
    class Unbounded(Job):
        def start(self) -> None:
            self.wait(0.001)

    managers = [make_manager(slots=3), make_manager(slots=3)]
    jobs = [managers[0].submit(name) for _ in range(15) for name in ("Alone", "Unbounded")]

    for job in jobs:
        managers[0].until(job.id, "completed")
    assert most[0] <= 2


@pytest.mark.usefixtures("_gated")
def test_a_shutdown_leaves_no_job_running_that_waited(make_manager: Any, stage: Any) -> None:
    manager = make_manager(slots=2)
    stage.open("go")
    jobs = [manager.submit("Gated") for _ in range(60)]

    manager.close(grace_seconds=5)

    other = make_manager(slots=0)
    statuses = {other.get(job.id).status for job in jobs}
    assert statuses <= {"submitted", "completed"}
    assert all(other.get(job.id).crashes == 0 for job in jobs)


def test_a_request_at_the_moment_a_job_is_claimed_reaches_it(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Short(Job):
        def start(self) -> None:
            """Do nothing."""

    @types.register
    class Long(Job):
        def start(self) -> None:
            while True:
                self.wait(0.01)
                self.checkpoint(cursor=1)

    manager = make_manager(slots=1)
    settle = manager.store.settle

    def settle_and_halt(*args: Any, **kwargs: Any) -> Any:
        applied = settle(*args, **kwargs)
        if applied is not None and applied.claimed is not None and applied.claimed.type == "Long":
            manager.halt(applied.claimed.id)
        return applied

    manager.store.settle = settle_and_halt
    for _ in range(5):
        manager.submit("Short")
        job = manager.submit("Long")
        manager.until(job.id, "halted", "running")
        manager.halt(job.id)
        manager.until(job.id, "halted")


def test_a_claim_that_fails_does_not_keep_the_job_before_it_from_being_recorded(
    make_manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Short(Job):
        def start(self) -> None:
            stage.pass_gate("go")

    manager = make_manager(slots=1)
    settle = manager.store.settle

    def settle_alone(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("wanted") is not None:
            raise ZeroDivisionError("a bug")
        return settle(*args, **kwargs)

    manager.store.settle = settle_alone
    jobs = [manager.submit("Short") for _ in range(3)]
    stage.open("go")

    for job in jobs:
        assert manager.until(job.id, "completed").attempt == 1

"""Several processes on one store: a request to any of them reaches the owner; a process that dies is replaced."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobmanager import Job
from jobmanager.registry import Registry


def fall_silent(manager: Any) -> threading.Event:
    """Have a process fall silent, as one that is frozen: no call to its store returns before the event is set."""
    thaw = threading.Event()

    def fault(name: str) -> None:
        if name != "now":
            thaw.wait(20)

    manager.store.fault = fault
    return thaw


@pytest.fixture
def pair(make_manager: Any) -> tuple[Any, Any]:
    """Return a process that runs jobs, and one that only asks."""
    return make_manager(), make_manager(slots=0)


def running(manager: Any) -> str:
    job = manager.submit("Steps")
    manager.wait_until(lambda: (manager.get(job.id).checkpoint.done or 0) > 2)
    return str(job.id)


def test_a_process_that_does_not_own_the_job_can_halt_resume_and_stop_it_within_a_second(
    pair: tuple[Any, Any], steps: Any, stage: Any
) -> None:
    owner, other = pair
    job_id = running(owner)

    for verb, status in [("halt", "halted"), ("resume", "running"), ("stop", "stopped")]:
        began = time.monotonic()
        assert getattr(other, verb)(job_id, wait=5).status == status
        assert time.monotonic() - began < 1

    assert [what for what, _ in stage.told] == ["start", "halt", "resume", "finally", "stop", "clean"]


def test_a_process_that_does_not_own_the_job_can_force_a_stop(
    pair: tuple[Any, Any], types: Registry, stage: Any
) -> None:
    @types.register
    class Loop(Job):
        def start(self) -> None:
            stage.tell("start")
            while not stage.is_open("end"):
                pass

    owner, other = pair
    job = owner.submit("Loop")
    owner.wait_until(lambda: stage.told)

    assert other.stop(job.id, force=True, wait=10).status == "stopped"


def test_a_job_submitted_to_a_process_that_runs_none_is_run_by_another(pair: tuple[Any, Any], steps: Any) -> None:
    owner, other = pair

    job = other.submit("Steps")

    assert owner.until(job.id, "running").attempt == 1


def test_a_job_whose_time_comes_is_run_although_it_was_submitted_elsewhere(pair: tuple[Any, Any], steps: Any) -> None:
    owner, other = pair

    job = other.submit("Steps", run_at=datetime.now(UTC) + timedelta(seconds=0.3))

    assert owner.until(job.id, "running").started_at >= job.run_at


def test_a_parked_job_goes_on_elsewhere_when_its_own_process_has_no_slot_free(
    make_manager: Any, steps: Any, stage: Any
) -> None:
    first = make_manager(slots=1)
    parked = running(first)
    first.halt(parked, wait=10)
    running(first)
    second = make_manager(slots=1)

    second.resume(parked)

    resumed = second.until(parked, "running")
    assert resumed.owner == second.store.owner


def test_a_job_of_a_process_that_fell_silent_goes_on_elsewhere_and_its_old_thread_writes_nothing(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Marked(Job):
        def start(self) -> None:
            stage.tell(("start", self.attempt, self.cursor))
            try:
                step = 0
                while not stage.is_open("end"):
                    self.wait(0.001)
                    step += 1
                    self.checkpoint(cursor=[self.attempt, step], done=step)
            except BaseException as error:
                stage.tell((type(error).__name__, self.attempt))
                raise

    first = make_manager(lease_seconds=0.4)
    job = first.submit("Marked")
    until(lambda: (first.get(job.id).checkpoint.done or 0) > 2)

    thaw = fall_silent(first)
    second = make_manager(lease_seconds=5)
    second.until(job.id, "running")
    until(lambda: second.get(job.id).attempt == 2)
    until(lambda: second.get(job.id).checkpoint.cursor[0] == 2)
    thaw.set()
    first.store.fault = lambda name: None
    until(lambda: ("LeaseLost", 1) in stage.told)
    seen = [second.get(job.id).checkpoint.cursor for _ in range(50)]
    stage.open("end")
    completed = second.until(job.id, "completed")

    assert all(attempt == 2 for attempt, _ in seen)
    assert completed.attempt == 2
    assert second.actions(job.id) == ["submit", "claim", "expire", "claim", "complete"]
    starts = [told for told in stage.told if told[0] == "start"]
    assert starts[1][2][0] == 1, "the second attempt began from what the first had saved"


def test_a_thread_parked_in_a_process_that_fell_silent_ends_when_its_job_went_on_elsewhere(
    make_manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    steps.resumable = False  # so that it would be parked for ever
    first = make_manager(lease_seconds=0.4)
    job_id = running(first)
    first.halt(job_id, wait=10)
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("job-"))

    thaw = fall_silent(first)
    second = make_manager(lease_seconds=5)
    second.resume(job_id)
    second.until(job_id, "running")
    thaw.set()
    first.store.fault = lambda name: None
    until(lambda: not thread.is_alive(), "it is stranded")

    assert second.get(job_id).owner == second.store.owner
    assert second.get(job_id).status == "running"


def test_a_halt_that_was_asked_of_a_process_that_fell_silent_comes_true(
    make_manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    first = make_manager(lease_seconds=0.4)
    job_id = running(first)
    thaw = fall_silent(first)
    second = make_manager()

    assert second.halt(job_id).status == "halting"
    halted = second.until(job_id, "halted")
    thaw.set()

    assert halted.owner is None
    assert second.resume(job_id, wait=10).status == "running"


def test_a_stop_that_was_asked_of_a_process_that_fell_silent_is_cleaned_elsewhere(
    make_manager: Any, steps: Any, stage: Any
) -> None:
    first = make_manager(lease_seconds=0.4)
    job_id = running(first)
    thaw = fall_silent(first)
    second = make_manager()

    second.stop(job_id)
    stopped = second.until(job_id, "stopped")
    thaw.set()

    assert stopped.owner is None
    assert second.actions(job_id) == ["submit", "claim", "stop", "expire", "claim", "yield"]


def test_a_folder_that_a_process_made_after_its_job_was_cleaned_elsewhere_does_not_stay(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Late(Job):
        def start(self) -> None:
            stage.tell("start")
            stage.wait_at("end", 20)  # where its process is frozen
            (self.workdir / "part").touch()
            stage.tell("made")
            self.checkpoint(1)

    first = make_manager(lease_seconds=0.4)
    job = first.submit("Late")
    until(lambda: stage.told)
    thaw = fall_silent(first)
    second = make_manager()
    second.stop(job.id)
    second.until(job.id, "stopped")

    stage.open("end")
    until(lambda: "made" in stage.told)
    thaw.set()
    first.store.fault = lambda name: None

    folder = first.settings.data_dir / "jobs" / job.id
    until(lambda: not folder.exists(), "the folder stays")


def test_no_more_jobs_of_a_type_run_at_once_than_it_allows_over_all_processes(
    make_manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    steps.max_running = 2
    managers = [make_manager(), make_manager()]
    jobs = [managers[0].submit("Steps").id for _ in range(6)]
    until(lambda: sum(managers[0].get(job).status == "running" for job in jobs) == 2)

    for _ in range(30):
        assert sum(managers[1].get(job).status == "running" for job in jobs) <= 2
        time.sleep(0.005)
    stage.open("end")
    for job in jobs:
        managers[0].until(job, "completed")


def test_many_jobs_are_each_run_once_by_whichever_process(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            stage.tell(self.job_id)

    managers = [make_manager(slots=4) for _ in range(3)]
    jobs = [managers[number % 3].submit("Empty").id for number in range(60)]
    for job in jobs:
        managers[0].until(job, "completed")

    assert sorted(stage.told) == sorted(jobs)
    assert {managers[0].get(job).attempt for job in jobs} == {1}

"""Submit, halt, resume and stop, as one process does them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobmanager import Job
from jobmanager.core.values import Selection
from jobmanager.errors import InvalidRequest, NotAllowed, UnknownJob
from jobmanager.registry import Registry


def hooks(stage: Any) -> list[str]:
    """Return the names of the hooks that were called, in order."""
    return [what for what, _ in stage.told]


def running(manager: Any, job_type: str = "Steps", **options: Any) -> str:
    """Submit a job; return its id when it has saved progress."""
    job = manager.submit(job_type, **options)
    manager.wait_until(lambda: (manager.get(job.id).checkpoint.done or 0) > 2)
    return str(job.id)


def job_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("job-")]


def test_a_job_that_is_submitted_runs_and_is_completed_with_its_result(manager: Any, steps: Any, stage: Any) -> None:
    job_id = running(manager)
    stage.open("end")
    job = manager.until(job_id, "completed")

    assert job.result == {"steps": job.checkpoint.cursor}
    assert job.checkpoint.done == job.checkpoint.cursor, "what was not saved yet is saved at the end"
    assert (job.attempt, job.failures, job.crashes, job.error) == (1, 0, 0, None)
    assert job.submitted_at <= job.started_at <= job.finished_at
    assert 0 < job.ran_seconds < 60
    assert (job.owner, job.lease_expires_at, job.running_since) == (None, None, None)
    assert manager.actions(job_id) == ["submit", "claim", "complete"]


def test_a_job_is_not_run_before_its_time(manager: Any, steps: Any, until: Any) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)

    job = manager.submit("Steps", run_at=soon)
    started = manager.until(job.id, "running")

    assert started.started_at >= soon
    assert (started.started_at - soon).total_seconds() < 2


def test_a_job_that_waits_for_its_time_still_does_after_everything_was_halted_and_resumed(
    manager: Any, steps: Any
) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    waiting, running = manager.submit("Steps", run_at=later), manager.submit("Steps")
    manager.until(running.id, "running")

    manager.halt_all(Selection())
    manager.until(running.id, "halted")
    manager.resume_all(Selection())
    manager.until(running.id, "running")

    assert (manager.get(waiting.id).status, manager.get(waiting.id).run_at) == ("submitted", later)


def test_a_time_without_a_zone_is_refused(manager: Any, steps: Any) -> None:
    with pytest.raises(InvalidRequest, match="time zone"):
        manager.submit("Steps", run_at=datetime(2026, 1, 1))


def test_a_halted_job_stands_still_and_goes_on_exactly_where_it_stood(manager: Any, steps: Any, stage: Any) -> None:
    job_id = running(manager)

    halted = manager.halt(job_id, wait=10)
    told = list(stage.told)
    resumed = manager.resume(job_id, wait=10)
    stage.open("end")
    completed = manager.until(job_id, "completed")

    assert (halted.status, resumed.status) == ("halted", "running")
    assert stage.told[: len(told)] == told
    assert hooks(stage) == ["start", "halt", "resume", "finally"], "start was not called again"
    assert completed.checkpoint.cursor >= halted.checkpoint.cursor
    assert completed.attempt == 2
    assert manager.actions(job_id) == ["submit", "claim", "halt", "yield", "resume", "claim", "complete"]


def test_every_hook_is_called_in_the_thread_that_runs_start(manager: Any, steps: Any, stage: Any) -> None:
    job_id = running(manager)
    manager.halt(job_id, wait=10)
    manager.resume(job_id, wait=10)
    manager.stop(job_id, wait=10)

    assert hooks(stage) == ["start", "halt", "resume", "finally", "stop", "clean"]
    assert len({thread for _, thread in stage.told}) == 1
    assert stage.told[0][1] is not threading.current_thread()


def test_a_stopped_job_is_cleaned_and_leaves_nothing(manager: Any, steps: Any, stage: Any) -> None:
    job_id = running(manager)
    folder = manager.settings.data_dir / "jobs" / job_id
    folder.mkdir(parents=True)
    (folder / "half a file").write_text("half")

    stopped = manager.stop(job_id, wait=10)

    assert stopped.status == "stopped"
    assert not folder.exists()
    assert hooks(stage).count("clean") == 1
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]


def test_a_job_that_never_began_is_stopped_at_once_and_not_cleaned(make_manager: Any, steps: Any, stage: Any) -> None:
    manager = make_manager(slots=0)
    job = manager.submit("Steps")

    assert manager.stop(job.id).status == "stopped"
    assert stage.told == []


@pytest.mark.parametrize("how", ["halting", "halted", "resumed"])
def test_a_stop_beats_a_halt(manager: Any, types: Registry, stage: Any, how: str) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            stage.tell("start")
            stage.pass_gate("checkpoint")
            self.checkpoint(cursor=1, done=3)
            self.wait(60)

        def clean(self) -> None:
            stage.tell("clean")

    job = manager.submit("Slow")
    manager.wait_until(lambda: stage.told == ["start"])
    manager.halt(job.id)
    if how != "halting":
        stage.open("checkpoint")
        manager.until(job.id, "halted")
    if how == "resumed":
        manager.resume(job.id)
    manager.stop(job.id)
    stage.open("checkpoint")

    assert manager.until(job.id, "stopped").status == "stopped"
    assert stage.told.count("clean") == 1


def test_a_stop_ends_a_job_in_the_middle_of_a_long_wait(manager: Any, types: Registry) -> None:
    @types.register
    class Sleeper(Job):
        def start(self) -> None:
            self.wait(3600)

    job = manager.submit("Sleeper")
    manager.until(job.id, "running")
    began = time.monotonic()

    manager.stop(job.id, wait=10)

    assert time.monotonic() - began < 2
    assert manager.get(job.id).status == "stopped"


def test_a_wait_is_cut_short_by_a_halt_and_sleeps_the_rest_after_the_resume(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Sleeper(Job):
        def start(self) -> None:
            began = time.monotonic()
            self.wait(0.4)
            stage.tell(time.monotonic() - began)

    job = manager.submit("Sleeper")
    manager.until(job.id, "running")
    asked = time.monotonic()
    manager.halt(job.id, wait=10)
    halted_within = time.monotonic() - asked
    time.sleep(0.6)  # longer than what is left of the wait
    assert stage.told == []
    manager.resume(job.id)
    manager.until(job.id, "completed")

    assert halted_within < 0.35
    assert stage.told[0] >= 0.6 + 0.35, "the time halted does not count as waited"


def test_a_job_may_wait_for_longer_than_a_lock_can(manager: Any, types: Registry) -> None:
    @types.register
    class Patient(Job):
        def start(self) -> None:
            self.wait(1e12)

    job = manager.submit("Patient")
    manager.until(job.id, "running", "failed")

    assert manager.halt(job.id, wait=10).status == "halted"
    assert manager.stop(job.id, wait=10).status == "stopped"


def test_a_halted_job_gives_its_slot_to_another_one(make_manager: Any, steps: Any, until: Any) -> None:
    manager = make_manager(slots=1)
    first = running(manager)
    second = manager.submit("Steps").id
    assert manager.get(second).status == "submitted"

    manager.halt(first, wait=10)

    manager.until(second, "running")


def test_a_job_that_is_resumed_while_its_slot_is_taken_waits_for_one(make_manager: Any, steps: Any, stage: Any) -> None:
    manager = make_manager(slots=1)
    first = running(manager)
    manager.halt(first, wait=10)
    second = running(manager)

    assert manager.resume(first).status == "submitted"
    manager.stop(second, wait=10)

    manager.until(first, "running")
    assert len(job_threads()) == 1


def test_a_job_parked_for_long_costs_no_thread_and_goes_on_from_its_checkpoint(
    make_manager: Any, steps: Any, stage: Any, until: Any
) -> None:
    manager = make_manager(park_seconds=0.05)
    job_id = running(manager)

    halted = manager.halt(job_id, wait=10)
    until(lambda: not job_threads())
    unwound = manager.get(job_id)
    manager.resume(job_id, wait=10)
    stage.open("end")
    completed = manager.until(job_id, "completed")

    assert hooks(stage) == ["start", "halt", "finally", "start", "finally"], "the thread was unwound"
    assert (unwound.status, unwound.owner) == ("halted", None)
    assert unwound.checkpoint == halted.checkpoint
    assert completed.result["steps"] >= halted.checkpoint.cursor
    assert (completed.failures, completed.crashes) == (0, 0)


def test_unwinding_runs_every_finally_of_a_job_from_the_inside_out(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Nested(Job):
        def start(self) -> None:
            try:
                self.outer()
            finally:
                stage.tell("start")

        def outer(self) -> None:
            try:
                try:
                    self.wait(60)
                except Exception:
                    stage.tell("swallowed")
            finally:
                stage.tell("outer")

    manager = make_manager(park_seconds=0.0)
    job = manager.submit("Nested")
    manager.until(job.id, "running")
    manager.halt(job.id, wait=10)
    until(lambda: not job_threads())

    assert stage.told == ["outer", "start"]
    assert manager.get(job.id).status == "halted"


def test_a_job_that_cannot_start_again_keeps_its_thread(make_manager: Any, steps: Any, stage: Any, until: Any) -> None:
    steps.resumable = False
    manager = make_manager(park_seconds=0.0)
    job_id = running(manager)

    manager.halt(job_id, wait=10)
    assert not any(thread.join(0.3) or not thread.is_alive() for thread in job_threads())
    manager.resume(job_id, wait=10)
    stage.open("end")
    manager.until(job_id, "completed")

    assert hooks(stage) == ["start", "halt", "resume", "finally"]


def test_a_job_that_cannot_start_again_keeps_its_thread_while_it_waits_for_a_slot(
    make_manager: Any, steps: Any, stage: Any, types: Registry
) -> None:
    @types.register
    class Other(Job):
        def start(self) -> None:
            self.wait(60)

    steps.resumable = False
    manager = make_manager(slots=1)
    job_id = running(manager)
    manager.halt(job_id, wait=10)
    other = manager.submit("Other").id
    manager.until(other, "running")

    manager.resume(job_id)
    manager.stop(other, wait=10)
    manager.until(job_id, "running")
    stage.open("end")
    manager.until(job_id, "completed")

    assert hooks(stage) == ["start", "halt", "resume", "finally"]


def test_progress_never_goes_back_across_halts_and_new_attempts(make_manager: Any, steps: Any, until: Any) -> None:
    manager = make_manager(park_seconds=0.0)
    job_id = running(manager)
    seen = []

    for _ in range(5):
        manager.halt(job_id, wait=10)
        seen.append(manager.get(job_id).checkpoint)
        manager.resume(job_id, wait=10)
        seen.append(manager.get(job_id).checkpoint)

    assert [checkpoint.done for checkpoint in seen] == sorted(checkpoint.done for checkpoint in seen)
    assert [checkpoint.seq for checkpoint in seen] == sorted(checkpoint.seq for checkpoint in seen)
    until(lambda: manager.get(job_id).checkpoint.done > seen[-1].done)


def test_what_was_reported_before_is_still_shown_when_a_new_attempt_tells_only_part_of_it(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Terse(Job):
        def start(self) -> None:
            if self.cursor is None:
                self.checkpoint(cursor="a", done=5, total=10, message="half")
            else:
                self.checkpoint(done=6)
            self.wait(60)

    manager = make_manager(park_seconds=0.0)
    job = manager.submit("Terse")
    until(lambda: manager.get(job.id).checkpoint.done == 5)
    manager.halt(job.id, wait=10)
    until(lambda: not job_threads())
    manager.resume(job.id)
    until(lambda: manager.get(job.id).checkpoint.done == 6)

    checkpoint = manager.get(job.id).checkpoint
    assert replace(checkpoint, seq=0, saved_at=None) == replace(
        checkpoint, seq=0, saved_at=None, cursor="a", done=6, total=10, message="half"
    )


def test_time_spent_halted_does_not_count_as_run_time_nor_against_the_timeout(
    manager: Any, steps: Any, stage: Any
) -> None:
    job_id = running(manager, timeout_seconds=1.0)

    manager.halt(job_id, wait=10)
    time.sleep(1.3)
    manager.resume(job_id, wait=10)
    stage.open("end")
    completed = manager.until(job_id, "completed", "failed")

    assert completed.status == "completed"
    assert completed.ran_seconds < 1.2
    assert (completed.finished_at - completed.started_at).total_seconds() > 1.3


def test_a_halt_taken_back_before_it_was_met_never_parks_the_job(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            stage.tell("start")
            stage.pass_gate("go")
            self.checkpoint(cursor=1)

        def halt(self) -> None:
            stage.tell("halt")

    job = manager.submit("Slow")
    manager.wait_until(lambda: stage.told == ["start"])
    assert manager.halt(job.id).status == "halting"
    assert manager.resume(job.id).status == "running"
    stage.open("go")
    manager.until(job.id, "completed")

    assert stage.told == ["start"]
    assert manager.actions(job.id) == ["submit", "claim", "halt", "resume", "complete"]


def test_the_last_unit_of_work_may_beat_a_halt(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            stage.pass_gate("go")

    job = manager.submit("Slow")
    manager.until(job.id, "running")
    manager.halt(job.id)
    stage.open("go")

    manager.until(job.id, "completed")
    assert manager.actions(job.id)[-2:] == ["halt", "complete"]


def test_a_stop_beats_the_end_of_a_job_that_does_not_look(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            stage.pass_gate("go")

        def clean(self) -> None:
            stage.tell("clean")

    job = manager.submit("Slow")
    manager.until(job.id, "running")
    manager.stop(job.id)
    stage.open("go")

    manager.until(job.id, "stopped")
    assert stage.told == ["clean"]


def test_who_asked_and_why_is_kept(manager: Any, steps: Any) -> None:
    job_id = running(manager, actor="ann")

    manager.halt(job_id, actor="bob", reason="the database is slow", wait=10)

    changes = manager.changes(job_id)
    assert [(change.action, change.actor, change.reason) for change in changes] == [
        ("submit", "ann", None),
        ("claim", "engine", None),
        ("halt", "bob", "the database is slow"),
        ("yield", "engine", None),
    ]
    assert changes[3].asked_at == changes[2].at <= changes[3].at, "how long the halt took can be told"


@pytest.mark.parametrize("verb", ["halt", "resume", "stop"])
def test_nothing_can_be_asked_of_a_job_that_does_not_exist(manager: Any, verb: str) -> None:
    with pytest.raises(UnknownJob, match="There is no job 'nobody'"):
        getattr(manager, verb)("nobody")


@pytest.mark.parametrize("verb", ["halt", "resume", "stop"])
def test_nothing_can_be_asked_of_a_completed_job(manager: Any, types: Registry, verb: str) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    job = manager.submit("Empty")
    manager.until(job.id, "completed")

    with pytest.raises(NotAllowed, match="A job that is completed"):
        getattr(manager, verb)(job.id)


def test_no_more_jobs_of_a_type_run_at_once_than_it_allows(make_manager: Any, steps: Any, stage: Any) -> None:
    steps.max_running = 2
    manager = make_manager(slots=8)
    jobs = [manager.submit("Steps").id for _ in range(5)]
    manager.wait_until(lambda: sum(manager.get(job).status == "running" for job in jobs) == 2)

    manager.halt(jobs[0], wait=10)
    manager.until(jobs[2], "running")

    assert [manager.get(job).status for job in jobs] == ["halted", "running", "running", "submitted", "submitted"]
    stage.open("end")
    for job in jobs[1:]:
        manager.until(job, "completed")


def test_a_job_that_comes_due_while_no_slot_is_free_is_next_by_its_priority(
    make_manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Named(Job):
        def start(self) -> None:
            stage.tell(self.job_id)
            stage.pass_gate("go")

    manager = make_manager(slots=1)
    first = manager.submit("Named").id
    manager.until(first, "running")
    usual = manager.submit("Named").id
    urgent = manager.submit("Named", priority=5, run_at=manager.now() + timedelta(seconds=0.1)).id
    manager.wait_until(lambda: manager.now() > manager.get(urgent).run_at and not manager.store.look(["Named"]).has_due)

    stage.open("go")
    manager.until(usual, "completed")

    assert stage.told == [first, urgent, usual]


def test_the_more_urgent_job_runs_first(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Named(Job):
        def start(self) -> None:
            stage.tell(self.job_id)
            stage.pass_gate("go")

    manager = make_manager(slots=1)
    first = manager.submit("Named").id
    manager.until(first, "running")
    low, high, usual, later = (manager.submit("Named", priority=priority).id for priority in (-5, 5, 0, 0))
    stage.open("go")
    for job in (low, high, usual, later):
        manager.until(job, "completed")

    assert stage.told == [first, high, usual, later, low]


def test_waiting_for_a_status_returns_as_soon_as_it_is_reached(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            stage.pass_gate("go")
            self.checkpoint()
            self.wait(60)

    job = manager.submit("Slow")
    manager.until(job.id, "running")
    opener = threading.Timer(0.2, stage.open, ["go"])
    opener.start()
    began = time.monotonic()

    halted = manager.halt(job.id, wait=10)

    assert halted.status == "halted"
    assert 0.15 < time.monotonic() - began < 2
    opener.join()


def test_waiting_in_vain_ends_when_it_was_said_to(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.pass_gate("go")

    job = manager.submit("Deaf")
    manager.until(job.id, "running")
    began = time.monotonic()

    assert manager.halt(job.id, wait=0.2).status == "halting"

    assert 0.2 <= time.monotonic() - began < 1.5

"""A stop always ends, whatever the job's code does, and what is left of it can do no harm."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import Any

import pytest

from jobmanager import Job
from jobmanager.engine import watchdog
from jobmanager.errors import LeaseLost, StoreUnavailable, Unwind
from jobmanager.registry import Registry


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "FORCE_SECONDS", 0.3)


def started(manager: Any, job_type: str) -> str:
    """Submit a job and return its id when its code runs: one that is stopped before that has nothing to interrupt."""
    job_id = str(manager.submit(job_type).id)
    manager.wait_until(lambda: is_in_start(job_id))
    return job_id


def is_in_start(job_id: str) -> bool:
    """Return True if the thread of the job is in the code of a job of this file."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0) if thread.name.startswith(f"job-{job_id}-") else None
        while frame is not None:
            if (frame.f_code.co_name, frame.f_code.co_filename) == ("start", __file__):
                return True
            frame = frame.f_back
    return False


def test_a_job_that_does_not_answer_a_stop_is_shown_as_unresponsive(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.pass_gate("go")

    manager = make_manager(stop_grace_seconds=0.1)
    job_id = started(manager, "Deaf")

    manager.stop(job_id)
    assert not manager.is_unresponsive(manager.get(job_id))
    until(lambda: manager.is_unresponsive(manager.get(job_id)))
    stage.open("go")

    assert not manager.is_unresponsive(manager.until(job_id, "stopped"))


def test_force_ends_a_loop_that_never_looks(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Loop(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                while not stage.is_open("end"):
                    pass
            finally:
                stage.tell("finally")

        def stop(self) -> None:
            stage.tell("stop")

        def clean(self) -> None:
            stage.tell("clean")

    job_id = started(manager, "Loop")
    manager.wait_until(lambda: stage.told)
    assert manager.stop(job_id, wait=0.1).status == "stopping"

    manager.stop(job_id, force=True, wait=10)

    assert manager.get(job_id).status == "stopped"
    assert stage.told == ["start", "finally", "stop", "clean"], "it ended in its own thread"
    assert manager.actions(job_id) == ["submit", "claim", "stop", "stop", "yield"]


def test_a_stop_may_be_forced_from_the_start(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Loop(Job):
        def start(self) -> None:
            while not stage.is_open("end"):
                pass

    job_id = started(manager, "Loop")

    assert manager.stop(job_id, force=True, wait=10).status == "stopped"


def test_a_thread_that_sleeps_in_c_is_abandoned_and_its_job_is_cleaned_once(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Sleeper(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                time.sleep(1.0)
                stage.tell("awake")
                self.checkpoint(cursor="too late")
            finally:
                stage.tell("finally")

        def stop(self) -> None:
            stage.tell("stop")

        def clean(self) -> None:
            stage.tell("clean")

    manager = make_manager(slots=1)
    job_id = started(manager, "Sleeper")
    manager.wait_until(lambda: stage.told)
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("job-"))

    stopped = manager.stop(job_id, force=True, wait=10)
    told = list(stage.told)
    thread.join(10)

    assert (stopped.status, told) == ("stopped", ["start", "clean"]), "clean did not wait for the sleeper"
    assert not thread.is_alive()
    assert stage.told == ["start", "clean", "finally"], "what was abandoned calls no hook, and cleans nothing"
    assert manager.get(job_id).checkpoint.cursor is None
    assert manager.actions(job_id) == ["submit", "claim", "stop", "release", "claim", "yield"]


def test_a_job_that_swallows_even_force_is_abandoned_and_fenced_off_and_gives_its_slot_back(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Greedy(Job):
        def start(self) -> None:
            while not stage.is_open("end"):
                try:
                    self.swallow()
                except BaseException as error:  # force, that has come while it swallowed something
                    stage.tell(type(error).__name__)

        def swallow(self) -> None:
            while not stage.is_open("end"):
                try:
                    self.wait(0.001)
                    self.checkpoint(cursor=self.attempt, done=1)
                except BaseException as error:
                    stage.tell(type(error).__name__)

        def clean(self) -> None:
            stage.tell("clean")

    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    manager = make_manager(slots=1)
    job_id = started(manager, "Greedy")

    stopped = manager.stop(job_id, force=True, wait=10)
    other = manager.submit("Empty").id
    manager.until(other, "completed")
    until(lambda: "LeaseLost" in stage.told, lambda: (stage.told[:20], stage.told[-20:]))
    seen = manager.get(job_id).checkpoint
    stage.told.clear()
    until(lambda: len(stage.told) > 10)
    stage.open("end")

    assert stopped.status == "stopped"
    assert manager.get(job_id) == stopped, "nothing was written by the thread that goes on"
    assert seen == stopped.checkpoint
    assert set(stage.told) <= {"LeaseLost"}


def test_force_interrupts_no_clean(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        def start(self) -> None:
            self.wait(60)

        def clean(self) -> None:
            stage.tell("begin")
            for _ in range(100):
                time.sleep(0.001)
            stage.tell("end")

    job_id = started(manager, "Slow")
    manager.stop(job_id)
    manager.wait_until(lambda: stage.told == ["begin"])

    assert manager.stop(job_id, force=True, wait=10).status == "stopped"
    assert stage.told == ["begin", "end"]


def test_a_clean_that_hangs_can_be_forced_as_often_as_it_hangs(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Stuck(Job):
        def start(self) -> None:
            self.wait(60)

        def clean(self) -> None:
            stage.tell("clean")
            if len(stage.told) < 3:
                stage.pass_gate("never")

    manager = make_manager(slots=1)
    job_id = started(manager, "Stuck")
    manager.stop(job_id)

    for times in (1, 2):
        until(lambda times=times: len(stage.told) == times)
        manager.stop(job_id, force=True)

    assert manager.until(job_id, "stopped").status == "stopped"
    assert len(stage.told) == 3


def test_force_of_one_stop_is_not_kept_for_the_next(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Mixed(Job):
        def start(self) -> None:
            if self.attempt == 1:
                while not stage.is_open("end"):
                    pass
            stage.tell("second")
            for _ in range(1000):
                time.sleep(0.001)
            stage.tell("in peace")

        def clean(self) -> None:
            if "second" not in stage.told:
                raise OSError("busy")

    manager = make_manager(rng=lambda: 0.0)
    job_id = started(manager, "Mixed")
    manager.stop(job_id, force=True)
    manager.until(job_id, "failed")
    manager.resume(job_id)
    manager.wait_until(lambda: stage.told == ["second"])

    manager.stop(job_id, wait=10)

    assert stage.told == ["second", "in peace"], "nobody asked for force this time"


@pytest.mark.parametrize("timeout", [None, 0.1], ids=["", "after a timeout"])
@pytest.mark.parametrize("error", [LeaseLost("7"), StoreUnavailable("away")], ids=lambda error: type(error).__name__)
def test_a_process_goes_on_when_a_job_to_be_abandoned_cannot_be_released(
    make_manager: Any, types: Registry, stage: Any, error: BaseException, timeout: float | None, until: Any
) -> None:
    @types.register
    class Deaf(Job):
        timeout_seconds = timeout

        def start(self) -> None:
            if timeout is not None:
                with contextlib.suppress(BaseException):
                    self.wait(60)
            stage.tell("start")
            stage.pass_gate("go")

        def clean(self) -> None:
            stage.tell("clean")

    @types.register
    class Short(Job):
        def start(self) -> None:
            self.checkpoint(cursor=1)

    manager = make_manager(lease_seconds=0.5)
    job_id = manager.submit("Deaf").id
    until(lambda: stage.told)
    failed = threading.Event()

    def fault(name: str) -> BaseException | None:
        if name == "settle" and threading.current_thread().name == "jobmanager-engine":
            failed.set()
            return error
        return None

    manager.store.fault = fault
    manager.stop(job_id, force=True)
    until(failed.is_set)
    assert manager.until(manager.submit("Short").id, "completed"), "the engine does not wait for the store"
    manager.store.fault = lambda name: None

    assert manager.until(job_id, "stopped").status == "stopped", "its lease ended, and it was cleaned"
    other = manager.submit("Deaf").id
    stage.open("go")
    assert manager.until(other, "completed").status == "completed"


def test_a_stop_that_is_forced_in_the_moment_of_the_claim_is_not_lost(
    make_manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Loop(Job):
        def start(self) -> None:
            while not stage.is_open("end"):
                pass

    manager = make_manager(slots=1)
    asked, claim = threading.Event(), manager.store.claim

    def claim_and_force(*args: Any, **kwargs: Any) -> Any:
        claimed = claim(*args, **kwargs)
        for record in claimed:
            manager.stop(record.id, force=True)
            asked.set()
        return claimed

    manager.store.claim = claim_and_force
    job = manager.submit("Loop")

    assert manager.until(job.id, "stopped").status == "stopped"
    assert asked.is_set()


def test_a_job_whose_thread_cannot_be_started_is_given_back(
    make_manager: Any, types: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    start, refused = threading.Thread.start, threading.Event()

    def start_but_once(thread: threading.Thread) -> None:
        if thread.name.startswith("job-") and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_once)
    manager = make_manager(lease_seconds=0.3)
    job = manager.submit("Empty")
    completed = manager.until(job.id, "completed")

    assert (completed.crashes, completed.failures) == (0, 0)
    assert manager.actions(job.id) == ["submit", "claim", "release", "claim", "complete"]


@pytest.mark.parametrize(
    "error", [LeaseLost("7"), Unwind("7"), KeyError("odd")], ids=lambda error: type(error).__name__
)
def test_the_engine_goes_on_whatever_a_call_of_the_store_raises_in_its_thread(
    make_manager: Any, types: Registry, until: Any, error: BaseException
) -> None:
    @types.register
    class Empty(Job):
        def start(self) -> None:
            """Do nothing."""

    manager = make_manager()
    raised = threading.Event()

    def fault(name: str) -> BaseException | None:
        if name == "look" and not raised.is_set():
            raised.set()
            return error
        return None

    manager.store.fault = fault
    job = manager.submit("Empty")

    assert manager.until(job.id, "completed")
    assert raised.is_set()

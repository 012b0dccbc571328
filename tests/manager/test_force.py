"""Force ends the work and nothing else: never the clean that follows, nor a write to the store."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from jobmanager import Job
from jobmanager.core.states import Action
from jobmanager.core.values import Selection
from jobmanager.engine import watchdog
from jobmanager.engine.attempt import Runner
from jobmanager.errors import Fatal, StoreUnavailable
from jobmanager.registry import Registry


def started(manager: Any, stage: Any, job_type: str) -> str:
    """Submit a job; return its id when its code runs."""
    job_id = str(manager.submit(job_type).id)
    manager.wait_until(lambda: "start" in stage.told)
    return job_id


def spin(is_over: Callable[[], bool]) -> None:
    """Compute, deaf to everything else.

    Call this within a `try`, instead of a loop there: from Python 3.12 on, an exception that is raised between two
    rounds of a loop misses a `try` around the loop (https://github.com/python/cpython/issues/130279).
    """
    while not is_over():
        pass


def labels_of_all(manager: Any) -> Counter[str]:
    """Return how many stored jobs have each value of the label "name"."""
    labels: Counter[str] = Counter()
    before = None
    while True:
        page = manager.find(Selection(), before=before)
        labels.update(job.labels["name"] for job in page.jobs if "name" in job.labels)
        before = page.next
        if before is None:
            return labels


@contextmanager
def threads(number: int, code: Callable[[int], None]) -> Iterator[None]:
    """Run that code in threads, each with its number. Joins them at the end."""
    running = [threading.Thread(target=code, args=(place,)) for place in range(number)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for thread in running:
            thread.join()


def test_a_clean_that_takes_long_after_a_forced_stop_is_left_alone(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "FORCE_SECONDS", 0.2)

    @types.register
    class Careful(Job):
        def start(self) -> None:
            stage.tell("start")
            while not stage.is_open("end"):
                pass

        def clean(self) -> None:
            stage.tell("begin")
            for _ in range(80):
                time.sleep(0.01)
            stage.tell("end")

    job_id = started(manager, stage, "Careful")

    stopped = manager.stop(job_id, wait=10, force=True)

    assert stopped.status == "stopped"
    assert stage.told == ["start", "begin", "end"]
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]


def test_force_that_comes_just_before_the_work_begins_keeps_it_from_beginning(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Loops(Job):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            stage.tell("made")
            stage.pass_gate("begin")

        def start(self) -> None:
            stage.tell("start")
            while not stage.is_open("end"):
                time.sleep(0.001)

        def stop(self) -> None:
            stage.tell("stop")

        def clean(self) -> None:
            stage.tell("clean")

    job_id = str(manager.submit("Loops").id)
    manager.wait_until(lambda: "made" in stage.told)

    manager.stop(job_id, force=True)
    stage.open("begin")

    assert manager.until(job_id, "stopped").attempt == 1
    assert [told for told in stage.told if told != "made"] == ["clean"]
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]


def test_a_stop_hook_that_takes_long_after_a_forced_stop_is_followed_by_one_clean(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "FORCE_SECONDS", 0.2)
    lock = threading.Lock()

    @types.register
    class Careful(Job):
        def start(self) -> None:
            stage.tell("start")
            while not stage.is_open("end"):
                pass

        def stop(self) -> None:
            for _ in range(60):
                time.sleep(0.01)

        def clean(self) -> None:
            assert lock.acquire(blocking=False), "two cleans at once"
            time.sleep(0.3)
            lock.release()
            stage.tell("clean")

    job_id = started(manager, stage, "Careful")

    assert manager.stop(job_id, wait=10, force=True).status == "stopped"
    assert stage.told == ["start", "clean"]


def test_force_reaches_code_in_c_when_it_returns(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class InC(Job):
        def start(self) -> None:
            stage.tell("start")
            time.sleep(0.7)
            stage.tell("returned")

        def clean(self) -> None:
            stage.tell("clean")

    job_id = started(manager, stage, "InC")

    stopped = manager.stop(job_id, wait=10, force=True)

    assert stopped.status == "stopped"
    assert stage.told == ["start", "clean"]
    assert stopped.attempt == 1, "its own thread cleaned"


def test_a_job_that_swallows_force_is_stopped_at_its_next_checkpoint(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Greedy(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                spin(lambda: stage.is_open("end"))
            except BaseException:
                stage.tell("swallowed")
            self.checkpoint(cursor="swallowed")
            stage.tell("went on")

        def clean(self) -> None:
            stage.tell(f"clean {self.cursor}")

    job_id = started(manager, stage, "Greedy")

    assert manager.stop(job_id, wait=10, force=True).status == "stopped"
    assert stage.told == ["start", "swallowed", "clean swallowed"]


def test_force_has_nothing_to_wait_for_where_a_job_is_parked_or_waits(make_manager: Any, steps: Any) -> None:
    manager = make_manager()
    parked, waiting = manager.submit("Steps").id, manager.submit("Steps").id
    manager.until(parked, "running")
    manager.until(waiting, "running")
    manager.halt(parked, wait=10)

    stopped = [manager.stop(job_id, wait=10, force=True) for job_id in (parked, waiting)]

    assert [(job.status, job.attempt) for job in stopped] == [("stopped", 1), ("stopped", 1)]


def test_force_at_any_moment_leaves_a_job_that_is_stopped_and_cleaned_once(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Busy(Job):
        def start(self) -> None:
            for step in range(100_000):
                self.log.info("step %d", step)
                self.checkpoint(cursor=step)

        def details(self) -> dict[str, Any]:
            return {"at": self.cursor}

        def clean(self) -> None:
            stage.tell(self.job_id)

    for number in range(25):
        job_id = manager.submit("Busy").id
        manager.until(job_id, "running")
        time.sleep(number * 0.0007)

        stopped = manager.stop(job_id, wait=10, force=True)

        assert stopped.status == "stopped", stopped
        assert stage.told.count(job_id) == 1
        assert (stopped.failures, stopped.error, stopped.attempt) == (0, None, 1)


def test_force_at_the_end_of_a_job_that_fails_ends_in_one_of_the_two(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Short(Job):
        def start(self) -> None:
            deadline = time.monotonic() + 0.004
            while time.monotonic() < deadline:
                pass
            raise ValueError("no")

        def clean(self) -> None:
            stage.tell(self.job_id)

    ends = set()
    seconds = 0.004
    for _ in range(40):
        job_id = manager.submit("Short").id
        manager.until(job_id, "running", "failed")
        time.sleep(seconds)
        manager.stop(job_id, force=True)

        ended = manager.until(job_id, "stopped")
        ends.add(ended.error)
        seconds *= 1.15 if ended.error is None else 0.85  # to the moment at which it ends
        assert stage.told.count(job_id) == 1
        assert ended.crashes == 0

    assert ends == {None, "ValueError: no"}, "the race was one"


def test_force_can_be_requested_again_if_it_did_not_help(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.tell("start")
            for _ in range(2):  # it takes force to get out of each
                try:
                    spin(lambda: False)
                except BaseException:
                    stage.tell("forced")

    job_id = started(manager, stage, "Deaf")
    manager.stop(job_id, force=True)
    manager.wait_until(lambda: "forced" in stage.told)

    stopped = manager.stop(job_id, wait=10, force=True)

    assert stopped.status == "stopped"
    assert stage.told == ["start", "forced", "forced"]
    assert manager.actions(job_id) == ["submit", "claim", "stop", "stop", "yield"]


def test_force_changes_nothing_of_a_job_that_is_stopped(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Brief(Job):
        def start(self) -> None:
            stage.tell("start")

    job_id = str(manager.submit("Brief", run_at=manager.store.now().replace(year=2100)).id)
    stopped = manager.stop(job_id, wait=10)

    again = manager.stop(job_id, force=True)

    assert again == stopped


def test_force_waits_until_a_line_is_logged_and_ends_the_work_then(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "slow":
                stage.tell("start")
                deadline = time.monotonic() + 0.3  # in Python code, where force would strike
                while time.monotonic() < deadline:
                    pass
                stage.tell("logged")

    @types.register
    class Talker(Job):
        def start(self) -> None:
            self.log.info("slow")
            spin(lambda: stage.is_open("end"))  # on a busy machine, force may be due only now
            stage.tell("went on")

    handler = Slow()
    parent = logging.getLogger("jobmanager.jobs")
    monkeypatch.setattr(parent, "handlers", [handler])
    job_id = started(manager, stage, "Talker")

    stopped = manager.stop(job_id, wait=10, force=True)

    assert stopped.status == "stopped"
    assert stage.told == ["start", "logged"]
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]


def test_force_does_not_interrupt_code_that_answers_a_stop(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Answers(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                while not stage.is_open("end"):
                    time.sleep(0.02)
                    self.checkpoint(cursor=1)
            except BaseException as error:
                *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
                stage.tell("interrupted" if frame is sys._getframe() else "asked at a checkpoint")
                raise

    job_id = started(manager, stage, "Answers")

    assert manager.stop(job_id, wait=10, force=True).status == "stopped"
    assert stage.told == ["start", "asked at a checkpoint"]


def test_force_that_is_asked_for_after_a_stop_that_nobody_answered_comes_at_once(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 1.0)

    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.tell("start")
            while not stage.is_open("end"):
                pass

    job_id = started(manager, stage, "Deaf")

    assert manager.stop(job_id, wait=1.0).status == "stopping"
    began = time.monotonic()
    assert manager.stop(job_id, wait=10, force=True).status == "stopped"
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize("by", ["its own process", "another process"])
def test_force_that_follows_a_stop_at_once_leaves_the_job_the_time_to_answer(
    make_manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 3600.0)

    @types.register
    class AnswersLate(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                for _ in range(100):
                    for _ in range(20):
                        time.sleep(0.01)
                    self.checkpoint(cursor=1)
            except BaseException as error:
                *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
                stage.tell("interrupted" if frame is sys._getframe() else "asked at a checkpoint")
                raise

    manager = make_manager()
    asked = manager if by == "its own process" else make_manager(slots=0)
    job_id = started(manager, stage, "AnswersLate")

    asked.stop(job_id)
    asked.stop(job_id, force=True)

    manager.until(job_id, "stopped")
    assert stage.told == ["start", "asked at a checkpoint"]


def test_force_needs_no_store_that_answers(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Deaf(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                spin(lambda: stage.is_open("end"))
            except BaseException:
                stage.tell("forced")
                raise

    job_id = started(manager, stage, "Deaf")
    is_away = StoreUnavailable("It is away.")

    manager.store.fault = lambda name: is_away if name == "look" else None
    manager.stop(job_id, force=True)

    manager.wait_until(lambda: "forced" in stage.told, "the strike")
    manager.store.fault = lambda name: None
    manager.until(job_id, "stopped")


def test_force_that_comes_too_late_for_an_attempt_does_not_strike_the_next(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @types.register
    class Fails(Job):
        def start(self) -> None:
            stage.tell("start")
            for _ in range(300):  # longer than it takes force to strike
                time.sleep(0.001)
                self.checkpoint(cursor=1)

        def clean(self) -> None:
            raise Fatal("no")

    apply_change = Runner.apply_change

    def apply_late(runner: Runner, change: Any) -> None:
        """Be held up, as any thread may, until the job's thread has found out by itself."""
        if change.action is Action.STOP:
            manager.until(job_id, "failed")
            assert runner.join(10)
            manager.wait_until(lambda: not manager.engine.runners())
        apply_change(runner, change)

    monkeypatch.setattr(Runner, "apply_change", apply_late)
    job_id = started(manager, stage, "Fails")
    manager.stop(job_id, force=True)
    assert manager.get(job_id).status == "failed"

    manager.resume(job_id)

    assert manager.until(job_id, "completed", "failed").status == "completed"


def test_force_that_is_asked_for_again_and_again_does_not_put_off_the_end(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "FORCE_SECONDS", 0.6)

    @types.register
    class InC(Job):
        def start(self) -> None:
            stage.tell("start")
            time.sleep(4)
            stage.tell("returned")

    job_id = started(manager, stage, "InC")
    asked = 0
    while manager.stop(job_id, wait=0.2, force=True).status != "stopped":
        asked += 1

    assert 1 < asked < 10, "its thread was abandoned"
    assert stage.told == ["start"]


def test_force_against_a_job_that_submits_jobs_leaves_all_other_submissions_alone(
    manager: Any, types: Registry, stage: Any
) -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    counted: list[str] = []
    refused: list[BaseException] = []

    def submit(name: str) -> None:
        manager.submit("Parent", run_at=later, labels={"name": name})
        counted.append(name)

    def submit_many(who: str) -> None:
        for number in range(100_000):
            if stage.is_open("end"):
                return
            submit(f"{who}-{number}")

    @types.register
    class Parent(Job):
        def start(self) -> None:
            submit_many(self.job_id)

    def others(place: int) -> None:
        try:
            submit_many(f"other-{place}")
        except BaseException as error:
            refused.append(error)

    def force_one(number: int) -> None:
        job_id = manager.submit("Parent").id
        manager.until(job_id, "running")
        time.sleep(number * 0.0007)
        stopped = manager.stop(job_id, wait=10, force=True)
        assert (stopped.status, stopped.attempt, stopped.error) == ("stopped", 1, None)
        assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"], "its thread was abandoned"

    with threads(2, others):
        try:
            for number in range(25):
                force_one(number)
        finally:
            stage.open("end")

    submit("last")
    stored = labels_of_all(manager)
    assert refused == []
    assert set(stored.values()) == {1}
    assert set(counted) <= stored.keys()
    assert all(name in counted for name in stored if name.startswith("other"))


def test_force_waits_until_a_call_of_the_manager_has_ended_and_ends_the_work_then(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @types.register
    class Parent(Job):
        def start(self) -> None:
            stage.tell("start")
            try:
                self.submit_child()
                spin(lambda: stage.is_open("end"))  # on a busy machine, force may strike only here
            except BaseException as error:
                stage.tell(type(error).__name__)
                raise

        def submit_child(self) -> None:
            manager.submit("Parent", run_at=datetime(2100, 1, 1, tzinfo=UTC), labels={"name": "child"})

    def take_long(name: str) -> None:
        if name == "add" and threading.current_thread().name.startswith("job-"):
            spin(lambda: stage.is_open("add"))  # in Python code, where force would strike
            stage.tell("added")

    force = Runner.force

    def tell_force(runner: Runner) -> None:
        force(runner)
        stage.tell("force")

    monkeypatch.setattr(Runner, "force", tell_force)
    manager.store.fault = take_long
    job_id = started(manager, stage, "Parent")
    manager.stop(job_id, force=True)
    manager.wait_until(lambda: "force" in stage.told)
    stage.open("add")

    assert manager.until(job_id, "stopped").attempt == 1
    assert stage.told == ["start", "force", "added", "StopRequested"]
    assert labels_of_all(manager) == {"child": 1}
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]


@pytest.mark.parametrize("way", ["wait", "wait of another manager", "follow"])
def test_force_ends_a_job_that_waits_for_another_job(
    make_manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(watchdog, "FORCE_SECONDS", 5.0)
    manager = make_manager()
    asked = manager if way == "wait" else make_manager(slots=0)

    @types.register
    class Waits(Job):
        def start(self) -> None:
            if way == "follow":
                events = asked.follow(job_id=other)
                stage.tell("start")
                try:
                    events.next_events(3600)
                    events.next_events(3600)
                finally:
                    events.close()
            else:
                stage.tell("start")
                asked.wait(other, unless=("submitted",), wait=3600)

    other = manager.submit("Waits", run_at=datetime(2100, 1, 1, tzinfo=UTC)).id
    job_id = started(manager, stage, "Waits")

    began = time.monotonic()
    stopped = manager.stop(job_id, wait=10, force=True)

    assert (stopped.status, stopped.attempt) == ("stopped", 1)
    assert time.monotonic() - began < 4
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]
    assert manager.stop(other, wait=10).status == "stopped"


def test_force_that_strikes_as_a_job_begins_to_wait_leaves_no_lock_held(
    manager: Any, types: Registry, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(watchdog, "FORCE_SECONDS", 60.0)

    @types.register
    class Waits(Job):
        def start(self) -> None:
            stage.tell("start")
            stage.pass_gate("stopped")
            stage.open("waits")
            self.wait(60)

    force, enter = Runner.force, threading.Condition.__enter__

    def open_forced(runner: Runner) -> None:
        force(runner)
        stage.open("forced")

    def enter_slowly(condition: threading.Condition) -> bool:
        """Take the condition's lock, and let force strike before the caller knows."""
        entered = enter(condition)
        is_first = "lock taken" not in stage.told
        if stage.is_open("waits") and threading.current_thread().name == name and is_first:
            stage.tell("lock taken")
            spin(lambda: stage.is_open("forced"))
        return entered

    job_id = started(manager, stage, "Waits")
    name = f"job-{job_id}-1"
    monkeypatch.setattr(Runner, "force", open_forced)
    monkeypatch.setattr(threading.Condition, "__enter__", enter_slowly)
    manager.stop(job_id, force=True)
    stage.open("stopped")

    assert manager.until(job_id, "stopped").attempt == 1
    assert stage.told == ["start", "lock taken"]
    assert manager.actions(job_id) == ["submit", "claim", "stop", "yield"]

"""Whatever a job's code raises or returns, its job ends in a status that says why, and no thread of ours dies of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jobmanager import Fatal, Job
from jobmanager.core.outcomes import CLEAN_ATTEMPTS
from jobmanager.errors import InvalidRequest, LeaseLost, StopRequested, Unwind
from jobmanager.registry import Registry


@pytest.fixture
def rng() -> Callable[[], float]:
    """Retry at once: how long a retry waits is tested with the values."""
    return lambda: 0.0


def fail_with(types: Registry, error: BaseException) -> None:
    """Register a type that raises *error*."""

    @types.register
    class Failing(Job):
        def start(self) -> None:
            self.checkpoint(cursor="here", done=1)
            raise error


def run(manager: Any, job_type: str = "Failing", **options: Any) -> Any:
    """Submit a job and return it when it has ended, one way or another."""
    return manager.until(manager.submit(job_type, **options).id, "failed", "completed", "stopped")


def test_a_job_that_raises_is_failed_and_tells_why(manager: Any, types: Registry) -> None:
    fail_with(types, ValueError("no more ink"))

    job = run(manager)

    assert (job.status, job.error, job.failures, job.result) == ("failed", "ValueError: no more ink", 1, None)
    assert job.checkpoint.cursor == "here"
    assert (job.owner, job.lease_expires_at, job.running_since) == (None, None, None)
    assert "Traceback" in manager.log_text(job.id)
    assert "no more ink" in manager.log_text(job.id)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError("deep"), BaseException("bare")],
)
def test_no_error_of_a_job_ends_more_than_the_job(manager: Any, types: Registry, error: BaseException) -> None:
    fail_with(types, error)

    jobs = [run(manager) for _ in range(2)]

    assert [job.status for job in jobs] == ["failed", "failed"]
    assert jobs[0].error.startswith(type(error).__name__)


class Mute(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Mute(), id="its text cannot be read"),
        pytest.param(ValueError("name \udcff of a file"), id="its text is no UTF-8"),
        pytest.param(ValueError("a \0 in it"), id="its text has a NUL"),
        pytest.param(ValueError("x" * 5_000_000), id="its text is huge"),
    ],
)
def test_a_job_whose_error_cannot_be_stored_as_it_is_fails_all_the_same(
    manager: Any, types: Registry, error: Exception
) -> None:
    fail_with(types, error)

    job = run(manager)

    assert (job.status, job.failures, job.crashes) == ("failed", 1, 0)
    assert type(error).__name__ in job.error
    assert len(job.error) < 20_000
    assert manager.actions(job.id) == ["submit", "claim", "fail"]


@pytest.mark.parametrize("line", ["name \udcff of a file", "a \0 in it"])
def test_a_log_line_that_cannot_be_stored_as_it_is_does_not_harm_the_job(
    manager: Any, types: Registry, line: str
) -> None:
    @types.register
    class Talker(Job):
        def start(self) -> None:
            self.log.info(line)
            self.log.info("and on")
            self.checkpoint(cursor=1)

    job = run(manager, "Talker")

    assert job.status == "completed"
    assert "of a file" in manager.log_text(job.id) or "in it" in manager.log_text(job.id)
    assert "and on" in manager.log_text(job.id)


@pytest.mark.parametrize(
    "value",
    [{1, 2}, float("nan"), b"bytes", {"deep": [object()]}, "lone \udcff"],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("where", ["result", "cursor"])
def test_a_result_or_cursor_that_is_not_valid_json_fails_the_job_with_the_reason(
    manager: Any, types: Registry, where: str, value: Any
) -> None:
    @types.register
    class Odd(Job):
        def start(self) -> Any:
            self.checkpoint(cursor="good")
            if where == "cursor":
                self.checkpoint(cursor=value)
            return {"result": value}

    job = run(manager, "Odd")

    assert (job.status, job.failures, job.crashes) == ("failed", 1, 0)
    assert "Error" in job.error
    assert job.checkpoint.cursor == "good", "a bad cursor never replaces a good one"


@pytest.mark.parametrize("done", ["many", float("nan"), float("inf"), object(), 10**400])
@pytest.mark.parametrize("name", ["done", "total"])
def test_progress_that_is_not_a_number_fails_the_job_and_leaves_it_readable(
    manager: Any, types: Registry, name: str, done: Any
) -> None:
    @types.register
    class Odd(Job):
        def start(self) -> None:
            self.checkpoint(cursor=1, done=1, total=2)
            self.checkpoint(**{"cursor": 2, name: done})

    job = run(manager, "Odd")

    assert job.status == "failed"
    assert (job.checkpoint.done, job.checkpoint.total) == (1, 2)


def test_details_that_raise_do_not_harm_the_job_and_the_last_ones_stay(manager: Any, types: Registry) -> None:
    @types.register
    class Curious(Job):
        def start(self) -> None:
            for step in range(4):
                self.checkpoint(cursor=step, done=step)

        def details(self) -> Any:
            if self.cursor == 2:
                return {"odd": {1}}
            return {"step": self.cursor if self.cursor < 2 else 1 // 0}

    job = run(manager, "Curious")

    assert job.status == "completed"
    assert job.details == {"step": 1}
    assert "ZeroDivisionError" in manager.log_text(job.id)
    assert "TypeError" in manager.log_text(job.id)


def test_a_failure_is_retried_from_the_checkpoint_as_often_as_the_submission_says(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Flaky(Job):
        def start(self) -> None:
            stage.tell((self.attempt, self.cursor))
            self.checkpoint(cursor=self.attempt * 10)
            raise OSError("busy")

    job = run(manager, "Flaky", max_attempts=3)

    assert stage.told == [(1, None), (2, 10), (3, 20)]
    assert (job.status, job.failures, job.crashes) == ("failed", 3, 0)
    assert manager.actions(job.id) == ["submit", "claim", "retry", "claim", "retry", "claim", "fail"]


def test_a_retry_waits_and_frees_its_slot(make_manager: Any, types: Registry, steps: Any) -> None:
    fail_with(types, OSError("busy"))
    manager = make_manager(slots=1, rng=lambda: 1.0)

    job = manager.submit("Failing", max_attempts=2)
    other = manager.submit("Steps").id
    manager.until(other, "running")

    waiting = manager.get(job.id)
    assert (waiting.status, waiting.error) == ("submitted", "OSError: busy")
    assert waiting.run_at - manager.changes(job.id)[-1].at > timedelta(seconds=0.9)


def test_what_was_reached_right_before_a_failure_is_kept_for_the_retry(
    make_manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Flaky(Job):
        def start(self) -> None:
            stage.tell(self.cursor)
            for step in range(self.cursor or 0, 100):
                self.checkpoint(cursor=step + 1)
            if self.attempt == 1:
                raise OSError("busy")

    manager = make_manager(checkpoint_seconds=3600)

    job = run(manager, "Flaky", max_attempts=2)

    assert job.status == "completed"
    assert stage.told == [None, 100]


def test_a_fatal_error_is_not_retried(manager: Any, types: Registry) -> None:
    fail_with(types, Fatal("the dataset is gone"))

    job = run(manager, max_attempts=5)

    assert (job.status, job.failures, job.error) == ("failed", 1, "the dataset is gone")


def test_a_failed_job_that_is_resumed_goes_on_from_its_checkpoint_with_all_its_tries(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Flaky(Job):
        def start(self) -> None:
            stage.tell(self.cursor)
            self.checkpoint(cursor=(self.cursor or 0) + 1)
            raise OSError("busy")

    job = run(manager, "Flaky", max_attempts=2)
    manager.resume(job.id)
    manager.wait_until(lambda: len(stage.told) == 4)
    failed = manager.until(job.id, "failed")

    assert stage.told == [None, 1, 2, 3]
    assert (failed.failures, failed.attempt) == (2, 4)


def test_a_failed_job_can_be_rolled_back(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Failing(Job):
        def start(self) -> None:
            self.checkpoint(cursor="what to clean")
            raise ValueError("no")

        def clean(self) -> None:
            stage.tell(self.cursor)

    job = run(manager)
    stopped = manager.stop(job.id, wait=10)

    assert stopped.status == "stopped"
    assert stopped.error == "ValueError: no"
    assert stage.told == ["what to clean"]


def test_arguments_that_no_longer_fit_the_type_fail_the_job(make_manager: Any, types: Registry) -> None:
    @types.register
    class Changing(Job):
        def start(self) -> None:
            """Never reached."""

    class Stricter(Job):
        type = "Changing"

        class Args(Job.Args):
            """None."""

        def start(self) -> None:
            raise AssertionError("it must not be called")

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise InvalidRequest("args.n: Field required")

    job = make_manager(slots=0).submit("Changing")
    later = Registry()
    later.register(Stricter)

    failed = make_manager(own_types=later).until(job.id, "failed")

    assert failed.error == "args.n: Field required"


def test_a_halt_hook_that_raises_fails_the_job(manager: Any, types: Registry) -> None:
    @types.register
    class Clumsy(Job):
        def start(self) -> None:
            self.wait(60)

        def halt(self) -> None:
            raise OSError("cannot let go")

    job = manager.submit("Clumsy")
    manager.until(job.id, "running")

    failed = manager.halt(job.id, wait=10)

    assert (failed.status, failed.error) == ("failed", "OSError: cannot let go")


def test_a_halted_job_that_has_tries_left_stays_halted_when_its_halt_hook_raises(manager: Any, types: Registry) -> None:
    @types.register
    class Clumsy(Job):
        def start(self) -> None:
            self.wait(60)

        def halt(self) -> None:
            raise OSError("cannot let go")

    job = manager.submit("Clumsy", max_attempts=2)
    manager.until(job.id, "running")

    halted = manager.halt(job.id, wait=10)

    assert (halted.status, halted.error, halted.failures) == ("halted", "OSError: cannot let go", 1)
    assert manager.resume(job.id, wait=10).status == "running"


def test_a_finally_that_raises_while_the_job_is_handed_over_is_no_failure_of_the_job(
    make_manager: Any, types: Registry
) -> None:
    @types.register
    class Clumsy(Job):
        def start(self) -> None:
            try:
                self.wait(60)
            finally:
                raise OSError("already closed")

    manager = make_manager()
    job = manager.submit("Clumsy")
    manager.until(job.id, "running")

    manager.close()
    left = make_manager(slots=0).get(job.id)

    assert (left.status, left.failures, left.error) == ("submitted", 0, None)


def test_a_resume_hook_that_raises_fails_the_job(manager: Any, types: Registry) -> None:
    @types.register
    class Clumsy(Job):
        def start(self) -> None:
            self.wait(60)

        def resume(self) -> None:
            raise OSError("cannot take again")

    job = manager.submit("Clumsy")
    manager.until(job.id, "running")
    manager.halt(job.id, wait=10)
    manager.resume(job.id)

    assert manager.until(job.id, "failed").error == "OSError: cannot take again"


def test_a_stop_hook_that_raises_does_not_keep_the_job_from_being_cleaned(
    manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Clumsy(Job):
        def start(self) -> None:
            stage.tell("start")
            self.wait(60)

        def stop(self) -> None:
            raise OSError("cannot put in order")

        def clean(self) -> None:
            stage.tell("clean")

    job = manager.submit("Clumsy")
    until(lambda: stage.told)  # a job that is stopped before its code runs has nothing to put in order

    assert manager.stop(job.id, wait=10).status == "stopped"
    assert stage.told == ["start", "clean"]
    assert "cannot put in order" in manager.log_text(job.id)


def test_what_a_halt_hook_saves_is_kept(make_manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Careful(Job):
        def start(self) -> None:
            self.checkpoint(cursor="begun")
            self.wait(60)

        def halt(self) -> None:
            stage.tell("halt")
            assert len(stage.told) < 5, "called again and again"
            self.checkpoint(cursor="put away")
            self.wait(0.01)

    manager = make_manager(checkpoint_seconds=0.0)
    job = manager.submit("Careful")
    manager.until(job.id, "running")
    manager.wait_until(lambda: manager.get(job.id).checkpoint.cursor == "begun")

    halted = manager.halt(job.id, wait=10)

    assert halted.status == "halted"
    assert stage.told == ["halt"]
    assert halted.checkpoint.cursor == "put away"


def test_what_a_stop_hook_saves_reaches_clean(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Careful(Job):
        def start(self) -> None:
            self.checkpoint(cursor="begun")
            self.wait(60)

        def stop(self) -> None:
            self.wait(0.01)
            self.checkpoint(cursor="upload 7")
            stage.tell("stop")

        def clean(self) -> None:
            stage.tell(self.cursor)

    job = manager.submit("Careful")
    manager.until(job.id, "running")
    manager.wait_until(lambda: manager.get(job.id).checkpoint.cursor == "begun")

    assert manager.stop(job.id, wait=10).status == "stopped"
    assert stage.told == ["stop", "upload 7"]


def test_a_checkpoint_inside_flush_or_details_does_no_harm(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Odd(Job):
        def start(self) -> None:
            self.checkpoint(cursor=1)

        def flush(self) -> None:
            self.checkpoint(cursor=2)

        def details(self) -> dict[str, Any]:
            self.checkpoint(done=3)
            return {}

    job = run(manager, "Odd")

    assert job.status == "completed"
    assert job.checkpoint.cursor == 2


def test_a_clean_that_raises_is_tried_again_until_it_succeeds(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Messy(Job):
        def start(self) -> None:
            self.wait(60)

        def clean(self) -> None:
            stage.tell("clean")
            if len(stage.told) < 3:
                raise OSError("busy")

    job = manager.submit("Messy")
    manager.until(job.id, "running")
    manager.stop(job.id)
    stopped = manager.until(job.id, "stopped", "failed")

    assert stopped.status == "stopped"
    assert stage.told == ["clean"] * 3
    assert manager.actions(job.id) == ["submit", "claim", "stop", "release", "claim", "release", "claim", "yield"]


def test_a_clean_that_never_succeeds_fails_the_job_and_can_be_asked_for_again(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Messy(Job):
        def start(self) -> None:
            self.wait(60)

        def clean(self) -> None:
            stage.tell("clean")
            if len(stage.told) <= CLEAN_ATTEMPTS:
                raise OSError("busy")

    job = manager.submit("Messy")
    manager.until(job.id, "running")
    manager.stop(job.id)
    failed = manager.until(job.id, "stopped", "failed")

    assert (failed.status, failed.error) == ("failed", "OSError: busy")
    assert len(stage.told) == CLEAN_ATTEMPTS
    assert manager.stop(job.id, wait=10).status == "stopped"
    assert len(stage.told) == CLEAN_ATTEMPTS + 1


def test_an_attempt_that_takes_too_long_is_a_failure(manager: Any, types: Registry) -> None:
    @types.register
    class Slow(Job):
        timeout_seconds = 0.2

        def start(self) -> None:
            self.checkpoint(cursor="here")
            self.wait(60)

    job = run(manager, "Slow", max_attempts=2)

    assert (job.status, job.failures) == ("failed", 2)
    assert job.error == "The attempt took longer than 0.2 seconds."


def test_a_timeout_of_the_work_does_not_disturb_its_clean(manager: Any, types: Registry, stage: Any) -> None:
    @types.register
    class Slow(Job):
        timeout_seconds = 0.3

        def start(self) -> None:
            self.wait(60)

        def clean(self) -> None:
            stage.tell("begin")
            self.wait(0.5)
            stage.tell("end")

    job = manager.submit("Slow")
    manager.until(job.id, "running")

    assert manager.stop(job.id, wait=10).status == "stopped"
    assert stage.told == ["begin", "end"]


def test_a_job_that_swallows_every_exception_is_halted_and_stopped_all_the_same(
    manager: Any, types: Registry, stage: Any
) -> None:
    @types.register
    class Greedy(Job):
        def start(self) -> None:
            while True:
                try:
                    self.wait(0.001)
                    self.checkpoint()
                except Exception:
                    stage.tell("swallowed")

    job = manager.submit("Greedy")
    manager.until(job.id, "running")

    assert manager.halt(job.id, wait=10).status == "halted"
    assert manager.resume(job.id, wait=10).status == "running"
    assert manager.stop(job.id, wait=10).status == "stopped"
    assert stage.told == []


def test_a_job_that_swallows_what_unwinds_it_does_not_work_while_it_is_halted(
    make_manager: Any, types: Registry, stage: Any, until: Any
) -> None:
    @types.register
    class Greedy(Job):
        def start(self) -> None:
            for step in range(3):
                try:
                    self.wait(60)
                except BaseException as error:
                    stage.tell((step, type(error).__name__))

    manager = make_manager(park_seconds=0.0)
    job = manager.submit("Greedy")
    manager.until(job.id, "running")
    manager.halt(job.id, wait=10)
    until(lambda: len(stage.told) == 3, lambda: stage.told)

    assert stage.told == [(0, "Unwind"), (1, "Unwind"), (2, "Unwind")]
    assert manager.get(job.id).status == "halted"


@pytest.mark.parametrize("error", [StopRequested, Unwind, LeaseLost])
def test_a_job_that_raises_what_only_we_may_raise_is_failed_and_not_cleaned(
    manager: Any, types: Registry, stage: Any, error: type[BaseException]
) -> None:
    @types.register
    class Forger(Job):
        def start(self) -> None:
            stage.tell("start")
            raise error("forged")

        def clean(self) -> None:
            stage.tell("clean")

    job = run(manager, "Forger")

    assert job.status == "failed"
    assert error.__name__ in job.error
    assert stage.told == ["start"]


def test_the_log_of_a_job_keeps_its_levels_arguments_and_tracebacks_in_order(manager: Any, types: Registry) -> None:
    @types.register
    class Talker(Job):
        def start(self) -> None:
            self.log.debug("hidden")
            self.log.info("row %d of %s", 3, "many")
            try:
                raise ValueError("no")
            except ValueError:
                self.log.exception("odd")

    job = run(manager, "Talker")
    lines = manager.log(job.id)

    assert [(line.level, line.attempt) for line in lines] == [("INFO", 1), ("ERROR", 1)]
    assert lines[0].message == "row 3 of many"
    assert lines[1].message.startswith("odd\nTraceback")
    assert manager.log(job.id, after=lines[0].number) == lines[1:]


def test_a_log_line_whose_arguments_do_not_fit_does_not_harm_the_job(
    manager: Any, types: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What pytest captures raises where others only complain.
    monkeypatch.setattr(logging.getLogger("jobmanager.jobs"), "propagate", False)

    @types.register
    class Talker(Job):
        def start(self) -> None:
            self.log.info("%d rows", "many")
            self.checkpoint(cursor=1)

    job = run(manager, "Talker")

    assert job.status == "completed"
    assert manager.log_text(job.id) == "%d rows"

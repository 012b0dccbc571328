"""What clients and jobs give the service is bounded when it is given, and what a job logs is bounded all the time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from jobmanager import Job
from jobmanager.core.repeatable import Repeatable
from jobmanager.core.values import Submission
from jobmanager.errors import InvalidRequest, StoreUnavailable
from jobmanager.registry import Registry
from jobmanager.testing.trial import run, torture


def nested(levels: int) -> Any:
    """Return so many arrays inside each other."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


#: By what the limit is called: a value that is beyond it, one of them as a part of an object, and one that is not.
LIMITS: dict[str, tuple[Any, Any]] = {
    "larger than 1 MiB": ("é" * (1 << 19), "é" * ((1 << 19) - 10)),
    "nested more than 100 levels deep": (nested(100), nested(99)),
}


@pytest.fixture(params=LIMITS)
def limit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Anything(Job):
    """Takes any arguments, and gives the service a value beyond a limit, where its arguments say so."""

    class Args(BaseModel):
        model_config = ConfigDict(extra="allow")

        where: str = ""
        limit: str = ""

    def start(self) -> Any:
        self.checkpoint(cursor="good", done=1)
        if self.args.where == "cursor":
            self.checkpoint(cursor=self.value(), done=2)
        elif self.args.where == "details":
            self.checkpoint(cursor="better", done=2)
        return {"value": self.value() if self.args.where == "result" else 1}

    def details(self) -> dict[str, Any]:
        is_due = self.args.where == "details" and self.cursor == "better"
        return {"value": self.value() if is_due else "first"}

    def value(self) -> Any:
        return {"v": LIMITS[self.args.limit][0]}


def test_args_up_to_the_limit_are_stored(make_manager: Any, types: Registry, limit: str) -> None:
    types.register(Anything)
    args = {"v": LIMITS[limit][1]}

    job = make_manager(slots=0).submit("Anything", args)

    assert job.args == args


def test_args_beyond_a_limit_are_refused_and_nothing_is_stored(make_manager: Any, types: Registry, limit: str) -> None:
    types.register(Anything)
    manager = make_manager(slots=0)
    args = {"v": LIMITS[limit][0]}

    with pytest.raises(InvalidRequest, match=f"^args is {limit}") as refused:
        manager.submit("Anything", args)
    with pytest.raises(InvalidRequest, match=f"^1: args is {limit}") as refused_of_many:
        manager.submit_all([Submission(type="Anything"), Submission(type="Anything", args=args)])

    assert refused.value.field == "args"
    assert refused_of_many.value.field == "1.args"
    assert manager.store.count() == {}


def test_many_submissions_are_all_stored_however_often_they_can_be_gone_through(
    make_manager: Any, types: Registry
) -> None:
    class OnePass:
        """Gives its items once, though it is not its own iterator."""

        def __init__(self, items: list[Submission]) -> None:
            self.left = iter(items)

        def __iter__(self) -> Any:
            return iter(list(self.left))

    types.register(Anything)
    manager = make_manager(slots=0)
    asked = [Submission(type="Anything", priority=number) for number in range(3)]
    ways: list[Iterable[Submission]] = [asked, iter(asked), OnePass(asked), Repeatable(lambda: iter(asked))]

    stored = [manager.submit_all(way) for way in ways]

    assert [[manager.get(job_id).priority for job_id in ids] for ids in stored] == [[0, 1, 2]] * 4


def test_nothing_is_stored_if_the_submissions_change_between_two_passes(make_manager: Any, types: Registry) -> None:
    types.register(Anything)
    manager = make_manager(slots=0)
    passes = iter([3, 2])
    unsteady = Repeatable(lambda: iter([Submission(type="Anything")] * next(passes)))

    with pytest.raises(RuntimeError, match="3 jobs were checked, but 2 were to be stored"):
        manager.submit_all(unsteady)

    assert manager.store.count() == {}


def test_args_are_bounded_before_the_type_validates_them(manager: Any, types: Registry) -> None:
    @types.register
    class Picky(Job):
        class Args(BaseModel):
            number: int

        def start(self) -> None:
            """Do nothing."""

    with pytest.raises(InvalidRequest, match=r"^args is larger"):
        manager.submit("Picky", {"number": ["x"] * (1 << 19)})


@pytest.mark.parametrize("where", ["cursor", "result"])
def test_a_cursor_or_result_beyond_a_limit_fails_the_job_and_its_checkpoint_is_kept(
    manager: Any, types: Registry, limit: str, where: str
) -> None:
    types.register(Anything)

    job = manager.until(manager.submit("Anything", {"where": where, "limit": limit}).id, "failed", "completed")

    assert (job.status, job.failures, job.crashes, job.result) == ("failed", 1, 0, None)
    assert job.error.startswith(f"ValueError: the {where} is {limit}")
    assert (job.checkpoint.cursor, job.checkpoint.done) == ("good", 1)


def test_details_beyond_a_limit_are_left_out_and_the_last_ones_stay(manager: Any, types: Registry, limit: str) -> None:
    types.register(Anything)

    job = manager.until(manager.submit("Anything", {"where": "details", "limit": limit}).id, "failed", "completed")

    assert (job.status, job.details, job.checkpoint.cursor) == ("completed", {"value": "first"}, "better")
    assert f"ValueError: what details() returned is {limit}" in manager.log_text(job.id)


@pytest.mark.parametrize("where", ["cursor", "result", "details"])
def test_a_test_of_a_job_meets_the_same_limits(limit: str, where: str) -> None:
    outcome = run(Anything, {"where": where, "limit": limit})

    if where == "details":
        assert (outcome.status, outcome.details) == ("completed", {"value": "first"})
        assert f"what details() returned is {limit}" in "".join(outcome.log)
    else:
        assert (outcome.status, outcome.cursor) == ("failed", "good")
        assert outcome.error is not None
        assert outcome.error.startswith(f"ValueError: the {where} is {limit}")


@pytest.mark.parametrize("where", ["cursor", "result", "details"])
def test_torture_meets_the_same_limits(limit: str, where: str) -> None:
    verdict = torture(Anything, {"where": where, "limit": limit})

    assert not verdict.is_sound()
    assert f" is {limit}" in str(verdict)


@pytest.mark.parametrize("drive", [run, torture])
def test_tests_of_a_job_refuse_args_beyond_a_limit(drive: Any, limit: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^args is {limit}"):
        drive(Anything, {"v": LIMITS[limit][0]})


@pytest.fixture
def flood(types: Registry, stage: Any) -> type[Job]:
    """Return a type that logs many lines at once, and fails in as many attempts as its arguments say."""

    @types.register
    class Flood(Job):
        class Args(BaseModel):
            lines: int
            failures: int = 0

        def start(self) -> None:
            self.checkpoint(cursor=1)
            stage.tell("began")
            stage.pass_gate("log")
            for number in range(self.args.lines):
                self.log.info("line %d of attempt %d", number, self.attempt)
            stage.tell("logged")
            stage.pass_gate("save")
            if self.attempt <= self.args.failures:
                raise OSError("again")
            self.checkpoint(cursor=2)

    return Flood


@pytest.mark.usefixtures("flood")
def test_a_job_s_log_keeps_its_newest_lines_over_all_its_attempts(
    make_manager: Any, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobmanager.core.outcomes.backoff", lambda *_, **__: 0.0)
    stage.open("log")
    stage.open("save")
    manager = make_manager(log_lines=100)

    job = manager.submit("Flood", {"lines": 90, "failures": 2}, max_attempts=3)
    manager.until(job.id, "completed")

    note, *lines = manager.log(job.id)
    assert note.message.startswith(f"{272 - len(lines)} earlier lines were dropped"), "270 and two tracebacks"
    assert 90 <= len(lines) <= 110
    assert [line.message for line in lines[-90:]] == [f"line {number} of attempt 3" for number in range(90)]


@pytest.mark.usefixtures("flood")
def test_a_job_that_logs_while_the_store_is_away_keeps_its_newest_lines_only(
    make_manager: Any, stage: Any, until: Any
) -> None:
    manager = make_manager(log_lines=100)
    job = manager.submit("Flood", {"lines": 2_000})
    until(lambda: "began" in stage.told)

    manager.store.fault = lambda name: StoreUnavailable("away") if name == "add_log" else None
    stage.open("log")
    until(lambda: "logged" in stage.told)
    (runner,) = manager._engine._runners.values()
    # The thread that tries to store them has taken all of them out for a moment.
    until(lambda: 0 < len(runner._log_keeper._lines) <= 110)
    manager.store.fault = lambda name: None
    stage.open("save")
    manager.until(job.id, "completed")

    note, *lines = manager.log(job.id)
    assert [line.message for line in lines] == [f"line {number} of attempt 1" for number in range(2_000)][-len(lines) :]
    assert int(note.message.split()[0]) == 2_000 - len(lines)


def test_a_long_line_keeps_its_beginning_and_its_end(manager: Any, types: Registry) -> None:
    @types.register
    class Wordy(Job):
        def start(self) -> None:
            raise ValueError("x" * 1_000_000 + "and why")

    job = manager.until(manager.submit("Wordy").id, "failed")

    (line,) = manager.log(job.id)
    assert line.message.startswith("Traceback (most recent call last):")
    assert line.message.endswith("xxand why\n")
    assert len(line.message) < 101_000

"""What an author's tests rely on: `jobmanager.testing.run` treats a job as the service does."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from jobmanager import Fatal, Job, Settings
from jobmanager.core.values import Checkpoint
from jobmanager.errors import InvalidRequest
from jobmanager.testing import run


class CountTo(Job):
    """Counts to n, one number a second, and tells of its hooks."""

    class Args(BaseModel):
        n: int

    def start(self) -> dict[str, Any]:
        self.log.info("start %d from %s", self.attempt, self.cursor)
        try:
            for i in range(self.cursor or 0, self.args.n):
                self.wait(1)
                (self.workdir / f"{i}.txt").write_text(str(i))
                self.checkpoint(cursor=i + 1, done=i + 1, total=self.args.n)
        finally:
            self.log.info("finally %d", self.attempt)
        return {"counted": self.args.n}

    def halt(self) -> None:
        self.log.info("halt %d", self.attempt)

    def resume(self) -> None:
        self.log.info("resume %d", self.attempt)

    def stop(self) -> None:
        self.log.info("stop %d", self.attempt)

    def clean(self) -> None:
        self.log.info("clean %d from %s", self.attempt, self.cursor)
        super().clean()

    def details(self) -> dict[str, Any]:
        return {"at": self.cursor}


def made(*cursors: int, total: int = 3) -> tuple[Checkpoint, ...]:
    return tuple(Checkpoint(seq=seq, cursor=at, done=at, total=total) for seq, at in enumerate(cursors, start=1))


def test_a_job_runs_to_its_end_without_sleeping() -> None:
    began = time.monotonic()

    outcome = run(CountTo, {"n": 3})

    assert (outcome.status, outcome.result, outcome.error) == ("completed", {"counted": 3}, None)
    assert outcome.checkpoints == made(1, 2, 3)
    assert (outcome.cursor, outcome.details) == (3, {"at": 3})
    assert outcome.log == ("INFO start 1 from None", "INFO finally 1")
    assert outcome.files == {"0.txt": b"0", "1.txt": b"1", "2.txt": b"2"}
    assert outcome.waited_seconds == 3
    assert time.monotonic() - began < 1


def test_a_halted_job_goes_on_in_the_same_instance() -> None:
    outcome = run(CountTo, {"n": 3}, halt_after=2)

    assert outcome.log == ("INFO start 1 from None", "INFO halt 1", "INFO resume 2", "INFO finally 2")
    assert outcome.checkpoints == made(1, 2, 3)
    assert outcome.result == {"counted": 3}


def test_a_restarted_job_is_unwound_and_starts_again_from_its_cursor() -> None:
    outcome = run(CountTo, {"n": 3}, restart_after=2)

    assert outcome.log == ("INFO start 1 from None", "INFO finally 1", "INFO start 2 from 2", "INFO finally 2")
    assert outcome.checkpoints == made(1, 2, 3)
    assert outcome.result == {"counted": 3}


def test_a_job_that_is_halted_and_restarted_at_once_was_parked_for_long() -> None:
    outcome = run(CountTo, {"n": 3}, halt_after=2, restart_after=2)

    assert outcome.log[1:3] == ("INFO halt 1", "INFO finally 1")
    assert "INFO resume 1" not in outcome.log
    assert outcome.status == "completed"


def test_a_stopped_job_is_cleaned_by_a_fresh_instance() -> None:
    outcome = run(CountTo, {"n": 3}, stop_after=2)

    assert outcome.log == ("INFO start 1 from None", "INFO finally 1", "INFO stop 1", "INFO clean 1 from 2")
    assert (outcome.status, outcome.result, outcome.error) == ("stopped", None, None)
    assert outcome.checkpoints == made(1, 2)
    assert outcome.files == {}


def test_a_clean_that_cannot_be_repeated_is_found_out() -> None:
    class Once(CountTo):
        def clean(self) -> None:
            (self.workdir / "0.txt").unlink()

    assert run(Once, {"n": 3}, stop_after=2).status == "stopped"
    outcome = run(Once, {"n": 3}, stop_after=2, clean_times=2)

    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.startswith("FileNotFoundError")


@given(n=st.integers(1, 6), data=st.data())
def test_wherever_a_job_is_interrupted_it_makes_the_same(n: int, data: st.DataObject) -> None:
    undisturbed = run(CountTo, {"n": n})

    disturbed = run(
        CountTo, {"n": n}, halt_after=data.draw(st.integers(1, n)), restart_after=data.draw(st.integers(1, n))
    )

    assert (disturbed.result, disturbed.files) == (undisturbed.result, undisturbed.files)
    assert disturbed.checkpoints == undisturbed.checkpoints


@pytest.mark.parametrize("option", ["halt_after", "restart_after", "stop_after"])
def test_an_interruption_that_never_came_is_no_success(option: str) -> None:
    with pytest.raises(AssertionError, match=f"{option}=4, but the job made 3 checkpoints"):
        run(CountTo, {"n": 3}, **{option: 4})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["halt_after", "restart_after", "stop_after", "clean_times"])
def test_checkpoints_are_counted_from_one(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, not 0"):
        run(CountTo, {"n": 3}, **{option: 0})  # type: ignore[arg-type]


def test_a_job_may_begin_where_an_earlier_one_had_come() -> None:
    assert run(CountTo, {"n": 3}, cursor=2).checkpoints == (Checkpoint(seq=1, cursor=3, done=3, total=3),)


def test_wrong_arguments_are_refused_as_at_submission() -> None:
    with pytest.raises(InvalidRequest, match="n: Field required"):
        run(CountTo)


def test_a_type_that_cannot_be_registered_cannot_be_run() -> None:
    class Idle(Job):
        """Has no start."""

    with pytest.raises(TypeError, match=r"define start\(\)"):
        run(Idle)


@pytest.mark.parametrize(
    ("error", "told"), [(ValueError("no"), "ValueError: no"), (Fatal("gone"), "gone"), (SystemExit(3), "SystemExit: 3")]
)
def test_a_job_that_raises_is_failed_and_its_traceback_is_in_the_log(error: BaseException, told: str) -> None:
    class Failing(Job):
        def start(self) -> None:
            self.checkpoint(cursor="here")
            raise error

    outcome = run(Failing)

    assert (outcome.status, outcome.error, outcome.cursor) == ("failed", told, "here")
    assert "Traceback" in outcome.log[-1]


def test_ctrl_c_still_interrupts_a_test_run() -> None:
    class Slow(Job):
        def start(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Slow)


def test_a_cursor_and_a_result_are_seen_as_they_come_back_from_the_store() -> None:
    class Pairs(Job):
        def start(self) -> Any:
            self.log.info("%r", self.cursor)
            self.checkpoint(cursor=(1, {2: "two"}))
            return {"pair": (1, 2)}

    outcome = run(Pairs, restart_after=1)

    assert outcome.log == ("INFO None", "INFO [1, {'2': 'two'}]")
    assert outcome.result == {"pair": [1, 2]}


def test_a_cursor_changed_in_place_does_not_change_what_was_saved() -> None:
    class Careless(Job):
        def start(self) -> None:
            seen: list[int] = []
            for i in range(2):
                seen.append(i)
                self.checkpoint(cursor=seen)
            seen.append(99)

    assert [checkpoint.cursor for checkpoint in run(Careless).checkpoints] == [[0], [0, 1]]


@pytest.mark.parametrize("where", ["cursor", "result"])
def test_a_cursor_or_result_that_is_not_valid_json_fails_the_job(where: str) -> None:
    class Odd(Job):
        def start(self) -> Any:
            self.checkpoint(cursor={1} if where == "cursor" else 1)
            return {"odd": {1}}

    outcome = run(Odd)

    assert outcome.status == "failed"
    assert outcome.error == f"TypeError: the {where} is not valid JSON: Object of type set is not JSON serializable"


@pytest.mark.parametrize("done", ["many", float("nan"), 10**400])
def test_progress_that_is_not_a_number_fails_the_job(done: Any) -> None:
    class Odd(Job):
        def start(self) -> None:
            self.checkpoint(cursor=1, done=1)
            self.checkpoint(cursor=2, done=done)

    outcome = run(Odd)

    assert (outcome.status, outcome.cursor) == ("failed", 1)
    assert [checkpoint.done for checkpoint in outcome.checkpoints] == [1]


def test_an_empty_cursor_never_replaces_a_good_one() -> None:
    class Terse(Job):
        def start(self) -> None:
            self.checkpoint(cursor="good", done=1, message="begun")
            self.checkpoint(done=2)

    outcome = run(Terse, restart_after=1)

    assert [(at.cursor, at.done, at.message) for at in outcome.checkpoints] == [
        ("good", 1, "begun"),
        ("good", 1, "begun"),
        ("good", 2, "begun"),
    ]


def test_flush_comes_before_each_checkpoint_is_saved() -> None:
    order: list[str] = []

    class Flushing(Job):
        def start(self) -> None:
            for i in range(2):
                order.append(f"work {i}")
                self.checkpoint(cursor=i)

        def flush(self) -> None:
            order.append(f"flush {self.cursor}")

        def details(self) -> dict[str, Any]:
            order.append(f"details {self.cursor}")
            return {}

    run(Flushing)

    assert order == ["work 0", "flush 0", "details 0", "work 1", "flush 1", "details 1"]


def test_details_that_raise_are_logged_and_the_last_ones_stay() -> None:
    class Curious(Job):
        def start(self) -> None:
            self.checkpoint(cursor=0)
            self.checkpoint(cursor=1)

        def details(self) -> dict[str, Any]:
            return {"inverse": 1 / (1 - self.cursor)}

    outcome = run(Curious)

    assert (outcome.status, outcome.details) == ("completed", {"inverse": 1.0})
    assert "ZeroDivisionError" in outcome.log[-1]


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
def test_a_stop_ends_a_job_that_swallows_errors(swallowed: type[BaseException]) -> None:
    class Greedy(Job):
        def start(self) -> None:
            for i in range(3):
                try:
                    self.checkpoint(cursor=i)
                except swallowed:
                    self.log.info("swallowed")

    outcome = run(Greedy, stop_after=1)

    assert outcome.status == "stopped"
    assert outcome.log.count("INFO swallowed") == (0 if swallowed is Exception else 3)


def test_a_stop_hook_that_raises_does_not_keep_the_job_from_being_cleaned() -> None:
    class Clumsy(CountTo):
        def stop(self) -> None:
            raise OSError("cannot put in order")

    outcome = run(Clumsy, {"n": 3}, stop_after=1)

    assert outcome.status == "stopped"
    assert "cannot put in order" in "".join(outcome.log)
    assert outcome.files == {}


@pytest.mark.parametrize("hook", ["halt", "resume"])
def test_a_halt_or_resume_hook_that_raises_fails_the_job(hook: str) -> None:
    class Clumsy(CountTo):
        pass

    def raise_it(self: Job) -> None:
        raise OSError(f"cannot {hook}")

    setattr(Clumsy, hook, raise_it)

    assert run(Clumsy, {"n": 3}, halt_after=1).error == f"OSError: cannot {hook}"


def test_what_hooks_save_reaches_the_next_instance() -> None:
    class Careful(CountTo):
        def stop(self) -> None:
            self.wait(1)
            self.checkpoint(cursor="upload 7")

    assert "INFO clean 1 from upload 7" in run(Careful, {"n": 3}, stop_after=1).log


def test_a_large_file_is_told_by_its_digest() -> None:
    content = b"x" * (1 << 21)

    class Writer(Job):
        def start(self) -> None:
            (self.workdir / "deep").mkdir()
            (self.workdir / "deep" / "large").write_bytes(content)

    assert run(Writer).files == {"deep/large": hashlib.sha256(content).hexdigest()}


def test_a_job_sees_the_settings_it_is_given(tmp_path: Path) -> None:
    class Looking(Job):
        def start(self) -> Any:
            return {"data_dir": str(self.settings.data_dir), "workdir": str(self.workdir)}

    outcome = run(Looking, settings=Settings(data_dir=tmp_path))

    assert outcome.result["data_dir"] == str(tmp_path)
    assert not Path(outcome.result["workdir"]).exists()
    assert list(tmp_path.iterdir()) == []


def test_an_outcome_cannot_be_changed() -> None:
    outcome = run(CountTo, {"n": 1})

    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.status = "failed"  # type: ignore[misc]

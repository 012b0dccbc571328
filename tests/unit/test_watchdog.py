"""When the watchdog interrupts a runner, and when it abandons its thread. Time is an argument."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from jobmanager.core.states import Action, Status
from jobmanager.core.values import Change
from jobmanager.engine.slots import Slots
from jobmanager.engine.watchdog import ANSWER_SECONDS, FORCE_SECONDS, Watchdog
from jobmanager.errors import LeaseLost
from jobmanager.signals import Signals


class FakeRunner:
    """A runner without a thread, which notes what the watchdog does to it."""

    is_cleaner = False

    def __init__(self, clock: Any) -> None:
        self.job_id = "7"
        self.signals = Signals(clock)
        self.number = 1
        self.cleans = False
        self.done: list[str] = []

    def attempt(self) -> int:
        return self.number

    def is_cleaning(self) -> bool:
        return self.cleans

    def interrupt_if_overtime(self) -> None:
        pass

    def force(self) -> None:
        self.done.append("force")

    def abandon(self, *, in_clean: bool) -> bool:
        self.done.append("abandon")
        if in_clean is not self.cleans:
            return False
        raise LeaseLost(self.job_id)


class World:
    """A process with one runner, whose time a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.abandoned = 0
        self.slots = Slots(4)
        self.watchdog = Watchdog(self.slots, on_abandoned=self.count, clock=self.clock)
        self.runner: Any = FakeRunner(self.clock)
        self.slots.add(self.runner)

    def clock(self) -> float:
        return self.now

    def count(self) -> None:
        self.abandoned += 1

    def ask_force(self, attempt: int = 1) -> None:
        """Stop the job with force, as Delivery does."""
        at = datetime(2026, 1, 1, tzinfo=UTC)
        self.runner.signals.ask_stop()
        change = Change(
            seq=9,
            job_id="7",
            action=Action.STOP,
            from_status=Status.RUNNING,
            to_status=Status.STOPPING,
            attempt=attempt,
            actor="ann",
            reason=None,
            asked_at=None,
            at=at,
        )
        self.watchdog.schedule_force(self.runner, change)

    def done_after(self, seconds: float) -> list[str]:
        """Return what was done to the runner by then, in all."""
        self.now += seconds
        self.watchdog.check()
        return list(self.runner.done)


@pytest.fixture
def world() -> World:
    return World()


def test_force_strikes_once_and_only_after_the_job_had_time_to_answer(world: World) -> None:
    world.ask_force()

    assert world.done_after(ANSWER_SECONDS * 0.9) == []
    assert world.done_after(ANSWER_SECONDS * 0.2) == ["force"]
    assert world.done_after(FORCE_SECONDS * 0.9) == ["force"]


def test_force_strikes_at_once_where_the_job_had_time_to_answer_an_earlier_stop(world: World) -> None:
    world.runner.signals.ask_stop()
    world.now += ANSWER_SECONDS

    world.ask_force()

    assert world.done_after(0) == ["force"]


def test_a_thread_that_does_not_end_after_force_is_abandoned_and_frees_its_slot(world: World) -> None:
    world.ask_force()

    world.done_after(ANSWER_SECONDS)

    assert world.done_after(FORCE_SECONDS + 0.01) == ["force", "abandon"]
    assert world.slots.runners() == []
    assert world.abandoned == 1


def test_a_thread_that_has_gone_on_to_clean_is_not_abandoned(world: World) -> None:
    world.ask_force()
    world.done_after(ANSWER_SECONDS)

    world.runner.cleans = True

    assert world.done_after(FORCE_SECONDS + 0.01) == ["force"]


def test_force_that_is_asked_for_again_strikes_again_and_does_not_put_off_the_end(world: World) -> None:
    world.ask_force()
    world.done_after(ANSWER_SECONDS)
    world.ask_force()

    assert world.done_after(FORCE_SECONDS / 2) == ["force", "force"]
    assert world.done_after(FORCE_SECONDS / 2 + 0.01) == ["force", "force", "abandon"]


def test_force_against_an_earlier_attempt_does_nothing(world: World) -> None:
    world.runner.number = 2

    world.ask_force(attempt=1)

    assert world.done_after(60) == []


def test_force_against_a_runner_that_has_ended_does_nothing(world: World) -> None:
    world.ask_force()

    world.slots.remove(world.runner)

    assert world.done_after(60) == []

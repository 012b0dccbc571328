"""The runners of a process: free slots, and changes that come while a thread claims their job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from jobmanager.core.states import Action, Status
from jobmanager.core.values import Change
from jobmanager.engine.slots import Slots


class FakeRunner:
    """A runner without a thread."""

    def __init__(self, job_id: str, attempt: int = 1, *, is_cleaner: bool = False) -> None:
        self.job_id = job_id
        self.is_cleaner = is_cleaner
        self.has_halted = False
        self._attempt = attempt

    def attempt(self) -> int:
        return self._attempt

    def holds_slot(self) -> bool:
        return not self.has_halted and not self.is_cleaner


def runner(job_id: str = "7", attempt: int = 1, **more: Any) -> Any:
    return FakeRunner(job_id, attempt, **more)


def halt(job_id: str = "7", attempt: int = 1) -> Change:
    return Change(
        seq=9,
        job_id=job_id,
        action=Action.HALT,
        from_status=Status.RUNNING,
        to_status=Status.HALTING,
        attempt=attempt,
        actor="ann",
        reason=None,
        asked_at=None,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
def slots() -> Slots:
    return Slots(2)


def test_halted_jobs_and_cleaners_take_no_slot(slots: Slots) -> None:
    halted = runner("a")
    for one in (halted, runner("b"), runner("c", is_cleaner=True)):
        slots.add(one)
    halted.has_halted = True

    assert (slots.free_slots(), slots.free_cleaners()) == (1, 1)


def test_an_ended_runner_does_not_remove_the_one_that_came_after_it(slots: Slots) -> None:
    ended, later = runner(attempt=1), runner(attempt=2)
    slots.add(ended)
    slots.add(later)

    slots.remove(ended)

    assert slots.runners() == [later]


def test_a_change_of_a_job_that_is_not_here_has_no_recipient(slots: Slots) -> None:
    assert slots.recipient(halt(), is_forced=False) is None


def test_a_change_of_a_later_attempt_goes_to_the_runner_that_has_lost_its_lease(slots: Slots) -> None:
    overtaken = runner(attempt=1)
    slots.add(overtaken)

    assert slots.recipient(halt(attempt=2), is_forced=False) is overtaken


def test_a_change_that_comes_during_a_claim_is_kept_for_the_claimed_job(slots: Slots) -> None:
    claimed = runner()
    slots.begin_claim("claimant")
    assert slots.recipient(halt(), is_forced=False) is None
    slots.add(claimed)

    (change,) = slots.end_claim("claimant")

    assert change == (halt(), False)
    assert slots.recipient_after_claim(halt(), is_forced=False) is claimed


def test_a_change_that_comes_during_two_claims_is_kept_until_the_second_has_ended(slots: Slots) -> None:
    overtaken = runner(attempt=1)
    slots.add(overtaken)
    slots.begin_claim("first")
    slots.begin_claim("second")
    slots.recipient(halt(attempt=2), is_forced=False)

    slots.end_claim("first")
    assert slots.recipient_after_claim(halt(attempt=2), is_forced=False) is None, "the second may have claimed the job"

    assert slots.end_claim("second") == [(halt(attempt=2), False)]
    assert slots.recipient_after_claim(halt(attempt=2), is_forced=False) is overtaken

"""The pure decisions: how long to wait after a failure, and what an outcome means for a job."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmanager.core.outcomes import CLEAN_ATTEMPTS, Ending, Outcome, backoff, settle
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, JobRecord, NewJob, finite, storable

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def job(**values: Any) -> JobRecord:
    """Return a job that runs for the first time."""
    usual: dict[str, Any] = {
        "number": 1,
        "id": "7",
        "type": "Simple",
        "args": {},
        "status": Status.RUNNING,
        "priority": 0,
        "labels": {},
        "max_attempts": 1,
        "timeout_seconds": None,
        "run_at": NOW,
        "submitted_at": NOW,
        "started_at": NOW,
        "running_since": NOW,
        "finished_at": None,
        "ran_seconds": 0.0,
        "attempt": 1,
        "failures": 0,
        "crashes": 0,
        "owner": "me",
        "lease_expires_at": NOW,
        "checkpoint": Checkpoint(),
        "details": {},
        "result": None,
        "error": None,
        "asked_at": None,
        "is_forced": False,
    }
    return JobRecord(**(usual | values))


@given(failures=st.integers(1, 10**6), chance=st.floats(0, 1), base=st.floats(0.001, 10), cap=st.floats(0.001, 1e6))
def test_a_backoff_never_exceeds_its_cap_nor_its_doubling(
    failures: int, chance: float, base: float, cap: float
) -> None:
    delay = backoff(failures, base=base, cap=cap, rng=lambda: chance)

    assert 0 <= delay <= cap
    if failures <= 30:
        assert delay <= base * 2 ** (failures - 1)


def test_a_backoff_doubles_with_every_failure_up_to_its_cap() -> None:
    delays = [backoff(failures, cap=10, rng=lambda: 1.0) for failures in range(1, 7)]

    assert delays == [1, 2, 4, 8, 10, 10]


def test_a_backoff_is_spread_over_its_whole_range() -> None:
    assert backoff(3, rng=lambda: 0.0) == 0
    assert backoff(3, rng=lambda: 0.5) == 2


@pytest.mark.parametrize("failures", [0, -1])
def test_a_backoff_before_the_first_failure_makes_no_sense(failures: int) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        backoff(failures)


def test_a_start_that_returned_completes_the_job_with_its_result() -> None:
    settlement = settle(Outcome(ending=Ending.DONE, result={"rows": 3}), job(failures=1), now=NOW)

    assert (settlement.action, settlement.result, settlement.error) == (Action.COMPLETE, {"rows": 3}, None)
    assert settlement.failures == 1


def test_a_failure_with_tries_left_is_tried_again_later() -> None:
    raised = Outcome(ending=Ending.RAISED, error="ValueError: no")

    settlement = settle(raised, job(max_attempts=3, failures=1), now=NOW, rng=lambda: 1.0)

    assert (settlement.action, settlement.failures, settlement.error) == (Action.RETRY, 2, "ValueError: no")
    assert settlement.run_at == NOW + timedelta(seconds=2)


def test_the_last_failure_fails_the_job() -> None:
    settlement = settle(Outcome(ending=Ending.RAISED, error="no"), job(max_attempts=3, failures=2), now=NOW)

    assert (settlement.action, settlement.failures, settlement.run_at) == (Action.FAIL, 3, None)


def test_attempts_that_did_not_fail_do_not_count_against_the_tries() -> None:
    settlement = settle(Outcome(ending=Ending.RAISED, error="no"), job(max_attempts=2, failures=0, attempt=9), now=NOW)

    assert settlement.action is Action.RETRY


def test_a_fatal_failure_is_never_tried_again() -> None:
    fatal = Outcome(ending=Ending.RAISED, error="no", is_fatal=True)

    assert settle(fatal, job(max_attempts=100), now=NOW).action is Action.FAIL


def test_a_clean_that_returned_ends_the_job_and_keeps_why_it_had_failed() -> None:
    settlement = settle(Outcome(ending=Ending.CLEANED), job(error="ValueError: no", failures=2), now=NOW)

    assert (settlement.action, settlement.error, settlement.failures) == (Action.YIELD, "ValueError: no", 2)


def test_a_clean_that_raised_is_tried_a_few_times_whatever_max_attempts_says() -> None:
    raised = Outcome(ending=Ending.CLEAN_RAISED, error="OSError: busy")

    actions = [settle(raised, job(max_attempts=1, failures=n), now=NOW).action for n in range(CLEAN_ATTEMPTS)]

    assert actions == [Action.RELEASE] * (CLEAN_ATTEMPTS - 1) + [Action.FAIL]


def test_a_clean_that_raised_waits_before_it_is_tried_again() -> None:
    raised = Outcome(ending=Ending.CLEAN_RAISED, error="OSError: busy")

    settlement = settle(raised, job(), now=NOW, rng=lambda: 1.0)

    assert settlement.run_at == NOW + timedelta(seconds=1)


def test_an_attempt_that_was_unwound_counts_as_no_failure_and_may_go_on_at_once() -> None:
    settlement = settle(Outcome(ending=Ending.UNWOUND), job(failures=1, error="earlier"), now=NOW)

    assert (settlement.action, settlement.failures, settlement.error) == (Action.RELEASE, 1, "earlier")
    assert settlement.run_at is None


@pytest.mark.parametrize("ending", sorted(Ending, key=str))
def test_every_ending_is_decided(ending: Ending) -> None:
    if ending in (Ending.INTERRUPTED, Ending.LOST):
        with pytest.raises(ValueError, match="settles nothing"):
            settle(Outcome(ending=ending), job(), now=NOW)
    else:
        assert settle(Outcome(ending=ending), job(), now=NOW).action in Action


def test_time_at_work_is_that_of_earlier_stretches_and_of_the_one_under_way() -> None:
    later = NOW + timedelta(seconds=5)

    assert job(ran_seconds=10.0).run_seconds(later) == 15
    assert job(ran_seconds=10.0, running_since=None).run_seconds(later) == 10


def test_a_clock_that_stepped_back_makes_no_time_at_work_negative() -> None:
    assert job(ran_seconds=10.0).run_seconds(NOW - timedelta(hours=1)) == 10


def test_a_job_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        job().status = Status.STOPPED  # type: ignore[misc]


@given(text=st.text())
def test_any_text_can_be_kept_and_a_harmless_one_stays_as_it_is(text: str) -> None:
    kept = storable(text)

    assert "\0" not in kept
    assert kept.encode("utf-8").decode("utf-8") == kept
    if "\0" not in text:
        assert kept == text


@given(text=st.text(alphabet=st.characters(), max_size=50))
def test_a_text_with_halves_of_characters_can_be_kept_and_read_again(text: str) -> None:
    assert storable(storable(text)) == storable(text)


def test_an_endless_text_is_cut_and_says_so() -> None:
    assert storable("x" * 30, longest=10) == "x" * 10 + " … (20 more characters)"


@pytest.mark.parametrize(("value", "number"), [(None, None), (3, 3.0), (2.5, 2.5), (True, 1.0)])
def test_a_number_of_progress_passes(value: object, number: float | None) -> None:
    assert finite(value, "done") == number


@pytest.mark.parametrize("value", ["3", [], float("nan"), float("inf"), 10**400, 1j])
def test_progress_that_is_not_a_finite_number_is_refused_by_name(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^done has to be a "):
        finite(value, "done")


def test_submissions_have_the_same_fingerprint_only_where_they_ask_for_the_same() -> None:
    usual: dict[str, Any] = {"type": "T", "args": {"a": 1, "b": 2}}
    first = NewJob(id="1", **usual)

    assert NewJob(id="2", type="T", args={"b": 2, "a": 1}).fingerprint() == first.fingerprint()
    others: list[dict[str, Any]] = [
        {"type": "U"},
        {"args": {"a": 1}},
        {"args": {"a": 1, "b": "2"}},
        {"priority": 1},
        {"labels": {"a": "b"}},
        {"run_at": NOW},
        {"max_attempts": 2},
        {"timeout_seconds": 1.0},
    ]
    prints = {NewJob(id="2", **(usual | other)).fingerprint() for other in others}
    assert len(prints) == len(others)
    assert first.fingerprint() not in prints

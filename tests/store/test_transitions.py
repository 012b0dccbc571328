"""Requests and outcomes are written as the table of transitions has them, once, and only by the job's owner."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import ALREADY_SO, ASKED, EXCEPTIONS, FINAL, TRANSITIONS, Action, Fact, Status
from jobmanager.core.values import Change, Checkpoint, LogLine
from jobmanager.errors import LeaseLost, NotAllowed, UnknownJob

#: What an attempt reports of itself.
REPORTED = (Action.YIELD, Action.COMPLETE, Action.FAIL, Action.RETRY, Action.RELEASE)


@pytest.mark.parametrize("status", Status)
def test_every_edge_of_the_table_can_be_walked(store: Any, status: Status) -> None:
    for action in (action for action in Action if (status, action) in TRANSITIONS):
        before = store.bring(action, status)
        if (status, action) == (Status.STOPPING, Action.CLAIM):
            before = store.do(action, Action.RELEASE)
        expected = TRANSITIONS[status, action]
        if EXCEPTIONS.get((status, action), ("", ""))[0] is Fact.NEVER_BEGAN and not before.has_begun():
            expected = EXCEPTIONS[status, action][1]

        job = store.do(action, action)

        change = store.changes(action)[-1]
        assert job.status is expected
        assert (change.action, change.from_status, change.to_status) == (action, status, expected)
        assert change.attempt == job.attempt
        assert change.at >= change.asked_at


@pytest.mark.parametrize("status", Status)
def test_what_people_ask_is_carried_out_or_already_so_or_refused(store: Any, status: Status) -> None:
    for action in ASKED:
        before = store.bring(action, status)
        rows = store.everything()

        if (status, action) in TRANSITIONS:
            assert store.apply(action, action, actor="ann", reason="why").change is not None
            assert (store.changes(action)[-1].actor, store.changes(action)[-1].reason) == ("ann", "why")
        elif (status, action) in ALREADY_SO:
            applied = store.apply(action, action, actor="ann")
            assert (applied.job.status, applied.change) == (before.status, None)
            assert store.everything() == rows
        else:
            with pytest.raises(NotAllowed, match=f"is {status} cannot be asked to {action}"):
                store.apply(action, action, actor="ann")
            assert store.everything() == rows


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_job_that_has_ended_for_good_is_not_touched_by_a_forced_stop_either(store: Any, status: Status) -> None:
    store.bring("a", status)
    rows = store.everything()

    if status is Status.STOPPED:
        assert store.apply("a", Action.STOP, is_forced=True).change is None
    else:
        with pytest.raises(NotAllowed):
            store.apply("a", Action.STOP, is_forced=True)

    assert store.everything() == rows


def test_force_may_be_asked_for_again_and_again_while_a_stop_is_under_way(store: Any) -> None:
    store.bring("a", Status.STOPPING)

    for _ in range(2):
        forced = store.apply("a", Action.STOP, actor="ann", is_forced=True)
        assert forced.job.is_forced
        assert forced.change is not None
    assert store.apply("a", Action.STOP).change is None

    assert store.get("a").is_forced
    assert store.trail("a") == ["submit", "claim", "stop", "stop", "stop"]


def test_a_job_that_is_not_there_can_be_asked_nothing(store: Any) -> None:
    with pytest.raises(UnknownJob):
        store.apply("a", Action.HALT)
    with pytest.raises(UnknownJob):
        store.get("a")
    with pytest.raises(UnknownJob):
        store.changes("a")


@pytest.mark.parametrize("status", [Status.RUNNING, Status.HALTING, Status.STOPPING])
def test_what_became_of_an_attempt_is_written_where_the_table_allows_it(store: Any, status: Status) -> None:
    for action in REPORTED:
        job = store.bring(action, status)
        rows = store.everything()

        if (status, action) in TRANSITIONS:
            ended = store.end(job, action, failures=7, error="why", result={"rows": 1})
            assert ended == store.get(action)
            assert (ended.failures, ended.error, ended.result) == (7, "why", {"rows": 1})
            assert (ended.owner, ended.lease_expires_at) == (None, None)
        else:
            with pytest.raises(NotAllowed):
                store.end(job, action)
            assert store.everything() == rows


def test_nothing_is_written_of_an_attempt_whose_job_is_in_one_of_the_excepted_statuses(store: Any) -> None:
    job = store.bring("a", Status.STOPPING)
    rows = store.everything()
    done = Settlement(action=Action.COMPLETE, failures=0)

    assert store.settle("a", job.attempt, done, unless=(Status.STOPPING,)) is None

    assert store.everything() == rows


Write = Callable[[Any, str, int], Any]
#: Everything that an attempt can write.
WRITES: dict[str, Write] = {
    "settle": lambda store, job_id, attempt: store.settle(
        job_id, attempt, Settlement(action=Action.RELEASE, failures=0)
    ),
    "settle unless": lambda store, job_id, attempt: store.settle(
        job_id, attempt, Settlement(action=Action.RELEASE, failures=0), unless=tuple(Status)
    ),
    "checkpoint": lambda store, job_id, attempt: store.checkpoint(job_id, attempt, Checkpoint(cursor=1), {"a": 1}),
    "checkpoint with nothing new": lambda store, job_id, attempt: store.checkpoint(job_id, attempt, None, None),
    "checkpoint with log lines": lambda store, job_id, attempt: store.checkpoint(
        job_id, attempt, None, None, [LogLine(number=0, attempt=attempt, at=store.now(), level="INFO", message="x")]
    ),
    "let_go": lambda store, job_id, attempt: store.release_lease(job_id, attempt),
}


def refuses_every_write(store: Any, job_id: str, attempt: int) -> bool:
    """Return True if every write of the attempt is refused and changes nothing."""
    rows = store.everything()
    for name, write in WRITES.items():
        with pytest.raises(LeaseLost):
            pytest.fail(f"{name} gave {write(store, job_id, attempt)}")
    return bool(store.everything() == rows)


@pytest.mark.parametrize("status", Status)
def test_an_attempt_that_another_one_followed_can_write_nothing(store: Any, status: Status) -> None:
    stale = store.run("a")
    store.do("a", Action.EXPIRE)
    for action in store.PATHS[status]:
        store.do("a", action)

    assert refuses_every_write(store, "a", stale.attempt)


@pytest.mark.parametrize("status", Status)
def test_a_process_that_does_not_hold_the_job_can_write_nothing(store: Any, other: Any, status: Status) -> None:
    job = store.bring("a", status)

    assert refuses_every_write(other, "a", job.attempt)


def test_an_attempt_that_has_ended_can_write_nothing(store: Any) -> None:
    job = store.run("a")
    store.end(job, Action.RELEASE)

    assert refuses_every_write(store, "a", job.attempt)


def test_a_lease_that_is_over_but_that_nobody_took_still_lets_its_owner_write(store: Any) -> None:
    job = store.run("a")
    store.end_lease("a")

    assert store.save(job, cursor=1) is Status.RUNNING
    assert store.expire() == []


def test_changes_are_contiguous_and_in_order_and_say_who_asked_and_why(store: Any, other: Any) -> None:
    job = store.run("a")
    other.apply("a", Action.HALT, actor="ann", reason="lunch")
    store.end(job, Action.YIELD)
    other.apply("a", Action.RESUME, actor="bob")
    store.take()
    store.end(store.get("a"), Action.COMPLETE)

    changes: list[Change] = other.changes("a")

    assert [str(change.action) for change in changes] == [
        "submit",
        "claim",
        "halt",
        "yield",
        "resume",
        "claim",
        "complete",
    ]
    assert changes[0].from_status is None
    for before, after in pairwise(changes):
        assert before.to_status is after.from_status
        assert before.seq < after.seq
        assert before.at <= after.at
        assert before.attempt <= after.attempt
    assert [(c.actor, c.reason) for c in changes[2:5]] == [("ann", "lunch"), ("engine", None), ("bob", None)]
    assert changes[3].asked_at == changes[2].at, "how long a halt took can be told"


def test_a_retry_waits_for_its_time_and_a_stop_does_not(store: Any) -> None:
    later = store.now() + timedelta(hours=1)
    store.end(store.run("a"), Action.RETRY, run_at=later)
    assert store.take() == []

    store.apply("a", Action.STOP)

    assert [job.id for job in store.claim_to_clean(1, types=["T"])] == ["a"]


def test_resuming_a_failed_job_resets_its_failures_and_crashes(store: Any) -> None:
    job = store.run("a")
    store.save(job, cursor=5)
    store.end(job, Action.FAIL, failures=3, error="why")

    resumed = store.do("a", Action.RESUME)

    assert (resumed.failures, resumed.crashes, resumed.error) == (0, 0, None)
    assert resumed.finished_at is None
    assert resumed.checkpoint.cursor == 5
    assert resumed.attempt == job.attempt, "a fencing token is never used again"


@pytest.mark.parametrize("status", sorted(FINAL | {Status.FAILED}))
def test_a_job_has_a_time_of_its_end_only_while_it_has_ended(store: Any, status: Status) -> None:
    job = store.bring("a", status)

    assert job.finished_at == store.changes("a")[-1].at
    if status is Status.FAILED:
        assert store.do("a", Action.STOP).finished_at is None


def test_a_job_is_stopped_at_once_only_if_no_attempt_ever_began(store: Any) -> None:
    store.end(store.run("begun"), Action.RELEASE)
    store.put("new")

    assert store.apply("begun", Action.STOP).job.status is Status.STOPPING
    assert store.apply("new", Action.STOP).job.status is Status.STOPPED


def test_a_job_that_waited_for_its_time_waits_for_it_again_when_it_was_halted_and_resumed(store: Any) -> None:
    later = store.now() + timedelta(days=1)
    store.put("a", "b", run_at=later)
    store.put("at once")

    for job_id in ("a", "b", "at once"):
        store.apply(job_id, Action.HALT)
    store.apply("a", Action.RESUME)
    store.apply("at once", Action.RESUME)
    store.apply_to_each({"b": store.now()}, Action.RESUME, statuses=(), actor="ann")

    assert [store.get(job_id).run_at for job_id in ("a", "b")] == [later, later]
    assert store.take(3) == ["at once"]


def test_a_retry_that_is_resumed_is_waited_for_no_longer(store: Any) -> None:
    store.end(store.run("a"), Action.RETRY, run_at=store.now() + timedelta(days=1))

    store.apply("a", Action.HALT)
    store.apply("a", Action.RESUME)

    assert store.take() == ["a"]

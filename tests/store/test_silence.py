"""A job whose owner fell silent is taken back, once, and an owner is told what others did to its jobs."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import ATTENDED, Action, Status
from jobmanager.core.values import Checkpoint
from jobmanager.errors import LeaseLost


def die(store: Any, job_id: str) -> Any:
    """Let the process that holds the job die, and return what became of the job."""
    store.end_process(job_id)
    (applied,) = store.expire()
    assert applied.job.id == job_id
    return store.get(job_id)


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (Status.RUNNING, Status.SUBMITTED),
        (Status.HALTING, Status.HALTED),
        (Status.STOPPING, Status.STOPPING),
    ],
)
def test_a_job_whose_process_died_is_free_again(store: Any, other: Any, status: Status, becomes: Status) -> None:
    store.bring("a", status)
    store.end_process("a")

    (applied,) = other.expire()

    assert (applied.change.action, applied.change.from_status, applied.change.to_status) == ("expire", status, becomes)
    assert applied.job == other.get("a")
    assert (applied.job.status, applied.job.owner, applied.job.lease_expires_at) == (becomes, None, None)
    assert applied.job.crashes == 1
    assert other.expire() == [], "once is enough"


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (Status.RUNNING, Action.COMPLETE),
        (Status.RUNNING, Action.RELEASE),
        (Status.STOPPING, Action.YIELD),
        (Status.STOPPING, Action.RELEASE),
    ],
)
def test_an_attempt_whose_lease_was_ended_writes_nothing_whatever_it_saw_before(
    store: Any, other: Any, status: Status, action: Action
) -> None:
    seen = store.bring("a", status)
    store.end_lease("a")
    other.expire()
    rows = store.everything()

    with pytest.raises(LeaseLost):
        store.settle("a", seen.attempt, Settlement(action=action, failures=0), seen=seen)

    assert store.everything() == rows


def test_the_job_of_an_owner_that_is_heard_of_is_left_alone(store: Any, other: Any) -> None:
    for status in ATTENDED:
        store.bring(status, status)

    assert other.expire() == []


def test_leases_end_by_themselves(open_store: Any, until: Any) -> None:
    store, other = open_store(lease_seconds=0.1), open_store()
    store.run("a")

    assert [applied.job.id for applied in until(other.expire)] == ["a"]


def test_a_heartbeat_keeps_what_a_process_holds_and_tells_what_it_does_not(store: Any, other: Any) -> None:
    store.run("mine")
    other.run("theirs")
    store.put("waiting")
    store.end_lease("mine", "theirs")

    assert store.heartbeat(["mine", "theirs", "waiting", "unknown"]) == {"theirs", "waiting", "unknown"}

    assert [applied.job.id for applied in other.expire()] == ["theirs"]


def test_a_heartbeat_takes_any_number_of_jobs(store: Any) -> None:
    ids = [str(number) for number in range(1201)]
    store.put(*ids[:-1])
    assert len(store.take(2000)) == 1200
    store.execute("UPDATE jobs SET lease_expires_at = 1")

    assert store.heartbeat(ids) == {ids[-1]}
    assert store.heartbeat([]) == set()

    assert store.expire() == []


def test_a_job_under_which_its_process_dies_again_and_again_fails(open_store: Any) -> None:
    store = open_store(max_crashes=3)
    store.run("a")
    for crashes in (1, 2):
        assert (die(store, "a").status, store.get("a").crashes) == (Status.SUBMITTED, crashes)
        store.take()

    job = die(store, "a")

    assert (job.status, job.crashes) == (Status.FAILED, 3)
    assert "crashes without progress: 3" in job.error
    assert job.finished_at == store.changes("a")[-1].at
    resumed = store.do("a", Action.RESUME)
    assert (resumed.status, resumed.crashes, resumed.error) == (Status.SUBMITTED, 0, None)


@pytest.mark.parametrize("cursor", [6, 4, "5", [5], {"at": 5}])
def test_the_count_of_crashes_starts_again_once_the_cursor_has_moved(open_store: Any, cursor: Any) -> None:
    store = open_store(max_crashes=2)
    store.save(store.run("a"), cursor=5)
    die(store, "a")
    store.take()

    store.save(store.get("a"), cursor=cursor)

    assert store.get("a").crashes == 0
    assert die(store, "a").status is Status.SUBMITTED


@pytest.mark.parametrize("cursor", [5, 2.5, "a", {"b": 1, "a": [None, "ä"]}, 2**70])
def test_a_checkpoint_that_goes_no_further_does_not_excuse_a_death(open_store: Any, cursor: Any) -> None:
    """A job that says that it begins, and then brings its process down, would do so for ever."""
    store = open_store(max_crashes=2)
    store.save(store.run("a"), cursor=cursor)
    die(store, "a")
    store.take()

    store.save(store.get("a"), cursor=cursor)
    store.save(store.get("a"), done=1, message="beginning")

    assert die(store, "a").status is Status.FAILED


@pytest.mark.parametrize("path", [[Action.HALT], [Action.STOP]])
def test_a_death_under_a_halt_or_a_stop_never_fails_the_job(open_store: Any, path: list[Action]) -> None:
    store = open_store(max_crashes=1)
    store.run("a")
    for action in path:
        store.do("a", action)

    assert die(store, "a").status in {Status.HALTED, Status.STOPPING}


def test_a_parked_job_whose_owner_fell_silent_changes_in_nothing_but_its_owner(store: Any, other: Any) -> None:
    job = store.run("a")
    store.apply("a", Action.HALT)
    store.end(job, Action.YIELD, parked=True)
    before, trail = store.get("a"), store.trail("a")

    store.end_lease("a")
    (applied,) = other.expire()

    assert applied.change is None
    after = store.get("a")
    assert (after.status, after.owner, after.crashes) == (Status.HALTED, None, before.crashes)
    assert store.trail("a") == trail


def test_the_owner_is_told_what_others_asked_of_its_job_once_and_in_order(store: Any, other: Any) -> None:
    store.run("a")
    other.apply("a", Action.HALT, actor="ann")
    other.apply("a", Action.RESUME, actor="ann")
    other.apply("a", Action.STOP, actor="ann", is_forced=True)
    assert store.look(["T"]).is_signalled
    assert not other.look(["T"]).is_signalled

    assert [str(change.action) for change in store.signals()] == ["halt", "resume", "stop"]

    assert store.signals() == []
    assert not store.look(["T"]).is_signalled
    assert other.signals() == []


def test_an_owner_is_not_told_what_it_did_itself(store: Any) -> None:
    store.run("a")

    store.apply("a", Action.HALT)

    assert store.signals() == []


def test_nobody_is_told_of_a_job_that_nobody_holds(store: Any, other: Any) -> None:
    store.put("a")
    other.apply("a", Action.HALT)

    assert store.signals() == other.signals() == []


def test_an_owner_that_comes_back_is_told_that_its_job_was_taken(store: Any, other: Any) -> None:
    store.run("a")
    store.end_lease("a")
    other.expire()

    assert [str(change.action) for change in store.signals()] == ["expire"]


def test_the_owner_of_a_parked_job_is_told_of_a_resume_and_of_a_stop(store: Any, other: Any) -> None:
    for job_id in ("a", "b"):
        job = store.run(job_id)
        store.apply(job_id, Action.HALT)
        store.end(job, Action.YIELD, parked=True)

    other.apply("a", Action.RESUME)
    other.apply("b", Action.STOP)

    assert [(c.job_id, c.to_status) for c in store.signals()] == [("a", Status.SUBMITTED), ("b", Status.STOPPING)]


def test_a_watch_hears_what_others_commit_and_then_nothing(store: Any, other: Any, until: Any) -> None:
    watch = store.watch()
    try:
        until(lambda: not watch.has_moved())

        other.put("a")

        until(watch.has_moved)
        until(lambda: not watch.has_moved())
        other.apply("a", Action.HALT)
        until(watch.has_moved)
    finally:
        watch.close()


def test_time_at_work_does_not_count_halts_waits_or_the_silence_of_an_owner(store: Any) -> None:
    def work(seconds: float) -> None:
        time.sleep(seconds)

    began = time.monotonic()
    job = store.run("a")
    work(0.1)
    store.apply("a", Action.HALT)
    store.end(job, Action.YIELD)
    at_work = time.monotonic() - began
    work(0.3)
    assert store.get("a").running_since is None

    halted = store.get("a").ran_seconds

    assert 0.1 <= halted <= at_work
    assert store.get("a").run_seconds(store.now()) == halted
    store.apply("a", Action.RESUME)
    store.take()
    assert store.get("a").ran_seconds == halted


def test_between_two_tries_of_clean_no_time_is_counted(store: Any) -> None:
    job = store.bring("a", Status.STOPPING)

    released = store.end(job, Action.RELEASE)

    assert released.running_since is None
    assert released.run_seconds(store.now() + timedelta(hours=1)) == released.ran_seconds


def test_the_details_of_a_job_are_those_of_its_last_checkpoint(store: Any) -> None:
    store.run("a")
    store.checkpoint("a", 1, Checkpoint(cursor=1), {"rows": 1})

    store.checkpoint("a", 1, Checkpoint(cursor=2), None)

    assert store.get("a").details == {"rows": 1}

"""Jobs are claimed in order, by one process each, as many as may run, and a parked one by its own process only."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Wanted


def test_the_most_urgent_job_is_claimed_first_and_among_equals_the_oldest(store: Any) -> None:
    for job_id, priority in [("a", 0), ("b", 5), ("c", -5), ("d", 5), ("e", 0)]:
        store.put(job_id, priority=priority)

    assert store.take(2) == ["b", "d"]
    assert store.take(9) == ["a", "e", "c"]


def test_a_claimed_job_runs_as_a_new_attempt_of_its_owner(store: Any) -> None:
    store.put("a")

    (job,) = store.claim(1, types=["T"], max_running={})

    assert job == store.get("a")
    assert (job.status, job.attempt, job.owner) == (Status.RUNNING, 1, store.owner)
    assert job.started_at == job.running_since == store.changes("a")[-1].at
    assert job.lease_expires_at > store.now()


def test_a_resumed_job_is_back_in_the_queue_at_its_old_place(store: Any) -> None:
    store.bring("first", Status.HALTED)
    store.put("second", type="first")
    store.do("first", Action.RESUME)

    assert store.take(2, "first") == ["first", "second"]


def test_no_more_jobs_are_claimed_than_were_asked_for(store: Any) -> None:
    store.put("a", "b", "c")

    assert store.take(0) == []
    assert store.take(2) == ["a", "b"]


def test_a_job_is_not_claimed_before_its_time(store: Any) -> None:
    at = store.now() + timedelta(seconds=1)
    store.put("later", priority=9, run_at=at)
    store.put("now")
    assert store.look(["T"]).next_due_at == at
    assert store.take(9) == ["now"]

    while store.now() < at:
        time.sleep(0.01)

    assert store.look(["T"]).has_waiting
    assert store.take(9) == ["later"]


def test_a_job_that_came_due_is_claimed_in_the_order_of_all_by_priority_and_age(store: Any) -> None:
    soon = store.now() + timedelta(seconds=0.2)
    for job_id, priority, run_at in [
        ("first", 0, None),
        ("second", 0, soon),
        ("third", 0, None),
        ("urgent", 5, soon + timedelta(milliseconds=1)),
        ("low", -5, soon),
        ("tomorrow", 9, soon + timedelta(days=1)),
    ]:
        store.put(job_id, priority=priority, run_at=run_at)
    while store.now() < soon + timedelta(milliseconds=1):
        time.sleep(0.01)

    assert [store.take(1) for _ in range(6)] == [["urgent"], ["first"], ["second"], ["third"], ["low"], []]


def test_jobs_that_came_due_are_queued_once_and_then_are_claimed_in_place_of_one_that_ends(store: Any) -> None:
    ends = store.run("ends")
    store.put("usual")
    store.put("urgent", priority=5, run_at=store.now())
    assert store.look(["T"]).has_due

    assert (store.queue_due(), store.queue_due()) == (1, 0)

    assert not store.look(["T"]).has_due
    applied = store.settle(
        "ends",
        ends.attempt,
        Settlement(action=Action.COMPLETE, failures=0),
        wanted=Wanted(types=("T",), max_running={}),
    )
    assert applied.claimed.id == "urgent"
    assert applied.claimed == store.get("urgent")


def test_no_change_is_recorded_and_nothing_is_seen_when_a_job_comes_due(store: Any) -> None:
    (job,) = store.put("a", run_at=store.now())

    assert store.queue_due() == 1

    assert store.get("a") == job
    assert store.trail("a") == ["submit"]


def test_a_job_that_was_halted_while_it_was_put_off_is_put_off_again_when_it_is_resumed(store: Any) -> None:
    soon = store.now() + timedelta(seconds=1)
    store.put("a", "b", run_at=soon)
    for job_id in ("a", "b"):
        store.apply(job_id, Action.HALT)
    assert store.look(["T"]).next_due_at is None
    store.apply("a", Action.RESUME)

    assert store.look(["T"]).next_due_at == soon
    while store.now() < soon:
        time.sleep(0.01)
    store.apply("b", Action.RESUME)

    assert store.take(9) == ["a", "b"]


def test_processes_that_queue_what_is_due_at_once_queue_each_job_once(open_store: Any, at_once: Any) -> None:
    stores = [open_store(), open_store()]
    stores[0].put(*map(str, range(50)), run_at=stores[0].now())

    queued = at_once([store.queue_due for store in stores * 2])

    assert sum(queued) + stores[0].queue_due() == 50
    assert len(stores[0].take(99)) == 50


def test_jobs_of_types_that_a_process_does_not_know_are_left_to_others(store: Any) -> None:
    store.put("a", type="Unknown")
    store.bring("b", Status.STOPPING)
    store.do("b", Action.RELEASE)

    outlook = store.look(["T"])

    assert (outlook.has_waiting, outlook.has_to_clean) == (False, False)
    assert store.take(9) == []
    assert store.claim_to_clean(9, types=["T"]) == []
    assert store.take(9, "Unknown", "T") == ["a"]


def test_a_process_that_knows_no_type_claims_nothing(store: Any) -> None:
    store.put("a")

    assert store.claim(9, types=[], max_running={}) == []
    assert not store.look([]).has_waiting


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.SUBMITTED}))
def test_only_a_job_that_waits_can_be_claimed(store: Any, status: Status) -> None:
    store.bring("a", status)

    assert store.take(9, "a") == []
    assert not store.look(["a"]).has_waiting


def test_a_stopping_job_is_claimed_to_be_cleaned_once_nobody_attends_to_it(store: Any, other: Any) -> None:
    store.bring("a", Status.STOPPING)
    assert other.claim_to_clean(9, types=["a"]) == []
    store.do("a", Action.RELEASE)
    assert other.look(["a"]).has_to_clean

    (job,) = other.claim_to_clean(9, types=["a"])

    assert (job.status, job.attempt, job.owner) == (Status.STOPPING, 2, other.owner)
    assert store.claim_to_clean(9, types=["a"]) == []


def test_a_clean_that_is_to_be_tried_again_waits_for_its_time(store: Any) -> None:
    at = store.now() + timedelta(hours=1)
    store.end(store.bring("a", Status.STOPPING), Action.RELEASE, run_at=at)

    assert store.claim_to_clean(9, types=["a"]) == []
    assert store.look(["a"]).next_due_at == at


def test_a_bound_on_a_type_is_kept_and_other_types_pass_it_by(store: Any, other: Any) -> None:
    store.put(*[f"a{number}" for number in range(5)], type="A")
    store.put("b1", "b2", type="B")
    claimed: list[str] = []

    for process in (store, other) * 3:
        claimed += process.take(2, "A", "B", A=2)

    assert claimed == ["a0", "a1", "b1", "b2"]
    store.end(store.get("a0"), Action.COMPLETE)
    assert other.take(9, "A", A=2) == ["a2"]


def test_a_halted_job_leaves_its_place_under_the_bound_to_another(store: Any) -> None:
    store.put("a", "b")
    store.take(1, T=1)
    store.apply("a", Action.HALT)
    assert store.take(1, T=1) == [], "it is still at work"

    store.end(store.get("a"), Action.YIELD, parked=True)

    assert store.take(1, T=1) == ["b"]


def test_processes_that_claim_at_once_never_exceed_a_bound(open_store: Any, at_once: Any) -> None:
    stores = [open_store(), open_store()]
    stores[0].put(*map(str, range(40)))
    most: list[int] = []

    def work(store: Any) -> int:
        done = 0
        while store.look(["T"]).has_waiting:
            for job_id in store.take(3, T=3):
                statuses = store.count_by_status()
                most.append(statuses.get(Status.RUNNING, 0))
                store.end(store.get(job_id), Action.COMPLETE)
                done += 1
        return done

    done = at_once([lambda store=store: work(store) for store in stores * 3])

    assert sum(done) == 40
    assert max(most) <= 3


def test_processes_that_claim_at_once_never_get_the_same_job(open_store: Any, at_once: Any) -> None:
    stores = [open_store(), open_store()]
    ids = [str(number) for number in range(120)]
    stores[0].put(*ids)

    def work(store: Any) -> list[str]:
        taken: list[str] = []
        while found := store.take(3):
            taken += found
        return taken

    taken = at_once([lambda store=store: work(store) for store in stores * 3])

    assert Counter(job_id for found in taken for job_id in found) == Counter(ids)
    assert {stores[0].get(job_id).attempt for job_id in ids} == {1}


def parked(store: Any, job_id: str) -> Any:
    """Return a job that was halted, and whose thread is parked."""
    job = store.run(job_id)
    store.apply(job_id, Action.HALT)
    return store.end(job, Action.YIELD, parked=True)


def test_a_parked_job_is_claimed_by_its_own_process_only_while_that_lives(store: Any, other: Any) -> None:
    job = parked(store, "a")
    assert (job.status, job.owner, job.lease_expires_at is None) == (Status.HALTED, store.owner, False)
    other.apply("a", Action.RESUME)

    assert not other.look(["T"]).has_waiting
    assert other.take(9) == []

    assert store.look(["T"]).has_waiting
    assert store.take(9) == ["a"]
    assert store.get("a").attempt == 2


def test_a_parked_job_is_claimed_by_any_process_once_its_own_is_silent(store: Any, other: Any) -> None:
    parked(store, "a")
    other.apply("a", Action.RESUME)
    store.end_lease("a")

    assert other.take(9) == ["a"]
    assert other.get("a").owner == other.owner


def test_a_parked_job_that_was_let_go_is_claimed_by_any_process(store: Any, other: Any) -> None:
    job = parked(store, "a")

    assert store.release_lease("a", job.attempt)

    assert (store.get("a").owner, store.get("a").status) == (None, Status.HALTED)
    other.apply("a", Action.RESUME)
    assert other.take(9) == ["a"]


def test_a_parked_job_that_was_asked_to_stop_is_not_let_go(store: Any, other: Any) -> None:
    job = parked(store, "a")
    other.apply("a", Action.STOP)

    assert not store.release_lease("a", job.attempt)

    assert store.get("a").owner == store.owner
    assert other.claim_to_clean(9, types=["T"]) == [], "its own thread cleans"


def test_a_job_that_runs_is_not_let_go(store: Any) -> None:
    job = store.run("a")

    assert not store.release_lease("a", job.attempt)

    assert store.get("a").owner == store.owner


def test_a_resume_can_be_put_off(store: Any) -> None:
    store.bring("a", Status.HALTED)
    later = store.now() + timedelta(hours=1)

    store.apply("a", Action.RESUME, run_at=later)

    assert store.take(1, "a") == []
    assert store.look(["a"]).next_due_at == later


def test_a_job_halted_while_it_waits_for_a_retry_is_tried_at_once_when_resumed(store: Any) -> None:
    store.end(store.run("a"), Action.RETRY, run_at=store.now() + timedelta(hours=1))

    store.apply("a", Action.HALT)
    store.apply("a", Action.RESUME)

    assert store.take() == ["a"]


def test_the_end_of_a_job_claims_the_next_one_in_the_same_commit(store: Any) -> None:
    job = store.run("a")
    store.put("later")
    store.put("sooner", priority=1)
    done = Settlement(action=Action.COMPLETE, failures=0, result={"made": [1]})

    applied = store.settle("a", job.attempt, done, wanted=Wanted(types=("T",), max_running={"T": 1}))

    assert applied.job == store.get("a")
    assert applied.claimed == store.get("sooner")
    assert applied.claimed.status is Status.RUNNING
    assert store.trail("sooner") == ["submit", "claim"]
    assert store.get("later").status is Status.SUBMITTED


def test_nothing_is_claimed_where_a_stop_came_before_the_end(store: Any) -> None:
    job = store.run("a")
    store.put("b")
    store.apply("a", Action.STOP)
    done = Settlement(action=Action.COMPLETE, failures=0)

    wanted = Wanted(types=("T",), max_running={})
    assert store.settle("a", job.attempt, done, unless=(Status.STOPPING,), wanted=wanted) is None
    assert store.get("b").status is Status.SUBMITTED

"""Attempts of several threads that end at one instant are written together, and none of them takes another's part."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import JobRecord, Wanted
from jobmanager.errors import LeaseLost, StoreUnavailable
from tests.conftest import until

ANY = Wanted(types=("T",), max_running={})
ONE = Wanted(types=("T",), max_running={"T": 1})


@pytest.fixture
def together(store: Any, at_once: Any) -> Callable[[list[Callable[[], Any]]], list[Any]]:
    """Return what makes calls that end attempts, of which all but the first are written by one statement each.

    What a call raises is its answer.
    """
    commits = store.database.commits
    begin = commits.begin

    def answer_of(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except BaseException as error:
            return error

    def run(calls: list[Callable[[], Any]]) -> list[Any]:
        @contextmanager
        def begin_once_all_wait() -> Iterator[Any]:
            until(lambda: len(commits.waiting) == len(calls) - 1)
            commits.begin = begin
            with begin() as connection:
                yield connection

        commits.begin = begin_once_all_wait
        return list(at_once([lambda call=call: answer_of(call) for call in calls]))

    return run


def running(store: Any, *ids: str) -> list[JobRecord]:
    """Return jobs that run, as they were claimed."""
    store.put(*ids)
    return list(store.claim(len(ids), types=["T"], max_running={}))


def completing(store: Any, job: JobRecord, *, result: Any = None, **how: Any) -> Callable[[], Any]:
    """Return the call that completes the job."""
    done = Settlement(action=Action.COMPLETE, failures=0, result=result)
    return lambda: store.settle(job.id, job.attempt, done, seen=job, **how)


def test_attempts_that_end_at_one_instant_are_each_recorded_as_what_they_are(store: Any, together: Any) -> None:
    jobs = running(store, *"abcdefgh")
    failed = Settlement(action=Action.FAIL, failures=1, error="broken")
    calls = [completing(store, job, result={"of": job.id}) for job in jobs[:-1]]
    calls.append(lambda: store.settle("h", 1, failed, seen=jobs[-1]))

    answers = together(calls)

    for job, answer in zip(jobs, answers, strict=True):
        assert answer.job == store.get(job.id)
        assert answer.change == store.changes(job.id)[-1]
    assert [store.get(job_id).result for job_id in "abcdefg"] == [{"of": job_id} for job_id in "abcdefg"]
    assert (store.get("h").status, store.get("h").error) == (Status.FAILED, "broken")
    seqs = [change.seq for job in jobs for change in store.changes(job.id)]
    assert len(set(seqs)) == 24


def test_each_thread_goes_on_with_a_job_of_its_own_the_most_urgent_first(store: Any, together: Any) -> None:
    jobs = running(store, *"abcdef")
    store.put("u", "v", "w", priority=1)
    store.put("x")

    answers = together([completing(store, job, wanted=ANY) for job in jobs])

    claimed = [answer.claimed for answer in answers if answer.claimed is not None]
    assert sorted(job.id for job in claimed) == ["u", "v", "w", "x"]
    assert all(job == store.get(job.id) and job.status is Status.RUNNING for job in claimed)
    assert store.count_by_status() == {Status.COMPLETED: 6, Status.RUNNING: 4}


def test_of_a_type_with_a_bound_no_more_are_claimed_than_may_run(store: Any, together: Any) -> None:
    jobs = running(store, *"abcdef")
    store.put("x", "y", "z")

    answers = together([completing(store, job, wanted=ONE) for job in jobs])

    assert [answer.claimed.id for answer in answers if answer.claimed] == ["x"]
    assert [store.get(job_id).status for job_id in "yz"] == [Status.SUBMITTED] * 2


def test_a_job_that_was_halted_or_stopped_in_that_instant_spoils_no_other(store: Any, together: Any) -> None:
    jobs = running(store, *"abcdef")
    store.put("x", "y", "z")
    store.apply("c", Action.HALT)
    store.apply("e", Action.STOP)

    answers = together([completing(store, job, unless=(Status.STOPPING,), wanted=ANY) for job in jobs])

    assert answers[4] is None
    assert store.get("e").status is Status.STOPPING
    assert store.trail("c") == ["submit", "claim", "halt", "complete"]
    assert [store.get(job_id).status for job_id in "abcdf"] == [Status.COMPLETED] * 5
    assert sorted(answer.claimed.id for answer in answers if answer and answer.claimed) == ["x", "y", "z"]


def test_an_attempt_that_lost_its_job_hears_so_and_the_others_are_recorded_once(store: Any, together: Any) -> None:
    jobs = running(store, *"abcdef")
    store.end_lease("d")
    store.expire()
    store.take(1)

    answers = together([completing(store, job) for job in jobs])

    assert isinstance(answers[3], LeaseLost)
    assert store.get("d").status is Status.RUNNING
    for job_id in "abcef":
        assert store.trail(job_id) == ["submit", "claim", "complete"]


@pytest.mark.parametrize("way", ["all complete", "some fail", "some were halted", "all park"])
def test_those_who_write_many_jobs_at_once_never_wait_for_each_other(store: Any, way: str) -> None:
    began = store.deadlocks()
    for round_ in range(8):
        ids = [f"{round_}-{number}" for number in range(16)]
        jobs = running(store, *ids)
        newest_first = dict.fromkeys(reversed(ids))
        halt = {"statuses": [Status.RUNNING, Status.HALTING], "actor": "test"}
        if way in ("some were halted", "all park"):
            store.apply_to_each(dict.fromkeys(ids[:: 1 if way == "all park" else 3]), Action.HALT, **halt)
        calls = [ending(store, job, way, number) for number, job in enumerate(jobs)]
        calls += [lambda ids=ids: store.heartbeat(ids), lambda ids=ids: store.heartbeat(list(reversed(ids)))]
        calls.append(lambda asked=newest_first, how=halt: store.apply_to_each(asked, Action.HALT, **how))
        with concurrent.futures.ThreadPoolExecutor(len(calls), thread_name_prefix="test") as pool:
            for answer in [pool.submit(call) for call in calls]:
                answer.result(30)
        assert not {store.get(job_id).status for job_id in ids} & {Status.RUNNING, Status.HALTING}

    assert store.deadlocks() == began


def ending(store: Any, job: JobRecord, way: str, number: int) -> Callable[[], Any]:
    """Return the call that ends an attempt, in one of the ways in which several may end."""
    if way == "all park":
        yields = Settlement(action=Action.YIELD, failures=0)
        return lambda: store.settle(job.id, job.attempt, yields, parked=True)
    if way == "some fail" and number % 2:
        fails = Settlement(action=Action.FAIL, failures=1, error="broken")
        return lambda: store.settle(job.id, job.attempt, fails, seen=job)
    return completing(store, job)


@pytest.mark.parametrize("place", ["while it is written", "before it is committed"])
def test_a_connection_that_is_lost_in_the_middle_loses_and_doubles_nothing(store: Any, place: str) -> None:
    (job,) = running(store, "a")
    run_together = store.database.run_together

    def run_and_lose(write_all: Callable[..., Any], ended: Any) -> Any:
        def lose(connection: Any, ended: Any) -> Any:
            applied = write_all(connection, ended) if place == "before it is committed" else None
            store.cut(connection)
            return applied or write_all(connection, ended)

        store.database.run_together = run_together
        return run_together(lose, ended)

    store.database.run_together = run_and_lose

    with pytest.raises(StoreUnavailable):
        completing(store, job)()

    assert store.get("a").status is Status.RUNNING
    assert completing(store, job)().job.status is Status.COMPLETED
    assert store.trail("a") == ["submit", "claim", "complete"]
    store.put("b")
    assert store.get("b").status is Status.SUBMITTED

"""Attempts of several threads that end at one instant are written together, and none of them takes another's part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobmanager.errors import LeaseLost
from jobmanager.records import JobRecord, Settlement, Wanted
from jobmanager.states import Action, Status
from tests.conftest import until

ANY = Wanted(types=("T",), max_running={})
ONE = Wanted(types=("T",), max_running={"T": 1})


@pytest.fixture
def together(store: Any, at_once: Any) -> Callable[[list[Callable[[], Any]]], list[Any]]:
    """Return what makes calls that end attempts, of which all but the first are written by one statement each.

    What a call raises is its answer.
    """
    commits = store._database._commits
    begin = commits._begin

    def answer_of(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except BaseException as error:
            return error

    def run(calls: list[Callable[[], Any]]) -> list[Any]:
        @contextmanager
        def begin_once_all_wait() -> Iterator[Any]:
            until(lambda: len(commits._waiting) == len(calls) - 1)
            commits._begin = begin
            with begin() as connection:
                yield connection

        commits._begin = begin_once_all_wait
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


def test_those_who_write_many_jobs_at_once_never_wait_for_each_other(store: Any) -> None:
    began = store.deadlocks()
    for round_ in range(15):
        ids = [f"{round_}-{number}" for number in range(16)]
        jobs = running(store, *ids)
        newest_first = dict.fromkeys(reversed(ids))
        calls: list[Callable[[], Any]] = [completing(store, job) for job in jobs]
        calls += [lambda ids=ids: store.heartbeat(ids), lambda ids=ids: store.heartbeat(list(reversed(ids)))]
        halt = {"statuses": [Status.RUNNING], "actor": "test"}
        calls.append(lambda asked=newest_first, how=halt: store.apply_to_each(asked, Action.HALT, **how))
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert {store.get(job_id).status for job_id in ids} == {Status.COMPLETED}

    assert store.deadlocks() == began

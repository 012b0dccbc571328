"""How many jobs there are of each type and status is known exactly, whatever happened to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status, allowed
from jobmanager.store import job_counts


def recounted(store: Any) -> dict[tuple[str, Status], int]:
    rows = store.execute("SELECT type, status, count(*) FROM jobs GROUP BY type, status")
    return {(name, Status(status)): number for name, status, number in rows}


@pytest.mark.parametrize("status", list(Status))
def test_jobs_are_counted_by_type_and_status(store: Any, status: Status) -> None:
    for job_id in ("a", "b"):
        store.bring(job_id, status)
    store.bring("c", Status.COMPLETED)

    expected = {("a", status): 1, ("b", status): 1, ("c", Status.COMPLETED): 1}
    assert store.count() == recounted(store) == expected


@pytest.mark.parametrize("status", list(Status))
def test_jobs_are_counted_right_after_everything_that_people_ask_for(store: Any, status: Status) -> None:
    for action in allowed(status):
        store.bring(f"to {action}", status)
        store.apply(f"to {action}", action)

    assert store.count() == recounted(store)


def test_jobs_that_failed_and_were_resumed_and_ended_are_counted_once(store: Any) -> None:
    store.bring("a", Status.FAILED)
    store.do("a", Action.RESUME)
    assert store.count() == {("a", Status.SUBMITTED): 1}

    store.do("a", Action.CLAIM)
    store.do("a", Action.COMPLETE)

    assert store.count() == {("a", Status.COMPLETED): 1}


def test_jobs_that_were_removed_are_counted_no_more(store: Any) -> None:
    store.put("a", "b", "c")
    store.take(3)
    for job_id in ("a", "b"):
        store.end(store.get(job_id), Action.COMPLETE)
    store.end(store.get("c"), Action.FAIL)

    store.prune(before=None, keep=1)
    assert store.count() == {("T", Status.COMPLETED): 1, ("T", Status.FAILED): 1}
    store.prune(before=store.now() + timedelta(days=1), keep=None)

    assert store.count() == {}


def test_jobs_that_end_at_once_in_several_processes_are_all_counted(
    open_store: Any, at_once: Callable[[list[Callable[[], Any]]], list[Any]]
) -> None:
    stores = [open_store(), open_store()]
    stores[0].put(*map(str, range(40)))
    held = [(store, job_id) for store in stores for job_id in store.take(20)]
    done = Settlement(action=Action.COMPLETE, failures=0)

    at_once([lambda store=store, job_id=job_id: store.settle(job_id, 1, done) for store, job_id in held])

    assert stores[0].count() == {("T", Status.COMPLETED): 40}


def test_what_was_not_committed_is_not_counted(store: Any) -> None:
    job = store.run("a")

    with pytest.raises(TypeError):
        store.settle("a", job.attempt, Settlement(action=Action.COMPLETE, failures=0, result=object()))

    assert store.count() == {("T", Status.RUNNING): 1}


def test_jobs_that_are_moved_at_once_by_several_processes_are_all_counted(
    open_store: Any, at_once: Callable[[list[Callable[[], Any]]], list[Any]]
) -> None:
    stores = [open_store() for _ in range(3)]
    ids = [str(number) for number in range(60)]
    stores[0].put(*ids)

    at_once(
        [
            lambda store=stores[place % 3], job_id=job_id: store.apply(job_id, Action.HALT)
            for place, job_id in enumerate(ids)
        ]
    )

    assert stores[0].count() == recounted(stores[0]) == {("T", Status.HALTED): 60}
    assert stores[0].correct_count() == {}


def test_jobs_that_someone_wrote_who_counts_none_are_counted_once_that_is_checked(open_store: Any) -> None:
    store, other = open_store(), open_store()
    store.put("a", "b", "c", "d")
    store.execute("UPDATE jobs SET status = 'halted' WHERE id IN ('a', 'b')")
    store.execute("DELETE FROM jobs WHERE id = 'c'")
    assert store.count() == {("T", Status.SUBMITTED): 4}

    assert store.correct_count() == {("T", Status.HALTED): 2, ("T", Status.SUBMITTED): -3}

    assert store.count() == other.count() == recounted(store) == {("T", Status.HALTED): 2, ("T", Status.SUBMITTED): 1}
    assert other.correct_count() == {}


def test_nothing_is_counted_twice_where_that_is_checked_while_jobs_are_moved(
    open_store: Any, at_once: Callable[[list[Callable[[], Any]]], list[Any]]
) -> None:
    store, other = open_store(), open_store()
    ids = [str(number) for number in range(40)]
    store.put(*ids)
    store.execute("UPDATE census SET jobs = jobs + 5")
    halts = [lambda job_id=job_id: store.apply(job_id, Action.HALT) for job_id in ids]
    checks = [other.correct_count, store.correct_count] * 5

    at_once(halts[:20] + checks[:5] + halts[20:] + checks[5:])

    assert store.count() == recounted(store) == {("T", Status.HALTED): 40}


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_counts_are_corrected_while_somebody_else_who_has_counted_does_not_commit(store: Any, other: Any) -> None:
    store.put("a", type="A")
    store.put("b", type="B")
    store.execute("UPDATE jobs SET status = 'halted' WHERE id = 'a'")

    def halt_slowly(connection: Any) -> None:
        other.lifecycle.transition(connection, other.get("b"), Action.HALT, {})
        other.database.flush_counts(connection)

        assert store.correct_count() == {("A", Status.HALTED): 1, ("A", Status.SUBMITTED): -1}
        assert store.count() == {("A", Status.HALTED): 1, ("B", Status.SUBMITTED): 1}

    other.database.run(halt_slowly)
    assert store.count() == recounted(store) == {("A", Status.HALTED): 1, ("B", Status.HALTED): 1}


def test_what_is_missed_is_added_once_where_several_processes_find_it_at_once(
    open_store: Any, at_once: Callable[[list[Callable[[], Any]]], list[Any]]
) -> None:
    stores = [open_store() for _ in range(4)]
    stores[0].put(*map(str, range(10)))
    stores[0].execute("UPDATE jobs SET status = 'halted'")

    corrected = at_once([store.correct_count for store in stores])

    assert sorted(map(len, corrected)) == [0, 0, 0, 2]
    assert stores[0].count() == recounted(stores[0]) == {("T", Status.HALTED): 10}


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_process_that_is_frozen_once_it_has_counted_holds_up_nobody_else(
    open_store: Any, at_once: Callable[[list[Callable[[], Any]]], list[Any]]
) -> None:
    frozen, store = open_store(), open_store()
    ids = [str(number) for number in range(60)]
    store.put(*ids, "its own")

    with frozen.database.engine.begin() as connection:
        for by in (1, -1) * 50:  # in whichever rows it counts
            job_counts.note(connection, [("T", Status.SUBMITTED), ("T", Status.HALTED)], by)
            frozen.database.flush_counts(connection)
        at_once([lambda job_id=job_id: store.apply(job_id, Action.HALT) for job_id in ids])
        assert store.correct_count() == {}

    assert store.count() == {("T", Status.SUBMITTED): 1, ("T", Status.HALTED): 60}


def test_processes_that_come_and_go_leave_no_more_to_be_added_up(open_store: Any) -> None:
    for number in range(5):
        passing = open_store()
        passing.put(str(number), type=f"T{number % 2}")
        passing.close()
    store = open_store()

    store.correct_count()

    assert store.count() == {("T0", Status.SUBMITTED): 3, ("T1", Status.SUBMITTED): 2}
    assert store.execute("SELECT count(*) FROM census") == [(2,)]
    store.put("later", type="T0")
    assert store.count() == {("T0", Status.SUBMITTED): 4, ("T1", Status.SUBMITTED): 2}

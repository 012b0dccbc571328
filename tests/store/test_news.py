"""Those who follow changes are told each of them once, in order, and miss none, however many write at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, NewJob
from jobmanager.engine.change_feed import Tail


def numbers(store: Any) -> list[int]:
    """Return the numbers of all changes."""
    return [row[0] for row in store.execute("SELECT seq FROM changes ORDER BY seq")]


def read(tail: Tail) -> list[int]:
    return [news.change.seq for news in tail.read()]


@contextmanager
def submission_under_way(store: Any, job_id: str) -> Iterator[Any]:
    """Have a transaction open that has written a change; it is rolled back, unless it is committed meanwhile."""
    with store.database.engine.connect() as connection:
        store.submissions.insert(connection, [(NewJob(id=job_id, type="T", args={}), "test")], store.now())
        yield connection
        connection.rollback()


def test_news_tell_each_change_in_order_and_of_its_job(store: Any) -> None:
    job = store.run("job", labels={"customer": "acme"})
    store.put("other", type="U")
    store.save(job, cursor=1, done=3, total=10)

    news = store.news(after=0)

    assert [one.change for one in news if one.change.job_id == "job"] == store.changes("job")
    assert [(one.change.seq, one.change.action) for one in news] == [(1, "submit"), (2, "claim"), (3, "submit")]
    assert [one.progress.type for one in news] == ["T", "T", "U"]
    assert news[0].progress.labels == {"customer": "acme"}
    assert (news[0].progress.checkpoint.done, news[0].progress.status) == (3, Status.RUNNING)


def test_news_begin_behind_a_number_end_at_another_and_may_be_of_one_job(store: Any) -> None:
    store.put("a", "b")
    store.put("c")
    store.apply("a", Action.HALT)

    def found(**asked: Any) -> list[int]:
        return [news.change.seq for news in store.news(**asked)]

    assert found(after=1) == [2, 3, 4]
    assert found(after=0, upto=2) == [1, 2]
    assert found(after=0, limit=3) == [1, 2, 3]
    assert found(after=0, job_id="a") == [1, 4]
    assert found(after=1, job_id="a", upto=3) == []
    assert store.last_change() == 4


def test_progress_is_told_of_jobs_that_are_held_and_saved_a_checkpoint_since(store: Any) -> None:
    early, late, done = (store.run(name) for name in ("early", "late", "done"))
    for job in (early, done):
        store.save(job, cursor=1, done=1)
    began = store.now()
    store.save(late, cursor=1, done=2, message="half")
    store.end(done, Action.COMPLETE)

    (told,) = store.progress(since=began)

    assert (told.job_id, told.checkpoint.seq, told.checkpoint.message) == ("late", 1, "half")
    assert {one.job_id for one in store.progress(since=began - timedelta(hours=1))} == {"early", "late"}


def test_the_rate_and_eta_of_progress_are_those_of_the_job(store: Any) -> None:
    job = store.run("job")
    store.save(job, cursor=1, done=1, total=4)

    (told,) = store.progress(since=store.now() - timedelta(minutes=1))

    now = store.now()
    assert told.rate() == store.get("job").rate() is not None
    assert told.eta_seconds(now) == store.get("job").eta_seconds(now)


def test_a_reader_goes_on_where_it_was_and_begins_at_the_end(store: Any) -> None:
    store.put("before")
    tail = Tail(store)
    tail.begin()

    store.put("a", "b")
    first = read(tail)
    store.put("c")

    assert (first, read(tail), read(tail)) == ([2, 3], [4], [])
    assert not tail.is_held_back


def test_numbers_that_are_gone_for_good_hold_nothing_back(store: Any) -> None:
    tail = Tail(store)
    store.put(*map(str, range(5)))
    store.execute("DELETE FROM changes WHERE seq IN (1, 2, 4)")

    assert read(tail) + read(tail) == [3, 5]
    assert not tail.is_held_back


def test_more_than_a_page_is_read_in_parts(store: Any) -> None:
    tail = Tail(store)
    store.put(*map(str, range(600)))
    store.execute("DELETE FROM changes WHERE seq IN (7, 550)")

    found = read(tail)
    while tail.has_more:
        found += read(tail)

    assert found == numbers(store)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_change_that_is_committed_after_one_with_a_higher_number_is_not_missed(store: Any) -> None:
    tail = Tail(store)
    with submission_under_way(store, "slow") as transaction:
        store.put("fast")
        held = read(tail)
        was_held_back = tail.is_held_back
        transaction.commit()
        found = read(tail)

    assert (held, was_held_back, found) == ([], True, [1, 2])


@pytest.mark.parametrize("kind", ["postgresql"])
def test_what_lies_behind_a_number_that_was_rolled_back_is_told_at_once(store: Any) -> None:
    tail = Tail(store)
    store.put("first")
    with submission_under_way(store, "never"):
        store.put("fast")
        begun = read(tail)
    with submission_under_way(store, "later"):  # took its number after the gap was seen: it holds nothing up
        found = read(tail)

    assert (begun, found) == ([1], [3])


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_reader_that_begins_waits_for_what_is_being_written(store: Any) -> None:
    tail = Tail(store)
    with submission_under_way(store, "slow") as transaction:
        store.put("fast")
        beginning = threading.Thread(target=tail.begin, name="test")
        beginning.start()
        time.sleep(0.05)
        was_waiting = beginning.is_alive()
        transaction.commit()
        beginning.join(10)
    store.put("next")
    found = read(tail)

    assert was_waiting
    assert found == [3]


@pytest.mark.parametrize("writers", [6])
def test_a_reader_sees_every_change_once_and_in_order_while_many_write(
    open_store: Any, at_once: Callable[[list[Callable[[], Any]]], list[Any]], until: Any, writers: int
) -> None:
    stores = [open_store(), open_store()]
    tail, found, is_over = Tail(open_store()), list[int](), threading.Event()

    def write(number: int) -> None:
        store = stores[number % 2]
        for turn in range(8):
            job_id = f"{number}-{turn}"
            store.put(job_id)
            with store.database.engine.connect().execution_options(is_writer=True) as connection:
                transaction = connection.begin()
                store.submissions.insert(
                    connection, [(NewJob(id=f"{job_id}-no", type="T", args={}), "test")], store.now()
                )
                transaction.rollback()
            store.apply(job_id, Action.HALT)

    def follow() -> None:
        while not is_over.is_set():
            found.extend(read(tail))

    reader = threading.Thread(target=follow, name="test")
    reader.start()
    at_once([lambda number=number: write(number) for number in range(writers)])
    everything = numbers(stores[0])
    try:
        until(lambda: len(found) >= len(everything), lambda: f"{set(everything) - set(found)}")
    finally:
        is_over.set()
        reader.join(10)

    assert found == everything
    assert len(found) == writers * 8 * 2


def test_a_checkpoint_without_progress_is_told_as_nothing(store: Any) -> None:
    job = store.run("job")
    store.checkpoint(job.id, job.attempt, None, None)

    assert store.progress(since=store.now() - timedelta(hours=1)) == []
    assert store.checkpoint(job.id, job.attempt, Checkpoint(cursor=1), None) is Status.RUNNING

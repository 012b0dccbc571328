"""Jobs are stored in order, all or none, as they were submitted, and no more of them than the queue takes."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, LogLine, NewJob, Selection
from jobmanager.errors import Conflict, QueueFull, UnknownJob


def test_jobs_are_kept_in_the_order_in_which_they_were_submitted(store: Any) -> None:
    ids = [f"{number * 7919 % 300:03}" for number in range(300)]

    added = store.put(*ids)

    assert [job.id for job in added] == ids
    assert [job.number for job in added] == sorted(job.number for job in added)
    assert store.take(300) == ids


def test_a_job_is_kept_as_it_was_submitted(store: Any) -> None:
    at = store.now() + timedelta(days=1)
    args = {"text": 'ä "\\ \u2028 😀', "nested": [{"a": None}, 1.5, True, 10**30, ""], "": {}}
    new = NewJob(
        id="a",
        type="T",
        args=args,
        priority=-7,
        labels={"team": "ä"},
        run_at=at,
        max_attempts=4,
        timeout_seconds=0.25,
    )

    (job,) = store.add([new], actor="ann")

    assert job == store.get("a")
    assert (job.status, job.attempt, job.owner, job.checkpoint) == (Status.SUBMITTED, 0, None, Checkpoint())
    assert (job.args, job.priority, job.labels) == (args, -7, {"team": "ä"})
    assert (job.run_at, job.max_attempts, job.timeout_seconds) == (at, 4, 0.25)
    (change,) = store.changes("a")
    assert (change.action, change.from_status, change.to_status) == (Action.SUBMIT, None, Status.SUBMITTED)
    assert (change.actor, change.at, change.asked_at) == ("ann", job.submitted_at, job.submitted_at)


def test_submitting_nothing_stores_nothing(store: Any) -> None:
    assert store.add([], actor="ann") == []


def test_either_all_jobs_of_a_batch_are_stored_or_none(store: Any) -> None:
    store.put("a")
    rows = store.everything()

    with pytest.raises(ValueError, match="cannot store one of the values"):
        store.put("b", "c", "a")

    assert store.everything() == rows


def test_arguments_may_be_of_many_megabytes(store: Any) -> None:
    args = {"rows": ["x" * 1000] * 8000}

    store.put("a", args=args)

    assert store.get("a").args == args


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1, 2}, b"x", object(), "\udcff"],
    ids=["no number", "infinity", "set", "bytes", "object", "half a character"],
)
def test_arguments_that_are_not_valid_json_are_refused_and_nothing_is_stored(store: Any, value: Any) -> None:
    rows = store.everything()

    with pytest.raises((TypeError, ValueError)):
        store.put("a", args={"value": value})

    assert store.everything() == rows
    store.put("b")


def test_a_character_that_a_database_cannot_keep_breaks_no_job(store: Any) -> None:
    """PostgreSQL keeps no NUL in a text; a file name, or what a server answered, may well have one."""
    odd = "a\0b"
    line = LogLine(number=0, attempt=1, at=store.now(), level="INFO", message=odd)
    store.add([NewJob(id="a", type="T", args={odd: odd}, labels={odd: odd}, idempotency_key=odd)], actor=odd)
    store.take()
    job = store.get("a")

    store.checkpoint("a", 1, Checkpoint(cursor={odd: odd}, message=odd), {odd: odd}, [line])
    store.add_log("a", [line])
    store.apply("a", Action.HALT, actor=odd, reason=odd)
    store.apply("a", Action.RESUME, actor=odd)
    ended = store.end(job, Action.FAIL, error=odd, result={odd: odd})

    assert (job.args, job.labels) == ({odd: odd}, {odd: odd})
    assert (ended.checkpoint.cursor, ended.details, ended.result) == ({odd: odd}, {odd: odd}, {odd: odd})
    texts = [ended.error, ended.checkpoint.message, store.changes("a")[2].actor, store.changes("a")[2].reason]
    texts += [line.message for line in store.log("a")]
    assert texts == [r"a\x00b"] * 6


def test_a_job_whose_id_no_database_can_keep_is_unknown(store: Any) -> None:
    for odd in ("a\0b", "a\udcff", "a" * 100_000, ""):
        with pytest.raises(UnknownJob):
            store.get(odd)
        with pytest.raises(UnknownJob):
            store.apply(odd, Action.HALT)


def test_the_queue_takes_as_many_jobs_as_it_may_and_no_more(open_store: Any) -> None:
    store = open_store(queue_limit=20)
    for number in range(20):
        store.put(str(number))
    rows = store.everything()

    with pytest.raises(QueueFull, match="20 jobs are waiting"):
        store.put("one too many")
    assert store.everything() == rows

    store.take()
    store.put("in its place")
    with pytest.raises(QueueFull):
        store.put("one too many")


def test_a_batch_that_does_not_fit_the_queue_is_refused_as_a_whole(open_store: Any) -> None:
    store = open_store(queue_limit=20)
    store.put(*map(str, range(15)))

    with pytest.raises(QueueFull):
        store.put(*map(str, range(15, 21)))

    store.put(*map(str, range(15, 20)))


def test_jobs_that_do_not_wait_take_no_room_in_the_queue(open_store: Any) -> None:
    store = open_store(queue_limit=3)
    store.run("running")
    store.bring("halted", Status.HALTED)
    store.bring("done", Status.COMPLETED)

    store.put("a", "b", "c")

    with pytest.raises(QueueFull):
        store.put("d")


def test_two_processes_together_fill_the_queue_and_no_more(open_store: Any) -> None:
    store, other = open_store(queue_limit=200), open_store(queue_limit=200)
    store.put("first")
    for number in range(199):
        other.put(str(number))

    for process in (store, other):
        with pytest.raises(QueueFull):
            process.put("one too many")


def test_a_process_learns_from_its_own_submission_that_others_have_filled_the_queue(open_store: Any) -> None:
    store, other = open_store(queue_limit=4000), open_store(queue_limit=4000)
    store.put("first", "second")
    other.put_all([NewJob(id=str(number), type="T", args={}) for number in range(3998)])
    rows = store.everything()

    with pytest.raises(QueueFull):
        store.put("one too many")

    assert store.everything() == rows


def test_what_is_told_of_a_new_job_is_what_is_stored(store: Any) -> None:
    odd = {"a": ("b", 1.5, None), "é": {"deep": [True]}}
    told = [
        *store.put("plain"),
        *store.put("odd", args=odd, labels={"team": "a"}, priority=-3, max_attempts=7, timeout_seconds=0.25),
        *store.put("later", run_at=datetime(2031, 1, 2, 3, 4, 5, 6, tzinfo=UTC), traceparent="00-a-b-01"),
    ]

    assert told == [store.get(job.id) for job in told]


def test_threads_that_submit_at_once_fill_the_queue_and_no_more(open_store: Any, at_once: Any) -> None:
    store = open_store(queue_limit=50)

    def submit(thread: int) -> int:
        taken = 0
        for number in range(10):
            try:
                store.put(f"{thread}-{number}")
                taken += 1
            except QueueFull:
                continue
        return taken

    taken = at_once([lambda thread=thread: submit(thread) for thread in range(8)])

    assert sum(taken) == 50
    assert store.count_by_status() == {Status.SUBMITTED: 50}


def test_processes_that_submit_and_move_jobs_at_once_fill_the_queue_and_no_more(open_store: Any, at_once: Any) -> None:
    stores = [open_store(queue_limit=60) for _ in range(3)]
    stores[0].put(*(f"first-{number}" for number in range(30)))

    def submit(process: int, thread: int) -> int:
        taken = 0
        for number in range(8):
            name = f"{process}-{thread}-{number}"
            with contextlib.suppress(QueueFull):
                if number % 2:
                    taken += len(stores[process].put(f"{name}-a", f"{name}-b"))
                else:
                    taken += len(stores[process].put_all([NewJob(id=name, type="T", args={})]))
        return taken

    def claim(process: int) -> int:
        return -len(stores[process].take(10))

    moves = [lambda process=process: claim(process) for process in range(3)]
    submissions = [lambda place=place: submit(place % 3, place) for place in range(9)]
    waiting = 30 + sum(at_once(submissions + moves))
    assert waiting <= 60
    stores[0].put(*(f"last-{number}" for number in range(60 - waiting)))

    for store in stores:
        with pytest.raises(QueueFull):
            store.put("one too many")
    assert stores[0].count_by_status()[Status.SUBMITTED] == 60
    assert stores[0].correct_count() == {}


def test_a_submission_sent_again_with_its_key_is_the_same_job(store: Any, other: Any) -> None:
    first = NewJob(id="a", type="T", args={"n": 1}, idempotency_key="k")
    again = NewJob(id="b", type="T", args={"n": 1}, idempotency_key="k")
    (job,) = store.add([first], actor="ann")

    assert other.add([again], actor="ann") == [job]

    assert store.trail("a") == ["submit"]
    with pytest.raises(UnknownJob):
        store.get("b")


def test_a_key_used_for_another_submission_is_a_conflict_and_nothing_of_the_batch_is_stored(store: Any) -> None:
    store.add([NewJob(id="a", type="T", args={"n": 1}, idempotency_key="k")], actor="ann")
    rows = store.everything()
    other = NewJob(id="c", type="T", args={"n": 2}, idempotency_key="k")

    with pytest.raises(Conflict):
        store.add([NewJob(id="b", type="T", args={}), other], actor="ann")

    assert store.everything() == rows


def test_a_batch_may_hold_the_same_submission_twice(store: Any) -> None:
    twice = [NewJob(id=job_id, type="T", args={}, idempotency_key="k") for job_id in ("a", "b")]

    added = store.add(twice, actor="ann")

    assert [job.id for job in added] == ["a", "a"]


def test_a_submission_sent_again_after_its_job_was_removed_is_a_new_job(store: Any) -> None:
    first = NewJob(id="a", type="T", args={}, idempotency_key="k")
    store.add([first], actor="ann")
    store.apply("a", Action.STOP)
    assert store.prune(before=store.now() + timedelta(days=1), keep=None) == ["a"]

    (job,) = store.add([NewJob(id="b", type="T", args={}, idempotency_key="k")], actor="ann")

    assert (job.id, job.status) == ("b", Status.SUBMITTED)
    assert store.add([NewJob(id="c", type="T", args={}, idempotency_key="k")], actor="ann") == [job]


def test_the_same_key_of_two_scopes_is_two_keys(store: Any) -> None:
    scopes = ["", "ann", "bob"]

    for number, scope in enumerate(scopes):
        # Other arguments: a key that is shared would be a conflict.
        job = NewJob(id=scope or "none", type="T", args={"n": number}, idempotency_key="k", idempotency_scope=scope)
        assert store.add([job], actor=scope or "local")[0].id == job.id
    again = NewJob(id="new", type="T", args={"n": 2}, idempotency_key="k", idempotency_scope="bob")

    assert store.add([again], actor="bob")[0].id == "bob"


@pytest.mark.parametrize(("actor", "is_same_job"), [("ann", True), ("bob", False), ("local", False)])
def test_a_key_from_before_scopes_is_found_by_the_token_that_used_it_and_by_no_other(
    store: Any, actor: str, is_same_job: bool
) -> None:
    store.add([NewJob(id="old", type="T", args={}, idempotency_key="k")], actor=actor)

    sent = [NewJob(id=name, type="T", args={}, idempotency_key="k", idempotency_scope="ann") for name in ("b", "c")]
    found = [store.add([job], actor="ann")[0].id for job in sent]

    assert found == (["old", "old"] if is_same_job else ["b", "b"])


def test_many_jobs_at_once_are_stored_as_each_would_be_by_itself(store: Any) -> None:
    later = store.now() + timedelta(days=1)
    asked = [
        {"args": {"a": [1, "ü", None]}, "priority": 3, "max_attempts": 2, "timeout_seconds": 1.5, "run_at": later},
        {"args": {}, "traceparent": "00-1-2-01"},
    ]
    alone = [store.add([NewJob(id=f"alone-{n}", type="T", **each)], actor="ann")[0] for n, each in enumerate(asked)]

    ids = store.put_all([NewJob(id=f"many-{n}", type="T", **each) for n, each in enumerate(asked)])

    assert ids == ["many-0", "many-1"]
    for one, job_id in zip(alone, ids, strict=True):
        other = store.get(job_id)
        at_once = other.run_at == other.submitted_at
        same = replace(other, id=one.id, number=one.number, submitted_at=one.submitted_at)
        assert replace(same, run_at=one.submitted_at if at_once else other.run_at) == one
        (change,) = store.changes(job_id)
        assert (change.action, change.from_status, change.to_status, change.actor) == (
            Action.SUBMIT,
            None,
            Status.SUBMITTED,
            "ann",
        )
        assert change.at == change.asked_at == other.submitted_at


def test_of_many_jobs_at_once_all_or_none_are_stored(open_store: Any) -> None:
    store = open_store(queue_limit=3)

    with pytest.raises(QueueFull):
        store.put_all([NewJob(id=str(number), type="T", args={}) for number in range(4)])
    assert store.put_all([NewJob(id=str(number), type="T", args={}) for number in range(3)])

    assert len(store.find(Selection(), ("T",)).jobs) == 3


def test_many_jobs_at_once_may_have_labels(store: Any) -> None:
    asked = [{"labels": {"x": "y"}}, {}, {"args": {"large": "x" * 300_000}}, {"labels": {"x": "z"}}, {}]
    new = [NewJob(id=str(number), type="T", **({"args": {}} | each)) for number, each in enumerate(asked)]

    assert store.put_all(new) == ["0", "1", "2", "3", "4"]

    assert [job.id for job in store.find(Selection(labels={"x": "y"}), ("T",)).jobs] == ["0"]
    assert [job.id for job in store.find(Selection(), ("T",)).jobs] == ["4", "3", "2", "1", "0"]
    assert [store.changes(job_id)[0].actor for job_id in "01234"] == ["ann"] * 5


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_key_that_a_frozen_process_is_storing_keeps_only_its_own_submission_waiting(
    open_store: Any, until: Any
) -> None:
    frozen, store = open_store(), open_store()
    running = store.run("a")
    keyed = [NewJob(id="k", type="T", args={}, idempotency_key="key")]

    with ThreadPoolExecutor(3, thread_name_prefix="test") as pool:
        with frozen.database.engine.begin() as connection:
            frozen.submissions.add_keyed(connection, keyed, ["ann"])
            again = pool.submit(store.add, [replace(keyed[0], id="again")], actor="ann")
            blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            until(lambda: store.execute(blocked) == [(1,)], "the submission to wait for the key")

            done = Settlement(action=Action.COMPLETE, failures=0)
            pool.submit(store.settle, "a", running.attempt, done).result(10)
            pool.submit(store.put, "b").result(10)
            assert not again.done()

        assert [job.id for job in again.result(10)] == ["k"]

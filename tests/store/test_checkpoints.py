"""What an attempt saves is there when the next one begins; it is never less than what was saved before."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, LogLine


def test_a_checkpoint_is_kept_as_it_was_saved(store: Any, other: Any) -> None:
    job = store.run("a")
    cursor = {"key": ["ä", 1.5, None, 2**60], "": False}

    store.checkpoint("a", 1, Checkpoint(cursor=cursor, done=3, total=7.5, message="ä"), {"bytes": 12})

    saved = other.get("a")
    assert saved.checkpoint.cursor == cursor
    assert (saved.checkpoint.seq, saved.checkpoint.done, saved.checkpoint.total) == (1, 3, 7.5)
    assert (saved.checkpoint.message, saved.details) == ("ä", {"bytes": 12})
    assert job.running_since <= saved.checkpoint.saved_at <= store.now()


def test_every_checkpoint_has_the_next_number_across_attempts_too(store: Any) -> None:
    job = store.run("a")
    for number in range(3):
        store.save(job, cursor=number)
    store.do("a", Action.EXPIRE)
    store.take()

    store.save(store.get("a"), cursor=3)

    assert store.get("a").checkpoint.seq == 4


@pytest.mark.parametrize("cursor", [0, "", False, {}, [], 0.1, 2**63, -(2**70), 1e300, "1", "null"])
def test_a_cursor_may_be_any_json_but_none(store: Any, cursor: Any) -> None:
    job = store.run("a")
    store.save(job, cursor="earlier")

    store.save(job, cursor=cursor)

    assert store.get("a").checkpoint.cursor == cursor
    assert type(store.get("a").checkpoint.cursor) is type(cursor)


def test_an_empty_cursor_never_replaces_a_good_one(store: Any) -> None:
    job = store.run("a")
    store.save(job, cursor=5, done=5)

    store.save(job, cursor=None, done=6)

    assert (store.get("a").checkpoint.cursor, store.get("a").checkpoint.done) == (5, 6)
    assert store.get("a").checkpoint.seq == 2


def test_with_nothing_new_a_checkpoint_only_renews_the_lease(store: Any) -> None:
    job = store.run("a")
    store.save(job, cursor=5)
    before = store.get("a")
    store.end_lease("a")

    assert store.checkpoint("a", 1, None, None) is Status.RUNNING

    after = store.get("a")
    assert after.checkpoint == before.checkpoint
    assert after.lease_expires_at > store.now()
    assert store.expire() == []


@pytest.mark.parametrize("status", [Status.RUNNING, Status.HALTING, Status.STOPPING])
def test_a_checkpoint_tells_what_was_asked_meanwhile(store: Any, status: Status) -> None:
    job = store.bring("a", status)

    assert store.save(job, cursor=1) is status


def test_what_was_saved_is_kept_through_every_status(store: Any) -> None:
    job = store.run("a")
    store.checkpoint("a", 1, Checkpoint(cursor=5, done=5), {"rows": 5})
    kept = store.get("a").checkpoint

    for action in (Action.HALT, Action.YIELD, Action.RESUME, Action.CLAIM, Action.FAIL, Action.RESUME, Action.CLAIM):
        job = store.do("a", action)
        assert (job.checkpoint, job.details) == (kept, {"rows": 5})


def test_large_whole_numbers_of_progress_stay_whole(store: Any) -> None:
    job = store.run("a")

    store.save(job, done=2**53, total=1e300)

    assert (store.get("a").checkpoint.done, store.get("a").checkpoint.total) == (2**53, int(1e300))


def test_log_lines_are_kept_in_order_with_the_checkpoint_or_without(store: Any) -> None:
    store.run("a")
    store.run("b")
    lines = [
        LogLine(number=0, attempt=1, at=store.now(), level="INFO", message=f"line {number}\n") for number in range(10)
    ]

    store.checkpoint("a", 1, None, None, lines[:4])
    store.add_log("b", lines[:1])
    store.add_log("a", lines[4:])
    store.add_log("a", [])

    kept = store.log("a")
    assert [line.message for line in kept] == [line.message for line in lines]
    assert [(line.attempt, line.level, line.at) for line in kept] == [(1, "INFO", line.at) for line in lines]
    assert store.log("a", after=kept[3].number, limit=2) == kept[4:6]
    assert [line.message for line in store.log("b")] == ["line 0\n"]
    assert store.log("c") == []

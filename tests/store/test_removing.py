"""What has long finished is removed with all that belongs to it, and nothing else is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from jobmanager.core.states import FINAL, Action, Status
from jobmanager.core.values import LogLine
from jobmanager.errors import UnknownJob


def finish(store: Any, *ids: str) -> None:
    for job_id in ids:
        store.bring(job_id, Status.COMPLETED)


def test_jobs_beyond_the_newest_go_with_their_changes_and_logs(store: Any) -> None:
    finish(store, "a", "b", "c")
    for job_id in ("a", "c"):
        line = LogLine(number=0, attempt=1, at=store.now(), level="INFO", message="kept")
        store.add_log(job_id, [line])

    assert store.prune(before=None, keep=1) == ["a", "b"]

    for job_id in ("a", "b"):
        with pytest.raises(UnknownJob):
            store.get(job_id)
        with pytest.raises(UnknownJob):
            store.changes(job_id)
    assert (store.log("a"), len(store.log("c"))) == ([], 1)
    assert store.trail("c") == ["submit", "claim", "complete"]
    assert store.prune(before=None, keep=1) == []


def test_as_many_are_kept_as_were_asked_for_if_all_finished_at_one_instant(store: Any) -> None:
    finish(store, "a", "b", "c", "d")
    store.execute("UPDATE jobs SET finished_at = 5")

    store.prune(before=None, keep=3)

    assert store.count_by_status() == {Status.COMPLETED: 3}


def test_jobs_that_finished_before_a_time_go(store: Any) -> None:
    finish(store, "a")
    between = store.get("a").finished_at + timedelta(microseconds=1)
    finish(store, "b")

    assert store.prune(before=between, keep=None) == ["a"]
    assert store.prune(before=between, keep=None) == []


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_job_that_may_still_go_on_is_not_removed_for_lack_of_room(store: Any, status: Status) -> None:
    store.bring("a", status)

    assert store.prune(before=None, keep=0) == []

    assert store.get("a").status is status


def test_no_more_are_removed_at_a_time_than_were_asked_for_and_the_oldest_first(store: Any) -> None:
    finish(store, "a", "b", "c")

    assert store.prune(before=None, keep=0, limit=2) == ["a", "b"]
    assert store.prune(before=None, keep=0, limit=2) == ["c"]


def test_with_no_bound_nothing_is_removed(store: Any) -> None:
    finish(store, "a")

    assert store.prune(before=None, keep=None) == []


def test_processes_that_remove_at_once_remove_each_job_once(store: Any, other: Any, at_once: Any) -> None:
    finish(store, *map(str, range(30)))

    def work(process: Any) -> list[str]:
        removed: list[str] = []
        while found := process.prune(before=None, keep=0, limit=3):
            removed += found
        return removed

    removed = at_once([lambda process=process: work(process) for process in (store, other) * 2])

    assert sorted(job_id for found in removed for job_id in found) == sorted(map(str, range(30)))


def test_a_job_that_was_resumed_meanwhile_is_not_removed(store: Any) -> None:
    store.bring("a", Status.FAILED)
    store.do("a", Action.RESUME)

    assert store.prune(before=store.now() + timedelta(days=1), keep=None) == []

"""A submission that is sent again, because its answer was lost, makes no second job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.config import Settings
from jobmanager.errors import Conflict, QueueFull, UnknownJob
from jobmanager.manager import JobManager
from jobmanager.registry import Registry


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[JobManager]:
    with JobManager(Settings(data_dir=tmp_path, slots=0, queue_limit=3), Registry()) as manager:
        yield manager


def test_the_same_key_with_the_same_submission_is_the_same_job(manager: JobManager) -> None:
    first = manager.submit("Simple", {"steps": 1}, idempotency_key="a")

    again = manager.submit("Simple", {"steps": 1}, idempotency_key="a")

    assert again == first
    assert len(manager.changes(first.id)) == 1


def test_the_same_key_with_another_submission_is_a_conflict_and_makes_no_job(manager: JobManager) -> None:
    first = manager.submit("Simple", {"steps": 1}, idempotency_key="a")

    with pytest.raises(Conflict, match="another submission"):
        manager.submit("Simple", {"steps": 2}, idempotency_key="a")

    assert manager.submit("Simple", {"steps": 1}, idempotency_key="a") == first


def test_other_keys_and_no_key_make_jobs_of_their_own(manager: JobManager) -> None:
    keys = ["a", "b", None]

    ids = {manager.submit("Simple", {}, idempotency_key=key).id for key in keys}

    assert len(ids) == 3


def test_a_submission_sent_twenty_times_at_one_instant_makes_one_job(manager: JobManager) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(manager.submit("Simple", {}, idempotency_key="a").id))
        for _ in range(20)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)

    assert len(ids) == 20
    assert len(set(ids)) == 1


def test_a_key_whose_submission_was_refused_may_be_used_again(manager: JobManager) -> None:
    waiting = [manager.submit("Simple", {}).id for _ in range(3)]
    with pytest.raises(QueueFull):
        manager.submit("Simple", {}, idempotency_key="a")
    manager.stop(waiting[0])

    job = manager.submit("Simple", {}, idempotency_key="a")

    assert manager.get(job.id) == job


def test_a_job_that_is_not_there_is_unknown(manager: JobManager) -> None:
    with pytest.raises(UnknownJob):
        manager.get("a")

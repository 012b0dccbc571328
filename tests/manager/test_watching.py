"""When a process looks at the store for the changes of others: at once when it is woken, otherwise at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread, current_thread
from typing import Any

import pytest

from jobmanager.engine import listening
from jobmanager.store.sqlite.watch import Watch, announce_commit

#: Between what is looked in a second by one that is not idle, 50 times, and by one that is and is not told, 25 times.
BETWEEN = 30
#: Between that and by one that is idle, 4 times.
SELDOM = 10


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], int]:
    """Return what counts how often a manager, of those that there may be, looks in the coming second."""
    looked: list[tuple[Thread, float]] = []
    has_moved = Watch.has_moved

    def look(watch: Watch) -> bool:
        looked.append((current_thread(), time.monotonic()))
        return has_moved(watch)

    def count(manager: Any) -> int:
        begin = time.monotonic()
        time.sleep(1)
        return sum(thread is manager.engine.thread and begin <= at < begin + 1 for thread, at in looked)

    monkeypatch.setattr(Watch, "has_moved", look)
    monkeypatch.setattr(listening, "LULL_SECONDS", 0.1)
    return count


def test_a_process_that_nobody_waits_for_hardly_ever_looks(
    make_manager: Any, until: Any, looks: Callable[[Any], int]
) -> None:
    manager = make_manager()

    until(lambda: looks(manager) < SELDOM)


def test_a_process_that_cannot_be_told_looks_by_itself(
    make_manager: Any, until: Any, looks: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "fileno", lambda watch: None)
    manager = make_manager()

    until(lambda: SELDOM < looks(manager) < BETWEEN)


def test_a_process_that_is_idle_is_told_at_once_of_a_job_that_another_takes_in(
    make_manager: Any, steps: Any, until: Any, looks: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "IDLE_WATCH_SECONDS", 30.0)
    manager, other = make_manager(), make_manager(slots=0)
    until(lambda: looks(manager) < SELDOM)

    job = other.submit("Steps")

    manager.until(job.id, "running")


def test_a_job_that_is_put_off_begins_in_time_though_its_process_is_idle(
    make_manager: Any, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "LULL_SECONDS", 0.1)
    monkeypatch.setattr(listening, "IDLE_WATCH_SECONDS", 30.0)
    manager = make_manager()
    at = manager.now() + timedelta(seconds=1)

    job = manager.submit("Steps", run_at=at)

    manager.until(job.id, "running")
    assert manager.get(job.id).started_at - at < timedelta(seconds=5)


def test_a_shutdown_wakes_a_process_that_is_idle(
    make_manager: Any, until: Any, looks: Callable[[Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "IDLE_WATCH_SECONDS", 30.0)
    manager = make_manager()
    until(lambda: looks(manager) < SELDOM)

    manager.begin_shutdown()

    until(lambda: not manager.engine.thread.is_alive())


def test_a_process_that_has_a_job_looks_often(
    make_manager: Any, steps: Any, until: Any, looks: Callable[[Any], int]
) -> None:
    manager = make_manager()
    job = manager.submit("Steps")
    manager.until(job.id, "running")
    manager.halt(job.id, wait=5)

    until(lambda: looks(manager) > BETWEEN)


def test_a_process_in_which_someone_waits_looks_often(
    make_manager: Any, steps: Any, until: Any, looks: Callable[[Any], int]
) -> None:
    manager = make_manager(slots=0)
    job = manager.submit("Steps")
    waiter = Thread(target=lambda: manager.wait(job.id, unless=("submitted",), wait=20), name="test-waiter")
    waiter.start()

    until(lambda: looks(manager) > BETWEEN)

    manager.halt(job.id)
    waiter.join()


def test_a_process_that_is_told_without_end_looks_no_more_often_than_any(
    make_manager: Any, steps: Any, until: Any, looks: Callable[[Any], int]
) -> None:
    manager, other = make_manager(slots=0), make_manager(slots=0)
    job = other.submit("Steps")
    is_over = Event()

    def tell() -> None:
        while not is_over.wait(0.0005):
            other.halt(job.id)
            announce_commit(other.store.database.writer.lock_path)

    teller = Thread(target=tell, name="test-teller")
    teller.start()
    counted: list[int] = []

    def look() -> bool:
        counted.append(looks(manager))
        return counted[-1] > BETWEEN  # less only where the machine has no time for either thread

    until(look)
    is_over.set()
    teller.join()

    assert max(counted) < 2.5 * BETWEEN

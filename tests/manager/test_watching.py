"""How often a process looks at the store for what others did: as often as someone may wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread, current_thread
from typing import Any

import pytest

from jobmanager import engine
from jobmanager.store.sqlite import Watch

#: Between what is looked in a second by one that is idle, 25 times, and by one that is not, 50 times.
BETWEEN = 30


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
        return sum(thread is manager._engine._thread and begin <= at < begin + 1 for thread, at in looked)

    monkeypatch.setattr(Watch, "has_moved", look)
    monkeypatch.setattr(engine, "_LULL_SECONDS", 0.1)
    return count


def test_a_process_that_nobody_waits_for_looks_half_as_often(
    make_manager: Any, until: Any, looks: Callable[[Any], int]
) -> None:
    manager = make_manager()

    until(lambda: looks(manager) < BETWEEN)


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

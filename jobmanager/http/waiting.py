"""Limit how long requests wait, and how many wait at once, because each waiting request holds a thread.

Waits until another batch is stored. Does not wait for jobs: the manager does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import request

from jobmanager.errors import BatchUnderWay
from jobmanager.http.context import current_mount
from jobmanager.http.preferences import preferred_wait

#: How long a request may wait without taking one of the MOST_WAITS places. Most jobs halt sooner.
MOMENT_SECONDS = 0.1
#: How long a batch waits while another batch is stored.
BATCH_WAIT_SECONDS = 5.0


@contextmanager
def preferred_wait_limit() -> Iterator[float]:
    """Yield how many seconds to wait: the wait that the client prefers, or a moment if too many requests wait."""
    with wait_limit(preferred_wait()) as seconds:
        yield seconds


@contextmanager
def wait_limit(wanted: float) -> Iterator[float]:
    """Yield how many seconds the request may wait: *wanted* if one of the MOST_WAITS places is free.

    Otherwise, yields MOMENT_SECONDS, or *wanted* if that is shorter.
    Does not block. Places are limited because each waiting request holds a thread. The spare thread answers requests
    while all other threads are busy, so a request in the spare thread may wait only a moment.
    """
    places = current_mount().wait_slots
    is_spare = getattr(request.environ.get("gunicorn.socket"), "is_in_spare_thread", False)
    if wanted <= MOMENT_SECONDS or is_spare or not places.acquire(blocking=False):
        yield min(wanted, MOMENT_SECONDS)
        return
    try:
        yield wanted
    finally:
        places.release()


@contextmanager
def batch_at_a_time() -> Iterator[None]:
    """Hold the lock for parsing and storing a batch, so that each process handles one batch at a time.

    Blocks up to five seconds for the lock, then raises BatchUnderWay. While it waits, a batch takes one of the
    MOST_WAITS places, because it holds a thread. If no place is free, raises BatchUnderWay at once.
    """
    lock, places = current_mount().batch_lock, current_mount().wait_slots
    if not lock.acquire(blocking=False):
        if not places.acquire(blocking=False):
            raise BatchUnderWay
        try:
            if not lock.acquire(timeout=BATCH_WAIT_SECONDS):
                raise BatchUnderWay
        finally:
            places.release()
    try:
        yield
    finally:
        lock.release()

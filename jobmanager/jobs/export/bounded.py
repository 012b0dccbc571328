"""Run database queries for HTTP requests: a few at a time, each with a timeout.

A request thread waits for each query. Without these limits, a database that accepts connections but never answers
would block all request threads of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from jobmanager.jobs.export.thread_call import ThreadCall

#: Maximum number of queries that run at once in a process.
MOST_QUERIES = 2

T = TypeVar("T")

_permits = threading.BoundedSemaphore(MOST_QUERIES)


class QueryTimeout(Exception):
    """The query was not started, or its result did not come in time."""


def query_with_timeout(query: Callable[[], T], *, seconds: float) -> T:
    """Return the result of *query*, or raise its exception. Blocks for at most *seconds*.

    Raises QueryTimeout after the timeout, or at once if too many queries are running. A query that timed out counts as
    running until it ends. Raises RuntimeError if no thread can be started.
    """
    if not _permits.acquire(blocking=False):
        raise QueryTimeout("Too many requests are waiting for databases. Try again later.")
    call = ThreadCall(partial(_run, query), name="asks-a-database")
    try:
        call.start()
    except BaseException:
        if call.cancel():  # it has not begun: _run will not release the permit
            _permits.release()
        raise
    if not call.has_ended(seconds):
        raise QueryTimeout(f"The database did not answer within {seconds:g} s.")
    return call.result(None)


def _run(query: Callable[[], T]) -> T:
    try:
        return query()
    finally:
        _permits.release()

"""Huey on SQLite, with an fsync for each commit like ours: eight threads, or two processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huey import SqliteHuey

from benchmarks.peers import tally

_COMMAND = [sys.executable, "-m", "huey.bin.huey_consumer", "benchmarks.peers.of_huey.huey", "--quiet", "--no-periodic"]
WORKERS = {
    "8 threads": [*_COMMAND, "--workers", "8", "--worker-type", "thread"],
    "2 processes": [*_COMMAND, "--workers", "2", "--worker-type", "process"],
}

huey = SqliteHuey(filename=os.environ["BROKER"], fsync=True)


@huey.task()
def noop() -> None:
    """Only count."""
    tally.count()


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Yield a function that enqueues a job."""
    yield noop

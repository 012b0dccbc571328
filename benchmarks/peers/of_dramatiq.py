"""Dramatiq with Redis: one or two processes of eight threads, which is its default."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import tally

_COMMAND = [sys.executable, "-m", "dramatiq", "benchmarks.peers.of_dramatiq"]
WORKERS = {
    "8 threads": [*_COMMAND, "--processes", "1", "--threads", "8"],
    "2 processes": [*_COMMAND, "--processes", "2", "--threads", "8"],
}

dramatiq.set_broker(RedisBroker(url=os.environ["BROKER"]))


@dramatiq.actor
def noop() -> None:
    """Only count."""
    tally.count()


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Yield a function that enqueues a job."""
    yield noop.send

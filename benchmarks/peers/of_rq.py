"""RQ through Redis: a pool of two workers that run jobs themselves, without a fork for each; results are not kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis import Redis
from rq import Queue

from benchmarks.peers import tally

_COMMAND = [sys.executable, "-m", "rq.cli", "worker-pool", "--url", os.environ["BROKER"], "--path", ".", "--quiet"]
WORKERS = {"2 processes": [*_COMMAND, "--worker-class", "rq.worker.SimpleWorker", "--num-workers", "2"]}


def noop() -> None:
    """Do nothing but count."""
    tally.count()


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Give out what enqueues a job."""
    queue = Queue(connection=Redis.from_url(os.environ["BROKER"]))
    yield lambda: queue.enqueue(noop, result_ttl=0)

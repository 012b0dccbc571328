"""RQ with Redis: a pool of two workers that run jobs without a fork for each. No results are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from rq import Queue

from benchmarks.peers import tally

_COMMAND = [sys.executable, "-m", "rq.cli", "worker-pool", "--url", os.environ["BROKER"], "--path", ".", "--quiet"]
WORKERS = {"2 processes": [*_COMMAND, "--worker-class", "rq.worker.SimpleWorker", "--num-workers", "2"]}

queue = Queue(connection=Redis.from_url(os.environ["BROKER"]))


def noop() -> None:
    """Only count."""
    tally.count()


def job(submission: Any) -> None:
    """Stand for the job that a web server enqueues. It never runs."""


def submit(submission: Any) -> str:
    """Enqueue a submission and return its id."""
    return str(queue.enqueue(job, submission, result_ttl=0).id)


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Yield a function that enqueues a job."""
    yield lambda: queue.enqueue(noop, result_ttl=0)

"""Celery with Redis. A job is acknowledged when it has ended, so that a crash does not lose it. No results are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from benchmarks.peers import tally

_COMMAND = [sys.executable, "-m", "celery", "--app", "benchmarks.peers.of_celery", "worker", "--loglevel", "ERROR"]
_ALONE = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
WORKERS = {
    "2 processes": [*_COMMAND, "--pool", "prefork", "--concurrency", "2", *_ALONE],
    "8 threads": [*_COMMAND, "--pool", "threads", "--concurrency", "8", *_ALONE],
}

app = Celery("noop", broker=os.environ["BROKER"])
app.conf.task_acks_late = True
app.conf.task_ignore_result = True
app.conf.worker_prefetch_multiplier = 64  # as its guide advises for many short jobs
app.conf.broker_pool_limit = 16  # one for each thread of a web server


@app.task(name="noop")
def noop() -> None:
    """Only count."""
    tally.count()


@app.task(name="job")
def job(submission: Any) -> None:
    """Stand for the job that a web server enqueues. It never runs."""


def submit(submission: Any) -> str:
    """Enqueue a submission and return its id."""
    return str(job.delay(submission).id)


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Yield a function that enqueues a job."""
    yield noop.delay

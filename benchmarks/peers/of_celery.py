"""Celery through Redis, each job acknowledged when it has ended, so that no crash loses it; results are not kept."""

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
    """Do nothing but count."""
    tally.count()


@app.task(name="job")
def job(submission: Any) -> None:
    """Stand for what a web server enqueues; is not run here."""


def submit(submission: Any) -> str:
    """Enqueue what a web server was sent, and return its id."""
    return str(job.delay(submission).id)


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Give out what enqueues a job."""
    yield noop.delay

"""DBOS on PostgreSQL: a queue of durable workflows, fetched many at a time and run in eight threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbos import DBOS, DBOSConfig

from benchmarks.peers import tally

WORKERS = {"8 threads": [sys.executable, "-m", "benchmarks.peers.of_dbos"]}
QUEUE = "noop"

_CONFIG: DBOSConfig = {
    "name": "noop",
    "system_database_url": os.environ["BROKER"],
    "application_version": "1",  # otherwise, the worker would have another version than the producer
    "log_level": "ERROR",
    "run_admin_server": False,
    "max_executor_threads": 8,
}
DBOS(config=_CONFIG)


@DBOS.workflow(name="noop")
def noop() -> None:
    """Only count."""
    tally.count()


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Make the tables and the queue; yield a function that enqueues a job."""
    DBOS.listen_queues([])
    DBOS.launch()
    queue = DBOS.register_queue(QUEUE, polling_interval_sec=0.01)
    yield lambda: queue.enqueue(noop)
    DBOS.destroy()


if __name__ == "__main__":
    DBOS.launch()
    tally.count(0)
    threading.Event().wait()

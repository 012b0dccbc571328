"""Procrastinate on PostgreSQL: one or two workers, each with eight coroutines at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from procrastinate import App, PsycopgConnector

from benchmarks.peers import tally, twice

_COMMAND = [sys.executable, "-m", "procrastinate", "--app", "benchmarks.peers.of_procrastinate.app", "worker"]
_WORKER = [*_COMMAND, "--concurrency", "8"]
WORKERS = {"8 at once": _WORKER, "2 processes": twice(_WORKER)}

app = App(connector=PsycopgConnector(conninfo=os.environ["BROKER"]))


@app.task(name="noop")
async def noop() -> None:
    """Only count."""
    tally.count()


@contextmanager
def producer() -> Iterator[Callable[[], object]]:
    """Make the tables; yield a function that enqueues a job."""
    with app.open():
        app.schema_manager.apply_schema()
        yield noop.defer

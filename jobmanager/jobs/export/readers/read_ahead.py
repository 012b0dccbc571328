"""Run a reader's queries in a thread, and read the next rows of an export while the previous ones are written.

For databases that run in their own process, which would otherwise be idle meanwhile. The job's thread waits in short
steps, so that it obeys a halt even while a statement runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import Reader, ReaderClosed

#: Step in which the job's thread waits for the database.
_POLL_SECONDS = 0.05

T = TypeVar("T")


class Cancellable(Reader, Protocol):
    """A reader whose running statement another thread can cancel."""

    def cancel(self) -> None:
        """Cancel the statement that another thread waits for. It raises DatasetAway, and so does each later one."""


class ReadAhead:
    """A reader that reads the next rows in advance; see Reader."""

    def __init__(self, reader: Cancellable) -> None:
        self._reader = reader
        #: called repeatedly while waiting for the database; may raise, or close this reader
        self.on_wait: Callable[[], None] | None = None
        self._announced: tuple[Any, ...] = ()  # the arguments of the read whose result is self._found
        self._found: Future[tuple[pa.Table, Place | None]] | None = None
        # Set while no call runs; until then, no other thread may use the reader. Not Thread.join: after a force
        # interrupts a join, Python 3.11 considers the thread ended (bpo-45274).
        self._has_ended = threading.Event()
        self._has_ended.set()
        self._is_closed = False

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column. Does not ask the database."""
        return self._reader.columns()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        return self._reader.schema(chosen)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count a step at a time; see Reader."""
        return self._call(self._reader.count, after, begin, end, limit)

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        return self._call(self._reader.total, begin, end)

    def check(self) -> None:
        """Raise Fatal if the dataset cannot be exported exactly; see Reader."""
        self._call(self._reader.check)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return warnings about a slow export; see Reader."""
        return self._call(self._reader.warnings, begin, end)

    def identity(self) -> dict[str, str]:
        """Return the properties that affect how values read or compare; see Reader."""
        return self._call(self._reader.identity)

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Start reading these rows in the thread. Waits first until a call under way has ended."""
        self._wait()
        self._announced = columns, after, begin, end, limit, max_bytes
        self._found = self._start_call(self._reader.read, *self._announced)

    def is_ready(self, seconds: float) -> bool:
        """Wait for the call under way. Return False if it still runs after *seconds*."""
        return self._has_ended.wait(seconds)

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows; see Reader."""
        wanted = columns, after, begin, end, limit, max_bytes
        found, self._found = self._found, None
        if found is None or self._announced != wanted:
            return self._call(self._reader.read, *wanted)
        self._wait()
        return found.result()

    def close(self) -> None:
        """Cancel the call under way, wait until it has ended, and close the connection."""
        self._is_closed = True
        while not self.is_ready(0):
            # Repeatedly: between two statements there is nothing to cancel.
            self._reader.cancel()
            self.is_ready(_POLL_SECONDS)
        self._reader.close()

    def _call(self, method: Callable[..., T], *args: Any) -> T:
        """Call *method* in the thread and return its result. Blocks.

        Raises the exceptions of *method* and of on_wait, and ReaderClosed.
        """
        self._wait()
        found = self._start_call(method, *args)
        self._wait()
        return found.result()

    def _start_call(self, method: Callable[..., T], *args: Any) -> Future[T]:
        found: Future[T] = Future()
        name = f"{threading.current_thread().name}-reads"
        has_ended = self._has_ended = threading.Event()
        threading.Thread(target=_run_call, args=(found, has_ended, method, args), name=name, daemon=True).start()
        return found

    def _wait(self) -> None:
        """Wait for the thread in short steps: a force can interrupt the job's thread only between two of them."""
        while not self.is_ready(_POLL_SECONDS):
            if self.on_wait is not None:
                self.on_wait()
            if self._is_closed:
                raise ReaderClosed


def _run_call(found: Future[T], has_ended: threading.Event, method: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        found.set_result(method(*args))
    except BaseException as error:
        found.set_exception(error)
    finally:
        has_ended.set()

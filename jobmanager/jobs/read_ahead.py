"""Has a thread ask a database, and read the next rows of an export while those before them are written.

For a database that is a process of its own, which would have nothing to do meanwhile. The job's thread waits in steps:
it obeys a halt even while a statement runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from jobmanager.jobs.chunks import MAX_BYTES
from jobmanager.jobs.datasets import Reader, ReaderClosed
from jobmanager.jobs.places import Place

#: How often a wait for the database may be interrupted.
_POLL_SECONDS = 0.05

T = TypeVar("T")


class Cancellable(Reader, Protocol):
    """A reader whose statement another thread may end."""

    def cancel(self) -> None:
        """Cancel the statement that another thread waits for. It raises DatasetAway, as each later one does."""


class ReadAhead:
    """A reader that is one read ahead; see Reader."""

    def __init__(self, reader: Cancellable) -> None:
        self._reader = reader
        #: called now and then while the database is waited for; may raise, or close this reader
        self.on_wait: Callable[[], None] | None = None
        self._asked: tuple[Any, ...] = ()  # for what self._found is being read
        self._found: Future[tuple[pa.Table, Place | None]] | None = None
        # Until the question under way has ended, nobody else uses the reader. Not Thread.join: where force interrupts
        # that, Python 3.11 takes the thread for ended (bpo-45274).
        self._has_ended = threading.Event()
        self._has_ended.set()
        self._is_closed = False

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column, which are known since it was opened."""
        return self._reader.columns()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        return self._reader.schema(chosen)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count a step at a time; see Reader."""
        return self._answer(self._reader.count, after, begin, end, limit)

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        return self._answer(self._reader.total, begin, end)

    def check(self) -> None:
        """Raise Fatal if rows could be lost; see Reader."""
        self._answer(self._reader.check)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return what an operator should know; see Reader."""
        return self._answer(self._reader.warnings, begin, end)

    def identity(self) -> dict[str, str]:
        """Return what changes how values read or compare; see Reader."""
        return self._answer(self._reader.identity)

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Begin to read them."""
        self._wait()
        self._asked = columns, after, begin, end, limit, max_bytes
        self._found = self._ask(self._reader.read, *self._asked)

    def is_ready(self, seconds: float) -> bool:
        """Wait that long for the database; return False if a statement still runs."""
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
        asked = columns, after, begin, end, limit, max_bytes
        found, self._found = self._found, None
        if found is None or self._asked != asked:
            return self._answer(self._reader.read, *asked)
        self._wait()
        return found.result()

    def close(self) -> None:
        """Close the connection; a statement that runs is cancelled."""
        self._is_closed = True
        while not self.is_ready(0):
            # Again and again: between two statements there is nothing to cancel.
            self._reader.cancel()
            self.is_ready(_POLL_SECONDS)
        self._reader.close()

    def _answer(self, ask: Callable[..., T], *args: Any) -> T:
        """Return what the thread is told; raises ReaderClosed, and what on_wait raises."""
        self._wait()
        found = self._ask(ask, *args)
        self._wait()
        return found.result()

    def _ask(self, ask: Callable[..., T], *args: Any) -> Future[T]:
        found: Future[T] = Future()
        name = f"{threading.current_thread().name}-reads"
        has_ended = self._has_ended = threading.Event()
        threading.Thread(target=_tell, args=(found, has_ended, ask, args), name=name, daemon=True).start()
        return found

    def _wait(self) -> None:
        """Wait for the thread, in steps: force interrupts the job's thread between two of them."""
        while not self.is_ready(_POLL_SECONDS):
            if self.on_wait is not None:
                self.on_wait()
            if self._is_closed:
                raise ReaderClosed


def _tell(found: Future[T], has_ended: threading.Event, ask: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        found.set_result(ask(*args))
    except BaseException as error:
        found.set_exception(error)
    finally:
        has_ended.set()

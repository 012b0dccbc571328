"""Reads the next rows of an export in another thread while those before them are written.

For a database that is a process of its own, which would have nothing to do meanwhile.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from jobmanager.jobs.chunks import MAX_BYTES
from jobmanager.jobs.datasets import Reader
from jobmanager.jobs.places import Place

#: How often a wait for rows may be interrupted.
_POLL_SECONDS = 0.1


class Cancellable(Reader, Protocol):
    """A reader whose read another thread may end."""

    def cancel(self) -> None:
        """Cancel the read that another thread waits for. It raises DatasetAway, as each later read does."""


class ReadAhead:
    """A reader that is one read ahead; see Reader."""

    def __init__(self, reader: Cancellable) -> None:
        self._reader = reader
        self._asked: tuple[Any, ...] = ()  # for what self._found is being read
        self._found: Future[tuple[pa.Table, Place | None]] | None = None
        self._thread: threading.Thread | None = None  # until it has ended, nobody else uses the reader

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        self._join()
        return self._reader.columns()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        self._join()
        return self._reader.schema(chosen)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count a step at a time; see Reader."""
        self._join()
        return self._reader.count(after, begin, end, limit)

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        self._join()
        return self._reader.total(begin, end)

    def check(self) -> None:
        """Raise Fatal if rows could be lost; see Reader."""
        self._join()
        self._reader.check()

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return what an operator should know; see Reader."""
        self._join()
        return self._reader.warnings(begin, end)

    def identity(self) -> dict[str, str]:
        """Return what changes how values read or compare; see Reader."""
        self._join()
        return self._reader.identity()

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
        self._join()
        self._asked, self._found = (columns, after, begin, end, limit, max_bytes), Future()
        name = f"{threading.current_thread().name}-reads"
        self._thread = threading.Thread(target=self._read, args=(self._asked, self._found), name=name, daemon=True)
        self._thread.start()

    def is_ready(self, seconds: float) -> bool:
        """Wait that long for the expected rows; return False if they are still being read."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

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
        self._join()
        found, self._found = self._found, None
        if found is not None and self._asked == (columns, after, begin, end, limit, max_bytes):
            return found.result()
        return self._reader.read(columns, after, begin, end, limit, max_bytes)

    def close(self) -> None:
        """Close the connection; a read that is under way is cancelled."""
        while not self.is_ready(0):
            # Again and again: between two statements there is nothing to cancel.
            self._reader.cancel()
            self.is_ready(_POLL_SECONDS)
        self._thread = None
        self._reader.close()

    def _read(self, asked: tuple[Any, ...], found: Future[tuple[pa.Table, Place | None]]) -> None:
        try:
            found.set_result(self._reader.read(*asked))
        except BaseException as error:
            found.set_exception(error)

    def _join(self) -> None:
        """Wait for the read that is under way, in steps: force interrupts a thread between two of them."""
        while not self.is_ready(_POLL_SECONDS):
            pass
        self._thread = None

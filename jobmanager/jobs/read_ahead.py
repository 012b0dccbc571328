"""Reads the next rows of an export in another thread while those before them are written.

For a database that is a process of its own, which would have nothing to do meanwhile.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import datetime
from typing import Any

import pyarrow as pa

from jobmanager.jobs.datasets import Reader
from jobmanager.jobs.places import Place


class ReadAhead:
    """A reader that is one read ahead; see Reader."""

    def __init__(self, reader: Reader) -> None:
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

    def check(self) -> None:
        """Check the dataset; see Reader."""
        self._join()
        self._reader.check()

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return what makes it slow; see Reader."""
        self._join()
        return self._reader.warnings(begin, end)

    def identity(self) -> dict[str, str]:
        """Return what changes how values read; see Reader."""
        self._join()
        return self._reader.identity()

    def total(self, begin: datetime, end: datetime) -> int:
        """Count the rows at once; see Reader."""
        self._join()
        return self._reader.total(begin, end)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count a step at a time; see Reader."""
        self._join()
        return self._reader.count(after, begin, end, limit)

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        """Begin to read them."""
        self._join()
        self._asked, self._found = (columns, after, begin, end, limit, max_bytes), Future()
        name = f"{threading.current_thread().name}-reads"
        self._thread = threading.Thread(target=self._read, args=(self._asked, self._found), name=name, daemon=True)
        self._thread.start()

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows; see Reader."""
        self._join()
        found, self._found = self._found, None
        if found is not None and self._asked == (columns, after, begin, end, limit, max_bytes):
            return found.result()
        return self._reader.read(columns, after, begin, end, limit, max_bytes)

    def close(self) -> None:
        """Close the connection, once a read that is under way has ended."""
        self._join()
        self._reader.close()

    def _read(self, asked: tuple[Any, ...], found: Future[tuple[pa.Table, Place | None]]) -> None:
        try:
            found.set_result(self._reader.read(*asked))
        except BaseException as error:
            found.set_exception(error)

    def _join(self) -> None:
        """Wait for the read that is under way: for as long as a caller who reads itself would have to."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

"""Open a reader and run its queries in a thread, and read the next rows while the previous rows are written.

The job's thread waits in short steps, so that it obeys a halt even while a connection opens or a statement runs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import Reader, ReaderClosed
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.thread_call import STEP_SECONDS, ThreadCall

#: How long `close` waits for the call under way. A server that does not answer must not delay a halt.
_CLOSE_SECONDS = 0.5

T = TypeVar("T")


class ReadAhead:
    """A reader that is opened when it is first used, and reads the next rows in advance; see Reader.

    Each call raises ReaderClosed if the reader was closed before or meanwhile.
    """

    def __init__(self, open_reader: Callable[[], Reader], cancellation: Cancellation) -> None:
        """*open_reader*: called in a thread. *cancellation*: cancels the statements of the opened reader."""
        self._open_reader = open_reader
        self._cancellation = cancellation
        #: called repeatedly while waiting for the database; may raise, or close this reader
        self.on_wait: Callable[[], None] | None = None
        self._reader: Reader | None = None  # None: not opened yet
        # The arguments of a read that was started in advance, and the read. One value: a start may fail in between.
        self._expected: tuple[tuple[Any, ...], ThreadCall[tuple[pa.Table, Place | None]]] | None = None
        # The last call. Until it has ended, no other thread may use the reader.
        self._last: ThreadCall[Any] | None = None
        self._is_closed = False
        self._closing: ThreadCall[None] | None = None

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column. Queries the database only to open the reader."""
        return self._opened().columns()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        return self._opened().schema(chosen)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the next rows, about *limit* of them; see Reader."""
        return self._call(self._opened().count, after, begin, end, limit)

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        return self._call(self._opened().total, begin, end)

    def check(self) -> None:
        """Raise Fatal if the dataset cannot be exported exactly; see Reader."""
        self._call(self._opened().check)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return warnings about a slow export; see Reader."""
        return self._call(self._opened().warnings, begin, end)

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order; see Reader."""
        return self._call(self._opened().identity)

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Start reading these rows in a thread. Does not wait. Does nothing if another call is under way."""
        if self._is_closed or self._reader is None or not self.is_ready(0):
            return
        wanted = columns, after, begin, end, limit, max_bytes
        self._expected = wanted, self._start_call(self._reader.read, *wanted)

    def is_ready(self, seconds: float) -> bool:
        """Wait for the call under way. Return False if the call still runs after *seconds*."""
        return self._last is None or self._last.has_ended(seconds)

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
        reader, expected, self._expected = self._opened(), self._expected, None
        if expected is None or expected[0] != wanted:
            return self._call(reader.read, *wanted)
        return expected[1].result(self._obey)

    def close(self) -> None:
        """Cancel the call under way, and close the connection as soon as that call has ended.

        Blocks for half a second at most. If the call has not ended then, a thread waits for it and closes the
        connection. If no thread can be started, blocks until the call has ended. Can be called again if a force
        interrupted it.
        """
        self._is_closed = True
        if self._closing is not None and not self._closing.cancel():
            return
        self._closing = closing = ThreadCall(self._cancel_and_close, name="closes")
        try:
            closing.start()
        except RuntimeError:
            self._cancel_and_close()
            return
        if closing.has_ended(_CLOSE_SECONDS):
            closing.result(None)

    def _cancel_and_close(self) -> None:
        if self._last is not None:
            self._last.cancel()  # a call that was not started would never end
        while not self.is_ready(0):
            # Repeated, because a request between two statements finds nothing to cancel.
            self._cancellation.request()
            self.is_ready(STEP_SECONDS)
        if self._reader is not None:
            self._reader.close()

    def _opened(self) -> Reader:
        """Return the reader; open it if it is not open. May block. Raises DatasetAway, Fatal and ReaderClosed."""
        self._raise_if_closed()
        if self._reader is None:
            self._call(self._open)
        assert self._reader is not None
        return self._reader

    def _open(self) -> None:
        # Set by the thread that opens it: if this reader is closed meanwhile, `_cancel_and_close` finds the connection.
        self._reader = self._open_reader()

    def _call(self, method: Callable[..., T], *args: Any) -> T:
        """Call *method* in a thread and return its result. Blocks.

        Raises the exceptions of *method* and of on_wait, and ReaderClosed.
        """
        while not self.is_ready(STEP_SECONDS):
            self._obey()
        return self._start_call(method, *args).result(self._obey)

    def _start_call(self, method: Callable[..., T], *args: Any) -> ThreadCall[T]:
        # Stored before it is started: a force in between must not leave a running call that `close` does not know.
        self._last = call = ThreadCall(partial(method, *args), name="reads")
        return call.start()

    def _obey(self) -> None:
        if self.on_wait is not None:
            self.on_wait()
        self._raise_if_closed()

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise ReaderClosed

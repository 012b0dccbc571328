"""Group commit: many threads' writes share one transaction, and so one fsync.

The first thread that comes leads: it commits for all that wait by then, and hands the lead to one of those that came
meanwhile. Compared to a writer thread this saves a handover per write.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from jobmanager.errors import StoreUnavailable

T = TypeVar("T")
Write = Callable[[Connection], Any]


class _Entry:
    """One write that waits for its commit."""

    def __init__(self, write: Write) -> None:
        self.write = write
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = False
        self.turn = threading.Event()  # set when it is done, or when its thread has to lead


class GroupCommit:
    """Runs writes of any thread, each atomic and durable when `run` returns."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._begin = begin  # opens a write transaction; leaving it commits
        self._lock = threading.Lock()  # guards _waiting and _leader; never held during a transaction
        self._waiting: deque[_Entry] = deque()
        self._leader: _Entry | None = None

    def run(self, write: Callable[[Connection], T]) -> T:
        """Return what *write* returns, once it is committed.

        Blocks for the commit. Raises what *write* raises, then nothing of it is kept; StoreUnavailable where the
        database failed.
        """
        entry = _Entry(write)
        with self._lock:
            self._waiting.append(entry)
            leads = self._leader is None
            if leads:
                self._leader = entry
        if not leads:
            self._wait(entry)
        if not entry.is_done:
            self._lead()
        if entry.error is not None:
            raise entry.error
        result: T = entry.result
        return result

    def _wait(self, entry: _Entry) -> None:
        """Wait until the leader, who always hands over, has written the entry or made it the next leader's."""
        try:
            entry.turn.wait()
        except BaseException:
            # A signal's handler has raised, as for Ctrl-C: a thread that is gone must not be waited for to lead.
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                leads = self._leader is entry
            if leads:
                self._hand_over()
            raise

    def _lead(self) -> None:
        with self._lock:
            batch = list(self._waiting)
            self._waiting.clear()
        try:
            self._commit(batch)
        finally:
            for entry in batch:
                entry.is_done = True
                entry.turn.set()
            self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            self._leader = self._waiting[0] if self._waiting else None
            successor = self._leader
        if successor is not None:
            successor.turn.set()

    def _commit(self, batch: list[_Entry]) -> None:
        """Commit the batch as one; where that fails, each write by itself, so that one cannot spoil the others'."""
        try:
            with self._begin() as connection:
                for entry in batch:
                    entry.result = entry.write(connection)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].error = translate(error)
                return
            for entry in batch:
                self._commit([entry])


def translate(error: BaseException) -> BaseException:
    """Return our error for a failure of the database, without its text, which may show paths and values.

    A value that cannot be kept is no failure of the database: a TypeError or ValueError, for trying again cannot help.
    """
    if isinstance(error, StatementError) and isinstance(error.orig, (TypeError, ValueError, OverflowError)):
        return error.orig
    if not isinstance(error, DBAPIError):
        return error
    ours: Exception
    if isinstance(error, (DataError, IntegrityError)):
        ours = ValueError("The store cannot keep what it was given.")
    else:
        reason = "its volume is full" if "full" in str(error.orig) else "it does not answer"
        ours = StoreUnavailable(f"The store cannot be written: {reason}. Nothing was changed; try again later.")
    ours.__cause__ = error
    return ours

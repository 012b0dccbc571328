"""Group commit: many threads' writes share one transaction, and so one fsync.

The first thread that comes leads: it writes for all that wait, and for those that come while it does, commits, and
hands the lead to one of those that came meanwhile. Compared to a writer thread this saves a handover per write.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from jobmanager.errors import Interrupt, StoreUnavailable

T = TypeVar("T")
Item = TypeVar("Item")
#: Writes several things that are of a kind, and returns what each came to, in their order.
WriteAll = Callable[[Connection, list[Any]], list[Any]]

_LARGEST_BATCH = 64
#: How long others are waited for who have the turn at writing, as a process that is frozen in the middle of it may.
PATIENCE_SECONDS = 30.0
HELD_UP = f"another process has held up everyone who writes for {PATIENCE_SECONDS:g} seconds"
#: How long those are waited for that are about to come: less than a commit takes.
_GATHER_SECONDS = 0.0003


class _Entry:
    """Something to be written that waits for its commit."""

    def __init__(self, write_all: WriteAll, item: Any) -> None:
        self.write_all = write_all
        self.item = item
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_kept = False  # it is committed
        self.is_done = False  # its thread may go on
        self.turn = threading.Lock()  # let go of when it is done, or when its thread has to lead
        self.turn.acquire()


class GroupCommit:
    """Runs writes of any thread, each atomic and durable when `run` returns."""

    def __init__(
        self, begin: Callable[[], AbstractContextManager[Connection]], *, largest: int = _LARGEST_BATCH
    ) -> None:
        """*largest*: with so many writes, a commit waits for no more of those that come while they are written."""
        self._begin = begin  # opens a write transaction; leaving it commits
        self._largest = largest
        self._last = 0  # writes of the last commit
        self._asked_at: float | None = None  # when the leader asked for the turn that it does not have yet, monotonic
        self._waited = 0.0  # seconds that its transaction had to wait before it began
        self._lock = threading.Lock()  # guards _waiting and _leader; never held during a transaction
        self._waiting: deque[_Entry] = deque()
        self._leader: _Entry | None = None

    def run(self, write: Callable[[Connection], T]) -> T:
        """Return what *write* returns, once it is committed.

        Blocks for the commit. Raises what *write* raises, then nothing of it is kept; StoreUnavailable where the
        database failed, or others had the turn at writing for too long. The thread that leads waits for that all the
        same: it cannot take back that it asked for the turn.
        """
        result: T = self.run_together(_write_each, write)
        return result

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Return what *write_all* returns for *item*, once it is committed: like `run`.

        It is called with all items that wait for it; where it raises, once more with each by itself.
        """
        entry = _Entry(write_all, item)
        with self._lock:
            if self._is_held_up():
                raise _held_up()
            self._waiting.append(entry)
            leads = self._leader is None
            if leads:
                self._leader = entry
        try:
            if not leads:
                self._wait(entry)
            if not entry.is_done:
                self._lead(entry)
        except BaseException:
            # A signal's handler has raised, as for Ctrl-C: a thread that is gone must not be waited for to lead.
            self._leave(entry)
            raise
        if entry.error is not None:
            raise entry.error
        result: T = entry.result
        return result

    def _wait(self, entry: _Entry) -> None:
        """Wait until the leader, who always hands over, has written the entry, or has its thread lead."""
        while not entry.turn.acquire(timeout=PATIENCE_SECONDS / 30):
            with self._lock:
                # Else it is being written, or its thread leads by now.
                if self._is_held_up() and entry in self._waiting and self._leader is not entry:
                    self._waiting.remove(entry)
                    raise _held_up()

    def _is_held_up(self) -> bool:
        return self._asked_at is not None and time.monotonic() - self._asked_at > PATIENCE_SECONDS

    def _leave(self, entry: _Entry) -> None:
        """Take an entry away that nobody waits for any more, unless it is being written."""
        with self._lock:
            if entry in self._waiting:
                self._waiting.remove(entry)
            leads = self._leader is entry
        if leads:
            self._hand_over()

    def _lead(self, entry: _Entry) -> None:
        self._gather()
        with self._lock:
            self._waiting.remove(entry)
        batch = [entry]  # the others, who need not wait for the turn as long as this one has to, once it is there
        try:
            self._commit(batch)
        finally:
            self._last = len(batch)
            for one in batch:
                if not one.is_kept and one.error is None:  # this thread was taken away, as by Ctrl-C
                    one.error = StoreUnavailable("The store was left in the middle of a write. Look, then try again.")
                one.is_done = True
                if one is not entry:
                    one.turn.release()
            self._hand_over()

    def _gather(self) -> None:
        """Let as many come as did last time, if they do at once: those that were written by one commit come together.

        They would take Python's global lock at every statement, in turns with the leader, until all of them wait.
        """
        if self._waited >= _GATHER_SECONDS:  # for another process, and will again: they can come meanwhile
            return
        deadline = time.monotonic() + _GATHER_SECONDS
        while len(self._waiting) < self._last and time.monotonic() < deadline:
            time.sleep(0)

    def _take(self) -> list[_Entry]:
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
        return taken

    def _hand_over(self) -> None:
        with self._lock:
            self._leader = self._waiting[0] if self._waiting else None
            successor = self._leader
        if successor is not None:
            successor.turn.release()

    def _commit(self, batch: list[_Entry]) -> None:
        """Commit as one the batch and what comes until that is written, which is added to it.

        Where that fails, each write by itself, so that one cannot spoil the others'.
        """
        written, has_begun, is_writing = 0, False, False
        self._asked_at = asked_at = time.monotonic()
        try:
            with self._begin() as connection:
                has_begun = is_writing = True
                self._asked_at, self._waited = None, time.monotonic() - asked_at
                batch += self._take()
                while written < len(batch):
                    _write(connection, batch[written:])
                    written = len(batch)
                    if written < self._largest:
                        batch += self._take()
                is_writing = False
            _keep(batch)
        except BaseException as error:
            if not is_writing and _is_signal(error):
                raise
            if not has_begun:
                batch += self._take()
            if not has_begun or len(batch) == 1:
                _refuse(batch, error)
                return
            self._commit_each(batch)
            if _is_signal(error) and not any(type(entry.error) is type(error) for entry in batch):
                raise  # none of the writes raised it
        finally:
            self._asked_at = None

    def _commit_each(self, batch: list[_Entry]) -> None:
        for place, entry in enumerate(batch):
            has_begun, is_writing = False, False
            self._asked_at = time.monotonic()
            try:
                with self._begin() as connection:
                    has_begun, is_writing, self._asked_at = True, True, None
                    _write(connection, [entry])
                    is_writing = False
                _keep([entry])
            except BaseException as error:
                if not is_writing and _is_signal(error):
                    raise
                if not has_begun:  # nor would the others: they need not wait for that, one after the other
                    _refuse(batch[place:], error)
                    return
                _refuse([entry], error)


def _is_signal(error: BaseException) -> bool:
    """Tell whether a signal's handler may have raised it, and the commit under way have been done nevertheless."""
    return not isinstance(error, (Exception, Interrupt))


def _keep(entries: list[_Entry]) -> None:
    for entry in entries:
        entry.is_kept = True


def _refuse(entries: list[_Entry], error: BaseException) -> None:
    for entry in entries:
        entry.error = translate(error)


def _write(connection: Connection, entries: list[_Entry]) -> None:
    """Write them, those of a kind by one call."""
    of_a_kind: dict[WriteAll, list[_Entry]] = {}
    for entry in entries:
        of_a_kind.setdefault(entry.write_all, []).append(entry)
    for write_all, alike in of_a_kind.items():
        results = write_all(connection, [entry.item for entry in alike])
        for entry, result in zip(alike, results, strict=True):
            entry.result = result


def _write_each(connection: Connection, writes: list[Callable[[Connection], T]]) -> list[T]:
    return [write(connection) for write in writes]


def _held_up() -> StoreUnavailable:
    return StoreUnavailable(f"The store cannot be written: {HELD_UP}. Nothing was changed; try again later.")


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

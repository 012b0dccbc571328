"""The write transactions of one process on a SQLite file, one at a time over all processes.

Only this module takes the write lock. It knows nothing about what is written.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

from jobmanager.errors import StoreUnavailable
from jobmanager.store import job_counts
from jobmanager.store.fast_statements import as_sqlalchemy
from jobmanager.store.group_commit import HELD_UP, PATIENCE_SECONDS
from jobmanager.store.sqlite.watch import announce_commit

#: How often a starting process tries to get the write lock, and after how long it logs that it waits.
_TRY_AGAIN_SECONDS = 0.02
WORTH_TELLING_SECONDS = 2.0
#: How long `close` waits for a thread that writes or waits for the write lock.
FAREWELL_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Writer:
    """The connection that writes, and the write lock: a file lock of the kernel, released if the process dies.

    Without that lock, processes would starve each other: SQLite's busy handler sleeps and retries, so that the process
    that commits most often wins.
    """

    def __init__(self, engine: Engine, lock_path: str, before_commit: Callable[[Connection], None]) -> None:
        """Create the lock's file if it is missing; raises OSError. *before_commit* runs before `begin` commits."""
        self._engine = engine
        self._before_commit = before_commit
        #: opened to announce commits, too; see watch.py
        self.lock_path = lock_path
        self._lock = threading.Lock()  # held while writing or waiting for the write lock; guards all below
        self._file = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._connection: Connection | None = None
        self._is_announced = False  # the commit of the current transaction wakes other processes
        self._is_closed = False  # set without the lock, which a thread may hold for long

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a write transaction; commits on leaving, rolls back on an exception. Blocks until it has the write lock.

        Uses the driver for BEGIN and COMMIT. With SQLAlchemy's transactions, an empty one takes 14.3 µs instead of
        8.6 µs, and a submission 10 % more CPU (measured). They also have more places where a signal can interrupt them.
        """
        with self._write_lock():
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(has_begun=True)
            connection = self._connection
            driver: Any = connection.connection.driver_connection
            self._is_announced, before = False, driver.total_changes
            try:
                self.send(driver, "BEGIN IMMEDIATE")
                yield connection
                self._before_commit(connection)
                self.send(driver, "COMMIT")
            except BaseException:
                self._roll_back(connection, driver)
                raise
            _close_transaction(connection)
            if self._is_announced and driver.total_changes > before:
                announce_commit(self.lock_path)

    @contextmanager
    def begin_alone(self) -> Iterator[Connection]:
        """Set WAL mode and open a transaction during which no other process can write; for changes of the schema.

        Blocks until it has the write lock. Raises StoreUnavailable after PATIENCE_SECONDS.
        """
        with self._starting_lock(), self._engine.connect().execution_options(is_writer=True) as connection:
            # Hold the write lock: otherwise, two processes that start on a new file would collide on this change.
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA journal_mode = WAL")
            with connection.begin():
                yield connection

    def announce(self) -> None:
        """Mark the current transaction: its commit will wake the processes that watch."""
        self._is_announced = True

    def send(self, driver: Any, words: str) -> None:
        """Run BEGIN or COMMIT; raises DBAPIError."""
        try:
            driver.execute(words)
        except sqlite3.Error as error:
            raise as_sqlalchemy(error, words, self._engine.dialect) from error

    def close(self) -> None:
        """Close the connection and the lock's file; may be called twice.

        If a thread is writing, waits up to a second. If the thread takes longer, it closes both when it is done.
        """
        self._is_closed = True
        if self._lock.acquire(timeout=FAREWELL_SECONDS):
            self._close_files()
            self._lock.release()

    def _close_files(self) -> None:
        """Close the connection and the lock's file. The caller holds the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _roll_back(self, connection: Connection, driver: Any) -> None:
        """Roll back. Discards a connection that cannot do so."""
        _close_transaction(connection)
        try:
            if not connection.invalidated:
                job_counts.forget(connection)
            driver.rollback()
        except sqlite3.Error:  # SQLAlchemy has closed it (as on Ctrl-C), or the file has become unreadable
            if not connection.invalidated:
                connection.invalidate()
        if connection.invalidated:
            connection.close()
            self._connection = None

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable("The store is closed.")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
                if self._is_closed:
                    self._close_files()

    @contextmanager
    def _starting_lock(self) -> Iterator[None]:
        """Hold the write lock for a starting process. Log a warning if it has to wait for long.

        Raises StoreUnavailable after PATIENCE_SECONDS.
        """
        with self._lock:
            began, is_told = time.monotonic(), False
            while not self._try_lock():
                waited = time.monotonic() - began
                if waited > PATIENCE_SECONDS:
                    raise StoreUnavailable(f"The store cannot be opened: {HELD_UP}.")
                if waited > WORTH_TELLING_SECONDS and not is_told:
                    _log.warning("Waiting to start: another process is writing to the store.")
                    is_told = True
                time.sleep(_TRY_AGAIN_SECONDS)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _close_transaction(connection: Connection) -> None:
    """Close the transaction object that SQLAlchemy has made if a write used SQLAlchemy."""
    if transaction := connection.get_transaction():
        transaction.close()

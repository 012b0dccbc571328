"""What is peculiar to SQLite: group commit, turns between processes, and a watch on the file."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from jobmanager.errors import ConfigError
from jobmanager.store.commits import GroupCommit

T = TypeVar("T")

_BUSY_SECONDS = 30
_BOOT = datetime(1970, 1, 1, tzinfo=UTC)


class Database:
    """The engine, transactions and clock of one process on a SQLite file.

    Processes take turns at writing by a lock of the kernel, which gives it back when its process dies. Without it they
    starve each other: SQLite's busy handler sleeps and tries again, so whoever commits often wins.
    """

    def __init__(self, url: str, json_serializer: Any, *, clock: Callable[[], datetime] | None) -> None:
        """Make the file's folder, open nothing else yet. Raises ConfigError if *url* names no file, OSError."""
        path = make_url(url).database
        if not path or path == ":memory:":
            raise ConfigError("JOBMANAGER_DATABASE_URL must name a file: every process has to see the same store.")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_engine(
            url,
            connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
            json_serializer=json_serializer,
            poolclass=QueuePool,
            pool_size=16,
            max_overflow=-1,
        )
        event.listen(self.engine, "connect", _set_up)
        event.listen(self.engine, "begin", _begin)
        #: the clock of everything that is recorded
        self.now = clock or _wall_clock
        #: the clock that leases are judged by
        self.lease_now = clock or _boot_clock
        self._writer: Connection | None = None
        self._lock = threading.Lock()  # held for a turn; guards _writer and _file
        self._file = os.open(f"{path}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._commits = GroupCommit(self._begin)

    def run(self, write: Callable[[Connection], T]) -> T:
        """Return what *write* returns, once it is committed, together with the writes of other threads; see commits."""
        return self._commits.run(write)

    @contextmanager
    def begin_alone(self) -> Iterator[Connection]:
        """Open a transaction that no other process has open at the same time, in a file that is in WAL mode."""
        with self._turn(), self.engine.connect().execution_options(is_writer=True) as connection:
            # Two processes that boot on a new file at once would collide on the change of journal mode.
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA journal_mode = WAL")
            with connection.begin():
                yield connection

    def take_turn(self, connection: Connection, what: str) -> None:
        """Do nothing: whoever writes has the only turn there is."""

    def announce(self, connection: Connection) -> None:
        """Do nothing: every commit is seen by those who watch."""

    def watch(self) -> Watch:
        """Return what tells one thread whether anything was committed."""
        return Watch(self.engine)

    def close(self) -> None:
        """Give back every connection and the lock's file; may be called twice."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
        self.engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Open a write transaction; commits on leaving, rolls back on an exception. Blocks for the turn."""
        with self._turn():
            if self._writer is None:
                self._writer = self.engine.connect().execution_options(is_writer=True)
            with self._writer.begin():
                yield self._writer

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def _wall_clock() -> datetime:
    return datetime.now(UTC)


def _boot_clock() -> datetime:
    """Return the time since the machine booted, as a time of 1970.

    All processes on the file are on one machine and share it; no step of the wall clock moves it.
    """
    return _BOOT + timedelta(seconds=time.monotonic())


def _set_up(connection: Any, _record: Any) -> None:
    # FULL: a commit survives a power cut. It is a property of the connection, unlike WAL, which the file remembers.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16384")


def _begin(connection: Connection) -> None:
    # A transaction that began by reading could not be upgraded while another writes: writers say so at once.
    mode = "IMMEDIATE" if connection.get_execution_options().get("is_writer") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


class Watch:
    """Tells whether anything was committed since it was asked last, in about a microsecond. For one thread."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._seen = -1

    def has_moved(self) -> bool:
        """Tell whether another connection, of any process, has committed since the last call."""
        cursor = self._connection.cursor()
        (version,) = cursor.execute("PRAGMA data_version").fetchone()
        cursor.close()
        moved, self._seen = version != self._seen, version
        return bool(moved)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

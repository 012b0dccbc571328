"""What is peculiar to SQLite: how a connection is set up, and how processes take turns at writing."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

from jobmanager.errors import ConfigError
from jobmanager.store import schema

_BUSY_SECONDS = 30


def connect(url: str, json_serializer: Any) -> Engine:
    """Return an engine on the file that *url* names, its folder made. Raises ConfigError if it names none."""
    path = make_url(url).database
    if not path or path == ":memory:":
        raise ConfigError("JOBMANAGER_DATABASE_URL must name a file: every process has to see the same store.")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
        json_serializer=json_serializer,
        pool_size=16,
        max_overflow=-1,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _record: Any) -> None:
    # FULL: a commit survives a power cut. It is a property of the connection, unlike WAL, which the file remembers.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16384")


def _begin(connection: Connection) -> None:
    # A transaction that began by reading could not be upgraded while another writes: writers say so at once.
    mode = "IMMEDIATE" if connection.get_execution_options().get("is_writer") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


class Turns:
    """A lock between processes, held around each write transaction.

    Without it processes starve each other: SQLite's busy handler sleeps and tries again, so whoever commits often wins.
    The kernel gives the lock back when its process dies.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer: Connection | None = None
        self._lock = threading.Lock()  # held for a turn; guards _writer; the process itself leads one group at a time
        self._file = os.open(f"{engine.url.database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a write transaction; commits on leaving, rolls back on an exception. Blocks for the turn."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                if self._writer is None:
                    self._writer = self._engine.connect().execution_options(is_writer=True)
                with self._writer.begin():
                    yield self._writer
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def create_tables(self) -> None:
        """Make the tables that are missing, in a file that is in WAL mode afterwards."""
        with self._lock:
            # Two processes that boot on a new file at once would collide on the change of journal mode.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                with self._engine.connect().execution_options(is_writer=True) as connection:
                    driver: Any = connection.connection.driver_connection
                    driver.execute("PRAGMA journal_mode = WAL")
                    with connection.begin():
                        schema.metadata.create_all(connection)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give back the connection and the lock's file; may be called twice."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


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

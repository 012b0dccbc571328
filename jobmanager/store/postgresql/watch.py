"""Notice commits that other processes announce on a PostgreSQL server, and hold the lock that marks this one as alive.

database.py sends the announcements.
"""

from __future__ import annotations

import select as polling
import time
from typing import Any

import psycopg
from sqlalchemy import Engine, func, select

#: The channel that announces every commit that may concern another process.
CHANNEL = "jobmanager"
#: How often to retry a lost listening connection, and to poll the store until it is back.
_RECONNECT_SECONDS = 0.5


def owner_lock(owner: str) -> Any:
    """Return the key of the advisory lock that a process holds while it is connected."""
    return func.hashtextextended(f"jobmanager owner {owner}", 0)


class Watch:
    """Reports whether anything was announced since the last call. For one thread.

    While its connection is lost, it reports True at every attempt to reconnect, so that the store is still polled.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self._engine = engine
        self._lock = select(func.pg_try_advisory_lock(owner_lock(owner))).compile(
            dialect=engine.dialect, compile_kwargs={"literal_binds": True}
        )
        self._connection: psycopg.Connection[Any] | None = None
        self._came = polling.poll()  # checks for notifications in a fraction of the time that the connection takes
        self._tried_at = float("-inf")

    def has_moved(self) -> bool:
        """Return True if anything may have been announced since the last call. Blocks only to reconnect."""
        if self._connection is None:
            return self._connect()
        if not self._came.poll(0):
            return False
        try:
            heard = list(self._connection.notifies(timeout=0))
        except psycopg.OperationalError:
            self.close()
            return True
        return bool(heard)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when a commit is announced; None without a connection."""
        return None if self._connection is None else self._connection.fileno()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._came = polling.poll()
            connection.close()

    def _connect(self) -> bool:
        """Try to listen, at most every _RECONNECT_SECONDS. Return True if it tried: commits may have been missed."""
        if time.monotonic() - self._tried_at < _RECONNECT_SECONDS:
            return False
        self._tried_at = time.monotonic()
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        try:
            connection = psycopg.connect(*arguments, **options, autocommit=True, connect_timeout=5)
            connection.execute(str(self._lock))  # see Database.is_alive; released with the connection
            connection.execute(f"LISTEN {CHANNEL}")
            self._came.register(connection.fileno(), polling.POLLIN)
            self._connection = connection
        except psycopg.OperationalError:
            return True
        return True

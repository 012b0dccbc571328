"""The clock of a PostgreSQL server: the same for all hosts, and read over the network only now and then.

Setting the clock of a host does not change this clock.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

#: How often to measure the offset to the database's clock.
_SYNC_SECONDS = 60.0
#: How many measurements to take. The quickest one is used: a measurement during which the process froze is far off.
_LOOKS = 3


class ServerClock:
    """The server's clock, computed from its offset to our monotonic clock. For any number of threads."""

    def __init__(self, reader: Engine) -> None:
        """*reader* is in autocommit mode. Does not connect."""
        self._reader = reader
        self._lock = threading.Lock()  # guards _offset and _synced_at; never held while asking the database
        self._offset: datetime | None = None  # the server's time at which our monotonic clock is zero
        self._synced_at = 0.0

    def now(self) -> datetime:
        """Return the server's time. Queries the server once a minute; raises DBAPIError if the first query fails."""
        with self._lock:
            offset, is_stale = self._offset, time.monotonic() - self._synced_at > _SYNC_SECONDS
        if offset is None or is_stale:
            offset = self._sync(offset)
        # Read the monotonic clock now: `_sync` may have taken long.
        return offset + timedelta(seconds=time.monotonic())

    def _sync(self, known: datetime | None) -> datetime:
        """Measure the offset to the database's clock. On failure, return *known*, or raise DBAPIError if it is None."""
        try:
            with self._reader.connect() as connection:
                _took, theirs, ours = min(_look_at_clock(connection) for _ in range(_LOOKS))
        except DBAPIError:
            if known is None:
                raise
            return known
        with self._lock:
            self._offset, self._synced_at = theirs - timedelta(seconds=ours), ours
            return self._offset


def _look_at_clock(connection: Connection) -> tuple[float, datetime, float]:
    """Query the server's clock.

    Returns how many seconds the query took, the server's time, and our monotonic time in the middle of the query.
    """
    began = time.monotonic()
    theirs: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    ended = time.monotonic()
    return ended - began, theirs, (began + ended) / 2

"""Enforce the limit of waiting jobs without counting them at every submission.

To count the jobs at every submission takes 32 % more CPU on PostgreSQL, and no more on SQLite. This was measured for a
submission from one of 16 threads. On PostgreSQL, submissions would also wait for those of other processes.

Reads the counts of job_counts.py and raises QueueFull; writes nothing.
"""

from __future__ import annotations

from sqlalchemy import Connection

from jobmanager.core.states import Status
from jobmanager.errors import QueueFull
from jobmanager.store import job_counts, statements
from jobmanager.store.database import Database

#: Margin below the limit, for submissions of other processes. Within this margin, each submission counts the waiting
#: jobs, and only one submission can do so at a time.
_UNSEEN = 1000


class QueueLimit:
    """Checks the number of waiting jobs of all processes, for the submissions of this one."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._waiting = limit, 0  # number of waiting jobs at the last count, and the last change at that time
        self._last_seq = 0  # number of the newest change that this process knows

    def may_be_exceeded(self, wanted: int) -> bool:
        """Return True if *wanted* more jobs may exceed the limit, so that the waiting jobs have to be counted."""
        # Each job that began to wait since the last count, in any process, has added a change. So there are at most as
        # many such jobs as new changes.
        waiting, counted_at = self._waiting
        return waiting + max(0, self._last_seq - counted_at) + wanted > self._limit - _UNSEEN

    def check_room_before(self, connection: Connection, wanted: int) -> None:
        """Raise QueueFull if *wanted* more jobs exceed the limit. Counts the waiting jobs only near the limit."""
        if self.may_be_exceeded(wanted):
            self._count_waiting(connection, wanted)

    def check_room_after(self, connection: Connection, seq: int) -> None:
        """Raise QueueFull if the limit is exceeded. *seq* is the number of the newest change of any process."""
        self._last_seq = seq
        if self.may_be_exceeded(0):
            self._count_waiting(connection, 0)

    def _count_waiting(self, connection: Connection, wanted: int) -> None:
        self._database.acquire_lock(connection, "submissions")
        ((counted,),) = self._database.execute(connection, job_counts.WAITING, {})
        waiting = int(counted) + job_counts.noted(connection, Status.SUBMITTED)
        if waiting + wanted > self._limit:
            raise QueueFull(self._limit)
        self._waiting = waiting, last_change(self._database, connection)


def last_change(database: Database, connection: Connection) -> int:
    """Return the number of the newest change that the transaction of *connection* sees."""
    ((seq,),) = database.execute(connection, statements.LAST_CHANGE, {})
    return int(seq)

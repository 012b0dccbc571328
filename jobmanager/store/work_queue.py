"""The queue of waiting jobs: look for pending work, and let delayed jobs in when they are due.

Claims nothing (see claims.py), and sets no status: a delayed job has the status `submitted` before it enters the queue.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from jobmanager.core.transitions import AT_ONCE, Values
from jobmanager.core.values import Outlook, Queue
from jobmanager.store import queue_queries, statements
from jobmanager.store.database import Database, run_announced
from jobmanager.store.owner import Owner
from jobmanager.store.reader import Reader

#: Most due jobs that one commit puts into the queue: other writers wait for that commit.
_QUEUED_AT_ONCE = 1000


class WorkQueue:
    """The waiting jobs of all processes. Raises StoreUnavailable."""

    def __init__(self, database: Database, reader: Reader, owner: Owner) -> None:
        self._database = database
        self._reader = reader
        self._owner = owner

    def look(self, types: Collection[str]) -> Outlook:
        """Return the pending work for a process that knows these types, by one query."""
        parameters = self.parameters()
        (found,) = self._reader.read_prepared(statements.look(tuple(types)), parameters)
        is_signalled, has_waiting, has_to_clean, put_off_at, to_clean_at = found
        has_due = put_off_at is not None and put_off_at <= parameters["now"]
        next_at = [at for at in (None if has_due else put_off_at, to_clean_at) if at is not None]
        return Outlook(
            is_signalled=is_signalled,
            has_waiting=has_waiting or has_due,
            has_due=has_due,
            has_to_clean=has_to_clean,
            next_due_at=min(next_at, default=None),
        )

    def queue_due(self) -> int:
        """Put delayed jobs that are due into the queue, at most 1000 of them; returns their number."""
        return run_announced(self._database, self.put_due)

    def state(self) -> Queue:
        """Return the state of the queue and of the slots, over all processes."""
        now = self._database.now()
        ((depth,),) = self._reader.read(queue_queries.DEPTH, now=now)
        queries = queue_queries.PUT_OFF_WAITED_LONGEST
        waited = [row.at for query in queries for row in self._reader.read(query, now=now)]
        waited += [row.at for row in self._reader.read(queue_queries.waited_longest(depth), at_once=AT_ONCE)]
        rows = self._reader.read(queue_queries.AT_WORK)
        return Queue(
            depth=depth,
            oldest_at=min((at for at in waited if at is not None), default=None),
            busy=sum(row.jobs for row in rows),
            checkpoints={row.type: row.oldest_at for row in rows if row.oldest_at is not None},
        )

    def put_due(self, connection: Connection) -> int:
        """Put delayed jobs that are due into the queue, like `queue_due`, in the transaction of *connection*."""
        parameters = {"now": self._database.now(), "limit": _QUEUED_AT_ONCE}
        return len(self._database.execute(connection, statements.QUEUE_DUE, parameters))

    def parameters(self) -> Values:
        """Return the parameters of the queries for pending work: the current times, and this process."""
        now, lease_now = self._database.now(), self._database.lease_now()
        return {"now": now, "lease_now": lease_now, "owner_is": self._owner.name}

"""Claim jobs for this process: waiting ones to run, and stopping ones without an owner to clean.

Safe with any number of processes: only one of them can claim a job. Does not start the jobs. lifecycle.py writes the
claim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, Select, and_, func, select

from jobmanager.core.states import ATTENDED, Action
from jobmanager.core.transitions import Move, Values
from jobmanager.core.values import JobRecord, Wanted
from jobmanager.store import statements
from jobmanager.store.database import Database, run_announced
from jobmanager.store.lifecycle import Lifecycle
from jobmanager.store.owner import Owner
from jobmanager.store.rows import JobRows
from jobmanager.store.schema import jobs
from jobmanager.store.work_queue import WorkQueue


class Claims:
    """Claims jobs. Raises StoreUnavailable."""

    def __init__(self, database: Database, rows: JobRows, lifecycle: Lifecycle, queue: WorkQueue, owner: Owner) -> None:
        self._database = database
        self._rows = rows
        self._lifecycle = lifecycle
        self._queue = queue
        self._owner = owner

    def claim(self, limit: int, *, types: Collection[str], max_running: dict[str, int]) -> list[JobRecord]:
        """Claim up to *limit* waiting jobs of the given types, most urgent first; they are running when this returns.

        *max_running* limits how many jobs of a type run at once, over all processes. Includes delayed jobs that are
        due.
        """
        wanted = Wanted(types=tuple(types), max_running=max_running)

        def write(connection: Connection) -> list[JobRecord]:
            self._queue.put_due(connection)
            return self.claim_waiting(connection, wanted, limit)

        return run_announced(self._database, write)

    def claim_to_clean(self, limit: int, *, types: Collection[str]) -> list[JobRecord]:
        """Claim up to *limit* unowned stopping jobs that are due, in order to clean them."""
        wanted = Wanted(types=tuple(types), max_running={})
        return run_announced(
            self._database, lambda connection: self._claim(connection, statements.to_clean, wanted, limit)
        )

    def claim_waiting(self, connection: Connection, wanted: Wanted, limit: int) -> list[JobRecord]:
        """Claim up to *limit* jobs of the queue in the transaction of *connection*, most urgent first."""
        return self._claim(connection, statements.waiting, wanted, limit)

    def _claim(
        self, connection: Connection, query: Callable[[tuple[str, ...]], Select[Any]], wanted: Wanted, limit: int
    ) -> list[JobRecord]:
        """Claim up to *limit* of the wanted jobs. *query* returns the query that finds jobs of some types."""
        if wanted.max_running:
            self._database.acquire_lock(connection, "bounded claim")
        full = _full_types(connection, wanted.max_running)
        found = query(tuple(name for name in wanted.types if name not in full))
        rows = self._database.execute(connection, found, self._queue.parameters() | {"limit": limit})
        owned: Values = {"owner": self._owner.name, "lease_expires_at": self._owner.lease_end()}
        moves: dict[str, Move] = {}
        for job in map(self._rows.job, rows):
            # Of a type with a limit, claim one job at a time: the next claim counts the running jobs again.
            key = job.type if job.type in wanted.max_running else job.id
            moves.setdefault(key, self._lifecycle.decide(job, Action.CLAIM, owned))
        return [applied.job for applied in self._lifecycle.move_all(connection, list(moves.values()))]


def _full_types(connection: Connection, max_running: dict[str, int]) -> list[str]:
    """Return the types that have reached their limit of running jobs."""
    if not max_running:
        return []
    at_work = and_(jobs.c.status.in_(ATTENDED), jobs.c.owner.is_not(None), jobs.c.type.in_(max_running))
    counts = connection.execute(select(jobs.c.type, func.count()).where(at_work).group_by(jobs.c.type))
    return [name for name, count in counts if count >= max_running[name]]

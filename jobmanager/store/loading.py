"""Load jobs FOR UPDATE: no other transaction changes them until the current one ends.

Only for write transactions; lookup.py reads outside of them.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, null, select

from jobmanager.core.values import JobRecord
from jobmanager.errors import LeaseLost, UnknownJob
from jobmanager.store import statements
from jobmanager.store.database import Database
from jobmanager.store.owner import Owner
from jobmanager.store.rows import JobRows
from jobmanager.store.schema import jobs

#: The order in which rows are locked (newest first, as in lists), so that bulk writers cannot deadlock.
LOCK_ORDER = (jobs.c.submitted_at.desc(), jobs.c.number.desc())
#: The columns of a job, with null in place of those that may be large.
_BRIEF = [null().label(each.name) if each.name in ("args", "cursor", "details", "result") else each for each in jobs.c]


class JobLoader:
    """Loads jobs in the transaction of a connection."""

    def __init__(self, database: Database, rows: JobRows, owner: Owner) -> None:
        self._database = database
        self._rows = rows
        self._owner = owner

    def load_locked(self, connection: Connection, job_id: str) -> JobRecord:
        """Load the job FOR UPDATE; raises UnknownJob."""
        found = self.load_each_locked(connection, [job_id])
        if not found:
            raise UnknownJob(job_id)
        return found[0]

    def load_each_locked(self, connection: Connection, job_ids: Collection[str]) -> list[JobRecord]:
        """Load the jobs FOR UPDATE. Missing ones are left out."""
        if len(job_ids) == 1:
            (job_id,) = job_ids
            rows = self._database.execute(connection, statements.JOB_LOCKED, {"id_is": job_id})
            return [self._rows.job(row) for row in rows]
        several = select(jobs).where(jobs.c.id.in_(job_ids)).order_by(*LOCK_ORDER).with_for_update()
        return [self._rows.job(tuple(row)) for row in connection.execute(several)]

    def load_each_briefly(self, connection: Connection, job_ids: Collection[str]) -> list[JobRecord]:
        """Load the jobs FOR UPDATE, without the large columns: requested actions do not need them."""
        several = select(*_BRIEF).where(jobs.c.id.in_(job_ids)).order_by(*LOCK_ORDER).with_for_update()
        return [self._rows.job(row) for row in connection.execute(several)]

    def load_owned(self, connection: Connection, job_id: str, attempt: int) -> JobRecord:
        """Load the job FOR UPDATE if this attempt of this process owns it; raises LeaseLost."""
        owned = {"id_is": job_id, "attempt_is": attempt, "owner_is": self._owner.name}
        rows = self._database.execute(connection, statements.JOB_OWNED, owned)
        if not rows:
            raise LeaseLost(job_id)
        return self._rows.job(rows[0])

"""Keep the leases of this process alive, release them, and take back the jobs of processes that died or stalled.

Decides by the lease clock, and by what the database knows about processes. A job that is taken back loses its owner,
so that its earlier attempt can write nothing more. lifecycle.py writes its new status.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, and_, select, update

from jobmanager.core.states import ATTENDED, Action, Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import Applied, JobRecord
from jobmanager.store import statements
from jobmanager.store.database import Database, run_announced
from jobmanager.store.lifecycle import Lifecycle
from jobmanager.store.loading import LOCK_ORDER, JobLoader
from jobmanager.store.owner import Owner, owner_name_prefix
from jobmanager.store.reader import Reader
from jobmanager.store.rows import JobRows
from jobmanager.store.schema import IS_HELD, jobs

_log = logging.getLogger(__name__)

#: The recorded reason if a job is taken from a stalled process, which gunicorn is about to kill.
_STOOD_STILL = "its process stalled"


class Leases:
    """Renews and ends the leases by which processes own jobs. Raises StoreUnavailable."""

    def __init__(
        self,
        database: Database,
        reader: Reader,
        rows: JobRows,
        loader: JobLoader,
        lifecycle: Lifecycle,
        owner: Owner,
        *,
        max_crashes: int,
    ) -> None:
        self._database = database
        self._reader = reader
        self._rows = rows
        self._loader = loader
        self._lifecycle = lifecycle
        self._owner = owner
        self._max_crashes = max_crashes

    def heartbeat(self, job_ids: Collection[str]) -> set[str]:
        """Renew the leases of the jobs that this process still holds. Return the ids of those that it has lost."""
        ids = list(job_ids)

        def write(connection: Connection) -> set[str]:
            held: set[str] = set()
            for begin in range(0, len(ids), 500):
                ours = and_(jobs.c.owner == self._owner.name, jobs.c.id.in_(ids[begin : begin + 500]))
                locked = select(jobs.c.number).where(ours).order_by(*LOCK_ORDER).with_for_update()
                numbers = connection.execute(locked).scalars().all()
                renew = update(jobs).where(jobs.c.number.in_(numbers)).values(lease_expires_at=self._owner.lease_end())
                held |= set(connection.execute(renew.returning(jobs.c.id)).scalars())
            return set(ids) - held

        return self._database.run(write)

    def release_lease(self, job_id: str, attempt: int) -> bool:
        """Release a parked job whose thread is about to end: any process may claim it when it is resumed.

        Returns False and writes nothing if a stop came first. Raises LeaseLost.
        """
        parked = jobs.c.status.in_([Status.HALTED, Status.SUBMITTED])
        released: Values = {"owner": None, "lease_expires_at": None}
        release = update(jobs).where(*self._owned_by(job_id, attempt), parked).values(released)

        def write(connection: Connection) -> bool:
            self._loader.load_owned(connection, job_id, attempt)
            return connection.execute(release).rowcount == 1

        return run_announced(self._database, write)

    def release_process(self, pid: int) -> list[Applied]:
        """Take back the jobs of a stalled process of this machine. Return each job with its change.

        Does not count a crash: the process is about to be killed because it stalls. Committed when this returns.
        """
        theirs = select(jobs).where(IS_HELD, jobs.c.owner.startswith(owner_name_prefix(pid), autoescape=True))
        locked = theirs.order_by(*LOCK_ORDER).with_for_update()

        def write(connection: Connection) -> list[Applied]:
            held = [self._rows.job(tuple(row)) for row in connection.execute(locked)]
            return [self._take_back(connection, job, job.crashes, _STOOD_STILL) for job in held]

        return run_announced(self._database, write)

    def expire(self) -> list[Applied]:
        """Take back jobs whose leases have expired or whose owners have died. Return each job with its change.

        A parked job, or one that waits to be woken, only loses its owner: any process may claim it when it is resumed.
        """
        self._end_leases_of_the_dead()
        now: Values = {"lease_now": self._database.lease_now()}
        ((has_expired,),) = self._reader.read_prepared(statements.HAS_EXPIRED, now)
        if not has_expired:
            return []

        def write(connection: Connection) -> list[Applied]:
            now: Values = {"lease_now": self._database.lease_now()}
            rows = self._database.execute(connection, statements.EXPIRED, now)
            return [self._expire(connection, self._rows.job(row)) for row in rows]

        return run_announced(self._database, write)

    def _end_leases_of_the_dead(self) -> None:
        dead = self._database.dead_owners()
        if dead:
            theirs = and_(IS_HELD, jobs.c.owner.in_(dead))
            ended = update(jobs).where(theirs).values(lease_expires_at=self._database.lease_now())
            self._database.run(lambda connection: connection.execute(ended))

    def _expire(self, connection: Connection, job: JobRecord) -> Applied:
        """Take back a job whose lease has expired. Counts a crash only if its process has died."""
        if job.owner is not None and self._database.is_alive(connection, job.owner):
            return self._take_back(connection, job, job.crashes, "its process did not renew the lease")
        if job.owner is not None and self._database.stands_still(job.owner):
            return self._take_back(connection, job, job.crashes, _STOOD_STILL)
        return self._take_back(connection, job, job.crashes + 1, "its process died")

    def _take_back(self, connection: Connection, job: JobRecord, crashes: int, reason: str) -> Applied:
        """Take the job from its owner, whose attempt can write nothing from now on."""
        if job.status not in ATTENDED:
            free = update(jobs).where(jobs.c.id == job.id).values(owner=None, lease_expires_at=None)
            connection.execute(free)
            return Applied(job=job, change=None)
        values: Values = {"crashes": crashes, "owner": None, "lease_expires_at": None}
        if job.status is Status.RUNNING and crashes >= self._max_crashes:
            values["error"] = f"The process died while running this job (crashes without progress: {crashes})."
        applied = self._lifecycle.transition(connection, job, Action.EXPIRE, values, reason=reason)
        _log.warning("Took job %s from %s because %s. It is now %s.", job.id, job.owner, reason, applied.job.status)
        return applied

    def _owned_by(self, job_id: str, attempt: int) -> tuple[Any, ...]:
        """Return the conditions under which this attempt of this process owns the job."""
        return jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.owner == self._owner.name

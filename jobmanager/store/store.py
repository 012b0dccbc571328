"""The durable state of all jobs: the interface of this package for the manager and the engine.

Safe for any number of threads and processes on one database. Transitions are checked against states.py inside the
write transaction. The writes of an attempt carry its number and its owner, so that an attempt that lost its lease can
write nothing but lines of the log. Starts no threads and runs no job's code.

This module only puts the parts together: each method is documented in full where it is implemented.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from jobmanager.core.job_log import LogLimits
from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import (
    Applied,
    Census,
    Change,
    Checkpoint,
    JobRecord,
    LogLine,
    NewBatch,
    NewJob,
    Wanted,
)
from jobmanager.errors import NotAllowed
from jobmanager.store.checkpoints import Checkpoints
from jobmanager.store.claims import Claims
from jobmanager.store.leases import Leases
from jobmanager.store.lifecycle import Lifecycle
from jobmanager.store.loading import JobLoader
from jobmanager.store.opening import open_database
from jobmanager.store.owner import Owner, new_owner_name
from jobmanager.store.queue_limit import QueueLimit
from jobmanager.store.retention import Retention
from jobmanager.store.rows import JobRows
from jobmanager.store.settlements import Settlements
from jobmanager.store.store_view import StoreView
from jobmanager.store.submissions import Submissions


class Store(StoreView):
    """Jobs, their changes and their logs, in one database."""

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = 15.0,
        max_crashes: int = 3,
        queue_limit: int = 1_000_000,
        log_limits: LogLimits | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Open the store and bring its tables up to date. Blocks. Raises StoreUnavailable or ConfigError.

        *clock* replaces the machine's clocks for a SQLite file; PostgreSQL ignores it.
        """
        lease = timedelta(seconds=lease_seconds)  # raises ValueError while nothing is open yet
        #: this process's name as an owner of jobs; new at every start
        self.owner = new_owner_name()
        database = open_database(url, self.owner, clock)
        owner, rows = Owner(self.owner, lease, database.lease_now), JobRows(database)
        super().__init__(database, rows, owner, log_limits or LogLimits())
        loader = JobLoader(database, rows, owner)
        self.retention = Retention(database, self.reader)
        self.checkpoints = Checkpoints(database, self.logs, owner)
        self.submissions = Submissions(database, rows, loader, QueueLimit(database, queue_limit))
        self.lifecycle = Lifecycle(database, rows, loader, owner, max_crashes=max_crashes)
        self.claims = Claims(database, rows, self.lifecycle, self.work_queue, owner)
        self.settlements = Settlements(database, self.lifecycle, loader, self.claims, owner)
        self.leases = Leases(database, self.reader, rows, loader, self.lifecycle, owner, max_crashes=max_crashes)

    def close(self) -> None:
        """Close all connections; may be called twice. No other method may run at the same time or later."""
        self.database.close()

    # Submit

    def add(self, new: Sequence[NewJob], *, actor: str) -> list[JobRecord]:
        """Store new jobs, all or none, and return them. If an idempotency key was used before, return its job."""
        return self.submissions.add(new, actor=actor)

    def add_all(self, new: NewBatch, *, actor: str) -> list[str]:
        """Store many new jobs without idempotency keys, all or none, and return their ids."""
        return self.submissions.add_all(new, actor=actor)

    # Request actions

    def apply(
        self,
        job_id: str,
        action: Action,
        *,
        actor: str = "engine",
        reason: str | None = None,
        is_forced: bool = False,
        run_at: datetime | None = None,
        versions: Collection[str] | None = None,
    ) -> Applied:
        """Apply a requested action to the job. Raises UnknownJob, NotAllowed or Outdated."""
        return self.lifecycle.apply(
            job_id, action, actor=actor, reason=reason, is_forced=is_forced, run_at=run_at, versions=versions
        )

    def apply_to_each(
        self,
        run_ats: Mapping[str, datetime | None],
        action: Action,
        *,
        statuses: Collection[Status],
        actor: str,
        reason: str | None = None,
        is_forced: bool = False,
    ) -> dict[str, Applied | NotAllowed | None]:
        """Apply a requested action to several jobs in one commit, and return the result per job."""
        return self.lifecycle.apply_to_each(
            run_ats, action, statuses=statuses, actor=actor, reason=reason, is_forced=is_forced
        )

    # For attempts of this process

    def checkpoint(
        self, job_id: str, attempt: int, saved: Checkpoint | None, details: Values | None, lines: Sequence[LogLine] = ()
    ) -> Status:
        """Save a checkpoint, renew the lease, and return the job's current status. Raises LeaseLost."""
        return self.checkpoints.save(job_id, attempt, saved, details, lines)

    def add_log(self, job_id: str, lines: Sequence[LogLine]) -> None:
        """Store lines of the job's log. Drops the oldest lines if there are too many."""
        self.logs.add(job_id, lines)

    def settle(
        self,
        job_id: str,
        attempt: int,
        settlement: Settlement,
        *,
        unless: Collection[Status] = (),
        parked: bool = False,
        wanted: Wanted | None = None,
        seen: JobRecord | None = None,
    ) -> Applied | None:
        """Record the outcome of an attempt. Return None if the job's status is in *unless*. Raises LeaseLost."""
        return self.settlements.settle(
            job_id, attempt, settlement, unless=unless, parked=parked, wanted=wanted, seen=seen
        )

    def release_lease(self, job_id: str, attempt: int) -> bool:
        """Release a parked job whose thread is about to end; False if a stop came first. Raises LeaseLost."""
        return self.leases.release_lease(job_id, attempt)

    # For the dispatcher

    def queue_due(self) -> int:
        """Put delayed jobs that are due into the queue; returns their number."""
        return self.work_queue.queue_due()

    def claim(self, limit: int, *, types: Collection[str], max_running: dict[str, int]) -> list[JobRecord]:
        """Claim up to *limit* waiting jobs of the given types, most urgent first; sets them to running."""
        return self.claims.claim(limit, types=types, max_running=max_running)

    def claim_to_clean(self, limit: int, *, types: Collection[str]) -> list[JobRecord]:
        """Claim up to *limit* unowned stopping jobs that are due, in order to clean them."""
        return self.claims.claim_to_clean(limit, types=types)

    def heartbeat(self, job_ids: Collection[str]) -> set[str]:
        """Renew the leases of the jobs that this process still holds. Return the ids of those that it has lost."""
        return self.leases.heartbeat(job_ids)

    def signals(self) -> list[Change]:
        """Return the changes that other processes made to jobs held by this one, oldest first. Returns each once."""
        return self.history.receive_signals()

    def expire(self) -> list[Applied]:
        """Take back jobs whose leases have expired or whose owners have died. Return each job with its change."""
        return self.leases.expire()

    def release_process(self, pid: int) -> list[Applied]:
        """Take back the jobs of a stalled process of this machine. Return each job with its change."""
        return self.leases.release_process(pid)

    # Maintenance

    def correct_count(self) -> Census:
        """Recount the jobs, correct the counts, and return the differences."""
        return self.counts.correct()

    def prune(self, *, before: datetime | None, keep: int | None, limit: int = 200) -> list[str]:
        """Remove up to *limit* jobs that finished before *before* or are beyond the newest *keep*. Return their ids."""
        return self.retention.prune(before=before, keep=keep, limit=limit)

    def forget_keys(self, *, before: datetime) -> None:
        """Delete idempotency keys that were first used before *before*."""
        self.retention.forget_keys(before=before)

"""Insert new jobs, each with its first change: a few with idempotency keys, or many at once.

The only module that inserts jobs. Every job begins as `submitted`; lifecycle.py writes all later statuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, insert

from jobmanager.core.states import Action, Status
from jobmanager.core.transitions import AT_ONCE, Values
from jobmanager.core.values import JobRecord, NewBatch, NewJob
from jobmanager.store import job_counts, rebuilt_rows, statements
from jobmanager.store.database import Database, run_announced
from jobmanager.store.idempotency_keys import ids_by_key
from jobmanager.store.loading import JobLoader
from jobmanager.store.queue_limit import QueueLimit, last_change
from jobmanager.store.rows import JobRows, in_columns
from jobmanager.store.schema import labels, to_json

#: Most jobs of a batch that are in memory at once, and about the most characters of their JSON.
_PART_JOBS = 1000
_PART_SIZE = 256 * 1024


class Submissions:
    """Stores new jobs."""

    def __init__(self, database: Database, rows: JobRows, loader: JobLoader, limit: QueueLimit) -> None:
        self._database = database
        self._rows = rows
        self._loader = loader
        self._limit = limit

    def add(self, new: Sequence[NewJob], *, actor: str) -> list[JobRecord]:
        """Store new jobs, all or none, and return them; committed when this returns.

        Returns the existing job if the idempotency key was already used for the same submission. Raises Conflict if
        it was used for another one, QueueFull, or StoreUnavailable.
        """
        if len(new) == 1 and new[0].idempotency_key is None and not self._limit.may_be_exceeded(1):
            # This submission may share a transaction with other threads. Others must not: an idempotency key, or the
            # limit, can make a submission wait for another process, which may be frozen.
            return [self._database.run_together(self._add_each, (new[0], actor))]
        return run_announced(self._database, lambda connection: self.add_keyed(connection, new, [actor] * len(new)))

    def add_all(self, new: NewBatch, *, actor: str) -> list[str]:
        """Store many new jobs without idempotency keys, all or none, and return their ids.

        Several times as fast as `add`; committed when this returns. Iterates over the jobs once per try of the
        transaction, and keeps only a part of them in memory. Raises QueueFull or StoreUnavailable.
        """
        return run_announced(self._database, lambda connection: self._add_batch(connection, new, actor))

    # Inside a write transaction

    def add_keyed(self, connection: Connection, new: Sequence[NewJob], actors: Sequence[str]) -> list[JobRecord]:
        """Insert the jobs whose idempotency key is new or missing. Return new and existing jobs, in order of *new*."""
        now = self._database.now()
        stored_as = ids_by_key(self._database, connection, new, now)
        fresh = [(job, actor) for job, actor in zip(new, actors, strict=True) if stored_as[job.id] == job.id]
        added = {job.id: job for job in self.insert(connection, fresh, now)} if fresh else {}
        ids = [stored_as[job.id] for job in new]
        return [added.get(job_id) or self._loader.load_locked(connection, job_id) for job_id in ids]

    def insert(
        self, connection: Connection, submissions: Sequence[tuple[NewJob, str]], now: datetime
    ) -> list[JobRecord]:
        """Insert jobs, each submitted by its own actor, with their changes and labels; returns them."""
        new, actors = zip(*submissions, strict=True)
        self._limit.check_room_before(connection, len(new))
        rows = [_of_submission(job) for job in new]
        of_each = _of_each(now)
        numbers = self._database.add_many(connection, statements.PUT_JOB, in_columns(rows), of_each)
        changed = {"job_id": [job.id for job in new], "actor": actors}
        seqs = self._database.add_many(connection, statements.ADD_CHANGE, changed, _first_change(now))
        _count_new(connection, new)
        self._limit.check_room_after(connection, seqs[-1])
        _add_labels(connection, new, numbers, now)
        return [
            rebuilt_rows.inserted(self._rows, row | of_each, number) for row, number in zip(rows, numbers, strict=True)
        ]

    def _add_each(self, connection: Connection, submissions: list[tuple[NewJob, str]]) -> list[JobRecord]:
        """Store new jobs of several submissions, each with its own actor."""
        new, actors = zip(*submissions, strict=True)
        added = self.add_keyed(connection, new, actors)
        self._database.announce(connection)
        return added

    def _add_batch(self, connection: Connection, new: NewBatch, actor: str) -> list[str]:
        """Store a batch part by part; returns the ids. Raises RuntimeError if their number differs from `len(new)`."""
        self._limit.check_room_before(connection, len(new))
        now = self._database.now()
        ids: list[str] = []
        for part in _parts(new.jobs):
            if any(job.labels for job in part):
                self.insert(connection, [(job, actor) for job in part], now)
            else:
                self._insert_plain(connection, part, actor, now)
            ids += [job.id for job in part]
            del part  # free the part's jobs, which may be large, before the next part is made
        if len(ids) != len(new):
            raise RuntimeError(f"{len(new)} jobs were checked, but {len(ids)} were to be stored. Nothing was stored.")
        return ids

    def _insert_plain(self, connection: Connection, new: Sequence[NewJob], actor: str, now: datetime) -> None:
        """Insert jobs without keys and labels in bulk."""
        last = connection.execute(statements.LAST_JOB).scalar_one()
        columns = {name: list(map(of, new)) for name, of in _OF_SUBMISSION.items()}
        self._database.execute_many(connection, statements.PUT_JOB, columns, _of_each(now))
        connection.execute(statements.PUT_CHANGES, {"last_job": last, "actor": actor, "now": now})
        _count_new(connection, new)
        self._limit.check_room_after(connection, last_change(self._database, connection))


#: For each column that a submission sets: the function that returns its value.
_OF_SUBMISSION: dict[str, Callable[[NewJob], Any]] = {
    "id": attrgetter("id"),
    "type": attrgetter("type"),
    "args": attrgetter("args"),
    "priority": attrgetter("priority"),
    "labels": attrgetter("labels"),
    "max_attempts": attrgetter("max_attempts"),
    "timeout_seconds": lambda job: None if job.timeout_seconds is None else float(job.timeout_seconds),
    "run_at": lambda job: job.run_at or AT_ONCE,
    "waits_until": attrgetter("run_at"),
    "traceparent": attrgetter("traceparent"),
}


def _of_submission(job: NewJob) -> Values:
    """Return the columns of a job that its submission sets."""
    return {name: of(job) for name, of in _OF_SUBMISSION.items()}


def _of_each(now: datetime) -> Values:
    """Return the columns with the same values for all new jobs."""
    return {"status": Status.SUBMITTED, "submitted_at": now}


def _first_change(now: datetime) -> Values:
    """Return the first change of every job, without job id and actor."""
    change = {"action": Action.SUBMIT, "from_status": None, "to_status": Status.SUBMITTED, "attempt": 0}
    return change | {"reason": None, "asked_at": now, "at": now, "signal_to": None}


def _parts(new: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    """Yield the jobs in lists of up to _PART_JOBS; a list ends with the job that makes it larger than _PART_SIZE."""
    some: list[NewJob] = []
    size = 0
    for job in new:
        some.append(job)
        size += len(to_json(job.args)) + len(to_json(job.labels))
        del job  # see _add_batch
        if len(some) == _PART_JOBS or size > _PART_SIZE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _add_labels(connection: Connection, new: Sequence[NewJob], numbers: Sequence[int], now: datetime) -> None:
    rows: list[Values] = [
        {"job_number": number, "name": name, "value": value, "submitted_at": now}
        for job, number in zip(new, numbers, strict=True)
        for name, value in job.labels.items()
    ]
    if rows:
        connection.execute(insert(labels), rows)


def _count_new(connection: Connection, new: Sequence[NewJob]) -> None:
    job_counts.note(connection, [(job.type, Status.SUBMITTED) for job in new], 1)

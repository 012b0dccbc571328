"""Remove old finished jobs and old idempotency keys from the database.

The callers decide which of them are old. Changes no job that stays.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, or_, select

from jobmanager.core.states import FINAL
from jobmanager.store import job_counts
from jobmanager.store.database import Database
from jobmanager.store.reader import Reader
from jobmanager.store.schema import IS_FINISHED, changes, idempotency_keys, jobs, labels, log_lines


class Retention:
    """Removes jobs and keys. Every method commits, and raises StoreUnavailable."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    def prune(self, *, before: datetime | None, keep: int | None, limit: int) -> list[str]:
        """Remove up to *limit* finished jobs with their changes and logs, oldest first; returns their ids.

        Removes jobs that finished before *before*, and those beyond the newest *keep*. A limit of None does not apply.
        *keep* does not apply to failed jobs, which may be resumed.
        """
        bounds = [jobs.c.finished_at < before] if before is not None else []
        if keep is not None:
            bounds += self._beyond_newest(keep)
        if not bounds:
            return []
        surplus = select(jobs.c.id).where(IS_FINISHED, or_(*bounds)).order_by(jobs.c.finished_at).limit(limit)
        if not self._reader.read(surplus):
            return []
        return self._database.run(lambda connection: _remove(connection, surplus))

    def forget_keys(self, *, before: datetime) -> None:
        """Delete idempotency keys that were first used before *before*."""
        old = idempotency_keys.c.made_at < before
        if self._reader.read(select(idempotency_keys.c.key).where(old).limit(1)):
            self._database.run(lambda connection: connection.execute(delete(idempotency_keys).where(old)))

    def _beyond_newest(self, keep: int) -> list[ColumnElement[bool]]:
        """Return a list with one condition, which selects the final jobs beyond the newest *keep*.

        If there are no such jobs, return an empty list.
        """
        final = [IS_FINISHED, jobs.c.status.in_(FINAL)]
        newest = select(jobs.c.finished_at, jobs.c.number).where(*final)
        in_order = newest.order_by(jobs.c.finished_at.desc(), jobs.c.number.desc())
        conditions = []
        for row in self._reader.read(in_order.offset(keep).limit(1)):
            is_older = or_(jobs.c.finished_at < row.finished_at, jobs.c.number <= row.number)
            conditions.append(and_(jobs.c.status.in_(FINAL), jobs.c.finished_at <= row.finished_at, is_older))
        return conditions


def _remove(connection: Connection, surplus: Select[Any]) -> list[str]:
    """Remove the selected jobs that no other transaction has locked; returns their ids."""
    ids = list(connection.execute(surplus.with_for_update(skip_locked=True)).scalars())
    numbers = select(jobs.c.number).where(jobs.c.id.in_(ids))
    connection.execute(delete(labels).where(labels.c.job_number.in_(numbers)))
    for table in (changes, log_lines):
        connection.execute(delete(table).where(table.c.job_id.in_(ids)))
    removed = delete(jobs).where(jobs.c.id.in_(ids)).returning(jobs.c.type, jobs.c.status)
    job_counts.note(connection, [(row.type, row.status) for row in connection.execute(removed)], -1)
    return ids

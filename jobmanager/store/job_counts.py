"""The number of jobs of each type and status. Every commit updates it, because to count a million jobs takes 50 ms.

A transaction notes its changes while it writes, and adds them to the counts right before it commits. So it never waits
for the lock of a job while it holds the lock of a count. If processes write concurrently (PostgreSQL), each count is
the sum of parts, and every process has its own parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, Select, bindparam, func, literal_column, select, union_all

from jobmanager.core.states import Status
from jobmanager.core.values import Census
from jobmanager.store.database import Database
from jobmanager.store.fast_statements import Columns
from jobmanager.store.reader import Reader, translated_errors
from jobmanager.store.schema import census, jobs

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

    _Insert: TypeAlias = postgresql.Insert | sqlite.Insert
    _Notes: TypeAlias = Counter[tuple[str, str]]

#: The key of the notes in a connection's `info`.
NOTED = "census"

COUNTED = (
    select(census.c.type, census.c.status, func.sum(census.c.jobs).label("jobs"))
    .group_by(census.c.type, census.c.status)
    .having(func.sum(census.c.jobs) > 0)
)

#: The number of waiting jobs, as counted by the committed transactions.
WAITING = select(func.coalesce(func.sum(census.c.jobs), 0)).where(census.c.status == literal_column("'submitted'"))


def _miscounted() -> Select[Any]:
    there = select(jobs.c.type, jobs.c.status, func.count().label("missed")).group_by(jobs.c.type, jobs.c.status)
    kept = select(census.c.type, census.c.status, -census.c.jobs)
    each = union_all(there, kept).subquery()
    missed = func.sum(each.c.missed)
    return (
        select(each.c.type, each.c.status, missed.label("missed"))
        .group_by(each.c.type, each.c.status)
        .having(missed != 0)
    )


#: Selects the corrections to add to the counts. Finds no rows if every writer of jobs has counted them.
MISCOUNTED = _miscounted()


class JobCounts:
    """Reads the counts, and corrects them. Raises StoreUnavailable."""

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    def read(self) -> Census:
        """Return the number of jobs by type and status, without zeros. Cheap: every commit updates the counts."""
        return {(row.type, Status(row.status)): int(row.jobs) for row in self._reader.read(COUNTED)}

    def correct(self) -> Census:
        """Recount the jobs, correct the counts, and return the differences. Needed if plain SQL has changed jobs.

        Scans an index of all jobs: 50 to 150 ms for a million. Writes only to correct counts and to add up their parts.
        """
        with translated_errors():
            self._database.add_up_counts()
        if not self._reader.read(MISCOUNTED):
            return {}
        return self._database.run(self._add_missed)

    def _add_missed(self, connection: Connection) -> Census:
        """Correct each count that is wrong, and return the numbers added."""
        self._database.acquire_lock(connection, "correction")  # else two processes would add the differences twice
        self._database.flush_counts(connection)  # the notes of this transaction so far
        # Use one query: of every other transaction, it sees either both the jobs and their counts, or neither.
        missed = {(row.type, Status(row.status)): int(row.missed) for row in connection.execute(MISCOUNTED)}
        for key, number in missed.items():
            note(connection, [key], number)
        return missed


def addition(insert: _Insert) -> _Insert:
    """Return the upsert that adds to one part of a count. *insert* is an insert into `census` for some dialect."""
    added = insert.values({column.name: bindparam(column.name, type_=column.type) for column in census.c})
    return added.on_conflict_do_update(
        index_elements=list(census.primary_key), set_={"jobs": census.c.jobs + added.excluded.jobs}
    )


def note(connection: Connection, changed: Iterable[tuple[str, str]], by: int) -> None:
    """Note that the current transaction adds *by* to the count of each (type, status) in *changed*."""
    noted: _Notes = connection.info.setdefault(NOTED, Counter())
    for key in changed:
        noted[key] += by


def noted(connection: Connection, status: str) -> int:
    """Return the sum of the notes of the current transaction for this status, over all types."""
    notes: _Notes = connection.info.get(NOTED, Counter())
    return sum(by for (_, each), by in notes.items() if each == status)


def forget(connection: Connection) -> None:
    """Drop the notes of a transaction that is rolled back."""
    connection.info.pop(NOTED, None)


def take(connection: Connection, part: int) -> Columns | None:
    """Remove the notes of the current transaction and return them as rows to add to *part*; None if there are none."""
    noted: _Notes | None = connection.info.pop(NOTED, None)
    if not noted:
        return None
    # Sorted, so that two transactions that add to the same part cannot deadlock.
    rows = sorted((*key, by) for key, by in noted.items() if by)
    if not rows:
        return None
    types, statuses, counts = zip(*rows, strict=True)
    return {"type": types, "status": statuses, "part": [part] * len(rows), "jobs": counts}

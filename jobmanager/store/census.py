"""How many jobs there are of each type and status, kept by every commit: to count a million would take 50 ms each time.

What a transaction changes is noted while it writes, and added to the counts as the last thing before it commits: nobody
holds a count while it waits for a job. Where processes write side by side, each count is the sum of parts, and every
process has its own of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, Select, bindparam, func, literal_column, select, union_all

from jobmanager.store.prepared import Columns
from jobmanager.store.schema import census, jobs

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

    _Insert: TypeAlias = postgresql.Insert | sqlite.Insert
    _Notes: TypeAlias = Counter[tuple[str, str]]

#: What notes are kept under, of a connection.
NOTED = "census"

COUNTED = (
    select(census.c.type, census.c.status, func.sum(census.c.jobs).label("jobs"))
    .group_by(census.c.type, census.c.status)
    .having(func.sum(census.c.jobs) > 0)
)

#: How many jobs wait, as the transactions have counted that are committed.
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


#: What would have to be added to the counts: nothing, unless somebody writes jobs who does not count them.
MISCOUNTED = _miscounted()


def addition(insert: _Insert) -> _Insert:
    """Return the statement that adds to one part of a count: *insert* is one into the table, in words of a dialect."""
    added = insert.values({column.name: bindparam(column.name, type_=column.type) for column in census.c})
    return added.on_conflict_do_update(
        index_elements=list(census.primary_key), set_={"jobs": census.c.jobs + added.excluded.jobs}
    )


def note(connection: Connection, changed: Iterable[tuple[str, str]], by: int) -> None:
    """Note, for the transaction under way, that there are so many more of these types and statuses, one of each."""
    noted: _Notes = connection.info.setdefault(NOTED, Counter())
    for key in changed:
        noted[key] += by


def noted(connection: Connection, status: str) -> int:
    """Return how many more jobs of a status the transaction under way has noted."""
    notes: _Notes = connection.info.get(NOTED, Counter())
    return sum(by for (_, each), by in notes.items() if each == status)


def forget(connection: Connection) -> None:
    """Forget what was noted, for the transaction is taken back."""
    connection.info.pop(NOTED, None)


def take(connection: Connection, part: int) -> Columns | None:
    """Return what the transaction under way has to add to the counts, and forget it; None if that is nothing."""
    noted: _Notes | None = connection.info.pop(NOTED, None)
    if not noted:
        return None
    # In order: two transactions that take the same part must not wait for each other.
    rows = sorted((*key, by) for key, by in noted.items() if by)
    if not rows:
        return None
    types, statuses, counts = zip(*rows, strict=True)
    return {"type": types, "status": statuses, "part": [part] * len(rows), "jobs": counts}

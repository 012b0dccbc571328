"""Find jobs: one by its id, or a page of those that match a selection.

Reads only. search.py builds the queries, and sampling.py chooses one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Row

from jobmanager.core.values import JobRecord, Page, Position, Selection
from jobmanager.errors import UnknownJob
from jobmanager.store import sampling, search, statements
from jobmanager.store.reader import Reader
from jobmanager.store.rows import JobRows

#: Approximate size of a page of a list, in bytes.
PAGE_BYTES = 8 * 1024 * 1024


class Lookup:
    """Finds jobs. Every method raises StoreUnavailable."""

    def __init__(self, reader: Reader, rows: JobRows) -> None:
        self._reader = reader
        self._rows = rows

    def get(self, job_id: str) -> JobRecord:
        """Return the job; raises UnknownJob."""
        rows = self._reader.read_prepared(statements.JOB, {"id_is": job_id})
        if not rows:
            raise UnknownJob(job_id)
        return self._rows.job(rows[0])

    def find(self, selection: Selection, types: Collection[str], *, before: Position | None, limit: int) -> Page:
        """Return a page of jobs, newest submission first, starting after the position *before*.

        *types* are the type names to search for the selection's `q`. The jobs lack their cursors, and the fields named
        in JobRecord.shortened. If the jobs are large even so, the page has fewer than *limit* jobs.
        """
        way = sampling.choose(self._reader, search.ways(selection, types), selection, before)
        shown: list[JobRecord] = []
        left = PAGE_BYTES
        with self._reader.stream(search.page(way, selection, before=before, limit=limit + 1)) as rows:
            for row in rows:
                job, size = self._rows.listed(row)
                if shown and (len(shown) == limit or size > left):
                    return Page(jobs=shown, next=_position(shown[-1]))
                shown.append(job)
                left -= size
        return Page(jobs=shown, next=None)

    def find_ids(
        self, selection: Selection, types: Collection[str], *, before: Position | None, limit: int
    ) -> tuple[list[str], Position | None]:
        """Return the ids of a page of jobs, like `find`, and the position of the next page (None: no next page)."""
        way = sampling.choose(self._reader, search.ways(selection, types), selection, before)
        rows = self._reader.read(search.page_of_ids(way, selection, before=before, limit=limit + 1))
        shown = rows[:limit]
        return [row.id for row in shown], _position(shown[-1]) if len(rows) > limit else None


def _position(row: JobRecord | Row[Any]) -> Position:
    return Position(submitted_at=row.submitted_at, number=row.number)

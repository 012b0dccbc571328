"""Read the store: jobs, changes, logs and counts. Changes nothing.

This module only puts the parts together: each method is documented in full where it is implemented.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from jobmanager.core.job_log import LogLimits
from jobmanager.core.values import (
    Census,
    Change,
    JobRecord,
    LogLine,
    News,
    Outlook,
    Page,
    Position,
    Progress,
    Queue,
    Selection,
)
from jobmanager.store.database import Database, Watch
from jobmanager.store.history import LAST_SEQ, History
from jobmanager.store.job_counts import JobCounts
from jobmanager.store.job_logs import JobLogs
from jobmanager.store.lookup import Lookup
from jobmanager.store.owner import Owner
from jobmanager.store.reader import Reader
from jobmanager.store.rows import JobRows
from jobmanager.store.work_queue import WorkQueue


class StoreView:
    """The methods of the store that only read. Thread-safe."""

    def __init__(self, database: Database, rows: JobRows, owner: Owner, log_limits: LogLimits) -> None:
        self.database = database
        self.reader = Reader(database)
        self.lookup = Lookup(self.reader, rows)
        self.history = History(database, self.reader, owner)
        self.counts = JobCounts(database, self.reader)
        self.logs = JobLogs(database, self.reader, log_limits)
        self.work_queue = WorkQueue(database, self.reader, owner)

    def now(self) -> datetime:
        """Return the current time, by the clock that all recorded times use."""
        return self.database.now()

    def watch(self) -> Watch:
        """Return a watch on commits for one thread, which has to close it."""
        return self.database.watch()

    def get(self, job_id: str) -> JobRecord:
        """Return the job; raises UnknownJob."""
        return self.lookup.get(job_id)

    def find(
        self, selection: Selection, types: Collection[str], *, before: Position | None = None, limit: int = 100
    ) -> Page:
        """Return a page of jobs, newest submission first, starting after the position *before*."""
        return self.lookup.find(selection, types, before=before, limit=limit)

    def find_ids(
        self, selection: Selection, types: Collection[str], *, before: Position | None = None, limit: int
    ) -> tuple[list[str], Position | None]:
        """Return the ids of a page of jobs, like `find`, and the position of the next page (None: no next page)."""
        return self.lookup.find_ids(selection, types, before=before, limit=limit)

    def changes(self, job_id: str) -> list[Change]:
        """Return the changes of the job, oldest first; raises UnknownJob."""
        return self.history.changes(job_id)

    def log(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return the log lines of the job numbered above *after*, oldest first; an empty list is the end of the log."""
        return self.logs.read(job_id, after=after, limit=limit)

    # For streams of changes and progress

    def news(self, *, after: int, upto: int = LAST_SEQ, job_id: str | None = None, limit: int = 500) -> list[News]:
        """Return changes numbered above *after*, lowest number first; of all jobs if *job_id* is None."""
        return self.history.news(after=after, upto=upto, job_id=job_id, limit=limit)

    def progress(self, *, since: datetime) -> list[Progress]:
        """Return the progress of the jobs that any process holds and that saved a checkpoint at *since* or later."""
        return self.history.progress(since=since)

    def last_change(self) -> int:
        """Return the number of the last committed change; 0 if there is none."""
        return self.history.last_change()

    def change_writers(self) -> set[str]:
        """Return the ids of open transactions that may still commit a change numbered below the last one."""
        return self.history.change_writers()

    # For metrics

    def count(self) -> Census:
        """Return the number of jobs by type and status, without zeros."""
        return self.counts.read()

    def queue(self) -> Queue:
        """Return the state of the queue and of the slots, over all processes."""
        return self.work_queue.state()

    def ping(self) -> None:
        """Raise StoreUnavailable if the store does not answer."""
        self.reader.ping()

    # For the dispatcher

    def look(self, types: Collection[str]) -> Outlook:
        """Return the pending work for a process that knows these types, by one query."""
        return self.work_queue.look(types)

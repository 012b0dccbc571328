"""Read the recorded changes and the progress of jobs, and receive the signals of other processes.

Does not record changes: lifecycle.py and submissions.py do so, in the commits that make the changes.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, bindparam, select, update

from jobmanager.core.transitions import Values
from jobmanager.core.values import Change, News, Progress
from jobmanager.errors import UnknownJob
from jobmanager.store import rows, statements
from jobmanager.store.database import Database
from jobmanager.store.owner import Owner
from jobmanager.store.reader import Reader, translated_errors
from jobmanager.store.schema import IS_HELD, changes, jobs

#: The largest possible number of a change.
LAST_SEQ = 2**63 - 1
#: The columns of a Progress.
_PROGRESS = [
    jobs.c[name]
    for name in (
        "id",
        "type",
        "labels",
        "status",
        "checkpoint_seq",
        "done",
        "total",
        "message",
        "saved_at",
        "running_since",
        "ran_seconds",
    )
]

#: The progress of jobs that a process holds and whose checkpoint was saved at `since` or later.
_SAVED_SINCE = select(*_PROGRESS).where(IS_HELD, jobs.c.saved_at >= bindparam("since", type_=jobs.c.saved_at.type))


class History:
    """Reads the changes and the progress of all jobs. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, reader: Reader, owner: Owner) -> None:
        self._database = database
        self._reader = reader
        self._owner = owner

    def changes(self, job_id: str) -> list[Change]:
        """Return the changes of the job, oldest first; raises UnknownJob."""
        found = self._reader.read(select(changes).where(changes.c.job_id == job_id).order_by(changes.c.seq))
        if not found:
            raise UnknownJob(job_id)
        return [rows.change(row) for row in found]

    def news(self, *, after: int, upto: int, job_id: str | None, limit: int) -> list[News]:
        """Return up to *limit* changes numbered above *after* and up to *upto*, lowest number first.

        If *job_id* is None, returns changes of all jobs.
        """
        asked: Values = {"after": after, "upto": upto, "limit": limit}
        if job_id is not None:
            asked["job_id_is"] = job_id
        found = self._reader.read(_news(of_one_job=job_id is not None), **asked)
        return [News(change=rows.change(row), progress=rows.progress(row)) for row in found]

    def progress(self, *, since: datetime) -> list[Progress]:
        """Return the progress of the jobs that any process holds and that saved a checkpoint at *since* or later."""
        return [rows.progress(row) for row in self._reader.read(_SAVED_SINCE, since=since)]

    def last_change(self) -> int:
        """Return the number of the last committed change; 0 if there is none."""
        ((seq,),) = self._reader.read(statements.LAST_CHANGE)
        return int(seq)

    def change_writers(self) -> set[str]:
        """Return the ids of open transactions that may still commit a change numbered below the last one."""
        with translated_errors():
            return self._database.change_writers()

    def receive_signals(self) -> list[Change]:
        """Return the changes that other processes made to jobs held by this one, oldest first. Returns each once."""
        found = self._reader.read(statements.SIGNALS, owner_is=self._owner.name)
        if found:
            # Clear exactly these: another process may still commit a change with a lower number.
            received = update(changes).where(changes.c.seq.in_([row.seq for row in found])).values(signal_to=None)
            self._database.run(lambda connection: connection.execute(received))
        return [rows.change(row) for row in found]


@cache
def _news(*, of_one_job: bool) -> Select[Any]:
    """Return the query of the changes numbered above `after` and up to `upto`, with their jobs. See History.news."""
    joined = changes.join(jobs, jobs.c.id == changes.c.job_id)
    query = select(changes, *_PROGRESS).select_from(joined)
    query = query.where(changes.c.seq > bindparam("after"), changes.c.seq <= bindparam("upto"))
    if of_one_job:
        query = query.where(changes.c.job_id == bindparam("job_id_is"))
    return query.order_by(changes.c.seq).limit(bindparam("limit", type_=Integer()))

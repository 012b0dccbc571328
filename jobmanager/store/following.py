"""The queries behind streams of what happens. Statements only."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, bindparam, select

from jobmanager.store.schema import IS_HELD, changes, jobs

#: What there is to tell of how far a job is.
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

#: How far the jobs are that a process holds, where that was saved since a certain time.
SAVED_SINCE = select(*_PROGRESS).where(IS_HELD, jobs.c.saved_at >= bindparam("since", type_=jobs.c.saved_at.type))


@cache
def news(*, of_one_job: bool) -> Select[Any]:
    """Return the query of the next changes behind a number, up to another, with their jobs: of all jobs, or of one."""
    joined = changes.join(jobs, jobs.c.id == changes.c.job_id)
    query = select(changes, *_PROGRESS).select_from(joined)
    query = query.where(changes.c.seq > bindparam("after"), changes.c.seq <= bindparam("upto"))
    if of_one_job:
        query = query.where(changes.c.job_id == bindparam("job_id_is"))
    return query.order_by(changes.c.seq).limit(bindparam("limit", type_=Integer()))

"""The queries behind change streams and metrics. Statements only."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, and_, bindparam, case, func, or_, select

from jobmanager.core.states import ATTENDED
from jobmanager.store.schema import HAS_COME_DUE, IS_HELD, IS_PUT_OFF, IS_QUEUED, changes, jobs
from jobmanager.store.statements import by_index

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
SAVED_SINCE = select(*_PROGRESS).where(IS_HELD, jobs.c.saved_at >= bindparam("since", type_=jobs.c.saved_at.type))


@cache
def news(*, of_one_job: bool) -> Select[Any]:
    """Return the query of the changes numbered above `after` up to `upto`, with their jobs: of all jobs, or of one."""
    joined = changes.join(jobs, jobs.c.id == changes.c.job_id)
    query = select(changes, *_PROGRESS).select_from(joined)
    query = query.where(changes.c.seq > bindparam("after"), changes.c.seq <= bindparam("upto"))
    if of_one_job:
        query = query.where(changes.c.job_id == bindparam("job_id_is"))
    return query.order_by(changes.c.seq).limit(bindparam("limit", type_=Integer()))


_NOW = bindparam("now", type_=jobs.c.run_at.type)
_AT_ONCE = bindparam("at_once", type_=jobs.c.run_at.type)
#: The number of jobs in the queue; DEPTH adds those that are due but not in it yet.
_QUEUED = by_index(select(func.count()).select_from(jobs).where(IS_QUEUED), "jobs_waiting")
_IS_DUE = and_(IS_PUT_OFF, jobs.c.waits_until <= _NOW)
_DUE = by_index(select(func.count()).select_from(jobs).where(_IS_DUE), "jobs_due")
DEPTH = select(_QUEUED.scalar_subquery() + _DUE.scalar_subquery())
#: Since when the delayed jobs that are due have waited: the earliest in the queue, and the earliest not in it yet.
PUT_OFF_WAITED_LONGEST = (
    by_index(select(jobs.c.run_at.label("at")).where(HAS_COME_DUE), "jobs_due").order_by(jobs.c.run_at).limit(1),
    by_index(select(jobs.c.waits_until.label("at")).where(_IS_DUE), "jobs_due").order_by(jobs.c.waits_until).limit(1),
)
_SINCE = func.coalesce(jobs.c.asked_at, jobs.c.submitted_at, type_=jobs.c.submitted_at.type).label("at")
_WAITED = select(_SINCE).where(
    IS_QUEUED, jobs.c.run_at == _AT_ONCE, or_(jobs.c.attempt == 0, jobs.c.asked_at.is_not(None))
)
#: Up to this length, scanning the queue is faster than finding its earliest job among as many delayed ones.
_FEW = 5000


def waited_longest(depth: int) -> Select[Any]:
    """Return the query for the time since which the longest-waiting job without a delay waits.

    A job waits from its submission or resume. Ignores jobs that were handed over: that time is not stored.
    *depth* is the number of waiting jobs.
    """
    if depth <= _FEW:
        first = by_index(_WAITED, "jobs_waiting").subquery()
    else:  # the longest-waiting jobs are most likely among those submitted first
        first = _WAITED.order_by(jobs.c.submitted_at).limit(100).subquery()
    return select(func.min(first.c.at, type_=jobs.c.submitted_at.type).label("at"))


_last_sign = func.coalesce(
    # Ignore a checkpoint of an earlier stretch of work.
    case((jobs.c.saved_at > jobs.c.running_since, jobs.c.saved_at)),
    jobs.c.running_since,
    type_=jobs.c.saved_at.type,
)
#: Per type: the number of jobs at work, and the oldest of their last checkpoints (or starts of work, without one).
AT_WORK = (
    select(jobs.c.type, func.count().label("jobs"), func.min(_last_sign, type_=jobs.c.saved_at.type).label("oldest_at"))
    .where(IS_HELD, jobs.c.status.in_(ATTENDED))
    .group_by(jobs.c.type)
)

"""The queries behind streams of what happens, and behind what the service is watched by. Statements only."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, and_, bindparam, case, func, or_, select

from jobmanager.states import ATTENDED
from jobmanager.store.queries import by_index
from jobmanager.store.schema import HAS_COME_DUE, IS_HELD, IS_PUT_OFF, IS_QUEUED, changes, jobs

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


_NOW = bindparam("now", type_=jobs.c.run_at.type)
_AT_ONCE = bindparam("at_once", type_=jobs.c.run_at.type)
#: How many jobs are due and wait.
_QUEUED = by_index(select(func.count()).select_from(jobs).where(IS_QUEUED), "jobs_waiting")
_IS_DUE = and_(IS_PUT_OFF, jobs.c.waits_until <= _NOW)
_DUE = by_index(select(func.count()).select_from(jobs).where(_IS_DUE), "jobs_due")
DEPTH = select(_QUEUED.scalar_subquery() + _DUE.scalar_subquery())
#: Since when those wait that were put off: the first in the queue, and the first that are about to be.
PUT_OFF_WAITED_LONGEST = (
    by_index(select(jobs.c.run_at.label("at")).where(HAS_COME_DUE), "jobs_due").order_by(jobs.c.run_at).limit(1),
    by_index(select(jobs.c.waits_until.label("at")).where(_IS_DUE), "jobs_due").order_by(jobs.c.waits_until).limit(1),
)
_SINCE = func.coalesce(jobs.c.asked_at, jobs.c.submitted_at, type_=jobs.c.submitted_at.type).label("at")
_WAITED = select(_SINCE).where(
    IS_QUEUED, jobs.c.run_at == _AT_ONCE, or_(jobs.c.attempt == 0, jobs.c.asked_at.is_not(None))
)
#: So many in the queue are looked at in less time than it takes to find the first among as many that are put off.
_FEW = 5000


def waited_longest(depth: int) -> Select[Any]:
    """Return the query of since when the first of the others waits; *depth*: how many jobs wait in all.

    They wait since they were submitted or resumed. Of one that was handed over, nothing tells.
    """
    if depth <= _FEW:
        first = by_index(_WAITED, "jobs_waiting").subquery()
    else:  # most of those that came first are among the first that were submitted
        first = _WAITED.order_by(jobs.c.submitted_at).limit(100).subquery()
    return select(func.min(first.c.at, type_=jobs.c.submitted_at.type).label("at"))


_last_sign = func.coalesce(
    # A checkpoint of an earlier stretch says nothing of this one.
    case((jobs.c.saved_at > jobs.c.running_since, jobs.c.saved_at)),
    jobs.c.running_since,
    type_=jobs.c.saved_at.type,
)
#: By type: jobs at work, and the oldest of their last checkpoints.
AT_WORK = (
    select(jobs.c.type, func.count().label("jobs"), func.min(_last_sign, type_=jobs.c.saved_at.type).label("oldest_at"))
    .where(IS_HELD, jobs.c.status.in_(ATTENDED))
    .group_by(jobs.c.type)
)

"""The queries behind the metrics of the queue. Statements only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, bindparam, case, func, or_, select

from jobmanager.core.states import ATTENDED
from jobmanager.store.schema import HAS_COME_DUE, IS_HELD, IS_PUT_OFF, IS_QUEUED, jobs
from jobmanager.store.statements import by_index

_NOW = bindparam("now", type_=jobs.c.run_at.type)
_AT_ONCE = bindparam("at_once", type_=jobs.c.run_at.type)
#: The number of jobs in the queue; DEPTH adds those that are due but not in it yet.
_QUEUED = by_index(select(func.count()).select_from(jobs).where(IS_QUEUED), "jobs_waiting")
_IS_DUE = and_(IS_PUT_OFF, jobs.c.waits_until <= _NOW)
_DUE = by_index(select(func.count()).select_from(jobs).where(_IS_DUE), "jobs_due")
DEPTH = select(_QUEUED.scalar_subquery() + _DUE.scalar_subquery())
#: Two queries for the earliest time at which a delayed job became due: one for the jobs in the queue, and one for the
#: due jobs that are not in the queue yet.
PUT_OFF_WAITED_LONGEST = (
    by_index(select(jobs.c.run_at.label("at")).where(HAS_COME_DUE), "jobs_due").order_by(jobs.c.run_at).limit(1),
    by_index(select(jobs.c.waits_until.label("at")).where(_IS_DUE), "jobs_due").order_by(jobs.c.waits_until).limit(1),
)
_SINCE = func.coalesce(jobs.c.asked_at, jobs.c.submitted_at, type_=jobs.c.submitted_at.type).label("at")
_WAITED = select(_SINCE).where(
    IS_QUEUED, jobs.c.run_at == _AT_ONCE, or_(jobs.c.attempt == 0, jobs.c.asked_at.is_not(None))
)
#: Up to this length, the whole queue is scanned. A search in the order of submission could be slower: it
#: may have to skip many jobs with a delay.
_FEW = 5000


def waited_longest(depth: int) -> Select[Any]:
    """Return the query for the earliest time at which a waiting job without a delay began to wait.

    A job waits from its submission or resume. Ignores jobs that were handed over: the time of a handover is not stored.
    *depth* is the number of waiting jobs.
    """
    if depth <= _FEW:
        first = by_index(_WAITED, "jobs_waiting").subquery()
    else:  # the longest-waiting jobs are most likely among those submitted first
        first = _WAITED.order_by(jobs.c.submitted_at).limit(100).subquery()
    return select(func.min(first.c.at, type_=jobs.c.submitted_at.type).label("at"))


_last_sign = func.coalesce(
    # Ignore a checkpoint of an earlier attempt.
    case((jobs.c.saved_at > jobs.c.running_since, jobs.c.saved_at)),
    jobs.c.running_since,
    type_=jobs.c.saved_at.type,
)
#: Per type: the number of jobs that a thread works on, and the earliest of the times of their last checkpoints. If a
#: job has not saved a checkpoint in this attempt, the start of the attempt counts.
AT_WORK = (
    select(jobs.c.type, func.count().label("jobs"), func.min(_last_sign, type_=jobs.c.saved_at.type).label("oldest_at"))
    .where(IS_HELD, jobs.c.status.in_(ATTENDED))
    .group_by(jobs.c.type)
)

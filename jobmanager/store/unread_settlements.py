"""Record the outcomes of attempts without reading their jobs first.

Runs a compare-and-set on each job as it was claimed. If one fails, settlements.py reads the jobs.
To read and lock every job first takes 12 % more CPU for a job that does nothing (measured on SQLite and PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from jobmanager.core.states import Action, Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import Applied, JobRecord, Wanted
from jobmanager.store.lifecycle import Lifecycle, Overtaken


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The outcome of an attempt; see Settlements.settle."""

    job_id: str
    attempt: int
    action: Action
    #: columns to set, in addition to those that follow from the action
    values: Values
    #: nothing is written if the job has one of these statuses
    unless: Collection[Status]
    #: the jobs of which one is claimed for the slot; None: claim no job
    wanted: Wanted | None
    #: the job as it was claimed
    seen: JobRecord | None


def settle_unread(lifecycle: Lifecycle, connection: Connection, ended: list[Ended]) -> list[Applied | None] | None:
    """Record the outcomes if each job still has the status, attempt and owner with which it was claimed.

    Returns None and writes nothing if a job lacks `seen`, or if there is only one job and it has changed. Raises
    Overtaken if one of several jobs has changed: others may be written by then, so the caller has to roll back.
    """
    try:
        moves = [lifecycle.decide(one.seen, one.action, one.values) for one in ended if one.seen is not None]
        if len(moves) < len(ended):
            return None
        moves.sort(key=lambda move: (move.job.submitted_at, move.job.number), reverse=True)  # see LOCK_ORDER
        applied = {came.job.id: came for came in lifecycle.move_all(connection, moves)}
        return [applied[one.job_id] for one in ended]
    except Overtaken:
        if len(ended) > 1:
            raise
        return None

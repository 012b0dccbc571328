"""The only writer of statuses: every transition is a compare-and-set and a row of the history, in one commit.

core/transitions.py decides what a transition changes, and states.py whether it is allowed. The other modules that move
jobs (claims.py, settlements.py, leases.py) do so through `transition` and `move_all`; no other statement sets a status.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from jobmanager.core.states import Action, Status
from jobmanager.core.transitions import Move, Values, decide
from jobmanager.core.values import Applied, Change, JobRecord
from jobmanager.errors import NotAllowed, Outdated
from jobmanager.store import job_counts, rebuilt_rows, statements
from jobmanager.store.database import Database, run_announced
from jobmanager.store.loading import JobLoader
from jobmanager.store.owner import Owner
from jobmanager.store.rows import JobRows, in_columns, of_same_columns


class Overtaken(Exception):
    """Another transaction has changed a job since this one read it."""


class Lifecycle:
    """Moves jobs from status to status."""

    def __init__(self, database: Database, rows: JobRows, loader: JobLoader, owner: Owner, *, max_crashes: int) -> None:
        self._database = database
        self._rows = rows
        self._loader = loader
        self._owner = owner
        self._max_crashes = max_crashes

    def apply(
        self,
        job_id: str,
        action: Action,
        *,
        actor: str,
        reason: str | None,
        is_forced: bool,
        run_at: datetime | None,
        versions: Collection[str] | None,
    ) -> Applied:
        """Apply a requested action to the job; committed when this returns.

        *run_at* delays a resume; *is_forced* is for a stop. Raises UnknownJob, NotAllowed, StoreUnavailable, or
        Outdated if *versions* is given and does not contain the job's version.
        """

        def write(connection: Connection) -> Applied:
            job = self._loader.load_locked(connection, job_id)
            if versions is not None and job.version() not in versions:
                raise Outdated(job_id, job.status)
            values: Values = {"is_forced": True} if is_forced else {}
            if run_at is not None:
                values["run_at"] = run_at
            return self.transition(connection, job, action, values, actor=actor, reason=reason)

        return run_announced(self._database, write)

    def apply_to_each(
        self,
        run_ats: Mapping[str, datetime | None],
        action: Action,
        *,
        statuses: Collection[Status],
        actor: str,
        reason: str | None,
        is_forced: bool,
    ) -> dict[str, Applied | NotAllowed | None]:
        """Apply a requested action to several jobs in one commit, and return the result per job.

        *run_ats* has the ids of the jobs, and the time until which a resume is delayed (None: no delay). If the action
        is not allowed for a job, its result is a NotAllowed. If a job is missing, or its status is not in *statuses*
        (empty: any status will do), its result is None. The jobs in the results lack args, details, result and cursor.
        """
        values: Values = {"is_forced": True} if is_forced else {}

        def write(connection: Connection) -> dict[str, Applied | NotAllowed | None]:
            came: dict[str, Applied | NotAllowed | None] = dict.fromkeys(run_ats)
            moves: list[Move] = []
            for job in self._loader.load_each_briefly(connection, run_ats):
                if statuses and job.status not in statuses:
                    continue
                try:
                    move = self.decide(job, action, values | _until(run_ats[job.id], job))
                except NotAllowed as refused:
                    came[job.id] = refused
                    continue
                if move.is_idle():
                    came[job.id] = Applied(job=job, change=None)
                else:
                    moves.append(move)
            applied = self.move_all(connection, moves, actor=actor, reason=reason)
            return came | {one.job.id: one for one in applied}

        return run_announced(self._database, write)

    # Inside a write transaction

    def transition(self, connection: Connection, job: JobRecord, action: Action, values: Values, **who: Any) -> Applied:
        """Apply *action* to a job that this transaction has read; see move_all. Raises NotAllowed."""
        move = self.decide(job, action, values)
        if move.is_idle():
            return Applied(job=job, change=None)
        (applied,) = self.move_all(connection, [move], **who)
        return applied

    def decide(self, job: JobRecord, action: Action, values: Values) -> Move:
        """Return the move that *action* causes. The move also sets *values*. Writes nothing. Raises NotAllowed."""
        return decide(job, action, values, max_crashes=self._max_crashes)

    def move_all(
        self, connection: Connection, moves: Sequence[Move], *, actor: str = "engine", reason: str | None = None
    ) -> list[Applied]:
        """Write the moves and record them as changes. The only place where statuses are written.

        Raises Overtaken if the status, attempt or owner of any job has changed since it was read. If *moves* has one
        job, nothing was written. If it has several, some of them may be written already: the caller has to roll back.
        """
        if not moves:
            return []
        now = self._database.now()
        columns = [move.columns(now) for move in moves]
        for alike in of_same_columns([values | move.expected() for move, values in zip(moves, columns, strict=True)]):
            statement = statements.move_job(tuple(alike))
            if self._database.execute_many(connection, statement, alike, {}) < len(alike["number_is"]):
                raise Overtaken
        moved = [
            rebuilt_rows.updated(self._rows, move.job, values) for move, values in zip(moves, columns, strict=True)
        ]
        happened = [move.change(job.attempt, now) for move, job in zip(moves, moved, strict=True)]
        rows = in_columns(happened) | {"signal_to": [self._process_to_notify(move.job) for move in moves]}
        said: Values = {"actor": actor, "reason": reason}
        seqs = self._database.add_many(connection, statements.ADD_CHANGE, rows, said)
        job_counts.note(connection, [(move.job.type, move.job.status) for move in moves], -1)
        job_counts.note(connection, [(move.job.type, move.to_status) for move in moves], 1)
        return [
            Applied(job=job, change=Change(seq=seq, **change, **said))
            for job, change, seq in zip(moved, happened, seqs, strict=True)
        ]

    def _process_to_notify(self, job: JobRecord) -> str | None:
        """Return the name of the other process that holds the job; None if no other process holds it."""
        return job.owner if job.owner != self._owner.name else None


def _until(run_at: datetime | None, job: JobRecord) -> Values:
    """Return the columns that delay a resume until *run_at*, or until the job's scheduled time if that is later."""
    if run_at is None:
        return {}
    return {"run_at": max(run_at, job.run_at) if job.is_scheduled() else run_at}

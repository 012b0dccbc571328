"""The durable state of all jobs, and the only writer of statuses.

Safe for any number of threads and processes on one database. Transitions are checked against states.py inside the
write transaction. The writes of an attempt carry its number and its owner, so that an attempt that lost its lease can
write nothing. This module starts no threads and runs no job's code.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from importlib.util import find_spec
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import (
    CompoundSelect,
    Connection,
    CursorResult,
    Row,
    Select,
    and_,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from jobmanager.core.job_log import LogLimits
from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import ATTENDED, FINAL, Action, Status
from jobmanager.core.transitions import AT_ONCE, Move, Values, decide
from jobmanager.core.values import (
    MOST_LISTED_BYTES,
    Applied,
    Census,
    Change,
    Checkpoint,
    JobRecord,
    LogLine,
    NewBatch,
    NewJob,
    News,
    Outlook,
    Page,
    Position,
    Progress,
    Queue,
    Selection,
    Wanted,
    storable,
)
from jobmanager.errors import (
    ConfigError,
    Conflict,
    LeaseLost,
    NotAllowed,
    Outdated,
    QueueFull,
    StoreUnavailable,
    UnknownJob,
)
from jobmanager.store import change_queries, job_counts, job_logs, search, sqlite, statements
from jobmanager.store.fast_statements import Columns, Rows
from jobmanager.store.migrate import bring_up_to_date
from jobmanager.store.schema import (
    IS_FINISHED,
    IS_HELD,
    changes,
    idempotency_keys,
    jobs,
    labels,
    log_lines,
    to_json,
)
from jobmanager.urls import check_at_signs

if TYPE_CHECKING:
    from jobmanager.store import postgresql

_log = logging.getLogger(__name__)

#: How much the difference between two clocks may change only because one is read after the other.
_CLOCK_JITTER = timedelta(milliseconds=50)

#: Allowance for submissions of other processes. Closer to the limit, each submission counts the queue, one at a time.
_UNSEEN = 1000
#: Most due jobs that one commit puts into the queue: other writers wait for that commit.
_QUEUED_AT_ONCE = 1000
#: Approximate size of a page of a list, and of each job in it without its texts, in bytes.
_PAGE_BYTES = 8 * 1024 * 1024
_JOB_BYTES = 1024
#: Jobs of a batch that are in memory at once, and characters of JSON in them.
_PART_JOBS = 1000
_PART_SIZE = 256 * 1024
#: Most jobs whose log sizes this process caches; a full cache is cleared.
_MOST_TALLIES = 10_000
#: The largest possible number of a change.
_LAST_SEQ = 2**63 - 1

#: The order in which rows are locked (newest first, as in lists), so that bulk writers cannot deadlock.
_LOCKED_IN_ORDER = (jobs.c.submitted_at.desc(), jobs.c.number.desc())
#: The columns of a job in the order in which they are selected.
_COLUMNS = tuple(column.name for column in jobs.c)
_FIELDS = tuple(field.name for field in fields(JobRecord))
#: The same columns, with null in place of those that may be large.
_BRIEF = [null().label(name) if name in ("args", "cursor", "details", "result") else jobs.c[name] for name in _COLUMNS]

#: Reason for taking a job from a stalled process, which gunicorn kills.
_STOOD_STILL = "its process stalled"

T = TypeVar("T")


class _Overtaken(Exception):
    """Another transaction has changed a job since this one read it."""


@dataclass(slots=True, kw_only=True)
class _Ended:
    """The outcome of an attempt; see Store.settle."""

    job_id: str
    attempt: int
    action: Action
    #: columns to set, in addition to those that follow from the action
    values: Values
    #: nothing is written if the job has one of these statuses
    unless: Collection[Status]
    #: which jobs to claim in the job's place
    wanted: Wanted | None
    #: the job as it was claimed
    seen: JobRecord | None


class Watch(Protocol):
    """Reports whether anything was committed, in any process. For one thread."""

    def has_moved(self) -> bool:
        """Return True if anything may have been committed since the last call."""

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when that is so; None if the caller has to poll `has_moved`."""

    def close(self) -> None:
        """Release its resources."""


class Store:
    """Jobs, their changes and their logs, in one database."""

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = 15.0,
        max_crashes: int = 3,
        queue_limit: int = 1_000_000,
        log_limits: LogLimits | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Open the store and bring its tables up to date. Blocks. Raises StoreUnavailable or ConfigError.

        *clock* replaces the machine's clocks for a SQLite file; PostgreSQL ignores it.
        """
        #: this process's name as an owner of jobs; new at every start, so that a successor is not taken for it
        self.owner = f"{_owner_prefix(os.getpid())}{uuid.uuid4().hex[:8]}"
        self._lease = timedelta(seconds=lease_seconds)
        self._max_crashes = max_crashes
        self._queue_limit = queue_limit
        self._log_limits = log_limits or LogLimits()
        self._tallies: dict[str, job_logs.Tally] = {}  # by job; a log without a tally is counted
        self._clock_offset = timedelta(0)  # from the lease clock to the wall clock, as last measured
        self._waiting = queue_limit, 0  # number of waiting jobs at the last count, and the last change at that time
        self._last_seq = 0  # number of the newest change that this process knows
        try:
            self._database = _connect(url, clock)
            self._prepare()
        except (OSError, DBAPIError) as error:
            raise StoreUnavailable(f"The store cannot be opened: {_cause(error)}.") from error
        #: the clock of all recorded times
        self.now = self._database.now

    def close(self) -> None:
        """Close all connections; may be called twice. No other method may run at the same time or later."""
        self._database.close()

    def watch(self) -> Watch:
        """Return a watch on commits for one thread, which has to close it."""
        return self._database.watch()

    # Submitting and reading

    def add(self, new: Sequence[NewJob], *, actor: str) -> list[JobRecord]:
        """Store new jobs, all or none, and return them; committed when this returns.

        Returns the existing job if the idempotency key was already used for the same submission. Raises Conflict if
        it was used for another one, QueueFull, or StoreUnavailable.
        """
        if len(new) == 1 and new[0].idempotency_key is None and not self._may_be_full(1):
            # Shares a transaction with other threads: such a job never waits for another process, which may be frozen.
            return [self._database.run_together(self._add_each, (new[0], actor))]
        return self._commit(lambda connection: self._add(connection, new, [actor] * len(new)))

    def add_all(self, new: NewBatch, *, actor: str) -> list[str]:
        """Store many new jobs without idempotency keys, all or none, and return their ids.

        Several times as fast as `add`; committed when this returns. Iterates over the jobs once per try of the
        transaction, and keeps only a part of them in memory. Raises QueueFull or StoreUnavailable.
        """
        return self._commit(lambda connection: self._put_all(connection, new, actor))

    def get(self, job_id: str) -> JobRecord:
        """Return the job; raises UnknownJob."""
        rows = self._ask(statements.JOB, {"id_is": job_id})
        if not rows:
            raise UnknownJob(job_id)
        return self._job(rows[0])

    def find(
        self, selection: Selection, types: Collection[str], *, before: Position | None = None, limit: int = 100
    ) -> Page:
        """Return a page of jobs, newest submission first, starting after the position *before*.

        *types* are the type names to search for the selection's `q`. The jobs lack their cursors, and the fields named
        in JobRecord.shortened. If they are still large, the page has fewer than *limit* jobs.
        """
        way = self._way(search.ways(selection, types), selection, before)
        shown: list[JobRecord] = []
        left = _PAGE_BYTES
        with self._reading(search.page(way, selection, before=before, limit=limit + 1)) as rows:
            for row in rows:
                job, size = self._listed(row)
                if shown and (len(shown) == limit or size > left):
                    return Page(jobs=shown, next=_position(shown[-1]))
                shown.append(job)
                left -= size
        return Page(jobs=shown, next=None)

    def find_ids(
        self, selection: Selection, types: Collection[str], *, before: Position | None = None, limit: int
    ) -> tuple[list[str], Position | None]:
        """Return the ids of matching jobs, in the order of `find`, and the position of the next page, if any."""
        way = self._way(search.ways(selection, types), selection, before)
        rows = self._read(search.page_of_ids(way, selection, before=before, limit=limit + 1))
        shown = rows[:limit]
        return [row.id for row in shown], _position(shown[-1]) if len(rows) > limit else None

    def changes(self, job_id: str) -> list[Change]:
        """Return the changes of the job, oldest first; raises UnknownJob."""
        rows = self._read(select(changes).where(changes.c.job_id == job_id).order_by(changes.c.seq))
        if not rows:
            raise UnknownJob(job_id)
        return [_change(row) for row in rows]

    def log(self, job_id: str, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        """Return the log lines of the job numbered above *after*, oldest first.

        Up to *limit* lines and about 1 MiB of messages, but at least one line. An empty list is the end of the log.
        """
        return [
            LogLine(number=row.number, attempt=row.attempt, at=row.at, level=row.level, message=row.message)
            for row in self._read(job_logs.page(job_id, after=after, limit=limit))
        ]

    # Changes and progress, for streams

    def news(self, *, after: int, upto: int = _LAST_SEQ, job_id: str | None = None, limit: int = 500) -> list[News]:
        """Return the changes numbered above *after* up to *upto*, in order: of all jobs, or of one."""
        asked: Values = {"after": after, "upto": upto, "limit": limit}
        if job_id is not None:
            asked["job_id_is"] = job_id
        rows = self._read(change_queries.news(of_one_job=job_id is not None), **asked)
        return [News(change=_change(row), progress=_progress(row)) for row in rows]

    def progress(self, *, since: datetime) -> list[Progress]:
        """Return the progress of the jobs that any process holds and that saved a checkpoint at *since* or later."""
        return [_progress(row) for row in self._read(change_queries.SAVED_SINCE, since=since)]

    def last_change(self) -> int:
        """Return the number of the last committed change; 0 if there is none."""
        ((seq,),) = self._read(statements.LAST_CHANGE)
        return int(seq)

    def change_writers(self) -> set[str]:
        """Return the ids of open transactions that may still commit a change numbered below the last one."""
        try:
            return self._database.change_writers()
        except DBAPIError as error:
            raise StoreUnavailable("The store does not answer. Try again later.") from error

    # Metrics

    def count(self) -> Census:
        """Return the number of jobs of each type and status that has any. Cheap: every commit updates the counts."""
        return {(row.type, Status(row.status)): int(row.jobs) for row in self._read(job_counts.COUNTED)}

    def correct_count(self) -> Census:
        """Recount the jobs, correct the counts, and return the differences. Needed if plain SQL has changed jobs.

        Scans an index of all jobs: 50 to 150 ms for a million. Writes only to correct counts and to add up their parts.
        """
        try:
            self._database.add_up_counts()
        except DBAPIError as error:
            raise StoreUnavailable("The store does not answer. Try again later.") from error
        if not self._read(job_counts.MISCOUNTED):
            return {}

        def write(connection: Connection) -> Census:
            self._database.take_turn(connection, "correction")  # else two processes would add the differences twice
            self._database.count(connection)  # the notes of this transaction so far
            # One query: of every other transaction, it sees both the jobs and their counts, or neither.
            missed = {
                (row.type, Status(row.status)): int(row.missed) for row in connection.execute(job_counts.MISCOUNTED)
            }
            for key, number in missed.items():
                job_counts.note(connection, [key], number)
            return missed

        return self._database.run(write)

    def queue(self) -> Queue:
        """Return the state of the queue: jobs waiting and jobs at work, over all processes."""
        now = self.now()
        ((depth,),) = self._read(change_queries.DEPTH, now=now)
        waited = [row.at for query in change_queries.PUT_OFF_WAITED_LONGEST for row in self._read(query, now=now)]
        waited += [row.at for row in self._read(change_queries.waited_longest(depth), at_once=AT_ONCE)]
        rows = self._read(change_queries.AT_WORK)
        return Queue(
            depth=depth,
            oldest_at=min((at for at in waited if at is not None), default=None),
            busy=sum(row.jobs for row in rows),
            checkpoints={row.type: row.oldest_at for row in rows if row.oldest_at is not None},
        )

    def ping(self) -> None:
        """Raise StoreUnavailable if the store does not answer."""
        self._read(select(func.count()).select_from(select(jobs.c.number).limit(1).subquery()))

    # The one writer of statuses

    def apply(
        self,
        job_id: str,
        action: Action,
        *,
        actor: str = "engine",
        reason: str | None = None,
        is_forced: bool = False,
        run_at: datetime | None = None,
        versions: Collection[str] | None = None,
    ) -> Applied:
        """Apply a requested action to the job; committed when this returns.

        *run_at* delays a resume; *is_forced* is for a stop. Raises UnknownJob, NotAllowed, StoreUnavailable, or
        Outdated if *versions* is given and does not contain the job's version.
        """

        def write(connection: Connection) -> Applied:
            job = self._found(connection, job_id)
            if versions is not None and job.version() not in versions:
                raise Outdated(job_id, job.status)
            values: Values = {"is_forced": True} if is_forced else {}
            if run_at is not None:
                values["run_at"] = run_at
            return self._transition(connection, job, action, values, actor=actor, reason=reason)

        return self._commit(write)

    def apply_to_each(
        self,
        run_ats: Mapping[str, datetime | None],
        action: Action,
        *,
        statuses: Collection[Status],
        actor: str,
        reason: str | None = None,
        is_forced: bool = False,
    ) -> dict[str, Applied | NotAllowed | None]:
        """Apply a requested action to several jobs in one commit, and return the result per job.

        *run_ats* has the ids of the jobs, and the time until which a resume is delayed (None: no delay). A result is
        None, and the job unchanged, if the job is missing or has none of the *statuses* (empty: any status will do).
        The jobs in the results lack args, details, result and cursor.
        """

        values: Values = {"is_forced": True} if is_forced else {}

        def write(connection: Connection) -> dict[str, Applied | NotAllowed | None]:
            came: dict[str, Applied | NotAllowed | None] = dict.fromkeys(run_ats)
            moves: list[Move] = []
            for job in self._found_each_briefly(connection, run_ats):
                if statuses and job.status not in statuses:
                    continue
                try:
                    move = self._decide(job, action, values | _until(run_ats[job.id], job))
                except NotAllowed as refused:
                    came[job.id] = refused
                    continue
                if move.is_idle():
                    came[job.id] = Applied(job=job, change=None)
                else:
                    moves.append(move)
            applied = self._move_all(connection, moves, actor=actor, reason=reason)
            return came | {one.job.id: one for one in applied}

        return self._commit(write)

    def settle(
        self,
        job_id: str,
        attempt: int,
        settlement: Settlement,
        *,
        unless: Collection[Status] = (),
        parked: bool = False,
        wanted: Wanted | None = None,
        seen: JobRecord | None = None,
    ) -> Applied | None:
        """Record the outcome of an attempt of this process; committed when this returns.

        Writes nothing and returns None if the job's status is in *unless*. *parked* keeps the lease: the thread waits
        and may be woken. If *wanted* is given, the same commit claims another job in its place. *seen* is the job as
        it was claimed for this attempt: if its status is unchanged, the job is not read again, and the result does not
        show what was saved since. Raises LeaseLost, NotAllowed or StoreUnavailable.
        """
        values: Values = {"failures": settlement.failures, "error": settlement.error, "result": settlement.result}
        if settlement.run_at is not None:
            values["run_at"] = settlement.run_at
        if not parked:
            values |= {"owner": None, "lease_expires_at": None}

        action = settlement.action
        ended = _Ended(
            job_id=job_id, attempt=attempt, action=action, values=values, unless=unless, wanted=wanted, seen=seen
        )
        return self._database.run_together(self._settle_all, ended)

    def checkpoint(
        self, job_id: str, attempt: int, saved: Checkpoint | None, details: Values | None, lines: Sequence[LogLine] = ()
    ) -> Status:
        """Save a checkpoint of an attempt of this process, renew its lease, and return the job's current status.

        *saved* is None if nothing is new since the last checkpoint; its `seq` and `saved_at` are set here. A cursor of
        None never replaces a saved one; a cursor that differs from it resets `crashes`. Committed when this returns.
        Raises LeaseLost or StoreUnavailable.
        """
        values: Values = {"lease_expires_at": self._lease_end()}
        if saved is not None:
            values |= {"done": saved.done, "total": saved.total, "message": saved.message}
            values["gap_seconds"] = saved.gap_seconds
            values["saved_at"] = self.now()
            if saved.cursor is not None:
                values["cursor"] = saved.cursor
        if details is not None:
            values["details"] = details
        statement = statements.save_checkpoint(tuple(values))
        held = {"id_is": job_id, "attempt_is": attempt, "owner_is": self.owner}
        if "cursor" in values:
            held["cursor_is"] = to_json(values["cursor"])

        def write(connection: Connection) -> Status:
            rows = self._database.execute(connection, statement, values | held)
            if not rows:
                raise LeaseLost(job_id)
            return Status(rows[0][0])

        return self._run_with_lines(job_id, lines, write)

    def add_log(self, job_id: str, lines: Sequence[LogLine]) -> None:
        """Store lines of the job's log; committed when this returns. Drops the oldest lines if there are too many."""
        if lines:
            self._run_with_lines(job_id, lines, lambda _: None)

    def _run_with_lines(self, job_id: str, lines: Sequence[LogLine], write: Callable[[Connection], T]) -> T:
        """Commit *write* together with lines of the job's log."""
        if not lines:
            return self._database.run(write)
        # Remove the tally until the commit: after a failure, the log is counted again.
        known = self._tallies.pop(job_id, None)

        def write_all(connection: Connection) -> tuple[T, job_logs.Tally]:
            result = write(connection)
            return result, job_logs.add_lines(connection, job_id, lines, known=known, limits=self._log_limits)

        result, tally = self._database.run(write_all)
        if len(self._tallies) >= _MOST_TALLIES:
            self._tallies.clear()
        self._tallies[job_id] = tally
        return result

    # For the engine

    def claim(self, limit: int, *, types: Collection[str], max_running: dict[str, int]) -> list[JobRecord]:
        """Claim up to *limit* waiting jobs of the given types, most urgent first; they are running when this returns.

        *max_running* limits how many jobs of a type run at once, over all processes. Includes delayed jobs that are
        due.
        """
        wanted = Wanted(types=tuple(types), max_running=max_running)

        def write(connection: Connection) -> list[JobRecord]:
            self._queue_due(connection)
            return self._take(connection, statements.waiting, wanted, limit)

        return self._commit(write)

    def queue_due(self) -> int:
        """Put delayed jobs that are due into the queue, at most 1000 of them; returns their number."""
        return self._commit(self._queue_due)

    def claim_to_clean(self, limit: int, *, types: Collection[str]) -> list[JobRecord]:
        """Claim up to *limit* unowned stopping jobs that are due, in order to clean them."""
        wanted = Wanted(types=tuple(types), max_running={})
        return self._commit(lambda connection: self._take(connection, statements.to_clean, wanted, limit))

    def look(self, types: Collection[str]) -> Outlook:
        """Return the pending work for a process that knows these types, by one query."""
        clocks = self._clocks()
        (found,) = self._ask(statements.look(tuple(types)), clocks)
        is_signalled, has_waiting, has_to_clean, put_off_at, to_clean_at = found
        has_due = put_off_at is not None and put_off_at <= clocks["now"]
        next_at = [at for at in (None if has_due else put_off_at, to_clean_at) if at is not None]
        return Outlook(
            is_signalled=is_signalled,
            has_waiting=has_waiting or has_due,
            has_due=has_due,
            has_to_clean=has_to_clean,
            next_due_at=min(next_at, default=None),
        )

    def expire(self) -> list[Applied]:
        """Take back jobs whose leases have expired or whose owners have died; returns the results.

        A parked job, or one that waits to be woken, only loses its owner: any process may claim it when it is resumed.
        """
        self._end_leases_of_the_dead()
        ((has_silent,),) = self._ask(statements.HAS_SILENT, {"lease_now": self._database.lease_now()})
        if not has_silent:
            return []

        def write(connection: Connection) -> list[Applied]:
            rows = self._database.execute(connection, statements.SILENT, {"lease_now": self._database.lease_now()})
            return [self._expire(connection, self._job(row)) for row in rows]

        return self._commit(write)

    def release_process(self, pid: int) -> list[Applied]:
        """Take back the jobs of a stalled process of this machine; returns the results.

        Does not count a crash: the process is about to be killed because it stalls. Committed when this returns.
        """
        theirs = select(jobs).where(IS_HELD, jobs.c.owner.startswith(_owner_prefix(pid), autoescape=True))
        locked = theirs.order_by(*_LOCKED_IN_ORDER).with_for_update()

        def write(connection: Connection) -> list[Applied]:
            held = [self._job(tuple(row)) for row in connection.execute(locked)]
            return [self._take_back(connection, job, job.crashes, _STOOD_STILL) for job in held]

        return self._commit(write)

    def heartbeat(self, job_ids: Collection[str]) -> set[str]:
        """Renew the leases of those jobs that this process holds; returns the ids of the others."""
        ids = list(job_ids)

        def write(connection: Connection) -> set[str]:
            held: set[str] = set()
            for begin in range(0, len(ids), 500):
                ours = select(jobs.c.number).where(jobs.c.owner == self.owner, jobs.c.id.in_(ids[begin : begin + 500]))
                numbers = connection.execute(ours.order_by(*_LOCKED_IN_ORDER).with_for_update()).scalars().all()
                renew = update(jobs).where(jobs.c.number.in_(numbers)).values(lease_expires_at=self._lease_end())
                held |= set(connection.execute(renew.returning(jobs.c.id)).scalars())
            return set(ids) - held

        return self._database.run(write)

    def let_go(self, job_id: str, attempt: int) -> bool:
        """Release a parked job whose thread is about to end: any process may claim it when it is resumed.

        Returns False and writes nothing if a stop came first. Raises LeaseLost.
        """
        parked = jobs.c.status.in_([Status.HALTED, Status.SUBMITTED])
        release = update(jobs).where(*self._is_held(job_id, attempt), parked).values(owner=None, lease_expires_at=None)

        def write(connection: Connection) -> bool:
            self._held(connection, job_id, attempt)
            return connection.execute(release).rowcount == 1

        return self._commit(write)

    def signals(self) -> list[Change]:
        """Return the changes that other processes made to jobs held by this one, oldest first; each only once."""
        rows = self._read(statements.SIGNALS, owner_is=self.owner)
        if rows:
            # Clear exactly these: another process may still commit a change with a lower number.
            taken = update(changes).where(changes.c.seq.in_([row.seq for row in rows])).values(signal_to=None)
            self._database.run(lambda connection: connection.execute(taken))
        return [_change(row) for row in rows]

    def prune(self, *, before: datetime | None, keep: int | None, limit: int = 200) -> list[str]:
        """Remove up to *limit* finished jobs with their changes and logs, oldest first; returns their ids.

        Removes jobs that finished before *before*, and those beyond the newest *keep*. The latter does not apply to
        failed jobs, which may be resumed.
        """
        bounds = [jobs.c.finished_at < before] if before is not None else []
        if keep is not None:
            final = [IS_FINISHED, jobs.c.status.in_(FINAL)]
            newest = select(jobs.c.finished_at, jobs.c.number).where(*final)
            in_order = newest.order_by(jobs.c.finished_at.desc(), jobs.c.number.desc())
            for row in self._read(in_order.offset(keep).limit(1)):
                is_older = or_(jobs.c.finished_at < row.finished_at, jobs.c.number <= row.number)
                bounds.append(and_(jobs.c.status.in_(FINAL), jobs.c.finished_at <= row.finished_at, is_older))
        if not bounds:
            return []
        surplus = select(jobs.c.id).where(IS_FINISHED, or_(*bounds)).order_by(jobs.c.finished_at).limit(limit)
        if not self._read(surplus):
            return []

        def write(connection: Connection) -> list[str]:
            ids = list(connection.execute(surplus.with_for_update(skip_locked=True)).scalars())
            numbers = select(jobs.c.number).where(jobs.c.id.in_(ids))
            connection.execute(delete(labels).where(labels.c.job_number.in_(numbers)))
            for table in (changes, log_lines):
                connection.execute(delete(table).where(table.c.job_id.in_(ids)))
            removed = delete(jobs).where(jobs.c.id.in_(ids)).returning(jobs.c.type, jobs.c.status)
            job_counts.note(connection, [(row.type, row.status) for row in connection.execute(removed)], -1)
            return ids

        return self._database.run(write)

    def forget_keys(self, *, before: datetime) -> None:
        """Delete idempotency keys that were first used before *before*."""
        old = idempotency_keys.c.made_at < before
        if self._read(select(idempotency_keys.c.key).where(old).limit(1)):
            self._database.run(lambda connection: connection.execute(delete(idempotency_keys).where(old)))

    # Inside a write transaction

    def _add_each(self, connection: Connection, submissions: list[tuple[NewJob, str]]) -> list[JobRecord]:
        """Store new jobs of several submissions, each with its own actor."""
        new, actors = zip(*submissions, strict=True)
        added = self._add(connection, new, actors)
        self._database.announce(connection)
        return added

    def _add(self, connection: Connection, new: Sequence[NewJob], actors: Sequence[str]) -> list[JobRecord]:
        """Insert the jobs whose idempotency key is new. Return new and existing jobs, in order."""
        now = self.now()
        # Sorted by key, so that two batches with the same keys cannot deadlock.
        in_order = sorted(new, key=_stored_key)
        stored_as = {job.id: self._id_by_key(connection, job, new, now) for job in in_order}
        fresh = [(job, actor) for job, actor in zip(new, actors, strict=True) if stored_as[job.id] == job.id]
        added = {job.id: job for job in self._insert(connection, fresh, now)} if fresh else {}
        ids = [stored_as[job.id] for job in new]
        return [added.get(job_id) or self._found(connection, job_id) for job_id in ids]

    def _id_by_key(self, connection: Connection, job: NewJob, batch: Sequence[NewJob], now: datetime) -> str:
        """Return the id of the job that has the submission's key: its own id if the key is new. Raises Conflict."""
        if job.idempotency_key is None:
            return job.id
        row = {"key": _stored_key(job), "fingerprint": job.fingerprint(), "job_id": job.id, "made_at": now}
        if job.idempotency_scope:
            _scope_older_key(connection, job)
        # Blocks while an open transaction of another process uses the key.
        used = self._database.insert(idempotency_keys).values(row).on_conflict_do_nothing()
        if connection.execute(used.returning(idempotency_keys.c.key)).first() is not None:
            return job.id
        mine = idempotency_keys.c.key == row["key"]
        earlier = connection.execute(select(idempotency_keys).where(mine).with_for_update()).one()
        if earlier.fingerprint != row["fingerprint"]:
            raise Conflict("The idempotency key was used for another submission; use a new one.")
        found: str = earlier.job_id
        is_there = connection.execute(statements.JOB, {"id_is": found}).first() is not None
        if is_there or any(other.id == found for other in batch):
            return found
        # That job was removed, so the key is free again.
        connection.execute(update(idempotency_keys).where(mine).values(row))
        return job.id

    def _insert(
        self, connection: Connection, submissions: Sequence[tuple[NewJob, str]], now: datetime
    ) -> list[JobRecord]:
        new, actors = zip(*submissions, strict=True)
        self._make_room(connection, len(new))
        rows = [_of_submission(job) for job in new]
        of_each = _of_each(now)
        numbers = self._database.add_many(connection, statements.PUT_JOB, _in_columns(rows), of_each)
        changed = {"job_id": [job.id for job in new], "actor": actors}
        seqs = self._database.add_many(connection, statements.ADD_CHANGE, changed, _submission(now))
        _count_new(connection, new)
        self._keep_room(connection, seqs[-1])
        _add_labels(connection, new, numbers, now)
        return [self._new(row | of_each, number) for row, number in zip(rows, numbers, strict=True)]

    def _put_all(self, connection: Connection, new: NewBatch, actor: str) -> list[str]:
        """Store a batch part by part; returns the ids. Raises RuntimeError if their number differs from `len(new)`."""
        self._make_room(connection, len(new))
        now = self.now()
        ids: list[str] = []
        for part in _parts(new.jobs):
            if any(job.labels for job in part):
                self._insert(connection, [(job, actor) for job in part], now)
            else:
                self._put(connection, part, actor, now)
            ids += [job.id for job in part]
            del part  # free the part's jobs, which may be large, before the next part is made
        if len(ids) != len(new):
            raise RuntimeError(f"{len(new)} jobs were checked, but {len(ids)} were to be stored. Nothing was stored.")
        return ids

    def _put(self, connection: Connection, new: Sequence[NewJob], actor: str, now: datetime) -> None:
        """Insert jobs without keys and labels in bulk; returns nothing."""
        last = connection.execute(statements.LAST_JOB).scalar_one()
        columns = {name: list(map(of, new)) for name, of in _OF_SUBMISSION.items()}
        self._database.execute_many(connection, statements.PUT_JOB, columns, _of_each(now))
        connection.execute(statements.PUT_CHANGES, {"last_job": last, "actor": actor, "now": now})
        _count_new(connection, new)
        self._keep_room(connection, self._last_change(connection))

    def _make_room(self, connection: Connection, wanted: int) -> None:
        """Raise QueueFull if *wanted* more jobs exceed the limit. Counts only if they come close to it."""
        if self._may_be_full(wanted):
            self._count_waiting(connection, wanted)

    def _keep_room(self, connection: Connection, seq: int) -> None:
        """Raise QueueFull if the limit is exceeded. *seq*, the newest change, shows how much other processes wrote."""
        self._last_seq = seq
        if self._may_be_full(0):
            self._count_waiting(connection, 0)

    def _may_be_full(self, wanted: int) -> bool:
        # Every job that began to wait since the last count has added a change, in whatever process.
        waiting, counted_at = self._waiting
        return waiting + max(0, self._last_seq - counted_at) + wanted > self._queue_limit - _UNSEEN

    def _count_waiting(self, connection: Connection, wanted: int) -> None:
        self._database.take_turn(connection, "submissions")
        ((counted,),) = self._database.execute(connection, job_counts.WAITING, {})
        waiting = int(counted) + job_counts.noted(connection, Status.SUBMITTED)
        if waiting + wanted > self._queue_limit:
            raise QueueFull(self._queue_limit)
        self._waiting = waiting, self._last_change(connection)

    def _last_change(self, connection: Connection) -> int:
        ((seq,),) = self._database.execute(connection, statements.LAST_CHANGE, {})
        return int(seq)

    def _clocks(self) -> Values:
        return {"now": self.now(), "lease_now": self._database.lease_now(), "owner_is": self.owner}

    def _take(
        self, connection: Connection, query: Callable[[tuple[str, ...]], Select[Any]], wanted: Wanted, limit: int
    ) -> list[JobRecord]:
        """Claim up to *limit* of the wanted jobs, found by *query* for their types."""
        if wanted.max_running:
            self._database.take_turn(connection, "bounded claim")
        full = _full_types(connection, wanted.max_running)
        found = query(tuple(name for name in wanted.types if name not in full))
        rows = self._database.execute(connection, found, self._clocks() | {"limit": limit})
        held: Values = {"owner": self.owner, "lease_expires_at": self._lease_end()}
        moves: dict[str, Move] = {}
        for job in map(self._job, rows):
            # Claim one job per limited type: the next claim counts the running ones again.
            key = job.type if job.type in wanted.max_running else job.id
            moves.setdefault(key, self._decide(job, Action.CLAIM, held))
        return [applied.job for applied in self._move_all(connection, list(moves.values()))]

    def _settle_all(self, connection: Connection, ended: list[_Ended]) -> list[Applied | None]:
        """Record the outcomes of several attempts, and claim the wanted jobs in their places."""
        applied = self._settle_as_seen(connection, ended) or self._settle_reloaded(connection, ended)
        wanting = [place for place, one in enumerate(ended) if one.wanted is not None and applied[place] is not None]
        claimed = self._take_instead(connection, [wanted for place in wanting if (wanted := ended[place].wanted)])
        for place, job in zip(wanting, claimed, strict=False):
            if came := applied[place]:
                applied[place] = Applied(job=came.job, change=came.change, claimed=job)
        self._database.announce(connection)
        return applied

    def _settle_as_seen(self, connection: Connection, ended: list[_Ended]) -> list[Applied | None] | None:
        """Record the outcomes without reading the jobs, if their status, attempt and owner are as they were claimed.

        Returns None and writes nothing if one was not given as it was claimed, or if a single job has changed since.
        Raises _Overtaken if one of several has: others may be written by then, and have to be rolled back.
        """
        try:
            moves = [self._decide(one.seen, one.action, one.values) for one in ended if one.seen is not None]
            if len(moves) < len(ended):
                return None
            moves.sort(key=lambda move: (move.job.submitted_at, move.job.number), reverse=True)  # see _LOCKED_IN_ORDER
            applied = {came.job.id: came for came in self._move_all(connection, moves)}
            return [applied[one.job_id] for one in ended]
        except _Overtaken:
            if len(ended) > 1:
                raise
            return None

    def _settle_reloaded(self, connection: Connection, ended: list[_Ended]) -> list[Applied | None]:
        """Record the outcomes after reading the jobs, which may have changed meanwhile. Raises LeaseLost."""
        found = {job.id: job for job in self._found_each(connection, [one.job_id for one in ended])}
        moves: list[Move] = []
        for one in ended:
            job = found.get(one.job_id)
            if job is None or (job.attempt, job.owner) != (one.attempt, self.owner):
                raise LeaseLost(one.job_id)
            if job.status not in one.unless:
                moves.append(self._decide(job, one.action, one.values))
        applied = {came.job.id: came for came in self._move_all(connection, moves)}
        return [applied.get(one.job_id) for one in ended]

    def _take_instead(self, connection: Connection, wanted: list[Wanted]) -> list[JobRecord]:
        """Claim one job for each thread that has become free, as long as there are any."""
        if not wanted:
            return []
        if not wanted[0].max_running:
            return self._take(connection, statements.waiting, wanted[0], len(wanted))
        claimed: list[JobRecord] = []
        for one in wanted:
            if not (taken := self._take(connection, statements.waiting, one, 1)):
                break
            claimed += taken
        return claimed

    def _queue_due(self, connection: Connection) -> int:
        parameters = {"now": self.now(), "limit": _QUEUED_AT_ONCE}
        return len(self._database.execute(connection, statements.QUEUE_DUE, parameters))

    def _expire(self, connection: Connection, job: JobRecord) -> Applied:
        """Take back a job whose lease has expired. Counts a crash only if its process has died."""
        if job.owner is not None and self._database.is_alive(connection, job.owner):
            return self._take_back(connection, job, job.crashes, "its process did not renew the lease")
        if job.owner is not None and self._database.stands_still(job.owner):
            return self._take_back(connection, job, job.crashes, _STOOD_STILL)
        return self._take_back(connection, job, job.crashes + 1, "its process died")

    def _take_back(self, connection: Connection, job: JobRecord, crashes: int, reason: str) -> Applied:
        """Take the job from its owner, whose attempt can write nothing from now on."""
        if job.status not in ATTENDED:
            free = update(jobs).where(jobs.c.id == job.id).values(owner=None, lease_expires_at=None)
            connection.execute(free)
            return Applied(job=job, change=None)
        values: Values = {"crashes": crashes, "owner": None, "lease_expires_at": None}
        if job.status is Status.RUNNING and crashes >= self._max_crashes:
            values["error"] = f"The process died while running this job (crashes without progress: {crashes})."
        applied = self._transition(connection, job, Action.EXPIRE, values, reason=reason)
        _log.warning("Took job %s from %s because %s. It is now %s.", job.id, job.owner, reason, applied.job.status)
        return applied

    def _found(self, connection: Connection, job_id: str) -> JobRecord:
        """Load the job FOR UPDATE; raises UnknownJob."""
        rows = self._database.execute(connection, statements.JOB_LOCKED, {"id_is": job_id})
        if not rows:
            raise UnknownJob(job_id)
        return self._job(rows[0])

    def _found_each(self, connection: Connection, job_ids: Collection[str]) -> list[JobRecord]:
        """Load the jobs FOR UPDATE. Missing ones are left out."""
        if len(job_ids) == 1:
            (job_id,) = job_ids
            return [
                self._job(row) for row in self._database.execute(connection, statements.JOB_LOCKED, {"id_is": job_id})
            ]
        several = select(jobs).where(jobs.c.id.in_(job_ids)).order_by(*_LOCKED_IN_ORDER).with_for_update()
        return [self._job(tuple(row)) for row in connection.execute(several)]

    def _found_each_briefly(self, connection: Connection, job_ids: Collection[str]) -> list[JobRecord]:
        """Load the jobs FOR UPDATE, without the large columns, which no requested action depends on."""
        several = select(*_BRIEF).where(jobs.c.id.in_(job_ids)).order_by(*_LOCKED_IN_ORDER).with_for_update()
        return [self._job(row) for row in connection.execute(several)]

    def _held(self, connection: Connection, job_id: str, attempt: int) -> JobRecord:
        """Load the job FOR UPDATE if this attempt of this process holds it; raises LeaseLost."""
        held = {"id_is": job_id, "attempt_is": attempt, "owner_is": self.owner}
        rows = self._database.execute(connection, statements.JOB_HELD, held)
        if not rows:
            raise LeaseLost(job_id)
        return self._job(rows[0])

    def _is_held(self, job_id: str, attempt: int) -> tuple[Any, ...]:
        """Return the conditions under which this attempt of this process holds the job."""
        return jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.owner == self.owner

    def _transition(
        self, connection: Connection, job: JobRecord, action: Action, values: Values, **who: Any
    ) -> Applied:
        """Apply *action* to a job that this transaction has read; see _move_all. Raises NotAllowed."""
        move = self._decide(job, action, values)
        if move.is_idle():
            return Applied(job=job, change=None)
        (applied,) = self._move_all(connection, [move], **who)
        return applied

    def _decide(self, job: JobRecord, action: Action, values: Values) -> Move:
        return decide(job, action, values, max_crashes=self._max_crashes)

    def _move_all(
        self, connection: Connection, moves: Sequence[Move], *, actor: str = "engine", reason: str | None = None
    ) -> list[Applied]:
        """Write the moves and record them as changes. The only place where statuses are written.

        Raises _Overtaken if the status, attempt or owner of any job has changed since it was read. A single job is then
        unchanged; of several, this transaction may have moved some.
        """
        if not moves:
            return []
        now = self.now()
        columns = [move.columns(now) for move in moves]
        for alike in _of_same_columns([values | move.seen() for move, values in zip(moves, columns, strict=True)]):
            statement = statements.move_job(tuple(alike))
            if self._database.execute_many(connection, statement, alike, {}) < len(alike["number_is"]):
                raise _Overtaken
        moved = [self._moved(move.job, values) for move, values in zip(moves, columns, strict=True)]
        happened = [move.change(job.attempt, now) for move, job in zip(moves, moved, strict=True)]
        told = _in_columns(happened) | {"signal_to": [self._to_be_told(move.job) for move in moves]}
        said: Values = {"actor": actor, "reason": reason}
        seqs = self._database.add_many(connection, statements.ADD_CHANGE, told, said)
        job_counts.note(connection, [(move.job.type, move.job.status) for move in moves], -1)
        job_counts.note(connection, [(move.job.type, move.to_status) for move in moves], 1)
        return [
            Applied(job=job, change=Change(seq=seq, **change, **said))
            for job, change, seq in zip(moved, happened, seqs, strict=True)
        ]

    def _to_be_told(self, job: JobRecord) -> str | None:
        """Return the process that holds the job, if it is another one."""
        return job.owner if job.owner != self.owner else None

    def _commit(self, write: Callable[[Connection], T]) -> T:
        """Run *write*, commit, and wake the other processes."""

        def announced(connection: Connection) -> T:
            result = write(connection)
            self._database.announce(connection)
            return result

        return self._database.run(announced)

    def _end_leases_of_the_dead(self) -> None:
        dead = self._database.dead_owners()
        if dead:
            theirs = and_(IS_HELD, jobs.c.owner.in_(dead))
            ended = update(jobs).where(theirs).values(lease_expires_at=self._database.lease_now())
            self._database.run(lambda connection: connection.execute(ended))

    def _prepare(self) -> None:
        """Bring the tables up to date and register this process. Closes the database on failure."""
        try:
            with self._database.begin_alone() as connection:
                bring_up_to_date(connection)
                self._forget_earlier_boots(connection)
            self._database.join(self.owner)
        except BaseException:
            self._database.close()
            raise

    def _forget_earlier_boots(self, connection: Connection) -> None:
        """End the leases from before this boot of the machine: the boot has reset the lease clock (SQLite only)."""
        if isinstance(self._database, sqlite.Database):
            earlier = and_(IS_HELD, jobs.c.owner.not_like(f"{_boot()}:%"))
            connection.execute(update(jobs).where(earlier).values(lease_expires_at=self._database.lease_now()))

    def _lease_end(self) -> datetime:
        return self._database.lease_now() + self._lease

    # Reading

    def _job(self, row: Sequence[Any]) -> JobRecord:
        """Return the row as a JobRecord, with its lease converted to the wall clock."""
        return self._shown(dict(zip(_COLUMNS, row, strict=True)))

    def _listed(self, row: Row[Any]) -> tuple[JobRecord, int]:
        """Return the row of a list as a JobRecord, and its approximate size in bytes."""
        sizes = {name: getattr(row, f"{name}_bytes") or 0 for name in search.LARGE}
        too_large = tuple(name for name, size in sizes.items() if size > MOST_LISTED_BYTES)
        values = dict(zip(_COLUMNS, row[: len(_COLUMNS)], strict=True)) | {"shortened": too_large}
        shown = sum(size for name, size in sizes.items() if name not in too_large)
        return self._shown(values), _JOB_BYTES + shown + row.other_bytes

    def _new(self, row: Values, number: int) -> JobRecord:
        """Return the job that *row* becomes once it is stored, without reading it back."""
        as_read = {name: json.loads(to_json(row[name])) for name in ("args", "labels") if row[name] != {}}
        return self._shown({**statements.NEW_JOB, **row, **as_read, "details": {}, "number": number})

    def _shown(self, values: Values) -> JobRecord:
        values.setdefault("shortened", ())
        for name in ("args", "details"):
            values[name] = values[name] or {}  # null if the query left it out
        values["status"] = Status(values["status"])
        if values["run_at"] == AT_ONCE:
            values["run_at"] = values["submitted_at"]
        if values["lease_expires_at"] is not None:
            values["lease_expires_at"] += self._from_lease_clock()
        values["checkpoint"] = Checkpoint(
            seq=values["checkpoint_seq"],
            cursor=values["cursor"],
            done=_whole(values["done"]),
            total=_whole(values["total"]),
            message=values["message"],
            saved_at=values["saved_at"],
            gap_seconds=values["gap_seconds"],
        )
        return _record({name: values[name] for name in _FIELDS})

    def _moved(self, job: JobRecord, columns: Values) -> JobRecord:
        """Return the job as it is once *columns* are stored, without reading it back."""
        values = {**job.__dict__, **columns}
        values.pop("waits_until", None)
        if columns.get("run_at") == AT_ONCE:
            values["run_at"] = job.submitted_at
        if columns.get("result") is not None:
            values["result"] = json.loads(to_json(columns["result"]))
        if columns.get("error") is not None:
            values["error"] = storable(columns["error"], longest=len(columns["error"]))
        if columns.get("lease_expires_at") is not None:
            values["lease_expires_at"] += self._from_lease_clock()
        return _record(values)

    def _from_lease_clock(self) -> timedelta:
        """Return the offset from the lease clock to the wall clock, smoothed so that repeated reads are equal."""
        measured = self.now() - self._database.lease_now()
        if abs(measured - self._clock_offset) > _CLOCK_JITTER:
            self._clock_offset = measured
        return self._clock_offset

    def _way(self, ways: Sequence[search.Way], selection: Selection, before: Position | None) -> search.Way:
        """Choose the way that reads the fewest index entries. Queries a sample if there are several."""
        if len(ways) == 1:
            return ways[0]
        (reached,) = self._read(search.reach(ways, selection, before))
        return search.sparsest(ways, reached)

    def _ask(self, query: Select[Any], parameters: Values) -> Rows:
        """Run a prepared query and return its rows; raises StoreUnavailable."""
        try:
            return self._database.read(query, parameters)
        except DBAPIError as error:
            raise StoreUnavailable("The store does not answer. Try again later.") from error

    def _read(self, query: Select[Any] | CompoundSelect[Any], **parameters: Any) -> Sequence[Row[Any]]:
        with self._reading(query, **parameters) as rows:
            return rows.all()

    @contextmanager
    def _reading(self, query: Select[Any] | CompoundSelect[Any], **parameters: Any) -> Iterator[CursorResult[Any]]:
        """Run a query and yield its result, to be read row by row; raises StoreUnavailable."""
        try:
            with self._database.reader.connect() as connection:
                yield connection.execute(query, parameters)
        except DBAPIError as error:
            raise StoreUnavailable("The store does not answer. Try again later.") from error


def _record(values: Values) -> JobRecord:
    """Return JobRecord(**values), in a tenth of the time."""
    job = object.__new__(JobRecord)
    job.__dict__.update(values)
    return job


def _position(row: JobRecord | Row[Any]) -> Position:
    return Position(submitted_at=row.submitted_at, number=row.number)


def _of_same_columns(rows: Iterable[Values]) -> Iterator[Columns]:
    """Yield the rows as columns: one group for each run of successive rows with the same columns."""
    return (_in_columns(list(alike)) for _, alike in groupby(rows, tuple))


def _in_columns(rows: Sequence[Values]) -> dict[str, Sequence[Any]]:
    """Return the rows as columns. The rows must have equal columns, in the same order."""
    return dict(zip(rows[0], zip(*(row.values() for row in rows), strict=True), strict=True))


def _until(run_at: datetime | None, job: JobRecord) -> Values:
    """Return the columns that delay a resume until *run_at*, if given, but never before the job's scheduled time."""
    if run_at is None:
        return {}
    return {"run_at": max(run_at, job.run_at) if job.is_scheduled() else run_at}


def _full_types(connection: Connection, max_running: dict[str, int]) -> list[str]:
    """Return the types that have reached their limit of running jobs."""
    if not max_running:
        return []
    at_work = and_(jobs.c.status.in_(ATTENDED), jobs.c.owner.is_not(None), jobs.c.type.in_(max_running))
    counts = connection.execute(select(jobs.c.type, func.count()).where(at_work).group_by(jobs.c.type))
    return [name for name, count in counts if count >= max_running[name]]


def _stored_key(job: NewJob) -> str:
    """Return the idempotency key as stored. Keys are printable, so the separator cannot occur in one."""
    key = job.idempotency_key or ""
    return f"{job.idempotency_scope}\x1f{key}" if job.idempotency_scope else key


def _scope_older_key(connection: Connection, job: NewJob) -> None:
    """Move a key from before keys had scopes to the scope of the submission, if the same actor used it."""
    submitted = select(changes.c.seq).where(
        changes.c.job_id == idempotency_keys.c.job_id,
        changes.c.action == Action.SUBMIT,
        changes.c.actor == job.idempotency_scope,
    )
    scoped = idempotency_keys.alias()
    is_taken = select(scoped.c.key).where(scoped.c.key == _stored_key(job)).exists()
    older = and_(idempotency_keys.c.key == job.idempotency_key, submitted.exists(), ~is_taken)
    connection.execute(update(idempotency_keys).where(older).values(key=_stored_key(job)))


def _of_submission(job: NewJob) -> Values:
    """Return the columns of a job that its submission sets."""
    return {name: of(job) for name, of in _OF_SUBMISSION.items()}


#: How to get each column that a submission sets.
_OF_SUBMISSION: dict[str, Callable[[NewJob], Any]] = {
    "id": attrgetter("id"),
    "type": attrgetter("type"),
    "args": attrgetter("args"),
    "priority": attrgetter("priority"),
    "labels": attrgetter("labels"),
    "max_attempts": attrgetter("max_attempts"),
    "timeout_seconds": lambda job: None if job.timeout_seconds is None else float(job.timeout_seconds),
    "run_at": lambda job: job.run_at or AT_ONCE,
    "waits_until": attrgetter("run_at"),
    "traceparent": attrgetter("traceparent"),
}


def _of_each(now: datetime) -> Values:
    """Return the columns with the same values for all new jobs."""
    return {"status": Status.SUBMITTED, "submitted_at": now}


def _submission(now: datetime) -> Values:
    """Return the first change of every job, without job id and actor."""
    change = {"action": Action.SUBMIT, "from_status": None, "to_status": Status.SUBMITTED, "attempt": 0}
    return change | {"reason": None, "asked_at": now, "at": now, "signal_to": None}


def _parts(new: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    """Yield the jobs in lists of up to _PART_JOBS; a list ends with the job that makes it larger than _PART_SIZE."""
    some: list[NewJob] = []
    size = 0
    for job in new:
        some.append(job)
        size += len(to_json(job.args)) + len(to_json(job.labels))
        del job  # see _put_all
        if len(some) == _PART_JOBS or size > _PART_SIZE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _add_labels(connection: Connection, new: Sequence[NewJob], numbers: Sequence[int], now: datetime) -> None:
    rows: list[Values] = [
        {"job_number": number, "name": name, "value": value, "submitted_at": now}
        for job, number in zip(new, numbers, strict=True)
        for name, value in job.labels.items()
    ]
    if rows:
        connection.execute(insert(labels), rows)


def _count_new(connection: Connection, new: Sequence[NewJob]) -> None:
    job_counts.note(connection, [(job.type, Status.SUBMITTED) for job in new], 1)


def _change(row: Row[Any]) -> Change:
    """Return the row as a Change."""
    return Change(
        seq=row.seq,
        job_id=row.job_id,
        action=Action(row.action),
        from_status=Status(row.from_status) if row.from_status else None,
        to_status=Status(row.to_status),
        attempt=row.attempt,
        actor=row.actor,
        reason=row.reason,
        asked_at=row.asked_at,
        at=row.at,
    )


def _progress(row: Row[Any]) -> Progress:
    """Return the row as a Progress."""
    return Progress(
        job_id=row.id,
        type=row.type,
        labels=row.labels,
        status=Status(row.status),
        checkpoint=Checkpoint(
            seq=row.checkpoint_seq,
            done=_whole(row.done),
            total=_whole(row.total),
            message=row.message,
            saved_at=row.saved_at,
        ),
        running_since=row.running_since,
        ran_seconds=row.ran_seconds,
    )


def _connect(url: str, clock: Callable[[], datetime] | None) -> sqlite.Database | postgresql.Database:
    """Return the database. Does not connect. Raises ConfigError, which does not show the URL and its password."""
    try:
        check_at_signs(url)
    except ValueError as error:
        raise ConfigError(f"JOBMANAGER_DATABASE_URL cannot be used: {error}.") from None
    try:
        kind = make_url(url).get_backend_name()
    except (ArgumentError, ValueError):
        raise ConfigError("JOBMANAGER_DATABASE_URL cannot be used: it is not a URL that SQLAlchemy can read.") from None
    if kind == "sqlite":
        return sqlite.Database(url, to_json, clock=clock)
    if kind == "postgresql":
        if find_spec("psycopg") is None:
            raise ConfigError(
                "JOBMANAGER_DATABASE_URL cannot be used: PostgreSQL needs psycopg, which is not installed. "
                "Install the service as jobmanager[postgresql]."
            )
        from jobmanager.store import postgresql  # noqa: PLC0415 - processes on SQLite need not load its driver

        return postgresql.Database(url, to_json)
    raise ConfigError(f"JOBMANAGER_DATABASE_URL cannot be used: the store can be SQLite or PostgreSQL, not {kind}.")


def note_standstill(url: str, pid: int) -> None:
    """Mark a process of this machine as stalled, so that its death does not count as a crash.

    Takes no lock of the database, because the process may hold it. Does nothing on PostgreSQL.
    """
    found = make_url(url)
    if found.get_backend_name() == "sqlite" and found.database:
        sqlite.note_standstill(found.database, _owner_prefix(pid))


def _owner_prefix(pid: int) -> str:
    """Return the prefix of all owner names of a process.

    The namespace distinguishes processes of two containers with the same host name and process id.
    """
    return f"{_boot()}:{socket.gethostname()}:{pid}:{_pid_namespace()}-"


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"


def _boot() -> str:
    """Return an identifier of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]


def _whole(number: float | None) -> float | None:
    """Return a whole number as an int: most jobs count in whole numbers."""
    # SQLite returns an int or a float; int has is_integer() only from Python 3.12 on.
    return int(number) if number is not None and float(number).is_integer() else number


def _cause(error: Exception) -> str:
    """Return the cause as a text for the operator who starts the service."""
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)

"""The statements that every job needs, built once: building a statement takes longer than running it.

Statements only: they decide nothing about a job.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    Select,
    Table,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from jobmanager.core.states import Action
from jobmanager.store.schema import IS_HELD, IS_PUT_OFF, IS_QUEUED, IS_STOPPING, changes, jobs


def _unset(column: Column[Any]) -> Any:
    """Return the initial value of a column that the submission does not set."""
    if isinstance(column.default, ScalarElementColumnDefault):
        return column.default.arg
    return None if column.nullable else {}


def _names(table: Table) -> list[str]:
    return [column.name for column in table.c]


_NOW = bindparam("now", type_=jobs.c.run_at.type)
_LEASE_NOW = bindparam("lease_now", type_=jobs.c.lease_expires_at.type)
_OWNER = bindparam("owner_is", type_=jobs.c.owner.type)
_LIMIT = bindparam("limit", type_=Integer())

_IS_JOB = jobs.c.id == bindparam("id_is")
_IS_OWNED = and_(_IS_JOB, jobs.c.attempt == bindparam("attempt_is"), jobs.c.owner == _OWNER)
# A job whose thread is parked in another process may be claimed by that process only, as long as its lease is valid.
_IS_FREE = or_(jobs.c.owner.is_(None), jobs.c.owner == _OWNER, jobs.c.lease_expires_at <= _LEASE_NOW)
_IS_CLAIMABLE = and_(IS_QUEUED, _IS_FREE)
_IS_TO_CLEAN = and_(IS_STOPPING, jobs.c.owner.is_(None), jobs.c.run_at <= _NOW)

_LEASE_HAS_EXPIRED = and_(IS_HELD, jobs.c.lease_expires_at <= _LEASE_NOW)

JOB = select(jobs).where(_IS_JOB)
JOB_LOCKED = JOB.with_for_update()
JOB_OWNED = select(jobs).where(_IS_OWNED).with_for_update()
#: The initial values of a job, for columns that its submission does not set.
NEW_JOB = {column.name: _unset(column) for column in jobs.c}
#: Inserts a job. Sets only the columns of a submission and those that must not be null.
PUT_JOB = insert(jobs).values(
    {
        name: bindparam(name, _unset(jobs.c[name]), type_=jobs.c[name].type)
        for name in _names(jobs)
        if name != "number" and (name in ("timeout_seconds", "traceparent", "waits_until") or not jobs.c[name].nullable)
    }
)
LAST_JOB = select(func.coalesce(func.max(jobs.c.number), 0))
#: Adds the first change of each job numbered above `last_job`, from the rows of the jobs. Skips jobs that have a change
#: already: another transaction may have committed such jobs meanwhile.
PUT_CHANGES = insert(changes).from_select(
    ["job_id", "action", "to_status", "attempt", "actor", "asked_at", "at"],
    select(
        jobs.c.id,
        literal(Action.SUBMIT, changes.c.action.type),
        jobs.c.status,
        jobs.c.attempt,
        bindparam("actor", type_=changes.c.actor.type),
        _NOW,
        _NOW,
    )
    .where(jobs.c.number > bindparam("last_job"), ~exists().where(changes.c.job_id == jobs.c.id))
    .order_by(jobs.c.number),
)
ADD_CHANGE = insert(changes).values(
    {column.name: bindparam(column.name, type_=column.type) for column in changes.c if column.name != "seq"}
)
LAST_CHANGE = select(func.coalesce(func.max(changes.c.seq), 0))
SIGNALS = select(changes).where(changes.c.signal_to == _OWNER, changes.c.signal_to.is_not(None)).order_by(changes.c.seq)

#: Jobs whose lease has expired, the longest expired first.
EXPIRED = (
    select(jobs)
    .where(_LEASE_HAS_EXPIRED)
    .order_by(jobs.c.lease_expires_at, jobs.c.number)
    .limit(500)
    .with_for_update(skip_locked=True)
)
HAS_EXPIRED = select(exists(select(literal(1)).where(_LEASE_HAS_EXPIRED)))


def by_index(query: Select[Any], index: str) -> Select[Any]:
    """Make SQLite use *index*. Its planner would pick a more selective index, and sort thousands of rows for a few."""
    return query.with_hint(jobs, f"INDEXED BY {index}", "sqlite")


@cache
def look(types: tuple[str, ...]) -> Select[Any]:
    """Return the query by which an engine polls for work on jobs of these types. It finds one row; see Outlook."""
    known = _is_of(types)
    is_signalled = exists(select(literal(1)).where(changes.c.signal_to == _OWNER, changes.c.signal_to.is_not(None)))
    next_put_off = by_index(select(func.min(jobs.c.waits_until)).where(IS_PUT_OFF), "jobs_due")
    put_off_clean = IS_STOPPING, jobs.c.run_at > _NOW
    next_to_clean = by_index(select(func.min(jobs.c.run_at)).where(*put_off_clean), "jobs_to_clean")
    return select(
        is_signalled.label("is_signalled"),
        exists(by_index(select(literal(1)).where(_IS_CLAIMABLE, known), "jobs_waiting")).label("has_waiting"),
        exists(by_index(select(literal(1)).where(_IS_TO_CLEAN, known), "jobs_to_clean")).label("has_to_clean"),
        next_put_off.scalar_subquery().label("next_put_off_at"),
        next_to_clean.scalar_subquery().label("next_to_clean_at"),
    )


_DUE = by_index(select(jobs.c.number).where(IS_PUT_OFF, jobs.c.waits_until <= _NOW), "jobs_due")
_NEXT_DUE = _DUE.order_by(jobs.c.waits_until).limit(_LIMIT).with_for_update(skip_locked=True)
#: Puts delayed jobs that are due into the queue.
QUEUE_DUE = update(jobs).where(jobs.c.number.in_(_NEXT_DUE)).values(waits_until=None).returning(jobs.c.number)


@cache
def waiting(types: tuple[str, ...]) -> Select[Any]:
    """Return the query of the jobs of these types that can be claimed, most urgent first; it locks them."""
    query = by_index(select(jobs).where(_IS_CLAIMABLE, _is_of(types)), "jobs_waiting")
    return query.order_by(jobs.c.priority.desc(), jobs.c.number).limit(_LIMIT).with_for_update(skip_locked=True)


@cache
def to_clean(types: tuple[str, ...]) -> Select[Any]:
    """Return the query of the unowned stopping jobs of these types that are due, oldest first; it locks them."""
    query = by_index(select(jobs).where(_IS_TO_CLEAN, _is_of(types)), "jobs_to_clean")
    return query.order_by(jobs.c.run_at, jobs.c.number).limit(_LIMIT).with_for_update(skip_locked=True)


@cache
def move_job(names: tuple[str, ...]) -> Update:
    """Return the compare-and-set that moves a job if its status, attempt and owner are those that were read.

    *names* are its parameters: the columns to set, and the values that were read (`number_is`, `status_is` …).
    """
    expected = {"number_is", "status_is", "attempt_is", "owner_is"}
    is_unchanged = and_(
        jobs.c.number == bindparam("number_is"),
        jobs.c.status == bindparam("status_is"),
        jobs.c.attempt == bindparam("attempt_is"),
        # Compare the owner, too: a stopping job whose lease expired keeps its status and attempt until it is claimed.
        jobs.c.owner.is_not_distinct_from(_OWNER),
    )
    return update(jobs).where(is_unchanged).values(_parameters(sorted(set(names) - expected)))


@cache
def save_checkpoint(columns: tuple[str, ...]) -> Update:
    """Return the update of an owned job that saves a checkpoint in *columns*, and returns the job's status.

    Increments `checkpoint_seq` if *columns* contains `saved_at`. A new cursor resets `crashes`.
    """
    values = _parameters(columns)
    if "saved_at" in columns:
        values["checkpoint_seq"] = jobs.c.checkpoint_seq + 1
    if "cursor" in columns:
        # Only a new cursor is progress: from the same one, the next attempt would crash again.
        has_moved = cast(jobs.c.cursor, Text).is_distinct_from(bindparam("cursor_is", type_=Text()))
        values["crashes"] = case((has_moved, 0), else_=jobs.c.crashes)
    return update(jobs).where(_IS_OWNED).values(values).returning(jobs.c.status)


def _is_of(types: tuple[str, ...]) -> ColumnElement[bool]:
    # One parameter per type: SQLAlchemy would expand a list into the statement's text at every execution.
    # Without types, compare with "", which no job has: INDEXED BY fails if SQLite sees that the condition is false.
    return jobs.c.type.in_([literal(name, jobs.c.type.type) for name in types or ("",)])


def _parameters(columns: Iterable[str]) -> dict[str, Any]:
    return {name: bindparam(name, type_=jobs.c[name].type) for name in columns}

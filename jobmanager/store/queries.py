"""The statements that every job goes through, built once: building one takes longer than the database takes to run it.

Statements only; what they mean for a job is decided in store.py.
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

from jobmanager.states import Action
from jobmanager.store.schema import IS_HELD, IS_PUT_OFF, IS_QUEUED, IS_STOPPING, changes, jobs


def _unset(column: Column[Any]) -> Any:
    """Return what a new job has in a column that its submission says nothing of."""
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
_IS_HELD = and_(_IS_JOB, jobs.c.attempt == bindparam("attempt_is"), jobs.c.owner == _OWNER)
# A job whose thread is parked in another process is that process's to wake, while it lives.
_IS_FREE = or_(jobs.c.owner.is_(None), jobs.c.owner == _OWNER, jobs.c.lease_expires_at <= _LEASE_NOW)
_IS_CLAIMABLE = and_(IS_QUEUED, _IS_FREE)
_IS_TO_CLEAN = and_(IS_STOPPING, jobs.c.owner.is_(None), jobs.c.run_at <= _NOW)

_IS_SILENT = and_(IS_HELD, jobs.c.lease_expires_at <= _LEASE_NOW)

JOB = select(jobs).where(_IS_JOB)
JOB_LOCKED = JOB.with_for_update()
JOB_HELD = select(jobs).where(_IS_HELD).with_for_update()
#: What a new job is beside what its submission says.
NEW_JOB = {column.name: _unset(column) for column in jobs.c}
#: No more is set than a submission says, and than has to be.
PUT_JOB = insert(jobs).values(
    {
        name: bindparam(name, _unset(jobs.c[name]), type_=jobs.c[name].type)
        for name in _names(jobs)
        if name != "number" and (name in ("timeout_seconds", "traceparent", "waits_until") or not jobs.c[name].nullable)
    }
)
LAST_JOB = select(func.coalesce(func.max(jobs.c.number), 0))
#: The first changes of the jobs that were put behind the last one: what they say is in the database already. Another
#: transaction may commit jobs meanwhile, but with their changes.
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

#: Jobs of owners that fell silent, those first that did so first.
SILENT = (
    select(jobs)
    .where(_IS_SILENT)
    .order_by(jobs.c.lease_expires_at, jobs.c.number)
    .limit(500)
    .with_for_update(skip_locked=True)
)
HAS_SILENT = select(exists(select(literal(1)).where(_IS_SILENT)))


def by_index(query: Select[Any], index: str) -> Select[Any]:
    """Have SQLite go through jobs by that index: it would take one that filters more, and sort thousands for a few."""
    return query.with_hint(jobs, f"INDEXED BY {index}", "sqlite")


@cache
def look(types: tuple[str, ...]) -> Select[Any]:
    """Return the query of all that an engine wants to know before it does anything: one row, five answers."""
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
#: Jobs that were put off and are due get their place in the queue.
QUEUE_DUE = update(jobs).where(jobs.c.number.in_(_NEXT_DUE)).values(waits_until=None).returning(jobs.c.number)


@cache
def waiting(types: tuple[str, ...]) -> Select[Any]:
    """Return the query of jobs that can be claimed, the most urgent first."""
    query = by_index(select(jobs).where(_IS_CLAIMABLE, _is_of(types)), "jobs_waiting")
    return query.order_by(jobs.c.priority.desc(), jobs.c.number).limit(_LIMIT).with_for_update(skip_locked=True)


@cache
def to_clean(types: tuple[str, ...]) -> Select[Any]:
    """Return the query of stopping jobs that nobody attends to: those that are put off by nothing, the eldest first."""
    query = by_index(select(jobs).where(_IS_TO_CLEAN, _is_of(types)), "jobs_to_clean")
    return query.order_by(jobs.c.run_at, jobs.c.number).limit(_LIMIT).with_for_update(skip_locked=True)


@cache
def move_job(names: tuple[str, ...]) -> Update:
    """Return the update that moves a job on as it was seen: its status, attempt and owner.

    Sets the columns among *names*, which has the parameters of what was seen, too.
    """
    seen = {"number_is", "status_is", "attempt_is", "owner_is"}
    as_seen = and_(
        jobs.c.number == bindparam("number_is"),
        jobs.c.status == bindparam("status_is"),
        jobs.c.attempt == bindparam("attempt_is"),
        # A stopping job whose owner fell silent keeps status and attempt until somebody else has claimed it.
        jobs.c.owner.is_not_distinct_from(_OWNER),
    )
    return update(jobs).where(as_seen).values(_parameters(sorted(set(names) - seen)))


@cache
def save_checkpoint(columns: tuple[str, ...]) -> Update:
    """Return the update of a held job that saves what an attempt has reached, setting *columns*; counts if any are."""
    values = _parameters(columns)
    if "saved_at" in columns:
        values["checkpoint_seq"] = jobs.c.checkpoint_seq + 1
    if "cursor" in columns:
        # Where the next attempt would begin is what counts: at the same place, it would crash again.
        has_moved = cast(jobs.c.cursor, Text).is_distinct_from(bindparam("cursor_is", type_=Text()))
        values["crashes"] = case((has_moved, 0), else_=jobs.c.crashes)
    return update(jobs).where(_IS_HELD).values(values).returning(jobs.c.status)


def _is_of(types: tuple[str, ...]) -> ColumnElement[bool]:
    # Of bound values, one by one: a list would be put into the text of the statement anew each time.
    # Without any, no job's type is "": SQLite could not go by its index where it sees that nothing can be true.
    return jobs.c.type.in_([literal(name, jobs.c.type.type) for name in types or ("",)])


def _parameters(columns: Iterable[str]) -> dict[str, Any]:
    return {name: bindparam(name, type_=jobs.c[name].type) for name in columns}

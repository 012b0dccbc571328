"""The queries behind lists of jobs, in the order of submission, the newest first.

Statements only. Each list is read by indexes that are in this very order, so that a page costs the same however many
jobs there are: one short list for each way in which a job may match, and of those the newest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, literal, select, tuple_, union

from jobmanager.records import Position, Selection
from jobmanager.states import Status
from jobmanager.store.schema import jobs, labels

#: The part of an id that is its time: a shorter beginning would mean a good part of all jobs.
_TIME_OF_ID = 13

Condition = ColumnElement[bool]


def page(selection: Selection, types: Collection[str], *, before: Position | None, limit: int) -> Select[Any]:
    """Return the query of the next *limit* jobs of a list; *types* are the names in which `q` is looked for."""
    where = and_(True, *_conditions(selection))
    by_job = [_by_job(and_(driver, where), before, limit) for driver in _drivers(selection, types)]
    by_label = [_by_label(driver, where, before, limit) for driver in _label_drivers(selection)]
    found = union(*(select(part.subquery()) for part in by_job + by_label))
    query = select(jobs).where(jobs.c.number.in_(select(found.subquery().c.number)))
    return query.order_by(jobs.c.submitted_at.desc(), jobs.c.number.desc()).limit(limit)


def _conditions(selection: Selection) -> Iterator[Condition]:
    """Yield what has to hold for each job, whichever way it was found."""
    if selection.statuses:
        yield jobs.c.status.in_(sorted(selection.statuses))
    if selection.type is not None:
        yield jobs.c.type == selection.type
    if selection.types is not None:
        yield jobs.c.type.in_(sorted(selection.types))
    if selection.submitted_after is not None:
        yield jobs.c.submitted_at >= selection.submitted_after
    if selection.submitted_before is not None:
        yield jobs.c.submitted_at < selection.submitted_before
    for name, value in selection.labels.items():
        mine = labels.alias()
        yield exists().where(mine.c.job_number == jobs.c.number, mine.c.name == name, mine.c.value == value)


def _drivers(selection: Selection, types: Collection[str]) -> Iterator[Condition]:
    """Yield the conditions by which jobs are found, each served by one index."""
    statuses = sorted(selection.statuses)
    if selection.q is not None:
        if len(selection.q) >= _TIME_OF_ID:
            yield and_(jobs.c.id >= selection.q, jobs.c.id < selection.q + "~")
        named = [name for name in types if selection.q.casefold() in name.casefold()]
        for name, status in product(named, statuses or list(Status)):
            yield and_(jobs.c.type == name, jobs.c.status == status)
    elif selection.labels:
        return
    elif selection.type is not None:
        for status in statuses or list(Status):
            yield and_(jobs.c.type == selection.type, jobs.c.status == status)
    elif selection.types is not None:
        for name, status in product(sorted(selection.types), statuses or list(Status)):
            yield and_(jobs.c.type == name, jobs.c.status == status)
    elif statuses:
        for status in statuses:
            yield jobs.c.status == status
    else:
        yield and_(True)


def _label_drivers(selection: Selection) -> Iterator[Condition]:
    if selection.q is not None:
        yield labels.c.value == selection.q
    elif selection.labels:
        name, value = next(iter(selection.labels.items()))
        yield and_(labels.c.name == name, labels.c.value == value)


def _by_job(where: Condition, before: Position | None, limit: int) -> Select[Any]:
    query = select(jobs.c.number).where(where, *_older(jobs.c.submitted_at, jobs.c.number, before))
    return query.order_by(jobs.c.submitted_at.desc(), jobs.c.number.desc()).limit(limit)


def _by_label(driver: Condition, where: Condition, before: Position | None, limit: int) -> Select[Any]:
    joined = labels.join(jobs, labels.c.job_number == jobs.c.number)
    query = select(jobs.c.number).select_from(joined)
    query = query.where(driver, where, *_older(labels.c.submitted_at, labels.c.job_number, before))
    return query.order_by(labels.c.submitted_at.desc(), labels.c.job_number.desc()).limit(limit)


def _older(submitted_at: Any, number: Any, before: Position | None) -> list[Condition]:
    if before is None:
        return []
    at = literal(before.submitted_at, jobs.c.submitted_at.type)
    return [tuple_(submitted_at, number) < tuple_(at, literal(before.number))]

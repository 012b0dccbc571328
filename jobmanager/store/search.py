"""The queries behind lists of jobs, newest submission first.

Statements only. The query takes a page of each stream (the jobs of one status, of one type …) and keeps the newest of
all. The indexes used here are in the order of the list, so the cost of a page does not depend on the number of jobs.
If several indexes fit, as for jobs of a status with a label, the query scans the one that sampling.py chooses, and
checks the other conditions in other indexes: the row of a job is read only if the list shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, reduce
from itertools import islice, product
from operator import add
from typing import Any

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    and_,
    case,
    column,
    false,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    union,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jobmanager.core.states import Status
from jobmanager.core.values import MOST_LISTED_BYTES, Position, Selection
from jobmanager.store.schema import jobs, labels

#: Length of the part of an id that encodes its time: a shorter prefix would match a large part of all jobs.
_TIME_OF_ID = 13
#: Most streams to sample: for more, sampling would take longer than it saves.
_MOST_STREAMS = 8
#: Most labels that get a way of their own; in each way, all other labels are further conditions.
_MOST_LABELS = 3

Condition = ColumnElement[bool]
#: The last columns of every index here: the time of the submission and the number of the job.
Place = tuple[ColumnClause[datetime], ColumnClause[int]]

# The same columns in subqueries. Their names are given, because SQLAlchemy would need a fifth of the time of a list to
# name them.
_AT, _NUMBER = column("at", jobs.c.submitted_at.type), column("number", jobs.c.number.type)

_OF_JOBS: Place = (jobs.c.submitted_at, jobs.c.number)
_OF_LABELS: Place = (labels.c.submitted_at, labels.c.job_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Entries of one index, newest first."""

    #: selects the entries in the index
    driver: Condition
    #: the columns that identify the job of an entry
    place: Place = _OF_JOBS
    #: returns the other conditions on a job; called only for the chosen way
    where: Callable[[], Sequence[Condition]] = tuple

    def entries(self, selection: Selection, before: Position | None) -> Select[Any]:
        """Select the index entries in the requested time range, after the position *before*."""
        at, number = self.place
        columns: list[Any] = [at.label("at"), number.label("number")]
        query = select(*columns).where(self.driver)
        if selection.submitted_after is not None:
            query = query.where(at >= selection.submitted_after)
        if selection.submitted_before is not None:
            query = query.where(at < selection.submitted_before)
        if before is not None:
            last = literal(before.submitted_at, jobs.c.submitted_at.type), literal(before.number)
            query = query.where(tuple_(at, number) < tuple_(*last))
        return query.order_by(at.desc(), number.desc())

    def shown(self, selection: Selection, before: Position | None, limit: int) -> Select[Any]:
        """Select the newest *limit* entries that also meet the conditions of `where`."""
        return self.entries(selection, before).where(*self.where()).limit(limit)


#: Streams that together contain every matching job.
Way = Sequence[Stream]


def ways(selection: Selection, types: Collection[str]) -> list[Way]:
    """Return the ways to find the jobs. Each way alone finds them all. *types* are the type names to search for `q`."""
    labelled = islice(selection.labels, _MOST_LABELS)
    found: list[Way] = [[_labelled(selection, name, types)] for name in labelled]
    if selection.q is not None:
        found.append(list(_searched(selection, selection.q, types)))
    of_jobs = list(_of_jobs(selection, types))
    is_narrow = bool(selection.statuses) or selection.type is not None or selection.types is not None
    if not found or (is_narrow and len(of_jobs) <= _MOST_STREAMS):
        found.append(of_jobs)
    return found


def page(way: Way, selection: Selection, *, before: Position | None, limit: int) -> Select[Any]:
    """Return the query of the next *limit* jobs of a list, found by *way*.

    A row has the columns of a job (those in LARGE are null if they are large), the size of each column in LARGE
    (`args_bytes` …), and the size of the other texts (`other_bytes`), in bytes.
    """
    return _page(_LISTED, way, selection, before, limit)


def page_of_ids(way: Way, selection: Selection, *, before: Position | None, limit: int) -> Select[Any]:
    """Return the query of the ids and positions of the next *limit* jobs, found by *way*."""
    return _page([jobs.c.id, jobs.c.submitted_at, jobs.c.number], way, selection, before, limit)


def _page(
    columns: Sequence[ColumnElement[Any]], way: Way, selection: Selection, before: Position | None, limit: int
) -> Select[Any]:
    parts = (stream.shown(selection, before, limit).subquery() for stream in way)
    found = union(*(select(_NUMBER).select_from(part) for part in parts))
    query = select(*columns).where(jobs.c.number.in_(select(_NUMBER).select_from(found.subquery())))
    return query.order_by(jobs.c.submitted_at.desc(), jobs.c.number.desc()).limit(limit)


class _Bytes(FunctionElement[int]):
    """The size of a column as text, in bytes; null if the column is null."""

    type = Integer()
    inherit_cache = True


@compiles(_Bytes)
def _in_postgresql(element: _Bytes, compiler: SQLCompiler, **how: Any) -> str:
    return f"octet_length(CAST({compiler.process(element.clauses, **how)} AS TEXT))"


@compiles(_Bytes, "sqlite")
def _in_sqlite(element: _Bytes, compiler: SQLCompiler, **how: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **how)} AS BLOB))"


#: The columns that a list leaves out if they are large.
LARGE = ("args", "details", "result")


def _listed() -> Iterator[ColumnElement[Any]]:
    """Yield the columns of a job in a list. Leaves out the cursor, which is not shown and may be large."""
    for each in jobs.c:
        if each.name == "cursor":
            yield null().label(each.name)
        elif each.name in LARGE:
            yield case((_Bytes(each) <= MOST_LISTED_BYTES, each), else_=None).label(each.name)
        else:
            yield each
    yield from (_Bytes(jobs.c[name]).label(f"{name}_bytes") for name in LARGE)
    texts = (func.coalesce(_Bytes(jobs.c[name]), 0) for name in ("labels", "message", "error"))
    yield reduce(add, texts).label("other_bytes")


_LISTED = tuple(_listed())


def _of_job(selection: Selection) -> Iterator[Condition]:
    """Yield the conditions on a job's own columns, except for the time of its submission."""
    if selection.statuses:
        yield jobs.c.status.in_(sorted(selection.statuses))
    if selection.type is not None:
        yield jobs.c.type == selection.type
    if selection.types is not None:
        yield jobs.c.type.in_(sorted(selection.types))


def _of_labels(selection: Selection, place: Place, *, but: str | None = None) -> Iterator[Condition]:
    """Yield the conditions on the labels of a job, except for the label named *but*."""
    for name, value in selection.labels.items():
        if name != but:
            mine = labels.alias()
            which = mine.c.name == name, mine.c.value == value
            yield _is_there(place, mine, (mine.c.submitted_at, mine.c.job_number), which, "labels_by_name")


def _is_there(place: Place, table: FromClause, its: Place, which: Sequence[Condition], index: str) -> Condition:
    """Return the condition that *index* of *table* has an entry of the job at *place*, and the entry meets *which*.

    Without the hint, SQLite would use the table's primary key, where successive jobs are far apart, and read rows.
    Without OFFSET 0, PostgreSQL would scan all entries that meet *which* and join them with the few that are needed.
    """
    (at, number), (its_at, its_number) = place, its
    entry = select(literal(1)).select_from(table).where(*which, its_at == at, its_number == number)
    hinted = entry.with_hint(table, f"INDEXED BY {index}", "sqlite").offset(literal_column("0"))
    return hinted.correlate(at.table).exists()


def _labelled(selection: Selection, name: str, types: Collection[str]) -> Stream:
    """Return the stream of the jobs with the selected label *name*."""
    driver = and_(labels.c.name == name, labels.c.value == selection.labels[name])

    def where() -> list[Condition]:
        found = [*_looked_up(selection), *_of_labels(selection, _OF_LABELS, but=name)]
        if selection.q is not None:
            found.append(_is_there(_OF_LABELS, jobs, _OF_JOBS, [_matches(selection.q, types)], "jobs_by_submission"))
        return found

    return Stream(driver=driver, place=_OF_LABELS, where=where)


def _looked_up(selection: Selection) -> Iterator[Condition]:
    """Yield the condition that the job of a label entry has to meet, if any. It is checked in an index of the jobs."""
    if conditions := list(_of_job(selection)):
        is_of_type = selection.type is not None or selection.types is not None
        index = "jobs_by_type" if is_of_type else "jobs_by_status"
        if is_of_type and not selection.statuses:
            conditions.append(jobs.c.status.in_(list(Status)))
        yield _is_there(_OF_LABELS, jobs, _OF_JOBS, conditions, index)


def _searched(selection: Selection, q: str, types: Collection[str]) -> Iterator[Stream]:
    """Yield the streams of the jobs that match the search text *q*."""

    @cache
    def where() -> list[Condition]:
        return [*_of_job(selection), *_of_labels(selection, _OF_JOBS)]

    def looked_up() -> list[Condition]:
        return [*_looked_up(selection), *_of_labels(selection, _OF_LABELS)]

    if len(q) >= _TIME_OF_ID:
        yield Stream(driver=_begins_with(q), where=where)
    for name, status in product(_named(q, types), sorted(selection.statuses) or list(Status)):
        yield Stream(driver=and_(jobs.c.type == name, jobs.c.status == status), where=where)
    yield Stream(driver=labels.c.value == q, place=_OF_LABELS, where=looked_up)


def _matches(q: str, types: Collection[str]) -> Condition:
    """Return the condition that a job matches the search text *q*."""
    mine = labels.alias()
    its = mine.c.submitted_at, mine.c.job_number
    has_label = _is_there(_OF_JOBS, mine, its, [mine.c.value == q], "labels_by_value")
    is_meant = [jobs.c.type.in_(_named(q, types)), has_label]
    return or_(_begins_with(q), *is_meant) if len(q) >= _TIME_OF_ID else or_(*is_meant)


def _begins_with(q: str) -> Condition:
    return and_(jobs.c.id >= q, jobs.c.id < q + "~")


def _named(q: str, types: Collection[str]) -> list[str]:
    return [name for name in types if q.casefold() in name.casefold()]


def _of_jobs(selection: Selection, types: Collection[str]) -> Iterator[Stream]:
    """Yield the streams of the jobs of the selected statuses and types, or of all jobs."""

    @cache
    def where() -> list[Condition]:
        found = [*_of_labels(selection, _OF_JOBS)]
        if selection.q is not None:
            found.append(_matches(selection.q, types))
        return found

    names = selection.types
    if selection.type is not None:
        names = frozenset({selection.type}) if names is None else names & {selection.type}
    statuses = sorted(selection.statuses)
    if names is not None:
        if not names:
            yield Stream(driver=false())
        for name, status in product(sorted(names), statuses or list(Status)):
            yield Stream(driver=and_(jobs.c.type == name, jobs.c.status == status), where=where)
    elif statuses:
        for status in statuses:
            yield Stream(driver=jobs.c.status == status, where=where)
    else:
        yield Stream(driver=and_(True), where=where)

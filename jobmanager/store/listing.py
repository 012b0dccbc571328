"""The queries behind lists of jobs, in the order of submission, the newest first.

Statements only. Each list is read by indexes that are in this very order, so that a page costs the same however many
jobs there are: one short list for each way in which a job may match, and of those the newest. Where different indexes
would do, as for jobs of a status with a label, the one is read whose entries lie farthest apart, and what it does not
say is looked up in the others: a job's row is read only when it is shown.
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

from jobmanager.records import MOST_LISTED_BYTES, Position, Selection
from jobmanager.states import Status
from jobmanager.store.schema import jobs, labels

#: The part of an id that is its time: a shorter beginning would mean a good part of all jobs.
_TIME_OF_ID = 13
#: How many entries of an index tell how far apart they lie.
_SAMPLE = 500
#: Streams for which that is asked: of more, asking would take longer than it saves.
_MOST_STREAMS = 8
#: Labels for which that is asked: of each way, every other label is a condition.
_MOST_LABELS = 3

Condition = ColumnElement[bool]
#: What every index here ends with: the time of a submission, and the number of the job.
Place = tuple[ColumnClause[datetime], ColumnClause[int]]

# The same of entries that are parts of a statement: to have SQLAlchemy name them is a fifth of what a list takes.
_AT, _NUMBER = column("at", jobs.c.submitted_at.type), column("number", jobs.c.number.type)

_OF_JOBS: Place = (jobs.c.submitted_at, jobs.c.number)
_OF_LABELS: Place = (labels.c.submitted_at, labels.c.job_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Entries of one index, the newest first."""

    driver: Condition
    #: where the job of an entry is named
    place: Place = _OF_JOBS
    #: returns what else has to hold for a job that is shown; built only for the way that is taken
    where: Callable[[], Sequence[Condition]] = tuple

    def entries(self, selection: Selection, before: Position | None) -> Select[Any]:
        """Return the query of its entries between the times that are meant."""
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
        """Return the query of the first entries that are shown."""
        return self.entries(selection, before).where(*self.where()).limit(limit)


#: Streams that have, together, every job that is meant.
Way = Sequence[Stream]


def ways(selection: Selection, types: Collection[str]) -> list[Way]:
    """Return how the jobs may be found, any of which will do; *types* are the names in which `q` is looked for."""
    labelled = islice(selection.labels, _MOST_LABELS)
    found: list[Way] = [[_labelled(selection, name, types)] for name in labelled]
    if selection.q is not None:
        found.append(list(_searched(selection, selection.q, types)))
    of_jobs = list(_of_jobs(selection, types))
    is_narrow = bool(selection.statuses) or selection.type is not None or selection.types is not None
    if not found or (is_narrow and len(of_jobs) <= _MOST_STREAMS):
        found.append(of_jobs)
    return found


def reach(found: Sequence[Way], selection: Selection, before: Position | None) -> Select[Any]:
    """Return the query of what `sparsest` goes by, in one row: how far back some entries of each stream reach."""
    streams = (stream for way in found for stream in way)
    samples = (stream.entries(selection, before).offset(_SAMPLE).limit(1).subquery() for stream in streams)
    each = (select(_AT).select_from(sample).scalar_subquery() for sample in samples)
    return select(*(at.label(f"at_{place}") for place, at in enumerate(each)))


def sparsest(found: Sequence[Way], reached: Sequence[datetime | None]) -> Way:
    """Return the way in which the fewest entries have to be read: they lie farthest apart, or are few in all."""
    each = iter(reached)

    def nearest(way: Way) -> float:
        return max((at.timestamp() for at in islice(each, len(way)) if at is not None), default=float("-inf"))

    nearest_of_each = [nearest(way) for way in found]
    return found[nearest_of_each.index(min(nearest_of_each))]


def page(way: Way, selection: Selection, *, before: Position | None, limit: int) -> Select[Any]:
    """Return the query of the next *limit* jobs, found in that way, as a list shows them.

    Beside the columns of a job, of which those in LARGE are null where they are large, each row has how many bytes
    these have, by their name and `_bytes`, and the rest of what has no fixed size, as `other_bytes`.
    """
    return _page(_LISTED, way, selection, before, limit)


def page_of_ids(way: Way, selection: Selection, *, before: Position | None, limit: int) -> Select[Any]:
    """Return the query of the ids and places of the next *limit* jobs, found in that way."""
    return _page([jobs.c.id, jobs.c.submitted_at, jobs.c.number], way, selection, before, limit)


def _page(
    columns: Sequence[ColumnElement[Any]], way: Way, selection: Selection, before: Position | None, limit: int
) -> Select[Any]:
    parts = (stream.shown(selection, before, limit).subquery() for stream in way)
    found = union(*(select(_NUMBER).select_from(part) for part in parts))
    query = select(*columns).where(jobs.c.number.in_(select(_NUMBER).select_from(found.subquery())))
    return query.order_by(jobs.c.submitted_at.desc(), jobs.c.number.desc()).limit(limit)


class _Bytes(FunctionElement[int]):
    """How many bytes a column has as text; null where it is null."""

    type = Integer()
    inherit_cache = True


@compiles(_Bytes)
def _in_postgresql(element: _Bytes, compiler: SQLCompiler, **how: Any) -> str:
    return f"octet_length(CAST({compiler.process(element.clauses, **how)} AS TEXT))"


@compiles(_Bytes, "sqlite")
def _in_sqlite(element: _Bytes, compiler: SQLCompiler, **how: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **how)} AS BLOB))"


#: What a list leaves out where it is large.
LARGE = ("args", "details", "result")


def _listed() -> Iterator[ColumnElement[Any]]:
    """Yield the columns of a job in a list: its cursor is not shown, and may be large."""
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
    """Yield what has to hold for a job itself, but for the time of its submission."""
    if selection.statuses:
        yield jobs.c.status.in_(sorted(selection.statuses))
    if selection.type is not None:
        yield jobs.c.type == selection.type
    if selection.types is not None:
        yield jobs.c.type.in_(sorted(selection.types))


def _of_labels(selection: Selection, place: Place, *, but: str | None = None) -> Iterator[Condition]:
    """Yield what has to hold for the labels of a job, *but* for one of them."""
    for name, value in selection.labels.items():
        if name != but:
            mine = labels.alias()
            which = mine.c.name == name, mine.c.value == value
            yield _is_there(place, mine, (mine.c.submitted_at, mine.c.job_number), which, "labels_by_name")


def _is_there(place: Place, table: FromClause, its: Place, which: Sequence[Condition], index: str) -> Condition:
    """Return the condition that the job at the place has such an entry in the table, looked for in the index.

    SQLite would take the key of the table, whose entries for jobs that follow each other lie far apart, and read rows.
    PostgreSQL would go through all such entries, and join them with the few that are wanted; not where one is offset.
    """
    (at, number), (its_at, its_number) = place, its
    entry = select(literal(1)).select_from(table).where(*which, its_at == at, its_number == number)
    hinted = entry.with_hint(table, f"INDEXED BY {index}", "sqlite").offset(literal_column("0"))
    return hinted.correlate(at.table).exists()


def _labelled(selection: Selection, name: str, types: Collection[str]) -> Stream:
    """Return the stream of jobs with one of the labels."""
    driver = and_(labels.c.name == name, labels.c.value == selection.labels[name])

    def where() -> list[Condition]:
        found = [*_looked_up(selection), *_of_labels(selection, _OF_LABELS, but=name)]
        if selection.q is not None:
            found.append(_is_there(_OF_LABELS, jobs, _OF_JOBS, [_matches(selection.q, types)], "jobs_by_submission"))
        return found

    return Stream(driver=driver, place=_OF_LABELS, where=where)


def _looked_up(selection: Selection) -> Iterator[Condition]:
    """Yield what has to hold for the job of a label itself."""
    if conditions := list(_of_job(selection)):
        is_of_type = selection.type is not None or selection.types is not None
        index = "jobs_by_type" if is_of_type else "jobs_by_status"
        if is_of_type and not selection.statuses:
            conditions.append(jobs.c.status.in_(list(Status)))
        yield _is_there(_OF_LABELS, jobs, _OF_JOBS, conditions, index)


def _searched(selection: Selection, q: str, types: Collection[str]) -> Iterator[Stream]:
    """Yield the streams of what a search finds."""

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
    """Return the condition that a search finds the job."""
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
    """Yield the streams of jobs of the statuses and types that are meant, or of all jobs."""

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

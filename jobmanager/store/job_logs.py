"""The log of each job in the database: add lines, drop the oldest ones, read a page.

core/job_log.py decides which lines are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, case, delete, func, insert, null, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from jobmanager.core.job_log import NOTE_ATTEMPT, NOTE_LEVEL, Entry, LogLimits, LogSize, lines_noted
from jobmanager.core.values import LogLine
from jobmanager.store.database import Database
from jobmanager.store.reader import Reader
from jobmanager.store.schema import log_lines

T = TypeVar("T")

#: Approximate size of the messages in one page of a log, in bytes; a page has at least one line.
PAGE_BYTES = 1 << 20
#: How many of the oldest lines one query reads when lines are dropped.
_LOOK_AT = 1000
#: Most jobs whose log sizes this process caches; a full cache is cleared.
_MOST_TALLIES = 10_000


class _octets(FunctionElement[int]):  # noqa: N801 - an SQL function
    """The size of a text in UTF-8. SQLite has octet_length() only from 3.43 on, and length() stops at a NUL."""

    type = BigInteger()
    inherit_cache = True


@compiles(_octets)
def _octet_length(element: _octets, compiler: SQLCompiler, **options: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **options)})"


@compiles(_octets, "sqlite")
def _length_of_blob(element: _octets, compiler: SQLCompiler, **options: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **options)} AS BLOB))"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """The size of a job's log, cached for one attempt: only the attempt that holds the job adds lines."""

    attempt: int
    size: LogSize


class JobLogs:
    """Reads and writes the logs of all jobs. For any number of threads. Every method raises StoreUnavailable."""

    def __init__(self, database: Database, reader: Reader, limits: LogLimits) -> None:
        self._database = database
        self._reader = reader
        self._limits = limits
        self._tallies: dict[str, _Tally] = {}  # by job; a log without a tally is counted

    def read(self, job_id: str, *, after: int, limit: int) -> list[LogLine]:
        """Return the job's log lines with numbers greater than *after*, oldest first.

        Returns at most *limit* lines, and about 1 MiB of messages. Returns one line even if it is longer than that, and
        an empty list only if no lines are left.
        """
        return [
            LogLine(number=row.number, attempt=row.attempt, at=row.at, level=row.level, message=row.message)
            for row in self._reader.read(_page(job_id, after=after, limit=limit))
        ]

    def add(self, job_id: str, lines: Sequence[LogLine]) -> None:
        """Store lines of the job's log; committed when this returns. Drops the oldest lines if there are too many."""
        if lines:
            self.run_with_lines(job_id, lines, lambda _: None)

    def run_with_lines(self, job_id: str, lines: Sequence[LogLine], write: Callable[[Connection], T]) -> T:
        """Run *write*, add lines to the job's log in the same commit, and return the result of *write*."""
        if not lines:
            return self._database.run(write)
        # Remove the tally until the commit: after a failure, the log is counted again.
        known = self._tallies.pop(job_id, None)

        def write_all(connection: Connection) -> tuple[T, _Tally]:
            result = write(connection)
            return result, _add_lines(connection, job_id, lines, known=known, limits=self._limits)

        result, tally = self._database.run(write_all)
        if len(self._tallies) >= _MOST_TALLIES:
            self._tallies.clear()
        self._tallies[job_id] = tally
        return result


def _add_lines(
    connection: Connection, job_id: str, lines: Sequence[LogLine], *, known: _Tally | None, limits: LogLimits
) -> _Tally:
    """Add lines to a job's log, drop the oldest ones if it is now too long, and return its size.

    *known* is the previous result for the job, if that was committed. If None, the log is counted.
    """
    attempt = lines[-1].attempt
    # Count again for a new attempt: the attempt before it may have run in another process, which added lines.
    size = known.size if known is not None and known.attempt == attempt else _size(connection, job_id)
    rows = [
        {"job_id": job_id, "attempt": line.attempt, "at": line.at, "level": line.level, "message": line.message}
        for line in lines
    ]
    connection.execute(insert(log_lines), rows)
    for line in lines:
        size = size.plus(line.message)
    if limits.is_worth_dropping(size):
        size = _drop_oldest(connection, job_id, size, limits)
    return _Tally(attempt=attempt, size=size)


def _page(job_id: str, *, after: int, limit: int) -> Select[Any]:
    """Return the query of the lines numbered above *after*: up to *limit* lines, and about PAGE_BYTES.

    Uses one statement, because lines could be dropped between two statements. A page could then be empty before the end
    of the log.
    """
    behind = _of(job_id) & (log_lines.c.number > after)
    size = _octets(log_lines.c.message)
    bytes_before = (func.sum(size).over(order_by=log_lines.c.number) - size).label("bytes_before")
    sizes = select(log_lines.c.number, bytes_before).where(behind).order_by(log_lines.c.number).limit(limit).subquery()
    last = select(func.max(sizes.c.number)).where(sizes.c.bytes_before < PAGE_BYTES).scalar_subquery()
    return select(log_lines).where(behind, log_lines.c.number <= last).order_by(log_lines.c.number)


def _of(job_id: str) -> ColumnElement[bool]:
    return log_lines.c.job_id == job_id


def _size(connection: Connection, job_id: str) -> LogSize:
    counted = select(func.count(), func.coalesce(func.sum(_octets(log_lines.c.message)), 0)).where(_of(job_id))
    lines, size = connection.execute(counted).one()
    return LogSize(lines=int(lines), bytes=int(size))


def _drop_oldest(connection: Connection, job_id: str, size: LogSize, limits: LogLimits) -> LogSize:
    """Drop the surplus lines and return the size of the rest. The note takes the number of the last dropped line.

    Therefore the note precedes the remaining lines, and a reader that has read past that number does not get the note.
    """
    dropped = limits.surplus(_oldest(connection, job_id), size)
    last, note = dropped[-1].number, limits.note(dropped)
    connection.execute(delete(log_lines).where(_of(job_id), log_lines.c.number < last))
    told = {"attempt": NOTE_ATTEMPT, "level": NOTE_LEVEL, "message": note}
    connection.execute(update(log_lines).where(log_lines.c.number == last).values(told))
    return size.without(dropped).plus(note)


def _oldest(connection: Connection, job_id: str) -> Iterator[Entry]:
    """Yield the lines of a job's log, oldest first."""
    is_note = log_lines.c.attempt == NOTE_ATTEMPT
    shown = (
        log_lines.c.number,
        _octets(log_lines.c.message).label("bytes"),
        case((is_note, log_lines.c.message), else_=null()).label("note"),
    )
    last = 0
    while True:
        behind = select(*shown).where(_of(job_id), log_lines.c.number > last)
        rows = connection.execute(behind.order_by(log_lines.c.number).limit(_LOOK_AT)).all()
        for row in rows:
            stands_for = 1 if row.note is None else lines_noted(row.note)
            yield Entry(number=row.number, bytes=int(row.bytes), stands_for=stands_for)
        if len(rows) < _LOOK_AT:
            return
        last = rows[-1].number

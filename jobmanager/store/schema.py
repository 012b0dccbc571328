"""The tables, and the types that convert values for them.

The types define their converters directly: the way that SQLAlchemy provides calls twice as many functions, and a job
needs about fifty conversions.

Times are microseconds since 1970 (UTC) in integer columns, which every database compares, indexes and stores alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    and_,
    literal_column,
    text,
)

from jobmanager.core.json_values import encode
from jobmanager.core.values import storable

_Convert = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Time(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return the converter from a value to its stored form."""
        return _to_microseconds

    def result_processor(self, dialect: Dialect, coltype: object) -> _Convert:
        """Return the converter from the stored form to the value."""
        return _from_microseconds


class Line(TypeDecorator[str]):
    """A text. Characters that some database cannot store are escaped."""

    impl = String
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return the converter from a value to its stored form. Also converts the values of conditions."""
        return _to_line


class Lines(Line):
    """A Line for texts of any length."""

    impl = Text
    cache_ok = True


class JsonText(TypeDecorator[Any]):
    """JSON as TEXT, for SQLite: a column of type JSON would convert JSON numbers, and round those beyond 64 bits."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return the converter from a value to its stored form."""
        return _to_text

    def result_processor(self, dialect: Dialect, coltype: object) -> _Convert:
        """Return the converter from the stored form to the value."""
        return _from_text


def _to_microseconds(value: datetime | None) -> int | None:
    return None if value is None else (value - _EPOCH) // _MICROSECOND


def _from_microseconds(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + value * _MICROSECOND


def _to_line(value: str | None) -> str | None:
    if value is None:
        return None
    if value.isascii() and "\0" not in value:  # the common case
        return str.__str__(value)  # makes a plain str of an enum member
    return storable(value, longest=len(value))


def _to_text(value: Any) -> str | None:
    return None if value is None else to_json(value)


def _from_text(value: Any) -> Any:
    if value == "{}":  # the common case
        return {}
    # SQLite files of the first versions contain plain numbers, not only texts.
    return from_json(value) if isinstance(value, str) else value


def to_json(value: Any) -> str:
    """Return *value* as the JSON text to store; raises TypeError or ValueError."""
    return "{}" if value == {} else encode(value)


def from_json(text: str | bytes) -> Any:
    """Return the value of a stored JSON text.

    Older versions stored values nested as deep as their stack allowed. If the current stack is too deep to parse such
    a value, another thread parses it: one such value must not make other jobs unreadable.
    """
    try:
        return json.loads(text)
    except RecursionError:
        with ThreadPoolExecutor(max_workers=1) as stack:
            return stack.submit(json.loads, text).result()


#: SQLite assigns row numbers only in a column of type INTEGER.
_Number = BigInteger().with_variant(Integer, "sqlite")
_Json = JSON(none_as_null=True).with_variant(JsonText(), "sqlite")

metadata = MetaData()


def _where(condition: str) -> dict[str, Any]:
    """Return the options of a partial index of the rows that meet *condition*."""
    # Do not pass postgresql_where: SQLAlchemy would import its PostgreSQL dialect at every start.
    # have_partial_indexes adds this option when it is needed.
    return {"sqlite_where": text(condition)}


jobs = Table(
    "jobs",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("id", Line(36), nullable=False, unique=True),
    Column("type", Line, nullable=False),
    Column("args", _Json, nullable=False),
    Column("status", Line, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("labels", _Json, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_seconds", Float),
    Column("run_at", Time, nullable=False),
    Column("submitted_at", Time, nullable=False),
    Column("started_at", Time),
    Column("running_since", Time),
    Column("finished_at", Time),
    Column("ran_seconds", Float, nullable=False, default=0.0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("crashes", Integer, nullable=False, default=0),
    Column("owner", Line),
    Column("lease_expires_at", Time),
    Column("checkpoint_seq", BigInteger, nullable=False, default=0),
    Column("cursor", _Json),
    Column("done", Float),
    Column("total", Float),
    Column("message", Lines),
    Column("saved_at", Time),
    Column("gap_seconds", Float),
    Column("details", _Json, nullable=False, default=dict),
    Column("result", _Json),
    Column("error", Lines),
    Column("asked_at", Time),
    Column("is_forced", Boolean, nullable=False, default=False),
    Column("traceparent", Line),
    # The run_at of a delayed job, until the job enters the queue; null for a job without a delay.
    Column("waits_until", Time),
    sqlite_autoincrement=True,
)

# The conditions of the partial indexes, as literals: with a bound parameter, SQLite would not use those indexes.
IS_WAITING = jobs.c.status == literal_column("'submitted'")
# A delayed job enters the queue only when it is due, so that a claim need not skip it.
IS_QUEUED = and_(IS_WAITING, jobs.c.waits_until.is_(None))
_HAS_TIME = jobs.c.run_at > literal_column("0")
IS_PUT_OFF = and_(IS_WAITING, _HAS_TIME, jobs.c.waits_until.is_not(None))
HAS_COME_DUE = and_(IS_QUEUED, _HAS_TIME)
IS_STOPPING = jobs.c.status == literal_column("'stopping'")
IS_HELD = jobs.c.owner.is_not(None)
IS_FINISHED = jobs.c.finished_at.is_not(None)

# In the order of claims. Covers `type`, so that skipping unknown or full types needs no row lookup.
_IN_ORDER = (jobs.c.priority.desc(), jobs.c.number, jobs.c.type)
Index("jobs_waiting", *_IN_ORDER, **_where("status = 'submitted' AND waits_until IS NULL"))
Index("jobs_due", jobs.c.waits_until, jobs.c.run_at, **_where("status = 'submitted' AND run_at > 0"))
Index("jobs_to_clean", jobs.c.run_at, **_where("status = 'stopping'"))
Index("jobs_finished", jobs.c.finished_at, **_where("finished_at IS NOT NULL"))
Index("jobs_held", jobs.c.lease_expires_at, **_where("owner IS NOT NULL"))

# All lists are in the order of submission, newest first, whatever their filter.
_SUBMISSION = (jobs.c.submitted_at, jobs.c.number)
Index("jobs_by_submission", *_SUBMISSION)
Index("jobs_by_status", jobs.c.status, *_SUBMISSION)
Index("jobs_by_type", jobs.c.type, jobs.c.status, *_SUBMISSION)

#: A copy of the labels of all jobs, to find jobs by them.
labels = Table(
    "labels",
    metadata,
    Column("job_number", BigInteger, primary_key=True),
    Column("name", Line, primary_key=True),
    Column("value", Line, nullable=False),
    Column("submitted_at", Time, nullable=False),
)
Index("labels_by_name", labels.c.name, labels.c.value, labels.c.submitted_at, labels.c.job_number)
Index("labels_by_value", labels.c.value, labels.c.submitted_at, labels.c.job_number)

changes = Table(
    "changes",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=True),
    Column("job_id", Line(36), nullable=False),
    Column("action", Line, nullable=False),
    Column("from_status", Line),
    Column("to_status", Line, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", Line, nullable=False),
    Column("reason", Lines),
    Column("asked_at", Time, nullable=False),
    Column("at", Time, nullable=False),
    Column("signal_to", Line),  # the process to notify: it holds the job, and did not make the change
    sqlite_autoincrement=True,
)
Index("changes_of_job", changes.c.job_id, changes.c.seq)
Index("changes_to_signal", changes.c.signal_to, changes.c.seq, **_where("signal_to IS NOT NULL"))

#: The number of jobs per type and status, in parts; see job_counts.py.
census = Table(
    "census",
    metadata,
    Column("type", Line, primary_key=True),
    Column("status", Line, primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("jobs", BigInteger, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", Line, primary_key=True),
    Column("fingerprint", Line, nullable=False),
    Column("job_id", Line(36), nullable=False),
    Column("made_at", Time, nullable=False),
)
Index("idempotency_keys_by_age", idempotency_keys.c.made_at)

log_lines = Table(
    "log_lines",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("job_id", Line(36), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Time, nullable=False),
    Column("level", Line, nullable=False),
    Column("message", Lines, nullable=False),
    sqlite_autoincrement=True,
)
Index("log_lines_of_job", log_lines.c.job_id, log_lines.c.number)


def have_partial_indexes(dialect: str) -> None:
    """Copy the conditions of SQLite's partial indexes to another dialect."""
    for table in metadata.tables.values():
        for index in table.indexes:
            index.dialect_options[dialect]["where"] = index.dialect_options["sqlite"]["where"]

"""The tables, and how values are kept in them.

The types say by themselves how values are converted: SQLAlchemy's own way calls twice as many functions, and a job goes
through some fifty conversions.

Times are microseconds since 1970 (UTC) in integer columns: compared, indexed and stored alike by every database.
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

from jobmanager.json_values import encode
from jobmanager.records import storable

_Convert = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Time(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return what makes of a value what is stored."""
        return _to_microseconds

    def result_processor(self, dialect: Dialect, coltype: object) -> _Convert:
        """Return what makes of it what is shown."""
        return _from_microseconds


class Line(TypeDecorator[str]):
    """A text, in which a character that some database cannot keep is written out, whoever it came from."""

    impl = String
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return what makes of a value what is stored, or looked for."""
        return _to_line


class Lines(Line):
    """The same, of any length."""

    impl = Text
    cache_ok = True


class JsonText(TypeDecorator[Any]):
    """JSON for SQLite, which would make a number of a number in a column of type JSON, and round it past 64 bits."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> _Convert:
        """Return what makes of a value what is stored."""
        return _to_text

    def result_processor(self, dialect: Dialect, coltype: object) -> _Convert:
        """Return what makes of it what is shown."""
        return _from_text


def _to_microseconds(value: datetime | None) -> int | None:
    return None if value is None else (value - _EPOCH) // _MICROSECOND


def _from_microseconds(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + value * _MICROSECOND


def _to_line(value: str | None) -> str | None:
    if value is None:
        return None
    if value.isascii() and "\0" not in value:  # as most are
        return str.__str__(value)  # the text alone, of a member of an enumeration too
    return storable(value, longest=len(value))


def _to_text(value: Any) -> str | None:
    return None if value is None else to_json(value)


def _from_text(value: Any) -> Any:
    if value == "{}":  # as most are
        return {}
    # Files of the first days hold numbers.
    return from_json(value) if isinstance(value, str) else value


def to_json(value: Any) -> str:
    """Return *value* as it is stored; raises TypeError or ValueError."""
    return "{}" if value == {} else encode(value)


def from_json(text: str | bytes) -> Any:
    """Return the value that a database holds as *text*.

    Older versions kept values that are nested as deep as their stack let them. Where the present stack leaves too few
    levels to read one, it is read on a stack of its own: one such value must not keep other jobs from being read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        with ThreadPoolExecutor(max_workers=1) as stack:
            return stack.submit(json.loads, text).result()


#: SQLite numbers rows by itself only in a column of this very type.
_Number = BigInteger().with_variant(Integer, "sqlite")
_Json = JSON(none_as_null=True).with_variant(JsonText(), "sqlite")

metadata = MetaData()


def _where(condition: str) -> dict[str, Any]:
    """Return what makes an index hold only the rows of which *condition* is true."""
    # PostgreSQL's name for it would have SQLAlchemy load all that it knows of that at every start: see below.
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
    # As run_at, until that has come and the job is in the queue; null for one that nobody has put off.
    Column("waits_until", Time),
    sqlite_autoincrement=True,
)

# Conditions that partial indexes know by their text: a bound parameter would keep SQLite from using them.
IS_WAITING = jobs.c.status == literal_column("'submitted'")
# One that was put off has its place in the queue only once it is due: nobody goes past it before.
IS_QUEUED = and_(IS_WAITING, jobs.c.waits_until.is_(None))
_HAS_TIME = jobs.c.run_at > literal_column("0")
IS_PUT_OFF = and_(IS_WAITING, _HAS_TIME, jobs.c.waits_until.is_not(None))
HAS_COME_DUE = and_(IS_QUEUED, _HAS_TIME)
IS_STOPPING = jobs.c.status == literal_column("'stopping'")
IS_HELD = jobs.c.owner.is_not(None)
IS_FINISHED = jobs.c.finished_at.is_not(None)

# In the order of claims. The type is there for those who go past what they do not know, or have enough of.
_IN_ORDER = (jobs.c.priority.desc(), jobs.c.number, jobs.c.type)
Index("jobs_waiting", *_IN_ORDER, **_where("status = 'submitted' AND waits_until IS NULL"))
Index("jobs_due", jobs.c.waits_until, jobs.c.run_at, **_where("status = 'submitted' AND run_at > 0"))
Index("jobs_to_clean", jobs.c.run_at, **_where("status = 'stopping'"))
Index("jobs_finished", jobs.c.finished_at, **_where("finished_at IS NOT NULL"))
Index("jobs_held", jobs.c.lease_expires_at, **_where("owner IS NOT NULL"))

# Lists are in the order of submission, the newest first, whatever they are filtered by.
_SUBMISSION = (jobs.c.submitted_at, jobs.c.number)
Index("jobs_by_submission", *_SUBMISSION)
Index("jobs_by_status", jobs.c.status, *_SUBMISSION)
Index("jobs_by_type", jobs.c.type, jobs.c.status, *_SUBMISSION)

#: The labels of jobs once more, to find jobs by them.
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
    Column("signal_to", Line),  # the process that holds the job and has to be told, unless it made the change
    sqlite_autoincrement=True,
)
Index("changes_of_job", changes.c.job_id, changes.c.seq)
Index("changes_to_signal", changes.c.signal_to, changes.c.seq, **_where("signal_to IS NOT NULL"))

#: How many jobs there are, in parts; see census.py.
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
    """Have the indexes hold in another database what they hold in SQLite."""
    for table in metadata.tables.values():
        for index in table.indexes:
            index.dialect_options[dialect]["where"] = index.dialect_options["sqlite"]["where"]

"""Convert rows of the database to the values that the rest of the code uses, and back.

Runs no statement. Reads the clocks, to show the ends of leases by the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Row

from jobmanager.core.states import Action, Status
from jobmanager.core.transitions import AT_ONCE, Values
from jobmanager.core.values import MOST_LISTED_BYTES, Change, Checkpoint, JobRecord, Progress
from jobmanager.store import search
from jobmanager.store.database import Database
from jobmanager.store.fast_statements import Columns
from jobmanager.store.schema import jobs

#: A change of the clock offset up to this size is ignored: it arises because one clock is read after the other.
_CLOCK_JITTER = timedelta(milliseconds=50)
#: Approximate size of a job in a list without its texts, in bytes.
_JOB_BYTES = 1024
#: The columns of a job in the order in which they are selected.
_COLUMNS = tuple(column.name for column in jobs.c)
_FIELDS = tuple(field.name for field in fields(JobRecord))


class JobRows:
    """Converts rows of the table `jobs` to JobRecords. For any number of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock_offset = timedelta(0)  # from the lease clock to the wall clock, as last measured

    def job(self, row: Sequence[Any]) -> JobRecord:
        """Return the row as a JobRecord, with its lease converted to the wall clock."""
        return self.record(dict(zip(_COLUMNS, row, strict=True)))

    def listed(self, row: Row[Any]) -> tuple[JobRecord, int]:
        """Return the row of a list as a JobRecord, and its approximate size in bytes."""
        sizes = {name: getattr(row, f"{name}_bytes") or 0 for name in search.LARGE}
        too_large = tuple(name for name, size in sizes.items() if size > MOST_LISTED_BYTES)
        values = dict(zip(_COLUMNS, row[: len(_COLUMNS)], strict=True)) | {"shortened": too_large}
        shown = sum(size for name, size in sizes.items() if name not in too_large)
        return self.record(values), _JOB_BYTES + shown + row.other_bytes

    def record(self, values: Values) -> JobRecord:
        """Return the columns of a row as a JobRecord. Changes *values*."""
        values.setdefault("shortened", ())
        for name in ("args", "details"):
            values[name] = values[name] or {}  # null if the query left it out
        values["status"] = Status(values["status"])
        if values["run_at"] == AT_ONCE:
            values["run_at"] = values["submitted_at"]
        if values["lease_expires_at"] is not None:
            values["lease_expires_at"] += self.from_lease_clock()
        values["checkpoint"] = Checkpoint(
            seq=values["checkpoint_seq"],
            cursor=values["cursor"],
            done=_whole(values["done"]),
            total=_whole(values["total"]),
            message=values["message"],
            saved_at=values["saved_at"],
            gap_seconds=values["gap_seconds"],
        )
        return JobRecord(**{name: values[name] for name in _FIELDS})

    def from_lease_clock(self) -> timedelta:
        """Return the offset from the lease clock to the wall clock, smoothed so that repeated reads are equal."""
        measured = self._database.now() - self._database.lease_now()
        if abs(measured - self._clock_offset) > _CLOCK_JITTER:
            self._clock_offset = measured
        return self._clock_offset


def change(row: Row[Any]) -> Change:
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


def progress(row: Row[Any]) -> Progress:
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


def in_columns(rows: Sequence[Values]) -> dict[str, Sequence[Any]]:
    """Return the rows as columns. The rows must have equal columns, in the same order."""
    return dict(zip(rows[0], zip(*(row.values() for row in rows), strict=True), strict=True))


def of_same_columns(rows: Iterable[Values]) -> Iterator[Columns]:
    """Yield the rows as columns: one group for each run of successive rows with the same columns."""
    return (in_columns(list(alike)) for _, alike in groupby(rows, tuple))


def _whole(number: float | None) -> float | None:
    """Return a whole number as an int: most jobs count in whole numbers."""
    # SQLite returns an int or a float; int has is_integer() only from Python 3.12 on.
    return int(number) if number is not None and float(number).is_integer() else number

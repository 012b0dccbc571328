"""Restrict a date column to a range, in the format of its values.

If the column is not of a date type, detects the format from a sample of its values. Runs no query itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any, LiteralString

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.dates import DateFormat, detect, in_zone, to_column
from jobmanager.jobs.export.readers.errors import date_format_error


class DateBounds:
    """The date column of a dataset: its format, and the conditions that restrict it to a range."""

    def __init__(self, dataset: Dataset, kind: str, sample: Callable[[], list[Any]]) -> None:
        """*kind*: see date_conditions. *sample* returns values of the column; called only if *kind* is "", and once."""
        self._dataset = dataset
        self._kind = kind
        self._sample = sample
        self._format: DateFormat | None = None  # detected, or configured and checked against the values

    def conditions(self, begin: datetime, end: datetime) -> list[tuple[LiteralString, Any]]:
        """Return the operators and values that restrict the column to [begin, end). Raises Fatal, see `check`."""
        return date_conditions(self._kind, begin, end, self.format, self._dataset.timezone)

    def check(self) -> None:
        """Raise Fatal if the format of the dates is unknown, or if the database cannot compare dates in that format."""
        self.conditions(datetime(2000, 1, 1), datetime(2000, 1, 1))

    def format(self) -> DateFormat:
        """Return the format of the dates: NATIVE if the column is of a date type. Raises Fatal, see `check`."""
        if self._kind != "":
            return DateFormat.NATIVE
        if self._format is None:
            self._format = detected(self._sample(), self._dataset)
        return self._format


def date_conditions(
    kind: str, begin: datetime, end: datetime, date_format: Callable[[], DateFormat], timezone: str | None
) -> list[tuple[LiteralString, Any]]:
    """Return the operators and values that restrict a date column to [begin, end), naive and in UTC.

    *kind*: the type of the column. "date": a date, which stands for its first moment. "naive": a time without a zone.
    "aware": a time with a zone. "": any other type; its values have the format that *date_format* returns.
    *timezone*: the time zone of values that do not state one; None: UTC. datetime.max stands for the end of the
    calendar.
    """
    before: LiteralString = "<=" if end == datetime.max else "<"
    if kind == "aware":
        return [(">=", begin.replace(tzinfo=UTC)), (before, end.replace(tzinfo=UTC))]
    if kind == "":
        found = date_format()
        return [(">=", to_column(begin, found, timezone)), ("<", to_column(end, found, timezone))]
    begin, end = in_zone(begin, timezone), in_zone(end, timezone)
    if kind == "naive":
        return [(">=", begin), (before, end)]
    return [
        (">=" if begin.time() == time() else ">", begin.date()),
        ("<" if end.time() == time() else "<=", end.date()),
    ]


def detected(values: list[Any], dataset: Dataset) -> DateFormat:
    """Return the format of the values of a date column. Raises Fatal, with some values, if the format is unknown."""
    try:
        found = detect(values, dataset.date_format)
        to_column(datetime(2000, 1, 1), found)  # raises ValueError for a format that only SQLite can compare
    except ValueError as error:
        raise date_format_error(dataset, error) from None
    return found

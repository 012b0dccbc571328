"""The date column of a SQLite table: its format, and how its values compare with a range.

SQLite has no date type. Formats of text with offsets (ISO) are compared as instants, which only this reader can do.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.dates import (
    DateFormat,
    check_iso,
    detect,
    iso_condition,
    iso_instant,
    iso_range,
    sample_from,
    to_column,
)
from jobmanager.jobs.export.readers.errors import date_format_error
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.readers.sqlite_table import Table

#: Number of values sampled from each end of the date column, to detect its format. Twice as many are sampled in the
#: order of the table.
_SAMPLE = 250


class Dates:
    """The date column of one table: its format, and the bounds of a range in that format."""

    def __init__(self, dataset: Dataset, table: Table, connection: Connection) -> None:
        self._dataset = dataset
        self._table = table
        self._connection = connection
        self._format: DateFormat | None = None

    def format(self) -> DateFormat:
        """Return the format of the date column. Raises Fatal if it is unknown."""
        if self._format is None:
            self._table.types()
            try:
                self._format = self._detected()
            except ValueError as error:
                raise date_format_error(self._dataset, error) from None
        return self._format

    def bounds(self, begin: datetime, end: datetime) -> tuple[Any, Any, str]:
        """Return the inclusive bound and the exclusive bound of the date column, and a further SQL condition or ""."""
        if self.format() is DateFormat.ISO:
            return *iso_range(begin, end), f" AND {iso_condition(self._table.date, begin, end)}"
        low, high = (to_column(at, self.format(), self._dataset.timezone) for at in (begin, end))
        return low, high, ""

    def _detected(self) -> DateFormat:
        date = self._table.date
        found = detect(self._sample(), self._dataset.date_format)
        if found is DateFormat.ISO:
            query = f"SELECT CAST({date} AS TEXT) AS at FROM {self._table.name} WHERE {date} <> ''"
            others = self._connection.query(f"{query} AND {iso_instant(date)} IS NULL LIMIT 3")
            check_iso(others["at"].to_pylist())
        return found

    def _sample(self) -> list[object]:
        """Return values of the date column: the first, the last, and some in the order of the table."""
        date = self._table.date
        rows = (
            f"SELECT typeof({date}) AS kind, iif(typeof({date}) = 'blob', hex({date}), CAST({date} AS TEXT)) AS text "
            f"FROM {self._table.name} WHERE {date} IS NOT NULL"
        )
        ends = [f"ORDER BY {date} {way} LIMIT {_SAMPLE}" for way in ("ASC", "DESC")]
        found = [self._connection.query(f"{rows} {order}") for order in [*ends, f"LIMIT {2 * _SAMPLE}"]]
        return [value for part in found for value in sample_from(part["kind"].to_pylist(), part["text"].to_pylist())]

"""Read a dataset from MariaDB or MySQL. Values arrive as the server's text, and Arrow converts them.

Holds no transaction between two reads, and never writes; see mysql_connection.py. mysql_table.py describes the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa

from jobmanager.jobs.export.chunks import MAX_BYTES, fitting_rows
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.chunk_table import ChunkTable, first_misfit
from jobmanager.jobs.export.readers.date_bounds import DateBounds
from jobmanager.jobs.export.readers.errors import (
    Unreadable,
    duplicate_key_error,
    encoding_error,
    misfit_error,
    no_index_warning,
    not_for_parquet_error,
    null_key_error,
    row_of,
    rows_after,
)
from jobmanager.jobs.export.readers.mysql_columns import array_of
from jobmanager.jobs.export.readers.mysql_connection import Connection
from jobmanager.jobs.export.readers.mysql_table import Table, value_literal
from jobmanager.jobs.export.schemas import schema_of

#: Timeout of the search for rows with the same date and key. The search runs only if no unique index rules out such
#: rows. The end of each chunk is checked in any case.
_CHECK_SECONDS = 30
_SAMPLE_ROWS = 1000

_log = logging.getLogger(__name__)


class MysqlReader:
    """A connection to a MariaDB or MySQL server; see Reader."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation | None = None) -> None:
        """Connect. Blocks. Raises DatasetAway and Fatal. *cancellation*: lets another thread cancel the statements."""
        cancellation = cancellation or Cancellation(dataset)
        self._dataset = dataset
        self._cancellation = cancellation
        self._connection = Connection(dataset, cancellation)
        try:
            self._table = Table(dataset, self._connection)
        except BaseException:
            self.close()
            raise
        self._dates = DateBounds(dataset, self._table.date_kind, self._date_sample)

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return self._table.types()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
        schema_of(self._dataset, chosen, self.columns())
        return pa.schema([self._table.columns[name].field for name in chosen])

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the rows of [begin, end) after *after*, but only about *limit* of them; see Reader."""
        table, counted = self._table, 0
        for condition in self._segments(after, begin, end):
            source = f"FROM {table.name} AS t WHERE {condition}"
            found = self._connection.query(
                f"SELECT {table.date_name}, {table.key_name} {source} ORDER BY {table.order} LIMIT 1 OFFSET {limit - 1}"
            )
            if found:
                return counted + limit, self._place(*found[0])
            counted += int(self._connection.query(f"SELECT count(*) {source}")[0][0])
        return counted, None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end)."""
        (condition,) = self._segments(None, begin, end)
        return int(self._connection.query(f"SELECT count(*) FROM {self._table.name} AS t WHERE {condition}")[0][0])

    def check(self) -> None:
        """Raise Fatal if rows could be lost or doubled, or the date format is unknown; see Reader."""
        self._dates.check()
        table = self._table
        dated = f"FROM {table.name} AS t WHERE {table.date_name} IS NOT NULL"
        null_key = f"SELECT 1 {dated} AND {table.key_name} IS NULL LIMIT 1"
        if table.key.is_nullable and self._connection.query(null_key):
            raise null_key_error(self._dataset)
        if not table.is_proven_unique:
            self._check_ties(dated)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if no index has the rows in the order of the export, otherwise no warnings; see Reader."""
        return [] if self._table.has_index() else [no_index_warning(self._dataset)]

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order; see Reader."""
        version = self._connection.query("SELECT version()")[0][0]
        known = {
            "server": ("MariaDB " if "MariaDB" in version else "MySQL ") + version.partition(".")[0],
            "time zone": "UTC",
            "order of the key": self._table.key.collation or "that of its type",
            "date_format": str(self._dates.format()),
        }
        return known | {COLUMN + name: column.declared for name, column in self._table.columns.items()}

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows of [begin, end), and the place of the last one (None: no rows); see Reader."""
        wanted = self.schema(columns)
        self._table.check_unchanged(columns)
        if after is not None and not self._table.is_proven_unique:
            self._check_place(after)
        try:
            found, following = fitting_rows(self._rows(columns, after, begin, end, limit + 1), limit, max_bytes)
        except Unreadable:
            raise encoding_error(self._dataset, row=rows_after(self._dataset, after, limit + 1)) from None
        self._connection.discard_rows()
        if not found:
            return wanted.empty_table(), None
        if any(row[-1] is None for row in (*found, *following)):
            raise null_key_error(self._dataset)
        last = self._place(*found[-1][-2:])
        if following and self._place(*following[0][-2:]) == last:
            raise duplicate_key_error(self._dataset, last.date, last.key)
        return self._to_types(found, wanted), last

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _check_ties(self, dated: str) -> None:
        """Raise Fatal if two rows have the same date and key. If the search takes too long, only logs a warning."""
        query = (
            f"SELECT {self._table.date_name}, min({self._table.key_name}) {dated} "
            f"GROUP BY {self._table.order} HAVING count(*) > 1 LIMIT 1"
        )
        try:
            ties = self._connection.query(query, seconds=_CHECK_SECONDS)
        except DatasetAway:
            self._cancellation.check()
            # Go on: such rows are lost only if a chunk ends between them, and the end of each chunk is checked.
            _log.warning(
                "Dataset %r: the search for equal keys did not finish. Each chunk is checked instead.",
                self._dataset.name,
            )
            return
        if ties:
            raise duplicate_key_error(self._dataset, *ties[0])

    def _check_place(self, place: Place) -> None:
        """Raise Fatal if several rows have the date and key of *place*: the next read would skip some of them."""
        date, key = self._literals(place)
        same = f"{self._table.date_name} = {date} AND {self._table.key_name} = {key}"
        if len(self._connection.query(f"SELECT 1 FROM {self._table.name} AS t WHERE {same} LIMIT 2")) > 1:
            raise duplicate_key_error(self._dataset, place.date, place.key)

    def _segments(self, after: Place | None, begin: datetime, end: datetime) -> list[str]:
        """Return the conditions to query, one after the other, for the rows of [begin, end) after *after*.

        Without *after*, returns one condition. Otherwise returns two. The first selects the remaining rows with the
        date of *after*, and the second selects the rows with later dates. The single condition `(date, key) > (?, ?)`
        would be slow: the server does not look up the key in its index, and scans the whole range for each chunk.
        """
        table = self._table
        low, high = (
            f"{table.date_name} {operator} {value_literal(bound, table.date)}"
            for operator, bound in self._dates.conditions(begin, end)
        )
        if after is None:
            return [f"{low} AND {high}"]
        date, key = self._literals(after)
        return [
            f"{table.date_name} = {date} AND {table.key_name} > {key}",
            f"{table.date_name} > {date} AND {high}",
        ]

    def _literals(self, place: Place) -> tuple[str, str]:
        return value_literal(place.date, self._table.date), value_literal(place.key, self._table.key)

    def _date_sample(self) -> list[Any]:
        table = self._table
        found = self._connection.query(
            f"SELECT {table.date_name} FROM {table.name} AS t WHERE {table.date_name} IS NOT NULL LIMIT {_SAMPLE_ROWS}"
        )
        return [float(value) if table.date.is_number else value for (value,) in found]

    def _rows(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the next rows, at most *limit* of them, with date and key as the last two values."""
        table = self._table
        selected = ", ".join([*map(table.selected, columns), table.date_name, table.key_name])
        for condition in self._segments(after, begin, end):
            query = f"SELECT {selected} FROM {table.name} AS t WHERE {condition} ORDER BY {table.order} LIMIT {limit}"
            for row in self._connection.stream(query, limit):
                limit -= 1
                yield row
            if not limit:
                return

    def _place(self, date_text: Any, key: Any) -> Place:
        """Return the place for a date and a key as the server sent them. Raises Fatal if the date is not valid."""
        if self._table.date_kind and not _is_date(date_text):
            row, remedy = row_of(self._dataset, key), "Correct it in the database."
            raise misfit_error(self._dataset, self._table.date.name, row, "is not a date", remedy)
        return Place(date=date_text, key=key)

    def _to_types(self, rows: list[Any], wanted: pa.Schema) -> pa.Table:
        """Convert each column to its type. If a value does not fit, the column becomes text: see ChunkTable."""
        table = ChunkTable()
        for index, field in enumerate(wanted):
            values = [row[index] for row in rows]
            try:
                array, misfit = array_of(values, field.type)
            except (pa.ArrowTypeError, UnicodeError):
                key = rows[first_misfit(values, pa.string())][-1]
                raise encoding_error(self._dataset, field.name, row_of(self._dataset, key)) from None
            if misfit is None:
                table.add(field, array)
                continue
            declared, key = self._table.columns[field.name].declared, rows[misfit][-1]
            table.add_text(field, array, not_for_parquet_error(self._dataset, field.name, declared, key))
        return table.table()


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True

"""Read a dataset from a DuckDB file into Arrow. Never writes; see duckdb_connection.py and duckdb_table.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa

from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.chunk_table import ChunkTable
from jobmanager.jobs.export.readers.date_bounds import DateBounds
from jobmanager.jobs.export.readers.duckdb_connection import Connection
from jobmanager.jobs.export.readers.duckdb_table import Table
from jobmanager.jobs.export.readers.errors import duplicate_key_error, not_for_parquet_error, null_key_error
from jobmanager.jobs.export.readers.postgresql_times import is_within_calendar
from jobmanager.jobs.export.schemas import schema_of

_SAMPLE_ROWS = 1000
#: Bytes counted for a value that is neither text nor bytes.
_VALUE_BYTES = 8


class DuckdbReader:
    """A connection to a DuckDB file; see Reader."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation | None = None) -> None:
        """Connect. Blocks. Raises DatasetAway and Fatal. *cancellation*: lets another thread cancel the statements."""
        cancellation = cancellation or Cancellation(dataset)
        self._dataset = dataset
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
        """Count all rows in one query, without a limit: counting is fast in DuckDB. See Reader."""
        source, values = self._source(after, begin, end)
        return int(self._connection.query(f"SELECT count(*) {source}", values)[0][0]), None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end)."""
        return self.count(None, begin, end, 1)[0]

    def check(self) -> None:
        """Raise Fatal if rows could be lost or doubled, or the date format is unknown; see Reader."""
        self._dates.check()
        table = self._table
        dated = f"FROM {table.name} AS t WHERE {table.date_name} IS NOT NULL"
        if self._connection.query(f"SELECT 1 {dated} AND {table.key_name} IS NULL LIMIT 1"):
            raise null_key_error(self._dataset)
        ties = self._connection.query(
            f"SELECT CAST({table.date_name} AS VARCHAR), CAST(min({table.key_name}) AS VARCHAR) {dated} "
            f"GROUP BY {table.order} HAVING count(*) > 1 LIMIT 1"
        )
        if ties:
            raise duplicate_key_error(self._dataset, *ties[0])

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return no warnings: DuckDB scans its columns fast without an index."""
        return []

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order; see Reader."""
        known = {
            "server": f"DuckDB {self._connection.version.partition('.')[0]}",
            "time zone": "UTC",
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
        self._check_place(after)
        source, values = self._source(after, begin, end)
        source = f"{source} ORDER BY {self._table.order} LIMIT"
        sizes = self._connection.query(f"SELECT {self._size(wanted)} {source} {limit + 1}", values)
        rows = _fitting([size for (size,) in sizes], limit, max_bytes)
        if not rows:
            return wanted.empty_table(), None
        found = self._connection.table(f"SELECT {self._selected(columns)} {source} {rows}", values)
        keys = found["place_key"]
        if keys.null_count:
            raise null_key_error(self._dataset)
        last = Place(date=found["place_date"][-1].as_py(), key=keys[-1].as_py())
        as_text = None
        if any(map(_is_outside_calendar, found.columns)):
            as_text = self._connection.table(f"SELECT {self._selected_texts(columns)} {source} {rows}", values)
        return self._to_types(found, as_text, wanted), last

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _check_place(self, place: Place | None) -> None:
        """Raise Fatal if a row with the date of *place* has a NULL key, or if several rows have this date and key."""
        if place is None:
            return
        table = self._table
        same = f"FROM {table.name} AS t WHERE {table.date_name} = $1"
        if self._connection.query(f"SELECT 1 {same} AND {table.key_name} IS NULL LIMIT 1", [place.date]):
            raise null_key_error(self._dataset)
        tied = f"SELECT 1 {same} AND {table.key_name} = {table.key_from('$2')} LIMIT 2"
        if len(self._connection.query(tied, [place.date, place.key])) > 1:
            raise duplicate_key_error(self._dataset, place.date, place.key)

    def _source(self, after: Place | None, begin: datetime, end: datetime) -> tuple[str, list[Any]]:
        """Return FROM and WHERE for the rows of [begin, end) after *after*, and their parameters."""
        table, conditions = self._table, self._dates.conditions(begin, end)
        texts = [f"{table.date_name} {operator} ${number}" for number, (operator, _) in enumerate(conditions, start=1)]
        values = [bound for _, bound in conditions]
        if after is not None:
            key = table.key_from("$4")
            texts.append(f"({table.date_name} > $3 OR {table.date_name} = $3 AND {table.key_name} > {key})")
            values += [after.date, after.key]
        return f"FROM {table.name} AS t WHERE {' AND '.join(texts)}", values

    def _date_sample(self) -> list[Any]:
        table = self._table
        found = self._connection.query(
            f"SELECT {table.date_name} FROM {table.name} AS t WHERE {table.date_name} IS NOT NULL LIMIT {_SAMPLE_ROWS}"
        )
        return [value for (value,) in found]

    def _selected(self, columns: list[str]) -> str:
        """Return the SQL that selects the columns and the place of each row. Columns are named c0, c1, …"""
        forms = [f"{self._table.selected(name)} AS c{number}" for number, name in enumerate(columns)]
        date, key = self._table.selected(self._table.date.name), self._table.selected_key()
        return ", ".join([*forms, f"{date} AS place_date", f"{key} AS place_key"])

    def _selected_texts(self, columns: list[str]) -> str:
        return ", ".join(
            f"CAST({self._table.selected(name)} AS VARCHAR) AS c{number}" for number, name in enumerate(columns)
        )

    def _size(self, wanted: pa.Schema) -> str:
        """Return an SQL expression for the approximate bytes of a row."""
        terms = [str(_VALUE_BYTES * (len(wanted) + 2))]
        for field in wanted:
            if pa.types.is_string(field.type):
                terms.append(f"coalesce(strlen({self._table.selected(field.name)}), 0)")
            elif pa.types.is_binary(field.type):
                terms.append(f"coalesce(octet_length({self._table.selected(field.name)}), 0)")
        return " + ".join(terms)

    def _to_types(self, found: pa.Table, as_text: pa.Table | None, wanted: pa.Schema) -> pa.Table:
        """Convert each column to its type. If a value does not fit, the column becomes text: see ChunkTable.

        *as_text*: all columns as text; None if all values fit.
        """
        table = ChunkTable()
        for number, field in enumerate(wanted):
            array = found.column(number)
            if as_text is None or not _is_outside_calendar(array):
                table.add(field, array.cast(field.type))
                continue
            texts = as_text.column(number)
            row = next(index for index in range(len(array)) if _is_outside_calendar(array.slice(index, 1)))
            declared, key = self._table.columns[field.name].declared, found["place_key"][row].as_py()
            table.add_text(field, texts, not_for_parquet_error(self._dataset, field.name, declared, key))
        return table.table()


def _fitting(sizes: list[int], limit: int, max_bytes: int) -> int:
    """Return how many of the rows with these sizes make one chunk: at least one, unless there are no rows."""
    total = 0
    for number, size in enumerate(sizes[:limit]):
        total += size
        if number and total > max_bytes:
            return number
    return min(limit, len(sizes))


def _is_outside_calendar(array: pa.ChunkedArray) -> bool:
    """Return True if the array has dates or times outside Python's calendar."""
    is_date = pa.types.is_date32(array.type) or pa.types.is_timestamp(array.type)
    return is_date and not is_within_calendar(array)

"""Read a dataset from a SQLite file. Runs in a child process, see sqlite_process.py and sqlite_connection.py.

Each read is one transaction. This module decides what is read and checked, and in which order. The order of the rows
is in sqlite_order.py and sqlite_sorted.py, and the selection of their values in sqlite_rows.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pyarrow as pa

from jobmanager.jobs.export import mixed_columns
from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.errors import null_key_error
from jobmanager.jobs.export.readers.sqlite_columns import misfit_test
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.readers.sqlite_dates import Dates
from jobmanager.jobs.export.readers.sqlite_order import RowOrder, Segment, ambiguous_key_error, select
from jobmanager.jobs.export.readers.sqlite_rows import MOST_SELECTED, Rows
from jobmanager.jobs.export.readers.sqlite_sorted import SortedRows
from jobmanager.jobs.export.readers.sqlite_table import Table
from jobmanager.jobs.export.readers.sqlite_values import bound, has_null, place_of, to_fixed_type
from jobmanager.jobs.export.schemas import schema_of


class SqliteReader:
    """A connection to a SQLite file; see Reader."""

    def __init__(self, dataset: Dataset, declared: dict[str, str] | None = None) -> None:
        """Open the file. *declared*: the expected columns with their declared types; None: those of the file."""
        self._dataset = dataset
        self._as_text: frozenset[str] = frozenset()
        self._has_fixed_types = False
        self._connection = Connection(dataset)
        self._table = Table(dataset, self._connection, declared)
        self._dates = Dates(dataset, self._table, self._connection)
        self._order = RowOrder(self._table, self._dates, self._connection)
        self._sorted = SortedRows(dataset, self._table, self._connection)
        self._rows = Rows(dataset, self._table, self._connection)

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column, including generated ones."""
        return self._table.types()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
        kinds = self.columns()
        return schema_of(self._dataset, chosen, kinds | {name: pa.string() for name in self._as_text if name in kinds})

    def check(self) -> None:
        """Raise Fatal if the key is NULL in some rows or not unique, or the date format is unknown; see Reader."""
        self._dates.format()
        with self._transaction():
            order = self._order.choose(datetime.min, datetime.max)
            if self._table.is_key_certain(order.collation):
                return
            table = self._table
            within = f"FROM {table.name} WHERE {table.date} IS NOT NULL"
            if self._connection.query(f"SELECT 1 {within} AND {table.key} IS NULL LIMIT 1").num_rows:
                raise null_key_error(self._dataset)
            if not order.is_indexed:
                # Each read checks for rows with the same date and key. Sorting the table here, too, would take long.
                return
            date, key = table.date + order.collation, table.key + order.collation
            selected = f"SELECT {table.date} AS date, {table.key} AS key"
            query = f"{selected} {within} GROUP BY {date}, {key} HAVING count(*) > 1 LIMIT 1"
            for row in self._connection.query(query).to_pylist():
                raise ambiguous_key_error(self._dataset, order, row["date"], row["key"])

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if an index is missing, otherwise no warnings; see Reader."""
        with self._transaction():
            order = self._order.choose(begin, end)
            if order.is_indexed:
                return []
            date, key, name = self._dataset.date_column, self._dataset.key, self._dataset.name
            way = (
                "the rows of each date are sorted again for each chunk"
                if order.has_dates
                else "all rows of the range are sorted before the first is written, and again after each halt"
                if self._table.row_id() is not None
                else "the table is scanned and sorted again for each chunk"
            )
            return [
                f"There is no index on ({date}, {key}) of dataset {name!r}: {way}. Create one to make the export fast."
            ]

    def identity(self) -> dict[str, str]:
        """Return the encoding, the date format and the columns with their defaults; see Reader."""
        encoding = self._connection.query("PRAGMA encoding")["encoding"][0].as_py()
        columns = {COLUMN + name: declared for name, declared in self._table.identities().items()}
        return {"encoding": encoding, "date_format": str(self._dates.format())} | columns

    def mixed_columns(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return the columns with values in [begin, end) that do not fit their type. A text column fits all values."""
        schema = self.schema(columns)
        if not columns:
            return []
        (segment,) = self._order.segments(None, begin, end)
        found: list[str] = []
        for first in range(0, len(schema), MOST_SELECTED):
            fields = list(schema)[first : first + MOST_SELECTED]
            tests = ", ".join(f"max({misfit_test(self._table.column(field.name), field.type)})" for field in fields)
            query = f"SELECT {tests} FROM {segment.source} WHERE {segment.condition}"
            row = self._connection.query(query, segment.bounds)
            found += [field.name for field, test in zip(fields, row.columns, strict=True) if test[0].as_py()]
        return found

    def fix_types(self, as_text: list[str]) -> None:
        """Fix the types of all later rows: text for the columns *as_text*; see FixesTypes."""
        self._as_text, self._has_fixed_types = frozenset(as_text), True

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end)."""
        (segment,) = self._order.segments(None, begin, end)
        return self._count(segment)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count about *limit* rows, by the index alone. Without an index, counts all rows in one query; see Reader."""
        counted = 0
        with self._transaction():
            is_indexed = self._order.choose(begin, end).is_indexed
            for segment in self._order.segments(after, begin, end):
                place = self._place_at(segment, limit) if is_indexed else None
                if place is not None:
                    return counted + limit, place
                counted += self._count(segment)
        return counted, None

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
        with self._transaction():
            wanted = self.schema(columns)
            names = list(dict.fromkeys([*columns, self._dataset.date_column, self._dataset.key]))
            if not self._table.check_unchanged(names):
                self._order.forget()
                self._sorted.forget()
            found = self._rows.read(names, self._segments(after, begin, end), limit, max_bytes)
            dates, keys = found[self._dataset.date_column], found[self._dataset.key]
            if not len(keys):
                return wanted.empty_table(), None
            if has_null(keys):
                raise null_key_error(self._dataset)
            place = place_of(dates[-1].as_py(), keys[-1].as_py())
            self._check_unique(place, begin, end)
            self._sorted.keep_position(place)
        if self._has_fixed_types:
            declared = self._table.declared()
            arrays = [to_fixed_type(self._dataset, declared[f.name], found[f.name], f, keys) for f in wanted]
            return pa.table(arrays, schema=wanted), place
        arrays = [
            found[f.name] if mixed_columns.has_value(found[f.name]) else pa.nulls(len(keys), f.type) for f in wanted
        ]
        return pa.table(arrays, names=columns), place

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run all queries in one transaction, so that they see the same rows."""
        try:
            with self._connection.transaction():
                yield
        except BaseException:
            self._sorted.forget()  # the rollback has removed the temporary table
            raise

    def _segments(self, after: Place | None, begin: datetime, end: datetime) -> list[Segment]:
        """Return the segments to read. Without an index, sorts all rows once, if possible, into one segment."""
        order = self._order.choose(begin, end)
        row_id = None if order.is_indexed or order.has_dates else self._table.row_id()
        segments = self._order.segments(after, begin, end)
        return segments if row_id is None else [self._sorted.segment(after, segments, row_id)]

    def _check_unique(self, place: Place, begin: datetime, end: datetime) -> None:
        """Raise Fatal if several rows have the date and key of *place*: the next read would skip some of them."""
        if self._sorted.is_in_use:
            return  # checked when the rows were sorted
        order = self._order.choose(begin, end)
        condition = f"{self._table.date}{order.collation} = ? AND {self._table.key}{order.collation} = ?"
        query = f"SELECT 1 FROM {self._table.name} WHERE {condition} LIMIT 2"
        if self._connection.query(query, [bound(place.date), bound(place.key)]).num_rows > 1:
            raise ambiguous_key_error(self._dataset, order, place.date, place.key)

    def _count(self, segment: Segment) -> int:
        query = f"SELECT count(*) AS n FROM {segment.source} WHERE {segment.condition}"
        return int(self._connection.query(query, segment.bounds)["n"][0].as_py())

    def _place_at(self, segment: Segment, number: int) -> Place | None:
        """Return the place of row *number* of a segment, counted from 1; None if the segment is shorter.

        Reads only the index. Raises Fatal if the key is NULL.
        """
        selected = f"{self._table.date} AS date, {self._table.key} AS key"
        rows = select(self._connection, selected, segment, 1, offset=number - 1)
        if not rows.num_rows:
            return None
        date, key = (rows[name][0].as_py() for name in ("date", "key"))
        if key is None:
            raise null_key_error(self._dataset)
        return place_of(date, key)

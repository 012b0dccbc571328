"""Read a dataset from PostgreSQL. Never writes. Holds a transaction between two reads only for a `snapshot`.

Two connections: one for rows (postgresql_rows.py), and one for everything else (postgresql_session.py). This module
decides what is read and checked, and in which order; the SQL is in postgresql_table.py and postgresql_statements.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import pyarrow as pa
from psycopg import sql

from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.date_bounds import DateBounds
from jobmanager.jobs.export.readers.errors import (
    Unreadable,
    duplicate_key_error,
    encoding_error,
    no_index_warning,
    null_key_error,
    rows_after,
)
from jobmanager.jobs.export.readers.postgresql_rows import NameMissing, RowConnection
from jobmanager.jobs.export.readers.postgresql_session import Session
from jobmanager.jobs.export.readers.postgresql_statements import RowQuery, Statements, date_sample
from jobmanager.jobs.export.readers.postgresql_table import Table
from jobmanager.jobs.export.readers.postgresql_values import to_types
from jobmanager.jobs.export.schemas import schema_of

#: Timeout of the search for rows with the same date and key. The search runs only if no unique index rules out such
#: rows. The end of each chunk is checked in any case.
_CHECK_SECONDS = 30

_log = logging.getLogger(__name__)


class PostgresReader:
    """Connections to a PostgreSQL server; see Reader."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation | None = None) -> None:
        """Connect. Blocks. Raises DatasetAway and Fatal. *cancellation*: lets another thread cancel the statements."""
        cancellation = cancellation or Cancellation(dataset)
        self._dataset = dataset
        self._session = Session(dataset, cancellation)
        self._rows = RowConnection(dataset, self._session, cancellation)
        try:
            self._table = Table(dataset, self._session)
            if dataset.snapshot:
                self._session.take_snapshot(self._table.name)
                self._table = Table(dataset, self._session)  # again: the table may have changed before the snapshot
        except BaseException:
            self.close()
            raise
        self._dates = DateBounds(dataset, self._table.date_kind, self._date_sample)
        self._statements = Statements(self._table, self._dates)

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return self._table.types()

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
        schema_of(self._dataset, chosen, self.columns())
        return pa.schema([self._table.columns[name].field for name in chosen])

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the rows of [begin, end) after *after*, but only about *limit* of them; see Reader."""
        found = self._session.query(self._statements.place_at(limit, after, begin, end))
        if found:
            return limit, Place(date=found[0][0], key=found[0][1])
        return self._session.query(self._statements.count(after, begin, end))[0][0], None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end)."""
        return int(self._session.query(self._statements.count(None, begin, end))[0][0])

    def check(self) -> None:
        """Raise Fatal if rows could be lost or doubled, or the date format is unknown; see Reader."""
        self._dates.check()
        if self._table.key.is_nullable and self._session.query(self._statements.null_keys()):
            raise null_key_error(self._dataset)
        if not self._table.is_proven_unique:
            self._check_ties()

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if no index has the rows in the order of the export, otherwise no warnings; see Reader."""
        rows = self._statements.rows([], None, begin, end, 1000)
        query = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(rows.text)
        # For a small table, the planner ignores an index. So ask for the plan that avoids scans and sorts.
        plan = self._session.query(query, "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")[0][0]
        return [no_index_warning(self._dataset)] if "Sort" in set(_node_types(plan[0]["Plan"])) else []

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order; see Reader."""
        found = self._session.query(
            sql.SQL(
                "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'), "
                "(SELECT collname FROM pg_collation WHERE oid = {})"
            ).format(self._table.collation)
        )
        version, encoding, collation = found[0]
        known = {
            "server": f"PostgreSQL {version}",
            "encoding": encoding,
            "time zone": "UTC",
            "order of the key": collation or "that of its type",
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
        query = self._statements.rows(columns, after, begin, end, limit + 1)
        try:
            with self._rows.transaction():
                self._check_unchanged(columns, after)
                found, fitting = self._rows.fetch(self._session.text_of(query.text), limit, max_bytes)
        except Unreadable:
            row = rows_after(self._dataset, after, limit + 1)
            raise encoding_error(self._dataset, self._unreadable_column(columns, query), row) from None
        except NameMissing:
            raise self._table.altered_error() from None
        if not found.num_rows:
            return wanted.empty_table(), None
        place = self._last_place(found[query.date], found[query.key], fitting)
        keys = found[query.key].slice(0, fitting)
        chosen = [self._table.columns[name] for name in columns]
        return to_types(self._dataset, chosen, found.slice(0, fitting), keys, wanted), place

    def close(self) -> None:
        """Close the connections."""
        with closing(self._session):
            self._rows.close()

    def _date_sample(self) -> list[Any]:
        return [row[0] for row in self._session.query(date_sample(self._table))]

    def _check_ties(self) -> None:
        """Raise Fatal if two rows have the same date and key. If the search takes too long, only logs a warning."""
        ties = self._session.query_within(_CHECK_SECONDS, self._statements.ties())
        if ties is None:
            # Go on: such rows are lost only if a chunk ends between them, and the end of each chunk is checked.
            _log.warning(
                "Dataset %r: the search for equal keys did not finish. Each chunk is checked instead.",
                self._dataset.name,
            )
        elif ties:
            raise duplicate_key_error(self._dataset, *ties[0])

    def _check_unchanged(self, columns: list[str], after: Place | None) -> None:
        """Raise Fatal if a column has changed since the reader was opened, or if a read after *after* would skip rows.

        Runs one statement. Preparing the statement locks the table, so that no column can change until the transaction
        ends.
        """
        query = self._session.text_of(self._statements.columns_with_check(after))
        rows = self._rows.execute(query).to_pylist()
        self._table.check_unchanged(columns, rows)
        if rows[0]["lost"]:
            raise null_key_error(self._dataset)
        if rows[0]["tied"] and after is not None:
            raise duplicate_key_error(self._dataset, after.date, after.key)

    def _last_place(self, dates: pa.ChunkedArray, keys: pa.ChunkedArray, fitting: int) -> Place:
        """Return the place of the last row of a chunk. The chunk is the first *fitting* rows; more rows may follow.

        Raises Fatal if a key of the chunk or of the next row is NULL, or if the last row and the next row have the same
        date and key.
        """
        if keys.slice(0, fitting + 1).null_count:
            raise null_key_error(self._dataset)
        last, *following = (
            Place(date=dates[index].as_py(), key=keys[index].as_py())
            for index in range(fitting - 1, min(fitting + 1, len(keys)))
        )
        if following == [last]:
            raise duplicate_key_error(self._dataset, last.date, last.key)
        return last

    def _unreadable_column(self, columns: list[str], query: RowQuery) -> str | None:
        """Return the first column with a text that cannot be converted to UTF-8; None if there is no such column.

        The error of the server does not name the column.
        """
        for number, name in enumerate(columns):
            if not pa.types.is_string(self._table.columns[name].delivered):
                continue
            try:
                self._session.query(self._statements.unreadable_texts(number, query))
            except Unreadable:
                return name
        return None


def _node_types(plan: dict[str, Any]) -> Iterator[str]:
    yield plan["Node Type"]
    for part in plan.get("Plans", ()):
        yield from _node_types(part)

"""Read a dataset from PostgreSQL, by ADBC into Arrow: in C, without the GIL.

Each read is one read-only transaction with a statement timeout: behind a pooler, its statements share a connection.
The rows come by binary COPY; psycopg reads the catalog, counts and checks. Never writes. Holds no transaction between
two reads, unless the dataset has `snapshot`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql
import adbc_driver_postgresql.dbapi
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, tuple_row
from sqlalchemy.exc import SQLAlchemyError

from jobmanager.jobs.export.chunks import MAX_BYTES, Chunk
from jobmanager.jobs.export.datasets import Dataset, DatasetAway, away_error, check_table, unusable_error
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.errors import (
    NOT_FOR_PARQUET,
    Unreadable,
    altered_error,
    duplicate_key_error,
    encoding_error,
    forbidden_error,
    missing_table_error,
    no_index_warning,
    not_for_parquet_reason,
    null_key_error,
    timeout_error,
)
from jobmanager.jobs.export.readers.postgresql_columns import Column, column_of
from jobmanager.jobs.export.readers.postgresql_times import as_texts, is_within_calendar, outside_calendar
from jobmanager.jobs.export.readers.sqlalchemy import date_conditions, detected
from jobmanager.jobs.export.schemas import schema_of

_CONNECT_SECONDS = 10
#: Statement timeout, unless the server or the URL sets statement_timeout.
_STATEMENT_SECONDS = 600
#: Lock timeout of a snapshot for its table.
_LOCK_SECONDS = 10
#: Timeout of a request to cancel a statement. The request is repeated until the statement has ended.
_CANCEL_SECONDS = 2.0
#: Timeout of the search for equal keys if no unique index excludes them. The end of each chunk is checked anyway.
_CHECK_SECONDS = 30
#: Bytes that the driver collects before it returns rows: the most that is read beyond the limit of a chunk.
_BATCH_BYTES = 2 * 1024 * 1024
#: Size of the sample from which the format of a date column is detected, at each end of its order.
_SAMPLE_ROWS = 500

#: Errors of ADBC after which a retry may help. While rows are fetched, pyarrow raises OSError or ArrowInvalid.
_AWAY = (
    adbc_driver_manager.OperationalError,
    adbc_driver_manager.InterfaceError,
    adbc_driver_manager.InternalError,
    OSError,
)
#: Messages of the server for texts that cannot be converted to UTF-8.
_ENCODING_ERRORS = ("has no equivalent in encoding", "invalid byte sequence")

#: The date types of the database, with their names in date_conditions.
_DATE_KINDS = {"date": "date", "timestamp": "naive", "timestamptz": "aware"}
_SETTINGS = """
    SELECT set_config('transaction_read_only', 'on', true), set_config('TimeZone', 'UTC', true),
        set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true),
        set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true),
        set_config('statement_timeout', CASE current_setting('statement_timeout')
            WHEN '0' THEN '{seconds}s' ELSE current_setting('statement_timeout') END, true)
"""
_RELATIONS = """
    SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (c.relname = %(table)s AND pg_table_is_visible(c.oid) OR n.nspname || '.' || c.relname = %(table)s)
    ORDER BY c.relname = %(table)s DESC
"""
#: The columns of a table; for a domain, its base type.
_COLUMNS = """
    WITH RECURSIVE typed AS (
        SELECT attname, attnum, format_type(atttypid, atttypmod) AS declared, attnotnull,
            atttypid AS type, atttypmod AS modifier, attcollation
        FROM pg_attribute WHERE attrelid = {relation} AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT attname, attnum, declared, attnotnull, typbasetype, typtypmod, attcollation
        FROM typed JOIN pg_type ON pg_type.oid = type WHERE typtype = 'd'
    )
    SELECT attname::text AS name, attnum::int AS number, declared, modifier, NOT attnotnull AS is_nullable,
        attcollation::bigint AS collation,
        coalesce(collisdeterministic, true) AND typname <> 'citext' AS is_deterministic,
        CASE WHEN typtype = 'c' THEN 'composite'
            WHEN typcategory = 'A' AND typelem = 'json'::regtype THEN 'json array'
            WHEN typcategory = 'A' THEN 'array'
            WHEN typnamespace = 'pg_catalog'::regnamespace THEN typname::text
            ELSE 'other' END AS kind
    FROM typed JOIN pg_type ON pg_type.oid = type LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE typtype <> 'd' ORDER BY attnum
"""
#: The valid indexes on plain columns. The operator class shows whether an index compares as citext.
_INDEXES = """
    SELECT array_agg(k.attnum::int ORDER BY k.ordinal) AS columns,
        max(k.compared_by::bigint) FILTER (WHERE k.attnum = %(key)s) AS collation,
        bool_or(o.opcname = 'citext_ops') AS is_citext,
        i.indisunique AND i.indpred IS NULL AS is_unique
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[])
        WITH ORDINALITY AS k (attnum, compared_by, class, ordinal)
    JOIN pg_opclass o ON o.oid = k.class
    WHERE i.indrelid = %(relation)s AND i.indisvalid AND i.indexprs IS NULL AND k.ordinal <= i.indnkeyatts
    GROUP BY i.indexrelid, i.indisunique, i.indpred
"""

_log = logging.getLogger(__name__)


class PostgresReader:
    """Connections to a PostgreSQL server; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._date_format: DateFormat | None = None  # detected, or configured and checked against the values
        self._conninfo = _conninfo(dataset)
        # Opened for the first rows: a caller that only reads the columns does not need it.
        self._rows_connection: Any = None
        self._cursor: Any = None  # the running statement, which another thread may cancel
        self._is_cancelled = False
        self._snapshot: str | None = None
        with self._translated():
            self._session = self._connected()
        try:
            self._describe()
            if dataset.snapshot:
                self._take_snapshot()
                self._describe()  # again, because the table may have changed before the snapshot
        except BaseException:
            self.close()
            raise

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return {name: column.field.type for name, column in self._columns.items()}

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        schema_of(chosen, self.columns())
        return pa.schema([self._columns[name].field for name in chosen])

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count a step at a time; see Reader."""
        source = self._source(after, begin, end)
        step = sql.SQL("SELECT {}, {} {} ORDER BY {} LIMIT 1 OFFSET {}").format(
            self._date_name, self._selected_key(), source, self._order(), limit - 1
        )
        found = self._ask(step)
        if found:
            return limit, Place(date=found[0][0], key=found[0][1])
        return self._ask(sql.SQL("SELECT count(*) {}").format(source))[0][0], None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        found = self._ask(sql.SQL("SELECT count(*) {}").format(self._source(None, begin, end)))
        return int(found[0][0])

    def check(self) -> None:
        """Raise Fatal if rows could be lost or doubled, or the date format is unknown; see Reader."""
        self._check_date_format()
        if self._key.is_nullable and self._ask(
            sql.SQL("SELECT 1 FROM {} AS t WHERE {} IS NULL AND {} IS NOT NULL LIMIT 1").format(
                self._table, self._key_name, self._date_name
            )
        ):
            raise null_key_error(self._dataset)
        if not self._is_proven_unique:
            self._check_ties()

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if no index has the rows in order; see Reader."""
        query = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(self._query([], None, begin, end, 1000).text)
        # For a small table, the planner ignores an index: ask for the plan that avoids scans and sorts.
        plan = self._ask(query, "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")[0][0]
        if "Sort" not in set(_node_types(plan[0]["Plan"])):
            return []
        return [no_index_warning(self._dataset)]

    def identity(self) -> dict[str, str]:
        """Return the properties that affect how values read or compare; see Reader."""
        found = self._ask(
            sql.SQL(
                "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'), "
                "(SELECT collname FROM pg_collation WHERE oid = {})"
            ).format(self._collation)
        )
        version, encoding, collation = found[0]
        is_native = self._date.kind in _DATE_KINDS
        known = {
            "server": f"PostgreSQL {version}",
            "encoding": encoding,
            "time zone": "UTC",
            "order of the key": collation or "that of its type",
            "date_format": str(DateFormat.NATIVE if is_native else self._format()),
        }
        return known | {COLUMN + name: column.declared for name, column in self._columns.items()}

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows; see Reader."""
        wanted = self.schema(columns)
        query = self._query(columns, after, begin, end, limit + 1)
        try:
            with self._transaction():
                self._check_unchanged(columns, after)
                found, fitting = self._fetch(query.text.as_string(self._session), limit, max_bytes)
        except Unreadable:
            raise encoding_error(self._dataset, self._unreadable_column(columns, query)) from None
        if not found.num_rows:
            return wanted.empty_table(), None
        place = self._last_place(found[query.date], found[query.key], fitting)
        keys = found[query.key].slice(0, fitting)
        return self._fit(found.slice(0, fitting), keys, wanted), place

    def cancel(self) -> None:
        """Cancel the statement that another thread waits for. It raises DatasetAway, and so does each later one."""
        self._is_cancelled = True
        cursor = self._cursor
        try:
            if cursor is not None:
                cursor.adbc_cancel()
            elif self._session.info.transaction_status is TransactionStatus.ACTIVE:
                self._session.cancel_safe(timeout=_CANCEL_SECONDS)
        except (adbc_driver_manager.Error, psycopg.Error):
            # The statement has ended by itself meanwhile.
            _log.debug("The statement could not be cancelled.", exc_info=True)

    def close(self) -> None:
        """Close the connections."""
        with closing(self._session):
            self._disconnect()

    # The table

    def _describe(self) -> None:
        """Read the description of the table from the catalog."""
        relation, schema, table = self._relation()
        self._relation_id = relation
        self._table = sql.Identifier(schema, table)
        self._columns = {column.name: column for column in self._catalog_columns()}
        self._check_configured()
        self._date, self._key = (self._columns[name] for name in (self._dataset.date_column, self._dataset.key))
        self._date_name, name = (sql.Identifier("t", column.name) for column in (self._date, self._key))
        self._collation, self._is_proven_unique = self._order_of_key()
        collate = self._collate() if self._collation != self._key.collation else sql.SQL("")
        self._key_name = sql.Composed([name, collate])

    def _relation(self) -> tuple[int, str, str]:
        found = self._ask(sql.SQL(_RELATIONS), params={"table": self._dataset.table})
        if not found:
            raise missing_table_error(self._dataset)
        return found[0][0], found[0][1], found[0][2]

    def _catalog_columns(self) -> list[Column]:
        rows = self._ask(sql.SQL(_COLUMNS).format(relation=self._relation_id), row_factory=dict_row)
        return [column_of(row) for row in rows]

    def _check_configured(self) -> None:
        check_table(self._dataset, self.columns())

    def _order_of_key(self) -> tuple[int, bool]:
        """Return the collation that orders the keys, and True if a unique index rules out rows with equal places.

        It is the collation of the column, unless only an index with another one is of use: an index (date, key) or, if
        the column treats different texts as equal, a unique index that distinguishes them.
        """
        numbers = self._date.number, self._key.number
        given = {"relation": self._relation_id, "key": self._key.number}
        indexes = self._ask(sql.SQL(_INDEXES), params=given, row_factory=dict_row)
        serving = [index for index in indexes if tuple(index["columns"][:2]) == numbers]
        unique = [index for index in indexes if index["is_unique"] and set(index["columns"]) <= set(numbers)]
        own, key = self._key.collation, self._key
        others = [index["collation"] for index in serving if index["collation"] not in (own, None)]
        if not key.is_deterministic:
            others = [index["collation"] for index in unique if index["collation"] not in (own, None)]
        elif any(index["collation"] == own for index in serving):
            others = []
        collation = others[0] if others and self._tells_apart(others[0]) else own
        return collation, any(self._excludes_ties(index, collation) for index in unique)

    def _excludes_ties(self, index: dict[str, Any], collation: int) -> bool:
        """Return True if rows that a unique index distinguishes also differ in the order of the export."""
        if index["collation"] is None:
            return True  # the dates alone are unique
        if self._key.is_deterministic or collation != self._key.collation:
            return True
        # Texts that the column treats as equal may differ in the index: both must compare in the same way.
        is_citext = self._key.declared.rpartition(".")[2] == "citext"
        return bool(index["collation"] == collation and index["is_citext"] == is_citext)

    def _tells_apart(self, collation: int) -> bool:
        query = sql.SQL("SELECT collisdeterministic FROM pg_collation WHERE oid = {}").format(collation)
        # The operators of citext ignore the letter case in every collation.
        return self._key.kind != "other" and bool(self._ask(query)[0][0])

    def _collate(self) -> sql.Composable:
        query = sql.SQL(
            "SELECT nspname, collname FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace WHERE c.oid = {}"
        )
        return sql.SQL(" COLLATE {}").format(sql.Identifier(*self._ask(query.format(self._collation))[0]))

    # Checks

    def _check_ties(self) -> None:
        """Raise Fatal if two rows have equal places."""
        query = sql.SQL(
            "SELECT {date}::text, min({key}::text) FROM {table} AS t WHERE {date} IS NOT NULL "
            "GROUP BY {date}, {order} HAVING count(*) > 1 LIMIT 1"
        ).format(
            date=self._date_name,
            key=sql.Identifier("t", self._key.name),
            order=self._key_name,
            table=self._table,
        )
        try:
            ties = self._ask(query, f"SET LOCAL statement_timeout = '{_CHECK_SECONDS}s'", is_patient=False)
        except psycopg.errors.QueryCanceled:
            # Rows are lost only if a chunk ends between two equal ones, and the end of each chunk is checked.
            _log.warning(
                "Dataset %r: the search for equal keys did not finish. Each chunk is checked instead.",
                self._dataset.name,
            )
            return
        if ties:
            raise duplicate_key_error(self._dataset, *ties[0])

    def _check_unchanged(self, columns: list[str], after: Place | None) -> None:
        """Raise Fatal if a column has changed since the reader was opened, or if rows at the place would be lost.

        Runs one statement: its preparation locks the table against changes until the transaction ends.
        """
        lost = self._lost(after)
        query = sql.SQL("SELECT c.*, {} AS lost, {} AS tied FROM ({}) AS c").format(
            *lost, sql.SQL(_COLUMNS).format(relation=self._relation_id)
        )
        rows = self._execute(query.as_string(self._session)).to_pylist()
        now = {row["name"]: column_of(row) for row in rows}
        for name in dict.fromkeys([*columns, self._date.name, self._key.name]):
            if now.get(name) != self._columns[name]:
                raise self._changed(name, now.get(name))
        if rows[0]["lost"]:
            raise null_key_error(self._dataset)
        if rows[0]["tied"] and after is not None:
            raise duplicate_key_error(self._dataset, after.date, after.key)

    def _lost(self, after: Place | None) -> tuple[sql.Composable, sql.Composable]:
        """Return two conditions: the date of the place has rows without a key; the place has several rows.

        A condition that cannot be true only names the table, so that the table is locked."""
        touch = sql.SQL("EXISTS (SELECT 1 FROM {} AS t WHERE false)").format(self._table)
        if after is None:
            return touch, touch
        same_date = sql.SQL("FROM {} AS t WHERE {} = {}").format(self._table, self._date_name, after.date)
        null = sql.SQL("EXISTS (SELECT 1 {} AND {} IS NULL)").format(same_date, self._key_name)
        several = sql.SQL("(SELECT count(*) FROM (SELECT 1 {} AND {} = {} LIMIT 2) AS same) > 1").format(
            same_date, self._key_name, after.key
        )
        return null if self._key.is_nullable else touch, touch if self._is_proven_unique else several

    def _changed(self, name: str, now: Column | None) -> Exception:
        return altered_error(self._dataset, name, self._columns[name].declared, None if now is None else now.declared)

    # Statements

    def _query(self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int) -> _Query:
        """Return the SELECT of rows. Its values are literals, because COPY takes no parameters."""
        selected = [self._selected(self._columns[name]) for name in columns]
        # Date and key, which make the place, are added unless they are selected already.
        for place in (self._selected(self._date), self._selected_key()):
            if place not in selected:
                selected.append(place)
        text = sql.SQL("SELECT {} {} ORDER BY {} LIMIT {}").format(
            # Named by number: COPY needs no names, and names must be unique.
            sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(name, sql.Identifier(str(number))) for number, name in enumerate(selected)
            ),
            self._source(after, begin, end),
            self._order(),
            limit,
        )
        return _Query(
            text=text, date=selected.index(self._selected(self._date)), key=selected.index(self._selected_key())
        )

    def _source(self, after: Place | None, begin: datetime, end: datetime) -> sql.Composable:
        """Return FROM and WHERE for the rows of [begin, end) after *after*."""
        conditions = [
            sql.SQL("{} {} {}").format(self._date_name, sql.SQL(operator), bound)
            for operator, bound in self._date_conditions(begin, end)
        ]
        if after is not None:
            conditions.append(sql.SQL("({}) > ({}, {})").format(self._order(), after.date, after.key))
        return sql.SQL("FROM {} AS t WHERE {}").format(self._table, sql.SQL(" AND ").join(conditions))

    def _date_conditions(self, begin: datetime, end: datetime) -> list[tuple[Any, Any]]:
        return date_conditions(_DATE_KINDS.get(self._date.kind, ""), begin, end, self._format, self._dataset.timezone)

    def _order(self) -> sql.Composable:
        return sql.SQL("{}, {}").format(self._date_name, self._key_name)

    def _selected(self, column: Column) -> sql.Composable:
        return sql.SQL(column.form).format(sql.Identifier("t", column.name))

    def _selected_key(self) -> sql.Composable:
        """Return the SQL that selects the key as a place stores it."""
        name = sql.Identifier("t", self._key.name)
        return name if self._key.is_plain_key else sql.SQL("CAST({} AS text)").format(name)

    def _format(self) -> DateFormat:
        """Return the date format of a date column whose type is not a date."""
        if self._date_format is None:
            self._date_format = self._detected()
        return self._date_format

    def _detected(self) -> DateFormat:
        ends = [
            sql.SQL(
                "(SELECT {date} AS at FROM {table} AS t WHERE {date} IS NOT NULL ORDER BY {date} {way} LIMIT {n})"
            ).format(date=self._date_name, table=self._table, way=sql.SQL(way), n=_SAMPLE_ROWS)
            for way in ("ASC", "DESC")
        ]
        values = [row[0] for row in self._ask(sql.SQL(" UNION ALL ").join(ends))]
        return detected(values, self._dataset)

    def _check_date_format(self) -> None:
        self._date_conditions(datetime(2000, 1, 1), datetime(2000, 1, 1))

    # Connections

    def _take_snapshot(self) -> None:
        """Lock the table as SELECT does, then begin a transaction of the session with a snapshot taken under that lock.

        TRUNCATE, REFRESH and renames ignore snapshots: an older snapshot would show a table that was loaded again as
        empty. A transaction takes its snapshot before its first lock, so another session locks the table first.
        Blocks until the table is locked. Raises DatasetAway if another session keeps it locked.
        Source: PostgreSQL, "Caveats" of "Concurrency Control", and "Snapshot Synchronization Functions".
        """
        lock = sql.SQL("SELECT 1 FROM {} LIMIT 0").format(self._table)
        export = "SELECT pg_export_snapshot()"
        lock_timeout = f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"
        with self._translated(), self._connected() as first:
            first.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
            first.execute(lock_timeout)
            first.execute(lock)
            ((since,),) = first.execute(export).fetchall()
            self._session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._session.execute(f"SET TRANSACTION SNAPSHOT '{since}'")
            self._session.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            self._session.execute(lock_timeout)
            self._session.execute(lock)  # outside a savepoint, so that the lock lasts as long as the transaction
            ((self._snapshot,),) = self._session.execute(export).fetchall()

    def _connected(self) -> psycopg.Connection:
        # Without prepared statements: a pooler could run one on another connection than it was prepared on.
        return psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)

    def _ask(
        self,
        query: sql.SQL | sql.Composed,
        *settings: str,
        params: dict[str, Any] | None = None,
        row_factory: Any = tuple_row,
        is_patient: bool = True,
    ) -> list[Any]:
        """Run a query of the catalog, or one for few values, in its own read-only transaction, and return the rows."""
        if self._is_cancelled:
            raise self._cancelled()
        # Rolled back, so that the settings end with this query, even inside a larger transaction.
        with self._translated(is_patient), self._session.transaction(force_rollback=True):
            self._session.execute(_SETTINGS.format(seconds=_STATEMENT_SECONDS))
            for setting in settings:
                self._session.execute(setting)
            with self._session.cursor(row_factory=row_factory) as cursor:
                found: list[Any] = cursor.execute(query, params).fetchall()
                return found

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold one read-only transaction on the connection for rows. Closes the connection on an error."""
        with self._translated_rows():
            if self._rows_connection is None:
                self._rows_connection = adbc_driver_postgresql.dbapi.connect(self._conninfo, autocommit=True)
            try:
                self._rows_connection.adbc_connection.set_autocommit(False)
                if self._snapshot is not None:
                    self._see_snapshot(self._snapshot)
                self._execute(_SETTINGS.format(seconds=_STATEMENT_SECONDS))
                yield
                if self._rows_connection is not None:
                    # Ends the transaction. If its statement was cancelled, the server rolls it back.
                    self._rows_connection.adbc_connection.set_autocommit(True)
            except BaseException:
                self._disconnect()
                raise

    def _see_snapshot(self, snapshot: str) -> None:
        """Give the transaction for rows the snapshot of the session. Raises DatasetAway if the session has ended."""
        try:
            self._set("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self._set(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            # An ALTER TABLE that waits for the session makes this transaction wait, too.
            self._set(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
        except adbc_driver_manager.Error:
            raise away_error(self._dataset) from None

    def _set(self, setting: str) -> None:
        with self._statement() as cursor:
            cursor.execute(setting)

    def _execute(self, query: str) -> pa.Table:
        with self._statement() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table()

    @contextmanager
    def _statement(self) -> Iterator[Any]:
        with self._rows_connection.cursor() as cursor:
            self._cursor = cursor
            try:
                if self._is_cancelled:
                    raise self._cancelled()
                yield cursor
            finally:
                self._cursor = None

    def _fetch(self, query: str, limit: int, max_bytes: int) -> tuple[pa.Table, int]:
        """Return the rows of a chunk with some rows after it, and the number of rows in the chunk.

        Streams the rows and reads no further than needed, so that memory is bounded for all sizes of rows.
        """
        option = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
        chunk = Chunk(limit, max_bytes)
        with self._statement() as cursor:
            cursor.adbc_statement.set_options(**{option: str(_BATCH_BYTES)})
            cursor.execute(query)
            batches = cursor.fetch_record_batch()
            for batch in batches:
                chunk.add(batch)
                if chunk.is_complete and chunk.rows <= limit:
                    self._end(cursor, batches)
                    break
            return chunk.table(batches.schema), chunk.fitting

    def _end(self, cursor: Any, batches: Any) -> None:
        """Cancel a statement whose remaining rows are not needed: the server would send them all."""
        cursor.adbc_cancel()
        try:
            for _ in batches:
                pass
        except (OSError, pa.ArrowException):
            return  # the error of the cancelled statement
        # The statement ended before the cancel, which might hit the next statement on this connection instead.
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._rows_connection = self._rows_connection, None
        if connection is not None:
            connection.close()

    def _last_place(self, dates: pa.ChunkedArray, keys: pa.ChunkedArray, fitting: int) -> Place:
        """Return the place of a chunk's last row. Raises Fatal if the next row has an equal place or a key is NULL."""
        if keys.slice(0, fitting + 1).null_count:
            raise null_key_error(self._dataset)
        last, *following = (
            Place(date=dates[index].as_py(), key=keys[index].as_py())
            for index in range(fitting - 1, min(fitting + 1, len(keys)))
        )
        if following == [last]:
            raise duplicate_key_error(self._dataset, last.date, last.key)
        return last

    # Values

    def _fit(self, found: pa.Table, keys: pa.ChunkedArray, wanted: pa.Schema) -> pa.Table:
        """Convert each column to its type, or to text if a value does not fit; the metadata then gives the reason."""
        fields, arrays, reasons = [], [], []
        for number, field in enumerate(wanted):
            column = self._columns[field.name]
            array = self._delivered(found.column(number), column)
            misfits = _misfits(array, field.type)
            if misfits is None:
                fields.append(field)
                arrays.append(array.cast(field.type))
                continue
            fields.append(field.with_type(pa.string()))
            arrays.append(_texts(array))
            first = pc.index(misfits, True).as_py()
            value = _texts(array.slice(first, 1))[0].as_py()
            reasons.append(
                not_for_parquet_reason(self._dataset, column.name, column.declared, value, keys[first].as_py())
            )
        metadata = {NOT_FOR_PARQUET: reasons[0].encode()} if reasons else None
        return pa.table(arrays, schema=pa.schema(fields, metadata))

    def _delivered(self, array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
        """Return the values. Raises DatasetAway if their type is unexpected, Unreadable if they are not UTF-8."""
        if array.type != column.delivered:
            # This happens only with a pooler that mixes the statements of two clients.
            raise DatasetAway(
                f"The server of dataset {self._dataset.name!r} returned column {column.name!r} as {array.type} "
                f"and not as {column.delivered}."
            )
        if not pa.types.is_string(array.type):
            return array
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            raise encoding_error(self._dataset, column.name) from None
        return array

    def _unreadable_column(self, columns: list[str], query: _Query) -> str | None:
        """Return the first column with a text that cannot be converted to UTF-8. The server does not name it."""
        for number, name in enumerate(columns):
            if not pa.types.is_string(self._columns[name].delivered):
                continue
            try:
                self._ask(
                    sql.SQL("SELECT count(octet_length(convert_to({}, 'UTF8'))) FROM ({}) AS c").format(
                        sql.Identifier("c", str(number)), query.text
                    )
                )
            except Unreadable:
                return name
        return None

    # Errors

    @contextmanager
    def _translated(self, is_patient: bool = True) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.QueryCanceled:
            if self._is_cancelled:
                raise self._cancelled() from None
            if not is_patient:
                raise
            raise timeout_error(self._dataset, _STATEMENT_SECONDS) from None
        except psycopg.errors.InsufficientPrivilege:
            raise forbidden_error(self._dataset) from None
        except (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter):
            raise encoding_error(self._dataset) from None
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.InternalError):
            raise away_error(self._dataset) from None
        except psycopg.Error:
            raise unusable_error(self._dataset) from None

    @contextmanager
    def _translated_rows(self) -> Iterator[None]:
        try:
            yield
        except (*_AWAY, adbc_driver_manager.ProgrammingError, pa.ArrowException) as error:
            if self._is_cancelled:
                raise self._cancelled() from None
            raise self._client_error(error) from None
        except adbc_driver_manager.Error:
            raise unusable_error(self._dataset) from None

    def _cancelled(self) -> DatasetAway:
        return DatasetAway(f"The read of dataset {self._dataset.name!r} was cancelled.")

    def _client_error(self, error: Exception) -> Exception:
        """Return the error for clients. pyarrow passes on only the text of a driver's error."""
        state, text = getattr(error, "sqlstate", None), str(error)
        if state == "57014" or "statement timeout" in text:
            return timeout_error(self._dataset, _STATEMENT_SECONDS)
        if state == "55P03" or "lock timeout" in text:
            return away_error(self._dataset)
        if state == "42501":
            return forbidden_error(self._dataset)
        if state in ("22021", "22P05") or any(words in text for words in _ENCODING_ERRORS):
            return encoding_error(self._dataset)
        if state in ("42P01", "42703", "42883"):
            return self._altered()
        return away_error(self._dataset) if isinstance(error, _AWAY) else unusable_error(self._dataset)

    def _altered(self) -> Exception:
        """Return the error for a statement that names a table or a column that no longer exists."""
        self._relation()
        now = {column.name: column for column in self._catalog_columns()}
        for name, column in self._columns.items():
            if now.get(name) != column:
                return self._changed(name, now.get(name))
        return unusable_error(self._dataset)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """A SELECT, with the positions of its date and its key column."""

    text: sql.Composed
    date: int
    key: int


def _conninfo(dataset: Dataset) -> str:
    """Return the URL as a connection string for libpq. Raises Fatal."""
    try:
        url = dataset.url.set(drivername="postgresql+psycopg")
        _, given = url.get_dialect()().create_connect_args(url)
        return make_conninfo(**{"connect_timeout": _CONNECT_SECONDS, **given, "client_encoding": "UTF8"})
    except (psycopg.Error, SQLAlchemyError, ImportError, TypeError, ValueError):
        raise unusable_error(dataset) from None


def _node_types(plan: dict[str, Any]) -> Iterator[str]:
    yield plan["Node Type"]
    for part in plan.get("Plans", ()):
        yield from _node_types(part)


def _misfits(array: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return a mask of the values that do not fit Arrow's type; None if all fit."""
    if pa.types.is_temporal(kind):
        return None if is_within_calendar(array) else outside_calendar(array)
    if not pa.types.is_decimal(kind):
        return None
    found = pc.fill_null(pc.is_in(array, pa.array(["NaN", "Infinity", "-Infinity"])), False)
    return found if pc.any(found).as_py() else None


def _texts(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return as_texts(array) if pa.types.is_temporal(array.type) else array

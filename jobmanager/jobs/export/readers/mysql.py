"""Read a dataset from MariaDB or MySQL by PyMySQL. Values arrive as the server's text, and Arrow converts them.

PyMySQL is an optional dependency, so it is imported when a dataset is opened. Holds no transaction between two reads,
and never writes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from typing import Any

import pyarrow as pa
from sqlalchemy.exc import SQLAlchemyError

from jobmanager.errors import Fatal
from jobmanager.jobs.export.chunks import MAX_BYTES, fitting_rows
from jobmanager.jobs.export.datasets import Dataset, DatasetAway, away_error, check_table, unusable_error
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.errors import (
    NOT_FOR_PARQUET,
    altered_error,
    duplicate_key_error,
    encoding_error,
    forbidden_error,
    missing_table_error,
    no_index_warning,
    not_for_parquet_reason,
    null_key_error,
    timeout_error,
    unordered_error,
)
from jobmanager.jobs.export.readers.mysql_columns import Column, array_of, column_of
from jobmanager.jobs.export.readers.sqlalchemy import date_conditions, detected
from jobmanager.jobs.export.schemas import schema_of

_CONNECT_SECONDS = 10
#: Statement timeout; and the timeout of the search for equal keys if no unique index excludes them.
_STATEMENT_SECONDS = 600
_CHECK_SECONDS = 30
_SAMPLE_ROWS = 1000

#: Error numbers, as in MariaDB's "Error Codes".
_MISSING = (1146, 1049)
_WRONG = (1054, 1792)
_FORBIDDEN = (1044, 1045, 1142, 1143, 1370)
_TIMED_OUT = (1969, 3024)

_COLUMNS = """
    SELECT column_name, column_type, data_type, numeric_precision, numeric_scale, is_nullable, collation_name
    FROM information_schema.columns WHERE table_schema = {} AND table_name = {} ORDER BY ordinal_position
"""
#: The unique indexes. is_other is 0 if an index has only the given columns, and no prefix or expression.
_UNIQUE = """
    SELECT index_name, max(CASE WHEN sub_part IS NULL AND column_name IN ({}) THEN 0 ELSE 1 END) AS is_other
    FROM information_schema.statistics
    WHERE table_schema = {} AND table_name = {} AND non_unique = 0 GROUP BY index_name
"""
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?", re.IGNORECASE)

_log = logging.getLogger(__name__)


class MysqlReader:
    """A connection to a MariaDB or MySQL server; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._date_format: DateFormat | None = None  # detected, or configured and checked against the values
        self._driver = _driver(dataset)
        self._arguments = _arguments(dataset)
        self._connection: Any = None
        self._is_sending = False  # True while the server has rows of a statement left to send
        try:
            self._describe()
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
        counted = 0
        for condition in self._segments(after, begin, end):
            source = f"FROM {self._table} AS t WHERE {condition}"
            found = self._ask(
                f"SELECT {self._date_name}, {self._key_name} {source} ORDER BY {self._order} LIMIT 1 OFFSET {limit - 1}"
            )
            if found:
                return counted + limit, self._place(*found[0])
            counted += int(self._ask(f"SELECT count(*) {source}")[0][0])
        return counted, None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        (condition,) = self._segments(None, begin, end)
        return int(self._ask(f"SELECT count(*) FROM {self._table} AS t WHERE {condition}")[0][0])

    def check(self) -> None:
        """Raise Fatal if rows could be lost or doubled, or the date format is unknown; see Reader."""
        self._date_conditions(datetime(2000, 1, 1), datetime(2000, 1, 1))
        dated = f"FROM {self._table} AS t WHERE {self._date_name} IS NOT NULL"
        if self._key.is_nullable and self._ask(f"SELECT 1 {dated} AND {self._key_name} IS NULL LIMIT 1"):
            raise null_key_error(self._dataset)
        if not self._is_proven_unique:
            self._check_ties(dated)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if no index has the rows in order; see Reader."""
        keys = self._ask(
            "SELECT group_concat(column_name ORDER BY seq_in_index) FROM information_schema.statistics "
            f"WHERE table_schema = {_text(self._schema)} AND table_name = {_text(self._name)} "
            "GROUP BY index_name"
        )
        wanted = [self._date.name, self._key.name]
        is_there = any((columns or "").split(",")[:2] == wanted for (columns,) in keys)
        return [] if is_there else [no_index_warning(self._dataset)]

    def identity(self) -> dict[str, str]:
        """Return the properties that affect how values read or compare; see Reader."""
        version = self._ask("SELECT version()")[0][0]
        known = {
            "server": ("MariaDB " if "MariaDB" in version else "MySQL ") + version.partition(".")[0],
            "time zone": "UTC",
            "order of the key": self._key.collation or "that of its type",
            "date_format": str(self._format() if self._date_kind() == "" else DateFormat.NATIVE),
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
        self._check_unchanged(columns)
        if after is not None and not self._is_proven_unique:
            self._check_place(after)
        found, following = fitting_rows(self._rows(columns, after, begin, end, limit + 1), limit, max_bytes)
        if self._is_sending:
            # The server would send all remaining rows before it accepts the next statement.
            self._disconnect()
        if not found:
            return wanted.empty_table(), None
        if any(row[-1] is None for row in (*found, *following)):
            raise null_key_error(self._dataset)
        last = self._place(*found[-1][-2:])
        if following and self._place(*following[0][-2:]) == last:
            raise duplicate_key_error(self._dataset, last.date, last.key)
        return self._fitted(found, wanted), last

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()

    # The table

    def _describe(self) -> None:
        """Read the description of the table from information_schema."""
        schema, name = self._dataset.url.database or "", self._dataset.table
        columns = self._catalog_columns(schema, name)
        if not columns and "." in name:
            schema, _, name = name.rpartition(".")
            columns = self._catalog_columns(schema, name)
        if not columns:
            raise missing_table_error(self._dataset)
        self._schema, self._name = schema, name
        self._table = f"{_quoted(schema)}.{_quoted(name)}"
        self._columns = columns
        check_table(self._dataset, self.columns())
        self._date, self._key = (columns[name] for name in (self._dataset.date_column, self._dataset.key))
        for column in (self._date, self._key):
            if not column.is_ordered:
                raise unordered_error(self._dataset, column.declared)
        self._date_name, self._key_name = (f"t.{_quoted(column.name)}" for column in (self._date, self._key))
        self._order = f"{self._date_name}, {self._key_name}"
        # An index compares texts as its column does: rows that a unique index distinguishes have different places.
        ours = ", ".join(_text(column.name) for column in (self._date, self._key))
        unique = self._ask(_UNIQUE.format(ours, _text(schema), _text(name)))
        self._is_proven_unique = any(is_other == "0" for _, is_other in unique)

    def _catalog_columns(self, schema: str, name: str) -> dict[str, Column]:
        rows = self._ask(_COLUMNS.format(_text(schema), _text(name)))
        return {row[0]: column_of(row) for row in rows}

    def _check_unchanged(self, columns: list[str]) -> None:
        now = self._catalog_columns(self._schema, self._name)
        for name in dict.fromkeys([*columns, self._date.name, self._key.name]):
            if now.get(name) != self._columns[name]:
                became = now[name].declared if name in now else None
                raise altered_error(self._dataset, name, self._columns[name].declared, became)

    def _check_ties(self, dated: str) -> None:
        """Raise Fatal if two rows have equal places."""
        query = (
            f"SELECT {self._date_name}, min({self._key_name}) {dated} "
            f"GROUP BY {self._order} HAVING count(*) > 1 LIMIT 1"
        )
        try:
            ties = self._ask(query, seconds=_CHECK_SECONDS)
        except DatasetAway:
            # Rows are lost only if a chunk ends between two equal ones, and the end of each chunk is checked.
            _log.warning(
                "Dataset %r: the search for equal keys did not finish. Each chunk is checked instead.",
                self._dataset.name,
            )
            return
        if ties:
            raise duplicate_key_error(self._dataset, *ties[0])

    def _check_place(self, place: Place) -> None:
        """Raise Fatal if several rows have this place: the next read would skip some of them."""
        same = (
            f"SELECT 1 FROM {self._table} AS t WHERE {self._date_name} = {self._literal(place.date, self._date)} "
            f"AND {self._key_name} = {self._literal(place.key, self._key)} LIMIT 2"
        )
        if len(self._ask(same)) > 1:
            raise duplicate_key_error(self._dataset, place.date, place.key)

    # Statements

    def _segments(self, after: Place | None, begin: datetime, end: datetime) -> list[str]:
        """Return conditions for the rows of [begin, end) after *after*.

        First those of the same date, then those of later dates: for `(date, key) > (?, ?)` the server does not look
        up the key in its index, and scans the whole range for each chunk.
        """
        low, high = (
            f"{self._date_name} {operator} {self._literal(bound, self._date)}"
            for operator, bound in self._date_conditions(begin, end)
        )
        if after is None:
            return [f"{low} AND {high}"]
        date, key = self._literal(after.date, self._date), self._literal(after.key, self._key)
        return [
            f"{self._date_name} = {date} AND {self._key_name} > {key}",
            f"{self._date_name} > {date} AND {high}",
        ]

    def _date_conditions(self, begin: datetime, end: datetime) -> list[tuple[Any, Any]]:
        return date_conditions(self._date_kind(), begin, end, self._format, self._dataset.timezone)

    def _date_kind(self) -> str:
        return {"date": "date", "datetime": "naive", "timestamp": "naive"}.get(self._date.kind, "")

    def _format(self) -> DateFormat:
        """Return the date format of a date column whose type is not a date."""
        if self._date_format is None:
            found = self._ask(
                f"SELECT {self._date_name} FROM {self._table} AS t WHERE {self._date_name} IS NOT NULL "
                f"LIMIT {_SAMPLE_ROWS}"
            )
            values = [float(value) if self._date.is_number else value for (value,) in found]
            self._date_format = detected(values, self._dataset)
        return self._date_format

    def _rows(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the next rows, with date and key as the last two values. Fetches them from the server one by one."""
        selected = [
            *(column.form.format(f"t.{_quoted(column.name)}") for column in map(self._columns.__getitem__, columns)),
            self._date_name,
            self._key_name,
        ]
        for condition in self._segments(after, begin, end):
            query = (
                f"SELECT {', '.join(selected)} FROM {self._table} AS t WHERE {condition} "
                f"ORDER BY {self._order} LIMIT {limit}"
            )
            with self._translated():
                cursor = self._connected().cursor(self._driver.cursors.SSCursor)
                cursor.execute(query)
                self._is_sending = True
                while (row := cursor.fetchone()) is not None:
                    limit -= 1
                    if not limit:
                        cursor.close()
                        self._is_sending = False
                    yield row
                    if not limit:
                        return
                self._is_sending = False

    def _place(self, date_text: Any, key: Any) -> Place:
        """Return the place for the server's texts. Raises Fatal if the date is not valid."""
        if self._date_kind() and not _is_date(date_text):
            raise Fatal(
                f"Column {self._date.name!r} of table {self._dataset.table!r} holds {date_text} in the row with key "
                f"{key!r}, which is not a date. Correct it in the database."
            )
        return Place(date=date_text, key=key)

    def _literal(self, value: Any, column: Column) -> str:
        """Return a value as an SQL literal that compares without a conversion of the column."""
        if isinstance(value, bytes):
            return f"x'{value.hex()}'"
        if column.is_number and _NUMBER.fullmatch(str(value)):
            return str(value)
        return _text(str(value))

    def _ask(self, query: str, *, seconds: int | None = None) -> list[Any]:
        """Return the rows of a query with a short result. *seconds* is a shorter statement timeout."""
        with self._translated(), self._connected().cursor() as cursor:
            if seconds is None:
                cursor.execute(query)
                return list(cursor.fetchall())
            self._limit(cursor, seconds)
            cursor.execute(query)
            found = list(cursor.fetchall())
            # Not needed after an error: the connection is dropped then.
            self._limit(cursor, _STATEMENT_SECONDS)
            return found

    def _fitted(self, rows: list[Any], wanted: pa.Schema) -> pa.Table:
        """Convert each column to its type, or to text if a value does not fit; the metadata then gives the reason."""
        fields, arrays, reasons = [], [], []
        for index, field in enumerate(wanted):
            values = [row[index] for row in rows]
            with self._readable(field.name):
                array, misfit = array_of(values, field.type)
            if misfit is not None:
                declared = self._columns[field.name].declared
                reasons.append(
                    not_for_parquet_reason(self._dataset, field.name, declared, values[misfit], rows[misfit][-1])
                )
            fields.append(field.with_type(array.type))
            arrays.append(array)
        metadata = {NOT_FOR_PARQUET: reasons[0].encode()} if reasons else None
        return pa.table(arrays, schema=pa.schema(fields, metadata))

    @contextmanager
    def _readable(self, column: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowTypeError, UnicodeError):
            raise encoding_error(self._dataset, column) from None

    # The connection

    def _connected(self) -> Any:
        if self._connection is None:
            with self._translated():
                self._connection = self._driver.connect(**self._arguments)
                with self._connection.cursor() as cursor:
                    cursor.execute("SET SESSION time_zone = '+00:00'")
                    cursor.execute("SET SESSION TRANSACTION READ ONLY")
                    self._limit(cursor, _STATEMENT_SECONDS)
        return self._connection

    def _limit(self, cursor: Any, seconds: int) -> None:
        """Set the statement timeout, which MariaDB and MySQL name differently."""
        is_mariadb = "MariaDB" in self._connection.get_server_info()
        cursor.execute(
            f"SET SESSION max_statement_time = {seconds}"
            if is_mariadb
            else f"SET SESSION max_execution_time = {seconds * 1000}"
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._is_sending = False
        if connection is not None:
            # Not close(): it would wait for the remaining rows.
            connection._force_close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        errors = self._driver.err
        try:
            yield
        except errors.MySQLError as error:
            self._disconnect()
            raise self._client_error(error) from None
        except UnicodeDecodeError:
            self._disconnect()
            raise encoding_error(self._dataset) from None

    def _client_error(self, error: Any) -> Exception:
        number = error.args[0] if error.args else 0
        if number in _MISSING:
            return missing_table_error(self._dataset)
        if number in _FORBIDDEN:
            _log.exception("Dataset %r cannot be read.", self._dataset.name)
            return forbidden_error(self._dataset)
        if number in _TIMED_OUT:
            return timeout_error(self._dataset, _STATEMENT_SECONDS)
        is_away = isinstance(error, (self._driver.err.OperationalError, self._driver.err.InterfaceError))
        if number in _WRONG or not is_away:
            return unusable_error(self._dataset)
        return away_error(self._dataset)


def _driver(dataset: Dataset) -> Any:
    """Import and return PyMySQL. Raises Fatal if it is not installed."""
    try:
        for part in ("pymysql.cursors", "pymysql.converters"):
            import_module(part)
        return import_module("pymysql")
    except ImportError:
        raise Fatal(
            f"Dataset {dataset.name!r} needs PyMySQL, which is not installed. Install the service as jobmanager[mysql]."
        ) from None


def _arguments(dataset: Dataset) -> dict[str, Any]:
    """Return the arguments to connect with: those of the URL, but all values arrive as text. Raises Fatal."""
    try:
        url = dataset.url.set(drivername="mysql+pymysql")
        _, given = url.get_dialect()().create_connect_args(url)
    except (SQLAlchemyError, ImportError, TypeError, ValueError):
        raise unusable_error(dataset) from None
    given.pop("client_flag", None)
    kept = {name: value for name, value in given.items() if name not in ("conv", "cursorclass", "autocommit")}
    return {"connect_timeout": _CONNECT_SECONDS} | kept | {"charset": "utf8mb4", "conv": {0: str}, "autocommit": True}


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _text(text: str) -> str:
    """Return a text as an SQL literal of its bytes, which needs no escapes in any sql_mode."""
    return f"_utf8mb4 x'{text.encode().hex()}'"


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"

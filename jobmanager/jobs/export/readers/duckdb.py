"""Read a dataset from a DuckDB file into Arrow.

DuckDB is an optional dependency, so it is imported when a dataset is opened. Opens the file read-only, which DuckDB
allows only while no other process has it open for writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Any

import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.export.chunks import MAX_BYTES
from jobmanager.jobs.export.datasets import Dataset, away_error, check_table, unusable_error
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.decimals import decimal_type
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.errors import (
    NOT_FOR_PARQUET,
    altered_error,
    duplicate_key_error,
    missing_table_error,
    not_for_parquet_reason,
    null_key_error,
    unordered_error,
)
from jobmanager.jobs.export.readers.postgresql_columns import IS_JSON
from jobmanager.jobs.export.readers.postgresql_times import is_within_calendar
from jobmanager.jobs.export.readers.sqlalchemy import date_conditions, detected
from jobmanager.jobs.export.schemas import schema_of

_SAMPLE_ROWS = 1000
#: Bytes counted for a value that is neither text nor bytes.
_VALUE_BYTES = 8

#: The SQL that selects each type, and the exported type. All other types become text.
_TYPES: dict[str, tuple[str, pa.DataType]] = {
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"),
        ("CAST({} AS BIGINT)", pa.int64()),
    ),
    "UBIGINT": ("CAST({} AS DECIMAL(20, 0))", pa.decimal128(20, 0)),
    "BOOLEAN": ("{}", pa.bool_()),
    "DOUBLE": ("{}", pa.float64()),
    "FLOAT": ("CAST(CAST({} AS VARCHAR) AS DOUBLE)", pa.float64()),
    "VARCHAR": ("{}", pa.string()),
    "BLOB": ("{}", pa.binary()),
    "DATE": ("{}", pa.date32()),
    "TIMESTAMP": ("{}", pa.timestamp("us")),
    "TIMESTAMP WITH TIME ZONE": ("{}", pa.timestamp("us", tz="UTC")),
}
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")
#: Types that are exported as JSON: lists, arrays, structs, maps and unions.
_NESTED = re.compile(r"(STRUCT|MAP|UNION)\(.*\)|.*\[\d*\]", re.DOTALL)
_DATE_KINDS = {"DATE": "date", "TIMESTAMP": "naive", "TIMESTAMP WITH TIME ZONE": "aware"}
#: Types that sort by value, and compare with a literal by value.
_KEYS = (*_TYPES, "HUGEINT", "UHUGEINT", "UUID")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    name: str
    #: its type as DuckDB writes it
    declared: str

    def form(self) -> str:
        if _NESTED.fullmatch(self.declared):
            return "CAST(to_json({}) AS VARCHAR)"
        if _DECIMAL.fullmatch(self.declared):
            return "{}"
        return _TYPES.get(self.declared, ("CAST({} AS VARCHAR)", None))[0]

    def field(self) -> pa.Field:
        if _NESTED.fullmatch(self.declared) or self.declared == "JSON":
            return pa.field(self.name, pa.string(), metadata=IS_JSON)
        if digits := _DECIMAL.fullmatch(self.declared):
            return pa.field(self.name, decimal_type(int(digits[1]), int(digits[2])))
        return pa.field(self.name, _TYPES.get(self.declared, ("", pa.string()))[1])


class DuckdbReader:
    """A connection to a DuckDB file; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._date_format: DateFormat | None = None  # detected, or configured and checked against the values
        self._driver = _driver(dataset)
        with self._translated():
            self._connection = self._driver.connect(dataset.url.database or "", read_only=True)
        try:
            self._describe()
        except BaseException:
            self.close()
            raise

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return {name: column.field().type for name, column in self._columns.items()}

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        schema_of(chosen, self.columns())
        return pa.schema([self._columns[name].field() for name in chosen])

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count all rows in one query, which is fast in DuckDB; see Reader."""
        source, values = self._source(after, begin, end)
        return int(self._ask(f"SELECT count(*) {source}", values)[0][0]), None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of the range."""
        return self.count(None, begin, end, 1)[0]

    def check(self) -> None:
        """Raise Fatal if rows could be lost or doubled, or the date format is unknown; see Reader."""
        self._date_conditions(datetime(2000, 1, 1), datetime(2000, 1, 1))
        dated = f"FROM {self._table} AS t WHERE {self._date_name} IS NOT NULL"
        if self._ask(f"SELECT 1 {dated} AND {self._key_name} IS NULL LIMIT 1"):
            raise null_key_error(self._dataset)
        ties = self._ask(
            f"SELECT CAST({self._date_name} AS VARCHAR), CAST(min({self._key_name}) AS VARCHAR) {dated} "
            f"GROUP BY {self._order} HAVING count(*) > 1 LIMIT 1"
        )
        if ties:
            raise duplicate_key_error(self._dataset, *ties[0])

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return no warnings: DuckDB scans its columns fast without an index."""
        return []

    def identity(self) -> dict[str, str]:
        """Return the properties that affect how values read or compare; see Reader."""
        is_native = self._date.declared in _DATE_KINDS
        known = {
            "server": f"DuckDB {self._driver.__version__.partition('.')[0]}",
            "time zone": "UTC",
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
        self._check_unchanged(columns)
        self._check_place(after)
        source, values = self._source(after, begin, end)
        source = f"{source} ORDER BY {self._order} LIMIT"
        sizes = self._ask(f"SELECT {self._size(wanted)} {source} {limit + 1}", values)
        rows = _fitting([size for (size,) in sizes], limit, max_bytes)
        if not rows:
            return wanted.empty_table(), None
        selected = [self._selected(name) for name in columns]
        names = ", ".join(f"{form} AS c{number}" for number, form in enumerate(selected))
        place = f"{self._selected(self._date.name)} AS place_date, {self._selected_key()} AS place_key"
        found = self._arrow(f"SELECT {', '.join(filter(None, (names, place)))} {source} {rows}", values)
        keys = found["place_key"]
        if keys.null_count:
            raise null_key_error(self._dataset)
        last = Place(date=found["place_date"][-1].as_py(), key=keys[-1].as_py())
        as_text = self._arrow(f"SELECT {self._texts(selected)} {source} {rows}", values) if _strays(found) else None
        return self._fitted(found, as_text, wanted), last

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _describe(self) -> None:
        with self._translated():
            self._connection.execute("SET TimeZone = 'UTC'")
        self._table = self._quoted_table()
        self._columns = self._described()
        check_table(self._dataset, self.columns())
        self._date, self._key = (self._columns[name] for name in (self._dataset.date_column, self._dataset.key))
        for column in (self._date, self._key):
            if column.declared not in _KEYS and not _DECIMAL.fullmatch(column.declared):
                raise unordered_error(self._dataset, column.declared)
        self._date_name, self._key_name = (f"t.{_quoted(column.name)}" for column in (self._date, self._key))
        self._order = f"{self._date_name}, {self._key_name}"

    def _quoted_table(self) -> str:
        found = self._ask(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_database() "
            "AND (table_name = $1 AND table_schema = current_schema() OR table_schema || '.' || table_name = $1) "
            "ORDER BY table_name = $1 DESC",
            [self._dataset.table],
        )
        if not found:
            raise missing_table_error(self._dataset)
        return ".".join(map(_quoted, found[0]))

    def _described(self) -> dict[str, _Column]:
        rows = self._ask(f"DESCRIBE {self._table}")
        return {row[0]: _Column(name=row[0], declared=row[1]) for row in rows}

    def _check_unchanged(self, columns: list[str]) -> None:
        now = self._described()
        for name in dict.fromkeys([*columns, self._date.name, self._key.name]):
            if now.get(name) != self._columns[name]:
                became = now[name].declared if name in now else None
                raise altered_error(self._dataset, name, self._columns[name].declared, became)

    def _check_place(self, place: Place | None) -> None:
        """Raise Fatal if the date of the place has rows without a key, or the place has several rows."""
        if place is None:
            return
        same = f"FROM {self._table} AS t WHERE {self._date_name} = $1"
        if self._ask(f"SELECT 1 {same} AND {self._key_name} IS NULL LIMIT 1", [place.date]):
            raise null_key_error(self._dataset)
        key = self._literal("$2")
        if len(self._ask(f"SELECT 1 {same} AND {self._key_name} = {key} LIMIT 2", [place.date, place.key])) > 1:
            raise duplicate_key_error(self._dataset, place.date, place.key)

    def _source(self, after: Place | None, begin: datetime, end: datetime) -> tuple[str, list[Any]]:
        """Return FROM and WHERE for the rows of [begin, end) after *after*, and their parameters."""
        conditions = self._date_conditions(begin, end)
        texts = [f"{self._date_name} {operator} ${number}" for number, (operator, _) in enumerate(conditions, start=1)]
        values = [bound for _, bound in conditions]
        if after is not None:
            key = self._literal("$4")
            texts.append(f"({self._date_name} > $3 OR {self._date_name} = $3 AND {self._key_name} > {key})")
            values += [after.date, after.key]
        return f"FROM {self._table} AS t WHERE {' AND '.join(texts)}", values

    def _date_conditions(self, begin: datetime, end: datetime) -> list[tuple[Any, Any]]:
        return date_conditions(
            _DATE_KINDS.get(self._date.declared, ""), begin, end, self._format, self._dataset.timezone
        )

    def _format(self) -> DateFormat:
        """Return the date format of a date column whose type is not a date."""
        if self._date_format is None:
            found = self._ask(
                f"SELECT {self._date_name} FROM {self._table} AS t WHERE {self._date_name} IS NOT NULL "
                f"LIMIT {_SAMPLE_ROWS}"
            )
            self._date_format = detected([value for (value,) in found], self._dataset)
        return self._date_format

    def _selected(self, name: str) -> str:
        return self._columns[name].form().format(f"t.{_quoted(name)}")

    def _selected_key(self) -> str:
        """Return the SQL that selects the key as a place stores it: bytes and text unchanged, others as text."""
        is_plain = self._key.declared in ("VARCHAR", "BLOB")
        return self._key_name if is_plain else f"CAST({self._key_name} AS VARCHAR)"

    def _literal(self, parameter: str) -> str:
        """Return the SQL that converts a parameter to the type of the key, which a place stores as text."""
        return f"CAST({parameter} AS {self._key.declared})"

    def _size(self, wanted: pa.Schema) -> str:
        """Return an SQL expression for the approximate bytes of a row."""
        terms = [str(_VALUE_BYTES * (len(wanted) + 2))]
        for field in wanted:
            if pa.types.is_string(field.type):
                terms.append(f"coalesce(strlen({self._selected(field.name)}), 0)")
            elif pa.types.is_binary(field.type):
                terms.append(f"coalesce(octet_length({self._selected(field.name)}), 0)")
        return " + ".join(terms)

    def _texts(self, selected: list[str]) -> str:
        return ", ".join(f"CAST({form} AS VARCHAR) AS c{number}" for number, form in enumerate(selected))

    def _fitted(self, found: pa.Table, as_text: pa.Table | None, wanted: pa.Schema) -> pa.Table:
        """Convert each column to its type, or to text if a value does not fit; the metadata then gives the reason."""
        fields, arrays, reasons = [], [], []
        for number, field in enumerate(wanted):
            array = found.column(number)
            if as_text is None or not _is_stray(array):
                fields.append(field)
                arrays.append(array.cast(field.type))
                continue
            texts = as_text.column(number)
            fields.append(field.with_type(pa.string()))
            arrays.append(texts)
            row = next(index for index in range(len(array)) if _is_stray(array.slice(index, 1)))
            declared = self._columns[field.name].declared
            key = found["place_key"][row].as_py()
            reasons.append(not_for_parquet_reason(self._dataset, field.name, declared, texts[row].as_py(), key))
        metadata = {NOT_FOR_PARQUET: reasons[0].encode()} if reasons else None
        return pa.table(arrays, schema=pa.schema(fields, metadata))

    def _ask(self, query: str, values: list[Any] | None = None) -> list[Any]:
        with self._translated():
            return list(self._connection.execute(query, values or []).fetchall())

    def _arrow(self, query: str, values: list[Any]) -> pa.Table:
        with self._translated():
            found: pa.Table = self._connection.sql(query, params=values).to_arrow_table()
            return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (self._driver.IOException, self._driver.OutOfMemoryException):
            raise away_error(self._dataset) from None
        except self._driver.Error:
            raise unusable_error(self._dataset) from None


def _driver(dataset: Dataset) -> Any:
    """Import and return DuckDB. Raises Fatal if it is not installed."""
    try:
        return import_module("duckdb")
    except ImportError:
        raise Fatal(
            f"Dataset {dataset.name!r} needs DuckDB, which is not installed. Install the service as jobmanager[duckdb]."
        ) from None


def _fitting(sizes: list[int], limit: int, max_bytes: int) -> int:
    """Return how many rows of these sizes make one chunk: at least one if there are any."""
    total = 0
    for number, size in enumerate(sizes[:limit]):
        total += size
        if number and total > max_bytes:
            return number
    return min(limit, len(sizes))


def _strays(found: pa.Table) -> bool:
    return any(_is_stray(column) for column in found.columns)


def _is_stray(array: pa.ChunkedArray) -> bool:
    """Return True if the array has dates or times outside Python's calendar."""
    is_date = pa.types.is_date32(array.type) or pa.types.is_timestamp(array.type)
    return is_date and not is_within_calendar(array)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

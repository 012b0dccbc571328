"""Reads a dataset from a SQLite file, by ADBC into Arrow: in C, and without the interpreter lock.

Opens the file read-only, and holds no transaction between two reads: others may write meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import adbc_driver_manager
import adbc_driver_sqlite
import adbc_driver_sqlite.dbapi
import pyarrow as pa

from jobmanager.errors import Fatal
from jobmanager.jobs.datasets import Dataset, away, check_order, check_table, keyless, misfit, undated
from jobmanager.jobs.dates import (
    DateFormat,
    check_iso,
    detect,
    iso_condition,
    iso_instant,
    iso_range,
    sample_from,
    to_column,
)
from jobmanager.jobs.places import Place
from jobmanager.jobs.schemas import schema_of

_BUSY_MILLISECONDS = 5_000
#: What SQLite says when a statement does not suit the table, rather than that the file is away.
_WRONG = re.compile(r"no such (table|column|collation|function)")
#: What SQLite compares with a date or a key: all kinds of values that it has.
_BOUND_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}

Arrays = list[pa.ChunkedArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """A piece of the range that the index (date, key) can be walked along from one end to the other."""

    condition: str
    bounds: list[Any]


class SqliteReader:
    """A connection to a SQLite file; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._table = _quote(dataset.table)
        self._date = _quote(dataset.date_column)
        self._key = _quote(dataset.key)
        self._declared: dict[str, str] = {}
        self._date_format: DateFormat | None = None
        with self._translated():
            uri = f"file:{quote(dataset.url.database or '')}?mode=ro"
            # With autocommit: a transaction that stays open would keep a rollback journal's writers out.
            self._connection = adbc_driver_sqlite.dbapi.connect(uri, autocommit=True)
        try:
            self._query(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        except BaseException:
            self.close()
            raise

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column, generated ones too."""
        if not self._declared:
            rows = self._query(f"PRAGMA table_xinfo({self._table})").to_pylist()
            # 1 marks the hidden columns of virtual tables, which are for their queries only.
            self._declared = {row["name"]: row["type"] or "" for row in rows if row["hidden"] != 1}
        columns = {name: arrow_type(declared) for name, declared in self._declared.items()}
        check_table(self._dataset, columns)
        return columns

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        return schema_of(chosen, self.columns())

    def check(self) -> None:
        """Do nothing yet; see Reader."""

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return none yet; see Reader."""
        return []

    def identity(self) -> dict[str, str]:
        """Return the date format; see Reader."""
        return {"date_format": self._format()}

    def total(self, begin: datetime, end: datetime) -> int:
        """Count them at once; see Reader."""
        counted = 0
        for stretch in self._stretches(None, begin, end):
            source = f"FROM {self._table} WHERE {stretch.condition}"
            counted += self._query(f"SELECT count(*) AS n {source}", stretch.bounds)["n"][0].as_py()
        return counted

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count on the index alone, a step at a time; see Reader."""
        counted = 0
        for stretch in self._stretches(after, begin, end):
            place = self._place_at(stretch, limit)
            if place is not None:
                return counted + limit, place
            source = f"FROM {self._table} WHERE {stretch.condition}"
            counted += self._query(f"SELECT count(*) AS n {source}", stretch.bounds)["n"][0].as_py()
        return counted, None

    def read(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows; see Reader."""
        while True:
            rows, place = self._read(columns, after, begin, end, limit)
            if rows.num_rows <= 1 or rows.nbytes <= max_bytes:
                return rows, place
            limit = max(1, rows.num_rows * max_bytes // rows.nbytes)

    def _read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> tuple[pa.Table, Place | None]:
        wanted = self.schema(columns)
        selected = [_selected(field, self._declared[field.name]) for field in wanted]
        selected += [name for name in (self._date, self._key) if name not in selected]
        pieces: list[pa.Table] = []
        places: list[Place] = []
        # One row more than wanted is read: it shows whether the key is unique.
        left = limit + 1
        for stretch in self._stretches(after, begin, end):
            found = self._query(
                f"SELECT {', '.join(selected)} FROM {self._table} WHERE {stretch.condition} "
                f"ORDER BY {self._date}, {self._key} LIMIT {left}",
                stretch.bounds,
                batch_rows=left,
            )
            places += self._last_places(*(found.columns[selected.index(name)] for name in (self._date, self._key)))
            pieces.append(self._fit(found.columns[: len(wanted)], wanted))
            left -= found.num_rows
            if not left:
                break
        if not places:
            return wanted.empty_table(), None
        following = None if left else places.pop()
        check_order(self._dataset, places[-1], following)
        return pa.concat_tables(pieces).slice(0, limit), places[-1]

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        """Do nothing; see Reader."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _stretches(self, after: Place | None, begin: datetime, end: datetime) -> list[_Stretch]:
        """Return the rows of [begin, end) behind *after*.

        First those of the same date, then those of later ones: given `(date, key) > (?, ?) AND date < ?` SQLite 3.40
        does not look the key up in its index, and walks along all rows of a date for each chunk of them.
        """
        low, high, exact = self._bounds(begin, end)
        if after is None:
            return [_Stretch(condition=f"{self._date} >= ? AND {self._date} < ?{exact}", bounds=[low, high])]
        return [
            _Stretch(condition=f"{self._date} = ? AND {self._key} > ?", bounds=[after.date, after.key]),
            _Stretch(condition=f"{self._date} > ? AND {self._date} < ?{exact}", bounds=[after.date, high]),
        ]

    def _bounds(self, begin: datetime, end: datetime) -> tuple[Any, Any, str]:
        """Return the lowest value of the date column, one beyond the highest, and what else a row has to meet."""
        if self._format() is DateFormat.ISO:
            return *iso_range(begin, end), f" AND {iso_condition(self._date, begin, end)}"
        low, high = (to_column(at, self._format(), self._dataset.timezone) for at in (begin, end))
        return low, high, ""

    def _format(self) -> DateFormat:
        """Return how the date column keeps dates."""
        if self._date_format is None:
            try:
                found = detect(self._sample(), self._dataset.date_format)
                if found is DateFormat.ISO:
                    query = f"SELECT CAST({self._date} AS TEXT) AS at FROM {self._table} WHERE {self._date} <> ''"
                    check_iso(self._query(f"{query} AND {iso_instant(self._date)} IS NULL LIMIT 3")["at"].to_pylist())
                self._date_format = found
            except ValueError as error:
                raise undated(self._dataset, error) from None
        return self._date_format

    def _sample(self) -> list[object]:
        """Return up to 1,000 values of the date column: the first, the last, and some as the table has them."""
        rows = (
            f"SELECT typeof({self._date}) AS kind, "
            f"iif(typeof({self._date}) = 'blob', hex(substr({self._date}, 1, 64)), "
            f"substr(CAST({self._date} AS TEXT), 1, 64)) AS text "
            f"FROM {self._table} WHERE {self._date} IS NOT NULL"
        )
        ends = [f"ORDER BY {self._date} {way} LIMIT 250" for way in ("ASC", "DESC")]
        found = [self._query(f"{rows} {order}") for order in [*ends, "LIMIT 500"]]
        return [value for part in found for value in sample_from(part["kind"].to_pylist(), part["text"].to_pylist())]

    def _place_at(self, stretch: _Stretch, number: int) -> Place | None:
        """Return the place of the row of that number, counted from 1; only the index is read."""
        row = self._query(
            f"SELECT {self._date}, {self._key} FROM {self._table} WHERE {stretch.condition} "
            f"ORDER BY {self._date}, {self._key} LIMIT 1 OFFSET {number - 1}",
            stretch.bounds,
        )
        return self._last_places(*row.columns)[-1] if row.num_rows else None

    def _last_places(self, dates: pa.ChunkedArray, keys: pa.ChunkedArray) -> list[Place]:
        """Return the places of the last two rows."""
        if keys.null_count:
            raise keyless(self._dataset)
        last_two = range(max(0, len(keys) - 2), len(keys))
        return [Place(date=dates[index].as_py(), key=keys[index].as_py()) for index in last_two]

    def _fit(self, arrays: Arrays, wanted: pa.Schema) -> pa.Table:
        """Give every chunk of an export the same types; raises Fatal that names the column, not the value."""
        fitted = []
        for array, field in zip(arrays, wanted, strict=True):
            if array.null_count == len(array):
                # The driver takes a column without any value for one of numbers, which not every type can be made of.
                fitted.append(pa.chunked_array([pa.nulls(len(array), field.type)]))
                continue
            try:
                cast = array if array.type == field.type else array.cast(field.type)
                if pa.types.is_string(field.type):
                    cast.validate(full=True)  # SQLite takes any bytes for text
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise misfit(field, self._declared[field.name]) from None
            fitted.append(cast)
        return pa.table(fitted, schema=wanted)

    def _query(self, sql: str, bounds: list[Any] | None = None, *, batch_rows: int = 1024) -> pa.Table:
        option = adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value
        with self._translated(), self._connection.cursor() as cursor:
            # The driver tells a column's type from the first batch: all rows have to be in it.
            cursor.adbc_statement.set_options(**{option: str(batch_rows)})
            cursor.execute(sql, None if bounds is None else _as_batch(bounds))
            return cursor.fetch_arrow_table()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except adbc_driver_manager.Error as error:
            if _WRONG.search(str(error)):
                raise Fatal(
                    f"The table of dataset {self._dataset.name!r} is not there, or has other columns."
                ) from None
            raise away(self._dataset) from None


def arrow_type(declared: str) -> pa.DataType:
    """Return the type that a column of SQLite is exported with, from what it was declared as.

    Follows the affinities ("Datatypes In SQLite", 3.1), but for NUMERIC: that is what SQLite makes of any word, of
    DATE, JSON or UUID too, so that only the words for numbers count as such. The rest is text.

    >>> arrow_type("VARCHAR(20)"), arrow_type("BIGINT"), arrow_type("DATETIME")
    (DataType(string), DataType(int64), DataType(string))
    """
    name = declared.upper()
    if "INT" in name or "BOOL" in name:
        return pa.int64()
    if any(part in name for part in ("CHAR", "CLOB", "TEXT")):
        return pa.string()
    if "BLOB" in name:
        return pa.binary()
    numbers = ("REAL", "FLOA", "DOUB", "NUMERIC", "DECIMAL", "NUMBER")
    return pa.float64() if any(part in name for part in numbers) else pa.string()


def _selected(field: pa.Field, declared: str) -> str:
    """Return what to select for a column: where any kind of value may be in it, each is made text on its own.

    The driver would give all values of a chunk one type, and 1 would come out as 1.000000e+00 next to 1.5.
    """
    name = _quote(field.name)
    if pa.types.is_binary(field.type):
        return f"CAST({name} AS BLOB)"
    if pa.types.is_string(field.type) and not any(part in declared.upper() for part in ("CHAR", "CLOB", "TEXT")):
        return f"CAST({name} AS TEXT)"
    return name


def _as_batch(bounds: list[Any]) -> pa.RecordBatch:
    """Return the parameters of a statement as Arrow has them, with their types.

    To find a type out, as the driver would have it, Arrow looks for a package on the disk: 0.3 ms each time.
    """
    arrays = [pa.array([bound], _BOUND_TYPES[type(bound)]) for bound in bounds]
    return pa.record_batch(arrays, names=[str(number) for number in range(len(arrays))])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

"""Read a dataset from a SQLite file, by ADBC into Arrow: in C, without the GIL.

Uses ADBC's low-level interface: its DB-API would import polars and more, which takes longer than all else here.

Opens the file read-only. Each read is one transaction. None is open between two reads, so that others can write. If the
dataset has `snapshot`, all reads share one transaction.
ADBC brings its own SQLite library, which must not open files that another SQLite library of this process may have open.
The service therefore runs this module in a child process, see sqlite_process.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import adbc_driver_manager
import adbc_driver_sqlite
import pyarrow as pa
import pyarrow.compute as pc

from jobmanager.errors import Fatal
from jobmanager.jobs.export import mixed_columns
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
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.errors import away_error, date_format_error
from jobmanager.jobs.export.readers.sqlite_columns import (
    Form,
    NotText,
    Selected,
    Unfit,
    arrow_type,
    fitting,
    form_of,
    size,
    sizes,
)
from jobmanager.jobs.export.schemas import check_table, schema_of

#: Default size limit of a chunk, in bytes.
MAX_BYTES = 16 * 1024 * 1024

_BUSY_MILLISECONDS = 5_000
#: SQLite's messages for a statement that does not match the table. All other errors mean that the file is away.
_WRONG = re.compile(r"no such (table|column|collation|function)")
#: Arrow types of the values that a statement compares with a date or a key.
_BOUND_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}
#: The most columns in one query. SQLite allows 2,000.
_MOST_SELECTED = 1_500
#: Values below a certain size are read without reading their sizes first. Together they fit into this many chunks.
_FEW_CHUNKS = 4
_SHORTEST_LARGE = 32
_ANY_LENGTH = 2**62
#: Size of the sample from each end of the date column, to detect its format. Twice as many are from the rest.
_SAMPLE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A part of the range that is read from its beginning to its end."""

    #: a FROM clause without the word FROM
    source: str
    condition: str
    bounds: list[Any]
    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """How the rows of a range compare, and whether an index has them in that order."""

    #: appended to date and key in every comparison; "" for the collations of the columns
    collation: str
    is_indexed: bool
    #: True if an index has the rows in the order of the date, even if not in the order of the key
    has_dates: bool


class SqliteReader:
    """A connection to a SQLite file; see Reader."""

    def __init__(self, dataset: Dataset, declared: dict[str, str] | None = None) -> None:
        """Open the file. *declared*: the expected columns with their declared types; None: as found."""
        self._dataset = dataset
        self._table = _quote(dataset.table)
        self._date = self._name(dataset.date_column)
        self._key = self._name(dataset.key)
        self._declared = dict(declared or {})
        self._version: int | None = None
        self._date_format: DateFormat | None = None
        self._order: _Order | None = None
        self._forms: dict[str, Form] = {}
        self._as_text: frozenset[str] = frozenset()
        self._has_fixed_types = False
        self._is_snapshot = False  # True: one transaction lasts until the reader is closed
        self._has_large_rows = False
        #: the last place read from the table of sorted rows, and its position there; None if there is no such table
        self._sorted_until: tuple[Place | None, int] | None = None
        with self._translated():
            self._database = adbc_driver_sqlite.connect(f"file:{quote(dataset.url.database or '')}?mode=ro")
            # Begins no transactions by itself: an open one would block writers of a file with a rollback journal.
            self._connection = adbc_driver_manager.AdbcConnection(self._database)
        try:
            self._query(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
            self._query("PRAGMA temp_store = FILE")
            if dataset.snapshot:
                self._query("BEGIN")
                self._is_snapshot = True
        except BaseException:
            self.close()
            raise

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column, including generated ones."""
        if not self._declared:
            self._declared = self._declared_now()
        columns = {name: arrow_type(declared) for name, declared in self._declared.items()}
        check_table(self._dataset, columns)
        return columns

    def declared(self) -> dict[str, str]:
        """Return name and declared type of every column."""
        self.columns()
        return self._declared

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; see Reader."""
        kinds = self.columns()
        return schema_of(chosen, kinds | {name: pa.string() for name in self._as_text if name in kinds})

    def check(self) -> None:
        """Raise Fatal if the key is NULL in some rows or not unique, or the date format is unknown; see Reader."""
        self.columns()
        self._format()
        with self._transaction():
            order = self._ordered(datetime.min, datetime.max)
            if self._is_key_certain(order):
                return
            within = f"FROM {self._table} WHERE {self._date} IS NOT NULL"
            if self._query(f"SELECT 1 {within} AND {self._key} IS NULL LIMIT 1").num_rows:
                raise _null_key_error(self._dataset)
            if not order.is_indexed:
                return  # each read checks for equal places; sorting the table here too would cost more
            date, key = self._date + order.collation, self._key + order.collation
            query = f"SELECT 1 {within} GROUP BY {date}, {key} HAVING count(*) > 1 LIMIT 1"
            if self._query(query).num_rows:
                raise self._ambiguous(order)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return a warning if an index is missing; see Reader."""
        with self._transaction():
            order = self._ordered(begin, end)
            if order.is_indexed:
                return []
            date, key, name = self._dataset.date_column, self._dataset.key, self._dataset.name
            way = (
                "the rows of each date are sorted again for each chunk"
                if order.has_dates
                else "all rows of the range are sorted before the first is written, and again after each halt"
                if self._row_id() is not None
                else "the table is scanned and sorted again for each chunk"
            )
            return [
                f"There is no index on ({date}, {key}) of dataset {name!r}: {way}. Create one to make the export fast."
            ]

    def identity(self) -> dict[str, str]:
        """Return the encoding, the date format and the declared columns; see Reader."""
        encoding = self._query("PRAGMA encoding")["encoding"][0].as_py()
        columns = {f"column {name}": declared for name, declared in self.declared().items()}
        return {"encoding": encoding, "date_format": str(self._format())} | columns

    def mixed_columns(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return the columns with values in [begin, end) that do not fit their type. Text fits all values."""
        schema = self.schema(columns)
        if not columns:
            return []
        (segment,) = self._segments(None, begin, end)
        found: list[str] = []
        for first in range(0, len(schema), _MOST_SELECTED):
            fields = list(schema)[first : first + _MOST_SELECTED]
            tests = ", ".join(f"max({_misfit(self._name(field.name), field.type)})" for field in fields)
            row = self._query(f"SELECT {tests} FROM {segment.source} WHERE {segment.condition}", segment.bounds)
            found += [field.name for field, test in zip(fields, row.columns, strict=True) if test[0].as_py()]
        return found

    def fix_types(self, as_text: list[str]) -> None:
        """Fix the types of all later rows as schema() then returns them. These columns become text."""
        self._as_text, self._has_fixed_types = frozenset(as_text), True

    def total(self, begin: datetime, end: datetime) -> int:
        """Count the rows of the range in one query, in any order; see Reader."""
        (segment,) = self._segments(None, begin, end)
        return self._count(segment)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count in steps, on the index alone; without an index, in one query. See Reader."""
        counted = 0
        with self._transaction():
            is_indexed = self._ordered(begin, end).is_indexed
            for segment in self._segments(after, begin, end):
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
        """Return the next rows; see Reader."""
        with self._transaction():
            wanted = self.schema(columns)
            names = list(dict.fromkeys([*columns, self._dataset.date_column, self._dataset.key]))
            self._check_declared(names)
            segments = self._segments_in_order(after, begin, end)
            found = self._rows(names, segments, limit, max_bytes)
            dates, keys = found[self._dataset.date_column], found[self._dataset.key]
            if not len(keys):
                return wanted.empty_table(), None
            if _has_null(keys):
                raise _null_key_error(self._dataset)
            place = Place(date=_kept(dates[-1].as_py()), key=_kept(keys[-1].as_py()))
            self._check_unique(place, begin, end)
            self._keep_position(place, len(keys))
        if self._has_fixed_types:
            return pa.table(
                [self._to_fixed_type(found[field.name], field, keys) for field in wanted], schema=wanted
            ), place
        arrays = [
            found[f.name] if mixed_columns.has_value(found[f.name]) else pa.nulls(len(keys), f.type) for f in wanted
        ]
        return pa.table(arrays, names=columns), place

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._database.close()

    # The table

    def _name(self, column: str) -> str:
        """Return a column's name for SQL, with its table: SQLite reads a bare name of a missing column as a text."""
        return f"{_quote(self._dataset.table)}.{_quote(column)}"

    def _declared_now(self) -> dict[str, str]:
        return {row["name"]: row["type"] or "" for row in self._columns_now()}

    def _columns_now(self) -> list[dict[str, Any]]:
        rows = self._query(f"PRAGMA table_xinfo({self._table})").to_pylist()
        # 1 marks the hidden columns of virtual tables, which are for their queries only.
        return [row for row in rows if row["hidden"] != 1]

    def _check_declared(self, names: list[str]) -> None:
        """Raise Fatal if one of the columns has changed since the export began."""
        version = self._query("PRAGMA schema_version")["schema_version"][0].as_py()
        if version == self._version:
            return
        now = self._declared_now()
        for name in names:
            if now.get(name) != self._declared[name]:
                change = f"is {now[name] or 'without a type'} now" if name in now else "no longer exists"
                raise Fatal(
                    f"Column {name!r} of dataset {self._dataset.name!r} was {self._declared[name] or 'without a type'} "
                    f"when the export began, and {change}. Export again."
                )
        self._version, self._order, self._sorted_until = version, None, None

    def _is_table(self) -> bool:
        """Return True if the dataset is an ordinary table. Its columns convert values; the columns of a view do not."""
        query = (
            "SELECT 1 AS n FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE AND type = 'table'"
        )
        return bool(self._query(query, [self._dataset.table]).num_rows)

    def _row_id(self) -> str | None:
        """Return a name for the rowid. None: a view, a table WITHOUT ROWID, or columns have all its names."""
        query = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE AND type = 'table'"
        found = self._query(query, [self._dataset.table])
        if not found.num_rows or found["wr"][0].as_py():
            return None
        taken = {name.lower() for name in self.declared()}
        free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
        return f"{self._table}.{free[0]}" if free else None

    def _is_key_certain(self, order: _Order) -> bool:
        """Return True if the table's definition guarantees that the key is unique and never NULL."""
        row = next(row for row in self._columns_now() if row["name"] == self._dataset.key)
        keys = [other for other in self._columns_now() if other["pk"]]
        if row["pk"] and len(keys) == 1 and row["type"].upper() == "INTEGER" and self._row_id() is not None:
            return True
        return bool(row["notnull"]) and self._has_unique_index(order)

    def _has_unique_index(self, order: _Order) -> bool:
        listed = self._query(f"PRAGMA index_list({self._table})").to_pylist()
        for index in listed:
            if not index["unique"] or index["partial"]:
                continue
            rows = self._query(f"PRAGMA index_xinfo({_quote(index['name'])})").to_pylist()
            rows = [row for row in rows if row["key"]]
            # Keys that are unique in a column's collation are unique byte by byte too, but not vice versa.
            is_as_fine = order.collation != "" or all(row["coll"] != "BINARY" for row in rows)
            if is_as_fine and {row["name"] for row in rows} <= {self._dataset.key, self._dataset.date_column}:
                return True
        return False

    # The order

    def _ordered(self, begin: datetime, end: datetime) -> _Order:
        """Choose how date and key compare: byte by byte, unless only an index in the columns' collations is of use."""
        if self._order is None:
            orders = [self._explained(collation, begin, end) for collation in (" COLLATE BINARY", "")]
            self._order = next(
                (order for order in orders if order.is_indexed),
                next((order for order in orders if order.has_dates), orders[0]),
            )
        return self._order

    def _explained(self, collation: str, begin: datetime, end: datetime) -> _Order:
        tried = _Order(collation=collation, is_indexed=True, has_dates=True)
        segment = self._range(tried, begin, end)
        plan = self._query(
            f"EXPLAIN QUERY PLAN SELECT {self._table}.* FROM {segment.source} WHERE {segment.condition} "
            f"ORDER BY {segment.order} LIMIT 1",
            segment.bounds,
        )["detail"].to_pylist()
        is_sorted = any("TEMP B-TREE FOR" in step for step in plan)
        is_scan = not any(step.startswith("SEARCH") for step in plan)
        sorts_all = any("TEMP B-TREE FOR ORDER BY" in step for step in plan)
        return replace(tried, is_indexed=not is_sorted and not is_scan, has_dates=not sorts_all and not is_scan)

    def _segments(self, after: Place | None, begin: datetime, end: datetime) -> list[_Segment]:
        """Return the rows of [begin, end) after *after*.

        First those of the same date, then those of later dates: for `(date, key) > (?, ?) AND date < ?`, SQLite 3.40
        does not look up the key in its index, and scans all rows of a date for each chunk.
        """
        order = self._ordered(begin, end)
        whole = self._range(order, begin, end)
        if after is None:
            return [whole]
        date, key = self._date + order.collation, self._key + order.collation
        high = whole.bounds[1]
        at, behind = _bound(after.date), _bound(after.key)
        return [
            replace(whole, condition=f"{date} = ? AND {key} > ?", bounds=[at, behind]),
            replace(whole, condition=whole.condition.replace(">=", ">", 1), bounds=[at, high]),
        ]

    def _range(self, order: _Order, begin: datetime, end: datetime) -> _Segment:
        low, high, exact = self._bounds(begin, end)
        date, key = self._date + order.collation, self._key + order.collation
        return _Segment(
            source=self._table,
            condition=f"{date} >= ? AND {date} < ?{exact}",
            bounds=[low, high],
            order=date if self._date == self._key else f"{date}, {key}",
        )

    def _segments_in_order(self, after: Place | None, begin: datetime, end: datetime) -> list[_Segment]:
        """Return segments that need no sorting, if possible. Without an index, sorts the rows once."""
        order = self._ordered(begin, end)
        row_id = None if order.is_indexed or order.has_dates else self._row_id()
        if row_id is None:
            return self._segments(after, begin, end)
        if self._sorted_until is None or self._sorted_until[0] != after:
            self._sort(self._segments(after, begin, end), row_id)
            self._sorted_until = (after, 0)
        # A row whose date or key has changed since is left out, like any row that moves to before the current place.
        return [
            _Segment(
                source=f"temp.sorted AS sorted CROSS JOIN {self._table} ON {row_id} = sorted.row",
                condition=f"sorted.rowid > ? AND {self._date} = sorted.date AND {self._key} = sorted.key",
                bounds=[self._sorted_until[1]],
                order="sorted.rowid",
            )
        ]

    def _sort(self, segments: list[_Segment], row_id: str) -> None:
        """Store date, key and rowid of the rows in order in a temporary table. Raises Fatal for equal or NULL keys."""
        self._query("DROP TABLE IF EXISTS temp.sorted")
        self._query("CREATE TEMP TABLE sorted (date, key, row)")
        for segment in segments:
            self._query(
                f"INSERT INTO temp.sorted SELECT {self._date}, {self._key}, {row_id} FROM {segment.source} "
                f"WHERE {segment.condition} ORDER BY {segment.order}",
                segment.bounds,
            )
        if self._query("SELECT 1 FROM temp.sorted WHERE key IS NULL LIMIT 1").num_rows:
            raise _null_key_error(self._dataset)
        equal = "a.date = b.date AND a.key = b.key"
        query = f"SELECT 1 FROM temp.sorted a CROSS JOIN temp.sorted b ON b.rowid = a.rowid + 1 WHERE {equal} LIMIT 1"
        if self._query(query).num_rows:
            raise self._ambiguous(_Order(collation=" COLLATE BINARY", is_indexed=False, has_dates=False))

    def _keep_position(self, place: Place, rows: int) -> None:
        if self._sorted_until is None:
            return
        query = (
            "SELECT max(rowid) AS n FROM (SELECT sorted.rowid FROM temp.sorted AS sorted "
            "WHERE sorted.rowid > ? AND sorted.date = ? AND sorted.key = ? LIMIT 1)"
        )
        bounds = [self._sorted_until[1], _bound(place.date), _bound(place.key)]
        self._sorted_until = (place, self._query(query, bounds)["n"][0].as_py())

    def _check_unique(self, place: Place, begin: datetime, end: datetime) -> None:
        """Raise Fatal if another row has an equal place: the next read would skip that row."""
        if self._sorted_until is not None:
            return  # checked when the rows were sorted
        order = self._ordered(begin, end)
        condition = f"{self._date}{order.collation} = ? AND {self._key}{order.collation} = ?"
        query = f"SELECT 1 FROM {self._table} WHERE {condition} LIMIT 2"
        if self._query(query, [_bound(place.date), _bound(place.key)]).num_rows > 1:
            raise self._ambiguous(order, place)

    def _ambiguous(self, order: _Order, place: Place | None = None) -> Fatal:
        way = "" if order.collation else " in the order of the index, which compares as the collation of its columns"
        where = "" if place is None else f" Rows with {self._dataset.key} = {_shown(place.key)} are equal."
        return Fatal(
            f"The key of dataset {self._dataset.name!r} is not unique: rows would be lost. Column "
            f"{self._dataset.key!r} of dataset {self._dataset.name!r} has equal values for one "
            f"{self._dataset.date_column}{way}.{where} Name a unique column as key."
        )

    # The rows

    def _rows(self, names: list[str], segments: list[_Segment], limit: int, max_bytes: int) -> dict[str, Any]:
        """Return the columns of the next rows, with as many rows as *max_bytes* allows.

        If rows may be large, reads their sizes first. Otherwise reads the rows, and then measures how many fit.
        """
        limit = max(1, min(limit, max_bytes // (8 * len(names))))
        while True:
            try:
                if self._has_large_rows:
                    return self._measured(names, segments, limit, max_bytes)
                texts = sum(self._form(name) not in (Form.INTEGER, Form.REAL) for name in names)
                largest = max(_SHORTEST_LARGE, _FEW_CHUNKS * max_bytes // (limit * max(1, texts)))
                pieces = self._pieces(names, segments, limit, largest)
                row_sizes = [sizes(list(piece)) for piece in pieces]
                number = fitting(pa.chunked_array(row_sizes, pa.int64()), max_bytes)
                return _columns(names, pieces, number)
            except Unfit:
                self._has_large_rows = True

    def _measured(self, names: list[str], segments: list[_Segment], limit: int, max_bytes: int) -> dict[str, Any]:
        columns = [self._name(name) for name in names]
        found: list[pa.Array] = []
        left = limit
        for segment in segments:
            rows = self._ask(f"{size(columns)} AS bytes", segment, left)["bytes"].combine_chunks()
            found.append(rows.cast(pa.int64()))
            left -= len(rows)
            if not left:
                break
        row_sizes = pa.chunked_array(found, pa.int64())
        number = fitting(row_sizes, max_bytes)
        self._has_large_rows = 8 * (pc.sum(row_sizes).as_py() or 0) > max_bytes
        return _columns(names, self._pieces(names, segments, number, _ANY_LENGTH), number)

    def _pieces(self, names: list[str], segments: list[_Segment], limit: int, largest: int) -> list[list[pa.Array]]:
        """Return the columns of the next rows of each segment. Raises Unfit if a value is larger than *largest*."""
        pieces: list[list[pa.Array]] = []
        for segment in segments:
            pieces.append(self._piece(names, segment, limit, largest))
            limit -= len(pieces[-1][0])
            if not limit:
                break
        return pieces

    def _piece(self, names: list[str], segment: _Segment, limit: int, largest: int) -> list[pa.Array]:
        found: dict[str, pa.Array] = {}
        left = list(names)
        while left:
            group, left = self._group(left, largest)
            rows = self._ask(", ".join(sql for one in group.values() for sql in one.expressions()), segment, limit)
            arrays = [column.combine_chunks() for column in rows.columns]
            for name, selected in group.items():
                own, arrays = arrays[: selected.width()], arrays[selected.width() :]
                try:
                    found[name] = selected.values(own)
                except NotText as error:
                    raise self._not_text(name, segment, error.row) from None
                except Unfit as error:
                    if error.is_large or (selected.is_text() and largest < _ANY_LENGTH):
                        raise Unfit(is_large=True) from None
                    self._forms[name] = Form.ANY
                    left.append(name)
        return [found[name] for name in names]

    def _group(self, names: list[str], largest: int) -> tuple[dict[str, Selected], list[str]]:
        """Return as many columns as fit into one query, and the names of the others."""
        group: dict[str, Selected] = {}
        width = 0
        for index, name in enumerate(names):
            selected = Selected(sql=self._name(name), form=self._form(name), largest=largest)
            width += selected.width()
            if width > _MOST_SELECTED:
                return group, names[index:]
            group[name] = selected
        return group, []

    def _form(self, name: str) -> Form:
        if not self._forms:
            is_table = self._is_table()
            self._forms = {name: form_of(kind, is_table=is_table) for name, kind in self._declared.items()}
        return self._forms[name]

    def _to_fixed_type(self, column: pa.ChunkedArray, field: pa.Field, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        """Convert a column to its fixed type. Raises Fatal that names the column, not the value."""
        if column.type == field.type:
            return column
        if not mixed_columns.has_value(column):
            return pa.chunked_array([pa.nulls(len(column), field.type)])
        if pa.types.is_string(field.type):
            return mixed_columns.as_texts(column)
        try:
            # Only numbers: Arrow would cast a text to bytes.
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                return column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
        raise Fatal(
            f"A value of column {field.name!r} of dataset {self._dataset.name!r} does not fit its declared type, "
            f"{self._declared[field.name] or 'none'}, between {self._dataset.key} = {_shown(keys[0].as_py())} and "
            f"{_shown(keys[-1].as_py())}. Export again: a Parquet file then has text in this column. CSV and JSON "
            "Lines take any value."
        )

    def _not_text(self, name: str, segment: _Segment, row: int) -> Fatal:
        """Return the error for a text that is not valid UTF-8. It does not show the value."""
        found = self._ask(f"quote({self._key}) AS key", segment, 1, offset=row)["key"].to_pylist()
        return Fatal(
            f"A value of column {name!r} does not fit its declared type, {self._declared[name] or 'none'}: the text of "
            f"the row with {self._dataset.key} = {found[0] if found else '?'} of dataset {self._dataset.name!r} is not "
            "valid UTF-8. Correct it, or leave the column out."
        )

    # Queries

    def _bounds(self, begin: datetime, end: datetime) -> tuple[Any, Any, str]:
        """Return the inclusive and the exclusive bound of the date column, and a further condition in SQL."""
        if self._format() is DateFormat.ISO:
            return *iso_range(begin, end), f" AND {iso_condition(self._date, begin, end)}"
        low, high = (to_column(at, self._format(), self._dataset.timezone) for at in (begin, end))
        return low, high, ""

    def _format(self) -> DateFormat:
        """Return the format of the date column. Raises Fatal if it is unknown."""
        if self._date_format is None:
            self.columns()
            try:
                found = detect(self._sample(), self._dataset.date_format)
                if found is DateFormat.ISO:
                    query = f"SELECT CAST({self._date} AS TEXT) AS at FROM {self._table} WHERE {self._date} <> ''"
                    check_iso(self._query(f"{query} AND {iso_instant(self._date)} IS NULL LIMIT 3")["at"].to_pylist())
                self._date_format = found
            except ValueError as error:
                raise date_format_error(self._dataset, error) from None
        return self._date_format

    def _sample(self) -> list[object]:
        """Return values of the date column: the first, the last, and some in the order of the table."""
        rows = (
            f"SELECT typeof({self._date}) AS kind, "
            f"iif(typeof({self._date}) = 'blob', hex({self._date}), CAST({self._date} AS TEXT)) AS text "
            f"FROM {self._table} WHERE {self._date} IS NOT NULL"
        )
        ends = [f"ORDER BY {self._date} {way} LIMIT {_SAMPLE}" for way in ("ASC", "DESC")]
        found = [self._query(f"{rows} {order}") for order in [*ends, f"LIMIT {2 * _SAMPLE}"]]
        return [value for part in found for value in sample_from(part["kind"].to_pylist(), part["text"].to_pylist())]

    def _count(self, segment: _Segment) -> int:
        query = f"SELECT count(*) AS n FROM {segment.source} WHERE {segment.condition}"
        return int(self._query(query, segment.bounds)["n"][0].as_py())

    def _place_at(self, segment: _Segment, number: int) -> Place | None:
        """Return the place of the row with that number, counted from 1. Reads only the index."""
        rows = self._ask(f"{self._date} AS date, {self._key} AS key", segment, 1, offset=number - 1)
        if not rows.num_rows:
            return None
        date, key = (rows[name][0].as_py() for name in ("date", "key"))
        if key is None:
            raise _null_key_error(self._dataset)
        return Place(date=_kept(date), key=_kept(key))

    def _ask(self, selected: str, segment: _Segment, limit: int, *, offset: int = 0) -> pa.Table:
        """Select from the rows of a segment, in order."""
        return self._query(
            f"SELECT {selected} FROM {segment.source} WHERE {segment.condition} ORDER BY {segment.order} "
            f"LIMIT {limit}" + (f" OFFSET {offset}" if offset else ""),
            segment.bounds,
            batch_rows=max(1, limit),
        )

    def _query(self, sql: str, bounds: list[Any] | None = None, *, batch_rows: int = 1024) -> pa.Table:
        option = adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value
        with self._translated(), adbc_driver_manager.AdbcStatement(self._connection) as statement:
            # The driver takes a column's type from the first batch, so all rows must be in it.
            statement.set_options(**{option: str(batch_rows)})
            statement.set_sql_query(sql)
            if bounds is not None:
                statement.bind(_as_batch(bounds))
            stream, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                return reader.read_all()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run all queries in one transaction, so that they see the same rows. With a snapshot, it is open already."""
        if self._is_snapshot:
            yield
            return
        self._query("BEGIN")
        try:
            yield
        except BaseException:
            self._sorted_until = None
            # If this fails too, the reader is unusable, and the first error is the one to report.
            with suppress(Exception):
                self._query("ROLLBACK")
            raise
        self._query("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (adbc_driver_manager.Error, pa.ArrowException, OSError) as error:
            if _WRONG.search(str(error)):
                raise Fatal(
                    f"The table of dataset {self._dataset.name!r} does not exist, or its columns have changed."
                ) from None
            raise away_error(self._dataset) from None


def _null_key_error(dataset: Dataset) -> Fatal:
    """Return the error for rows whose key is NULL."""
    return Fatal(
        f"The key of dataset {dataset.name!r} is NULL in some rows: they have no order and would be lost. "
        "Configure a key that is NOT NULL."
    )


def _columns(names: list[str], pieces: list[list[pa.Array]], number: int) -> dict[str, pa.ChunkedArray]:
    """Return the first *number* rows of the pieces, as columns by name."""
    return {
        name: mixed_columns.joined([piece[index] for piece in pieces]).slice(0, number)
        for index, name in enumerate(names)
    }


def _misfit(column: str, kind: pa.DataType) -> str:
    """Return an SQL expression that is true for values that do not fit a column of that type."""
    if pa.types.is_integer(kind):
        return f"typeof({column}) NOT IN ('integer', 'null')"
    if pa.types.is_floating(kind):
        largest = 2**53
        return f"{column} >= '' OR (typeof({column}) = 'integer' AND {column} NOT BETWEEN -{largest} AND {largest})"
    return "0" if pa.types.is_string(kind) else f"typeof({column}) NOT IN ('blob', 'null')"


def _has_null(keys: pa.ChunkedArray) -> bool:
    return None in keys.to_pylist() if pa.types.is_union(keys.type) else keys.null_count > 0


def _kept(value: Any) -> Any:
    """Return a value of a place in a form that JSON can store: infinity becomes a decimal."""
    return Decimal(value) if isinstance(value, float) and math.isinf(value) else value


def _bound(value: Any) -> Any:
    """Return a value of a place as SQLite stores it."""
    return float(value) if isinstance(value, Decimal) else value


def _shown(value: Any) -> str:
    """Return a key for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _as_batch(bounds: list[Any]) -> pa.RecordBatch:
    """Return the parameters of a statement as an Arrow batch with explicit types.

    To infer a type, as the driver does, Arrow searches the disk for a package: 0.3 ms each time.
    """
    arrays = [pa.array([bound], _BOUND_TYPES[type(bound)]) for bound in bounds]
    return pa.record_batch(arrays, names=[str(number) for number in range(len(arrays))])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

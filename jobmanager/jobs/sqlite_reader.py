"""Reads a dataset from a SQLite file, by ADBC into Arrow: in C, and without the interpreter lock.

Uses ADBC's own interface: its DB-API would import polars and more, which takes longer than all else here.

Opens the file read-only. Each read is one transaction; none is open between two reads: others may write meanwhile. Of a
dataset with snapshots, all reads are one transaction.
ADBC has a SQLite of its own, which must not open files that this process may have open by another SQLite: the service
therefore runs this in a child process, see sqlite_process.py.
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
from jobmanager.jobs import mixed
from jobmanager.jobs.datasets import Dataset, away, check_table, keyless, undated
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
from jobmanager.jobs.sqlite_columns import (
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

#: How many bytes of rows one read returns by default.
MAX_BYTES = 16 * 1024 * 1024

_BUSY_MILLISECONDS = 5_000
#: What SQLite says when a statement does not suit the table, rather than that the file is away.
_WRONG = re.compile(r"no such (table|column|collation|function)")
#: Types of the values that SQLite compares with a date or a key.
_BOUND_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}
#: SQLite returns up to 2,000 columns.
_MOST_SELECTED = 1_500
#: Values are read along with all others of a chunk if each is at most this: together they are a few chunks at most.
_FEW_CHUNKS = 4
_SHORTEST_LARGE = 32
_ANY_LENGTH = 2**62
#: How many values from each end of the date column show how it keeps dates; twice as many of the rest.
_SAMPLE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """A piece of the range that is read from one end to the other."""

    #: a FROM clause without its first word
    source: str
    condition: str
    bounds: list[Any]
    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """How the rows of a range are compared, and whether an index has them in that order."""

    #: what follows date and key in every comparison, "" for the collations that the columns have
    collation: str
    is_indexed: bool
    #: whether an index has the rows in the order of the date, if not in that of the key
    has_dates: bool


class SqliteReader:
    """A connection to a SQLite file; see Reader."""

    def __init__(self, dataset: Dataset, declared: dict[str, str] | None = None) -> None:
        """Open the file; *declared* are the columns it is expected to have, by their declared types."""
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
        self._is_settled = False
        self._is_snapshot = False  # the transaction under way lasts until the end
        self._has_large_rows = False
        #: where the last read ended in the table of sorted rows, if there is one
        self._sorted_until: tuple[Place | None, int] | None = None
        with self._translated():
            self._database = adbc_driver_sqlite.connect(f"file:{quote(dataset.url.database or '')}?mode=ro")
            # It begins no transactions by itself: one that stays open would keep a rollback journal's writers out.
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
        """Return name and type of every column, generated ones too."""
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
        """Raise Fatal if the key has no value in some rows or is not unique; see Reader."""
        self.columns()
        self._format()
        with self._transaction():
            order = self._ordered(datetime.min, datetime.max)
            if self._is_key_certain(order):
                return
            within = f"FROM {self._table} WHERE {self._date} IS NOT NULL"
            if self._query(f"SELECT 1 {within} AND {self._key} IS NULL LIMIT 1").num_rows:
                raise keyless(self._dataset)
            if not order.is_indexed:
                return  # each read looks for rows of the same place: sorting the table twice would cost more
            date, key = self._date + order.collation, self._key + order.collation
            query = f"SELECT 1 {within} GROUP BY {date}, {key} HAVING count(*) > 1 LIMIT 1"
            if self._query(query).num_rows:
                raise self._ambiguous(order)

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Tell of a missing index; see Reader."""
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
            return [f"There is no index on ({date}, {key}) of dataset {name!r}: {way}."]

    def identity(self) -> dict[str, str]:
        """Return the encoding, the order, the date format and the declared columns; see Reader."""
        encoding = self._query("PRAGMA encoding")["encoding"][0].as_py()
        columns = {f"column {name}": declared for name, declared in self.declared().items()}
        return {"encoding": encoding, "date_format": str(self._format())} | columns

    def misfits(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return the columns with values in [begin, end) that their type cannot hold: one of text can."""
        schema = self.schema(columns)
        if not columns:
            return []
        (stretch,) = self._stretches(None, begin, end)
        found: list[str] = []
        for first in range(0, len(schema), _MOST_SELECTED):
            fields = list(schema)[first : first + _MOST_SELECTED]
            tests = ", ".join(f"max({_misfit(self._name(field.name), field.type)})" for field in fields)
            row = self._query(f"SELECT {tests} FROM {stretch.source} WHERE {stretch.condition}", stretch.bounds)
            found += [field.name for field, test in zip(fields, row.columns, strict=True) if test[0].as_py()]
        return found

    def settle(self, as_text: list[str]) -> None:
        """Give every chunk from now on the types of schema(), in which these columns are text."""
        self._as_text, self._is_settled = frozenset(as_text), True

    def total(self, begin: datetime, end: datetime) -> int:
        """Count the rows of the range at once, in any order; see Reader."""
        (stretch,) = self._stretches(None, begin, end)
        return self._count(stretch)

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count on the index alone, a step at a time, or without an index at once; see Reader."""
        counted = 0
        with self._transaction():
            is_indexed = self._ordered(begin, end).is_indexed
            for stretch in self._stretches(after, begin, end):
                place = self._place_at(stretch, limit) if is_indexed else None
                if place is not None:
                    return counted + limit, place
                counted += self._count(stretch)
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
            stretches = self._stretches_in_order(after, begin, end)
            found = self._rows(names, stretches, limit, max_bytes)
            dates, keys = found[self._dataset.date_column], found[self._dataset.key]
            if not len(keys):
                return wanted.empty_table(), None
            if _has_null(keys):
                raise keyless(self._dataset)
            place = Place(date=_kept(dates[-1].as_py()), key=_kept(keys[-1].as_py()))
            self._check_unique(place, begin, end)
            self._keep_position(place, len(keys))
        if self._is_settled:
            return pa.table([self._settled(found[field.name], field, keys) for field in wanted], schema=wanted), place
        arrays = [found[f.name] if mixed.has_value(found[f.name]) else pa.nulls(len(keys), f.type) for f in wanted]
        return pa.table(arrays, names=columns), place

    def expect(
        self,
        columns: list[str],
        after: Place | None,
        begin: datetime,
        end: datetime,
        limit: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Do nothing; see Reader."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._database.close()

    # The table

    def _name(self, column: str) -> str:
        """Return a column as SQL has it. With its table: SQLite takes a bare name that names no column for a text."""
        return f"{_quote(self._dataset.table)}.{_quote(column)}"

    def _declared_now(self) -> dict[str, str]:
        return {row["name"]: row["type"] or "" for row in self._columns_now()}

    def _columns_now(self) -> list[dict[str, Any]]:
        rows = self._query(f"PRAGMA table_xinfo({self._table})").to_pylist()
        # 1 marks the hidden columns of virtual tables, which are for their queries only.
        return [row for row in rows if row["hidden"] != 1]

    def _check_declared(self, names: list[str]) -> None:
        """Raise Fatal if one of the columns has changed since the reader first looked."""
        version = self._query("PRAGMA schema_version")["schema_version"][0].as_py()
        if version == self._version:
            return
        now = self._declared_now()
        for name in names:
            if now.get(name) != self._declared[name]:
                change = f"is {now[name] or 'without a type'} now" if name in now else "is not there any more"
                raise Fatal(
                    f"Column {name!r} of dataset {self._dataset.name!r} was {self._declared[name] or 'without a type'} "
                    f"when the export began, and {change}. Export again."
                )
        self._version, self._order, self._sorted_until = version, None, None

    def _is_table(self) -> bool:
        """Return True if the dataset is an ordinary table: its columns convert values, those of a view do not."""
        query = (
            "SELECT 1 AS n FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE AND type = 'table'"
        )
        return bool(self._query(query, [self._dataset.table]).num_rows)

    def _row_id(self) -> str | None:
        """Return the name of the number that SQLite gives each row; None for views and tables WITHOUT ROWID."""
        query = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE AND type = 'table'"
        found = self._query(query, [self._dataset.table])
        if not found.num_rows or found["wr"][0].as_py():
            return None
        taken = {name.lower() for name in self.declared()}
        free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
        return f"{self._table}.{free[0]}" if free else None

    def _is_key_certain(self, order: _Order) -> bool:
        """Return True if the table's definition says that the key is unique and never NULL."""
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
            # Unique in the column's order is unique byte by byte too, not the other way round.
            is_as_fine = order.collation != "" or all(row["coll"] != "BINARY" for row in rows)
            if is_as_fine and {row["name"] for row in rows} <= {self._dataset.key, self._dataset.date_column}:
                return True
        return False

    # The order

    def _ordered(self, begin: datetime, end: datetime) -> _Order:
        """Choose how date and key are compared: byte by byte, unless an index has them in their columns' own order."""
        if self._order is None:
            orders = [self._explained(collation, begin, end) for collation in (" COLLATE BINARY", "")]
            self._order = next(
                (order for order in orders if order.is_indexed),
                next((order for order in orders if order.has_dates), orders[0]),
            )
        return self._order

    def _explained(self, collation: str, begin: datetime, end: datetime) -> _Order:
        tried = _Order(collation=collation, is_indexed=True, has_dates=True)
        stretch = self._range(tried, begin, end)
        plan = self._query(
            f"EXPLAIN QUERY PLAN SELECT {self._table}.* FROM {stretch.source} WHERE {stretch.condition} "
            f"ORDER BY {stretch.order} LIMIT 1",
            stretch.bounds,
        )["detail"].to_pylist()
        is_sorted = any("TEMP B-TREE FOR" in step for step in plan)
        is_scan = not any(step.startswith("SEARCH") for step in plan)
        sorts_all = any("TEMP B-TREE FOR ORDER BY" in step for step in plan)
        return replace(tried, is_indexed=not is_sorted and not is_scan, has_dates=not sorts_all and not is_scan)

    def _stretches(self, after: Place | None, begin: datetime, end: datetime) -> list[_Stretch]:
        """Return the rows of [begin, end) behind *after*.

        First those of the same date, then those of later ones: given `(date, key) > (?, ?) AND date < ?` SQLite 3.40
        does not look the key up in its index, and walks along all rows of a date for each chunk of them.
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

    def _range(self, order: _Order, begin: datetime, end: datetime) -> _Stretch:
        low, high, exact = self._bounds(begin, end)
        date, key = self._date + order.collation, self._key + order.collation
        return _Stretch(
            source=self._table,
            condition=f"{date} >= ? AND {date} < ?{exact}",
            bounds=[low, high],
            order=date if self._date == self._key else f"{date}, {key}",
        )

    def _stretches_in_order(self, after: Place | None, begin: datetime, end: datetime) -> list[_Stretch]:
        """Return stretches that need no sorting, as far as possible: without an index the rows are sorted once."""
        order = self._ordered(begin, end)
        row_id = None if order.is_indexed or order.has_dates else self._row_id()
        if row_id is None:
            return self._stretches(after, begin, end)
        if self._sorted_until is None or self._sorted_until[0] != after:
            self._sort(self._stretches(after, begin, end), row_id)
            self._sorted_until = (after, 0)
        # A row that has moved in the order since is left out, as one that moves behind the place of an export is.
        return [
            _Stretch(
                source=f"temp.sorted AS sorted CROSS JOIN {self._table} ON {row_id} = sorted.row",
                condition=f"sorted.rowid > ? AND {self._date} = sorted.date AND {self._key} = sorted.key",
                bounds=[self._sorted_until[1]],
                order="sorted.rowid",
            )
        ]

    def _sort(self, stretches: list[_Stretch], row_id: str) -> None:
        """Keep date, key and number of the rows in a temporary table, in their order; raises Fatal for equal ones."""
        self._query("DROP TABLE IF EXISTS temp.sorted")
        self._query("CREATE TEMP TABLE sorted (date, key, row)")
        for stretch in stretches:
            self._query(
                f"INSERT INTO temp.sorted SELECT {self._date}, {self._key}, {row_id} FROM {stretch.source} "
                f"WHERE {stretch.condition} ORDER BY {stretch.order}",
                stretch.bounds,
            )
        if self._query("SELECT 1 FROM temp.sorted WHERE key IS NULL LIMIT 1").num_rows:
            raise keyless(self._dataset)
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
        """Raise Fatal if another row compares equal: going on behind the place would skip it."""
        if self._sorted_until is not None:
            return  # looked at when they were sorted
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

    def _rows(self, names: list[str], stretches: list[_Stretch], limit: int, max_bytes: int) -> dict[str, Any]:
        """Return the columns of the next rows, as many as the bytes allow.

        Where rows may be large, their sizes are read first; else what they took shows how many of them there may be.
        """
        limit = max(1, min(limit, max_bytes // (8 * len(names))))
        while True:
            try:
                if self._has_large_rows:
                    return self._measured(names, stretches, limit, max_bytes)
                texts = sum(self._form(name) not in (Form.INTEGER, Form.REAL) for name in names)
                largest = max(_SHORTEST_LARGE, _FEW_CHUNKS * max_bytes // (limit * max(1, texts)))
                pieces = self._pieces(names, stretches, limit, largest)
                row_sizes = [sizes(list(piece)) for piece in pieces]
                number = fitting(pa.chunked_array(row_sizes, pa.int64()), max_bytes)
                return _columns(names, pieces, number)
            except Unfit:
                self._has_large_rows = True

    def _measured(self, names: list[str], stretches: list[_Stretch], limit: int, max_bytes: int) -> dict[str, Any]:
        columns = [self._name(name) for name in names]
        found: list[pa.Array] = []
        left = limit
        for stretch in stretches:
            rows = self._ask(f"{size(columns)} AS bytes", stretch, left)["bytes"].combine_chunks()
            found.append(rows.cast(pa.int64()))
            left -= len(rows)
            if not left:
                break
        row_sizes = pa.chunked_array(found, pa.int64())
        number = fitting(row_sizes, max_bytes)
        self._has_large_rows = 8 * (pc.sum(row_sizes).as_py() or 0) > max_bytes
        return _columns(names, self._pieces(names, stretches, number, _ANY_LENGTH), number)

    def _pieces(self, names: list[str], stretches: list[_Stretch], limit: int, largest: int) -> list[list[pa.Array]]:
        """Return the columns of the next rows of each stretch; raises Unfit if a value is larger than *largest*."""
        pieces: list[list[pa.Array]] = []
        for stretch in stretches:
            pieces.append(self._piece(names, stretch, limit, largest))
            limit -= len(pieces[-1][0])
            if not limit:
                break
        return pieces

    def _piece(self, names: list[str], stretch: _Stretch, limit: int, largest: int) -> list[pa.Array]:
        found: dict[str, pa.Array] = {}
        left = list(names)
        while left:
            group, left = self._group(left, largest)
            rows = self._ask(", ".join(sql for one in group.values() for sql in one.expressions()), stretch, limit)
            arrays = [column.combine_chunks() for column in rows.columns]
            for name, selected in group.items():
                own, arrays = arrays[: selected.width()], arrays[selected.width() :]
                try:
                    found[name] = selected.values(own)
                except NotText as error:
                    raise self._not_text(name, stretch, error.row) from None
                except Unfit as error:
                    if error.is_large or (selected.is_text() and largest < _ANY_LENGTH):
                        raise Unfit(is_large=True) from None
                    self._forms[name] = Form.ANY
                    left.append(name)
        return [found[name] for name in names]

    def _group(self, names: list[str], largest: int) -> tuple[dict[str, Selected], list[str]]:
        """Return as many columns as one query can select, and the names of the others."""
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

    def _settled(self, column: pa.ChunkedArray, field: pa.Field, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        """Give every chunk of an export the same types; raises Fatal that names the column, not the value."""
        if column.type == field.type:
            return column
        if not mixed.has_value(column):
            return pa.chunked_array([pa.nulls(len(column), field.type)])
        if pa.types.is_string(field.type):
            return mixed.as_texts(column)
        try:
            # Arrow would make bytes of a text.
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

    def _not_text(self, name: str, stretch: _Stretch, row: int) -> Fatal:
        """Return the error for a text that is not valid UTF-8; it does not show the value."""
        found = self._ask(f"quote({self._key}) AS key", stretch, 1, offset=row)["key"].to_pylist()
        return Fatal(
            f"A value of column {name!r} does not fit its declared type, {self._declared[name] or 'none'}: the text of "
            f"the row with {self._dataset.key} = {found[0] if found else '?'} of dataset {self._dataset.name!r} is not "
            "valid UTF-8. Correct it, or leave the column out."
        )

    # Queries

    def _bounds(self, begin: datetime, end: datetime) -> tuple[Any, Any, str]:
        """Return the lowest value of the date column, one beyond the highest, and what else a row has to meet."""
        if self._format() is DateFormat.ISO:
            return *iso_range(begin, end), f" AND {iso_condition(self._date, begin, end)}"
        low, high = (to_column(at, self._format(), self._dataset.timezone) for at in (begin, end))
        return low, high, ""

    def _format(self) -> DateFormat:
        """Return how the date column keeps dates."""
        if self._date_format is None:
            self.columns()
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
        """Return values of the date column: the first, the last, and some as the table has them."""
        rows = (
            f"SELECT typeof({self._date}) AS kind, "
            f"iif(typeof({self._date}) = 'blob', hex({self._date}), CAST({self._date} AS TEXT)) AS text "
            f"FROM {self._table} WHERE {self._date} IS NOT NULL"
        )
        ends = [f"ORDER BY {self._date} {way} LIMIT {_SAMPLE}" for way in ("ASC", "DESC")]
        found = [self._query(f"{rows} {order}") for order in [*ends, f"LIMIT {2 * _SAMPLE}"]]
        return [value for part in found for value in sample_from(part["kind"].to_pylist(), part["text"].to_pylist())]

    def _count(self, stretch: _Stretch) -> int:
        query = f"SELECT count(*) AS n FROM {stretch.source} WHERE {stretch.condition}"
        return int(self._query(query, stretch.bounds)["n"][0].as_py())

    def _place_at(self, stretch: _Stretch, number: int) -> Place | None:
        """Return the place of the row of that number, counted from 1; only the index is read."""
        rows = self._ask(f"{self._date} AS date, {self._key} AS key", stretch, 1, offset=number - 1)
        if not rows.num_rows:
            return None
        date, key = (rows[name][0].as_py() for name in ("date", "key"))
        if key is None:
            raise keyless(self._dataset)
        return Place(date=_kept(date), key=_kept(key))

    def _ask(self, selected: str, stretch: _Stretch, limit: int, *, offset: int = 0) -> pa.Table:
        """Select from the rows of a stretch, in order."""
        return self._query(
            f"SELECT {selected} FROM {stretch.source} WHERE {stretch.condition} ORDER BY {stretch.order} "
            f"LIMIT {limit}" + (f" OFFSET {offset}" if offset else ""),
            stretch.bounds,
            batch_rows=max(1, limit),
        )

    def _query(self, sql: str, bounds: list[Any] | None = None, *, batch_rows: int = 1024) -> pa.Table:
        option = adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value
        with self._translated(), adbc_driver_manager.AdbcStatement(self._connection) as statement:
            # The driver tells a column's type from the first batch: all rows have to be in it.
            statement.set_options(**{option: str(batch_rows)})
            statement.set_sql_query(sql)
            if bounds is not None:
                statement.bind(_as_batch(bounds))
            stream, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                return reader.read_all()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Have all queries see the same rows and the same columns; of a snapshot, there is one such transaction."""
        if self._is_snapshot:
            yield
            return
        self._query("BEGIN")
        try:
            yield
        except BaseException:
            self._sorted_until = None
            # The reader is of no use if this fails too: then the first error is the one to report.
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
                    f"The table of dataset {self._dataset.name!r} is not there, or has other columns."
                ) from None
            raise away(self._dataset) from None


def _columns(names: list[str], pieces: list[list[pa.Array]], number: int) -> dict[str, pa.ChunkedArray]:
    """Return the first rows of the pieces, as columns by name."""
    return {name: mixed.joined([piece[index] for piece in pieces]).slice(0, number) for index, name in enumerate(names)}


def _misfit(column: str, kind: pa.DataType) -> str:
    """Return an expression that is true of values that a column of that type cannot hold."""
    if pa.types.is_integer(kind):
        return f"typeof({column}) NOT IN ('integer', 'null')"
    if pa.types.is_floating(kind):
        largest = 2**53
        return f"{column} >= '' OR (typeof({column}) = 'integer' AND {column} NOT BETWEEN -{largest} AND {largest})"
    return "0" if pa.types.is_string(kind) else f"typeof({column}) NOT IN ('blob', 'null')"


def _has_null(keys: pa.ChunkedArray) -> bool:
    return None in keys.to_pylist() if pa.types.is_union(keys.type) else keys.null_count > 0


def _kept(value: Any) -> Any:
    """Return a value of a place as JSON can keep it: infinity, which JSON lacks, as a decimal."""
    return Decimal(value) if isinstance(value, float) and math.isinf(value) else value


def _bound(value: Any) -> Any:
    """Return a value of a place as SQLite has it."""
    return float(value) if isinstance(value, Decimal) else value


def _shown(value: Any) -> str:
    """Return a key as an error names it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _as_batch(bounds: list[Any]) -> pa.RecordBatch:
    """Return the parameters of a statement as Arrow has them, with their types.

    To find a type out, as the driver would have it, Arrow looks for a package on the disk: 0.3 ms each time.
    """
    arrays = [pa.array([bound], _BOUND_TYPES[type(bound)]) for bound in bounds]
    return pa.record_batch(arrays, names=[str(number) for number in range(len(arrays))])


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

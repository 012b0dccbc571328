"""The tables that Export may read: which ones an operator has configured, and how rows come out of them.

No URL, table or SQL comes in from a client, and none goes out: what a driver says is logged here and told in our words.
"""

from __future__ import annotations

import logging
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import adbc_driver_manager
import adbc_driver_sqlite
import adbc_driver_sqlite.dbapi
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from jobmanager.errors import Fatal
from jobmanager.jobs.dates import DateFormat, to_column

#: Rows are counted up to here; an export of more shows no total, since counting would keep a halt waiting.
COUNT_LIMIT = 5_000_000

_BUSY_MILLISECONDS = 30_000
_KEYS = ("url", "table", "date_column", "key")

_log = logging.getLogger(__name__)


class DatasetAway(Exception):
    """The database of a dataset does not answer; trying again later may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table that may be exported by date."""

    name: str
    #: SQLAlchemy URL of its database
    url: str
    table: str
    date_column: str
    #: a unique column, which orders the rows of one date
    key: str
    #: how the date column keeps dates; None: seen from its first value
    date_format: DateFormat | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of a row in the order of an export."""

    #: the value of the date column, as the database has it
    date: Any
    key: Any


class Reader(Protocol):
    """One open connection to the database of a dataset."""

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns of the table in order, and the type that each is exported with; Fatal if it is missing."""

    def date_format(self) -> DateFormat:
        """Return how the date column keeps dates."""

    def count(self, begin: datetime, end: datetime) -> int | None:
        """Return the number of rows in [begin, end), or None if there are more than COUNT_LIMIT."""

    def read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows of [begin, end) in the order (date, key), and the place of the last, or None.

        Raises Fatal for a value that does not fit its column's type.
        """

    def close(self) -> None:
        """Close the connection."""


def load_datasets(path: Path) -> dict[str, Dataset]:
    """Return the datasets that the file configures, by name; none if there is no file. Raises ValueError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        _log.exception("The datasets cannot be read.")
        raise ValueError("the operator's list of datasets cannot be read; its error is in the service's log") from None
    return {name: _dataset(name, table, path.parent) for name, table in tables.items()}


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database; raises DatasetAway, Fatal."""
    if make_url(dataset.url).get_backend_name() == "sqlite":
        return SqliteReader(dataset)
    return SqlReader(dataset)


def _dataset(name: str, table: Any, folder: Path) -> Dataset:
    missing = [key for key in _KEYS if not isinstance(table, dict) or not isinstance(table.get(key), str)]
    if missing:
        raise ValueError(f"the operator's configuration of dataset {name!r} lacks {', '.join(missing)}")
    url = make_url(table["url"])
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(folder / url.database))
    return Dataset(
        name=name,
        url=url.render_as_string(hide_password=False),
        table=table["table"],
        date_column=table["date_column"],
        key=table["key"],
        date_format=DateFormat(table["date_format"]) if "date_format" in table else None,
    )


def format_of(value: Any) -> DateFormat:
    """Tell from a value of a date column how it keeps dates."""
    if isinstance(value, (int, float)):
        return DateFormat.UNIX
    if isinstance(value, (date, datetime)):
        return DateFormat.NATIVE
    return DateFormat.T if isinstance(value, str) and value[10:11] == "T" else DateFormat.SPACE


class SqliteReader:
    """Reads a SQLite file by ADBC into Arrow, in C and without the interpreter lock."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._table = _quote(dataset.table)
        self._date = _quote(dataset.date_column)
        self._key = _quote(dataset.key)
        self._columns: dict[str, pa.DataType] | None = None
        self._date_format = dataset.date_format
        with self._translated():
            path = make_url(dataset.url).database or ""
            self._connection = adbc_driver_sqlite.dbapi.connect(f"file:{quote(path)}?mode=ro")
            self._query(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column, by the affinity that SQLite gives it."""
        if self._columns is not None:
            return self._columns
        rows = self._query(f"PRAGMA table_info({self._table})").to_pylist()
        columns = {row["name"]: affinity(row["type"]) for row in rows}
        if not {self._dataset.date_column, self._dataset.key} <= set(columns):
            raise Fatal(
                f"The table of dataset {self._dataset.name!r} is not there, or lacks its date column or its key."
            )
        self._columns = columns
        return columns

    def date_format(self) -> DateFormat:
        """Return how the date column keeps dates."""
        if self._date_format is not None:
            return self._date_format
        query = f"SELECT {self._date} AS at FROM {self._table} WHERE {self._date} IS NOT NULL LIMIT 1"
        values = self._query(query)["at"].to_pylist()
        self._date_format = format_of(values[0]) if values else DateFormat.SPACE
        return self._date_format

    def count(self, begin: datetime, end: datetime) -> int | None:
        """Return the number of rows, counted on the index alone."""
        inner = f"SELECT 1 FROM {self._table} WHERE {self._date} >= ? AND {self._date} < ? LIMIT {COUNT_LIMIT + 1}"
        bounds = [to_column(at, self.date_format()) for at in (begin, end)]
        counted: int = self._query(f"SELECT count(*) AS n FROM ({inner})", bounds)["n"][0].as_py()
        return counted if counted <= COUNT_LIMIT else None

    def read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows; see Reader."""
        stop = to_column(end, self.date_format())
        if after is None:
            condition, bounds = f"{self._date} >= ? AND {self._date} < ?", [to_column(begin, self.date_format()), stop]
        else:
            condition = f"({self._date}, {self._key}) > (?, ?) AND {self._date} < ?"
            bounds = [after.date, after.key, stop]
        chosen = ", ".join(_quote(name) for name in columns)
        rows = self._query(
            f"SELECT {chosen}, {self._date}, {self._key} FROM {self._table} "
            f"WHERE {condition} ORDER BY {self._date}, {self._key} LIMIT {limit}",
            bounds,
            batch_rows=limit,
        )
        place = Place(date=rows[-2][-1].as_py(), key=rows[-1][-1].as_py()) if rows.num_rows else None
        types = self.columns()
        wanted = pa.schema([(name, types[name]) for name in columns])
        return _fit(rows.select(range(len(columns))), wanted), place

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _query(self, sql: str, bounds: list[Any] | None = None, *, batch_rows: int = 1024) -> pa.Table:
        option = adbc_driver_sqlite.StatementOptions.BATCH_ROWS.value
        with self._translated(), self._connection.cursor() as cursor:
            # The driver tells a column's type from the first batch: all rows have to be in it.
            cursor.adbc_statement.set_options(**{option: str(batch_rows)})
            cursor.execute(sql, bounds)
            return cursor.fetch_arrow_table()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (adbc_driver_manager.Error, sqlite3.Error):
            raise _away(self._dataset) from None


class SqlReader:
    """Reads any database that SQLAlchemy knows, row by row."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._engine = sa.create_engine(dataset.url, pool_pre_ping=True)
        with self._translated():
            table = sa.Table(dataset.table, sa.MetaData(), autoload_with=self._engine)
            self._table = table
        if not {dataset.date_column, dataset.key} <= set(table.columns.keys()):
            raise Fatal(f"The table of dataset {dataset.name!r} lacks its date column or its key.")
        self._date = table.columns[dataset.date_column]
        self._key = table.columns[dataset.key]

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return {column.name: _arrow_type(column) for column in self._table.columns}

    def date_format(self) -> DateFormat:
        """Return how the date column keeps dates."""
        if self._dataset.date_format is not None:
            return self._dataset.date_format
        found = self._rows(sa.select(self._date).where(self._date.is_not(None)).limit(1))
        return format_of(found[0][0]) if found else DateFormat.SPACE

    def count(self, begin: datetime, end: datetime) -> int | None:
        """Return the number of rows."""
        inner = sa.select(sa.literal(1)).where(*self._within(begin, end)).limit(COUNT_LIMIT + 1)
        counted: int = self._rows(sa.select(sa.func.count()).select_from(inner.subquery()))[0][0]
        return counted if counted <= COUNT_LIMIT else None

    def read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows; see Reader."""
        query = sa.select(*(self._table.columns[name] for name in columns), self._date, self._key)
        query = query.where(*self._within(begin, end)).order_by(self._date, self._key).limit(limit)
        if after is not None:
            place = Place(date=self._value(self._date, after.date), key=self._value(self._key, after.key))
            query = query.where(sa.tuple_(self._date, self._key) > sa.tuple_(place.date, place.key))
        rows = self._rows(query)
        types = self.columns()
        schema = pa.schema([(name, types[name]) for name in columns])
        arrays = [_array([row[index] for row in rows], field) for index, field in enumerate(schema)]
        last = Place(date=_plain(rows[-1][-2]), key=_plain(rows[-1][-1])) if rows else None
        return pa.table(arrays, schema=schema), last

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _within(self, begin: datetime, end: datetime) -> tuple[Any, Any]:
        date_format = self.date_format()
        return self._date >= to_column(begin, date_format), self._date < to_column(end, date_format)

    def _value(self, column: Any, value: Any) -> Any:
        """Return a value that a checkpoint has kept as the database compares it."""
        python_type = column.type.python_type
        return python_type.fromisoformat(value) if python_type in (date, datetime) else value

    def _rows(self, query: Any) -> list[Any]:
        with self._translated(), self._engine.connect() as connection:
            return list(connection.execute(query).all())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.NoSuchTableError:
            raise Fatal(f"The table of dataset {self._dataset.name!r} is not there.") from None
        except sa.exc.SQLAlchemyError:
            raise _away(self._dataset) from None


def affinity(declared: str) -> pa.DataType:
    """Return the type that a column of SQLite is exported with.

    Source: "Datatypes In SQLite", 3.1, Determination Of Column Affinity; dates, which have none of their own, are text.

    >>> affinity("VARCHAR(20)"), affinity("BIGINT")
    (DataType(string), DataType(int64))
    """
    name = declared.upper()
    if "INT" in name or "BOOL" in name:
        return pa.int64()
    if any(part in name for part in ("CHAR", "CLOB", "TEXT", "DATE", "TIME")) or not name:
        return pa.string()
    return pa.binary() if "BLOB" in name else pa.float64()


def _fit(rows: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Give every chunk of an export the same types; raises Fatal that names the column, not the value."""
    arrays = []
    for column, field in zip(rows.columns, wanted, strict=True):
        try:
            arrays.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise Fatal(f"A value of column {field.name!r} does not fit its type, {field.type}.") from None
    return pa.table(arrays, schema=wanted)


def _array(values: list[Any], field: pa.Field) -> pa.Array:
    if field.type == pa.string():
        values = [value if value is None or isinstance(value, str) else str(value) for value in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise Fatal(f"A value of column {field.name!r} does not fit its type, {field.type}.") from None


def _arrow_type(column: Any) -> pa.DataType:
    known = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(), date: pa.date32()}
    try:
        python_type = column.type.python_type
    except NotImplementedError:
        return pa.string()
    if python_type is datetime:
        return pa.timestamp("us", tz="UTC" if column.type.timezone else None)
    return known.get(python_type, pa.string())


def _plain(value: Any) -> Any:
    """Return a value of a key or a date as JSON has it."""
    return (
        value
        if isinstance(value, (int, float, str))
        else (value.isoformat() if hasattr(value, "isoformat") else str(value))
    )


def _away(dataset: Dataset) -> DatasetAway:
    _log.exception("Dataset %r cannot be read.", dataset.name)
    return DatasetAway(f"The database of dataset {dataset.name!r} cannot be read; its error is in the service's log.")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

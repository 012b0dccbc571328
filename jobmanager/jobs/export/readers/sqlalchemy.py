"""Read a dataset from any database that SQLAlchemy supports, row by row, and convert the rows to Arrow.

For databases without a reader of their own, at the operator's risk: this module does not take into account how such a
database compares keys and writes values. Keeps the Python objects of only one read in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from jobmanager.jobs.export.chunks import MAX_BYTES, fitting_rows
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.decimals import decimal_type
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import COLUMN
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.chunk_table import MISFITS, first_misfit
from jobmanager.jobs.export.readers.date_bounds import DateBounds
from jobmanager.jobs.export.readers.errors import (
    away_error,
    duplicate_key_error,
    missing_table_error,
    null_key_error,
    row_of,
    type_error,
    unusable_error,
)
from jobmanager.jobs.export.readers.postgresql_columns import IS_JSON
from jobmanager.jobs.export.schemas import check_table, schema_of

_CONNECT_SECONDS = 10
#: Drivers that have an argument connect_timeout. Other drivers may refuse it.
_PATIENT_DRIVERS = frozenset({"psycopg", "pymysql", "mysqldb", "psycopg2"})
#: Number of values sampled from a date column that is not of a date type, to detect its format.
_SAMPLE_ROWS = 1000

#: Errors that may be transient. The operator must fix the cause of any other error of SQLAlchemy.
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)


class SqlReader:
    """A connection to a database; see Reader."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation | None = None) -> None:
        """Connect. Blocks. Raises DatasetAway and Fatal. *cancellation*: lets another thread cancel the statements."""
        cancellation = cancellation or Cancellation(dataset)
        self._dataset = dataset
        self._cancellation = cancellation
        with self._translated():
            is_patient = dataset.url.get_driver_name() in _PATIENT_DRIVERS
            patience = {"connect_timeout": _CONNECT_SECONDS} if is_patient else {}
            # No pool: the reader keeps one connection as long as it is open.
            self._engine = sa.create_engine(dataset.url, connect_args=patience, poolclass=sa.pool.NullPool)
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._driver_connection: Any = self._connection.connection.driver_connection
            cancellation.add(self._cancel)
        try:
            with self._translated():
                self._table = self._reflected()
            check_table(dataset, self.columns())
        except BaseException:
            self.close()
            raise
        self._date = self._table.columns[dataset.date_column]
        self._key = self._table.columns[dataset.key]
        self._dates = DateBounds(dataset, _date_kind(self._date.type), self._date_sample)

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return {column.name: arrow_type(column.type) for column in self._table.columns}

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the schema of the chosen columns. Raises Fatal if the table lacks one of them."""
        schema = schema_of(self._dataset, chosen, self.columns())
        return pa.schema([_marked(field, self._table.columns[field.name].type) for field in schema])

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the rows of [begin, end) after *after*, but only about *limit* of them; see Reader."""
        within = self._within(after, begin, end)
        step = sa.select(self._date, self._key).where(*within).order_by(self._date, self._key)
        found = self._rows(step.limit(1).offset(limit - 1))
        if found:
            return limit, Place(date=found[0][0], key=found[0][1])
        return self._rows(sa.select(sa.func.count()).select_from(self._table).where(*within))[0][0], None

    def total(self, begin: datetime, end: datetime) -> int:
        """Return the number of rows of [begin, end)."""
        query = sa.select(sa.func.count()).select_from(self._table).where(*self._within(None, begin, end))
        return int(self._rows(query)[0][0])

    def check(self) -> None:
        """Raise Fatal if the key is NULL in some rows or not unique, or the date format is unknown; see Reader."""
        self._dates.check()
        dated = self._date.is_not(None)
        if self._rows(sa.select(sa.literal(1)).where(dated, self._key.is_(None)).limit(1)):
            raise null_key_error(self._dataset)
        selected = sa.select(self._date, self._key).where(dated)
        tied = self._rows(selected.group_by(self._date, self._key).having(sa.func.count() > 1).limit(1))
        if tied:
            raise duplicate_key_error(self._dataset, *tied[0])

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return no warnings: it is unknown how the database reads the rows."""
        return []

    def identity(self) -> dict[str, str]:
        """Return the properties that affect the values or their order; see Reader."""
        known = {
            "server": self._engine.dialect.name,
            "date_format": str(self._dates.format()),
        }
        return known | {COLUMN + column.name: str(column.type) for column in self._table.columns}

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
        # Read one more row than wanted: it shows whether the key is unique.
        query = self.select_rows(columns, after, begin, end, limit + 1)
        with self._translated(), self._streaming().execute(query) as rows:
            found, following = fitting_rows(rows, limit, max_bytes)
        if not found:
            return wanted.empty_table(), None
        if any(row[-1] is None for row in (*found, *following)):
            raise null_key_error(self._dataset)
        last, *next_places = (Place(date=row[-2], key=row[-1]) for row in (found[-1], *following))
        check_order(self._dataset, last, next_places[0] if next_places else None)
        arrays = [self._array(found, index, field) for index, field in enumerate(wanted)]
        return pa.table(arrays, schema=wanted), last

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._engine.dispose()

    def select_rows(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> sa.Select[Any]:
        """Return the query of the next rows, with date and key as the last two columns."""
        query = sa.select(*(self._table.columns[name] for name in columns), self._date, self._key)
        return query.where(*self._within(after, begin, end)).order_by(self._date, self._key).limit(limit)

    def _cancel(self) -> None:
        """Cancel the running statement, if the driver can. Otherwise the statement runs to its end."""
        if hasattr(self._driver_connection, "cancel"):
            self._driver_connection.cancel()

    def _within(self, after: Place | None, begin: datetime, end: datetime) -> list[Any]:
        """Return the conditions for the rows of [begin, end) after *after*."""
        conditions = [self._date.op(operator)(bound) for operator, bound in self._dates.conditions(begin, end)]
        if after is None:
            return conditions
        place = sa.tuple_(sa.literal(after.date, self._date.type), sa.literal(after.key, self._key.type))
        return [*conditions, sa.tuple_(self._date, self._key) > place]

    def _date_sample(self) -> list[object]:
        """Return up to 1,000 values of the date column: the first, the last, and some in the order of the table."""
        query = sa.select(self._date).where(self._date.is_not(None))
        ends = [query.order_by(order).limit(_SAMPLE_ROWS // 4) for order in (self._date, self._date.desc())]
        return [value for each in [*ends, query.limit(_SAMPLE_ROWS // 2)] for (value,) in self._rows(each)]

    def _reflected(self) -> sa.Table:
        """Read the description of the table. If no table has the whole configured name, takes it as schema.table."""
        name, schema = self._dataset.table, None
        if "." in name and not sa.inspect(self._connection).has_table(name):
            schema, _, name = name.rpartition(".")
        table = sa.Table(name, sa.MetaData(), schema=schema, autoload_with=self._connection)
        for column in table.columns:
            if isinstance(column.type, sa.Float):
                # SQLAlchemy would convert doubles to decimals with only 10 digits after the point.
                column.type.asdecimal = False
        return table

    def _streaming(self) -> sa.Connection:
        """Return the connection, set to stream rows if the database can stream them without a transaction."""
        return self._connection.execution_options(stream_results=self._engine.dialect.name != "postgresql")

    def _rows(self, query: Any) -> list[Any]:
        with self._translated():
            return list(self._connection.execute(query).all())

    def _array(self, rows: list[Any], index: int, field: pa.Field) -> pa.Array:
        """Return column number *index* of the rows as an array.

        Raises Fatal if a value does not fit the type of *field*; the error names the row by its key, its last value.
        """
        values = [row[index] for row in rows]
        if pa.types.is_string(field.type):
            values = [_text(value) for value in values]
        try:
            return pa.array(values, field.type)
        except MISFITS:
            row = row_of(self._dataset, rows[first_misfit(values, field.type)][-1])
            raise type_error(self._dataset, field.name, str(self._table.columns[field.name].type), row) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        self._cancellation.check()
        try:
            yield
        except (sa.exc.SQLAlchemyError, ImportError, ValueError, TypeError) as error:
            if self._cancellation.is_requested:
                raise self._cancellation.error() from None
            raise self._client_error(error) from None

    def _client_error(self, error: Exception) -> Exception:
        if isinstance(error, sa.exc.NoSuchTableError):
            return missing_table_error(self._dataset)
        return away_error(self._dataset) if isinstance(error, _AWAY) else unusable_error(self._dataset)


def arrow_type(declared: sa.types.TypeEngine[Any]) -> pa.DataType:
    """Return the type that a column of the declared type is exported with. Decimals too long for Arrow become text."""
    if isinstance(declared, sa.Float):
        return pa.float64()
    if isinstance(declared, sa.Numeric):
        return decimal_type(declared.precision or 0, declared.scale or 0)
    known = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(), date: pa.date32()}
    try:
        python_type = declared.python_type
    except NotImplementedError:
        return pa.string()
    if python_type is datetime:
        return pa.timestamp("us", tz="UTC" if getattr(declared, "timezone", False) else None)
    return known.get(python_type, pa.string())


def _date_kind(declared: sa.types.TypeEngine[Any]) -> str:
    """Return "date", "naive", "aware" or "": the *kind* of a date column, see `date_conditions`."""
    if isinstance(declared, sa.DateTime):
        return "aware" if declared.timezone else "naive"
    return "date" if isinstance(declared, sa.Date) else ""


def _marked(field: pa.Field, declared: sa.types.TypeEngine[Any]) -> pa.Field:
    """Return the field, with the JSON metadata if its texts are JSON."""
    return field.with_metadata(IS_JSON) if isinstance(declared, (sa.JSON, sa.ARRAY)) else field


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def check_order(dataset: Dataset, last: Place, following: Place | None) -> None:
    """Raise Fatal if *last* and *following* are equal: the next read would skip the row after *last*.

    *following*: the place of that row; None if *last* is the last row.
    """
    if last == following:
        raise duplicate_key_error(dataset, last.date, last.key)

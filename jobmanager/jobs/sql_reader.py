"""Reads a dataset from any database that SQLAlchemy knows, row by row, and makes Arrow of the rows.

The rows of one read are Python objects at once, no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from jobmanager.errors import Fatal
from jobmanager.jobs.datasets import Dataset, away, check_order, check_table, keyless, misfit, undated, unusable
from jobmanager.jobs.dates import (
    DateFormat,
    check_iso,
    day_from,
    detect,
    in_zone,
    iso_condition,
    iso_instant,
    iso_range,
    to_column,
)
from jobmanager.jobs.places import Place
from jobmanager.jobs.schemas import schema_of

_CONNECT_SECONDS = 10

#: What these raise may be over in a moment; anything else SQLAlchemy raises is for the operator to put right.
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError)


class SqlReader:
    """A connection to a database; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._date_format: DateFormat | None = None
        with self._translated():
            patience = {} if dataset.url.get_backend_name() == "sqlite" else {"connect_timeout": _CONNECT_SECONDS}
            # No pool: a connection is kept for the life of the reader.
            self._engine = sa.create_engine(dataset.url, connect_args=patience, poolclass=sa.pool.NullPool)
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with self._translated():
                self._table = sa.Table(dataset.table, sa.MetaData(), autoload_with=self._connection)
            check_table(dataset, self.columns())
        except BaseException:
            self.close()
            raise
        self._date = self._table.columns[dataset.date_column]
        self._key = self._table.columns[dataset.key]

    def columns(self) -> dict[str, pa.DataType]:
        """Return name and type of every column."""
        return {column.name: arrow_type(column.type) for column in self._table.columns}

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
        is_native = isinstance(self._date.type, (sa.DateTime, sa.Date))
        return {"date_format": DateFormat.NATIVE if is_native else self._format()}

    def total(self, begin: datetime, end: datetime) -> int:
        """Count them at once; see Reader."""
        query = sa.select(sa.func.count()).select_from(self._table).where(*self._within(None, begin, end))
        return int(self._rows(query)[0][0])

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count a step at a time; see Reader."""
        within = self._within(after, begin, end)
        step = sa.select(self._date, self._key).where(*within).order_by(self._date, self._key)
        found = self._rows(step.limit(1).offset(limit - 1))
        if found:
            return limit, Place(date=found[0][0], key=found[0][1])
        return self._rows(sa.select(sa.func.count()).select_from(self._table).where(*within))[0][0], None

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
        query = sa.select(*(self._table.columns[name] for name in columns), self._date, self._key)
        query = query.where(*self._within(after, begin, end)).order_by(self._date, self._key)
        # One row more than wanted is read: it shows whether the key is unique.
        found = self._rows(query.limit(limit + 1))
        places = [Place(date=row[-2], key=row[-1]) for row in found[-2:]]
        if not places:
            return wanted.empty_table(), None
        if any(row[-1] is None for row in found):
            raise keyless(self._dataset)
        following = places.pop() if len(found) > limit else None
        check_order(self._dataset, places[-1], following)
        arrays = [self._array([row[index] for row in found[:limit]], field) for index, field in enumerate(wanted)]
        return pa.table(arrays, schema=wanted), places[-1]

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
        self._engine.dispose()

    def _within(self, after: Place | None, begin: datetime, end: datetime) -> list[Any]:
        """Return the conditions for the rows of [begin, end) behind *after*."""
        conditions = self._between(begin, end)
        if after is None:
            return conditions
        place = sa.tuple_(sa.literal(after.date, self._date.type), sa.literal(after.key, self._key.type))
        return [*conditions, sa.tuple_(self._date, self._key) > place]

    def _between(self, begin: datetime, end: datetime) -> list[Any]:
        if self._is_text_of_sqlite() and self._format() is DateFormat.ISO:
            low, high = iso_range(begin, end)
            exact = sa.text(iso_condition(self._date_sql(), begin, end))
            return [self._date >= low, self._date < high, exact]
        bounds = [sa.literal(self._bound(at), self._date.type) for at in (begin, end)]
        return [self._date >= bounds[0], self._date < bounds[1]]

    def _is_text_of_sqlite(self) -> bool:
        is_temporal = isinstance(self._date.type, (sa.DateTime, sa.Date))
        return self._dataset.url.get_backend_name() == "sqlite" and not is_temporal

    def _date_sql(self) -> str:
        return str(self._connection.dialect.identifier_preparer.format_column(self._date, use_table=True))

    def _bound(self, at: datetime) -> Any:
        """Return *at* as a value that compares with those of the date column."""
        zone = self._dataset.timezone
        if isinstance(self._date.type, sa.DateTime):
            return at.replace(tzinfo=UTC) if self._date.type.timezone else in_zone(at, zone)
        if isinstance(self._date.type, sa.Date):
            # A date is at its first moment: the first one that is not before *at*.
            return day_from(in_zone(at, zone))
        try:
            return to_column(at, self._format(), zone)
        except ValueError as error:
            raise undated(self._dataset, error) from None

    def _format(self) -> DateFormat:
        """Return how the date column keeps dates, if it is no date to the database."""
        if self._date_format is None:
            try:
                self._date_format = detect(self._sample(), self._dataset.date_format)
                if self._date_format is DateFormat.ISO and self._is_text_of_sqlite():
                    no_instant = sa.text(f"{iso_instant(self._date_sql())} IS NULL")
                    query = sa.select(self._date).where(self._date != "", no_instant)
                    check_iso([row[0] for row in self._rows(query.limit(3))])
            except ValueError as error:
                raise undated(self._dataset, error) from None
        return self._date_format

    def _sample(self) -> list[object]:
        """Return up to 1,000 values of the date column: the first, the last, and some as the table has them."""
        query = sa.select(self._date).where(self._date.is_not(None))
        ends = [query.order_by(order).limit(250) for order in (self._date, self._date.desc())]
        return [row[0] for each in [*ends, query.limit(500)] for row in self._rows(each)]

    def _rows(self, query: Any) -> list[Any]:
        with self._translated():
            return list(self._connection.execute(query).all())

    def _array(self, values: list[Any], field: pa.Field) -> pa.Array:
        if pa.types.is_string(field.type):
            values = [_text(value) for value in values]
        try:
            return pa.array(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
            raise misfit(field, str(self._table.columns[field.name].type)) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.NoSuchTableError:
            raise Fatal(f"The table of dataset {self._dataset.name!r} is not there.") from None
        except _AWAY:
            raise away(self._dataset) from None
        except (sa.exc.SQLAlchemyError, ImportError, ValueError, TypeError):
            raise unusable(self._dataset) from None


def arrow_type(declared: sa.types.TypeEngine[Any]) -> pa.DataType:
    """Return the type that a column is exported with; numbers that are exact to more digits are text."""
    known = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(), date: pa.date32()}
    try:
        python_type = declared.python_type
    except NotImplementedError:
        return pa.string()
    if python_type is datetime:
        return pa.timestamp("us", tz="UTC" if getattr(declared, "timezone", False) else None)
    return known.get(python_type, pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)

"""Reads a dataset from PostgreSQL, by ADBC into Arrow: in C, and without the interpreter lock.

The rows come by COPY, in binary form, over a connection of their own; what the table is like, and how many rows it has,
is found out as with any database (see sql_reader.py). Holds no transaction between two reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, LiteralString

import adbc_driver_manager
import adbc_driver_postgresql.dbapi
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy.dialects import postgresql

from jobmanager.jobs.datasets import Dataset, away, check_order, keyless, misfit, unusable
from jobmanager.jobs.places import Place
from jobmanager.jobs.sql_reader import SqlReader, arrow_type

#: What ADBC raises when trying again may help, as sql_reader.py has it for SQLAlchemy.
_AWAY = (adbc_driver_manager.OperationalError, adbc_driver_manager.InterfaceError, adbc_driver_manager.InternalError)
#: How to select columns of some types, so that they come as psycopg reads them.
_FORMS: dict[type, LiteralString] = {
    sa.TEXT: "{}",
    sa.VARCHAR: "{}",
    sa.CHAR: "{}",  # a cast would cut off its blanks
    sa.REAL: "CAST(CAST({} AS text) AS double precision)",  # 0.1, not the 0.10000000149 that is nearest to it
    postgresql.ARRAY: "CAST(to_jsonb({}) AS text)",
    postgresql.INET: "abbrev({})",  # a cast would add the /32
}
#: The first and the last time that Python has, in microseconds since 1970: infinity, which Arrow lacks, is beyond them.
_TIMES = (-62_135_596_800_000_000, 253_402_300_799_999_999)


class PostgresReader(SqlReader):
    """Connections to a PostgreSQL server; see Reader."""

    def __init__(self, dataset: Dataset) -> None:
        # Opened for the first rows: who only asks for the columns needs none.
        self._rows_connection: Any = None
        super().__init__(dataset)

    def _read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int
    ) -> tuple[pa.Table, Place | None]:
        wanted = self.schema(columns)
        names = [*columns, *(name for name in (self._date.name, self._key.name) if name not in columns)]
        # One row more than wanted is read: it shows whether the key is unique.
        found = self._fetch(self._query(names, after, begin, end, limit + 1))
        if not found.num_rows:
            return wanted.empty_table(), None
        places = self._last_places(found)
        following = places.pop() if found.num_rows > limit else None
        check_order(self._dataset, places[-1], following)
        fitted = [self._fit(found[field.name], field) for field in wanted]
        return pa.table(fitted, schema=wanted).slice(0, limit), places[-1]

    def close(self) -> None:
        """Close the connections."""
        try:
            if self._rows_connection is not None:
                self._rows_connection.close()
        finally:
            super().close()

    def _conninfo(self) -> str:
        """Return how SQLAlchemy has connected, in libpq's words."""
        info = self._driver_connection().info
        return make_conninfo(**info.get_parameters() | {"password": info.password, "client_encoding": "UTF8"})

    def _driver_connection(self) -> Any:
        return self._connection.connection.driver_connection

    def _query(self, names: list[str], after: Place | None, begin: datetime, end: datetime, limit: int) -> str:
        """Return a SELECT; its values are spelled out in it, for COPY takes no parameters."""
        # By table and name: a name alone would mean, in ORDER BY, what is selected as that.
        date, key = (sql.Identifier(self._table.name, column.name) for column in (self._date, self._key))
        conditions = [sql.SQL("{} >= {} AND {} < {}").format(date, self._bound(begin), date, self._bound(end))]
        if after is not None:
            conditions.append(sql.SQL("({}, {}) > ({}, {})").format(date, key, after.date, after.key))
        query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}, {} LIMIT {}").format(
            sql.SQL(", ").join(self._selected(name) for name in names),
            sql.Identifier(self._table.name),
            sql.SQL(" AND ").join(conditions),
            date,
            key,
            limit,
        )
        return query.as_string(self._driver_connection())

    def _selected(self, name: str) -> sql.Composable:
        """Return what to select for a column, which comes as text where that is what it is exported as."""
        kind = self._table.columns[name].type
        form = _FORMS.get(type(kind), "CAST({} AS text)" if pa.types.is_string(arrow_type(kind)) else "{}")
        return sql.SQL(form + " AS {}").format(sql.Identifier(name), sql.Identifier(name))

    def _fetch(self, query: str) -> pa.Table:
        with self._translated_rows():
            if self._rows_connection is None:
                self._rows_connection = adbc_driver_postgresql.dbapi.connect(self._conninfo(), autocommit=True)
            with self._rows_connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetch_arrow_table()

    def _last_places(self, found: pa.Table) -> list[Place]:
        """Return the places of the last two rows."""
        dates, keys = found[self._date.name], found[self._key.name]
        if keys.null_count:
            raise keyless(self._dataset)
        last_two = range(max(0, found.num_rows - 2), found.num_rows)
        return [Place(date=dates[index].as_py(), key=keys[index].as_py()) for index in last_two]

    def _fit(self, array: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
        """Give a column its type; raises Fatal that names it, not the value."""
        try:
            fitted = array.cast(field.type)
            if pa.types.is_string(field.type):
                fitted.validate(full=True)  # a database in SQL_ASCII takes any bytes for text
        except pa.ArrowInvalid:
            raise self._misfit(field) from None
        if pa.types.is_temporal(field.type) and not _is_within_calendar(fitted):
            raise self._misfit(field)
        return fitted

    def _misfit(self, field: pa.Field) -> Exception:
        return misfit(field, str(self._table.columns[field.name].type))

    @contextmanager
    def _translated_rows(self) -> Iterator[None]:
        try:
            yield
        except _AWAY:
            raise away(self._dataset) from None
        except adbc_driver_manager.Error:
            raise unusable(self._dataset) from None


def _is_within_calendar(times: pa.ChunkedArray) -> bool:
    unit = 1 if pa.types.is_timestamp(times.type) else 86_400_000_000
    numbers = times.cast(pa.int64() if unit == 1 else pa.int32())
    found = pc.min_max(numbers).as_py()
    return found["min"] is None or (_TIMES[0] <= found["min"] * unit and found["max"] * unit <= _TIMES[1])

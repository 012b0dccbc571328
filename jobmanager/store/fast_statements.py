"""Prepared statements: SQLAlchemy compiles them once, and the driver runs them directly.

A job needs about ten statements. With SQLAlchemy's `execute`, each takes more time in SQLAlchemy than in SQLite.
Measured on SQLite for a job that does nothing: 36 % more CPU.

Prepare only statements that are built once, like those in statements.py: the cache of compiled statements is never
emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import repeat
from operator import is_
from typing import Any, TypeAlias

from sqlalchemy import Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

Statement: TypeAlias = Select[Any] | Insert | Update
Parameters = Mapping[str, Any]
#: The values of many rows: a sequence per parameter, all of the same length.
Columns = Mapping[str, Sequence[Any]]
Rows = list[tuple[Any, ...]]

_Convert = Callable[[Any], Any]


class Prepared:
    """One statement compiled for a dialect with positional parameters, and the converters of its values."""

    def __init__(self, statement: Statement, dialect: Dialect, *, float_code: int | None = None) -> None:
        """*float_code*: the driver's type code of a float, for dialects whose result converter depends on it."""
        compiled: Any = statement.compile(dialect=dialect)
        self.text: str = compiled.string
        self._dialect: Any = dialect
        self._given = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        self._places: list[tuple[str, _Convert | None]] = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup
        ]
        self._to_show: list[tuple[int, _Convert]] = []
        for place, column in enumerate(statement.exported_columns):
            if convert := column.type.dialect_impl(dialect).result_processor(dialect, float_code):
                self._to_show.append((place, convert))

    def run(self, connection: Any, parameters: Parameters) -> Rows:
        """Run the statement on a driver connection and return its rows; raises DBAPIError."""
        try:
            rows = connection.execute(self.text, self.bound(parameters)).fetchall()
        except self._dialect.dbapi.Error as error:
            raise as_sqlalchemy(error, self.text, self._dialect) from error
        return [self._shown(row) for row in rows]

    def run_many(self, connection: Any, columns: Columns, shared: Parameters) -> int:
        """Run the statement on a driver connection once per row of *columns*.

        *shared* has the parameters whose value is the same for all rows. Returns the total number of rows changed or
        inserted. Raises DBAPIError.
        """
        try:
            with closing(connection.cursor()) as cursor:  # otherwise, a kept exception would keep the file open
                if len(next(iter(columns.values()))) == 1:
                    row = {name: value for name, (value,) in columns.items()}
                    cursor.execute(self.text, self.bound({**shared, **row}))
                else:
                    cursor.executemany(self.text, self._bound_many(columns, shared))
                changed: int = cursor.rowcount
                return changed
        except self._dialect.dbapi.Error as error:
            raise as_sqlalchemy(error, self.text, self._dialect) from error

    def _bound_many(self, columns: Columns, shared: Parameters) -> Iterable[Sequence[Any]]:
        """Return the parameters of each row, converted and in positional order."""
        all_the_same = {**self._given, **shared}
        parts: list[Iterable[Any]] = []
        for name, convert in self._places:
            column = columns.get(name)
            if column is not None:
                parts.append(_converted(column, convert))
            else:
                value = all_the_same[name]
                parts.append(repeat(convert(value) if convert else value))
        return zip(*parts, strict=False)  # the shared values repeat without end

    def bound(self, parameters: Parameters) -> list[Any]:
        """Return the parameters, converted and in positional order."""
        values = {**self._given, **parameters}
        return [convert(values[name]) if convert else values[name] for name, convert in self._places]

    def _shown(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for place, convert in self._to_show:
            if values[place] is not None:
                values[place] = convert(values[place])
        return tuple(values)


def as_sqlalchemy(error: Exception, statement: str, dialect: Any) -> BaseException:
    """Return the driver's error as the DBAPIError that SQLAlchemy would raise, without the parameter values."""
    return DBAPIError.instance(statement, None, error, dialect.dbapi.Error, hide_parameters=True, dialect=dialect)


def _converted(column: Sequence[Any], convert: _Convert | None) -> Iterable[Any]:
    """Return the values of one parameter, converted; converts once if all rows share one object."""
    if convert is None:
        return column
    first = column[0]
    if all(map(is_, column, repeat(first))):
        return [convert(first)] * len(column)
    return map(convert, column)

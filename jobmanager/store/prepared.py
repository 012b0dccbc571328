"""Statements that SQLAlchemy writes and the driver runs: a job goes through ten of them, and each would cost it more
time in SQLAlchemy than in SQLite.

For statements that are made once, as those of queries.py are; what they mean is decided in store.py.
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
#: The values of many rows, by the name of their place: as many of each.
Columns = Mapping[str, Sequence[Any]]
Rows = list[tuple[Any, ...]]

_Convert = Callable[[Any], Any]


class Prepared:
    """One statement in the words of a dialect whose parameters have places, and how its values are converted."""

    def __init__(self, statement: Statement, dialect: Dialect, *, float_code: int | None = None) -> None:
        """*float_code* is what the driver calls the type of a float, where SQLAlchemy wants to know."""
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
        """Run it on a connection of the driver, and return what it returns; raises DBAPIError."""
        try:
            rows = connection.execute(self.text, self.bound(parameters)).fetchall()
        except self._dialect.dbapi.Error as error:
            raise as_sqlalchemy(error, self.text, self._dialect) from error
        return [self._shown(row) for row in rows]

    def add(self, connection: Any, parameters: Parameters) -> int:
        """Run it, which adds a row, on a connection of the driver, and return the row's number; raises DBAPIError."""
        try:
            number: int = connection.execute(self.text, self.bound(parameters)).lastrowid
        except self._dialect.dbapi.Error as error:
            raise as_sqlalchemy(error, self.text, self._dialect) from error
        return number

    def run_many(self, connection: Any, columns: Columns, shared: Parameters) -> int:
        """Run it on a connection of the driver for each row of *columns*, and what all *share*; raises DBAPIError.

        Returns how many rows of the database it changed, or added, in all.
        """
        try:
            with closing(connection.cursor()) as cursor:  # else a kept error would keep the file open
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
        """Return the values of each row in their places, as they are stored."""
        all_the_same = {**self._given, **shared}
        parts: list[Iterable[Any]] = []
        for name, convert in self._places:
            column = columns.get(name)
            if column is not None:
                parts.append(_converted(column, convert))
            else:
                value = all_the_same[name]
                parts.append(repeat(convert(value) if convert else value))
        return zip(*parts, strict=False)  # what is the same in each row has no end

    def bound(self, parameters: Parameters) -> list[Any]:
        """Return the values in their places, as they are stored."""
        values = {**self._given, **parameters}
        return [convert(values[name]) if convert else values[name] for name, convert in self._places]

    def _shown(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for place, convert in self._to_show:
            if values[place] is not None:
                values[place] = convert(values[place])
        return tuple(values)


def as_sqlalchemy(error: Exception, statement: str, dialect: Any) -> BaseException:
    """Return an error of the driver as SQLAlchemy would raise it, without the values."""
    return DBAPIError.instance(statement, None, error, dialect.dbapi.Error, hide_parameters=True, dialect=dialect)


def _converted(column: Sequence[Any], convert: _Convert | None) -> Iterable[Any]:
    """Return the values of one place in many rows as they are stored; one that they all share is converted once."""
    if convert is None:
        return column
    first = column[0]
    if all(map(is_, column, repeat(first))):
        return [convert(first)] * len(column)
    return map(convert, column)

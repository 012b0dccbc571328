"""Statements that SQLAlchemy writes and the driver runs: a job goes through ten of them, and each would cost it more
time in SQLAlchemy than in SQLite.

For statements that are made once, as those of queries.py are; what they mean is decided in store.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
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
        self._names: list[str] = compiled.positiontup
        self._to_store: list[tuple[str, _Convert]] = []
        for name in dict.fromkeys(self._names):
            if convert := compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect):
                self._to_store.append((name, convert))
        self._to_show: list[tuple[int, _Convert]] = []
        for place, column in enumerate(statement.exported_columns):
            if convert := column.type.dialect_impl(dialect).result_processor(dialect, float_code):
                self._to_show.append((place, convert))

    def run(self, connection: Any, parameters: Parameters) -> Rows:
        """Run it on a connection of the driver, and return what it returns; raises DBAPIError."""
        try:
            rows = connection.execute(self.text, self.bound(parameters)).fetchall()
        except self._dialect.dbapi.Error as error:
            raise self._translated(error) from error
        return [self._shown(row) for row in rows]

    def add(self, connection: Any, parameters: Parameters) -> int:
        """Run it, which adds a row, on a connection of the driver, and return the row's number; raises DBAPIError."""
        try:
            number: int = connection.execute(self.text, self.bound(parameters)).lastrowid
        except self._dialect.dbapi.Error as error:
            raise self._translated(error) from error
        return number

    def run_many(self, connection: Any, columns: Columns, shared: Parameters) -> None:
        """Run it on a connection of the driver for each row of *columns*, and what all *share*; raises DBAPIError."""
        to_store = dict(self._to_store)
        all_the_same = {**self._given, **shared}
        parts: list[Iterable[Any]] = [
            _converted(columns[name], to_store.get(name))
            if name in columns
            else repeat(*_converted([all_the_same[name]], to_store.get(name)))
            for name in self._names
        ]
        try:
            # What is the same in each row has no end.
            connection.executemany(self.text, zip(*parts, strict=False))
        except self._dialect.dbapi.Error as error:
            raise self._translated(error) from error

    def bound(self, parameters: Parameters) -> list[Any]:
        """Return the values in their places, as they are stored."""
        values = {**self._given, **parameters}
        for name, convert in self._to_store:
            values[name] = convert(values[name])
        return [values[name] for name in self._names]

    def _shown(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for place, convert in self._to_show:
            if values[place] is not None:
                values[place] = convert(values[place])
        return tuple(values)

    def _translated(self, error: Exception) -> BaseException:
        """Return the error as SQLAlchemy would raise it, without the values."""
        base = self._dialect.dbapi.Error
        return DBAPIError.instance(self.text, None, error, base, hide_parameters=True, dialect=self._dialect)


def _converted(column: Sequence[Any], convert: _Convert | None) -> Iterable[Any]:
    """Return the values of one place in many rows as they are stored; one that they all share is converted once."""
    if convert is None:
        return column
    first = column[0]
    if all(value is first for value in column):
        return [convert(first)] * len(column)
    return map(convert, column)

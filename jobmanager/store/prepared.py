"""Statements that SQLAlchemy writes and the driver runs: a job goes through ten of them, and each would cost it more
time in SQLAlchemy than in SQLite.

For statements that are made once, as those of queries.py are; what they mean is decided in store.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError

Statement: TypeAlias = Select[Any] | Insert | Update
Parameters = Mapping[str, Any]
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

    def run_many(self, connection: Any, parameters: Sequence[Parameters]) -> None:
        """Run it on a connection of the driver for each of the parameters, which name the same; raises DBAPIError."""
        given = parameters[0].keys()
        to_store = dict(self._to_store)
        columns = [
            _converted([each[name] for each in parameters], to_store.get(name))
            if name in given
            else _converted([self._given[name]] * len(parameters), to_store.get(name))
            for name in self._names
        ]
        try:
            connection.executemany(self.text, zip(*columns, strict=True))
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


def _converted(column: list[Any], convert: _Convert | None) -> list[Any]:
    """Return the values of one place in many rows as they are stored; one that they all share is converted once."""
    if convert is None:
        return column
    first = column[0]
    if all(value is first for value in column):
        return [convert(first)] * len(column)
    return [convert(value) for value in column]

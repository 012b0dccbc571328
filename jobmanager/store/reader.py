"""Read from the database outside of write transactions.

The only place that translates errors of reading. Knows nothing about jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import CompoundSelect, CursorResult, Row, Select, func, select
from sqlalchemy.exc import DBAPIError

from jobmanager.errors import StoreUnavailable
from jobmanager.store.database import Database
from jobmanager.store.fast_statements import Parameters, Rows
from jobmanager.store.schema import jobs

Query = Select[Any] | CompoundSelect[Any]


class Reader:
    """Runs single queries, each of which sees all commits before it. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, query: Query, **parameters: Any) -> Sequence[Row[Any]]:
        """Run a query that SQLAlchemy compiles for this call, and return its rows."""
        with self.stream(query, **parameters) as rows:
            return rows.all()

    @contextmanager
    def stream(self, query: Query, **parameters: Any) -> Iterator[CursorResult[Any]]:
        """Run a query like `read`, and yield its result, to be read row by row."""
        with translated_errors(), self._database.reader.connect() as connection:
            yield connection.execute(query, parameters)

    def read_prepared(self, query: Select[Any], parameters: Parameters) -> Rows:
        """Run a query that is built once (see fast_statements.py), and return its rows."""
        with translated_errors():
            return self._database.read(query, parameters)

    def ping(self) -> None:
        """Run a small query, to find out if the database answers."""
        self.read(select(func.count()).select_from(select(jobs.c.number).limit(1).subquery()))


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StoreUnavailable in place of an error of the database."""
    try:
        yield
    except DBAPIError as error:
        raise StoreUnavailable("The store does not answer. Try again later.") from error

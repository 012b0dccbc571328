"""Databases with a table t(id, day) to export, whose statements can be made to wait for a lock, or to take long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

ROWS = 1000
#: A statement that runs for so long is the one that takes long.
_LONG_SECONDS = 0.3


class Database:
    """A database as its own client sees it."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._first_seen: dict[Any, float] = {}

    @property
    def shown_url(self) -> str:
        """Return the URL with its password."""
        return self.url.render_as_string(hide_password=False)

    def connect(self) -> Any:
        """Return a connection that commits each statement."""
        raise NotImplementedError

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute statements, and return the rows of the last one."""
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def make_table(self) -> None:
        """Make the table t, and a view v of it that takes for ever as long as the table work has rows."""
        self.drop_tables()
        self.execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, day timestamp)",
            "INSERT INTO t VALUES " + ", ".join(f"({n}, '2024-01-01 00:00:00')" for n in range(ROWS)),
            "CREATE INDEX by_date ON t (day, id)",
            "CREATE TABLE work (n bigint)",
            "INSERT INTO work VALUES " + ", ".join(f"({n})" for n in range(ROWS)),
            "CREATE VIEW v AS SELECT id, day, "
            "(SELECT count(*) FROM work a, work b, work c, work d WHERE a.n * b.n + c.n * d.n = 1) AS b FROM t",
        )

    def drop_tables(self) -> None:
        """Drop the tables and the view."""
        self.execute("DROP VIEW IF EXISTS v", "DROP TABLE IF EXISTS t", "DROP TABLE IF EXISTS work")

    def running(self) -> dict[Any, bool]:
        """Return the statements of other connections, and whether each waits for a lock."""
        raise NotImplementedError

    def is_waiting(self) -> bool:
        """Return True if a statement waits for a lock."""
        return any(self.running().values())

    def is_busy(self) -> bool:
        """Return True if a statement takes long."""
        now = time.monotonic()
        self._first_seen = {each: self._first_seen.get(each, now) for each in self.running()}
        return any(now - since > _LONG_SECONDS for since in self._first_seen.values())

    def locked(self) -> AbstractContextManager[None]:
        """Lock the table t, so that no other connection can read it."""
        raise NotImplementedError


class PostgreSQL(Database):
    """A PostgreSQL server."""

    def connect(self) -> Any:
        return psycopg.connect(self.url.set(drivername="postgresql").render_as_string(False), autocommit=True)

    def running(self) -> dict[Any, bool]:
        found = self.execute(
            "SELECT pid, query_start, coalesce(wait_event_type, '') = 'Lock' FROM pg_stat_activity "
            "WHERE state = 'active' AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return {(pid, since): is_waiting for pid, since, is_waiting in found}

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(self.connect()) as connection, connection.transaction():
            connection.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            yield


class MariaDB(Database):
    """A MariaDB server."""

    def connect(self) -> Any:
        pymysql = pytest.importorskip("pymysql")
        return pymysql.connect(
            host=self.url.host, port=self.url.port, user=self.url.username, database=self.url.database, autocommit=True
        )

    def running(self) -> dict[Any, bool]:
        found = self.execute(
            "SELECT id, query_id, state FROM information_schema.processlist "
            "WHERE command = 'Query' AND id <> connection_id()"
        )
        return {(key, query): "lock" in (state or "") for key, query, state in found}

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(self.connect()) as connection:
            connection.cursor().execute("LOCK TABLES t WRITE")
            yield


class DuckDB(Database):
    """A DuckDB file."""

    def connect(self) -> Any:
        return pytest.importorskip("duckdb").connect(self.url.database)

    def running(self) -> dict[Any, bool]:
        # It runs in this process, and allows no other connection meanwhile.
        return {each.ident: False for each in threading.enumerate() if each.name.endswith("-reads")}


def database(kind: str, request: pytest.FixtureRequest, folder: Path) -> Database:
    """Return a database of a kind, with the table t. It is dropped after the test."""
    if kind == "duckdb":
        found: Database = DuckDB(URL.create("duckdb", database=str(folder / "data.duckdb")))
    elif kind == "mariadb":
        found = MariaDB(request.getfixturevalue("mariadb"))
    else:
        found = PostgreSQL(make_url(request.getfixturevalue("server")).set(drivername="postgresql+psycopg"))
    request.addfinalizer(found.drop_tables)
    found.make_table()
    return found

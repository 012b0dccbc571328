"""Export reads along the index of date and key: it never sorts, and never walks over rows that it has read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobmanager.jobs.export.datasets import load_datasets
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from jobmanager.jobs.export.sample import make_sample

YEAR = (datetime(2023, 1, 1), datetime(2024, 1, 1))


class WatchedReader(SqliteReader):
    """A reader that keeps what it asks."""

    asked: list[tuple[str, list[Any]]]

    def _query(self, sql: str, bounds: list[Any] | None = None, **options: Any) -> Any:
        vars(self).setdefault("asked", []).append((sql, bounds or []))
        return super()._query(sql, bounds, **options)

    def explain(self, sql: str, bounds: list[Any]) -> list[str]:
        """Return the steps by which SQLite carries out a query."""
        return list(super()._query(f"EXPLAIN QUERY PLAN {sql}", bounds)["detail"].to_pylist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sample data."""
    path = tmp_path_factory.mktemp("sample")
    make_sample(path, 2000)
    return path


@pytest.fixture
def reader(folder: Path) -> Iterator[WatchedReader]:
    (dataset,) = load_datasets(folder / "datasets.toml").values()
    with closing(WatchedReader(dataset)) as reader:
        reader.columns()
        yield reader


def plans(reader: WatchedReader) -> list[str]:
    """Return how SQLite carries out each query over the range."""
    return [
        " | ".join(reader.explain(sql, bounds))
        for sql, bounds in list(reader.asked)
        if bounds and not sql.startswith("EXPLAIN") and "pragma" not in sql
    ]


def test_a_chunk_is_found_by_the_index_and_comes_in_its_order(reader: WatchedReader) -> None:
    _, place = reader.read(list(reader.columns()), None, *YEAR, 100)
    reader.read(list(reader.columns()), place, *YEAR, 100)

    assert plans(reader) == [
        "SEARCH responses USING INDEX responses_by_date (submitted_at>? AND submitted_at<?)",
        "SEARCH responses USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH responses USING INDEX responses_by_date (submitted_at=? AND id>?)",
        "SEARCH responses USING INDEX responses_by_date (submitted_at>? AND submitted_at<?)",
        "SEARCH responses USING INTEGER PRIMARY KEY (rowid=?)",
    ]


def test_rows_are_counted_on_the_index_alone(reader: WatchedReader, folder: Path) -> None:
    counted, place = reader.count(None, *YEAR, 500)
    while place is not None:
        more, place = reader.count(place, *YEAR, 500)
        counted += more

    found = plans(reader)
    with closing(sqlite3.connect(folder / "sample.db")) as connection:
        assert connection.execute("SELECT count(*) FROM responses WHERE submitted_at < '2024'").fetchone() == (counted,)
    assert len(found) > 4
    for plan in found:
        assert plan.startswith("SEARCH responses USING COVERING INDEX responses_by_date (submitted_at")


def test_a_chunk_costs_the_same_however_many_rows_share_its_date(tmp_path: Path) -> None:
    rows = 20_000
    (tmp_path / "datasets.toml").write_text(
        '[t]\nurl = "sqlite:///data.db"\ntable = "t"\ndate_column = "at"\nkey = "id"\n'
    )
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, '2023-03-09')", ((n,) for n in range(rows)))
        connection.execute("CREATE INDEX by_date ON t (at, id)")
    (dataset,) = load_datasets(tmp_path / "datasets.toml").values()
    with closing(WatchedReader(dataset)) as reader:
        place = None
        for _ in range(4):
            found, place = reader.read(["id"], place, *YEAR, rows // 4)
        asked = reader.asked

    steps = [_steps(tmp_path / "data.db", sql, bounds) for sql, bounds in asked if sql.endswith("LIMIT 5000")]

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

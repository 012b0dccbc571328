"""An export of a dataset with `snapshot = true` has the rows of one moment, whatever is written while it runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobmanager.config import Settings
from tests.export.tables import SmallExport, dataset, export, file_of

ROWS = 40
#: What others do to the table while the export runs, again and again.
WRITES = (
    "DELETE FROM t WHERE id % 3 = 0",
    "UPDATE t SET v = v + 1000",
    "INSERT INTO t SELECT id + 1000, at, v FROM t WHERE id < 20 AND id + 1000 NOT IN (SELECT id FROM t)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table t with columns id, at and v."""

    settings: Settings
    execute: Callable[[str], list[tuple[Any, ...]]]

    def rows(self) -> list[str]:
        """Return its rows as lines of CSV."""
        return [f"{key},{v}" for key, v in self.execute("SELECT id, v FROM t ORDER BY at, id")]


@pytest.fixture(params=["sqlite", "postgresql"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    if request.param == "sqlite":
        path = tmp_path / "data.db"

        def execute(statement: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(path)) as connection, connection:
                return connection.execute(statement).fetchall()

        execute("PRAGMA journal_mode = WAL")
        configured = dataset(tmp_path, "sqlite:///data.db", "t")
    else:
        url = request.getfixturevalue("server")

        def execute(statement: str) -> list[tuple[Any, ...]]:
            with psycopg.connect(url, autocommit=True) as connection:
                cursor = connection.execute(statement)
                return cursor.fetchall() if cursor.description else []

        configured = dataset(tmp_path, url.replace("postgresql://", "postgresql+psycopg://"), "t")
    with (tmp_path / "datasets.toml").open("a") as file:
        file.write("snapshot = true\n")
    execute("DROP TABLE IF EXISTS t")
    execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, v INTEGER)")
    execute(
        "INSERT INTO t VALUES " + ", ".join(f"({n}, '2024-03-{1 + n // 10:02} 00:00:00', {n})" for n in range(ROWS))
    )
    execute("CREATE INDEX by_date ON t (at, id)")
    return Table(settings=configured, execute=execute)


def exported(table: Table, job: type[SmallExport], **options: int) -> Any:
    return export(job, table.settings, "csv", args={"columns": ["id", "v"]}, **options)


def lines(outcome: Any) -> list[str]:
    return file_of(outcome).decode().splitlines()[1:]


def writing(table: Table) -> type[SmallExport]:
    """Return an export during which others write, before and after each checkpoint."""

    class Export(SmallExport):
        def flush(self) -> None:
            super().flush()
            for statement in WRITES:
                table.execute(statement)

    return Export


@pytest.mark.parametrize("has_index", [True, False], ids=["by an index", "sorted"])
@pytest.mark.parametrize("halt_after", [None, 1, 3])
def test_the_rows_are_those_of_one_moment(table: Table, halt_after: int | None, has_index: bool) -> None:
    if not has_index:
        table.execute("DROP INDEX by_date")
    before = table.rows()

    outcome = exported(table, writing(table), **({} if halt_after is None else {"halt_after": halt_after}))

    assert outcome.status == "completed", outcome.error
    assert lines(outcome) == before
    assert table.rows() != before
    assert outcome.result["snapshot"] is True
    assert (outcome.result["rows"], outcome.result["rows_checked"]) == (ROWS, True)
    assert any("holds a transaction in the database of dataset 'set'" in line for line in outcome.log)


def test_another_attempt_begins_again_with_a_snapshot_of_its_own(table: Table) -> None:
    class Interrupted(SmallExport):
        seen: list[list[str]] = []  # noqa: RUF012 - of this class alone

        def start(self) -> dict[str, Any]:
            self.seen.append(table.rows())
            return super().start()

        def flush(self) -> None:
            super().flush()
            if len(self.seen) == 1:
                table.execute("UPDATE t SET v = v + 1000")

    outcome = exported(table, Interrupted, restart_after=3)

    assert outcome.status == "completed", outcome.error
    first, second = Interrupted.seen
    assert first != second
    assert lines(outcome) == second
    assert any("starts over: the snapshot that it read ended with its attempt" in line for line in outcome.log)


@pytest.mark.parametrize("statement", ["TRUNCATE t", "ALTER TABLE t RENAME TO u", "ALTER TABLE t DROP COLUMN v"])
@pytest.mark.parametrize("table", ["postgresql"], indirect=True)
def test_what_a_snapshot_does_not_cover_waits_for_its_end(table: Table, statement: str) -> None:
    refused = []

    class Export(SmallExport):
        def flush(self) -> None:
            super().flush()
            try:
                table.execute(f"SET lock_timeout = '50ms'; {statement}")
            except psycopg.errors.LockNotAvailable:
                refused.append(statement)

    before = table.rows()

    outcome = exported(table, Export)

    assert outcome.status == "completed", outcome.error
    assert lines(outcome) == before
    assert len(refused) >= len(outcome.checkpoints) - 3, "those after the last count take no lock away"


@pytest.mark.parametrize("table", ["postgresql"], indirect=True)
def test_an_export_waits_for_a_table_that_is_being_reloaded(table: Table, server: str, until: Any) -> None:
    with psycopg.connect(server) as loading, ThreadPoolExecutor(1) as pool:
        loading.execute("TRUNCATE t")
        loading.execute("INSERT INTO t SELECT n, '2024-03-01 00:00:00', n FROM generate_series(1, 7) AS n")
        # All columns: those that are named are looked for when it is submitted, and that would wait in its place.
        found = pool.submit(export, SmallExport, table.settings, "csv")
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: found.done() or table.execute(waits))
        loading.commit()

        outcome = found.result()

    assert outcome.status == "completed", outcome.error
    assert lines(outcome) == [f'{n},"2024-03-01 00:00:00",{n}' for n in range(1, 8)]


@pytest.mark.parametrize("table", ["postgresql"], indirect=True)
def test_a_snapshot_whose_session_was_ended_is_tried_again(table: Table) -> None:
    class Export(SmallExport):
        def flush(self) -> None:
            super().flush()
            if self.cursor.get("rows"):
                table.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in tr%'")

    outcome = exported(table, Export)

    assert outcome.status == "failed"
    assert outcome.error == (
        "DatasetAway: The database of dataset 'set' cannot be read; its error is in the service's log."
    )


def test_nothing_is_held_when_it_has_ended(table: Table) -> None:
    exported(table, SmallExport)

    table.execute("DROP TABLE t")  # waits for every transaction that has read it; SQLite fails at once
    with pytest.raises((sqlite3.OperationalError, psycopg.errors.UndefinedTable)):
        table.rows()

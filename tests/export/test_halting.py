"""An export is halted at once, even while a statement of its database runs or waits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobmanager import JobManager
from jobmanager.core.states import Status
from jobmanager.jobs.export.job import Export
from jobmanager.registry import Registry
from tests.export.tables import SmallExport, dataset, export

ROWS = 1000
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@pytest.mark.parametrize("is_under_way", [False, True], ids=["that begins", "that has rows"])
def test_an_export_whose_statement_waits_for_a_lock_is_halted_and_resumed(
    server: str, tmp_path: Path, is_under_way: bool, until: Callable[..., Any]
) -> None:
    class Locked(Export):
        """An export whose table somebody locks when it has rows."""

        chunk_rows = 10

        def flush(self) -> None:
            super().flush()
            if is_under_way and self.cursor.get("rows") and not locked:
                lock()

    locked: list[bool] = []
    types = Registry()
    types.register(Locked)
    with psycopg.connect(server, autocommit=True) as connection, psycopg.connect(server) as other:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, at timestamp)")
        connection.execute(f"INSERT INTO t SELECT n, '2024-01-01' FROM generate_series(1, {ROWS}) AS n")
        connection.execute("CREATE INDEX by_date ON t (at, id)")
        configured = dataset(tmp_path, server.replace("postgresql://", "postgresql+psycopg://"), "t")
        # Each checkpoint is saved, and flushed before that.
        settings = replace(configured, checkpoint_seconds=0.0)

        def lock() -> None:
            other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            locked.append(True)

        def waiting() -> int:
            return connection.execute(WAITS).fetchone()[0]  # type: ignore[index]

        if not is_under_way:
            lock()
        with JobManager(settings, types) as manager:
            job = manager.submit("Locked", {"from_date": "2024-01-01", "to_date": "2024-12-31"}).id
            until(waiting, "the export waits for the lock")

            manager.halt(job)
            until(lambda: manager.get(job).status is Status.HALTED, lambda: str(manager.get(job)), seconds=5)
            until(lambda: not waiting(), "its statement is gone")
            other.rollback()
            manager.resume(job)
            until(lambda: manager.get(job).status is Status.COMPLETED, lambda: str(manager.get(job)), seconds=30)

            result = manager.get(job).result
            assert (result["rows"], result["rows_checked"]) == (ROWS, True)
            assert manager.artifact(job).path.read_text().count("\n") == ROWS + 1


def test_an_export_whose_part_is_damaged_after_the_last_row_fails_and_makes_no_empty_file(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, '2024-01-01 00:00:00')", [(number,) for number in range(20)])
    settings = dataset(tmp_path, "sqlite:///data.db", "t")

    class Damaged(SmallExport):
        def halt(self) -> None:
            super().halt()
            (part,) = self.workdir.glob("*.part")
            part.write_bytes(b"")

    undisturbed = export(SmallExport, settings, "csv")
    outcome = export(Damaged, settings, "csv", halt_after=len(undisturbed.checkpoints))

    assert undisturbed.result["rows"] == 20  # type: ignore[index, call-overload]
    assert outcome.status == "failed"
    assert outcome.error == (
        "FilesUnusable: The export lost its part while it was halted; another attempt starts over."
    )

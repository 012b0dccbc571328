"""An export is halted at once, even while a statement of its database runs or waits, or a connection opens."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobmanager import JobManager
from jobmanager.config import Settings
from jobmanager.core.states import Status
from jobmanager.jobs.export.job import Export
from jobmanager.registry import Registry
from tests.export.databases import ROWS, database
from tests.export.tables import SmallExport, dataset, export
from tests.gate import gate

#: How long a halt may take on a slow machine: less than any timeout of a database.
HALT_SECONDS = 4


class Halting:
    """An export that is submitted, halted and resumed."""

    def __init__(self, manager: JobManager, until: Callable[..., Any], job_type: type[Export]) -> None:
        self._manager = manager
        self._until = until
        self.job = manager.submit(job_type.__name__, {"from_date": "2023-01-01", "to_date": "2024-12-31"}).id

    def halt(self) -> None:
        """Halt the export, and wait until it is halted."""
        self._manager.halt(self.job)
        self._wait_for(Status.HALTED, HALT_SECONDS)

    def complete(self) -> list[str]:
        """Resume the export, wait until it is completed, and return its first column."""
        self._manager.resume(self.job)
        self._wait_for(Status.COMPLETED, 60)
        result = self._manager.get(self.job).result
        assert (result["rows"], result["rows_checked"]) == (ROWS, True)
        lines = self._manager.artifact(self.job).path.read_text().splitlines()
        return [line.partition(",")[0] for line in lines[1:]]

    def _wait_for(self, status: Status, seconds: float) -> None:
        self._until(
            lambda: self._manager.get(self.job).status is status, lambda: self._manager.get(self.job), seconds=seconds
        )


#: The first column of a file with all rows.
WHOLE = [str(number) for number in range(ROWS)]


@contextmanager
def submitted(settings: Settings, until: Callable[..., Any], job_type: type[Export] = SmallExport) -> Iterator[Halting]:
    """Submit an export to a manager of its own."""
    types = Registry()
    types.register(job_type)
    with JobManager(settings, types) as manager:
        yield Halting(manager, until, job_type)


def reading_threads() -> list[str]:
    """Return the threads that call a database."""
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(("-reads", "-closes"))]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "duckdb"])
def test_an_export_whose_statement_takes_long_is_halted_and_resumed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, until: Callable[..., Any]
) -> None:
    data = database(kind, request, tmp_path)

    with submitted(dataset(tmp_path, data.shown_url, "v", date_column="day"), until, Export) as exporting:
        until(data.is_busy, "the statement runs")
        exporting.halt()
        until(lambda: not data.running(), "the statement is gone")
        data.execute("DELETE FROM work")

        assert exporting.complete() == WHOLE


@pytest.mark.parametrize("is_under_way", [False, True], ids=["that begins", "that has rows"])
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_export_whose_statement_waits_for_a_lock_is_halted_and_resumed(
    kind: str, is_under_way: bool, request: pytest.FixtureRequest, tmp_path: Path, until: Callable[..., Any]
) -> None:
    class Locked(Export):
        """An export whose table somebody locks when it has rows."""

        chunk_rows = 10

        def flush(self) -> None:
            super().flush()
            if is_under_way and self.cursor.get("rows") and not locked:
                locked.append(lock.enter_context(data.locked()))

    locked: list[None] = []
    data = database(kind, request, tmp_path)
    # Each checkpoint is saved, and flushed before that.
    settings = replace(dataset(tmp_path, data.shown_url, "t", date_column="day"), checkpoint_seconds=0.0)

    with ExitStack() as lock:
        if not is_under_way:
            lock.enter_context(data.locked())
        with submitted(settings, until, Locked) as exporting:
            until(data.is_waiting, "the export waits for the lock")
            exporting.halt()
            until(lambda: not data.is_waiting(), "its statement is gone")
            lock.close()

            assert exporting.complete() == WHOLE


def test_an_export_that_waits_for_a_lock_to_take_its_snapshot_is_halted_and_resumed(
    request: pytest.FixtureRequest, tmp_path: Path, until: Callable[..., Any]
) -> None:
    data = database("postgresql", request, tmp_path)

    with ExitStack() as lock:
        lock.enter_context(data.locked())
        with submitted(
            dataset(tmp_path, data.shown_url, "t", date_column="day", snapshot=True), until, Export
        ) as exporting:
            until(data.is_waiting, "the export waits for the lock")
            exporting.halt()
            until(lambda: not data.is_waiting(), "its statement is gone", seconds=HALT_SECONDS)
            until(lambda: not reading_threads(), reading_threads)
            lock.close()

            assert exporting.complete() == WHOLE


@pytest.mark.parametrize(
    ("kind", "snapshot", "answered"),
    [
        *(("postgresql", False, number) for number in range(3)),
        *(("postgresql", True, number) for number in range(4)),
        ("mariadb", False, 0),
    ],
)
def test_an_export_is_halted_while_a_connection_opens_to_a_server_that_never_answers(
    kind: str,
    snapshot: bool,
    answered: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    data = database(kind, request, tmp_path)

    with gate(data.url) as door:
        url = data.url.set(host="127.0.0.1", port=door.port, query={}).render_as_string(False)
        door.fall_silent(after=answered)
        with submitted(dataset(tmp_path, url, "t", date_column="day", snapshot=snapshot), until, Export) as exporting:
            until(lambda: door.silent, "a connection waits for an answer")
            exporting.halt()
            door.answer()

            assert exporting.complete() == WHOLE


def test_an_export_of_a_sqlite_file_that_is_locked_is_halted_and_resumed(
    tmp_path: Path, until: Callable[..., Any]
) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)")
        connection.execute("BEGIN EXCLUSIVE")
        connection.executemany("INSERT INTO t VALUES (?, '2024-01-01 00:00:00')", [(n,) for n in range(ROWS)])
        with submitted(dataset(tmp_path, "sqlite:///data.db", "t"), until, Export) as exporting:
            until(reading_threads, "the export waits for the file")
            exporting.halt()
            connection.execute("COMMIT")

            assert exporting.complete() == WHOLE


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

"""What goes wrong with an export is told without paths, addresses, passwords or SQL: in its error and in its log."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobmanager.config import Settings
from jobmanager.jobs.export import output_file
from jobmanager.jobs.export.job import Export
from jobmanager.testing import trial

MARCH = {"from_date": "2024-03-01", "to_date": "2024-03-31"}
SECRETS = (
    "hidden.db",
    "sqlite://",
    "postgresql+psycopg",
    "postgresql:",
    "s3cret",
    'ORDER BY "',
    'PRAGMA table_xinfo("',
)


class SmallExport(Export):
    """An export of small chunks."""

    chunk_rows: ClassVar[int] = 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with closing(sqlite3.connect(tmp_path / "hidden.db")) as connection, connection:
        connection.execute("CREATE TABLE hidden_table (id INTEGER PRIMARY KEY, at TEXT, score INTEGER)")
        connection.executemany(
            "INSERT INTO hidden_table VALUES (?, ?, ?)", [(n, f"2024-03-{n:02}", n) for n in range(1, 20)]
        )
    (tmp_path / "datasets.toml").write_text(
        '[responses]\nurl = "sqlite:///hidden.db"\ntable = "hidden_table"\ndate_column = "at"\nkey = "id"\n'
    )
    return Settings(data_dir=tmp_path)


def execute(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "hidden.db")) as connection, connection:
        connection.execute(statement)


def _lose_database(folder: Path) -> None:
    (folder / "hidden.db").unlink()


def _spoil_database(folder: Path) -> None:
    (folder / "hidden.db").write_bytes(b"no database" * 1000)


def _lose_table(folder: Path) -> None:
    execute(folder, "DROP TABLE hidden_table")


def _misfit(folder: Path) -> None:
    execute(folder, "UPDATE hidden_table SET score = CAST(x'733363726574ff' AS TEXT) WHERE id = 12")


def _server_away(folder: Path) -> None:
    path = folder / "datasets.toml"
    path.write_text(
        path.read_text().replace("sqlite:///hidden.db", "postgresql+psycopg://me:s3cret@127.0.0.1:1/hidden")
    )


def _no_list(folder: Path) -> None:
    (folder / "datasets.toml").write_text("[responses\ns3cret")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_lose_database, "DatasetAway: The database of dataset 'responses' cannot be read"),
        (_spoil_database, "DatasetAway: The database of dataset 'responses' cannot be read"),
        (_lose_table, "The table 'hidden_table' of dataset 'responses' does not exist."),
        (_misfit, "Column 'score' of table 'hidden_table' of dataset 'responses' has text that cannot be"),
        (_server_away, "DatasetAway: The database of dataset 'responses' cannot be read"),
        (_no_list, "the operator's list of datasets cannot be read: it is not valid TOML at line 1; its error is in"),
    ],
)
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_failure_tells_what_to_look_for_and_nothing_of_the_operator_s(
    settings: Settings, harm: Callable[[Path], None], says: str, file_format: str
) -> None:
    class Harmed(SmallExport):
        type: ClassVar[str] = "Harmed"

        def start(self) -> dict[str, Any]:
            harm(settings.data_dir)
            return super().start()

    outcome = trial.run(Harmed, MARCH | {"format": file_format}, settings=settings)

    assert outcome.status == "failed"
    assert outcome.error is not None
    assert says in outcome.error
    _assert_nothing_is_told(settings, outcome)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_file_system_s_words_are_not_passed_on(
    settings: Settings, number: int, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(output_file, "open", fail, raising=False)

    outcome = trial.run(SmallExport, MARCH | {"format": file_format}, settings=settings)

    assert outcome.status == "failed"
    assert "the job's files" in (outcome.error or "").lower()
    _assert_nothing_is_told(settings, outcome)


def test_an_export_that_starts_over_says_so_without_a_path(settings: Settings) -> None:
    whole = trial.run(SmallExport, MARCH, settings=settings)

    outcome = trial.run(SmallExport, MARCH, settings=settings, cursor=whole.checkpoints[3].cursor)

    assert outcome.log == ("WARNING The export starts over: the part file cannot be used, its file is missing.",)
    assert outcome.files == whole.files
    _assert_nothing_is_told(settings, outcome)


def _assert_nothing_is_told(settings: Settings, outcome: trial.RunOutcome) -> None:
    told = "\n".join([outcome.error or "", *outcome.log])
    # Its traceback shows lines of the code, which have paths of their own, but none of the operator's.
    for secret in (str(settings.data_dir), *SECRETS):
        assert secret not in told

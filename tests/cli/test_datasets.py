"""`jobmanager datasets check` finds the errors that an export would find, and prints them as text or JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobmanager.cli import main
from jobmanager.errors import Fatal
from jobmanager.jobs.export import dataset_check
from jobmanager.jobs.export.readers.sqlite_process import SqliteProcess

ENTRY = '[orders]\nurl = "sqlite:///data.db"\ntable = "t"\ndate_column = "at"\nkey = "id"\n'

Check = Callable[..., Result]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a function that runs the command on a list of datasets with the given text."""
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, amount REAL)")
        connection.execute("CREATE INDEX by_date ON t (at, id)")
        connection.executemany("INSERT INTO t VALUES (?, ?, 1)", [(n, f"2024-03-{n:02} 10:00:00") for n in range(1, 9)])

    def called(text: str, *arguments: str) -> Result:
        (tmp_path / "datasets.toml").write_text(text)
        env: dict[str, str | None] = {"JOBMANAGER_DATA_DIR": str(tmp_path)}
        return CliRunner().invoke(main, ["datasets", "check", *arguments], env=env)

    return called


def test_check_describes_a_dataset_that_can_be_exported(check: Check) -> None:
    result = check(ENTRY)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "orders: it can be exported",
        "  columns   id (int64), at (string), amount (double)",
        "  order     at, then id",
        "  dates     space; the first are 2024-03-01 10:00:00, 2024-03-02 10:00:00, 2024-03-03 10:00:00",
        "  rows      8 with a date",
    ]


def test_check_prints_a_json_object_for_each_dataset(check: Check) -> None:
    result = check(ENTRY + ENTRY.replace("[orders]", "[bad]").replace('"t"', '"none"'), "--json")

    bad, orders = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1
    assert (bad["name"], bad["columns"], bad["rows"]) == ("bad", {}, None)
    assert "The table 'none' of dataset 'bad' does not exist" in bad["error"]
    assert (orders["name"], orders["error"], orders["rows"], orders["is_more"]) == ("orders", None, 8, False)
    assert (orders["date_format"], orders["dates"][0]) == ("space", "2024-03-01 10:00:00")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (ENTRY.replace("data.db", "none.db"), "The database of dataset 'orders' cannot be read"),
        (
            ENTRY.replace('"at"', '"on"'),
            "The table 't' of dataset 'orders' has no column 'on'",
        ),
        (ENTRY.replace("key", "ky"), "unknown field ky (did you mean key?)"),
        (ENTRY.replace("data.db", "jobmanager.db"), "is the service's own database"),
    ],
)
def test_check_gives_the_reason_why_a_dataset_cannot_be_exported(check: Check, entry: str, says: str) -> None:
    result = check(entry)

    assert result.exit_code == 1
    assert result.stdout.startswith("orders: IT CANNOT BE EXPORTED\n  error     ")
    assert says in result.stdout


def test_check_tests_only_the_named_datasets(check: Check) -> None:
    text = ENTRY + ENTRY.replace("[orders]", "[bad]").replace('"t"', '"none"')

    assert check(text, "orders").exit_code == 0
    assert check(text, "bad").exit_code == 1
    unknown = check(text, "other")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "There is no dataset 'other' in " in unknown.stderr


@pytest.mark.parametrize(
    ("text", "says"), [("", "No dataset is configured in "), ("[a\n", "it is not valid TOML at line 1")]
)
def test_check_refuses_an_empty_or_invalid_list(check: Check, text: str, says: str) -> None:
    result = check(text)

    assert result.exit_code == 1
    assert says in result.stderr


def test_a_missing_index_is_a_warning_and_the_rows_are_not_counted(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteProcess, "warnings", lambda *_: ["no index on (at, id)"])

    result = check(ENTRY)

    assert result.exit_code == 0
    assert "  warning   no index on (at, id)\n" in result.stdout
    assert "  rows      not counted" in result.stdout


def test_check_fails_if_the_reader_refuses_the_key(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise Fatal("The key 'id' may be NULL.")

    monkeypatch.setattr(SqliteProcess, "check", refuse)

    result = check(ENTRY)

    assert result.exit_code == 1
    assert "  error     The key 'id' may be NULL.\n" in result.stdout


def test_check_counts_rows_up_to_a_limit(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_check, "COUNTED_ROWS", 5)

    assert "  rows      more than 5 with a date\n" in check(ENTRY).stdout

"""An export that cannot be exact fails, and its error names the table, the column, the row, and what to do."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobmanager.config import Settings
from jobmanager.jobs.export import catalog
from jobmanager.jobs.export.readers.sqlalchemy import SqlReader
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from tests.export.databases import database
from tests.export.tables import SmallExport, dataset, export

REMEDY = re.compile(r"\b(Correct|Configure|Submit|Export|Write|Set|set|make) ")
SECRETS = ("s3cret", "SELECT", "://", "infinity", "0000-00-00", "2024-02-31", "Traceback")
DAY = "'2024-03-01 00:00:00'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A table that cannot be exported."""

    what: str
    statements: tuple[str, ...] = ()
    #: the column at fault; "": none
    column: str = ""
    #: the key of the row at fault; "": none
    key: str = ""
    file_format: str = "csv"


def with_value(declared: str, value: str, what: str, *before: str, **more: str) -> Fault:
    """Return the fault of a value in the row with the key 7."""
    create = f"CREATE TABLE t (id bigint PRIMARY KEY, day timestamp, v {declared})"
    insert = f"INSERT INTO t VALUES (7, {DAY}, {value})"
    return Fault(what=what, statements=(*before, create, insert), column="v", key="7", **more)


COMMON = (
    Fault(what="no table"),
    Fault(what="no key", statements=("CREATE TABLE t (number bigint, day timestamp)",), column="id"),
    Fault(what="no date", statements=("CREATE TABLE t (id bigint, moment varchar(9))",), column="day"),
    Fault(
        what="a key that is NULL",
        statements=("CREATE TABLE t (id bigint, day timestamp)", f"INSERT INTO t VALUES (NULL, {DAY})"),
        column="id",
    ),
    Fault(
        what="a key that is not unique",
        statements=("CREATE TABLE t (id bigint, day timestamp)", f"INSERT INTO t VALUES (7, {DAY}), (7, {DAY})"),
        column="id",
        key="7",
    ),
    Fault(
        what="dates of an unknown form",
        statements=("CREATE TABLE t (id bigint, day varchar(9))", "INSERT INTO t VALUES (7, '3/1/2024')"),
        column="day",
    ),
)
OWN = {
    "sqlite": (
        with_value("text", "CAST(x'733363726574ff' AS TEXT)", "text that is not UTF-8"),
        with_value("text", "CAST(x'733363726574ff' AS TEXT)", "text that is not UTF-8", file_format="parquet"),
    ),
    "sqlalchemy": (
        with_value("integer", "'s3cret'", "a value of another type"),
        with_value("integer", "'s3cret'", "a value of another type", file_format="parquet"),
    ),
    "duckdb": (
        with_value("date", "'infinity'", "a value that Parquet lacks", file_format="parquet"),
        Fault(what="an unordered key", statements=("CREATE TABLE t (id ENUM('a'), day timestamp)",), column="id"),
    ),
    "postgresql": (with_value("timestamp", "'infinity'", "a value that Parquet lacks", file_format="parquet"),),
    "mariadb": (
        with_value("date", "'0000-00-00'", "a value that Parquet lacks", "SET sql_mode = ''", file_format="parquet"),
        Fault(what="an unordered key", statements=("CREATE TABLE t (id enum('a'), day datetime)",), column="id"),
        Fault(
            what="a date that is none",
            statements=(
                "SET sql_mode = 'ALLOW_INVALID_DATES'",
                "CREATE TABLE t (id bigint PRIMARY KEY, day datetime)",
                "INSERT INTO t VALUES (7, '2024-02-31')",
            ),
            column="day",
            key="7",
        ),
    ),
}
CASES = [(kind, fault) for kind, own in OWN.items() for fault in (*COMMON, *own)]


def assert_helpful(error: str | None, column: str, key: str) -> None:
    assert error is not None
    assert "table 't' of dataset 'set'" in error
    assert not column or f"'{column}'" in error
    assert not key or re.search(rf"\b{key}\b", error)
    assert REMEDY.search(error)
    assert not [secret for secret in SECRETS if secret in error]


@pytest.mark.parametrize(
    ("kind", "fault"), CASES, ids=[f"{kind}: {fault.what}, {fault.file_format}" for kind, fault in CASES]
)
def test_an_export_that_cannot_be_exact_says_where_and_what_to_do(
    kind: str, fault: Fault, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("sqlite", "sqlalchemy"):
        url = "sqlite:///data.db"
        with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
            connection.executescript(";".join(fault.statements))
    else:
        data = database(kind, request, tmp_path)
        url = data.shown_url
        data.execute("DROP VIEW v", "DROP TABLE t", *fault.statements)
    if kind == "sqlalchemy":
        monkeypatch.setattr(catalog, "open_reader", SqlReader)

    outcome = export(SmallExport, dataset(tmp_path, url, "t", date_column="day"), fault.file_format)

    assert outcome.status == "failed"
    assert_helpful(outcome.error, fault.column, fault.key)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, v TEXT)")
        connection.execute("CREATE INDEX by_date ON t (at, id)")
        connection.executemany("INSERT INTO t VALUES (?, '2024-03-01', '1')", [(n,) for n in range(20)])
    return dataset(tmp_path, "sqlite:///data.db", "t")


def changing(change: str, after: int) -> type[SmallExport]:
    """Return an export whose table is changed when it has written some rows."""

    changed: list[str] = []

    class Changing(SmallExport):
        def checkpoint(self, *given: Any, **named: Any) -> None:
            super().checkpoint(*given, **named)
            if self.cursor.get("rows") == after and not changed:
                changed.append(change)
                with closing(sqlite3.connect(self.settings.data_dir / "data.db")) as connection, connection:
                    connection.executescript(change)

    return Changing


@pytest.mark.parametrize("options", [{}, {"halt_after": 2}, {"restart_after": 2}], ids=["run", "halted", "restarted"])
@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("ALTER TABLE t RENAME v TO w", "v"),
        ("DROP INDEX by_date; ALTER TABLE t RENAME at TO day", "at"),
        ("ALTER TABLE t DROP v; ALTER TABLE t ADD v BLOB", "v"),
        ("DROP TABLE t", ""),
    ],
)
def test_an_export_whose_table_changes_says_where_and_what_to_do(
    settings: Settings, change: str, column: str, options: dict[str, int]
) -> None:
    outcome = export(changing(change, after=5), settings, "csv", **options)

    assert outcome.status == "failed"
    assert_helpful(outcome.error, column, "")


def test_a_value_that_does_not_fit_the_type_of_its_column_any_more_is_among_the_rows_that_the_error_names(
    settings: Settings,
) -> None:
    change = "ALTER TABLE t ADD n INTEGER; UPDATE t SET n = 1"
    with closing(sqlite3.connect(settings.data_dir / "data.db")) as connection, connection:
        connection.executescript(change)

    outcome = export(changing("UPDATE t SET n = 's3cret' WHERE id = 17", after=5), settings, "parquet")

    assert outcome.status == "failed"
    assert_helpful(outcome.error, "n", "15")
    assert "in a row from id = 15 to 19" in str(outcome.error)


class Json(SqliteReader):
    """A reader that takes the texts of the column v for JSON."""

    def read(self, *given: Any) -> tuple[pa.Table, Any]:
        """Return the next rows."""
        rows, place = super().read(*given)
        marked = [f.with_metadata({b"jobmanager": b"json"}) if f.name == "v" else f for f in rows.schema]
        return rows.cast(pa.schema(marked)), place


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (None, "in the row with id = 7."),
        (["v"], "in one of the 5 rows after id = 4."),
    ],
)
def test_text_that_is_not_json_is_found_by_its_key_or_by_the_rows_around_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, columns: list[str] | None, says: str
) -> None:
    monkeypatch.setattr(catalog, "open_reader", Json)
    with closing(sqlite3.connect(settings.data_dir / "data.db")) as connection, connection:
        connection.execute("UPDATE t SET v = '{s3cret' WHERE id = 7")

    outcome = export(SmallExport, settings, "jsonl", args={"columns": columns} if columns else {})

    assert outcome.status == "failed"
    assert_helpful(outcome.error, "v", "")
    assert says in str(outcome.error)


class Odd(SqliteReader):
    """A reader of a table whose keys are lists."""

    def read(self, *given: Any) -> tuple[pa.Table, Any]:
        """Return the next rows."""
        rows, place = super().read(*given)
        object.__setattr__(place, "key", [])
        return rows, place


def test_a_key_that_a_checkpoint_cannot_hold_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "open_reader", Odd)

    outcome = export(SmallExport, settings, "csv")

    assert outcome.status == "failed"
    assert_helpful(outcome.error, "id", "")

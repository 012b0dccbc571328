"""An export goes on with what it began with, or fails at once; and its rows are counted before it is completed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet
import pytest
from sqlalchemy.engine import make_url

from jobmanager.config import Settings
from jobmanager.errors import Fatal
from jobmanager.jobs.export import catalog, counting
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.job import Export
from jobmanager.jobs.export.plan import Plan
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from jobmanager.testing import trial

MARCH = {"from_date": "2024-03-01", "to_date": "2024-03-31"}
ROWS = [(n, f"2024-03-{1 + n // 4:02} 10:00:00", f"note {n}", f"phone {n}") for n in range(40)]
ENTRY = '[one]\nurl = "sqlite:///data.db"\ntable = "t"\ndate_column = "at"\nkey = "id"\n'
REBUILT = "DROP TABLE t; ALTER TABLE u RENAME TO t;"

Change = Callable[[Path], None]


class SmallExport(Export):
    """An export of small chunks, in the middle of which something changes."""

    type: ClassVar[str] = "SmallExport"
    chunk_rows: ClassVar[int] = 7
    change: ClassVar[Change | None] = None

    def halt(self) -> None:
        """Halt, then make the change."""
        super().halt()
        if self.change is not None:
            type(self).change(self.settings.data_dir)  # type: ignore[misc]


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read SQLite files in this process, where the tests can replace a part of the reader."""
    monkeypatch.setattr(catalog, "open_reader", SqliteReader)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    execute(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, note TEXT, phone TEXT)")
    execute(tmp_path, "CREATE INDEX by_date ON t (at, id)")
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", ROWS)
    (tmp_path / "datasets.toml").write_text(ENTRY)
    return Settings(data_dir=tmp_path)


def execute(folder: Path, statements: str) -> None:
    with closing(sqlite3.connect(folder / "data.db")) as connection, connection:
        connection.executescript(statements)


def run(settings: Settings, change: Change | None = None, way: str = "halted", **args: Any) -> trial.RunOutcome:
    """Export; the change is made when the third chunk is written, while the job is halted, or handed over."""

    class Changing(SmallExport):
        pass

    Changing.change = staticmethod(change) if change else None  # type: ignore[assignment]
    plan = {} if change is None else {"halt_after": 4} | ({"restart_after": 4} if way == "handed over" else {})
    return trial.run(Changing, MARCH | args, settings=settings, **plan)


def file_of(outcome: trial.RunOutcome) -> bytes | str:
    assert outcome.status == "completed", outcome.error
    assert outcome.result is not None
    return outcome.files[outcome.result["file"]]


@pytest.fixture(params=["halted", "handed over"])
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


# The table


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "statements",
    [
        "ALTER TABLE t ADD COLUMN more TEXT DEFAULT 'x'",
        "CREATE TABLE u (phone TEXT, note TEXT, at TEXT, id INTEGER PRIMARY KEY);"
        f"INSERT INTO u SELECT phone, note, at, id FROM t; {REBUILT}",
    ],
    ids=["a column is added", "the columns come in another order"],
)
def test_an_export_goes_on_with_the_columns_that_it_began_with(
    settings: Settings, way: str, statements: str, file_format: str
) -> None:
    undisturbed = file_of(run(settings, format=file_format))

    changed = run(settings, lambda folder: execute(folder, statements), way, format=file_format)

    assert file_of(changed) == undisturbed


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ("ALTER TABLE t DROP COLUMN note", "has lost the column 'note' since this export began"),
        ("ALTER TABLE t RENAME COLUMN note TO remark", "has lost the column 'note' since this export began"),
        (
            "CREATE TABLE u (id INTEGER PRIMARY KEY, at TEXT, note INTEGER, phone TEXT);"
            f"INSERT INTO u SELECT id, at, id, phone FROM t; {REBUILT}",
            "The column 'note' of table 't' of dataset 'one' was of type string when this export began,",
        ),
        (
            "ALTER TABLE t DROP COLUMN note; ALTER TABLE t ADD COLUMN note TEXT DEFAULT '5'",
            "The column 'note' has changed since this export of table 't' of dataset 'one' began.",
        ),
    ],
    ids=["dropped", "renamed", "retyped", "replaced"],
)
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_an_export_fails_at_once_if_a_column_that_it_began_with_has_changed(
    settings: Settings, way: str, statements: str, says: str, file_format: str
) -> None:
    outcome = run(settings, lambda folder: execute(folder, statements), way, format=file_format)

    assert outcome.status == "failed"
    assert outcome.error is not None
    assert says in outcome.error
    assert outcome.error.endswith("Submit a new export."), "it is Fatal, and says what to do"


def test_a_column_that_is_not_exported_may_change(settings: Settings, way: str) -> None:
    undisturbed = file_of(run(settings, columns=["id", "phone"]))

    changed = run(
        settings, lambda folder: execute(folder, "ALTER TABLE t DROP COLUMN note"), way, columns=["id", "phone"]
    )

    assert file_of(changed) == undisturbed


# The list of datasets


def rewrite(text: str) -> Change:
    return lambda folder: (folder / "datasets.toml").write_text(text) and None


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (ENTRY.replace("data.db", "other.db"), "url"),
        (ENTRY.replace('"t"', '"u"'), "table"),
        (ENTRY.replace('"at"', '"note"'), "date_column"),
        (ENTRY.replace('"id"', '"phone"'), "key"),
        (ENTRY + 'date_format = "t"', "date_format"),
        (ENTRY + 'timezone = "Europe/Vienna"', "timezone"),
    ],
)
def test_an_export_fails_at_once_if_its_dataset_is_configured_in_another_way(
    settings: Settings, way: str, entry: str, field: str
) -> None:
    outcome = run(settings, rewrite(entry), way)

    assert outcome.status == "failed"
    table = "u" if field == "table" else "t"
    assert outcome.error == (
        f"The {field} has changed since this export of table '{table}' of dataset 'one' began. Submit a new export."
    )


def test_an_export_without_a_dataset_keeps_the_one_it_began_with_if_another_is_added(
    settings: Settings, way: str
) -> None:
    undisturbed = file_of(run(settings))

    changed = run(settings, rewrite(ENTRY + ENTRY.replace("[one]", "[another]")), way)

    assert file_of(changed) == undisturbed
    assert changed.details["dataset"] == "one"


def test_an_export_without_a_dataset_does_not_go_on_with_another_one(settings: Settings, way: str) -> None:
    outcome = run(settings, rewrite(ENTRY.replace("[one]", "[another]")), way)

    assert outcome.error == "there is no dataset 'one'; known datasets: another."


def test_a_bad_entry_of_another_dataset_does_not_disturb_an_export(settings: Settings, way: str) -> None:
    undisturbed = file_of(run(settings))

    changed = run(settings, rewrite(ENTRY + '[another]\nurl = "sqlite:///x.db"\ntabel = "t"\n'), way)

    assert file_of(changed) == undisturbed


def test_a_list_that_cannot_be_read_is_tried_again_and_not_fatal(settings: Settings, way: str) -> None:
    outcome = run(settings, rewrite(ENTRY + "[another\n"), way)

    assert outcome.error is not None
    assert outcome.error.startswith("DatasetAway: the operator's list of datasets cannot be read")


def test_a_new_password_is_no_other_dataset() -> None:
    def of(url: str) -> Dataset:
        return Dataset(name="one", url=make_url(url), table="t", date_column="at", key="id", date_format=None)

    plan = Plan.begin(of("postgresql://me:old@host/db"), pa.schema([("id", pa.int64())]), {})

    plan.check_dataset(of("postgresql://me:new@host/db"))
    with pytest.raises(Fatal, match="The url has changed since this export of table 't' of dataset 'one' began"):
        plan.check_dataset(of("postgresql://me:old@other/db"))
    assert "old" not in str(plan.to_json())


def test_a_server_that_reads_values_in_another_way_is_not_gone_on_with() -> None:
    url = make_url("postgresql://me@host/db")
    dataset = Dataset(name="one", url=url, table="t", date_column="at", key="id", date_format=None)
    schema = pa.schema([("id", pa.int64())])
    before = {"time zone": "UTC", "column id": "bigint", "column other": "text"}
    plan = Plan.from_json(Plan.begin(dataset, schema, before).to_json())

    plan.check_database(dataset, schema, before | {"column other": "json", "column new": "text"})
    with pytest.raises(Fatal, match="The time zone has changed since this export of table 't' of dataset 'one' began"):
        plan.check_database(dataset, schema, before | {"time zone": "Europe/Vienna"})
    with pytest.raises(Fatal, match="The column 'id' has changed since this export of table 't' of dataset 'one'"):
        plan.check_database(dataset, schema, before | {"column id": "numeric"})


def test_the_date_format_that_was_detected_is_kept() -> None:
    schema = pa.schema([("id", pa.int64())])
    url = make_url("sqlite:///data.db")
    dataset = Dataset(name="one", url=url, table="t", date_column="at", key="id", date_format=None)
    given = Dataset(name="one", url=url, table="t", date_column="at", key="id", date_format=DateFormat.UNIX)

    detected = Plan.from_json(Plan.begin(dataset, schema, {"date_format": "t"}).to_json())
    configured = Plan.begin(given, schema, {"date_format": "unix"})

    assert detected.applied(dataset).date_format is DateFormat.T
    assert configured.applied(given) == given
    assert Plan.begin(dataset, schema, {}).applied(dataset) == dataset


# Cursors


def test_a_cursor_of_an_earlier_version_makes_the_export_start_over(settings: Settings) -> None:
    undisturbed = file_of(run(settings))
    old = {"date": "2024-03-02 10:00:00", "key": 6, "rows": 7, "next_rows": 7, "part": "export-1.csv.part"}

    outcome = trial.run(SmallExport, MARCH, settings=settings, cursor=old | {"bytes": 9, "sha256": "0" * 64})

    assert file_of(outcome) == undisturbed
    assert any("starts over: another version of the service began it" in line for line in outcome.log)


def test_a_part_that_is_lost_while_the_job_is_halted_is_made_again_from_its_first_row(
    settings: Settings, way: str
) -> None:
    undisturbed = file_of(run(settings))

    class Loses(SmallExport):
        def halt(self) -> None:
            super().halt()
            (self.workdir / self.cursor["part"]).unlink()

    restart = {"restart_after": 4} if way == "handed over" else {}
    outcome = trial.run(Loses, MARCH, settings=settings, halt_after=4, **restart)  # type: ignore[arg-type]

    assert file_of(outcome) == undisturbed


# The end


class Faulty(SqliteReader):
    """A reader that loses the row with the key 11."""

    def read(self, columns: list[str], *where: Any) -> tuple[pa.Table, Any]:
        """Return the next rows without that one."""
        rows, place = super().read(columns, *where)
        return rows.filter(pa.compute.field("id") != 11), place


def test_rows_that_were_counted_are_told(settings: Settings) -> None:
    result = run(settings).result

    assert result is not None
    assert (result["rows"], result["rows_checked"], result["snapshot"], result["notes"]) == (40, True, False, [])


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_an_export_that_lost_a_row_is_not_completed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    monkeypatch.setattr(catalog, "open_reader", Faulty)

    outcome = run(settings, format=file_format)

    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.startswith(
        "The export wrote 39 rows of table 't' of dataset 'one', which has 40 in the range and was not written "
        "meanwhile: rows were lost or doubled. Check that its key, the column 'id', is unique"
    )
    assert not any(name.endswith(f"39.{file_format}") for name in outcome.files)


@pytest.mark.parametrize(
    ("statements", "difference"),
    [
        ("INSERT INTO t VALUES (-1, '2024-03-01', '', ''), (-2, '2024-03-01', '', '')", "2 more"),
        ("DELETE FROM t WHERE id < 3", "3 fewer"),
        ("UPDATE t SET at = '2024-03-01' WHERE id = 39", "1 more"),
        ("UPDATE t SET at = '2024-03-30' WHERE id = 0", "1 fewer"),
    ],
    ids=["added before", "removed before", "moved to before", "moved to after"],
)
def test_a_table_that_is_written_meanwhile_is_noted_with_the_difference(
    settings: Settings, way: str, statements: str, difference: str
) -> None:
    outcome = run(settings, lambda folder: execute(folder, statements), way)

    assert outcome.status == "completed"
    assert outcome.result is not None
    assert not outcome.result["rows_checked"]
    assert outcome.result["notes"] == [
        "The table was written while the export ran: at the end it had "
        f"{difference} {'row' if difference[0] == '1' else 'rows'} in the range than the file."
    ]


def test_more_rows_than_can_be_counted_are_noted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "COUNT_LIMIT", 30)
    monkeypatch.setattr(SqliteReader, "total", lambda *_: pytest.fail("it must not be counted"))

    result = run(settings).result

    assert result is not None
    assert not result["rows_checked"]
    assert result["notes"] == ["The rows were not counted at the end: there are more than 30."]


def test_whether_rows_were_lost_is_left_open_if_nothing_tells_that_the_table_was_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "open_reader", Faulty)
    monkeypatch.setattr(Faulty, "warnings", lambda *_: ["no index on (at, id): the database sorts"])
    monkeypatch.setattr(counting.table_changes, "find_mark", lambda _: None)

    result = run(settings).result

    assert result is not None
    assert not result["rows_checked"]
    assert "1 more row in the range than the file. It is unknown whether the table was written" in result["notes"][1]


def test_what_makes_an_export_slow_is_logged_and_noted_and_it_is_not_counted_first(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteReader, "warnings", lambda *_: ["no index on (at, id): the database sorts"])
    monkeypatch.setattr(SqliteReader, "count", lambda *_: pytest.fail("counting sorts"))

    outcome = run(settings, lambda folder: None, "handed over")

    assert outcome.result is not None
    assert outcome.result["notes"] == ["no index on (at, id): the database sorts"]
    assert outcome.result["rows_checked"]
    assert sum("no index on" in line and line.startswith("WARNING") for line in outcome.log) == 1


def test_a_dataset_that_cannot_be_exported_exactly_is_refused_before_a_row_is_written(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise Fatal("The key may be NULL.")

    monkeypatch.setattr(SqliteReader, "check", refuse)

    outcome = run(settings)

    assert (outcome.error, outcome.checkpoints, outcome.files) == ("The key may be NULL.", (), {})


def test_an_export_of_no_rows_has_a_total_of_zero(settings: Settings) -> None:
    outcome = run(settings, from_date="2030-01-01", to_date="2030-01-31")

    assert outcome.status == "completed"
    assert (outcome.checkpoints[-1].done, outcome.checkpoints[-1].total) == (0, 0)


def test_the_total_grows_if_rows_are_added_while_the_export_runs(settings: Settings, way: str) -> None:
    added = ", ".join(f"({n}, '2024-03-30', '', '')" for n in range(100, 110))

    outcome = run(settings, lambda folder: execute(folder, f"INSERT INTO t VALUES {added}"), way)

    assert all(each.total is None or each.done is None or each.done <= each.total for each in outcome.checkpoints)
    assert (outcome.checkpoints[-1].done, outcome.checkpoints[-1].total) == (50, 50)


# What some readers offer


class Loose(SqliteReader):
    """A reader that finds ids which are not numbers, and makes text of them."""

    _texts: tuple[str, ...] = ()

    def mixed_columns(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return id."""
        return ["id"]

    def fix_types(self, as_text: list[str]) -> None:
        """Make these columns text."""
        self._texts = tuple(as_text)

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types, those that were settled too."""
        found = super().schema(chosen)
        return pa.schema([field.with_type(pa.string()) if field.name in self._texts else field for field in found])

    def read(self, columns: list[str], *where: Any) -> tuple[pa.Table, Any]:
        """Return the next rows with the settled types."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "_texts", ())
            rows, place = super().read(columns, *where)
        return rows.cast(self.schema(columns)), place


def test_a_column_with_values_of_other_types_is_text_in_parquet_and_the_result_notes_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(catalog, "open_reader", Loose)

    outcome = run(settings, lambda folder: None, way, format="parquet")
    as_csv = run(settings, lambda folder: None, way, format="csv")

    assert outcome.result is not None
    assert as_csv.result is not None
    table = pa.parquet.read_table(pa.BufferReader(file_of(outcome)))
    assert table["id"].to_pylist() == [str(row[0]) for row in ROWS]
    assert outcome.result["notes"] == [
        "The column 'id' is text in the file: some of its values do not have its declared type."
    ]
    assert as_csv.result["notes"] == []


class Slow(SqliteReader):
    """A reader that waits in its fourth read, and is closed meanwhile."""

    reads: ClassVar[int] = 0

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.on_wait: Callable[[], None] | None = None

    def read(self, columns: list[str], *where: Any) -> tuple[pa.Table, Any]:
        """Return the next rows."""
        found = super().read(columns, *where)
        type(self).reads += 1
        if type(self).reads == 4 and self.on_wait is not None:
            self.on_wait()
        return found


@pytest.mark.parametrize("is_lost", [False, True], ids=["the part is kept", "the part is lost"])
def test_a_halt_is_obeyed_while_the_reader_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    undisturbed = file_of(run(settings))
    monkeypatch.setattr(catalog, "open_reader", Slow)
    monkeypatch.setattr(Slow, "reads", 0)
    halted: list[str] = []

    class Halted(SmallExport):
        def _obey(self) -> None:
            self.halt()
            halted.append(self.cursor["part"])
            if is_lost:
                (self.workdir / self.cursor["part"]).unlink()

    outcome = trial.run(Halted, MARCH, settings=settings)

    assert file_of(outcome) == undisturbed
    assert len(halted) == 1

"""What Export takes, and what it refuses at once: with a sentence that names the fix, and nothing of the operator's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobmanager.config import Settings
from jobmanager.errors import InvalidRequest
from jobmanager.jobs.export.catalog import find_dataset
from jobmanager.jobs.export.datasets import load_datasets
from jobmanager.jobs.export.job import Export
from jobmanager.registry import parse_args

YEAR = {"from_date": "2024-01-01", "to_date": "2024-12-31"}
ONE = '[one]\nurl = "sqlite:///data.db"\ntable = "t"\ndate_column = "at"\nkey = "id"\n'
TWO = ONE + ONE.replace("[one]", "[two]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, score REAL)")
    return tmp_path


def settings_with(folder: Path, toml: str) -> Settings:
    (folder / "datasets.toml").write_text(toml)
    return Settings(data_dir=folder)


def refusal(settings: Settings, **args: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_args(Export, YEAR | args, settings)
    return str(caught.value)


def test_the_only_dataset_needs_no_name(folder: Path) -> None:
    settings = settings_with(folder, ONE)

    args = parse_args(Export, YEAR, settings)

    assert args.model_dump() == YEAR | {"dataset": None, "format": "csv", "columns": None}
    assert find_dataset(None, settings).name == "one"


def test_of_several_datasets_one_has_to_be_named(folder: Path) -> None:
    settings = settings_with(folder, TWO)

    assert refusal(settings) == "dataset must be one of: one, two"
    assert refusal(settings, dataset="three") == "there is no dataset 'three'; known datasets: one, two"
    assert parse_args(Export, YEAR | {"dataset": "two"}, settings)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"from_date": "soon"}, "from_date: must be a date"),
        ({"to_date": "2024-02-30"}, "to_date: must be a date"),
        ({"from_date": "2025-01-01"}, "from_date must not be after to_date"),
        ({"from_date": "2024-12-31T10:00", "to_date": "2024-12-31T09:59"}, "from_date must not be after to_date"),
        ({"from_date": "9999-12-31", "to_date": "9999-12-30"}, "from_date must not be after to_date"),
        ({"columns": ["id", "colour", "size"]}, "unknown columns colour, size; known columns: id, at, score"),
        ({"columns": ["id", "id"]}, "columns must not name a column twice"),
        ({"columns": []}, "columns: List should have at least 1 item"),
        ({"columns": ["id"] * 1001}, "columns: List should have at most 1000 items"),
        ({"columns": ["x" * 256]}, "columns.0: String should have at most 255 characters"),
        ({"columns": [f"c{n}" for n in range(60)]}, "c48, c49 and 10 more; known columns: id, at, score"),
        ({"from_date": "2024-01-01T00:00:00." + "0" * 60}, "from_date: String should have at most 64 characters"),
        ({"dataset": "x" * 256}, "dataset: String should have at most 255 characters"),
        ({"format": "xlsx"}, "format: Input should be 'csv', 'jsonl' or 'parquet'"),
        ({"url": "sqlite:///etc"}, "url: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_succeed_is_refused_at_once(folder: Path, args: dict[str, Any], says: str) -> None:
    assert says in refusal(settings_with(folder, ONE), **args)


@pytest.mark.parametrize(
    ("from_date", "to_date"),
    [
        ("2024-03-09", "2024-03-09"),
        ("2024-03-09T12:00", "2024-03-09"),
        ("2024-03-09T12:00", "2024-03-09T12:00"),
        ("9999-12-31", "9999-12-31"),
        ("0001-01-01", "0001-Jan-01"),
    ],
)
def test_a_range_may_be_a_day_a_moment_or_the_end_of_time(folder: Path, from_date: str, to_date: str) -> None:
    assert parse_args(Export, {"from_date": from_date, "to_date": to_date}, settings_with(folder, ONE))


def test_columns_are_taken_as_given_while_the_database_is_away(folder: Path) -> None:
    settings = settings_with(folder, ONE)
    (folder / "data.db").unlink()

    assert parse_args(Export, YEAR | {"columns": ["whatever"]}, settings)
    assert not (folder / "data.db").exists(), "asking must not make the file"


def test_a_job_that_was_accepted_before_does_not_depend_on_the_list_of_datasets(folder: Path) -> None:
    settings = settings_with(folder, "[one")

    assert "cannot be read" in refusal(settings)
    assert parse_args(Export, YEAR | {"columns": ["gone"]}, settings, is_stored=True)


def test_without_a_dataset_the_operator_is_asked_for_one(folder: Path) -> None:
    assert "no dataset is configured" in refusal(Settings(data_dir=folder))


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[one", "cannot be read"),
        ("one = 1", "'one' cannot be used: it must be a table with url, table, date_column, key (line 1 of"),
        (
            '[one]\nurl = "sqlite://"',
            "'one' cannot be used: it lacks table, date_column, key (line 1 of the operator's list)",
        ),
        (ONE.replace("sqlite:///data.db", "secret"), "'one' cannot be used: url must be an SQLAlchemy URL, as in"),
        (ONE.replace("sqlite:///data.db", "pg://u:secret@h:port/x"), "url must be an SQLAlchemy URL, as in"),
        (ONE + 'date_format = "secret"', "date_format must be one of space, t, iso, unix"),
        (ONE + 'passwort = "secret"', "'one' cannot be used: unknown field passwort; known fields: url, table"),
        (ONE.replace("data.db", "jobmanager.db"), "'one' is the service's own database"),
        (ONE.replace("data.db", "x/../jobmanager.db"), "'one' is the service's own database"),
    ],
)
def test_a_wrong_list_of_datasets_is_told_in_our_words(folder: Path, toml: str, says: str) -> None:
    told = refusal(settings_with(folder, toml))

    assert says in told
    assert "secret" not in told
    assert str(folder) not in told


def test_the_path_of_a_dataset_is_relative_to_the_list_and_its_password_is_not_shown(folder: Path) -> None:
    settings_with(
        folder, ONE + '[pg]\nurl = "postgresql://me:secret@host/db"\ntable = "t"\ndate_column = "at"\nkey = "id"'
    )

    datasets = load_datasets(folder / "datasets.toml")

    assert datasets["one"].url.database == str(folder / "data.db")
    assert datasets["pg"].url.password == "secret"
    assert "secret" not in repr(datasets)

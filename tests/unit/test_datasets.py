"""The operator's list of datasets: what it may say, what it may not, and what the tables it names have to be."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pytest

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import (
    Dataset,
    DatasetAway,
    Datasets,
    ListUnreadable,
    load_datasets,
)
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.errors import away_error, row_of, type_error, unusable_error
from jobmanager.jobs.export.readers.sqlalchemy import check_order
from jobmanager.jobs.export.schemas import check_table, schema_of

ONE = '[one]\nurl = "sqlite:///data.db"\ntable = "t"\ndate_column = "at"\nkey = "id"\n'
SECRETS = ("secret", "sqlite", "postgresql", "TOML", "Traceback")


def load(folder: Path, toml: str) -> Datasets:
    (folder / "datasets.toml").write_text(toml, encoding="utf-8")
    return load_datasets(folder / "datasets.toml")


@pytest.fixture
def one(tmp_path: Path) -> Dataset:
    return load(tmp_path, ONE)["one"]


def test_a_list_may_be_missing_or_empty(tmp_path: Path) -> None:
    assert load_datasets(tmp_path / "none.toml") == {}
    assert load(tmp_path, "# nothing yet\n") == {}


def test_every_field_is_taken_as_it_is_written(tmp_path: Path) -> None:
    found = load(tmp_path, ONE.replace("[one]", '["naïve name"]') + 'date_format = "unix"\n')["naïve name"]

    assert (found.name, found.table, found.date_column, found.key) == ("naïve name", "t", "at", "id")
    assert found.date_format is DateFormat.UNIX


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///data.db", "{}/data.db"),
        ("sqlite:///x/../y.db", "{}/x/../y.db"),
        ("sqlite:////abs/x.db", "/abs/x.db"),
    ],
)
def test_a_relative_file_is_looked_for_beside_the_list(tmp_path: Path, url: str, path: str) -> None:
    found = load(tmp_path, ONE.replace("sqlite:///data.db", url))["one"]

    assert found.url.database == path.format(tmp_path)


def test_a_relative_file_is_found_even_if_the_list_is_named_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, ONE)
    monkeypatch.chdir(tmp_path)

    assert load_datasets(Path("datasets.toml"))["one"].url.database == str(tmp_path / "data.db")


@pytest.mark.parametrize("field", ["url", "table", "date_column", "key"])
@pytest.mark.parametrize("value", [None, '""', "7", "[]"])
def test_a_field_that_is_missing_empty_or_no_text_is_named(tmp_path: Path, field: str, value: str | None) -> None:
    lines = [line for line in ONE.splitlines() if not line.startswith(f"{field} =")]
    lines += [f"{field} = {value}"] if value else []

    fault = load(tmp_path, "\n".join(lines)).faults["one"]

    assert fault.startswith(f"dataset 'one' cannot be used: {'it lacks ' if value is None else ''}{field}")


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("one = 'secret'", "it must be a table with url, table, date_column, key (line 1 "),
        (ONE.replace("sqlite:///data.db", "secret"), "url must be an SQLAlchemy URL, as in sqlite:///data.db (line 2 "),
        (ONE.replace("sqlite:///data.db", "postgresql://u:secret@h:secret/d"), "url must be an SQLAlchemy URL"),
        (ONE.replace("sqlite:///data.db", "postgresql://u:p@secret@h/d"), "url cannot be used: it has more than one @"),
        (ONE + 'date_format = "secret"', "date_format must be one of space, t, iso, unix, "),
        (ONE + "date_format = []", "date_format must be one of space, t, iso, unix, "),
        (ONE + 'date_format = "%d.%m.secret"', "the date_format does not sort as time"),
        (ONE + 'date_format = "number %Y-%m"', "a date_format for numbers must have directives only"),
        (ONE + 'timezone = "secret"', "the timezone is not known; use a name such as Europe/Berlin (line 6 "),
        (ONE + 'timezone = "../secret"', "the timezone is not known; use a name such as Europe/Berlin"),
        (ONE + "timezone = 2", "the timezone is not known; use a name such as Europe/Berlin"),
        (ONE + "snapshot = 1", "snapshot must be true or false (line 6 "),
        (ONE.replace("sqlite:///", "duckdb:///") + "snapshot = true", "snapshot must be false: only datasets of Postg"),
        (ONE + 'password = "secret"', "unknown field password; known fields: url, table, date_column, key, "),
        (ONE.replace("date_column", "date_colum"), "unknown field date_colum (did you mean date_column?); known"),
        (ONE.replace('"id"', '["a", "b"]'), "key must name one column; if only several columns together are unique"),
    ],
)
def test_a_bad_entry_is_named_with_its_line_and_without_its_value(tmp_path: Path, toml: str, says: str) -> None:
    found = load(tmp_path, toml)

    assert found == {}
    assert found.faults["one"].startswith(f"dataset 'one' cannot be used: {says}")
    assert "secret" not in found.faults["one"]
    assert str(tmp_path) not in found.faults["one"]


def test_a_bad_entry_disables_only_its_own_dataset(tmp_path: Path) -> None:
    two = ONE.replace("[one]", '["two"] # the second').replace("key =", "ky  =")
    found = load(tmp_path, f"{ONE}\n{two}\n{ONE.replace('[one]', '[three]')}")

    assert list(found) == ["one", "three"]
    assert list(found.faults) == ["two"]
    assert "unknown field ky (did you mean key?)" in found.faults["two"]
    assert "(line 11 of the operator's list)" in found.faults["two"], "not that of the same field of another entry"


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ('one = {url = "secret"}', 1),
        ('\n\none.url = "secret"', 3),
        ('[other]\nkey = 1\n\n[one]\nkey = ""\nurl = "sqlite:///x"\ntable = "t"\ndate_column = "d"', 5),
        ('# [one]\n[ "one" ]\n  "table" = 7\nurl = "sqlite:///x"\ndate_column = "d"\nkey = "id"', 3),
    ],
)
def test_the_line_of_an_entry_is_found_however_it_is_written(tmp_path: Path, toml: str, line: int) -> None:
    assert f"(line {line} of the operator's list)" in load(tmp_path, toml).faults["one"]


@pytest.mark.parametrize(("toml", "line"), [("[one\nsecret", "line 1"), (f'{ONE}\n[two]\nurl = "secret\\q"', "line 8")])
def test_a_list_that_is_not_toml_is_refused_with_the_line(tmp_path: Path, toml: str, line: str) -> None:
    with pytest.raises(ListUnreadable, match=f"not valid TOML at {line}; its error is in the service's log") as caught:
        load(tmp_path, toml)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_url_of_postgresql_is_read_by_psycopg(tmp_path: Path, scheme: str) -> None:
    found = load(tmp_path, ONE.replace("sqlite:///data.db", f"{scheme}://me:p%40@host/db"))["one"]

    assert found.url.drivername == "postgresql+psycopg"
    assert found.url.password == "p@"


def test_time_zone_and_schema_of_the_table_are_taken_as_they_are_written(tmp_path: Path) -> None:
    more = 'timezone = "Europe/Vienna"\nsnapshot = false\n'
    found = load(tmp_path, ONE.replace('"t"', '"sales.orders"') + more)["one"]

    assert (found.table, found.timezone, found.snapshot) == ("sales.orders", "Europe/Vienna", False)


def test_a_list_that_cannot_be_read_is_told_in_our_words_and_its_error_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "datasets.toml").mkdir()

    with pytest.raises(ValueError, match="cannot be read") as caught:
        load_datasets(tmp_path / "datasets.toml")

    assert caught.value.__suppress_context__, "a traceback of it would show the path"
    assert str(tmp_path) not in str(caught.value)
    assert "IsADirectoryError" in caplog.text


def test_a_list_that_is_no_text_is_told_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "datasets.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ValueError, match="cannot be read"):
        load_datasets(tmp_path / "datasets.toml")


def test_a_driver_s_words_go_to_the_service_s_log_and_ours_to_the_client(
    one: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Exception] = []

    with caplog.at_level(logging.ERROR):
        for make in (away_error, unusable_error):
            try:
                raise OSError("secret words of a driver")
            except OSError:
                told.append(make(one))

    assert [type(error) for error in told] == [DatasetAway, Fatal]
    assert caplog.text.count("OSError: secret words of a driver") == 2
    assert all("'one'" in str(error) and "service's log" in str(error) for error in told)
    assert not any(secret in str(error) for secret in SECRETS for error in told)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ([], "The table 't' of dataset 'one' does not exist"),
        (["id", "x"], "The table 't' of dataset 'one' has no column 'at', which is configured as its date_column"),
        (["at"], "The table 't' of dataset 'one' has no column 'id', which is configured as its key"),
    ],
)
def test_a_table_without_its_date_or_key_is_refused_for_good(one: Dataset, columns: list[str], says: str) -> None:
    with pytest.raises(Fatal, match=says):
        check_table(one, dict.fromkeys(columns, pa.string()))


def test_the_chosen_columns_have_their_types_in_the_order_asked_for(one: Dataset) -> None:
    columns = {"a": pa.int64(), "b": pa.string(), "c": pa.float64()}

    assert schema_of(one, ["c", "a"], columns) == pa.schema([("c", pa.float64()), ("a", pa.int64())])
    with pytest.raises(Fatal, match=r"'t' of dataset 'one' has no column 'x', 'y'\. .* that it has: a, b, c"):
        schema_of(one, ["x", "a", "y"], columns)


def test_going_on_behind_a_key_that_comes_twice_is_refused(one: Dataset) -> None:
    place = Place(date="2024-03-09", key=7)

    check_order(one, place, None)
    check_order(one, place, Place(date="2024-03-09", key=8))
    check_order(one, place, Place(date="2024-03-10", key=7))
    with pytest.raises(Fatal, match=r"Key 'id' of table 't' of dataset 'one' is not unique: .* a key equal to 7"):
        check_order(one, place, Place(date="2024-03-09", key=7))


@pytest.mark.parametrize(("declared", "told"), [("INTEGER", "INTEGER"), ("", "none")])
def test_a_value_that_does_not_fit_names_column_and_type_and_row(one: Dataset, declared: str, told: str) -> None:
    error = type_error(one, "score", declared, row_of(one, "a" * 100))

    assert str(error) == (
        f"Column 'score' of table 't' of dataset 'one' has a value that does not fit its declared type, {told}, in the "
        f"row with id = '{'a' * 79}…. Correct it, or leave the column out."
    )

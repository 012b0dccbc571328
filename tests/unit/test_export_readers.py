"""What comes out of a database is what is in it: kinds of columns, dates, keys, and places to go on from."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import polars
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.position import Place, Unstorable
from jobmanager.jobs.export.reader import Reader
from jobmanager.jobs.export.readers.errors import InvalidJson
from jobmanager.jobs.export.readers.sqlalchemy import SqlReader
from jobmanager.jobs.export.readers.sqlite import SqliteReader

BEGIN, END = datetime(2024, 3, 1), datetime(2024, 4, 1)
READERS = {"adbc": SqliteReader, "sqlalchemy": SqlReader}


@pytest.fixture(params=READERS)
def kind(request: pytest.FixtureRequest) -> Any:
    return READERS[request.param]


def table(path: Path, columns: str, rows: list[tuple[Any, ...]], index: str = "at, id") -> Path:
    """Make a database with one table t."""
    with closing(sqlite3.connect(path / "data.db")) as connection, connection:
        connection.execute(f"CREATE TABLE t ({columns})")
        connection.execute(f"CREATE INDEX by_date ON t ({index})")
        for row in rows:
            connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(row))})", row)
    return path / "data.db"


def dataset(path: Path, date_format: DateFormat | None = None, name: str = "t") -> Dataset:
    url = make_url(f"sqlite:///{path}")
    return Dataset(name="set", url=url, table=name, date_column="at", key="id", date_format=date_format)


def body(name: str, rows: pa.Table) -> bytes:
    return b"".join(ENCODINGS[name].body(rows, 0))


def read_all(reader: Reader, columns: list[str], limit: int) -> list[dict[str, Any]]:
    """Read everything in chunks, going on from places that a cursor has kept."""
    found: list[dict[str, Any]] = []
    place: Place | None = None
    while True:
        rows, place = reader.read(columns, place, BEGIN, END, limit)
        if place is None:
            assert rows.num_rows == 0
            return found
        assert 0 < rows.num_rows <= limit
        found += rows.to_pylist()
        place = Place.from_json(json.loads(json.dumps(place.to_json())))


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 11, 100])
def test_rows_of_one_date_are_neither_lost_nor_doubled_wherever_a_chunk_ends(
    tmp_path: Path, kind: Any, limit: int
) -> None:
    dates = ["2024-02-29 23:59:59", *["2024-03-01 00:00:00"] * 7, "2024-03-02", "2024-03-31 23:59:59", "2024-04-01"]
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT", list(enumerate(dates)))

    with closing(kind(dataset(path))) as reader:
        rows = read_all(reader, ["id"], limit)

    assert [row["id"] for row in rows] == list(range(1, 10))


@pytest.mark.parametrize("step", [1, 2, 3, 8, 9, 100])
def test_counting_in_steps_counts_every_row_once(tmp_path: Path, kind: Any, step: int) -> None:
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT", [(n, f"2024-03-{1 + n // 5:02}") for n in range(9)])
    counted, place = 0, None

    with closing(kind(dataset(path))) as reader:
        while True:
            more, place = reader.count(place, BEGIN, END, step)
            counted += more
            if place is None:
                break

    assert counted == 9


@pytest.mark.parametrize(
    ("date_format", "values"),
    [
        (None, ["2024-02-29 23:59:59", "2024-03-01 00:00:00", "2024-03-31 23:59:59.999", "2024-04-01 00:00:00"]),
        (None, ["2024-02-29", "2024-03-01", "2024-03-31", "2024-04-01"]),
        (None, [1709251199, 1709251200, 1711929599, 1711929600]),
        (None, [1709251199.9, 1709251200.0, 1711929599.9, 1711929600.0]),
        (DateFormat.UNIX, [1709251199, 1709251200, 1711929599, 1711929600]),
        (None, [1709251199999, 1709251200000, 1711929599999, 1711929600000]),
        (None, [1709251199999999, 1709251200000000, 1711929599999999, 1711929600000000]),
        (None, [2460370.49999, 2460370.5, 2460401.49999, 2460401.5]),
        (None, ["20240229", "20240301", "20240331", "20240401"]),
        (DateFormat.YYYYMMDD, [20240229, 20240301, 20240331, 20240401]),
        (DateFormat("number %Y%m"), [202402, 202403, 202403, 202404]),
        (DateFormat("%Y/%m/%d %H:%M"), ["2024/02/29 23:59", "2024/03/01", "2024/03/31 23:59", "2024/04/01"]),
        (None, ["", "2024-03-01T00:00", "2024-03-31T23:00", "2024-04-01T00:00"]),
    ],
)
def test_dates_are_found_in_whatever_form_the_column_keeps_them(
    tmp_path: Path, kind: Any, date_format: DateFormat | None, values: list[Any]
) -> None:
    declared = "TEXT" if isinstance(values[0], str) else "REAL"
    path = table(tmp_path, f"id INTEGER PRIMARY KEY, at {declared}", list(enumerate(values)))

    with closing(kind(dataset(path, date_format))) as reader:
        rows = read_all(reader, ["id"], 1)

    assert [row["id"] for row in rows] == [1, 2]


@pytest.mark.parametrize(
    "values",
    [
        [20240229, 20240301],
        [2024, 2023],
        ["1709251199", "1709251200"],
        ["3/1/2024", "3/31/2024"],
        ["01.03.2024", "31.03.2024"],
        # Only one of many is of another form.
        [*(f"2024-03-{day:02}" for day in range(1, 32)), "n/a"],
        [1709251200, "2024-03-01"],
        [b"2024-03-01"],
    ],
    ids=str,
)
def test_dates_of_no_known_form_fail_the_export_for_good_and_are_shown(
    tmp_path: Path, kind: Any, values: list[Any]
) -> None:
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at", list(enumerate(values)))

    with (
        closing(kind(dataset(path))) as reader,
        pytest.raises(Fatal, match="table 't' of dataset 'set' cannot be exported by its column 'at': ") as caught,
    ):
        read_all(reader, ["id"], 1)

    assert repr(values[-1]) in str(caught.value)


ISO_TEXTS = [
    ["2024-02-29T23:59:59", "2024-03-01T00:00:00Z", "2024-03-31T23:59", "2024-04-01T00:00:00Z"],
    ["2024-02-29T23:59:59.9Z", "2024-03-01T00:00:00Z", "2024-03-31T23:59:59.9Z", "2024-04-01T00:00:00Z"],
    ["2024-03-01T00:30:00+02:00", "2024-03-01 00:00Z", "2024-03-31T22:30-01:00", "2024-03-31T23:30-05:00"],
]


@pytest.mark.parametrize("values", ISO_TEXTS)
def test_mixed_iso_texts_are_compared_as_instants_in_sqlite(tmp_path: Path, values: list[str]) -> None:
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT", list(enumerate(values)))

    with closing(SqliteReader(dataset(path))) as reader:
        rows = read_all(reader, ["id"], 1)

    assert [row["id"] for row in rows] == [1, 2]


@pytest.mark.parametrize("values", ISO_TEXTS)
def test_mixed_iso_texts_of_other_databases_are_refused(tmp_path: Path, values: list[str]) -> None:
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT", list(enumerate(values)))

    with closing(SqlReader(dataset(path))) as reader, pytest.raises(Fatal, match="iso is supported for SQLite only"):
        read_all(reader, ["id"], 1)


def test_iso_texts_of_which_one_is_not_understood_fail_the_export(tmp_path: Path) -> None:
    values = ["2024-03-01T00:30+02:00", "2024-03-02T00:30:00+02:00"] * 600
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT", list(enumerate(values)))
    with closing(sqlite3.connect(path)) as connection, connection:
        # In the middle of the table and of the index, where no sample looks.
        connection.execute("UPDATE t SET at = '2024-03-01T25:30' WHERE id = 800")

    with (
        closing(SqliteReader(dataset(path))) as reader,
        pytest.raises(Fatal, match="not fit date_format iso: '2024-03-01T25:30'"),
    ):
        read_all(reader, ["id"], 1)


def test_dates_without_a_zone_are_taken_in_that_of_the_dataset(tmp_path: Path, kind: Any) -> None:
    values = ["2024-03-01 00:59", "2024-03-01 01:00", "2024-04-01 01:59", "2024-04-01 02:00"]
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT", list(enumerate(values)))

    with closing(kind(replace(dataset(path), timezone="Europe/Berlin"))) as reader:
        rows = read_all(reader, ["id"], 1)

    # March, in UTC.
    assert [row["id"] for row in rows] == [1, 2]


@pytest.mark.parametrize("key", ["a", b"\x00\xff", 2.5, 10**15], ids=["text", "bytes", "real", "integer"])
def test_any_kind_of_key_keeps_the_place_in_a_checkpoint(tmp_path: Path, key: Any) -> None:
    kinds = {str: "TEXT", bytes: "BLOB", float: "REAL", int: "INTEGER"}
    keys = [key * n for n in (1, 2, 3)]
    path = table(tmp_path, f"id {kinds[type(key)]}, at TEXT", [(value, "2024-03-01") for value in keys])

    with closing(SqliteReader(dataset(path))) as reader:
        rows = read_all(reader, ["id"], 1)

    assert [row["id"] for row in rows] == keys


@pytest.mark.parametrize("limit", [2, 3])
def test_a_key_that_is_not_unique_fails_the_job_before_a_row_is_lost(tmp_path: Path, kind: Any, limit: int) -> None:
    path = table(tmp_path, "id INTEGER, at TEXT", [(n // 2, "2024-03-01") for n in range(1, 12)])

    with (
        closing(kind(dataset(path))) as reader,
        pytest.raises(Fatal, match=r"'id' of table 't' of dataset 'set' is not unique: .* a key equal to \d"),
    ):
        read_all(reader, ["id"], limit)


def test_a_key_without_a_value_fails_the_job(tmp_path: Path, kind: Any) -> None:
    path = table(tmp_path, "id INTEGER, at TEXT", [(1, "2024-03-01"), (None, "2024-03-02"), (3, "2024-03-03")])

    with closing(kind(dataset(path))) as reader, pytest.raises(Fatal, match="is NULL in some rows"):
        read_all(reader, ["id"], 10)


def test_each_value_has_its_own_type_whatever_else_a_chunk_holds(tmp_path: Path) -> None:
    declared = "id INTEGER PRIMARY KEY, at TEXT, a INT, b REAL, c VARCHAR(9), d BLOB, e, f NUMERIC(9, 2), g JSON"
    rows: list[tuple[Any, ...]] = [
        (1, "2024-03-01", None, None, None, None, None, None, None),
        (2, "2024-03-01", 7, 7, "7", b"\xff\x00", 7, 7, "[7]"),
        (3, "2024-03-01", None, 1.5, "é", None, 1.5, 0.25, "7"),
        (4, "2024-03-01", -1, None, "", b"", "x", None, None),
    ]
    path = table(tmp_path, declared, rows)

    with closing(SqliteReader(dataset(path))) as reader:
        types = reader.columns()
        one_by_one, at_once = read_all(reader, list("abcdefg"), 1), read_all(reader, list("abcdefg"), 10)

    text, number = pa.string(), pa.float64()
    assert [types[name] for name in "abcdefg"] == [pa.int64(), number, text, pa.binary(), text, number, text]
    assert one_by_one == at_once
    assert at_once == [
        dict.fromkeys("abcdefg"),
        dict(zip("abcdefg", [7, 7.0, "7", b"\xff\x00", 7, 7.0, "[7]"], strict=True)),
        dict(zip("abcdefg", [None, 1.5, "é", None, 1.5, 0.25, 7], strict=True)),
        dict(zip("abcdefg", [-1, None, "", b"", "x", None, None], strict=True)),
    ]


@pytest.mark.parametrize("declared", ["TEXT", "CLOB", ""])
def test_text_that_is_no_text_fails_the_job_instead_of_coming_out_garbled(tmp_path: Path, declared: str) -> None:
    path = table(tmp_path, f"id INTEGER PRIMARY KEY, at TEXT, a {declared}", [(1, "2024-03-01", "fine")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO t VALUES (2, '2024-03-02', CAST(x'41ff42' AS TEXT))")

    with (
        closing(SqliteReader(dataset(path))) as reader,
        pytest.raises(Fatal, match=r"Column 'a' .* in the row with id = 2"),
    ):
        read_all(reader, ["a"], 10)


def test_names_with_quotes_spaces_and_words_of_sql_are_only_names(tmp_path: Path, kind: Any) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute(
            'CREATE TABLE "order ""by""; --" (id INTEGER PRIMARY KEY, at TEXT, "a""b c" INT, "select" INT)'
        )
        connection.execute('INSERT INTO "order ""by""; --" VALUES (1, \'2024-03-01\', 2, 3)')

    with closing(kind(dataset(tmp_path / "data.db", name='order "by"; --'))) as reader:
        rows = read_all(reader, ["select", 'a"b c'], 10)

    assert rows == [{"select": 3, 'a"b c': 2}]


def test_generated_columns_and_views_can_be_exported(tmp_path: Path) -> None:
    rows = [(1, "2024-03-01", 4)]
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at TEXT, a INT, b INT AS (a * 2)", [])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO t (id, at, a) VALUES (?, ?, ?)", rows)
        connection.execute("CREATE VIEW v AS SELECT id, at, a + b AS c FROM t")

    with closing(SqliteReader(dataset(path))) as of_table, closing(SqliteReader(dataset(path, name="v"))) as of_view:
        assert read_all(of_table, list(of_table.columns()), 10) == [{"id": 1, "at": "2024-03-01", "a": 4, "b": 8}]
        assert read_all(of_view, ["c"], 10) == [{"c": 12}]


@pytest.mark.parametrize("missing", ["file", "folder", "database"])
def test_a_database_that_is_not_there_is_away_and_asking_does_not_make_it(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "none" / "data.db" if missing == "folder" else tmp_path / "data.db"
    if missing == "database":
        path.write_bytes(b"no database at all" * 100)

    with pytest.raises(DatasetAway) as caught, closing(SqliteReader(dataset(path))) as reader:
        reader.columns()

    assert str(caught.value) == "The database of dataset 'set' cannot be read; its error is in the service's log."
    assert missing == "database" or not path.exists()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/secret", DatasetAway),
        ("nosuch://me:secret@127.0.0.1:1/secret", Fatal),
        ("mysql+nosuch://me:secret@127.0.0.1:1/secret", Fatal),
    ],
)
def test_a_server_that_is_away_can_be_tried_again_and_a_driver_that_is_missing_cannot(
    tmp_path: Path, url: str, error: type[Exception]
) -> None:
    away = Dataset(name="set", url=make_url(url), table="t", date_column="at", key="id", date_format=None)

    with pytest.raises(error) as caught:
        SqlReader(away)

    assert "secret" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    assert isinstance(caught.value, Fatal) == (error is Fatal)


def test_a_date_column_of_the_database_s_own_is_compared_as_dates(tmp_path: Path) -> None:
    rows = [(1, "2024-02-29"), (2, "2024-03-01"), (3, "2024-03-31"), (4, "2024-04-01")]
    path = table(tmp_path, "id INTEGER PRIMARY KEY, at DATE", rows)

    with closing(SqlReader(dataset(path))) as reader:
        assert reader.columns()["at"] == pa.date32()
        assert [row["id"] for row in read_all(reader, ["id"], 1)] == [2, 3]
        noon = reader.read(["id"], None, datetime(2024, 3, 1, 12), datetime(2024, 3, 31, 12), 10)[0]

    assert noon["id"].to_pylist() == [3], "a date is at its first moment"


@pytest.mark.parametrize(
    "value",
    [
        1,
        1.5,
        float("inf"),
        float("-inf"),
        "x",
        b"\x00",
        date(2024, 3, 9),
        datetime(2024, 3, 9, 1, 2, 3, 4),
        Decimal("1.10"),
        UUID(int=7),
    ],
)
def test_a_place_survives_a_checkpoint(value: Any) -> None:
    place = Place(date=value, key=value)

    again = Place.from_json(json.loads(json.dumps(place.to_json(), allow_nan=False)))

    assert again == place
    assert type(again.key) is type(value)


def test_what_no_checkpoint_can_keep_is_no_key() -> None:
    with pytest.raises(Unstorable, match=r"'key', 'list'"):
        Place(date=1, key=[]).to_json()


def test_bytes_dates_and_odd_numbers_have_one_form_in_each_format() -> None:
    rows = pa.table(
        {
            "bytes": pa.array([b"\x00\xff", b"", None]),
            "number": pa.array([float("inf"), float("nan"), 0.1 + 0.2]),
            "at": pa.array([datetime(2024, 3, 9, 12), None, datetime(2024, 3, 9)], pa.timestamp("us", "UTC")),
            "day": pa.array([date(2024, 3, 9), None, None]),
        }
    )

    lines = body("csv", rows).decode().splitlines()
    objects = [json.loads(line) for line in body("jsonl", rows).splitlines()]

    assert lines == [
        '"AP8=",inf,2024-03-09 12:00:00.000000Z,2024-03-09',
        '"",nan,,',
        ",0.30000000000000004,2024-03-09 00:00:00.000000Z,",
    ]
    assert objects == [
        {"bytes": "AP8=", "number": None, "at": "2024-03-09T12:00:00+00:00", "day": "2024-03-09"},
        {"bytes": "", "number": None, "at": None, "day": None},
        {"bytes": None, "number": 0.1 + 0.2, "at": "2024-03-09T00:00:00+00:00", "day": None},
    ]


def _decimals(digits: int, scale: int) -> list[Decimal | None]:
    with localcontext(prec=100):
        unit = Decimal(1).scaleb(-scale)
        longest = Decimal("9" * digits).scaleb(-scale)
        return [
            longest,
            -longest,
            unit,
            -unit,
            unit * 0,
            None,
            *([Decimal("1.50").quantize(unit)] if 1 < scale < digits else []),
        ]


@pytest.mark.parametrize(
    "kind",
    [pa.decimal128(5, 0), pa.decimal128(12, 2), pa.decimal128(38, 20), pa.decimal256(50, 10), pa.decimal256(76, 76)],
    ids=str,
)
def test_decimals_have_all_their_digits_in_each_format(kind: pa.DataType) -> None:
    values = _decimals(kind.precision, kind.scale)
    rows = pa.table({"n": range(len(values)), "d": pa.array(values, kind)})

    shown = [None if value is None else f"{value:f}" for value in values]
    quoted = [f'{number},"{text}"' if text else f"{number}," for number, text in enumerate(shown)]
    assert body("csv", rows).decode().splitlines() == quoted
    # As text: a reader that makes a float of a number would hide a lost digit.
    lines = [json.loads(line, parse_float=str, parse_int=str) for line in body("jsonl", rows).splitlines()]
    assert [line["d"] for line in lines] == shown
    assert not [line for line in body("jsonl", rows).splitlines() if b'"d":"' in line]


def test_json_is_nested_as_it_is_and_only_where_a_field_says_so() -> None:
    texts = [
        '{"b": 1.50, "a": [1e400, 12345678901234567890123]}',
        "[\n 1,\r\n\t2 ]",
        '"x\\ny"',
        "null",
        None,
        r'"\ud800"',
    ]
    marked = pa.field("j", pa.string(), metadata={b"jobmanager": b"json"})
    rows = pa.table([pa.array(texts), pa.array(texts)], schema=pa.schema([marked, pa.field("t", pa.string())]))

    lines = body("jsonl", rows).decode().splitlines()

    nested = [text.replace("\n", " ").replace("\r", " ") if text else "null" for text in texts]
    assert lines == [f'{{"j":{text},"t":{json.dumps(given)}}}' for text, given in zip(nested, texts, strict=True)]
    assert body("csv", rows.select(["j"])).decode().count("1.50") == 1


@pytest.mark.parametrize("text", ["", "{", "NaN", "[1] x", "{'a': 1}", "[" * 100_000])
def test_text_that_is_not_json_in_a_column_of_json_fails_the_export_by_the_name_of_the_column(text: str) -> None:
    marked = pa.field("j", pa.string(), metadata={b"jobmanager": b"json"})
    rows = pa.table([pa.array(["1", text])], schema=pa.schema([marked]))

    with pytest.raises(InvalidJson) as caught:
        body("jsonl", rows)

    assert (caught.value.column, caught.value.row) == ("j", 1)


@given(st.lists(st.none() | st.datetimes(), min_size=1), st.sampled_from([None, "UTC"]))
def test_any_time_comes_back_from_json_lines_and_csv(times: list[datetime | None], zone: str | None) -> None:
    zoned = [at and at.replace(tzinfo=UTC if zone else None) for at in times]
    rows = pa.table(
        {"n": range(len(times)), "at": pa.array(zoned, pa.timestamp("us", zone)), "note": ['"a",\n'] * len(times)}
    )

    assert [line["at"] for line in _read_json(rows)] == [at and at.isoformat() for at in zoned]
    sink = io.BytesIO()
    pyarrow.csv.write_csv(rows, sink, pyarrow.csv.WriteOptions(include_header=False))
    assert body("csv", rows) == sink.getvalue()


@pytest.mark.parametrize(
    ("values", "kind", "lines"),
    [
        (["a", None, ""], pa.string(), '"a"\n""\n""\n'),
        ([1, None, 3], pa.int64(), '1\n""\n3\n'),
        ([None, None], pa.float64(), '""\n""\n'),
        ([b"\x00", None], pa.binary(), '"AA=="\n""\n'),
        ([True, None], pa.bool_(), 'true\n""\n'),
        ([Decimal("1.50"), None], pa.decimal128(5, 2), '"1.50"\n""\n'),
        ([date(2024, 3, 9), None], pa.date32(), '2024-03-09\n""\n'),
    ],
    ids=str,
)
def test_null_in_a_csv_of_one_column_is_no_blank_line(
    values: list[Any], kind: pa.DataType, lines: str, tmp_path: Path
) -> None:
    rows = pa.table({"note": pa.array(values, kind)})

    data = body("csv", rows)

    assert data.decode() == lines
    whole = bytes(ENCODINGS["csv"].head(rows.schema)) + data
    path = tmp_path / "one.csv"
    path.write_bytes(whole)
    assert len(list(csv.DictReader(io.StringIO(whole.decode(), newline="")))) == len(values)
    assert duckdb.read_csv(str(path), header=True).shape[0] == len(values)
    assert polars.read_csv(path).height == len(values)


def test_what_a_file_cannot_show_is_noted() -> None:
    text, number = pa.schema([("note", pa.string())]), pa.schema([("n", pa.int64())])
    long = pa.schema([("d", pa.decimal256(39, 2)), ("e", pa.decimal128(38, 2))])

    assert ENCODINGS["csv"].notes(text) == [
        "The CSV has one column, 'note', in which \"\" stands for NULL and for empty text."
    ]
    assert ENCODINGS["csv"].notes(number) == ENCODINGS["csv"].notes(long) == ENCODINGS["jsonl"].notes(text) == []
    assert ENCODINGS["parquet"].notes(long) == ["Decimals of more than 38 digits are text in Parquet: 'd'."]
    assert ENCODINGS["parquet"].notes(text) == []


def _read_json(rows: pa.Table) -> list[Any]:
    return [json.loads(line) for line in body("jsonl", rows).split(b"\n")[:-1]]


@given(st.lists(st.none() | st.text(), min_size=1))
def test_any_text_comes_back_from_json_lines_and_csv(texts: list[str | None]) -> None:
    rows = pa.table({'a"\n': pa.array(texts, pa.string()), "b": pa.array(texts, pa.string())})

    lines = _read_json(rows)
    back = pyarrow.csv.read_csv(
        io.BytesIO(bytes(ENCODINGS["csv"].head(rows.schema)) + body("csv", rows)),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=rows.schema, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False
        ),
    )

    assert lines == [{'a"\n': text, "b": text} for text in texts]
    assert back.equals(rows)


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_any_number_comes_back_from_json_lines_and_csv(numbers: list[float | None]) -> None:
    rows = pa.table({"a": pa.array(numbers, pa.float64())})

    assert [line["a"] for line in _read_json(rows)] == numbers
    texts = body("csv", rows).decode().splitlines()
    assert [None if text == '""' else float(text) for text in texts] == numbers


@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1), st.lists(st.none() | st.booleans(), min_size=1)
)
def test_any_integer_and_any_truth_comes_back_from_json_lines(
    integers: list[int | None], truths: list[bool | None]
) -> None:
    assert [line["a"] for line in _read_json(pa.table({"a": pa.array(integers, pa.int64())}))] == integers
    assert [line["a"] for line in _read_json(pa.table({"a": pa.array(truths, pa.bool_())}))] == truths

"""Any table is exported exactly, whenever it is halted and restarted; or the export fails with a clear reason."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobmanager.config import Settings
from tests.export.tables import FORMATS, Column, SmallExport, cells, dataset, expected, export, file_of


def _few(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return values of which one in some is NULL."""
    return st.one_of(values, values, values, st.none())


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
_BYTES = st.binary(max_size=6)
_REALS = st.floats(allow_nan=False)
_ANY = st.one_of(_WHOLE, _REALS, _TEXTS, _BYTES, st.sampled_from(["", "0", "1.0", "1e3", "n/a"]))
#: Declared type, family, values, and the expression by which the client reads them.
_SQLITE = [
    ("INTEGER", "integer", _WHOLE, "{}"),
    ("REAL", "real", _REALS, "{}"),
    ("BOOLEAN", "integer", st.booleans(), "{}"),
    ("TEXT", "text", _TEXTS, "{}"),
    ("VARCHAR(9) COLLATE NOCASE", "text", _TEXTS, "{}"),
    ("DATE", "mixed", _TEXTS | st.dates().map(str) | st.integers(-5, 5), "{}"),
    *((declared, "mixed", _ANY, "{}") for declared in ("INTEGER", "REAL", "NUMERIC", "DECIMAL(9,2)", "BLOB", "")),
    ("BLOB", "bytes", _BYTES, "{}"),
]
_SIMILAR = st.text("aA \u00e9", max_size=3)
_SQLITE_KEYS = [
    ("INTEGER PRIMARY KEY", "integer", _WHOLE),
    ("BIGINT", "integer", _WHOLE),
    ("TEXT", "text", _TEXTS),
    ("BLOB", "bytes", _BYTES),
    ("REAL", "real", st.floats(allow_nan=False).map(lambda number: number + 0.0)),
    ("TEXT COLLATE NOCASE", "text", _SIMILAR),
    ("TEXT COLLATE RTRIM", "text", _SIMILAR),
    ("TEXT COLLATE NOCASE UNIQUE", "text", _TEXTS),
    ("TEXT UNIQUE", "text", _few(_TEXTS)),
    ("", "mixed", _few(_ANY)),
    ("NUMERIC", "mixed", _ANY),
]
_MOMENTS = st.datetimes(datetime(2024, 3, 1), datetime(2024, 3, 3))
#: How a date column may keep dates; mixed forms are refused, or compared as instants.
_SQLITE_DATES = [
    ("TEXT", "text", _MOMENTS.map(lambda at: at.isoformat(" "))),
    ("TEXT", "text", _MOMENTS.map(lambda at: at.isoformat("T", "milliseconds") + "Z")),
    (
        "TEXT",
        "text",
        st.builds(lambda at, zone: at.isoformat("T", "minutes") + zone, _MOMENTS, st.sampled_from(["", "Z", "-07:30"])),
    ),
    ("TEXT", "text", _MOMENTS.map(lambda at: at.date().isoformat())),
    ("INTEGER", "integer", _MOMENTS.map(lambda at: int(at.timestamp()))),
    ("REAL", "real", _MOMENTS.map(lambda at: at.timestamp())),
    ("TEXT", "text", _MOMENTS.map(str) | _TEXTS),
    ("INTEGER", "integer", st.integers(0, 3000)),
]
_PLACES = st.integers(1, 30)


@st.composite
def _tables(
    draw: st.DrawFn, kinds: list[Any], keys: list[Any], dates: list[Any]
) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Return the kinds of the columns (key, date, and others), and rows."""
    chosen = [
        draw(st.sampled_from(keys)),
        draw(st.sampled_from(dates)),
        *draw(st.lists(st.sampled_from(kinds), max_size=5)),
    ]
    ids = draw(st.lists(chosen[0][2], max_size=16, unique=True))
    some = draw(st.lists(_few(chosen[1][2]), min_size=1, max_size=4))
    return chosen, [(key, draw(st.sampled_from(some)), *(draw(_few(kind[2])) for kind in chosen[2:])) for key in ids]


def check(
    configured: Settings,
    columns: list[Column],
    orders: list[list[tuple[Any, ...]]],
    places: tuple[int, int],
    file_format: str,
) -> None:
    """Export undisturbed, and with a halt and with a restart, and compare every cell.

    *orders*: the rows, in each order in which they may come.
    """
    outcome = export(SmallExport, configured, file_format)
    if outcome.status == "failed":
        # In words that name the dataset or a column: an error of Python's would begin with its class.
        assert re.search(r"dataset 'set'|table 't'|column '\w+'", outcome.error or "", re.IGNORECASE), outcome.error
        assert not re.match(r"\w+(Error|Away|Exception): ", outcome.error or ""), outcome.error
        return
    data = file_of(outcome)
    found = cells(data, file_format, columns)
    if all(found != expected(rows, file_format, columns) for rows in orders[1:]):
        assert found == expected(orders[0], file_format, columns)
    assert outcome.result["rows"] == len(orders[0])  # type: ignore[index, call-overload]
    halts = [1 + place % len(outcome.checkpoints) for place in places] if outcome.checkpoints else []
    for number, at in enumerate(halts):
        again = export(SmallExport, configured, file_format, **{("halt_after", "restart_after")[number]: at})
        assert file_of(again) == data


@settings(max_examples=24, suppress_health_check=list(HealthCheck))
@given(
    _tables(_SQLITE, _SQLITE_KEYS, _SQLITE_DATES), st.tuples(_PLACES, _PLACES), st.booleans(), st.sampled_from(FORMATS)
)
def test_any_table_of_sqlite_is_exported_exactly_or_refused(
    table: tuple[list[Any], list[tuple[Any, ...]]], places: tuple[int, int], has_index: bool, file_format: str
) -> None:
    kinds, rows = table
    names = ["id", "at", *(f"c{number}" for number in range(len(kinds) - 2))]
    forms = ["{}", "{}", *(kind[3] for kind in kinds[2:])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                f"CREATE TABLE t ({', '.join(f'{n} {k[0]}' for n, k in zip(names, kinds, strict=True))})"
            )
            if has_index:
                connection.execute("CREATE INDEX by_date ON t (at, id)")
            # A unique key may be equal to another under its collation.
            insert = f"INSERT OR IGNORE INTO t VALUES ({', '.join('?' * len(names))})"
            connection.executemany(insert, rows)
            shown = ", ".join(form.format(name) for form, name in zip(forms, names, strict=True))
            asked = f"SELECT {shown} FROM t WHERE at IS NOT NULL AND at <> '' ORDER BY t.at, t.id"
            client = [connection.execute(asked + way).fetchall() for way in ("", " COLLATE BINARY")]
        columns = [Column(name=name, family=kind[1]) for name, kind in zip(names, kinds, strict=True)]

        check(dataset(Path(folder), "sqlite:///data.db", "t"), columns, client, places, file_format)


@pytest.mark.parametrize("values", [["", ""], ["", b""], ["abc", b"\x00"], [b"", None, "abc"]])
def test_a_text_in_a_blob_column_stays_a_text_in_a_parquet_file_and_the_result_says_so(
    tmp_path: Path, values: list[str | bytes | None]
) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, c BLOB)")
        rows = [(number, "2024-03-01 00:00:00", value) for number, value in enumerate(values)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)

    outcome = export(SmallExport, dataset(tmp_path, "sqlite:///data.db", "t"), "parquet")

    assert outcome.status == "completed", outcome.error
    shown = [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values]
    assert pyarrow.parquet.read_table(io.BytesIO(file_of(outcome)))["c"].to_pylist() == shown
    assert any("'c'" in warning for warning in outcome.result["notes"]), outcome.result  # type: ignore[index, call-overload]


_TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)
_WIDE_TIMES = st.one_of(
    _TIMES.map(str), st.sampled_from(["infinity", "-infinity", "0044-03-15 12:00:00.5 BC", "12024-01-01 00:00:00"])
)
_DECIMALS = st.decimals(-(10**6), 10**6, places=2).map(str)
_POSTGRES = [
    ("smallint", "integer", st.integers(-(2**15), 2**15 - 1), "{}"),
    ("bigint", "integer", _WHOLE, "{}"),
    ("double precision", "real", st.floats(), "{}"),
    ("real", "real", st.floats(width=32), "{}"),
    ("numeric", "text", st.decimals(-(10**40), 10**40), "CAST({} AS text)"),
    ("boolean", "truth", st.booleans(), "{}"),
    ("text", "text", _TEXTS, "{}"),
    ("bytea", "bytes", _BYTES, "{}"),
    ("date", "date", st.dates(), "{}"),
    ("timestamp", "time", _TIMES, "{}"),
    ("timestamptz", "zoned", _TIMES.map(lambda at: at.replace(tzinfo=UTC)), "{}"),
    ("uuid", "text", st.uuids(), "CAST({} AS text)"),
    ("interval", "text", st.timedeltas(), "CAST({} AS text)"),
    ("numeric(9, 2)", "decimal", _DECIMALS, "CAST({} AS text)"),
    ("numeric(9, 2)", "decimal", _DECIMALS | st.just("NaN"), "CAST({} AS text)"),
    ("numeric(50, 20)", "decimal", st.decimals(-(10**29), 10**29, places=20).map(str), "CAST({} AS text)"),
    ("timestamp", "wide_time", _WIDE_TIMES, "CAST({} AS text)"),
    ("json", "json", _JSON.map(json.dumps), "CAST({} AS text)"),
    ("jsonb", "json", _JSON.map(json.dumps), "CAST({} AS text)"),
    ("integer[]", "json", st.lists(_few(st.integers(-3, 3)), max_size=3), "CAST(to_jsonb({}) AS text)"),
    ("text[]", "json", st.lists(_few(_TEXTS), max_size=3), "CAST(to_jsonb({}) AS text)"),
]
_POSTGRES_KEYS = [
    ("bigint", "integer", _WHOLE),
    ('text COLLATE "C"', "text", _TEXTS),
    ("text", "text", _TEXTS),
    ("bytea", "bytes", _BYTES),
    ("double precision", "real", st.floats().map(lambda number: number + 0.0)),
    ("bigint UNIQUE", "integer", _few(_WHOLE)),
    ("text UNIQUE", "text", _few(_TEXTS)),
]
_POSTGRES_DATES = [
    ("timestamp", "time", _TIMES),
    ("timestamptz", "zoned", _TIMES.map(lambda at: at.replace(tzinfo=UTC))),
    ("date", "date", st.dates()),
    ("bigint", "integer", _MOMENTS.map(lambda at: int(at.timestamp()))),
    ("text", "text", _MOMENTS.map(lambda at: at.isoformat("T", "seconds"))),
]


@settings(max_examples=9, suppress_health_check=list(HealthCheck))
@given(_tables(_POSTGRES, _POSTGRES_KEYS, _POSTGRES_DATES), st.tuples(_PLACES, _PLACES), st.sampled_from(FORMATS))
def test_any_table_of_postgresql_is_exported_exactly_or_refused(
    server: str, table: tuple[list[Any], list[tuple[Any, ...]]], places: tuple[int, int], file_format: str
) -> None:
    kinds, rows = table
    names = ["id", "at", *(f"c{number}" for number in range(len(kinds) - 2))]
    forms = ["{}", "{}", *(kind[3] for kind in kinds[2:])]
    with psycopg.connect(server, autocommit=True) as connection, tempfile.TemporaryDirectory() as folder:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute(f"CREATE TABLE t ({', '.join(f'{n} {k[0]}' for n, k in zip(names, kinds, strict=True))})")
        for row in rows:
            insert = f"INSERT INTO t VALUES ({', '.join(['%s'] * len(names))}) ON CONFLICT DO NOTHING"
            connection.execute(insert, row)
        shown = ", ".join(form.format(name) for form, name in zip(forms, names, strict=True))
        asked = f"SELECT {shown} FROM t WHERE at IS NOT NULL ORDER BY t.at, t.id"
        ways = ["", ' COLLATE "C"'] if kinds[0][0].startswith("text") else [""]
        client = [connection.execute(asked + way).fetchall() for way in ways]
        columns = [Column(name=name, family=kind[1]) for name, kind in zip(names, kinds, strict=True)]
        url = server.replace("postgresql://", "postgresql+psycopg://")

        check(dataset(Path(folder), url, "t"), columns, client, places, file_format)

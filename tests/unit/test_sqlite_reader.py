"""A SQLite table of any kind is read exactly: every row once, every value as it is, however large; or it is refused."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.sqlite import SqliteReader

YEAR = (datetime(2024, 1, 1), datetime(2025, 1, 1))
AT = "2024-03-01 10:00:00"
MEGABYTE = 1024 * 1024


def make(path: Path, script: str, rows: list[tuple[Any, ...]] = ()) -> Path:
    """Make a database by a script, and insert rows into its table t."""
    with closing(sqlite3.connect(path / "data.db")) as connection, connection:
        connection.executescript(script)
        for row in rows:
            connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(row))})", row)
    return path / "data.db"


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(script)


def dataset(path: Path, table: str = "t", date: str = "at", key: str = "id") -> Dataset:
    url = make_url("sqlite://").set(database=str(path))
    return Dataset(name="set", url=url, table=table, date_column=date, key=key, date_format=None)


def chunks(reader: SqliteReader, columns: list[str], limit: int, **options: Any) -> list[pa.Table]:
    """Read everything, going on from places that a cursor has kept."""
    found: list[pa.Table] = []
    place: Place | None = None
    while True:
        rows, place = reader.read(columns, place, *YEAR, limit, **options)
        if place is None:
            return found
        found.append(rows)
        place = Place.from_json(json.loads(json.dumps(place.to_json(), allow_nan=False)))


def values(reader: SqliteReader, column: str, limit: int, **options: Any) -> list[Any]:
    return [value for rows in chunks(reader, [column], limit, **options) for value in rows[column].to_pylist()]


def written(name: str, rows: list[pa.Table]) -> list[str]:
    return [line for chunk in rows for line in b"".join(ENCODINGS[name].body(chunk, 0)).decode().split("\n")[:-1]]


# A table that changes


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("ALTER TABLE t DROP COLUMN b", "Column 'b' of table 't' of dataset 'set' no longer exists"),
        ("ALTER TABLE t RENAME COLUMN b TO c", "Column 'b' of table 't' of dataset 'set' no longer exists"),
        (
            "DROP INDEX i; ALTER TABLE t RENAME COLUMN at TO day",
            "Column 'at' of table 't' of dataset 'set' no longer exists",
        ),
        (
            "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b INT",
            "Column 'b' of table 't' of dataset 'set' was TEXT and is INT now",
        ),
    ],
)
def test_a_column_that_changes_between_two_chunks_fails_the_export_and_is_named(
    tmp_path: Path, script: str, says: str
) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, b TEXT); CREATE INDEX i ON t (at, id);"
    path = make(tmp_path, schema, [(n, AT, "x") for n in range(4)])

    with closing(SqliteReader(dataset(path))) as reader:
        _, place = reader.read(["id", "b"], None, *YEAR, 2)
        change(path, script)
        with pytest.raises(Fatal, match=says):
            reader.read(["id", "b"], place, *YEAR, 2)


def test_a_column_that_is_not_exported_may_change_between_two_chunks(tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, b TEXT); CREATE INDEX i ON t (at, id);"
    path = make(tmp_path, schema, [(n, AT, "x") for n in range(4)])

    with closing(SqliteReader(dataset(path))) as reader:
        _, place = reader.read(["id"], None, *YEAR, 2)
        change(path, "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN c")
        rows, _ = reader.read(["id"], place, *YEAR, 9)

    assert rows["id"].to_pylist() == [2, 3]


def test_a_reader_compares_the_table_with_the_columns_that_it_was_opened_for(tmp_path: Path) -> None:
    path = make(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, b INT)", [(1, AT, 1)])
    declared = {"id": "INTEGER", "at": "TEXT", "b": "TEXT"}

    with (
        closing(SqliteReader(dataset(path), declared)) as reader,
        pytest.raises(Fatal, match=r"Column 'b' .* was TEXT"),
    ):
        reader.read(["id", "b"], None, *YEAR, 2)


# Keys


@pytest.mark.parametrize("limit", [1, 2, 999, 1000, 5000])
@pytest.mark.parametrize(("collation", "alike"), [("NOCASE", ["zzz", "ZZZ", "Zzz"]), ("RTRIM", ["z", "z ", "z  "])])
@pytest.mark.parametrize("index", ["", "CREATE INDEX i ON t (at, id COLLATE BINARY);"])
def test_keys_that_differ_only_in_what_their_collation_ignores_are_all_exported(
    tmp_path: Path, collation: str, alike: list[str], index: str, limit: int
) -> None:
    keys = [f"a{n:03}" for n in range(12 if limit < 9 else 999)] + alike
    schema = f"CREATE TABLE t (id TEXT COLLATE {collation}, at TEXT); {index}"
    path = make(tmp_path, schema, [(key, AT) for key in keys])

    with closing(SqliteReader(dataset(path))) as reader:
        reader.check()
        assert values(reader, "id", limit) == sorted(keys)


def test_keys_that_are_equal_in_the_order_of_the_only_index_are_refused(tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id TEXT COLLATE NOCASE, at TEXT); CREATE INDEX i ON t (at, id);"
    path = make(tmp_path, schema, [(key, AT) for key in ("a", "b", "B")])

    with closing(SqliteReader(dataset(path))) as reader:
        with pytest.raises(Fatal, match=r"a key equal to '[bB]', .* unique in the collation of its column"):
            reader.check()
        with pytest.raises(Fatal, match=r"'id' of table 't' of dataset 'set' is not unique: .* equal to '[bB]'"):
            values(reader, "id", 2)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("index", ["", "CREATE INDEX i ON t (at, id);"])
def test_a_key_of_all_kinds_of_values_puts_the_rows_in_one_order(tmp_path: Path, index: str, limit: int) -> None:
    keys = [-math.inf, -5, 1, 1.5, 2**53, 2**53 + 1, 2**63 - 1, 1e300, math.inf, "", "1", "x\0y", b"", b"\xff"]
    path = make(tmp_path, f"CREATE TABLE t (id, at TEXT); {index}", [(key, AT) for key in reversed(keys)])

    with closing(SqliteReader(dataset(path))) as reader:
        reader.check()
        found = values(reader, "id", limit)

    assert [(type(key), key) for key in found if type(key) not in (int, float)] == [(type(k), k) for k in keys[9:]]
    assert found == keys


def test_the_date_column_may_be_the_key(tmp_path: Path) -> None:
    dates = [f"2024-03-01 10:00:0{n}" for n in range(5)]
    path = make(tmp_path, "CREATE TABLE t (at TEXT PRIMARY KEY, n INT)", [(at, n) for n, at in enumerate(dates)])

    with closing(SqliteReader(dataset(path, key="at"))) as reader:
        reader.check()
        assert values(reader, "n", 2) == [0, 1, 2, 3, 4]
        assert values(reader, "at", 2) == dates


@pytest.mark.parametrize("index", ["", "CREATE INDEX i ON t (at, id);"])
def test_a_key_without_a_value_or_that_is_not_unique_is_refused_at_the_start(tmp_path: Path, index: str) -> None:
    schema = f"CREATE TABLE t (id INT, at TEXT); {index}"
    path = make(tmp_path, schema, [(1, AT), (2, AT), (2, AT), (3, AT)])

    with (
        closing(SqliteReader(dataset(path))) as reader,
        pytest.raises(Fatal, match=r"'id' of table 't' of dataset 'set' is not unique: .* a key equal to \d"),
    ):
        reader.check() if index else values(reader, "id", 2)
    change(path, "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (NULL, '2024-03-05')")
    with closing(SqliteReader(dataset(path))) as reader, pytest.raises(Fatal, match="is NULL in some rows"):
        reader.check()


def test_tables_without_row_numbers_views_and_tables_with_columns_named_like_them_are_read(tmp_path: Path) -> None:
    schema = """
        CREATE TABLE t (id TEXT, at TEXT, rowid, oid, PRIMARY KEY (at, id)) WITHOUT ROWID;
        CREATE TABLE u (id INT, at TEXT, rowid, oid, _rowid_);
        CREATE TABLE s (id INT NOT NULL, at TEXT, x ANY) STRICT;
        CREATE VIEW v AS SELECT id, at, rowid || '!' AS x FROM t;
    """
    path = make(tmp_path, schema, [(f"k{n}", AT, n, n) for n in range(5)])
    change(path, "INSERT INTO u SELECT substr(id, 2), at, 1, 2, 3 FROM t; INSERT INTO s SELECT id, at, 1.5 FROM u")

    for name, column, expected in (("t", "id", "k0"), ("v", "x", "0!"), ("u", "id", 0), ("s", "x", 1.5)):
        with closing(SqliteReader(dataset(path, name))) as reader:
            reader.check()
            found = values(reader, column, 2)
        assert (found[0], len(found)) == (expected, 5), name


# No index


def test_without_an_index_the_rows_are_sorted_once_and_a_warning_says_so(tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)"
    rows = [(n, f"2024-03-{1 + n * 7 % 28:02}") for n in range(100)] + [(200, "2023-01-01"), (201, "2025-01-01")]
    path = make(tmp_path, schema, rows)
    expected = [n for at, n in sorted((at, n) for n, at in rows[:100])]

    with closing(SqliteReader(dataset(path))) as reader:
        warnings = reader.warnings(*YEAR)
        counted = reader.count(None, *YEAR, 10)
        found = values(reader, "id", 7)
        _, place = reader.read(["id"], None, *YEAR, 50)
    with closing(SqliteReader(dataset(path))) as another:
        rest = another.read(["id"], place, *YEAR, 100)[0]["id"].to_pylist()

    assert warnings == [
        "There is no index on (at, id) of dataset 'set': all rows of the range are sorted before the first is written, "
        "and again after each halt. Create one to make the export fast."
    ]
    assert counted == (100, None)
    assert found == expected
    assert rest == expected[50:], "after a halt, by another process"


def test_rows_that_are_written_while_a_table_without_an_index_is_exported_are_each_exported_once(
    tmp_path: Path,
) -> None:
    path = make(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, n)", [(n, AT, n) for n in range(6)])

    with closing(SqliteReader(dataset(path))) as reader:
        first, place = reader.read(["id", "n"], None, *YEAR, 2)
        change(
            path, "DELETE FROM t WHERE id = 3; UPDATE t SET n = 'new' WHERE id = 4; UPDATE t SET at = 0 WHERE id = 5"
        )
        second, _ = reader.read(["id", "n"], place, *YEAR, 9)

    assert first["id"].to_pylist() == [0, 1]
    assert second.to_pylist() == [{"id": 2, "n": 2}, {"id": 4, "n": "new"}]


@pytest.mark.parametrize(
    ("index", "warned"),
    [("at, id", False), ("at", False), ("at, id, n", False), ("id", True), ("id, at", True), ("n", True)],
)
def test_a_warning_comes_only_if_no_index_has_the_order(tmp_path: Path, index: str, warned: bool) -> None:
    schema = f"CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, n INT); CREATE INDEX i ON t ({index});"
    path = make(tmp_path, schema, [(n, AT, n) for n in range(10)])

    with closing(SqliteReader(dataset(path))) as reader:
        assert bool(reader.warnings(*YEAR)) == warned
        assert values(reader, "n", 3) == list(range(10))
        assert reader.total(*YEAR) == 10


# Values


DECLARED = ("INTEGER", "REAL", "NUMERIC", "DECIMAL(20,2)", "TEXT", "BLOB", "", "BOOLEAN", "DATE", "POINT", "INTERVAL")
ODD = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.sampled_from([0, 1, 2**53 + 1, 10**15, 1.5, 1e15, "", "1", "n/a", "9007199254740993", b""]),
)


@settings(max_examples=40)
@given(st.data())
def test_any_value_in_any_column_is_read_as_sqlite_has_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(DECLARED), min_size=1, max_size=3))
    rows = data.draw(st.lists(st.tuples(*(ODD for _ in names)), min_size=1, max_size=12))
    schema = f"CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, {', '.join(f'c{n} {d}' for n, d in enumerate(names))})"
    path = make(tmp_path_factory.mktemp("any"), schema, [(n, AT, *row) for n, row in enumerate(rows)])
    columns = [f"c{n}" for n in range(len(names))]
    limit, max_bytes = data.draw(st.integers(1, 13)), data.draw(st.sampled_from([1, 100, MEGABYTE]))
    with closing(sqlite3.connect(path)) as connection:
        expected = connection.execute(f"SELECT {', '.join(columns)} FROM t ORDER BY id").fetchall()

    with closing(SqliteReader(dataset(path))) as reader:
        found = chunks(reader, columns, limit, max_bytes=max_bytes)

    read = [tuple(row.values()) for rows in found for row in rows.to_pylist()]
    assert read == expected
    for row, wanted in zip(read, expected, strict=True):
        for value, original in zip(row, wanted, strict=True):
            # Integers may come as reals where both are written alike.
            assert type(value) is type(original) or abs(original) < 10**15
    assert [json.loads(line) for line in written("jsonl", found)] == [
        {name: _in_json(value) for name, value in zip(columns, row, strict=True)} for row in expected
    ]


def _in_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return json.loads(written("jsonl", [pa.table({"a": [value]})])[0])["a"]
    return None if isinstance(value, float) and math.isinf(value) else value


@pytest.mark.parametrize(
    ("declared", "value", "csv"),
    [
        ("INTEGER", "", '""'),
        ("INTEGER", 1.5, "1.5"),
        ("INTEGER", 9007199254740993, "9007199254740993"),
        ("DECIMAL(20,2)", 9007199254740993, "9007199254740993"),
        ("NUMERIC", "abc", '"abc"'),
        ("REAL", "n/a", '"n/a"'),
        ("BOOLEAN", "true", '"true"'),
        ('"FLOATING POINT"', 1.5, "1.5"),
        ("INTERVAL", "1 day", '"1 day"'),
        ("", 7, "7"),
        ("POINT", b"GP\0", '"R1AA"'),
    ],
)
def test_values_that_do_not_fit_their_declared_type_are_written_as_sqlite3_shows_them(
    tmp_path: Path, declared: str, value: Any, csv: str
) -> None:
    path = make(tmp_path, f"CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, n {declared})", [(1, AT, value)])
    shown = subprocess.run(["sqlite3", "-json", path, "SELECT n FROM t"], capture_output=True, check=True).stdout

    with closing(SqliteReader(dataset(path))) as reader:
        found = chunks(reader, ["n"], 10)

    assert written("csv", found) == [csv]
    if not isinstance(value, bytes):
        assert [json.loads(line) for line in written("jsonl", found)] == json.loads(shown)


def test_one_value_in_many_that_does_not_fit_changes_no_other(tmp_path: Path) -> None:
    numbers: list[Any] = [*range(2_000), "n/a", 2**60 + 1, None, 0.1, *range(500)]
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, n DECIMAL(20, 2)); CREATE INDEX i ON t (at, id);"
    path = make(tmp_path, schema, [(n, AT, number) for n, number in enumerate(numbers)])

    with closing(SqliteReader(dataset(path))) as reader:
        found = chunks(reader, ["n"], 1_000)

    assert [line.strip('"') for line in written("csv", found)] == ["" if n is None else str(n) for n in numbers]
    assert [json.loads(line)["n"] for line in written("jsonl", found)] == numbers


def test_text_that_is_not_utf8_is_refused_with_the_key_of_its_row(tmp_path: Path) -> None:
    path = make(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, a TEXT)", [(7, AT, "fine")])
    change(path, f"INSERT INTO t VALUES (8, '{AT}', CAST(x'41ff42' AS TEXT))")

    with (
        closing(SqliteReader(dataset(path))) as reader,
        pytest.raises(Fatal, match=r"Column 'a' of table 't' .* UTF-8, in the row with id = 8"),
    ):
        chunks(reader, ["a"], 10)


# One type for each column


def test_a_column_whose_values_do_not_fit_becomes_text_where_each_column_has_one_type(tmp_path: Path) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, a INT, b REAL, c NUMERIC, d TEXT, e BLOB, f NUMERIC)"
    path = make(tmp_path, schema, [(1, AT, 1, 1, 1, "x", b"x", 1), (2, AT, 1.5, "n/a", 2**53 + 1, b"x", 7, 2.5)])

    with closing(SqliteReader(dataset(path))) as reader:
        misfits = reader.mixed_columns(list("abcdef"), *YEAR)
        reader.fix_types(misfits)
        found = chunks(reader, list("abcdef"), 1)

    assert misfits == ["a", "b", "c", "e"]
    assert {rows.schema for rows in found} == {reader.schema(list("abcdef"))}
    text = ["1", "1", "1", "x", "eA==", 1.0]
    assert [tuple(row.values()) for rows in found for row in rows.to_pylist()] == [
        tuple(text),
        ("1.5", "n/a", "9007199254740993", "eA==", "7", 2.5),
    ]


def test_a_value_that_comes_later_and_does_not_fit_its_type_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = make(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, a INT)", [(1, AT, 1)])

    with closing(SqliteReader(dataset(path))) as reader:
        reader.fix_types(reader.mixed_columns(["a"], *YEAR))
        change(path, f"INSERT INTO t VALUES (2, '{AT}', 'secret')")
        with pytest.raises(
            Fatal, match=r"Column 'a' of table 't' .* not fit its declared type, INT, in a row from id = 1 to 2"
        ) as caught:
            chunks(reader, ["a"], 10)

    assert "secret" not in str(caught.value)


# Large rows


@pytest.mark.parametrize("declared", ["TEXT", "BLOB", "INT", "JSON", ""])
def test_a_chunk_has_no_more_rows_than_fit_into_its_bytes(tmp_path: Path, declared: str) -> None:
    sizes = [*[10] * 50, MEGABYTE, MEGABYTE, 3 * MEGABYTE, *[10] * 50, MEGABYTE]
    texts = [f"x{n:05}".ljust(size, "x") for n, size in enumerate(sizes)]
    rows = [(n, AT, text.encode() if declared == "BLOB" else text) for n, text in enumerate(texts)]
    schema = f"CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, v {declared}); CREATE INDEX i ON t (at, id);"
    path = make(tmp_path, schema, rows)

    with closing(SqliteReader(dataset(path))) as reader:
        found = chunks(reader, ["v"], 1_000, max_bytes=2 * MEGABYTE)
        again, _ = reader.read(["v"], None, *YEAR, 1_000, 2 * MEGABYTE)

    assert [row[0] for rows in found for row in zip(rows["v"].to_pylist(), strict=True)] == [v for _, _, v in rows]
    assert [rows.num_rows for rows in found] == [51, 1, 1, 51]
    assert again.num_rows == 51, "how many does not depend on how they were read before"


def test_a_table_of_a_thousand_columns_is_read_in_chunks_that_fit_into_their_bytes(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(1_000)]
    schema = f"CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, {', '.join(names)}); CREATE INDEX i ON t (at, id);"
    path = make(tmp_path, schema)
    with closing(sqlite3.connect(path)) as connection, connection:
        for row in range(20):
            cells = ", ".join(f"{row * n}" if n % 2 else f"'{'x' * 100}'" for n in range(1_000))
            connection.execute(f"INSERT INTO t VALUES ({row}, '{AT}', {cells})")

    with closing(SqliteReader(dataset(path))) as reader:
        found = chunks(reader, names, 1_000, max_bytes=300_000)

    assert sum(rows.num_rows for rows in found) == 20
    assert max(rows.num_rows for rows in found) == 5
    assert found[-1]["c999"][-1].as_py() == 19 * 999

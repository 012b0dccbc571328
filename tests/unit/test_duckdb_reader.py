"""The reader of DuckDB returns every row once, and every value as DuckDB has it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.engine import make_url

from jobmanager.config import Settings
from jobmanager.errors import Fatal, StopRequested
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import ReaderClosed
from jobmanager.jobs.export.readers import duckdb_connection
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.duckdb import DuckdbReader
from jobmanager.jobs.export.readers.duckdb_connection import Connection
from jobmanager.jobs.export.readers.opening import open_reader
from jobmanager.jobs.export.source import Source

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install -r requirements-dev.txt")

YEAR = (datetime(2024, 1, 1), datetime(2025, 1, 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.duckdb"


@pytest.fixture
def execute(path: Path) -> Callable[..., None]:
    """Execute statements, and close the file."""

    def run(*statements: str) -> None:
        with closing(duckdb.connect(str(path))) as connection:
            for statement in statements:
                connection.execute(statement)

    return run


def dataset(path: Path, table: str = "t", key: str = "id") -> Dataset:
    return Dataset(
        name="set", url=make_url(f"duckdb:///{path}"), table=table, date_column="day", key=key, date_format=None
    )


def read_all(reader: Any, columns: list[str], limit: int, **bounds: int) -> list[pa.Table]:
    chunks = []
    rows, place = reader.read(columns, None, *YEAR, limit, **bounds)
    while place is not None:
        chunks.append(rows)
        rows, place = reader.read(columns, Place.from_json(place.to_json()), *YEAR, limit, **bounds)
    return chunks


#: Type, value as SQL writes it, and the value that is exported.
KINDS = [
    ("INTEGER", "-7", -7),
    ("UBIGINT", "18446744073709551615", Decimal(2**64 - 1)),
    ("HUGEINT", "170141183460469231731687303715884105727", str(2**127 - 1)),
    ("DOUBLE", "1e-15", 1e-15),
    ("FLOAT", "0.1", 0.1),
    ("DECIMAL(38, 10)", "1234567890123456789.0000000001", Decimal("1234567890123456789.0000000001")),
    ("BOOLEAN", "true", True),
    ("VARCHAR", "'it''s'", "it's"),
    ("BLOB", "'\\x00\\xFF'", b"\x00\xff"),
    ("DATE", "'9999-12-31'", date(9999, 12, 31)),
    ("TIMESTAMP", "'2024-03-01 10:00:00.000001'", datetime(2024, 3, 1, 10, 0, 0, 1)),
    ("TIMESTAMPTZ", "'2024-03-01 10:00:00+02'", datetime(2024, 3, 1, 8, tzinfo=UTC)),
    ("TIMESTAMP_NS", "'2024-03-01 10:00:00.000000001'", "2024-03-01 10:00:00.000000001"),
    ("TIME", "'10:00:00'", "10:00:00"),
    ("UUID", "'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
    ("ENUM('b', 'a')", "'a'", "a"),
    ("INTEGER[]", "[1, NULL]", "[1,null]"),
    ("STRUCT(a INTEGER)", "{'a': 1}", '{"a":1}'),
    ("INTERVAL", "INTERVAL 36 HOUR", "36:00:00"),
    ("VARCHAR", "NULL", None),
]


@pytest.mark.parametrize(("declared", "value", "expected"), KINDS, ids=[f"{kind[0]} {kind[1]}" for kind in KINDS])
def test_a_value_comes_out_as_duckdb_has_it(path: Path, execute: Any, declared: str, value: str, expected: Any) -> None:
    execute(
        f"CREATE TABLE t (id INTEGER, day TIMESTAMP, v {declared})", f"INSERT INTO t VALUES (1, '2024-03-01', {value})"
    )

    with closing(open_reader(dataset(path))) as reader:
        rows, _ = reader.read(["v"], None, *YEAR, 10)
        assert rows.schema == reader.schema(["v"])

    assert rows["v"].to_pylist() == [expected]


@pytest.mark.parametrize(
    ("declared", "value"), [("DATE", "infinity"), ("TIMESTAMP", "-infinity"), ("TIMESTAMP", "10000-01-01 00:00:00")]
)
def test_a_date_beyond_the_calendar_makes_its_column_text(path: Path, execute: Any, declared: str, value: str) -> None:
    execute(
        f"CREATE TABLE t (id INTEGER, day TIMESTAMP, v {declared})",
        f"INSERT INTO t VALUES (1, '2024-03-01', '2024-01-01'), (2, '2024-03-01', '{value}')",
    )
    with closing(DuckdbReader(dataset(path))) as reader:
        rows, _ = reader.read(["v"], None, *YEAR, 10)

    assert rows["v"].to_pylist()[1] == value
    (reason,) = rows.schema.metadata.values()
    assert "Column 'v' of table 't' of dataset 'set' has a value that Parquet cannot hold" in reason.decode()
    assert "in the row with id = '2'. Export it as csv" in reason.decode()


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("declared", ["INTEGER", "VARCHAR", "DECIMAL(10, 2)", "DOUBLE", "BLOB", "HUGEINT"])
def test_rows_are_neither_lost_nor_doubled_wherever_a_chunk_ends(
    path: Path, execute: Any, declared: str, limit: int
) -> None:
    values = ", ".join(f"('{n}', '2024-03-0{1 + n // 5}', {n})" for n in range(8))
    execute(f"CREATE TABLE t (id {declared}, day TIMESTAMP, n INTEGER)", f"INSERT INTO t VALUES {values}")

    with closing(DuckdbReader(dataset(path))) as reader:
        reader.check()
        found = pa.concat_tables(read_all(reader, ["n"], limit))["n"].to_pylist()
        assert reader.total(*YEAR) == 8

    assert found == list(range(8))


def test_a_chunk_is_bounded_by_its_bytes_wherever_it_begins(path: Path, execute: Any) -> None:
    sizes = [10, 10, 3_000_000, 10, 1_000_000, 1_000_000, 900_000, 10, 10]
    values = ", ".join(f"({n}, '2024-03-01', repeat('x', {size}))" for n, size in enumerate(sizes))
    execute("CREATE TABLE t (id INTEGER, day TIMESTAMP, b VARCHAR)", f"INSERT INTO t VALUES {values}")

    with closing(DuckdbReader(dataset(path))) as reader:
        chunks = read_all(reader, ["id", "b"], 1000, max_bytes=2_500_000)

    assert [chunk["id"].to_pylist() for chunk in chunks] == [[0, 1], [2], [3, 4, 5], [6, 7, 8]]


def test_keys_that_are_equal_or_null_or_of_an_enum_are_refused(path: Path, execute: Any) -> None:
    execute("CREATE TABLE t (id INTEGER, day TIMESTAMP, e ENUM('b', 'a'))")
    execute("INSERT INTO t VALUES (1, '2024-03-01', 'a'), (1, '2024-03-01', 'b')")

    with closing(DuckdbReader(dataset(path))) as reader:
        with pytest.raises(Fatal, match="'id' of table 't' of dataset 'set' is not unique"):
            reader.check()
        _, place = reader.read(["id"], None, *YEAR, 1)
        with pytest.raises(Fatal, match="is not unique"):
            reader.read(["id"], place, *YEAR, 1)
    execute("UPDATE t SET id = NULL WHERE e = 'a'")
    with closing(DuckdbReader(dataset(path))) as reader, pytest.raises(Fatal, match="is NULL in some rows"):
        reader.check()
    with pytest.raises(Fatal, match="does not compare values of type ENUM"):
        DuckdbReader(dataset(path, key="e"))


@pytest.mark.parametrize("way", ["query", "table"])
def test_closing_it_ends_a_statement_and_makes_later_ones_fail(path: Path, execute: Any, way: str, until: Any) -> None:
    execute("CREATE TABLE t (n BIGINT)", "INSERT INTO t SELECT * FROM range(10000)")
    cancellation = Cancellation(dataset(path))
    endless = "SELECT count(*) AS n FROM t a, t b, t c, t d WHERE a.n * b.n + c.n * d.n = $1"
    failed: list[str] = []

    def ask() -> None:
        for _ in range(2):
            try:
                getattr(connection, way)(endless, [1])
            except DatasetAway as error:
                failed.append(str(error))

    with closing(Connection(dataset(path), cancellation)) as connection, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        with pytest.raises(TimeoutError):
            asked.result(0.3)  # it runs
        # Again and again: between two statements there is nothing to interrupt.
        until(lambda: cancellation.request() or asked.done())

    assert failed == ["The read of dataset 'set' was cancelled."] * 2


def test_a_connection_that_is_closed_already_does_not_fail_a_halt(
    path: Path, execute: Any, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    execute("CREATE TABLE t (id INTEGER, day DATE)")
    close, was_closed, may_go_on = Connection.close, threading.Event(), threading.Event()

    def close_slowly(connection: Connection) -> None:
        close(connection)
        was_closed.set()
        may_go_on.wait(15)

    def halt() -> None:
        if was_closed.is_set():
            reader.close()

    monkeypatch.setattr(Connection, "close", close_slowly)
    reader = open_reader(dataset(path, "missing"))
    reader.on_wait = halt
    with pytest.raises(ReaderClosed):
        reader.columns()

    may_go_on.set()
    until(lambda: not [each for each in threading.enumerate() if each.name.endswith(("-reads", "-closes"))])


def test_a_source_whose_close_a_force_interrupted_closes_its_connection_when_it_is_closed_again(
    path: Path, execute: Any, refuse_thread: Any
) -> None:
    execute("CREATE TABLE t (id INTEGER, day DATE)")
    source = Source(Settings(), lambda: None)
    source.connect(dataset(path))
    refuse_thread("-closes", StopRequested("7"))
    with pytest.raises(StopRequested):
        source.close()

    source.close()

    execute("DROP TABLE t")  # DuckDB refuses to open the file for writing while this process has it open for reading


def test_a_missing_table_column_or_file_is_told(path: Path, execute: Any) -> None:
    with pytest.raises(DatasetAway, match="The database of dataset 'set' cannot be read"):
        DuckdbReader(dataset(path))
    execute("CREATE SCHEMA s", "CREATE TABLE s.t (id INTEGER, day TIMESTAMP)")

    with pytest.raises(Fatal, match="The table 't' of dataset 'set' does not exist"):
        DuckdbReader(dataset(path))
    with closing(DuckdbReader(dataset(path, "s.t"))) as reader:
        assert reader.total(*YEAR) == 0
        assert reader.identity()["server"].startswith("DuckDB ")
    with pytest.raises(Fatal, match=r"'s\.t' of dataset 'set' has no column 'nothing'"):
        DuckdbReader(dataset(path, "s.t", key="nothing"))


def test_without_its_package_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duckdb_connection, "import_module", _missing)

    with pytest.raises(Fatal, match=r"Install the service as jobmanager\[duckdb\]"):
        DuckdbReader(dataset(path))


def _missing(name: str) -> Any:
    raise ImportError(name)

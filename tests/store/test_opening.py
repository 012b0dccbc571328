"""A store is opened by any number of processes at once, or refused with a sentence and nothing left open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from jobmanager.errors import ConfigError, StoreUnavailable
from jobmanager.store import Store, postgresql, sqlite, statements
from jobmanager.store.schema import to_json


def open_files(folder: Path) -> list[str]:
    """Return the files in *folder* that this process has open."""
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return [path for link in links if os.path.exists(link) and (path := os.readlink(link)).startswith(str(folder))]


def test_a_store_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").mkdir()

    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            Store(f"sqlite:///{tmp_path}/jobs.db")

    assert open_files(tmp_path) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"something else, and longer than any header of a page" * 50)

    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}/jobs.db")

    assert open_files(tmp_path) == []


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    Store(url).close()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()

    with pytest.raises(ConfigError, match="newer version"):
        Store(url)

    assert open_files(tmp_path) == []
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused_for_no_other_process_could_see_it(url: str) -> None:
    with pytest.raises(ConfigError, match="JOBMANAGER_DATABASE_URL must name a file"):
        Store(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db:port/jobs",
        "postgresql://me:hunter2@[::1/jobs",
        "postgresql://me:p@hunter2@db/jobs",
        "postgresql://me:p@ss/hunter2@db/jobs",
        "sqlite://hunter2/jobs.db",
        "mysql://me:hunter2@db/jobs",
        "hunter2",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_sentence_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"JOBMANAGER_DATABASE_URL (cannot be used|must name a file)") as refused:
        Store(url)

    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


def test_a_database_that_does_not_answer_is_told_apart_and_shows_no_password() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened") as refused:
        Store("postgresql://me:hunter2@127.0.0.1:1/jobs")

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_read_for_which_there_is_no_connection_raises_what_the_store_tells_of_as_its_being_away(
    tmp_path: Path, kind: str
) -> None:
    database: Any = postgresql.Database("postgresql://me@127.0.0.1:1/jobs", to_json)
    if kind == "sqlite":
        database = sqlite.Database(f"sqlite:///{tmp_path}/var/jobs.db", to_json, clock=None)
        shutil.rmtree(tmp_path / "var")

    with closing(database), pytest.raises(DBAPIError):
        database.read(statements.LAST_CHANGE, {})


def test_a_file_is_opened_whatever_driver_its_url_names(tmp_path: Path) -> None:
    Store(f"sqlite+pysqlite:///{tmp_path}/jobs.db").close()
    Store(f"sqlite+aiosqlite:///{tmp_path}/jobs.db").close()

    assert (tmp_path / "jobs.db").exists()


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")

    store.close()
    store.close()

    assert open_files(tmp_path) == []


def test_a_file_is_kept_in_write_ahead_mode_and_every_commit_survives_a_power_cut(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")

    with store.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2

    store.close()


def test_what_a_process_acknowledged_is_there_after_it_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, threading\n"
        "from jobmanager.store import Store\n"
        "from jobmanager.core.values import NewJob\n"
        "store = Store(sys.argv[1])\n"
        "lock = threading.Lock()\n"
        "def submit(worker):\n"
        "    for number in range(10**9):\n"
        "        name = f'{worker}-{number}'\n"
        "        store.add([NewJob(id=name, type='T', args={})], actor='me')\n"
        "        with lock:\n"
        "            sys.stdout.write(name + '\\n'); sys.stdout.flush()\n"
        "for worker in range(4):\n"
        "    threading.Thread(target=submit, args=(worker,)).start()\n"
    )
    url = f"sqlite:///{tmp_path}/jobs.db"
    process = subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(100)]
    process.kill()
    # The last line may be cut off in its middle: it was not acknowledged.
    acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()

    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        stored = {name for (name,) in connection.execute("SELECT id FROM jobs")}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(acknowledged) >= 100
    assert set(acknowledged) <= stored

"""The SQLite database: group commit, a write lock between processes, and a watch on the file."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from inotify_simple import INotify, flags
from sqlalchemy import Connection, Engine, Select, Table, create_engine, event
from sqlalchemy import Insert as CoreInsert
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from jobmanager.errors import ConfigError, StoreUnavailable
from jobmanager.private import make_file, make_folder
from jobmanager.store import job_counts, schema
from jobmanager.store.fast_statements import Columns, Parameters, Prepared, Rows, Statement, as_sqlalchemy
from jobmanager.store.group_commit import HELD_UP, PATIENCE_SECONDS, GroupCommit

T = TypeVar("T")
Item = TypeVar("Item")

_BUSY_SECONDS = 30
#: How often a starting process tries to get the write lock, and after how long it logs that it waits.
_TRY_AGAIN_SECONDS = 0.02
_WORTH_TELLING_SECONDS = 2.0
#: How long `close` waits for a thread that writes or waits for the write lock.
_FAREWELL_SECONDS = 1.0

_log = logging.getLogger(__name__)

_BOOT = datetime(1970, 1, 1, tzinfo=UTC)


class Database:
    """The engine, transactions and clock of one process on a SQLite file.

    Processes write one at a time: a writer holds the write lock, a file lock of the kernel (flock), which is released
    if the process dies. Without that lock, processes would starve each other: SQLite's busy handler sleeps and retries,
    so that the process that commits most often wins.
    """

    #: see _boot_clock
    has_boot_clock = True

    def __init__(self, url: str, json_serializer: Any, *, clock: Callable[[], datetime] | None) -> None:
        """Create the file and its folder if they are missing. Does not connect.

        Raises ConfigError if *url* does not name a file, or OSError.
        """
        file_url = make_url(url).set(drivername="sqlite")
        path = file_url.database
        if not path or path == ":memory:" or file_url.host:
            raise ConfigError("JOBMANAGER_DATABASE_URL must name a file: every process has to see the same store.")
        make_folder(Path(path).parent)
        make_file(Path(path))  # SQLite gives -wal and -shm the mode of this file
        self.engine = create_engine(
            file_url,
            connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
            json_serializer=json_serializer,
            poolclass=QueuePool,
            pool_size=16,
            max_overflow=-1,
        )
        self.engine.dialect.statement_compiler = _HintCompiler
        event.listen(self.engine, "connect", _set_up)
        event.listen(self.engine, "begin", _begin)
        #: the engine for reading
        self.reader = self.engine
        #: the clock of all recorded times
        self.now = clock or _wall_clock
        #: the clock of leases
        self.lease_now = clock or _boot_clock
        self._writer: Connection | None = None
        self._is_closed = False
        self._lock = threading.Lock()  # held while writing or waiting for the write lock; guards _writer and _file
        self._lock_path = f"{path}-turn"
        self._file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_announced = False  # the commit of the current transaction wakes other processes
        self._commits = GroupCommit(self._begin)
        self._prepared: dict[Statement, Prepared] = {}
        self._addition = job_counts.addition(insert(schema.census))
        self._owners = Owners(Path(f"{path}-owners"))

    def run(self, write: Callable[[Connection], T]) -> T:
        """Run *write*, commit, and return its result. Shares a transaction with other threads; see GroupCommit.run."""
        return self._commits.run(write)

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Run *write_all*, commit, and return its result for *item*; see GroupCommit.run_together."""
        return self._commits.run_together(write_all, item)

    @contextmanager
    def begin_alone(self) -> Iterator[Connection]:
        """Set WAL mode and open a transaction during which no other process can write; for changes of the schema.

        Blocks until it has the write lock. Raises StoreUnavailable after PATIENCE_SECONDS.
        """
        with self._starting_lock(), self.engine.connect().execution_options(is_writer=True) as connection:
            # Only with the write lock: two processes that start on a new file would collide when they change the mode.
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA journal_mode = WAL")
            with connection.begin():
                yield connection

    def execute(self, connection: Connection, statement: Statement, parameters: Parameters) -> Rows:
        """Run a prepared statement in the transaction of *connection* and return its rows; raises DBAPIError."""
        return self._prepare(statement).run(connection.connection.driver_connection, parameters)

    def execute_many(self, connection: Connection, statement: Statement, columns: Columns, shared: Parameters) -> int:
        """Run a prepared statement once per row of *columns*, with the *shared* values added.

        Returns the total number of rows changed or inserted. Raises DBAPIError.
        """
        return self._prepare(statement).run_many(connection.connection.driver_connection, columns, shared)

    def add_many(
        self, connection: Connection, statement: CoreInsert, columns: Columns, shared: Parameters
    ) -> list[int]:
        """Run a prepared insert once per row of *columns* and return the numbers of the new rows; raises DBAPIError."""
        added = self.execute_many(connection, statement, columns, shared)
        driver: Any = connection.connection.driver_connection
        # There is one writer at a time, so the numbers are consecutive.
        ((last,),) = driver.execute("SELECT last_insert_rowid()")
        return list(range(last - added + 1, last + 1))

    def read(self, query: Select[Any], parameters: Parameters) -> Rows:
        """Run a prepared query and return its rows; raises DBAPIError."""
        # Not raw_connection(), which raises driver errors if the file cannot be opened.
        with self.engine.connect() as connection:
            return self.execute(connection, query, parameters)

    def insert(self, table: Table) -> Insert:
        """Return an insert of this dialect, which supports ON CONFLICT."""
        return insert(table)

    def acquire_lock(self, connection: Connection, name: str) -> None:
        """Do nothing: a writer already excludes all others."""

    def flush_counts(self, connection: Connection) -> None:
        """Add the notes of the transaction to the counts of jobs."""
        if (noted := job_counts.take(connection, part=0)) is not None:
            self.execute_many(connection, self._addition, noted, {})

    def add_up_counts(self) -> None:
        """Do nothing: all processes count in the same rows."""

    def announce(self, connection: Connection) -> None:
        """Mark the transaction: its commit will wake the processes that watch."""
        self._is_announced = True

    def change_writers(self) -> set[str]:
        """Return an empty set: there is one writer at a time, so changes are committed in order of their numbers."""
        return set()

    def register_owner(self, owner: str) -> None:
        """Register this process under the name *owner*, until `close` or its death; raises OSError."""
        self._owners.register(owner)

    def dead_owners(self) -> list[str]:
        """Return the names of processes that died since the last call. Does not wait for their leases to expire."""
        return self._owners.take_dead()

    def is_alive(self, _connection: Connection, owner: str) -> bool:
        """Return True if the process named *owner* is alive, even if it is frozen."""
        return self._owners.is_alive(owner)

    def stands_still(self, owner: str) -> bool:
        """Return True if the process named *owner* was marked as stalled; see `note_standstill`."""
        return self._owners.stands_still(owner)

    def watch(self) -> Watch:
        """Return a watch on commits, for one thread."""
        return Watch(self.engine, self._lock_path)

    def close(self) -> None:
        """Close all connections and the lock's file; may be called twice.

        Waits up to a second for a writing thread. A slower thread closes the writer and the file when it is done.
        """
        self._is_closed = True
        if self._lock.acquire(timeout=_FAREWELL_SECONDS):
            self._close_writer()
            self._lock.release()
        self._owners.leave()
        self.engine.dispose()

    def _close_writer(self) -> None:
        """Close the writer and the lock's file. The caller holds the lock."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _prepare(self, statement: Statement) -> Prepared:
        # Two threads may prepare the same statement; either result will do.
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = Prepared(statement, self.engine.dialect)
        return prepared

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Open a write transaction; commits on leaving, rolls back on an exception. Blocks until it has the write lock.

        Uses the driver for BEGIN and COMMIT: SQLAlchemy takes longer for them than it takes to write a job.
        """
        with self._write_lock():
            if self._writer is None:
                self._writer = self.engine.connect().execution_options(has_begun=True)
            driver: Any = self._writer.connection.driver_connection
            self._is_announced, before = False, driver.total_changes
            try:
                self._say(driver, "BEGIN IMMEDIATE")
                yield self._writer
                self.flush_counts(self._writer)
                self._say(driver, "COMMIT")
            except BaseException:
                self._roll_back(self._writer, driver)
                raise
            self._forget_transaction(self._writer)
            if self._is_announced and driver.total_changes > before:
                _touch(self._lock_path)

    def _roll_back(self, writer: Connection, driver: Any) -> None:
        """Roll back. Discards a connection that cannot do so."""
        self._forget_transaction(writer)
        try:
            if not writer.invalidated:
                job_counts.forget(writer)
            driver.rollback()
        except sqlite3.Error:  # SQLAlchemy has closed it (as on Ctrl-C), or the file has become unreadable
            if not writer.invalidated:
                writer.invalidate()
        if writer.invalidated:
            writer.close()
            self._writer = None

    def _forget_transaction(self, writer: Connection) -> None:
        """Close the transaction object that SQLAlchemy has made if a write used SQLAlchemy."""
        if transaction := writer.get_transaction():
            transaction.close()

    def _say(self, driver: Any, words: str) -> None:
        try:
            driver.execute(words)
        except sqlite3.Error as error:
            raise as_sqlalchemy(error, words, self.engine.dialect) from error

    @contextmanager
    def _starting_lock(self) -> Iterator[None]:
        """Hold the write lock for a starting process: logs that it waits.

        Raises StoreUnavailable after PATIENCE_SECONDS.
        """
        with self._lock:
            began, is_told = time.monotonic(), False
            while not self._try_lock():
                waited = time.monotonic() - began
                if waited > PATIENCE_SECONDS:
                    raise StoreUnavailable(f"The store cannot be opened: {HELD_UP}.")
                if waited > _WORTH_TELLING_SECONDS and not is_told:
                    _log.warning("Waiting to start: another process is writing to the store.")
                    is_told = True
                time.sleep(_TRY_AGAIN_SECONDS)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable("The store is closed.")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
                if self._is_closed:
                    self._close_writer()


#: The prefix of a file that marks a process as stalled, and how long that file is kept.
_STILL = ".still-"
_NOTE_SECONDS = 3600.0


class _HintCompiler(SQLiteCompiler):
    """Writes hints such as INDEXED BY into statements, as SQLAlchemy does for other databases only."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return the text to write after the table's name."""
        return text


def note_standstill(path: str, prefix: str) -> None:
    """Mark the processes whose names begin with *prefix* as stalled. Takes no lock: one of them may hold it."""
    Owners(Path(f"{path}-owners")).note_standstill(prefix)


class Owners:
    """The processes that use a store's file. Each keeps a file of its own locked.

    The kernel releases that lock when the last thread of the process has ended. If another process gets the lock, the
    owner can do nothing more, and its jobs can be taken back without waiting for their leases.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[Path, int] | None = None

    def register(self, owner: str) -> None:
        """Register this process under the name *owner*; raises OSError."""
        make_folder(self._folder)
        self._forget_standstills()
        path = self._folder / owner
        # Lock the file under a hidden name, then rename it: an unlocked file would look like that of a dead process.
        unseen = self._folder / f".{owner}"
        descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(unseen, path)
        self._own = (path, descriptor)

    def leave(self) -> None:
        """Unregister this process; may be called twice."""
        if self._own is not None:
            path, descriptor = self._own
            path.unlink(missing_ok=True)
            os.close(descriptor)
            self._own = None

    def take_dead(self) -> list[str]:
        """Return the names of the processes that have died, and delete their files."""
        return [path.name for path in self._folder.glob("[!.]*") if self._remove_if_dead(path)]

    def note_standstill(self, prefix: str) -> None:
        """Mark the processes whose names begin with *prefix* as stalled: they are about to be killed."""
        for path in self._folder.glob("[!.]*"):
            if path.name.startswith(prefix):
                self._still(path.name).touch(0o600)

    def stands_still(self, owner: str) -> bool:
        """Return True if the process named *owner* was marked as stalled."""
        return self._still(owner).exists()

    def _still(self, owner: str) -> Path:
        return self._folder / f"{_STILL}{owner}"

    def _forget_standstills(self) -> None:
        """Delete the marks of processes that were killed long ago: their jobs were taken back soon after."""
        for path in self._folder.glob(f"{_STILL}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _NOTE_SECONDS:
                    path.unlink()

    def is_alive(self, owner: str) -> bool:
        """Return True if the process named *owner* is alive, even if it is frozen; False if it has died or left."""
        path = self._folder / owner
        return path.exists() and not self._has_died(path)

    def _remove_if_dead(self, path: Path) -> bool:
        if not self._has_died(path):
            return False
        path.unlink(missing_ok=True)
        return True

    def _has_died(self, path: Path) -> bool:
        """Return True if the process that locked the file has died; False if it is alive, or if the file is gone."""
        if self._own is not None and path == self._own[0]:
            return False
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another process has deleted it, or its owner has left
            return False
        try:
            # A shared lock: two processes that check at the same time must not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def _wall_clock() -> datetime:
    return datetime.now(UTC)


def _boot_clock() -> datetime:
    """Return the time since the machine booted, as a time in 1970.

    All processes on the file are on one machine and share this clock. Setting the wall clock does not change it.
    """
    return _BOOT + timedelta(seconds=time.monotonic())


def _set_up(connection: Any, _record: Any) -> None:
    # FULL: a commit survives a power cut. Set per connection, unlike WAL mode, which is stored in the file.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -8192")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("has_begun"):
        return
    # Writers lock at once: a transaction that began with a read cannot be upgraded while another one writes.
    mode = "IMMEDIATE" if options.get("is_writer") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _touch(path: str) -> None:
    """Open and close the watched file, which wakes other processes; a write would need an fsync."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:  # the others poll, and notice the commit a moment later
        _log.debug("A commit was not announced to other processes: %s", error)


class Watch:
    """Reports whether anything was committed since the last call, in a few microseconds. For one thread.

    With inotify, its descriptor becomes readable as soon as another process announces a commit.
    """

    def __init__(self, engine: Engine, path: str) -> None:
        self._connection = engine.raw_connection()
        self._driver: Any = self._connection.driver_connection
        self._seen = -1
        self._opened = _opened(path)

    def has_moved(self) -> bool:
        """Return True if another connection, of any process, has committed since the last call. Does not block."""
        if self._opened is not None:
            self._opened.read(timeout=0)
        (version,) = self._driver.execute("PRAGMA data_version").fetchone()
        moved, self._seen = version != self._seen, version
        return bool(moved)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when a commit is announced; None without inotify."""
        return None if self._opened is None else self._opened.fileno()

    def close(self) -> None:
        """Close the descriptor and return the connection to the pool."""
        if self._opened is not None:
            self._opened.close()
        self._connection.close()


def _opened(path: str) -> INotify | None:
    """Return an inotify watch for opens of the file by any process; None if the system cannot provide one."""
    opened: INotify | None = None
    try:
        opened = INotify(nonblocking=True)
        opened.add_watch(path, flags.OPEN)
    except OSError as error:
        _log.warning("Cannot use inotify: commits of other processes are noticed up to 40 ms later: %s", error)
        if opened is not None:
            opened.close()
        return None
    return opened

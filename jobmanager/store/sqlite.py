"""What is peculiar to SQLite: group commit, turns between processes, and a watch on the file."""

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
from jobmanager.store import census, schema
from jobmanager.store.commits import HELD_UP, PATIENCE_SECONDS, GroupCommit
from jobmanager.store.prepared import Columns, Parameters, Prepared, Rows, Statement, as_sqlalchemy

T = TypeVar("T")
Item = TypeVar("Item")

_BUSY_SECONDS = 30
#: How often a process that starts tries to take the turn at writing, and after how long it says that it waits.
_TRY_AGAIN_SECONDS = 0.02
_WORTH_TELLING_SECONDS = 2.0
#: How long `close` waits for a thread that waits for the turn.
_FAREWELL_SECONDS = 1.0

_log = logging.getLogger(__name__)

_BOOT = datetime(1970, 1, 1, tzinfo=UTC)


class Database:
    """The engine, transactions and clock of one process on a SQLite file.

    Processes take turns at writing by a lock of the kernel, which gives it back when its process dies. Without it they
    starve each other: SQLite's busy handler sleeps and tries again, so whoever commits often wins.
    """

    def __init__(self, url: str, json_serializer: Any, *, clock: Callable[[], datetime] | None) -> None:
        """Make the file and its folder if they are missing. Does not connect.

        Raises ConfigError if *url* names no file, OSError.
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
        #: of the connections that are read from
        self.reader = self.engine
        #: the clock of everything that is recorded
        self.now = clock or _wall_clock
        #: the clock that leases are judged by
        self.lease_now = clock or _boot_clock
        self._writer: Connection | None = None
        self._is_closed = False
        self._lock = threading.Lock()  # held for a turn; guards _writer and _file
        self._turn_path = f"{path}-turn"
        self._file = os.open(self._turn_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_announced = False  # the transaction under way, once it is committed
        self._commits = GroupCommit(self._begin)
        self._prepared: dict[Statement, Prepared] = {}
        self._addition = census.addition(insert(schema.census))
        self._owners = Owners(Path(f"{path}-owners"))

    def run(self, write: Callable[[Connection], T]) -> T:
        """Return what *write* returns, once it is committed, together with the writes of other threads; see commits."""
        return self._commits.run(write)

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Return what *write_all* returns for *item*, once it is committed: one call for all that wait; see commits."""
        return self._commits.run_together(write_all, item)

    @contextmanager
    def begin_alone(self) -> Iterator[Connection]:
        """Open a transaction that no other process has open at the same time, in a file that is in WAL mode.

        Blocks for the turn, but for at most half a minute; raises StoreUnavailable.
        """
        with self._first_turn(), self.engine.connect().execution_options(is_writer=True) as connection:
            # Two processes that boot on a new file at once would collide on the change of journal mode.
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA journal_mode = WAL")
            with connection.begin():
                yield connection

    def execute(self, connection: Connection, statement: Statement, parameters: Parameters) -> Rows:
        """Run one of the statements that are made once, in the transaction of *connection*; raises DBAPIError."""
        return self._prepare(statement).run(connection.connection.driver_connection, parameters)

    def add(self, connection: Connection, statement: Statement, parameters: Parameters) -> int:
        """Run one of the inserts that are made once, and return the number of the new row; raises DBAPIError."""
        return self._prepare(statement).add(connection.connection.driver_connection, parameters)

    def execute_many(self, connection: Connection, statement: Statement, columns: Columns, shared: Parameters) -> int:
        """Run one of the statements that are made once, for each row, with what all *share*; raises DBAPIError.

        Returns how many rows of the database it changed, or added, in all.
        """
        return self._prepare(statement).run_many(connection.connection.driver_connection, columns, shared)

    def add_many(
        self, connection: Connection, statement: CoreInsert, columns: Columns, shared: Parameters
    ) -> list[int]:
        """Run one of the inserts that are made once, for each row, and return the numbers of the new rows."""
        added = self.execute_many(connection, statement, columns, shared)
        driver: Any = connection.connection.driver_connection
        # Nobody else writes meanwhile, so they were numbered one after the other.
        ((last,),) = driver.execute("SELECT last_insert_rowid()")
        return list(range(last - added + 1, last + 1))

    def read(self, query: Select[Any], parameters: Parameters) -> Rows:
        """Return what one of the queries that are made once finds; raises DBAPIError."""
        # Not a raw_connection, which raises the driver's own errors where the file cannot be opened.
        with self.engine.connect() as connection:
            return self.execute(connection, query, parameters)

    def insert(self, table: Table) -> Insert:
        """Return an insert of this dialect, which may say what is to be done where a key is there already."""
        return insert(table)

    def take_turn(self, connection: Connection, what: str) -> None:
        """Do nothing: whoever writes has the only turn there is."""

    def count(self, connection: Connection) -> None:
        """Add to the counts of jobs what the transaction has noted."""
        if (noted := census.take(connection, part=0)) is not None:
            self.execute_many(connection, self._addition, noted, {})

    def add_up_counts(self) -> None:
        """Do nothing: all processes count in the same rows."""

    def announce(self, connection: Connection) -> None:
        """Have the processes that watch told, once the transaction is committed."""
        self._is_announced = True

    def change_writers(self) -> set[str]:
        """Return nothing: one transaction writes at a time, so changes are committed in the order of their numbers."""
        return set()

    def join(self, owner: str) -> None:
        """Say that this process is at work under that name, until `close` or its death."""
        self._owners.join(owner)

    def dead_owners(self) -> list[str]:
        """Return the names of processes that have died since anyone asked, without waiting for their leases to end."""
        return self._owners.take_dead()

    def is_alive(self, _connection: Connection, owner: str) -> bool:
        """Return True if the process of that name is alive, even if it is frozen."""
        return self._owners.is_alive(owner)

    def stands_still(self, owner: str) -> bool:
        """Return True if the process of that name was found to stand still; see `note_standstill`."""
        return self._owners.stands_still(owner)

    def watch(self) -> Watch:
        """Return what tells one thread whether anything was committed."""
        return Watch(self.engine, self._turn_path)

    def close(self) -> None:
        """Give back every connection and the lock's file; may be called twice.

        A thread that another process keeps from writing gives back what it needs for that, once it has written.
        """
        self._is_closed = True
        if self._lock.acquire(timeout=_FAREWELL_SECONDS):
            self._let_go()
            self._lock.release()
        self._owners.leave()
        self.engine.dispose()

    def _let_go(self) -> None:
        """Close what is needed for writing; called with the lock held."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _prepare(self, statement: Statement) -> Prepared:
        # Two threads may prepare the same one: either will do.
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = Prepared(statement, self.engine.dialect)
        return prepared

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Open a write transaction; commits on leaving, rolls back on an exception. Blocks for the turn.

        The driver opens and ends it: SQLAlchemy takes longer to do so than a job takes to be written.
        """
        with self._turn():
            if self._writer is None:
                self._writer = self.engine.connect().execution_options(has_begun=True)
            driver: Any = self._writer.connection.driver_connection
            self._is_announced, before = False, driver.total_changes
            try:
                self._say(driver, "BEGIN IMMEDIATE")
                yield self._writer
                self.count(self._writer)
                self._say(driver, "COMMIT")
            except BaseException:
                self._roll_back(self._writer, driver)
                raise
            self._forget_transaction(self._writer)
            if self._is_announced and driver.total_changes > before:
                _touch(self._turn_path)

    def _roll_back(self, writer: Connection, driver: Any) -> None:
        """Take back what was written since it began; a connection that cannot do so is not used again."""
        self._forget_transaction(writer)
        try:
            if not writer.invalidated:
                census.forget(writer)
            driver.rollback()
        except sqlite3.Error:  # SQLAlchemy has closed it, as for Ctrl-C, or the file cannot be read any more
            if not writer.invalidated:
                writer.invalidate()
        if writer.invalidated:
            writer.close()
            self._writer = None

    def _forget_transaction(self, writer: Connection) -> None:
        """End SQLAlchemy's view of the transaction, if any of its statements were among the writes."""
        if transaction := writer.get_transaction():
            transaction.close()

    def _say(self, driver: Any, words: str) -> None:
        try:
            driver.execute(words)
        except sqlite3.Error as error:
            raise as_sqlalchemy(error, words, self.engine.dialect) from error

    @contextmanager
    def _first_turn(self) -> Iterator[None]:
        """Like `_turn`, for a process that starts: it tells what it waits for, and gives up at last."""
        with self._lock:
            began, is_told = time.monotonic(), False
            while not self._takes_turn():
                waited = time.monotonic() - began
                if waited > PATIENCE_SECONDS:
                    raise StoreUnavailable(f"The store cannot be opened: {HELD_UP}.")
                if waited > _WORTH_TELLING_SECONDS and not is_told:
                    _log.warning("The start waits for another process, which is writing to the store.")
                    is_told = True
                time.sleep(_TRY_AGAIN_SECONDS)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _takes_turn(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable("The store is closed.")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
                if self._is_closed:
                    self._let_go()


#: What the name of a note begins with that a process stands still, and how long the note is kept.
_STILL = ".still-"
_NOTE_SECONDS = 3600.0


class _HintCompiler(SQLiteCompiler):
    """Writes hints into statements, as in INDEXED BY: SQLAlchemy's own does so for other databases only."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return what stands behind the table's name."""
        return text


def note_standstill(path: str, prefix: str) -> None:
    """Note that the processes whose names begin with *prefix* stand still. Needs no lock: one of them may hold it."""
    Owners(Path(f"{path}-owners")).note_standstill(prefix)


class Owners:
    """The processes at work on a file, each by a file of its own that it keeps locked.

    The kernel lets go of the lock when the last thread of the process has ended: whoever gets it knows that the process
    can do nothing more, and need not wait for its leases to end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[Path, int] | None = None

    def join(self, owner: str) -> None:
        """Add this process under that name; raises OSError."""
        make_folder(self._folder)
        self._forget_standstills()
        path = self._folder / owner
        # Locked under a name that nobody looks at first: an unlocked file would be taken for that of a dead process.
        unseen = self._folder / f".{owner}"
        descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(unseen, path)
        self._own = (path, descriptor)

    def leave(self) -> None:
        """Take this process away; may be called twice."""
        if self._own is not None:
            path, descriptor = self._own
            path.unlink(missing_ok=True)
            os.close(descriptor)
            self._own = None

    def take_dead(self) -> list[str]:
        """Return the names of processes that died, and forget them."""
        return [path.name for path in self._folder.glob("[!.]*") if self._is_dead(path)]

    def note_standstill(self, prefix: str) -> None:
        """Note that the processes whose names begin with *prefix* stand still, and are about to be killed."""
        for path in self._folder.glob("[!.]*"):
            if path.name.startswith(prefix):
                self._still(path.name).touch(0o600)

    def stands_still(self, owner: str) -> bool:
        """Return True if it was noted that the process stands still."""
        return self._still(owner).exists()

    def _still(self, owner: str) -> Path:
        return self._folder / f"{_STILL}{owner}"

    def _forget_standstills(self) -> None:
        """Remove the notes on processes that were killed long ago: their jobs were taken back soon after."""
        for path in self._folder.glob(f"{_STILL}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _NOTE_SECONDS:
                    path.unlink()

    def is_alive(self, owner: str) -> bool:
        """Return True if the process of that name is at work, even if it is frozen; False if it has died or left."""
        path = self._folder / owner
        return path.exists() and not self._has_died(path)

    def _is_dead(self, path: Path) -> bool:
        if not self._has_died(path):
            return False
        path.unlink(missing_ok=True)
        return True

    def _has_died(self, path: Path) -> bool:
        """Return True if the process that locked the file has died; False if it is alive or the file is gone."""
        if self._own is not None and path == self._own[0]:
            return False
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another process was faster, or its own has left
            return False
        try:
            # A shared lock: two processes that look at the same time must not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def _wall_clock() -> datetime:
    return datetime.now(UTC)


def _boot_clock() -> datetime:
    """Return the time since the machine booted, as a time of 1970.

    All processes on the file are on one machine and share it; no step of the wall clock moves it.
    """
    return _BOOT + timedelta(seconds=time.monotonic())


def _set_up(connection: Any, _record: Any) -> None:
    # FULL: a commit survives a power cut. It is a property of the connection, unlike WAL, which the file remembers.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -8192")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("has_begun"):
        return
    # A transaction that began by reading could not be upgraded while another writes: writers say so at once.
    mode = "IMMEDIATE" if options.get("is_writer") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _touch(path: str) -> None:
    """Open a file that others watch, for no more than that they hear of it: to write would have to be synced."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:  # they find out by themselves, a moment later
        _log.debug("Nobody was told of a commit: %s", error)


class Watch:
    """Tells whether anything was committed since it was asked last, in some microseconds. For one thread.

    Where the kernel says when files are opened, it also hears at once of what others announce.
    """

    def __init__(self, engine: Engine, path: str) -> None:
        self._connection = engine.raw_connection()
        self._driver: Any = self._connection.driver_connection
        self._seen = -1
        self._opened = _opened(path)

    def has_moved(self) -> bool:
        """Tell whether another connection, of any process, has committed since the last call."""
        if self._opened is not None:
            self._opened.read(timeout=0)
        (version,) = self._driver.execute("PRAGMA data_version").fetchone()
        moved, self._seen = version != self._seen, version
        return bool(moved)

    def fileno(self) -> int | None:
        """Return the descriptor of what can be read once a commit was announced; None where that is not heard."""
        return None if self._opened is None else self._opened.fileno()

    def close(self) -> None:
        """Give the connection back."""
        if self._opened is not None:
            self._opened.close()
        self._connection.close()


def _opened(path: str) -> INotify | None:
    """Return what tells when a file is opened, by any process; None where the system has no such thing left."""
    opened: INotify | None = None
    try:
        opened = INotify(nonblocking=True)
        opened.add_watch(path, flags.OPEN)
    except OSError as error:
        _log.warning("What other processes do is noticed up to 40 ms later: %s", error)
        if opened is not None:
            opened.close()
        return None
    return opened

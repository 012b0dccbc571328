"""The store's Database on a SQLite file. Several threads share a commit, and processes write one at a time.

Puts the parts together: writer.py writes, watch.py notices commits of others, owners.py knows which processes live.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, Table, create_engine, event
from sqlalchemy import Insert as CoreInsert
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from jobmanager.errors import ConfigError
from jobmanager.private import make_file, make_folder
from jobmanager.store import job_counts, schema
from jobmanager.store.fast_statements import Columns, Parameters, Prepared, Rows, Statement
from jobmanager.store.group_commit import GroupCommit
from jobmanager.store.sqlite import clocks
from jobmanager.store.sqlite.owners import Owners
from jobmanager.store.sqlite.watch import Watch
from jobmanager.store.sqlite.writer import Writer

T = TypeVar("T")
Item = TypeVar("Item")

_BUSY_SECONDS = 30


class Database:
    """The engine, transactions and clock of one process on a SQLite file."""

    #: see clocks.boot_clock
    has_boot_clock = True

    def __init__(self, url: str, json_serializer: Any, *, clock: Callable[[], datetime] | None) -> None:
        """Create the file and its folder if they are missing. Does not connect.

        Raises ConfigError if *url* does not name a file, OSError if the file cannot be made.
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
        self.now = clock or clocks.wall_clock
        #: the clock of leases
        self.lease_now = clock or clocks.boot_clock
        #: the write transactions of this process
        self.writer = Writer(self.engine, f"{path}-turn", self.flush_counts)
        #: runs the writes of several threads in one write transaction
        self.commits = GroupCommit(self.writer.begin)
        self._prepared: dict[Statement, Prepared] = {}
        self._addition = job_counts.addition(insert(schema.census))
        self._owners = Owners(Path(f"{path}-owners"))

    def run(self, write: Callable[[Connection], T]) -> T:
        """Run *write*, commit, and return its result. Shares a transaction with other threads; see GroupCommit.run."""
        return self.commits.run(write)

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Run *write_all*, commit, and return its result for *item*; see GroupCommit.run_together."""
        return self.commits.run_together(write_all, item)

    def begin_alone(self) -> AbstractContextManager[Connection]:
        """Open a transaction during which no other process can write; see Writer.begin_alone."""
        return self.writer.begin_alone()

    def execute(self, connection: Connection, statement: Statement, parameters: Parameters) -> Rows:
        """Run a prepared statement in the transaction of *connection* and return its rows; raises DBAPIError."""
        return self._prepare(statement).run(connection.connection.driver_connection, parameters)

    def execute_many(self, connection: Connection, statement: Statement, columns: Columns, shared: Parameters) -> int:
        """Run a prepared statement once per row of *columns*.

        *shared* has the parameters whose value is the same for all rows. Returns the total number of rows changed or
        inserted. Raises DBAPIError.
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
        """Update the counts of jobs by the changes that the transaction has noted."""
        if (noted := job_counts.take(connection, part=0)) is not None:
            self.execute_many(connection, self._addition, noted, {})

    def add_up_counts(self) -> None:
        """Do nothing: all processes count in the same rows."""

    def announce(self, connection: Connection) -> None:
        """Mark the transaction: its commit will wake the processes that watch."""
        self.writer.announce()

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
        """Return True if the process named *owner* was marked as stalled; see owners.py."""
        return self._owners.stands_still(owner)

    def watch(self) -> Watch:
        """Return a watch on commits, for one thread."""
        return Watch(self.engine, self.writer.lock_path)

    def close(self) -> None:
        """Close all connections and files; may be called twice. Waits up to a second for a writing thread."""
        self.writer.close()
        self._owners.leave()
        self.engine.dispose()

    def _prepare(self, statement: Statement) -> Prepared:
        # Two threads may prepare the same statement; either result will do.
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = Prepared(statement, self.engine.dialect)
        return prepared


class _HintCompiler(SQLiteCompiler):
    """Writes hints such as INDEXED BY into statements. SQLAlchemy's own compiler for SQLite leaves them out."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return the text to write after the table's name."""
        return text


def _set_up(connection: Any, _record: Any) -> None:
    # FULL: a commit survives a power cut. Set per connection, unlike WAL mode, which is stored in the file.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: flush the drive's cache, too; no effect on other systems
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -8192")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("has_begun"):
        return
    # Writers lock at once: a transaction that began with a read cannot be upgraded while another one writes.
    mode = "IMMEDIATE" if options.get("is_writer") else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")

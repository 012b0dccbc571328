"""The store's Database on a PostgreSQL server: a pool of connections, and the statements that run on them.

Uses clock.py for all times. transactions.py begins, commits and announces commits; watch.py listens for these.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy import Insert as CoreInsert
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DisconnectionError, StatementError

from jobmanager.store import job_counts, schema
from jobmanager.store.fast_statements import Columns, Parameters, Prepared, Rows, Statement
from jobmanager.store.group_commit import GroupCommit, translate
from jobmanager.store.postgresql.array_inserts import for_all, numbered
from jobmanager.store.postgresql.clock import ServerClock
from jobmanager.store.postgresql.transactions import Transactions
from jobmanager.store.postgresql.watch import Watch, owner_lock

T = TypeVar("T")
Item = TypeVar("Item")

#: The OID of double precision.
_FLOAT8 = 701
#: How long a connection may have been idle and still be used without a ping.
_TRUSTED_SECONDS = 1.0
#: In how many parts each process splits a count of jobs, so that its transactions seldom wait for each other. Processes
#: do not share parts: a process that is frozen before it commits must not block the others.
_PARTS = 8
#: Adds up the parts that are not locked. One statement, so that no process can leave it half done.
_ADD_UP = text(
    "WITH parts AS (DELETE FROM census WHERE (type, status, part) IN"
    " (SELECT type, status, part FROM census WHERE part > 0 FOR UPDATE SKIP LOCKED) RETURNING type, status, jobs)"
    " INSERT INTO census (type, status, part, jobs) SELECT type, status, 0, sum(jobs) FROM parts"
    " GROUP BY type, status ORDER BY type, status"
    " ON CONFLICT (type, status, part) DO UPDATE SET jobs = census.jobs + excluded.jobs"
)
#: The key in a connection's `info`.
_IDLE_SINCE = "idle_since"
#: Finds the open transactions that write to the table `changes`. Each of them takes the lock of a writer before it
#: takes the numbers of its rows, and holds the lock until it ends.
_CHANGE_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND relation = 'changes'::regclass"
)


class Database:
    """The engine, transactions and clock of one process on a PostgreSQL database."""

    has_boot_clock = False

    def __init__(self, url: str, json_serializer: Any) -> None:
        """Make the pool of connections. Does not connect."""
        schema.have_partial_indexes("postgresql")
        self.engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            json_serializer=json_serializer,
            json_deserializer=schema.from_json,
            paramstyle="format",  # positional parameters; see fast_statements.py
            pool_size=16,
            max_overflow=16,
            pool_timeout=10,
            pool_use_lifo=True,  # the connection used last has our statements planned
            connect_args={"connect_timeout": 5, "application_name": "jobmanager"},
        )
        event.listen(self.engine, "checkin", _note_when_idle)
        event.listen(self.engine, "checkout", _ping_where_idle)
        #: the same pool in autocommit mode, for single queries
        self.reader: Engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        #: the write transactions of this process
        self.transactions = Transactions(self.reader, self.flush_counts)
        #: the server's clock, for recorded times and for leases
        self.now = self.lease_now = ServerClock(self.reader).now
        self._prepared: dict[Statement, Prepared] = {}
        self._addition = job_counts.addition(insert(schema.census))
        self._owner = ""
        self._first_part = 1 + random.randrange(2**27) * _PARTS
        # Do not extend a batch while it is written: later rows would break the lock order, and could deadlock.
        self.commits = GroupCommit(self.transactions.begin, largest=1)

    def run(self, write: Callable[[Connection], T]) -> T:
        """Run *write* in its own transaction, commit, and return its result.

        Raises the exception of *write*, or StoreUnavailable. PostgreSQL itself groups concurrent commits.
        """
        try:
            with self.transactions.begin() as connection:
                return write(connection)
        except StatementError as error:
            ours = translate(error)
            raise ours from ours.__cause__

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Run *write_all*, commit, and return its result for *item*; see GroupCommit.run_together.

        This process runs such transactions one after another. Use them only for writes that are faster in a batch.
        """
        return self.commits.run_together(write_all, item)

    @contextmanager
    def begin_alone(self) -> Iterator[Connection]:
        """Open a transaction for changes of the schema. Blocks while another process has such a transaction open."""
        with self.engine.begin() as connection:
            self.acquire_lock(connection, "schema")
            yield connection

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
        if len(next(iter(columns.values()))) == 1:
            row = {name: value for name, (value,) in columns.items()}
            ((number,),) = self.execute(connection, numbered(statement), {**shared, **row})
            return [number]
        arrays = {name: list(column) for name, column in columns.items()}
        rows = self.execute(connection, numbered(for_all(statement, tuple(columns))), {**shared, **arrays})
        return [number for (number,) in rows]

    def read(self, query: Select[Any], parameters: Parameters) -> Rows:
        """Run a prepared query and return its rows; raises DBAPIError."""
        # Not raw_connection(), which raises driver errors if the database is down.
        with self.reader.connect() as connection:
            return self.execute(connection, query, parameters)

    def insert(self, table: Table) -> Insert:
        """Return an insert of this dialect, which supports ON CONFLICT."""
        return insert(table)

    def acquire_lock(self, connection: Connection, name: str) -> None:
        """Acquire the advisory lock named *name*. Blocks; held until the transaction ends."""
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"jobmanager {name}"))))

    def flush_counts(self, connection: Connection) -> None:
        """Update the counts of jobs by the changes that the transaction has noted.

        Until the transaction commits, other transactions of this process may have to wait.
        """
        if (noted := job_counts.take(connection, part=self._first_part + random.randrange(_PARTS))) is not None:
            self.execute_many(connection, self._addition, noted, {})

    def add_up_counts(self) -> None:
        """Merge the rows of each count: every process that ever counted jobs leaves rows behind."""
        with self.reader.connect() as connection:
            connection.execute(_ADD_UP)

    def announce(self, connection: Connection) -> None:
        """Mark the transaction: its commit will wake the processes that watch."""
        self.transactions.announce(connection)

    def change_writers(self) -> set[str]:
        """Return the ids of transactions that may have taken numbers of changes, and have not committed them yet."""
        with self.reader.connect() as connection:
            return set(connection.execute(_CHANGE_WRITERS).scalars())

    def _prepare(self, statement: Statement) -> Prepared:
        # Two threads may prepare the same statement; either result will do.
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = Prepared(statement, self.engine.dialect, float_code=_FLOAT8)
        return prepared

    def register_owner(self, owner: str) -> None:
        """Set the name of this process, under which `watch` holds an advisory lock."""
        self._owner = owner

    def dead_owners(self) -> list[str]:
        """Return an empty list: jobs of a dead process are found when their leases expire."""
        return []

    def is_alive(self, connection: Connection, owner: str) -> bool:
        """Return True if the process named *owner* is connected, even if it is frozen: it holds its advisory lock."""
        # Shared: two processes that check at the same time must not take each other for the owner.
        return not connection.execute(select(func.pg_try_advisory_xact_lock_shared(owner_lock(owner)))).scalar_one()

    def stands_still(self, owner: str) -> bool:
        """Return False: processes are not marked as stalled. `Leases.release_process` waits for their rows instead."""
        return False

    def watch(self) -> Watch:
        """Return a watch on announced commits, for one thread. It also holds the advisory lock of this process."""
        return Watch(self.engine, self._owner)

    def close(self) -> None:
        """Close the pool; may be called twice."""
        self.engine.dispose()


def _note_when_idle(_connection: Any, record: Any) -> None:
    record.info[_IDLE_SINCE] = time.monotonic()


def _ping_where_idle(connection: Any, record: Any, _proxy: Any) -> None:
    """Ping the server if the connection was idle: a restart kills all connections. Raises DisconnectionError."""
    if connection.closed:
        raise DisconnectionError
    if time.monotonic() - record.info.get(_IDLE_SINCE, time.monotonic()) < _TRUSTED_SECONDS:
        return
    try:
        connection.autocommit = True  # a rollback would make the driver drop its prepared statements
        connection.execute("")
        connection.autocommit = False
    except psycopg.Error as error:
        raise DisconnectionError from error

"""What is peculiar to PostgreSQL: a pool, one clock for all hosts, and LISTEN/NOTIFY."""

from __future__ import annotations

import random
import select as polling
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import psycopg
from sqlalchemy import (
    BindParameter,
    Connection,
    Engine,
    Select,
    Table,
    bindparam,
    column,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy import Insert as CoreInsert
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, StatementError
from sqlalchemy.sql import visitors

from jobmanager.store import census, schema
from jobmanager.store.commits import GroupCommit, translate
from jobmanager.store.prepared import Columns, Parameters, Prepared, Rows, Statement, as_sqlalchemy

T = TypeVar("T")
Item = TypeVar("Item")

#: How often the offset to the database's clock is measured.
_SYNC_SECONDS = 60.0
#: How many looks are taken for that, of which the quickest counts: one in which the process is frozen is far off.
_LOOKS = 3
#: How often a lost listening connection is tried again, and the store asked without it.
_RECONNECT_SECONDS = 0.5
#: The OID of double precision.
_FLOAT8 = 701
#: The channel on which every commit that may concern another process is announced.
_CHANNEL = "jobmanager"
#: What a transaction that has to be announced ends with: both on one way to the server.
_COMMIT_ANNOUNCED = f"NOTIFY {_CHANNEL}; COMMIT"
#: How long a connection may have been idle and still be used without asking whether it is there.
_TRUSTED_SECONDS = 1.0
#: Into how many parts a process divides each count of jobs, so that its transactions seldom wait for each other. No
#: other process counts in them: one that is frozen before it commits holds nobody else up.
_PARTS = 8
#: Adds up the parts, but for those in which somebody is counting: by one statement, which no process can leave undone.
_ADD_UP = text(
    "WITH parts AS (DELETE FROM census WHERE (type, status, part) IN"
    " (SELECT type, status, part FROM census WHERE part > 0 FOR UPDATE SKIP LOCKED) RETURNING type, status, jobs)"
    " INSERT INTO census (type, status, part, jobs) SELECT type, status, 0, sum(jobs) FROM parts"
    " GROUP BY type, status ORDER BY type, status"
    " ON CONFLICT (type, status, part) DO UPDATE SET jobs = census.jobs + excluded.jobs"
)
# What is kept of a connection.
_IS_ANNOUNCED, _IDLE_SINCE = "is_announced", "idle_since"
#: Whoever writes rows of a table holds this lock from before it takes their numbers until it has committed.
_CHANGE_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND relation = 'changes'::regclass"
)


class Database:
    """The engine, transactions and clock of one process on a PostgreSQL database."""

    def __init__(self, url: str, json_serializer: Any) -> None:
        """Connects to nothing yet."""
        schema.have_partial_indexes("postgresql")
        self.engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            json_serializer=json_serializer,
            json_deserializer=schema.from_json,
            paramstyle="format",  # parameters have places: see prepared.py
            pool_size=16,
            max_overflow=16,
            pool_timeout=10,
            pool_use_lifo=True,  # the server has planned our statements on the connection that was used last
            connect_args={"connect_timeout": 5, "application_name": "jobmanager"},
        )
        event.listen(self.engine, "checkin", _note_when_idle)
        event.listen(self.engine, "checkout", _ping_where_idle)
        event.listen(self.engine, "rollback", _forget_what_was_to_be_done)
        event.listen(self.engine, "commit", self._commit_announced)
        #: the same connections, for single questions, which need no transaction
        self.reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lock = threading.Lock()  # guards _offset and _synced_at; never held while asking the database
        self._offset: datetime | None = None  # the database's clock where ours, the monotonic one, is zero
        self._synced_at = 0.0
        self._prepared: dict[Statement, Prepared] = {}
        self._addition = census.addition(insert(schema.census))
        self._owner = ""
        self._first_part = 1 + random.randrange(2**27) * _PARTS
        # What comes later is left to the next commit: it would lock rows out of order, and wait for another that does.
        self._commits = GroupCommit(self._begin, largest=1)

    def run(self, write: Callable[[Connection], T]) -> T:
        """Return what *write* returns, once it is committed; PostgreSQL groups concurrent commits by itself."""
        try:
            with self.engine.begin() as connection:
                result = write(connection)
                self.count(connection)
                return result
        except StatementError as error:
            ours = translate(error)
            raise ours from ours.__cause__

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Return what *write_all* returns for *item*, once it is committed: one call for all that wait; see commits.

        One transaction after the other, in this process: for what is quicker written together than side by side.
        """
        return self._commits.run_together(write_all, item)

    @contextmanager
    def begin_alone(self) -> Iterator[Connection]:
        """Open a transaction that no other process has open at the same time; for changes of the schema."""
        with self.engine.begin() as connection:
            self.take_turn(connection, "schema")
            yield connection

    def execute(self, connection: Connection, statement: Statement, parameters: Parameters) -> Rows:
        """Run one of the statements that are made once, in the transaction of *connection*; raises DBAPIError."""
        return self._prepare(statement).run(connection.connection.driver_connection, parameters)

    def add(self, connection: Connection, statement: CoreInsert, parameters: Parameters) -> int:
        """Run one of the inserts that are made once, and return the number of the new row; raises DBAPIError."""
        ((number,),) = self.execute(connection, _numbered(statement), parameters)
        return int(number)

    def execute_many(self, connection: Connection, statement: Statement, columns: Columns, shared: Parameters) -> int:
        """Run one of the statements that are made once, for each row, with what all *share*; raises DBAPIError.

        Returns how many rows of the database it changed, or added, in all.
        """
        return self._prepare(statement).run_many(connection.connection.driver_connection, columns, shared)

    def add_many(
        self, connection: Connection, statement: CoreInsert, columns: Columns, shared: Parameters
    ) -> list[int]:
        """Run one of the inserts that are made once, for each row, and return the numbers of the new rows."""
        if len(next(iter(columns.values()))) == 1:
            return [self.add(connection, statement, {**shared, **{name: value for name, (value,) in columns.items()}})]
        arrays = {name: list(column) for name, column in columns.items()}
        rows = self.execute(connection, _numbered(_for_all(statement, tuple(columns))), {**shared, **arrays})
        return [number for (number,) in rows]

    def read(self, query: Select[Any], parameters: Parameters) -> Rows:
        """Return what one of the queries that are made once finds; raises DBAPIError."""
        # Not a raw_connection, which raises the driver's own errors where the database is away.
        with self.reader.connect() as connection:
            return self.execute(connection, query, parameters)

    def insert(self, table: Table) -> Insert:
        """Return an insert of this dialect, which may say what is to be done where a key is there already."""
        return insert(table)

    def take_turn(self, connection: Connection, what: str) -> None:
        """Wait until no other transaction has the turn at *what*; kept until this one ends."""
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"jobmanager {what}"))))

    def count(self, connection: Connection) -> None:
        """Add to the counts of jobs what the transaction has noted; others of this process may wait for its end."""
        if (noted := census.take(connection, part=self._first_part + random.randrange(_PARTS))) is not None:
            self.execute_many(connection, self._addition, noted, {})

    def add_up_counts(self) -> None:
        """Have as few rows as can be hold the counts: each process that ever counted leaves some."""
        with self.reader.connect() as connection:
            connection.execute(_ADD_UP)

    def announce(self, connection: Connection) -> None:
        """Have the processes that watch told, once the transaction is committed."""
        connection.info[_IS_ANNOUNCED] = True

    def change_writers(self) -> set[str]:
        """Return the names of the transactions that are writing changes: a number is taken before it is committed."""
        with self.reader.connect() as connection:
            return set(connection.execute(_CHANGE_WRITERS).scalars())

    def now(self) -> datetime:
        """Return the database's clock: it is one for all hosts, and no step of a host's clock moves it."""
        with self._lock:
            offset, is_stale = self._offset, time.monotonic() - self._synced_at > _SYNC_SECONDS
        if offset is None or is_stale:
            offset = self._sync(offset)
        # Read now: the look at the database's clock may have taken long.
        return offset + timedelta(seconds=time.monotonic())

    def lease_now(self) -> datetime:
        """Return the clock that leases are judged by: the same."""
        return self.now()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Open a transaction; commits on leaving, rolls back on an exception.

        The server is told at once, and not with the first statement: others come to be written meanwhile.
        """
        with self.reader.connect() as connection:
            driver: Any = connection.connection.driver_connection
            kept = connection.info  # which a connection that is lost has no more
            try:
                self._say(driver, "BEGIN")
                yield connection
                self.count(connection)
                self._say(driver, _COMMIT_ANNOUNCED if kept.get(_IS_ANNOUNCED) else "COMMIT")
            except BaseException:
                self._roll_back(connection, driver)
                raise
            finally:
                kept.pop(_IS_ANNOUNCED, None)
                kept.pop(census.NOTED, None)

    def _roll_back(self, connection: Connection, driver: Any) -> None:
        try:
            driver.rollback()
        except psycopg.Error:  # the connection is lost, and the server has done so
            if not connection.invalidated:
                connection.invalidate()

    def _commit_announced(self, connection: Connection) -> None:
        """Commit, and have it announced, if it has to be; what SQLAlchemy does next is nothing then."""
        if connection.info.pop(_IS_ANNOUNCED, False):
            self._say(connection.connection.driver_connection, _COMMIT_ANNOUNCED)

    def _say(self, driver: Any, words: str) -> None:
        try:
            driver.execute(words)
        except psycopg.Error as error:
            raise as_sqlalchemy(error, words, self.engine.dialect) from error

    def _prepare(self, statement: Statement) -> Prepared:
        # Two threads may prepare the same one: either will do.
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = Prepared(statement, self.engine.dialect, float_code=_FLOAT8)
        return prepared

    def _sync(self, known: datetime | None) -> datetime:
        """Measure the offset to the database's clock; where it does not answer, the one known still holds."""
        try:
            with self.reader.connect() as connection:
                _took, theirs, ours = min(_look_at_clock(connection) for _ in range(_LOOKS))
        except DBAPIError:
            if known is None:
                raise
            return known
        with self._lock:
            self._offset, self._synced_at = theirs - timedelta(seconds=ours), ours
            return self._offset

    def join(self, owner: str) -> None:
        """Remember the name of this process, under which `watch` holds a lock."""
        self._owner = owner

    def dead_owners(self) -> list[str]:
        """Return nothing: jobs of a dead process are found when their leases end."""
        return []

    def is_alive(self, connection: Connection, owner: str) -> bool:
        """Return True if the process of that name is connected, even if it is frozen: it holds its lock."""
        # Shared: two processes that look at the same time must not take each other for the owner.
        return not connection.execute(select(func.pg_try_advisory_xact_lock_shared(_lock_of(owner)))).scalar_one()

    def stands_still(self, owner: str) -> bool:
        """Return False: a process that hands over the jobs of one that stands still waits for their rows by itself."""
        return False

    def watch(self) -> Watch:
        """Return what tells one thread whether anything was announced. It also holds the lock of this process."""
        return Watch(self.engine, self._owner)

    def close(self) -> None:
        """Close the pool; may be called twice."""
        self.engine.dispose()


def _note_when_idle(_connection: Any, record: Any) -> None:
    record.info[_IDLE_SINCE] = time.monotonic()


def _ping_where_idle(connection: Any, record: Any, _proxy: Any) -> None:
    """Ask the server whether it is there, if that is not certain: after its restart, all connections are dead."""
    if connection.closed:
        raise DisconnectionError
    if time.monotonic() - record.info.get(_IDLE_SINCE, time.monotonic()) < _TRUSTED_SECONDS:
        return
    try:
        connection.autocommit = True  # a rollback would have the driver forget what it has prepared
        connection.execute("")
        connection.autocommit = False
    except psycopg.Error as error:
        raise DisconnectionError from error


def _forget_what_was_to_be_done(connection: Connection) -> None:
    if not connection.invalidated:
        connection.info.pop(_IS_ANNOUNCED, None)
        connection.info.pop(census.NOTED, None)


@cache
def _numbered(statement: CoreInsert) -> CoreInsert:
    """Return the insert, which returns the numbers of its rows; the same for the same, so that it is made once."""
    return statement.returning(*statement.table.primary_key)


@cache
def _for_all(statement: CoreInsert, names: tuple[str, ...]) -> CoreInsert:
    """Return the insert for many rows at once: the parameters *names* become arrays, with a value for each.

    One statement takes the server, and the driver, a fraction of what as many single ones take. Not for numbers that
    are ints in one row and floats in another, which the driver refuses.
    """
    found: dict[str, BindParameter[Any]] = {}

    def find(parameter: BindParameter[Any]) -> None:
        found.setdefault(parameter.key, parameter)

    visitors.traverse(statement, {}, {"bindparam": find})
    arrays = [bindparam(name, type_=ARRAY(found[name].type, dimensions=1)) for name in names]
    rows = func.unnest(*arrays).table_valued(*[column(name, found[name].type) for name in names]).render_derived()
    values = [rows.c[name] if name in names else parameter for name, parameter in found.items()]
    return insert(statement.table).from_select(list(found), select(*values), include_defaults=False)


def _lock_of(owner: str) -> Any:
    """Return the key of the advisory lock that a process holds while it is connected."""
    return func.hashtextextended(f"jobmanager owner {owner}", 0)


def _look_at_clock(connection: Connection) -> tuple[float, datetime, float]:
    """Return how long the database took to say its time, that time, and ours in the middle of it, in seconds."""
    began = time.monotonic()
    theirs: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    ended = time.monotonic()
    return ended - began, theirs, (began + ended) / 2


class Watch:
    """Tells whether anything was announced since it was asked last. For one thread.

    Where its connection is lost it says yes every now and then, so that nothing waits for the announcement alone.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self._engine = engine
        self._lock = select(func.pg_try_advisory_lock(_lock_of(owner))).compile(
            dialect=engine.dialect, compile_kwargs={"literal_binds": True}
        )
        self._connection: psycopg.Connection[Any] | None = None
        self._came = polling.poll()  # tells of the connection whether anything came, in a fraction of what it takes
        self._tried_at = float("-inf")

    def has_moved(self) -> bool:
        """Tell whether anything was announced; does not block, but for connecting anew."""
        if self._connection is None:
            return self._connect()
        if not self._came.poll(0):
            return False
        try:
            heard = list(self._connection.notifies(timeout=0))
        except psycopg.OperationalError:
            self.close()
            return True
        return bool(heard)

    def fileno(self) -> int | None:
        """Return the descriptor of what can be read once anything was announced; None where that is not heard."""
        return None if self._connection is None else self._connection.fileno()

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._came = polling.poll()
            connection.close()

    def _connect(self) -> bool:
        """Listen, if it is time to try; tells whether it tried, for something may have been missed until now."""
        if time.monotonic() - self._tried_at < _RECONNECT_SECONDS:
            return False
        self._tried_at = time.monotonic()
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        try:
            connection = psycopg.connect(*arguments, **options, autocommit=True, connect_timeout=5)
            connection.execute(str(self._lock))  # see Database.is_alive; the server drops it with the connection
            connection.execute(f"LISTEN {_CHANNEL}")
            self._came.register(connection.fileno(), polling.POLLIN)
            self._connection = connection
        except psycopg.OperationalError:
            return True
        return True

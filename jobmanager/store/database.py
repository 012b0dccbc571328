"""The interface between the store and its database. Implemented by sqlite.Database and postgresql.Database.

Nothing here connects, and nothing knows what a statement means for a job.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Insert, Select, Table

from jobmanager.store.fast_statements import Columns, Parameters, Rows, Statement

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
Item = TypeVar("Item")


class Watch(Protocol):
    """Reports whether anything was committed, in any process. For one thread."""

    def has_moved(self) -> bool:
        """Return True if anything may have been committed since the last call."""

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable after a commit; None if the caller has to poll `has_moved`."""

    def close(self) -> None:
        """Release the resources of the watch."""


class Database(Protocol):
    """The connections, transactions and clocks of one process on a database. For any number of threads."""

    engine: Engine
    #: the engine for reading
    reader: Engine
    #: True: the lease clock starts at zero whenever the machine boots
    has_boot_clock: bool

    def now(self) -> datetime:
        """Return the current time, by the clock that all recorded times use."""

    def lease_now(self) -> datetime:
        """Return the current time by the clock for leases. Setting the wall clock does not change this clock."""

    # Transactions

    def run(self, write: Callable[[Connection], T]) -> T:
        """Run *write* in a transaction, commit, and return its result.

        Raises the exception of *write*, or StoreUnavailable.
        """

    def run_together(self, write_all: Callable[[Connection, list[Item]], list[T]], item: Item) -> T:
        """Run *write_all* for the items of several threads in one commit. Return its result for *item*; see `run`."""

    def begin_alone(self) -> AbstractContextManager[Connection]:
        """Open a transaction for changes of the schema. Meanwhile, other processes cannot change the schema."""

    def acquire_lock(self, connection: Connection, name: str) -> None:
        """Acquire the lock *name*, which excludes transactions of other processes until this one ends. Blocks."""

    def announce(self, connection: Connection) -> None:
        """Mark the transaction: its commit will wake the processes that watch."""

    def change_writers(self) -> set[str]:
        """Return the ids of open transactions that may already have taken the numbers of their changes."""

    def watch(self) -> Watch:
        """Return a watch on commits, for one thread."""

    # Statements

    def execute(self, connection: Connection, statement: Statement, parameters: Parameters) -> Rows:
        """Run a prepared statement in the transaction of *connection* and return its rows; raises DBAPIError."""

    def execute_many(self, connection: Connection, statement: Statement, columns: Columns, shared: Parameters) -> int:
        """Run a prepared statement once per row of *columns*; return the number of rows that it wrote in all."""

    def add_many(self, connection: Connection, statement: Insert, columns: Columns, shared: Parameters) -> list[int]:
        """Run a prepared insert once per row of *columns* and return the numbers of the new rows."""

    def read(self, query: Select[Any], parameters: Parameters) -> Rows:
        """Run a prepared query outside of a transaction and return its rows; raises DBAPIError."""

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """Return an insert of this dialect, which supports ON CONFLICT."""

    # Counts of jobs; see job_counts.py

    def flush_counts(self, connection: Connection) -> None:
        """Update the counts of jobs by the changes that the transaction has noted."""

    def add_up_counts(self) -> None:
        """Merge the parts of each count."""

    # Processes as owners of jobs

    def register_owner(self, owner: str) -> None:
        """Register this process under the name *owner*, until `close` or its death; raises OSError."""

    def dead_owners(self) -> list[str]:
        """Return the names of processes that are known to have died since the last call."""

    def is_alive(self, connection: Connection, owner: str) -> bool:
        """Return True if the process named *owner* is alive, even if it is frozen."""

    def stands_still(self, owner: str) -> bool:
        """Return True if the process named *owner* was marked as stalled."""

    def close(self) -> None:
        """Close all connections; may be called twice."""


def run_announced(database: Database, write: Callable[[Connection], T]) -> T:
    """Run *write*, commit, and wake the other processes."""

    def write_and_announce(connection: Connection) -> T:
        result = write(connection)
        database.announce(connection)
        return result

    return database.run(write_and_announce)

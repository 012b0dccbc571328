"""The connection of a PostgreSQL reader for the catalog, for counts and for checks. It also holds the snapshot.

Each query is one read-only transaction with a statement timeout. A pooler runs all statements of a transaction on the
same connection. The rows of an export are read by another connection, see postgresql_rows.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.errors import away_error, encoding_error, forbidden_error, unusable_error
from jobmanager.jobs.export.readers.postgresql_settings import (
    LOCK_SECONDS,
    conninfo,
    statement_timeout_error,
    transaction_settings,
)

#: Timeout of a request to cancel a statement. The request is repeated until the statement has ended.
_CANCEL_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Session:
    """A psycopg connection, and the snapshot that it may hold. Another thread may cancel its query."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation) -> None:
        self._dataset = dataset
        self._cancellation = cancellation
        #: the URL as a connection string for libpq
        self.conninfo = conninfo(dataset)
        #: the name of the snapshot that this session holds; None: it holds none
        self.snapshot: str | None = None
        self._locking: psycopg.Connection | None = None  # the connection that locks the table for a snapshot
        with self._translated():
            self._connection = self._connected()
        cancellation.add(self._cancel)

    def query(
        self,
        query: sql.SQL | sql.Composed,
        *settings: str,
        params: dict[str, Any] | None = None,
        row_factory: Any = tuple_row,
        is_patient: bool = True,
    ) -> list[Any]:
        """Run a query with a short result in its own read-only transaction, and return the rows.

        *settings*: SET LOCAL statements to run before the query. *is_patient*: if False, a timeout raises
        QueryCanceled, not DatasetAway.
        """
        self._cancellation.check()
        # Rolled back, so that the settings end with this query, even inside a larger transaction.
        with self._translated(is_patient), self._connection.transaction(force_rollback=True):
            self._connection.execute(transaction_settings())
            for setting in settings:
                self._connection.execute(setting)
            with self._connection.cursor(row_factory=row_factory) as cursor:
                found: list[Any] = cursor.execute(query, params).fetchall()
                return found

    def query_within(self, seconds: int, query: sql.SQL | sql.Composed) -> list[Any] | None:
        """Run a query and return the rows; None if it takes longer than *seconds*."""
        try:
            return self.query(query, f"SET LOCAL statement_timeout = '{seconds}s'", is_patient=False)
        except psycopg.errors.QueryCanceled:
            return None

    def text_of(self, query: sql.Composable) -> str:
        """Return a query as text, with the literals in the encoding of this connection."""
        return query.as_string(self._connection)

    def take_snapshot(self, table: sql.Identifier) -> None:
        """Begin a transaction of this session, with a snapshot that was taken while the table was locked.

        The table must be locked before the snapshot is taken. TRUNCATE, REFRESH and renames ignore snapshots: if one of
        them replaced the rows after the snapshot, the table would look empty. But a transaction takes its snapshot
        before its first lock. So a second session locks the table as SELECT does, takes the snapshot, and hands the
        snapshot to this session.
        Blocks until the table is locked. Raises DatasetAway if another session keeps the table locked.
        Source: PostgreSQL, "Caveats" of "Concurrency Control", and "Snapshot Synchronization Functions".
        """
        lock = sql.SQL("SELECT 1 FROM {} LIMIT 0").format(table)
        export = "SELECT pg_export_snapshot()"
        lock_timeout = f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"
        with self._translated(), self._connected() as first:
            self._locking = first
            self._cancellation.check()
            first.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
            first.execute(lock_timeout)
            first.execute(lock)
            ((since,),) = first.execute(export).fetchall()
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._connection.execute(f"SET TRANSACTION SNAPSHOT '{since}'")
            self._connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            self._connection.execute(lock_timeout)
            self._connection.execute(lock)  # outside a savepoint, so that the lock lasts as long as the transaction
            ((self.snapshot,),) = self._connection.execute(export).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _cancel(self) -> None:
        """Cancel the query that another thread waits for, if there is one."""
        for connection in (self._connection, self._locking):
            try:
                if connection is not None and connection.info.transaction_status is TransactionStatus.ACTIVE:
                    connection.cancel_safe(timeout=_CANCEL_SECONDS)
            except psycopg.Error:
                # The statement has ended by itself meanwhile.
                _log.debug("The statement could not be cancelled.", exc_info=True)

    def _connected(self) -> psycopg.Connection:
        # No prepared statements: a pooler could run one on a connection that has not prepared it.
        return psycopg.connect(self.conninfo, autocommit=True, prepare_threshold=None)

    @contextmanager
    def _translated(self, is_patient: bool = True) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.QueryCanceled:
            if self._cancellation.is_requested:
                raise self._cancellation.error() from None
            if not is_patient:
                raise
            raise statement_timeout_error(self._dataset) from None
        except psycopg.errors.InsufficientPrivilege:
            raise forbidden_error(self._dataset) from None
        except (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter):
            raise encoding_error(self._dataset) from None
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.InternalError):
            raise away_error(self._dataset) from None
        except psycopg.Error:
            raise unusable_error(self._dataset) from None

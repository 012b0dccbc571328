"""The connection of a PostgreSQL reader for rows. ADBC reads binary COPY into Arrow, in C, without the GIL.

Each read is one read-only transaction. Holds no transaction between two reads. The statements are not made here, but in
postgresql_statements.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql
import adbc_driver_postgresql.dbapi
import pyarrow as pa

from jobmanager.jobs.export.chunks import Chunk
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.errors import away_error, encoding_error, forbidden_error, unusable_error
from jobmanager.jobs.export.readers.postgresql_session import Session
from jobmanager.jobs.export.readers.postgresql_settings import (
    LOCK_SECONDS,
    statement_timeout_error,
    transaction_settings,
)

#: The driver returns rows in batches of about this many bytes. At most one batch is read beyond the end of a chunk.
_BATCH_BYTES = 2 * 1024 * 1024
#: Errors of ADBC after which a retry may help. While rows are fetched, pyarrow raises OSError or ArrowInvalid instead.
_AWAY = (
    adbc_driver_manager.OperationalError,
    adbc_driver_manager.InterfaceError,
    adbc_driver_manager.InternalError,
    OSError,
)
#: Messages of the server for texts that cannot be converted to UTF-8.
_ENCODING_ERRORS = ("has no equivalent in encoding", "invalid byte sequence")
#: The SQLSTATEs of errors for a table, a column or a function that does not exist.
_MISSING_STATES = ("42P01", "42703", "42883")


class NameMissing(Exception):
    """A statement names a table or a column that no longer exists."""


class RowConnection:
    """An ADBC connection, opened when rows are first read: a caller that reads only the columns does not need it."""

    def __init__(self, dataset: Dataset, session: Session, cancellation: Cancellation) -> None:
        """Does not connect. *session*: if it has a snapshot, the rows are read from that snapshot."""
        self._dataset = dataset
        self._session = session
        self._cancellation = cancellation
        self._connection: Any = None
        self._cursor: Any = None  # the running statement, which another thread may cancel
        cancellation.add(self._cancel)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run statements in one read-only transaction. Closes the connection on an error.

        Raises NameMissing, DatasetAway and Fatal instead of the driver's errors.
        """
        with self._translated():
            if self._connection is None:
                self._connection = adbc_driver_postgresql.dbapi.connect(self._session.conninfo, autocommit=True)
            try:
                self._connection.adbc_connection.set_autocommit(False)
                if self._session.snapshot is not None:
                    self._see_snapshot(self._session.snapshot)
                self.execute(transaction_settings())
                yield
                if self._connection is not None:
                    # Ends the transaction. If a statement was cancelled, the server rolls the transaction back.
                    self._connection.adbc_connection.set_autocommit(True)
            except BaseException:
                self.close()
                raise

    def execute(self, query: str) -> pa.Table:
        """Return all rows of a query. Must be called within `transaction`."""
        with self._statement() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table()

    def fetch(self, query: str, limit: int, max_bytes: int) -> tuple[pa.Table, int]:
        """Return a table that begins with the rows of a chunk, and the number of rows in the chunk.

        The table may have further rows after those of the chunk.

        Streams the rows and stops soon after the end of the chunk, so that memory is bounded for all sizes of rows.
        """
        option = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
        chunk = Chunk(limit, max_bytes)
        with self._statement() as cursor:
            cursor.adbc_statement.set_options(**{option: str(_BATCH_BYTES)})
            cursor.execute(query)
            batches = cursor.fetch_record_batch()
            for batch in batches:
                chunk.add(batch)
                if chunk.is_complete and chunk.rows <= limit:
                    self._end(cursor, batches)
                    break
            return chunk.table(batches.schema), chunk.fitting

    def close(self) -> None:
        """Close the connection. The next transaction opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _cancel(self) -> None:
        """Cancel the statement that another thread waits for, if there is one."""
        cursor = self._cursor
        if cursor is not None:
            cursor.adbc_cancel()

    def _see_snapshot(self, snapshot: str) -> None:
        """Give the transaction the snapshot of the session. Raises DatasetAway if the session has ended."""
        try:
            self._set("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self._set(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            # Limit the wait for locks: an ALTER TABLE that waits for the session makes this transaction wait, too.
            self._set(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        except adbc_driver_manager.Error:
            raise away_error(self._dataset) from None

    def _set(self, setting: str) -> None:
        with self._statement() as cursor:
            cursor.execute(setting)

    @contextmanager
    def _statement(self) -> Iterator[Any]:
        with self._connection.cursor() as cursor:
            self._cursor = cursor
            try:
                # Check after the cursor is set. An earlier cancel raises here, and a later cancel finds the cursor.
                self._cancellation.check()
                yield cursor
            finally:
                self._cursor = None

    def _end(self, cursor: Any, batches: Any) -> None:
        """Cancel a statement whose remaining rows are not needed. Otherwise the server would send all of them."""
        cursor.adbc_cancel()
        try:
            for _ in batches:
                pass
        except (OSError, pa.ArrowException):
            return  # the error of the cancelled statement
        # The statement ended before the cancel. Close the connection: the cancel might hit its next statement.
        self.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (*_AWAY, adbc_driver_manager.ProgrammingError, pa.ArrowException) as error:
            if self._cancellation.is_requested:
                raise self._cancellation.error() from None
            if getattr(error, "sqlstate", None) in _MISSING_STATES:
                raise NameMissing from error
            raise self._client_error(error) from None
        except adbc_driver_manager.Error:
            raise unusable_error(self._dataset) from None

    def _client_error(self, error: Exception) -> Exception:
        """Return the error for clients.

        Searches the text of *error*, too, because pyarrow passes on only the text of a driver's error.
        """
        state, text = getattr(error, "sqlstate", None), str(error)
        if state == "57014" or "statement timeout" in text:
            return statement_timeout_error(self._dataset)
        if state == "55P03" or "lock timeout" in text:
            return away_error(self._dataset)
        if state == "42501":
            return forbidden_error(self._dataset)
        if state in ("22021", "22P05") or any(words in text for words in _ENCODING_ERRORS):
            return encoding_error(self._dataset)
        return away_error(self._dataset) if isinstance(error, _AWAY) else unusable_error(self._dataset)

"""The connection of a reader to MariaDB or MySQL, by PyMySQL. All values arrive as the server's text.

PyMySQL is an optional dependency, so it is imported when a dataset is opened. Never writes, and holds no transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.errors import (
    away_error,
    encoding_error,
    forbidden_error,
    missing_driver_error,
    missing_table_error,
    timeout_error,
    unusable_error,
)

_CONNECT_SECONDS = 10
#: Statement timeout.
STATEMENT_SECONDS = 600
#: How much longer than the statement timeout a read from the server may take.
_GRACE_SECONDS = 30
#: Timeout of a request to kill a statement. The request is repeated until the statement has ended.
_KILL_SECONDS = 2
#: The statement that identifies the server: several servers may share one address.
_SERVER = "SHOW VARIABLES WHERE variable_name IN ('hostname', 'port', 'server_id')"

#: Error numbers, as in MariaDB's "Error Codes".
_MISSING = (1146, 1049)
_WRONG = (1054, 1792)
_FORBIDDEN = (1044, 1045, 1142, 1143, 1370)
_TIMED_OUT = (1969, 3024)

_log = logging.getLogger(__name__)


class Connection:
    """A connection, opened for the first query, and again after an error."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation) -> None:
        """Does not connect. Raises Fatal if PyMySQL is not installed, or the URL cannot be used."""
        self._dataset = dataset
        self._cancellation = cancellation
        self._driver = _driver(dataset)
        self._arguments = _arguments(dataset)
        self._connection: Any = None
        self._server: Any = None  # identifies the server of the connection, see _SERVER
        self._is_sending = False  # True while the server has rows of a statement left to send
        cancellation.add(self._kill)

    def query(self, query: str, *, seconds: int | None = None) -> list[Any]:
        """Return the rows of a query with a short result. *seconds*: a shorter statement timeout."""
        with self._translated(), self._connected().cursor() as cursor:
            if seconds is None:
                cursor.execute(query)
                return list(cursor.fetchall())
            self._limit(cursor, seconds)
            cursor.execute(query)
            found = list(cursor.fetchall())
            # Restore the timeout. An error closes the connection, so the timeout need not be restored after an error.
            self._limit(cursor, STATEMENT_SECONDS)
            return found

    def stream(self, query: str, limit: int) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query with this LIMIT. Fetches them from the server one by one.

        If rows are left, `discard_rows` must be called before the next query.
        """
        with self._translated():
            cursor = self._connected().cursor(self._driver.cursors.SSCursor)
            cursor.execute(query)
            self._is_sending = True
            while (row := cursor.fetchone()) is not None:
                limit -= 1
                if not limit:
                    cursor.close()
                    self._is_sending = False
                yield row
                if not limit:
                    return
            self._is_sending = False

    def discard_rows(self) -> None:
        """Close the connection if rows of a stream are left: the server would send them before the next answer."""
        if self._is_sending:
            self.close()

    def close(self) -> None:
        """Close the connection. The next query opens another one."""
        connection, self._connection = self._connection, None
        self._is_sending = False
        if connection is not None:
            # Not close(): it would wait for the remaining rows.
            connection._force_close()  # noqa: SLF001 - PyMySQL has no other way

    def _kill(self) -> None:
        """Kill the statement that another thread waits for, if there is one. Opens a second connection to do so."""
        connection = self._connection
        if connection is None:
            return
        timeouts = {"connect_timeout": _KILL_SECONDS, "read_timeout": _KILL_SECONDS}
        with closing(self._driver.connect(**self._arguments | timeouts)) as other, other.cursor() as cursor:
            cursor.execute(_SERVER)
            # Kill only on the same server. On another server, another client's connection may have this number.
            if cursor.fetchall() == self._server:
                cursor.execute(f"KILL QUERY {connection.thread_id()}")

    def _connected(self) -> Any:
        self._cancellation.check()
        if self._connection is None:
            with self._translated():
                # The driver does not apply connect_timeout to the handshake, so the handshake gets a read timeout.
                arguments = self._arguments | {"read_timeout": self._arguments["connect_timeout"]}
                self._connection = self._driver.connect(**arguments)
                self._connection._read_timeout = self._arguments["read_timeout"]  # noqa: SLF001 - no other way
                with self._connection.cursor() as cursor:
                    cursor.execute(_SERVER)
                    self._server = cursor.fetchall()
                    cursor.execute("SET SESSION time_zone = '+00:00'")
                    cursor.execute("SET SESSION TRANSACTION READ ONLY")
                    self._limit(cursor, STATEMENT_SECONDS)
        return self._connection

    def _limit(self, cursor: Any, seconds: int) -> None:
        """Set the statement timeout, which MariaDB and MySQL name differently."""
        is_mariadb = "MariaDB" in self._connection.get_server_info()
        cursor.execute(
            f"SET SESSION max_statement_time = {seconds}"
            if is_mariadb
            else f"SET SESSION max_execution_time = {seconds * 1000}"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._driver.err.MySQLError as error:
            self.close()
            if self._cancellation.is_requested:
                raise self._cancellation.error() from None
            raise self._client_error(error) from None
        except UnicodeDecodeError:
            self.close()
            raise encoding_error(self._dataset) from None

    def _client_error(self, error: Any) -> Exception:
        number = error.args[0] if error.args else 0
        if number in _MISSING:
            return missing_table_error(self._dataset)
        if number in _FORBIDDEN:
            _log.exception("Dataset %r cannot be read.", self._dataset.name)
            return forbidden_error(self._dataset)
        if number in _TIMED_OUT:
            return timeout_error(self._dataset, STATEMENT_SECONDS)
        is_away = isinstance(error, (self._driver.err.OperationalError, self._driver.err.InterfaceError))
        if number in _WRONG or not is_away:
            return unusable_error(self._dataset)
        return away_error(self._dataset)


def _driver(dataset: Dataset) -> Any:
    """Import and return PyMySQL. Raises Fatal if it is not installed."""
    try:
        for part in ("pymysql.cursors", "pymysql.converters"):
            import_module(part)
        return import_module("pymysql")
    except ImportError:
        raise missing_driver_error(dataset, "PyMySQL", "mysql") from None


def _arguments(dataset: Dataset) -> dict[str, Any]:
    """Return the driver's arguments from the URL, set so that all values arrive as text. Raises Fatal for a bad URL."""
    try:
        url = dataset.url.set(drivername="mysql+pymysql")
        _, given = url.get_dialect()().create_connect_args(url)
    except (SQLAlchemyError, ImportError, TypeError, ValueError):
        raise unusable_error(dataset) from None
    given.pop("client_flag", None)
    kept = {name: value for name, value in given.items() if name not in ("conv", "cursorclass", "autocommit")}
    timeouts = {"connect_timeout": _CONNECT_SECONDS, "read_timeout": STATEMENT_SECONDS + _GRACE_SECONDS}
    return timeouts | kept | {"charset": "utf8mb4", "conv": {0: str}, "autocommit": True}

"""The connection of a reader to a DuckDB file.

DuckDB is an optional dependency, so it is imported when a dataset is opened. Opens the file read-only, which DuckDB
allows only while no other process has it open for writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pyarrow as pa

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.errors import away_error, missing_driver_error, unusable_error


class Connection:
    """A read-only connection, which returns times in UTC. Another thread may cancel its statements."""

    def __init__(self, dataset: Dataset, cancellation: Cancellation) -> None:
        self._dataset = dataset
        self._cancellation = cancellation
        self._driver = _driver(dataset)
        with self._translated():
            self._connection = self._driver.connect(dataset.url.database or "", read_only=True)
        try:
            with self._translated():
                self._connection.execute("SET TimeZone = 'UTC'")
        except BaseException:
            self.close()
            raise
        cancellation.add(self._connection.interrupt)

    @property
    def version(self) -> str:
        """Return the version of DuckDB."""
        return str(self._driver.__version__)

    def query(self, query: str, values: list[Any] | None = None) -> list[Any]:
        """Return the rows of a query."""
        with self._translated():
            return list(self._connection.execute(query, values or []).fetchall())

    def table(self, query: str, values: list[Any]) -> pa.Table:
        """Return the rows of a query as an Arrow table."""
        with self._translated():
            found: pa.Table = self._connection.sql(query, params=values).to_arrow_table()
            return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        self._cancellation.check()
        try:
            yield
        except self._driver.InterruptException:
            raise self._cancellation.error() from None
        except (self._driver.IOException, self._driver.OutOfMemoryException):
            raise away_error(self._dataset) from None
        except self._driver.Error:
            raise unusable_error(self._dataset) from None


def _driver(dataset: Dataset) -> Any:
    """Import and return DuckDB. Raises Fatal if it is not installed."""
    try:
        return import_module("duckdb")
    except ImportError:
        raise missing_driver_error(dataset, "DuckDB", "duckdb") from None

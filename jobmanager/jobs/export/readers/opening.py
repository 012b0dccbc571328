"""Entry point to the code that reads and writes rows with Arrow.

This module and its imports are needed to run an export, not to accept one: see catalog.py. Readers other than SQLite's
are imported when they are first used, because each brings its own driver library.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.libraries import preload_libraries
from jobmanager.jobs.export.reader import Reader
from jobmanager.jobs.export.readers.cancellation import Cancellation
from jobmanager.jobs.export.readers.errors import missing_driver_error
from jobmanager.jobs.export.readers.read_ahead import ReadAhead
from jobmanager.jobs.export.readers.sqlite_process import SqliteProcess

__all__ = ["ENCODINGS", "import_driver", "open_reader"]


def open_reader(dataset: Dataset) -> Reader:
    """Return a reader of the dataset. Does not block: the reader imports its driver and connects when it is first used.

    The reader imports and connects in a thread of its own, which a force does not interrupt. An interrupted import
    could leave the import lock held.
    """
    if _is_sqlite(dataset):
        return SqliteProcess(dataset)
    cancellation = Cancellation(dataset)
    return ReadAhead(lambda: _reader_type(dataset)(dataset, cancellation), cancellation)


def import_driver(dataset: Dataset) -> None:
    """Import the reader and the driver for the dataset's database. May take a second. Raises Fatal."""
    if not _is_sqlite(dataset):
        _reader_type(dataset)


def _is_sqlite(dataset: Dataset) -> bool:
    return dataset.url.get_backend_name() == "sqlite"


def _reader_type(dataset: Dataset) -> Callable[[Dataset, Cancellation], Reader]:
    """Import the reader for the dataset's database and return it. Raises Fatal if its driver is not installed."""
    backend, _, driver = dataset.url.drivername.partition("+")
    if backend in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return _of_postgres(dataset)
    if backend in ("mysql", "mariadb") and driver in ("", "pymysql"):
        return _of_mysql()
    return _of_duckdb() if backend == "duckdb" else _of_any_other()


def _of_postgres(dataset: Dataset) -> Callable[[Dataset, Cancellation], Reader]:
    if find_spec("psycopg") is None:
        raise missing_driver_error(dataset, "psycopg", "postgresql")
    preload_libraries("adbc_driver_manager", "adbc_driver_postgresql")
    from jobmanager.jobs.export.readers.postgresql import PostgresReader  # noqa: PLC0415 - see the head of this module

    return PostgresReader


def _of_mysql() -> Callable[[Dataset, Cancellation], Reader]:
    from jobmanager.jobs.export.readers.mysql import MysqlReader  # noqa: PLC0415

    return MysqlReader


def _of_duckdb() -> Callable[[Dataset, Cancellation], Reader]:
    from jobmanager.jobs.export.readers.duckdb import DuckdbReader  # noqa: PLC0415

    return DuckdbReader


def _of_any_other() -> Callable[[Dataset, Cancellation], Reader]:
    from jobmanager.jobs.export.readers.sqlalchemy import SqlReader  # noqa: PLC0415

    return SqlReader

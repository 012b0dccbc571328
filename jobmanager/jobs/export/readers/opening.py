"""Entry point to the code that reads and writes rows with Arrow.

This module and its imports are needed to run an export, not to accept one: see Export. Each reader is imported on
first use, because it brings its own driver library.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset
from jobmanager.jobs.export.formats import ENCODINGS
from jobmanager.jobs.export.libraries import preload_libraries
from jobmanager.jobs.export.reader import Reader

__all__ = ["ENCODINGS", "load_reader", "open_reader"]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database. Blocks. Raises DatasetAway or Fatal."""
    return load_reader(dataset)(dataset)


def load_reader(dataset: Dataset) -> Callable[[Dataset], Reader]:
    """Import the reader for the dataset's database and return a function that connects it. Raises Fatal."""
    backend, _, driver = dataset.url.drivername.partition("+")
    if backend == "sqlite":
        return _of_sqlite()
    if backend in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return _of_postgres(dataset)
    if backend in ("mysql", "mariadb") and driver in ("", "pymysql"):
        return _of_mysql()
    if backend == "duckdb":
        return _of_duckdb()
    return _of_any_other()


def _of_sqlite() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.export.readers.sqlite_process import SqliteProcess  # noqa: PLC0415 - see the head of this module

    return SqliteProcess


def _of_postgres(dataset: Dataset) -> Callable[[Dataset], Reader]:
    if find_spec("psycopg") is None:
        raise Fatal(
            f"Dataset {dataset.name!r} needs psycopg, which is not installed. "
            "Install the service as jobmanager[postgresql]."
        )
    preload_libraries("adbc_driver_manager", "adbc_driver_postgresql")
    from jobmanager.jobs.export.readers.postgresql import PostgresReader  # noqa: PLC0415
    from jobmanager.jobs.export.readers.read_ahead import ReadAhead  # noqa: PLC0415

    return lambda dataset: ReadAhead(PostgresReader(dataset))


def _of_mysql() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.export.readers.mysql import MysqlReader  # noqa: PLC0415

    return MysqlReader


def _of_duckdb() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.export.readers.duckdb import DuckdbReader  # noqa: PLC0415

    return DuckdbReader


def _of_any_other() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.export.readers.sqlalchemy import SqlReader  # noqa: PLC0415

    return SqlReader

"""Rows as an export reads and writes them, by Arrow.

With what it imports, it is what a process needs to make an export, and not to take one on: see Export. The reader of
each kind of database is imported when there is a dataset of that kind: each brings a library of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from jobmanager.jobs.datasets import Dataset, Reader
from jobmanager.jobs.encodings import ENCODINGS
from jobmanager.jobs.libraries import read_libraries

__all__ = ["ENCODINGS", "load_reader", "open_reader"]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database; raises DatasetAway, Fatal."""
    return load_reader(dataset)(dataset)


def load_reader(dataset: Dataset) -> Callable[[Dataset], Reader]:
    """Import what reads the dataset, and return what connects to it."""
    backend, _, driver = dataset.url.drivername.partition("+")
    if backend == "sqlite":
        return _of_sqlite()
    if backend in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return _of_postgres()
    if backend in ("mysql", "mariadb") and driver in ("", "pymysql"):
        return _of_mysql()
    if backend == "duckdb":
        return _of_duckdb()
    return _of_any_other()


def _of_sqlite() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.sqlite_process import SqliteProcess  # noqa: PLC0415 - see the head of this module

    return SqliteProcess


def _of_postgres() -> Callable[[Dataset], Reader]:
    read_libraries("adbc_driver_manager", "adbc_driver_postgresql")
    from jobmanager.jobs.postgres_reader import PostgresReader  # noqa: PLC0415
    from jobmanager.jobs.read_ahead import ReadAhead  # noqa: PLC0415

    return lambda dataset: ReadAhead(PostgresReader(dataset))


def _of_mysql() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.mysql_reader import MysqlReader  # noqa: PLC0415

    return MysqlReader


def _of_duckdb() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.duckdb_reader import DuckdbReader  # noqa: PLC0415

    return DuckdbReader


def _of_any_other() -> Callable[[Dataset], Reader]:
    from jobmanager.jobs.sql_reader import SqlReader  # noqa: PLC0415

    return SqlReader

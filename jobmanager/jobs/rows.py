"""Rows as an export reads and writes them, by Arrow.

With what it imports, it is what a process needs to make an export, and not to take one on: see Export. The reader of
each kind of database is imported when there is a dataset of that kind: each brings a library of its own.
"""

from __future__ import annotations

from jobmanager.jobs.datasets import Dataset, Reader
from jobmanager.jobs.encodings import ENCODINGS
from jobmanager.jobs.libraries import read_libraries

__all__ = ["ENCODINGS", "open_reader"]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database; raises DatasetAway, Fatal."""
    backend, _, driver = dataset.url.drivername.partition("+")
    if backend == "sqlite":
        return _sqlite(dataset)
    if backend in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return _postgres(dataset)
    if backend in ("mysql", "mariadb") and driver in ("", "pymysql"):
        return _mysql(dataset)
    if backend == "duckdb":
        return _duckdb(dataset)
    return _any_other(dataset)


def _sqlite(dataset: Dataset) -> Reader:
    from jobmanager.jobs.sqlite_process import SqliteProcess  # noqa: PLC0415 - see the head of this module

    return SqliteProcess(dataset)


def _postgres(dataset: Dataset) -> Reader:
    read_libraries("adbc_driver_manager", "adbc_driver_postgresql")
    from jobmanager.jobs.postgres_reader import PostgresReader  # noqa: PLC0415
    from jobmanager.jobs.read_ahead import ReadAhead  # noqa: PLC0415

    return ReadAhead(PostgresReader(dataset))


def _mysql(dataset: Dataset) -> Reader:
    from jobmanager.jobs.mysql_reader import MysqlReader  # noqa: PLC0415

    return MysqlReader(dataset)


def _duckdb(dataset: Dataset) -> Reader:
    from jobmanager.jobs.duckdb_reader import DuckdbReader  # noqa: PLC0415

    return DuckdbReader(dataset)


def _any_other(dataset: Dataset) -> Reader:
    from jobmanager.jobs.sql_reader import SqlReader  # noqa: PLC0415

    return SqlReader(dataset)

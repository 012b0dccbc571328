"""Rows as an export reads and writes them, by Arrow.

With what it imports, it is what a process needs to make an export, and not to take one on: see Export.
"""

from __future__ import annotations

from jobmanager.jobs.datasets import Dataset, Reader
from jobmanager.jobs.duckdb_reader import DuckdbReader
from jobmanager.jobs.encodings import ENCODINGS
from jobmanager.jobs.mysql_reader import MysqlReader
from jobmanager.jobs.postgres_reader import PostgresReader
from jobmanager.jobs.read_ahead import ReadAhead
from jobmanager.jobs.sql_reader import SqlReader
from jobmanager.jobs.sqlite_process import SqliteProcess

__all__ = ["ENCODINGS", "open_reader"]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database; raises DatasetAway, Fatal."""
    backend, _, driver = dataset.url.drivername.partition("+")
    if backend == "sqlite":
        return SqliteProcess(dataset)
    if backend in ("postgres", "postgresql") and driver in ("", "psycopg"):
        return ReadAhead(PostgresReader(dataset))
    if backend in ("mysql", "mariadb") and driver in ("", "pymysql"):
        return MysqlReader(dataset)
    if backend == "duckdb":
        return DuckdbReader(dataset)
    return SqlReader(dataset)

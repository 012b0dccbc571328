"""Rows as an export reads and writes them, by Arrow.

With what it imports, it is what a process needs to make an export, and not to take one on: see Export.
"""

from __future__ import annotations

from jobmanager.jobs.datasets import Dataset, Reader
from jobmanager.jobs.encodings import ENCODINGS
from jobmanager.jobs.postgres_reader import PostgresReader
from jobmanager.jobs.read_ahead import ReadAhead
from jobmanager.jobs.sql_reader import SqlReader
from jobmanager.jobs.sqlite_process import SqliteProcess

__all__ = ["ENCODINGS", "open_reader"]


def open_reader(dataset: Dataset) -> Reader:
    """Connect to the dataset's database; raises DatasetAway, Fatal."""
    if dataset.url.get_backend_name() == "sqlite":
        return SqliteProcess(dataset)
    if (dataset.url.get_backend_name(), dataset.url.get_driver_name()) == ("postgresql", "psycopg"):
        return ReadAhead(PostgresReader(dataset))
    return SqlReader(dataset)

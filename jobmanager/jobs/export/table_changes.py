"""Detect whether the table of a dataset was written between two moments, without reading the table.

May report a write of another table, or one that was rolled back. Misses no write, but PostgreSQL reports writes late.
Opens its own connection to PostgreSQL for each mark. Never opens a SQLite file, see find_mark.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing

import sqlalchemy as sa

from jobmanager.jobs.export.datasets import Dataset

_CONNECT_SECONDS = 5
#: An idle session of PostgreSQL reports its writes within 10 s (PGSTAT_IDLE_INTERVAL in pgstat.c).
_LATE_SECONDS = 11.0
#: Rows written since the server's statistics began, for the table, its partitions and the tables that inherit from it.
_WRITTEN = sa.text(
    "WITH RECURSIVE family (id) AS (SELECT CAST(to_regclass(:name) AS oid)"
    " UNION SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = id)"
    " SELECT string_agg(concat_ws(' ', relid, n_tup_ins, n_tup_upd, n_tup_del), ',' ORDER BY relid)"
    " FROM pg_stat_all_tables JOIN family ON relid = id"
)

_log = logging.getLogger(__name__)


def find_mark(dataset: Dataset) -> str | None:
    """Return a text that changes with each write of the dataset's table; None if writes cannot be detected. Blocks.

    SQLite: inode, size and modification time of the file and of its write-ahead log. Does not open the two files:
    closing a SQLite file drops the locks that other connections of the process hold on the file.
    PostgreSQL: the numbers of rows written; None for a view. These numbers may change late, see late_seconds.
    """
    kind = dataset.url.get_backend_name()
    if kind == "sqlite":
        return _of_file(dataset.url.database or "")
    return _of_server(dataset) if kind == "postgresql" else None


def late_seconds(dataset: Dataset) -> float:
    """Return for how many seconds after a write the mark may still be unchanged."""
    return _LATE_SECONDS if dataset.url.get_backend_name() == "postgresql" else 0.0


def _of_file(path: str) -> str | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f"{_seen(found)} {_of_log(path + '-wal')}"


def _of_log(path: str) -> str:
    """Return the mark of a write-ahead log. An empty log counts as missing, because readers create one."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return _seen(found) if found.st_size else ""


def _seen(found: os.stat_result) -> str:
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def _of_server(dataset: Dataset) -> str | None:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in dataset.table.split("."))
    try:
        engine = sa.create_engine(
            dataset.url, connect_args={"connect_timeout": _CONNECT_SECONDS}, poolclass=sa.pool.NullPool
        )
        with closing(engine.connect()) as connection:
            found: str | None = connection.execute(_WRITTEN, {"name": quoted}).scalar()
    except (sa.exc.SQLAlchemyError, ImportError, ValueError, TypeError):
        _log.warning("Dataset %r: writes of its table cannot be detected.", dataset.name, exc_info=True)
        return None
    return found

"""The settings that the two connections of a PostgreSQL reader share: URL, settings of a transaction, and timeouts."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy.exc import SQLAlchemyError

from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.readers.errors import timeout_error, unusable_error

_CONNECT_SECONDS = 10
#: Statement timeout, unless the server or the URL sets statement_timeout.
STATEMENT_SECONDS = 600
#: Timeout for the lock that a snapshot takes on its table.
LOCK_SECONDS = 10
_SETTINGS = """
    SELECT set_config('transaction_read_only', 'on', true), set_config('TimeZone', 'UTC', true),
        set_config('DateStyle', 'ISO, YMD', true), set_config('IntervalStyle', 'postgres', true),
        set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true),
        set_config('statement_timeout', CASE current_setting('statement_timeout')
            WHEN '0' THEN '{seconds}s' ELSE current_setting('statement_timeout') END, true)
"""


def conninfo(dataset: Dataset) -> str:
    """Return the URL as a connection string for libpq. Raises Fatal if the URL cannot be used."""
    try:
        url = dataset.url.set(drivername="postgresql+psycopg")
        _, given = url.get_dialect()().create_connect_args(url)
        return make_conninfo(**{"connect_timeout": _CONNECT_SECONDS, **given, "client_encoding": "UTF8"})
    except (psycopg.Error, SQLAlchemyError, ImportError, TypeError, ValueError):
        raise unusable_error(dataset) from None


def transaction_settings() -> str:
    """Return the first statement of a transaction: it sets read-only, the timeout, and the form of values as text."""
    return _SETTINGS.format(seconds=STATEMENT_SECONDS)


def statement_timeout_error(dataset: Dataset) -> DatasetAway:
    """Return the error for a statement that exceeded its timeout."""
    return timeout_error(dataset, STATEMENT_SECONDS)

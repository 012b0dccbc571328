"""The errors of the readers, for clients: databases that do not answer, and tables that cannot be exported exactly.

Each names the dataset or the table, the column and the remedy. None shows a URL, SQL or the error of a driver, which is
logged here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, DatasetAway

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


class Unreadable(Fatal):
    """A text cannot be converted to UTF-8."""


class DeclaredColumn(Protocol):
    """A column of a table. Equal to another one if nothing about it has changed."""

    @property
    def declared(self) -> str:
        """Return its type as SQL writes it."""


def away_error(dataset: Dataset) -> DatasetAway:
    """Log the current exception, and return an error without its details for clients."""
    _log.exception("Dataset %r cannot be read.", dataset.name)
    return DatasetAway(f"The database of dataset {dataset.name!r} cannot be read; its error is in the service's log.")


def unusable_error(dataset: Dataset) -> Fatal:
    """Log the current exception, and return an error without its details for clients. The operator must act."""
    _log.exception("The configuration of dataset %r does not match its database.", dataset.name)
    return Fatal(
        f"The database of dataset {dataset.name!r} does not match its configuration; its error is in the service's log."
    )


def date_format_error(dataset: Dataset, error: ValueError) -> Fatal:
    """Return the error for a date column whose format is unknown or cannot be compared."""
    return Fatal(f"Dataset {dataset.name!r} cannot be exported by date: {error}.")


def missing_table_error(dataset: Dataset) -> Fatal:
    """Return the error for a table that does not exist."""
    return Fatal(
        f"Table {dataset.table!r} of dataset {dataset.name!r} does not exist. "
        "Write it as table or schema.table, in the letter case that the database shows."
    )


def null_key_error(dataset: Dataset) -> Fatal:
    """Return the error for rows whose key is NULL."""
    return Fatal(
        f"Key {dataset.key!r} of table {dataset.table!r} is NULL in some rows: they have no order "
        "and would be lost. Configure a key that is NOT NULL."
    )


def duplicate_key_error(dataset: Dataset, date: Any, key: Any) -> Fatal:
    """Return the error for rows with equal places in the order of the export."""
    return Fatal(
        f"Key {dataset.key!r} of table {dataset.table!r} is not unique: several rows have {dataset.date_column} "
        f"{date} and a key equal to {key!r}, so that rows would be lost. "
        "Configure a key that is unique as the database compares it."
    )


def unordered_error(dataset: Dataset, declared: str) -> Fatal:
    """Return the error for a key or date of a type that the database does not compare as it sorts."""
    return Fatal(
        f"Table {dataset.table!r} cannot be ordered by ({dataset.date_column}, {dataset.key}): the database does not "
        f"compare values of type {declared} as it sorts them. Configure another column."
    )


def altered_error(dataset: Dataset, column: str, was: str, now: str | None) -> Fatal:
    """Return the error for a column that has changed since the export began. *now* is None if it no longer exists."""
    became = "no longer exists" if now is None else f"was {was} and is {now} now"
    if now == was:
        became = "was replaced or altered"
    return Fatal(
        f"Column {column!r} of table {dataset.table!r} {became}: the table was altered since the export began. "
        "Start a new export."
    )


def changed_column_error(
    dataset: Dataset, names: Iterable[str], before: Mapping[str, DeclaredColumn], now: Mapping[str, DeclaredColumn]
) -> Fatal | None:
    """Return the error for the first of these columns, the date and the key that has changed; None if none has.

    *before* and *now*: the columns of the table, by name.
    """
    for name in dict.fromkeys([*names, dataset.date_column, dataset.key]):
        if now.get(name) != before[name]:
            return altered_error(dataset, name, before[name].declared, now[name].declared if name in now else None)
    return None


def timeout_error(dataset: Dataset, seconds: int) -> DatasetAway:
    """Return the error for a statement that the server cancelled. *seconds* is the default timeout."""
    return DatasetAway(
        f"Timeout: a statement for table {dataset.table!r} of dataset {dataset.name!r} took longer than its server "
        f"allows, by default {seconds} s. An index on ({dataset.date_column}, {dataset.key}) makes it fast."
    )


def forbidden_error(dataset: Dataset) -> Fatal:
    """Return the error for a role that lacks a privilege."""
    return Fatal(
        f"The role of dataset {dataset.name!r} may not read table {dataset.table!r}, or one of its columns. "
        "Grant it SELECT, or name only columns that it may read."
    )


def encoding_error(dataset: Dataset, column: str | None = None) -> Unreadable:
    """Return the error for text that is not UTF-8. *column* is None if the server does not name it."""
    named = f"Column {column!r}" if column else "A column"
    return Unreadable(
        f"{named} of table {dataset.table!r} holds text that cannot be converted to UTF-8. "
        "Correct it in the database, or export the other columns."
    )


def value_type_error(field: pa.Field, declared: str) -> Fatal:
    """Return the error for a value that does not fit its column. It does not show the value."""
    return Fatal(f"A value of column {field.name!r} does not fit its declared type, {declared or 'none'}.")


def not_for_parquet_reason(dataset: Dataset, column: str, declared: str, value: Any, key: Any) -> str:
    """Return the reason why a value cannot be written as Parquet."""
    return (
        f"Column {column!r} of table {dataset.table!r} holds {value} in the row with key {key!r}, "
        f"which Parquet cannot hold in a column of type {declared}. "
        "Export it as csv or jsonl, or leave that column out."
    )


def no_index_warning(dataset: Dataset) -> str:
    """Return the warning for a table without an index in the order of the export."""
    return (
        f"No index on ({dataset.date_column}, {dataset.key}) of table {dataset.table!r}: "
        "the database scans and sorts the range for each chunk. Create one to make the export fast."
    )

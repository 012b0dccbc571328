"""The errors of the readers, for clients: databases that do not answer, and tables that cannot be exported exactly.

Each error names the table and its dataset, the column, and the remedy. If a value is at fault, the error names its row
by the key. No error shows a URL, SQL, a cell or the error of a driver. Errors of drivers are logged here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from jobmanager.errors import Fatal
from jobmanager.jobs.export.datasets import Dataset, DatasetAway
from jobmanager.jobs.export.position import Place, Unstorable

if TYPE_CHECKING:
    import pyarrow as pa

#: The most characters of a key or a date in an error.
_LONGEST_SHOWN = 80

_log = logging.getLogger(__name__)


class Unreadable(Fatal):
    """A text cannot be converted to UTF-8."""


class InvalidJson(Exception):
    """A text in a JSON column is not valid JSON."""

    def __init__(self, column: str, row: int) -> None:
        """*row*: counted from 0."""
        super().__init__(column, row)
        self.column = column
        self.row = row


class DeclaredColumn(Protocol):
    """A description of a column. Two descriptions of one column differ only if the column has changed."""

    @property
    def declared(self) -> str:
        """Return the type of the column as SQL writes it."""


def row_of(dataset: Dataset, key: Any) -> str:
    """Return a phrase for the row with that key, as in: the row with id = 7."""
    return f"the row with {dataset.key} = {_shown(key)}"


def rows_between(dataset: Dataset, first: Any, last: Any) -> str:
    """Return a phrase for a row whose key is in a range, as in: a row from id = 7 to 9."""
    return f"a row from {dataset.key} = {_shown(first)} to {_shown(last)}"


def rows_after(dataset: Dataset, after: Place | None, limit: int) -> str:
    """Return a phrase for one of the next *limit* rows after a place, as in: one of the 25,000 rows after id = 7."""
    if after is None:
        return f"one of the first {limit:,} rows"
    return f"one of the {limit:,} rows after {dataset.key} = {_shown(after.key)}"


def away_error(dataset: Dataset) -> DatasetAway:
    """Log the current exception. Return an error for clients that leaves out its details. A retry may help."""
    _log.exception("Dataset %r cannot be read.", dataset.name)
    return DatasetAway(f"The database of dataset {dataset.name!r} cannot be read; its error is in the service's log.")


def unusable_error(dataset: Dataset) -> Fatal:
    """Log the current exception. Return an error for clients that leaves out its details. The operator must act."""
    _log.exception("The configuration of dataset %r does not match its database.", dataset.name)
    return Fatal(
        f"The configuration of {dataset} does not match its database; the error of the database is in the service's "
        "log. Correct the list of datasets or the table."
    )


def missing_driver_error(dataset: Dataset, package: str, extra: str) -> Fatal:
    """Return the error for a driver that is not installed. *extra*: the extra of jobmanager that has it."""
    return Fatal(
        f"The {dataset} cannot be read: {package} is not installed. Install the service as jobmanager[{extra}]."
    )


def date_format_error(dataset: Dataset, error: ValueError) -> Fatal:
    """Return the error for a date column whose format is unknown or cannot be compared."""
    return Fatal(f"The {dataset} cannot be exported by its column {dataset.date_column!r}: {error}.")


def missing_table_error(dataset: Dataset) -> Fatal:
    """Return the error for a table that does not exist."""
    return Fatal(
        f"The {dataset} does not exist. Write it as table or schema.table, in the letter case that the database shows."
    )


def null_key_error(dataset: Dataset) -> Fatal:
    """Return the error for rows whose key is NULL."""
    return Fatal(
        f"Key {dataset.key!r} of {dataset} is NULL in some rows: they have no order "
        "and would be lost. Configure a key that is NOT NULL."
    )


def duplicate_key_error(dataset: Dataset, date: Any, key: Any, way: str = "as the database compares it") -> Fatal:
    """Return the error for several rows whose dates and keys compare as equal.

    *date*, *key*: the values of one such row.
    *way*: how the export compares keys, as the end of "a key that is unique …".
    """
    return Fatal(
        f"Key {dataset.key!r} of {dataset} is not unique: several rows have {dataset.date_column} "
        f"{_short(str(date))} and a key equal to {_shown(key)}, so that rows would be lost. "
        f"Configure a key that is unique {way}."
    )


def unordered_error(dataset: Dataset, column: str, declared: str) -> Fatal:
    """Return the error for a key or date of a type that cannot order the rows, see `is_ordered` of the columns."""
    return Fatal(
        f"The rows of {dataset} cannot be ordered by its column {column!r}: the database does not "
        f"compare values of type {declared} as it sorts them. Configure another column."
    )


def unstorable_error(dataset: Dataset, error: Unstorable) -> Fatal:
    """Return the error for a key or date of a type that a checkpoint cannot hold."""
    column = dataset.key if error.field == "key" else dataset.date_column
    return Fatal(
        f"The rows of {dataset} cannot be ordered by its column {column!r}, whose values are of the type {error.kind}. "
        "Configure another column, or a view that converts it to text."
    )


def altered_error(dataset: Dataset, column: str, was: str, now: str | None) -> Fatal:
    """Return the error for a column that has changed since the export began.

    *was*, *now*: its declared types. *now* is None if the column no longer exists.
    """
    became = "was replaced or altered"
    if now is None:
        became = "no longer exists"
    elif now != was:
        became = f"was {was or 'without a type'} and is {now or 'without a type'} now"
    return Fatal(
        f"Column {column!r} of {dataset} {became}: the table was altered since the export began. Submit a new export."
    )


def changed_column_error(
    dataset: Dataset, names: Iterable[str], before: Mapping[str, DeclaredColumn], now: Mapping[str, DeclaredColumn]
) -> Fatal | None:
    """Return the error for the first column that has changed; None if no column has changed.

    Compares the columns *names*, the date and the key. *before*, *now*: all columns of the table, by name.
    """
    for name in dict.fromkeys([*names, dataset.date_column, dataset.key]):
        if now.get(name) != before[name]:
            return altered_error(dataset, name, before[name].declared, now[name].declared if name in now else None)
    return None


def timeout_error(dataset: Dataset, seconds: int) -> DatasetAway:
    """Return the error for a statement that the server cancelled after a timeout. *seconds*: the default timeout."""
    return DatasetAway(
        f"Timeout: a statement for {dataset} took longer than its server "
        f"allows, by default {seconds} s. An index on ({dataset.date_column}, {dataset.key}) makes it fast."
    )


def forbidden_error(dataset: Dataset) -> Fatal:
    """Return the error for a database role that lacks the privilege to read the table or a column."""
    return Fatal(
        f"The role in the URL of the dataset may not read {dataset}, or one of its columns. "
        "Grant it SELECT, or name only columns that it may read."
    )


def encoding_error(dataset: Dataset, column: str | None = None, row: str | None = None) -> Unreadable:
    """Return the error for text that is not UTF-8. *column* and *row* (see row_of) are None if they are unknown."""
    named = f"Column {column!r}" if column else "A column"
    return Unreadable(
        f"{named} of {dataset} has text that cannot be converted to UTF-8{f', in {row}' if row else ''}. "
        "Correct it in the database, or leave the column out."
    )


def misfit_error(dataset: Dataset, column: str, row: str, reason: str, remedy: str) -> Fatal:
    """Return the error for a value that cannot be exported. The error does not show the value.

    *row*: see row_of. *reason*: completes "has a value that …".
    """
    return Fatal(f"Column {column!r} of {dataset} has a value that {reason}, in {row}. {remedy}")


def type_error(dataset: Dataset, column: str, declared: str, row: str) -> Fatal:
    """Return the error for a value that does not fit its column. *row*: see row_of."""
    reason = f"does not fit its declared type, {declared or 'none'}"
    return misfit_error(dataset, column, row, reason, "Correct it, or leave the column out.")


def invalid_json_error(dataset: Dataset, error: InvalidJson, rows: pa.Table, after: Place | None) -> Fatal:
    """Return the error for a text that is not valid JSON. *rows*: its chunk. *after*: the place before the chunk."""
    if dataset.key in rows.column_names:
        row = row_of(dataset, rows[dataset.key][error.row].as_py())
    else:
        row = rows_after(dataset, after, rows.num_rows)
    return misfit_error(dataset, error.column, row, "is not valid JSON", "Correct it, or export as csv or parquet.")


def not_for_parquet_error(dataset: Dataset, column: str, declared: str, key: Any) -> Fatal:
    """Return the error for a value that cannot be written as Parquet."""
    reason = f"Parquet cannot hold in a column of type {declared}"
    remedy = "Export it as csv or jsonl, or leave that column out."
    return misfit_error(dataset, column, row_of(dataset, key), reason, remedy)


def no_index_warning(dataset: Dataset) -> str:
    """Return the warning for a table without an index in the order of the export."""
    return (
        f"No index on ({dataset.date_column}, {dataset.key}) of {dataset}: "
        "the database scans and sorts the range for each chunk. Create one to make the export fast."
    )


def _shown(key: Any) -> str:
    return _short(repr(key))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"

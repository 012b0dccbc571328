"""The tables that Export may read: which ones an operator has configured, and what a reader of one offers.

No URL, table or SQL comes in from a client, and none goes out: what a driver says is logged here and told in our words.
Reads the operator's file; opens no database (see sqlite_reader.py and sql_reader.py), and works without Arrow.
"""

from __future__ import annotations

import logging
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from jobmanager.errors import Fatal
from jobmanager.jobs.dates import DateFormat
from jobmanager.jobs.places import Place
from jobmanager.urls import check_at_signs

if TYPE_CHECKING:
    import pyarrow as pa

_REQUIRED = ("url", "table", "date_column", "key")
_OPTIONAL = ("date_format",)
#: What the names in Reader.identity begin with that concern one column; its name follows.
COLUMN = "column "

_log = logging.getLogger(__name__)


class DatasetAway(Exception):
    """The database of a dataset does not answer; trying again later may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table that may be exported by date."""

    name: str
    #: where its database is; its password is kept out of repr by SQLAlchemy
    url: URL
    table: str
    date_column: str
    #: a unique column, which orders the rows of one date
    key: str
    #: how the date column keeps dates; None: seen from its first value
    date_format: DateFormat | None


class Reader(Protocol):
    """One open connection to the database of a dataset. Its methods raise DatasetAway and Fatal."""

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns of the table in order, and the type that each is exported with."""

    def schema(self, chosen: list[str]) -> pa.Schema:
        """Return the types of the chosen columns; raises Fatal for one that the table does not have.

        Text that holds JSON has the metadata {b"jobmanager": b"json"}.
        """

    def check(self) -> None:
        """Raise Fatal, in one sentence, if the dataset cannot be exported exactly.

        That is: the table or a column is missing, the key may be NULL or is not unique in the order that the reader
        compares by, or the date format cannot be told. Called once, when an export begins.
        """

    def warnings(self, begin: datetime, end: datetime) -> list[str]:
        """Return sentences on what makes an export of [begin, end) slow, such as a missing index."""

    def identity(self) -> dict[str, str]:
        """Return what changes how values read or compare, by name: server version, encoding, session time zone, …

        An export that goes on later fails if any of it has changed. What concerns one column is under COLUMN and its
        name, and does not matter if the export lacks the column. "date_format" is the format that was detected, as a
        dataset's date_format names it: a later reader is opened with it.
        """

    def count(self, after: Place | None, begin: datetime, end: datetime, limit: int) -> tuple[int, Place | None]:
        """Count the rows of [begin, end) behind *after*.

        Returns their number and None; or, where there are many, about *limit* and the place up to which it counted.
        """

    def total(self, begin: datetime, end: datetime) -> int:
        """Count the rows of [begin, end) by one plain count with the same condition as read, without an order."""

    def read(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int, max_bytes: int
    ) -> tuple[pa.Table, Place | None]:
        """Return the next rows of [begin, end) in the order (date, key), and the place of the last, or None.

        At most *limit* rows and, beyond the first row, not more than about *max_bytes* as Arrow keeps them. How many
        depends on the rows alone. Raises Fatal that names the column if the table's columns have changed since the
        reader was opened.
        """

    def expect(
        self, columns: list[str], after: Place | None, begin: datetime, end: datetime, limit: int, max_bytes: int
    ) -> None:
        """Take the arguments of the next read, so that its rows may be read ahead; no others are."""

    def close(self) -> None:
        """Close the connection."""


def load_datasets(path: Path) -> dict[str, Dataset]:
    """Return the datasets that the file configures, by name; none if there is no file. Raises ValueError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        _log.exception("The datasets cannot be read.")
        raise ValueError("the operator's list of datasets cannot be read; its error is in the service's log") from None
    return {name: _dataset(name, table, path.absolute().parent) for name, table in tables.items()}


def _dataset(name: str, table: Any, folder: Path) -> Dataset:
    given = table if isinstance(table, dict) else {}
    missing = [key for key in _REQUIRED if not given.get(key) or not isinstance(given[key], str)]
    if missing:
        raise ValueError(f"the operator's configuration of dataset {name!r} lacks {', '.join(missing)}")
    unknown = [key for key in given if key not in _REQUIRED + _OPTIONAL]
    if unknown:
        raise ValueError(f"the operator's configuration of dataset {name!r} has unknown keys: {', '.join(unknown)}")
    return Dataset(
        name=name,
        url=_url(name, given["url"], folder),
        table=given["table"],
        date_column=given["date_column"],
        key=given["key"],
        date_format=_date_format(name, given.get("date_format")),
    )


def _url(name: str, text: str, folder: Path) -> URL:
    """Return the URL; the path of a SQLite file is relative to the folder of the list."""
    try:
        check_at_signs(text)
    except ValueError as error:
        raise ValueError(f"the operator's configuration of dataset {name!r} has no usable url: {error}") from None
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(f"the operator's configuration of dataset {name!r} has no SQLAlchemy URL in url") from None
    if url.get_backend_name() == "sqlite" and url.database:
        return url.set(database=str(folder / url.database))
    return url


def _date_format(name: str, text: Any) -> DateFormat | None:
    if text is None:
        return None
    if text not in list(DateFormat):
        raise ValueError(
            f"the operator's configuration of dataset {name!r} has a date_format other than {', '.join(DateFormat)}"
        )
    return DateFormat(text)


def away(dataset: Dataset) -> DatasetAway:
    """Log the exception under way, and return what a client may know of it."""
    _log.exception("Dataset %r cannot be read.", dataset.name)
    return DatasetAway(f"The database of dataset {dataset.name!r} cannot be read; its error is in the service's log.")


def unusable(dataset: Dataset) -> Fatal:
    """Log the exception under way, and return what a client may know of it: the operator has to act."""
    _log.exception("Dataset %r is not configured as its database is.", dataset.name)
    return Fatal(
        f"The database of dataset {dataset.name!r} does not hold what is configured; its error is in the service's log."
    )


def check_table(dataset: Dataset, columns: dict[str, pa.DataType]) -> None:
    """Raise Fatal if the table is not there (no columns), or not the one that was configured."""
    if not columns:
        raise Fatal(f"The table of dataset {dataset.name!r} is not there.")
    if not {dataset.date_column, dataset.key} <= columns.keys():
        raise Fatal(f"The table of dataset {dataset.name!r} lacks its date column or its key.")


def check_order(dataset: Dataset, last: Place, following: Place | None) -> None:
    """Raise Fatal if the row after *last* has the same place: going on behind it would skip that row."""
    if last == following:
        raise Fatal(f"The key of dataset {dataset.name!r} is not unique: rows would be lost.")


def keyless(dataset: Dataset) -> Fatal:
    """Return the error for rows whose key has no value."""
    return Fatal(f"The key of dataset {dataset.name!r} has no value in some rows: they have no order.")


def misfit(field: pa.Field, declared: str) -> Fatal:
    """Return the error for a value that does not fit its column; it does not show the value."""
    return Fatal(f"A value of column {field.name!r} does not fit its declared type, {declared or 'none'}.")

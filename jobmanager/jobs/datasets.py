"""The tables that Export may read: which ones an operator has configured, and what a reader of one offers.

Clients send no URL, table or SQL, and see none: a driver's error is logged here and reported in our words.
Reads the operator's file; opens no database (see sqlite_reader.py and sql_reader.py), and works without Arrow.
"""

from __future__ import annotations

import difflib
import logging
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jobmanager.errors import Fatal
from jobmanager.jobs.dates import DateFormat, check_timezone
from jobmanager.jobs.places import Place
from jobmanager.urls import check_at_signs

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import URL

_REQUIRED = ("url", "table", "date_column", "key")
_KNOWN = (*_REQUIRED, "date_format", "timezone", "snapshot")
#: What the names in Reader.identity begin with that concern one column; its name follows.
COLUMN = "column "
#: What a URL of PostgreSQL may begin with, beside the name of a driver: psycopg is the driver then.
_POSTGRES = ("postgres", "postgresql")
_WITH_SNAPSHOTS = ("postgresql", "sqlite")

_log = logging.getLogger(__name__)


class DatasetAway(Exception):
    """The database of a dataset does not answer; trying again later may help."""


class ReaderClosed(Exception):
    """The reader was closed while it waited for the database: ask another one."""


class ListUnreadable(ValueError):
    """The operator's list of datasets cannot be read at all, so that no dataset is known."""


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
    #: how the date column keeps dates; None: the reader detects it
    date_format: DateFormat | None
    #: the IANA name of the zone that dates without an offset are in; None: UTC
    timezone: str | None = None
    #: whether all rows are those of one moment, for as long as a reader is open
    snapshot: bool = False


class Datasets(dict[str, Dataset]):
    """The datasets that can be used, by name."""

    def __init__(self) -> None:
        super().__init__()
        #: what is wrong with each other entry of the list, by its name
        self.faults: dict[str, str] = {}


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


@runtime_checkable
class SettlesTypes(Protocol):
    """What a reader offers too if a value need not have the type of its column."""

    def misfits(self, columns: list[str], begin: datetime, end: datetime) -> list[str]:
        """Return the columns with values in [begin, end) that their type cannot hold."""

    def settle(self, as_text: list[str]) -> None:
        """From now on, give these columns the type text, and each other the type that schema returns for it."""


@runtime_checkable
class Waits(Protocol):
    """What a reader offers too if it waits for another process."""

    #: called now and then while it waits; may raise, or close the reader, which then goes on by itself or raises
    #: ReaderClosed
    on_wait: Callable[[], None] | None


def load_datasets(path: Path) -> Datasets:
    """Return the datasets that the file configures; none if there is no file.

    A bad entry disables its own dataset only, see Datasets.faults. Raises ListUnreadable if the file is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except FileNotFoundError:
        return Datasets()
    except (OSError, ValueError) as error:
        _log.exception("The datasets cannot be read.")
        raise ListUnreadable(
            f"the operator's list of datasets cannot be read{_place_of(error)}; its error is in the service's log"
        ) from None
    found = Datasets()
    for name, table in tables.items():
        try:
            found[name] = _dataset(name, table, path.absolute().parent)
        except _BadEntry as error:
            line = _line_of(text, name, error.field)
            found.faults[name] = f"dataset {name!r} cannot be used: {error} (line {line} of the operator's list)"
    return found


class _BadEntry(Exception):
    """An entry of the list is wrong, in this field; "" stands for the entry as a whole."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def _place_of(error: Exception) -> str:
    """Return the line of an error of TOML, without its words, which may show what the file says."""
    found = re.search(r"at line (\d+)", str(error))
    return f": it is not valid TOML at line {found[1]}" if found else ""


def _line_of(text: str, name: str, field: str) -> int:
    """Return the line of a field of an entry, or else that of the entry, counted from 1.

    >>> _line_of('[a]\\nkey = "x"\\n[b]\\nkey = "y"', "b", "key")
    4
    """
    header, current = 1, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("["):
            current = _first_name(line)
            if current == name:
                header = number
        elif current == "" and _first_name(line) == name:
            header = number
        elif current == name and field and re.match(rf"\s*[\"']?{re.escape(field)}[\"']?\s*[=.]", line):
            return number
    return header


def _first_name(line: str) -> str:
    """Return the first name that a line of TOML defines, "" if it defines none by itself."""
    try:
        return next(iter(tomllib.loads(line)), "")
    except tomllib.TOMLDecodeError:
        return ""


def _dataset(name: str, table: Any, folder: Path) -> Dataset:
    """Return the dataset of an entry; raises _BadEntry."""
    if not isinstance(table, dict):
        raise _BadEntry(f"it has to be a table with {', '.join(_REQUIRED)}")
    for field in table:
        if field not in _KNOWN:
            raise _BadEntry(f"unknown field {field}{_meant(field)}; known fields: {', '.join(_KNOWN)}", field=field)
    _check_key(table.get("key"))
    if missing := [field for field in _REQUIRED if field not in table]:
        raise _BadEntry(f"it lacks {', '.join(missing)}")
    for field in _REQUIRED:
        if not isinstance(table[field], str) or not table[field]:
            raise _BadEntry(f"{field} must be a text that is not empty", field=field)
    url = _url(table["url"], folder)
    return Dataset(
        name=name,
        url=url,
        table=table["table"],
        date_column=table["date_column"],
        key=table["key"],
        date_format=_date_format(table.get("date_format")),
        timezone=_timezone(table.get("timezone")),
        snapshot=_snapshot(table.get("snapshot", False), url),
    )


def _meant(field: str) -> str:
    close = difflib.get_close_matches(field, _KNOWN, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _check_key(key: Any) -> None:
    """Raise _BadEntry if the key consists of several columns."""
    if isinstance(key, list):
        raise _BadEntry(
            "key must name one column; where only several columns together are unique, name another column that is "
            "unique, or make a view that has one (of the columns joined to one text) and use that as table",
            field="key",
        )


def _url(text: str, folder: Path) -> URL:
    """Return the URL; the path of a SQLite file is relative to the folder of the list."""
    # Here, for processes that are given a dataset and read no list: it takes a third of a second.
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        check_at_signs(text)
    except ValueError as error:
        raise _BadEntry(f"url cannot be used: {error}", field="url") from None
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _BadEntry("url must be an SQLAlchemy URL, as in sqlite:///data.db", field="url") from None
    if url.drivername in _POSTGRES:
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        return url.set(database=str(folder / url.database))
    return url


def _date_format(text: Any) -> DateFormat | None:
    if text is None:
        return None
    try:
        return parse_date_format(text)
    except ValueError as error:
        raise _BadEntry(str(error), field="date_format") from None


def parse_date_format(text: Any) -> DateFormat:
    """Return the date format of that name; raises ValueError with what is wrong, and what would be right."""
    return DateFormat(text)


def _timezone(name: Any) -> str | None:
    if name is None:
        return None
    try:
        check_timezone(name)
    except ValueError as error:
        raise _BadEntry(str(error), field="timezone") from None
    return str(name)


def _snapshot(asked: Any, url: URL) -> bool:
    if not isinstance(asked, bool):
        raise _BadEntry("snapshot must be true or false", field="snapshot")
    if asked and url.get_backend_name() not in _WITH_SNAPSHOTS:
        raise _BadEntry(
            "snapshot must be false: only datasets of PostgreSQL and SQLite can be read as of one moment",
            field="snapshot",
        )
    return asked


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


def undated(dataset: Dataset, error: ValueError) -> Fatal:
    """Return the error for a date column whose dates cannot be told, or not compared."""
    return Fatal(f"Dataset {dataset.name!r} cannot be exported by date: {error}.")


def misfit(field: pa.Field, declared: str) -> Fatal:
    """Return the error for a value that does not fit its column; it does not show the value."""
    return Fatal(f"A value of column {field.name!r} does not fit its declared type, {declared or 'none'}.")

"""The tables that Export may read: the operator's list of datasets.

Clients choose a dataset by its name, and send no URL, table or SQL. They see the name of a table only in errors. This
module reads the operator's file. It opens no database (see readers/), and works without Arrow.
"""

from __future__ import annotations

import difflib
import logging
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobmanager.jobs.export.dates import DateFormat, check_timezone
from jobmanager.urls import check_at_signs

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_REQUIRED = ("url", "table", "date_column", "key")
_KNOWN = (*_REQUIRED, "date_format", "timezone", "snapshot")
#: Schemes of PostgreSQL URLs that name no driver; psycopg is used for them.
_POSTGRES = ("postgres", "postgresql")
_WITH_SNAPSHOTS = ("postgresql", "sqlite")

_log = logging.getLogger(__name__)


class DatasetAway(Exception):
    """The database of a dataset does not answer. A retry may help."""


class ListUnreadable(ValueError):
    """The operator's list of datasets cannot be read, so no dataset is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A table that may be exported by date."""

    name: str
    #: URL of the database; SQLAlchemy keeps the password out of its repr
    url: URL
    table: str
    date_column: str
    #: a unique column, which orders rows of equal date
    key: str
    #: format of the date column; None: the reader detects it
    date_format: DateFormat | None
    #: IANA name of the time zone of dates without an offset; None: UTC
    timezone: str | None = None
    #: True: a reader sees the same snapshot of the rows for as long as it is open
    snapshot: bool = False

    def __str__(self) -> str:
        """Return the names for an error, as in: table 'orders' of dataset 'shop'."""
        return f"table {self.table!r} of dataset {self.name!r}"


class Datasets(dict[str, Dataset]):
    """The usable datasets, by name."""

    def __init__(self) -> None:
        super().__init__()
        #: the fault of each dataset that cannot be used, by its name
        self.faults: dict[str, str] = {}


def load_datasets(path: Path) -> Datasets:
    """Return the datasets that the file configures; no datasets if the file does not exist.

    A bad entry disables only its own dataset, see Datasets.faults. Raises ListUnreadable if the file cannot be read or
    is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except FileNotFoundError:
        return Datasets()
    except (OSError, ValueError) as error:
        _log.exception("The list of datasets cannot be read.")
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
    """An entry of the list is wrong. *field*: the wrong field; "" if the entry as a whole is wrong."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def _place_of(error: Exception) -> str:
    """Return a phrase with the line of a TOML error; "" if the error has no line.

    Leaves out the error's message, which may quote the file.
    """
    found = re.search(r"at line (\d+)", str(error))
    return f": it is not valid TOML at line {found[1]}" if found else ""


def _line_of(text: str, name: str, field: str) -> int:
    """Return the line of a field in the entry *name*, counted from 1; the line of the entry if the field is not found.

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
    """Return the first name that a line of TOML defines; "" if the line defines none or is incomplete."""
    try:
        return next(iter(tomllib.loads(line)), "")
    except tomllib.TOMLDecodeError:
        return ""


def _dataset(name: str, table: Any, folder: Path) -> Dataset:
    """Return the dataset that an entry of the list configures. Raises _BadEntry if the entry is wrong."""
    if not isinstance(table, dict):
        raise _BadEntry(f"it must be a table with {', '.join(_REQUIRED)}")
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
            "key must name one column; if only several columns together are unique, name another unique column, or "
            "make a view that joins these columns into one column of text, and use the view as table",
            field="key",
        )


def _url(text: str, folder: Path) -> URL:
    """Parse the URL of a dataset. The path of a SQLite file is relative to *folder*. Raises _BadEntry."""
    # Imported here: the import takes a third of a second, and processes that read no list do not need it.
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
    """Return the date format for a name or a pattern. Raises ValueError with the problem and the valid formats."""
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
            "snapshot must be false: only datasets of PostgreSQL and SQLite support it",
            field="snapshot",
        )
    return asked

"""Dates as clients write them, and as databases keep them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

_DAY = timedelta(days=1)

#: Dates as the Go service took them: its layout 2006-Jan-02.
_GO_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}


class DateFormat(StrEnum):
    """How a column keeps its dates."""

    SPACE = "space"  # text, 2024-03-09 12:30:00
    T = "t"  # text, 2024-03-09T12:30:00
    UNIX = "unix"  # seconds since 1970
    NATIVE = "native"  # a type of the database's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A date or a time that a client named."""

    #: naive, in UTC
    at: datetime
    #: a day without a time
    is_day: bool

    def after(self) -> datetime:
        """Return the exclusive end of a range that ends with it: a day is included whole."""
        if not self.is_day:
            return self.at
        return self.at + _DAY if self.at < datetime.max - _DAY else datetime.max


def parse_moment(text: str) -> Moment:
    """Return what *text* names: an ISO date or datetime, or a date in the layout 2006-Jan-02.

    A datetime with an offset is converted to UTC, one without is taken as UTC. Raises ValueError with a sentence.

    >>> parse_moment("2024-Mar-09").at
    datetime.datetime(2024, 3, 9, 0, 0)
    """
    try:
        day = _parse_day(text)
        if day is not None:
            return Moment(at=datetime.combine(day, time()), is_day=True)
        at = datetime.fromisoformat(text)
        return Moment(at=at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at, is_day=False)
    except (ValueError, OverflowError):
        raise ValueError("must be a date, as in 2024-03-09, 2024-Mar-09 or 2024-03-09T12:30:00") from None


def _parse_day(text: str) -> date | None:
    """Return the day that *text* names, or None if it names none by itself."""
    year, _, rest = text.partition("-")
    month, _, day = rest.partition("-")
    number = _GO_MONTHS.get(month.title())
    try:
        # As in Go, months are taken in any case, and days have two digits.
        return date.fromisoformat(f"{year}-{number:02}-{day}" if number else text)
    except ValueError:
        return None


def format_of(value: Any) -> DateFormat:
    """Tell from a value of a date column how it keeps dates."""
    if isinstance(value, (int, float)):
        return DateFormat.UNIX
    if isinstance(value, (date, datetime)):
        return DateFormat.NATIVE
    return DateFormat.T if isinstance(value, str) and value[10:11] == "T" else DateFormat.SPACE


def detect(values: Sequence[object]) -> DateFormat:
    """Tell from several values of a date column how it keeps dates; raises ValueError with a sentence."""
    formats = sorted({format_of(value) for value in values})
    if len(formats) > 1:
        raise ValueError(f"the dates have several forms ({', '.join(formats)}); set date_format of the dataset")
    return formats[0] if formats else DateFormat.SPACE


def to_column(at: datetime, date_format: DateFormat) -> str | float | datetime:
    """Return *at* (naive, UTC) as a value that compares with those in a column.

    What is zero at the end is left out: as text, "12:30" sorts before every way to write that time.

    >>> to_column(datetime(2024, 3, 9, 12, 30), DateFormat.T)
    '2024-03-09T12:30'
    >>> to_column(datetime(2024, 3, 9), DateFormat.SPACE)
    '2024-03-09'
    """
    if date_format is DateFormat.NATIVE:
        return at
    if date_format is DateFormat.UNIX:
        seconds = at.replace(tzinfo=UTC).timestamp()
        return int(seconds) if seconds.is_integer() else seconds
    if at.time() == time():
        return at.date().isoformat()
    text = at.isoformat(sep="T" if date_format is DateFormat.T else " ")
    return text.rstrip("0") if at.microsecond else text.removesuffix(":00")

"""Dates as clients write them and as databases store them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jobmanager.jobs.export.date_patterns import DatePattern

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1)
#: The beginning of 1970 as a Julian day, in milliseconds.
_JULIAN_EPOCH_MILLISECONDS = 210_866_760_000_000
#: A number is taken for a time only in these ranges: the years 1973 to 2200 in seconds, 1800 to 2200 in Julian days.
_PLAUSIBLE_SECONDS = (100_000_000, 7_258_118_400)
_PLAUSIBLE_JULIAN = (2_378_496.5, 2_524_593.5)
_LONGEST_SHOWN = 40

_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:(?P<mark>[T ])(?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)(?P<offset>Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
#: Patterns of times of day, by the length of their text.
_CLOCKS = {5: "%H:%M", 8: "%H:%M:%S", 12: "%H:%M:%S.%L", 15: "%H:%M:%S.%f"}

#: The names of months in the layout 2006-Jan-02, which the Go service accepted.
_GO_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}


class DateFormat(StrEnum):
    """The format of a date column: a name, or a pattern such as `%Y/%m/%d`.

    A pattern has the directives %Y %m %d (or %Y %j) %H %M %S, then %L (milliseconds) or %f (microseconds). They must
    come in this order, starting with the year, so that values sort by time. `number %Y%m%d` is a pattern for a column
    of numbers.

    >>> DateFormat("%Y/%m/%d").value
    '%Y/%m/%d'
    """

    SPACE = "space"  # text, 2024-03-09 12:30:00
    T = "t"  # text, 2024-03-09T12:30:00
    ISO = "iso"  # text in either of these forms, with or without an offset or Z; compared as instants
    UNIX = "unix"  # seconds since 1970
    UNIX_MS = "unix_ms"  # milliseconds since 1970
    UNIX_US = "unix_us"  # microseconds since 1970
    JULIAN = "julian"  # Julian days, as julianday() of SQLite returns them
    YYYYMMDD = "yyyymmdd"  # text or number, 20240309
    NATIVE = "native"  # a date or time type of the database

    @classmethod
    def _missing_(cls, value: object) -> DateFormat:
        """Return the format for a pattern, which Enum does not find by itself.

        Raises ValueError, with the reason as a sentence, if *value* is neither a name nor a valid pattern.
        """
        text = value if isinstance(value, str) else ""
        if "%" not in text:
            raise ValueError(f"date_format must be one of {', '.join(cls)}, or a pattern such as %Y/%m/%d")
        DatePattern.parse(text)
        pattern = str.__new__(cls, text)
        pattern._name_ = "PATTERN"
        pattern._value_ = text
        return pattern

    def pattern(self) -> DatePattern:
        """Return the parsed pattern. Raises ValueError if the format is not a pattern."""
        return DatePattern.parse(self)


#: Formats of numbers that count units since 1970, with the number of microseconds in a unit.
_INSTANTS = {DateFormat.UNIX: 1_000_000, DateFormat.UNIX_MS: 1_000, DateFormat.UNIX_US: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A date or a time in a client's request."""

    #: naive, in UTC
    at: datetime
    #: True: a day, written without a time
    is_day: bool

    def after(self) -> datetime:
        """Return the exclusive end of a range up to this moment. If the moment is a day, the whole day is included."""
        if not self.is_day:
            return self.at
        return self.at + _DAY if self.at < datetime.max - _DAY else datetime.max


def parse_moment(text: str) -> Moment:
    """Parse an ISO date or datetime, or a date in the layout 2006-Jan-02.

    A datetime with an offset is converted to UTC. A datetime without an offset is taken as UTC. Raises ValueError, with
    a sentence for the client, if *text* has none of these forms.

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
    """Return the day that *text* names; None if *text* is not a day, or has a time."""
    year, _, rest = text.partition("-")
    month, _, day = rest.partition("-")
    number = _GO_MONTHS.get(month.title())
    try:
        # As in Go, months may be in any letter case, and days have two digits.
        return date.fromisoformat(f"{year}-{number:02}-{day}" if number else text)
    except ValueError:
        return None


def sample_from(kinds: Sequence[str], texts: Sequence[str]) -> list[object]:
    """Convert a sample of SQLite values, which were read as text, to Python values of their types.

    *kinds*: typeof(value). *texts*: CAST(value AS TEXT); for a blob, hex(value).

    >>> sample_from(["integer", "text"], ["20240309", "2024-03-09"])
    [20240309, '2024-03-09']
    """
    makers: dict[str, Callable[[str], object]] = {"integer": int, "real": float, "text": str, "blob": bytes.fromhex}
    return [makers[kind](text) for kind, text in zip(kinds, texts, strict=True)]


def detect(values: Sequence[object], configured: DateFormat | None = None) -> DateFormat:
    """Detect the date format of a column from a sample of its values without NULL.

    *configured*: the date_format of the dataset, if it is set. It is checked against the values, and also returned if
    there are no values. Empty texts are skipped.
    Raises ValueError if the values fit no format, or more than one. The message shows values and the setting to use.

    >>> detect(["2024-03-09T12:30:00", "2024-03-10"])
    <DateFormat.T: 't'>
    """
    given = [float(value) if isinstance(value, Decimal) else value for value in values if value != ""]
    if values and not given:
        raise ValueError("the date column has only empty texts, no dates; configure another date_column")
    if not given:
        return configured or DateFormat.SPACE
    if configured is None:
        return _detected(given)
    if configured in (DateFormat.SPACE, DateFormat.T) and all(map(_is_iso, given)):
        return _text_format(given)
    if configured is DateFormat.YYYYMMDD:
        configured = _DAY_TEXTS if isinstance(given[0], str) else _DAY_NUMBERS
    misfits = [value for value in given if not _fits(value, configured)]
    if misfits:
        raise ValueError(
            f"the date column has values that do not fit date_format {configured}: {_shown(misfits)}. Correct "
            "them, set another date_format, or make a view with a column of dates"
        )
    return configured


def to_column(at: datetime, date_format: DateFormat, timezone: str | None = None) -> str | float | datetime:
    """Return *at* (naive, UTC) as a value that the values of a column can be compared with.

    *timezone*: the time zone of values that do not state one; None: UTC.
    Trailing zeros are left out: the text "12:30" sorts before all longer texts of that time. datetime.max stands for
    the end of the calendar: its value is after all of the year 9999.
    Raises ValueError for the format ISO, which needs `iso_condition` instead.

    >>> to_column(datetime(2024, 3, 9, 12, 30), DateFormat.T)
    '2024-03-09T12:30'
    >>> to_column(datetime(2024, 3, 9), DateFormat.SPACE)
    '2024-03-09'
    """
    if date_format is DateFormat.ISO:
        raise ValueError("date_format iso is supported for SQLite only; make a view with a column of dates")
    if date_format in _INSTANTS:
        return _whole_if_it_is(_microseconds(at), _INSTANTS[date_format])
    at = in_zone(at, timezone)
    if date_format is DateFormat.NATIVE:
        return at
    if date_format is DateFormat.JULIAN:
        # As SQLite computes it: whole milliseconds, then one division.
        milliseconds = _whole_if_it_is(_microseconds(at), 1_000)
        return (milliseconds + _JULIAN_EPOCH_MILLISECONDS) / 86_400_000.0
    if date_format is DateFormat.YYYYMMDD:
        return _DAY_TEXTS.pattern().bound(at)
    if date_format not in (DateFormat.SPACE, DateFormat.T):
        return date_format.pattern().bound(at)
    return _text_bound(at, "T" if date_format is DateFormat.T else " ")


def in_zone(at: datetime, timezone: str | None) -> datetime:
    """Return *at* (naive, UTC) as naive local time in *timezone*; None: UTC.

    A local time outside Python's calendar becomes datetime.min or datetime.max. At the end of summer time, one local
    hour occurs twice: a bound within that hour stands for both occurrences.
    """
    if timezone is None or at == datetime.max:
        return at
    try:
        return at.replace(tzinfo=UTC).astimezone(ZoneInfo(timezone)).replace(tzinfo=None)
    except OverflowError:
        return datetime.min if at.year == 1 else datetime.max


def check_timezone(name: str) -> None:
    """Raise ValueError with a sentence unless *name* is a known time zone."""
    try:
        ZoneInfo(name)
    except (TypeError, ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("the timezone is not known; use a name such as Europe/Berlin") from None


def check_iso(others: Sequence[object]) -> None:
    """Raise ValueError, with a sentence, unless *others* is empty. *others*: values whose `iso_instant` is NULL."""
    if others:
        raise ValueError(
            f"the date column has values that do not fit date_format iso: {_shown(others)}. Correct them, or make a "
            "view with a column of dates"
        )


def iso_range(begin: datetime, end: datetime) -> tuple[str, str]:
    """Return an inclusive and an exclusive bound, to search an index for all ISO texts of instants in [begin, end).

    The bounds allow for offsets of up to a day, so texts of other instants may be within them, too. Use `iso_condition`
    to exclude those texts.
    """
    first = (begin if begin < datetime.min + _DAY else begin - _DAY).date()
    return first.isoformat(), "A" if end > datetime.max - 2 * _DAY else (end + 2 * _DAY).date().isoformat()


def iso_condition(column: str, begin: datetime, end: datetime) -> str:
    """Return an SQLite condition that is true if the instant of an ISO text is within [begin, end)."""
    instant = iso_instant(column)
    return f"({instant} >= {_microseconds(begin)} AND {instant} < {_microseconds(end)})"


def iso_instant(column: str) -> str:
    """Return an SQLite expression for the microseconds since 1970 of an ISO text. It is NULL for any other value."""
    is_offset = f"{column} GLOB '*[+-][0-9][0-9]:[0-9][0-9]'"
    offset = f"CASE WHEN {is_offset} THEN substr({column}, -6) ELSE '' END"
    clock = f"substr({column}, 1, CASE WHEN substr({column}, 17, 1) = ':' THEN 19 ELSE 16 END)"
    fraction = f"CASE WHEN substr({column}, 20, 1) = '.' THEN CAST('0.' || substr({column}, 21) AS REAL) ELSE 0 END"
    return (
        f"CASE WHEN typeof({column}) = 'text' AND {column} GLOB '[0-9][0-9][0-9][0-9]-*' THEN "
        f"CAST(strftime('%s', {clock} || {offset}) AS INTEGER) * 1000000 + "
        f"CAST({fraction} * 1000000 + 0.001 AS INTEGER) END"
    )


def _text_bound(at: datetime, separator: str) -> str:
    if at == datetime.max:
        return f"9999-12-31{separator}24"
    if at.time() == time():
        return at.date().isoformat()
    text = at.isoformat(sep=separator)
    return text.rstrip("0") if at.microsecond else text.removesuffix(":00")


def _microseconds(at: datetime) -> int:
    """Return the microseconds since 1970. For datetime.max, adds one, which gives the end of the calendar."""
    return (at - _EPOCH) // timedelta(microseconds=1) + (at == datetime.max)


def _whole_if_it_is(microseconds: int, unit: int) -> int | float:
    return microseconds // unit if microseconds % unit == 0 else microseconds / unit


# Detection of the format from a sample of values


def _detected(values: list[object]) -> DateFormat:
    if all(isinstance(value, date) for value in values):
        return DateFormat.NATIVE
    if all(map(_is_iso, values)):
        return _text_format(values)
    numbers = [value for value in values if isinstance(value, (int, float))]
    if len(numbers) == len(values):
        return _number_format(numbers)
    if all(_fits(value, _DAY_TEXTS) for value in values):
        return _DAY_TEXTS
    fitting = [text for text in _SUGGESTED if all(_fits(value, DateFormat(text)) for value in values)]
    if fitting:
        raise ValueError(f'the date column has values such as {_shown(values)}: set date_format = "{fitting[0]}"')
    odd_first = _shown(sorted(values, key=_is_iso))
    raise ValueError(
        f"the date column has values that fit no known format, or not all fit one: {odd_first}. Set date_format "
        "to a pattern if they sort as time (as %Y/%m/%d), or make a view with a column of dates"
    )


def _text_format(values: Sequence[object]) -> DateFormat:
    """Return the cheapest format that sorts these ISO texts correctly."""
    found = [match for value in values if (match := _ISO.fullmatch(str(value)))]
    marks = {match["mark"] for match in found} - {None}
    offsets = {match["offset"] for match in found}
    if offsets == {None} and len(marks) < 2:
        return DateFormat.T if marks == {"T"} else DateFormat.SPACE
    lengths = {len(match["clock"] or "") for match in found}
    if len(offsets) == len(marks) == len(lengths) == 1 and offsets <= {"Z", "+00:00"}:
        # All texts have the same length and are in UTC, so they sort by time.
        clock = _CLOCKS.get(lengths.pop())
        if clock:
            return DateFormat(f"%Y-%m-%d{marks.pop()}{clock}{offsets.pop()}")
    return DateFormat.ISO


def _number_format(numbers: list[Any]) -> DateFormat:
    """Return the format in which all these numbers are in plausible years. Raises ValueError if there is none.

    Accepts 0, which means "no date" in many tables.
    """
    for date_format, microseconds in _INSTANTS.items():
        first, last = (seconds * 1_000_000 // microseconds for seconds in _PLAUSIBLE_SECONDS)
        if any(numbers) and all(number == 0 or first <= number <= last for number in numbers):
            return date_format
    if all(_PLAUSIBLE_JULIAN[0] <= number <= _PLAUSIBLE_JULIAN[1] for number in numbers):
        return DateFormat.JULIAN
    if all(_fits(number, _DAY_NUMBERS) for number in numbers):
        choice = 'date_format = "yyyymmdd" if they are days, or "unix" if they are seconds'
    elif all(_fits(number, _YEAR_NUMBERS) for number in numbers):
        choice = f'date_format = "{_YEAR_NUMBERS}" if they are years'
    else:
        choice = "date_format to unix, unix_ms, unix_us, julian, yyyymmdd or a pattern such as number %Y%m"
    raise ValueError(f"the date column has numbers of more than one possible meaning: {_shown(numbers)}. Set {choice}")


def _fits(value: object, date_format: DateFormat) -> bool:
    """Return True if a value may be a date in that format."""
    if date_format is DateFormat.NATIVE:
        return isinstance(value, date)
    if date_format in (*_INSTANTS, DateFormat.JULIAN):
        return isinstance(value, (int, float))
    if date_format in (DateFormat.SPACE, DateFormat.T, DateFormat.ISO):
        return _is_iso(value)
    return date_format.pattern().fits(value)


def _is_iso(value: object) -> bool:
    return isinstance(value, str) and _ISO.fullmatch(value) is not None


def _shown(values: Sequence[object]) -> str:
    """Return up to three values for an error message."""
    texts = list(dict.fromkeys(repr(value)[:_LONGEST_SHOWN] for value in values))
    return ", ".join(texts[:3])


_DAY_TEXTS = DateFormat("%Y%m%d")
_DAY_NUMBERS = DateFormat("number %Y%m%d")
_YEAR_NUMBERS = DateFormat("number %Y")
#: Patterns that an error message suggests. It suggests the first one that all values fit.
_SUGGESTED = ("%Y/%m/%d %H:%M:%S", "%Y.%m.%d %H:%M:%S", "%Y%m%d%H%M%S", "%Y-%m", "%Y/%m", "%Y%m", "%Y")

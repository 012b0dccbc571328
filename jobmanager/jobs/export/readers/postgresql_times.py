"""Dates and times of PostgreSQL outside Python's calendar: infinity, years before 1 and after 9999. Pure."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_DAY = 86_400_000_000  # in microseconds
#: The server counts from 2000-01-01. The driver adds this number of days, and the sum may wrap around at 64 or 32 bits.
_SHIFT_DAYS = 10_957
#: The first and the last time of Python's calendar, in microseconds since 1970.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


def is_within_calendar(times: pa.ChunkedArray) -> bool:
    """Return True if all dates or times are within Python's calendar."""
    found = pc.min_max(_numbers(times)).as_py()
    unit = _unit(times.type)
    return found["min"] is None or (found["min"] * unit >= _FIRST and found["max"] * unit <= _LAST)


def outside_calendar(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a mask: True for each date or time outside Python's calendar."""
    numbers, unit = _numbers(times), _unit(times.type)
    outside = pc.or_(pc.less(numbers, _FIRST // unit), pc.greater(numbers, _LAST // unit))
    return pc.fill_null(outside, False)


def as_texts(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates or times as text: within Python's calendar as Arrow writes them, outside it as psql writes them."""
    outside = outside_calendar(times)
    within = pc.if_else(outside, pa.scalar(None, times.type), times).cast(pa.string())
    numbers = pc.if_else(outside, _numbers(times), None)
    distinct = pc.unique(numbers).drop_null()
    texts = pa.array([text_of(number.as_py(), times.type) for number in distinct], pa.string())
    return pc.coalesce(within, texts.take(pc.index_in(numbers, distinct)))


def text_of(number: int, kind: pa.DataType) -> str:
    """Return psql's text, in UTC, for a date or time outside Python's calendar.

    >>> text_of(-735160, pa.date32()), text_of(-2147472692, pa.date32())
    ('0044-03-15 BC', 'infinity')
    """
    bits, shift = (64, _SHIFT_DAYS * _DAY) if pa.types.is_timestamp(kind) else (32, _SHIFT_DAYS)
    of_server = _wrapped(number - shift, bits)
    if of_server == 2 ** (bits - 1) - 1:
        return "infinity"
    if of_server == -(2 ** (bits - 1)):
        return "-infinity"
    days, micros = divmod(of_server + shift, _DAY) if bits == 64 else (of_server + shift, 0)
    year, month, day = _civil(days)
    text = f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02}"
    if bits == 64:
        text += _clock(micros) + ("+00" if kind.tz else "")
    return text if year > 0 else f"{text} BC"


def _numbers(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return times.cast(pa.int64() if pa.types.is_timestamp(times.type) else pa.int32())


def _unit(kind: pa.DataType) -> int:
    return 1 if pa.types.is_timestamp(kind) else _DAY


def _wrapped(number: int, bits: int) -> int:
    """Return the number wrapped around to a signed integer of *bits* bits."""
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half


def _clock(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    text = f" {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{rest:06}".rstrip("0") if rest else text


def _civil(days: int) -> tuple[int, int, int]:
    """Return year (0 is 1 BC), month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.

    Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days, 2013.
    """
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    return year_of_era + era * 400 + (month <= 2), month, day

"""Date patterns whose texts sort in the order of time, such as %Y/%m/%d. Pure.

Every directive has a fixed width, and larger units come first. So dates can be compared as text, with an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

_NUMBER = "number "
_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)
#: Writes each directive. %L is our own directive: milliseconds in three digits.
_WRITE: dict[str, Callable[[datetime], str]] = {
    "Y": lambda at: f"{at.year:04}",
    "m": lambda at: f"{at.month:02}",
    "d": lambda at: f"{at.day:02}",
    "j": lambda at: f"{at.timetuple().tm_yday:03}",
    "H": lambda at: f"{at.hour:02}",
    "M": lambda at: f"{at.minute:02}",
    "S": lambda at: f"{at.second:02}",
    "L": lambda at: f"{at.microsecond // 1000:03}",
    "f": lambda at: f"{at.microsecond:06}",
}
#: The directives of a pattern must be a prefix of one of these texts.
_ORDERS = ("YmdHMSL", "YmdHMSf", "YjHMSL", "YjHMSf")
_TIMES = "HMSLf"
_STEPS = {
    "d": timedelta(days=1),
    "j": timedelta(days=1),
    "H": timedelta(hours=1),
    "M": timedelta(minutes=1),
    "S": timedelta(seconds=1),
    "L": timedelta(milliseconds=1),
    "f": timedelta(microseconds=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatePattern:
    """A parsed date pattern."""

    #: the text before each directive
    literals: tuple[str, ...]
    #: the letters of the directives
    directives: str
    #: the text after the last directive
    suffix: str
    #: True if the column holds numbers
    is_number: bool

    @classmethod
    def parse(cls, text: str) -> DatePattern:
        """Parse a pattern. Raises ValueError, with the reason as a sentence, if it is not valid."""
        is_number = text.startswith(_NUMBER)
        parts = _DIRECTIVE.split(text.removeprefix(_NUMBER))
        found = cls(
            literals=tuple(parts[:-1:2]), directives="".join(parts[1::2]), suffix=parts[-1], is_number=is_number
        )
        if not all(parts[1::2] or [""]) or not any(order.startswith(found.directives) for order in _ORDERS):
            raise ValueError(
                "the date_format does not sort as time: a pattern has %Y first, then %m %d (or %j), %H %M %S, "
                "and %L (milliseconds) or %f (microseconds), without a gap. For any other form, make a view with a "
                "column of dates"
            )
        if is_number and (any(found.literals) or found.suffix):
            raise ValueError("a date_format for numbers must have directives only, as in number %Y%m%d")
        return found

    def fits(self, value: object) -> bool:
        """Return True if *value* is a date in this pattern. The time may be truncated, as in 2024/03/09 12:30."""
        if self.is_number:
            is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return is_whole and self._fits(f"{value:.0f}", len(self.directives))
        if not isinstance(value, str):
            return False
        shortest = len(self.directives) if self.suffix else min(len(self.directives), len(self._date))
        return any(self._fits(value, count) for count in range(shortest, len(self.directives) + 1))

    def bound(self, at: datetime) -> str | int:
        """Return a bound for comparisons. Dates before *at* are below the bound; all other dates are not below it.

        The bound may be a truncated text, such as 2024/03/09 for midnight. datetime.max stands for the end of the
        calendar: all values are below its bound.
        """
        first = self._first_from(at)
        if self.is_number:
            return int(self._written(first)) if first else int(self._written(datetime.max)) + 1
        return self._shortened(first) if first else self._written(datetime.max) + self.suffix + "0"

    @property
    def _date(self) -> str:
        return self.directives.rstrip(_TIMES)

    def _fits(self, text: str, count: int) -> bool:
        """Return True if *text* is a date written with the first *count* directives."""
        widths = [len(_WRITE[letter](datetime.min)) for letter in self.directives]
        pattern = "".join(
            f"{re.escape(literal)}(?P<{letter}>[0-9]{{{width}}})"
            for literal, letter, width in list(zip(self.literals, self.directives, widths, strict=True))[:count]
        )
        found = re.fullmatch(pattern + re.escape(self.suffix), text)
        return found is not None and _is_moment({name: int(digits) for name, digits in found.groupdict().items()})

    def _first_from(self, at: datetime) -> datetime | None:
        """Return the first moment, *at* or later, that this pattern can express; None if the calendar ends before."""
        unit = self.directives[-1]
        begin = _begin_of(at, unit)
        if at == datetime.max:
            return None
        try:
            return at if begin == at else _after(begin, unit)
        except (OverflowError, ValueError):
            return None

    def _written(self, at: datetime) -> str:
        return "".join(
            literal + _WRITE[letter](at) for literal, letter in zip(self.literals, self.directives, strict=True)
        )

    def _shortened(self, at: datetime) -> str:
        """Return the text of *at* without trailing units that are zero. It sorts before all longer texts for *at*."""
        pieces = [(literal, letter) for literal, letter in zip(self.literals, self.directives, strict=True)]
        while pieces[-1][1] in _TIMES and not int(_WRITE[pieces[-1][1]](at)):
            pieces.pop()
        return "".join(literal + _WRITE[letter](at) for literal, letter in pieces)


def _is_moment(parts: dict[str, int]) -> bool:
    try:
        datetime(
            parts["Y"], parts.get("m", 1), parts.get("d", 1), parts.get("H", 0), parts.get("M", 0), parts.get("S", 0)
        )
    except ValueError:
        return False
    return 1 <= parts.get("j", 1) <= 366


def _begin_of(at: datetime, unit: str) -> datetime:
    if unit in _STEPS:
        return at - (at - datetime.min) % _STEPS[unit]
    first = datetime(at.year, at.month, 1)
    return first if unit == "m" else first.replace(month=1)


def _after(begin: datetime, unit: str) -> datetime:
    if unit == "Y":
        return begin.replace(year=begin.year + 1)
    return (begin + timedelta(days=32)).replace(day=1) if unit == "m" else begin + _STEPS[unit]

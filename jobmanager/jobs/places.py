"""Where an export stands in the order of its rows, and how a checkpoint keeps that as JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from jobmanager.errors import Fatal

#: Kinds of values that JSON does not have: the name a checkpoint gives them, and both ways. A datetime is a date too.
_KINDS: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    Decimal: ("decimal", str, Decimal),
    UUID: ("uuid", str, UUID),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
}
_READ = {name: read for name, _, read in _KINDS.values()} | {"float": float}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of a row in the order of an export, with the values as the database has them."""

    date: Any
    key: Any

    def to_json(self) -> dict[str, Any]:
        """Return the place as a cursor keeps it; raises Fatal for a type of values that it cannot keep.

        >>> Place(date="2024-03-09", key=b"\\x01").to_json()
        {'date': '2024-03-09', 'key': {'bytes': '01'}}
        """
        return {"date": _to_json(self.date), "key": _to_json(self.key)}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Place:
        """Return the place that a cursor keeps."""
        return cls(date=_from_json(kept["date"]), key=_from_json(kept["key"]))


def _to_json(value: Any) -> Any:
    for kind, (name, write, _) in _KINDS.items():
        if isinstance(value, kind):
            return {name: write(value)}
    if not isinstance(value, (int, float, str)):
        raise Fatal(
            f"Rows cannot be put in order by values of the type {type(value).__name__}. Configure another date_column "
            "or key, or a view with one."
        )
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        ((name, text),) = value.items()
        return _READ[name](text)
    return value

"""The position of an export in the order of its rows, and the JSON form of a position in a checkpoint. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

#: For each type that JSON lacks: its name in a checkpoint, and the conversions to text and back. The first type that
#: fits a value is used, so datetime comes before date, its base class.
_KINDS: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("date", date.isoformat, date.fromisoformat),
    Decimal: ("decimal", str, Decimal),
    UUID: ("uuid", str, UUID),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
}
_READ = {name: read for name, _, read in _KINDS.values()} | {"float": float}


class Unstorable(TypeError):
    """A checkpoint cannot hold the date or the key of a row."""

    def __init__(self, field: str, kind: str) -> None:
        """*field*: "date" or "key". *kind*: the type of the value."""
        super().__init__(field, kind)
        self.field = field
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The position of a row in the order of an export: its date and its key, as the database returns them."""

    date: Any
    key: Any

    def to_json(self) -> dict[str, Any]:
        """Return the place as JSON for a cursor. Raises Unstorable if JSON cannot hold a value.

        >>> Place(date="2024-03-09", key=b"\\x01").to_json()
        {'date': '2024-03-09', 'key': {'bytes': '01'}}
        """
        return {name: _to_json(name, value) for name, value in (("date", self.date), ("key", self.key))}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Place:
        """Return the place stored in a cursor."""
        return cls(date=_from_json(kept["date"]), key=_from_json(kept["key"]))


def _to_json(field: str, value: Any) -> Any:
    for kind, (name, write, _) in _KINDS.items():
        if isinstance(value, kind):
            return {name: write(value)}
    if not isinstance(value, (int, float, str)):
        raise Unstorable(field, type(value).__name__)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        ((name, text),) = value.items()
        return _READ[name](text)
    return value

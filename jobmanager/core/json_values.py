"""Check the JSON values of clients and jobs, and prepare stored ones for answers.

Pure functions: no I/O, no clock, no threads. Does not depend on jobs, HTTP or the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

JSON = Any

#: Most levels of nested arrays and objects. Far below Python's recursion limit, so that even a thread with a deep stack
#: can parse every stored value. Also below the 254 levels that the serializer of responses handles.
MAX_DEPTH = 100
#: Most bytes of one value, as compact JSON in UTF-8.
MAX_BYTES = 1 << 20

#: Encode a value as compact JSON. Made once: json.dumps makes a new encoder at every call with options.
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

#: A larger integer is not plain (see _is_plain): it may have more digits than Python converts to text.
_LARGEST_PLAIN = 2**63
#: Most entries of a plain object, and most characters of a plain text. A plain object is therefore smaller than
#: MAX_BYTES, even if all of its characters are escaped.
_FEW_ENTRIES = 64
_SHORT_TEXT = 1024
_LEFT_OUT = f"(left out: nested more than {MAX_DEPTH} levels deep)"


def check_json(value: JSON, what: str) -> None:
    """Raise TypeError or ValueError unless *value* can be stored as JSON. *what* names the value in the message.

    The value must be valid JSON, MAX_BYTES long at most, and nested MAX_DEPTH levels deep at most.
    """
    if _is_plain(value) or _is_plain_object(value):
        return
    _check_shape(value, what)
    try:
        size = len(encode(value).encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{what} is not valid JSON: {error}") from None
    if size > MAX_BYTES:
        raise _too_large(what)


def is_deeper(value: JSON, levels: int) -> bool:
    """Return True if arrays and objects are nested more than *levels* deep in *value*."""
    return next(islice(_containers_by_level(value), levels, None), None) is not None


def showable(value: JSON) -> JSON:
    """Return *value* with a note in place of each array or object nested more than MAX_DEPTH levels deep.

    Needed for values that older versions of the service stored: `check_json` refuses such values now.
    """
    return _cut(value, MAX_DEPTH) if is_deeper(value, MAX_DEPTH) else value


def _is_plain(value: object) -> bool:
    """Return True for null, a short ASCII text, a bool or an integer of usual size.

    These values are always valid. A trial encoding of them would take several times as long as this check.
    """
    if isinstance(value, str):
        return len(value) <= _SHORT_TEXT and value.isascii()
    return value is None or (isinstance(value, int) and -_LARGEST_PLAIN <= value <= _LARGEST_PLAIN)


def _is_plain_object(value: object) -> bool:
    if not isinstance(value, dict) or len(value) > _FEW_ENTRIES:
        return False
    return all(_is_plain(each) for each in (*value, *value.values()))


def _check_shape(value: JSON, what: str) -> None:
    """Raise ValueError if *value* is nested too deep, or has so many items that it is certainly too large.

    Stops at the first level that is too deep or too large. Therefore the check is fast even for a value that contains
    itself, or that contains another value many times.
    """
    least = 0
    for level, containers in enumerate(_containers_by_level(value), 1):
        if level > MAX_DEPTH:
            raise ValueError(f"{what} is nested more than {MAX_DEPTH} levels deep. Make it flatter")
        least += sum(map(_least_bytes, containers))
        if least > MAX_BYTES:
            raise _too_large(what)


def _containers_by_level(value: JSON) -> Iterator[list[Any]]:
    """Yield the arrays and objects of each level of nesting, the outermost first."""
    items = [value]
    while containers := [item for item in items if isinstance(item, (dict, list, tuple))]:
        yield containers
        items = [item for each in containers for item in (each.values() if isinstance(each, dict) else each)]


def _least_bytes(container: Any) -> int:
    """Return a lower bound of the bytes of an array or object as JSON, without the content of nested ones."""
    items = (*container, *container.values()) if isinstance(container, dict) else container
    # Each item takes at least one character, and a separator.
    return 2 * len(container) + sum(len(item) for item in items if isinstance(item, str))


def _too_large(what: str) -> ValueError:
    return ValueError(
        f"{what} is larger than {MAX_BYTES >> 20} MiB as JSON. Store the data elsewhere, and pass a reference to it"
    )


def _cut(value: JSON, levels: int) -> JSON:
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        return _LEFT_OUT
    if isinstance(value, dict):
        return {name: _cut(item, levels - 1) for name, item in value.items()}
    return [_cut(item, levels - 1) for item in value]

"""Cursors for the list of jobs: encode a position in the list as text that is opaque to clients."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta

from jobmanager.core.values import Position
from jobmanager.errors import InvalidRequest

#: The largest integer that every database can store.
LARGEST_SEQ = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def from_cursor(cursor: str | None) -> Position | None:
    """Decode a cursor into a position in the list of jobs; None for None. Raises InvalidRequest."""
    if cursor is None:
        return None
    try:
        at, number = map(int, base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").split("."))
        if not 0 <= number <= LARGEST_SEQ:
            raise ValueError("it is not the number of a job")
        return Position(submitted_at=_EPOCH + at * _MICROSECOND, number=number)
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidRequest("Invalid cursor. Start again from the first page.", field="cursor") from None


def to_cursor(position: Position | None) -> str | None:
    """Encode a position in the list of jobs as a cursor; None for None."""
    if position is None:
        return None
    at = (position.submitted_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(f"{at}.{position.number}".encode("ascii")).decode("ascii")

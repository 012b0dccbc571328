"""Log refused requests, so that an operator sees an attack or a wrong setting.

Logs at most one line a second for each status, so that a flood of requests does not become a flood of lines.
Does not log the query or any header except Host, because they may hold a token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from flask import request

#: The statuses that refuse a request because of its sender or its Host.
_LOGGED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST)
_LONGEST = 200

_log = logging.getLogger(__name__)


class Limit:
    """Allows one event of each kind per second, and counts the others. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _seen
        self._seen: dict[int, tuple[float, int]] = {}

    def take(self, kind: int) -> int | None:
        """Count an event of this kind. Return None if the event must be left out.

        If it is allowed, return how many events of this kind were left out since the last allowed one.
        """
        now = self._clock()
        with self._lock:
            last, left_out = self._seen.get(kind, (float("-inf"), 0))
            if now - last < 1:
                self._seen[kind] = (last, left_out + 1)
                return None
            self._seen[kind] = (now, 0)
            return left_out


#: limits the log lines of this process
limit = Limit()


def log_refusal(status: HTTPStatus, reason: str) -> None:
    """Log the request if its status is one of _LOGGED, at most once a second for each status."""
    if status not in _LOGGED or (left_out := limit.take(status)) is None:
        return
    more = f" {left_out} more were refused since the last such line, but not logged." if left_out else ""
    client = request.remote_addr or "a local socket"
    request_line = ascii(f"{request.method} {request.path}"[:_LONGEST])
    _log.warning("%s from %s was refused with %d. %s%s", request_line, client, status, reason, more)

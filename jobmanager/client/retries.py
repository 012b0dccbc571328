"""How long to retry a request, and how long to wait before each retry. Reads the monotonic clock; does not sleep."""

from __future__ import annotations

import time

from jobmanager.client.protocol import Flow, Pause
from jobmanager.core.outcomes import backoff
from jobmanager.errors import JobManagerError

#: Base and cap of the backoff between retries of a request.
_LEAST_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 5.0


class RetryBudget:
    """Pauses between the retries of a request; gives up after *seconds* without progress."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Restart the deadline and the backoff, because data has arrived."""
        self._deadline = time.monotonic() + self._seconds
        self._failures = 0

    def wait_or_raise(self, error: JobManagerError, *, least_seconds: float = 0.0) -> Flow[None]:
        """Wait before the next try. Raises *error* if the wait would end after the deadline."""
        self._failures += 1
        seconds = max(least_seconds, backoff(self._failures, base=_LEAST_PAUSE_SECONDS, cap=_MOST_PAUSE_SECONDS))
        if time.monotonic() + seconds > self._deadline:
            raise error
        yield Pause(seconds)

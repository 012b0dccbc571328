"""Make the events of a stream (HTML Living Standard §9.2), and decide when the stream ends.

Reads the clock, and blocks while it waits for events. Does not send the events: see client_connection.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from jobmanager.core.states import FINAL
from jobmanager.core.values import News
from jobmanager.engine.change_feed import Message, Subscription
from jobmanager.errors import JobManagerError
from jobmanager.http.context import token_check
from jobmanager.http.event_text import show_change, show_event
from jobmanager.http.schemas import response_models
from jobmanager.visible_jobs import VisibleJobs

#: The longest time without data on a stream: proxies close idle connections.
HEARTBEAT_SECONDS = 10.0
#: How long clients should wait before they reconnect.
_RETRY_MILLISECONDS = 2000
#: Longest single wait for events, and shortest time between two checks of the client's token.
LOOK_SECONDS = 0.5

_log = logging.getLogger(__name__)


class EventStream:
    """The events for one client: of all jobs, or of one job until it has ended."""

    def __init__(self, subscription: Subscription, manager: VisibleJobs, *, job_id: str | None = None) -> None:
        self._subscription = subscription
        self._manager = manager
        self._job_id = job_id
        self._is_token_valid = token_check()

    def is_over(self) -> bool:
        """Return True if no more events will come, because the service shuts down."""
        return self._subscription.is_over

    def close(self) -> None:
        """Unsubscribe, so that another stream may be opened."""
        self._subscription.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield events as bytes. Waits up to LOOK_SECONDS for an event, and yields b"" if none has come.

        Ends after a JobManagerError, which is only logged.
        """
        try:
            yield from self._chunks()
        except JobManagerError as error:
            # The response has begun, so it cannot carry the error. The client gets the error when it reconnects.
            _log.info("A stream ends early: %s", error)

    def _chunks(self) -> Iterator[bytes]:
        yield self._greeting()
        spoke_at = looked_at = time.monotonic()
        while not self.is_over():
            if time.monotonic() - looked_at > LOOK_SECONDS:
                looked_at = time.monotonic()
                if not self._is_token_valid():
                    return
            updates = self._subscription.next_events(LOOK_SECONDS)
            chunk = b"".join(map(self._show, updates))
            if not chunk and time.monotonic() - spoke_at > HEARTBEAT_SECONDS:
                chunk = b":\n" + self._place()
            if chunk:
                spoke_at = time.monotonic()
            yield chunk
            if self._job_id is not None and any(map(_is_final, updates)):
                yield self._show_job(self._job_id)
                return

    def _greeting(self) -> bytes:
        retry = f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
        # A stream of all jobs begins with an id. A client that is cut off before the first event reconnects with this
        # id, and misses nothing.
        return retry + (self._place() if self._job_id is None else self._show_job(self._job_id))

    def _place(self) -> bytes:
        """Return an SSE id line without data. Clients keep the id, so that a reconnect resumes from here."""
        return f"id: {self._subscription.position}\n\n".encode()

    def _show(self, update: Message) -> bytes:
        if isinstance(update, News):
            return show_change(update)
        return show_event("progress", response_models.show_progress(update, self._manager.now()))

    def _show_job(self, job_id: str) -> bytes:
        return show_event("job", response_models.show_job(self._manager.get(job_id), self._manager))


def _is_final(update: Message) -> bool:
    return isinstance(update, News) and update.change.to_status in FINAL

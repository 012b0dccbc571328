"""Server-sent events about jobs, as they happen (HTML Living Standard §9.2).

Each stream holds one of the threads that serve requests, so their number is limited, and a client that does not read is
disconnected. This module polls each connection, because WSGI does not report that a client has left.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request
from pydantic import BaseModel

from jobmanager.core.states import FINAL
from jobmanager.core.values import News
from jobmanager.engine.change_feed import Subscription, Told
from jobmanager.errors import InvalidRequest, JobManagerError
from jobmanager.http import parsing
from jobmanager.http.context import manager, token_check
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.responses import BROKEN, INVALID_QUERY, NO_JOB, NO_STREAM
from jobmanager.http.openapi.spec import ResponseDoc, describe, header_parameter, job_id_parameter, query_parameters
from jobmanager.http.schemas import rest
from jobmanager.manager import JobManager
from jobmanager.observability import metrics

#: The longest time without data on a stream: proxies close idle connections.
HEARTBEAT_SECONDS = 10.0
#: How long a client may leave data unread.
READ_SECONDS = 10.0
#: How long clients should wait before they reconnect.
_RETRY_MILLISECONDS = 2000
#: How often to check that the client is connected and its token is valid.
LOOK_SECONDS = 0.5
#: Bytes sent at once: a connection that poll reports as writable takes so many without blocking.
_PIECE = 4096

_log = logging.getLogger(__name__)

blueprint = Blueprint("events", __name__)

_LAST_EVENT_ID = header_parameter(
    "Last-Event-ID", "The id of the last event that the client has seen. Browsers send it automatically.", shown="4711"
)


@blueprint.get("/events")
@describe(
    name="follow_jobs",
    tag="events",
    text="Server-sent events. `change` reports a change of a job's status, with the data of "
    "`GET /jobs/{job_id}/changes`. `progress` reports the progress of a job at its last checkpoint, and may combine "
    "several checkpoints. The stream begins now, or after `Last-Event-ID`: a client that reconnects with it misses no "
    "change, unless the job was removed. If there are filters, an event is sent only if its job matches all of them. "
    "After ten seconds without events, a line that begins with a colon keeps the connection alive. An id without data "
    "may follow it; keep that id like any other. A client that does not read for ten seconds is disconnected.",
    parameters=[_LAST_EVENT_ID, *query_parameters(rest.EventQuery)],
    answers={
        200: ResponseDoc(
            text="The stream; it is open until either side closes it.", model=str, examples=examples.STREAM
        ),
        422: INVALID_QUERY,
        500: BROKEN,
        503: NO_STREAM,
    },
)
def index() -> Response:
    """Follow the changes and the progress of jobs."""
    query = parsing.parse_query(rest.EventQuery, request.args)
    subscription = manager().follow(query.selection(), after=_last_event_id(query))
    return _stream_response(_Stream(subscription, manager()))


@blueprint.get("/jobs/<job:job_id>/events")
@describe(
    name="follow_job",
    tag="events",
    text="Server-sent events of one job, as at `/events`. The first event is `job`, with the data of "
    "`GET /jobs/{job_id}`, so that a page can show the job. Then comes every `change` since the job was submitted, or "
    "after `Last-Event-ID`, and then new events as they happen. After the change to completed or stopped, a last `job` "
    "event has the result, and the stream ends. A client that has seen every change and reconnects is answered with "
    "204, so that browsers do not try again.",
    parameters=[job_id_parameter(), _LAST_EVENT_ID, *query_parameters(rest.JobEventQuery)],
    answers={
        200: ResponseDoc(
            text="The stream; it ends when the job is completed or stopped.", model=str, examples=examples.STREAM_OF_JOB
        ),
        204: ResponseDoc(text="The job is completed or stopped, and the client has seen every change."),
        404: NO_JOB,
        422: INVALID_QUERY,
        500: BROKEN,
        503: NO_STREAM,
    },
)
def of_job(job_id: str) -> Response:
    """Follow the changes and the progress of a job."""
    query = parsing.parse_query(rest.JobEventQuery, request.args)
    after = _last_event_id(query)
    job = manager().get(job_id)
    if job.status in FINAL and after is not None and manager().changes(job_id)[-1].seq <= after:
        return Response(status=HTTPStatus.NO_CONTENT)
    subscription = manager().follow(job_id=job_id, after=after or 0)
    return _stream_response(_Stream(subscription, manager(), job_id=job_id))


def _last_event_id(query: rest.JobEventQuery) -> int | None:
    """Return the number of the last change that the client has seen, or None. Raises InvalidRequest."""
    event_id = request.headers.get("Last-Event-ID") or query.last_event_id
    if not event_id:
        return None
    if not (event_id.isascii() and event_id.isdecimal() and len(event_id) <= 18):
        raise InvalidRequest("Invalid Last-Event-ID. Send the id of an event, or none.", field="last_event_id")
    return int(event_id)


def _stream_response(stream: _Stream) -> Response:
    client = _Client(request.environ)
    response = Response(client.send_when_writable(stream), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx buffers the events
    response.call_on_close(stream.close)
    metrics.stream_began()
    response.call_on_close(metrics.stream_ended)
    response.call_on_close(client.close_after_response)
    return response


class _Stream:
    """The events for one client: of all jobs, or of one job until it has ended."""

    def __init__(self, subscription: Subscription, manager: JobManager, *, job_id: str | None = None) -> None:
        self._subscription = subscription
        self._manager = manager
        self._job_id = job_id
        self._is_token_valid = token_check()

    def is_over(self) -> bool:
        """Return True if no more events will come, because the service shuts down."""
        return self._subscription.is_over

    def close(self) -> None:
        """Release the stream's place among the streams that may be open."""
        self._subscription.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield events; yield b"" now and then if there are none. Blocks in between."""
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
            updates = self._subscription.take(LOOK_SECONDS)
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
        # For all jobs, send an id at once: a client that is cut off before the first event then misses nothing.
        return retry + (self._place() if self._job_id is None else self._show_job(self._job_id))

    def _place(self) -> bytes:
        """Return an SSE id line without data. Clients keep the id, so that a reconnect resumes from here."""
        return f"id: {self._subscription.position}\n\n".encode()

    def _show(self, update: Told) -> bytes:
        if isinstance(update, News):
            return _show_change(update)
        return _event("progress", rest.show_progress(update, self._manager.now()))

    def _show_job(self, job_id: str) -> bytes:
        return _event("job", rest.show_job(self._manager.get(job_id), self._manager))


@lru_cache(maxsize=1024)
def _show_change(news: News) -> bytes:
    """Return the event for a change; cached for all streams that send it."""
    return _event("change", rest.show_change(news.change), number=news.change.seq)


def _event(name: str, data: BaseModel, *, number: int | None = None) -> bytes:
    place = "" if number is None else f"id: {number}\n"
    # This JSON has no line breaks between tokens, and escapes those in strings.
    return f"event: {name}\n{place}data: {data.model_dump_json()}\n\n".encode()


def _is_final(update: Told) -> bool:
    return isinstance(update, News) and update.change.to_status in FINAL


class _Client:
    """The connection to a client, if the server exposes its socket."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._socket: socket.socket | None = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        self._timeout = self._socket.gettimeout() if self._socket is not None else None
        if self._socket is not None:
            # Last resort, in case a send blocks after all.
            self._socket.settimeout(READ_SECONDS)

    def send_when_writable(self, stream: _Stream) -> Iterator[bytes]:
        """Yield the stream in pieces that the client has room for. Ends if the client has left or does not read."""
        for chunk in stream:
            if self._has_left():
                return
            for begin in range(0, len(chunk), _PIECE):
                if not self._wait_for_room(stream.is_over):
                    return
                yield chunk[begin : begin + _PIECE]

    def close_after_response(self) -> None:
        """Make the server close the connection after the response, instead of waiting for another request."""
        self._shut(socket.SHUT_RD)
        if self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(self._timeout)

    def _has_left(self) -> bool:
        return bool(self._poll(select.POLLRDHUP, 0) & _GONE)

    def _wait_for_room(self, is_over: Callable[[], bool]) -> bool:
        """Wait until the client has room for a piece. Return False if it has left, does not read, or at shutdown."""
        deadline = time.monotonic() + READ_SECONDS
        while time.monotonic() < deadline and not is_over():
            found = self._poll(select.POLLOUT | select.POLLRDHUP, LOOK_SECONDS)
            if found & _GONE:
                return False
            if found:
                return True
        if not is_over():
            _log.info("A client does not read its stream and is disconnected.")
        # The end of the response would not get through either: the server must not wait to send it.
        self._shut(socket.SHUT_RDWR)
        return False

    def _poll(self, events: int, seconds: float) -> int:
        """Poll the socket for *events*. Return those found, 0 after *seconds*, or POLLOUT if there is no socket."""
        if self._socket is None:
            return select.POLLOUT
        poll = select.poll()
        poll.register(self._socket, events)
        return next((found for _, found in poll.poll(seconds * 1000)), 0)

    def _shut(self, how: int) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Shut down the raw socket: SSLSocket.shutdown() would fall back to plain text.
                socket.socket.shutdown(self._socket, how)


_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL

"""Serve connections so that no client can hold a thread or the loop.

Collects each request, gives it to a thread once it has arrived, sends the rest of the response, and waits for the next
request. Runs in the loop of gunicorn's worker and never blocks. Does not depend on the application.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from gunicorn.http import get_parser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn

from jobmanager.serving.client_socket import SEND_SECONDS, ClientSocket
from jobmanager.serving.framing import Incoming, Stage
from jobmanager.serving.refusals import refusal

#: Time in which a client has to send a request. Each MiB of a large body adds a second.
REQUEST_SECONDS = 10.0
#: How long to wait, after the response, for the client to close its side. Without the wait, it might lose the response.
LINGER_SECONDS = 2.0
#: Time that a stopping worker gives connections on which no request has begun.
FAREWELL_SECONDS = 2.0
#: Most bytes of requests that a worker holds in memory. Beyond this, it refuses those longer than _RECEIVE_BYTES.
MOST_COLLECTED_BYTES = 64 * 1024 * 1024
#: Most requests with large bodies that threads read at the same time.
MOST_LARGE_REQUESTS = 2
_RECEIVE_BYTES = 64 * 1024
_PIECE_BYTES = 8 * 1024

_TOO_SLOW = refusal(408, "Request Timeout", f"The request did not arrive within {REQUEST_SECONDS:g} seconds.")
_HEAD_TOO_LARGE = refusal(431, "Request Header Fields Too Large", "The head of the request is larger than 64 KiB.")
_MALFORMED = refusal(400, "Bad Request", "The chunks of the body are malformed (RFC 9112, section 7.1).")
_UNKNOWN_CODING = refusal(501, "Not Implemented", "The only supported transfer coding is chunked.")
_BUSY = refusal(503, "Service Unavailable", "Other large requests are being read. Try again later.", "Retry-After: 10")


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the data in small pieces. Large ones are slow: at each step, gunicorn's parser copies the piece's rest."""
    for begin in range(0, len(data), _PIECE_BYTES):
        yield data[begin : begin + _PIECE_BYTES]


class _Resumed(SocketUnreader):
    """Feeds gunicorn's parser the bytes that have arrived, then reads from the socket."""

    def __init__(self, sock: socket.socket, arrived: bytes) -> None:
        super().__init__(sock)
        self._arrived = _pieces(arrived)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes that have already arrived. After the last of them, block and read from the socket."""
        return next(self._arrived, b"") or bytes(super().chunk(size_hint))


class Connection(TConn):
    """A client's connection and its state. Only the loop uses it, except while a thread answers a request."""

    def __init__(self, cfg: Any, accepted: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, ClientSocket(accepted), client, server)
        self.incoming = Incoming()
        #: when the loop gives up on the client, by the monotonic clock
        self.deadline = float("inf")
        #: response to send at the deadline; None: close without a response
        self.last_words: bytes | None = None
        self.is_watched = False
        #: no request has begun, or the last one is answered
        self.is_idle = True
        self.is_large = False
        self.is_urgent = False
        #: bytes of memory that the request holds while a thread answers it
        self.kept_bytes = 0
        #: the loop waits for a request, or for the rest of one
        self.is_receiving = False
        #: True to keep the connection open after the response, for another request
        self.is_kept = False


class Worker(Protocol):
    """The part of gunicorn's worker that the connections use."""

    cfg: Any
    log: Any
    poller: Any
    #: False once the worker shuts down
    alive: bool
    #: open connections; gunicorn reads it
    nr_conns: int

    def enqueue_req(self, conn: Any) -> None:
        """Give the request to a thread. After the thread has answered it, the loop calls `Connections.finish`."""


class Connections:
    """The open connections of a worker, and the steps that each of them takes.

    Not thread-safe: only the loop calls this. While a thread answers a request, only that thread uses the connection.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._open: set[Connection] = set()
        self._large_at_work = 0  # requests whose body a thread reads
        self._waiting_large: deque[Connection] = deque()
        self._steps_by_stage: dict[Stage, Callable[[Connection], None]] = {
            Stage.PARTIAL: self._wait_for_more,
            Stage.COMPLETE: self._answer_small,
            Stage.LARGE: self._queue_large,
            Stage.HEAD_TOO_LARGE: partial(self._refuse, response=_HEAD_TOO_LARGE),
            Stage.MALFORMED: partial(self._refuse, response=_MALFORMED),
            Stage.UNKNOWN_CODING: partial(self._refuse, response=_UNKNOWN_CODING),
        }

    def add(self, accepted: socket.socket, client: Any, server: Any) -> None:
        """Take over a connection and begin to read a request. If there are too many, drop the slowest client."""
        self._worker.nr_conns += 1
        if self._worker.nr_conns >= self._worker.cfg.worker_connections:
            self._drop_the_slowest()
        conn = Connection(self._worker.cfg, accepted, client, server)
        self._open.add(conn)
        self._take_step(conn, self._await_request)

    def finish(self, conn: Connection, *, is_kept: bool) -> None:
        """Continue with a connection whose request a thread has answered; *is_kept*: another request may follow."""
        conn.is_kept = is_kept
        if conn.is_large:
            conn.is_large = False
            self._large_at_work -= 1
            conn.incoming.feed(conn.parser.unreader.take_buffered())
        conn.parser, conn.kept_bytes = None, 0  # free the request while the response is sent
        self._take_step(conn, self._send)
        self._answer_large()

    def refuse_overdue(self) -> None:
        """Send `last_words` to each client whose deadline has passed, or drop the client if they are None."""
        now = time.monotonic()
        for conn in [conn for conn in self._open if conn.deadline <= now]:
            self._unwatch(conn)
            if conn.last_words is None:
                self._drop(conn)
            else:
                last_words, conn.last_words = conn.last_words, None
                self._take_step(conn, self._refuse, last_words)

    def drop_all(self) -> None:
        """Drop all connections that no thread works on."""
        for conn in [conn for conn in self._open if conn.deadline < float("inf")]:
            self._drop(conn)

    def limit_idle(self, deadline: float) -> None:
        """Set the deadline of idle connections to *deadline*, unless they have an earlier one."""
        for conn in self._open:
            if conn.is_idle:
                conn.deadline = min(conn.deadline, deadline)

    def _drop_the_slowest(self) -> None:
        """Make room for new connections: close the one that receives a request and has the earliest deadline."""
        receiving = [conn for conn in self._open if conn.is_receiving]
        if receiving:
            self._drop(min(receiving, key=lambda conn: conn.deadline))

    # Steps of a connection; each ends with a wait in the poller, in a thread or in a queue

    def _await_request(self, conn: Connection) -> None:
        """Wait for the next request. A part of it may have arrived together with the last request."""
        conn.is_idle, conn.is_receiving = not conn.incoming, True
        conn.last_words = None
        seconds = self._worker.cfg.keepalive if conn.initialized and conn.is_idle else REQUEST_SECONDS
        if conn.is_idle and not self._worker.alive:
            seconds = min(seconds, FAREWELL_SECONDS)
        conn.deadline = time.monotonic() + seconds
        if conn.is_idle:
            self._receive(conn)
        else:
            self._steps_by_stage[conn.incoming.update_stage()](conn)

    def _receive(self, conn: Connection) -> None:
        """Add newly received bytes to the request, and take the next step. If the client has left, drop it."""
        try:
            data = conn.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            self._watch(conn, selectors.EVENT_READ, self._receive)
            return
        if not data:
            self._drop(conn)
            return
        if conn.is_idle:
            conn.is_idle = False
            conn.deadline = time.monotonic() + REQUEST_SECONDS
        self._steps_by_stage[conn.incoming.feed(data)](conn)

    def _wait_for_more(self, conn: Connection) -> None:
        """Wait for the rest of a request. Refuse the request if it is large and the worker holds too many bytes."""
        is_small = len(conn.incoming) <= _RECEIVE_BYTES
        if not is_small and sum(len(each.incoming) + each.kept_bytes for each in self._open) > MOST_COLLECTED_BYTES:
            self._refuse(conn, _BUSY)
            return
        conn.last_words = _TOO_SLOW
        if conn.incoming.awaits_continue:
            conn.incoming.awaits_continue = False
            conn.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._watch(conn, selectors.EVENT_READ, self._receive)

    def _answer_small(self, conn: Connection) -> None:
        """Give a request that has arrived completely to a thread."""
        conn.is_urgent = conn.incoming.is_urgent
        request = conn.incoming.take()
        conn.kept_bytes = len(request)
        conn.parser = get_parser(self._worker.cfg, _pieces(request), conn.client)
        self._answer(conn)

    def _queue_large(self, conn: Connection) -> None:
        """Queue a request whose body a thread has to read."""
        conn.is_urgent, conn.is_receiving, conn.last_words = False, False, _BUSY
        self._waiting_large.append(conn)
        self._answer_large()

    def _answer_large(self) -> None:
        """Give queued large requests to threads, which read the rest: at most MOST_LARGE_REQUESTS at the same time."""
        while self._waiting_large and self._large_at_work < MOST_LARGE_REQUESTS:
            conn = self._waiting_large.popleft()
            if conn.last_words is not _BUSY:  # it waited for too long and got a 503
                continue
            self._large_at_work += 1
            conn.is_large = True
            conn.sock.reads_until = time.monotonic() + REQUEST_SECONDS
            conn.parser = get_parser(self._worker.cfg, conn.sock, conn.client)
            conn.parser.unreader = _Resumed(conn.sock, conn.incoming.take())
            self._take_step(conn, self._answer)

    def _answer(self, conn: Connection) -> None:
        """Give the request to a thread, which reads it with the connection's parser."""
        conn.data_ready, conn.is_receiving = True, False
        conn.deadline, conn.last_words = float("inf"), None
        self._worker.enqueue_req(conn)

    def _send(self, conn: Connection) -> None:
        """Send the rest of the response, then wait for the next request or close the connection."""
        conn.sock.settimeout(0.0)  # the application may have set another timeout
        conn.sock.reads_until = None
        conn.deadline = time.monotonic() + SEND_SECONDS
        if not conn.sock.flush():
            self._watch(conn, selectors.EVENT_WRITE, self._send)
        elif conn.is_kept:
            self._await_request(conn)
        else:
            self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Close our side, and read until the client closes its side: otherwise the client might lose the response."""
        conn.sock.shutdown(socket.SHUT_WR)
        conn.deadline, conn.last_words = time.monotonic() + LINGER_SECONDS, None
        self._drain(conn)

    def _drain(self, conn: Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            if not conn.sock.recv(_RECEIVE_BYTES):
                self._drop(conn)
                return
        self._watch(conn, selectors.EVENT_READ, self._drain)

    def _refuse(self, conn: Connection, response: bytes) -> None:
        conn.is_kept = conn.is_receiving = False
        conn.sock.sendall(response)
        self._send(conn)

    def _drop(self, conn: Connection) -> None:
        """Close the connection at once."""
        self._unwatch(conn)
        if conn in self._open:
            self._open.remove(conn)
            self._worker.nr_conns -= 1
        conn.sock.close()

    def _watch(self, conn: Connection, event: int, step: Callable[[Connection], None]) -> None:
        """Take the step when *event* happens: the client has sent bytes, or has room for some."""
        conn.is_watched = True
        self._worker.poller.register(conn.sock, event, partial(self._on_event, conn, step))

    def _unwatch(self, conn: Connection) -> None:
        if conn.is_watched:
            conn.is_watched = False
            self._worker.poller.unregister(conn.sock)

    def _on_event(self, conn: Connection, step: Callable[[Connection], None], _socket: Any) -> None:
        self._unwatch(conn)
        self._take_step(conn, step)

    def _take_step(self, conn: Connection, step: Callable[..., None], *args: Any) -> None:
        """Take a step. If it raises an error, close this connection, and do not raise the error."""
        try:
            step(conn, *args)
        except OSError as error:
            self._worker.log.debug("A connection ended: %s", error)
            self._drop(conn)
        except Exception:
            self._worker.log.exception("A connection could not be served.")
            self._drop(conn)

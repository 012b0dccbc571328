"""Gunicorn's threaded worker, changed so that no client can hold a thread or the loop.

- The loop collects a request and gives it to a thread once it is complete.
- A thread never waits for a client to read: the loop sends what the client has no room for.
- The loop never blocks, not even while it lingers before it closes a connection (RFC 9112 §9.6).
- Every wait for a client has a deadline.
- One thread is kept for health checks and for halt, resume and stop.

This overrides internals of gunicorn 27.0.1; tests/server/test_standstill.py fails if another version is installed.
Gunicorn's master loads this file by its path, so it imports nothing of the package before the worker has forked.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import select
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import IO, Any

from gunicorn.http import get_parser
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

#: Time in which a client has to send a request. Each MiB of a large body adds a second.
REQUEST_SECONDS = 10.0
#: Time after which a client that reads nothing of its response is cut off.
SEND_SECONDS = 30.0
#: Time for which a closed connection is read, so that the client gets to see the response.
LINGER_SECONDS = 2.0
#: Time that a stopping worker gives connections on which no request has begun.
FAREWELL_SECONDS = 2.0
#: While every thread is busy, the time that new connections are left to other workers.
LEFT_TO_OTHERS_SECONDS = 0.1
#: Bytes of a response that are kept for the loop to send. With more, the thread waits for the client.
MOST_UNSENT_BYTES = 256 * 1024
#: Bytes of all unfinished requests that a worker collects. Beyond that, only small requests are collected.
MOST_COLLECTED_BYTES = 64 * 1024 * 1024
#: Requests with large bodies that threads read at the same time.
MOST_LARGE_REQUESTS = 2
#: Time for the master to hand over the jobs of a worker that stands still.
RELEASE_SECONDS = 10.0
#: Shortest time between two log lines about connections that cannot be accepted.
_COMPLAINT_SECONDS = 10.0
#: Time to wait for the rest of a large body that the application left unread.
_DRAIN_SECONDS = 0.05

_MIB = 1024 * 1024
_UNREADABLE = "The request is not valid HTTP/1.1."
_BROKEN = "Internal error. The details are in the service's log."
_RECEIVE_BYTES = 64 * 1024
_PIECE_BYTES = 8 * 1024


def _refusal(status: int, reason: str, detail: str, *headers: str) -> bytes:
    """Return a complete response that refuses a request without the application and closes the connection."""
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


_TOO_SLOW = _refusal(408, "Request Timeout", f"The request did not arrive within {REQUEST_SECONDS:g} seconds.")
_HEAD_TOO_LARGE = _refusal(431, "Request Header Fields Too Large", "The head of the request is larger than 64 KiB.")
_MALFORMED = _refusal(400, "Bad Request", "The chunks of the body are malformed (RFC 9112, section 7.1).")
_UNKNOWN_CODING = _refusal(501, "Not Implemented", "The only supported transfer coding is chunked.")
_BUSY = _refusal(503, "Service Unavailable", "Other large requests are being read. Try again later.", "Retry-After: 10")


def _is_ready(connection: socket.socket, event: int, seconds: float) -> bool:
    """Wait up to *seconds* for the event on the socket. Return True if it happened."""
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(seconds * 1000))


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the data in small pieces: gunicorn's parser copies the rest of a piece at each step."""
    for begin in range(0, len(data), _PIECE_BYTES):
        yield data[begin : begin + _PIECE_BYTES]


class _Resumed(SocketUnreader):
    """Feeds gunicorn's parser the bytes that have arrived, then reads from the socket."""

    def __init__(self, sock: socket.socket, arrived: bytes) -> None:
        super().__init__(sock)
        self._arrived = _pieces(arrived)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes. Blocks once all bytes that had arrived are used."""
        return next(self._arrived, b"") or bytes(super().chunk(size_hint))


class _Bytes:
    """Bytes of a response that wait to be sent."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._kept = view, len(view)

    def size(self) -> int:
        """Return the number of bytes left to send, all of which are in memory."""
        return len(self._view)

    def send(self, connection: socket.socket) -> bool:
        """Send some bytes; return True if none are left. Raises BlockingIOError if the socket is full."""
        self._view = self._view[socket.socket.send(connection, self._view) :]
        return not self._view

    def let_go(self) -> None:
        """Copy the bytes that are left, to release the larger buffer that they are a part of."""
        if len(self._view) < self._kept:
            self._view = memoryview(bytes(self._view))
            self._kept = len(self._view)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class _FilePart:
    """A part of a file that waits to be sent."""

    def __init__(self, file: IO[bytes], offset: int, count: int) -> None:
        self._file, self._offset, self._left = os.dup(file.fileno()), offset, count

    def size(self) -> int:
        """Return 0: nothing of the file is in memory."""
        return 0

    def send(self, connection: socket.socket) -> bool:
        """Send some bytes; return True if none are left. Raises BlockingIOError if the socket is full."""
        sent = os.sendfile(connection.fileno(), self._file, self._offset, self._left)
        if sent == 0:
            raise ConnectionAbortedError("the file has become shorter")
        self._offset, self._left = self._offset + sent, self._left - sent
        return self._left == 0

    def let_go(self) -> None:
        """Do nothing: nothing of the file is in memory."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Socket(socket.socket):
    """A non-blocking socket of a client. Buffers the bytes that the client has no room for; `flush` sends them."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.settimeout(0.0)
        self._unsent: deque[_Bytes | _FilePart] = deque()
        #: deadline of the thread that reads the body, by the monotonic clock; None: no thread reads
        self.reads_until: float | None = None
        #: the spare thread answers: it must not wait
        self.is_in_spare_thread = False

    def setblocking(self, flag: bool) -> None:
        """Do nothing: gunicorn would make the socket blocking before a thread uses it."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive bytes. Blocks only in a thread that reads a large body.

        Raises ConnectionResetError if that thread's deadline has passed.
        """
        if self.reads_until is None:
            return super().recv(size, flags)
        # gunicorn sets a timeout when it drains a body that the application left unread.
        seconds = min(self.reads_until - time.monotonic(), self.gettimeout() or float("inf"))
        if seconds <= 0 or not _is_ready(self, select.POLLIN, seconds):
            raise ConnectionResetError(errno.ECONNRESET, "the client sent its body too slowly")
        data = super().recv(size, flags)
        self.reads_until += len(data) / _MIB
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send the bytes, or buffer those that the client has no room for.

        Blocks only while the buffer is too large. Raises ConnectionResetError if that takes SEND_SECONDS.
        """
        if data:
            self._unsent.append(_Bytes(memoryview(data)))
        deadline = time.monotonic() + SEND_SECONDS
        while not self.flush() and sum(piece.size() for piece in self._unsent) > MOST_UNSENT_BYTES:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not _is_ready(self, select.POLLOUT, seconds):
                raise ConnectionResetError(errno.ECONNRESET, "the client reads its response too slowly")
        for piece in self._unsent:
            piece.let_go()

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:  # type: ignore[override]
        """Queue the part of the file, for the loop to send, and return its length."""
        if count is None:
            count = os.fstat(file.fileno()).st_size - offset
        self._unsent.append(_FilePart(file, offset, count))
        return count

    def flush(self) -> bool:
        """Send from the buffer. Does not wait. Return True if the buffer is empty."""
        try:
            while self._unsent:
                if self._unsent[0].send(self):
                    self._unsent.popleft().close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the connection and the files that are not sent completely."""
        while self._unsent:
            self._unsent.popleft().close()
        super().close()


class _Page(io.BytesIO):
    """A stand-in for a socket that captures gunicorn's error page."""

    def sendall(self, data: bytes) -> None:
        self.write(data)

    def gettimeout(self) -> float:
        return 0.0

    @property
    def status(self) -> int:
        return int(self.getvalue().split()[1])

    @property
    def reason(self) -> str:
        return self.getvalue().splitlines()[0].split(maxsplit=2)[2].decode()


class Connection(TConn):
    """A client's connection and its state. Only the loop uses it, except while a thread answers a request."""

    def __init__(self, cfg: Any, accepted: socket.socket, client: Any, server: Any, incoming: Any) -> None:
        super().__init__(cfg, Socket(accepted), client, server)
        self.incoming = incoming
        #: when the loop gives up on the client, by the monotonic clock
        self.deadline = float("inf")
        #: response to send then; None: close without a response
        self.last_words: bytes | None = None
        self.is_watched = False
        #: no request has begun, or the last one is answered
        self.is_idle = True
        self.is_large = False
        self.is_urgent = False
        #: bytes in memory of the request that a thread works on
        self.kept_bytes = 0
        #: the loop waits for a request, or for the rest of one
        self.is_receiving = False
        #: another request may follow the response
        self.is_kept = False


class ReleasingWorker(ThreadWorker):
    """A worker whose jobs the master hands over before it kills the worker for standing still."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._is_aborted = False
        self._releases: subprocess.Popen[bytes] | None = None  # the process that hands the jobs over
        super().__init__(*args, **kwargs)

    @property
    def aborted(self) -> bool:
        """Return True once the master has found that the worker stands still."""
        return self._is_aborted

    @aborted.setter
    def aborted(self, is_aborted: bool) -> None:
        """Hand over the worker's jobs, so that a standstill is not their crash. Set by the master before it kills."""
        self._is_aborted = is_aborted
        if is_aborted:
            self.release_jobs()

    def release_jobs(self) -> None:
        """Hand over the jobs of this worker, which stands still or is dead. Does nothing if that is done or under way.

        Blocks for RELEASE_SECONDS at most. If the worker stands still within a transaction, its jobs are handed over
        once it is dead.
        """
        if self._releases is not None and self._releases.poll() in (None, 0):
            return
        alone = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
        command = [sys.executable, "-m", "jobmanager", "release", str(self.pid)]
        try:
            self._releases = subprocess.Popen(command, env=alone)
            self._releases.wait(RELEASE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.log.error("The jobs of worker %s are not handed over yet: %s", self.pid, error)


class SharingWorker(ReleasingWorker):
    """A worker that leaves new connections to the other workers while all its threads are busy.

    Otherwise, the worker that wakes first would accept all connections, and the others would idle. It accepts them
    anyway after a tenth of a second: a health check may be among them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._backlog_since: float | None = None  # when connections began to wait for a worker
        self._complained_at = float("-inf")

    def is_busy(self) -> bool:
        """Return True if every thread works on a request."""
        return False

    @property
    def worker_connections(self) -> int:
        """Return the limit, which gunicorn checks before it accepts; 0 leaves connections to other workers."""
        return 0 if self.is_busy() else int(self.cfg.worker_connections)

    @worker_connections.setter
    def worker_connections(self, number: int) -> None:
        """Ignore gunicorn's assignment: the configuration has the number."""

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting connections. A worker that shuts down accepts those in the backlog, then none."""
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            self._accept_all(self.sockets)

    def _complain(self, error: OSError) -> None:
        """Log that no connection can be accepted, for example for lack of descriptors. The worker must survive that."""
        if time.monotonic() - self._complained_at > _COMPLAINT_SECONDS:
            self._complained_at = time.monotonic()
            self.log.error("No connection can be accepted: %s", error)
        time.sleep(0.01)  # the listener stays readable: do not spin

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events. While other workers may take the new connections, accept those that they do not take."""
        if self._accepting or not self.alive:
            super().wait_for_and_dispatch_events(timeout)
            return
        super().wait_for_and_dispatch_events(min(timeout, LEFT_TO_OTHERS_SECONDS))
        self._accept_leftovers()

    def _accept_leftovers(self) -> None:
        """Accept the connections that no worker has accepted for a tenth of a second."""
        waiting = [listener for listener in self.sockets if _is_ready(listener, select.POLLIN, 0)]
        now = time.monotonic()
        if not waiting:
            self._backlog_since = None
        elif self._backlog_since is None:
            self._backlog_since = now
        elif now - self._backlog_since >= LEFT_TO_OTHERS_SECONDS:
            self._backlog_since = None
            self._accept_all(waiting)

    def _accept_all(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            listener.setblocking(False)
            before = -1
            while before != self.nr_conns < self.cfg.worker_connections:
                before = self.nr_conns
                self.accept(listener)


class gthread(SharingWorker):  # noqa: N801 - gunicorn shows this name; its own worker has it, too
    """gunicorn's worker of the same name, changed so that threads only work on requests that have arrived."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: set[Connection] = set()  # connections that this class handles
        self._at_work = 0  # requests in threads, or waiting for one
        self._spare_at_work = 0  # of these, those given to the spare thread
        self._large_at_work = 0  # of these, those whose body a thread reads
        self._waiting_large: deque[Connection] = deque()
        self._new_incoming: Any = None  # set after the fork, like the next two
        self._steps: dict[Any, Callable[[Connection], None]] = {}
        self._spare: Any = None
        # The loop cannot parse TLS, PROXY and HTTP/2. Without a proxy, clients that use them can hold threads.
        is_plain = not self.cfg.is_ssl and self.cfg.proxy_protocol == "off" and self.cfg.protocol == "http"
        self._reads_in_threads = not is_plain or "h2" in self.cfg.http_protocols

    def load_wsgi(self) -> None:
        """Import the application and what this class needs of its package.

        Not earlier: until gunicorn has set the worker's signal handlers, a SIGTERM would be lost.
        """
        super().load_wsgi()
        from jobmanager.http.framing import Incoming, Stage  # noqa: PLC0415 - after the fork: see the module's docstring

        self._new_incoming = Incoming
        self._steps = {
            Stage.PARTIAL: self._wait_for_more,
            Stage.COMPLETE: self._answer_small,
            Stage.LARGE: self._queue_large,
            Stage.HEAD_TOO_LARGE: partial(self._refuse, response=_HEAD_TOO_LARGE),
            Stage.MALFORMED: partial(self._refuse, response=_MALFORMED),
            Stage.UNKNOWN_CODING: partial(self._refuse, response=_UNKNOWN_CODING),
        }
        self._spare = ThreadPoolExecutor(1, thread_name_prefix="spare")

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the pool of threads that answer requests: one fewer than configured, which is the spare thread."""
        return ThreadPoolExecutor(max_workers=self._ordinary_threads())

    def _ordinary_threads(self) -> int:
        return max(1, int(self.cfg.threads) - 1)

    def is_busy(self) -> bool:
        """Return True if every thread but the spare one works on a request."""
        return self._at_work - self._spare_at_work >= self._ordinary_threads()

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection and begin to read a request."""
        try:
            if self._reads_in_threads:
                super().accept(listener)
                return
            accepted, client = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                self._complain(error)
            return
        self.nr_conns += 1
        if self.nr_conns >= self.cfg.worker_connections:
            self._drop_the_slowest()
        conn = Connection(self.cfg, accepted, client, listener.getsockname(), self._new_incoming())
        self._open.add(conn)
        self._step(conn, self._await_request)

    def _drop_the_slowest(self) -> None:
        """Make room for new connections: close the one that receives a request and has the earliest deadline."""
        receiving = [conn for conn in self._open if conn.is_receiving]
        if receiving:
            self._drop(min(receiving, key=lambda conn: conn.deadline))

    # Steps of a connection; each ends with a wait in the poller, in a thread or in a queue

    def _await_request(self, conn: Connection) -> None:
        """Wait for the next request, a part of which may have arrived with the last one."""
        conn.is_idle, conn.is_receiving = not conn.incoming, True
        conn.last_words = None
        seconds = self.cfg.keepalive if conn.initialized and conn.is_idle else REQUEST_SECONDS
        if conn.is_idle and not self.alive:
            seconds = min(seconds, FAREWELL_SECONDS)
        conn.deadline = time.monotonic() + seconds
        if conn.is_idle:
            self._receive(conn)
        else:
            self._steps[conn.incoming.update_stage()](conn)

    def _receive(self, conn: Connection) -> None:
        """Add the bytes that have arrived to the request, then take the step that follows."""
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
        self._steps[conn.incoming.feed(data)](conn)

    def _wait_for_more(self, conn: Connection) -> None:
        """Wait for the rest of a request, unless that would take too much memory."""
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
        conn.parser = get_parser(self.cfg, _pieces(request), conn.client)
        self._answer(conn)

    def _queue_large(self, conn: Connection) -> None:
        """Queue a request whose body a thread has to read."""
        conn.is_urgent, conn.is_receiving, conn.last_words = False, False, _BUSY
        self._waiting_large.append(conn)
        self._answer_large()

    def _answer_large(self) -> None:
        """Give the next large request to a thread that reads the rest. At most MOST_LARGE_REQUESTS are read at once."""
        while self._waiting_large and self._large_at_work < MOST_LARGE_REQUESTS:
            conn = self._waiting_large.popleft()
            if conn.last_words is not _BUSY:  # it waited for too long and got a 503
                continue
            self._large_at_work += 1
            conn.is_large = True
            conn.sock.reads_until = time.monotonic() + REQUEST_SECONDS
            conn.parser = get_parser(self.cfg, conn.sock, conn.client)
            conn.parser.unreader = _Resumed(conn.sock, conn.incoming.take())
            self._step(conn, self._answer)

    def _answer(self, conn: Connection) -> None:
        """Give the request to a thread, which reads it with the connection's parser."""
        conn.data_ready, conn.is_receiving = True, False
        conn.deadline, conn.last_words = float("inf"), None
        self.enqueue_req(conn)

    def _send(self, conn: Connection) -> None:
        """Send the rest of the response, then wait for the next request or close the connection."""
        conn.sock.settimeout(0.0)  # the application may have set another
        conn.sock.reads_until = None
        conn.deadline = time.monotonic() + SEND_SECONDS
        if not conn.sock.flush():
            self._watch(conn, selectors.EVENT_WRITE, self._send)
        elif conn.is_kept:
            self._await_request(conn)
        else:
            self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Close our side and read until the client closes its own: otherwise it might lose the response."""
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
            self.nr_conns -= 1
        conn.sock.close()

    def _watch(self, conn: Connection, event: int, step: Callable[[Connection], None]) -> None:
        """Take the step when *event* happens: the client has sent bytes, or has room for some."""
        conn.is_watched = True
        self.poller.register(conn.sock, event, partial(self._on_event, conn, step))

    def _unwatch(self, conn: Connection) -> None:
        if conn.is_watched:
            conn.is_watched = False
            self.poller.unregister(conn.sock)

    def _on_event(self, conn: Connection, step: Callable[[Connection], None], _socket: Any) -> None:
        self._unwatch(conn)
        self._step(conn, step)

    def _step(self, conn: Connection, step: Callable[..., None], *args: Any) -> None:
        """Take a step. An error closes this connection only."""
        try:
            step(conn, *args)
        except OSError as error:
            self.log.debug("A connection ended: %s", error)
            self._drop(conn)
        except Exception:
            self.log.exception("A connection could not be served.")
            self._drop(conn)

    def enqueue_req(self, conn: TConn) -> None:
        """Give a request to a thread: to the spare one if the request is urgent and all others are busy."""
        self._at_work += 1
        is_urgent = isinstance(conn, Connection) and conn.is_urgent
        in_spare = is_urgent and self._at_work - self._spare_at_work > self._ordinary_threads()
        self._spare_at_work += in_spare
        if isinstance(conn, Connection):
            conn.sock.is_in_spare_thread = in_spare
        answered = (self._spare if in_spare else self.tpool).submit(self.handle, conn)
        answered.add_done_callback(lambda done: self.method_queue.defer(self._on_answered, conn, done, in_spare))

    def _on_answered(self, conn: TConn, done: Future[Any], in_spare: bool) -> None:
        self._at_work -= 1
        self._spare_at_work -= in_spare
        self.finish_request(conn, done)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Continue with a connection whose request a thread has answered. Runs in the loop."""
        if not isinstance(conn, Connection):
            self._finish_in_threads(conn, fs)
            return
        conn.is_kept = not fs.cancelled() and fs.exception() is None and bool(fs.result())
        if conn.is_large:
            conn.is_large = False
            self._large_at_work -= 1
            conn.incoming.feed(conn.parser.unreader.take_buffered())
        conn.parser, conn.kept_bytes = None, 0  # free the request while the response is sent
        self._step(conn, self._send)
        self._answer_large()

    def _finish_in_threads(self, conn: TConn, fs: Future[Any]) -> None:
        """Finish a request as gunicorn does, but close without lingering: gunicorn's way to linger blocks the loop."""
        is_over = fs.cancelled() or fs.exception() is not None or not fs.result()
        if is_over:
            self.nr_conns -= 1
            conn.close()
        else:
            super().finish_request(conn, fs)

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """Return True if another request may follow. Does not wait for a body that the application left unread."""
        if not isinstance(conn, Connection) or not keepalive:
            return bool(super()._keepalive_after(conn, keepalive))
        if not conn.is_large:
            return True  # the next request has a parser of its own, which sees nothing of this body
        try:
            return bool(conn.parser.finish_body(deadline=time.monotonic() + _DRAIN_SECONDS))
        except (ParseException, OSError):
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Let gunicorn log a request that it cannot answer, and answer with a problem document instead of its page."""
        page = _Page()
        super().handle_error(req, page, addr, exc)
        with contextlib.suppress(OSError):
            client.sendall(_refusal(page.status, page.reason, _UNREADABLE if page.status < 500 else _BROKEN))

    def murder_pending(self) -> None:
        """Refuse or drop the clients whose deadline has passed. gunicorn calls this every second at least."""
        super().murder_pending()
        now = time.monotonic()
        for conn in [conn for conn in self._open if conn.deadline <= now]:
            self._unwatch(conn)
            if conn.last_words is None:
                self._drop(conn)
            else:
                last_words, conn.last_words = conn.last_words, None
                self._step(conn, self._refuse, last_words)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close gunicorn's idle connections that are overdue; with *force*, all connections that no thread works on."""
        super().murder_keepalived(force)
        if force:
            for conn in [conn for conn in self._open if conn.deadline < float("inf")]:
                self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Give idle connections until *deadline*: the worker is about to end."""
        super()._cap_keepalive(deadline)
        for conn in self._open:
            if conn.is_idle:
                conn.deadline = min(conn.deadline, deadline)

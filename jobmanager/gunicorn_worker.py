"""Gunicorn's threaded worker, changed so that no client can hold a thread or the loop.

- The loop collects a request and gives it to a thread once it is complete.
- A thread never waits for a client to read: the loop sends the bytes that the client does not take at once.
- The loop never blocks, not even while it lingers before it closes a connection (RFC 9112 §9.6).
- Every wait for a client has a deadline.
- One thread is kept for health checks and for halt, resume and stop.

This overrides internals of gunicorn 27.0.1; tests/server/test_standstill.py fails if another version is installed.
Gunicorn's master loads this file by its path. So this file imports nothing of the package before the fork. After the
fork, the worker imports jobmanager.serving, which serves the connections.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

#: How long a worker whose threads are all busy leaves new connections to other workers.
LEFT_TO_OTHERS_SECONDS = 0.1
#: Time for the master to hand over the jobs of a worker that hangs.
RELEASE_SECONDS = 10.0
#: Shortest time between two log lines about connections that cannot be accepted.
_COMPLAINT_SECONDS = 10.0
#: Time to wait for the rest of a large body that the application left unread.
_DRAIN_SECONDS = 0.05


def _has_backlog(listener: socket.socket) -> bool:
    """Return True if a connection waits to be accepted."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


class ReleasingWorker(ThreadWorker):
    """A worker whose jobs are handed over if it hangs: the master does this before it kills the worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._is_aborted = False
        self._releases: subprocess.Popen[bytes] | None = None  # the process that hands the jobs over
        super().__init__(*args, **kwargs)

    @property
    def aborted(self) -> bool:
        """Return True once the master has found that the worker hangs."""
        return self._is_aborted

    @aborted.setter
    def aborted(self, is_aborted: bool) -> None:
        """Hand over the worker's jobs, so that no crash is counted. The master sets this before it kills the worker."""
        self._is_aborted = is_aborted
        if is_aborted:
            self.release_jobs()

    def release_jobs(self) -> None:
        """Hand over the jobs of this worker, which hangs or is dead. Does nothing if a handover is under way or done.

        Blocks for RELEASE_SECONDS at most. If the worker hangs within a transaction, its jobs are handed over
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

    Otherwise, the worker that wakes first would accept all connections, and the others would idle. A connection that no
    worker has accepted for a tenth of a second is accepted even so: it may be a health check.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._backlog_since: float | None = None  # when connections began to wait for a worker
        self._complained_at = float("-inf")

    def is_busy(self) -> bool:
        """Return True if every thread works on a request. Subclasses override this."""
        return False

    @property
    def worker_connections(self) -> int:
        """Return the limit that gunicorn checks before it accepts connections. 0 leaves them to other workers."""
        return 0 if self.is_busy() else int(self.cfg.worker_connections)

    @worker_connections.setter
    def worker_connections(self, number: int) -> None:
        """Ignore gunicorn's assignment: the configuration has the number."""

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting connections. A worker that shuts down first accepts all in the backlog."""
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            self._accept_all(self.sockets)

    def _complain(self, error: OSError) -> None:
        """Log that no connection can be accepted, for example for lack of descriptors. Does not raise."""
        if time.monotonic() - self._complained_at > _COMPLAINT_SECONDS:
            self._complained_at = time.monotonic()
            self.log.error("No connection can be accepted: %s", error)
        time.sleep(0.01)  # the listener stays readable: do not spin

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events. While new connections are left to other workers, accept those that no worker took."""
        if self._accepting or not self.alive:
            super().wait_for_and_dispatch_events(timeout)
            return
        super().wait_for_and_dispatch_events(min(timeout, LEFT_TO_OTHERS_SECONDS))
        self._accept_leftovers()

    def _accept_leftovers(self) -> None:
        """Accept the connections that no worker has accepted for a tenth of a second."""
        waiting = [listener for listener in self.sockets if _has_backlog(listener)]
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
    """gunicorn's worker of the same name, changed so that threads only work on requests that have arrived.

    The connections are served by `Connections`; this class gives their requests to threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at_work = 0  # requests that a thread works on, or that wait for a thread
        self._spare_at_work = 0  # of these, those given to the spare thread
        self._connections: Any = None  # set after the fork, like the next two
        self._new_error_page: Any = None
        self._spare: Any = None
        # The loop cannot parse TLS, the PROXY protocol and HTTP/2: with these, threads read the requests, and a slow
        # client can hold a thread. A reverse proxy prevents that.
        is_plain = not self.cfg.is_ssl and self.cfg.proxy_protocol == "off" and self.cfg.protocol == "http"
        self._reads_in_threads = not is_plain or "h2" in self.cfg.http_protocols

    def load_wsgi(self) -> None:
        """Import the application, and the parts of its package that this class needs.

        Do not import them earlier: until gunicorn has set the worker's signal handlers, a SIGTERM would be lost.
        """
        super().load_wsgi()
        from jobmanager.serving import connections, refusals  # noqa: PLC0415 - after the fork: see the module's docstring

        self._connections = connections.Connections(self)
        self._new_error_page = refusals.ErrorPage
        self._spare = ThreadPoolExecutor(1, thread_name_prefix="spare")

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the pool of the threads that answer requests: all that are configured, except the spare thread."""
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
        self._connections.add(accepted, client, listener.getsockname())

    def enqueue_req(self, conn: TConn) -> None:
        """Give a request to a thread: to the spare one if the request is urgent and all others are busy."""
        self._at_work += 1
        is_urgent = not self._reads_in_threads and conn.is_urgent
        in_spare = is_urgent and self._at_work - self._spare_at_work > self._ordinary_threads()
        self._spare_at_work += in_spare
        if not self._reads_in_threads:
            conn.sock.is_in_spare_thread = in_spare
        answered = (self._spare if in_spare else self.tpool).submit(self.handle, conn)
        answered.add_done_callback(lambda done: self.method_queue.defer(self._on_answered, conn, done, in_spare))

    def _on_answered(self, conn: TConn, done: Future[Any], in_spare: bool) -> None:
        self._at_work -= 1
        self._spare_at_work -= in_spare
        self.finish_request(conn, done)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Continue with a connection whose request a thread has answered. Runs in the loop."""
        is_kept = not fs.cancelled() and fs.exception() is None and bool(fs.result())
        if not self._reads_in_threads:
            self._connections.finish(conn, is_kept=is_kept)
        elif is_kept:
            super().finish_request(conn, fs)
        else:
            # gunicorn's way to close lingers, and blocks the loop.
            self.nr_conns -= 1
            conn.close()

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """Return True if another request may follow. Does not wait for a body that the application left unread."""
        if self._reads_in_threads or not keepalive:
            return bool(super()._keepalive_after(conn, keepalive))
        if not conn.is_large:
            return True  # the next request has a parser of its own, which sees nothing of this body
        try:
            return bool(conn.parser.finish_body(deadline=time.monotonic() + _DRAIN_SECONDS))
        except (ParseException, OSError):
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Let gunicorn log a request that it cannot answer, and answer with a problem document instead of its page."""
        page = self._new_error_page()
        super().handle_error(req, page, addr, exc)
        with contextlib.suppress(OSError):
            client.sendall(page.as_problem())

    def murder_pending(self) -> None:
        """Refuse or drop the clients whose deadline has passed. gunicorn calls this at least once a second."""
        super().murder_pending()
        self._connections.refuse_overdue()

    def murder_keepalived(self, force: bool = False) -> None:
        """Close gunicorn's idle connections that are overdue; with *force*, all connections that no thread works on."""
        super().murder_keepalived(force)
        if force:
            self._connections.drop_all()

    def _cap_keepalive(self, deadline: float) -> None:
        """Close idle connections at *deadline*, because the worker is about to end."""
        super()._cap_keepalive(deadline)
        self._connections.limit_idle(deadline)

"""A client's socket that never blocks the loop: it buffers bytes that the client has no room for.

A thread blocks only while it reads a large body, or while the buffer is too large; both waits have a deadline.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from typing import IO, Any

from jobmanager.serving.framing import MIB

#: Time after which a client that reads nothing of its response is cut off.
SEND_SECONDS = 30.0
#: Most bytes of a response that are buffered for the loop to send. With more, the thread waits for the client.
MOST_UNSENT_BYTES = 256 * 1024


def is_ready(connection: socket.socket, event: int, seconds: float) -> bool:
    """Wait up to *seconds* for the event on the socket. Return True if it happened."""
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(seconds * 1000))


class _BytesPart:
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

    def shrink(self) -> None:
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

    def shrink(self) -> None:
        """Do nothing: nothing of the file is in memory."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class ClientSocket(socket.socket):
    """A non-blocking socket of a client. Buffers the bytes that the client has no room for; `flush` sends them."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.settimeout(0.0)
        self._unsent: deque[_BytesPart | _FilePart] = deque()
        #: deadline, by the monotonic clock, of the thread that reads a large body; None: no thread reads one
        self.reads_until: float | None = None
        #: True if the spare thread answers the request: this thread must not wait
        self.is_in_spare_thread = False

    def setblocking(self, flag: bool) -> None:
        """Do nothing. gunicorn calls this before a thread uses the socket, but the socket must not become blocking."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive bytes. Blocks only in a thread that reads a large body.

        Raises ConnectionResetError if the thread's deadline has passed. Each MiB received extends the deadline by a
        second.
        """
        if self.reads_until is None:
            return super().recv(size, flags)
        # gunicorn sets a timeout when it drains a body that the application left unread.
        seconds = min(self.reads_until - time.monotonic(), self.gettimeout() or float("inf"))
        if seconds <= 0 or not is_ready(self, select.POLLIN, seconds):
            raise ConnectionResetError(errno.ECONNRESET, "the client sent its body too slowly")
        data = super().recv(size, flags)
        self.reads_until += len(data) / MIB
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send the bytes, or buffer those that the client has no room for.

        Blocks only while the buffer is too large. Raises ConnectionResetError if this lasts for SEND_SECONDS.
        """
        if data:
            self._unsent.append(_BytesPart(memoryview(data)))
        deadline = time.monotonic() + SEND_SECONDS
        while not self.flush() and sum(piece.size() for piece in self._unsent) > MOST_UNSENT_BYTES:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not is_ready(self, select.POLLOUT, seconds):
                raise ConnectionResetError(errno.ECONNRESET, "the client reads its response too slowly")
        for piece in self._unsent:
            piece.shrink()

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:  # type: ignore[override]
        """Queue a part of the file, for the loop to send, and return the length of the part. Does not block."""
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

"""Send an endless response without ever blocking on the client, and notice when the client has left.

WSGI does not report that a client has no room for more data, or that it has left. So this module polls the socket, if
the server exposes one. Does not depend on the content of the response.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

#: How long a client may leave data unread before it is disconnected.
READ_SECONDS = 10.0
#: The longest single wait for the client. A shutdown is noticed between two waits.
_POLL_SECONDS = 0.5
#: Bytes sent at once. A connection that poll reports as writable accepts this many without blocking.
_PIECE = 4096
#: The event of poll for a client that has closed its side. Only Linux has this event. Elsewhere, the value is 0, and
#: `_has_left` looks for the end of the data.
_CLOSED = getattr(select, "POLLRDHUP", 0)
_GONE = _CLOSED | select.POLLHUP | select.POLLERR | select.POLLNVAL

_log = logging.getLogger(__name__)


class ClientConnection:
    """The connection to a client. If the server does not expose the socket, the client always seems to have room."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._socket: socket.socket | None = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        self._timeout = self._socket.gettimeout() if self._socket is not None else None
        if self._socket is not None:
            # Last resort: a timeout, in case a send blocks after all.
            self._socket.settimeout(READ_SECONDS)

    def send_when_writable(self, chunks: Iterable[bytes], *, is_over: Callable[[], bool]) -> Iterator[bytes]:
        """Yield the chunks in pieces that the client has room for.

        Ends early if the client has left or does not read, or if *is_over* returns True.
        """
        for chunk in chunks:
            if self._has_left():
                return
            for begin in range(0, len(chunk), _PIECE):
                if not self._wait_for_room(is_over):
                    return
                yield chunk[begin : begin + _PIECE]

    def close_after_response(self) -> None:
        """Make the server close the connection after the response, instead of waiting for another request."""
        self._shut(socket.SHUT_RD)
        if self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(self._timeout)

    def _has_left(self) -> bool:
        found = self._poll(_CLOSED or select.POLLIN, 0)
        return bool(found & _GONE) or (bool(found & select.POLLIN) and self._is_at_end())

    def _is_at_end(self) -> bool:
        """Return True if the client sends no more bytes. Consumes no byte. Call this only if the socket is readable."""
        assert self._socket is not None
        try:
            # Read the raw socket: SSLSocket.recv() takes no flags.
            return not socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except OSError:
            return True

    def _wait_for_room(self, is_over: Callable[[], bool]) -> bool:
        """Wait until the client has room for a piece, and return True.

        Returns False if the client has left or does not read, or if *is_over* returns True.
        """
        deadline = time.monotonic() + READ_SECONDS
        while time.monotonic() < deadline and not is_over():
            found = self._poll(select.POLLOUT | _CLOSED, _POLL_SECONDS)
            if found & _GONE or (not found and self._has_left()):
                return False
            if found:
                return True
        if not is_over():
            _log.info("A client does not read its stream and is disconnected.")
        # Shut the socket down. Otherwise the server would block while it sends the end of the response to this client.
        self._shut(socket.SHUT_RDWR)
        return False

    def _poll(self, events: int, seconds: float) -> int:
        """Wait up to *seconds* for *events*. Return those that happened, or 0. Without a socket, return POLLOUT."""
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

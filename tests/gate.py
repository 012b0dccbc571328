"""A TCP proxy for a database server that can stop answering new connections, or lose an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from sqlalchemy.engine import URL


class Gate:
    """Passes connections on to a server. Accepts the others, and never answers them."""

    def __init__(self, server: URL) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # guards the attributes below
        self._passes = -1  # how many further connections are passed on; -1: all
        self.silent = 0  # how many connections were not answered
        self._words: bytes | None = None  # the answer to these words is lost
        self._is_losing = False  # the next answer is lost
        self._start(self._serve)

    @property
    def port(self) -> int:
        """Return the port to connect to."""
        return int(self._listener.getsockname()[1])

    def fall_silent(self, after: int) -> None:
        """Do not answer connections, except the next *after* ones."""
        with self._lock:
            self._passes, self.silent = after, 0

    def answer(self) -> None:
        """Answer all further connections."""
        with self._lock:
            self._passes = -1

    def lose_answer_to(self, words: bytes) -> None:
        """End the next connection that sends these words, as soon as the server has answered them."""
        self._words = words

    def close(self) -> None:
        """End all connections."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(15)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if self._is_passed():
                    server = self._connected()
                    self._sockets.append(server)
                    self._start(self._copy, client, server, self._note_words)
                    self._start(self._copy, server, client, self._lose)

    def _is_passed(self) -> bool:
        with self._lock:
            if self._passes == 0:
                self.silent += 1
                return False
            self._passes -= 1 if self._passes > 0 else 0
            return True

    def _connected(self) -> socket.socket:
        folder = self._server.query.get("host")
        if folder is None:
            return socket.create_connection((self._server.host or "", self._server.port or 0))
        found = socket.socket(socket.AF_UNIX)
        found.connect(f"{folder}/.s.PGSQL.{self._server.port or 5432}")
        return found

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, look: Callable[[bytes], bool]) -> None:
        """Copy until either ends, or *look* returns False; then end both."""
        with contextlib.suppress(OSError):  # one of them has ended
            while (data := source.recv(65536)) and look(data):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _note_words(self, data: bytes) -> bool:
        if self._words is not None and self._words in data:
            self._words, self._is_losing = None, True
        return True

    def _lose(self, _data: bytes) -> bool:
        is_passed, self._is_losing = not self._is_losing, False
        return is_passed

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


@contextlib.contextmanager
def gate(server: URL) -> Iterator[Gate]:
    """Yield a gate in front of a server."""
    found = Gate(server)
    try:
        yield found
    finally:
        found.close()

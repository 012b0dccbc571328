"""Parse server-sent events (WHATWG HTML, section 9.2) from a byte stream that may be split anywhere."""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    name: str
    data: str


class Parser:
    r"""Incremental parser of a stream. After a reconnect, call `begin` to parse the next stream.

    >>> Parser().feed(b"id: 7\nevent: change\ndata: {}\n\n: heartbeat\n\n")
    [Event(name='change', data='{}')]
    """

    def __init__(self) -> None:
        #: id of the last event, after which the next stream continues; "" before the first id
        self.last_id = ""
        self.begin()

    def begin(self) -> None:
        """Reset for a new stream, which continues after `last_id`."""
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._id = self.last_id
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Parse a chunk and return the events that it completes."""
        text = self._rest + self._decoder.decode(chunk)
        # A \r at the end may be the first half of \r\n.
        held = "\r" if text.endswith("\r") else ""
        lines = text.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + held
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return Event(name, "\n".join(data)) if data else None

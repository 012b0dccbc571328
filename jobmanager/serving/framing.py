"""Find where a request ends in the bytes of a connection, as they arrive.

Pure: no I/O, no clock, no threads. gunicorn's parser then gets exactly the bytes of one request. A request is refused
here if gunicorn could read its length differently. Otherwise, part of a body could be taken for another request.
Source: RFC 9112 §6 and §7.1 (message body length, chunked transfer coding).
"""

from __future__ import annotations

import re
from enum import Enum

MIB = 1024 * 1024

#: The longest head (request line and header fields) that is read.
MOST_HEAD_BYTES = 64 * 1024
#: The longest body that is collected before a thread takes the request. A longer one is read by the thread itself.
MOST_BODY_BYTES = MIB

_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length[^:\r\n]*:([^\r\n]*)", re.IGNORECASE)
_CODING = re.compile(rb"\r\ntransfer-encoding[^:\r\n]*:([^\r\n]*)", re.IGNORECASE)
_NUMBER = re.compile(rb"\d{1,18}")
_OLD_VERSION = re.compile(rb"[^\r\n]* HTTP/1\.0\r\n")
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,256})?\r\n")
#: The longest line that may stand before a chunk.
_MOST_CHUNK_LINE_BYTES = 300
#: The most chunks that are collected. A body with more chunks is read by the thread, which takes less time per chunk.
_MOST_CHUNKS = 4096
#: Requests that the spare thread may answer: they check the health, or halt, resume or stop a job.
_URGENT = re.compile(
    rb"[A-Z]+ [^\s?]*/(?:health/(?:live|ready)|(?:halt|stop|resume)/[^/\s?]+|jobs/(?:[^/\s?]+/)?(?:halt|stop|resume))"
    rb"(?:\?\S*)? HTTP/"
)


class Stage(Enum):
    """How much of a request has arrived, or why it is refused."""

    PARTIAL = "the head or the body is incomplete"
    COMPLETE = "head and body have arrived"
    LARGE = "the head has arrived; the body is too large to be collected"
    HEAD_TOO_LARGE = "the head is too large"
    MALFORMED = "the length or the chunks of the body are malformed"
    UNKNOWN_CODING = "the body has a transfer coding other than chunked"


class Incoming:
    """Received bytes that no thread has taken yet: one request, perhaps followed by others."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._searched = 0  # the search for the end of the head continues here
        self._body_at: int | None = None  # None: the head is not complete
        self._chunk_at = 0  # where the next chunk begins; 0: the body is not chunked
        self._chunks = 0  # how many chunks were found so far
        self._end = 0  # where the request ends, once that is known
        self._fault: Stage | None = None  # why the head is refused; None: it is not
        self._expects = False
        self.stage = Stage.PARTIAL
        #: the client waits for `100 Continue` before it sends the body; the loop sends this line and resets the field
        self.awaits_continue = False
        #: the spare thread may answer this request
        self.is_urgent = False

    def __len__(self) -> int:
        """Return how many bytes are buffered."""
        return len(self._data)

    def feed(self, data: bytes) -> Stage:
        """Add received bytes, and return the stage of the first request."""
        self._data += data
        return self.update_stage()

    def update_stage(self) -> Stage:
        """Look at the bytes received so far, and return the stage of the first request."""
        if self._body_at is None:
            self._find_head()
        self.stage = self._judge()
        return self.stage

    def take(self) -> bytes:
        """Remove the first request and return it without its `Expect: 100-continue`.

        If the body is too large to be collected, remove and return all bytes that have arrived.
        """
        end = len(self._data) if self.stage is Stage.LARGE else self._end
        request = bytes(self._data[:end])
        if self.stage is Stage.COMPLETE and self._expects:
            request = _EXPECT.sub(b"", request, count=1)
        del self._data[:end]
        self._begin()
        return request

    def _judge(self) -> Stage:
        if (self._body_at or len(self._data)) > MOST_HEAD_BYTES:
            return Stage.HEAD_TOO_LARGE
        if self._body_at is None:
            return Stage.PARTIAL
        if self._fault is not None:
            return self._fault
        return self._walk_chunks(self._body_at) if self._chunk_at else self._stage_until(self._body_at, self._end)

    def _find_head(self) -> None:
        # RFC 9112 §2.2: ignore empty lines before a request.
        del self._data[: len(self._data) - len(self._data.lstrip(b"\r\n"))]
        found = self._data.find(_HEAD_END, self._searched)
        if found < 0:
            self._searched = max(0, len(self._data) - len(_HEAD_END) + 1)
            return
        self._body_at = found + len(_HEAD_END)
        head = bytes(self._data[: self._body_at])
        self._measure(head, self._body_at)
        self._expects = _EXPECT.search(head) is not None and _OLD_VERSION.match(head) is None
        self.awaits_continue = self._expects
        self.is_urgent = _URGENT.match(head) is not None

    def _measure(self, head: bytes, body_at: int) -> None:
        """Read from the head how the body ends: after a given length, or with the last chunk."""
        lengths = [value.strip(b" \t") for value in _LENGTH.findall(head)]
        codings = [value.strip(b" \t").lower() for value in _CODING.findall(head)]
        if len(lengths) + len(codings) > 1 or (lengths and not _NUMBER.fullmatch(lengths[0])):
            self._fault = Stage.MALFORMED
        elif codings and codings != [b"chunked"]:
            self._fault = Stage.UNKNOWN_CODING
        self._chunk_at = body_at if codings else 0
        self._end = body_at + (int(lengths[0]) if lengths and self._fault is None else 0)

    def _stage_until(self, body_at: int, end: int) -> Stage:
        if end - body_at > MOST_BODY_BYTES:
            return Stage.LARGE
        return Stage.COMPLETE if len(self._data) >= end else Stage.PARTIAL

    def _walk_chunks(self, body_at: int) -> Stage:
        """Return the stage of a chunked request. Begin at the chunk that was incomplete in the last call."""
        while self._chunk_at < len(self._data):
            if self._chunks and not self._data.startswith(_LINE_END, self._chunk_at - len(_LINE_END)):
                return Stage.MALFORMED
            line = _CHUNK_LINE.match(self._data, self._chunk_at)
            if line is None:
                return self._stage_of_line()
            size = int(line[1], 16)
            if size == 0:
                return self._stage_of_trailers(line.end())
            self._chunk_at = line.end() + size + len(_LINE_END)
            self._chunks += 1
            if self._chunk_at - body_at > MOST_BODY_BYTES or self._chunks > _MOST_CHUNKS:
                return Stage.LARGE
        return Stage.PARTIAL

    def _stage_of_line(self) -> Stage:
        """Return MALFORMED or PARTIAL: the line before a chunk is wrong, or has not arrived completely."""
        line = self._data[self._chunk_at : self._chunk_at + _MOST_CHUNK_LINE_BYTES]
        is_whole = b"\n" in line or len(line) == _MOST_CHUNK_LINE_BYTES
        return Stage.MALFORMED if is_whole else Stage.PARTIAL

    def _stage_of_trailers(self, begin: int) -> Stage:
        """Return the stage after the last chunk. Trailers end like a head, with an empty line."""
        found = self._data.find(_HEAD_END, begin - len(_LINE_END))
        if found >= 0:
            self._end = found + len(_HEAD_END)
            return Stage.COMPLETE
        return Stage.HEAD_TOO_LARGE if len(self._data) - begin > MOST_HEAD_BYTES else Stage.PARTIAL

"""Limit a job's log: decide which lines are dropped.

Pure: engine/job_log_buffer.py drops lines that are not stored yet, store/job_logs.py drops stored ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from jobmanager.core.values import LogLine, storable

#: Most characters of one line. Of a longer line, the beginning and the end are kept.
LONGEST_LINE = 100_000
#: The attempt of a note. A job's own lines have attempt 1 or later.
NOTE_ATTEMPT = 0
NOTE_LEVEL = "WARNING"
#: Upper bound for the size of a note.
_NOTE_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSize:
    """The size of a log, or of a part of it."""

    lines: int = 0
    #: of all messages, in UTF-8
    bytes: int = 0

    def plus(self, message: str) -> LogSize:
        """Return the size with one more line."""
        return LogSize(lines=self.lines + 1, bytes=self.bytes + byte_count(message))

    def without(self, dropped: Iterable[Entry]) -> LogSize:
        """Return the size without these entries."""
        sizes = [entry.bytes for entry in dropped]
        return LogSize(lines=self.lines - len(sizes), bytes=self.bytes - sum(sizes))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """How much of a job's log is kept. The newest lines stay."""

    lines: int = 10_000
    #: of all messages, in UTF-8
    bytes: int = 10 * 1024 * 1024

    @property
    def longest_line(self) -> int:
        """The maximum length of one line, in characters.

        Even a line whose every character takes six bytes when it is escaped has to fit in the limit `self.bytes`.
        """
        return min(LONGEST_LINE, self.bytes // 8)

    def is_worth_dropping(self, size: LogSize) -> bool:
        """Return True if a log of this size exceeds a limit by more than a tenth.

        Lines are dropped in batches, because to drop them one by one would cost more.
        """
        return 10 * size.lines > 11 * self.lines or 10 * size.bytes > 11 * self.bytes

    def surplus(self, oldest: Iterable[Entry], size: LogSize) -> list[Entry]:
        """Return the entries to drop from a log of this *size*, so that the rest and a note are within the limits.

        *oldest* yields the entries of the log, oldest first. Reads no more of them than needed.
        """
        lines, bytes_left = size.lines + 1, size.bytes + _NOTE_BYTES
        dropped: list[Entry] = []
        for entry in oldest:
            if lines <= self.lines and bytes_left <= self.bytes:
                break
            dropped.append(entry)
            lines -= 1
            bytes_left -= entry.bytes
        return dropped

    def note(self, dropped: Iterable[Entry]) -> str:
        """Return the message of the note that replaces dropped lines."""
        count = sum(entry.stands_for for entry in dropped)
        lines = "line was" if count == 1 else "lines were"
        kept = f"a job's log keeps the newest {self.lines} lines and {self.bytes} bytes"
        return f"{count} earlier {lines} dropped: {kept}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a log, reduced to what the limits need."""

    #: position in the log, or among the lines that are not stored yet
    number: int
    bytes: int
    #: number of logged lines that it represents: 1, or for a note the number of lines that were dropped
    stands_for: int = 1


def entry_of(number: int, line: LogLine) -> Entry:
    """Return the entry with this number for a line."""
    stands_for = lines_noted(line.message) if line.attempt == NOTE_ATTEMPT else 1
    return Entry(number=number, bytes=byte_count(line.message), stands_for=stands_for)


def note_line(message: str, at: datetime) -> LogLine:
    """Return the line for a note, not stored yet."""
    return LogLine(number=0, attempt=NOTE_ATTEMPT, at=at, level=NOTE_LEVEL, message=message)


def lines_noted(message: str) -> int:
    """Return how many lines a note represents.

    >>> lines_noted(LogLimits().note([Entry(number=1, bytes=3, stands_for=7)]))
    7
    """
    return int(message.partition(" ")[0])


def line_text(message: str, *, longest: int = LONGEST_LINE) -> str:
    """Return *message* in a form that every database can store, of about *longest* characters at most.

    Drops the middle of a longer message. A traceback keeps the first call, at its beginning, and the error, at its end.
    """
    left_out = len(message) - longest
    if left_out > 0:
        half = longest // 2
        message = f"{message[:half]}\n… ({left_out} characters left out) …\n{message[-half:]}"
    return storable(message, longest=len(message))


def byte_count(message: str) -> int:
    """Return the size of a message in UTF-8."""
    return len(message) if message.isascii() else len(message.encode("utf-8"))

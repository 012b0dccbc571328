"""Keep the lines that a job logs until they are stored.

JobLogger is the job's `self.log`; JobLogBuffer holds the lines. This module does not call the store: the thread that
takes lines out stores them.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from jobmanager.core.job_log import LogLimits, LogSize, entry_of, line_text, note_line
from jobmanager.core.values import LogLine
from jobmanager.engine.force import unforced

_jobs_log = logging.getLogger("jobmanager.jobs")
_formatter = logging.Formatter()


class JobLogBuffer:
    """Collects the lines that a job logs until they are stored.

    Keeps no more lines than the store does, since a job may log while the store does not answer. This class is not a
    logging.Handler, because to make a Handler takes a lock that all threads share.
    """

    def __init__(self, attempt: int, now: Callable[[], datetime], limits: LogLimits) -> None:
        self.attempt = attempt  # the attempt that new lines belong to
        self._now = now
        self._limits = limits
        self._guard = threading.Lock()  # guards _lines and _size
        self._turn = threading.Lock()  # held while lines are stored
        self._lines: list[LogLine] = []
        self._size = LogSize()

    def keep_record(self, record: logging.LogRecord) -> None:
        """Keep one record, with its traceback if it has one."""
        try:
            message = _formatter.format(record)
        except Exception:  # the arguments do not fit the text, or cannot be converted
            message = str(record.msg)
        self._keep(record.levelname, message)

    def keep_traceback(self, error: BaseException) -> None:
        """Keep the traceback of an error of the job's code."""
        self._keep("ERROR", "".join(traceback.format_exception(error)))

    @contextmanager
    def taken(self, *, waits: bool = True) -> Iterator[list[LogLine]]:
        """Yield the lines kept since the last call, for the caller to store. Keep them again if the caller raises.

        Only one thread at a time takes lines, so that they stay in order. If *waits*, another thread blocks until its
        turn; if not, it gets no lines.
        """
        if not self._turn.acquire(blocking=waits):
            yield []
            return
        try:
            with self._guard:
                lines, self._lines, self._size = self._lines, [], LogSize()
            try:
                yield lines
            except BaseException:
                with self._guard:
                    self._lines[:0] = lines
                    for line in lines:
                        self._size = self._size.plus(line.message)
                    self._drop_oldest()
                raise
        finally:
            self._turn.release()

    def _keep(self, level: str, message: str) -> None:
        text = line_text(message, longest=self._limits.longest_line)
        line = LogLine(number=0, attempt=self.attempt, at=self._now(), level=level, message=text)
        with self._guard:
            self._lines.append(line)
            self._size = self._size.plus(line.message)
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Replace the oldest lines by a note if there are too many."""
        if not self._limits.is_worth_dropping(self._size):
            return
        oldest = (entry_of(number, line) for number, line in enumerate(self._lines))
        dropped = self._limits.surplus(oldest, self._size)
        last = dropped[-1].number
        note = note_line(self._limits.note(dropped), self._lines[last].at)
        self._lines[: last + 1] = [note]
        self._size = self._size.without(dropped).plus(note.message)


class JobLogger(logging.Logger):
    """The logger of one job. Keeps its lines with the job. Force does not interrupt it."""

    def __init__(self, name: str, buffer: JobLogBuffer) -> None:
        super().__init__(name, logging.INFO)
        self.parent = _jobs_log
        self._buffer = buffer

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Return True if lines of that level are kept.

        Takes no lock. The inherited method takes logging's own lock. If force interrupted that method, the lock could
        stay held, and every thread that logs would block.
        """
        return level >= self.level and level > self.manager.disable

    def handle(self, record: logging.LogRecord) -> None:
        """Keep and emit the record; force waits until that is done."""
        # Otherwise, a logging lock might stay held, and block other threads.
        with unforced():
            super().handle(record)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Keep the record, then pass it to handlers if there are any."""
        self._buffer.keep_record(record)
        if self.hasHandlers():
            super().callHandlers(record)

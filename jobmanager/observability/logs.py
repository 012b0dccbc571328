"""Format the server's log, and add to each line the request or the job that it belongs to.

Only the server sets this up. An application that embeds the manager has its own log, to which it can add `Context`.
"""

from __future__ import annotations

import logging
import os
import re
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

from jobmanager.core.printable import clean

#: The id of the current request; "" outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")

#: The name of a job's thread: job-<id>-<attempt>.
_JOB_THREAD = re.compile(r"job-(.+)-(\d+)")
#: Prefix of the loggers that jobs write to; the id follows.
_JOB_LOGGER = "jobmanager.jobs."

_JSON_FIELDS = {"levelname": "level", "name": "logger"}


class Context(logging.Filter):
    """Adds `request_id`, `job_id` and `attempt` to each record. Outside of a request or a job, they are ""."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the three attributes. Let every record pass."""
        found = _JOB_THREAD.fullmatch(record.threadName or "")
        record.request_id = request_id.get()
        record.job_id, record.attempt = (found[1], int(found[2])) if found else ("", "")
        if not found and record.name.startswith(_JOB_LOGGER):
            record.job_id = record.name.removeprefix(_JOB_LOGGER)
        return True


class Console(logging.Formatter):
    """A line for people: time, level, logger, request or job, and message.

    All lines after the first are indented, also those of a traceback, so that no text can pose as a line of the log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and its traceback, with invisible characters escaped."""
        return clean(super().format(record)).replace("\n", "\n    ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line. Leaves out fields that have no value."""
        belongs = [f"{name}={value}" for name in ("request_id", "job_id") if (value := getattr(record, name, ""))]
        where = f" [{' '.join(belongs)}]" if belongs else ""
        return f"{self.formatTime(record)} {record.levelname} {record.name}{where} {record.getMessage()}"


class Json(JsonFormatter):
    """A line of JSON: `timestamp` (RFC 3339, UTC), `level`, `logger`, `message`, and the attributes of `Context`."""

    def __init__(self) -> None:
        fields = ["message", *_JSON_FIELDS, "request_id", "job_id", "attempt"]
        super().__init__(fields, rename_fields=_JSON_FIELDS, timestamp=True, json_ensure_ascii=False)

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        """Return the fields to write. Leaves out those that have no value."""
        return {name: value for name, value in log_data.items() if value not in ("", None)}


class _Stderr(logging.Handler):
    """Writes each line to stderr with one system call, so that lines do not mix.

    Has no lock: a job's thread that is interrupted by force might never release it, and all logging would block.
    """

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Create no lock; the class says why."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write the line if the filters let it pass, without a lock."""
        passes = bool(self.filter(record))
        if passes:
            self.emit(record)
        return passes

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        try:
            os.write(2, f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def _is_for_operators(record: logging.LogRecord) -> bool:
    """Return False for a line that a job logged below WARNING. Such a line is only in the job's own log."""
    return record.levelno >= logging.WARNING or not record.name.startswith(_JOB_LOGGER)


def set_up(kind: str) -> None:
    """Write the log of this process to stderr: JSON if *kind* is "json", else text. May be called again."""
    handler = _Stderr()
    handler.addFilter(Context())
    handler.addFilter(_is_for_operators)
    handler.setFormatter(Json() if kind == "json" else Console())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("jobmanager").setLevel(logging.INFO)
    if kind == "json":
        # By default, gunicorn writes its log with its own handler and format: send it to our handler instead.
        server = logging.getLogger("gunicorn.error")
        server.handlers[:] = []
        server.propagate = True

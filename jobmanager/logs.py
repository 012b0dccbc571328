"""How the lines of the log look, and what they say about what they belong to: a request, or a job.

Set up by the server alone: whoever embeds the manager has a log of his own, to which `Context` can be added.
"""

from __future__ import annotations

import logging
import os
import re
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

from jobmanager.printable import clean

#: The id of the request that is being answered; "" outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")

#: The threads of jobs are named after them.
_JOB_THREAD = re.compile(r"job-(.+)-(\d+)")
#: Where the lines of a job's own go, one logger for each job.
_JOB_LOGGER = "jobmanager.jobs."

_JSON_FIELDS = {"levelname": "level", "name": "logger"}


class Context(logging.Filter):
    """Adds to each record `request_id`, and `job_id` and `attempt`, of what it belongs to; "" where it does not."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them; every record passes."""
        found = _JOB_THREAD.fullmatch(record.threadName or "")
        record.request_id = request_id.get()
        record.job_id, record.attempt = (found[1], int(found[2])) if found else ("", "")
        if not found and record.name.startswith(_JOB_LOGGER):
            record.job_id = record.name.removeprefix(_JOB_LOGGER)
        return True


class Console(logging.Formatter):
    """A line for people: when, how grave, who says it, what it belongs to, and what it says.

    Further lines of a message and tracebacks are indented, so that no text can pass for a line of the log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback; characters that cannot be seen are escaped."""
        return clean(super().format(record)).replace("\n", "\n    ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line, without what there is no value for."""
        belongs = [f"{name}={value}" for name in ("request_id", "job_id") if (value := getattr(record, name, ""))]
        where = f" [{' '.join(belongs)}]" if belongs else ""
        return f"{self.formatTime(record)} {record.levelname} {record.name}{where} {record.getMessage()}"


class Json(JsonFormatter):
    """A line of JSON: `timestamp` (RFC 3339, UTC), `level`, `logger`, `message`, and what it belongs to."""

    def __init__(self) -> None:
        fields = ["message", *_JSON_FIELDS, "request_id", "job_id", "attempt"]
        super().__init__(fields, rename_fields=_JSON_FIELDS, timestamp=True, json_ensure_ascii=False)

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        """Return what is written, without what there is no value for."""
        return {name: value for name, value in log_data.items() if value not in ("", None)}


class _NoLock:
    """What takes the place of a handler's lock where none is needed."""

    def acquire(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class _Stderr(logging.Handler):
    """Writes each line to stderr at once, which the kernel keeps whole.

    Without a lock: a job's thread that is interrupted by force might leave it held, and nobody could log any more.
    """

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """Make none."""
        self.lock = _NoLock()  # type: ignore[assignment]

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        try:
            os.write(2, f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def _is_for_operators(record: logging.LogRecord) -> bool:
    """Tell whether a line belongs into the server's log: what jobs log is kept with them, but for what is grave."""
    return record.levelno >= logging.WARNING or not record.name.startswith(_JOB_LOGGER)


def set_up(kind: str) -> None:
    """Have this process write its log to stderr, as "json" or for people; may be called again."""
    handler = _Stderr()
    handler.addFilter(Context())
    handler.addFilter(_is_for_operators)
    handler.setFormatter(Json() if kind == "json" else Console())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("jobmanager").setLevel(logging.INFO)
    if kind == "json":
        # What the server says itself, which by default has a form of its own.
        server = logging.getLogger("gunicorn.error")
        server.handlers[:] = []
        server.propagate = True

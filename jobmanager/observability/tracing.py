"""OpenTelemetry traces: a span for each request, and one for each attempt of the job that the request submitted.

Does nothing until `set_up` is called. The server calls it if OpenTelemetry's environment variables configure an
exporter. Needs the extra (`pip install jobmanager[otel]`). The context of the submission is stored with the job, as a
W3C traceparent, so that all attempts belong to the trace of the submission, in any process and at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from jobmanager.core.values import Applied, JobRecord

if TYPE_CHECKING:
    from jobmanager.observability.spans import Spans

_log = logging.getLogger(__name__)

_spans: Spans | None = None


def set_up() -> None:
    """Send traces from now on, configured by OpenTelemetry's environment variables. Call this after the fork.

    If the extra is not installed, only logs a warning.
    """
    global _spans  # noqa: PLW0603 - one for each process, as loggers are
    if _spans is not None:
        return
    try:
        from jobmanager.observability.spans import Spans  # noqa: PLC0415 - OpenTelemetry is optional
    except ImportError:
        _log.warning("Traces are not sent. Install jobmanager[otel], or remove the settings of the exporter.")
    else:
        _spans = Spans()


def shut_down() -> None:
    """Send the remaining spans, then make no more. Blocks until they are sent or the exporter gives up."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        spans.close()


def request(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Return a context manager that makes a span for a request. Its value is the span, or None if traces are off."""
    return nullcontext() if _spans is None else _spans.request(name, headers)


def is_on() -> bool:
    """Return True if tracing is on."""
    return _spans is not None


def traceparent() -> str | None:
    """Return the W3C traceparent of this thread's span, to store with a job. Return None if the thread has no span."""
    return _spans.traceparent() if _spans is not None else None


class AttemptTraces:
    """An observer (see engine/observers.py) that makes a span for each attempt. Does nothing if tracing is off."""

    def jobs_submitted(self, of_types: Mapping[str, int]) -> None:
        """Do nothing: a submission belongs to the span of its request."""

    def attempt_began(self, job: JobRecord) -> None:
        """Begin the span of an attempt."""
        if _spans is not None:
            _spans.begin(job)

    def attempt_ended(self, job_id: str, applied: Applied | None) -> None:
        """End the span of an attempt. *applied* is None if the attempt lost its lease."""
        if _spans is not None:
            _spans.end(job_id, applied)

    def job_changed(self, applied: Applied) -> None:
        """Do nothing: the span ends with the attempt."""

"""Traces by OpenTelemetry: a span for each request, and one for each attempt at the job that it submitted.

Nothing happens unless it was set up, which the server does where an exporter is configured by the environment variables
of OpenTelemetry and the extra is installed (`pip install jobmanager[otel]`). The context of the submission is kept with
the job (as W3C's traceparent), so that its attempts belong to the same trace, whichever process makes them, and when.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from jobmanager.records import Applied, JobRecord

if TYPE_CHECKING:
    from jobmanager.spans import Spans

_log = logging.getLogger(__name__)

_spans: Spans | None = None


def set_up() -> None:
    """Send traces from now on, as OpenTelemetry's environment variables say; called after the fork."""
    global _spans  # noqa: PLW0603 - one for each process, as loggers are
    if _spans is not None:
        return
    try:
        from jobmanager.spans import Spans  # noqa: PLC0415 - OpenTelemetry is for those who ask for it
    except ImportError:
        _log.warning("Traces are not sent: install jobmanager[otel], or leave the exporter out.")
    else:
        _spans = Spans()


def shut_down() -> None:
    """Send what waits, and no more traces; blocks for as long as the exporter may take."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        spans.close()


def request(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Return what makes a span of the time that it is entered; its value, if any, takes attributes."""
    return nullcontext() if _spans is None else _spans.request(name, headers)


def is_on() -> bool:
    """Tell whether traces are made."""
    return _spans is not None


def traceparent() -> str | None:
    """Return what stands for the span that this thread is in, to be kept with what it submits."""
    return _spans.traceparent() if _spans is not None else None


def attempt_began(job: JobRecord) -> None:
    """Begin the span of an attempt that was just claimed."""
    if _spans is not None:
        _spans.begin(job)


def attempt_ended(job_id: str, applied: Applied | None) -> None:
    """End it; *applied* None: the attempt lost the job."""
    if _spans is not None:
        _spans.end(job_id, applied)

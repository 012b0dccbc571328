"""Traces by OpenTelemetry: a span for each request, and one for each attempt at the job that it submitted.

Nothing happens unless it was set up, which the server does where an exporter is configured by the environment variables
of OpenTelemetry and the extra is installed (`pip install jobmanager[otel]`). The context of the submission is kept with
the job (as W3C's traceparent), so that its attempts belong to the same trace, whichever process makes them, and when.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jobmanager.records import Applied, JobRecord

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    IS_INSTALLED = True
except ImportError:  # the extra is not installed
    IS_INSTALLED = False

#: How long a span waits at most until it is sent, in milliseconds.
_DELAY = 1000

_log = logging.getLogger(__name__)


class _Tracing:
    """What there is where traces are made."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: "jobmanager"}).merge(OTELResourceDetector().detect())
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_DELAY))
        self.tracer: Tracer = self.provider.get_tracer("jobmanager")
        self.propagator = TraceContextTextMapPropagator()
        self._lock = threading.Lock()  # guards _attempts
        self._attempts: dict[str, Span] = {}

    def context_of(self, headers: Mapping[str, str]) -> Context:
        return self.propagator.extract(headers)

    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        self.propagator.inject(carrier)
        return carrier.get("traceparent")

    def begin(self, job: JobRecord) -> None:
        context = self.context_of({"traceparent": job.traceparent} if job.traceparent else {})
        attributes: dict[str, Any] = {
            "job.id": job.id,
            "job.type": job.type,
            "job.attempt": job.attempt,
            "job.status": job.status,
        }
        span = self.tracer.start_span(f"attempt {job.type}", context, SpanKind.CONSUMER, attributes)
        with self._lock:
            earlier = self._attempts.get(job.id)
            self._attempts[job.id] = span
        if earlier is not None:
            earlier.end()

    def end(self, job_id: str, applied: Applied | None) -> None:
        with self._lock:
            span = self._attempts.pop(job_id, None)
        if span is None:
            return
        if applied is None:
            span.set_status(StatusCode.ERROR, "another attempt has the job")
        elif applied.change is not None:
            span.set_attributes({"job.action": applied.change.action, "job.status": applied.change.to_status})
            if applied.change.action in ("fail", "retry"):
                span.set_status(StatusCode.ERROR, applied.job.error)
        span.end()


_tracing: _Tracing | None = None


def set_up() -> None:
    """Send traces from now on, as OpenTelemetry's environment variables say; called after the fork."""
    global _tracing  # noqa: PLW0603 - one for each process, as loggers are
    if not IS_INSTALLED:
        _log.warning("Traces are not sent: install jobmanager[otel], or leave the exporter out.")
    elif _tracing is None:
        _tracing = _Tracing()


def shut_down() -> None:
    """Send what waits, and no more traces; blocks for as long as the exporter may take."""
    global _tracing
    tracing, _tracing = _tracing, None
    if tracing is not None:
        tracing.provider.shutdown()


def request(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Return what makes a span of the time that it is entered; its value, if any, takes attributes."""
    if _tracing is None:
        return nullcontext()
    context = _tracing.context_of({key.lower(): value for key, value in headers.items()})
    return _tracing.tracer.start_as_current_span(name, context, SpanKind.SERVER)


def is_on() -> bool:
    """Tell whether traces are made."""
    return _tracing is not None


def traceparent() -> str | None:
    """Return what stands for the span that this thread is in, to be kept with what it submits."""
    return _tracing.traceparent() if _tracing is not None else None


def attempt_began(job: JobRecord) -> None:
    """Begin the span of an attempt that was just claimed."""
    if _tracing is not None:
        _tracing.begin(job)


def attempt_ended(job_id: str, applied: Applied | None) -> None:
    """End it; *applied* None: the attempt lost the job."""
    if _tracing is not None:
        _tracing.end(job_id, applied)

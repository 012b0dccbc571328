"""Make the spans of traces and send them with OpenTelemetry; see tracing.py.

No other module imports OpenTelemetry. This module is imported only if traces are set up. Its import raises ImportError
if the extra is not installed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jobmanager.core.values import Applied, JobRecord

#: Longest time before a span is sent, in milliseconds.
_DELAY = 1000


class Spans:
    """Makes the spans of one process and sends them, as OpenTelemetry's environment variables configure."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: "jobmanager"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_DELAY))
        self._tracer = self._provider.get_tracer("jobmanager")
        self._propagator = TraceContextTextMapPropagator()
        self._lock = threading.Lock()  # guards _attempts
        self._attempts: dict[str, Span] = {}

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """Return a context manager that makes a span for a request, in the trace that the request's headers name."""
        context = self._context_of({key.lower(): value for key, value in headers.items()})
        return self._tracer.start_as_current_span(name, context, SpanKind.SERVER)

    def traceparent(self) -> str | None:
        """Return the W3C traceparent of the current span of this thread; None if the thread has no span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent")

    def begin(self, job: JobRecord) -> None:
        """Begin the span of an attempt, in the trace of the job's submission."""
        context = self._context_of({"traceparent": job.traceparent} if job.traceparent else {})
        attributes: dict[str, Any] = {
            "job.id": job.id,
            "job.type": job.type,
            "job.attempt": job.attempt,
            "job.status": job.status,
        }
        span = self._tracer.start_span(f"attempt {job.type}", context, SpanKind.CONSUMER, attributes)
        with self._lock:
            earlier = self._attempts.get(job.id)
            self._attempts[job.id] = span
        if earlier is not None:
            earlier.end()

    def end(self, job_id: str, applied: Applied | None) -> None:
        """End the span of the job's attempt, if there is one. *applied* is None if the attempt lost its lease."""
        with self._lock:
            span = self._attempts.pop(job_id, None)
        if span is None:
            return
        if applied is None:
            span.set_status(StatusCode.ERROR, "lease lost: another attempt owns the job")
        elif applied.change is not None:
            span.set_attributes({"job.action": applied.change.action, "job.status": applied.change.to_status})
            if applied.change.action in ("fail", "retry"):
                span.set_status(StatusCode.ERROR, applied.job.error)
        span.end()

    def close(self) -> None:
        """Send the remaining spans. Blocks until they are sent or the exporter gives up."""
        self._provider.shutdown()

    def _context_of(self, headers: Mapping[str, str]) -> Context:
        return self._propagator.extract(headers)

"""Trace each request as a span. Jobs that the request submits belong to the same trace."""

from __future__ import annotations

from flask import Flask, Response, g, request

from jobmanager.http.request_labels import OTHER_METHOD, method, route
from jobmanager.observability import tracing


def trace(app: Flask) -> None:
    """Trace the requests of the application, if tracing is on."""
    app.before_request(_begin)
    app.after_request(_record_status)
    app.teardown_request(_end)


def _begin() -> None:
    if not tracing.is_on():
        return
    # OpenTelemetry's conventions: a method that HTTP does not define is named HTTP.
    named = "HTTP" if method() == OTHER_METHOD else method()
    g.tracing = tracing.request(f"{named} {route()}", dict(request.headers))
    g.span = g.tracing.__enter__()
    if g.span is not None:
        g.span.set_attributes(
            {
                "http.request.method": method(),
                "http.route": route(),
                "url.path": request.path,
                "jobmanager.request_id": g.request_id,
            }
        )


def _record_status(response: Response) -> Response:
    if tracing.is_on() and g.get("span") is not None:
        g.span.set_attribute("http.response.status_code", response.status_code)
    return response


def _end(_error: BaseException | None) -> None:
    if tracing.is_on() and "tracing" in g:
        g.pop("tracing").__exit__(None, None, None)

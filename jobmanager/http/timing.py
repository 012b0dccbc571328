"""Measure how long requests take, for the metrics."""

from __future__ import annotations

import time

from flask import Flask, Response, g

from jobmanager.http.request_labels import method, route
from jobmanager.observability import metrics


def measure(app: Flask) -> None:
    """Measure how long each request of the application takes."""
    app.before_request(_begin)
    app.after_request(_record_seconds)


def _begin() -> None:
    g.began_at = time.perf_counter()


def _record_seconds(response: Response) -> Response:
    seconds = time.perf_counter() - g.get("began_at", time.perf_counter())
    metrics.request_answered(method(), route(), response.status_code, seconds)
    return response

"""The Flask application: which routes there are, and what holds for all of them."""

from __future__ import annotations

from flask import Flask

from jobmanager.http import (
    classic,
    control,
    docs,
    errors,
    events,
    guard,
    health,
    job_types,
    jobs,
    metrics,
    requests,
    traces,
)
from jobmanager.http.door import EXTENSION
from jobmanager.manager import JobManager


def create_app(manager: JobManager | None = None) -> Flask:
    """Return the application. Opens nothing: the manager starts with the first request, unless it was started.

    Raises ConfigError if the environment, where no *manager* is given, holds a bad value.
    """
    app = Flask("jobmanager.http")
    app.extensions[EXTENSION] = manager or JobManager()
    app.json.sort_keys = False  # type: ignore[attr-defined]  # a property of Flask's default provider
    requests.identify(app)
    traces.trace(app)
    metrics.watch(app)
    guard.protect(app)
    for part in (classic, jobs, control, events, job_types, health, metrics):
        app.register_blueprint(part.blueprint)
    errors.register(app)
    docs.register(app)
    return app

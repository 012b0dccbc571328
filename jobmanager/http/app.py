"""The Flask application: which routes there are, and what holds for all of them."""

from __future__ import annotations

from flask import Flask

from jobmanager.http import classic, control, docs, errors, guard, health, job_types, jobs
from jobmanager.http.door import EXTENSION, JobIdConverter
from jobmanager.manager import JobManager


def create_app(manager: JobManager | None = None) -> Flask:
    """Return the application. Opens nothing: the manager starts with the first request, unless it was started.

    Raises ConfigError if the environment, where no *manager* is given, holds a bad value.
    """
    app = Flask("jobmanager.http")
    app.extensions[EXTENSION] = manager or JobManager()
    app.json.sort_keys = False  # type: ignore[attr-defined]  # a property of Flask's default provider
    app.url_map.converters["job"] = JobIdConverter
    guard.protect(app)
    for blueprint in (classic.blueprint, jobs.blueprint, control.blueprint, job_types.blueprint, health.blueprint):
        app.register_blueprint(blueprint)
    errors.register(app)
    docs.register(app)
    return app

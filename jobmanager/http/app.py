"""Assemble the routes: as a blueprint for any Flask application, or as the service's own application."""

from __future__ import annotations

from flask import Blueprint, Flask
from flask.sansio.blueprints import BlueprintSetupState

from jobmanager.http import errors, headers, request_ids, security, timing, traces
from jobmanager.http.context import EXTENSION, JobIdConverter, Mount
from jobmanager.http.routes import classic, control, dashboard, datasets, docs, events, health, job_types, jobs, metrics
from jobmanager.manager import JobManager

_PARTS = tuple(
    part.blueprint for part in (classic, jobs, control, events, job_types, datasets, health, metrics, docs, dashboard)
)


def blueprint(manager: JobManager, *, name: str = "jobmanager") -> Blueprint:
    """Return the whole API of the manager as a blueprint, to mount under a prefix; see docs/embedding.md.

    Opens nothing. The checks, error handlers and headers of the blueprint apply to its own routes only, not to other
    routes of the application. To mount two of these blueprints in one application, give them different names.
    """
    mount = Mount(manager, name)
    mount.record(_know_job_ids)
    security.protect(mount)
    headers.register(mount)
    errors.register(mount)
    for part in _PARTS:
        mount.register_blueprint(part)
    return mount


def _know_job_ids(state: BlueprintSetupState) -> None:
    """Register the URL converter `job` for job ids. Raises ValueError if another converter has this name."""
    known = state.app.url_map.converters.setdefault("job", JobIdConverter)
    if known is not JobIdConverter:
        raise ValueError("the application has a URL converter 'job' of its own, but the job manager needs that name")


def create_app(manager: JobManager | None = None) -> Flask:
    """Return the application. Opens nothing: the first request starts the manager, unless it was started before.

    Raises ConfigError if no *manager* is given and a setting in the environment is invalid.
    """
    app = Flask("jobmanager.http", static_folder=None)
    app.extensions[EXTENSION] = manager = manager or JobManager()
    app.json.sort_keys = False  # type: ignore[attr-defined]  # a property of Flask's default provider
    # Set up logs, traces and metrics for all requests, even those that match no route. The blueprint does not set them
    # up, because an application that embeds it logs, traces and counts in its own way.
    request_ids.identify(app)
    traces.trace(app)
    timing.measure(app)
    app.register_blueprint(blueprint(manager))
    # A request that matches no route belongs to no blueprint: the application handles its errors and headers.
    errors.register(app)
    app.after_request(headers.add_headers_without_route)
    return app

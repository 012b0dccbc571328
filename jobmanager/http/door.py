"""What routes share: the way to the manager, and the name of who asks."""

from __future__ import annotations

from typing import cast

from flask import current_app, request
from werkzeug.routing import BaseConverter

from jobmanager.manager import JobManager

#: The key of the JobManager among the extensions of the Flask application.
EXTENSION = "jobmanager"


class JobIdConverter(BaseConverter):
    """The part of a path that names a job: any text but the names of routes that stand in the same place."""

    regex = "(?!(?:batch|halt|resume|stop)(?:/|$))[^/]+"


def manager() -> JobManager:
    """Return the application's JobManager."""
    return cast(JobManager, current_app.extensions[EXTENSION])


def actor() -> str:
    """Return who asks, to be kept with the change."""
    return request.remote_addr or "local"

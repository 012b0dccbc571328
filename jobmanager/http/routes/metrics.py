"""The metrics for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response

from jobmanager.errors import Forbidden
from jobmanager.http.context import current_mount, token
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import ResponseDoc, describe
from jobmanager.http.openapi.responses import BROKEN

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@describe(
    name="show_metrics",
    tag="health",
    text="Jobs by type and status, queue depth, slots, age of checkpoints; how long jobs wait, run and take to halt; "
    "how long store operations and requests take. Any worker reports the values of all. If the store does not answer, "
    "`jobmanager_store_up` is 0, and the metrics from the store are left out. A token that may see only some job types "
    "is refused.",
    answers={
        200: ResponseDoc(
            text="The text format of Prometheus.", model=str, media_type="text/plain", examples=examples.METRICS
        ),
        500: BROKEN,
    },
)
def show() -> Response:
    """Show the metrics for Prometheus."""
    sent = token()
    if sent is not None and sent.types is not None:
        raise Forbidden(sent.name, sent.role, "viewer of every job type")
    response = Response(current_mount().manager.metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")
    response.cache_control.no_store = True
    return response

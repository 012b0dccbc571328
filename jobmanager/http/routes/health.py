"""Health checks for load balancers and containers."""

from __future__ import annotations

from flask import Blueprint

from jobmanager.http.context import current_mount, open_to_all
from jobmanager.http.openapi.operations import ResponseDoc, describe
from jobmanager.http.openapi.responses import BROKEN, NO_STORE
from jobmanager.http.schemas import problems

blueprint = Blueprint("health", __name__, url_prefix="/health")

_OK = {"ok": {"summary": "ok", "value": {"status": "ok"}}}


@blueprint.get("/live")
@describe(
    name="is_live",
    tag="health",
    text="Does not check the store. Restart a process that does not answer this.",
    answers={200: ResponseDoc(text="The process answers.", model=problems.Health, examples=_OK)},
)
@open_to_all
def live() -> dict[str, str]:
    """Check that the process answers."""
    return {"status": "ok"}


@blueprint.get("/ready")
@describe(
    name="is_ready",
    tag="health",
    text="Send no requests to a process while it does not answer this with 200.",
    answers={
        200: ResponseDoc(text="The store answers.", model=problems.Health, examples=_OK),
        500: BROKEN,
        503: NO_STORE,
    },
)
@open_to_all
def ready() -> dict[str, str]:
    """Check that the store answers, so that requests can be served."""
    current_mount().manager.ping()
    return {"status": "ok"}

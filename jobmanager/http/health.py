"""Health checks for load balancers and containers."""

from __future__ import annotations

from flask import Blueprint

from jobmanager.http import wire
from jobmanager.http.docs import Answer, describe
from jobmanager.http.door import manager, open_to_all
from jobmanager.http.problems import BROKEN, NO_STORE

blueprint = Blueprint("health", __name__, url_prefix="/health")

_OK = {"ok": {"summary": "ok", "value": {"status": "ok"}}}


@blueprint.get("/live")
@describe(
    name="is_live",
    tag="health",
    text="Opens nothing, and says nothing of the store: a process that does not answer this should be started again.",
    answers={200: Answer(text="The process answers.", model=wire.Health, examples=_OK)},
)
@open_to_all
def live() -> dict[str, str]:
    """Tell whether the process answers."""
    return {"status": "ok"}


@blueprint.get("/ready")
@describe(
    name="is_ready",
    tag="health",
    text="A process that does not answer this with 200 should be sent no requests for now.",
    answers={
        200: Answer(text="The store answers.", model=wire.Health, examples=_OK),
        500: BROKEN,
        503: NO_STORE,
    },
)
@open_to_all
def ready() -> dict[str, str]:
    """Tell whether the store answers too, so that requests can be served."""
    manager().ping()
    return {"status": "ok"}

"""What load balancers and containers ask."""

from __future__ import annotations

from flask import Blueprint

from jobmanager.http import wire
from jobmanager.http.docs import describe
from jobmanager.http.door import manager

blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("/live")
@describe(tag="health", answers={200: (wire.Health, "The process answers.")})
def live() -> dict[str, str]:
    """Tell whether the process answers."""
    return {"status": "ok"}


@blueprint.get("/ready")
@describe(
    tag="health",
    answers={200: (wire.Health, "The store answers."), 503: (wire.Problem, "The store does not answer.")},
)
def ready() -> dict[str, str]:
    """Tell whether the store answers too, so that requests can be served."""
    manager().ping()
    return {"status": "ok"}

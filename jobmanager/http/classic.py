"""The routes of the Go service this one grew from; its clients work with them unchanged."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, redirect, request, url_for
from werkzeug.wrappers import Response

from jobmanager.http import wire
from jobmanager.http.docs import SUBMIT_EXAMPLES, Answers, describe, job_id_parameter
from jobmanager.http.door import actor, manager
from jobmanager.records import JobRecord

#: How long a control route waits for what was asked, so that a halt that answered is halted.
WAIT_SECONDS = 2.0

blueprint = Blueprint("classic", __name__)

_REFUSALS: Answers = {
    403: (wire.ClassicError, "A browser asked on behalf of another site."),
    404: (wire.ClassicError, "No job has this id."),
    409: (wire.ClassicError, "The job's status does not allow it; the error says what is allowed."),
    503: (wire.ClassicError, "The store does not answer; try again after Retry-After seconds."),
}


@blueprint.post("/submit")
@describe(
    tag="classic",
    body=(wire.ClassicSubmission, SUBMIT_EXAMPLES),
    answers={
        200: (wire.ClassicAnswer, "The job is stored and will run."),
        400: (wire.ClassicError, "The body, the type or an argument is wrong."),
        403: _REFUSALS[403],
        413: (wire.ClassicError, "The body is larger than 1 MiB."),
        429: (wire.ClassicError, "Too many jobs wait; try again after Retry-After seconds."),
        503: _REFUSALS[503],
    },
)
def submit() -> dict[str, Any]:
    """Submit a job."""
    name, args = wire.parse_classic(request.get_data())
    return _answer(manager().submit(name, args, actor=actor()))


@blueprint.route("/halt/<job_id>", methods=["GET", "POST"])
@describe(
    tag="classic",
    parameters=[job_id_parameter()],
    answers={200: (wire.ClassicAnswer, "The job has halted, or is about to: see its status."), **_REFUSALS},
)
def halt(job_id: str) -> dict[str, Any]:
    """Halt a job: it pauses where it stands, and everything is kept."""
    return _answer(manager().halt(job_id, actor=actor(), wait=WAIT_SECONDS))


@blueprint.route("/resume/<job_id>", methods=["GET", "POST"])
@describe(
    tag="classic",
    parameters=[job_id_parameter()],
    answers={200: (wire.ClassicAnswer, "The job goes on, or waits for a slot: see its status."), **_REFUSALS},
)
def resume(job_id: str) -> dict[str, Any]:
    """Resume a halted or failed job: it goes on exactly where it stood."""
    return _answer(manager().resume(job_id, actor=actor(), wait=WAIT_SECONDS))


@blueprint.route("/stop/<job_id>", methods=["GET", "POST"])
@describe(
    tag="classic",
    parameters=[job_id_parameter()],
    answers={200: (wire.ClassicAnswer, "The job is stopped, or being rolled back: see its status."), **_REFUSALS},
)
def stop(job_id: str) -> dict[str, Any]:
    """Stop a job for good: what it did is rolled back."""
    return _answer(manager().stop(job_id, actor=actor(), wait=WAIT_SECONDS))


@blueprint.get("/details/<job_id>")
@describe(
    tag="classic",
    parameters=[job_id_parameter()],
    answers={200: (wire.ClassicAnswer, "The job."), 404: _REFUSALS[404], 503: _REFUSALS[503]},
)
def details(job_id: str) -> dict[str, Any]:
    """Look at a job."""
    return _answer(manager().get(job_id))


@blueprint.get("/swagger/")
@blueprint.get("/swagger/index.html")
def swagger() -> Response:
    """Lead to the API docs, which were here in the Go service."""
    return redirect(url_for("flasgger.apidocs"))


def _answer(job: JobRecord) -> dict[str, Any]:
    types = manager().types
    job_type = types.get(job.type) if job.type in types else None
    return wire.classic_answer(job, job_type, is_unresponsive=manager().is_unresponsive(job))

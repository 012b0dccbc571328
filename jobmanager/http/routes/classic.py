"""The routes of the original Go service, whose clients work unchanged."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request
from pydantic_core import to_json
from werkzeug.wrappers import Response as BaseResponse

from jobmanager.core.values import JobRecord
from jobmanager.http.context import actor, address_of, manager, open_to_all
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import ResponseDoc, ResponseDocs, describe, job_id_parameter, refusal
from jobmanager.http.schemas import classic
from jobmanager.http.waiting import wait_limit

#: How long a halt, resume or stop waits for the requested status. Most jobs halt within this time.
WAIT_SECONDS = 2.0

blueprint = Blueprint("classic", __name__)

_NO_STORE = refusal("The store does not answer.", examples.NO_STORE, headers=["Retry-After"])
_BROKEN = refusal("Internal error. The details are in the service's log.", examples.BROKEN)

_FORBIDDEN = "A browser sent the request for a page of another site, or the token's role does not suffice."
_NO_JOB = refusal("No job has this id.", examples.NO_JOB)


def _refusals(verb: str) -> ResponseDocs:
    """Return the error responses of a route that halts, resumes or stops a job."""
    not_allowed = f"A job that is completed cannot be asked to {verb} (it is final)."
    return {
        403: refusal(_FORBIDDEN, examples.FOREIGN),
        404: _NO_JOB,
        409: refusal("The job's status does not allow this action; the error names the allowed actions.", not_allowed),
        500: _BROKEN,
        503: _NO_STORE,
    }


@blueprint.post("/submit")
@describe(
    tag="classic",
    text="Field names are case-insensitive, as in Go. Other fields and the content type are ignored. After the answer "
    "200, the job is stored and no crash loses it.",
    body=(classic.ClassicSubmission, examples.SUBMISSIONS),
    answers={
        200: ResponseDoc(
            text="The job is stored and will run.", model=classic.ClassicAnswer, examples=examples.SUBMITTED
        ),
        400: ResponseDoc(
            text="The body, the type or an argument is wrong; the error names it.",
            model=classic.ClassicError,
            examples=examples.UNREADABLE,
        ),
        403: refusal(_FORBIDDEN, examples.FOREIGN, job_id=""),
        413: refusal("The body is larger than 1 MiB.", examples.TOO_LARGE, job_id=""),
        429: refusal(
            "Too many jobs are waiting, or the token has sent too many requests.",
            examples.QUEUE_FULL,
            job_id="",
            headers=["Retry-After"],
        ),
        500: refusal("Internal error. The details are in the service's log.", examples.BROKEN, job_id=""),
        503: refusal("The store does not answer.", examples.NO_STORE, job_id="", headers=["Retry-After"]),
    },
)
def submit() -> Response:
    """Submit a job."""
    name, args = classic.parse_classic(request.get_data())
    return _job_response(manager().submit(name, args, actor=actor()))


@blueprint.route("/halt/<job_id>", methods=["GET", "POST"])
@describe(
    tag="classic",
    text="Waits up to two seconds for the job to reach a checkpoint. If the status in the answer is Halted, the "
    "job's code has paused. A job that waits for a slot halts at once. GET and POST do the same.",
    parameters=[job_id_parameter()],
    answers={
        200: ResponseDoc(
            text="The job has halted, or halts at its next checkpoint: see its status.",
            model=classic.ClassicAnswer,
            examples=examples.HALTED,
        ),
        **_refusals("halt"),
    },
)
def halt(job_id: str) -> Response:
    """Halt a job: it pauses at its next checkpoint and can be resumed."""
    with wait_limit(WAIT_SECONDS) as seconds:
        job = manager().halt(job_id, actor=actor(), wait=seconds)
    return _job_response(job)


@blueprint.route("/resume/<job_id>", methods=["GET", "POST"])
@describe(
    tag="classic",
    text="Waits up to two seconds for the job to run. The job goes back into the queue and continues from its "
    "checkpoint, in this process or another. A failed job is tried again. GET and POST do the same.",
    parameters=[job_id_parameter()],
    answers={
        200: ResponseDoc(
            text="The job runs, or waits for a slot: see its status.",
            model=classic.ClassicAnswer,
            examples=examples.RESUMED,
        ),
        **_refusals("resume"),
    },
)
def resume(job_id: str) -> Response:
    """Resume a halted or failed job: it continues from its last checkpoint."""
    with wait_limit(WAIT_SECONDS) as seconds:
        job = manager().resume(job_id, actor=actor(), wait=seconds)
    return _job_response(job)


@blueprint.route("/stop/<job_id>", methods=["GET", "POST"])
@describe(
    tag="classic",
    text="Waits up to two seconds for the job to end and be rolled back: an Export's file is removed. A stopped job "
    "cannot be resumed. GET and POST do the same.",
    parameters=[job_id_parameter()],
    answers={
        200: ResponseDoc(
            text="The job is stopped, or being rolled back: see its status.",
            model=classic.ClassicAnswer,
            examples=examples.STOPPED,
        ),
        **_refusals("stop"),
    },
)
def stop(job_id: str) -> Response:
    """Stop a job for good and roll back its work."""
    with wait_limit(WAIT_SECONDS) as seconds:
        job = manager().stop(job_id, actor=actor(), wait=seconds)
    return _job_response(job)


@blueprint.get("/details/<job_id>")
@describe(
    tag="classic",
    text="Status, progress, checkpoint, result or error, and the details that the job type reports.",
    parameters=[job_id_parameter()],
    answers={
        200: ResponseDoc(text="The job.", model=classic.ClassicAnswer, examples=examples.SHOWN),
        404: _NO_JOB,
        500: _BROKEN,
        503: _NO_STORE,
    },
)
def details(job_id: str) -> Response:
    """Show a job."""
    return _job_response(manager().get(job_id))


@blueprint.get("/swagger/")
@blueprint.get("/swagger/index.html")
@open_to_all
def swagger() -> BaseResponse:
    """Redirect to the API docs, which the Go service had here."""
    return redirect(address_of("docs.page"))


def _job_response(job: JobRecord) -> Response:
    visible = manager()
    job_type = visible.types.get(job.type) if job.type in visible.types else None
    shown = classic.classic_answer(
        job, job_type, is_unresponsive=visible.is_unresponsive(job), is_stuck=visible.is_stuck(job)
    )
    return Response(to_json(shown), mimetype="application/json")

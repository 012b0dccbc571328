"""Halt, resume and stop one job, or all jobs that a filter selects."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request
from pydantic import BaseModel
from werkzeug.wrappers import Response

from jobmanager.auth.tokens import Role
from jobmanager.core.states import Action
from jobmanager.http import parsing, validation
from jobmanager.http.context import actor, manager, require
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import (
    ON_A_JOB,
    Decorator,
    ResponseDoc,
    ResponseDocs,
    describe,
    header_parameter,
    job_id_parameter,
)
from jobmanager.http.openapi.responses import (
    BROKEN,
    FOREIGN,
    INVALID,
    NO_JOB,
    NO_STORE,
    NOT_ALLOWED,
    OUTDATED,
    TOO_LARGE,
    UNREADABLE,
)
from jobmanager.http.preferences import expected_versions
from jobmanager.http.responses import render, render_action
from jobmanager.http.schemas import request_models, response_models
from jobmanager.http.waiting import preferred_wait_limit

blueprint = Blueprint("control", __name__, url_prefix="/jobs")

_ERRORS: ResponseDocs = {400: UNREADABLE, 403: FOREIGN, 413: TOO_LARGE, 422: INVALID, 500: BROKEN, 503: NO_STORE}


def _describe_one(action: Action, reached: str, under_way: str, body: type[BaseModel], text: str) -> Decorator:
    """Document a route that halts, resumes or stops one job."""
    shown = examples.JOBS_ASKED[action]
    return describe(
        name=f"{action}_job",
        tag="control",
        text=f"{text} The body is optional.",
        parameters=[
            job_id_parameter(),
            header_parameter(
                "Prefer",
                "Wait up to this many seconds, 30 at most, for the action to take effect (RFC 7240). Ignored if many "
                "requests wait already.",
                shown="wait=10",
            ),
            header_parameter(
                "If-Match",
                "The ETag of the job that the client has seen. If the job has changed since, other than in progress, "
                "it is left as it is, and the answer is 412.",
                shown='"5ea1c0ffee5ea1c0.12"',
            ),
        ],
        body=(body, examples.REASONS),
        is_body_required=False,
        answers={
            200: ResponseDoc(
                text=reached, model=response_models.JobShown, examples=shown, headers=["ETag"], leads_to=ON_A_JOB
            ),
            202: ResponseDoc(
                text=under_way, model=response_models.JobShown, examples=shown, headers=["ETag"], leads_to=ON_A_JOB
            ),
            404: NO_JOB,
            409: NOT_ALLOWED,
            412: OUTDATED,
            **_ERRORS,
        },
    )


@blueprint.post("/<job:job_id>/halt")
@_describe_one(
    Action.HALT,
    "The job has halted.",
    "The job halts at its next checkpoint.",
    request_models.Control,
    "The job pauses at its next checkpoint and can be resumed. Another halt changes nothing and succeeds.",
)
def halt(job_id: str) -> Response:
    """Halt a job."""
    body = _parse_body(request_models.Control)
    versions = expected_versions()
    with preferred_wait_limit() as wait:
        job = manager().halt(job_id, actor=actor(), reason=body.reason, wait=wait, versions=versions)
    return render_action(Action.HALT, job, wait=wait)


@blueprint.post("/<job:job_id>/resume")
@_describe_one(
    Action.RESUME,
    "The job runs.",
    "The job waits for a slot.",
    request_models.Control,
    "A halted job continues exactly where it paused, a failed job from its last checkpoint.",
)
def resume(job_id: str) -> Response:
    """Resume a job."""
    body = _parse_body(request_models.Control)
    versions = expected_versions()
    with preferred_wait_limit() as wait:
        job = manager().resume(job_id, actor=actor(), reason=body.reason, wait=wait, versions=versions)
    return render_action(Action.RESUME, job, wait=wait)


@blueprint.post("/<job:job_id>/stop")
@_describe_one(
    Action.STOP,
    "The job is stopped and rolled back.",
    "The job is being stopped, or rolled back.",
    request_models.StopControl,
    "The job ends for good, and its work is rolled back. `force` interrupts Python code that does not reach a "
    "checkpoint, and abandons the thread if even that does not end it. `force` needs the role admin.",
)
def stop(job_id: str) -> Response:
    """Stop a job for good."""
    body = _parse_body(request_models.StopControl)
    _check_force(body)
    versions = expected_versions()
    with preferred_wait_limit() as wait:
        job = manager().stop(job_id, actor=actor(), reason=body.reason, wait=wait, versions=versions, force=body.force)
    return render_action(Action.STOP, job, wait=wait)


def _describe_many(name: str, text: str, body: type[BaseModel], shown: dict[str, Any]) -> Decorator:
    """Document a route that halts, resumes or stops many jobs."""
    answer = ResponseDoc(
        text="Which jobs changed, and which did not and why.", model=response_models.SweepShown, examples=shown
    )
    return describe(
        name=name,
        tag="control",
        text=f"{text} The filter is that of the list of jobs; `all` selects every job. Does not wait for the jobs.",
        body=(body, examples.FILTERS),
        answers={200: answer, **_ERRORS},
    )


@blueprint.post("/halt")
@_describe_many("halt_jobs", "Halts each job that the filter selects.", request_models.HaltMany, examples.SWEEPS)
def halt_many() -> Response:
    """Halt many jobs."""
    body = _parse_body(request_models.HaltMany)
    return render(response_models.show_sweep(manager().halt_all(body.chosen(), actor=actor(), reason=body.reason)))


@blueprint.post("/resume")
@_describe_many(
    "resume_jobs",
    "Resumes each job that the filter selects. `spread_seconds` lets them start one after the other, so that a "
    "thousand jobs do not overload a database that has just recovered.",
    request_models.ResumeMany,
    examples.SWEEPS,
)
def resume_many() -> Response:
    """Resume many jobs."""
    body = _parse_body(request_models.ResumeMany)
    sweep = manager().resume_all(body.chosen(), actor=actor(), reason=body.reason, spread_seconds=body.spread_seconds)
    return render(response_models.show_sweep(sweep))


@blueprint.post("/stop")
@_describe_many(
    "stop_jobs",
    "Stops each job that the filter selects, and rolls back its work.",
    request_models.StopMany,
    examples.SWEEPS,
)
def stop_many() -> Response:
    """Stop many jobs for good."""
    body = _parse_body(request_models.StopMany)
    _check_force(body)
    sweep = manager().stop_all(body.chosen(), actor=actor(), reason=body.reason, force=body.force)
    return render(response_models.show_sweep(sweep))


def _check_force(body: request_models.StopControl) -> None:
    """Raise Forbidden if the body has `force` and the token's role is not admin.

    Only an admin may stop by force, because such a stop can cost the process a thread.
    """
    if body.force:
        require(Role.ADMIN)


def _parse_body(model: type[validation.Model]) -> validation.Model:
    """Return the body as a model. An empty body stands for all defaults. Raises InvalidRequest."""
    body = request.get_data()
    return validation.validated(model, parsing.parse_object(body, examples.CONTROL) if body.strip() else {})

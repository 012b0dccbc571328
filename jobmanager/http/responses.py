"""Render responses as JSON."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response
from pydantic import BaseModel

from jobmanager.core.states import UNDER_WAY, Action
from jobmanager.core.values import JobRecord
from jobmanager.http.context import manager
from jobmanager.http.schemas import response_models
from jobmanager.http.waiting import MOMENT_SECONDS


def render(model: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a JSON response with the model."""
    return Response(model.model_dump_json(), status, mimetype="application/json")


def render_job(job: JobRecord, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a response that shows the job, with its ETag."""
    shown = response_models.show_job(job, manager())
    response = render(shown, status)
    response.set_etag(response_models.etag_of(shown, job.version()))
    return response


def render_action(action: Action, job: JobRecord, *, wait: float) -> Response:
    """Return the response to a halt, resume or stop: 202 if the action is still under way, else 200.

    *wait* is how long the request was allowed to wait for the action, in seconds. The header Preference-Applied states
    a wait that is longer than MOMENT_SECONDS.
    """
    response = render_job(job, HTTPStatus.ACCEPTED if job.status in UNDER_WAY[action] else HTTPStatus.OK)
    if wait > MOMENT_SECONDS:
        response.headers["Preference-Applied"] = f"wait={wait:g}"
    return response

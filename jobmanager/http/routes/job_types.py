"""The job types that can be submitted."""

from __future__ import annotations

from flask import Blueprint
from werkzeug.wrappers import Response

from jobmanager.errors import NotFound
from jobmanager.http.context import manager
from jobmanager.http.openapi import examples
from jobmanager.http.openapi.operations import ResponseDoc, describe, problem
from jobmanager.http.responses import render
from jobmanager.http.schemas import response_models

blueprint = Blueprint("job_types", __name__, url_prefix="/job-types")

_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The name of the job type.",
    "schema": {"type": "string"},
    "example": "Simple",
}


@blueprint.get("")
@describe(
    name="list_job_types",
    tag="job types",
    text="Names, descriptions, and the JSON Schema of the arguments, enough to build a form.",
    answers={
        200: ResponseDoc(text="The job types.", model=response_models.Types, examples=examples.TYPES),
    },
)
def index() -> Response:
    """List the job types."""
    types = manager().types
    return render(response_models.Types(job_types=[response_models.show_type(types.get(name)) for name in types]))


@blueprint.get("/<name>")
@describe(
    name="get_job_type",
    tag="job types",
    text="The description of the job type, and the JSON Schema of its arguments.",
    parameters=[_NAME],
    answers={
        200: ResponseDoc(text="The job type.", model=response_models.TypeShown, examples=examples.TYPE),
        404: problem(NotFound, "There is no such job type.", examples.NO_TYPE),
    },
)
def show(name: str) -> Response:
    """Show a job type."""
    types = manager().types
    if name not in types:
        raise NotFound(f"There is no job type {name!r}.")
    return render(response_models.show_type(types.get(name)))

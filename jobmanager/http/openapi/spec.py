"""Build the OpenAPI 3.1 description of all routes and schemas with flasgger, from the descriptions at the routes.

Serves nothing: see routes/docs.py.
"""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flasgger import Swagger
from flask import current_app
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from jobmanager.http.openapi.operations import REFERENCE
from jobmanager.http.schemas import classic, problems, request_models, response_models
from jobmanager.job import Job
from jobmanager.registry import Registry
from jobmanager.registry import describe as description_of

_MODELS: tuple[type[BaseModel], ...] = (
    classic.ClassicSubmission,
    classic.ClassicAnswer,
    classic.ClassicError,
    problems.Problem,
    problems.Health,
    request_models.NewJob,
    request_models.Batch,
    response_models.Ids,
    response_models.JobShown,
    response_models.JobList,
    response_models.Changes,
    response_models.ChangeShown,
    response_models.ProgressTold,
    response_models.Lines,
    response_models.Types,
    response_models.TypeShown,
    response_models.Datasets,
    request_models.Control,
    request_models.StopControl,
    request_models.HaltMany,
    request_models.ResumeMany,
    request_models.StopMany,
    response_models.SweepShown,
)

_INTRODUCTION = """\
Long jobs that people can **halt** (reversible, everything is kept), **resume** (exactly where they paused) and **stop**
(final, rolled back). Other systems call these pause, resume and cancel.

| status | meaning |
|---|---|
| Submitted | the job waits for a slot, or for its next try |
| Running | the job's code runs |
| Halting | a halt was requested; the job has not reached a checkpoint yet |
| Halted | the job has paused; everything is kept, and it can be resumed |
| Stopping | a stop was requested, or the job's work is being rolled back |
| Stopped | the job has ended and is rolled back |
| Completed | the job is done |
| Failed | the job raised an error, or its process crashed too often. Resume it to try again from its last checkpoint, \
or stop it |

Once a submission is answered with 200 or 202, the job is stored: neither a crash nor a power cut loses it. A request
for a status that the job already has (a halt of a halted job) changes nothing and succeeds. Times are RFC 3339 in UTC.
Bodies may be up to 1 MiB long, unless a route allows more.

If the operator has created tokens, each request needs one: `Authorization: Bearer TOKEN`. **Authorize** makes this page
send a token until you leave the page, and shows the job types that the token may see. A viewer may read; an operator
may also submit, halt, resume and stop; an admin may also stop by force.

Requests that a browser sends for a page of another site are refused with 403, and so are requests from other machines
if there are no tokens. Requests with a Host that the service does not answer for are refused with 421."""


def build_specification(name: str, types: Registry) -> dict[str, Any]:
    """Return flasgger's description of the routes that are registered under *name*; their paths have no prefix."""
    # Do not use flasgger's views: they need an application at the root, and their page loads files from other hosts.
    swagger = Swagger(config=_CONFIG | {"specs": [_spec_of(name)]}, template=_template(types))
    swagger.app = current_app
    found: dict[str, Any] = swagger.get_apispecs(_SPEC)
    (rule,) = current_app.url_map.iter_rules(f"{name}.docs.page")
    prefix = rule.rule.removesuffix("/apidocs/")
    return found | {"paths": {path.removeprefix(prefix): described for path, described in found["paths"].items()}}


_SPEC = "apispec"
_CONFIG: dict[str, Any] = {"openapi": "3.1.0", "headers": []}


def _spec_of(name: str) -> dict[str, Any]:
    return {"endpoint": _SPEC, "rule_filter": lambda rule: rule.endpoint.startswith(f"{name}.")}


_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token that `jobmanager token add` has printed. Needed only if the operator has created tokens.",
}


def _template(types: Registry) -> dict[str, Any]:
    return {
        "info": {
            "title": "Job manager",
            "version": _version(),
            "description": _INTRODUCTION,
            "license": {"name": "MIT"},
        },
        "tags": [
            {"name": "classic", "description": "Submit and control jobs, with the routes of the Go service."},
            {"name": "jobs", "description": "Submit, list and show jobs, and download their files."},
            {"name": "control", "description": "Halt, resume and stop jobs, one or many."},
            {"name": "events", "description": "Follow jobs live (server-sent events)."},
            {"name": "job types", "description": "The job types, and the datasets that can be exported."},
            {"name": "health", "description": "Health checks and metrics."},
        ],
        "components": {"schemas": _schemas(types), "securitySchemes": {"token": _BEARER}},
        # Two alternatives, with and without a token: no token is needed if the service has no tokens.
        "security": [{"token": []}, {}],
    }


def _schemas(types: Registry) -> dict[str, Any]:
    """Return the schemas of all bodies, and of the arguments of these job types."""
    _, definitions = models_json_schema([(model, "validation") for model in _MODELS], ref_template=REFERENCE)
    schemas: dict[str, Any] = definitions["$defs"]
    new_job_fields = schemas["NewJob"]["properties"]
    for name in types:
        schemas |= _schemas_of_type(name, types.get(name), new_job_fields)
    if names := list(types):  # else the generic schemas stay: any type, any arguments
        for model, suffix in (("ClassicSubmission", "Submission"), ("NewJob", "NewJob")):
            choices = [{"$ref": REFERENCE.format(model=f"{name}{suffix}")} for name in names]
            schemas[model] = {"description": schemas[model]["description"], "oneOf": choices}
    for schema in schemas.values():
        _tidy(schema)
    return schemas


def _schemas_of_type(name: str, job_type: type[Job], new_job_fields: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of a job type's arguments, and of its submissions by the classic and the REST routes."""
    schema = job_type.Args.model_json_schema(ref_template=REFERENCE)
    schemas: dict[str, Any] = schema.pop("$defs", {})
    schemas[f"{name}Args"] = schema | {"title": f"{name}Args", "description": _described(job_type)}
    is_needed = bool(schema.get("required"))
    args: dict[str, Any] = {"$ref": REFERENCE.format(model=f"{name}Args")}
    classic_fields = {
        "Type": {"type": "string", "const": name},
        "args": args if is_needed else {"anyOf": [args, {"type": "null"}]},
    }
    rest_fields = new_job_fields | {"type": {"type": "string", "const": name}, "args": args}
    for model, fields in ((f"{name}Submission", classic_fields), (f"{name}NewJob", rest_fields)):
        schemas[model] = _submission(model, job_type, fields, is_needed=is_needed)
    return schemas


def _submission(model: str, job_type: type[Job], fields: dict[str, Any], *, is_needed: bool) -> dict[str, Any]:
    """Return the schema of a submission of one job type. The first of *fields* holds the name of the type."""
    named, *_ = fields
    return {
        "title": model,
        "description": description_of(job_type),
        "type": "object",
        "properties": fields,
        "required": [named, "args"] if is_needed else [named],
    }


def _described(job_type: type[Job]) -> str:
    """Return the docstring of the type's arguments, or else the type's description."""
    own = job_type.Args.__dict__.get("__doc__")
    return inspect.cleandoc(own) if own else description_of(job_type)


def _tidy(schema: dict[str, Any]) -> None:
    """Remove titles that only repeat a property's name: Swagger UI would show them instead of the name."""
    for name, described in schema.get("properties", {}).items():
        if described.get("title", "").replace(" ", "").casefold() == name.replace("_", "").casefold():
            del described["title"]


def _version() -> str:
    try:
        return version("jobmanager")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"

"""The API docs: OpenAPI 3.1 by flasgger at /apispec.json, Swagger UI 5 at /apidocs/, all served by this process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import flask_swagger_ui
from flasgger import Swagger, swag_from
from flask import current_app, jsonify, redirect, render_template
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.wrappers import Response

from jobmanager.errors import JobManagerError, RateLimited, TokensUnavailable, Unauthenticated
from jobmanager.http.context import (
    address_of,
    current_mount,
    is_open,
    manager,
    open_to_all,
    open_with_optional_token,
    target,
    token,
)
from jobmanager.http.errors import KINDS
from jobmanager.http.openapi import examples
from jobmanager.http.request_ids import Files
from jobmanager.http.schemas import classic, rest
from jobmanager.job import Job
from jobmanager.registry import Registry
from jobmanager.registry import describe as description_of

View = TypeVar("View", bound=Callable[..., Any])


class Decorator(Protocol):
    """A decorator that attaches documentation to a view."""

    def __call__(self, view: View, /) -> View:
        """Document the view and return it."""


Example = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseDoc:
    """The documentation of one response of a route."""

    #: its description
    text: str
    #: its body: a model, bytes for a file, str for text, or None if it has no body
    model: type | None = None
    #: the media type of a text body
    media_type: str = "text/event-stream"
    #: example bodies, by name
    examples: Mapping[str, Example] = field(default_factory=dict)
    #: the names of its headers, see _HEADERS
    headers: Sequence[str] = ()
    #: operations on the job in its body, for links
    leads_to: Sequence[str] = ()


ResponseDocs = dict[int, ResponseDoc]

#: The documentation of response headers.
_HEADERS: dict[str, dict[str, Any]] = {
    "Retry-After": {
        "description": "How many seconds to wait before trying again.",
        "schema": {"type": "integer"},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "How to authenticate (RFC 6750).",
        "schema": {"type": "string"},
        "example": 'Bearer realm="jobmanager"',
    },
    "ETag": {
        "description": "Identifies this version of the content, for conditional requests.",
        "schema": {"type": "string"},
        "example": '"9f86d081884c7d65"',
    },
    "Location": {
        "description": "The address of the job.",
        "schema": {"type": "string"},
        "example": f"/jobs/{classic.JOB_ID}",
    },
    "Content-Disposition": {
        "description": "The name to save the file under.",
        "schema": {"type": "string"},
        "example": "attachment; filename=responses_2024-01-01_2024-03-31.csv",
    },
    "Content-Range": {
        "description": "Which part of the file this is, and how long the file is.",
        "schema": {"type": "string"},
        "example": "bytes 0-99/7300412",
    },
}

#: The operations that a response with a job links to.
ON_A_JOB = ("get_job", "get_changes", "get_log", "download", "halt_job", "resume_job", "stop_job")

_REF = "#/components/schemas/{model}"

_MODELS: tuple[type[BaseModel], ...] = (
    classic.ClassicSubmission,
    classic.ClassicAnswer,
    classic.ClassicError,
    classic.Problem,
    classic.Health,
    rest.NewJob,
    rest.Batch,
    rest.Ids,
    rest.JobShown,
    rest.JobList,
    rest.Changes,
    rest.ChangeShown,
    rest.ProgressTold,
    rest.Lines,
    rest.Types,
    rest.TypeShown,
    rest.Datasets,
    rest.Control,
    rest.StopControl,
    rest.HaltMany,
    rest.ResumeMany,
    rest.StopMany,
    rest.SweepShown,
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


def describe(
    *,
    tag: str,
    answers: ResponseDocs,
    text: str = "",
    parameters: list[dict[str, Any]] | None = None,
    body: tuple[type[BaseModel], Mapping[str, Example]] | None = None,
    is_body_required: bool = True,
    name: str = "",
) -> Decorator:
    """Attach OpenAPI documentation to a view, whose docstring is the summary.

    *text* is the description; *name* is the operationId, for views with a single method. Adds the 401, 429 and 503
    responses to a view that needs a token.
    """
    specification: dict[str, Any] = {"tags": [tag], "description": text, "parameters": parameters or []}
    if body is not None:
        model, shown = body
        content = {"schema": _reference(model), "examples": dict(shown)}
        specification["requestBody"] = {"required": is_body_required, "content": {"application/json": content}}
    if name:
        specification["operationId"] = name

    def decorate(view: View) -> View:
        token_errors = (
            {}
            if is_open(view)
            else _token_errors(is_classic=tag == "classic", job_id=classic.JOB_ID if parameters else "")
        )
        all_answers = token_errors | answers
        specification["responses"] = {
            str(status): _openapi_response(all_answers[status]) for status in sorted(all_answers)
        }
        if is_open(view):
            specification["security"] = []
        documented: View = swag_from(specification)(view)
        return documented

    return decorate


def _token_errors(*, is_classic: bool, job_id: str) -> ResponseDocs:
    """Return the error responses that a view gives only because it needs a token."""
    described: list[tuple[type[JobManagerError], str, str, list[str]]] = [
        (Unauthenticated, "The token is missing or not valid.", examples.NO_TOKEN, ["WWW-Authenticate"]),
        (RateLimited, "The token has sent too many requests.", examples.RATE_LIMITED, ["Retry-After"]),
        (TokensUnavailable, "The service cannot read its tokens.", examples.TOKENS_AWAY, ["Retry-After"]),
    ]
    return {
        int(KINDS[kind].status): refusal(text, detail, job_id=job_id, headers=headers)
        if is_classic
        else problem(kind, text, detail, headers=headers)
        for kind, text, detail, headers in described
    }


def refusal(text: str, error: str, *, job_id: str = classic.JOB_ID, headers: Sequence[str] = ()) -> ResponseDoc:
    """Return an error response of the classic routes."""
    example = {"error": examples.classic_error(error, job_id=job_id)}
    return ResponseDoc(text=text, model=classic.ClassicError, examples=example, headers=headers)


def problem(
    kind: HTTPStatus | type[JobManagerError], text: str, detail: str, *, headers: Sequence[str] = (), **more: Any
) -> ResponseDoc:
    """Return an error response (RFC 9457), whose type is that of an error class, or about:blank for a status."""
    if isinstance(kind, HTTPStatus):
        shown = examples.problem(kind, detail)
    else:
        shown = examples.problem(KINDS[kind].status, detail, type=KINDS[kind].uri(), **more)
    return ResponseDoc(text=text, model=classic.Problem, examples={"problem": shown}, headers=headers)


def job_id_parameter() -> dict[str, Any]:
    """Return the OpenAPI parameter for the id of a job."""
    return {
        "name": "job_id",
        "in": "path",
        "required": True,
        "description": "The id of the job, from the answer to its submission.",
        "schema": {"type": "string"},
        "example": classic.JOB_ID,
    }


def header_parameter(name: str, text: str, *, shown: str) -> dict[str, Any]:
    """Return the OpenAPI parameter for a request header; *shown* is an example value."""
    return {
        "name": name,
        "in": "header",
        "description": f"{text} Example: `{shown}`.",
        "schema": {"type": "string"},
    }


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the OpenAPI parameters for a query of this model."""
    schema = model.model_json_schema(ref_template=_REF)
    return [
        {"name": name, "in": "query", "description": described.pop("description"), "schema": _without_null(described)}
        for name, described in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter without null: a parameter is left out instead."""
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    kept = {name: value for name, value in schema.items() if name != "title" and value is not None}
    return kept | (kinds[0] if kinds else {})


blueprint = Files(
    "docs",
    __name__,
    static_folder=Path(flask_swagger_ui.__file__).parent / "dist",
    static_url_path="/swagger-ui",
)


@blueprint.get("/apidocs/")
@open_to_all
def page() -> str:
    """Show Swagger UI."""
    return render_template("jobmanager/apidocs.html", script=address_of("static", filename="apidocs.js"))


@blueprint.get("/apidocs/index.html")
@open_to_all
def page_as_file() -> Response:
    """Redirect to the page."""
    return redirect(address_of("docs.page"))


@blueprint.get("/apispec.json")
@open_with_optional_token
def specification() -> Response:
    """Return the OpenAPI description, with the prefix of the request and the job types that the token may see."""
    mount, name, _ = target()
    types = _visible_types()
    key = (name, frozenset(types))
    if key not in mount.specifications:
        mount.specifications[key] = _specification(name, types)
    prefix = address_of("docs.page").removesuffix("/apidocs/")
    return jsonify(mount.specifications[key] | {"servers": [{"url": prefix or "/"}]})


def _visible_types() -> Registry:
    """Return the job types that the request may see: none if tokens exist and the request has none."""
    is_anonymous = current_mount().tokens is not None and token() is None
    return Registry().only(()) if is_anonymous else manager().types


def _specification(name: str, types: Registry) -> dict[str, Any]:
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
        # Either of the two: no token is needed if the operator has created none.
        "security": [{"token": []}, {}],
    }


def _schemas(types: Registry) -> dict[str, Any]:
    """Return the schemas of all bodies, and of the arguments of these job types."""
    _, definitions = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    schemas: dict[str, Any] = definitions["$defs"]
    new_job = schemas["NewJob"]["properties"]
    choices: dict[str, list[dict[str, str]]] = {"ClassicSubmission": [], "NewJob": []}
    for name in types:
        job_type = types.get(name)
        schema = job_type.Args.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[f"{name}Args"] = schema | {"title": f"{name}Args", "description": _described(job_type)}
        is_needed = bool(schema.get("required"))
        args: dict[str, Any] = {"$ref": _REF.format(model=f"{name}Args")}
        classic = {
            "Type": {"type": "string", "const": name},
            "args": args if is_needed else {"anyOf": [args, {"type": "null"}]},
        }
        rest = new_job | {"type": {"type": "string", "const": name}, "args": args}
        for kind, fields in (("ClassicSubmission", classic), ("NewJob", rest)):
            model = f"{name}{kind.removeprefix('Classic')}"
            schemas[model] = _submission(model, job_type, fields, is_needed=is_needed)
            choices[kind].append({"$ref": _REF.format(model=model)})
    for model, kinds in choices.items():
        if not kinds:
            continue  # the generic schema stays: any type, any arguments
        schemas[model] = {"description": schemas[model]["description"], "oneOf": kinds}
    for schema in schemas.values():
        _tidy(schema)
    return schemas


def _submission(model: str, job_type: type[Job], fields: dict[str, Any], *, is_needed: bool) -> dict[str, Any]:
    """Return the schema of a submission of one job type; the first of *fields* names the type."""
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


def _openapi_response(answer: ResponseDoc) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.text}
    if answer.headers:
        shown["headers"] = {name: _HEADERS[name] for name in answer.headers}
    if answer.leads_to:
        shown["links"] = {
            name: {"operationId": name, "parameters": {"job_id": "$response.body#/id"}} for name in answer.leads_to
        }
    if answer.model is bytes:
        shown["content"] = {"*/*": {"schema": {"type": "string", "format": "binary"}} | _examples(answer.examples)}
    elif answer.model is str:
        shown["content"] = {answer.media_type: {"schema": {"type": "string"}} | _examples(answer.examples)}
    elif answer.model is not None:
        media_type = "application/problem+json" if answer.model is classic.Problem else "application/json"
        shown["content"] = {media_type: {"schema": _reference(answer.model)} | _examples(answer.examples)}
    return shown


def _examples(shown: Mapping[str, Example]) -> dict[str, Any]:
    """Return a single example as `example`: for `examples`, Swagger UI would show a menu with one entry."""
    if len(shown) == 1:
        (only,) = shown.values()
        return {"example": only["value"]}
    return {"examples": dict(shown)}


def _reference(model: type) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _version() -> str:
    try:
        return version("jobmanager")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"

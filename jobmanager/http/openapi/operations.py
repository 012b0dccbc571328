"""The OpenAPI description of one route: a decorator for its view, and its parameters and responses.

The decorator does not change how the view works. spec.py collects the descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

from flasgger import swag_from
from pydantic import BaseModel

from jobmanager.errors import JobManagerError, RateLimited, TokensUnavailable, Unauthenticated
from jobmanager.http.context import is_open
from jobmanager.http.errors import KINDS
from jobmanager.http.openapi import examples
from jobmanager.http.schemas import classic, problems

View = TypeVar("View", bound=Callable[..., Any])


class Decorator(Protocol):
    """A decorator that attaches documentation to a view."""

    def __call__(self, view: View, /) -> View:
        """Document the view and return it."""


Example = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseDoc:
    """The documentation of one response of a route."""

    #: description of the response
    text: str
    #: type of the body: a model, bytes for a file, str for text, or None if there is no body
    model: type | None = None
    #: the media type of a text body
    media_type: str = "text/event-stream"
    #: example bodies, by name
    examples: Mapping[str, Example] = field(default_factory=dict)
    #: names of the headers, see _HEADERS
    headers: Sequence[str] = ()
    #: names of the operations to link to, for the job in the body
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

#: The `$ref` to the schema of a model.
REFERENCE = "#/components/schemas/{model}"


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
    """Return a decorator that attaches OpenAPI documentation to a view. The view's docstring is the summary.

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
    """Return an error response (RFC 9457).

    *kind* is an error class that has a problem type, or a status, whose problem type is about:blank.
    """
    if isinstance(kind, HTTPStatus):
        shown = examples.problem(kind, detail)
    else:
        shown = examples.problem(KINDS[kind].status, detail, type=KINDS[kind].uri(), **more)
    return ResponseDoc(text=text, model=problems.Problem, examples={"problem": shown}, headers=headers)


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
    schema = model.model_json_schema(ref_template=REFERENCE)
    return [
        {"name": name, "in": "query", "description": described.pop("description"), "schema": _without_null(described)}
        for name, described in schema["properties"].items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter without null: a query cannot send null, but may leave out the parameter."""
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    kept = {name: value for name, value in schema.items() if name != "title" and value is not None}
    return kept | (kinds[0] if kinds else {})


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
        media_type = "application/problem+json" if answer.model is problems.Problem else "application/json"
        shown["content"] = {media_type: {"schema": _reference(answer.model)} | _examples(answer.examples)}
    return shown


def _examples(shown: Mapping[str, Example]) -> dict[str, Any]:
    """Return the examples for OpenAPI. A single one is an `example`, because Swagger UI shows a menu for `examples`."""
    if len(shown) == 1:
        (only,) = shown.values()
        return {"example": only["value"]}
    return {"examples": dict(shown)}


def _reference(model: type) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}

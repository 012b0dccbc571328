"""The API docs: OpenAPI 3.1 by flasgger at /apispec.json, Swagger UI 5 at /apidocs/, all of it served from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import flask_swagger_ui
from flasgger import Swagger, swag_from
from flask import Blueprint, Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from jobmanager.http import wire
from jobmanager.http.door import EXTENSION
from jobmanager.registry import Registry
from jobmanager.registry import describe as description_of

View = TypeVar("View", bound=Callable[..., Any])

#: What an answer carries: a model, the bytes of a file, or nothing.
Answers = dict[int, tuple[type | None, str]]

_REF = "#/components/schemas/{model}"

_MODELS: tuple[type[BaseModel], ...] = (
    wire.ClassicSubmission,
    wire.ClassicAnswer,
    wire.ClassicError,
    wire.Problem,
    wire.Health,
)

SUBMIT_EXAMPLES = {
    "Simple": {"summary": "A job that works for a minute", "value": {"Type": "Simple", "args": {"steps": 60}}},
    "Export": {
        "summary": "Rows of a dataset to a CSV file",
        "value": {"Type": "Export", "args": {"from_date": "2024-01-01", "to_date": "2024-03-31", "format": "csv"}},
    },
    "Go layout": {
        "summary": "Dates as the Go service took them",
        "value": {"Type": "Export", "args": {"from_date": "2024-Jan-01", "to_date": "2024-Mar-09"}},
    },
}

_INTRODUCTION = """Long jobs that people can **halt** (reversible, everything kept), **resume** (exactly where they
stood) and **stop** (final, rolled back). Elsewhere these are called pause, resume and cancel."""


def describe(
    *,
    tag: str,
    answers: Answers,
    parameters: list[dict[str, Any]] | None = None,
    body: tuple[type[BaseModel], Mapping[str, Any]] | None = None,
) -> Callable[[View], View]:
    """Document a view; its docstring is the summary."""
    specification: dict[str, Any] = {
        "tags": [tag],
        "parameters": parameters or [],
        "responses": {str(status): _answer(kind, text) for status, (kind, text) in answers.items()},
    }
    if body is not None:
        model, examples = body
        content = {"schema": _reference(model), "examples": dict(examples)}
        specification["requestBody"] = {"required": True, "content": {"application/json": content}}
    decorate: Callable[[View], View] = swag_from(specification)
    return decorate


def job_id_parameter() -> dict[str, Any]:
    """Return the description of the parameter that names a job."""
    return {
        "name": "job_id",
        "in": "path",
        "required": True,
        "description": "The id that the submission was answered with.",
        "schema": {"type": "string"},
        "example": wire.JOB_ID,
    }


def register(app: Flask) -> None:
    """Serve the docs of the application's routes."""
    assets = Path(flask_swagger_ui.__file__).parent / "dist"
    app.register_blueprint(Blueprint("swagger_ui", __name__, static_folder=assets, static_url_path="/swagger-ui"))
    types: Registry = app.extensions[EXTENSION].types
    Swagger(app, config=_CONFIG, template=_template(types))


#: Settings of flasgger. Its own page asks for web fonts and an older Swagger UI: templates/flasgger/index.html, which
#: takes the place of that page, loads none of them.
_CONFIG: dict[str, Any] = {
    "openapi": "3.1.0",
    "headers": [],
    "specs": [{"endpoint": "apispec", "route": "/apispec.json"}],
    "static_url_path": "/flasgger_static",
    "specs_route": "/apidocs/",
    "title": "Job manager",
    "favicon": "/swagger-ui/favicon-32x32.png",
    "swagger_ui_bundle_js": "/swagger-ui/swagger-ui-bundle.js",
    "swagger_ui_standalone_preset_js": "/swagger-ui/swagger-ui-standalone-preset.js",
    "swagger_ui_css": "/swagger-ui/swagger-ui.css",
    "jquery_js": "",
}


def _template(types: Registry) -> dict[str, Any]:
    return {
        "info": {"title": "Job manager", "version": _version(), "description": _INTRODUCTION},
        "tags": [
            {"name": "classic", "description": "Submit and steer jobs."},
            {"name": "jobs", "description": "What jobs made."},
            {"name": "health", "description": "Whether the service works."},
        ],
        "components": {"schemas": _schemas(types)},
    }


def _schemas(types: Registry) -> dict[str, Any]:
    """Return the schemas of all bodies, and of the arguments of every job type."""
    _, definitions = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    schemas: dict[str, Any] = definitions["$defs"]
    names = []
    for name in types:
        job_type = types.get(name)
        schema = job_type.Args.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schema |= {"title": f"Arguments of {name}", "description": description_of(job_type)}
        names.append(f"{name}Args")
        schemas[names[-1]] = schema
    choice = [{"$ref": _REF.format(model=name)} for name in names]
    schemas["ClassicSubmission"]["properties"]["args"] = {
        "description": "The arguments of the job type; missing or null for none.",
        "anyOf": [*choice, {"type": "null"}],
    }
    return schemas


def _answer(kind: type | None, text: str) -> dict[str, Any]:
    if kind is None:
        return {"description": text}
    if kind is bytes:
        return {"description": text, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    media_type = "application/problem+json" if kind is wire.Problem else "application/json"
    return {"description": text, "content": {media_type: {"schema": _reference(kind)}}}


def _reference(model: type) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _version() -> str:
    try:
        return version("jobmanager")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"

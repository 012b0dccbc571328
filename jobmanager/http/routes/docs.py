"""The API docs: the OpenAPI description at /apispec.json, and Swagger UI 5 at /apidocs/, all served by this process."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import jsonify, redirect, render_template
from werkzeug.wrappers import Response

from jobmanager.http.context import (
    address_of,
    current_mount,
    manager,
    open_to_all,
    open_with_optional_token,
    target,
    token,
)
from jobmanager.http.openapi.spec import build_specification
from jobmanager.http.ranges import FilesBlueprint
from jobmanager.registry import Registry

blueprint = FilesBlueprint(
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
    """Redirect to Swagger UI."""
    return redirect(address_of("docs.page"))


@blueprint.get("/apispec.json")
@open_with_optional_token
def specification() -> Response:
    """Return the OpenAPI description, with the prefix of the request and the job types that the token may see."""
    mount, name, _ = target()
    types = _visible_types()
    key = (name, frozenset(types))
    if key not in mount.specifications:
        mount.specifications[key] = build_specification(name, types)
    prefix = address_of("docs.page").removesuffix("/apidocs/")
    return jsonify(mount.specifications[key] | {"servers": [{"url": prefix or "/"}]})


def _visible_types() -> Registry:
    """Return the job types that the request may see.

    If the service has tokens, a request without a token sees no job types.
    """
    is_anonymous = current_mount().tokens is not None and token() is None
    return Registry().only(()) if is_anonymous else manager().types

"""The one map from what went wrong to what HTTP says about it.

A message of a JobManagerError is written for the client; of anything else the client learns only that it happened.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from jobmanager.errors import (
    Conflict,
    InvalidRequest,
    JobManagerError,
    NotAllowed,
    NotFound,
    QueueFull,
    StoreUnavailable,
)
from jobmanager.http.guard import MAX_BODY_BYTES

_STATUSES: dict[type[JobManagerError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    NotFound: HTTPStatus.NOT_FOUND,
    NotAllowed: HTTPStatus.CONFLICT,
    Conflict: HTTPStatus.UNPROCESSABLE_ENTITY,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

_log = logging.getLogger(__name__)


def register(app: Flask) -> None:
    """Have the application answer every error as application/problem+json (RFC 9457), or as the classic routes do."""
    app.register_error_handler(Exception, _answer)


def status_of(error: Exception) -> HTTPStatus:
    """Return the status that stands for the error."""
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _answer(error: Exception) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        status, text = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {MAX_BODY_BYTES} bytes."
    elif isinstance(error, HTTPException):
        status, text = HTTPStatus(error.code or 500), error.description or HTTPStatus(error.code or 500).description
    elif isinstance(error, JobManagerError):
        status, text = status_of(error), str(error)
    else:
        _log.exception("%s %s failed.", request.method, request.path)
        status, text = HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; it was logged."
    response = jsonify(_classic(text) if request.blueprint == "classic" else _problem(error, status, text))
    response.status_code = status
    if request.blueprint != "classic":
        response.mimetype = "application/problem+json"
    _add_headers(response, error)
    return response


def _classic(text: str) -> dict[str, Any]:
    return {"jobID": (request.view_args or {}).get("job_id", ""), "error": text}


def _problem(error: Exception, status: HTTPStatus, text: str) -> dict[str, Any]:
    problem: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": text}
    if isinstance(error, InvalidRequest) and error.field:
        problem["field"] = error.field
    return problem


def _add_headers(response: Response, error: Exception) -> None:
    if isinstance(error, (QueueFull, StoreUnavailable)):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, HTTPException):
        for name, value in error.get_headers(request.environ):
            if name in ("Allow", "Content-Range"):
                response.headers[name] = value

"""The one map from what went wrong to what HTTP says about it.

What a client did wrong is told in the words of the JobManagerError. What went wrong here is told to the operator, in
the log: it may show paths, hosts and values. Of it the client learns only that it happened, and when to come back.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from jobmanager.errors import (
    ConfigError,
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
    status, text = _tell(error)
    response = jsonify(_classic(text) if request.blueprint == "classic" else _problem(error, status, text))
    response.status_code = status
    if request.blueprint != "classic":
        response.mimetype = "application/problem+json"
    _add_headers(response, error)
    return response


def _tell(error: Exception) -> tuple[HTTPStatus, str]:
    """Return the status and what the client is told; the operator is told of what went wrong here."""
    if isinstance(error, RequestEntityTooLarge):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {MAX_BODY_BYTES} bytes."
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.code or 500)
        return status, error.description or status.description
    if isinstance(error, StoreUnavailable):
        _log.warning("%s %r was refused. %s", request.method, request.path, error)
        return status_of(error), "The store does not answer. Nothing was changed; try again later."
    if isinstance(error, JobManagerError) and not isinstance(error, ConfigError):
        return status_of(error), str(error)
    _log.exception("%s %r failed.", request.method, request.path)
    return HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong here; it was logged."


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

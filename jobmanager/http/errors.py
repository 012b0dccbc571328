"""The only mapping from errors to HTTP responses.

A client's mistake is answered with the text of the JobManagerError. An error of the service is logged for the operator,
because its text may contain paths, hosts and values; the client learns only that it happened and when to try again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Response, g, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge, default_exceptions

from jobmanager.errors import (
    BatchUnderWay,
    Conflict,
    Forbidden,
    InvalidRequest,
    JobManagerError,
    NotAllowed,
    NotFound,
    Outdated,
    QueueFull,
    RateLimited,
    StoreUnavailable,
    TokensUnavailable,
    TooManyStreams,
    Unauthenticated,
    UnknownJob,
    UnknownType,
    Unreadable,
)
from jobmanager.http.refusal_log import log_refusal

#: The field of a submission that is sent as a header, not in the body.
IDEMPOTENCY_KEY = "idempotency_key"
#: The header that lists versions of a job. The request changes the job only if the job has one of these versions.
IF_MATCH = "If-Match"


@dataclass(frozen=True, slots=True)
class Kind:
    """How the errors of a class are answered: the HTTP status and the problem type."""

    status: HTTPStatus
    #: the last part of the problem type's URI; clients rely on it
    name: str

    def uri(self) -> str:
        """Return the URI for the `type` of a problem document (RFC 9457)."""
        return f"urn:jobmanager:problem:{self.name}"


#: The kind of each class of errors. An error has the kind of the first class that it is an instance of.
KINDS: dict[type[JobManagerError], Kind] = {
    Unreadable: Kind(HTTPStatus.BAD_REQUEST, "unreadable"),
    UnknownType: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "unknown-type"),
    InvalidRequest: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request"),
    UnknownJob: Kind(HTTPStatus.NOT_FOUND, "unknown-job"),
    NotFound: Kind(HTTPStatus.NOT_FOUND, "not-found"),
    NotAllowed: Kind(HTTPStatus.CONFLICT, "not-allowed"),
    Outdated: Kind(HTTPStatus.PRECONDITION_FAILED, "outdated"),
    Conflict: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency-conflict"),
    Unauthenticated: Kind(HTTPStatus.UNAUTHORIZED, "unauthenticated"),
    Forbidden: Kind(HTTPStatus.FORBIDDEN, "forbidden"),
    RateLimited: Kind(HTTPStatus.TOO_MANY_REQUESTS, "rate-limited"),
    TokensUnavailable: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "tokens-unavailable"),
    QueueFull: Kind(HTTPStatus.TOO_MANY_REQUESTS, "queue-full"),
    TooManyStreams: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-streams"),
    BatchUnderWay: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "batch-under-way"),
    StoreUnavailable: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "store-unavailable"),
}

_log = logging.getLogger(__name__)


def register(owner: Flask | Blueprint) -> None:
    """Register the handler that answers errors in *owner*.

    The handler answers with application/problem+json (RFC 9457). For the classic routes, it answers in the format of
    the Go service.
    """
    owner.register_error_handler(Exception, _error_response)
    for code in default_exceptions:
        # Flask looks for a handler of the status first. Without ours, the application's handler for a status, such as
        # 404, would win over our handler for Exception.
        owner.register_error_handler(code, _error_response)


def _error_response(error: Exception) -> Response:
    status, text = _status_and_text(error)
    log_refusal(status, text)
    if (request.blueprint or "").rpartition(".")[2] == "classic":
        response = jsonify(_classic(text))
        if isinstance(error, InvalidRequest):
            status = HTTPStatus.BAD_REQUEST  # as in the Go service
    else:
        response = jsonify(_problem(error, status, text))
        response.mimetype = "application/problem+json"
    response.status_code = status
    _add_headers(response, error)
    return response


def _kind_of(error: Exception) -> Kind | None:
    return next((kind for family, kind in KINDS.items() if isinstance(error, family)), None)


def _status_and_text(error: Exception) -> tuple[HTTPStatus, str]:
    """Return the status and the text for the client. Log errors of the service."""
    if isinstance(error, RequestEntityTooLarge) and "jobmanager_max_body_bytes" in g:
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {g.jobmanager_max_body_bytes} bytes."
    if isinstance(error, (HTTPException, ParseException)):
        return _status_and_text_of_http(error)
    kind = _kind_of(error)
    if kind is None:
        _log.exception("%s %r failed.", request.method, request.path)
        return HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error. The details are in the service's log."
    if isinstance(error, StoreUnavailable):
        _log.warning("%s %r was refused. %s", request.method, request.path, error)
        return kind.status, "The store does not answer. Nothing was changed; try again later."
    if isinstance(error, TokensUnavailable):
        return kind.status, "The service cannot read its tokens. The details are in its log. Try again later."
    return kind.status, str(error)


def _status_and_text_of_http(error: HTTPException | ParseException) -> tuple[HTTPStatus, str]:
    if isinstance(error, ParseException):  # gunicorn raised it while the body was read
        return HTTPStatus.BAD_REQUEST, "The chunks of the body, or the fields after them, are malformed."
    if isinstance(error, ClientDisconnected):
        return HTTPStatus.BAD_REQUEST, "The request ended before its body was complete."
    status = HTTPStatus(error.code or 500)
    return status, error.description or status.description


def _classic(text: str) -> dict[str, Any]:
    return {"jobID": (request.view_args or {}).get("job_id", ""), "error": text}


def _problem(error: Exception, status: HTTPStatus, text: str) -> dict[str, Any]:
    kind = _kind_of(error)
    problem: dict[str, Any] = {
        "type": kind.uri() if kind else "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": text,
    }
    if isinstance(error, InvalidRequest) and error.faults:
        problem |= {"field": error.field, "errors": [_fault(path, text) for path, text in error.faults]}
    if isinstance(error, NotAllowed):
        problem |= {"job_status": error.status, "allowed": list(error.allowed)}
    return problem


def _fault(path: tuple[str | int, ...], text: str) -> dict[str, str]:
    if request.method in ("GET", "HEAD") or path[0] in (IDEMPOTENCY_KEY, IF_MATCH):
        return {"parameter": str(path[0]), "detail": text}
    # RFC 6901 §3 and §6: escape ~ and /, and percent-encode the pointer, because it is a URI fragment.
    parts = (quote(str(part).replace("~", "~0").replace("/", "~1")) for part in path)
    return {"pointer": "#/" + "/".join(parts), "detail": text}


def _add_headers(response: Response, error: Exception) -> None:
    if isinstance(error, (BatchUnderWay, QueueFull, RateLimited, StoreUnavailable, TokensUnavailable, TooManyStreams)):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthenticated):
        # RFC 6750 §3: if the request has no token, send no error code.
        code = ', error="invalid_token"' if error.has_token else ""
        response.headers["WWW-Authenticate"] = f'Bearer realm="jobmanager"{code}'
    if isinstance(error, Forbidden):
        response.headers["WWW-Authenticate"] = 'Bearer realm="jobmanager", error="insufficient_scope"'
    if isinstance(error, HTTPException):
        for name, value in error.get_headers(request.environ):
            if name in ("Allow", "Content-Range", "WWW-Authenticate"):
                response.headers[name] = value

"""Request ids, the names of routes and methods for metrics, and the Range header.

The id is in the response, and in every line that is logged while the request is answered.
"""

from __future__ import annotations

import re
from functools import cache

from flask import Blueprint, Flask, Response, g, request
from uuid_utils import uuid7

from jobmanager.observability.logs import request_id

HEADER = "X-Request-ID"
_BROUGHT = "HTTP_X_REQUEST_ID"  # its key in the WSGI environment

#: The ids that are accepted from a client: others could forge lines of the log.
_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
#: Methods that are counted by name: those in OpenTelemetry's conventions for HTTP. Clients can invent any others.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
#: The name of every other method in these conventions.
OTHER_METHOD = "_OTHER"
#: The only kind of Range that is served: a single range of bytes.
_LONGEST_RANGE = 100
_ONE_RANGE = re.compile(r"bytes=\s*(\d+-\d*|-\d+)\s*")
#: A variable part of a route, in Flask's notation.
_PART = re.compile(r"<(?:\w+:)?(\w+)>")


def identify(app: Flask) -> None:
    """Give each request an id: the one that the client sent, if it is acceptable, or a new one."""
    app.before_request(_begin)
    app.after_request(_send_id)
    app.teardown_request(_end)


def route() -> str:
    """Return the route of the request in the notation of the API docs; "none" for all paths that match no route."""
    return _shown(request.url_rule.rule) if request.url_rule is not None else "none"


def method() -> str:
    """Return the method of the request; OTHER_METHOD for all methods that HTTP does not define."""
    return request.method if request.method in _METHODS else OTHER_METHOD


@cache
def _shown(rule: str) -> str:
    return _PART.sub(r"{\1}", rule)


def heed_one_range() -> None:
    """Ignore Range unless a GET asks for a single range of bytes (RFC 9110 §14.2): Werkzeug would answer 416."""
    header = request.headers.get("Range", "")
    if request.method != "GET" or len(header) > _LONGEST_RANGE or not _ONE_RANGE.fullmatch(header):
        request.environ.pop("HTTP_RANGE", None)


class Files(Blueprint):
    """A blueprint whose static files are served whole or as a single range."""

    def send_static_file(self, filename: str) -> Response:
        """Serve a static file."""
        heed_one_range()
        return super().send_static_file(filename)


def _begin() -> None:
    sent_id = request.environ.get(_BROUGHT, "")
    g.request_id = sent_id if _SANE.fullmatch(sent_id) else str(uuid7())
    request_id.set(g.request_id)


def _send_id(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    return response


def _end(_error: BaseException | None) -> None:
    # The thread answers another request next: its log lines must not have this id.
    request_id.set("")

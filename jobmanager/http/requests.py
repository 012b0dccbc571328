"""What requests of every kind have: an id, names for their route and method, and a Range.

The id comes back in the answer, and is in every line that is logged while the request is answered.
"""

from __future__ import annotations

import re
from functools import cache

from flask import Blueprint, Flask, Response, g, request
from uuid_utils import uuid7

from jobmanager.logs import request_id

HEADER = "X-Request-ID"
_BROUGHT = "HTTP_X_REQUEST_ID"  # where WSGI has it

#: What is taken from a client: anything else could forge lines of the log.
_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
#: Methods that are counted by name, as OpenTelemetry's conventions for HTTP list them. A client can make up any other.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
#: The name that the conventions give to every other method.
OTHER_METHOD = "_OTHER"
#: A Range that is served: one, of bytes.
_LONGEST_RANGE = 100
_ONE_RANGE = re.compile(r"bytes=\s*(\d+-\d*|-\d+)\s*")
#: A part of a route that varies, as Flask writes it.
_PART = re.compile(r"<(?:\w+:)?(\w+)>")


def identify(app: Flask) -> None:
    """Give each request an id: that which it brings along, if it is sane, or a new one."""
    app.before_request(_begin)
    app.after_request(_tell)
    app.teardown_request(_end)


def route() -> str:
    """Return the route of the request, as the API docs write it; a scanner's paths are all the same: none."""
    return _shown(request.url_rule.rule) if request.url_rule is not None else "none"


def method() -> str:
    """Return the method of the request; all that HTTP does not define share one name."""
    return request.method if request.method in _METHODS else OTHER_METHOD


@cache
def _shown(rule: str) -> str:
    return _PART.sub(r"{\1}", rule)


def heed_one_range() -> None:
    """Ignore any other Range than one of bytes, of a GET: RFC 9110 §14.2 allows it; Werkzeug would answer 416."""
    told = request.headers.get("Range", "")
    if request.method != "GET" or len(told) > _LONGEST_RANGE or not _ONE_RANGE.fullmatch(told):
        request.environ.pop("HTTP_RANGE", None)


class Files(Blueprint):
    """A blueprint with files, which are served whole or by one range."""

    def send_static_file(self, filename: str) -> Response:
        """Serve one of the files."""
        heed_one_range()
        return super().send_static_file(filename)


def _begin() -> None:
    told = request.environ.get(_BROUGHT, "")
    g.request_id = told if _SANE.fullmatch(told) else str(uuid7())
    request_id.set(g.request_id)


def _tell(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    return response


def _end(_error: BaseException | None) -> None:
    # The thread answers another request next.
    request_id.set("")

"""Labels for a request's route and method, in metrics and traces. Clients cannot create new labels."""

from __future__ import annotations

import re

from flask import request

#: Methods that are counted by name: those in OpenTelemetry's conventions for HTTP. Clients can invent others.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
#: The label for all other methods, as in OpenTelemetry's conventions.
OTHER_METHOD = "_OTHER"
#: A variable part of a route, in Flask's notation.
_PART = re.compile(r"<(?:\w+:)?(\w+)>")


def route() -> str:
    """Return the route of the request in the notation of the API docs; "none" for all paths that match no route."""
    return _PART.sub(r"{\1}", request.url_rule.rule) if request.url_rule is not None else "none"


def method() -> str:
    """Return the method of the request; OTHER_METHOD for all methods that HTTP does not define."""
    return request.method if request.method in _METHODS else OTHER_METHOD

"""What is refused before any route sees it, and the headers of every answer."""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime

from flask import Blueprint, Response, abort, g, request
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge

from jobmanager import rates
from jobmanager.errors import RateLimited, Unauthenticated
from jobmanager.http.door import endpoint, is_open_request, mounted, require
from jobmanager.tokens import Role, Token, TokenFile

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024

#: Routes that change things although they answer GET, as the classic ones do.
_CHANGING_VIEWS = frozenset({"classic.halt", "classic.resume", "classic.stop"})

#: What a page of ours may do: nothing but what is served from here, no script or style written into it, in no frame.
#: Swagger UI draws its arrows from data: addresses.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_log = logging.getLogger(__name__)


def protect(blueprint: Blueprint) -> None:
    """Have its routes refuse who has no business there, and what pages of other sites ask them to change."""
    blueprint.before_request(_check)
    blueprint.after_request(add_headers)


def add_headers(response: Response) -> Response:
    """Return the answer with the headers that every answer has, unless the route has set them otherwise."""
    there = {name.lower() for name, _ in response.headers}
    for name, value in _HEADERS.items():
        if name.lower() not in there:
            response.headers.add(name, value)
    if "cache-control" not in there and (_changes_something() or response.is_json):
        response.headers.add("Cache-Control", "no-store")
    return response


def add_headers_to_errors(response: Response) -> Response:
    """Do the same for what was asked of no route: the others' answers have them by then."""
    return add_headers(response) if request.endpoint is None else response


def _check() -> None:
    """Refuse what no route is to see; one function, since each one that Flask calls costs every request its time."""
    changes_something = _changes_something()
    if changes_something:
        _refuse_foreign()
    if (tokens := mounted().tokens) is not None and not is_open_request():
        _let_in(tokens, Role.OPERATOR if changes_something else Role.VIEWER)
    _refuse_large()


def _refuse_foreign() -> None:
    """Refuse what a browser asks for somebody else, by Fetch Metadata Request Headers (W3C) that no other client sends.

    The headers are taken from where they came: Werkzeug makes an exception of each one that is missing.
    """
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET", "POST"], "HEAD changes nothing here; use GET or POST.")
    headers = request.environ
    if headers.get("HTTP_SEC_FETCH_SITE") in ("cross-site", "same-site"):
        abort(403, "A page of another site may not change jobs.")
    if "prefetch" in headers.get("HTTP_SEC_PURPOSE", ""):
        abort(403, "A browser that looks ahead may not change jobs.")


def _let_in(tokens: TokenFile, needed: Role) -> None:
    """Find out who asks; raises Unauthenticated, Forbidden, RateLimited, TokensUnavailable."""
    told = request.authorization
    secret = told.token if told is not None and told.type == "bearer" else None
    token = tokens.find(secret, now=datetime.now(UTC)) if secret else None
    if token is None:
        tokens.tokens()  # whether the service can know any token comes first
        raise Unauthenticated(has_token=bool(secret))
    g.jobmanager_token = token
    _count(token)
    require(needed)


def _count(token: Token) -> None:
    """Raise RateLimited if the token has asked too often; a bucket that cannot be reached refuses nobody."""
    if token.rate is None:
        return
    bucket = mounted().manager.settings.data_dir / "rates" / token.hash[:32]
    try:
        wait_seconds = rates.take(bucket, per_minute=token.rate, now=time.monotonic())
    except OSError as error:
        _log.warning("The requests of the token %r are not counted: %s.", token.name, error.strerror)
        return
    if wait_seconds > 0:
        raise RateLimited(token.rate, retry_after_seconds=math.ceil(wait_seconds))


def _refuse_large() -> None:
    most = MAX_BATCH_BYTES if endpoint() == "jobs.submit_batch" else MAX_BODY_BYTES
    g.jobmanager_max_body_bytes = most
    # Where its length is not told, Werkzeug cuts a body off without a word: one byte more tells that it was too long.
    request.max_content_length = most + 1
    told = request.content_length
    if (len(request.get_data()) if told is None else told) > most:
        raise RequestEntityTooLarge


def _changes_something() -> bool:
    return request.method not in ("GET", "HEAD", "OPTIONS") or endpoint() in _CHANGING_VIEWS

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
from jobmanager.tokens import Role, Token

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
    blueprint.before_request(_refuse_foreign)
    blueprint.before_request(_let_in)
    blueprint.before_request(_refuse_large)
    blueprint.after_request(add_headers)


def add_headers(response: Response) -> Response:
    """Return the answer with the headers that every answer has, unless the route has set them otherwise."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if _changes_something() or response.is_json or response.mimetype == "application/problem+json":
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def _refuse_foreign() -> None:
    if not _changes_something():
        return
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET", "POST"], "HEAD changes nothing here; use GET or POST.")
    # Fetch Metadata Request Headers (W3C): sent by every browser, and by no other client.
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        abort(403, "A page of another site may not change jobs.")
    if "prefetch" in request.headers.get("Sec-Purpose", ""):
        abort(403, "A browser that looks ahead may not change jobs.")


def _let_in() -> None:
    """Find out who asks; raises Unauthenticated, Forbidden, RateLimited, TokensUnavailable."""
    tokens = mounted()[1].tokens
    if tokens is None or is_open_request():
        return
    told = request.authorization
    secret = told.token if told is not None and told.type == "bearer" else None
    token = tokens.find(secret, now=datetime.now(UTC)) if secret else None
    if token is None:
        tokens.tokens()  # whether the service can know any token comes first
        raise Unauthenticated(has_token=bool(secret))
    g.jobmanager_token = token
    _count(token)
    require(Role.OPERATOR if _changes_something() else Role.VIEWER)


def _count(token: Token) -> None:
    """Raise RateLimited if the token has asked too often; a bucket that cannot be reached refuses nobody."""
    if token.rate is None:
        return
    bucket = mounted()[1].manager.settings.data_dir / "rates" / token.hash[:32]
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
    return endpoint() in _CHANGING_VIEWS or request.method not in ("GET", "HEAD", "OPTIONS")

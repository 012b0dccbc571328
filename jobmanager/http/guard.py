"""What is refused before any route sees it, and the headers of every answer."""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

from flask import Blueprint, Response, abort, g, request
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge

from jobmanager import rates
from jobmanager.errors import RateLimited, Unauthenticated
from jobmanager.http import origins
from jobmanager.http.door import Mount, endpoint, is_open_request, mounted, require
from jobmanager.tokens import Role, Token, TokenFile

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024

#: Routes that change things although they answer GET, as the classic ones do.
_CHANGING_VIEWS = frozenset({"classic.halt", "classic.resume", "classic.stop"})
#: Routes that show nothing of any job, and are asked by whatever address a probe knows.
_PROBES = frozenset({"health.live", "health.ready"})
#: Methods whose bodies are ignored, and never waited for.
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")

#: What a page of ours may do: nothing but what is served from here, no script or style written into it, in no frame.
#: Swagger UI draws its arrows from data: addresses.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",  # our own pages have to be recognised by it, see origins.may_change
    "X-Content-Type-Options": "nosniff",
}

_log = logging.getLogger(__name__)


def protect(blueprint: Blueprint) -> None:
    """Have its routes refuse strangers, other sites' pages and missing tokens."""
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
    """Add the headers to answers to requests for no route: those of routes have them already."""
    if request.endpoint is not None:
        return response
    if response.location:
        # Flask redirects to the Host that the client sent, if only a slash is missing.
        _, _, path, query, _ = urlsplit(response.location)
        response.location = urlunsplit(("", "", f"/{path.lstrip('/')}", query, ""))
    return add_headers(response)


def _check() -> None:
    """Refuse a request before its route runs; one function, since Flask takes time for each one that it calls."""
    mount = mounted()
    if endpoint() not in _PROBES:
        _refuse_strangers(mount)
    changes_something = _changes_something()
    if changes_something:
        _refuse_foreign_change(mount)
    elif not origins.may_read(request.environ):
        abort(403, "A page of another site may not read this; it may link here.")
    if mount.tokens is not None and not is_open_request():
        _let_in(mount.tokens, Role.OPERATOR if changes_something else Role.VIEWER)
    _refuse_large()


def _refuse_strangers(mount: Mount) -> None:
    """Refuse other machines if only this one may use the service, and hosts that it does not answer for."""
    environ, settings = request.environ, mount.manager.settings
    is_private = mount.tokens is None and not settings.insecure
    if is_private and not origins.is_from_this_machine(environ):
        abort(
            403,
            "Without tokens, only this machine may use the service. Set JOBMANAGER_TOKENS, or JOBMANAGER_INSECURE=1 if "
            "something else decides who may use it.",
        )
    if origins.lacks_host(environ):
        abort(400, "The request has no Host header (RFC 9112, section 3.2).")
    if (is_private or mount.hosts) and not origins.names_known_host(environ, mount.hosts):
        abort(
            421,
            f"The service does not answer for the host {environ['HTTP_HOST'][:80]!a}. Use localhost or 127.0.0.1, "
            "or add the host to JOBMANAGER_HOSTS.",
        )


def _refuse_foreign_change(mount: Mount) -> None:
    """Refuse a change that a browser asks for on behalf of a page of another origin, or before a person does."""
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET", "POST"], "HEAD changes nothing here; use GET or POST.")
    environ = request.environ
    if not origins.may_change(environ):
        abort(403, "A page of another site may not change jobs.")
    if request.method == "GET" and mount.tokens is None and origins.hides_its_page(environ):
        abort(403, "The browser does not say which page asks, so that GET may not change jobs here; use POST.")
    if "prefetch" in environ.get("HTTP_SEC_PURPOSE", ""):
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
    """Raise RequestEntityTooLarge if the body is too large.

    If the request does not give the length, this reads the body to measure it. The route of a batch does that itself.
    """
    if request.method in _WITHOUT_BODY:
        return
    is_batch = endpoint() == "jobs.submit_batch"
    most = MAX_BATCH_BYTES if is_batch else MAX_BODY_BYTES
    g.jobmanager_max_body_bytes = most
    # Werkzeug cuts off a body of unknown length silently: one byte more shows that it was too long.
    request.max_content_length = most + 1
    length = request.content_length
    if length is None and is_batch:
        return
    if (len(request.get_data()) if length is None else length) > most:
        raise RequestEntityTooLarge


def _changes_something() -> bool:
    return request.method not in _WITHOUT_BODY or endpoint() in _CHANGING_VIEWS

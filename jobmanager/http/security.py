"""Check each request before its route runs: client and host, origin, token, rate and size.

Decides what to refuse and in which order. Does not make the responses: see errors.py.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime

from flask import Blueprint, abort, g, request
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge

from jobmanager.auth import rate_limits
from jobmanager.auth.tokens import Role, Token, TokenFile
from jobmanager.errors import RateLimited, Unauthenticated
from jobmanager.http import origins
from jobmanager.http.context import (
    METHODS_WITHOUT_BODY,
    Mount,
    current_mount,
    endpoint,
    is_change_request,
    is_open_request,
    require,
)

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024

#: Routes that show nothing of any job. Probes may use them from any machine and under any host name.
_PROBES = frozenset({"health.live", "health.ready"})

_log = logging.getLogger(__name__)


def protect(blueprint: Blueprint) -> None:
    """Register the checks, which run before each route of the blueprint."""
    blueprint.before_request(_check)


def _check() -> None:
    """Run the checks, in this order. The first that fails refuses the request, so that its route does not run."""
    mount, is_change = current_mount(), is_change_request()
    if endpoint() not in _PROBES:
        _check_client_and_host(mount)
    _check_origin(mount, is_change=is_change)
    if mount.tokens is not None and not is_open_request():
        token = _authenticate(mount.tokens)
        _limit_rate(token)
        require(Role.OPERATOR if is_change else Role.VIEWER)
    _check_size()


def _check_client_and_host(mount: Mount) -> None:
    """Refuse a request from another machine if only this machine may connect. Refuse a request for an unknown host."""
    environ, settings = request.environ, mount.manager.settings
    is_private = mount.tokens is None and not settings.insecure
    if is_private and not origins.is_from_this_machine(environ):
        abort(
            403,
            "Without tokens, only this machine may use the service. Set JOBMANAGER_TOKENS, or JOBMANAGER_INSECURE=1 if "
            "something else controls access.",
        )
    if origins.lacks_host(environ):
        abort(400, "The request has no Host header (RFC 9112, section 3.2).")
    if (is_private or mount.hosts) and not origins.names_known_host(environ, mount.hosts):
        abort(
            421,
            f"The service does not answer for the host {environ['HTTP_HOST'][:80]!a}. Use localhost or 127.0.0.1, "
            "or add the host to JOBMANAGER_HOSTS.",
        )


def _check_origin(mount: Mount, *, is_change: bool) -> None:
    """Refuse a request that a browser sends for a page of another site."""
    if is_change:
        _refuse_foreign_change(mount)
    elif not origins.may_read(request.environ):
        abort(403, "A page of another site may link here, but may not read this.")


def _refuse_foreign_change(mount: Mount) -> None:
    """Refuse a change if the request is cross-origin (CSRF), or a browser's prefetch."""
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET", "POST"], "HEAD is not allowed here. Use GET or POST.")
    environ = request.environ
    if not origins.may_change(environ):
        abort(403, "A page of another site may not change jobs.")
    if request.method == "GET" and mount.tokens is None and origins.hides_its_page(environ):
        abort(403, "The browser does not say which page sent the request, so GET may not change jobs. Use POST.")
    if "prefetch" in environ.get("HTTP_SEC_PURPOSE", ""):
        abort(403, "A prefetch by a browser may not change jobs.")


def _authenticate(tokens: TokenFile) -> Token:
    """Find the token of the request, and store it for the request. Raises Unauthenticated or TokensUnavailable."""
    authorization = request.authorization
    secret = authorization.token if authorization is not None and authorization.type == "bearer" else None
    token = tokens.find(secret, now=datetime.now(UTC)) if secret else None
    if token is None:
        tokens.tokens()  # raises TokensUnavailable if the file is unusable: this error takes precedence
        raise Unauthenticated(has_token=bool(secret))
    g.jobmanager_token = token
    return token


def _limit_rate(token: Token) -> None:
    """Raise RateLimited if the token has sent too many requests.

    If the token's bucket cannot be used, log a warning and let the request pass.
    """
    if token.rate is None:
        return
    bucket = current_mount().manager.settings.data_dir / "rates" / token.hash[:32]
    try:
        wait_seconds = rate_limits.take(bucket, per_minute=token.rate, now=time.monotonic())
    except OSError as error:
        _log.warning("The requests of the token %r are not counted: %s.", token.name, error.strerror)
        return
    if wait_seconds > 0:
        raise RateLimited(token.rate, retry_after_seconds=math.ceil(wait_seconds))


def _check_size() -> None:
    """Raise RequestEntityTooLarge if the body is too large.

    If the request does not give the length, reads the body to measure it. Does not read a batch: the route of batches
    checks the size while it reads.
    """
    if request.method in METHODS_WITHOUT_BODY:
        return
    is_batch = endpoint() == "jobs.submit_batch"
    most = MAX_BATCH_BYTES if is_batch else MAX_BODY_BYTES
    g.jobmanager_max_body_bytes = most
    # Allow one byte more: it shows that the body is too long. Werkzeug silently cuts off a body of unknown length.
    request.max_content_length = most + 1
    length = request.content_length
    if length is None and is_batch:
        return
    if (len(request.get_data()) if length is None else length) > most:
        raise RequestEntityTooLarge

"""httpx settings and conversions that the sync and the async client share."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from jobmanager.client.protocol import NoReply, Reply, Request
from jobmanager.errors import ConfigError

#: Idle connections expire before the server closes them (gunicorn: 2 s), so that no request is sent on a connection
#: that is about to close.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=1.5)
_CONNECT_SECONDS = 5.0
#: Errors after which the server has certainly not received the request.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def options(url: str, token: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments for an httpx client. Raises ConfigError if the URL or the token is invalid."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        is_right = is_right and not any(character.isspace() for character in url)
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        is_right = False
    if not is_right:
        raise ConfigError(f"Invalid URL {url!r}. Use one such as http://127.0.0.1:8080.")
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ConfigError("Invalid token: it must have printable ASCII characters only, and not be blank.")
    headers = {"User-Agent": "jobmanager", "Accept": "application/json"}
    return {
        "base_url": url,
        "headers": headers | ({"Authorization": f"Bearer {token}"} if token else {}),
        "timeout": httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds)),
        "limits": _LIMITS,
    }


def to_httpx(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    """Convert a request to httpx's type. If the request has `read_seconds`, they replace the client's read timeout."""
    timeout = http.timeout
    if request.read_seconds is not None:
        timeout = httpx.Timeout(timeout.read, connect=timeout.connect)
        timeout.read = request.read_seconds
    return http.build_request(
        request.method,
        request.path,
        params=request.query or None,
        content=request.content,
        headers=dict(request.headers),
        timeout=timeout,
    )


def reply_of(response: httpx.Response, content: bytes = b"") -> Reply:
    """Convert httpx's response to a Reply. Leave out *content* for a stream."""
    return Reply(status=response.status_code, headers=response.headers, content=content)


def no_reply_of(error: httpx.RequestError) -> NoReply:
    """Convert an httpx error into a NoReply, with the reason in words."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        reason = "no answer in time"
    elif isinstance(error, httpx.ConnectError):
        reason = "connection refused" if "refused" in reason.lower() or "attempts failed" in reason else reason
    return NoReply(reason.removeprefix("[Errno 111] ").rstrip("."), was_sent=not isinstance(error, _UNSENT))

"""What is refused before any route sees it, and the headers of every answer."""

from __future__ import annotations

from flask import Flask, Response, abort, g, request
from werkzeug.exceptions import MethodNotAllowed, RequestEntityTooLarge

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 64 * 1024 * 1024

#: Routes that change things although they answer GET, as the classic ones do.
_CHANGING_VIEWS = frozenset({"classic.halt", "classic.resume", "classic.stop"})


def protect(app: Flask) -> None:
    """Have the application refuse what a page of another site, or a browser by itself, asks it to change."""
    app.before_request(_refuse_foreign)
    app.before_request(_refuse_large)
    app.after_request(_add_headers)


def _refuse_foreign() -> None:
    if not _changes_something():
        return
    if request.method == "HEAD":
        raise MethodNotAllowed(["GET", "POST"], "HEAD changes nothing here; use GET or POST.")
    # Fetch Metadata Request Headers (W3C): sent by every browser, and by no other client.
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        abort(403, "A page of another site may not change jobs.")
    if "prefetch" in request.headers.get("Sec-Purpose", ""):
        abort(403, "A browser that looks ahead may not change jobs.")


def _refuse_large() -> None:
    g.max_body_bytes = MAX_BATCH_BYTES if request.endpoint == "jobs.submit_batch" else MAX_BODY_BYTES
    # Where its length is not told, Werkzeug cuts a body off without a word: one byte more tells that it was too long.
    request.max_content_length = g.max_body_bytes + 1
    told = request.content_length
    if (len(request.get_data()) if told is None else told) > g.max_body_bytes:
        raise RequestEntityTooLarge


def _changes_something() -> bool:
    return request.endpoint in _CHANGING_VIEWS or request.method not in ("GET", "HEAD", "OPTIONS")


def _add_headers(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if _changes_something() or response.is_json or response.mimetype == "application/problem+json":
        response.headers.setdefault("Cache-Control", "no-store")
    return response

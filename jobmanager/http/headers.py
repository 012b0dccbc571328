"""Add security headers and Cache-Control to every response. Requests are checked in security.py."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from flask import Blueprint, Response, request

from jobmanager.http.context import is_change_request

#: Restricts our pages: they load only files of this service, have no inline scripts or styles, and are never framed.
#: Swagger UI draws its arrows from data: URLs.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",  # our own pages are recognised by Referer, see origins.may_change
    "X-Content-Type-Options": "nosniff",
}


def register(blueprint: Blueprint) -> None:
    """Add the headers to all responses of the blueprint's routes."""
    blueprint.after_request(add_headers)


def add_headers(response: Response) -> Response:
    """Add the headers that every response needs. Keeps headers that the route has set."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if is_change_request() or response.is_json:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def add_headers_without_route(response: Response) -> Response:
    """Add the headers to the response if the request matches no route; `add_headers` covers the routes."""
    if request.endpoint is not None:
        return response
    if response.location:
        # Keep only the path and the query. If only a slash is missing, Flask redirects to the host that the client
        # named, which may be any host.
        _, _, path, query, _ = urlsplit(response.location)
        response.location = urlunsplit(("", "", f"/{path.lstrip('/')}", query, ""))
    return add_headers(response)

"""Responses that the worker gives by itself, without the application. Does no I/O."""

from __future__ import annotations

import io
import json

_UNREADABLE = "The request is not valid HTTP/1.1."
_BROKEN = "Internal error. The details are in the service's log."


def refusal(status: int, reason: str, detail: str, *headers: str) -> bytes:
    """Return the bytes of a response that refuses a request. Its headers say that the connection will be closed."""
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class ErrorPage(io.BytesIO):
    """A stand-in for a socket that captures gunicorn's error page."""

    def sendall(self, data: bytes) -> None:
        self.write(data)

    def gettimeout(self) -> float:
        return 0.0

    def as_problem(self) -> bytes:
        """Return a response with the status of the page, and with a problem document instead of the page."""
        _, status, reason = self.getvalue().splitlines()[0].split(maxsplit=2)
        return refusal(int(status), reason.decode(), _UNREADABLE if int(status) < 500 else _BROKEN)

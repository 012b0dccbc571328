"""Request ids: each is in the response, and in every line that is logged while the request is answered."""

from __future__ import annotations

import re

from flask import Flask, Response, g, request
from uuid_utils import uuid7

from jobmanager.observability.logs import request_id

HEADER = "X-Request-ID"

#: The ids that are accepted from a client: others could forge lines of the log.
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def identify(app: Flask) -> None:
    """Give each request an id: the one that the client sent, if it is acceptable, or a new one."""
    app.before_request(_begin)
    app.after_request(_send_id)
    app.teardown_request(_end)


def _begin() -> None:
    sent_id = request.headers.get(HEADER, "")
    g.request_id = sent_id if _ACCEPTABLE.fullmatch(sent_id) else str(uuid7())
    request_id.set(g.request_id)


def _send_id(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    return response


def _end(_error: BaseException | None) -> None:
    # Remove the id: the thread will answer another request, whose log lines must not have it.
    request_id.set("")

"""With JOBMANAGER_LOG=json every line of the server is JSON, and tells its request or its job."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gunicorn_server import Server


def test_every_line_is_json_and_tells_what_it_belongs_to(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2, LOG="json").start()
    job = server.submit("Simple", steps=1, seconds=0.01)
    server.until_status("completed", job)
    answer = server.client.get("/details/x", headers={"X-Request-ID": "r1"})
    server.signal(15)
    server.wait(15)

    lines: list[dict[str, Any]] = [json.loads(line) for line in server.log().splitlines()]

    assert answer.headers["X-Request-ID"] == "r1"
    assert {line["logger"] for line in lines} == {"gunicorn.error"}
    assert all(line["timestamp"] and line["level"] and line["message"] for line in lines)

"""A hostile server cannot send control characters to the terminal."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from jobmanager.cli import main

HOSTILE = "no\x1b]0;title\x07\x9b2J\u202e such job"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"type": "urn:x", "title": HOSTILE, "status": 404, "detail": HOSTILE}).encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(404)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="test-hostile")
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("arguments", [["show", "x"], ["halt", "x", "y"], ["log", "x"], ["submit", "Simple"]], ids=str)
def test_errors_from_a_server_are_printed_without_control_characters(url: str, arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, env={"JOBMANAGER_URL": url})

    assert result.exit_code == 1
    assert "no\\x1b]0;title\\x07\\x9b2J\\u202e such job" in result.stderr
    assert not set(HOSTILE) & set("\x1b\x07\x9b\u202e") & set(result.output)

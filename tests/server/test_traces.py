"""A request and the attempts at the job that it submitted are spans of one trace, as a real receiver gets them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from gunicorn_server import Server, until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,), name="test-receiver")
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver
        receiver.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_request_and_attempts_are_one_trace_whichever_worker_makes_them(
    make_server: Callable[..., Server], receiver: Receiver
) -> None:
    server = make_server(workers=2).start()
    submitted = server.client.post(
        "/jobs",
        json={"type": "Units", "args": {"units": 300}},
        headers={"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "X-Request-ID": "r1"},
    )
    job = submitted.json()["id"]
    server.until_done(job, 2)
    server.ask("halt", job)
    server.ask("resume", job)
    server.ask("stop", job)
    server.until_status("stopped", job)
    server.signal(15)
    server.wait(15)

    (request,) = until(lambda: receiver.named("POST /jobs"), server.log)
    attempts = sorted(receiver.named("attempt Units"), key=lambda span: attributes(span)["job.attempt"])

    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert attributes(request)["http.response.status_code"] == 202
    assert attributes(request)["jobmanager.request_id"] == "r1"
    assert [attributes(span)["job.status"] for span in attempts] == ["halted", "stopped"]
    for span in attempts:
        assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)
        assert attributes(span)["job.id"] == job
    assert "Traceback" not in server.log()


def test_a_receiver_that_is_away_holds_nothing_up(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = make_server(workers=1).start()
    job = server.submit("Units", units=3)
    server.until_status("completed", job)

    server.signal(15)

    assert server.wait(15) == 0


def test_a_made_up_method_does_not_name_a_span(make_server: Callable[..., Server], receiver: Receiver) -> None:
    server = make_server(workers=1).start()

    server.client.request("MADEUP", "/jobs")
    server.signal(15)
    server.wait(15)

    (request,) = until(lambda: receiver.named("HTTP none"), server.log)
    assert attributes(request)["http.request.method"] == "_OTHER"
    assert not [span for span in receiver.spans if "MADEUP" in span.name]

"""Clients that send nothing, half of a request, or read nothing cannot keep the service from answering others."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gunicorn_server import Server, until

from jobmanager.auth.tokens import Role, TokenFile

MakeServer = Callable[..., Server]

HOST = b"Host: localhost\r\n"
CHUNKED = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
#: What an answer may take beside bad clients.
QUICK_SECONDS = 1.0
#: Time in which a whole request has to arrive.
REQUEST_SECONDS = 10.0

#: What bad clients send, and how many of them there are. None of them reads or closes its connection.
ATTACKS = {
    "nothing": (200, b""),
    "one byte": (64, b"G"),
    "half a head": (64, b"GET /jobs HTTP/1.1\r\n" + HOST),
    "half a body": (64, b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{"),
    "a body that is too large, not sent": (64, b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 2000000\r\n\r\n"),
    "half a batch": (64, b"POST /jobs/batch HTTP/1.1\r\n" + HOST + b"Content-Length: 60000000\r\n\r\n["),
    "chunks that do not come": (64, b"GET /health/live HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"),
    "malformed chunks": (64, b"POST /jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
    "requests, and leaves the connection open": (
        64,
        b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    ),
    "requests, and keeps the connection": (200, b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"),
    "requests for a large file": (20, (b"GET /swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\n" + HOST + b"\r\n") * 20),
}


@pytest.fixture(params=["open", "with tokens"])
def server(request: pytest.FixtureRequest, make_server: MakeServer, tmp_path: Path) -> Server:
    """Return a server with one worker, where a job runs."""
    server = make_server(workers=1)
    if request.param == "with tokens":
        server.settings["TOKENS"] = tmp_path / "tokens"
        server.client.headers["Authorization"] = f"Bearer {_new_token(tmp_path / 'tokens')}"
    return server.start()


def _new_token(path: Path) -> str:
    return TokenFile(path).add("ann", Role.OPERATOR, now=datetime.now(UTC))


@contextlib.contextmanager
def clients(server: Server, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Open that many connections, and send the same on each."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(sent)
            opened.append(client)
        yield opened


def slowest(server: Server, job: str, *, seconds: float) -> float:
    """Ask for health, a halt and a resume, again and again; return the time of the slowest answer."""
    took = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in ("/health/live", "/health/ready", f"/halt/{job}", f"/resume/{job}"):
            began = time.monotonic()
            assert server.client.get(path).status_code == 200
            took.append(time.monotonic() - began)
    return max(took)


def test_health_and_control_are_answered_at_once_whatever_other_clients_do(server: Server) -> None:
    job = server.submit("Units", units=1_000_000)
    server.until_done(job, 3)
    workers = server.worker_pids()
    worst = {}

    for name, (number, sent) in ATTACKS.items():
        with clients(server, number, sent):
            worst[name] = slowest(server, job, seconds=2)

    assert max(worst.values()) < QUICK_SECONDS, worst
    assert server.worker_pids() == workers, "no worker was killed"
    assert (server.status(job), server.job(job)["failures"], server.job(job)["crashes"]) == ("running", 0, 0)


def test_a_client_that_sends_half_a_request_gets_an_error_and_one_that_sends_nothing_is_dropped(
    make_server: MakeServer,
) -> None:
    server = make_server(workers=1).start()
    began = time.monotonic()

    with clients(server, 1, b"") as [silent], clients(server, 1, b"POST /jobs HTTP/1.1\r\n" + HOST) as [slow]:
        answer = until(lambda: _received(slow), seconds=2 * REQUEST_SECONDS)
        until(lambda: _received(silent) is None, seconds=2 * REQUEST_SECONDS)

    assert time.monotonic() - began > REQUEST_SECONDS - 1
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 10 seconds" in answer


def test_a_client_that_drips_a_body_is_cut_off(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    head = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n"

    with clients(server, 1, head) as [client]:
        answer = until(lambda: _drip(client) or _received(client), seconds=2 * REQUEST_SECONDS, every=0.5)

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_large_bodies_are_read_two_at_a_time_and_others_are_told_to_come_back(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    head = b"POST /jobs/batch HTTP/1.1\r\n" + HOST + b"Content-Length: 60000000\r\n\r\n["

    answers: dict[socket.socket, bytes] = {}
    with clients(server, 6, head) as opened:
        answers.update(dict.fromkeys(opened, b""))

        def all_are_answered() -> bool:
            for client in opened:
                answers[client] += _received(client) or b""
            return all(answer.rstrip().endswith(b"}") for answer in answers.values())

        until(all_are_answered, lambda: answers, seconds=4 * REQUEST_SECONDS)

    refused = [answer for answer in answers.values() if answer.startswith(b"HTTP/1.1 503 ")]
    assert refused, answers
    assert all(b"Retry-After: 10" in answer for answer in refused)
    cut_off = [answer for answer in answers.values() if answer.startswith(b"HTTP/1.1 400 ")]
    assert len(cut_off) + len(refused) == 6, answers
    assert all(b"before its body was complete" in answer for answer in cut_off)


def test_a_large_body_that_is_refused_unread_holds_nobody_up(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    head = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 2000000\r\n\r\n"

    with clients(server, 4, head) as opened:
        began = time.monotonic()
        answers = [until(lambda client=client: _received(client)) for client in opened]
        took = time.monotonic() - began

    assert all(answer.startswith(b"HTTP/1.1 413 ") for answer in answers)
    assert took < REQUEST_SECONDS / 2


def test_a_body_of_very_many_chunks_holds_nobody_up(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    head = b"POST /halt/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"

    with clients(server, 17, b"") as opened:
        for client in opened:
            client.setblocking(True)
            client.sendall(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
            client.setblocking(False)
        began = time.monotonic()
        assert server.client.get("/health/live").status_code == 200
        took = time.monotonic() - began

    assert took < REQUEST_SECONDS / 2


def test_the_rest_of_a_body_is_never_taken_for_a_request(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    hidden = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
    head = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: %020d\r\n\r\n" % len(hidden)

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head + hidden)
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_new_connection_takes_the_place_of_the_slowest_when_there_are_too_many(make_server: MakeServer) -> None:
    server = make_server(workers=1).start("--worker-connections", "100")

    with clients(server, 150, b"G"):
        began = time.monotonic()
        assert server.client.get("/health/live").status_code == 200
        took = time.monotonic() - began

    assert took < QUICK_SECONDS


def test_a_large_batch_arrives_whole(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    jobs = [{"type": "Simple", "args": {"note": "x" * 1000}, "run_at": "2099-01-01T00:00:00Z"}] * 3000

    answer = server.client.post("/jobs/batch", json=jobs)

    assert answer.status_code == 202, answer.text
    assert server.rows("SELECT count(*) AS number FROM jobs") == [{"number": 3000}]


def test_many_unfinished_bodies_cannot_fill_the_memory(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    [worker] = server.worker_pids()
    before = _resident_mebibytes(worker)
    head = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n"
    unfinished = memoryview(head + b" " * 900_000)

    with clients(server, 200, b"") as opened:
        rests = dict.fromkeys(opened, unfinished)
        answers = until(lambda: _send_some(rests))
        grown = _resident_mebibytes(worker) - before

    assert answers[0].startswith(b"HTTP/1.1 503 ")
    assert grown < 150


@pytest.mark.parametrize(
    "body", [b'{"type": "Simple"}', b'{"type": "Simple", "args": {"note": "' + b"x" * 100_000 + b'"}}']
)
def test_a_client_that_waits_for_100_continue_is_told_to_go_on(make_server: MakeServer, body: bytes) -> None:
    server = make_server(workers=1).start()
    head = b"POST /jobs HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nConnection: close\r\n"

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode())
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 202 ")


def test_requests_that_are_sent_at_once_are_answered_in_order(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    ids = [server.submit("Simple", steps=number) for number in range(1, 6)]
    requests = [f"GET /jobs/{job} HTTP/1.1\r\nHost: localhost\r\n".encode() for job in ids]
    requests[-1] += b"Connection: close\r\n"

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"\r\n".join([*requests, b""]))
        answers = b"".join(iter(lambda: client.recv(65536), b""))

    assert answers.count(b"HTTP/1.1 200 OK") == 5
    places = [answers.index(f'"id":"{job}"'.encode()) for job in ids]
    assert places == sorted(places)


def test_a_head_that_is_too_long_is_refused(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()

    with clients(server, 1, b"GET /jobs HTTP/1.1\r\n" + b"X: y\r\n" * 15_000) as [client]:
        answer = until(lambda: _received(client))

    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /jobs HTTP/9.9\r\n" + HOST + b"\r\n", 400),
        (b"GET /jobs HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /jobs HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 200 + b"\r\n", 431),
        (CHUNKED + b"-1\r\n", 400),
        (CHUNKED + b"1\r\nxYY0\r\n\r\n", 400),
        (CHUNKED + b"1\r\nxYYxxxxx", 400),
        (CHUNKED + b"0\r\nContent-Length: 1\r\n\r\n", 400),
        (CHUNKED + b"0\r\nbad\r\n\r\n", 400),
        (CHUNKED.replace(b"/jobs", b"/jobs/batch") + b"1fffff\r\n" + b" " * 0x1FFFFF + b"YY0\r\n\r\n", 400),
        (b"POST /jobs HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ],
)
def test_what_is_no_valid_http_is_refused_as_a_problem_and_leaves_no_traceback(
    make_server: MakeServer, sent: bytes, status: int
) -> None:
    server = make_server(workers=1).start()

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(sent)
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in answer
    assert b"X-Content-Type-Options: nosniff" in answer
    assert "Traceback" not in server.log()


def test_a_header_cannot_name_the_prefix_of_the_application(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()

    answer = server.client.get("/health/live", headers={"SCRIPT_NAME": "/x"})

    assert answer.status_code in (200, 400)


def test_slow_downloads_hold_no_thread_and_arrive_whole(make_server: MakeServer) -> None:
    server = make_server(workers=1).start("--threads", "3")
    job = server.submit("BigFile", mebibytes=8)
    server.until_status("completed", job)
    request = f"GET /jobs/{job}/artifact HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()

    with clients(server, 8, request) as slow:
        until(lambda: all(_has_received(client) for client in slow))
        began = time.monotonic()
        assert server.client.get("/job-types").status_code == 200
        took = time.monotonic() - began
        slow[0].setblocking(True)
        answer = b"".join(iter(lambda: slow[0].recv(1024 * 1024), b""))

    assert took < QUICK_SECONDS
    assert len(answer.partition(b"\r\n\r\n")[2]) == 8 * 1024 * 1024


def test_the_worker_survives_when_no_descriptors_are_left(make_server: MakeServer) -> None:
    server = make_server(workers=1).start()
    [worker] = server.worker_pids()
    _limit_descriptors(worker, 100)

    with clients(server, 150, b""):
        until(lambda: "No connection can be accepted" in server.log())
    until(server.answers)

    assert server.worker_pids() == [worker]
    assert server.log().count("No connection can be accepted") < 10


def _send_some(rests: dict[socket.socket, memoryview]) -> list[bytes]:
    """Send as much as there is room for on each connection; return the answers that have come."""
    for client, rest in rests.items():
        with contextlib.suppress(BlockingIOError):
            rests[client] = rest[client.send(rest[: 64 * 1024]) :]
    return [answer for answer in map(_received, rests) if answer]


def _resident_mebibytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def _drip(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.send(b"x")


def _has_received(client: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(client.recv(1, socket.MSG_PEEK))
    return False


def _received(client: socket.socket) -> bytes | None:
    """Return what has come; b"" if nothing has, None if the connection is closed."""
    try:
        return client.recv(65536) or None
    except BlockingIOError:
        return b""
    except ConnectionResetError:
        return None


def _limit_descriptors(pid: int, number: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, number))

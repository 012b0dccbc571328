"""Bodies over a real connection: with their length, or in chunks of which nobody knows how many will come."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from gunicorn_server import Server

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that runs."""
    server = Server(tmp_path_factory.mktemp("bodies") / "data", app="wsgi:app")
    yield server.start()
    server.close()


def whole(body: bytes) -> bytes:
    """Return the body as it is."""
    return body


def in_chunks(body: bytes) -> Iterator[bytes]:
    """Yield the body in parts, which are sent as chunks."""
    for begin in range(0, len(body), 100_000):
        yield body[begin : begin + 100_000]


def submission_of(size: int) -> bytes:
    head, tail = b'{"Type": "Simple", "args": {"steps": 0, "x": "', b'"}}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize("send", [whole, in_chunks])
def test_a_body_of_one_mebibyte_is_accepted(server: Server, send: Callable[[bytes], bytes]) -> None:
    answer = server.client.post("/submit", content=send(submission_of(MIB)))

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("send", [whole, in_chunks])
def test_a_body_of_one_byte_more_is_refused(server: Server, send: Callable[[bytes], bytes]) -> None:
    answer = server.client.post("/submit", content=send(submission_of(MIB + 1)))

    assert answer.status_code == 413
    assert answer.json() == {"jobID": "", "error": "The body is larger than 1048576 bytes."}


def test_a_body_that_claims_to_be_huge_is_refused_before_it_is_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")

        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_empty_body_is_refused(server: Server) -> None:
    answer = server.client.post("/submit")

    assert answer.status_code == 400
    assert answer.json()["jobID"] == ""

"""Streams on real servers: they starve nobody, let go of clients that do not read, miss nothing, and end in time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gunicorn_server import Server, until

MakeServer = Callable[..., Server]


def connect(server: Server, *, buffer: int = 0) -> socket.socket:
    """Ask for a stream, and read nothing."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection


@contextlib.contextmanager
def streams(server: Server, number: int) -> Iterator[list[socket.socket]]:
    """Have streams open meanwhile, each of which has begun."""
    connections = [connect(server) for _ in range(number)]
    try:
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200"), server.log()
        yield connections
    finally:
        for connection in connections:
            connection.close()


def status_of_next_stream(server: Server) -> int:
    with server.client.stream("GET", "/events") as response:
        return response.status_code


class Follower:
    """A client that follows all changes, and comes back whenever it is cut off."""

    def __init__(self, server: Server, last_event_id: str = "") -> None:
        self.server = server
        self.seqs: list[int] = []
        self.connections = 0
        self.last_event_id = last_event_id
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-follower", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(httpx.TransportError):
                self._follow()
            time.sleep(0.02)

    def _follow(self) -> None:
        headers = {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}
        with httpx.stream("GET", f"{self.server.url}/events", headers=headers, timeout=2) as response:
            if response.status_code != 200:
                return
            self.connections += 1
            name = told_id = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    told_id = value
                elif field == "data" and name == "change":
                    self.seqs.append(json.loads(value)["seq"])
                elif not line:
                    name, self.last_event_id = "", told_id or self.last_event_id
                if self._is_over.is_set():
                    return

    def close(self) -> None:
        self._is_over.set()
        self._thread.join(15)


def test_the_next_stream_is_refused_while_requests_are_served_and_a_client_that_leaves_makes_room(
    make_server: MakeServer,
) -> None:
    server = make_server(workers=1, STREAMS=8).start()

    with streams(server, 8) as connections:
        refused = server.client.get("/events")
        job = server.submit("Units", units=1)
        server.until_status("completed", job)
        connections[0].close()
        until(lambda: status_of_next_stream(server) == 200, server.log)

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    until(lambda: status_of_next_stream(server) == 200, server.log)
    assert "Traceback" not in server.log()


def test_a_client_that_does_not_read_is_cut_off_and_misses_nothing_when_it_comes_back(make_server: MakeServer) -> None:
    server = make_server(workers=1, STREAMS=1, SLOTS=0).start()
    deaf = connect(server, buffer=4096)
    first = deaf.recv(1024)

    def is_free() -> bool:
        server.client.post("/jobs/batch", json=[{"type": "Simple"}] * 100)
        return status_of_next_stream(server) == 200

    was_taken = status_of_next_stream(server) == 503
    until(is_free, server.log, seconds=40)
    back = Follower(server, last_event_id="0")
    every = [row["seq"] for row in server.rows("SELECT seq FROM changes ORDER BY seq")]
    until(lambda: len(back.seqs) >= len(every), lambda: f"{len(back.seqs)} {server.log()}")
    back.close()
    deaf.close()

    assert first.startswith(b"HTTP/1.1 200")
    assert was_taken
    assert back.seqs == every
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_who_comes_back_after_kill_9_misses_nothing_that_clients_did_meanwhile(
    make_server: MakeServer, request: pytest.FixtureRequest, database: str
) -> None:
    url = {"DATABASE_URL": request.getfixturevalue("postgres_url")} if database == "postgresql" else {}
    server = make_server(workers=2, MAX_CRASHES=1000, **url).start()
    followers = [Follower(server) for _ in range(3)]
    until(lambda: all(follower.connections for follower in followers), server.log)
    is_over = threading.Event()
    clients = [threading.Thread(target=_submit_until, args=(server, is_over), name="test") for _ in range(4)]
    for client in clients:
        client.start()

    for turn in range(3):
        _until_more_happened(server, 30)
        if turn == 1:
            server.restart()
        else:
            os.kill(server.worker_pids()[turn % 2], signal.SIGKILL)
    _until_more_happened(server, 30)
    is_over.set()
    for client in clients:
        client.join(20)
    until(lambda: server.rows("SELECT count(*) AS n FROM jobs WHERE status <> 'completed'")[0]["n"] == 0, server.log)
    every = [row["seq"] for row in server.rows("SELECT seq FROM changes ORDER BY seq")]

    def missing() -> Any:
        return [set(every) - set(follower.seqs) for follower in followers]

    try:
        until(lambda: not any(missing()), missing)
    finally:
        for follower in followers:
            follower.close()

    assert len(every) > 100
    for follower in followers:
        assert follower.seqs == every  # each once, and in order
        assert follower.connections > 1


def _until_more_happened(server: Server, number: int) -> None:
    def last() -> int:
        return server.rows("SELECT max(seq) AS last FROM changes")[0]["last"] or 0

    begin = last()
    until(lambda: last() >= begin + number, server.log, seconds=30)


def _submit_until(server: Server, is_over: threading.Event) -> None:
    while not is_over.is_set():
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{server.url}/submit", json={"Type": "Simple", "args": {"steps": 0}}, timeout=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_server_with_open_streams_ends_as_fast_as_one_without(make_server: MakeServer, number: int) -> None:
    server = make_server(workers=2, STREAMS=6).start()
    job = server.submit("Units", units=10_000)
    server.until_done(job, 2)

    with streams(server, 6):
        began = time.monotonic()
        server.signal(number)
        code = server.wait(15)
        took = time.monotonic() - began

    assert code == 0
    assert took < 5, server.log()
    assert (server.status(job), server.owner_pid(job)) == ("submitted", None)
    assert "Traceback" not in server.log()


def test_a_stream_in_one_worker_tells_what_happens_in_the_other(server: Server) -> None:
    follower = Follower(server)
    until(lambda: follower.connections, server.log)

    jobs = [server.submit("Units", units=1) for _ in range(6)]
    server.until_status("completed", *jobs)
    wanted = [row["seq"] for row in server.rows("SELECT seq FROM changes ORDER BY seq")]
    until(lambda: len(follower.seqs) >= len(wanted), lambda: f"{follower.seqs} {server.log()}")
    follower.close()

    assert follower.seqs == wanted

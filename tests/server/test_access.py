"""Who reaches the service: what may be bound without tokens, and tokens that come and go while it runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from gunicorn_server import ROOT, Server, until

from jobmanager.auth.tokens import Role, TokenFile

MakeServer = Callable[..., Server]


def token_of(path: Path, name: str, role: Role, **how: object) -> dict[str, str]:
    """Return the header that carries a new token."""
    return {"Authorization": f"Bearer {TokenFile(path).add(name, role, now=datetime.now(UTC), **how)}"}


@pytest.mark.parametrize("binds", [["[::]"], ["127.0.0.1", "0.0.0.0"]], ids=" ".join)
def test_without_tokens_nothing_but_loopback_is_bound(make_server: MakeServer, binds: list[str]) -> None:
    server = make_server(app="wsgi:app")

    server.launch(*(f"--bind={host}:{server.port}" for host in binds))
    code = server.wait()

    log = server.log()
    assert code == 1
    assert "The service cannot start. Anyone who can reach" in log
    for way in ("JOBMANAGER_TOKENS", "jobmanager token add NAME --role operator", "127.0.0.1", "JOBMANAGER_INSECURE=1"):
        assert way in log
    assert "Booting worker" not in log
    assert "Listening" not in log
    assert "Traceback" not in log


def test_a_socket_that_is_handed_over_is_looked_at_too(make_server: MakeServer, tmp_path: Path) -> None:
    exposed = socket.create_server(("0.0.0.0", 0))
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gunicorn', 'wsgi:app'])"
    )
    with exposed:
        told = subprocess.run(
            [sys.executable, "-c", script, str(exposed.fileno())],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "JOBMANAGER_DATA_DIR": str(tmp_path)},
            pass_fds=[exposed.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert told.returncode == 1
    assert "Anyone who can reach 0.0.0.0" in told.stderr


def test_a_socket_in_the_file_system_needs_no_tokens(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(app="wsgi:app")
    path = str(tmp_path / "s")

    server.launch(f"--bind=unix:{path}")
    until(lambda: os.path.exists(path), server.log)

    with httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://local", timeout=20) as client:
        assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("text", [None, '{"name": "ann"'], ids=["missing", "nonsense"])
def test_tokens_that_cannot_be_read_stop_the_start(make_server: MakeServer, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tokens").write_text(text)
    server = make_server(app="wsgi:app", TOKENS=tmp_path / "tokens")

    server.launch()
    code = server.wait()

    assert code == 1
    assert "The service cannot start. JOBMANAGER_TOKENS cannot be" in server.log()
    assert "Traceback" not in server.log()


def test_tokens_come_and_go_in_all_workers_without_a_restart_and_rates_hold_over_them(
    make_server: MakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "tokens"
    ann = token_of(path, "ann", Role.OPERATOR)
    server = make_server(app="wsgi:app", workers=2, TOKENS=path)
    server.start(f"--bind=0.0.0.0:{server.port}")
    client = server.client

    def statuses(headers: dict[str, str]) -> set[int]:
        """Return what many requests are answered with, each in any of the workers."""
        return {client.get("/jobs", headers=headers).status_code for _ in range(12)}

    assert statuses({}) == {401}
    assert statuses(ann) == {200}
    job = client.post("/jobs", json={"type": "Simple"}, headers=ann).json()
    bob = token_of(path, "bob", Role.VIEWER)
    assert statuses(bob) == {200}
    assert client.post(f"/stop/{job['id']}", headers=bob).status_code == 403
    TokenFile(path).revoke("ann")
    assert statuses(ann) == {401}
    assert statuses(bob) == {200}
    good = path.read_bytes()
    path.write_bytes(b"nonsense")
    assert statuses(bob) == {503}
    path.write_bytes(good)
    assert statuses(bob) == {200}

    _assert_rate_holds(client, token_of(path, "busy", Role.VIEWER, rate=8))
    assert server.changes(job["id"])[0]["actor"] == "ann"
    log = server.log()
    assert "Every request is refused" in log
    for header in (ann, bob):
        assert header["Authorization"].removeprefix("Bearer ") not in log


def test_who_insists_may_bind_anything_and_no_log_line_carries_the_password_of_a_store_that_is_away(
    make_server: MakeServer,
) -> None:
    server = make_server(app="wsgi:app", INSECURE=1, DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/jobs")

    server.launch(f"--bind=0.0.0.0:{server.port}")
    until(lambda: _status(server, "/health/live") == 200, server.log)
    answers = [server.client.get(path) for path in ("/health/ready", "/jobs", "/details/x")]

    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert "retries with each of them" in server.log()
    assert "hunter2" not in server.log() + "".join(answer.text for answer in answers)


def _assert_rate_holds(client: httpx.Client, busy: dict[str, str]) -> None:
    """Check that a token of 8 requests a minute gets no more than that, whichever workers they land in."""
    began = datetime.now(UTC)
    statuses = [client.get("/job-types", headers=busy).status_code for _ in range(20)]
    took_seconds = (datetime.now(UTC) - began).total_seconds()

    assert 8 <= statuses.count(200) <= 8 + took_seconds * 8 / 60
    assert set(statuses) == {200, 429}


def _status(server: Server, path: str) -> int:
    try:
        return server.client.get(path, timeout=2).status_code
    except httpx.TransportError:
        return 0

"""A server runs on a system that lacks what only Linux has, and promises the same there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
from gunicorn_server import Server, until

LIKE_MACOS = Path(__file__).parents[1] / "like_macos"


def start_like_macos(server: Server) -> Server:
    """Start a server whose processes lack the features of Linux."""
    server.environment["PYTHONPATH"] = os.pathsep.join([str(LIKE_MACOS), os.environ.get("PYTHONPATH", "")])
    return server.start()


def test_a_server_without_any_feature_of_linux_loses_no_job(make_server: Callable[..., Server]) -> None:
    server = start_like_macos(make_server(workers=2, MAX_CRASHES=1000))
    quick = [server.submit("Simple", steps=3, seconds=0.01) for _ in range(10)]
    slow = server.submit("Simple", steps=300, seconds=0.01)

    server.until_done(slow, 2)
    assert server.ask("halt", slow)["status"] == "Halted"
    assert server.ask("resume", slow)["status"] == "Running"
    (owner,) = filter(None, [server.owner_pid(slow)])
    os.kill(owner, signal.SIGKILL)
    server.until_status("completed", slow, *quick)

    killed = [change["action"] for change in server.changes(slow)]
    assert killed.count("expire") == 1
    assert sum(change["action"] == "expire" for job in quick for change in server.changes(job)) == 0
    server.process.terminate()
    assert server.wait() == 0
    assert "Traceback" not in server.log()


def test_a_worker_that_starts_takes_no_job_from_another_one_if_the_system_does_not_identify_its_boots(
    make_server: Callable[..., Server],
) -> None:
    server = start_like_macos(make_server(workers=2))
    job = server.submit("Simple", steps=10_000, seconds=0.01)
    server.until_done(job, 2)
    [other] = set(server.worker_pids()) - {server.owner_pid(job)}

    os.kill(other, signal.SIGKILL)
    until(lambda: len(server.worker_pids()) == 2 and other not in server.worker_pids() and server.is_ready())

    assert [change["action"] for change in server.changes(job)] == ["submit", "claim"]
    with httpx.stream("GET", f"{server.url}/events") as stream:
        assert stream.status_code == 200
    assert server.ask("stop", job)["status"] == "Stopped"

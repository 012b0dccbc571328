"""A worker that stands still is replaced, and its standstill is not counted against its jobs."""

from __future__ import annotations

import importlib.metadata
import os
import signal
from collections.abc import Callable

import pytest
from gunicorn_server import Server, stopped_between_writes, until

MakeServer = Callable[..., Server]

#: After which gunicorn's master kills a worker whose loop does not turn.
TIMEOUT = ("--timeout", "3")


@pytest.fixture(params=["sqlite", "postgresql"])
def make_strict_server(request: pytest.FixtureRequest, make_server: MakeServer) -> Callable[..., Server]:
    """Return what makes servers where a single crash fails a job."""
    settings = {} if request.param == "sqlite" else {"DATABASE_URL": request.getfixturevalue("postgres_url")}
    return lambda **more: make_server(MAX_CRASHES=1, **settings, **more)


def test_jobs_go_on_after_their_worker_was_killed_for_code_that_holds_the_interpreter(
    make_strict_server: MakeServer,
) -> None:
    server = make_strict_server(workers=1).start(*TIMEOUT)
    [worker] = server.worker_pids()
    neighbour = server.submit("Units", units=500)
    server.until_done(neighbour, 3)

    hog = server.submit("Hog")
    until(lambda: server.worker_pids() not in ([worker], []), server.log, seconds=60)
    server.until_status("completed", neighbour, hog)

    assert "WORKER TIMEOUT" in server.log()
    assert [server.job(job)["attempt"] for job in (neighbour, hog)] == [2, 2]
    assert [server.job(job)["crashes"] for job in (neighbour, hog)] == [0, 0]
    assert server.units(neighbour) == list(range(500))
    assert "its process stood still" in [change["reason"] for change in server.changes(hog)]


def test_jobs_of_a_frozen_worker_go_on_in_the_next_one(make_strict_server: MakeServer) -> None:
    server = make_strict_server(workers=1).start(*TIMEOUT)
    [worker] = server.worker_pids()
    job = server.submit("Units", units=500)
    server.until_done(job, 3)

    os.kill(worker, signal.SIGSTOP)
    until(lambda: server.worker_pids() not in ([worker], []), server.log, seconds=60)
    server.until_status("completed", job)

    assert (server.job(job)["attempt"], server.job(job)["crashes"]) == (2, 0)
    assert server.units(job) == list(range(500))


def test_a_process_that_only_fell_silent_has_not_crashed(make_strict_server: MakeServer) -> None:
    first = make_strict_server(workers=1).start()
    job = first.submit("Fenced", units=500)
    first.until_done(job, 3)

    with stopped_between_writes(first):
        second = make_strict_server(workers=1).start()
        second.until_status("completed", job)

    assert (second.job(job)["attempt"], second.job(job)["crashes"]) == (2, 0)
    assert "its process fell silent" in [change["reason"] for change in second.changes(job)]


def test_a_process_that_was_killed_has_crashed(make_strict_server: MakeServer) -> None:
    server = make_strict_server(workers=1).start()

    job = server.submit("Deadly")
    server.until_status("failed", job)

    assert server.job(job)["error"] == "Its process died under it 1 times without progress in between."


def test_the_version_of_gunicorn_whose_worker_is_changed_is_installed() -> None:
    assert importlib.metadata.version("gunicorn") == "27.0.1"

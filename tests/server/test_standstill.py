"""A worker that stands still is replaced, and its standstill is not counted against its jobs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import time
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
    server.until_status("completed", neighbour, hog, seconds=60)

    assert "WORKER TIMEOUT" in server.log()
    assert [server.job(job)["attempt"] for job in (neighbour, hog)] == [2, 2]
    assert [server.job(job)["crashes"] for job in (neighbour, hog)] == [0, 0]
    assert server.units(neighbour) == list(range(500))
    # The second, if the next worker takes the job before the master has handed it over.
    reasons = {"its process stalled", "its process did not renew the lease"}
    assert reasons & {change["reason"] for change in server.changes(hog)}


def test_jobs_of_a_frozen_worker_go_on_in_the_next_one(make_strict_server: MakeServer) -> None:
    server = make_strict_server(workers=1).start(*TIMEOUT)
    [worker] = server.worker_pids()
    job = server.submit("Units", units=500)
    server.until_done(job, 3)

    os.kill(worker, signal.SIGSTOP)
    until(lambda: server.worker_pids() not in ([worker], []), server.log, seconds=60)
    server.until_status("completed", job, seconds=60)

    assert (server.job(job)["attempt"], server.job(job)["crashes"]) == (2, 0)
    assert server.units(job) == list(range(500))


def test_a_standstill_within_a_transaction_is_no_crash_either(make_strict_server: MakeServer) -> None:
    server = make_strict_server(workers=2, CHECKPOINT_SECONDS=0).start(*TIMEOUT)
    jobs = [server.submit("Fenced", units=1500, seconds=0.002) for _ in range(4)]
    for job in jobs:
        server.until_done(job, 3)
    victim = server.owner_pid(jobs[0])
    assert victim is not None

    _freeze_in_a_transaction(server, victim)
    until(lambda: victim not in server.worker_pids(), server.log, seconds=60)
    server.until_status("completed", *jobs, seconds=60)

    assert "WORKER TIMEOUT" in server.log()
    assert {server.job(job)["crashes"] for job in jobs} == {0}
    for job in jobs:
        assert [int(line) for line in _units_of(server, job)] == list(range(1500))


def test_a_process_that_only_fell_silent_has_not_crashed(make_strict_server: MakeServer) -> None:
    first = make_strict_server(workers=1).start()
    job = first.submit("Fenced", units=500)
    first.until_done(job, 3)

    with stopped_between_writes(first):
        second = make_strict_server(workers=1).start()
        second.until_status("completed", job)

    assert (second.job(job)["attempt"], second.job(job)["crashes"]) == (2, 0)
    assert "its process did not renew the lease" in [change["reason"] for change in second.changes(job)]


def test_a_process_that_was_killed_has_crashed(make_strict_server: MakeServer) -> None:
    server = make_strict_server(workers=1).start()

    job = server.submit("Deadly")
    server.until_status("failed", job)

    assert server.job(job)["error"] == "The process died while running this job (crashes without progress: 1)."


def test_the_version_of_gunicorn_whose_worker_is_changed_is_installed() -> None:
    assert importlib.metadata.version("gunicorn") == "27.0.1"


def _freeze_in_a_transaction(server: Server, pid: int) -> None:
    """Freeze a process for good, in a moment in which it has a transaction open."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        # Those of the other process end, and begin again.
        if all(_is_in_a_transaction(server) for _ in range(20)):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)


def _is_in_a_transaction(server: Server) -> bool:
    time.sleep(0.02)
    return server.has_transaction()


def _units_of(server: Server, job: str) -> list[str]:
    result = json.loads(server.rows("SELECT CAST(result AS TEXT) AS result FROM jobs WHERE id = ?", job)[0]["result"])
    return (server.folder(job) / result["file"]).read_text(encoding="ascii").split()

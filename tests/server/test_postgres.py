"""The service on a real PostgreSQL: what it promises holds there too, and while the database comes and goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from gunicorn_server import Server, until


@pytest.fixture
def server(make_server: Callable[..., Server], postgres_url: str) -> Server:
    return make_server(workers=2, DATABASE_URL=postgres_url, MAX_CRASHES=1000).start()


def submit(server: Server, steps: int = 400) -> str:
    return server.submit("Simple", steps=steps, seconds=0.01)


def test_any_worker_can_halt_resume_and_stop_any_job(server: Server) -> None:
    for _ in range(8):  # each request may land in another worker
        job_id = submit(server, steps=10_000)
        server.until_status("running", job_id)

        reached = [server.ask(action, job_id)["status"] for action in ("halt", "resume", "stop")]

        assert reached == ["Halted", "Running", "Stopped"]


def test_nothing_is_lost_when_every_process_is_killed(server: Server) -> None:
    running = submit(server)
    halted = submit(server)
    for job_id in (running, halted):
        server.until_done(job_id, 5)
    before = server.ask("halt", halted)

    server.restart()

    assert server.details(halted) == before
    server.ask("resume", halted)
    server.until_status("completed", running, halted, seconds=40)


def test_a_job_whose_worker_is_killed_goes_on_in_the_other(server: Server) -> None:
    jobs = [submit(server) for _ in range(6)]
    for job_id in jobs:
        server.until_done(job_id, 5)

    os.kill(server.worker_pids()[0], signal.SIGKILL)

    server.until_status("completed", *jobs, seconds=40)


def test_jobs_hold_while_the_database_is_away_and_go_on_when_it_is_back(
    server: Server, postgres: Any, tmp_path: Path
) -> None:
    job_id = submit(server)
    server.until_done(job_id, 5)

    postgres.stop()
    refused = until(lambda: (answer := server.client.get(f"/details/{job_id}")).status_code == 503 and answer)
    postgres.ensure_postgres_running()

    assert int(refused.headers["Retry-After"]) > 0
    assert "postgres" not in refused.json()["error"]
    until(lambda: server.client.get("/health/ready").status_code == 200)
    server.until_status("completed", job_id, seconds=40)


def test_a_halt_from_the_other_worker_arrives_though_the_listening_connections_were_cut(
    server: Server, postgres_url: str
) -> None:
    job_id = submit(server, steps=10_000)
    server.until_status("running", job_id)
    listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        until(lambda: len(connection.execute(f"SELECT pid {listening}").fetchall()) == 2, "both workers to listen")
        connection.execute(f"SELECT pg_terminate_backend(pid) {listening}")

    for _ in range(6):
        assert server.ask("halt", job_id)["status"] == "Halted"
        assert server.ask("resume", job_id)["status"] == "Running"


def test_the_password_of_the_database_is_in_no_log(make_server: Callable[..., Server]) -> None:
    url = "postgresql://jobs:s3cret@127.0.0.1:1/jobs"
    server = make_server(DATABASE_URL=url)

    server.launch()
    until(lambda: "retries with each of them" in server.log(), server.log, seconds=30)

    assert server.client.get("/health/ready").status_code == 503
    assert server.client.get("/health/live").status_code == 200
    assert "s3cret" not in server.log()

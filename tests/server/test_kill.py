"""Nothing that was answered with 2xx is lost when every process dies at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import httpx
import pytest
from gunicorn_server import Server, assert_attempts_never_overlap, until


def test_a_job_goes_on_from_its_checkpoint_by_itself_after_every_process_was_killed(server_of_any_size: Server) -> None:
    server = server_of_any_size
    job = server.submit("Units", units=150)
    kept = server.until_done(job, 20)

    server.restart()
    server.until_status("completed", job)

    second = [line.unit for line in server.told(job, "tick") if line.attempt == 2]
    assert second[0] >= kept
    assert server.units(job) == list(range(150))
    assert [change["action"] for change in server.changes(job)] == ["submit", "claim", "expire", "claim", "complete"]
    assert_attempts_never_overlap(server.trace(job))


def test_submitted_jobs_are_all_there_after_every_process_was_killed(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2, SLOTS=0).start()
    jobs = [server.submit("Units", units=1, seconds=0, tag=str(number)) for number in range(50)]
    server.kill9()

    assert [row["id"] for row in server.rows("SELECT id FROM jobs ORDER BY number")] == jobs
    server.settings["SLOTS"] = 8
    server.start()

    server.until_status("completed", *jobs)
    assert [len(server.told(job, "begin")) for job in jobs] == [1] * 50


def test_a_halted_job_stays_halted_after_every_process_was_killed_and_resumes_where_it_stood(
    server_of_any_size: Server,
) -> None:
    server = server_of_any_size
    parked = server.submit("Units", units=100)
    server.until_done(parked, 20)
    assert server.ask("halt", parked)["status"] == "Halted"
    done = server.job(parked)["done"]

    server.restart()
    # Longer than the lease of the process that died: nothing but a person may move it.
    witness = server.submit("Units", units=150)
    server.until_status("completed", witness)
    assert server.details(parked)["status"] == "Halted"
    assert server.details(parked)["done"] == done
    server.ask("resume", parked)
    server.until_status("completed", parked)

    assert [line.unit for line in server.told(parked, "tick")] == list(range(100))
    assert server.units(parked) == list(range(100))


def test_a_halted_job_whose_process_was_killed_can_be_stopped(server: Server) -> None:
    job = server.submit("Units", units=100)
    server.until_done(job, 5)
    server.ask("halt", job)

    server.restart()
    server.ask("stop", job)
    server.until_status("stopped", job)

    assert len(server.told(job, "cleaned")) == 1
    assert not server.folder(job).exists()


def test_a_clean_that_was_killed_runs_again_until_it_succeeds(server_of_any_size: Server) -> None:
    server = server_of_any_size
    job = server.submit("SlowClean", units=100)
    server.until_done(job, 5)
    assert server.ask("stop", job)["status"] == "Stopping"
    until(lambda: server.told(job, "clean"), server.log)

    for times in (2, 3):
        server.restart()
        until(lambda times=times: len(server.told(job, "clean")) == times, server.log)
    assert server.status(job) == "stopping"
    (server.data_dir / "may-clean").touch()
    server.until_status("stopped", job)

    assert len(server.told(job, "cleaned")) == 1
    assert not server.folder(job).exists()


def test_a_halt_that_was_under_way_when_the_process_died_ends_in_halted(server: Server) -> None:
    job = server.submit("Deaf")
    until(lambda: server.told(job, "tick"), server.log)
    assert server.ask("halt", job)["status"] == "Halting"

    server.restart()
    server.until_status("halted", job)
    (server.data_dir / "may-end").touch()
    server.ask("resume", job)

    server.until_status("completed", job)


def test_a_job_that_kills_its_process_is_failed_after_max_crashes_and_can_be_resumed(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(workers=1, MAX_CRASHES=2, LEASE_SECONDS=0.5).start()
    job = server.submit("Deadly")

    server.until_status("failed", job)
    until(server.is_ready, server.log)

    assert len(server.told(job, "begin")) == 2
    assert "crashes without progress: 2" in server.details(job)["error"]
    with contextlib.suppress(httpx.TransportError):  # it runs, and takes the answer with it
        server.ask("resume", job)
    until(lambda: len(server.told(job, "begin")) == 4, server.log)
    server.until_status("failed", job)


def test_when_only_the_master_is_killed_the_workers_hand_over_and_leave(server: Server) -> None:
    job = server.submit("Units", units=200)
    server.until_done(job, 5)
    workers = server.worker_pids()

    os.kill(server.process.pid, signal.SIGKILL)
    server.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), server.log)

    assert server.status(job) == "submitted"
    assert server.job(job)["crashes"] == 0
    server.start()
    server.until_status("completed", job)
    assert server.units(job) == list(range(200))
    assert_attempts_never_overlap(server.trace(job))


@pytest.mark.parametrize("action", ["halt", "stop"])
def test_what_was_asked_right_before_the_kill_holds_after_it(server: Server, action: str) -> None:
    job = server.submit("Units", units=10_000)
    server.until_done(job, 3)
    answer = server.client.get(f"/{action}/{job}")
    server.restart()

    assert answer.status_code == 200
    server.until_status({"halt": "halted", "stop": "stopped"}[action], job)

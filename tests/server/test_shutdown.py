"""Signals to gunicorn: nothing is lost, nothing counts as a crash, and it ends in time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from gunicorn_server import ROOT, Server, assert_attempts_never_overlap, until

INTERRUPTS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]


def test_sigterm_hands_running_jobs_over_and_a_new_start_goes_on(server_of_any_size: Server) -> None:
    server = server_of_any_size
    jobs = [server.submit("Units", units=200) for _ in range(3)]
    for job in jobs:
        server.until_done(job, 5)

    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0
    _assert_handed_over(server, *jobs)
    server.start()
    server.until_status("completed", *jobs)

    for job in jobs:
        # A checkpoint was saved on the way out: no unit was done twice.
        assert [line.unit for line in server.told(job, "tick")] == list(range(200))
        assert server.units(job) == list(range(200))
        assert_attempts_never_overlap(server.trace(job))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_quick_signals_hand_running_jobs_over_too(server: Server, number: int) -> None:
    job = server.submit("Units", units=10_000)
    server.until_done(job, 5)

    server.signal(number)
    assert server.wait(10) == 0

    _assert_handed_over(server, job)


@pytest.mark.parametrize("number", INTERRUPTS, ids=lambda number: number.name)
def test_a_signal_to_every_process_at_once_as_a_terminal_or_systemd_sends_it_loses_nothing(
    server: Server, number: int
) -> None:
    job = server.submit("Units", units=10_000)
    server.until_done(job, 5)

    os.killpg(server.process.pid, number)
    assert server.wait(10) == 0

    _assert_handed_over(server, job)


def test_a_sigterm_ends_workers_that_are_still_starting(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2)
    server.launch()

    until(lambda: server.log().count("Booting worker") == 2 and all(map(_imports, server.worker_pids())), server.log)
    server.signal(signal.SIGTERM)

    assert server.wait(15) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_are_answered_and_jobs_go_on_while_the_workers_of_a_reload_start(
    make_server: Callable[..., Server], workers: int
) -> None:
    server = make_server(app="slow_start:app", workers=workers).start()
    job = server.submit("Units", units=100_000)
    server.until_done(job, 5)
    old = set(server.worker_pids())
    hold = server.data_dir / "hold"

    hold.touch()
    server.signal(signal.SIGHUP)
    until((server.data_dir / "waits").exists, server.log)
    # None of the new workers serves before the file is gone.
    for _ in range(5):
        server.ask("halt", job)
        server.until_status("halted", job)
        server.ask("resume", job)
    server.until_done(job, server.job(job)["done"] + 5)
    hold.unlink()
    until(lambda: len(server.worker_pids()) == workers and not old & set(server.worker_pids()), server.log)

    server.until_done(job, server.job(job)["done"] + 5)
    assert server.job(job)["crashes"] == server.job(job)["failures"] == 0
    assert_attempts_never_overlap(server.trace(job))


def test_a_sigterm_during_a_reload_ends_the_server_and_hands_its_jobs_over(make_server: Callable[..., Server]) -> None:
    server = make_server(app="slow_start:app").start()
    job = server.submit("Units", units=100_000)
    server.until_done(job, 3)
    (server.data_dir / "hold").touch()
    server.signal(signal.SIGHUP)
    until((server.data_dir / "waits").exists, server.log)

    os.killpg(server.process.pid, signal.SIGTERM)
    (server.data_dir / "hold").unlink()

    assert server.wait(30) == 0
    _assert_handed_over(server, job)


_CONFIGURATION = f"""
__file__ = {str(ROOT / "jobmanager" / "gunicorn_conf.py")!r}
exec(open(__file__).read())
"""
_OLD_CONFIGURATION = f"""{_CONFIGURATION}
del on_starting, on_reload, pre_fork

def post_worker_init(worker):
    worker.wsgi.extensions["jobmanager"].start()
"""


def test_a_server_that_an_earlier_version_started_can_be_reloaded(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(_OLD_CONFIGURATION, encoding="utf-8")
    server = make_server().start("--config", str(configuration))
    old = server.worker_pids()

    configuration.write_text(_CONFIGURATION, encoding="utf-8")
    server.signal(signal.SIGHUP)
    until(lambda: server.worker_pids() not in (old, []) and not set(old) & set(server.worker_pids()), server.log)

    job = server.submit("Units", units=3)
    server.until_status("completed", job)


def test_a_halted_job_stays_halted_over_a_sigterm_and_resumes_in_the_next_process(server: Server) -> None:
    job = server.submit("Units", units=50)
    server.until_done(job, 5)
    server.ask("halt", job)

    server.signal(signal.SIGTERM)
    server.wait(10)
    assert server.status(job) == "halted"
    assert server.owner_pid(job) is None
    server.start()
    server.ask("resume", job)
    server.until_status("completed", job)

    assert [line.unit for line in server.told(job, "tick")] == list(range(50))


def test_sighup_hands_running_jobs_over_to_the_new_workers(server_of_any_size: Server) -> None:
    server = server_of_any_size
    job = server.submit("Units", units=300)
    server.until_done(job, 5)
    old = server.worker_pids()

    server.signal(signal.SIGHUP)
    until(lambda: len(server.worker_pids()) == server.workers and not set(old) & set(server.worker_pids()), server.log)
    server.until_status("completed", job)

    assert server.job(job)["crashes"] == server.job(job)["failures"] == 0
    assert {line.pid for line in server.told(job, "end")} <= set(server.worker_pids())
    assert [line.unit for line in server.told(job, "tick")] == list(range(300))
    assert server.units(job) == list(range(300))
    assert_attempts_never_overlap(server.trace(job))


def test_a_client_that_waits_for_a_halt_is_answered_when_sigterm_comes(server: Server) -> None:
    job = server.submit("Deaf")
    until(lambda: server.told(job, "tick"), server.log)
    answers: list[str] = []
    client = threading.Thread(target=lambda: answers.append(server.ask("halt", job)["status"]))

    client.start()
    until(lambda: server.status(job) == "halting")
    server.signal(signal.SIGTERM)
    client.join(10)
    (server.data_dir / "may-end").touch()
    server.wait(20)

    assert answers == ["Halting"]
    assert server.status(job) == "completed"  # the last unit of work beat the halt


@pytest.mark.parametrize("number", INTERRUPTS, ids=lambda number: number.name)
def test_a_job_that_never_reaches_a_checkpoint_does_not_hold_the_exit_up_and_is_handed_over(
    make_server: Callable[..., Server], number: int
) -> None:
    server = make_server(workers=1).start("--graceful-timeout", "3")
    job = server.submit("Deaf")
    until(lambda: server.told(job, "tick"), server.log)
    began = time.monotonic()

    server.signal(number)
    assert server.wait(10) == 0
    assert time.monotonic() - began < 4
    _assert_handed_over(server, job, checkpoint=False)
    (server.data_dir / "may-end").touch()
    server.start()
    server.until_status("completed", job)

    assert server.job(job)["attempt"] == 2
    assert_attempts_never_overlap(server.trace(job))


def test_a_stop_is_obeyed_while_the_server_shuts_down(server: Server) -> None:
    job = server.submit("SlowClean", units=10_000)
    server.until_done(job, 3)
    server.client.post(f"/stop/{job}")
    until(lambda: server.told(job, "clean"), server.log)

    server.signal(signal.SIGTERM)
    (server.data_dir / "may-clean").touch()
    assert server.wait(10) == 0

    assert server.status(job) == "stopped"
    assert not server.folder(job).exists()


@pytest.mark.parametrize("number", INTERRUPTS, ids=lambda number: number.name)
def test_a_request_during_the_shutdown_does_not_start_the_service_again(
    make_server: Callable[..., Server], number: int
) -> None:
    server = make_server(workers=1, SLOTS=1).start()
    deaf = server.submit("Deaf")
    until(lambda: server.told(deaf, "tick"), server.log)
    waiting = server.submit("Units", units=1000)
    client = threading.Thread(target=_ask_in_vain, args=(server, f"/halt/{deaf}"))

    client.start()
    until(lambda: server.status(deaf) == "halting")
    server.signal(number)
    (server.data_dir / "may-end").touch()
    assert server.wait(20) == 0
    client.join(20)

    assert server.status(waiting) == "submitted"
    assert server.rows("SELECT * FROM jobs WHERE owner IS NOT NULL") == []
    assert "Traceback" not in server.log()


def _ask_in_vain(server: Server, path: str) -> None:
    """Ask for something of a server that may be gone before it answers."""
    with contextlib.suppress(httpx.TransportError):
        server.client.get(path)


def _assert_handed_over(server: Server, *jobs: str, checkpoint: bool = True) -> None:
    for job in map(server.job, jobs):
        told = f"{job}\n{server.log()}"
        assert (job["status"], job["owner"]) == ("submitted", None), told
        assert (job["failures"], job["crashes"], job["error"]) == (0, 0, None), told
        if checkpoint:
            assert job["done"] == len(server.told(job["id"], "tick")), told


def test_clients_that_wait_for_a_thread_are_answered_when_sigterm_comes(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=1).start("--threads", "2")
    base = f"http://127.0.0.1:{server.port}"
    job = server.submit("Deaf")
    server.until_status("running", job)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        wait = pool.submit(server.halt_and_wait, job, seconds=8)
        until(lambda: server.connections() == (1, 0))
        asked = [pool.submit(httpx.get, f"{base}/job-types", timeout=30) for _ in range(6)]
        until(lambda: server.connections()[0] == 7)

        server.signal(signal.SIGTERM)

        assert [answer.result().status_code for answer in asked] == [200] * 6
        assert wait.result() < 300


def _imports(pid: int) -> bool:
    """Return True once a process has imported something of the application."""
    return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")

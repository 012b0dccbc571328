"""How the service starts: the ways to run it, and what stops the start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import httpx
import pytest
from gunicorn_server import Server, until

WRONG = {
    "SLOTS": ("many", "JOBMANAGER_SLOTS must be a whole number"),
    "LEASE_SECONDS": ("0", "JOBMANAGER_LEASE_SECONDS must be at least 0.1"),
    "DATABASE_URL": ("mysql://somewhere/jobs", "JOBMANAGER_DATABASE_URL cannot be used"),
    "DATA_DIR": ("/proc/nowhere", "JOBMANAGER_DATA_DIR cannot be used: /proc/nowhere: "),
}


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
@pytest.mark.parametrize("name", WRONG)
def test_a_bad_setting_stops_the_start_with_one_sentence(
    make_server: Callable[..., Server], name: str, preload: list[str]
) -> None:
    value, sentence = WRONG[name]
    server = make_server(app="wsgi:app", workers=2, **{name: value})

    server.launch(*preload)
    code = server.wait()

    log = server.log()
    assert code != 0
    assert sentence in log
    assert "Traceback" not in log
    assert log.count("Booting worker") <= 2


def test_a_port_that_is_none_stops_the_start_with_one_sentence(make_server: Callable[..., Server]) -> None:
    server = make_server(app="wsgi:app")
    server.port = 99999

    server.launch()

    assert server.wait() != 0
    assert server.log().splitlines() == [
        "The service cannot start. PORT must be a whole number up to 65535, not '99999'."
    ]


def test_a_misspelt_setting_is_told_once_and_it_starts(make_server: Callable[..., Server]) -> None:
    server = make_server(app="wsgi:app", workers=2, SLOT=3).start()

    assert server.log().count("Unknown setting JOBMANAGER_SLOT (ignored). Did you mean JOBMANAGER_SLOTS?") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "3", "--threads", "2"],
        ["--workers", "2", "--preload"],
        ["--workers", "2", "--worker-class", "sync"],
        ["--workers", "1", "--threads", "1"],
    ],
    ids=" ".join,
)
def test_it_runs_under_any_arrangement_of_workers_and_threads(
    make_server: Callable[..., Server], arguments: list[str]
) -> None:
    server = make_server(app="wsgi:app", workers=int(arguments[1])).start(*arguments)

    halted = server.submit("Simple", steps=500, seconds=0.01)
    server.until_done(halted, 2)
    assert server.ask("halt", halted)["status"] == "Halted"
    jobs = [server.submit("Simple", steps=3, seconds=0.01) for _ in range(10)]
    server.until_status("completed", *jobs)
    assert server.ask("resume", halted)["status"] == "Running"
    assert server.ask("stop", halted)["status"] == "Stopped"

    server.process.terminate()
    assert server.wait(10) == 0


def test_two_servers_that_start_at_the_same_moment_on_new_data_both_work(make_server: Callable[..., Server]) -> None:
    for number in range(2):
        servers = [make_server(data=f"new-{number}", workers=2) for _ in range(2)]
        for server in servers:
            server.launch()
        for server in servers:
            until(server.is_ready, server.log)

        jobs = [server.submit("Units", units=3) for server in servers * 5]
        servers[0].until_status("completed", *jobs)

        for server in servers:
            assert "Traceback" not in server.log()
            server.close()


def test_the_pages_a_person_opens_first_are_there(make_server: Callable[..., Server]) -> None:
    server = make_server(app="wsgi:app").start()

    with httpx.Client(base_url=server.url, follow_redirects=True) as client:
        assert client.get("/health/live").json() == {"status": "ok"}
        assert "swagger" in client.get("/swagger/index.html").text
        assert "/submit" in client.get("/apispec.json").json()["paths"]


def cores_of_threads(pid: int) -> dict[int, frozenset[int]]:
    """Return the cores that each thread of a process may run on."""
    return {int(tid): frozenset(os.sched_getaffinity(int(tid))) for tid in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a machine with two cores")
def test_threads_that_answer_requests_share_a_core_and_those_of_jobs_do_not(
    make_server: Callable[..., Server],
) -> None:
    everywhere = frozenset(os.sched_getaffinity(0))
    server = make_server(workers=2, SLOTS=2).start()
    # One of them dies again and again, the other one stays.
    for _ in range(3):
        dead = max(server.worker_pids())
        os.kill(dead, signal.SIGKILL)
        until(lambda dead=dead: dead not in server.worker_pids() and server.is_ready(), server.log)
    jobs = [server.submit("Units", units=10_000) for _ in range(4)]
    for job in jobs:
        server.until_done(job, 1)  # a job runs by its record before its thread has begun

    workers = {pid: cores_of_threads(pid) for pid in server.worker_pids()}

    mains = [threads[pid] for pid, threads in workers.items()]
    assert [len(cores) for cores in mains] == [1, 1]
    assert mains[0] != mains[1]
    for pid, threads in workers.items():
        assert set(threads.values()) == {threads[pid], everywhere}
        assert list(threads.values()).count(everywhere) >= 3, "the engine's thread and those of two jobs"

"""Two workers on one store: it does not matter in which of them a job runs and in which a request lands."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from gunicorn_server import Server, assert_attempts_never_overlap, stopped, stopped_between_writes, until

#: What a request through the other worker may take on a busy machine; it takes well under 0.1 s on an idle one.
QUICK_SECONDS = 2.0


@pytest.fixture
def other(server: Server, make_server: Callable[..., Server]) -> Server:
    """Return a second server on the same data that runs no jobs: what lands in it never lands in the owner."""
    return make_server(workers=1, SLOTS=0).start()


def test_a_request_in_a_process_that_does_not_hold_the_job_halts_resumes_and_stops_it(
    server: Server, other: Server
) -> None:
    job = server.submit("Units", units=10_000)
    server.until_done(job, 3)
    took = {}

    for action, status in [("halt", "Halted"), ("resume", "Running"), ("details", "Running"), ("stop", "Stopped")]:
        began = time.monotonic()
        answer = other.ask(action, job)
        took[action] = time.monotonic() - began
        assert answer["status"] == status

    print({action: f"{1000 * seconds:.1f} ms" for action, seconds in took.items()})
    assert max(took.values()) < QUICK_SECONDS
    assert not server.folder(job).exists()


def test_a_parked_job_that_is_resumed_through_another_process_goes_on_in_the_thread_that_waits(
    server: Server, other: Server
) -> None:
    job = server.submit("Units", units=10_000)
    server.until_done(job, 3)

    for _ in range(5):
        other.ask("halt", job)
        other.ask("resume", job)
    other.ask("halt", job)

    trace = server.trace(job)
    assert len({line.pid for line in trace}) == 1
    assert [line.what for line in trace if line.what != "tick"] == ["begin", *["halt", "resume"] * 5, "halt"]
    units = [line.unit for line in trace if line.what == "tick"]
    assert units == list(range(len(units)))


def test_a_job_whose_worker_died_goes_on_in_the_other_and_gunicorn_replaces_the_worker(server: Server) -> None:
    jobs = [server.submit("Units", units=200) for _ in range(4)]
    for job in jobs:
        server.until_done(job, 3)
    victim = server.owner_pid(jobs[0])
    assert victim is not None
    spared = [job for job in jobs if server.owner_pid(job) != victim]

    os.kill(victim, signal.SIGKILL)
    until(lambda: len(server.worker_pids()) == 2 and victim not in server.worker_pids(), server.log)
    server.until_status("completed", *jobs)

    assert {server.job(job)["attempt"] for job in spared} <= {1}
    assert {server.job(job)["attempt"] for job in jobs if job not in spared} == {2}
    for job in jobs:
        assert server.units(job) == list(range(200))
        assert_attempts_never_overlap(server.trace(job))


def test_a_parked_job_whose_worker_died_resumes_in_another(server: Server) -> None:
    job = server.submit("Units", units=50)
    server.until_done(job, 3)
    server.ask("halt", job)
    victim = server.owner_pid(job)
    assert victim is not None

    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.worker_pids(), server.log)
    until(lambda: _answer(server, f"/resume/{job}") == 200, server.log)
    server.until_status("completed", job)

    assert [line.unit for line in server.told(job, "tick")] == list(range(50))
    assert server.units(job) == list(range(50))


def test_a_worker_that_was_frozen_for_longer_than_the_lease_writes_nothing_more(server: Server) -> None:
    job = server.submit("Units", units=300)
    server.until_done(job, 5)
    frozen = server.owner_pid(job)
    assert frozen is not None

    with _stopped_outside_a_transaction(server, frozen):
        until(lambda: server.owner_pid(job) not in (frozen, None), server.log)
        until(lambda: server.told(job, "begin")[-1].pid != frozen, server.log)
    # It may end the unit that it was at, never begin another: give it the time to try.
    thawed_at = time.monotonic_ns()
    server.until_done(job, server.job(job)["done"] + 50)
    until(lambda: f"Attempt 1 of job {job} " in server.log(), server.log)
    server.until_status("completed", job)

    late = [line for line in server.trace(job) if line.attempt == 1 and line.at >= thawed_at]
    assert [line.what for line in late] in ([], ["tick"])
    assert [change["attempt"] for change in server.changes(job)] == [0, 1, 1, 2, 2]
    assert server.job(job)["crashes"] == 0


def test_a_parked_thread_is_not_woken_once_another_process_has_taken_its_job_further(
    make_server: Callable[..., Server],
) -> None:
    first = make_server(workers=1, MAX_CRASHES=1000).start()
    job = first.submit("Units", units=200)
    first.until_done(job, 5)
    first.ask("halt", job)

    with stopped_between_writes(first):
        second = make_server(workers=1, MAX_CRASHES=1000).start()
        until(lambda: second.owner_pid(job) is None, second.log)
        second.ask("resume", job)
        second.until_done(job, 50)
        second.ask("halt", job)
        second.settings["SLOTS"] = 0
        second.restart()
    second.ask("resume", job)
    first.until_status("completed", job)

    assert [line.unit for line in first.told(job, "tick")] == list(range(200))
    assert first.units(job) == list(range(200))
    assert [line.attempt for line in first.told(job, "begin")] == [1, 2, 3]


def test_a_worker_frozen_in_a_transaction_holds_the_writers_up_only_until_it_goes_on(server: Server) -> None:
    job = server.submit("Units", units=100_000, seconds=0)
    server.until_done(job, 1)

    for pid in server.worker_pids() * 3:
        with stopped(pid), contextlib.suppress(httpx.TimeoutException):
            server.client.post("/submit", json={"Type": "Units", "args": {"units": 1}}, timeout=0.3)

    began = time.monotonic()
    last = server.submit("Units", units=1)
    server.ask("stop", job)
    server.until_status("stopped", job)
    server.until_status("completed", last)
    print(f"answers again after {time.monotonic() - began:.2f} s")


@contextlib.contextmanager
def _stopped_outside_a_transaction(server: Server, pid: int) -> Iterator[None]:
    """Freeze a worker, but not while it holds the turn to write: nobody else could write meanwhile."""
    while True:
        with stopped(pid):
            try:
                server.client.post("/submit", json={"Type": "Simple", "args": {"steps": 0}}, timeout=0.5)
            except httpx.TimeoutException:
                continue  # it landed in the frozen one, or that holds the turn
            yield
            return


def _answer(server: Server, path: str) -> int | None:
    with contextlib.suppress(httpx.TransportError):
        return server.client.get(path).status_code
    return None


def test_a_worker_whose_threads_are_all_at_work_leaves_new_connections_to_the_other(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(workers=2).start("--threads", "3")

    with contextlib.ExitStack() as streams:
        # Each worker has two threads for such requests. Three are taken, in one of the workers both.
        for _ in range(3):
            stream = streams.enter_context(httpx.stream("GET", f"{server.url}/events", timeout=10))
            assert next(stream.iter_lines()).startswith("retry:")
        # A worker whose threads are all taken would leave these waiting until the streams end.
        for _ in range(40):
            assert server.client.get("/job-types", timeout=5).status_code == 200

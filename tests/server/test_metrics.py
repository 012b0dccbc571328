"""The numbers are those of the whole server, whichever worker answers, and whatever became of others."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
from gunicorn_server import Server, until
from prometheus_client.parser import text_string_to_metric_families


def total(server: Server, name: str, **labels: str) -> float:
    """Return the sum of a number over all labels but those given."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_every_worker_tells_the_same_and_what_a_dead_one_counted_is_not_lost(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(workers=2, SLOTS=3).start()
    jobs = [server.submit("Units", units=1) for _ in range(10)]
    server.until_status("completed", *jobs)

    def counted() -> set[tuple[float, ...]]:
        """Return what is told, by whichever worker, several times."""
        names = ("waiting_seconds_count", "run_seconds_count", "changes_total", "jobs", "slots")
        return {tuple(total(server, f"jobmanager_{name}") for name in names) for _ in range(8)}

    before = counted()
    dead = server.worker_pids()[0]
    os.kill(dead, signal.SIGKILL)
    until(lambda: dead not in server.worker_pids() and len(server.worker_pids()) == 2)
    until(lambda: counted() == {(10, 10, 30, 10, 6)}, lambda: f"{counted()} {server.log()}")

    assert before == {(10, 10, 30, 10, 6)}


def test_a_restart_resets_every_count_that_is_not_in_the_store(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=1).start()
    job = server.submit("Units", units=1)
    server.until_status("completed", job)

    server.restart()

    assert total(server, "jobmanager_changes_total") == 0
    assert total(server, "jobmanager_jobs", status="completed", type="Units") == 1


def test_streams_are_counted_while_they_are_open(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2).start()

    with httpx.stream("GET", f"{server.url}/events") as first, httpx.stream("GET", f"{server.url}/events") as second:
        during = total(server, "jobmanager_streams"), first.status_code, second.status_code

    assert during == (2, 200, 200)
    until(lambda: total(server, "jobmanager_streams") == 0)


def counts_of(server: Server) -> Path:
    """Return the folder of what the server's workers count."""
    [folder] = Path("/dev/shm").glob(f"jobmanager-*-{server.process.pid}")
    return folder


def test_a_server_that_starts_leaves_alone_what_workers_of_a_dead_master_still_count(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(workers=1).start()
    [orphan], folder = server.worker_pids(), counts_of(server)

    os.kill(orphan, signal.SIGSTOP)
    os.kill(server.process.pid, signal.SIGKILL)
    server.wait()
    make_server(workers=1).start()
    assert folder.exists()
    os.kill(orphan, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{orphan}"))
    make_server(workers=1).start()

    assert not folder.exists()


def test_jobs_go_on_though_what_is_counted_cannot_be_kept(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=1).start()
    shutil.rmtree(counts_of(server))

    jobs = [server.submit("Units", units=1) for _ in range(3)]
    server.until_status("completed", *jobs)

    assert [len(server.told(job, "begin")) for job in jobs] == [1, 1, 1]
    assert total(server, "jobmanager_jobs", status="completed", type="Units") == 3
    assert total(server, "jobmanager_counts_incomplete") == 1
    assert server.log().count("Counts are missing from /metrics") == 1
    assert "Traceback" not in server.log()


def test_a_second_server_that_finds_the_address_taken_leaves_the_numbers_alone(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(workers=1).start()
    server.until_status("completed", server.submit("Units", units=1))
    before = total(server, "jobmanager_changes_total")
    second = make_server(workers=1, DATA_DIR=server.data_dir)
    second.port = server.port

    second.launch()
    code = second.wait()
    server.until_status("completed", server.submit("Units", units=1))

    assert code != 0
    assert (before, total(server, "jobmanager_changes_total")) == (3, 6)

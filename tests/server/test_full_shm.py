"""The folder in which workers share their counts is full: the server goes on, and /metrics says what is missing."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import fill
from gunicorn_server import Server
from prometheus_client.parser import text_string_to_metric_families

_MOUNT = 'mount -t tmpfs -o "size=$0" tmpfs /dev/shm && exec "$@"'


def in_small_shm(size: str) -> list[str]:
    """Return a command that runs the command behind it with a /dev/shm of its own; skips the test if nobody may."""
    runner = ["unshare", "--mount", "sh", "-c", _MOUNT, size]
    done = subprocess.run([*runner, "true"], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"only root may mount a volume, as in a container with that right: {done.stderr}")
    return runner


def shm_of(server: Server) -> Path:
    """Return the server's own /dev/shm, as this process sees it."""
    return Path(f"/proc/{server.process.pid}/root/dev/shm")


def numbers(server: Server) -> dict[str, float]:
    """Return every number of /metrics, by its name and labels."""
    text = server.client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{sample.name} {sorted(sample.labels.items())}": sample.value for sample in samples}


def ask_many_routes(server: Server) -> None:
    """Send requests that are counted under some dozens of names."""
    job_id = "0190f3a4-5b6c-7d8e-9fa0-b1c2d3e4f506"
    paths = ["/jobs", "/job-types", "/job-types/Simple", "/apispec.json", "/apidocs/", "/", "/x", f"/details/{job_id}"]
    paths += [f"/jobs/{job_id}{part}" for part in ("", "/changes", "/log", "/artifact", "/halt", "/stop")]
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE"):
            server.client.request(method, path)


def assert_serves_and_works(server: Server) -> None:
    job_id = server.submit("Units", units=3)
    server.until_status("completed", job_id)
    ask_many_routes(server)
    assert server.client.get("/health/ready").status_code == 200


INCOMPLETE = "jobmanager_counts_incomplete []"
READY = "jobmanager_http_request_seconds_count [('method', 'GET'), ('route', '/health/ready'), ('status', '200')]"


def test_a_server_goes_on_when_its_shm_fills_up_and_shows_every_count_once_there_is_space(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(workers=1)
    server.runner = in_small_shm("1m")
    server.start()
    workers = server.worker_pids()
    running = server.submit("Units", units=100_000)
    server.until_done(running, 2)
    before = numbers(server)

    fill(shm_of(server) / "filler")
    assert_serves_and_works(server)
    during = numbers(server)
    server.until_done(running, server.job(running)["done"] + 2)
    (shm_of(server) / "filler").unlink()
    ask_many_routes(server)
    after = numbers(server)

    assert (before[INCOMPLETE], during[INCOMPLETE], after[INCOMPLETE]) == (0, 1, 0)
    puts = [value for name, value in after.items() if "request_seconds_count" in name and "'PUT'" in name]
    assert sum(puts) == 2 * 14
    assert server.worker_pids() == workers
    assert server.job(running)["attempt"] == 1
    assert server.log().count("Counts are missing from /metrics") == 1
    assert "Traceback" not in server.log()


def test_a_server_starts_and_works_with_a_shm_that_has_no_space_at_all(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=2)
    server.runner = in_small_shm("4k")
    server.start()
    workers = server.worker_pids()

    assert_serves_and_works(server)
    found = numbers(server)

    assert found[INCOMPLETE] == 2
    assert READY not in found
    assert server.worker_pids() == workers
    assert "Traceback" not in server.log()


def test_made_up_methods_share_one_series_and_take_no_memory_of_their_own(make_server: Callable[..., Server]) -> None:
    server = make_server(workers=1)
    server.runner = in_small_shm("1m")
    server.start()
    send_made_up_methods(server, range(10))
    before = numbers(server)

    send_made_up_methods(server, range(10, 2_000))
    after = numbers(server)

    counted = {name: after[name] - before[name] for name in after if "_OTHER" in name and "seconds_count" in name}
    assert list(counted.values()) == [1_990]
    assert after.keys() - before.keys() <= {name for name in after if "'/metrics'" in name}
    assert after[INCOMPLETE] == 0


def send_made_up_methods(server: Server, numbers: range) -> None:
    """Send a request with each of these methods, on one connection."""
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=15) as connection, connection.makefile("rb") as answers:
        for number in numbers:
            last = "Connection: close\r\n" if number == numbers[-1] else ""
            connection.sendall(f"X{number:05} /x HTTP/1.1\r\nHost: 127.0.0.1\r\n{last}\r\n".encode())
            assert answers.readline().startswith(b"HTTP/1.1 404")
            length = 0
            while (line := answers.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answers.read(length)

"""How long submitting takes while as many clients follow events as the server allows, beside nobody following.

    python benchmarks/streams.py [--seconds 8] [--rounds 3] [--rate 100] [--streams 8] [--url postgresql://…]

A real gunicorn with one worker. Clients submit at a steady rate, so that both find the same load; each round measures
one after the other. What counts (DESIGN): with all streams open, submit's p99 stays within twice of that without.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENTS = 4
#: Followers read in a process of their own, so that what they do is not counted as the server's or the clients'.
FOLLOW = """
import socket, sys, threading
def follow():
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(b"GET /events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        first = connection.recv(65536)
        print(first.split(b"\\r\\n")[0].decode(), flush=True)
        while connection.recv(65536):
            pass
threads = [threading.Thread(target=follow) for _ in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0, help="submissions a second")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--url", default="", help="of a database; by default a SQLite file")
    asked = parser.parse_args()
    found: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), asked.url, asked.streams) as port:
        submit_for(port, 2.0, asked.rate)  # warm up
        for turn in range(asked.rounds):
            for has_streams in (False, True):
                with followers(port, asked.streams) if has_streams else contextlib.nullcontext():
                    taken = submit_for(port, asked.seconds, asked.rate)
                found[has_streams] += taken
                what = f"{asked.streams} streams" if has_streams else "no stream "
                print(f"round {turn + 1}, {what}: {shown(taken)}", flush=True)
    for has_streams, taken in found.items():
        print(f"{'with' if has_streams else 'without'} streams: {shown(taken)}")
    print(f"p99 with / without: {p99(found[True]) / p99(found[False]):.2f}")


@contextlib.contextmanager
def server(folder: Path, url: str, streams: int) -> Iterator[int]:
    """Serve meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {"JOBMANAGER_DATA_DIR": str(folder), "JOBMANAGER_STREAMS": str(streams), "PORT": str(port)}
    if url:
        settings["JOBMANAGER_DATABASE_URL"] = url
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--log-level", "warning", "wsgi:app"], cwd=ROOT, env=os.environ | settings
    )
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def wait_for(port: int) -> None:
    """Return when the server is ready."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the server does not answer")


@contextlib.contextmanager
def followers(port: int, number: int) -> Iterator[None]:
    """Have streams open meanwhile."""
    command = [sys.executable, "-c", FOLLOW, str(port), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(number):
            line = process.stdout.readline()
            assert " 200 " in line, line
        try:
            yield
        finally:
            process.kill()
    time.sleep(1.5)  # until the server has noticed


def submit_for(port: int, seconds: float, rate: float) -> list[float]:
    """Return how long each submission took, in seconds."""
    taken: list[float] = []
    begin = time.monotonic() + 0.1
    threads = [threading.Thread(target=_submit, args=(port, begin, seconds, rate, n, taken)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _submit(port: int, begin: float, seconds: float, rate: float, number: int, taken: list[float]) -> None:  # noqa: PLR0917
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for turn in range(int(seconds * rate / CLIENTS)):
        # Measured from when it was due: a server that lags behind is not spared what piles up.
        due = begin + (turn * CLIENTS + number) / rate
        time.sleep(max(0.0, due - time.monotonic()))
        connection.request("POST", "/submit", b'{"Type": "Simple", "args": {"steps": 0}}')
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        taken.append(time.monotonic() - due)


def p99(taken: list[float]) -> float:
    """Return the time within which 99 of 100 were done."""
    return statistics.quantiles(taken, n=100)[98]


def shown(taken: list[float]) -> str:
    """Return what was measured, in milliseconds."""
    middle = statistics.median(taken)
    return f"{len(taken)} submissions, p50 {middle * 1000:.1f} ms, p99 {p99(taken) * 1000:.1f} ms"


if __name__ == "__main__":
    main()

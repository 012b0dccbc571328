"""Measure how long submitting takes while as many clients follow events as the server allows, and without clients.

    python -m benchmarks.streams [--seconds 8] [--rounds 3] [--rate 100] [--streams 8] [--url postgresql://…]

A real gunicorn with one worker. Clients submit at a steady rate, so that the load is the same in both cases; each round
measures both. Goal: with all streams open, the p99 of submit is at most twice of that without streams.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving import serving, submit_for

#: Followers run in their own process, so that their work does not slow the server or the clients.
FOLLOW = """
import socket, sys, threading
def follow():
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(b"GET /events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        first = connection.recv(65536)
        with lock:
            print(first.split(b"\\r\\n")[0].decode(), flush=True)
        while connection.recv(65536):
            pass
lock = threading.Lock()
threads = [threading.Thread(target=follow, daemon=True) for _ in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0, help="submissions a second")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--url", default="", help="URL of the database; by default a SQLite file")
    asked = parser.parse_args()
    found: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), asked.url, asked.streams) as port:
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
def _server(folder: Path, url: str, streams: int) -> Iterator[int]:
    """Run a server; yield its port."""
    database = {"JOBMANAGER_DATABASE_URL": url} if url else {}
    with serving(folder, JOBMANAGER_STREAMS=str(streams), **database) as server:
        yield server.port


@contextlib.contextmanager
def followers(port: int, number: int) -> Iterator[None]:
    """Keep streams open inside the context."""
    command = [sys.executable, "-c", FOLLOW, str(port), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for _ in range(number):
                line = process.stdout.readline()
                assert " 200 " in line, line
            yield
        finally:
            process.kill()
    time.sleep(1.5)  # until the server notices


def p99(taken: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(taken, n=100)[98]


def shown(taken: list[float]) -> str:
    """Format the number of submissions and their percentiles in milliseconds."""
    middle = statistics.median(taken)
    return f"{len(taken)} submissions, p50 {middle * 1000:.1f} ms, p99 {p99(taken) * 1000:.1f} ms"


if __name__ == "__main__":
    main()

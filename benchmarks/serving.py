"""Run a real gunicorn with the shipped configuration, and clients that submit at a steady rate."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import ROOT
from benchmarks.peers.servers import free_port

CLIENTS = 4
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Server:
    """A running server that is ready."""

    port: int
    #: the process id of gunicorn's master
    pid: int
    #: seconds from the command until it was ready
    ready_seconds: float

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the JSON of the response. Raises AssertionError if the status is 300 or more."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status < 300, f"{answer.status} {text}"
            return json.loads(text)

    def peak_megabytes(self) -> float:
        """Return the largest resident memory of a worker so far, in MiB."""
        told = [Path(f"/proc/{pid}/status").read_text(encoding="ascii") for pid in self.workers()]
        return max(int(found[1]) for text in told if (found := re.search(r"VmHWM:\s+(\d+) kB", text))) / 1024

    def processor_seconds(self) -> float:
        """Return the processor time of the workers so far."""
        return sum(map(processor_seconds, self.workers()))

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return children(self.pid)


def children(pid: int) -> list[int]:
    """Return the process ids of the living children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def processor_seconds(pid: int) -> float:
    """Return the user and system time of a process. More precise than /proc, which counts hundredths of a second."""
    # The CPU clock of a process, computed like clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


@contextlib.contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Server]:
    """Serve with one worker and the shipped configuration; *settings* are environment variables."""
    port = free_port()
    where = {"JOBMANAGER_DATA_DIR": str(folder), "HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": "1"}
    command = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "wsgi:app"]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment() | where | settings)
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() - began > _PATIENCE_SECONDS:
                raise AssertionError("the server does not answer")
            time.sleep(_LOOK_SECONDS)
        yield Server(port=port, pid=process.pid, ready_seconds=time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(_PATIENCE_SECONDS)


def environment() -> dict[str, str]:
    """Return our environment without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("JOBMANAGER_")}


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    return False


def submit_for(port: int, seconds: float, rate: float) -> list[float]:
    """Submit *rate* jobs a second for *seconds*; return the seconds that each submission took."""
    taken: list[float] = []
    begin = time.monotonic() + 0.1
    # Measured from the time at which a request was due, so that the delays of a slow server add up.
    dues = [[begin + turn / rate for turn in range(n, int(seconds * rate), CLIENTS)] for n in range(CLIENTS)]
    threads = [threading.Thread(target=_submit, args=(port, times, taken)) for times in dues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _submit(port: int, dues: list[float], taken: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for due in dues:
        time.sleep(max(0.0, due - time.monotonic()))
        connection.request("POST", "/submit", b'{"Type": "Simple", "args": {"steps": 0}}')
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        taken.append(time.monotonic() - due)

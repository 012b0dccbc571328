"""A real gunicorn that serves our jobs as it is shipped, and clients that submit at a steady rate."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import ROOT

CLIENTS = 4


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    port: int
    #: of gunicorn's master
    pid: int

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what it answers, from JSON; raises where that is an error."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status < 300, f"{answer.status} {text}"
            return json.loads(text)

    def peak_megabytes(self) -> float:
        """Return the most memory that a worker had resident until now."""
        told = [(worker / "status").read_text(encoding="ascii") for worker in self._workers()]
        return max(int(found[1]) for text in told if (found := re.search(r"VmHWM:\s+(\d+) kB", text))) / 1024

    def processor_seconds(self) -> float:
        """Return the time that processors have worked for its workers until now."""
        told = [(worker / "stat").read_text(encoding="ascii").rpartition(")")[2].split() for worker in self._workers()]
        return sum(int(fields[11]) + int(fields[12]) for fields in told) / os.sysconf("SC_CLK_TCK")

    def _workers(self) -> list[Path]:
        """Return their folders in /proc."""
        pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        return [Path("/proc") / pid for pid in pids]


@contextlib.contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Server]:
    """Serve meanwhile; what is set beyond its folder is as in the environment, in capitals."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"JOBMANAGER_DATA_DIR": str(folder), "PORT": str(port)} | settings
    command = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "wsgi:app"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        _wait_for(port)
        yield Server(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int) -> None:
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


def submit_for(port: int, seconds: float, rate: float) -> list[float]:
    """Return how long each submission took, in seconds, of so many a second."""
    taken: list[float] = []
    begin = time.monotonic() + 0.1
    # Measured from when it was due: a server that lags behind is not spared what piles up.
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

"""Run the measured servers: gunicorn with our service or with a peer's view, in the same configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.frame import ROOT
from benchmarks.peers import servers
from benchmarks.serving import children, processor_seconds

#: Options of gunicorn for a view: our configuration, and plain gunicorn.
AS_OURS = ["--config", "benchmarks/peers/gunicorn_conf.py"]
AS_USUAL = ["--config", "/dev/null", "--worker-class", "gthread", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]
_PATIENCE_SECONDS = 30.0
#: A server is at rest if it has hardly worked for this long.
_REST_SECONDS = 0.3


@contextmanager
def ours(workers: int, threads: int) -> Iterator[int]:
    """Serve ours on a new SQLite file, without running jobs; yield the port."""
    with tempfile.TemporaryDirectory(prefix="served-") as folder:
        environment = {"JOBMANAGER_DATA_DIR": str(Path(folder) / "data"), "JOBMANAGER_SLOTS": "0"}
        command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
        with _served(command, environment, workers, threads) as port:
            yield port


@contextmanager
def view(queue: str, broker: str, way: Sequence[str], workers: int, threads: int) -> Iterator[int]:
    """Serve the view that submits to *queue*; yield the port."""
    command = [str(peers.PYTHON), "-m", "gunicorn", "benchmarks.peers.web:app", *way]
    with _served(command, {"QUEUE": queue, "BROKER": broker}, workers, threads) as port:
        yield port


@contextmanager
def _served(command: Sequence[str], environment: Mapping[str, str], workers: int, threads: int) -> Iterator[int]:
    port = servers.free_port()
    size = ["--workers", str(workers), "--threads", str(threads), "--bind", f"127.0.0.1:{port}"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*command, *size], cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log)
        try:
            _wait_until_it_serves(port)
            _wait_until_it_rests(server.pid, workers)
            yield port
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            server.terminate()
            server.wait(_PATIENCE_SECONDS)


def _wait_until_it_serves(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _wait_until_it_rests(master: int, workers: int) -> None:
    """Wait until all workers are ready: otherwise, all clients would stay connected to the first one."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    before = float("-inf")
    while True:
        pids = children(master)
        worked = sum(map(processor_seconds, pids))
        if len(pids) == workers and worked - before < _REST_SECONDS / 20:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"expected {workers} workers at rest, but {len(pids)} are running, or some are busy")
        before = worked
        time.sleep(_REST_SECONDS)

"""How many submissions a second are served, beside a Flask view that only fills a dict, in the same gunicorn.

Both in turns, in rounds, by wrk with 16 connections (Debian's package wrk). Ours stores each job and its first change
durably before it answers (SQLite, synchronous=FULL), and runs none meanwhile.

    python benchmarks/submit.py [--rounds N] [--seconds N]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONNECTIONS = 16
#: Workers and threads, and the least ratio to the dict that is wanted.
SETTINGS = {(1, 16): 0.85, (2, 8): 0.6}

#: A view that loses everything at a restart: what Flask and gunicorn take by themselves.
IN_MEMORY = """
from flask import Flask, request
app = Flask(__name__)
jobs = {}

@app.post("/submit")
def submit():
    job_id = str(len(jobs))
    jobs[job_id] = request.get_json()
    return {"jobID": job_id, "message": "Success", "details": {"jobID": job_id, "status": "Submitted"}}

@app.get("/health/live")
def live():
    return {"status": "ok"}
"""
SCRIPT = """
wrk.method = "POST"
wrk.body = '{"Type": "Simple", "args": {"steps": 5}}'
wrk.headers["Content-Type"] = "application/json"
"""
FORM = r"99%\s+([\d.]+)(us|ms|s)\b.*?Requests/sec:\s+([\d.]+)"
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def main() -> None:
    """Measure, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    for (workers, threads), goal in SETTINGS.items():
        figures: dict[str, list[tuple[float, float]]] = {"a dict": [], "ours": []}
        for _ in range(options.rounds):
            for name, found in figures.items():
                with tempfile.TemporaryDirectory() as folder, served(name, workers, threads, Path(folder)) as port:
                    found.append(hit(port, options.seconds, Path(folder)))
        print(f"{workers} workers, {threads} threads each")
        for name, found in figures.items():
            rates, p99s = zip(*found, strict=True)
            print(
                f"  {name:8} {statistics.median(rates):7.0f} requests/s ({min(rates):.0f} to {max(rates):.0f}),",
                end=" ",
            )
            print(f"p99 {statistics.median(p99s):.1f} ms")
        ratio = statistics.median(
            ours / ceiling for (ours, _), (ceiling, _) in zip(figures["ours"], figures["a dict"], strict=True)
        )
        print(f"  ratio    {ratio:.2f} (goal {goal})")


@contextmanager
def served(name: str, workers: int, threads: int, folder: Path) -> Iterator[int]:
    """Serve one of the two, and give out its port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    (folder / "in_memory.py").write_text(IN_MEMORY, encoding="utf-8")
    app = ["--pythonpath", str(folder), "in_memory:app", "-c", "/dev/null", "-k", "gthread"]
    command = [sys.executable, "-m", "gunicorn", *(["wsgi:app"] if name == "ours" else app), "--threads", str(threads)]
    environment = os.environ | {
        "JOBMANAGER_DATA_DIR": str(folder / "data"),
        "JOBMANAGER_SLOTS": "0",
        "WEB_CONCURRENCY": str(workers),
    }
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [*command, "--bind", f"127.0.0.1:{port}"], cwd=ROOT, env=environment, stdout=log, stderr=log
    )
    try:
        wait_for(port)
        yield port
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def wait_for(port: int) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def hit(port: int, seconds: int, folder: Path) -> tuple[float, float]:
    """Submit for so many seconds; returns requests a second, and the time in milliseconds that 99 % took at most."""
    script = folder / "submit.lua"
    script.write_text(SCRIPT, encoding="ascii")
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script)]
    told = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/submit"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(FORM, told, re.DOTALL)
    assert found is not None, told
    assert "Non-2xx" not in told, told
    return float(found[3]), float(found[1]) * MILLISECONDS[found[2]]


if __name__ == "__main__":
    main()

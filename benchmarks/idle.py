"""Measure an idle service: CPU, memory, and the time until it is ready.

A real gunicorn with the shipped configuration, one worker and no jobs.

    python -m benchmarks idle
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frame import Figure, Goal, Result, figure, in_turns, versions_of
from benchmarks.peers.servers import database, postgres
from benchmarks.serving import processor_seconds, serving

#: Arguments of `serving`.
Store = dict[str, Any]

SQLITE, POSTGRESQL = "ours, SQLite", "ours, PostgreSQL"
#: Goals: at most so many % of a core for all processes, and so many 10⁶ bytes for a worker.
MOST_CPU, MOST_MEMORY = 0.5, 90.0
#: Time until the work of the start is finished.
_SETTLE_SECONDS = 1.5

_HOW = """
gunicorn with the shipped settings and one worker, on an existing, empty store. The time until it is ready is from the
command to the first success of /health/ready; no requests follow. CPU is the user and system time of its processes over
{window:g} seconds, without that of PostgreSQL. Memory is the worker's: resident (RSS), proportional share (PSS) and not
shared with other processes (USS), in 10⁶ bytes.
"""


def measure(*, quick: bool) -> Result:
    """Start the server repeatedly on both stores, in turns, and measure it while it is idle."""
    rounds, window = (1, 1.0) if quick else (3, 5.0)
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, postgres() as server, database(server) as url:
        stores: dict[str, Store] = {
            SQLITE: {"folder": Path(folder) / "sqlite"},
            POSTGRESQL: {"folder": Path(folder) / "postgresql", "JOBMANAGER_DATABASE_URL": url},
        }
        for store in stores.values():
            with serving(**store):
                pass  # makes the tables
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


def look_on(store: Store, window: float) -> dict[str, float]:
    """Start the server, leave it idle for *window* seconds, and return the figures."""
    with serving(**store) as server:
        (worker,) = server.workers()
        time.sleep(_SETTLE_SECONDS)
        began, before = time.monotonic(), {pid: processor_seconds(pid) for pid in (server.pid, worker)}
        time.sleep(window)
        took = time.monotonic() - began
        used = {pid: 100 * (processor_seconds(pid) - cpu) / took for pid, cpu in before.items()}
        found = {"worker": used[worker], "master": used[server.pid], "cpu": sum(used.values())}
        return found | {"ready": server.ready_seconds} | _memory(worker)


def _memory(pid: int) -> dict[str, float]:
    """Return the memory of a process, in 10⁶ bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    told = {line.partition(":")[0]: float(line.split()[1]) * 1024 / 1e6 for line in lines}
    return {"Rss": told["Rss"], "Pss": told["Pss"], "Uss": told["Private_Clean"] + told["Private_Dirty"]}


def _goals(what: str, found: Figure, most: float, unit: str) -> list[Goal]:
    return [
        Goal(f"{what}, {name.removeprefix('ours, ')}", found.median(name), most, unit, is_at_most=True)
        for name in found.rounds
    ]

"""Measure the cost of a million jobs, beside an empty store: lists, filters, counts, claims, submissions, the start.

One process queries both stores in turns, and submits the same jobs to them in turns, from 16 threads. Of the million
jobs, 10,000 wait, about 1,000 are halted, and the others have finished; all have their labels and changes. Another
store holds 100,000 halted jobs, and a third one 100,000 jobs that are delayed until tomorrow. All stores are SQLite,
except in the last part, which measures lists and claims on PostgreSQL.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from uuid_utils import uuid7

from benchmarks import filling
from benchmarks.frame import Figure, Goal, Result, ask, figure, in_turns, spread, versions_of
from benchmarks.peers import servers
from benchmarks.serving import serving
from jobmanager import Job, JobManager, Settings
from jobmanager.core.states import Status
from jobmanager.core.values import NewJob, Position, Selection
from jobmanager.observability.metrics import StoreCollector
from jobmanager.registry import Registry
from jobmanager.store import Store

#: Number of jobs of each type in a thousand.
TYPES = {"Ledger": 600, "Import": 250, "Report": 149, "Migrate": 1}
#: Number of jobs in each status in a thousand, without those that wait.
STATUSES = {"completed": 959, "failed": 20, "stopped": 20, "halted": 1}
SUBMITTERS = 16
#: The figures that the picture shows, of a hundred.
_SHOWN = ("list, first page", "rare status", "two labels", "details", "count of all", "claim")
DRAWN = {f"{what}: p99" for what in _SHOWN}
LIMIT = 100
_WARM_UP = 5

Question = Callable[[Store], Any]
Ways = dict[str, str]  # the URL of the store of each contender
Part = tuple[list[Figure], list[Goal]]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The sizes of the benchmark."""

    jobs: int
    waiting: int
    #: halted jobs in their own store, and delayed jobs in another one
    apart: int
    rounds: int
    #: repetitions of each query in a round
    times: int
    submit_seconds: float
    idle_seconds: float


FULL = Extent(jobs=1_000_000, waiting=10_000, apart=100_000, rounds=3, times=50, submit_seconds=2.0, idle_seconds=5.0)
QUICK = Extent(jobs=10_000, waiting=100, apart=1_000, rounds=1, times=5, submit_seconds=0.2, idle_seconds=0.2)


def measure(*, quick: bool) -> Result:
    """Fill the stores, query them in turns, and start servers on them."""
    extent = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        parts = [_on_sqlite(Path(folder), extent), _halted(Path(folder), extent), _put_off(Path(folder), extent)]
    parts.append(_on_postgres(extent))
    return Result(
        name="scale",
        title=f"A store with {extent.jobs:,} jobs",
        how=" ".join((__doc__ or "").partition("\n\n")[2].split()),
        figures=[each for figures, _ in parts for each in figures],
        goals=[each for _, goals in parts for each in goals],
        versions=versions_of("sqlalchemy"),
    )


def _on_sqlite(folder: Path, extent: Extent) -> Part:
    full, empty = f"{extent.jobs:,} jobs", "empty"
    folders = {full: folder / "full", empty: folder / "empty"}
    ways = {name: _new_file(path) for name, path in folders.items()}
    took = _fill(ways[full], extent)
    figures = [Figure(title="filling it", unit="s", rounds={full: [took]}, is_less_better=True)]
    asked = _asked(ways, extent, _QUESTIONS | _COUNTS)
    submitted = _submitted(ways, extent)
    started = _started(folders, extent)
    claimed = _asked(ways, extent, _CLAIM)  # last: a manager that starts would take back claimed jobs
    parts = (asked, claimed, submitted, started)
    return figures + [each for more, _ in parts for each in more], [each for _, more in parts for each in more]


def _some_customer() -> str:
    return f"c{random.randrange(filling.CUSTOMERS)}"


def _found(**given: Any) -> Question:
    return lambda store: store.find(Selection(**given), tuple(TYPES), limit=LIMIT)


def _of_customer(**labels: str) -> Question:
    """Find the jobs of another customer each time."""

    def find(store: Store) -> Any:
        return _found(labels={"customer": _some_customer()} | labels)(store)

    return find


def _search_for_customer(store: Store) -> Any:
    return _found(q=_some_customer())(store)


def _in_the_middle(store: Store) -> datetime:
    return store.now() - filling.AGE / 2


def _deep(store: Store) -> Any:
    before = Position(submitted_at=_in_the_middle(store), number=1)
    return store.find(Selection(), tuple(TYPES), before=before, limit=LIMIT)


def _of_an_hour(store: Store) -> Any:
    end = _in_the_middle(store)
    return _found(submitted_after=end - timedelta(hours=1), submitted_before=end)(store)


def _old_with_label(store: Store) -> Any:
    return _found(labels={"region": "asia"}, submitted_before=_in_the_middle(store))(store)


def _details(store: Store) -> Any:
    """Load a job from the middle of the store, if there is one."""
    return [store.get(job.id) for job in _deep(store).jobs[:1]]


_QUESTIONS: dict[str, Question] = {
    "list, first page": _found(),
    "list, in the middle": _deep,
    "status": _found(statuses=frozenset({Status.COMPLETED})),
    "rare status": _found(statuses=frozenset({Status.HALTED})),
    "two statuses": _found(statuses=frozenset({Status.FAILED, Status.HALTED})),
    "type": _found(type="Ledger"),
    "rare type": _found(type="Migrate"),
    "type and rare status": _found(type="Import", statuses=frozenset({Status.HALTED})),
    "label": _of_customer(),
    "common label": _found(labels={"region": "asia"}),
    "rare label": _found(labels={"incident": "yes"}),
    "two labels": _of_customer(region="asia"),
    "common label and rare label": _found(labels={"region": "asia", "incident": "yes"}),
    "common label and status": _found(labels={"region": "asia"}, statuses=frozenset({Status.FAILED})),
    "common label and rare status": _found(labels={"region": "asia"}, statuses=frozenset({Status.HALTED})),
    "common label and rare type": _found(labels={"region": "asia"}, type="Migrate"),
    "common label, the older half": _old_with_label,
    "an hour in the middle": _of_an_hour,
    "search: part of a type": _found(q="port"),
    "search: label value": _search_for_customer,
    "search: label value and rare status": _found(q="asia", statuses=frozenset({Status.HALTED})),
    "search: part of a type, and rare label": _found(q="port", labels={"incident": "yes"}),
    "search: beginning of an id": lambda store: [_found(q=job.id[:13])(store) for job in _deep(store).jobs[:1]],
    "details": _details,
    "look": lambda store: store.look(tuple(TYPES)),
    "look, for other types": lambda store: store.look(("Unknown",)),
}
_COUNTS: dict[str, Question] = {
    "count of all": lambda store: store.count(),
    "count of waiting jobs": lambda store: store.queue(),
    "all queries of /metrics": lambda store: list(StoreCollector(lambda: store).collect()),
}
_CLAIM: dict[str, Question] = {
    "claim": lambda store: store.claim(1, types=TYPES, max_running={}),
    "claim, for other types": lambda store: store.claim(1, types=["Unknown"], max_running={}),
}
_LATER: dict[str, Question] = {
    "look, beside delayed jobs": _QUESTIONS["look"],
    "claim, beside delayed jobs": _CLAIM["claim"],
    "count of waiting jobs, beside delayed jobs": _COUNTS["count of waiting jobs"],
}


def _asked(ways: Ways, extent: Extent, questions: Mapping[str, Question], where: str = "") -> Part:
    """Run all queries on all stores in turns. The goals are for the first store."""
    stores = {name: Store(url) for name, url in ways.items()}

    def asking(store: Store) -> Callable[[], dict[str, float]]:
        return lambda: {
            key: value
            for title, question in questions.items()
            for key, value in spread(_times(question, store, extent.times), f"{title}: ").items()
        }

    # As in the workers of the service: see gunicorn_conf.py.
    gc.collect()
    gc.freeze()
    try:
        told = in_turns({name: asking(store) for name, store in stores.items()}, extent.rounds)
    finally:
        for store in stores.values():
            store.close()
    keys = [f"{title}: {part}" for title in questions for part in ("p50", "p99")]
    figures = [
        figure(told, key, f"{where}{key}", "ms", is_less_better=True, is_drawn=f"{where}{key}" in DRAWN) for key in keys
    ]
    full = next(iter(ways))
    goals = [
        Goal(text=f"{each.title}, {full}", value=each.median(full), wanted=10.0, unit="ms", is_at_most=True)
        for each in figures
        if each.title.endswith("p99")
    ]
    return figures, goals


def _times(question: Question, store: Store, number: int) -> list[float]:
    """Return the seconds that each query took, after some that warm up."""
    times = []
    for _ in range(_WARM_UP + number):
        began = time.perf_counter()
        question(store)
        times.append(time.perf_counter() - began)
    return times[_WARM_UP:]


def _submitted(ways: Ways, extent: Extent) -> Part:
    stores = {name: Store(url) for name, url in ways.items()}
    try:
        turns = {
            name: lambda store=store: _submit(store, extent.submit_seconds)  # type: ignore[misc]
            for name, store in stores.items()
        }
        told = in_turns(turns, extent.rounds + 2, warm_up=1)
    finally:
        for store in stores.values():
            store.close()
    rate = figure(told, "rate", f"submissions, {SUBMITTERS} threads", "jobs/s")
    cpu = figure(told, "cpu", "CPU of a submission", "ms", is_less_better=True)
    full, empty = ways
    goal = Goal(text=f"submissions, {full} ÷ {empty}", value=rate.ratio(full, empty), wanted=0.9)
    return [rate, cpu], [goal]


def _submit(store: Store, seconds: float) -> dict[str, float]:
    """Submit jobs one by one from 16 threads for *seconds*; return the rate and the CPU time of a job."""
    counts = [0] * SUBMITTERS
    began, cpu = time.perf_counter(), time.process_time()

    def submit(place: int) -> None:
        while time.perf_counter() - began < seconds:
            store.add([NewJob(id=str(uuid7()), type="Ledger", args={"from": "2024-01-01"})], actor="benchmark")
            counts[place] += 1

    threads = [threading.Thread(target=submit, args=(place,)) for place in range(SUBMITTERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = sum(counts)
    return {"rate": done / (time.perf_counter() - began), "cpu": (time.process_time() - cpu) / done * 1000}


def _started(folders: Mapping[str, Path], extent: Extent) -> Part:
    """Start a manager and a server on each store, in turns."""
    ways = {name: lambda path=path: _start(path) for name, path in folders.items()}  # type: ignore[misc]
    told = in_turns(ways, extent.rounds)
    manager = figure(told, "manager", "JobManager.start()", "s", is_less_better=True)
    server = figure(told, "server", "gunicorn, until /health/ready answers", "s", is_less_better=True)
    full, empty = folders
    more = server.median(full) - server.median(empty)
    return [manager, server], [
        Goal(text=f"JobManager.start(), {full}", value=manager.median(full), wanted=1.0, unit="s", is_at_most=True),
        Goal(text=f"start of the server, {full}", value=server.median(full), wanted=1.0, unit="s", is_at_most=True),
        Goal(text=f"start of the server, {full} − {empty}", value=more, wanted=1.0, unit="s", is_at_most=True),
    ]


def _start(folder: Path) -> dict[str, float]:
    told = ask([sys.executable, "-m", "benchmarks.scale", "start", folder])
    with serving(folder) as server:
        return told | {"server": server.ready_seconds}


def _halted(folder: Path, extent: Extent) -> Part:
    full, empty = f"{extent.apart:,} halted", "empty"
    folders = {full: folder / "halted", empty: folder / "none"}
    urls = {name: _new_file(path) for name, path in folders.items()}
    filling.fill(urls[full], jobs=extent.apart, waiting=0, types=TYPES, statuses={"halted": 1})
    ways = {
        name: lambda path=path: ask([sys.executable, "-m", "benchmarks.scale", "hold", path])  # type: ignore[misc]
        for name, path in folders.items()
    }
    told = in_turns(ways, 1)
    threads = figure(told, "threads", "threads of a process", "threads", is_less_better=True)
    memory = figure(told, "memory", "memory of a process", "MB", is_less_better=True)
    after = figure(told, "memory after", "memory once all were resumed and halted", "MB", is_less_better=True)
    resumed = figure(told, "resumed", "resuming all", "s", is_less_better=True)
    halted = figure(told, "halted", "halting all", "s", is_less_better=True)
    for each in (resumed, halted):
        del each.rounds[empty]
    grown = memory.median(full) - memory.median(empty)
    grown_after = after.median(full) - after.median(empty)
    more = threads.median(full) - threads.median(empty)
    return [threads, memory, after, resumed, halted], [
        Goal(text=f"threads that {full} jobs take", value=more, wanted=0, unit="threads", is_at_most=True),
        Goal(text=f"memory that {full} jobs take", value=grown, wanted=50, unit="MB", is_at_most=True),
        Goal(text="the same after bulk requests", value=grown_after, wanted=50, unit="MB", is_at_most=True),
    ]


def _put_off(folder: Path, extent: Extent) -> Part:
    full, empty = f"{extent.apart:,} put off", "none put off"
    folders = {full: folder / "put-off", empty: folder / "nothing"}
    ways = {name: _new_file(path) for name, path in folders.items()}
    store = Store(ways[full])
    at = store.now() + timedelta(days=1)
    for begin in range(0, extent.apart, 1000):
        batch = range(begin, begin + 1000)
        new = [
            NewJob(id=str(uuid7()), type="Ledger", args={}, run_at=at + timedelta(seconds=number)) for number in batch
        ]
        store.add(new, actor="benchmark")
    store.close()
    figures, goals = _asked(ways, extent, _LATER)
    idling = {
        name: lambda path=path: ask(  # type: ignore[misc]
            [sys.executable, "-m", "benchmarks.scale", "idle", path, str(extent.idle_seconds)]
        )
        for name, path in folders.items()
    }
    idle = figure(in_turns(idling, 1), "cpu", "CPU of an idle process", "%", is_less_better=True)
    return [*figures, idle], goals


def _on_postgres(extent: Extent) -> Part:
    full, empty = f"{extent.jobs:,} jobs", "empty"
    with servers.postgres() as server, servers.database(server) as one, servers.database(server) as other:
        ways = {full: one, empty: other}
        took = _fill(one, extent)
        figures, goals = _asked(ways, extent, _QUESTIONS | _CLAIM, "PostgreSQL: ")
    filled = Figure(title="PostgreSQL: filling it", unit="s", rounds={full: [took]}, is_less_better=True)
    return [filled, *figures], goals


def _fill(url: str, extent: Extent) -> float:
    return filling.fill(url, jobs=extent.jobs, waiting=extent.waiting, types=TYPES, statuses=STATUSES)


def _new_file(folder: Path) -> str:
    folder.mkdir()
    return f"sqlite:///{folder}/jobmanager.db"


# Each of these three runs in its own process, which prints a JSON object.


def _types() -> Registry:
    found = Registry()
    for name in TYPES:
        found.register(type(name, (Job,), {"start": lambda _job: None, "__doc__": "Does nothing."}))
    return found


def start(folder: str) -> dict[str, float]:
    """Return the seconds that the manager takes to start."""
    manager = JobManager(Settings(data_dir=Path(folder)))
    began = time.perf_counter()
    manager.start()
    took = time.perf_counter() - began
    manager.close()
    return {"manager": took}


def hold(folder: str) -> dict[str, float]:
    """Measure a process that has the store open but runs no jobs; then resume and halt all jobs."""
    with JobManager(Settings(data_dir=Path(folder), slots=0), _types()) as manager:
        manager.find(Selection())
        time.sleep(1)
        threads, memory = threading.active_count(), _memory()
        seconds = []
        for sweep, status in ((manager.resume_all, Status.HALTED), (manager.halt_all, Status.SUBMITTED)):
            began = time.perf_counter()
            sweep(Selection(statuses=frozenset({status})))
            seconds.append(time.perf_counter() - began)
        return {
            "threads": threads,
            "memory": memory,
            "memory after": _memory(),
            "resumed": seconds[0],
            "halted": seconds[1],
        }


def idle(folder: str, seconds: str) -> dict[str, float]:
    """Return the CPU time, in % of a core, of a process that waits for delayed jobs."""
    with JobManager(Settings(data_dir=Path(folder)), _types()):
        time.sleep(0.5)
        began, cpu = time.perf_counter(), time.process_time()
        time.sleep(float(seconds))
        return {"cpu": (time.process_time() - cpu) / (time.perf_counter() - began) * 100}


def _memory() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: Sequence[str]) -> None:
    """Run one of the three and print its figures."""
    ways: dict[str, Callable[..., dict[str, float]]] = {"start": start, "hold": hold, "idle": idle}
    print(json.dumps(ways[arguments[0]](*arguments[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])

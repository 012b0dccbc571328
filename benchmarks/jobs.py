"""How much the life of a job costs: jobs that do nothing, and how soon a job starts, halts and resumes.

Each round is a process of its own, on a new SQLite file with synchronous=FULL, every change of status recorded. The
queue is filled first, then the manager is started, so that nothing but running jobs is measured.

    python benchmarks/jobs.py [--jobs N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobmanager import Job, JobManager, Settings
from jobmanager.records import NewJob
from jobmanager.registry import Registry
from jobmanager.states import Status
from jobmanager.store import Store

#: Goals: at most so many milliseconds. The goal of completed/s is a ratio to the peers, measured beside them.
GOALS = {
    "start p50": 2.0,
    "start p99": 10.0,
    "halt p99": 10.0,
    "resume p99": 10.0,
    "halt from another process p99": 60.0,
    "resume from another process p99": 60.0,
}
SLOTS = 8
LONGEST_SECONDS = 120.0

Figures = dict[str, float]


class Noop(Job):
    """Does nothing but count."""

    counted = 0
    lock = threading.Lock()

    def start(self) -> None:
        with self.lock:
            Noop.counted += 1


class Ticking(Job):
    """Reaches a checkpoint every millisecond, until it is stopped."""

    def start(self) -> None:
        step = self.cursor or 0
        while True:
            time.sleep(0.001)
            step += 1
            self.checkpoint(cursor=step, done=step)


class Noting(Job):
    """Notes when it started."""

    started = threading.Event()
    started_at = 0.0

    def start(self) -> None:
        Noting.started_at = time.perf_counter()
        self.started.set()


def types() -> Registry:
    """Return the types that are run here."""
    found = Registry()
    for job_type in (Noop, Ticking, Noting):
        found.register(job_type)
    return found


def measure(jobs: int) -> Figures:
    """Return our figures, taken once, in a fresh process: jobs per second, CPU and latencies in milliseconds."""
    figures: Figures = {}
    for work in ("throughput", "latency"):
        command = [sys.executable, __file__, "--only", work, "--jobs", str(jobs)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures |= json.loads(told.splitlines()[-1])
    return figures


def throughput(settings: Settings, jobs: int) -> Figures:
    """Fill the queue, then run it."""
    store = Store(settings.database_url)
    for begin in range(0, jobs, 1000):
        batch = range(begin, min(jobs, begin + 1000))
        store.add([NewJob(id=f"job-{number:032}", type="Noop", args={}) for number in batch], actor="benchmark")
    with JobManager(settings, types()):
        # It has opened the store, which is no part of what a job costs, and some jobs have run by now.
        begun, wall, cpu = Noop.counted, time.perf_counter(), time.process_time()
        while Noop.counted < jobs:
            time.sleep(0.005)
        while store.count().get(("Noop", Status.COMPLETED)) != jobs:
            time.sleep(0.005)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if Noop.counted != jobs:
        raise AssertionError(f"{jobs} jobs ran {Noop.counted} times")
    store.close()
    return {"completed/s": (jobs - begun) / wall, "CPU per job": cpu / (jobs - begun) * 1000}


def latency(settings: Settings) -> Figures:
    """Submit jobs to an idle manager; then halt and resume one of eight that are at work, from here and elsewhere."""
    figures: Figures = {}
    with JobManager(settings, types()) as manager:
        figures |= spread("start", [start_once(manager) for _ in range(200)])
        ids = [manager.submit("Ticking").id for _ in range(SLOTS)]
        for job_id in ids:
            manager.wait(job_id, unless=(Status.SUBMITTED,), wait=5)
        time.sleep(0.2)
        figures |= steer(manager, ids, "")
        command = [sys.executable, __file__, "--only", "steering", "--folder", str(settings.data_dir), *ids]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures |= json.loads(told.splitlines()[-1])
        for job_id in ids:
            manager.stop(job_id, wait=5)
    return figures


def start_once(manager: JobManager) -> float:
    """Return how long it takes from the call of submit to the first line of the job."""
    time.sleep(0.01)
    Noting.started.clear()
    began = time.perf_counter()
    job = manager.submit("Noting")
    Noting.started.wait(5)
    took = Noting.started_at - began
    manager.wait(job.id, unless=(Status.SUBMITTED, Status.RUNNING), wait=5)
    return took


def steer(manager: JobManager, ids: list[str], where: str) -> Figures:
    """Halt and resume the jobs one after the other, each time until that is recorded."""
    halts, resumes = [], []
    for number in range(200):
        job_id = ids[number % len(ids)]
        for ask, reached, times in ((manager.halt, "halted", halts), (manager.resume, "running", resumes)):
            time.sleep(0.003)
            began = time.perf_counter()
            if ask(job_id, wait=5).status != reached:
                raise AssertionError(f"job {job_id} was not {reached} within 5 seconds")
            times.append(time.perf_counter() - began)
    return spread(f"halt{where}", halts) | spread(f"resume{where}", resumes)


def steering(settings: Settings, ids: list[str]) -> Figures:
    """The same from a process that runs no jobs."""
    with JobManager(settings, types()) as manager:
        return steer(manager, ids, " from another process")


def spread(name: str, times: list[float]) -> Figures:
    """Return the median and the 99th percentile, in milliseconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {f"{name} p50": cuts[49] * 1000, f"{name} p99": cuts[98] * 1000}


def show(rounds: list[Figures]) -> None:
    """Print the median of each figure, with the least and the most."""
    for name in rounds[0]:
        found = [figures[name] for figures in rounds]
        unit = "" if name.endswith("/s") else " ms"
        goal = f"   (goal: {GOALS[name]:g} ms)" if name in GOALS else ""
        middle = statistics.median(found)
        print(f"{name:32} {middle:10,.2f}{unit}   [{min(found):,.2f} … {max(found):,.2f}]{goal}")


def only(work: str, folder: Path, options: Any) -> Figures:
    """Take one figure, in this process."""
    ways: dict[str, Callable[[], Figures]] = {
        "throughput": lambda: throughput(Settings(data_dir=folder, slots=SLOTS), options.jobs),
        "latency": lambda: latency(Settings(data_dir=folder, slots=SLOTS)),
        "steering": lambda: steering(Settings(data_dir=folder, slots=0), options.ids),
    }
    return ways[work]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("throughput", "latency", "steering"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("ids", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
            print(json.dumps(only(options.only, options.folder or Path(folder), options)))
        return
    began = time.perf_counter()
    rounds = []
    while len(rounds) < options.rounds and time.perf_counter() - began < LONGEST_SECONDS:
        rounds.append(measure(options.jobs))
    show(rounds)


if __name__ == "__main__":
    main()

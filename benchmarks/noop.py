"""Ours, like the programs of the peers: fills the queue with jobs that do nothing, then runs them.

    python -m benchmarks.noop JOBS URL

Prints how many a second it did of either, and the CPU time of a job. A job counts when its end is recorded; like the
peers', measured from the first to the last.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from jobmanager import Job, JobManager, Settings
from jobmanager.registry import Registry
from jobmanager.states import Status
from jobmanager.store import Store

SLOTS = 8
_LOOK_SECONDS = 0.002


class Noop(Job):
    """Does nothing but count."""

    counted = 0
    lock = threading.Lock()  # guards counted

    def start(self) -> None:
        """Count."""
        with self.lock:
            Noop.counted += 1


def types() -> Registry:
    """Return the one type there is."""
    found = Registry()
    found.register(Noop)
    return found


def main() -> None:
    """Measure."""
    jobs, url = int(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        data_dir = Path(folder)
        told = {"enqueue/s": enqueued_per_second(data_dir, url, jobs), **run(data_dir, url, jobs)}
    print(json.dumps(told))


def enqueued_per_second(data_dir: Path, url: str, jobs: int) -> float:
    """Submit so many jobs, one after the other, each durable before the next."""
    with JobManager(Settings(data_dir=data_dir, database_url=url, slots=0), types()) as manager:
        began = time.perf_counter()
        for _ in range(jobs):
            manager.submit("Noop")
        return jobs / (time.perf_counter() - began)


def run(data_dir: Path, url: str, jobs: int) -> dict[str, float]:
    """Run them all in this process; returns how many a second, and milliseconds of CPU for each."""
    store = Store(url)
    with JobManager(Settings(data_dir=data_dir, database_url=url, slots=SLOTS), types()):
        wait_for(1)
        begun, began, cpu = Noop.counted, time.perf_counter(), time.process_time()
        wait_for(jobs)
        while store.count().get(("Noop", Status.COMPLETED)) != jobs:
            time.sleep(_LOOK_SECONDS)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    store.close()
    if Noop.counted != jobs:
        raise AssertionError(f"{jobs} jobs ran {Noop.counted} times")
    measured = max(1, jobs - begun)  # where there are few, all may have run by the first look
    return {"completed/s": measured / took, "CPU ms": cpu / measured * 1000}


def wait_for(jobs: int) -> None:
    """Wait until so many jobs have run."""
    deadline = time.monotonic() + 120
    while Noop.counted < jobs:
        if time.monotonic() > deadline:
            raise AssertionError(f"only {Noop.counted} jobs of {jobs} have run")
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    main()

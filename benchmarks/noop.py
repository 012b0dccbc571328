"""Fill our queue with jobs that do nothing, then run them, like the programs of the peers.

    python -m benchmarks.noop JOBS URL PROCESSES

Prints how many jobs a second were enqueued and completed, and the CPU time of a job. A job counts when its end is
recorded. Measured from the first job to the last, as with the peers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobmanager import Job, JobManager, Settings
from jobmanager.core.states import Status
from jobmanager.registry import Registry
from jobmanager.store import Store

SLOTS = 8
_LOOK_SECONDS = 0.01
#: Changes that are recorded for each job: submitted, claimed and completed.
_CHANGES = 3


class Noop(Job):
    """Only counts."""

    counted = 0
    lock = threading.Lock()  # guards counted

    def start(self) -> None:
        """Count the job."""
        with self.lock:
            Noop.counted += 1


def types() -> Registry:
    """Return a registry with this type."""
    found = Registry()
    found.register(Noop)
    return found


def main() -> None:
    """Measure, or serve as one of the processes that run the jobs."""
    if sys.argv[1] == "serve":
        serve(sys.argv[2], slots=int(sys.argv[3]))
        return
    jobs, url, processes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    told = {"enqueue/s": enqueued_per_second(url, jobs), **run(url, jobs, processes)}
    print(json.dumps(told))


def enqueued_per_second(url: str, jobs: int) -> float:
    """Submit jobs one after the other, each durable before the next; return jobs a second."""
    with managed(url, slots=0) as filled:
        began = time.perf_counter()
        for _ in range(jobs):
            filled.submit("Noop")
        return jobs / (time.perf_counter() - began)


@contextmanager
def managed(url: str, *, slots: int) -> Iterator[JobManager]:
    """Yield a manager with a temporary folder for the files of its jobs."""
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        settings = Settings(data_dir=Path(folder), database_url=url, slots=slots)
        with JobManager(settings, types()) as manager:
            yield manager


def run(url: str, jobs: int, processes: int) -> dict[str, float]:
    """Run all jobs, 8 at once in each process; return jobs a second, and the CPU milliseconds of a job."""
    store = Store(url)
    command = [sys.executable, "-m", "benchmarks.noop", "serve", url, str(SLOTS)]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(processes)
        ]
        wait_for(store, jobs + 1)
        begun, began = store.last_change(), time.perf_counter()
        wait_for(store, jobs * _CHANGES)
        while store.count() != {("Noop", Status.COMPLETED): jobs}:  # the numbers of changes may have gaps
            time.sleep(_LOOK_SECONDS)
        took = time.perf_counter() - began
        told = [json.loads(server.communicate()[0]) for server in servers]
    if sum(one["counted"] for one in told) != jobs:
        raise AssertionError(f"of {jobs} jobs, these ran: {told}")
    store.close()
    left = (jobs * _CHANGES - begun) / (_CHANGES - 1)
    return {"completed/s": left / took, "CPU ms": sum(one["cpu"] for one in told) / jobs * 1000}


def wait_for(store: Store, changes: int) -> None:
    """Block until that many changes are recorded. Raises AssertionError after 120 seconds."""
    deadline = time.monotonic() + 120
    while (seen := store.last_change()) < changes:
        if time.monotonic() > deadline:
            raise AssertionError(f"only {seen} changes of {changes} are recorded")
        time.sleep(_LOOK_SECONDS)


def serve(url: str, *, slots: int) -> None:
    """Run jobs until the input ends; print their number and the CPU seconds since the start."""
    with managed(url, slots=slots):
        cpu = time.process_time()
        sys.stdin.read()
        print(json.dumps({"counted": Noop.counted, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()

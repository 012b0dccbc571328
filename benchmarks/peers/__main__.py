"""Let one peer fill its queue with jobs that do nothing, then run them. Prints how many a second it did of each.

    BROKER=URL python -m benchmarks.peers PEER WAY JOBS

Runs in the environment of the peers. Each peer is a module `of_PEER`: `WORKERS` has the command that starts its worker,
for each way to run it; `producer()` prepares the queue and yields a function that enqueues a job.

Measured from the first job that has run to the last, without the start of a worker, which may take seconds. A worker
that fetches all jobs before it runs any calls `tally.count(0)` when it begins.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import tally

#: Longest time for a worker to run all jobs.
LONGEST_SECONDS = 120.0
_LOOK_SECONDS = 0.002


def main() -> None:
    """Measure the peer that the command line names."""
    name, way, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    peer = importlib.import_module(f"benchmarks.peers.of_{name}")
    with peer.producer() as enqueue:
        enqueued = enqueued_per_second(enqueue, jobs)
    completed = completed_per_second(peer.WORKERS[way], jobs)
    print(json.dumps({"enqueue/s": enqueued, "completed/s": completed}))


def enqueued_per_second(enqueue: Callable[[], object], jobs: int) -> float:
    """Fill the queue, one job after the other; return jobs a second."""
    began = time.perf_counter()
    for _ in range(jobs):
        enqueue()
    return jobs / (time.perf_counter() - began)


def completed_per_second(worker: Sequence[str], jobs: int) -> float:
    """Run all jobs; return jobs a second."""
    with tempfile.TemporaryDirectory(prefix="tally-") as folder, started(worker, folder) as wait_for:
        begun = wait_for(0)
        began = time.perf_counter()
        done = wait_for(jobs)
        took = time.perf_counter() - began
    if done != jobs:
        raise AssertionError(f"{jobs} jobs ran {done} times")
    # If there are few jobs, all may have run before the first look.
    return max(1, jobs - begun) / took


@contextmanager
def started(worker: Sequence[str], folder: str) -> Iterator[Callable[[int], int]]:
    """Start a worker that counts in *folder*; yield a function that waits for so many jobs and returns the count."""
    with tempfile.TemporaryFile() as log:
        environment = os.environ | {"TALLY": folder}
        process = subprocess.Popen(worker, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + LONGEST_SECONDS

        def wait_for(jobs: int) -> int:
            while (done := tally.total(Path(folder))) is None or done < jobs:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise AssertionError(f"only {done} jobs of {jobs} have run: {log.read()[-4000:].decode()}")
                time.sleep(_LOOK_SECONDS)
            return done

        try:
            yield wait_for
        finally:
            # SIGKILL, as some workers take seconds to end, and nothing is left to lose.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    main()

"""Has one peer fill its queue with jobs that do nothing, then run them; prints how many a second it did of either.

    BROKER=URL python -m benchmarks.peers PEER WAY JOBS

in the peers' environment. Each peer is a module `of_PEER`. `WORKERS` are the commands by which its own worker is
started, one for each way of running it; `producer()` makes the queue ready and gives out what puts a job into it.

Measured is from the first job that has run to the last: a worker's start, which may take seconds, is not in it. One
that takes up all there is before it runs any says when it begins to.
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

#: How long a worker may take for all of its jobs.
LONGEST_SECONDS = 120.0
_LOOK_SECONDS = 0.002


def main() -> None:
    """Measure the peer that is named."""
    name, way, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    peer = importlib.import_module(f"benchmarks.peers.of_{name}")
    with peer.producer() as enqueue:
        enqueued = enqueued_per_second(enqueue, jobs)
    completed = completed_per_second(peer.WORKERS[way], jobs)
    print(json.dumps({"enqueue/s": enqueued, "completed/s": completed}))


def enqueued_per_second(enqueue: Callable[[], object], jobs: int) -> float:
    """Fill the queue, one job after the other."""
    began = time.perf_counter()
    for _ in range(jobs):
        enqueue()
    return jobs / (time.perf_counter() - began)


def completed_per_second(worker: Sequence[str], jobs: int) -> float:
    """Empty the queue."""
    with tempfile.TemporaryDirectory(prefix="tally-") as folder, started(worker, folder) as wait_for:
        begun = wait_for(0)
        began = time.perf_counter()
        done = wait_for(jobs)
        took = time.perf_counter() - began
    if done != jobs:
        raise AssertionError(f"{jobs} jobs ran {done} times")
    # Where there are few, all may have run by the first look.
    return max(1, jobs - begun) / took


@contextmanager
def started(worker: Sequence[str], folder: str) -> Iterator[Callable[[int], int]]:
    """Start a worker that counts in *folder*; gives out what waits for so many jobs and returns how many have run."""
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
            # Nothing is left to be lost, and some take seconds to end: none of them is waited for.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    main()

"""Measure how long jobs take to start, halt and resume. Prints a JSON object, in milliseconds.

    python -m benchmarks.steered run URL FOLDER TIMES
    python -m benchmarks.steered steer URL FOLDER TIMES JOB …

`run` submits jobs to an idle manager. Then it runs eight jobs that reach a checkpoint each millisecond, and halts and
resumes them one after the other: from its own process, and with `steer` from a process that runs no jobs.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from benchmarks.frame import ask, spread
from jobmanager import Job, JobManager, Settings
from jobmanager.core.states import Status
from jobmanager.registry import Registry

SLOTS = 8
#: Pause before each request.
_PAUSE_SECONDS = 0.003
_LONGEST_SECONDS = 5.0
_CHECKPOINTS = 200_000

Figures = dict[str, float]


class Ticking(Job):
    """Reaches a checkpoint every millisecond, until it is stopped."""

    def start(self) -> None:
        """Count milliseconds."""
        step = self.cursor or 0
        while True:
            time.sleep(0.001)
            step += 1
            self.checkpoint(cursor=step, done=step)


class Noting(Job):
    """Stores the time of its start."""

    started = threading.Event()
    started_at = 0.0

    def start(self) -> None:
        """Store the time and notify the thread that waits."""
        Noting.started_at = time.perf_counter()
        self.started.set()


class Checking(Job):
    """Measures checkpoints at which there is nothing to do."""

    def start(self) -> dict[str, float]:
        """Return the microseconds that one takes."""
        steps = range(_CHECKPOINTS)
        began = time.perf_counter()
        for _ in steps:
            pass
        empty = time.perf_counter() - began
        began = time.perf_counter()
        for step in steps:
            self.checkpoint(cursor=step, done=step)
        took = time.perf_counter() - began
        return {"checkpoint": (took - empty) / _CHECKPOINTS * 1e6}


def types() -> Registry:
    """Return the job types of this benchmark."""
    found = Registry()
    for job_type in (Ticking, Noting, Checking):
        found.register(job_type)
    return found


def main() -> None:
    """Run the command that is given, and print the figures."""
    what, url, folder, times, *ids = sys.argv[1:]
    settings = Settings(data_dir=Path(folder), database_url=url, slots=SLOTS if what == "run" else 0)
    with JobManager(settings, types()) as manager:
        told = run(manager, int(times)) if what == "run" else steer(manager, ids, int(times), "elsewhere")
    print(json.dumps(told))


def run(manager: JobManager, times: int) -> Figures:
    """Measure everything, with requests from this process and from another."""
    figures = spread([start_once(manager) for _ in range(times)], "start ") | checkpoint(manager)
    ids = [manager.submit("Ticking").id for _ in range(SLOTS)]
    for job_id in ids:
        manager.wait(job_id, unless=(Status.SUBMITTED,), wait=_LONGEST_SECONDS)
    figures |= steer(manager, ids, times, "here")
    url, folder = manager.settings.database_url, str(manager.settings.data_dir)
    figures |= ask([sys.executable, "-m", "benchmarks.steered", "steer", url, folder, str(times), *ids])
    for job_id in ids:
        manager.stop(job_id, wait=_LONGEST_SECONDS)
    return figures


def start_once(manager: JobManager) -> float:
    """Return the seconds from the call of submit to the first line of the job."""
    time.sleep(0.01)
    Noting.started.clear()
    began = time.perf_counter()
    job = manager.submit("Noting")
    if not Noting.started.wait(_LONGEST_SECONDS):
        raise AssertionError(f"job {job.id} did not start")
    took = Noting.started_at - began
    manager.wait(job.id, unless=(Status.SUBMITTED, Status.RUNNING), wait=_LONGEST_SECONDS)
    return took


def checkpoint(manager: JobManager) -> Figures:
    """Return the duration of a checkpoint without a pending request, in microseconds."""
    job = manager.submit("Checking")
    ended = manager.wait(job.id, unless=(Status.SUBMITTED, Status.RUNNING), wait=30)
    if not isinstance(ended.result, dict):
        raise AssertionError(f"job {job.id} is {ended.status}: {ended.error}")
    return {name: float(value) for name, value in ended.result.items()}


def steer(manager: JobManager, ids: list[str], times: int, where: str) -> Figures:
    """Halt and resume the jobs one after the other. Wait each time until the new status is recorded."""
    halts: list[float] = []
    resumes: list[float] = []
    for number in range(times):
        job_id = ids[number % len(ids)]
        for steered, reached, took in ((manager.halt, "halted", halts), (manager.resume, "running", resumes)):
            time.sleep(_PAUSE_SECONDS)
            began = time.perf_counter()
            if steered(job_id, wait=_LONGEST_SECONDS).status != reached:
                raise AssertionError(f"job {job_id} was not {reached} within {_LONGEST_SECONDS:g} seconds")
            took.append(time.perf_counter() - began)
    return spread(halts, f"halt {where} ") | spread(resumes, f"resume {where} ")


if __name__ == "__main__":
    main()

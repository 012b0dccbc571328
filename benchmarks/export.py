"""How fast Export is against the database's own tool, side by side on the same rows.

Exports a million rows by date range, in turns with `sqlite3 -csv`, so that a slow moment of the machine meets both;
and two exports at once, in two threads. The job is driven alone: no store, but every chunk is flushed and synced.
Begins no further round after three quarters of a minute.

    python benchmarks/export.py [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import logging
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobmanager.config import Settings
from jobmanager.job import Job
from jobmanager.jobs.export import Export
from jobmanager.registry import parse_args
from jobmanager.sample import make_sample
from jobmanager.signals import Signals

EVERYTHING = {"from_date": "2023-01-01", "to_date": "2024-12-31"}
QUERY = (
    "SELECT * FROM responses WHERE submitted_at >= '2023-01-01' AND submitted_at < '2025-01-01' "
    "ORDER BY submitted_at, id"
)
#: What is compared with what, and the ratio of speeds that it should reach.
RATIOS = (
    ("Export csv", "sqlite3 -csv", 1.0),
    ("two Exports at once", "Export csv", 1.7),
    ("Export parquet", "Export csv", 0.9),
)
LONGEST_SECONDS = 45.0
FORMATS = ("csv", "jsonl", "parquet")


class Keeper:
    """Saves nowhere, but has every checkpoint flushed, as one that is saved would be."""

    def __init__(self, folder: Path) -> None:
        self.signals = Signals()
        self.due = 0.0
        self._folder = folder

    def meet(self, job: Job) -> None:
        job.flush()

    def folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder


def export(settings: Settings, name: str, file_format: str = "csv") -> None:
    """Export everything, and remove the file."""
    job = Export(
        Keeper(settings.data_dir / name),
        job_id=name,
        attempt=1,
        args=parse_args(Export, EVERYTHING | {"format": file_format}, settings),
        cursor=None,
        settings=settings,
        log=logging.getLogger("benchmark"),
    )
    job.start()
    job.clean()


def two_exports(settings: Settings) -> None:
    """Export everything twice at once, in two threads."""
    threads = [threading.Thread(target=export, args=(settings, f"thread-{number}")) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def cli(settings: Settings) -> None:
    """Export everything with the database's own tool."""
    target = settings.data_dir / "cli.csv"
    with open(target, "wb") as file:
        subprocess.run(["sqlite3", "-csv", "-header", settings.data_dir / "sample.db", QUERY], stdout=file, check=True)
    target.unlink()


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(settings: Settings, rows: int, rounds: int) -> None:
    """Print rows a second, medians of the rounds, and what the goals are about: ratios."""
    ways: dict[str, Callable[[], None]] = {
        "Export csv": lambda: export(settings, "csv"),
        "two Exports at once": lambda: two_exports(settings),
        "Export jsonl": lambda: export(settings, "jsonl", "jsonl"),
        "Export parquet": lambda: export(settings, "parquet", "parquet"),
    }
    for file_format in FORMATS:
        export(settings, file_format, file_format)
        # The most so far, in a process that has imported everything; two at once, which come later, take more.
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{f'most memory, {file_format}':34} {memory:.0f} MB (goal: 200)")
    if shutil.which("sqlite3"):
        ways = {"sqlite3 -csv": lambda: cli(settings)} | ways
    else:
        print("there is no sqlite3 here to be compared with; it is in the package sqlite3 of most systems")
    times = in_turns(ways, rounds)
    speed = {name: rows / statistics.median(found) for name, found in times.items()}
    speed["two Exports at once"] *= 2
    for name, found in speed.items():
        print(f"{name:20} {found:>12,.0f} rows/s")
    for one, other, goal in RATIOS:
        if other in speed:
            # Of the times of each round, not of all: the machine may be slower in one round than in another.
            factor = 2 if one.startswith("two") else 1
            ratio = statistics.median(factor * b / a for a, b in zip(times[one], times[other], strict=True))
            print(f"{f'{one} / {other}':34} {ratio:.2f}   (goal: {goal:.2f})")
    print(f"{'most memory, two at once':34} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def in_turns(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return how many seconds each way took in each round, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() - began > LONGEST_SECONDS:
            print(f"stopped after {number - 1} rounds: this machine is slow")
            break
        for name, work in ways.items():
            took = seconds(work)
            if number:
                times[name].append(took)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        settings = Settings(data_dir=Path(folder))
        print(f"making {options.rows:,} rows ...", flush=True)
        print(f"made in {seconds(lambda: make_sample(settings.data_dir, options.rows)):.1f} s", flush=True)
        measure(settings, options.rows, options.rounds)


if __name__ == "__main__":
    main()

"""Measure how fast a job starts, halts and resumes, and the cost of checkpoints, which make this possible."""

from __future__ import annotations

import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from benchmarks.frame import Figure, Goal, Result, ask, figure, in_turns_within, versions_of
from benchmarks.peers import servers

ON_SQLITE, ON_POSTGRES = "ours, SQLite", "ours, PostgreSQL"
ROUNDS = 3
#: No round begins that would end after this.
LONGEST_SECONDS = 85.0
#: Repetitions of each request in a round.
TIMES = 100
TIMES_OF_QUICK = 30
#: Goals: most milliseconds at the median (None: not a goal) and at the 99th percentile.
GOALS = {
    "start": (2.0, 10.0),
    "halt here": (None, 10.0),
    "resume here": (None, 10.0),
    "halt elsewhere": (None, 60.0),
    "resume elsewhere": (None, 60.0),
}
TITLES = {
    "start": "From the call of submit at an idle manager to the first line of the job",
    "halt here": "Halt, asked in the process that runs the job, until it is recorded as halted",
    "resume here": "Resume, asked in the process that runs the job, until it runs",
    "halt elsewhere": "Halt, asked in another process, until it is recorded as halted",
    "resume elsewhere": "Resume, asked in another process, until it runs",
}
CHECKPOINT = "checkpoint() where nothing is asked for and nothing due"
HOW = f"""
Each round is a new process on a new database: SQLite with synchronous=FULL, PostgreSQL with fsync and
synchronous_commit on. {TIMES} jobs are submitted one after the other, each when the last one has ended. Then eight jobs
run at once, and reach a checkpoint each millisecond. They are halted and resumed one after the other, {TIMES} times, by
a thread of that process and by a process that runs no jobs. A time ends when the requester sees the new, committed
status.
""".strip()


def measure(*, quick: bool) -> Result:
    """Run the benchmark. Takes about a minute, *quick* a few seconds."""
    times = TIMES_OF_QUICK if quick else TIMES
    with ExitStack() as stack:
        server = stack.enter_context(servers.postgres())
        ways = {
            ON_SQLITE: lambda: steered(servers.sqlite(), times),
            ON_POSTGRES: lambda: steered(servers.database(server), times),
        }
        told = in_turns_within(ways, 1 if quick else ROUNDS, LONGEST_SECONDS)
    times_of = partial(figure, told, unit="ms", is_less_better=True)
    figures = {
        f"{what} {part}": times_of(key=f"{what} {part}", title=f"{title}: {part}", is_drawn=part == "p99")
        for what, title in TITLES.items()
        for part in ("p50", "p99")
    }
    checkpoint = figure(told, "checkpoint", CHECKPOINT, "µs", is_less_better=True)
    return Result(
        name="control",
        title="Start, halt, resume",
        how=HOW,
        figures=[*figures.values(), checkpoint],
        goals=[*goals_of(figures), goal_of(checkpoint, "checkpoint()", 1.0, ON_SQLITE)],
        versions=versions_of("sqlalchemy", "psycopg"),
    )


def steered(broker: AbstractContextManager[str], times: int) -> dict[str, float]:
    """Measure everything once, in new processes on a new database."""
    with broker as url, tempfile.TemporaryDirectory(prefix="steered-") as folder:
        return ask([sys.executable, "-m", "benchmarks.steered", "run", url, folder, str(times)])


def goals_of(figures: dict[str, Figure]) -> list[Goal]:
    """Return the goals: all on SQLite, and those from another process on PostgreSQL, too."""
    return [
        goal_of(figures[f"{what} {part}"], f"{what}, {part}", most, where)
        for what, wanted in GOALS.items()
        for part, most in zip(("p50", "p99"), wanted, strict=True)
        for where in ((ON_SQLITE, ON_POSTGRES) if "elsewhere" in what else (ON_SQLITE,))
        if most is not None
    ]


def goal_of(found: Figure, what: str, most: float, where: str) -> Goal:
    """Return the goal that *what* takes *most* at most, on the database *where*."""
    return Goal(text=f"{what}, {where}", value=found.median(where), wanted=most, unit=found.unit, is_at_most=True)

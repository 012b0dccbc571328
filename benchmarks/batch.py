"""Measure how many jobs a second one client submits durably in batches: POST /jobs/batch."""

from __future__ import annotations

import http.client
import json
import time

from benchmarks import served
from benchmarks.frame import Goal, Result, figure, in_turns_within, versions_of

OURS = "ours, one job a line"
WANTED = 45_000.0
ROUNDS = 5
#: No round begins that would end after this.
LONGEST_SECONDS = 28.0
#: Batches in a round, and jobs in each batch.
BATCHES, JOBS = 5, 10_000
BATCHES_OF_QUICK = 1
HOW = f"""
One connection sends {BATCHES} batches of {JOBS:,} jobs as NDJSON, one after the other, to a new server with one worker
of 16 threads, in each of up to {ROUNDS} rounds. A response, with all ids, comes when all of the jobs and their first
changes are durable (SQLite, synchronous=FULL). Measured from the first byte sent to the last response. The first batch
of a server is not counted: it includes work that is done only once.
""".strip()


def measure(*, quick: bool) -> Result:
    """Run the benchmark. Takes less than half a minute, *quick* a few seconds."""
    batches = BATCHES_OF_QUICK if quick else BATCHES
    told = in_turns_within({OURS: lambda: submit(batches)}, 1 if quick else ROUNDS, LONGEST_SECONDS)
    rates = figure(told, "jobs/s", f"Jobs submitted in batches of {JOBS:,}", "jobs/s")
    return Result(
        name="batch",
        title="Submission in batches",
        how=HOW,
        figures=[rates],
        goals=[Goal(text="durable jobs a second", value=rates.median(OURS), wanted=WANTED, unit="jobs/s")],
        versions=versions_of("flask", "gunicorn", "sqlalchemy"),
    )


def submit(batches: int) -> dict[str, float]:
    """Send batches to a new server, after one that is not counted; return jobs a second."""
    job = {"type": "Simple", "args": {"steps": 5}}
    body = "".join(f"{json.dumps(job)}\n" for _ in range(JOBS)).encode()
    with served.ours(workers=1, threads=16) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        send(connection, body)
        began = time.perf_counter()
        answers = [send(connection, body) for _ in range(batches)]
        took = time.perf_counter() - began
        connection.close()
    for answer in answers:
        assert len(json.loads(answer)["ids"]) == JOBS
    return {"jobs/s": batches * JOBS / took}


def send(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    """Send one batch and return the body of the response. Raises AssertionError if it was not accepted."""
    connection.request("POST", "/jobs/batch", body, {"Content-Type": "application/x-ndjson"})
    answer = connection.getresponse()
    told = answer.read()
    if answer.status != http.client.ACCEPTED:
        raise AssertionError(f"the batch was answered with {answer.status}: {told[:500].decode()}")
    return told

"""Clients submit and steer at random while faults strike at random: whatever happens, the records are right.

Processes are killed; PostgreSQL is started anew, and its connections are cut.
CAMPAIGN_ROUNDS, the number of faults, and CAMPAIGN_SEED make a longer campaign, or the same one again: choices repeat,
their timing does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import psycopg
import pytest
from gunicorn_server import Line, Server, until

from jobmanager.states import EXCEPTIONS, TRANSITIONS, Action, Fact, Status

ROUNDS = int(os.environ.get("CAMPAIGN_ROUNDS", "50"))
CLIENTS = 4
#: Jobs that a client has going at once, at most.
JOBS_OF_A_CLIENT = 12


# Killing the only worker takes longest, since all waits for the next start.
@pytest.mark.parametrize(
    ("workers", "rounds"), [(1, ROUNDS // 5), (2, ROUNDS * 4 // 5)], ids=["one worker", "two workers"]
)
def test_whatever_is_killed_no_job_is_lost_run_twice_or_stuck(
    make_server: Callable[..., Server], workers: int, rounds: int
) -> None:
    server = make_server(workers=workers, MAX_CRASHES=10_000, PARK_SECONDS=0.3).start()

    run_campaign(server, rounds, Faults(server))


def test_whatever_happens_to_postgresql_too_no_job_is_lost_run_twice_or_stuck(
    make_server: Callable[..., Server], postgres: Any, postgres_url: str
) -> None:
    server = make_server(workers=3, DATABASE_URL=postgres_url, MAX_CRASHES=10_000, PARK_SECONDS=0.3).start()

    run_campaign(server, ROUNDS // 2, FaultsOfPostgres(server, postgres, postgres_url))


def run_campaign(server: Server, rounds: int, faults: Faults) -> None:
    """Have clients at work while faults strike, then let everything settle, and check it all."""
    seed = int(os.environ.get("CAMPAIGN_SEED", random.randrange(2**32)))
    print(f"CAMPAIGN_SEED={seed} CAMPAIGN_ROUNDS={ROUNDS}")
    rng = random.Random(seed)
    clients = [Client(server, str(number), random.Random(rng.random())) for number in range(CLIENTS)]

    for client in clients:
        client.start()
    try:
        for _ in range(rounds):
            time.sleep(rng.uniform(0.05, 0.6))  # at a moment that has to do with nothing
            faults.strike(rng)
            _check_records(server, clients)
    finally:
        for client in clients:
            client.end()
    _settle(server, clients, rng)

    changes = _check_records(server, clients)
    jobs = server.rows("SELECT * FROM jobs")
    for job in jobs:
        _check_end(server, job)
    _check_stops(clients, jobs)
    _print_figures(faults.struck, clients, jobs, changes)


class Faults:
    """What befalls a server; each returns when there is somebody who answers."""

    def __init__(self, server: Server) -> None:
        self.struck: Counter[str] = Counter()
        self._server = server

    def strike(self, rng: random.Random) -> None:
        """Let one thing happen."""
        names, weights = zip(*self.choice().items(), strict=True)
        name = rng.choices(names, weights)[0]
        getattr(self, name)(rng)
        self.struck[name] += 1
        until(self._server.answers, self._server.log)  # of the workers, some may be at their start yet

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        if self._server.workers == 1:
            return {"kill_everything": 1}
        return {"kill_a_worker": 3, "kill_everything": 1}

    def kill_a_worker(self, rng: random.Random) -> None:
        if workers := self._server.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)

    def kill_everything(self, rng: random.Random) -> None:
        self._server.restart()


class FaultsOfPostgres(Faults):
    """What befalls a server and its database."""

    def __init__(self, server: Server, postgres: Any, url: str) -> None:
        super().__init__(server)
        self._postgres = postgres
        self._url = url

    def choice(self) -> dict[str, float]:
        """Return what may happen, and how often."""
        return {"kill_a_worker": 5, "kill_everything": 1, "restart_postgres": 1, "cut": 2}

    def restart_postgres(self, rng: random.Random) -> None:
        self._postgres.stop()
        time.sleep(rng.uniform(0, 0.5))
        self._postgres.ensure_postgres_running()

    def cut(self, rng: random.Random) -> None:
        """Cut every connection to the database."""
        mine = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {mine}")


class Client(threading.Thread):
    """Submits and steers at random, and remembers what was acknowledged."""

    def __init__(self, server: Server, name: str, rng: random.Random) -> None:
        super().__init__(name=f"client-{name}", daemon=True)
        self.submitted: dict[str, str] = {}  # tag to id
        self.stopped: set[str] = set()  # acknowledged, so that they have to end so
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []  # answers that nobody should ever get
        self._http = httpx.Client(base_url=server.url, timeout=10, headers={"Connection": "close"})
        self._rng = rng
        self._ending = threading.Event()
        self._tags = 0

    def run(self) -> None:
        while not self._ending.wait(self._rng.uniform(0, 0.03)):
            try:
                self._act()
            except httpx.TransportError:
                self.answers["none"] += 1
                self._ending.wait(0.05)
            except Exception as error:
                self.wrong.append(repr(error))

    def end(self) -> None:
        """Ask nothing more."""
        self._ending.set()
        self.join(20)
        self._http.close()

    def _act(self) -> None:
        if not self.submitted or self._rng.random() < 0.15:
            self._submit()
            return
        recent = list(self.submitted.values())[-JOBS_OF_A_CLIENT:]
        job = self._rng.choice(recent)
        action = self._rng.choices(["halt", "resume", "stop", "details"], [4, 5, 1, 3])[0]
        answer = self._http.get(f"/{action}/{job}")
        self._note(action, answer, (200, 409, 503))
        if action == "stop" and answer.status_code == 200:
            self.stopped.add(job)

    def _submit(self) -> None:
        self._tags += 1
        tag = f"{self.name}-{self._tags}"
        name = self._rng.choices(["Units", "Flaky"], [5, 1])[0]
        args = {"units": self._rng.randint(5, 120), "seconds": self._rng.choice([0.001, 0.01, 0.02]), "tag": tag}
        answer = self._http.post("/submit", json={"Type": name, "args": args})
        self._note("submit", answer, (200, 503))
        if answer.status_code == 200:
            self.submitted[tag] = answer.json()["jobID"]

    def _note(self, action: str, answer: httpx.Response, expected: tuple[int, ...]) -> None:
        self.answers[f"{action} {answer.status_code}"] += 1
        if answer.status_code not in expected:
            self.wrong.append(f"{action}: {answer.status_code} {answer.text}")


def _settle(server: Server, clients: list[Client], rng: random.Random) -> None:
    """Wait for all that is under way, then have halted and failed jobs stopped or resumed until each has ended."""

    def open_jobs() -> list[dict[str, Any]]:
        return server.rows("SELECT * FROM jobs WHERE status NOT IN ('completed', 'stopped', 'failed', 'halted')")

    def is_quiet() -> bool:
        return not open_jobs()

    until(is_quiet, lambda: f"nothing is stuck, but {open_jobs()}\n{server.log()}", seconds=60)
    for job in server.rows("SELECT id, status FROM jobs WHERE status IN ('halted', 'failed')"):
        if job["status"] == "failed" or rng.random() < 0.5:
            server.client.get(f"/stop/{job['id']}")
            clients[0].stopped.add(job["id"])
        else:
            server.client.get(f"/resume/{job['id']}")
    until(is_quiet, lambda: f"nothing is stuck, but {open_jobs()}\n{server.log()}", seconds=60)


def _check_records(server: Server, clients: list[Client]) -> int:
    """Check what the store's file holds; returns how many changes it has recorded."""
    wrong = [answer for client in clients for answer in client.wrong]
    assert not wrong, f"{wrong[:5]}\n{server.log()}"
    # Copies first: what is acknowledged from here on may be missing in what is read next.
    acknowledged = {tag: job for client in clients for tag, job in client.submitted.copy().items()}
    rows = server.rows(
        "SELECT jobs.id, args, status, jobs.attempt AS attempt_now, owner, seq, action, from_status, to_status,"
        " changes.attempt, asked_at_change, at FROM jobs LEFT JOIN"
        " (SELECT *, asked_at AS asked_at_change FROM changes) AS changes ON changes.job_id = jobs.id ORDER BY seq"
    )
    by_job: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_job.setdefault(row["id"], []).append(row)
    tags = Counter(_args(changes[0])["tag"] for changes in by_job.values())
    assert all(count == 1 for count in tags.values()), tags.most_common(3)
    assert set(acknowledged) <= set(tags)
    for job in acknowledged.values():
        assert job in by_job
    for changes in by_job.values():
        _check_path(changes)
    return len(rows)


def _args(row: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a job; SQLite has them as text."""
    args = row["args"]
    return json.loads(args) if isinstance(args, str) else args


def _check_path(changes: list[dict[str, Any]]) -> None:
    """Check that what happened to one job is a path through the table, and that the job stands at its end."""
    first, last = changes[0], changes[-1]
    assert (first["action"], first["from_status"], first["to_status"]) == ("submit", None, "submitted"), changes
    for before, change in pairwise(changes):
        status, action = Status(change["from_status"]), Action(change["action"])
        assert status == before["to_status"], f"{change} follows {before}"
        fact, otherwise = EXCEPTIONS.get((status, action), (None, None))
        if fact is Fact.NEVER_BEGAN and change["attempt"] == 0:
            assert change["to_status"] == otherwise, change
        else:
            assert change["to_status"] == TRANSITIONS[status, action], change
        assert change["attempt"] == before["attempt"] + (action is Action.CLAIM), f"{change} follows {before}"
        assert change["asked_at_change"] <= change["at"], change
    assert (last["to_status"], last["attempt"]) == (last["status"], last["attempt_now"]), changes
    if last["status"] in ("completed", "stopped", "failed"):
        assert last["owner"] is None, changes


def _check_end(server: Server, job: dict[str, Any]) -> None:
    """Check what a job left behind, and what its attempts told."""
    told = f"{job}\n{server.changes(job['id'])}\n{server.trace(job['id'])}"
    trace = server.trace(job["id"])
    _check_attempts(trace, told)
    assert job["owner"] is None, told
    if job["status"] == "completed":
        units = _args(job)["units"]
        assert server.units(job["id"]) == list(range(units)), told
        assert [line.what for line in trace][-1] == "end", told
    elif job["status"] == "stopped":
        assert not server.folder(job["id"]).exists(), told
        assert job["attempt"] == 0 or [line.what for line in trace][-1] == "cleaned", told
    else:
        assert (job["type"], job["status"]) == ("Flaky", "failed"), told


def _check_attempts(trace: list[Line], told: str) -> None:
    """Check that attempts do not overlap, that none begins behind an earlier one, and that each unit has its turn."""
    newest, cursor, unit = 0, 0, -1
    for line in trace:
        if line.what not in ("begin", "tick", "end"):
            continue
        assert line.attempt >= newest, f"{line} came after attempt {newest} had begun: {told}"
        newest = line.attempt
        if line.what == "begin":
            # It goes on from a checkpoint: behind the last one, and not beyond what was done.
            assert cursor <= line.unit <= unit + 1, f"{line} does not go on from {cursor} to {unit + 1}: {told}"
            cursor, unit = line.unit, line.unit - 1
        elif line.what == "tick":
            # A unit that raised is done again.
            assert line.unit == unit + 1, f"{line} is not unit {unit + 1}: {told}"
            unit = line.unit


def _check_stops(clients: list[Client], jobs: list[dict[str, Any]]) -> None:
    """Check that every stop that was acknowledged has come true."""
    status = {job["id"]: job["status"] for job in jobs if job["type"] != "Flaky"}
    for client in clients:
        assert {status.get(job, "stopped") for job in client.stopped} <= {"stopped"}


def _print_figures(struck: Counter[str], clients: list[Client], jobs: list[dict[str, Any]], changes: int) -> None:
    answers: Counter[str] = sum((client.answers for client in clients), Counter())
    controls = sum(count for name, count in answers.items() if name.split()[0] in ("halt", "resume", "stop"))
    statuses = dict(Counter(job["status"] for job in jobs))
    print(f"{struck.total()} faults survived: {dict(struck)}")
    print(f"{answers['submit 200']} submissions acknowledged, {len(jobs)} stored; {controls} controls answered")
    print(f"{changes} changes checked; {sum(job['attempt'] for job in jobs)} attempts; {statuses}; {dict(answers)}")

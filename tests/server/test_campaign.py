"""Clients submit and steer at random while faults strike at random: whatever happens, the records are right.

Which faults there are is told in faults.py, what is right in history.py.
CAMPAIGN_ROUNDS, the number of faults, and CAMPAIGN_SEED make a longer campaign, or the same one again: choices repeat,
their timing does not.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import Faults, FaultsOfOneWorker, FaultsOfPostgres, FaultsOfTwoWorkers, FaultsOfVolume
from gunicorn_server import Server, until
from history import check_cursors, check_end, check_records, note_cursors

from jobmanager.jobs.export.sample import make_sample

ROUNDS = int(os.environ.get("CAMPAIGN_ROUNDS", "30"))
CLIENTS = 4
#: Jobs that a client has going at once, at most.
JOBS_OF_A_CLIENT = 12
#: Rows of the dataset that is exported.
ROWS = 20_000
FORMATS = ("csv", "jsonl", "parquet")
LAST_DAYS = ("2023-06-30", "2024-12-31")
#: What a client of a campaign submits, and how often. Where a process is frozen, only what is fenced is exact.
TYPES = {"Fenced": 5, "Flaky": 1, "Export": 2}

Undisturbed = dict[tuple[str, str], str]
#: Keeps what is printed at the end of all tests.
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the configuration of a sample dataset."""
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, ROWS)
    return folder / "datasets.toml"


@pytest.fixture
def campaign(make_server: Callable[..., Server], datasets: Path) -> Callable[..., Server]:
    """Return what starts a server for a campaign."""

    def start(**settings: object) -> Server:
        server = make_server(DATASETS=datasets, MAX_CRASHES=10_000, PARK_SECONDS=0.3, **settings)
        # Exports of many small chunks last for long enough to be struck.
        server.environment["SERVED_CHUNK_ROWS"] = "200"
        return server.start()

    return start


def test_whatever_is_killed_no_job_is_lost_run_twice_or_stuck(
    campaign: Callable[..., Server], record_property: Record
) -> None:
    # Killing the only worker takes longest, since all waits for the next start.
    server = campaign(workers=1)

    record_property(
        "faults survived", run_campaign(server, ROUNDS // 5, FaultsOfOneWorker(server), TYPES | {"Units": 3})
    )


def test_whatever_happens_to_workers_and_volume_no_job_is_lost_run_twice_or_stuck(
    mount: Callable[[int], Path], campaign: Callable[..., Server], record_property: Record
) -> None:
    kind: type[Faults] = FaultsOfVolume
    try:
        mount(256 + 3 * ROUNDS)
    except OSError as error:
        print(f"No volume is filled: {error}")
        kind = FaultsOfTwoWorkers
    server = campaign(data="volume", workers=2)

    record_property("faults survived", run_campaign(server, ROUNDS * 4 // 5, kind(server), TYPES))


def test_whatever_happens_to_postgresql_too_no_job_is_lost_run_twice_or_stuck(
    campaign: Callable[..., Server], postgres: Any, postgres_url: str, record_property: Record
) -> None:
    server = campaign(workers=3, DATABASE_URL=postgres_url)

    record_property(
        "faults survived", run_campaign(server, ROUNDS // 2, FaultsOfPostgres(server, postgres, postgres_url), TYPES)
    )


def run_campaign(server: Server, rounds: int, faults: Faults, types: dict[str, int]) -> dict[str, int]:
    """Have clients at work while faults strike, then let everything settle, check it all, and return what struck."""
    seed = int(os.environ.get("CAMPAIGN_SEED", random.randrange(2**32)))
    print(f"CAMPAIGN_SEED={seed} CAMPAIGN_ROUNDS={ROUNDS}")
    rng = random.Random(seed)
    note_cursors(server)
    undisturbed = _export_undisturbed(server)
    clients = [Client(server, number, random.Random(rng.random()), types) for number in range(CLIENTS)]

    for client in clients:
        client.start()
    try:
        for _ in range(rounds):
            time.sleep(rng.uniform(0.05, 0.6))  # at a moment that has to do with nothing
            faults.strike(rng)
            _check_so_far(server, clients, faults)
    finally:
        for client in clients:
            client.end()
    _until_quiet(server, but_retries=True)
    faults.end()
    _settle(server, rng, clients)

    changes = _check_so_far(server, clients, faults)
    cursors = check_cursors(server)
    jobs = server.rows("SELECT * FROM jobs")
    late = sum(check_end(server, job, undisturbed) for job in jobs)
    _check_stops(clients, jobs)
    _print_figures(faults.struck, clients, jobs)
    (restarted,) = server.rows("SELECT count(*) AS exports FROM log_lines WHERE message LIKE ?", "%export starts over%")
    print(f"{restarted['exports']} exports found their part damaged, and started over")
    print(f"{changes} changes checked; {cursors} saved cursors; {late} lines told by attempts that had lost their job")
    return dict(faults.struck)


class Client(threading.Thread):
    """Submits and steers at random, and remembers what was acknowledged."""

    def __init__(self, server: Server, number: int, rng: random.Random, types: dict[str, int]) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.submitted: dict[str, str] = {}  # tag to id
        self.stopped: set[str] = set()  # acknowledged, so that they have to end so
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []  # answers that nobody should ever get
        self._http = httpx.Client(base_url=server.url, timeout=10, headers={"Connection": "close"})
        self._rng = rng
        self._number = number
        self._types = types
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
        (name,) = self._rng.choices(list(self._types), list(self._types.values()))
        tag, args = self._export() if name == "Export" else self._units()
        answer = self._http.post("/submit", json={"Type": name, "args": args})
        self._note("submit", answer, (200, 503))
        if answer.status_code == 200:
            self.submitted[tag] = answer.json()["jobID"]

    def _units(self) -> tuple[str, dict[str, Any]]:
        tag = f"{self._number}-{self._tags}"
        args = {"units": self._rng.randint(5, 120), "seconds": self._rng.choice([0.001, 0.01, 0.02]), "tag": tag}
        return tag, args

    def _export(self) -> tuple[str, dict[str, Any]]:
        # Before the first row, so that the file does not depend on it.
        tag = f"{1900 + self._number}-01-{1 + self._tags // 1440:02}T{self._tags // 60 % 24:02}:{self._tags % 60:02}"
        return tag, {
            "from_date": tag,
            "to_date": self._rng.choice(LAST_DAYS),
            "format": self._rng.choice(FORMATS),
        }

    def _note(self, action: str, answer: httpx.Response, expected: tuple[int, ...]) -> None:
        self.answers[f"{action} {answer.status_code}"] += 1
        if answer.status_code not in expected:
            self.wrong.append(f"{action}: {answer.status_code} {answer.text}")


def _export_undisturbed(server: Server) -> Undisturbed:
    """Return the SHA-256 of what there is to export, by format and last day, from exports that nothing interrupts."""
    wanted = [(name, day) for name in FORMATS for day in LAST_DAYS]
    jobs = {
        (name, day): server.submit("Export", from_date=f"18{number:02}-01-01", to_date=day, format=name)
        for number, (name, day) in enumerate(wanted)
    }
    server.until_status("completed", *jobs.values(), seconds=60)
    return {key: server.details(job)["result"]["sha256"] for key, job in jobs.items()}


def _settle(server: Server, rng: random.Random, clients: list[Client]) -> None:
    """Wait for all that is under way, then have halted and failed jobs stopped or resumed until each has ended."""
    _until_quiet(server)
    for job in server.rows("SELECT id, type, status, error FROM jobs WHERE status IN ('halted', 'failed')"):
        has_failed = job["status"] == "failed"
        # Jobs that fail by themselves might for ever; others only for want of room, which there is again.
        assert not has_failed or job["type"] == "Flaky" or "space left" in job["error"], job
        if (has_failed and job["type"] == "Flaky") or rng.random() < 0.5:
            server.ask("stop", job["id"])
            clients[0].stopped.add(job["id"])
        else:
            server.ask("resume", job["id"])
    _until_quiet(server)


def _until_quiet(server: Server, *, but_retries: bool = False) -> None:
    """Wait until every job has ended or is halted; *but_retries*: or waits for the time at which it is tried again."""
    retries = "AND NOT (status IN ('submitted', 'stopping') AND failures > 0 AND owner IS NULL)" if but_retries else ""
    rest = f"SELECT * FROM jobs WHERE status NOT IN ('completed', 'stopped', 'failed', 'halted') {retries}"

    def is_quiet() -> bool:
        return not server.rows(rest)

    until(is_quiet, lambda: f"nothing is stuck, but {server.rows(rest)}\n{server.log()}", seconds=60)


def _check_so_far(server: Server, clients: list[Client], faults: Faults) -> int:
    """Check what the store holds by now; returns how many changes it has recorded."""
    wrong = [answer for client in clients for answer in client.wrong]
    assert not wrong, f"{wrong[:5]}\n{server.log()}"
    # Copies first: what is acknowledged from here on may be missing in what is read next.
    acknowledged = {tag: job for client in clients for tag, job in client.submitted.copy().items()}
    return check_records(server, acknowledged, has_one_clock=not faults.struck["step_the_clock"])


def _check_stops(clients: list[Client], jobs: list[dict[str, Any]]) -> None:
    """Check that every stop that was acknowledged has come true."""
    status = {job["id"]: job["status"] for job in jobs if job["type"] != "Flaky"}
    for client in clients:
        assert {status.get(job, "stopped") for job in client.stopped} <= {"stopped"}


def _print_figures(struck: Counter[str], clients: list[Client], jobs: list[dict[str, Any]]) -> None:
    answers: Counter[str] = sum((client.answers for client in clients), Counter())
    controls = sum(count for name, count in answers.items() if name.split()[0] in ("halt", "resume", "stop"))
    statuses = dict(Counter(job["status"] for job in jobs))
    print(f"{struck.total()} faults survived: {dict(struck)}")
    print(f"{answers['submit 200']} submissions acknowledged, {len(jobs)} stored; {controls} controls answered")
    types = dict(Counter(job["type"] for job in jobs))
    print(f"{sum(job['attempt'] for job in jobs)} attempts; {types}; {statuses}; {dict(answers)}")

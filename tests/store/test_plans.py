"""The queries that run every second cost the same with a hundred thousand finished jobs as with none, on SQLite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from jobmanager.core.job_log import LogLimits
from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Checkpoint, LogLine, NewJob, Selection
from jobmanager.errors import LeaseLost
from jobmanager.store import Store
from jobmanager.store.fast_statements import Prepared

#: Indexes that hold no finished job: to go through one of them is no full scan.
OF_LIVE_JOBS = ("jobs_waiting", "jobs_due", "jobs_to_clean", "jobs_held")

FINISHED_JOBS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
INSERT INTO jobs (id, type, args, status, priority, labels, max_attempts, run_at, submitted_at, ran_seconds, attempt,
                  failures, crashes, checkpoint_seq, details, is_forced, finished_at)
SELECT 'old' || n, 'T', '{}', 'completed', 0, '{}', 1, n, n, 0, 1, 0, 0, 0, '{}', 0, n FROM numbers
"""
THEIR_CHANGES = """
INSERT INTO changes (job_id, action, to_status, attempt, actor, asked_at, at)
SELECT id, 'submit', 'submitted', 0, 'ann', run_at, run_at FROM jobs
"""

Ask = Callable[[Store], Any]
TYPES = ("T", "U")


def park(store: Store) -> None:
    """Have the job that runs halt, whether that was asked for before or not."""
    store.apply("running", Action.HALT)
    store.settle("running", 1, Settlement(action=Action.YIELD, failures=0), parked=True)


def log_much(store: Store) -> None:
    """Log more lines than are kept."""
    line = LogLine(number=0, attempt=1, at=store.now(), level="INFO", message="x" * 200)
    for _ in range(3):
        store.add_log("running", [line] * 50)
    assert store.log("running")[0].attempt == 0, "no line was dropped"


#: The frequent calls of the store, by what they are for.
QUESTIONS: dict[str, Ask] = {
    "what there is to do": lambda store: store.look(TYPES),
    "a claim": lambda store: store.claim(3, types=TYPES, max_running={}),
    "a claim of a bounded type": lambda store: store.claim(3, types=TYPES, max_running={"T": 2}),
    "a claim to clean": lambda store: store.claim_to_clean(3, types=TYPES),
    "expiring": lambda store: store.expire(),
    "signals": lambda store: store.signals(),
    "a heartbeat": lambda store: store.heartbeat(["running", "unknown"]),
    "a submission": lambda store: store.add(
        [NewJob(id="new", type="U", args={}, idempotency_key="new", run_at=store.now() + timedelta(days=1))],
        actor="ann",
    ),
    "a submission with a token's key": lambda store: store.add(
        [NewJob(id="newer", type="U", args={}, idempotency_key="newer", idempotency_scope="ann")], actor="ann"
    ),
    "a checkpoint": lambda store: store.checkpoint("running", 1, Checkpoint(cursor=1), {}),
    "a halt": lambda store: store.apply("running", Action.HALT),
    "a settlement": park,
    "letting go": lambda store: store.release_lease("running", 1),
    "a job": lambda store: store.get("running"),
    "changes of a job": lambda store: store.changes("running"),
    "lines of a job": lambda store: store.log("running"),
    "lines that are dropped": log_much,
    "what happened since": lambda store: store.news(after=99_990),
    "what happened to a job": lambda store: store.news(after=0, job_id="running"),
    "progress": lambda store: store.progress(since=store.now() - timedelta(seconds=2)),
    "the last change": lambda store: store.last_change(),
    "the queue": lambda store: store.queue(),
    "how many there are": lambda store: store.count(),
    "a ping": lambda store: store.ping(),
    "what has come due": lambda store: store.queue_due(),
    "removing by age": lambda store: store.prune(before=store.now() - timedelta(days=365 * 100), keep=None),
    "removing by number": lambda store: store.prune(before=None, keep=99_990),
    "forgetting keys": lambda store: store.forget_keys(before=store.now()),
    "the newest jobs": lambda store: store.find(Selection(), TYPES),
    "jobs of a status": lambda store: store.find(Selection(statuses=frozenset({Status.FAILED})), TYPES),
    "jobs of a type": lambda store: store.find(Selection(type="T"), TYPES),
    "jobs with a label": lambda store: store.find(Selection(labels={"a": "b"}), TYPES),
    "jobs with two labels": lambda store: store.find(Selection(labels={"a": "b", "c": "d"}), TYPES),
    "jobs of a status with a label": lambda store: store.find(
        Selection(labels={"a": "b"}, statuses=frozenset({Status.FAILED})), TYPES
    ),
    "jobs of a type with a label": lambda store: store.find(Selection(labels={"a": "b"}, type="T"), TYPES),
    "jobs of a time": lambda store: store.find(Selection(submitted_before=store.now()), TYPES),
    "jobs that are searched": lambda store: store.find(Selection(q="something long enough"), TYPES),
}


@pytest.fixture(scope="module")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a store with a hundred thousand finished jobs, one that runs and one that waits."""
    limits = LogLimits(lines=100)
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('plans')}/jobs.db", log_limits=limits)
    with store.database.engine.connect().execution_options(is_writer=True) as connection, connection.begin():
        connection.execute(text(FINISHED_JOBS))
        connection.execute(text(THEIR_CHANGES))
    store.add([NewJob(id="running", type="T", args={})], actor="ann")
    store.claim(1, types=TYPES, max_running={})
    store.add([NewJob(id="waiting", type="U", args={}, run_at=store.now() + timedelta(days=1))], actor="ann")
    yield store
    store.close()


@contextmanager
def explained(store: Store) -> Iterator[list[str]]:
    """Give out the steps of the plans of all statements that are run meanwhile."""
    steps: list[str] = []

    def explain(driver: Any, statement: str, parameters: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            steps.extend(row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    def explain_ours(prepared: Prepared, driver: Any, parameters: Any) -> Any:
        explain(driver, prepared.text, prepared.bound(parameters))
        return run(prepared, driver, parameters)

    def explain_theirs(connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if not many:
            explain(connection.connection.driver_connection, statement, values)

    run = Prepared.run
    engine = store.database.engine
    event.listen(engine, "before_cursor_execute", explain_theirs)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Prepared, "run", explain_ours)
            yield steps
    finally:
        event.remove(engine, "before_cursor_execute", explain_theirs)


def is_full_scan(step: str) -> bool:
    """Return True if a step of a plan scans all rows of a table that grows without bound."""
    scan = re.fullmatch(
        r"SCAN (?:jobs|changes|log_lines|idempotency_keys|labels)(?: USING (?:COVERING )?INDEX (\w+))?", step
    )
    return scan is not None and scan[1] not in OF_LIVE_JOBS


@pytest.mark.parametrize("question", QUESTIONS)
def test_nothing_that_is_asked_all_the_time_goes_through_all_jobs(full_store: Store, question: str) -> None:
    with explained(full_store) as steps:
        try:
            QUESTIONS[question](full_store)
        except LeaseLost:
            pytest.fail("the job that runs is no longer there to be asked for")

    # A submission may only add rows, which is no plan to be told of.
    assert steps or question == "a submission"
    # These read as many rows as they show, in the order of an index, and stop.
    assert question in ("a ping", "the newest jobs") or [step for step in steps if is_full_scan(step)] == []


@pytest.mark.parametrize("question", ["the newest jobs", "jobs of a status", "jobs of a type", "jobs with a label"])
def test_a_list_sorts_no_more_than_the_page_that_it_shows(full_store: Store, question: str) -> None:
    with explained(full_store) as steps:
        QUESTIONS[question](full_store)

    # Only the last one, which puts the parts together.
    assert sum("TEMP B-TREE FOR ORDER BY" in step for step in steps) <= 1


@contextmanager
def counted(store: Store) -> Iterator[list[int]]:
    """Give out how many steps SQLite has taken meanwhile, in tens."""
    taken = [0]

    def count() -> int:
        taken[0] += 1
        return 0

    def begin(driver: Any, _record: Any, _proxy: Any) -> None:
        driver.set_progress_handler(count, 10)

    event.listen(store.database.engine, "checkout", begin)
    yield taken
    event.remove(store.database.engine, "checkout", begin)


@pytest.mark.slow
@pytest.mark.parametrize("question", ["what there is to do", "a claim", "the queue"])
def test_jobs_that_are_put_off_are_not_gone_through(tmp_path: Path, question: str) -> None:
    taken = []
    for number in (1, 2000):
        store = Store(f"sqlite:///{tmp_path}/{number}.db")
        later = store.now() + timedelta(days=1)
        store.add([NewJob(id=str(n), type="T", args={}, run_at=later, priority=9) for n in range(number)], actor="ann")
        store.close()
        store = Store(f"sqlite:///{tmp_path}/{number}.db")
        with counted(store) as steps:
            QUESTIONS[question](store)
        taken.append(*steps)
        store.close()

    assert taken[0] > 0
    assert taken[1] <= taken[0] + 2


def test_a_full_scan_would_be_noticed(full_store: Store) -> None:
    with explained(full_store) as steps:
        full_store.correct_count()

    assert any(is_full_scan(step) for step in steps)


def test_the_order_of_claims_is_that_of_an_index(full_store: Store) -> None:
    with explained(full_store) as steps:
        full_store.claim(3, types=TYPES, max_running={})

    assert "SCAN jobs USING INDEX jobs_waiting" in steps
    assert not any("TEMP B-TREE" in step for step in steps)

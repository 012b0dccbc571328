"""Two processes submit, steer, work and die in any order; a model of the design's promises says what must hold.

The store is driven directly, with a clock of the test's: nothing here waits, and every failure repeats.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import ALREADY_SO, ASKED, ATTENDED, EXCEPTIONS, FINAL, TRANSITIONS, Action, Status, allowed
from jobmanager.core.values import Checkpoint, JobRecord, NewJob
from jobmanager.errors import LeaseLost, NotAllowed, QueueFull
from jobmanager.store import Store

LEASE_SECONDS = 10.0
MAX_CRASHES = 2
QUEUE_LIMIT = 4
MOST_JOBS = 5

#: A folder in memory, where there is one: there is no power cut in these tests.
_FAST = "/dev/shm"

PROCESSES = st.integers(0, 1)
PICKS = st.integers(0, 30)
#: What an attempt's thread may report.
REPORTS = (Action.YIELD, Action.COMPLETE, Action.FAIL, Action.RETRY, Action.RELEASE)
#: Whether a step is one that makes sense; most are, or the machine would be busy being refused.
SENSIBLE = st.sampled_from([True, True, True, True, False])


@dataclass
class Attempt:
    """A thread at work on a job, as the model has it; it may be fenced off without knowing."""

    process: int
    job_id: str
    number: int
    lease_until: datetime
    is_parked: bool = False


@dataclass
class Expected:
    """What the model knows of a job."""

    status: Status = Status.SUBMITTED
    attempt: int = 0
    cursor: Any = None
    seq: int = 0
    crashes: int = 0
    holder: Attempt | None = None

    def go(self, status: Status) -> None:
        """Change the status; a job that has ended has no holder."""
        self.status = status
        if status in FINAL or status is Status.FAILED:
            self.holder = None


class StoreMachine(RuleBasedStateMachine):
    """Drives two stores on one file, and keeps what each answer must have been."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-", dir=_FAST if os.path.isdir(_FAST) else None))
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.jobs: dict[str, Expected] = {}
        #: every attempt that there ever was: the old ones go on to try and write
        self.attempts: list[Attempt] = []

    @initialize()
    def open(self) -> None:
        self.stores = [self.open_store() for _ in range(2)]
        for number in range(3):
            self.submit(number % 2, 0)

    def open_store(self) -> Store:
        return Store(
            f"sqlite:///{self.folder}/jobs.db",
            lease_seconds=LEASE_SECONDS,
            max_crashes=MAX_CRASHES,
            queue_limit=QUEUE_LIMIT,
            clock=lambda: self.time,
        )

    def teardown(self) -> None:
        try:
            self.check_that_every_change_is_one_of_the_table()  # once is enough: changes are only added
            self.check_that_jobs_are_counted_right()
        finally:
            for store in getattr(self, "stores", []):
                store.close()
            shutil.rmtree(self.folder)

    # What people do

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(process=PROCESSES, priority=st.integers(-1, 1))
    def submit(self, process: int, priority: int) -> None:
        name = f"job-{len(self.jobs)}"
        waiting = sum(job.status is Status.SUBMITTED for job in self.jobs.values())
        new = NewJob(id=name, type="T", args={}, priority=priority)
        try:
            self.stores[process].add([new], actor="ann")
        except QueueFull:
            assert waiting >= QUEUE_LIMIT, "there was room"
            return
        assert waiting < QUEUE_LIMIT, "there was no room"
        self.jobs[name] = Expected()

    @precondition(lambda self: self.jobs)
    @rule(process=PROCESSES, pick=PICKS, which=PICKS, is_forced=st.booleans(), is_sensible=SENSIBLE)
    def ask(self, process: int, pick: int, which: int, is_forced: bool, is_sensible: bool) -> None:
        name, job = list(self.jobs.items())[pick % len(self.jobs)]
        choice = (allowed(job.status) if is_sensible else None) or ASKED
        self.ask_for(name, choice[which % len(choice)], process, is_forced=is_forced)

    @precondition(lambda self: any(self.is_at_work(job) for job in self.jobs.values()))
    @rule(process=PROCESSES, pick=PICKS, is_resumed=st.booleans())
    def park(self, process: int, pick: int, is_resumed: bool) -> None:
        """Have a job halt, its thread park, and perhaps the job be resumed: much can happen to it only then."""
        names = [name for name, job in self.jobs.items() if self.is_at_work(job)]
        name = names[pick % len(names)]
        holder = self.jobs[name].holder
        assert holder is not None
        self.ask_for(name, Action.HALT, process)
        self.report(holder, 0, True, True)
        if is_resumed:
            self.ask_for(name, Action.RESUME, process)

    def is_at_work(self, job: Expected) -> bool:
        return job.status is Status.RUNNING and job.holder is not None

    def ask_for(self, name: str, action: Action, process: int, *, is_forced: bool = False) -> None:
        job = self.jobs[name]
        edge = (job.status, action)
        try:
            applied = self.stores[process].apply(
                name, action, actor="ann", is_forced=is_forced and action is Action.STOP
            )
        except NotAllowed:
            assert edge not in TRANSITIONS
            assert edge not in ALREADY_SO
            return
        if edge in ALREADY_SO:
            # Force is told to the owner each time that it is asked for.
            assert (applied.change is not None) == (is_forced and edge == (Status.STOPPING, Action.STOP))
            return
        if edge == (Status.FAILED, Action.RESUME):
            job.crashes = 0
        never_began = edge in EXCEPTIONS and job.attempt == 0
        job.go(EXCEPTIONS[edge][1] if never_began else TRANSITIONS[edge])
        assert applied.change is not None

    # What engines and attempts do

    @rule(
        process=PROCESSES,
        what=st.sampled_from(["claim", "claim", "clean", "expire", "heartbeat"]),
        limit=st.integers(1, 3),
        bound=st.sampled_from([{}, {}, {"T": 2}]),
    )
    def engine(self, process: int, what: str, limit: int, bound: dict[str, int]) -> None:
        """Have the engine of a process do one of its duties."""
        match what:
            case "claim":
                self.claim(process, limit, bound)
            case "clean":
                self.claim_to_clean(process)
            case "expire":
                self.expire(process)
            case _:
                self.heartbeat(process)

    @precondition(lambda self: self.attempts)
    @rule(
        pick=PICKS,
        what=st.sampled_from(["checkpoint", "report", "park", "let go"]),
        which=PICKS,
        cursor=st.one_of(st.none(), st.integers(0, 9)),
        is_sensible=SENSIBLE,
    )
    def attempt(self, pick: int, what: str, which: int, cursor: int | None, is_sensible: bool) -> None:
        """Have the thread of an attempt tell the store something."""
        holders = [job.holder for job in self.jobs.values() if job.holder is not None]
        halting = [holder for holder in holders if self.jobs[holder.job_id].status is Status.HALTING]
        choice = (halting if what == "park" else None) or holders or self.attempts
        self.tell(choice[pick % len(choice)], what, which, cursor, is_sensible)

    @precondition(lambda self: any(self.jobs[a.job_id].holder is not a for a in self.attempts))
    @rule(
        pick=PICKS,
        what=st.sampled_from(["checkpoint", "report", "park", "let go"]),
        which=PICKS,
        cursor=st.one_of(st.none(), st.integers(0, 9)),
    )
    def zombie(self, pick: int, what: str, which: int, cursor: int | None) -> None:
        """Have the thread of an attempt that lost its job, or ended, tell the store something all the same."""
        zombies = [a for a in self.attempts if self.jobs[a.job_id].holder is not a]
        # One whose job is held again by the same process is told from its holder by nothing but its number.
        outrun = [a for a in zombies if (holder := self.jobs[a.job_id].holder) and holder.process == a.process]
        choice = outrun or zombies
        self.tell(choice[pick % len(choice)], what, which, cursor, True)

    def tell(self, attempt: Attempt, what: str, which: int, cursor: int | None, is_sensible: bool) -> None:
        match what:
            case "checkpoint":
                self.checkpoint(attempt, cursor)
            case "report" | "park":
                self.report(attempt, which, what == "park", is_sensible)
            case _:
                self.let_go(attempt)

    @rule(process=PROCESSES, seconds=st.sampled_from([0.001, LEASE_SECONDS / 3, LEASE_SECONDS]))
    def pass_time(self, process: int, seconds: float) -> None:
        """Let time pass, at the end of which a process looks for those that fell silent."""
        self.time += timedelta(seconds=seconds)
        self.expire(process)

    @rule(process=PROCESSES)
    def die(self, process: int) -> None:
        """Let a process die and its leases end; another one takes its jobs back, and a new one takes its place."""
        self.stores[process].close()
        self.time += timedelta(seconds=LEASE_SECONDS)
        self.expire(1 - process, dead=process)
        self.attempts = [attempt for attempt in self.attempts if attempt.process != process]
        self.stores[process] = self.open_store()

    # The parts of these

    def claim(self, process: int, limit: int, bound: dict[str, int]) -> None:
        claimable = [name for name, job in self.jobs.items() if self.may_claim(job, process)]
        at_work = sum(job.status in ATTENDED and job.holder is not None for job in self.jobs.values())

        claimed = self.stores[process].claim(limit, types=["T"], max_running=bound)

        assert {job.id for job in claimed} <= set(claimable)
        room = min(limit, len(claimable)) if not bound else min(1, len(claimable), max(0, 2 - at_work))
        assert len(claimed) == room
        for job in claimed:
            self.take(job, process, Status.RUNNING)

    def claim_to_clean(self, process: int) -> None:
        unattended = {n for n, job in self.jobs.items() if job.status is Status.STOPPING and job.holder is None}

        claimed = self.stores[process].claim_to_clean(9, types=["T"])

        assert {job.id for job in claimed} == unattended
        for job in claimed:
            self.take(job, process, Status.STOPPING)

    def checkpoint(self, attempt: Attempt, cursor: int | None) -> None:
        job = self.jobs[attempt.job_id]
        try:
            status = self.stores[attempt.process].checkpoint(
                attempt.job_id, attempt.number, Checkpoint(cursor=cursor, done=cursor), {}
            )
        except LeaseLost:
            assert job.holder is not attempt
            return
        assert job.holder is attempt, "an attempt that lost its job has written"
        assert status is job.status
        job.seq += 1
        if cursor is not None and cursor != job.cursor:
            job.cursor, job.crashes = cursor, 0
        attempt.lease_until = self.time + timedelta(seconds=LEASE_SECONDS)

    def report(self, attempt: Attempt, which: int, parks: bool, is_sensible: bool) -> None:
        job = self.jobs[attempt.job_id]
        possible = [action for action in REPORTS if (job.status, action) in TRANSITIONS]
        choice = (possible if is_sensible else None) or REPORTS
        action = choice[which % len(choice)]
        parks = parks and job.status is Status.HALTING
        if parks:
            action = Action.YIELD
        try:
            self.stores[attempt.process].settle(
                attempt.job_id, attempt.number, Settlement(action=action, failures=1), parked=parks
            )
        except LeaseLost:
            assert job.holder is not attempt
            return
        except NotAllowed:
            assert (job.status, action) not in TRANSITIONS
            return
        assert job.holder is attempt, "an attempt that lost its job has written"
        job.go(TRANSITIONS[job.status, action])
        attempt.is_parked = parks
        if not parks:
            job.holder = None

    def let_go(self, attempt: Attempt) -> None:
        job = self.jobs[attempt.job_id]
        try:
            is_let_go = self.stores[attempt.process].release_lease(attempt.job_id, attempt.number)
        except LeaseLost:
            assert job.holder is not attempt
            return
        assert job.holder is attempt
        assert is_let_go is (job.status in (Status.HALTED, Status.SUBMITTED))
        if is_let_go:
            job.holder = None

    def heartbeat(self, process: int) -> None:
        mine = [attempt for attempt in self.attempts if attempt.process == process]

        lost = self.stores[process].heartbeat([attempt.job_id for attempt in mine])

        held = {a.job_id for a in mine if self.jobs[a.job_id].holder is a}
        assert lost == {attempt.job_id for attempt in mine} - held
        for attempt in mine:
            if self.jobs[attempt.job_id].holder is attempt:
                attempt.lease_until = self.time + timedelta(seconds=LEASE_SECONDS)

    def expire(self, process: int, *, dead: int | None = None) -> None:
        """Take back the jobs of silent processes. Only a dead process has crashed under its jobs."""
        silent = {name for name, job in self.jobs.items() if job.holder and job.holder.lease_until <= self.time}

        expired = self.stores[process].expire()

        assert {applied.job.id for applied in expired} == silent
        for applied in expired:
            job = self.jobs[applied.job.id]
            has_died = job.holder is not None and job.holder.process == dead
            job.holder = None
            if job.status in ATTENDED:
                job.crashes += has_died
                too_often = job.status is Status.RUNNING and job.crashes >= MAX_CRASHES
                job.go(Status.FAILED if too_often else TRANSITIONS[job.status, Action.EXPIRE])

    # What must hold

    @invariant()
    def no_job_is_lost_and_each_is_as_the_model_has_it(self) -> None:
        for name, job in self.jobs.items():
            stored = self.stores[0].get(name)
            assert stored.status is job.status
            assert stored.attempt == job.attempt
            assert (stored.checkpoint.cursor, stored.checkpoint.seq) == (job.cursor, job.seq)
            assert stored.crashes == job.crashes
            holder = None if job.holder is None else self.stores[job.holder.process].owner
            assert stored.owner == holder
            assert stored.running_since is None or (job.status in ATTENDED and job.holder is not None)
            assert (stored.finished_at is not None) == (job.status in FINAL | {Status.FAILED})
            assert stored.ran_seconds >= 0

    def check_that_jobs_are_counted_right(self) -> None:
        statuses = Counter(job.status for job in self.jobs.values())
        assert not self.jobs or self.stores[0].count() == {("T", status): n for status, n in statuses.items()}

    def check_that_every_change_is_one_of_the_table(self) -> None:
        for name, job in self.jobs.items():
            changes = self.stores[1].changes(name)
            assert [change.seq for change in changes] == sorted({change.seq for change in changes})
            assert [change.attempt for change in changes] == sorted(change.attempt for change in changes)
            seen = Status.SUBMITTED
            for change in changes[1:]:
                assert change.from_status is seen
                edge = (seen, change.action)
                may_lead_to = {TRANSITIONS.get(edge), EXCEPTIONS.get(edge, (None, None))[1]}
                is_force = edge == (Status.STOPPING, Action.STOP)
                assert change.to_status in (may_lead_to if not is_force else {Status.STOPPING})
                seen = change.to_status
            assert seen is job.status

    def may_claim(self, job: Expected, process: int) -> bool:
        is_free = job.holder is None or job.holder.process == process or job.holder.lease_until <= self.time
        return job.status is Status.SUBMITTED and is_free

    def take(self, claimed: JobRecord, process: int, status: Status) -> None:
        job = self.jobs[claimed.id]
        job.attempt += 1
        assert claimed.attempt == job.attempt
        job.go(status)
        until = self.time + timedelta(seconds=LEASE_SECONDS)
        job.holder = Attempt(process=process, job_id=claimed.id, number=job.attempt, lease_until=until)
        self.attempts.append(job.holder)


class TestStore(StoreMachine.TestCase):  # type: ignore[misc]
    """Runs the machine; each example is a store of its own."""

    settings = settings(
        max_examples=30,
        stateful_step_count=60,
        report_multiple_bugs=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )

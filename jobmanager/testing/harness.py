"""Drive the attempts of one job in this thread, with the engine's own calls and gate, and a store in memory.

This module calls no hook itself. The engine calls the hooks and handles their errors, exactly as in the service. This
module decides only what happens to the job at each checkpoint, see Plan.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from jobmanager.config import Settings
from jobmanager.core.job_log import LogLimits
from jobmanager.core.outcomes import Ending, Outcome, Settlement
from jobmanager.core.states import Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import JSON, Applied, Checkpoint, JobRecord, LogLine
from jobmanager.engine.force import ForceWindow
from jobmanager.engine.gate import Gate
from jobmanager.engine.job_calls import JobCalls
from jobmanager.engine.job_log_buffer import JobLogBuffer
from jobmanager.engine.lease import Lease
from jobmanager.engine.observers import Observers
from jobmanager.errors import Unwind
from jobmanager.job import Job
from jobmanager.registry import type_name
from jobmanager.signals import Signals

_OWNER = "this process"


class End(Enum):
    """How the harness ends an attempt at a checkpoint."""

    UNWOUND = "as by a shutdown, or a halt that lasts"
    STOPPED = "for good: clean is next"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the harness does to the job at one checkpoint."""

    #: True: halts the job first
    halts: bool = False
    #: how the attempt ends, after the halt if there is one; None: the job goes on, and is resumed if it was halted
    end: End | None = None


class OneJobStore:
    """A store of one job, in memory. Its methods behave like the methods of Store with the same names."""

    def __init__(self, job_type: type[Job], job_id: str, args: dict[str, JSON], checkpoint: Checkpoint) -> None:
        self.owner = _OWNER
        self.log: list[LogLine] = []
        #: every checkpoint that was saved, without the measured times, so that the outcomes of runs can be compared
        self.saved: list[Checkpoint] = []
        now = self.now()
        self.record = JobRecord(
            number=1,
            id=job_id,
            type=type_name(job_type),
            args=args,
            status=Status.SUBMITTED,
            priority=0,
            labels={},
            max_attempts=1,
            timeout_seconds=None,
            run_at=now,
            submitted_at=now,
            started_at=now,
            running_since=now,
            finished_at=None,
            ran_seconds=0.0,
            attempt=0,
            failures=0,
            crashes=0,
            owner=_OWNER,
            lease_expires_at=None,
            checkpoint=checkpoint,
            details={},
            result=None,
            error=None,
            asked_at=None,
            is_forced=False,
        )

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)

    def get(self, job_id: str) -> JobRecord:
        """Return a copy of the job: if the job's code changes its cursor, the stored cursor does not change."""
        return copy.deepcopy(self.record)

    def claim(self) -> JobRecord:
        """Begin the next attempt, and return the job."""
        self.record = replace(self.record, status=Status.RUNNING, attempt=self.record.attempt + 1)
        return self.get(self.record.id)

    def set_status(self, status: Status) -> None:
        """Set the job's status, as a request or a halt does."""
        self.record = replace(self.record, status=status)

    def checkpoint(
        self, job_id: str, attempt: int, saved: Checkpoint | None, details: Values | None, lines: Sequence[LogLine] = ()
    ) -> Status:
        """Save a checkpoint, and return the job's status."""
        self.log += lines
        if details is not None:
            self.record = replace(self.record, details=through_json(details))
        if saved is not None:
            last = self.record.checkpoint
            cursor = last.cursor if saved.cursor is None else through_json(saved.cursor)
            self.saved.append(replace(saved, seq=last.seq + 1, cursor=cursor, gap_seconds=None))
            self.record = replace(self.record, checkpoint=self.saved[-1])
        return self.record.status

    def settle(self, job_id: str, attempt: int, settlement: Settlement, **how: Any) -> Applied | None:
        """Record that the job has halted. Ignores *settlement*, because a gate settles nothing except halts."""
        self.set_status(Status.HALTED)
        return Applied(job=self.record, change=None)


class Harness:
    """Runs the attempts of one job, one after the other. Subclasses plan what happens at each checkpoint."""

    def __init__(self, job_type: type[Job], store: OneJobStore, folder: Path, settings: Settings) -> None:
        """*settings*: the settings that the job sees. *folder*: the data folder, which holds the job's folder."""
        self.job_type = job_type
        self.store = store
        self.settings = settings
        #: the settings of the gate, which saves every checkpoint
        self.gate_settings = replace(settings, data_dir=folder, checkpoint_seconds=0.0)
        #: the job's folder, which may be missing
        self.folder = folder / "jobs" / store.record.id
        #: all errors that the job's code raised, including errors that do not fail the job, as in `details`
        self.errors: list[BaseException] = []
        self._calls: JobCalls
        self._log: JobLogBuffer

    def plan(self) -> Plan:
        """Return what to do at the checkpoint of `start` that was just reached. Called once for each checkpoint."""
        raise NotImplementedError

    def prepare(self, job: Job, gate: Gate) -> None:
        """Change an instance of the job before its code is called. Does nothing unless a subclass overrides it."""

    def begin(self) -> None:
        """Claim the job for the next attempt."""
        record = self.store.claim()
        signals = Signals()
        lease = Lease(record, signals, self.store, Observers())
        window = ForceWindow(record.id)
        self._log = _Log(self, record.attempt)
        gate = _PlannedGate(self, lease, signals, window, self._log)
        self._calls = _Calls(self, gate, lease, window, self._log)

    def perform(self) -> Outcome:
        """Run the next attempt up to its end, without `clean`, and return its outcome.

        If the job was stopped, the ending is INTERRUPTED, even if the job's code ignored the stop.
        """
        self.begin()
        outcome = self._calls.perform()
        self._store_log()
        return Outcome(ending=Ending.INTERRUPTED) if self.store.record.status is Status.STOPPING else outcome

    def clean(self) -> Outcome:
        """Call `clean` on a fresh instance, in the attempt that was begun last, and return its outcome."""
        outcome = self._calls.clean()
        self._store_log()
        return outcome

    def _store_log(self) -> None:
        with self._log.taken() as lines:
            self.store.log += lines


class _PlannedGate(Gate):
    """The gate of one attempt. Does what the harness plans at each checkpoint of `start`."""

    def __init__(
        self, harness: Harness, lease: Lease, signals: Signals, window: ForceWindow, log: JobLogBuffer
    ) -> None:
        store, settings = harness.store, harness.gate_settings
        super().__init__(
            lease, signals, window, log, store=store, settings=settings, on_halted=self._go_on, clock=time.monotonic
        )
        self._harness = harness
        self._one_job = store
        self._is_planned = False
        self._plan = Plan()

    def reach_checkpoint(self, job: Job) -> None:
        """Halt or end the attempt if the harness plans so for this checkpoint. Nothing is planned within hooks."""
        if self._is_planned or self.signals.is_ignoring_requests:
            super().reach_checkpoint(job)
            return
        self._is_planned = True
        try:
            self._plan = self._harness.plan()
            if self._one_job.record.status is Status.RUNNING and not self.has_to_unwind():
                self._begin()
            super().reach_checkpoint(job)
        finally:
            self._is_planned = False

    def _begin(self) -> None:
        if self._plan.halts:
            self._one_job.set_status(Status.HALTING)
        else:
            self._end()

    def _end(self) -> None:
        if self._plan.end is End.STOPPED:
            self._one_job.set_status(Status.STOPPING)
            self.signals.ask_stop()
        elif self._plan.end is End.UNWOUND:
            self.signals.ask_interrupt(Unwind(self._one_job.record.id))

    def _go_on(self) -> None:
        """After a halt, resume the job or end the attempt. Called when the thread is about to block."""
        if self._plan.end is None:
            self.wake(self._one_job.claim())
        else:
            self._end()


class _Calls(JobCalls):
    """Calls the job's code, on instances that the harness has prepared."""

    def __init__(self, harness: Harness, gate: Gate, lease: Lease, window: ForceWindow, log: JobLogBuffer) -> None:
        store, settings = harness.store, harness.settings
        super().__init__(harness.job_type, gate, lease, window, log, store=store, settings=settings)
        self._prepare = harness.prepare
        self._its_gate = gate

    def make_job(self) -> Job:
        """Make an instance, and prepare it."""
        job = super().make_job()
        self._prepare(job, self._its_gate)
        return job


class _Log(JobLogBuffer):
    """The job's log. Also passes the errors of the job's code to the harness."""

    def __init__(self, harness: Harness, attempt: int) -> None:
        limits = LogLimits(lines=harness.settings.log_lines, bytes=harness.settings.log_bytes)
        super().__init__(attempt, harness.store.now, limits)
        self._errors = harness.errors

    def keep_traceback(self, error: BaseException) -> None:
        """Keep the traceback in the log, and the error in the harness.

        Raises a KeyboardInterrupt again: a Ctrl-C is meant for the test run, not for the job.
        """
        if isinstance(error, KeyboardInterrupt):
            raise error
        self._errors.append(error)
        super().keep_traceback(error)


def through_json(value: Any) -> JSON:
    """Return a value as it comes back from the store: tuples as lists, keys as strings."""
    return json.loads(json.dumps(value))

"""Run one attempt of one job, in a thread that continues with the next job.

An attempt is a pipeline: perform (job_calls.py calls the job's code) → settle (a pure decision) → record (the store's
writer). This module does not decide which jobs are claimed, nor which status an action leads to.
"""

from __future__ import annotations

import contextvars
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from jobmanager.config import Settings
from jobmanager.core.job_log import LogLimits
from jobmanager.core.outcomes import Ending, Outcome, Settlement, settle
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Applied, Change, JobRecord, Wanted
from jobmanager.engine.force import ForceWindow
from jobmanager.engine.gate import Gate
from jobmanager.engine.job_calls import JobCalls
from jobmanager.engine.job_log_buffer import JobLogBuffer
from jobmanager.engine.lease import Lease
from jobmanager.engine.observers import Observers
from jobmanager.errors import (
    Interrupt,
    JobManagerError,
    LeaseLost,
    StoreUnavailable,
    TimedOut,
    UnknownJob,
    Unwind,
)
from jobmanager.job import Job
from jobmanager.signals import Signals
from jobmanager.store import Store

_log = logging.getLogger(__name__)


class Runner:
    """Runs one attempt of a job. If its parked thread is woken, runs the job's next attempt, too.

    Other threads may call the methods from `start` to `join`.
    """

    def __init__(
        self,
        record: JobRecord,
        job_type: type[Job],
        *,
        store: Store,
        settings: Settings,
        observers: Observers,
        on_halted: Callable[[], None],
        begin_claim: Callable[[Runner], Wanted | None],
        on_end: Callable[[Runner, Applied | None], Runner | None],
        predecessor: Runner | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        """*predecessor* ran an earlier attempt of the job; its thread may still be unwinding. *rng* varies delays."""
        self.job_id = record.id
        self.signals = Signals(clock)
        #: the job was claimed only to run `clean`, after the work of an earlier attempt
        self.is_cleaner = record.status is Status.STOPPING
        #: a new thread can continue from the cursor
        self.is_resumable = job_type.resumable
        self._store = store
        self._settings = settings
        self._begin_claim = begin_claim  # returns which jobs may be claimed when the attempt ends
        self._on_end = on_end  # called with the last write; returns what the thread runs next
        self._predecessor = predecessor
        self._rng = rng
        self._is_process_ending = False  # the store may be closed
        self._lease = Lease(record, self.signals, store, observers)
        self._job_log = JobLogBuffer(
            record.attempt, store.now, LogLimits(lines=settings.log_lines, bytes=settings.log_bytes)
        )
        self._force_window = ForceWindow(record.id)
        self._gate = Gate(
            self._lease,
            self.signals,
            self._force_window,
            self._job_log,
            store=store,
            settings=settings,
            on_halted=on_halted,
            clock=clock,
        )
        self._job_calls = JobCalls(
            job_type, self._gate, self._lease, self._force_window, self._job_log, store=store, settings=settings
        )
        self._last: Applied | None = None  # the write that ended the attempt
        self._has_ended = threading.Event()

    def start(self) -> None:
        """Start a thread for the attempt. Does not block. Raises RuntimeError if the system has no more threads."""
        threading.Thread(target=_run_all, args=(self,), name=self._thread_name(), daemon=True).start()

    def attempt(self) -> int:
        """Return the number of the attempt, which grows when a parked thread is woken."""
        return self._lease.record.attempt

    def is_parked(self) -> bool:
        """Return True if the thread is parked, or about to be."""
        return self._gate.is_parked()

    def holds_slot(self) -> bool:
        """Return True if the job takes a slot. A halted job takes none, nor does one claimed only to be cleaned."""
        return not self.is_cleaner and self._gate.holds_slot()

    def is_cleaning(self) -> bool:
        """Return True if the thread is in `clean`, or about to call it."""
        return self._lease.is_cleaning()

    def apply_change(self, change: Change) -> None:
        """Set the signals that a committed change calls for. Ignores outdated changes."""
        self._gate.apply_change(change)

    def wake(self, record: JobRecord) -> bool:
        """Wake the parked thread for the attempt just claimed. Return False if the thread is leaving or has to end."""
        return self._gate.wake(record)

    def interrupt(self, interrupt: Interrupt) -> None:
        """End the attempt at its next checkpoint, or at once if it is parked. Does not wait."""
        self.signals.ask_interrupt(interrupt)

    def interrupt_if_overtime(self) -> None:
        """End the attempt at its next checkpoint if it has worked for longer than its job allows."""
        limit = self._lease.record.timeout_seconds
        if limit is not None and self._gate.run_seconds() > limit:
            self.interrupt(TimedOut(f"The attempt took longer than {limit:g} seconds."))

    def force(self) -> None:
        """Raise StopRequested inside the job's Python code, wherever it is; see ForceWindow."""
        self._force_window.force()

    def abandon(self, *, in_clean: bool) -> bool:
        """Release the job of a thread that does not end, so that the thread can write nothing more. Return True.

        *in_clean*: True if the thread was in `clean` when force was requested. If False and the thread is in `clean` by
        now, do nothing and return False. Does not retry. Raises StoreUnavailable, or LeaseLost if the attempt no longer
        owned the job.
        """
        if in_clean:
            self._lease.lose()
        elif not self._lease.lose_unless_cleaning():
            return False
        self.interrupt(LeaseLost(self.job_id))
        self._release()
        return True

    def hand_over(self) -> None:
        """Release the job of a thread that did not end in time.

        The job is due again after the time of one lease: by then, this process has ended. Raises LeaseLost,
        StoreUnavailable.
        """
        self._is_process_ending = True
        self._lease.lose()
        if self.is_parked() and self._store.release_lease(self.job_id, self.attempt()):
            return
        record = self._store.get(self.job_id)
        gone_at = self._store.now() + timedelta(seconds=self._settings.lease_seconds)
        release = Settlement(action=Action.RELEASE, failures=record.failures, error=record.error, run_at=gone_at)
        self._lease.settle(self._lease.record, release)

    def give_back(self) -> None:
        """Release a job that was claimed but not begun. Does not raise: if this fails, the job's lease will expire."""
        self.interrupt(Unwind(self.job_id))
        try:
            self._release()
        except (JobManagerError, LeaseLost) as error:
            _log.warning("Job %s could not be released: %s", self.job_id, error)

    def store_log(self) -> None:
        """Store the lines that the job has logged since the last call, unless its own thread is storing them."""
        if not self._lease.is_lost():
            self._store_log(waits=False)

    def join(self, timeout_seconds: float) -> bool:
        """Block until the attempt has ended, for *timeout_seconds* at most. Return True if it has ended."""
        return self._has_ended.wait(timeout_seconds)

    def run(self) -> Runner | None:
        """Run the attempt in this thread. Return the runner that the thread continues with, if any."""
        threading.current_thread().name = self._thread_name()
        try:
            self._run_pipeline()
        except LeaseLost:
            _log.warning("Attempt %d of job %s lost its lease and ends.", self.attempt(), self.job_id)
            self._remove_what_came_late()
        except Interrupt:
            _log.warning("Attempt %d of job %s ends without a recorded outcome.", self.attempt(), self.job_id)
        except Exception:
            _log.exception("The outcome of attempt %d of job %s was not recorded.", self.attempt(), self.job_id)
        finally:
            self._has_ended.set()
            following = self._on_end(self, self._last)
        return following

    # Called by the runner's own thread

    def _thread_name(self) -> str:
        return f"job-{self.job_id}-{self.attempt()}"

    def _run_pipeline(self) -> None:
        if self._predecessor is not None:
            self._predecessor.join(self._settings.lease_seconds)
            self._predecessor = None  # otherwise predecessors would form a chain in memory
        outcome = Outcome(ending=Ending.INTERRUPTED) if self.is_cleaner else self._job_calls.perform()
        if not self._record_outcome(outcome):
            self._last = self._settle(self._job_calls.clean())

    def _record_outcome(self, outcome: Outcome) -> bool:
        """Record the outcome of `start`. Return True if the attempt has ended, False if `clean` has to run.

        Raises LeaseLost.
        """
        if outcome.ending is Ending.LOST:
            raise LeaseLost(self.job_id)
        if outcome.ending is Ending.INTERRUPTED:
            return False
        if self.is_parked():
            self._lease.retrying(self._store_log)
            return self._lease.retrying(lambda: self._store.release_lease(self.job_id, self.attempt()))
        self._last = self._settle(outcome, unless_stopping=outcome.ending is not Ending.UNWOUND)
        return self._last is not None

    def _settle(self, outcome: Outcome, *, unless_stopping: bool = False) -> Applied | None:
        """Record the outcome of the attempt. Write nothing and return None if *unless_stopping* and a stop came first.

        Retries while the store does not answer. Raises LeaseLost.
        """
        if outcome.ending is Ending.LOST:
            raise LeaseLost(self.job_id)
        self._lease.retrying(self._store_log)
        settlement = settle(outcome, self._lease.record, now=self._store.now(), rng=self._rng)
        unless = (Status.STOPPING,) if unless_stopping else ()
        # An unwound attempt claims nothing: its process is ending, or its slot belongs to another thread.
        goes_on = outcome.ending is not Ending.UNWOUND
        return self._lease.retrying(
            lambda: self._record(settlement, unless, self._begin_claim(self) if goes_on else None)
        )

    def _record(self, settlement: Settlement, unless: tuple[Status, ...], wanted: Wanted | None) -> Applied | None:
        """Record the outcome of the attempt, and claim one of the jobs *wanted* in the same commit.

        If the claim fails, record the outcome only.
        """
        record = self._lease.record
        try:
            return self._lease.settle(record, settlement, unless=unless, wanted=wanted, seen=record)
        except JobManagerError:
            raise
        except Exception:
            if wanted is None:
                raise
            # A fault of the waiting job must not keep the outcome of the ended one from being recorded.
            _log.exception("No other job could be claimed when job %s ended.", record.id)
            return self._lease.settle(record, settlement, unless=unless)

    def _release(self) -> None:
        """Release the job from a thread other than its own. Does not retry. Raises LeaseLost, StoreUnavailable."""
        self._store_log()
        self._record(settle(Outcome(ending=Ending.UNWOUND), self._lease.record, now=self._store.now()), (), None)

    def _store_log(self, *, waits: bool = True) -> None:
        with self._job_log.taken(waits=waits) as lines:
            if lines:
                self._store.add_log(self.job_id, lines)

    def _remove_what_came_late(self) -> None:
        """Remove the job's folder if this attempt made it again after another attempt had cleaned the job.

        This happens if the process froze just before it made the folder, for longer than its lease.
        """
        if self._is_process_ending or not self._gate.path().exists():
            return
        try:
            is_over = self._store.get(self.job_id).status is Status.STOPPED
        except UnknownJob:
            is_over = True
        except StoreUnavailable:
            return
        if is_over:
            shutil.rmtree(self._gate.path(), ignore_errors=True)


def _run_all(runner: Runner) -> None:
    """Run an attempt, then each runner that its thread continues with."""
    following: Runner | None = runner
    while following is not None:
        # Run each in a fresh context, as a new thread would.
        following = contextvars.Context().run(following.run)

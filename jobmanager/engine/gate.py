"""The gate behind checkpoint(): save, obey signals, park, wake.

This module calls only the hooks of a checkpoint (`flush`, `details`, `halt`, `resume`). It ends no attempt itself: it
raises an Interrupt, which unwinds the job's code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobmanager.config import Settings
from jobmanager.core.json_values import check_json
from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Change, Checkpoint, JobRecord, finite, storable
from jobmanager.engine.force import ForceWindow, unforced
from jobmanager.engine.job_log_buffer import JobLogBuffer
from jobmanager.engine.lease import AttemptStore, Lease
from jobmanager.errors import LeaseLost, StopRequested, Unwind
from jobmanager.job import Job
from jobmanager.private import make_folder
from jobmanager.signals import Signals

#: Statuses that mean the halt was cancelled, or overridden by a stop.
_UNHALTED = (Status.RUNNING, Status.STOPPING)


class Gate:
    """The CheckpointGate of one attempt. If its parked thread is woken, also that of the job's next attempt.

    Other threads may call the methods from `apply_change` to `run_seconds`; the rest is for the job's thread.
    """

    def __init__(
        self,
        lease: Lease,
        signals: Signals,
        force_window: ForceWindow,
        log: JobLogBuffer,
        *,
        store: AttemptStore,
        settings: Settings,
        on_halted: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """*on_halted* is called once the status `halted` is committed: the attempt then holds no slot."""
        self.signals = signals
        self.due = 0.0
        self._lease = lease
        self._force_window = force_window
        self._log = log
        self._store = store
        self._settings = settings
        self._on_halted = on_halted
        self._clock = clock
        # Guards _is_parked, _holds_slot, _is_leaving, _seen_seq, _began, and replacing the lease's record. Never held
        # while calling the store; the lease's lock may be taken inside.
        self._lock = threading.Lock()
        self._is_parked = False  # or about to be: the thread may be woken as soon as its halt is committed
        self._holds_slot = True  # until its halt is committed: before, the halt may be cancelled
        self._is_leaving = False  # was parked for too long: the thread can no longer be woken
        self._seen_seq = 0  # the last change that was applied
        self._began = clock()
        self._is_at_checkpoint = False  # in reach_checkpoint(), whose hooks may call checkpoint()
        self._unwinding: Unwind | None = None  # raised at every checkpoint, in case the job's code swallows it

    # Called by other threads

    def apply_change(self, change: Change) -> None:
        """Set the signals that a committed change calls for.

        Ignores outdated changes. They occur because threads may call this in another order than they committed.
        """
        with self._lock:
            attempt = self._lease.record.attempt
            if change.seq <= self._seen_seq or change.attempt < attempt:
                return
            self._seen_seq = change.seq
            if change.attempt > attempt:
                self.signals.ask_interrupt(LeaseLost(change.job_id))
            elif change.to_status is Status.HALTING:
                self.signals.ask_halt()
            elif change.to_status is Status.RUNNING:
                self.signals.ask_resume()
            elif change.to_status is Status.STOPPING:
                self.signals.ask_stop()

    def wake(self, record: JobRecord) -> bool:
        """Wake the parked thread for the attempt just claimed. Return False if the thread is leaving or has to end."""
        with self._lock:
            if not self._is_parked or self._is_leaving or self.signals.interrupt is not None:
                return False
            if record.status is not Status.RUNNING or record.attempt != self._lease.record.attempt + 1:
                # Another process worked on the job while this one was frozen: the thread's memory is outdated.
                self.signals.ask_interrupt(LeaseLost(record.id))
                return False
            self._is_parked = False
            self._holds_slot = True
            self._lease.replace_record(record)
            self._log.attempt = record.attempt
            self._began = self._clock()
            self.signals.ask_resume()
            return True

    def is_parked(self) -> bool:
        """Return True if the thread is parked, or about to be."""
        with self._lock:
            return self._is_parked

    def holds_slot(self) -> bool:
        """Return True unless the job has halted."""
        with self._lock:
            return self._holds_slot

    def run_seconds(self) -> float:
        """Return how long this attempt has worked, in seconds; 0 while it is parked or cleans."""
        with self._lock:
            return 0.0 if self._is_parked or self._lease.is_cleaning() else self._clock() - self._began

    # The CheckpointGate, called by checkpoint() and wait()

    def reach_checkpoint(self, job: Job) -> None:
        """Save the job's checkpoint, then obey halt, stop and interrupts; see CheckpointGate."""
        if self._is_at_checkpoint:
            # A hook (`flush`, `details`, `halt`) has called checkpoint(). Its values are saved with the others.
            self.signals.clear_requests()
            self.raise_if_over()
            return
        was_open = self._force_window.close()
        self._is_at_checkpoint = True
        try:
            if self._unwinding is None:
                self.signals.clear_requests()
            was_halted = self._obey_signals(job, self.save(job))
        finally:
            self._is_at_checkpoint = False
            self._force_window.restore(was_open)
        if was_halted:
            job.resume()

    def wait_for_request(self, seconds: float) -> bool:
        """Block until a halt, a stop or an interrupt is requested, or for *seconds*. Return True if it is.

        Force waits until this has ended, which needs no wake: it follows a stop, which sets the Event. Otherwise, the
        Event's lock might stay held, and block the threads that set it.
        """
        with unforced():
            return self.signals.halt.wait(seconds)

    def folder(self) -> Path:
        """Return the job's folder. Make it if it is missing."""
        path = self.path()
        make_folder(path)
        return path

    # Called by the job's thread, also outside of the job's code

    def path(self) -> Path:
        """Return the path of the job's folder, which may be missing."""
        return self._settings.data_dir / "jobs" / self._lease.job_id

    def raise_if_over(self) -> None:
        """Raise the pending interrupt or stop, if there is one."""
        over = self.signals.interrupt or self._unwinding
        if over is not None:
            raise over
        if self.signals.stop.is_set():
            raise StopRequested(self._lease.job_id)

    def has_to_unwind(self) -> bool:
        """Return True if the attempt has to end while its job goes on."""
        return self._unwinding is not None or isinstance(self.signals.interrupt, Unwind)

    def begin_clean(self) -> None:
        """Ignore halts, stops and timeouts from now on.

        If the thread was parked for too long, also discard its Unwind: the checkpoints of `clean` would raise it.
        """
        self._unwinding = None
        self.signals.ignore_requests()

    def take_slot(self, record: JobRecord) -> None:
        """Set the record of the job, loaded again for `clean`, and take a slot. The thread is not parked any more."""
        with self._lock:
            self._is_parked = False
            self._holds_slot = True
            self._lease.replace_record(record)

    def save(self, job: Job) -> Status:
        """Save the checkpoint if there is a new one, renew the lease, and return the job's status. Raises LeaseLost."""
        self._lease.raise_if_lost()
        if job.is_dirty and not self._lease.is_cleaning():
            job.flush()
        return self.save_without_flush(job)

    def save_without_flush(self, job: Job) -> Status:
        """Save like `save`, but do not call `flush`: after `start` has returned, the job's files may be closed."""
        self._lease.raise_if_lost()
        saved, details = None, None
        if job.is_dirty and not self._lease.is_cleaning():
            details = self._details(job)
            saved = _checkpoint_of(job)
        record = self._lease.record
        with self._log.taken() as lines:
            status = self._lease.retrying(
                lambda: self._store.checkpoint(record.id, record.attempt, saved, details, lines)
            )
        job.is_dirty = False
        # Do not use _clock here: Job compares `due` with time.monotonic().
        self.due = time.monotonic() + self._settings.checkpoint_seconds
        return status

    def _details(self, job: Job) -> dict[str, Any] | None:
        """Return what the job's `details` returns. If it raises, return None, which keeps the stored details."""
        try:
            details = dict(job.details())
            check_json(details, "what details() returned")
            return details
        except Exception as error:
            self._log.keep_traceback(error)
            return None

    # Halting

    def _obey_signals(self, job: Job, status: Status) -> bool:
        """Obey the status and the signals. Return True if `halt` was called, so that `resume` has to be called.

        Blocks while the job is halted. Raises an Interrupt if the attempt has to end.
        """
        if status is Status.STOPPING:
            self.signals.ask_stop()  # the stop may come from another process, before our Event is set
        self.raise_if_over()
        if status is not Status.HALTING or self.signals.is_ignoring_requests:
            return False
        job.halt()
        if job.is_dirty:
            self.save(job)
        self._park(job)
        return True

    def _park(self, job: Job) -> None:
        """Record the halt, give the slot back, and block until woken. Return if the job goes on.

        Raises an Interrupt if the attempt has to end; after JOBMANAGER_PARK_SECONDS, raises Unwind.
        """
        while not self._record_halt():
            status = self._renew_lease()
            if status is Status.STOPPING:
                self.signals.ask_stop()
                self.raise_if_over()
            if status is Status.RUNNING:  # resumed before the halt took effect
                return
        self._on_halted()
        patience = self._settings.park_seconds if job.resumable else None
        self.signals.resume.wait(patience)  # woken by wake(), a stop or an interrupt
        self._leave_park(job)

    def _renew_lease(self) -> Status:
        """Renew the lease, and return the job's status. Raises LeaseLost."""
        record = self._lease.record
        return self._lease.retrying(lambda: self._store.checkpoint(record.id, record.attempt, None, None))

    def _leave_park(self, job: Job) -> None:
        with self._lock:
            # A leaving thread cannot be woken: the next claim of the job starts a new one.
            self._is_leaving, record = self._is_parked, self._lease.record
        if self._is_leaving:
            self.raise_if_over()
            self._unwinding = Unwind(record.id)
            self.signals.halt.set()
            raise self._unwinding
        job.attempt = record.attempt

    def _record_halt(self) -> bool:
        """Record the halt and give the slot back. Return False if the halt was cancelled, or overridden by a stop."""
        record = self._lease.record
        halted = Settlement(action=Action.YIELD, failures=record.failures, error=record.error)
        with self._lock:
            self._is_parked = True
        applied = None
        try:
            applied = self._lease.retrying(lambda: self._lease.settle(record, halted, unless=_UNHALTED, parked=True))
        finally:
            with self._lock:
                if applied is None:
                    self._is_parked = False
                elif self._is_parked and applied.change is not None:
                    self._holds_slot = False
                    # Requests from before the halt are outdated: they must not wake the thread.
                    self._seen_seq = max(self._seen_seq, applied.change.seq)
                    self.signals.clear_requests()
        return applied is not None


def _checkpoint_of(job: Job) -> Checkpoint:
    """Return what the job passed to checkpoint(). Raises TypeError or ValueError if that cannot be stored."""
    check_json(job.cursor, "the cursor")
    message = None if job.message is None else storable(str(job.message))
    return Checkpoint(
        cursor=job.cursor,
        done=finite(job.done, "done"),
        total=finite(job.total, "total"),
        message=message,
        gap_seconds=job.gap_seconds,
    )

"""Run one attempt of one job, in a thread that continues with the next job.

An attempt is a pipeline: perform (the only calls into a job's code) → settle (a pure decision) → the store's writer.
This module does not decide which jobs are claimed, nor which status an action leads to.
"""

from __future__ import annotations

import contextvars
import ctypes
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from jobmanager.config import Settings
from jobmanager.core.job_log import LogLimits, LogSize, entry_of, line_text, note_line
from jobmanager.core.json_values import check_json
from jobmanager.core.outcomes import Ending, Outcome, Settlement, settle
from jobmanager.core.states import Action, Status
from jobmanager.core.values import Applied, Change, Checkpoint, JobRecord, LogLine, Wanted, finite, storable
from jobmanager.engine.observers import Observers
from jobmanager.errors import (
    Fatal,
    Interrupt,
    InvalidRequest,
    JobManagerError,
    LeaseLost,
    StopRequested,
    StoreUnavailable,
    TimedOut,
    UnknownJob,
    Unwind,
)
from jobmanager.job import Job
from jobmanager.private import make_folder
from jobmanager.registry import parse_args
from jobmanager.signals import Signals
from jobmanager.store import Store

T = TypeVar("T")

#: Pause before a call is retried when the store did not answer.
_STORE_RETRY_SECONDS = 0.25

#: Statuses that mean the halt was cancelled, or overridden by a stop.
_UNHALTED = (Status.RUNNING, Status.STOPPING)

_log = logging.getLogger(__name__)
_jobs_log = logging.getLogger("jobmanager.jobs")
_formatter = logging.Formatter()


class Runner:
    """Runs one attempt, and is the Keeper of its job. Other threads may call the methods from `start` to `join`."""

    def __init__(
        self,
        record: JobRecord,
        job_type: type[Job],
        *,
        store: Store,
        settings: Settings,
        observers: Observers,
        on_change: Callable[[Runner], None],
        wanted: Callable[[Runner], Wanted | None],
        on_end: Callable[[Runner, Applied | None], Runner | None],
        predecessor: Runner | None = None,
    ) -> None:
        self.record = record  # as claimed; replaced when a parked thread is woken for a new attempt
        self.signals = Signals()
        self.due = 0.0
        self.is_parked = False  # or about to be: the thread may be woken as soon as its halt is committed
        self.holds_slot = True  # until its halt is committed: before, the halt may be cancelled
        #: was claimed only to clean, after another attempt's work
        self.is_cleaner = record.status is Status.STOPPING
        self._job_type = job_type
        self._store = store
        self._settings = settings
        self._observers = observers
        self._on_change = on_change  # called when a status was written and the attempt goes on
        self._wanted = wanted  # returns which jobs may be claimed when this one ends
        self._on_end = on_end  # called with the last write; returns what the thread runs next
        self._predecessor = predecessor  # an earlier attempt, whose thread may still be unwinding
        # Guards is_parked, holds_slot, is_cleaning, _is_in_job and record; never held while calling the store.
        self._lock = threading.Lock()
        self._is_in_job = False  # the job's code is on top of the stack: force may interrupt it
        self._is_logging = False  # the job's code is logging: force waits until it has finished
        self._is_force_due = False
        self.is_cleaning = False
        self._is_leaving = False  # was parked for too long: the thread can no longer be woken
        self._is_lost = False  # the lease is lost: this attempt may write nothing more
        self._is_process_ending = False  # the store may be closed
        self._is_meeting = False  # in meet(), whose hooks may call checkpoint()
        self._unwinding: Unwind | None = None  # raised at every checkpoint, in case the job's code swallows it
        self._seen_seq = 0
        self._began = time.monotonic()
        log_limits = LogLimits(lines=settings.log_lines, bytes=settings.log_bytes)
        self._log_keeper = _LogKeeper(record.attempt, store.now, log_limits)
        self._last: Applied | None = None  # the write that ended the attempt
        self._thread: threading.Thread | None = None
        self._ends = threading.Lock()  # held until the attempt has ended; to make an Event takes forty times as long
        self._ends.acquire()

    # Called by other threads

    def start(self) -> None:
        """Start a thread for the attempt. Does not block. Raises RuntimeError if the system has no more threads."""
        threading.Thread(target=_run_all, args=(self,), name=self._name(), daemon=True).start()

    def is_resumable(self) -> bool:
        """Return True if a new thread can continue from the cursor."""
        return self._job_type.resumable

    def obey(self, change: Change) -> None:
        """Set the signals that a committed change calls for.

        Ignores outdated changes: threads may call this in another order than they have committed.
        """
        with self._lock:
            if change.seq <= self._seen_seq or change.attempt < self.record.attempt:
                return
            self._seen_seq = change.seq
            if change.attempt > self.record.attempt:
                self.signals.ask_interrupt(LeaseLost(change.job_id))
            elif change.to_status is Status.HALTING:
                self.signals.ask_halt()
            elif change.to_status is Status.RUNNING:
                self.signals.ask_resume()
            elif change.to_status is Status.STOPPING:
                self.signals.ask_stop()

    def wake(self, record: JobRecord) -> bool:
        """Wake the parked thread for the attempt just claimed. Return False if it is leaving or has to end."""
        with self._lock:
            if not self.is_parked or self._is_leaving or self.signals.interrupt is not None:
                return False
            if record.status is not Status.RUNNING or record.attempt != self.record.attempt + 1:
                # Another process worked on the job while this one was frozen: the thread's memory is outdated.
                self.signals.ask_interrupt(LeaseLost(record.id))
                return False
            self.is_parked = False
            self.holds_slot = True
            self.record = record
            self._log_keeper.attempt = record.attempt
            self._began = time.monotonic()
            self.signals.ask_resume()
            return True

    def interrupt(self, interrupt: Interrupt) -> None:
        """End the attempt at its next checkpoint, or at once if it is parked. Does not wait."""
        self.signals.ask_interrupt(interrupt)

    def force(self) -> None:
        """Raise StopRequested inside the job's Python code, wherever it is; in C code, only when that returns.

        Not raised while the thread is in the store; delayed while it logs. Source: PyThreadState_SetAsyncExc (C API).
        """
        with self._lock:
            if self._is_in_job and self._thread is not None and self._thread.ident is not None:
                target, error = ctypes.c_ulong(self._thread.ident), ctypes.py_object(StopRequested)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, error)
            else:
                self._is_force_due = self._is_logging

    def abandon(self, *, in_clean: bool) -> bool:
        """Release the job of a thread that does not end, so that the thread can write nothing more.

        Return False and do nothing if the force targeted `start` but the thread is already in `clean`.
        Does not retry. Raises LeaseLost if the attempt no longer owned the job, StoreUnavailable.
        """
        with self._lock:
            if self.is_cleaning and not in_clean:
                return False
            self._is_lost = True
        self.signals.ask_interrupt(LeaseLost(self.record.id))
        self._release()
        return True

    def hand_over(self) -> None:
        """Release the job of a thread that did not end in time, to be due when this process is certainly gone.

        Raises LeaseLost, StoreUnavailable.
        """
        self._is_lost = self._is_process_ending = True
        if self.is_parked and self._store.let_go(self.record.id, self.record.attempt):
            return
        record = self._store.get(self.record.id)
        gone_at = self._store.now() + timedelta(seconds=self._settings.lease_seconds)
        release = Settlement(action=Action.RELEASE, failures=record.failures, error=record.error, run_at=gone_at)
        self._write(self.record, release)

    def give_back(self) -> None:
        """Release a job that was claimed but not begun. If that fails, its lease will expire."""
        self.signals.ask_interrupt(Unwind(self.record.id))
        try:
            self._release()
        except (JobManagerError, LeaseLost) as error:
            _log.warning("Job %s could not be released: %s", self.record.id, error)

    def _release(self) -> None:
        """Release the job from a thread other than its own. Does not retry. Raises LeaseLost, StoreUnavailable."""
        self._store_log()
        self._record(settle(Outcome(ending=Ending.UNWOUND), self.record, now=self._store.now()), (), None)

    def run_seconds(self) -> float:
        """Return how long this attempt has worked, in seconds; 0 while it is parked or cleans."""
        return 0.0 if self.is_parked or self.is_cleaning else time.monotonic() - self._began

    def keep_log(self) -> None:
        """Store the lines that the job has logged since the last call, unless its own thread is storing them."""
        if not self._has_lost():
            self._store_log(waits=False)

    def join(self, timeout_seconds: float) -> bool:
        """Block until the attempt has ended, for *timeout_seconds* at most. Return True if it has ended."""
        has_ended = self._ends.acquire(timeout=timeout_seconds)
        if has_ended:
            self._ends.release()
        return has_ended

    # The thread's own

    def run(self) -> Runner | None:
        """Run the attempt in this thread. Return the runner that the thread continues with, if any."""
        self._thread = threading.current_thread()
        self._thread.name = self._name()
        try:
            self._work()
        except LeaseLost:
            _log.warning("Attempt %d of job %s lost its lease and ends.", self.record.attempt, self.record.id)
            self._remove_what_came_late()
        except Interrupt:
            _log.warning("Attempt %d of job %s ends without a recorded outcome.", self.record.attempt, self.record.id)
        except Exception:
            _log.exception("The outcome of attempt %d of job %s was not recorded.", self.record.attempt, self.record.id)
        finally:
            with self._lock:
                self._thread = None  # from here on, force would hit another job in this thread
            self._ends.release()
            following = self._on_end(self, self._last)
        return following

    def _remove_what_came_late(self) -> None:
        """Remove the job's folder if this attempt made it again after another one had cleaned the job.

        This happens if the process was frozen for longer than its lease, just before it asked for the folder.
        """
        if self._is_process_ending or not self._path().exists():
            return
        try:
            is_over = self._store.get(self.record.id).status is Status.STOPPED
        except UnknownJob:
            is_over = True
        except StoreUnavailable:
            return
        if is_over:
            shutil.rmtree(self._path(), ignore_errors=True)

    def _name(self) -> str:
        return f"job-{self.record.id}-{self.record.attempt}"

    def _work(self) -> None:
        if self._predecessor is not None:
            self._predecessor.join(self._settings.lease_seconds)
            self._predecessor = None  # otherwise predecessors would form a chain in memory
        outcome = Outcome(ending=Ending.INTERRUPTED) if self.is_cleaner else self._perform()
        if not self._is_settled(outcome):
            self._last = self._settle(self._clean())

    def _is_settled(self, outcome: Outcome) -> bool:
        """Record the outcome of `start`. Return True if that ended the attempt, False if `clean` has to run.

        Raises LeaseLost.
        """
        if outcome.ending is Ending.LOST:
            raise LeaseLost(self.record.id)
        if outcome.ending is Ending.INTERRUPTED:
            return False
        if self.is_parked:
            self._patiently(self._store_log)
            return self._patiently(lambda: self._store.let_go(self.record.id, self.record.attempt))
        self._last = self._settle(outcome, unless_stopping=outcome.ending is not Ending.UNWOUND)
        return self._last is not None

    def _settle(self, outcome: Outcome, *, unless_stopping: bool = False) -> Applied | None:
        """Record the outcome of the attempt. Write nothing and return None if *unless_stopping* and a stop came first.

        Retries while the store does not answer. Raises LeaseLost.
        """
        if outcome.ending is Ending.LOST:
            raise LeaseLost(self.record.id)
        self._patiently(self._store_log)
        record = self.record
        settlement = settle(outcome, record, now=self._store.now())
        unless = (Status.STOPPING,) if unless_stopping else ()
        # An unwound attempt claims nothing: its process is ending, or its slot belongs to another thread.
        goes_on = outcome.ending is not Ending.UNWOUND
        return self._patiently(lambda: self._record(settlement, unless, self._wanted(self) if goes_on else None))

    def _record(self, settlement: Settlement, unless: tuple[Status, ...], wanted: Wanted | None) -> Applied | None:
        """Record the outcome of the attempt, and claim one of the jobs *wanted* in the same commit."""
        record = self.record
        try:
            return self._write(record, settlement, unless=unless, wanted=wanted, seen=record)
        except JobManagerError:
            raise
        except Exception:
            if wanted is None:
                raise
            # A fault of a waiting job must not keep the outcome of this one from being recorded.
            _log.exception("No other job could be claimed when job %s ended.", record.id)
            return self._write(record, settlement, unless=unless)

    def _write(self, record: JobRecord, settlement: Settlement, **how: Any) -> Applied | None:
        """Settle the attempt in the store, and tell the observers. *how*: see Store.settle."""
        try:
            applied = self._store.settle(record.id, record.attempt, settlement, **how)
        except LeaseLost:
            self._observers.attempt_ended(record.id, None)
            raise
        if applied is not None:
            self._observers.attempt_ended(record.id, applied)
        return applied

    def _perform(self) -> Outcome:
        """Run the job's `start` and return its outcome. Never raises."""
        job: Job | None = None  # set when `start` is called: before, there is nothing to save or to stop

        def begin() -> Any:
            nonlocal job
            # A force that came earlier has hit no code of the job, and is not repeated.
            self._raise_if_over()
            job = made
            return made.start()

        try:
            made = self._make_job()
            result = self._call(begin)
            if made.is_dirty:
                self._keep_checkpoint(made)
            check_json(result, "the result")
            return Outcome(ending=Ending.DONE, result=result)
        except BaseException as error:
            return self._ended_by(job, error)

    def _ended_by(self, job: Job | None, error: BaseException) -> Outcome:
        """Return the outcome for an exception of `start`. An Interrupt that was not requested is the job's error."""
        if self._has_lost():
            return Outcome(ending=Ending.LOST)
        if isinstance(error, StopRequested) and self.signals.stop.is_set():
            self._prepare_clean(job)
            return Outcome(ending=Ending.INTERRUPTED)
        if self._is_to_unwind() and _is_due_to_unwinding(error):
            if not isinstance(error, Unwind):
                self._failure(Ending.RAISED, error)  # for the log only: the job goes on later all the same
            return Outcome(ending=Ending.UNWOUND)
        self._save_after_failure(job)
        return self._failure(Ending.RAISED, error)

    def _has_lost(self) -> bool:
        return self._is_lost or isinstance(self.signals.interrupt, LeaseLost)

    def _raise_if_lost(self) -> None:
        """Raise LeaseLost if this attempt may write nothing more; the store may even be closed."""
        if self._has_lost():
            raise LeaseLost(self.record.id)

    def _is_to_unwind(self) -> bool:
        return self._unwinding is not None or isinstance(self.signals.interrupt, Unwind)

    def _clean(self) -> Outcome:
        """Run the job's `clean` on a fresh instance, as after a crash, and return its outcome. Never raises."""
        with self._lock:
            self.is_cleaning = True  # from here on, force meant for `start` does not abandon the thread
        self._unwinding = None
        self.signals.quiet()
        try:
            self._take_over()
            self._call(self._make_job().clean)
            return Outcome(ending=Ending.CLEANED)
        except BaseException as error:
            if self._has_lost():
                return Outcome(ending=Ending.LOST)
            if isinstance(error, Unwind) and self._is_to_unwind():
                return Outcome(ending=Ending.UNWOUND)
            return self._failure(Ending.CLEAN_RAISED, error)

    def _take_over(self) -> None:
        """Load the job again, to clean it. Raises LeaseLost if another attempt has to do that now."""
        self._raise_if_lost()
        record = self._patiently(lambda: self._store.get(self.record.id))
        if self._has_lost() or record.attempt != self.record.attempt or record.owner != self._store.owner:
            self._is_lost = True
            raise LeaseLost(record.id)
        with self._lock:
            self.is_parked = False
            self.holds_slot = True
            self.record = record

    def _call(self, code: Callable[[], T]) -> T:
        """Call into the job's code. Until the call returns, force may interrupt it, unless it cleans."""
        with self._lock:
            self._is_in_job = not self.is_cleaning
        try:
            return code()
        finally:
            with self._lock:
                self._is_in_job = False

    @contextmanager
    def _unforced(self) -> Iterator[None]:
        """Delay force while the job's code logs: a logging lock left held would block every thread that logs."""
        with self._lock:
            was_in_job, self._is_in_job = self._is_in_job, False
            self._is_logging = was_in_job
        try:
            yield
        finally:
            with self._lock:
                self._is_in_job = self._is_in_job or was_in_job
                self._is_logging = False
                is_due, self._is_force_due = self._is_force_due, False
        if is_due:
            raise StopRequested(self.record.id)

    def _make_job(self) -> Job:
        record = self.record
        logger = _JobLogger(f"jobmanager.jobs.{record.id}", self._log_keeper, self._unforced)
        job = self._job_type(
            self,
            job_id=record.id,
            attempt=record.attempt,
            args=parse_args(self._job_type, record.args, self._settings, is_stored=True),
            cursor=record.checkpoint.cursor,
            settings=self._settings,
            log=logger,
        )
        job.done, job.total = record.checkpoint.done, record.checkpoint.total
        job.message = record.checkpoint.message
        return job

    def _failure(self, ending: Ending, error: BaseException) -> Outcome:
        """Return the outcome for an exception of the job's code, and keep the traceback in the job's log."""
        text = _words_of(error)
        if not isinstance(error, (TimedOut, Fatal, InvalidRequest)):
            text = f"{type(error).__name__}: {text}"
        self._log_keeper.keep("ERROR", "".join(traceback.format_exception(error)))
        return Outcome(ending=ending, error=storable(text), is_fatal=isinstance(error, Fatal))

    def _prepare_clean(self, job: Job | None) -> None:
        """Call the job's `stop` hook, and save its last checkpoint for `clean`. Never raises: `clean` comes next."""
        self.signals.quiet()
        try:
            if job is not None:
                job.stop()
                if job.is_dirty:
                    self._save(job)
        except BaseException as error:
            self._failure(Ending.RAISED, error)

    def _save_after_failure(self, job: Job | None) -> None:
        """Save the progress of a job that raised, if possible: a retry continues from there. Never raises."""
        try:
            if job is not None and job.is_dirty:
                self._save(job)
        except BaseException as error:
            self._failure(Ending.RAISED, error)

    # The Keeper, called by checkpoint() and wait()

    def meet(self, job: Job) -> None:
        """Save the job's checkpoint, then obey halt, stop and interrupts; see Keeper."""
        if self._is_meeting:
            # Called by flush, details or halt: what they pass to checkpoint() is saved with the rest.
            self.signals.take()
            self._raise_if_over()
            return
        with self._lock:
            was_in_job, self._is_in_job = self._is_in_job, False
        self._is_meeting = True
        try:
            if self._unwinding is None:
                self.signals.take()
            was_halted = self._obey(job, self._save(job))
        finally:
            self._is_meeting = False
            with self._lock:
                self._is_in_job = was_in_job
        if was_halted:
            job.resume()

    def folder(self) -> Path:
        """Return the job's folder. Make it if it is missing."""
        path = self._path()
        make_folder(path)
        return path

    def _path(self) -> Path:
        return self._settings.data_dir / "jobs" / self.record.id

    def _obey(self, job: Job, status: Status) -> bool:
        """Obey the status and the signals. Return True if `halt` was called, so that `resume` has to be called.

        Blocks while the job is halted. Raises an Interrupt if the attempt has to end.
        """
        if status is Status.STOPPING:
            self.signals.ask_stop()  # the stop may come from another process, before our Event is set
        self._raise_if_over()
        if status is not Status.HALTING or self.signals.is_quiet:
            return False
        job.halt()
        if job.is_dirty:
            self._save(job)
        self._park(job)
        return True

    def _raise_if_over(self) -> None:
        """Raise the pending interrupt or stop, if there is one."""
        over = self.signals.interrupt or self._unwinding
        if over is not None:
            raise over
        if self.signals.stop.is_set():
            raise StopRequested(self.record.id)

    def _park(self, job: Job) -> None:
        """Record the halt, give the slot back, and block until woken. Return if the job goes on.

        Raises an Interrupt if the attempt has to end, Unwind also if it was parked for JOBMANAGER_PARK_SECONDS.
        """
        while not self._has_halted():
            status = self._patiently(lambda: self._store.checkpoint(self.record.id, self.record.attempt, None, None))
            if status is Status.STOPPING:
                self.signals.ask_stop()
                self._raise_if_over()
            if status is Status.RUNNING:  # resumed before the halt took effect
                return
        self._on_change(self)
        patience = self._settings.park_seconds if job.resumable else None
        self.signals.resume.wait(patience)  # woken by wake(), a stop or an interrupt
        self._leave_park(job)

    def _leave_park(self, job: Job) -> None:
        with self._lock:
            # A leaving thread cannot be woken: the next claim of the job starts a new one.
            self._is_leaving, record = self.is_parked, self.record
        if self._is_leaving:
            self._raise_if_over()
            self._unwinding = Unwind(record.id)
            self.signals.halt.set()
            raise self._unwinding
        job.attempt = record.attempt

    def _has_halted(self) -> bool:
        """Record the halt and give the slot back. Return False if the halt was cancelled, or overridden by a stop."""
        record = self.record
        halted = Settlement(action=Action.YIELD, failures=record.failures, error=record.error)
        with self._lock:
            self.is_parked = True
        applied = None
        try:
            applied = self._patiently(lambda: self._write(record, halted, unless=_UNHALTED, parked=True))
        finally:
            with self._lock:
                if applied is None:
                    self.is_parked = False
                elif self.is_parked and applied.change is not None:
                    self.holds_slot = False
                    # Requests from before the halt are outdated: they must not wake the thread.
                    self._seen_seq = max(self._seen_seq, applied.change.seq)
                    self.signals.take()
        return applied is not None

    def _save(self, job: Job) -> Status:
        """Save the checkpoint if it is new, renew the lease, and return the job's status. Raises LeaseLost."""
        self._raise_if_lost()
        if job.is_dirty and not self.is_cleaning:
            job.flush()
        return self._keep_checkpoint(job)

    def _keep_checkpoint(self, job: Job) -> Status:
        """Do the same without `flush`: when `start` has returned, the job's files may be closed."""
        self._raise_if_lost()
        saved, details = None, None
        if job.is_dirty and not self.is_cleaning:
            details = self._details(job)
            saved = _checkpoint_of(job)
        record = self.record
        with self._log_keeper.taken() as lines:
            status = self._patiently(
                lambda: self._store.checkpoint(record.id, record.attempt, saved, details, lines),
            )
        job.is_dirty = False
        self.due = time.monotonic() + self._settings.checkpoint_seconds
        return status

    def _details(self, job: Job) -> dict[str, Any] | None:
        """Return what the job's `details` returns. If it raises, return None, which keeps the stored details."""
        try:
            details = dict(job.details())
            check_json(details, "what details() returned")
            return details
        except Exception as error:
            self._failure(Ending.RAISED, error)
            return None

    def _store_log(self, *, waits: bool = True) -> None:
        with self._log_keeper.taken(waits=waits) as lines:
            if lines:
                self._store.add_log(self.record.id, lines)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call the store, and retry while it does not answer. Raises LeaseLost, or the interrupt of the attempt."""
        while True:
            try:
                return call()
            except LeaseLost:
                self._is_lost = True
                raise
            except StoreUnavailable as error:
                # A timed-out attempt retries too: its progress can be saved when the store is back.
                if self.signals.interrupt is not None and not isinstance(self.signals.interrupt, TimedOut):
                    raise self.signals.interrupt from error
                time.sleep(_STORE_RETRY_SECONDS)


def _run_all(runner: Runner) -> None:
    """Run an attempt, then each runner that its thread continues with."""
    following: Runner | None = runner
    while following is not None:
        # Each in a fresh context, as in a new thread.
        following = contextvars.Context().run(following.run)


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


def _is_due_to_unwinding(error: BaseException | None) -> bool:
    """Return True if *error* is an Unwind, or was raised while one was handled, for example in a job's `finally`."""
    while error is not None and not isinstance(error, Unwind):
        error = error.__context__
    return error is not None


def _words_of(error: BaseException) -> str:
    """Return the text of an error of a job's code, whose `__str__` may raise."""
    try:
        return str(error)
    except Exception:
        return "(the text of this error cannot be read)"


class _JobLogger(logging.Logger):
    """The logger of one job. Keeps its lines with the job. Force does not interrupt it."""

    def __init__(self, name: str, keeper: _LogKeeper, unforced: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(name, logging.INFO)
        self.parent = _jobs_log
        self._keeper = keeper
        self._unforced = unforced

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Return True if lines of that level are kept. Avoids logging's cache, whose lock all threads share."""
        return level >= self.level and level > self.manager.disable

    def handle(self, record: logging.LogRecord) -> None:
        """Keep and emit the record; force waits until that is done."""
        with self._unforced():
            super().handle(record)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Keep the record, then pass it to handlers if there are any."""
        self._keeper.keep_record(record)
        if self.hasHandlers():
            super().callHandlers(record)


class _LogKeeper:
    """Collects the lines that a job logs until they are stored. Not a Handler: making one takes a lock of all threads.

    Keeps no more lines than the store does, since a job may log while the store does not answer.
    """

    def __init__(self, attempt: int, now: Callable[[], datetime], limits: LogLimits) -> None:
        self.attempt = attempt  # the attempt that new lines belong to
        self._now = now
        self._limits = limits
        self._guard = threading.Lock()  # guards _lines and _size
        self._turn = threading.Lock()  # held while lines are stored
        self._lines: list[LogLine] = []
        self._size = LogSize()

    def keep_record(self, record: logging.LogRecord) -> None:
        """Keep one record, with its traceback if it has one."""
        try:
            message = _formatter.format(record)
        except Exception:  # the job's arguments do not fit its text, or cannot be converted
            message = str(record.msg)
        self.keep(record.levelname, message)

    def keep(self, level: str, message: str) -> None:
        """Keep one line."""
        text = line_text(message, longest=self._limits.longest_line)
        line = LogLine(number=0, attempt=self.attempt, at=self._now(), level=level, message=text)
        with self._guard:
            self._lines.append(line)
            self._size = self._size.plus(line.message)
            self._drop_oldest()

    @contextmanager
    def taken(self, *, waits: bool = True) -> Iterator[list[LogLine]]:
        """Yield the lines kept since the last call, for the caller to store. Keep them again if the caller raises.

        One thread at a time, so that lines stay in order. While another thread is at it, blocks, or, without *waits*,
        yields no lines.
        """
        if not self._turn.acquire(blocking=waits):
            yield []
            return
        try:
            with self._guard:
                lines, self._lines, self._size = self._lines, [], LogSize()
            try:
                yield lines
            except BaseException:
                with self._guard:
                    self._lines[:0] = lines
                    for line in lines:
                        self._size = self._size.plus(line.message)
                    self._drop_oldest()
                raise
        finally:
            self._turn.release()

    def _drop_oldest(self) -> None:
        """Replace the oldest lines by a note if there are too many."""
        if not self._limits.is_worth_dropping(self._size):
            return
        oldest = (entry_of(number, line) for number, line in enumerate(self._lines))
        dropped = self._limits.surplus(oldest, self._size)
        last = dropped[-1].number
        note = note_line(self._limits.note(dropped), self._lines[last].at)
        self._lines[: last + 1] = [note]
        self._size = self._size.without(dropped).plus(note.message)

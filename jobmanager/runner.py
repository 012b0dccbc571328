"""One attempt of one job, in a thread that goes on with the next job when it has ended.

An attempt is a pipeline: perform (the only calls into a job's code) → settle (a pure decision) → the store's writer.
This module obeys what it is told; it claims nothing and decides nothing about statuses.
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
from jobmanager.job_log import LogLimits, LogSize, entry_of, line_text, note_line
from jobmanager.json_values import check_json
from jobmanager.private import make_folder
from jobmanager.records import (
    Applied,
    Change,
    Checkpoint,
    Ending,
    JobRecord,
    LogLine,
    Outcome,
    Settlement,
    Wanted,
    finite,
    settle,
    storable,
)
from jobmanager.registry import parse_args
from jobmanager.signals import Signals
from jobmanager.states import Action, Status
from jobmanager.store import Store

T = TypeVar("T")

#: How long to wait before the store is asked again when it did not answer.
_STORE_RETRY_SECONDS = 0.25

#: Where the halt that a job has just met was taken back, or beaten by a stop.
_UNHALTED = (Status.RUNNING, Status.STOPPING)

_log = logging.getLogger(__name__)
_jobs_log = logging.getLogger("jobmanager.jobs")
_formatter = logging.Formatter()


class Runner:
    """Runs one attempt; stands behind its job as the Keeper. Any thread may call the public methods."""

    def __init__(
        self,
        record: JobRecord,
        job_type: type[Job],
        *,
        store: Store,
        settings: Settings,
        on_change: Callable[[Runner], None],
        wanted: Callable[[Runner], Wanted | None],
        on_end: Callable[[Runner, Applied | None], Runner | None],
        predecessor: Runner | None = None,
    ) -> None:
        self.record = record  # as claimed; replaced when a parked thread is woken for a new attempt
        self.signals = Signals()
        self.due = 0.0
        self.is_parked = False  # or just about to be: it may be woken from the moment in which its halt is committed
        self.holds_slot = True  # until its halt is committed: it may be taken back before
        #: cleans a job whose work was done, or given up, by another attempt
        self.is_cleaner = record.status is Status.STOPPING
        self._job_type = job_type
        self._store = store
        self._settings = settings
        self._on_change = on_change  # after a status was written, and the attempt goes on
        self._wanted = wanted  # tells what may be claimed in place of a job that ends
        self._on_end = on_end  # told what was written last; returns what the thread runs next
        self._predecessor = predecessor  # an earlier attempt whose thread may still be unwinding
        # Guards is_parked, holds_slot, is_cleaning, _is_in_job and record; never held while calling the store.
        self._lock = threading.Lock()
        self._is_in_job = False  # the job's code is on top of the stack: it may be interrupted by force
        self._is_logging = False  # the job's code does: it has to be interrupted a moment later, if at all
        self._is_force_due = False
        self.is_cleaning = False
        self._is_leaving = False  # was parked for too long: nobody can wake the thread any more
        self._is_lost = False  # another attempt owns the job, or nobody does
        self._is_process_ending = False  # the store may be closed by now
        self._is_meeting = False  # in meet(), which calls hooks that may call checkpoint()
        self._unwinding: Unwind | None = None  # raised again and again, in case the job's code swallows it
        self._seen_seq = 0
        self._began = time.monotonic()
        log_limits = LogLimits(lines=settings.log_lines, bytes=settings.log_bytes)
        self._log_keeper = _LogKeeper(record.attempt, store.now, log_limits)
        self._last: Applied | None = None  # what was written when the attempt ended
        self._thread: threading.Thread | None = None
        self._ends = threading.Lock()  # held until it has ended; an Event takes forty times as long to make
        self._ends.acquire()

    # Called by other threads

    def start(self) -> None:
        """Start a thread for it; does not block. Raises RuntimeError where the system has no more threads."""
        threading.Thread(target=_run_all, args=(self,), name=self._name(), daemon=True).start()

    def is_resumable(self) -> bool:
        """Tell whether a new thread could begin where this one parks."""
        return self._job_type.resumable

    def obey(self, change: Change) -> None:
        """Pass on to the thread what a committed change asks for.

        Threads that commit one after the other may call this in another order: what is outdated is ignored.
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
        """Have the parked thread go on as the attempt that *record* claimed; False if it is leaving, or has to."""
        with self._lock:
            if not self.is_parked or self._is_leaving or self.signals.interrupt is not None:
                return False
            if record.status is not Status.RUNNING or record.attempt != self.record.attempt + 1:
                # Another process worked on it while this one was frozen: what the thread has in memory is outdated.
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
        """Have the attempt end at its next checkpoint, or at once if it is parked."""
        self.signals.ask_interrupt(interrupt)

    def force(self) -> None:
        """Raise StopRequested inside the job's Python code, wherever it is; code inside C is reached when it returns.

        Source: PyThreadState_SetAsyncExc of the C API. Never raised while the thread is in the store.
        """
        with self._lock:
            if self._is_in_job and self._thread is not None and self._thread.ident is not None:
                target, error = ctypes.c_ulong(self._thread.ident), ctypes.py_object(StopRequested)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, error)
            else:
                self._is_force_due = self._is_logging

    def abandon(self, *, in_clean: bool) -> bool:
        """Fence off a thread that answers to nothing: its job is released, and it can write nothing more.

        False, and nothing is done, where force was meant for the work and the thread has left that for `clean` by now.
        Raises LeaseLost if its job was no longer its own.
        """
        with self._lock:
            if self.is_cleaning and not in_clean:
                return False
            self._is_lost = True
        self.signals.ask_interrupt(LeaseLost(self.record.id))
        self._settle(Outcome(ending=Ending.UNWOUND))
        return True

    def hand_over(self) -> None:
        """Release the job of a thread that did not end in time, for when this process is certainly gone."""
        self._is_lost = self._is_process_ending = True
        if self.is_parked and self._store.let_go(self.record.id, self.record.attempt):
            return
        record = self._store.get(self.record.id)
        gone_at = self._store.now() + timedelta(seconds=self._settings.lease_seconds)
        release = Settlement(action=Action.RELEASE, failures=record.failures, error=record.error, run_at=gone_at)
        self._store.settle(record.id, self.record.attempt, release)

    def give_back(self) -> None:
        """Release a job that was claimed and is not begun; where that cannot be done, its lease will expire."""
        self.signals.ask_interrupt(Unwind(self.record.id))
        try:
            self._settle(Outcome(ending=Ending.UNWOUND))
        except (JobManagerError, Interrupt) as error:
            _log.warning("Job %s was not given back: %s", self.record.id, error)

    def run_seconds(self) -> float:
        """Return how long this attempt has been at work, in seconds; 0 while it is parked, or cleans."""
        return 0.0 if self.is_parked or self.is_cleaning else time.monotonic() - self._began

    def keep_log(self) -> None:
        """Store the lines that the job has logged since the last time, unless its own thread is just about to."""
        if not self._has_lost():
            self._store_log(waits=False)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the attempt to end; tell whether it has."""
        has_ended = self._ends.acquire(timeout=timeout_seconds)
        if has_ended:
            self._ends.release()
        return has_ended

    # The thread's own

    def run(self) -> Runner | None:
        """Run the attempt in this thread, and return what the thread has to run next."""
        self._thread = threading.current_thread()
        self._thread.name = self._name()
        try:
            self._work()
        except LeaseLost:
            _log.warning("Attempt %d of job %s lost its lease; it ends.", self.record.attempt, self.record.id)
            self._remove_what_came_late()
        except Interrupt:
            _log.warning("Attempt %d of job %s ends unrecorded.", self.record.attempt, self.record.id)
        except Exception:
            _log.exception("Attempt %d of job %s could not be recorded.", self.record.attempt, self.record.id)
        finally:
            with self._lock:
                self._thread = None  # it is not this job any more that force would meet there
            self._ends.release()
            following = self._on_end(self, self._last)
        return following

    def _remove_what_came_late(self) -> None:
        """Remove the job's folder, if this attempt has made it anew after another had cleaned the job.

        As when its process was frozen for longer than its lease, just before it looked for the folder.
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
            self._predecessor = None  # nor those before it, which it would keep in memory
        outcome = Outcome(ending=Ending.INTERRUPTED) if self.is_cleaner else self._perform()
        if not self._is_settled(outcome):
            self._last = self._settle(self._clean())

    def _is_settled(self, outcome: Outcome) -> bool:
        """Record the outcome of `start`; tell whether that ended the attempt, or `clean` is to be called."""
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
        """Write down what became of the attempt; None if nothing was, because a stop came first."""
        if outcome.ending is Ending.LOST:
            raise LeaseLost(self.record.id)
        self._patiently(self._store_log)
        record = self.record
        settlement = settle(outcome, record, now=self._store.now())
        unless = (Status.STOPPING,) if unless_stopping else ()
        goes_on = (
            outcome.ending is not Ending.UNWOUND
        )  # else the process ends, or the slot is not this thread's to fill
        return self._patiently(lambda: self._record(settlement, unless, self._wanted(self) if goes_on else None))

    def _record(self, settlement: Settlement, unless: tuple[Status, ...], wanted: Wanted | None) -> Applied | None:
        """Write down what became of the attempt, and claim what is wanted in its place."""
        record = self.record
        try:
            return self._store.settle(record.id, record.attempt, settlement, unless=unless, wanted=wanted, seen=record)
        except JobManagerError:
            raise
        except Exception:
            if wanted is None:
                raise
            # What is wrong with a job that waits must not keep this one from being recorded.
            _log.exception("Nothing could be claimed when job %s ended.", record.id)
            return self._store.settle(record.id, record.attempt, settlement, unless=unless)

    def _perform(self) -> Outcome:
        """Run the job's `start`; returns what came of it, never raises."""
        job: Job | None = None  # once it has begun: one that has not begun has nothing to save or to put in order

        def begin() -> Any:
            nonlocal job
            # Force that came before this has met no code of the job's, and will not come again.
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
        """Return what it means that `start` raised; an interrupt that nobody asked for is the job's own error."""
        if self._has_lost():
            return Outcome(ending=Ending.LOST)
        if isinstance(error, StopRequested) and self.signals.stop.is_set():
            self._prepare_clean(job)
            return Outcome(ending=Ending.INTERRUPTED)
        if self._is_to_unwind() and _is_due_to_unwinding(error):
            if not isinstance(error, Unwind):
                self._failure(Ending.RAISED, error)  # kept in the log; the job goes on later all the same
            return Outcome(ending=Ending.UNWOUND)
        self._save_after_failure(job)
        return self._failure(Ending.RAISED, error)

    def _has_lost(self) -> bool:
        return self._is_lost or isinstance(self.signals.interrupt, LeaseLost)

    def _raise_if_lost(self) -> None:
        """Raise LeaseLost where nothing may be written; the store may even be closed by now."""
        if self._has_lost():
            raise LeaseLost(self.record.id)

    def _is_to_unwind(self) -> bool:
        return self._unwinding is not None or isinstance(self.signals.interrupt, Unwind)

    def _clean(self) -> Outcome:
        """Run the job's `clean`; returns what came of it, never raises.

        It is always called on a fresh instance: what `start` left in memory is not there after a crash either.
        """
        with self._lock:
            self.is_cleaning = True  # from here on it is not abandoned for the work that it has left
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
        """Read anew what is to be cleaned; raises LeaseLost where that has become another attempt's to do."""
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
        """Call into the job's code, which may be interrupted by force as long as it runs."""
        with self._lock:
            self._is_in_job = not self.is_cleaning
        try:
            return code()
        finally:
            with self._lock:
                self._is_in_job = False

    @contextmanager
    def _unforced(self) -> Iterator[None]:
        """Put force off while the job's code logs: a lock that it left held there would stop every thread that logs."""
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
        """Turn what a job's code raised into an outcome, and keep the traceback in the job's log."""
        text = _words_of(error)
        if not isinstance(error, (TimedOut, Fatal, InvalidRequest)):
            text = f"{type(error).__name__}: {text}"
        self._log_keeper.keep("ERROR", "".join(traceback.format_exception(error)))
        return Outcome(ending=ending, error=storable(text), is_fatal=isinstance(error, Fatal))

    def _prepare_clean(self, job: Job | None) -> None:
        """Call the job's `stop` hook, and save what it tells `clean`; whatever it raises, `clean` comes next."""
        self.signals.quiet()
        try:
            if job is not None:
                job.stop()
                if job.is_dirty:
                    self._save(job)
        except BaseException as error:
            self._failure(Ending.RAISED, error)

    def _save_after_failure(self, job: Job | None) -> None:
        """Save what the job had reached before it raised, if that can be done: a retry goes on from there."""
        try:
            if job is not None and job.is_dirty:
                self._save(job)
        except BaseException as error:
            self._failure(Ending.RAISED, error)

    # The Keeper behind checkpoint() and wait()

    def meet(self, job: Job) -> None:
        """Save the job's checkpoint, then obey what was asked meanwhile; see Keeper."""
        if self._is_meeting:
            # From flush, details or halt: what they pass to checkpoint() is saved with the rest.
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
        """Return the job's folder, made if it is missing."""
        path = self._path()
        make_folder(path)
        return path

    def _path(self) -> Path:
        return self._settings.data_dir / "jobs" / self.record.id

    def _obey(self, job: Job, status: Status) -> bool:
        """Carry out what was asked; True if the job's `halt` was called, and its `resume` has to be."""
        if status is Status.STOPPING:
            self.signals.ask_stop()  # another process may have asked, and the Event not be set yet
        self._raise_if_over()
        if status is not Status.HALTING or self.signals.is_quiet:
            return False
        job.halt()
        if job.is_dirty:
            self._save(job)
        self._park(job)
        return True

    def _raise_if_over(self) -> None:
        """Raise what the attempt has to end by, if anything."""
        over = self.signals.interrupt or self._unwinding
        if over is not None:
            raise over
        if self.signals.stop.is_set():
            raise StopRequested(self.record.id)

    def _park(self, job: Job) -> None:
        """Record that the job has halted, give its slot back, and wait to be woken; returns to go on."""
        while not self._has_halted():
            status = self._patiently(lambda: self._store.checkpoint(self.record.id, self.record.attempt, None, None))
            if status is Status.STOPPING:
                self.signals.ask_stop()
                self._raise_if_over()
            if status is Status.RUNNING:  # resumed before it had halted
                return
        self._on_change(self)
        patience = self._settings.park_seconds if job.resumable else None
        self.signals.resume.wait(patience)  # woken by wake(), a stop or an interrupt
        self._leave_park(job)

    def _leave_park(self, job: Job) -> None:
        with self._lock:
            # A thread that leaves cannot be woken: whoever claims the job starts a new one for it.
            self._is_leaving, record = self.is_parked, self.record
        if self._is_leaving:
            self._raise_if_over()
            self._unwinding = Unwind(record.id)
            self.signals.halt.set()
            raise self._unwinding
        job.attempt = record.attempt

    def _has_halted(self) -> bool:
        record = self.record
        halted = Settlement(action=Action.YIELD, failures=record.failures, error=record.error)
        with self._lock:
            self.is_parked = True
        applied = None
        try:
            applied = self._patiently(
                lambda: self._store.settle(record.id, record.attempt, halted, unless=_UNHALTED, parked=True)
            )
        finally:
            with self._lock:
                if applied is None:
                    self.is_parked = False
                elif self.is_parked and applied.change is not None:
                    self.holds_slot = False
                    # What was asked before the halt took effect is outdated: it must not wake the thread.
                    self._seen_seq = max(self._seen_seq, applied.change.seq)
                    self.signals.take()
        return applied is not None

    def _save(self, job: Job) -> Status:
        """Save the checkpoint if there is anything new, renew the lease, and return the job's status."""
        self._raise_if_lost()
        if job.is_dirty and not self.is_cleaning:
            job.flush()
        return self._keep_checkpoint(job)

    def _keep_checkpoint(self, job: Job) -> Status:
        """Save without flush, as when `start` has returned: what it would flush may be closed by then."""
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
        """Return what the type's `details` tells; None, and the last one stays, where it raises."""
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
        """Call the store; while it does not answer, hold here and try again until the attempt is interrupted."""
        while True:
            try:
                return call()
            except LeaseLost:
                self._is_lost = True
                raise
            except StoreUnavailable as error:
                # Too late or not: what was reached can be written down when the store is back.
                if self.signals.interrupt is not None and not isinstance(self.signals.interrupt, TimedOut):
                    raise self.signals.interrupt from error
                time.sleep(_STORE_RETRY_SECONDS)


def _run_all(runner: Runner) -> None:
    """Run an attempt, and whatever follows it in its thread."""
    following: Runner | None = runner
    while following is not None:
        # Each in a context of its own, as in a thread of its own.
        following = contextvars.Context().run(following.run)


def _checkpoint_of(job: Job) -> Checkpoint:
    """Return what the job passed to checkpoint(); raises TypeError or ValueError where that cannot be kept."""
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
    """Tell whether *error* is an Unwind, or was raised while one went through, by a `finally` of the job."""
    while error is not None and not isinstance(error, Unwind):
        error = error.__context__
    return error is not None


def _words_of(error: BaseException) -> str:
    """Return the text of an error, which is the job's own and may be unable to tell it."""
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


class _JobLogger(logging.Logger):
    """The logger of one job, whose lines are kept with it; force does not interrupt it."""

    def __init__(self, name: str, keeper: _LogKeeper, unforced: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(name, logging.INFO)
        self.parent = _jobs_log
        self._keeper = keeper
        self._unforced = unforced

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Tell whether lines of that level are kept; without logging's cache, which has a lock of all threads."""
        return level >= self.level and level > self.manager.disable

    def handle(self, record: logging.LogRecord) -> None:
        """Have the line kept, and shown."""
        with self._unforced():
            super().handle(record)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Keep the line, and have it shown where anything shows lines."""
        self._keeper.keep_record(record)
        if self.hasHandlers():
            super().callHandlers(record)


class _LogKeeper:
    """Collects what a job logs until it is stored. No Handler: threads make those one at a time.

    It keeps no more than the store would: a job may log while the store does not answer.
    """

    def __init__(self, attempt: int, now: Callable[[], datetime], limits: LogLimits) -> None:
        self.attempt = attempt  # that lines are of
        self._now = now
        self._limits = limits
        self._guard = threading.Lock()  # guards _lines and _size
        self._turn = threading.Lock()  # held while lines are stored
        self._lines: list[LogLine] = []
        self._size = LogSize()

    def keep_record(self, record: logging.LogRecord) -> None:
        """Keep one record; a traceback that comes with it is kept too."""
        try:
            message = _formatter.format(record)
        except Exception:  # the job's arguments do not fit its text, or cannot be shown
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
        """Give out the lines kept since the last time, to be stored; where that raises, they are kept again.

        One thread at a time, so that they stay in order; without *waits*, nothing is given to one that comes meanwhile.
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

"""Call a job's `start`, `stop` and `clean`; gate.py calls the hooks of a checkpoint.

Turns an exception of the job's code into an outcome. Does not record outcomes (see attempt.py). Needs no database:
jobmanager.testing makes the same calls, with a store in memory.
"""

from __future__ import annotations

from typing import Any

from jobmanager.config import Settings
from jobmanager.core.json_values import check_json
from jobmanager.core.outcomes import Ending, Outcome
from jobmanager.core.values import storable
from jobmanager.engine.force import ForceWindow
from jobmanager.engine.gate import Gate
from jobmanager.engine.job_log_buffer import JobLogBuffer, JobLogger
from jobmanager.engine.lease import AttemptStore, Lease
from jobmanager.errors import Fatal, InvalidRequest, LeaseLost, StopRequested, TimedOut, Unwind
from jobmanager.job import Job
from jobmanager.registry import parse_args


class JobCalls:
    """Makes the instances of one job, and calls their `start`, `stop` and `clean`. For the job's thread."""

    def __init__(
        self,
        job_type: type[Job],
        gate: Gate,
        lease: Lease,
        force_window: ForceWindow,
        log: JobLogBuffer,
        *,
        store: AttemptStore,
        settings: Settings,
    ) -> None:
        self._job_type = job_type
        self._gate = gate
        self._lease = lease
        self._force_window = force_window
        self._log = log
        self._store = store
        self._settings = settings

    def perform(self) -> Outcome:
        """Run the job's `start` and return its outcome. Never raises."""
        job: Job | None = None  # set when `start` is called: before, there is nothing to save or to stop

        def begin() -> Any:
            nonlocal job
            # Check for a stop here: force that was requested before this point could not interrupt any code of the job,
            # and is not repeated.
            self._gate.raise_if_over()
            job = made
            return made.start()

        try:
            made = self.make_job()
            result = self._force_window.call(begin)
            if made.is_dirty:
                self._gate.save_without_flush(made)
            check_json(result, "the result")
            return Outcome(ending=Ending.DONE, result=result)
        except BaseException as error:
            return self._outcome_of(error, job)

    def clean(self) -> Outcome:
        """Run the job's `clean` on a fresh instance, as after a crash, and return its outcome. Never raises."""
        self._lease.begin_clean()
        self._gate.begin_clean()
        try:
            self._reload_for_clean()
            self.make_job().clean()  # outside of the force window
            return Outcome(ending=Ending.CLEANED)
        except BaseException as error:
            if self._lease.is_lost():
                return Outcome(ending=Ending.LOST)
            if isinstance(error, Unwind) and self._gate.has_to_unwind():
                return Outcome(ending=Ending.UNWOUND)
            return self._failure(Ending.CLEAN_RAISED, error)

    def make_job(self) -> Job:
        """Return a new instance, with the last saved checkpoint."""
        record = self._lease.record
        logger = JobLogger(f"jobmanager.jobs.{record.id}", self._log)
        job = self._job_type(
            self._gate,
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

    def _outcome_of(self, error: BaseException, job: Job | None) -> Outcome:
        """Return the outcome for an exception of `start`. An Interrupt that was not requested counts as a failure."""
        if self._lease.is_lost():
            return Outcome(ending=Ending.LOST)
        if isinstance(error, StopRequested) and self._gate.signals.stop.is_set():
            self._prepare_clean(job)
            return Outcome(ending=Ending.INTERRUPTED)
        if self._gate.has_to_unwind() and _is_caused_by_unwind(error):
            if not isinstance(error, Unwind):
                self._log.keep_traceback(error)  # for the log only: the job goes on later even so
            return Outcome(ending=Ending.UNWOUND)
        self._save_after_failure(job)
        return self._failure(Ending.RAISED, error)

    def _failure(self, ending: Ending, error: BaseException) -> Outcome:
        """Return the outcome for an exception of the job's code, and keep the traceback in the job's log."""
        text = _text_of(error)
        if not isinstance(error, (TimedOut, Fatal, InvalidRequest)):
            text = f"{type(error).__name__}: {text}"
        self._log.keep_traceback(error)
        return Outcome(ending=ending, error=storable(text), is_fatal=isinstance(error, Fatal))

    def _prepare_clean(self, job: Job | None) -> None:
        """Call the job's `stop` hook, and save its last checkpoint for `clean`. Never raises: `clean` comes next."""
        self._gate.signals.ignore_requests()
        try:
            if job is not None:
                job.stop()
                if job.is_dirty:
                    self._gate.save(job)
        except BaseException as error:
            self._log.keep_traceback(error)

    def _save_after_failure(self, job: Job | None) -> None:
        """Save the progress of a job that raised, if possible: a retry continues from there. Never raises."""
        try:
            if job is not None and job.is_dirty:
                self._gate.save(job)
        except BaseException as error:
            self._log.keep_traceback(error)

    def _reload_for_clean(self) -> None:
        """Load the job again, to clean it. Raises LeaseLost if this attempt no longer owns the job."""
        self._lease.raise_if_lost()
        before = self._lease.record
        record = self._lease.retrying(lambda: self._store.get(before.id))
        if self._lease.is_lost() or record.attempt != before.attempt or record.owner != self._store.owner:
            self._lease.lose()
            raise LeaseLost(record.id)
        self._gate.take_slot(record)


def _is_caused_by_unwind(error: BaseException | None) -> bool:
    """Return True if *error* is an Unwind, or was raised while one was handled, for example in a job's `finally`."""
    while error is not None and not isinstance(error, Unwind):
        error = error.__context__
    return error is not None


def _text_of(error: BaseException) -> str:
    """Return str(error), or a substitute: the error comes from a job's code, so its `__str__` may raise."""
    try:
        return str(error)
    except Exception:
        return "(the text of this error cannot be read)"

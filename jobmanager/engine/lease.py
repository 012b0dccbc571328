"""The lease of one attempt on its job: the job as it was claimed, and whether the attempt may still write.

Writes the outcome of the attempt, and reports it to the observers. Does not renew the lease: checkpoints and the
dispatcher do. Decides no outcome (see attempt.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from jobmanager.core.outcomes import Settlement
from jobmanager.core.states import Status
from jobmanager.core.transitions import Values
from jobmanager.core.values import Applied, Checkpoint, JobRecord, LogLine, Wanted
from jobmanager.engine.observers import Observers
from jobmanager.errors import LeaseLost, StoreUnavailable, TimedOut
from jobmanager.signals import Signals

T = TypeVar("T")

#: Pause before a call is retried when the store did not answer.
_STORE_RETRY_SECONDS = 0.25


class AttemptStore(Protocol):
    """The methods of the store that the code of one attempt uses. Store documents each in full."""

    owner: str

    def now(self) -> datetime:
        """Return the current time, by the clock that all recorded times use."""

    def get(self, job_id: str) -> JobRecord:
        """Return the job."""

    def checkpoint(
        self, job_id: str, attempt: int, saved: Checkpoint | None, details: Values | None, lines: Sequence[LogLine] = ()
    ) -> Status:
        """Save a checkpoint, renew the lease, and return the job's current status. Raises LeaseLost."""

    def settle(
        self,
        job_id: str,
        attempt: int,
        settlement: Settlement,
        *,
        unless: Collection[Status] = (),
        parked: bool = False,
        wanted: Wanted | None = None,
        seen: JobRecord | None = None,
    ) -> Applied | None:
        """Record the outcome of an attempt; None if the job's status is in *unless*. Raises LeaseLost."""


class Lease:
    """The state of one attempt that its own thread and other threads share. Any thread may call the methods."""

    def __init__(self, record: JobRecord, signals: Signals, store: AttemptStore, observers: Observers) -> None:
        self.job_id = record.id
        self._signals = signals
        self._store = store
        self._observers = observers
        self._lock = threading.Lock()  # guards _record, _is_cleaning, _is_lost; never held while calling the store
        self._record = record
        self._is_cleaning = False
        self._is_lost = False  # the attempt may write nothing more

    @property
    def record(self) -> JobRecord:
        """The job as claimed. Replaced when a parked thread is woken for a new attempt, and before `clean`."""
        with self._lock:
            return self._record

    def replace_record(self, record: JobRecord) -> None:
        """Set the record: that of a new claim, or that of the job as it was loaded again for `clean`."""
        with self._lock:
            self._record = record

    def begin_clean(self) -> None:
        """Note that `clean` is next: from here on, force meant for `start` does not abandon the thread."""
        with self._lock:
            self._is_cleaning = True

    def is_cleaning(self) -> bool:
        """Return True if the thread is in `clean`, or about to call it."""
        with self._lock:
            return self._is_cleaning

    def lose(self) -> None:
        """Note that the attempt may write nothing more."""
        with self._lock:
            self._is_lost = True

    def lose_unless_cleaning(self) -> bool:
        """Note that the attempt may write nothing more, and return True.

        If the thread is in `clean`, or about to call it, do nothing and return False.
        """
        with self._lock:
            if self._is_cleaning:
                return False
            self._is_lost = True
            return True

    def is_lost(self) -> bool:
        """Return True if the attempt may write nothing more; the store may even be closed."""
        with self._lock:
            return self._is_lost or isinstance(self._signals.interrupt, LeaseLost)

    def raise_if_lost(self) -> None:
        """Raise LeaseLost if the attempt may write nothing more."""
        if self.is_lost():
            raise LeaseLost(self.job_id)

    def settle(self, record: JobRecord, settlement: Settlement, **how: Any) -> Applied | None:
        """Write the outcome of the attempt, and report it to the observers. *how*: see Store.settle.

        Returns None if nothing was written. Does not retry. Raises LeaseLost.
        """
        try:
            applied = self._store.settle(record.id, record.attempt, settlement, **how)
        except LeaseLost:
            self._observers.attempt_ended(record.id, None)
            raise
        if applied is not None:
            self._observers.attempt_ended(record.id, applied)
        return applied

    def retrying(self, call: Callable[[], T]) -> T:
        """Call the store, and retry while it does not answer.

        Raises LeaseLost. If the attempt has to end while the store does not answer, raises the attempt's interrupt.
        """
        while True:
            try:
                return call()
            except LeaseLost:
                self.lose()
                raise
            except StoreUnavailable as error:
                # A timed-out attempt goes on retrying: its progress can be saved when the store answers again.
                if self._signals.interrupt is not None and not isinstance(self._signals.interrupt, TimedOut):
                    raise self._signals.interrupt from error
                time.sleep(_STORE_RETRY_SECONDS)

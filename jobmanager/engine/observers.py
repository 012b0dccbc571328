"""Report what happened to jobs to observers (metrics, traces), after it was committed.

The manager reports submissions and requests; the engine reports claims, the outcomes of attempts, and jobs that it took
back. Each process reports only its own commits.
An observer's failure is logged, and never affects a job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from jobmanager.core.values import Applied, JobRecord

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Receives each call in the thread that has committed. Must not block."""

    def jobs_submitted(self, of_types: Mapping[str, int]) -> None:
        """Note how many new jobs of each type were stored."""

    def attempt_began(self, job: JobRecord) -> None:
        """Note that a job was claimed."""

    def attempt_ended(self, job_id: str, applied: Applied | None) -> None:
        """Note the outcome of an attempt, or its halt. *applied* is None if the attempt had lost its lease."""

    def job_changed(self, applied: Applied) -> None:
        """Note a change, whatever its cause: a request, the outcome of an attempt, an expired lease."""


class Observers:
    """Passes each call on to all observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def jobs_submitted(self, of_types: Mapping[str, int]) -> None:
        """Report new jobs."""
        self._tell(lambda observer: observer.jobs_submitted(of_types))

    def attempt_began(self, job: JobRecord) -> None:
        """Report a claim."""
        self._tell(lambda observer: observer.attempt_began(job))

    def attempt_ended(self, job_id: str, applied: Applied | None) -> None:
        """Report the outcome of an attempt, and the claim in the same commit, if there is one."""
        self._tell(lambda observer: observer.attempt_ended(job_id, applied))
        if applied is not None:
            self.job_changed(applied)
            if applied.claimed is not None:
                self.attempt_began(applied.claimed)

    def job_changed(self, applied: Applied) -> None:
        """Report a change, unless the job already was in the requested state."""
        if applied.change is not None:
            self._tell(lambda observer: observer.job_changed(applied))

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                call(observer)
            except Exception:
                _log.exception("An observer failed.")

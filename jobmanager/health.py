"""Judge from a job's record whether it obeys and whether it makes progress.

Reads the clock only if the answer depends on the time. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from jobmanager.core.states import Status
from jobmanager.core.values import JobRecord


def is_unresponsive(job: JobRecord, now: Callable[[], datetime], *, grace_seconds: float) -> bool:
    """Return True if the job has not obeyed a stop within *grace_seconds*."""
    if job.status is not Status.STOPPING or job.asked_at is None:
        return False
    return (now() - job.asked_at).total_seconds() > grace_seconds


def is_stuck(job: JobRecord, now: Callable[[], datetime], *, allowed_seconds: float | None) -> bool:
    """Return True if the job runs but has saved no checkpoint for *allowed_seconds* (None: return False)."""
    if job.status not in (Status.RUNNING, Status.HALTING) or job.running_since is None or allowed_seconds is None:
        return False
    last_sign = max(job.running_since, job.checkpoint.saved_at or job.running_since)
    return (now() - last_sign).total_seconds() > allowed_seconds

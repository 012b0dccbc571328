"""Decide how the outcome of an attempt changes its job. Pure: time and randomness are arguments."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from jobmanager.core.states import Action
from jobmanager.core.values import JSON, JobRecord

#: How often `clean` is tried before the job fails. A further stop resets the count.
CLEAN_ATTEMPTS = 5


class Ending(Enum):
    """How one call into a job's code ended."""

    DONE = "start returned"
    RAISED = "start raised"
    INTERRUPTED = "stop asked: clean is next"
    CLEANED = "clean returned"
    CLEAN_RAISED = "clean raised"
    UNWOUND = "the attempt ended, its job goes on"
    LOST = "another attempt owns the job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of one call into a job's code."""

    ending: Ending
    result: JSON = None
    #: one line: the exception's type and text
    error: str | None = None
    #: a retry cannot help
    is_fatal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The action that an outcome leads to, and the values to write with it."""

    action: Action
    failures: int
    error: str | None = None
    result: JSON = None
    run_at: datetime | None = None


#: For each ending of a failed call: the most tries (None: the job's max_attempts), and the action if a try is left.
_TRIES: dict[Ending, tuple[int | None, Action]] = {
    Ending.RAISED: (None, Action.RETRY),
    Ending.CLEAN_RAISED: (CLEAN_ATTEMPTS, Action.RELEASE),
}


def backoff(
    failures: int, *, base: float = 1.0, cap: float = 3600.0, rng: Callable[[], float] = random.random
) -> float:
    """Return how long to wait, in seconds, after the given number of failures (from 1).

    Full jitter: uniform in [0, min(cap, base · 2^(failures-1))].
    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    Raises ValueError if failures < 1.

    >>> backoff(3, rng=lambda: 1.0)
    4.0
    """
    if failures < 1:
        raise ValueError(f"failures counts from 1, not {failures}")
    return rng() * min(cap, base * 2.0 ** min(failures - 1, 64))


def settle(outcome: Outcome, job: JobRecord, *, now: datetime, rng: Callable[[], float] = random.random) -> Settlement:
    """Return the action and values that *outcome* leads to, for *job* as it was when the attempt began.

    Raises ValueError for the endings that settle nothing (INTERRUPTED, LOST).
    """
    failures = job.failures + 1
    if outcome.ending is Ending.DONE:
        return Settlement(action=Action.COMPLETE, failures=job.failures, result=outcome.result)
    if outcome.ending is Ending.CLEANED:
        return Settlement(action=Action.YIELD, failures=job.failures, error=job.error)
    if outcome.ending is Ending.UNWOUND:
        return Settlement(action=Action.RELEASE, failures=job.failures, error=job.error)
    if outcome.ending not in _TRIES:
        raise ValueError(f"{outcome.ending.name} settles nothing")
    tries, again = _TRIES[outcome.ending]
    if outcome.is_fatal or failures >= (tries or job.max_attempts):
        return Settlement(action=Action.FAIL, failures=failures, error=outcome.error)
    run_at = now + timedelta(seconds=backoff(failures, rng=rng))
    return Settlement(action=again, failures=failures, error=outcome.error, run_at=run_at)

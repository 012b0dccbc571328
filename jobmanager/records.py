"""The values that travel between the layers, and the pure decisions about them.

No I/O, no clock, no threads: time and chance are arguments.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from jobmanager.states import Action, Status

#: How often `clean` is tried before the job is shown as failed; a stop asked again starts anew.
CLEAN_ATTEMPTS = 5

#: How large args, result and details may be, as JSON, for a list to show them.
MOST_LISTED_BYTES = 4096

JSON = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a job has saved: where to go on, and how far it is."""

    #: grows by one with every checkpoint saved; 0 before the first
    seq: int = 0
    #: where to go on, as the job's code gave it; None before the first
    cursor: JSON = None
    #: units of work done
    done: float | None = None
    #: units of work in all, where known
    total: float | None = None
    #: what the job says about itself
    message: str | None = None
    #: when it was saved
    saved_at: datetime | None = None
    #: how long the job works between two calls of checkpoint(), as last measured; None: not measured yet
    gap_seconds: float | None = None


class Worked:
    """What follows from the record of a job's work: how long it took so far, and how long it may take."""

    __slots__ = ()

    checkpoint: Checkpoint
    running_since: datetime | None
    ran_seconds: float

    def run_seconds(self, now: datetime) -> float:
        """Return the time at work so far, in seconds, without halts and waits."""
        stretch = (now - self.running_since).total_seconds() if self.running_since else 0.0
        return self.ran_seconds + max(0.0, stretch)

    def rate(self) -> float | None:
        """Return the units of work done in a second at work, up to the last checkpoint; None where nobody counts."""
        kept = self.checkpoint
        if not kept.done or kept.saved_at is None:
            return None
        seconds = self.run_seconds(kept.saved_at)
        return kept.done / seconds if seconds > 0 else None

    def eta_seconds(self, now: datetime) -> float | None:
        """Return how much longer the work takes if it goes on as it went; None if it does not run, or nobody knows."""
        kept, rate = self.checkpoint, self.rate()
        if self.running_since is None or rate is None or kept.total is None or kept.done is None:
            return None
        since = (now - (kept.saved_at or now)).total_seconds()
        return max(0.0, (kept.total - kept.done) / rate - max(0.0, since))


@dataclass(frozen=True, kw_only=True)  # no slots: the store makes one, like another but for some fields, by one call
class JobRecord(Worked):
    """One job, as the store has it."""

    #: place in the order of submission
    number: int
    id: str
    type: str
    args: dict[str, JSON]
    status: Status
    #: higher is claimed first
    priority: int
    labels: dict[str, str]
    #: tries in all before a failure is final
    max_attempts: int
    #: most time one attempt may run; None: no limit
    timeout_seconds: float | None

    #: not claimed before
    run_at: datetime
    submitted_at: datetime
    #: begin of the first attempt
    started_at: datetime | None
    #: begin of the stretch of work under way
    running_since: datetime | None
    finished_at: datetime | None
    #: time at work in all stretches that have ended; halts and waits are not in it
    ran_seconds: float

    #: executions so far, and the fencing token of the present one
    attempt: int
    #: errors raised by the job's code since the last resume
    failures: int
    #: deaths of the owner under it since it last saved another cursor
    crashes: int
    #: the process that holds it
    owner: str | None
    lease_expires_at: datetime | None

    checkpoint: Checkpoint
    #: what the type's `details()` told at the last checkpoint
    details: dict[str, JSON]
    result: JSON
    #: why it failed, or why its last attempt did
    error: str | None
    #: when the halt, resume or stop under way was asked for, and by whom
    asked_at: datetime | None
    #: a stop that may interrupt Python code that does not answer
    is_forced: bool
    #: the span of the request that submitted it (W3C Trace Context), if there was one
    traceparent: str | None = None
    #: names of the fields that a list leaves empty because they are larger than MOST_LISTED_BYTES
    shortened: tuple[str, ...] = ()

    def has_begun(self) -> bool:
        """Tell whether any attempt was ever made."""
        return self.attempt > 0

    def is_scheduled(self) -> bool:
        """Tell whether its submission named a time for it, and it has not begun."""
        return not self.has_begun() and self.run_at > self.submitted_at

    def version(self) -> str:
        """Return what names this state of the job's life: every change makes another, a checkpoint does not."""
        state = [self.id, self.status, self.attempt, self.failures, self.is_forced]
        state += [self.run_at.isoformat(), self.asked_at and self.asked_at.isoformat()]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]

    def expected_halt_seconds(self) -> float | None:
        """Return how long a halt may take, judged by the gaps between checkpoints; None if it does not run."""
        return self.checkpoint.gap_seconds if self.running_since is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a client asks to be run."""

    type: str
    args: dict[str, JSON] = field(default_factory=dict)
    #: higher is claimed first
    priority: int = 0
    #: None: as soon as there is a slot
    run_at: datetime | None = None
    #: None: as the type says
    max_attempts: int | None = None
    #: None: as the type says
    timeout_seconds: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    #: whose key it is: the same key of another scope is another key
    idempotency_scope: str = ""


@dataclass(slots=True, kw_only=True)  # not frozen, which takes a batch a twentieth of its time to make
class NewJob:
    """A submission that was checked and waits to be stored."""

    id: str
    type: str
    args: dict[str, JSON]
    priority: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    #: None: as soon as there is a slot
    run_at: datetime | None = None
    max_attempts: int = 1
    timeout_seconds: float | None = None
    #: the same key with the same submission gives the same job
    idempotency_key: str | None = None
    #: whose key it is; "": anybody's
    idempotency_scope: str = ""
    #: the span of the request that submits it, if there is one
    traceparent: str | None = None

    def fingerprint(self) -> str:
        """Return what stands for the submission: equal only where what was asked for is."""
        asked = [self.type, self.args, self.priority, self.labels, self.max_attempts, self.timeout_seconds]
        asked.append(self.run_at.isoformat() if self.run_at else None)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """Many new jobs, none of which has an idempotency key."""

    #: may be iterated more than once; each iteration may make the jobs anew, with new ids
    jobs: Iterable[NewJob]
    #: the number of jobs of each type
    of_types: Counter[str]

    def __len__(self) -> int:
        """Return how many jobs there are."""
        return self.of_types.total()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which jobs are meant: those of which all holds that is given here."""

    #: any of these; empty: whatever the status
    statuses: frozenset[Status] = frozenset()
    type: str | None = None
    #: of these types only; None: of any
    types: frozenset[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    #: submitted then or later
    submitted_after: datetime | None = None
    #: submitted earlier
    submitted_before: datetime | None = None
    #: the beginning of an id (13 characters or more), a part of the type's name, or a label's value
    q: str | None = None

    def is_everything(self) -> bool:
        """Tell whether it leaves no job out."""
        return self == Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a list of jobs, which is in the order of submission."""

    submitted_at: datetime
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some jobs of a list, the newest first."""

    jobs: list[JobRecord]
    #: where the next page begins; None: this is the last one
    next: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What came of asking something of many jobs at once: each job that matched is in one of the two."""

    #: ids of the jobs that changed
    changed: list[str]
    #: ids of the jobs that did not, and why
    unchanged: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A transition that was committed."""

    #: grows with every change in the store
    seq: int
    job_id: str
    action: Action
    from_status: Status | None
    to_status: Status
    attempt: int
    #: who asked: a token's name, a client's address, or "engine"
    actor: str
    reason: str | None
    #: when it was asked for; differs from `at` where the job's code had to get there first
    asked_at: datetime
    #: when it took effect
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progress(Worked):
    """How far a job is, for those who follow it."""

    job_id: str
    type: str
    labels: dict[str, str]
    status: Status
    checkpoint: Checkpoint
    running_since: datetime | None
    ran_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class News:
    """A change, for those who follow what happens."""

    change: Change
    #: the job of the change, as it was when it was read, which may be later
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the store answers to an action: the job as it now is, and the change if there was one."""

    job: JobRecord
    #: None: it was already so
    change: Change | None
    #: the job that the process claimed in place of one that ended, if it wanted any and there was one
    claimed: JobRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which jobs a process would run."""

    #: names of the types it knows
    types: tuple[str, ...]
    #: by name, how many of a type may run at once, over all processes
    max_running: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What there is to do for a process."""

    #: other processes have made changes to jobs that this one holds
    is_signalled: bool
    #: jobs wait that it may claim, or that have come due
    has_waiting: bool
    #: jobs that were put off are due, and have no place in the queue yet
    has_due: bool
    #: stopping jobs wait to be cleaned
    has_to_clean: bool
    #: when the next job is due that waits for its time
    next_due_at: datetime | None


#: How many jobs there are of a type and a status.
Census = dict[tuple[str, Status], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits, and what is at work, in all processes."""

    #: jobs that could run and wait for a slot
    depth: int
    #: since when the one of them waits that waited longest
    oldest_at: datetime | None
    #: jobs that hold a slot
    busy: int
    #: by type: the oldest last checkpoint of jobs that run, or else the begin of their stretch of work
    checkpoints: dict[str, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a job wrote to its log."""

    #: place in the job's log
    number: int
    attempt: int
    at: datetime
    #: name of the level, as `logging` has it
    level: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The file that a completed job made."""

    path: Path
    #: the name to save it under
    filename: str
    media_type: str
    #: stands for the content: equal only where the bytes are
    etag: str


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
    """What came of one call into a job's code."""

    ending: Ending
    result: JSON = None
    #: one line: the exception's type and text
    error: str | None = None
    #: trying again cannot help
    is_fatal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What an outcome means for the job: the action to apply, and what to write with it."""

    action: Action
    failures: int
    error: str | None = None
    result: JSON = None
    run_at: datetime | None = None


def storable(text: str, *, longest: int = 10_000) -> str:
    r"""Return *text* as every database can keep it: in UTF-8, without NUL, and not endless.

    >>> storable("a\0b \udcff")
    'a\\x00b \\udcff'
    """
    if len(text) <= longest and text.isascii() and "\0" not in text:
        return str.__str__(text)  # the text alone, of a member of an enumeration too
    if len(text) > longest:
        text = f"{text[:longest]} … ({len(text) - longest} more characters)"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def finite(value: object, what: str) -> float | None:
    """Return *value* as a number that can be kept; raises TypeError or ValueError, which name *what* it is."""
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} has to be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{what} has to be a finite number")
    return number


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


#: How often a failing call is made (None: as often as the job says), and what leads to the next try.
_TRIES: dict[Ending, tuple[int | None, Action]] = {
    Ending.RAISED: (None, Action.RETRY),
    Ending.CLEAN_RAISED: (CLEAN_ATTEMPTS, Action.RELEASE),
}


def settle(outcome: Outcome, job: JobRecord, *, now: datetime, rng: Callable[[], float] = random.random) -> Settlement:
    """Decide what *outcome* means for *job*, as it was when the attempt began.

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

"""The values that travel between the layers."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jobmanager.core.states import Action, Status

#: A list leaves out a job's args, result or details if they take more bytes than this as JSON.
MOST_LISTED_BYTES = 4096

JSON = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The saved state of a job: where to continue, and its progress."""

    #: grows by one with every checkpoint saved; 0 before the first
    seq: int = 0
    #: where to continue, as passed by the job's code; None before the first
    cursor: JSON = None
    #: units of work done
    done: float | None = None
    #: units of work in all, if known
    total: float | None = None
    #: the job's own description of its state
    message: str | None = None
    #: when it was saved
    saved_at: datetime | None = None
    #: average time between two calls of checkpoint(), as last measured; None: not measured yet
    gap_seconds: float | None = None


class Worked:
    """Computes from a job's record how long its work took so far, and how long it may take."""

    __slots__ = ()

    checkpoint: Checkpoint
    running_since: datetime | None
    ran_seconds: float

    def run_seconds(self, now: datetime) -> float:
        """Return how long the job has run so far, in seconds. Time in the queue or halted does not count."""
        stretch = (now - self.running_since).total_seconds() if self.running_since else 0.0
        return self.ran_seconds + max(0.0, stretch)

    def rate(self) -> float | None:
        """Return the units of work done per second of running, up to the last checkpoint; None if unknown."""
        kept = self.checkpoint
        if not kept.done or kept.saved_at is None:
            return None
        seconds = self.run_seconds(kept.saved_at)
        return kept.done / seconds if seconds > 0 else None

    def eta_seconds(self, now: datetime) -> float | None:
        """Return the remaining time at the rate so far, in seconds; None if unknown, or if the job does not run."""
        kept, rate = self.checkpoint, self.rate()
        if self.running_since is None or rate is None or kept.total is None or kept.done is None:
            return None
        since = (now - (kept.saved_at or now)).total_seconds()
        return max(0.0, (kept.total - kept.done) / rate - max(0.0, since))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord(Worked):
    """One job, as stored."""

    #: place in the order of submission
    number: int
    id: str
    type: str
    args: dict[str, JSON]
    status: Status
    #: higher is claimed first
    priority: int
    labels: dict[str, str]
    #: number of tries, the first included; the failure of the last one is final
    max_attempts: int
    #: longest time one attempt may run; None: no limit
    timeout_seconds: float | None

    #: earliest time at which it may be claimed
    run_at: datetime
    submitted_at: datetime
    #: start of the first attempt
    started_at: datetime | None
    #: start of the current attempt; None: the job is not running
    running_since: datetime | None
    finished_at: datetime | None
    #: duration of all earlier attempts together, without time in the queue or halted
    ran_seconds: float

    #: number of executions so far; the fencing token of the current one
    attempt: int
    #: number of errors that the job's code has raised; reset to 0 by a stop, and by the resume of a failed job
    failures: int
    #: how often a process died while it ran the job, since the job last saved a new cursor
    crashes: int
    #: name of the process that holds it
    owner: str | None
    lease_expires_at: datetime | None

    checkpoint: Checkpoint
    #: what the job's `details()` returned at the last checkpoint
    details: dict[str, JSON]
    result: JSON
    #: why the job failed, or why its last attempt failed
    error: str | None
    #: when the halt, resume or stop under way was requested
    asked_at: datetime | None
    #: True: the requested stop may interrupt Python code that does not obey
    is_forced: bool
    #: the span of the request that submitted it (W3C Trace Context), if any
    traceparent: str | None = None
    #: names of the fields that a list leaves empty because they are larger than MOST_LISTED_BYTES
    shortened: tuple[str, ...] = ()

    def has_begun(self) -> bool:
        """Return True if any attempt was ever made."""
        return self.attempt > 0

    def is_scheduled(self) -> bool:
        """Return True if its submission named a start time, and it has not begun."""
        return not self.has_begun() and self.run_at > self.submitted_at

    def version(self) -> str:
        """Return a hash of the job's state. Every transition changes the hash; a checkpoint does not."""
        state = [self.id, self.status, self.attempt, self.failures, self.is_forced]
        state += [self.run_at.isoformat(), self.asked_at and self.asked_at.isoformat()]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]

    def expected_halt_seconds(self) -> float | None:
        """Return how long a halt may take: the average gap between checkpoints. None if unknown or not running."""
        return self.checkpoint.gap_seconds if self.running_since is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A client's request to run a job."""

    type: str
    args: dict[str, JSON] = field(default_factory=dict)
    #: higher is claimed first
    priority: int = 0
    #: None: as soon as there is a slot
    run_at: datetime | None = None
    #: None: the type's default
    max_attempts: int | None = None
    #: None: the type's default
    timeout_seconds: float | None = None
    labels: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    #: the same key in another scope is another key
    idempotency_scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A validated submission, to be stored."""

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
    #: the same key in another scope is another key
    idempotency_scope: str = ""
    #: the span of the request that submits it, if any
    traceparent: str | None = None

    def fingerprint(self) -> str:
        """Return a hash of the submission, without its key. Equal hashes mean equal submissions."""
        asked = [self.type, self.args, self.priority, self.labels, self.max_attempts, self.timeout_seconds]
        asked.append(self.run_at.isoformat() if self.run_at else None)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """Many new jobs, none of which has an idempotency key."""

    #: may be iterated more than once; each iteration may make the jobs again, with new ids
    jobs: Iterable[NewJob]
    #: number of jobs by type
    of_types: Counter[str]

    def __len__(self) -> int:
        """Return how many jobs there are."""
        return self.of_types.total()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Filter for jobs. All given conditions must match."""

    #: one of these; empty: any status
    statuses: frozenset[Status] = frozenset()
    type: str | None = None
    #: one of these; None: any type
    types: frozenset[str] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    #: submitted at this time or later
    submitted_after: datetime | None = None
    #: submitted before this time
    submitted_before: datetime | None = None
    #: the beginning of an id (13 characters or more), a part of the type's name, or a label's value
    q: str | None = None

    def is_everything(self) -> bool:
        """Return True if every job matches."""
        return self == Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The position of a job in a list. Lists are ordered by time of submission."""

    submitted_at: datetime
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a list of jobs, newest submission first."""

    jobs: list[JobRecord]
    #: the next page begins after this position; None: this is the last page
    next: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult:
    """The result of a bulk request: each job that matched is in one of the two fields."""

    #: ids of the jobs that changed
    changed: list[str]
    #: by id of each job that did not change: the reason
    unchanged: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A committed transition."""

    #: grows with every change in the store
    seq: int
    job_id: str
    action: Action
    from_status: Status | None
    to_status: Status
    attempt: int
    #: origin of the request: a token's name, a client's address, or "engine"
    actor: str
    reason: str | None
    #: when it was requested; earlier than `at` if a thread had to carry it out
    asked_at: datetime
    #: when it took effect
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progress(Worked):
    """Progress of a job, for subscribers."""

    job_id: str
    type: str
    labels: dict[str, str]
    status: Status
    checkpoint: Checkpoint
    running_since: datetime | None
    ran_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class News:
    """A change, for subscribers."""

    change: Change
    #: the progress of the job at the time of reading, which may be later than the change
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The store's answer to an action: the job as it is now, and the change if there was one."""

    job: JobRecord
    #: None: the job already was in the requested state
    change: Change | None
    #: the job that was claimed in the same commit, for the slot of the job that ended; None: no job
    claimed: JobRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The jobs that a process may claim."""

    #: names of the job types that the process knows
    types: tuple[str, ...]
    #: by type: how many may run at once, over all processes
    max_running: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """The pending work in the store for one process."""

    #: other processes have changed jobs that this one holds
    is_signalled: bool
    #: there are jobs to claim, in the queue or just due
    has_waiting: bool
    #: delayed jobs are due, but not in the queue yet
    has_due: bool
    #: there are stopping jobs to clean
    has_to_clean: bool
    #: when the next delayed job, or delayed `clean`, is due; None: there is none
    next_due_at: datetime | None


#: Number of jobs by type and status.
Census = dict[tuple[str, Status], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The state of the queue and of the slots, over all processes."""

    #: number of jobs that are due and wait for a slot
    depth: int
    #: when the job that has waited longest began to wait; None: no job waits, or unknown
    oldest_at: datetime | None
    #: number of jobs that hold a slot
    busy: int
    #: by type: the earliest of the times at which its running jobs last saved a checkpoint, or else started
    checkpoints: dict[str, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a job's log."""

    #: position in the job's log
    number: int
    attempt: int
    at: datetime
    #: name of the level, as in `logging`
    level: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The file that a completed job made."""

    path: Path
    #: the name to save it under
    filename: str
    media_type: str
    #: identifies the content: equal etags mean equal bytes
    etag: str


def storable(text: str, *, longest: int = 10_000) -> str:
    r"""Return *text* in a form that every database can store: valid UTF-8, without NUL, cut after *longest* characters.

    >>> storable("a\0b \udcff")
    'a\\x00b \\udcff'
    """
    if len(text) <= longest and text.isascii() and "\0" not in text:
        return str.__str__(text)  # a plain str, also for a member of a StrEnum
    if len(text) > longest:
        text = f"{text[:longest]} … ({len(text) - longest} more characters)"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def finite(value: object, what: str) -> float | None:
    """Return *value* as a float, or None if it is None.

    Raises TypeError or ValueError if it is not a finite number. *what* names the value in the message.
    """
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

"""What the server shows, as frozen values; the names are those of its JSON.

A field that a newer server adds is kept, and reads as an attribute too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobmanager.states import Action, Status

#: The statuses in which nothing happens any more before somebody asks for it.
AT_REST = frozenset({Status.COMPLETED, Status.FAILED, Status.STOPPED, Status.HALTED})


class Value(BaseModel):
    """What all of them are."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(Value):
    """How far a job is, as it told at its last checkpoint."""

    #: units of work
    done: float | int | None = None
    total: float | int | None = None
    #: what the job says about itself
    message: str | None = None
    #: units done in a second at work; time spent halted does not count
    rate: float | None = None
    #: how much longer it takes at this rate, while it runs
    eta_seconds: float | None = None


class JobProgress(Progress):
    """How far a job is, as a stream tells it."""

    job_id: str
    status: Status
    #: that of the checkpoint which told it, 0 before the first one; it only grows
    checkpoint_seq: int = 0


class Checkpoint(Value):
    """What is kept: here the job goes on, whatever happens."""

    seq: int
    saved_at: datetime
    age_seconds: float
    #: units of work done by then
    done: float | int | None


class Lease(Value):
    """Which process holds a job."""

    owner: str
    expires_at: datetime
    seconds_left: float


class Snapshot(Value):
    """A job, as it was when it was looked at."""

    id: str
    type: str
    status: Status
    args: dict[str, Any]
    #: which of args, details and result a list has left out because they are large: `get` returns them
    shortened: list[str] = []
    #: higher is claimed first
    priority: int
    labels: dict[str, str]
    submitted_at: datetime
    #: it is not claimed before this time
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: when the halt, resume or stop that came last was asked for
    asked_at: datetime | None
    #: how many times it was executed, the present one included
    attempt: int
    max_attempts: int
    failures: int
    crashes: int
    timeout_seconds: float | None
    #: time at work so far, without halts and waits
    run_seconds: float
    progress: Progress
    #: None before the first one
    checkpoint: Checkpoint | None
    #: None: nobody holds it
    lease: Lease | None
    #: how long a halt may take now; None if it does not run
    expected_halt_seconds: float | None
    #: it does not answer a stop: stop it with force
    unresponsive: bool
    #: it runs, but has saved no checkpoint for longer than its type allows
    stuck: bool
    #: it is being stopped by force
    forced: bool
    #: what may be asked of it now
    allowed: list[Action]
    #: what its type tells
    details: dict[str, Any]
    #: what it returned
    result: Any
    #: why it failed, or why its last attempt did
    error: str | None
    #: names this state of it, for `if_match`; None for a job of a list
    etag: str | None = None


class Change(Value):
    """A change of a job's status."""

    #: grows with every change of any job
    seq: int
    job_id: str
    action: str
    #: None for the submission
    from_status: Status | None
    to_status: Status
    attempt: int
    #: who asked: a token's name, a client's address, or engine
    actor: str
    reason: str | None
    asked_at: datetime
    #: when it took effect
    at: datetime


class LogLine(Value):
    """A line that a job logged."""

    #: place in the job's log
    number: int
    attempt: int
    at: datetime
    level: str
    message: str


class Unchanged(Value):
    """A job that did not change, and why."""

    id: str
    reason: str


class Sweep(Value):
    """What came of asking many jobs at once."""

    #: jobs that the filter selected
    matched: int
    changed: int
    changed_ids: list[str]
    unchanged: list[Unchanged]


class JobType(Value):
    """A job type that can be submitted."""

    type: str
    description: str
    #: the JSON Schema of its arguments
    args_schema: dict[str, Any]
    resumable: bool
    #: how many may run at once, over all processes
    max_running: int | None
    max_attempts: int
    timeout_seconds: float | None
    stuck_after_seconds: float | None


def progress_of(job: Snapshot) -> JobProgress:
    """Return how far a job is, as a stream would tell it."""
    seq = job.checkpoint.seq if job.checkpoint is not None else 0
    return JobProgress(job_id=job.id, status=job.status, checkpoint_seq=seq, **dict(job.progress))


#: What `follow` gives: changes, progress and log lines, and at the end the job as it then is.
Sign = Change | JobProgress | LogLine | Snapshot


class JobPage(Value):
    """A page of a list of jobs."""

    jobs: list[dict[str, Any]]
    next_cursor: str | None
    #: by the server's clock, in whole seconds; None if it did not tell
    shown_at: datetime | None = None


class ChangeList(Value):
    """What happened to a job."""

    changes: list[Change]


class LineList(Value):
    """Lines of a job's log."""

    lines: list[LogLine]


class TypeList(Value):
    """The job types."""

    job_types: list[JobType]


class IdList(Value):
    """The ids of new jobs."""

    ids: list[str]

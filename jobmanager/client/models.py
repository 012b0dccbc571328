"""The server's JSON as frozen values with the same field names.

Fields that a newer server adds are kept, as attributes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobmanager.core.states import Action, Status

#: Statuses that change only after a new request: the job has ended or is halted.
AT_REST = frozenset({Status.COMPLETED, Status.FAILED, Status.STOPPED, Status.HALTED})


class Value(BaseModel):
    """Base class of all values."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(Value):
    """Progress of a job at its last checkpoint."""

    #: units of work, done and in all
    done: float | int | None = None
    total: float | int | None = None
    #: free text from the job
    message: str | None = None
    #: units of work per second; excludes time spent halted
    rate: float | None = None
    #: time left at this rate; None if the job does not run
    eta_seconds: float | None = None


class JobProgress(Progress):
    """Progress of a job as a stream sends it."""

    job_id: str
    status: Status
    #: seq of the checkpoint; 0 before the first one. Never decreases
    checkpoint_seq: int = 0


class Checkpoint(Value):
    """The last saved checkpoint, from which the job continues after any interruption."""

    seq: int
    saved_at: datetime
    age_seconds: float
    #: units of work done at this checkpoint
    done: float | int | None


class Lease(Value):
    """The lease on a job, and the process that holds it."""

    owner: str
    expires_at: datetime
    seconds_left: float


class Snapshot(Value):
    """A job as it was when it was read."""

    id: str
    type: str
    status: Status
    args: dict[str, Any]
    #: fields (args, details, result) that a list leaves out because they are large; `get` returns them
    shortened: list[str] = []
    #: jobs with a higher priority are claimed first
    priority: int
    labels: dict[str, str]
    submitted_at: datetime
    #: the job is not claimed before this time
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    #: time of the last request to halt, resume or stop
    asked_at: datetime | None
    #: number of executions, including the current one
    attempt: int
    max_attempts: int
    failures: int
    crashes: int
    timeout_seconds: float | None
    #: time spent working; excludes time halted or queued
    run_seconds: float
    progress: Progress
    #: None before the first checkpoint
    checkpoint: Checkpoint | None
    #: None if no process holds the job
    lease: Lease | None
    #: how long a halt may take now; None if the job does not run
    expected_halt_seconds: float | None
    #: True if the job does not react to a stop and has to be stopped with force
    unresponsive: bool
    #: True if the job runs, but has saved no checkpoint for longer than its type allows
    stuck: bool
    #: True if the job is being stopped by force
    forced: bool
    #: actions that the job's status allows
    allowed: list[Action]
    #: return value of the job's `details()` at its last checkpoint
    details: dict[str, Any]
    #: return value of the job's `start()`
    result: Any
    #: why the job, or its last attempt, failed
    error: str | None
    #: version of this snapshot, for `if_match`; None in a list
    etag: str | None = None


class Change(Value):
    """A change of a job's status."""

    #: grows with every change of any job
    seq: int
    job_id: str
    action: str
    #: None for a submission
    from_status: Status | None
    to_status: Status
    attempt: int
    #: who made the change: a token's name, a client's address, or "engine"
    actor: str
    reason: str | None
    asked_at: datetime
    #: time at which the change took effect
    at: datetime


class LogLine(Value):
    """A line that a job logged."""

    #: position in the job's log
    number: int
    attempt: int
    at: datetime
    level: str
    message: str


class Unchanged(Value):
    """A job that did not change, and why."""

    id: str
    reason: str


class BulkResult(Value):
    """Result of a bulk request."""

    #: number of jobs that matched the filter
    matched: int
    changed: int
    changed_ids: list[str]
    unchanged: list[Unchanged]


class JobType(Value):
    """A job type that can be submitted."""

    type: str
    description: str
    #: the JSON Schema of the arguments
    args_schema: dict[str, Any]
    resumable: bool
    #: how many jobs of the type may run at once, over all processes; None: no limit
    max_running: int | None
    max_attempts: int
    timeout_seconds: float | None
    stuck_after_seconds: float | None


def progress_of(job: Snapshot) -> JobProgress:
    """Return the job's progress in the form that a stream sends."""
    seq = job.checkpoint.seq if job.checkpoint is not None else 0
    return JobProgress(job_id=job.id, status=job.status, checkpoint_seq=seq, **dict(job.progress))


#: What `follow` yields: changes, progress and log lines, and finally the job.
Update = Change | JobProgress | LogLine | Snapshot


class JobPage(Value):
    """A page of a list of jobs."""

    jobs: list[dict[str, Any]]
    next_cursor: str | None
    #: time of the reply by the server's clock, in whole seconds; None if the reply has no valid Date
    shown_at: datetime | None = None


class ChangeList(Value):
    """The changes of a job."""

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
